#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""What only a QEMU with Ballast inside can do, and what the series fixes for QEMU's own balloon.

Needs BALLAST_FLAVOUR=series and QEMU=build/qemu/qemu-system-x86_64 (scripts/build-qemu).  The controls of the
fixes are the controls of test_late_hint and test_obstacle: they run a stock QEMU, and crash it or lose pages.
"""

import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Dict, Iterator, Tuple

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / 'lib'))

# pylint: disable=wrong-import-position
from ballast import mailbox, paths, tap, virtio                         # noqa: E402
from ballast.ends import End, between, same_vmstate                    # noqa: E402
from ballast.pair import AREA, DATA, FAST, MEMORY, MIB, PAGE, SLOW, Pair  # noqa: E402
from ballast.vm import VM, ExecuteError, start_migration, wait_migration, wait_until  # noqa: E402

OURS, STOCK = 'virtio-balloon-ledger', 'virtio-balloon'
POSTCOPY = {'postcopy-ram': True}
HINTED = AREA + 32 * MIB        # 1 MiB with content, then hinted free
FEW = 64 << 10                  # bytes a second: the background of a postcopy migration does not get far


def need_series() -> None:
    """Skip elsewhere."""
    tap.need(paths.FLAVOUR == 'series', 'a QEMU with Ballast inside (BALLAST_FLAVOUR=series)')


# -- QMP and HMP -----------------------------------------------------------

@tap.case('schema: commands, events and types are in query-qmp-schema')
def schema() -> None:
    """As all that is native; the plug-in's are not."""
    need_series()
    with VM(mailbox.microvm('64M'), plugin={}) as vm:
        vm.launch()
        known = {one['name']: one for one in vm.qmp('query-qmp-schema')}
        for name in ('query-memory-ledger', 'query-free-page-hints', 'query-memory-placement', 'balloon-node'):
            tap.equal(known[name]['meta-type'], 'command', name)
            assert 'unstable' in known[name]['features'], name
        for name in ('MEMORY_CLAIM_REFUSED', 'MEMORY_CLAIM_WAITING', 'MEMORY_CLAIM_GRANTED', 'BALLOON_NODE_DONE'):
            tap.equal(known[name]['meta-type'], 'event', name)


def _plain(wanted: bool) -> Dict[str, Any]:
    args = [*mailbox.microvm(f'{MEMORY // MIB}M'), *mailbox.ACCELS['tcg'].args]
    with VM(args, binary=paths.QEMU) as src, \
            VM([*args, '-incoming', 'defer'], binary=paths.QEMU, name='dst') as dst:
        dst.launch()
        box = mailbox.boot(src)
        box.fill(AREA, MIB, DATA)
        src.qmp('migrate-set-parameters', {'max-bandwidth': FAST})
        start_migration(src, dst, {'x-absent-pages': wanted})
        info = wait_migration(src, dst)
        tap.equal(dst.qtest.readl(AREA + MIB - PAGE), DATA, 'the last page')
        return info


@tap.case('capability: x-absent-pages, without any device of ours')
def capability() -> None:
    """Set: absent pages are left out, and query-migrate tells.  Not set: nothing of Ballast shows."""
    need_series()
    info = _plain(False)
    assert 'free-pages' not in info and info['ram']['duplicate'] > 0.9 * MEMORY / PAGE, info
    info = _plain(True)
    assert info['free-pages']['absent-bytes'] > 0.9 * MEMORY, info
    assert info['ram']['duplicate'] < 0.02 * MEMORY / PAGE, info


@tap.case('query-migrate: hints')
def statistics() -> None:
    """The same figures as query-free-page-hints."""
    need_series()
    with _hinted({}) as (both, _):
        both.limit(FAST, 0)
        info = wait_migration(both.src, both.dst)['free-pages']
        tap.equal((info['hinted'], info['hinted-bytes'], info['late']), (1, MIB, 0), '(hinted, bytes, late)')
        tap.equal(info['absent'], both.absent()['skipped'], 'absent')


def _hints(capabilities: Dict[str, bool]) -> None:
    """A hint in the first round is applied, and what was not hinted arrives."""
    with _hinted(capabilities) as (both, _):
        both.limit(FAST, 0)
        info = wait_migration(both.src)['free-pages']
        if 'mapped-ram' in capabilities:
            both.dst.set_capabilities({'events': True, **capabilities})
            both.dst.qmp('migrate-incoming', uri=_file(both.src))
        wait_migration(both.src, both.dst)
        tap.equal((info['hinted'], info['hinted-bytes'], info['late']), (1, MIB, 0), '(hinted, bytes, late)')
        wrong = both.differ(4 * MIB, HINTED - 4 * MIB) + both.differ(HINTED + MIB, MEMORY - HINTED - MIB)
        assert not wrong, f'{len(wrong)} pages differ, first {wrong[:4]}'
        tap.equal(both.dst.qtest.readl(HINTED), 0, 'the hinted page')


