#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# tests/fuzz/run.sh [--control] NAME PROGRAM CORPUS MAX_LEN: all inputs of the
# corpus, then new ones for ten seconds (BALLAST_FULL: ten minutes, BALLAST_BRIEF:
# two seconds, or BALLAST_FUZZ_SECONDS).  What makes it fail is kept, and said how to repeat.
# With --control the program has a bug that must be found.
set -u

control=
if [ "$1" = --control ]; then
    control=1
    shift
fi
name=$1 program=$2 corpus=$3 max_len=$4
seconds=${BALLAST_FUZZ_SECONDS:-${BALLAST_BRIEF:+2}}
seconds=${seconds:-${BALLAST_FULL:+600}}
seconds=${seconds:-10}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
artifacts=$PWD/fuzz-artifacts
mkdir -p "$artifacts" "$work/new"
# A ledger's SIGBUS handler is its own; memory that is kept on purpose is not lost.
export ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1

fuzz() { # seconds or runs, then directories
    "$program" "-max_len=$max_len" -timeout=30 -rss_limit_mb=2048 \
        -print_final_stats=1 "-artifact_prefix=$artifacts/$name-" "$@" \
        >"$work/log" 2>&1 </dev/null
}

execs() { sed -n 's/^stat::number_of_executed_units: *//p' "$work/log"; }

fail() {
    grep -aE 'WRONG:|ERROR:|SUMMARY:|runtime error' "$work/log" | sed 's/^/# /'
    file=$(sed -n 's/.*Test unit written to //p' "$work/log" | tail -n 1)
    [ -z "$file" ] || echo "# repeat it with: $program $file"
    [ -n "$file" ] || tail -n 5 "$work/log" | sed 's/^/# /'
}

if [ -n "$control" ]; then
    if fuzz -max_total_time=60 "$work/new" "$corpus"; then
        echo "not ok 1 - control: the planted bug is not found"
    else
        grep -am 1 'SUMMARY:' "$work/log" | sed 's/^/# /'
        echo "ok 1 - control: the planted bug is found"
        rm -f "$artifacts/$name-"*
    fi
    echo 1..1
    exit
fi

nr=$(find "$corpus" -type f | wc -l)
if [ "$nr" -gt 0 ] && fuzz -runs=0 "$corpus"; then
    echo "ok 1 - $nr inputs of the corpus"
else
    echo "not ok 1 - $nr inputs of the corpus"
    fail
fi
if fuzz "-max_total_time=$seconds" "$work/new" "$corpus"; then
    echo "ok 2 - $(execs) executions in $seconds seconds"
else
    echo "not ok 2 - new inputs"
    fail
fi
echo 1..2
