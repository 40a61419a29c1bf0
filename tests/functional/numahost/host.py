# SPDX-License-Identifier: GPL-2.0-or-later
"""The host itself: boot it, run commands in it, follow what they print.

    with NumaHost() as host:
        host.start()
        host.inside('build/ballast init --ledger /tmp/ledger')
"""

import os
import shlex
import tempfile
from pathlib import Path
from typing import Dict, List, Optional, Sequence

from guest import APPEND, GIB, MIB, STOCK_DEVICE, LinuxGuest

from . import image

NODES = 4
NODE_BYTES = 640 * MIB
NEAR, FAR = 10, 20
# A page stays where it was put: pages that moved by themselves would make every case a gamble.
KERNEL = APPEND + ' numa_balancing=disable'
ROOT = '/numa'
_ENVIRONMENT = {'PATH': f'/usr/bin:/usr/sbin:{image.INSIDE}/build:/busybox', 'HOME': '/root', 'TERM': 'linux',
                'LC_ALL': 'C.UTF-8', 'PYTHONPATH': f'{image.INSIDE}/tests', 'PYTHONDONTWRITEBYTECODE': '1'}
_MOUNT = ' && '.join([
    f'mkdir -p {ROOT}', f'mount -t ext4 -o ro /dev/vda {ROOT}',
    f'for d in proc sys dev; do mount --rbind /$d {ROOT}/$d; done', 
    f'for d in tmp run root busybox {image.INSIDE[1:]}; do mount -t tmpfs -o mode=0755 none {ROOT}/$d; done',
    f'tar -x -C {ROOT}{image.INSIDE} -f /dev/vdb', f'mkdir -p {ROOT}/dev/shm', f'mount -t tmpfs none {ROOT}/dev/shm',
    f'cp /bin/busybox {ROOT}/busybox/', f'chroot {ROOT} /busybox/busybox --install -s /busybox',
    # processors keep free pages for themselves, which count as used: no more than they must
    'echo 1000000 >/proc/sys/vm/percpu_pagelist_high_fraction'])


def topology(sizes: Sequence[int]) -> List[str]:
    """One processor and one backend a node, the same distance between any two."""
    nodes = len(sizes)
    args = ['-smp', str(nodes)]
    for node, size in enumerate(sizes):
        args += ['-object', f'memory-backend-ram,id=node{node},size={size}',
                 '-numa', f'node,nodeid={node},memdev=node{node},cpus={node}']
    for one in range(nodes):
        for other in range(nodes):
            args += ['-numa', f'dist,src={one},dst={other},val={NEAR if one == other else FAR}']
    return args


def _disk(name: str, path: Path) -> List[str]:
    return ['-drive', f'file={path},format=raw,if=none,id={name},readonly=on,snapshot=off',
            '-device', f'virtio-blk-pci,drive={name}']


class NumaHost(LinuxGuest):
    """A Linux with several nodes in which this project's folder is /ballast.

    The last node has `giant` pages of 1 GiB besides.  They are there from boot on: later no such stretch is
    whole.  Memory of this machine is used for those that are written.
    """

    def __init__(self, nodes: int = NODES, node_bytes: int = NODE_BYTES, *, kernel: str = '',
                 built: Sequence[str] = (), giant: int = 0) -> None:
        self._work = tempfile.TemporaryDirectory(prefix='ballast-')     # pylint: disable=consider-using-with
        archive = Path(self._work.name, 'project.tar')
        image.project(archive, built)
        sizes = [node_bytes] * (nodes - 1) + [node_bytes + giant * GIB]
        if giant:
            kernel += f' hugepagesz=1G hugepages={nodes - 1}:{giant}'
        extra = [*topology(sizes), *_disk('system', image.system()), *_disk('project', archive),
                 '-append', f'{KERNEL} {kernel}'.strip(),
                 '-chardev', f'socket,id=terminal,path={self._work.name}/terminal,server=on,wait=off',
                 '-serial', 'chardev:terminal']
        super().__init__('numa-host', sum(sizes), device=STOCK_DEVICE, extra=extra)

    def close(self) -> None:
        super().close()
        self._work.cleanup()

    @property
    def terminal(self) -> str:
        """Path of a socket that is its second serial port."""
        return os.path.join(self._work.name, 'terminal')

    def start(self) -> 'NumaHost':
        """Launch, boot, and mount what is needed."""
        super().start()
        self.run(_MOUNT)
        return self

    def command(self, command: str, environment: Optional[Dict[str, str]] = None) -> str:
        """A shell command in /ballast as the busybox outside of it runs it."""
        values = ' '.join(shlex.quote(f'{key}={val}') for key, val in {**_ENVIRONMENT, **(environment or {})}.items())
        return f'env -i {values} chroot {ROOT} bash -c {shlex.quote(f"cd {image.INSIDE}; {command}")}'

    def inside(self, command: str, timeout: float = 60.0) -> str:
        """A shell command in /ballast that must succeed: its output."""
        return self.run(self.command(command), timeout)
