#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""What hints are not used with is said by name, and nothing is asked for; where stock QEMU crashes, nothing does.

The controls run stock QEMU without the plug-in: they must crash, or the cases would prove nothing.
"""

import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import Callable, Dict, Iterator, List, Optional, Sequence

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / 'lib'))

# pylint: disable=wrong-import-position
from ballast import host, mailbox, paths, tap, virtio                   # noqa: E402
from ballast.vm import VM, ExecuteError, Sink, wait_until               # noqa: E402

MIB = 1 << 20
PAGE = virtio.PAGE
OURS, STOCK = 'virtio-balloon-ledger-pci', 'virtio-balloon-pci'
SHARED, PRIVATE = 24 * MIB, 80 * MIB        # a page of each block of _two()


class Guest:
    """A VM, its vCPU and its driver; migrations go nowhere."""

    def __init__(self, vm: VM, plugin: bool) -> None:
        self.vm, self.plugin = vm, plugin
        self.box = mailbox.boot(vm)
        vm.qtest.do(f'memset {8 * MIB:#x} {8 * MIB:#x} 0x5a')
        self.balloon = virtio.Balloon(virtio.find_pci(vm.qtest), virtio.HINT)

    def info(self) -> Dict[str, object]:
        """query-free-page-hints."""
        return dict(self.vm.qmp('query-free-page-hints'))

    def migrate(self, **capabilities: bool) -> None:
        """Begin one that stays in its first round."""
        self.vm.set_capabilities({'events': True, **{name.replace('_', '-'): on for name, on in capabilities.items()}})
        self.vm.qmp('migrate-set-parameters', {'max-bandwidth': 1000})
        self.vm.qmp('migrate', uri='unix:' + Sink(self.vm).path)
        wait_until(self._begun, 'the first harvest')

    def _begun(self) -> bool:
        info = self.vm.migration()          # a background snapshot has no harvest
        return bool(info.get('ram', {}).get('dirty-sync-count')) or info.get('status') in ('failed', 'completed') \
            or 'background-snapshot' == self.info_if_any().get('disabled-by') and info.get('status') == 'active'

    def info_if_any(self) -> Dict[str, object]:
        """The same, or {} without the plug-in."""
        return self.info() if self.plugin else {}

    def cancel(self) -> None:
        """And see the guest told that it may go on."""
        self.vm.qmp('migrate_cancel')
        wait_until(lambda: self.vm.migration()['status'] in ('cancelled', 'failed'), 'the cancellation')
        wait_until(lambda: self.balloon.cmd_id == virtio.CMD_ID_DONE, 'the guest to be told')

    def interrupts(self) -> None:
        """The driver wants interrupts of the hint queue, as Linux does not."""
        # the PCI bus' interrupts go to the old controller, and from there, without an APIC, to the vCPU
        self.vm.qtest.batch(['outl 0xcf8 0x80000860', 'outl 0xcfc 0x0b0b0b0b'])
        self.vm.qtest.write(self.balloon.queues['hint'].avail_flags, bytes(2))


@contextmanager
def guest_of(device: str, *args: str, accel: Sequence[str] = (), plugin: bool = True,
             binary: Optional[str] = None) -> Iterator[Guest]:
    """A running one."""
    host.need_device()
    base = mailbox.pc('96M') if not args else mailbox.pc()[:-2]
    with VM([*base, *(accel or host.accel()), *args, '-object', 'iothread,id=iot', '-device',
             f'{device},id=balloon0,free-page-hint=on,iothread=iot'], plugin={} if plugin else None, binary=binary) as vm:
        yield Guest(vm, plugin)


@contextmanager
def _two() -> Iterator[List[str]]:
    """A shared block in a named file, and a private one."""
    with tempfile.NamedTemporaryFile(prefix='ballast-', dir='/dev/shm') as file:
        yield ['-m', '128M',
               '-object', f'memory-backend-file,id=m0,size=64M,share=on,mem-path={file.name}',
               '-object', 'memory-backend-ram,id=m1,size=64M',
               '-numa', 'node,nodeid=0,memdev=m0', '-numa', 'node,nodeid=1,memdev=m1']


# -- by name ---------------------------------------------------------------

def _by_name(device: str, capability: str) -> None:
    with guest_of(device) as guest:
        assert 'disabled-by' not in guest.info(), guest.info()
        try:
            guest.vm.set_capabilities({capability: True})
        except ExecuteError as error:
            tap.skip(f'needs {capability}: {error}')
        tap.equal(guest.info().get('disabled-by'), capability, 'disabled-by')
        armings = guest.info()['armings']
        idle = guest.balloon.cmd_id
        try:
            guest.migrate(**{capability.replace('-', '_'): True})
        except (ExecuteError, TimeoutError) as error:
            tap.equal(capability, 'background-snapshot', f'the capability refused: {error}')
        assert guest.balloon.cmd_id in (idle, virtio.CMD_ID_DONE), 'an id was published'
        tap.equal(guest.info()['armings'], armings, 'armings')
        guest.balloon.hint_id(0x80000001)
        guest.balloon.hint(PRIVATE)
        guest.balloon.queues['hint'].wait_idle()
        tap.equal(guest.info()['total']['applied'], 0, 'hints applied')         # type: ignore[index]
        guest.vm.qmp('migrate_cancel')
        wait_until(lambda: guest.vm.migration().get('status') not in ('setup', 'active', 'cancelling'), 'its end')
        wait_until(lambda: _clear(guest.vm, capability), 'the capability to be taken back')
        assert 'disabled-by' not in guest.info(), guest.info()
        guest.migrate()
        guest.balloon.wait_cmd_id(idle)


def _clear(vm: VM, capability: str) -> bool:
    try:
        vm.set_capabilities({capability: False})
    except ExecuteError:
        return False
    return True


for _device in (OURS, STOCK):
    for _capability in ('postcopy-ram', 'background-snapshot', 'x-colo'):
        if (_device, _capability, paths.FLAVOUR) == (OURS, 'postcopy-ram', 'series'):
            continue                # is none there: test_series
        tap.add(f'{_device}: {_capability}', _by_name, _device, _capability)


@tap.case(f'{OURS}: x-ignore-shared')
def ignored_ours() -> None:
    """Hints about the ignored block are skipped, those about the other one applied."""
    with _two() as blocks, guest_of(OURS, *blocks) as guest:
        tap.equal(guest.info()['ignored-blocks'], [], 'ignored-blocks')
        guest.migrate(x_ignore_shared=True)
        tap.equal(guest.info()['ignored-blocks'], ['m0'], 'ignored-blocks')
        assert 'disabled-by' not in guest.info(), guest.info()
        guest.balloon.hint_id(guest.balloon.wait_cmd_id())
        for page in (SHARED, PRIVATE):
            guest.balloon.hint(page)
        wait_until(lambda: host.judged(guest.vm) == 2, 'the verdicts')
        counts = host.verdicts(guest.vm)
        tap.equal((counts['foreign'], counts['applied']), (1, 1), '(foreign, applied)')
        guest.cancel()


@tap.case(f'{STOCK}: x-ignore-shared')
def ignored_stock() -> None:
    """It is not asked, so its first hint cannot crash it."""
    with _two() as blocks, guest_of(STOCK, *blocks) as guest:
        guest.vm.set_capabilities({'x-ignore-shared': True})
        tap.equal(guest.info().get('disabled-by'), 'x-ignore-shared', 'disabled-by')
        idle = guest.balloon.cmd_id
        guest.migrate(x_ignore_shared=True)
        tap.equal(guest.balloon.cmd_id, idle, 'published id')
        guest.balloon.hint_id(0x80000001)
        guest.balloon.hint(SHARED)
        guest.balloon.queues['hint'].wait_idle()
        assert guest.vm.alive()


def _crashes(vm: VM) -> None:
    wait_until(lambda: not vm.is_running(), 'the crash')
    code: Optional[int] = vm.exitcode()
    vm.shutdown(hard=True)
    assert code in (-6, -11), f'exit status {code}'


@tap.case('control: stock QEMU crashes with x-ignore-shared')
def ignored_control() -> None:
    """At the first hint."""
    with _two() as blocks, guest_of(STOCK, *blocks, plugin=False) as guest:
        guest.migrate(x_ignore_shared=True)
        guest.balloon.hint_id(guest.balloon.wait_cmd_id())
        guest.balloon.hint(SHARED)
        _crashes(guest.vm)


def _ignored_repaired() -> None:
    """Nothing keeps it from asking, and the hint about the ignored block is passed over, the next one not."""
    with _two() as blocks, guest_of(STOCK, *blocks, plugin=False, binary=paths.QEMU) as guest:
        guest.migrate(x_ignore_shared=True)
        guest.balloon.hint_id(guest.balloon.wait_cmd_id())
        remaining = guest.vm.migration()['ram']['remaining']
        guest.balloon.hint(SHARED)
        guest.balloon.queues['hint'].wait_idle()
        guest.balloon.hint(PRIVATE, 8 * MIB)
        guest.balloon.queues['hint'].wait_idle()
        less = remaining - guest.vm.migration()['ram']['remaining']
        assert less >= 8 * MIB, f'the hint about the other block was not applied: {less} bytes less to send'
        guest.cancel()


if paths.FLAVOUR == 'series':       # else stock QEMU's is not repaired: the control
    tap.add(f'{STOCK}, no Ballast: x-ignore-shared', _ignored_repaired)


# -- interrupts from the I/O thread ----------------------------------------

TCG = [*mailbox.ACCELS['tcg'].args, '-cpu', 'qemu64,apic=off']


# QEMU's own interrupt controllers, as under TCG; kernel-irqchip is an option of accel=kvm alone
USER_KVM = ['-accel', 'kvm,kernel-irqchip=off', '-cpu', 'qemu64,apic=off']


def _interrupt(device: str, accel: Sequence[str]) -> None:
    missing = mailbox.ACCELS['kvm'].missing() if accel is USER_KVM else ''
    tap.need(not missing, missing)
    with guest_of(device, accel=accel) as guest:
        guest.interrupts()
        guest.balloon.hint(PRIVATE)
        guest.balloon.queues['hint'].wait_idle()
        guest.migrate()
        guest.balloon.hint_id(guest.balloon.wait_cmd_id())
        for _ in range(20):
            guest.balloon.hint(PRIVATE)
        guest.balloon.queues['hint'].wait_idle()
        guest.cancel()
        assert guest.vm.alive()


def _broken(device: str) -> None:
    """A chain that the ring rejects: the interrupt is one of the configuration."""
    with guest_of(device, accel=TCG) as guest:
        guest.interrupts()
        guest.migrate()
        guest.balloon.hint_id(guest.balloon.wait_cmd_id())
        guest.balloon.queues['hint'].wait_idle()
        guest.balloon.queues['hint'].add_head(5000)
        wait_until(guest.balloon.broken, 'the device to ask for a reset')
        assert guest.vm.alive()


for _device in (OURS, STOCK):
    tap.add(f'{_device}: a driver that wants interrupts (tcg)', _interrupt, _device, TCG)
    tap.add(f'{_device}: a driver that wants interrupts (kvm, kernel-irqchip=off)', _interrupt, _device, USER_KVM)
    tap.add(f'{_device}: a chain that the ring rejects (tcg)', _broken, _device)


def _control(act: Callable[[Guest], object]) -> None:
    """Stock QEMU raises an interrupt in a thread without the big lock."""
    with guest_of(STOCK, accel=TCG, plugin=False) as guest:
        version = guest.vm.qmp('query-version')['qemu']
        if (version['major'], version['minor']) >= (10, 2):
            tap.skip('needs a QEMU that raises interrupts in I/O threads, before 10.2 (which loses them: balloon-irq-test)')
        guest.interrupts()
        try:
            act(guest)
        except OSError:
            pass                            # it is gone already
        _crashes(guest.vm)


tap.add('control: stock QEMU aborts for a driver that wants interrupts (tcg)', _control,
        lambda guest: guest.balloon.hint(PRIVATE))
tap.add('control: stock QEMU aborts at a chain that the ring rejects (tcg)', _control,
        lambda guest: guest.balloon.queues['hint'].add_head(5000))


if __name__ == '__main__':
    tap.main()
