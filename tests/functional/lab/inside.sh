#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
#
# What runs inside a guest of the lab; scripts/lab types it in, so any image
# with a command-loop on its console will do.
#
#   lab prepare KEEP CHURN   in the background: write KEEP MiB that stay, write
#                            and delete CHURN MiB; /tmp/lab/ready when done
#   lab sums                 the checksum of each version of a piece
#   lab kept                 "NUMBER CHECKSUM" of each piece that stays
#   lab start KIND RATE MIB  write for ever: "turn" makes files and deletes
#                            them, "over" writes over files of MIB in all,
#                            "press" fills MIB and deletes all, without a pause
#   lab count                "PIECES WRONG" so far
#   lab stop                 look at every live piece once more, print the same
#
# A piece is 4 MiB (or LAB_PIECE) out of 8 random ones, from one of five places: its
# version follows from its number, so what should be in it is known without a list.
set -eu
STATE=/tmp/lab
KEEP=/data/lab-keep
LIVE=/data/lab-live
BLOCK=$STATE/block
PIECE=${LAB_PIECE:-4}
VERSIONS=5

write_piece() {
    dd if="$BLOCK" of="$1" bs=1M skip=$(($2 % VERSIONS)) count=$PIECE conv=notrunc 2>/dev/null
}

sum_of() {
    sum=$(md5sum <"$1")
    echo "${sum%% *}"
}

# Checksums of the versions, made once: what is written later is held against them.
make_sums() {
    for version in 0 1 2 3 4; do
        write_piece "$STATE/piece" $version
        sum_of "$STATE/piece"
    done >"$STATE/sums"
    rm "$STATE/piece"
}

prepare() {
    mkdir -p "$STATE" "$KEEP"
    dd if=/dev/urandom of="$BLOCK" bs=1M count=8 2>/dev/null
    make_sums
    number=0
    while [ $((number * PIECE)) -lt "$1" ]; do
        write_piece "$KEEP/$number" $number
        number=$((number + 1))
    done
    [ "$2" = 0 ] || workload_churn "$2"
    : >"$STATE/ready"
}

workload_churn() {
    mkdir -p "$LIVE"
    number=0
    while [ $((number * PIECE)) -lt "$1" ]; do
        write_piece "$LIVE/$number" $number
        number=$((number + 1))
    done
    rm -rf "$LIVE"
}

kept() {
    for file in "$KEEP"/*; do
        echo "${file##*/} $(sum_of "$file")"
    done
}

wanted() {
    sed -n "$(($1 % VERSIONS + 1))p" "$STATE/sums"
}

# verify NUMBER: the piece that has this number
verify() {
    [ "$(sum_of "$LIVE/$(($1 % slots))")" = "$(wanted "$1")" ] || wrong=$((wrong + 1))
}

# As late as the rate wants it: hundredths of a second since the boot.
pace() {
    [ "$rate" != 0 ] || return 0
    read -r now rest </proc/uptime
    now=${now%.*}${now#*.}
    [ -n "$begun" ] || begun=$now
    due=$((begun + number * PIECE * 100 / rate))
    [ "$due" -le "$now" ] || usleep $(((due - now) * 10000))
}

report() {
    echo "$number $wrong" >"$STATE/new"
    mv "$STATE/new" "$STATE/count"
}

# Before a piece is replaced it is looked at: every one, or one in four.
replace() {
    old=$((number - slots))
    if [ $old -ge 0 ] && [ $((number % every)) = 0 ] && [ "$kind" != press ]; then
        verify $old
    fi
    case $kind in
    turn) rm -f "$LIVE/$((number % slots))" ;;
    press) [ $((number % slots)) != 0 ] || press_again ;;
    esac
    write_piece "$LIVE/$((number % slots))" $number
}

# All of it is written: look at some, then delete everything at once.
press_again() {
    if [ $old -ge 0 ]; then
        verify $old
        verify $((number - 1))
    fi
    rm -rf "$LIVE"
    mkdir "$LIVE"
}

run() {
    kind=$1 rate=$2 slots=$(($3 / PIECE)) number=0 wrong=0 begun='' every=1
    [ "$kind" = turn ] || every=4
    while [ ! -e "$STATE/stop" ]; do
        replace
        number=$((number + 1))
        report
        pace
    done
    last=$number
    number=$((last > slots ? last - slots : 0))
    [ "$kind" != press ] || number=$(((last - 1) / slots * slots))
    while [ $number -lt $last ]; do
        verify $number
        number=$((number + 1))
    done
    report
    : >"$STATE/stopped"
}

start() {
    mkdir -p "$LIVE"
    setsid "$0" run "$@" >/dev/null 2>&1 </dev/null &
    until [ -s "$STATE/count" ]; do usleep 20000; done
}

stop() {
    : >"$STATE/stop"
    until [ -e "$STATE/stopped" ]; do usleep 20000; done
    cat "$STATE/count"
}

command=$1
shift
case $command in
prepare) setsid "$0" prepared "$@" >/dev/null 2>&1 </dev/null & ;;
prepared) prepare "$@" ;;
sums) cat "$STATE/sums" ;;
kept) kept ;;
start) start "$@" ;;
run) run "$@" ;;
count) cat "$STATE/count" ;;
stop) stop ;;
*) echo "lab: unknown command $command" >&2; exit 2 ;;
esac
