#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Socket activation for real, without systemd as process 1: what stands behind
# ExecStartPre= and ExecStart= in the service, and where the socket listens,
# is taken from the units; only the paths are others.  $1 is the service as it
# is installed, $2 the socket, $3 the configuration, $4 ballastd, $5 ballast.

if ! command -v systemd-socket-activate > /dev/null; then
    echo '1..0 # SKIP needs systemd-socket-activate'
    exit 0
fi
# shellcheck source=tests/unit/ledger/ok.sh
. "$(dirname "$0")/ok.sh"

dir=$(mktemp -d) || exit 1
daemon=
trap '[ -z "$daemon" ] || kill "$daemon"; rm -r "$dir"' EXIT
cp "$3" "$dir/ballastd.conf"
ballastd=$(readlink -f "$4")
ballast=$(readlink -f "$5")

of_unit() { # file, key
    sed -n "s|^$2=||p" "$1" | sed -e "s|/run/ballast/|$dir/|g" \
        -e "s|[^ ]*/ballastd\.conf|$dir/ballastd.conf|" \
        -e "s|^[^ ]*/ballastd |$ballastd |" \
        -e "s|exec [^ ]*/ballast |exec $ballast |"
}
before=$(of_unit "$1" ExecStartPre)
start=$(of_unit "$1" ExecStart)
socket=$(of_unit "$2" ListenSequentialPacket)

# Until it listens, or has ended.
activate() {
    rm -f "$socket"
    # shellcheck disable=SC2086  # words of the unit
    systemd-socket-activate --seqpacket --listen="$socket" $start \
        > "$dir/log" 2>&1 &
    daemon=$!
    until [ -S "$socket" ] || ! kill -0 "$daemon" 2> /dev/null; do
        sleep 0.01
    done
}

# Its status, in $ended; what it said is in the log.
stop() {
    kill "$daemon"
    wait "$daemon"
    ended=$?
    daemon=
}

ok 'ExecStartPre= makes a ledger' 0 '' sh -c "$before"
activate
ok 'it listens' 0 '' test -S "$socket"
ok 'and there is no daemon yet' 1 '' grep event=ready "$dir/log"
ok 'the first client starts it, and claims' 0 '' \
    "$ballast" claim --ledger "$socket" --name kept 1M
ok 'with the words of ExecStart=' 0 "ledger=\"$dir/ledger\"" \
    grep event=ready "$dir/log"
ok 'the claim is in the ledger of ExecStartPre=' 0 '^kept: standing' \
    "$ballast" status --ledger "$dir/ledger"
stop
ok 'it ends well' 0 event=stop sh -c "cat '$dir/log'; exit $ended"
ok 'and leaves the socket, which is not its own' 0 '' test -S "$socket"
activate
ok 'the next one has the claim' 0 '^kept: standing' \
    "$ballast" status --ledger "$socket"
ok 'and releases it' 0 '' "$ballast" release --ledger "$socket" kept
stop
ok 'it ends well, too' 0 event=stop sh -c "cat '$dir/log'; exit $ended"
ok_end
