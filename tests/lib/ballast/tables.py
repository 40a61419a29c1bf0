# SPDX-License-Identifier: GPL-2.0-or-later
"""A RAM block that grows while the VM runs: QEMU's copy of the ACPI tables.

QEMU makes them when the machine is built, pads them to 128 KiB, and makes them again when the guest first asks
for them.  If the window of a bridge was opened by then, they are longer by its description: with tables of the
test's own that fill the first 128 KiB but for a few bytes, the block becomes twice as large.
"""

import struct
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator, Tuple

from .vm import VM, Qtest

PADDED, HEADER, MARGIN = 128 * 1024, 36, 20
MOST = 60000                            # in one table of a user's: its length has 16 bits
DIRECTORY, FILE = 0x19, 'etc/acpi/tables'
REQUEST, BUFFER = 0xc00000, 0xc10000    # guest memory that nobody else uses
READ, SELECT = 2, 8
BUS = 0x80                              # of the bridge, below a host bridge of its own
DEVICE = ('-device', f'pxb,id=pxb0,bus_nr={BUS},bus=pci.0,addr=7')


def _dma(qtest: Qtest, key: int, length: int) -> bytes:
    """Ask the firmware configuration device for the begin of an entry."""
    qtest.write(REQUEST, struct.pack('>IIQ', key << 16 | SELECT | READ, length, BUFFER))
    qtest.batch(['outl 0x514 0', f'outl 0x518 {int.from_bytes(REQUEST.to_bytes(4, "big"), "little"):#x}'])
    return qtest.read(BUFFER, length)


def entry(qtest: Qtest) -> Tuple[int, int]:
    """The tables' size as it was when the machine was built, and their key."""
    count, = struct.unpack('>I', _dma(qtest, DIRECTORY, 4))
    files = _dma(qtest, DIRECTORY, 4 + 64 * count)[4:]
    for at in range(0, len(files), 64):
        size, key, name = struct.unpack('>IHxx56s', files[at:at + 64])
        if name.rstrip(b'\0').decode() == FILE:
            return size, key
    raise AssertionError(f'{FILE} is not there')


def missing() -> str:
    """What the QEMU under test lacks for this, or ''."""
    with VM(['-M', 'none'], plugin={}) as vm:
        vm.launch()
        # without the second, the first ends QEMU 10.2
        return next((f'the device {name} in this QEMU' for name in ('pxb', 'pci-bridge')
                     if not vm.knows_device(name)), '')


def _used(machine: Tuple[str, ...]) -> int:
    """Bytes of such a machine's tables, without what pads them."""
    with VM([*machine], plugin={}) as vm:
        vm.launch()
        size, key = entry(vm.qtest)
        return len(_dma(vm.qtest, key, size).rstrip(b'\0'))


@contextmanager
def nearly_full(*machine: str) -> Iterator[Tuple[str, ...]]:
    """Arguments with which such a machine's tables leave only a few bytes of 128 KiB."""
    with tempfile.TemporaryDirectory() as folder:
        missing, args = PADDED - MARGIN - _used((*machine, *DEVICE)), [*DEVICE]
        while missing > HEADER:
            length = min(MOST, missing) if missing - MOST > HEADER or missing <= MOST else MOST // 2
            path = Path(folder) / str(missing)
            path.write_bytes(b'\x5a' * (length - HEADER))
            args += ['-acpitable', f'sig=TEST,data={path}']
            missing -= length
        yield tuple(args)


def grow(qtest: Qtest) -> None:
    """Open the bridge's window (1 MiB at 0xe0000000), and ask for the tables."""
    qtest.batch([f'outl 0xcf8 {0x80000020 | BUS << 16:#x}', 'outl 0xcfc 0xe000e000'])
    _dma(qtest, entry(qtest)[1], 4)
