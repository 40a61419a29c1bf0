#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Migration between Ballast in one version of QEMU and in another, and from and to stock ones.

    scripts/build-qemu --series 10.2 && scripts/build-qemu --series 10.2 --stock
    BALLAST_FLAVOUR=series QEMU=build/qemu/qemu-system-x86_64 BALLAST_OTHER=build/qemu-10.2/qemu-system-x86_64 \\
        BALLAST_OTHER_STOCK=build/qemu-10.2-stock/qemu-system-x86_64 tests/qtest/ballast/test_versions.py

Here 'ours' is $QEMU and 'other' is $BALLAST_OTHER; both have the machines of the older one.
"""

import subprocess
import sys
from pathlib import Path
from typing import Dict, Tuple

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / 'lib'))

# pylint: disable=wrong-import-position
from ballast import ends, paths, tap, virtio                             # noqa: E402
from ballast.ends import End                                             # noqa: E402
from ballast.pair import DATA, FAST, MIB, PAGE, SLOW                     # noqa: E402
from ballast.vm import start_migration, wait_migration, wait_until  # noqa: E402

OURS, STOCK = 'virtio-balloon-ledger-pci', 'virtio-balloon-pci'
MACHINES = ('pc-i440fx-10.0', 'pc-q35-10.0')
HINTED = 56 * MIB               # 1 MiB with content, then hinted free


def known_end(name: str) -> End:
    """One of the four, or skip."""
    tap.need(paths.FLAVOUR == 'series', 'a QEMU with Ballast inside (BALLAST_FLAVOUR=series)')
    binaries: Dict[str, Tuple[str, str]] = {
        'ours': (paths.QEMU, 'QEMU'), 'stock': (paths.STOCK, 'BALLAST_STOCK'),
        'other': (paths.OTHER, 'BALLAST_OTHER; scripts/build-qemu --series 10.2'),
        'other stock': (paths.OTHER_STOCK, 'BALLAST_OTHER_STOCK; scripts/build-qemu --series 10.2 --stock')}
    binary, where = binaries[name]
    tap.need(binary, f'another QEMU ({where})')
    return End(binary)


def _version(binary: str) -> str:
    said = subprocess.run([binary, '--version'], stdout=subprocess.PIPE, text=True, check=True).stdout
    return said.split()[3]


def _off(source: str, target: str, machine: str) -> None:
    ends.between(known_end(source), known_end(target), machine, STOCK)


def _in_use(source: str, target: str, machine: str, postcopy: bool = False) -> None:
    """A filled balloon, a hint in the first round, and absent pages."""
    with ends.two_ends(known_end(source), known_end(target), machine, f'{OURS},free-page-hint=on') as both:
        balloon = virtio.Balloon(virtio.find_pci(both.src.qtest), virtio.HINT)
        ends.fill(both, balloon)
        both.box.fill(HINTED, MIB, DATA)
        both.limit(SLOW, PAGE - 1)
        start_migration(both.src, both.dst, {'postcopy-ram': True} if postcopy else None)
        balloon.hint_id(balloon.wait_cmd_id())
        balloon.hint(HINTED, MIB)
        wait_until(lambda: both.src.qmp('query-free-page-hints')['migration']['applied'] == 1, 'the hint')
        wait_until(lambda: both.absent()['skipped-bytes'] > 32 * MIB, 'the scan')
        both.limit(FAST, 0)
        if postcopy:
            both.src.qmp('migrate-start-postcopy')
        info = wait_migration(both.src, both.dst)
        tap.equal((info['free-pages']['hinted-bytes'], info['free-pages']['late']), (MIB, 0), '(hinted, late)')
        ends.check(both, balloon)
        assert both.dst.qtest.readl(HINTED) in (0, DATA), 'the hinted page has the content of another'
        tap.note(f'{_version(known_end(source).binary)} to {_version(known_end(target).binary)}: absent '
                 f"{info['free-pages']['absent-bytes'] // MIB} MiB, sent {info['ram']['transferred'] // MIB} MiB")


for _machine in MACHINES:
    for _source, _target in (('ours', 'other'), ('other', 'ours')):
        tap.add(f'{_source} to {_target}, {_machine}: Ballast in use', _in_use, _source, _target, _machine)
        tap.add(f'{_source} to {_target}, {_machine}: not used', _off, _source, _target, _machine)
    for _source, _target in (('ours', 'other stock'), ('other stock', 'ours'), ('other', 'stock'),
                             ('stock', 'other'), ('other', 'other stock'), ('other stock', 'other')):
        tap.add(f'{_source} to {_target}, {_machine}: not used', _off, _source, _target, _machine)
for _source, _target in (('ours', 'other'), ('other', 'ours')):
    tap.add(f'{_source} to {_target}, {MACHINES[1]}: Ballast in use, postcopy', _in_use, _source, _target,
            MACHINES[1], True)


@tap.case('control: a balloon of the extension does not go into one of QEMU')
def refused() -> None:
    """The stream says what it is: the other version refuses it."""
    with ends.two_ends(known_end('ours'), known_end('other'), MACHINES[0], OURS, target_device=STOCK) as both:
        ends.fill(both, virtio.Balloon(virtio.find_pci(both.src.qtest)))
        start_migration(both.src, both.dst)
        wait_until(lambda: not both.dst.is_running(), 'the end of the destination')
        both.dst.shutdown(hard=True)
        assert "of device '0000:00:05.0/virtio-balloon'" in both.dst.log(), both.dst.log()


@tap.case('vmstate: what the other QEMU has is as it was')
def vmstate() -> None:
    """As the case of test_series for $QEMU; and the extension's sections are the same in both versions."""
    other = known_end('other')
    ends.same_vmstate(other.binary, known_end('other stock').binary, (*MACHINES, 'pc-i440fx-10.2', 'pc-q35-10.2'))
    for machine in MACHINES:
        here, there = ({name: section for name, section in ends.vmstate(binary, machine).items()
                        if ends.is_ours(name)} for binary in (paths.QEMU, other.binary))
        assert here, 'no section of the extension'
        tap.equal(there, here, f'{machine}: sections of the extension')


if __name__ == '__main__':
    tap.main()
