#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
#
# The ballast command, as an operator uses it.  $1 is the program.

# shellcheck source=tests/unit/ledger/ok.sh
. "$(dirname "$0")/ok.sh"

ballast=$1
dir=$(mktemp -d) || exit 1
trap 'rm -r "$dir"' EXIT
export BALLAST_LEDGER="$dir/ledger"

ok 'help' 0 '^usage: ballast COMMAND' "$ballast" --help
ok 'help of a command' 0 '^usage: ballast status' "$ballast" status --help
ok 'version' 0 '^ballast [0-9]' "$ballast" --version
ok 'no command' 2 'command is missing' "$ballast"
ok 'an unknown command' 2 "no command 'frob'" "$ballast" frob
ok 'an unknown option' 2 'option --frob is unknown' "$ballast" status --frob
ok 'no ledger yet' 1 'make one with ballast init' "$ballast" status

ok 'init: bad size' 2 "'4X': SIZE" "$ballast" init --capacity 4X
ok 'init: bad slots' 2 "'0': a number from 1 to 8192" \
    "$ballast" init --slots 0
ok 'init: bad admission' 2 'kernel or static' "$ballast" init --admission x
ok 'init: bad cache' 2 'from 0 to 100' "$ballast" init --count-cache 101
ok 'init: bad factor' 2 "'5000': a number from 1 to 1000" \
    "$ballast" init --capacity 1G --overcommit 5000
ok 'init: a factor for no node' 2 'there is no node 3' \
    "$ballast" init --capacity 1G@0 --overcommit 3=150
ok 'init: factors' 0 '' env BALLAST_LEDGER="$dir/factors" "$ballast" init \
    --admission static --capacity 2G@0 --capacity 2G@1 --overcommit 150 \
    --overcommit 1=200
ok 'init: what may be promised' 0 '"node": null.*"capacity": 7516192768' \
    env BALLAST_LEDGER="$dir/factors" "$ballast" status --json
ok 'init: the same capacity twice' 2 'node 0 and pages of 4096 bytes is given' \
    "$ballast" init --capacity 1G --capacity 2G@0
ok 'init: reserve and capacity' 2 'without --capacity' \
    "$ballast" init --reserve 1G --capacity 1G
ok 'init' 0 '' "$ballast" init --capacity 8G@1 --capacity 8G@0 \
    --capacity 2G@0/2M --admission static --slots 16
ok 'init again' 1 'file already' "$ballast" init --admission static
ok 'status' 0 '^0  *4 KiB  *8 GiB  *8 GiB' "$ballast" status
ok 'claim' 0 '' "$ballast" claim --name vm1 6G@0
ok 'claim: too much' 3 \
    'claim of 4 GiB on node 0 refused: 2 GiB missing (2 GiB free of 8 GiB); held by vm1 6 GiB' \
    "$ballast" claim --name vm2 4G@0
ok 'claim: no name' 2 'name NAME and at least one size' "$ballast" claim 1G
ok 'claim: no node' 1 'no node 7' "$ballast" claim --name x 1G@7
ok 'claim: no pid' 1 'process 2147483647: No such process' \
    "$ballast" claim --name x --pid 2147483647 1G@0
ok 'claim in huge pages' 0 '' "$ballast" claim --name vm3 1G@0/2M
ok 'status: participants' 0 '^vm1: standing' "$ballast" status
ok 'init by force, in use' 1 'in use' "$ballast" init --force
ok 'run inherits' 0 '^fd=[0-9]*,slot=[0-9]*,serial=[0-9]*$' \
    "$ballast" run --claim 1G@1 --claim 1G@1 -- sh -c 'echo $BALLAST_CLAIM'
ok 'run holds the claim' 0 '^r: pid [0-9]*, running' \
    "$ballast" run --name r --claim 2G@1 -- "$ballast" status
ok 'run: the claim is gone afterwards' 0 '^2 of 16 slots in use' \
    "$ballast" status
ok 'run: refused' 3 'refused: 1 GiB missing' \
    "$ballast" run --claim 9G@1 -- echo never
ok 'run: status of the command' 7 '' \
    "$ballast" run --claim 1G -- sh -c 'exit 7'
ok 'run: no such command' 127 'cannot execute /nowhere' \
    "$ballast" run --claim 1G -- /nowhere
ok 'run: not executable' 126 'cannot execute' \
    "$ballast" run --claim 1G -- "$BALLAST_LEDGER"
ok 'run: no command' 2 'a command is needed' "$ballast" run --claim 1G
ok 'check' 0 'no contradictions' "$ballast" check
ok 'release' 0 '' "$ballast" release vm1
ok 'release again' 1 'no standing claim is named vm1' "$ballast" release vm1
ok 'release: no name' 2 'exactly one NAME' "$ballast" release
ok 'json' 0 '"node": 1, "page-size": 4096, "capacity": 8589934592, "free": 8589934592' \
    "$ballast" status --json
ok 'json: participants' 0 '"name": "vm3", "state": "standing", "pid": null' \
    "$ballast" status --json
if command -v python3 >/dev/null; then
    ok 'json: parses' 0 '^1$' sh -c '"$1" status --json |
        python3 -c "import json,sys;print(len(json.load(sys.stdin)[\"participants\"]))"' \
        - "$ballast"
fi
ok 'another ledger' 0 '^0 of 4096' sh -c '"$1" init --ledger "$2/other" \
    --capacity 1G && "$1" status --ledger "$2/other"' - "$ballast" "$dir"
echo rubbish > "$dir/rubbish"
ok 'rubbish' 1 'not a usable ledger: not a ledger file' \
    "$ballast" status --ledger "$dir/rubbish"
ok 'a full device' 1 'cannot write' sh -c '"$1" status >/dev/full' - "$ballast"
ok_end
