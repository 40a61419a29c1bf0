# SPDX-License-Identifier: GPL-2.0-or-later
"""A VM with the device on PCI, its driver and its vCPU: what the tests of the device start from."""

from contextlib import contextmanager
from typing import Any, Dict, Iterator, Optional

from . import host, mailbox, virtio
from .vm import VM

MIB = 1 << 20
PAGE = virtio.PAGE
RAM = 128 * MIB
AREA = 64 * MIB                                 # what goes in and out of the balloon
PAGES = list(range(AREA // PAGE, AREA // PAGE + 1024))      # 4 MiB
BYTES = len(PAGES) * PAGE
SLOT = 5


class Guest:
    """A VM with the device on PCI, its driver and its vCPU."""

    def __init__(self, vm: VM) -> None:
        self.vm = vm
        self.box = mailbox.boot(vm)
        self.drive()

    def drive(self) -> None:
        """Start the driver."""
        self.balloon = virtio.Balloon(virtio.find_pci(self.vm.qtest), virtio.MUST_TELL_HOST)

    def ledger(self) -> Dict[str, Any]:
        """query-memory-ledger."""
        return dict(self.vm.qmp('query-memory-ledger'))

    def claimed(self) -> int:
        """All lines."""
        return sum(line['claimed'] for line in self.ledger()['claims'])

    def returned(self) -> bool:
        """The device holds no deflate buffer."""
        return self.balloon.queues['deflate'].pending() == 0


def vm_of(ledger: Optional[host.Ledger], *extra: str, device: str = '', memory: str = '128M',
          claim: Optional[str] = None, name: str = 'guest') -> VM:
    """A VM with the device, not launched."""
    host.need_device()
    options: Dict[str, object] = {}
    if ledger:
        options.update(ledger=ledger.path, name=name, **({'claim': claim} if claim else {}))
    return VM([*mailbox.pc(memory), *host.accel(), '-device',
               f'virtio-balloon-ledger-pci,id=balloon0,addr={SLOT}' + (',' + device if device else ''), *extra],
              plugin=options, name=name)


@contextmanager
def guest_of(ledger: Optional[host.Ledger], *extra: str, **kwargs: Any) -> Iterator[Guest]:
    """A running one."""
    with vm_of(ledger, *extra, **kwargs) as vm:
        yield Guest(vm)
