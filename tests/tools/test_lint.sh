#!/bin/sh
# tools/lint on a small tree: silent while it is clean, and names each violation planted in it.
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT
cd "$tree"
folders='tools include storage/base index/kernels src/odd examples'
# shellcheck disable=SC2086 # a list of words
mkdir -p $folders
cp "$root/tools/lint" "$root/tools/layers" tools/
git init -q .
passed=0
failed=0

# expect NAME TEXT: the lint names TEXT, or is silent if TEXT is empty; then the tree is clean again
expect() {
    out=$(tools/lint 2>&1) && rc=0 || rc=$?
    if { [ -z "$2" ] && [ "$rc" = 0 ] && [ -z "$out" ]; } ||
        { [ -n "$2" ] && [ "$rc" = 1 ] && printf '%s\n' "$out" | grep -qF -- "$2"; }; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        echo "$1: exit $rc, wanted '$2', got: $out"
    fi
    git clean -qfd
    git checkout -q .
    # shellcheck disable=SC2086 # a list of words
    mkdir -p $folders
}

printf '#ifndef MNEME_H\n#define MNEME_H\n#include <stdint.h>\n#endif\n' >include/mneme.h
printf '#ifndef MN_INDEX_X_H\n#define MN_INDEX_X_H\n#include "mneme.h"\n#endif\n' >index/x.h
printf '#include "storage/base/e.h"\n#include <assert.h>\n' >storage/base/e.c
printf '#ifndef MN_STORAGE_BASE_E_H\n#define MN_STORAGE_BASE_E_H\n#endif\n' >storage/base/e.h
cat >index/clean.c <<'END'
#include <assert.h>
/* may say strcpy(a, b) in a comment, over
 * lines too: sprintf(a, b) */
void f(int a)
{
    assert(a == 1 && a <= 2 && a != 3);
    const char *s = "rand()"; /* ″ninety-nine columns, of which some are wide: →→→→→→→→→→→→→″ */
    char c = '"';
}
END
git add . && git -c user.name=t -c user.email=t@t commit -qm t

expect clean ''
echo '#include "index/x.h"' >storage/base/up.c
expect upwards 'storage/base/up.c:1: may not include index/x.h'
echo '#include <sqlite3.h>' >index/sql.c
expect sqlite 'index/sql.c:1: may not include sqlite3.h'
echo '#include <immintrin.h>' >index/kernels/dot.c
expect intrinsics 'index/kernels/dot.c:1: may not include immintrin.h'
printf '#include <immintrin.h>\n#include "index/kernels/k.h"\n' >index/kernels/dot_avx2.c
expect 'intrinsics at home' ''
echo '#include "storage/base/e.h"' >examples/e.c
expect example 'examples/e.c:1: may not include storage/base/e.h'
echo 'int x;' >src/odd/x.c
expect 'no layer' 'src/odd/x.c:1: no rule'
printf 'int x;\n\tint y;\n' >index/tab.c
expect tab 'index/tab.c:2: a tab'
printf 'int x; \n' >index/blank.c
expect blanks 'index/blank.c:1: blanks'
printf '%0101d\n' 0 >index/wide.c
expect columns 'index/wide.c:1: line of 101 columns'
printf '/* TO%s: later */\n' DO >index/todo.c
expect 'open end' 'index/todo.c:1: an open end'
printf 'void f(char *a)\n{\n    strcpy(a, "x");\n}\n' >index/ban.c
expect banned 'index/ban.c:3: never'
printf '#include <assert.h>\nvoid f(int a)\n{\n    assert(a == 1 &&\n           a++ < 3);\n}\n' >index/as.c
expect assert 'index/as.c:5: assert with a side effect'
printf '#include <assert.h>\nvoid f(int a)\n{\n    assert((a = 2));\n}\n' >index/as.c
expect 'assert =' 'index/as.c:4: assert with a side effect'
printf '#ifndef X_H\n#define X_H\n#endif\n' >index/g.h
expect guard 'index/g.h:1: include guard MN_INDEX_G_H'
printf '#ifndef MN_INDEX_G_H\n#define MN_INDEX_G_H\nsize_t f(void);\n#endif\n' >index/g.h
expect alone 'index/g.h:1: does not compile alone'
mkdir -p tests/engine
printf 'void f(void)\n{\n    pthread_create(0, 0, 0, 0);\n}\n' >tests/engine/test_t.c
expect threads 'tests/engine/test_t.c:3: starts threads'
printf '#!/bin/sh\necho\n' >tools/new
expect executable 'tools/new:1: a script that may not be executed'
mkdir build
printf 'int mn_x(void) { return 1; }\nint other(void) { return 2; }\n' >build/l.c
gcc -shared -fPIC -o build/libmneme.so build/l.c
echo /build/ >.gitignore
expect symbols 'libmneme.so exports other'

echo "$passed passed, $failed failed"
[ $failed = 0 ]