for _name in ('multifd', 'mapped-ram'):
    tap.add(f'hints: {_name}', _hints, {_name: True})
tap.add('hints: multifd, mapped-ram', _hints, {'multifd': True, 'mapped-ram': True})


@tap.case('info memory-ledger, info memory-placement')
def monitor() -> None:
    """For people; without a ledger it says so."""
    need_series()
    with VM([*mailbox.microvm('64M'), '-device', f'{OURS}-device'], plugin={}) as vm:
        vm.launch()
        assert 'no memory ledger' in vm.hmp('info memory-ledger').lower(), vm.hmp('info memory-ledger')
        lines = vm.hmp('info memory-placement').splitlines()
        assert any('ram' in line and 'MiB' in line for line in lines), lines


# -- postcopy --------------------------------------------------------------

def _file(src: VM) -> str:
    """Where a migration with mapped-ram goes to."""
    return f'file:{src.temp_dir}/ram'


@contextmanager
def _hinted(capabilities: Dict[str, bool]) -> Iterator[Tuple[Pair, virtio.Balloon]]:
    """A migration that stays in its first round, in which 1 MiB with content was hinted."""
    need_series()
    args = [*mailbox.microvm(f'{MEMORY // MIB}M'), *mailbox.ACCELS['tcg'].args,
            '-device', f'{OURS}-device,id=balloon0,free-page-hint=on']
    with VM(args, plugin={}) as src, VM([*args, '-incoming', 'defer'], plugin={}, name='dst') as dst:
        dst.launch()
        both = Pair(src, dst, mailbox.boot(src))
        balloon = virtio.Balloon(virtio.find_mmio(src.qtest), virtio.HINT)
        both.box.fill(AREA, 16 * MIB, DATA)
        both.box.fill(HINTED, MIB, DATA)
        both.limit(SLOW, PAGE - 1)
        try:
            if 'mapped-ram' in capabilities:
                src.set_capabilities({'events': True, **capabilities})
                src.qmp('migrate', uri=_file(src))
            else:
                start_migration(src, dst, capabilities)
        except ExecuteError as error:
            tap.skip(f'needs {", ".join(capabilities)}: {error}')
        balloon.hint_id(balloon.wait_cmd_id())
        balloon.hint(HINTED, MIB)
        wait_until(lambda: src.qmp('query-free-page-hints')['migration']['applied'] == 1, 'the hint')
        yield both, balloon


def _to_postcopy(both: Pair) -> mailbox.Mailbox:
    """Nearly all is left out, and next to nothing sent in the background; the guest runs over there."""
    wait_until(lambda: both.absent()['skipped-bytes'] > 0.8 * MEMORY, 'the scan')
    both.src.qmp('migrate-set-parameters', {'max-postcopy-bandwidth': FEW})
    both.src.qmp('migrate-start-postcopy')
    wait_until(lambda: both.src.migration()['status'] == 'postcopy-active', 'postcopy')
    return mailbox.Mailbox(both.dst.qtest)


def _postcopy(capabilities: Dict[str, bool]) -> None:
    """The destination asks for pages that were left out, and gets them while the rest is still to come."""
    with _hinted(capabilities) as (both, _):
        box = _to_postcopy(both)
        asked = both.ram()['postcopy-requests']
        for page in range(0, MIB, 256 << 10):
            assert box.read(HINTED + page) in (0, DATA), 'the hinted page has the content of another'
        for page in (MEMORY - 8 * MIB, MEMORY - 4 * MIB):
            tap.equal(box.read(page), 0, 'an absent page')
        tap.equal(box.read(AREA + 15 * MIB), DATA, 'a page that is still to come')
        tap.equal(both.src.migration()['status'], 'postcopy-active', 'status')
        assert both.ram()['postcopy-requests'] >= asked + 6, both.ram()
        both.src.qmp('migrate-set-parameters', {'max-postcopy-bandwidth': 0})
        wait_migration(both.src, both.dst)
        tap.equal(box.count_different(AREA, 16 * MIB, DATA), 0, 'dwords that differ')


tap.add('postcopy: pages left out are sent when they are asked for', _postcopy, POSTCOPY)
tap.add('postcopy, preempt: pages left out are sent when they are asked for', _postcopy,
        {**POSTCOPY, 'postcopy-preempt': True})
