#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
#
# systemd's own judgement of our units.  $1 is the service as it is installed,
# $2 the socket, $3 ballastd, $4 ballast: the programs of the build stand in
# for the installed ones.

if ! command -v systemd-analyze > /dev/null; then
    echo '1..0 # SKIP needs systemd-analyze'
    exit 0
fi
dir=$(mktemp -d) || exit 1
trap 'rm -r "$dir"' EXIT
ballastd=$(readlink -f "$3")
ballast=$(readlink -f "$4")
sed -e "s|=[^ ]*/ballastd |=$ballastd |" -e "s|exec [^ ]*/ballast |exec $ballast |" \
    "$1" > "$dir/ballastd.service"
cp "$2" "$dir/ballastd.socket"

echo '1..2'
bad=0
# Words about other units of the machine are not about ours.
words=$(systemd-analyze verify --man=no "$dir/ballastd.service" \
    "$dir/ballastd.socket" 2>&1 | grep ballast | grep -v 'Failed to connect')
if [ -z "$words" ]; then
    echo 'ok 1 - systemd-analyze verify has nothing to say'
else
    echo 'not ok 1 - systemd-analyze verify has nothing to say'
    printf '%s\n' "$words" | sed 's/^/# /'
    bad=1
fi
# In tenths: 10.0 is a service without any sandbox.
if ! systemd-analyze security --help 2>/dev/null | grep -q offline; then
    echo 'ok 2 - exposure # SKIP needs systemd-analyze security --offline'
elif words=$(systemd-analyze security --offline=yes --threshold=20 --no-pager \
        "$dir/ballastd.service" 2>&1); then
    echo "ok 2 - exposure:$(printf '%s\n' "$words" | tail -1 | sed 's/.*://; s/[^ -~]//g')"
else
    echo 'not ok 2 - exposure is 2.0 at most'
    printf '%s\n' "$words" | sed 's/^/# /'
    bad=1
fi
exit $bad
