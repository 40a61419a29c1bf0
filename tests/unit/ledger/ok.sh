# shellcheck shell=sh
# SPDX-License-Identifier: GPL-2.0-or-later
#
# For scripts that test a program by its output and its status: TAP lines.

n=0
bad=0

# ok WHAT EXPECTED-STATUS PATTERN COMMAND...: runs it, looks at both outputs
ok() {
    what=$1 status=$2 pattern=$3
    shift 3
    n=$((n + 1))
    out=$("$@" 2>&1)
    got=$?
    if [ $got -eq "$status" ] && printf '%s\n' "$out" | grep -q -e "$pattern"
    then
        echo "ok $n - $what"
    else
        echo "not ok $n - $what"
        echo "# status $got, expected $status; pattern $pattern"
        printf '%s\n' "$out" | sed 's/^/# /'
        bad=1
    fi
}

# The plan, and the end of the script
ok_end() {
    echo "1..$n"
    exit $bad
}