tap.add('postcopy, multifd: pages left out are sent when they are asked for', _postcopy,
        {**POSTCOPY, 'multifd': True})


@tap.case('postcopy that fails and goes on: pages left out are sent')
def recovered() -> None:
    """What has not arrived is dirty then, be it left out or not."""
    with _hinted(POSTCOPY) as (both, _):
        box = _to_postcopy(both)
        tap.equal(box.read(MEMORY - 8 * MIB), 0, 'an absent page')
        both.src.qmp('migrate-pause')
        for vm in (both.src, both.dst):
            wait_until(lambda: vm.migration()['status'] == 'postcopy-paused',   # pylint: disable=cell-var-from-loop
                       'the pause')
        uri = f'unix:{both.dst.temp_dir}/again.sock'
        both.dst.qmp('migrate-recover', uri=uri)
        both.src.qmp('migrate', uri=uri, resume=True)
        wait_until(lambda: both.src.migration()['status'] == 'postcopy-active', 'postcopy again')
        tap.equal(box.read(MEMORY - 4 * MIB), 0, 'another absent page')
        assert box.read(HINTED) in (0, DATA), 'the hinted page has the content of another'
        both.src.qmp('migrate-set-parameters', {'max-postcopy-bandwidth': 0})
        wait_migration(both.src, both.dst)
        tap.equal(box.count_different(AREA, 16 * MIB, DATA), 0, 'dwords that differ')


@tap.case('postcopy: stock virtio-balloon asks for no hints')
def postcopy_stock() -> None:
    """As ever: it does not know what became of them."""
    need_series()
    args = [*mailbox.microvm('64M'), *mailbox.ACCELS['tcg'].args, '-object', 'iothread,id=iot',
            '-device', f'{STOCK}-device,id=balloon0,free-page-hint=on,iothread=iot']
    with VM(args, plugin={}) as src, VM([*args, '-incoming', 'defer'], plugin={}, name='dst') as dst:
        dst.launch()
        mailbox.boot(src)
        balloon = virtio.Balloon(virtio.find_mmio(src.qtest), virtio.HINT)
        idle = balloon.cmd_id
        try:
            start_migration(src, dst, POSTCOPY)
        except ExecuteError as error:
            tap.skip(f'needs postcopy: {error}')
        wait_migration(src, dst)
        assert balloon.cmd_id in (idle, virtio.CMD_ID_DONE), 'an id was published'


# -- from and to other QEMUs -----------------------------------------------

def known_ends() -> Dict[str, End]:
    """Those that migrate to one another."""
    return {'series': End(paths.QEMU), 'stock': End(paths.STOCK),
            'plug-in': End(paths.STOCK, ('-plugin', str(paths.PLUGIN)))}


def _need_fitting_plugin() -> None:
    """One of the distribution's QEMU refuses another version."""
    said = subprocess.run([paths.STOCK, '-M', 'none', '-display', 'none', '-monitor', 'stdio', '-plugin',
                           str(paths.PLUGIN)], input='quit\n', text=True, check=False,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT).stdout.strip()
    tap.need('the plug-in was built for' not in said, f'a plug-in for this QEMU: {said[-300:]}')


def _between(source: str, target: str, machine: str, device: str) -> None:
    need_series()
    tap.need('plug-in' not in (source, target) or paths.PLUGIN.exists(), f'the plug-in ({paths.PLUGIN})')
    if 'plug-in' in (source, target):
        _need_fitting_plugin()
    between(known_ends()[source], known_ends()[target], machine, device)


for _source, _target in (('stock', 'series'), ('series', 'stock')):
    tap.add(f'{_source} to {_target}: virtio-balloon', _between, _source, _target, 'pc', f'{STOCK}-pci')
for _source, _target in (('plug-in', 'series'), ('series', 'plug-in')):
    tap.add(f'{_source} to {_target}: virtio-balloon-ledger', _between, _source, _target, 'pc', f'{OURS}-pci')
tap.add('series to stock: virtio-balloon, machine pc-i440fx-9.0', _between, 'series', 'stock', 'pc-i440fx-9.0',
        f'{STOCK}-pci')


@tap.case('vmstate: what QEMU has is as it was')
def vmstate() -> None:
    """-dump-vmstate of old machines and new."""
    need_series()
    same_vmstate(paths.QEMU, paths.STOCK, ('pc-i440fx-9.2', 'pc-q35-9.2', 'pc-i440fx-10.0', 'pc-q35-10.0'))


if __name__ == '__main__':
    tap.main()
