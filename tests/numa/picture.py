# SPDX-License-Identifier: GPL-2.0-or-later
"""The picture in the manual of placement: a guest on a host with nodes, as the command draws it.

    scripts/numa-host -- python3 -m numa.picture >FILE.svg
"""

import subprocess
import sys
import tempfile
from pathlib import Path

from ballast import paths

from . import nodes
from .machine import Vnode, bound, guest
from .nodes import MIB, PAGE

# One alone on its host node, two that share one, and one that is on two.
VNODES = [bound(192, 1), bound(128, 3), bound(96, 3), Vnode(96)]
TOUCHED = (160, 128, 64, 96)
ASTRAY = 32         # MiB of the last


def main() -> None:
    """The SVG on standard output."""
    with tempfile.TemporaryDirectory(prefix='ballast-') as work, nodes.thp('never'), \
            guest(VNODES, name='vm1', extra=['-name', 'vm1', '-qmp', f'unix:{work}/qmp,server=on,wait=off']) as one:
        for vnode, mib in enumerate(TOUCHED):
            one.touch(vnode, mib)
        first = one.host_address[-1]
        for node, begin, end in ((2, ASTRAY, VNODES[-1].mib), (0, 0, ASTRAY)):
            nodes.move(one.pid, range(first + begin * MIB, first + end * MIB, PAGE), node)
        svg = Path(work, 'placement.svg')
        subprocess.run([paths.CLI, 'placement', '--qmp', f'{work}/qmp', '--svg', svg], check=True, timeout=60,
                       stdout=subprocess.DEVNULL)
        sys.stdout.write(svg.read_text(encoding='utf-8'))


if __name__ == '__main__':
    main()
