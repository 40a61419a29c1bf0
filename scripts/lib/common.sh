# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Shared by the scripts: progress lines, logs, stamps, one-line failures.
# The caller sets `top` (the repository), `me` (its name) and `usage` first.

: "${top:?}" "${me:?}" "${usage:?}"

deps=$top/build/deps
logs=$deps/log
stamps=$deps/stamps
# the distribution's: the one that its meson and python3-* packages belong to
# shellcheck disable=SC2034
python=/usr/bin/python3

export LC_ALL=C.UTF-8 PYTHONDONTWRITEBYTECODE=1

step_open=
step_start=0
step_number=0
step_total=0
step_log=

# die TEXT…: the one line that says what failed and what to do.
die() {
    if [ -n "$step_open" ]; then
        echo 'failed'
        step_open=
    fi
    printf '%s: %s%s\n' "$me" "$*" "${step_log:+ (log: ${step_log#"$top"/})}" >&2
    exit 1
}

# Nothing that fails may end a script without that line.
set -E
trap 'die "unexpected failure at ${BASH_SOURCE[0]#"$top"/}:$LINENO ($BASH_COMMAND)"' ERR

now_ms() { echo $(( ${EPOCHREALTIME/[.,]/} / 1000 )); }

# step TITLE: opens a progress line; step_done [NOTE] closes it.
step() {
    step_number=$((step_number + 1))
    step_start=$(now_ms)
    step_open=1
    step_log=
    printf '[%d/%d] %s … ' "$step_number" "$step_total" "$1"
}

step_done() {
    [ -n "$step_open" ] || printf '      '
    local ms=$(( $(now_ms) - step_start ))
    if [ $ms -lt 950 ]; then
        printf '%s\n' "${1:-done}"
    else
        printf '%s (%d s)\n' "${1:-done}" $(((ms + 500) / 1000))
    fi
    step_open=
    step_log=
}

# note TEXT: a remark that does not stop the run.
note() {
    if [ -n "$step_open" ]; then
        echo
        step_open=
    fi
    printf '      %s\n' "$*"
}

# log_to NAME: the long output of this step goes to build/deps/log/NAME.log
log_to() {
    mkdir -p "$logs"
    step_log=$logs/$1.log
    : >"$step_log"
}

# logged COMMAND…: runs it with its output in the step's log.
logged() {
    printf '+ %s\n' "$*" >>"$step_log"
    "$@" >>"$step_log" 2>&1 </dev/null
}

stamp_is() { [ -f "$stamps/$1" ] && [ "$(<"$stamps/$1")" = "$2" ]; }

stamp_set() {
    mkdir -p "$stamps"
    printf '%s\n' "$2" >"$stamps/$1"
}

have() { command -v "$1" >/dev/null 2>&1; }

# version_ge A B: A is B or newer.
version_ge() {
    [ "$(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n 1)" = "$2" ]
}

# usage_error ARGUMENT: prints the one line that says what is allowed.
usage_error() {
    printf '%s: unknown argument: %s; usage: %s\n' "$me" "$1" "$usage" >&2
    exit 2
}
