# SPDX-License-Identifier: GPL-2.0-or-later
"""QEMUs of different versions and builds that migrate to one another, and what they say of their vmstate."""

import json
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Dict, Iterator, List, NamedTuple, Sequence

from . import mailbox, paths, tap, virtio
from .pair import DATA, MIB, PAGE, Pair
from .vm import VM, migrate

FILLED, IN_BALLOON = 32 * MIB, 48 * MIB     # a MiB each


class End(NamedTuple):
    """A QEMU, and what it is given for Ballast to be there."""

    binary: str
    args: Sequence[str] = ()


@contextmanager
def two_ends(source: End, target: End, machine: str, device: str, target_device: str = '') -> Iterator[Pair]:
    """A PC with a balloon in each of them, the source running its firmware."""
    tap.need(paths.FIRMWARE.exists(), f'the firmware ({paths.FIRMWARE})')
    args = ['-M', f'{machine},vmport=off', *mailbox.pc('96M')[2:], *mailbox.ACCELS['tcg'].args, '-device']
    with VM([*source.args, *args, f'{device},id=balloon0,addr=5'], binary=source.binary, name='src') as src, \
            VM([*target.args, *args, f'{target_device or device},id=balloon0,addr=5', '-incoming', 'defer'],
               binary=target.binary, name='dst') as dst:
        dst.launch()
        yield Pair(src, dst, mailbox.boot(src))


def fill(both: Pair, balloon: virtio.Balloon) -> None:
    """A MiB with content, and one in the balloon."""
    both.box.fill(FILLED, MIB, DATA)
    balloon.inflate([(IN_BALLOON + at) // PAGE for at in range(0, MIB, PAGE)])
    balloon.set_actual(MIB // PAGE)


def check(both: Pair, balloon: virtio.Balloon) -> None:
    """The content has come, the vCPU runs, and the balloon goes on where it was."""
    there = mailbox.Mailbox(both.dst.qtest)
    tap.equal(there.count_different(FILLED, MIB, DATA), 0, 'dwords that differ')
    there.write(FILLED, 1)
    tap.equal(both.dst.qmp('query-balloon')['actual'], both.src.qmp('query-balloon')['actual'], 'actual')
    there_balloon = balloon.on(both.dst.qtest)
    there_balloon.deflate([IN_BALLOON // PAGE])
    there.write(IN_BALLOON, DATA)
    tap.equal(there.read(IN_BALLOON), DATA, 'a page that came out of the balloon')


def between(source: End, target: End, machine: str, device: str) -> None:
    """Migrate a guest with a filled balloon."""
    with two_ends(source, target, machine, device) as both:
        balloon = virtio.Balloon(virtio.find_pci(both.src.qtest))
        fill(both, balloon)
        tap.equal(migrate(both.src, both.dst)['status'], 'completed')
        check(both, balloon)


def vmstate(binary: str, machine: str) -> Dict[str, Any]:
    """-dump-vmstate."""
    with tempfile.TemporaryDirectory(prefix='ballast-') as directory:
        name = Path(directory) / 'vmstate'
        subprocess.run([binary, '-M', machine, '-nodefaults', '-dump-vmstate', str(name)], check=True,
                       stdout=subprocess.DEVNULL)
        return dict(json.loads(name.read_text(encoding='utf-8')))


def is_ours(section: str) -> bool:
    """A section of the extension's device."""
    return 'balloon-ledger' in section


def same_vmstate(patched: str, stock: str, machines: Sequence[str]) -> None:
    """All that both have is the same, and what is new is ours."""
    for machine in machines:
        ours, theirs = vmstate(patched, machine), vmstate(stock, machine)
        new: List[str] = [name for name in ours if name not in theirs]
        assert new and all(map(is_ours, new)), new
        differ = [name for name in ours if name in theirs and ours[name] != theirs[name]]
        tap.equal(differ, [], f'{machine}: sections that differ')
        tap.note(f'{machine}: {len(ours) - len(new)} sections the same, new: {", ".join(new)}')
