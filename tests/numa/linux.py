# SPDX-License-Identifier: GPL-2.0-or-later
"""A Linux guest with our balloon driver, on a host with nodes: a guest in a guest.

Where the host has no KVM to offer it is TCG in TCG, which takes minutes: only with BALLAST_FULL=1.
"""

import os
import sys
from pathlib import Path

from ballast import kvm, tap

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / 'functional'))

# pylint: disable=wrong-import-position,wrong-import-order
from guest import LinuxGuest, image_missing         # noqa: E402

from . import nodes                                 # noqa: E402
from .machine import Guest, bound                   # noqa: E402
from .nodes import MIB                              # noqa: E402

BOOT_TIMEOUT = 1200.0
SIZE = 128
VNODES = [bound(SIZE, 1), bound(SIZE, 3)]
ASKED = 32


def _arguments() -> 'list[str]':
    args = []
    for number, vnode in enumerate(VNODES):
        args += ['-object', f'memory-backend-ram,id=m{number},size={vnode.mib}M,{vnode.options}',
                 '-numa', f'node,nodeid={number},memdev=m{number}' + (',cpus=0' if number == 0 else '')]
    return args


@tap.case("a Linux guest with our driver gives memory of the host node asked for, and takes it back there")
def linux() -> None:
    """Exact, down and up; what the host saw is what the kernel of the host says."""
    nodes.need_nodes()
    accel = 'kvm' if kvm.load() else 'tcg'
    tap.need(accel == 'kvm' or os.environ.get('BALLAST_FULL'), 'KVM in the host, or BALLAST_FULL=1 (it takes minutes)')
    missing = image_missing()
    tap.need(not missing, missing)
    with LinuxGuest('linux', 2 * SIZE * MIB, plugin={}, driver='ballast', extra=_arguments(), accel=accel) as vm:
        vm.vm.launch()
        vm.vm.serial[0].wait_for(r'^@@ready@@', BOOT_TIMEOUT)
        tap.note(accel)
        tap.note(vm.run('dmesg | tail -n 1', BOOT_TIMEOUT))
        one = Guest(vm.vm, VNODES)
        vm.run('workload churn 120', BOOT_TIMEOUT)
        before = [sum(one.truth(number).values()) for number in (0, 1)]
        tap.note(f'{[size // MIB for size in before]} MiB there')
        answer = vm.vm.qmp('balloon-node', {'host-node': 3, 'bytes': ASKED * MIB, 'exact': True, 'timeout': 600})
        tap.equal((answer['guest-nodes'], answer['driver']), ([1], True), 'guest nodes')
        end = vm.vm.wait_event('BALLOON_NODE_DONE', BOOT_TIMEOUT)['data']
        tap.note(str(end))
        tap.equal((end['status'], end['request']['got'], end['request']['other']), ('reached', ASKED * MIB, 0), 'down')
        tap.equal({part['guest-node'] for part in end['request']['parts']}, {1}, 'guest nodes')
        assert sum(one.truth(0).values()) >= before[0], 'memory of the other node is gone'
        vm.vm.qmp('balloon-node', {'host-node': 3, 'bytes': ASKED * MIB, 'direction': 'up', 'exact': True,
                                   'timeout': 600})
        end = vm.vm.wait_event('BALLOON_NODE_DONE', BOOT_TIMEOUT)['data']
        tap.equal((end['status'], end['request']['got'], end['request']['other']), ('reached', ASKED * MIB, 0), 'up')
        vm.run('workload churn 120', BOOT_TIMEOUT)
        tap.equal((set(one.truth(0)), set(one.truth(1))), ({1}, {3}), 'where it is')
        vm.check_alive()
