#!/bin/sh
# tools/doctest passes what is true, and names what is not by its line.
set -eu
cd "$(dirname "$0")/../.."
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
passed=0
failed=0

# expect NAME STATUS TEXT: doctest on doc.md (standard input) exits with STATUS and says TEXT
expect() {
    cat >"$dir/doc.md"
    out=$(tools/doctest "$dir/doc.md" 2>&1) && rc=0 || rc=$?
    if [ "$rc" = "$2" ] && printf '%s\n' "$out" | grep -qF -- "$3"; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        echo "$1: exit $rc, wanted $2 and '$3', got: $out"
    fi
}

expect 'true output' 0 '3 passed, 0 failed' <<'END'
```console
$ printf 'one 1.23 s\ntwo\nthree\n'
one ... s
...
three
$ echo a \
> b
a b

$ false; echo $?
1
```
END
expect 'one folder for all of a document' 0 '2 passed, 0 failed' <<'END'
```console
$ echo here >file
```
text
```console
$ cat file
here
```
END
expect 'other output' 1 'doc.md:2: echo no' <<'END'
```console
$ echo no
yes
```
END
expect 'output that is not shown' 1 '0 passed, 1 failed' <<'END'
```console
$ echo more
```
END
expect 'dots do not span lines' 1 '0 passed, 1 failed' <<'END'
```console
$ printf 'a\nb\n'
a...b
```
END
expect 'a command that fails' 1 'exit status 3' <<'END'
```console
$ exit 3
```
END
expect 'a block never closed' 1 'never closed' <<'END'
```console
$ true
END
expect 'other blocks are left alone' 0 '0 passed, 0 failed' <<'END'
```sh
$ exit 3
```
END
expect 'a page whose needs are not built' 0 'doc.md skipped: nothing.so is not built' <<'END'
<!-- doctest: needs nothing.so -->
```console
$ exit 3
```
END
expect 'a page whose needs are built' 1 'exit status 3' <<'END'
<!-- doctest: needs mneme -->
```console
$ exit 3
```
END
expect 'a program' 0 '1 passed, 0 failed' <<'END'
```c run
#include <mneme.h>
#include <stdio.h>
int main(void) { printf("%s\n", mn_status_name(MN_BUSY)); return 0; }
```
```output
busy
```
END
expect 'a program that does not compile' 1 'does not compile' <<'END'
```c run
int main(void) { return mn_nothing; }
```
END

echo "$passed passed, $failed failed"
[ $failed = 0 ]
