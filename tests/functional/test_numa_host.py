#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""A host with four NUMA nodes under TCG, and the tests of tests/numa in it.

It boots once; each line of the tests' TAP is passed on as it comes.  -l and -k are theirs.
"""

import os
import subprocess
import sys
from typing import NoReturn

from numahost import image
from numahost.host import NumaHost
from ballast import paths

LINE_TIMEOUT = 300.0            # for one case, on a busy machine
FULL_TIMEOUT = 2400.0           # for one with a guest in the guest
GIANT = 2                       # pages of 1 GiB
NESTED = [f'deps/guest/{name}' for name in ('vmlinuz', 'initramfs.cpio.gz')]


def _skip(what: str) -> NoReturn:
    print(f'1..0 # SKIP needs {what}')
    sys.exit(0)


def _inside(arguments: str) -> int:
    """Their exit status; a kernel that complains is a failure of ours."""
    full = os.environ.get('BALLAST_FULL', '')
    with NumaHost(built=NESTED if full else (), giant=GIANT) as host:
        host.start()
        command = host.command(f'exec python3 -m numa {arguments}', {'BALLAST_FULL': full})
        status = host.follow(command, lambda line: print(line, flush=True), FULL_TIMEOUT if full else LINE_TIMEOUT)
        host.check_alive()
        return status


def main() -> NoReturn:
    """As a test program of ours."""
    if '-l' in sys.argv:
        env = {**os.environ, 'PYTHONPATH': str(paths.REPO / 'tests')}
        sys.exit(subprocess.run([sys.executable, '-B', '-m', 'numa', *sys.argv[1:]], env=env, check=False).returncode)
    for path in (paths.PLUGIN, paths.CLI):
        if not path.exists():
            _skip(str(path))
    missing = image.missing()
    if missing:
        _skip(missing)
    sys.exit(_inside(' '.join(f"'{argument}'" for argument in sys.argv[1:])))


if __name__ == '__main__':
    main()
