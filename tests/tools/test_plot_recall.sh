#!/bin/sh
# tools/plot-recall draws what it is given, and names the line that it cannot read.
set -eu
cd "$(dirname "$0")/../.."
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
passed=0
failed=0

# expect NAME STATUS TEXT ARGUMENT...: plot-recall exits with STATUS, and says TEXT
expect() {
    name=$1 status=$2 text=$3
    shift 3
    out=$(tools/plot-recall "$@" --out "$dir/out.svg" 2>&1) && rc=0 || rc=$?
    if [ "$rc" = "$status" ] && printf '%s\n' "$out" | grep -qF -- "$text"; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        echo "$name: exit $rc, wanted $status and '$text', got: $out"
    fi
}

# drawn NAME N PATTERN: the picture has N lines with PATTERN
drawn() {
    n=$(grep -c -- "$3" "$dir/out.svg") || true
    if [ "$n" = "$2" ]; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        echo "$1: $n lines with '$3', wanted $2"
    fi
}

point() { printf '{"system":"%s","dataset":"d","param":"%s","recall":%s,"cpu_us_per_query":%s}\n' "$@"; }
{ point a x 0.9 10; point a y 0.99 20; point a exact 1 500; point b x 0.95 30; } >"$dir/two.jsonl"
point a x 0.8 7 >"$dir/one.jsonl"

expect 'a curve for each system' 0 '2 curves' "$dir/two.jsonl"
drawn 'two curves' 2 '<polyline'
drawn 'three points' 3 '<circle'
drawn 'one exact search' 1 '>exact search<'
drawn 'names' 1 '>b, d<'
expect 'labels' 0 '3 curves' "one & only=$dir/one.jsonl" "two=$dir/two.jsonl" --title 'T < 1'
drawn 'a label, escaped' 1 '>one &amp; only<'
drawn 'a title, escaped' 1 '>T &lt; 1<'
if command -v python3 >/dev/null && python3 -c \
    'import sys, xml.dom.minidom; xml.dom.minidom.parse(sys.argv[1])' "$dir/out.svg"; then
    passed=$((passed + 1))
else
    failed=$((failed + 1))
    echo 'the picture is no XML'
fi
expect 'one name twice' 1 'two curves are called a, d' "$dir/one.jsonl" "$dir/two.jsonl"
expect 'no file' 1 'none: No such file' none
expect 'no such cost' 1 "one.jsonl:1: has no 'p50_us'" "$dir/one.jsonl" --cost p50_us
echo '{"system"' >>"$dir/one.jsonl"
expect 'no JSON' 1 'one.jsonl:2: ' "$dir/one.jsonl"
point a x 1.2 7 >"$dir/one.jsonl"
expect 'recall above one' 1 'one.jsonl:1: recall 1.2' "$dir/one.jsonl"
: >"$dir/one.jsonl"
expect 'nothing to draw' 1 'no point to draw' "$dir/one.jsonl"

echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
