#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
#
# The daemon's command line, and its socket as systemd hands it over.  $1 is
# ballastd, $2 is ballast.

# shellcheck source=tests/unit/ledger/ok.sh
. "$(dirname "$0")/ok.sh"

ballastd=$1
ballast=$2
dir=$(mktemp -d) || exit 1
pid=
trap '[ -z "$pid" ] || kill "$pid" 2>/dev/null; rm -r "$dir"' EXIT

wait_for() {
    tries=0
    until [ -S "$1" ] || [ $tries -ge 200 ]; do
        sleep 0.05
        tries=$((tries + 1))
    done
}

# shellcheck disable=SC2317  # through ok
d() {
    "$ballastd" --ledger "$dir/ledger" --socket "$dir/socket" "$@"
}

ok 'help' 0 '^usage: ballastd' "$ballastd" --help
ok 'version' 0 '^ballastd [0-9]' "$ballastd" --version
ok 'no ledger' 2 'ballastd: --ledger FILE is needed' "$ballastd"
ok 'an unknown option' 2 "'--frob' is no option" d --frob
ok 'an option without a value' 2 "'--allow' needs a value" d --allow
ok 'a word' 2 "'frob': only options are allowed" d frob
ok 'allow: nobody' 2 "'frob': uid:N, user:NAME, gid:N, group:NAME and all" \
    d --allow frob
ok 'allow: no number' 2 "'uid:x': a number is needed" d --allow uid:x
ok 'allow: a number too large' 2 "a number is needed" d --allow uid:4294967295
ok 'allow: no such user' 2 "'user:no-such-user': there is no such user" \
    d --allow user:no-such-user
ok 'allow: no such group' 2 'there is no such group' d --allow group:no-such
ok 'allow: a bad quota' 2 "'all=4X': the quota is an amount" d --allow all=4X
ok 'admin: all' 2 "'all': uid:N, user:NAME, gid:N and group:NAME" d --admin all
ok 'admin: a quota' 2 'a quota goes with --allow' d --admin uid:0=4G
ok 'clients: none' 2 "'0': 1 to 65536 are allowed" d --max-clients 0
ok 'clients: too many' 2 '1 to 65536' d --max-clients 65537
ok 'clients per user: more than all' 2 'at most --max-clients, which is 5' \
    d --max-clients 5 --max-clients-per-uid 6
ok 'socket: too long' 2 'a path of 1 to 103 bytes' \
    d --socket "$(printf '%0108d' 0)"
ok 'config: absent' 2 'nowhere.*: No such file' d --config "$dir/nowhere"
printf 'frob 1\n' > "$dir/config"
ok 'config: unknown' 2 "config:1: 'frob' is no option for a file" \
    d --config "$dir/config"
printf '\n# words\nallow\n' > "$dir/config"
ok 'config: no value' 2 "config:3: 'allow' takes a value" \
    d --config "$dir/config"
printf 'idle-log yes\n' > "$dir/config"
ok 'config: a value' 2 "config:1: 'idle-log' takes no value" \
    d --config "$dir/config"
printf 'config x\n' > "$dir/config"
ok 'config: a config' 2 "'config' is no option for a file" \
    d --config "$dir/config"
ok 'no file' 1 'event=failed.*opening the ledger' d
"$ballast" init --ledger "$dir/ledger" --capacity 8G --admission static
ok 'no socket' 1 'no socket: give --socket' "$ballastd" --ledger "$dir/ledger"
ok 'a directory that is not there' 1 'event=failed.*No such file' \
    "$ballastd" --ledger "$dir/ledger" --socket "$dir/nowhere/socket"
ok 'no such user to become' 1 'event=failed.*no-such-user' \
    d --user no-such-user
echo precious > "$dir/file"
ok 'a file in the way of the socket stays' 1 'Address already in use' \
    "$ballastd" --ledger "$dir/ledger" --socket "$dir/file"
ok 'it stays' 0 precious cat "$dir/file"
rm -f "$dir/socket"

printf ' # everybody\nallow  all=2G  # so much\nidle-log\n' > "$dir/config"
"$ballastd" --ledger "$dir/ledger" --socket "$dir/socket" \
    --config "$dir/config" 2> "$dir/log" &
pid=$!
wait_for "$dir/socket"
ok 'a claim through the socket' 0 '' \
    "$ballast" claim --ledger "$dir/socket" --name s 1G
ok 'status' 0 '^s: standing' "$ballast" status --ledger "$dir/socket"
ok 'check' 0 'no contradictions' "$ballast" check --ledger "$dir/socket"
# shellcheck disable=SC2016  # for the inner shell
ok 'run' 0 '^slot=.*,cookie=.*,socket=/' "$ballast" run \
    --ledger "$dir/socket" --claim 1G -- sh -c 'echo "$BALLAST_CLAIM"'
ok "a quota is the owner's too, if it is given one" 0 'may claim, 2 GiB' \
    sh -c '! "$@"' - "$ballast" run --ledger "$dir/socket" --claim 3G -- true
"$ballast" init --ledger "$dir/second" --capacity 1G --admission static
ok "a socket that another daemon listens to stays" 1 'Address already in use' \
    "$ballastd" --ledger "$dir/second" --socket "$dir/socket"
ok 'and is served' 0 '^s: standing' "$ballast" status --ledger "$dir/socket"
ok 'a socket is no ledger to serve' 1 'is a socket' \
    "$ballastd" --ledger "$dir/socket" --socket "$dir/other"
kill "$pid"
wait "$pid"
ok 'it stops by a signal' 0 '^0$' echo $?
pid=
ok 'ready, in the log' 0 '^<5>event=ready' cat "$dir/log"
ok 'a join, in the log' 0 '^<6>event=join uid=.* pid=.* slot=.* name="pid-' \
    cat "$dir/log"
ok 'a refusal, in the log' 0 '^<6>event=refused .*reason=above-quota' \
    cat "$dir/log"
ok 'figures, in the log' 0 'event=figures clients=' cat "$dir/log"

# Socket activation: the socket is descriptor 3, and READY=1 goes to another.
if command -v python3 > /dev/null; then
    cat > "$dir/activate.py" << 'PY'
import os, socket, sys
ballastd, folder = sys.argv[1:]
notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
notify.bind(folder + '/notify')
notify.settimeout(20)
listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
listener.bind(folder + '/given')
listener.listen()
pid = os.fork()
if not pid:
    fd = os.dup(listener.fileno())
    os.dup2(fd, 3)
    os.set_inheritable(3, True)
    os.environ.update(LISTEN_FDS='1', LISTEN_PID=str(os.getpid()),
                      NOTIFY_SOCKET=folder + '/notify')
    os.dup2(os.open('/dev/null', os.O_WRONLY), 1)
    os.execl(ballastd, ballastd, '--ledger', folder + '/ledger')
print(notify.recv(100).decode().strip())
print(pid)
PY
    out=$(python3 "$dir/activate.py" "$ballastd" "$dir" 2> "$dir/log")
    pid=${out##*
}
    ok 'started by its socket, it says so' 0 '^READY=1$' echo "$out"
    ok 'and serves it' 0 '^s: standing' \
        "$ballast" status --ledger "$dir/given"
    kill "$pid"
    pid=
fi
ok_end
