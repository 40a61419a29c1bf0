# SPDX-License-Identifier: GPL-2.0-or-later
"""The test's end of tests/firmware/mailbox.S: tell the vCPU what to do, know when it is done."""

import os
import struct
from dataclasses import dataclass, field
from typing import List, Mapping

from . import paths
from .vm import VM, Qtest, wait_until

BASE = 0x1000
_SEQ, _ACK, _COMMAND, _RESULT, _MAGIC, _LAPS, _EXTRA = 0, 4, 8, 24, 28, 32, 36
_WRITE, _FILL, _READ, _LOOP, _COUNT, _STAMP = range(1, 7)


class Mailbox:
    """Commands to the vCPU of a VM that runs the mailbox firmware."""

    def __init__(self, qtest: Qtest) -> None:
        self._qtest = qtest
        wait_until(lambda: self._field(_MAGIC) == 0x54534c42, 'the firmware to start')
        self._seq = self._field(_SEQ)       # it goes on after a migration

    def _field(self, offset: int) -> int:
        return self._qtest.readl(BASE + offset)

    def _post(self, command: int, addr: int = 0, length: int = 0, value: int = 0) -> None:
        assert length % 4 == 0 and addr % 4 == 0
        self._seq = (self._seq + 1) & 0xffffffff
        arguments = struct.pack('<IIII', command, addr, length, value)
        self._qtest.write(BASE + _COMMAND, arguments)
        self._qtest.writel(BASE + _SEQ, self._seq)

    def _do(self, *arguments: int) -> int:
        self._post(*arguments)
        wait_until(self.acknowledged, f'the vCPU to do command {arguments}')
        return self._field(_RESULT)

    def acknowledged(self) -> bool:
        """The vCPU has done the last command."""
        return self._field(_ACK) == self._seq

    def write(self, addr: int, value: int) -> None:
        """Store a dword; done, and visible, on return."""
        self._do(_WRITE, addr, 0, value)

    def fill(self, addr: int, length: int, value: int) -> None:
        """Store a dword all over a range."""
        self._do(_FILL, addr, length, value)

    def stamp(self, addr: int, length: int, value: int) -> None:
        """Store a dword at the beginning of each page: quicker than fill(), each dword of which KVM may emulate."""
        self._do(_STAMP, addr, length, value)

    def begin_fill(self, addr: int, length: int, value: int) -> None:
        """The same, but return at once: acknowledged() tells when it is done."""
        self._post(_FILL, addr, length, value)

    def read(self, addr: int) -> int:
        """What the vCPU reads there."""
        return self._do(_READ, addr)

    def count_different(self, addr: int, length: int, value: int) -> int:
        """How many dwords of a range the vCPU finds different from value."""
        return self._do(_COUNT, addr, length, value)

    def start_loop(self, addr: int, length: int, extra: int = 0) -> None:
        """Dirty each page of the range, then the page `extra`, again and again until stop()."""
        self._qtest.writel(BASE + _EXTRA, extra)
        self._do(_LOOP, addr, length)

    def begin_loop(self, addr: int, length: int) -> None:
        """The same, but return at once."""
        self._qtest.writel(BASE + _EXTRA, 0)
        self._post(_LOOP, addr, length)

    def laps(self) -> int:
        """Complete laps of loops so far; a lap ends with the write to `extra`."""
        return self._field(_LAPS)

    def wait_full_lap(self) -> None:
        """Return after a lap that began and ended within this call."""
        begun = self.laps()
        wait_until(lambda: (self.laps() - begun) & 0xffffffff >= 2, 'a lap of the vCPU')

    def touch(self, addr: int, length: int) -> None:
        """Dirty each page of a range: quicker than fill(), each dword of which KVM may have to emulate."""
        self.start_loop(addr, length)
        self.wait_full_lap()
        self.stop()

    def stop(self) -> None:
        """End the loop: once this returns the vCPU writes nothing but the mailbox."""
        self._do(0)

    def begin_stop(self) -> None:
        """The same, but return at once."""
        self._post(0)


@dataclass(frozen=True)
class Accel:
    """A way to track dirty pages: an accelerator and what selects it."""

    args: List[str]
    env: Mapping[str, object] = field(default_factory=dict)

    @property
    def kvm(self) -> bool:
        """Needs /dev/kvm."""
        return self.args[1].startswith('kvm')

    def missing(self) -> str:
        """What this host lacks for it, or ''."""
        if self.kvm and not os.access('/dev/kvm', os.R_OK | os.W_OK):
            return '/dev/kvm'
        if 'LD_PRELOAD' in self.env and not paths.KVM_LOG_MODE.exists():
            return str(paths.KVM_LOG_MODE)
        return ''


def _older_log(mode: str) -> Accel:
    return Accel(['-accel', 'kvm'], {'LD_PRELOAD': paths.KVM_LOG_MODE, 'BALLAST_KVM_LOG': mode})


ACCELS = {
    'kvm': Accel(['-accel', 'kvm']),                                # manual protect, initially set
    'kvm-manual': _older_log('manual'),
    'kvm-legacy': _older_log('legacy'),
    'kvm-ring': Accel(['-accel', 'kvm,dirty-ring-size=4096']),
    'tcg': Accel(['-accel', 'tcg,thread=multi']),
}


def microvm(memory: str = '128M') -> List[str]:
    """The smallest machine that runs the firmware; virtio-mmio transports are modern."""
    return ['-M', 'microvm', '-bios', str(paths.FIRMWARE), '-m', memory,
            '-global', 'virtio-mmio.force-legacy=false']


def pc(memory: str = '128M') -> List[str]:
    """A PC that runs the firmware: for PCI, and for more than one RAM block."""
    return ['-M', 'pc', '-bios', str(paths.FIRMWARE), '-m', memory]


def boot(vm: VM) -> Mailbox:
    """Launch and wait until the vCPU polls."""
    vm.launch()
    return Mailbox(vm.qtest)
