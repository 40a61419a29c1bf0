# SPDX-License-Identifier: GPL-2.0-or-later
"""Guests of such a host: a backend for each guest node, and a processor that sleeps.

Their memory is touched through qtest, so nothing is there that a case did not put there.
"""

import re
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Sequence

from ballast import paths, tap, virtio
from ballast.vm import VM

from . import nodes
from .ledger import Ledger

MIB = 1 << 20
DEVICE = 'virtio-balloon-ledger-pci,id=balloon0'
SLEEPER = b'\xfa\xf4\xeb\xfd'       # cli; hlt; and again


@dataclass(frozen=True)
class Vnode:
    """A guest node: its size, and the options of its backend."""

    mib: int
    options: str = ''
    kind: str = 'ram'

    @property
    def size(self) -> int:
        """In bytes."""
        return self.mib * MIB


def bound(mib: int, node: int, options: str = '', kind: str = 'ram') -> Vnode:
    """Bound to a host node."""
    return Vnode(mib, f'host-nodes={node},policy=bind' + (f',{options}' if options else ''), kind)


# The first guest node of most cases: it has the hole below 1 MiB, where what is written does not go to
# its backend, and the rings of the balloon's driver.  The others can be known to the byte.
LOW = bound(4, 0)


class Guest:
    """One that runs; backend and guest node n is called m<n>."""

    def __init__(self, vm: VM, vnodes: Sequence[Vnode]) -> None:
        self.vm = vm
        self.vnodes = vnodes
        self.pid: int = vm.get_pid() or 0
        self.host_address = self._host_addresses()

    def _host_addresses(self) -> List[int]:
        found = self.blocks()
        return [found[f'm{number}'] for number in range(len(self.vnodes))]

    def blocks(self) -> Dict[str, int]:
        """Where backends are in QEMU, by its own word; those of devices have the device before their name."""
        found = re.findall(r'^ *(?:\S+/)?(\w+) .* (0x[0-9a-f]+) +\w+\s*$', self.vm.hmp('info ramblock'), re.MULTILINE)
        return {name: int(address, 16) for name, address in found}

    def address(self, vnode: int) -> int:
        """Guest-physical address at which a guest node begins."""
        return sum(one.size for one in self.vnodes[:vnode])

    def touch(self, vnode: int, mib: Optional[int] = None, offset_mib: int = 0) -> None:
        """Write to memory of a guest node, all of it or a part."""
        size = (self.vnodes[vnode].mib - offset_mib if mib is None else mib) * MIB
        begin = self.address(vnode) + offset_mib * MIB
        for at in range(begin, begin + size, 8 * MIB):
            self.vm.qtest.do(f'memset {at:#x} {min(8 * MIB, begin + size - at):#x} 0x55')

    def truth(self, vnode: int) -> Dict[int, int]:
        """Bytes per host node by /proc."""
        return nodes.where(self.pid, self.host_address[vnode], self.vnodes[vnode].size)

    def drive(self, features: int) -> virtio.Balloon:
        """Start the balloon's driver; it uses memory of guest node 0."""
        return virtio.Balloon(virtio.find_pci(self.vm.qtest), features)

    def placement(self, **arguments: Any) -> Dict[str, Any]:
        """query-memory-placement."""
        return dict(self.vm.qmp('query-memory-placement', **arguments))

    def exact(self) -> Dict[str, Any]:
        """query-memory-placement of an exact look, to its end."""
        self.vm.drop_events()
        self.vm.qmp('memory-placement-start')
        self.vm.wait_event('MEMORY_PLACEMENT_DONE')
        return self.placement(mode='exact')

    def ledger(self) -> Dict[str, Any]:
        """query-memory-ledger."""
        return dict(self.vm.qmp('query-memory-ledger'))


def arguments(vnodes: Sequence[Vnode], firmware: str, numa: bool) -> List[str]:
    """A PC with these guest nodes, or with one that it does not know as such."""
    args = ['-M', 'pc', '-accel', 'tcg', '-smp', '1', '-bios', firmware, '-m', f'{sum(one.mib for one in vnodes)}M']
    for number, one in enumerate(vnodes):
        options = f',{one.options}' if one.options else ''
        args += ['-object', f'memory-backend-{one.kind},id=m{number},size={one.mib}M{options}']
        args += ['-numa', f'node,nodeid={number},memdev=m{number}' + (',cpus=0' if number == 0 else '')] if numa \
            else ['-machine', f'memory-backend=m{number}']
    return args


@contextmanager
def machine(vnodes: Sequence[Vnode], ledger: Optional[Ledger] = None, name: str = 'guest', *,
            plugin: Optional[Dict[str, object]] = None, extra: Sequence[str] = (),
            wrapper: Sequence[str] = (), numa: bool = True) -> Iterator[VM]:
    """Not launched yet."""
    nodes.need_nodes()
    tap.need(paths.has_ballast(), f'the plug-in ({paths.PLUGIN})')
    options: Dict[str, object] = {**({'ledger': ledger.path, 'name': name} if ledger else {}), **(plugin or {})}
    with tempfile.TemporaryDirectory(prefix='ballast-') as work:
        firmware = Path(work, 'sleeper.bin')
        firmware.write_bytes((bytes(0xfff0) + SLEEPER).ljust(0x10000, b'\0'))
        with VM([*arguments(vnodes, str(firmware), numa), *extra], plugin=options, name=name, wrapper=wrapper) as vm:
            yield vm


@contextmanager
def guest(vnodes: Sequence[Vnode], *args: Any, **kwargs: Any) -> Iterator[Guest]:
    """One that runs."""
    with machine(vnodes, *args, **kwargs) as vm:
        vm.launch()
        yield Guest(vm, vnodes)
