#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""What a vhost device writes into pages that were left out, as absent, as zero or for a hint, arrives.

The device is a vhost-user-blk, the simplest that QEMU migrates (gpio, i2c, rng, vsock and others are marked
unmigratable, a network card needs two queues and more requests).  Its back end (tests/lib/ballast/vhost.py)
writes past QEMU and KVM into shared memory, and says so in vhost's log of dirty pages, data first, mark after.
QEMU takes the log's marks in each harvest.

All migrations are slow ones (tests/lib/ballast/pair.py): 16 MiB that are dirty lie before the pages in
question, and one page is sent in 100 ms; a generation ends only with Pair.harvest().  So the order of data, mark,
look, hint and harvest is what the case says.

What cannot be had:
 vhost of the kernel  needs /dev/vhost-*, which need not be there.  Its log is read by the same lines of QEMU.
 before the look      the first look follows the first harvest in the migration thread, and nothing can be
                      done between them from outside.  Data "before the look" are written before the migration
                      begins; the log is not on then, so their mark comes later, as it should in these cases.
 stock's loss         stock QEMU's balloon loses what a vCPU writes before a late hint (test_late_hint.py), since
                      the hint clears KVM's log.  In the same order it keeps what a back end writes: the hint leaves
                      vhost's log alone.  So the controls are back ends that do not mark, on Ballast.
"""

import sys
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Callable, Iterator

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / 'lib'))

# pylint: disable=wrong-import-position
from ballast import host, tap, virtio                                  # noqa: E402
from ballast.pair import (AREA, DATA, MEMORY, MIB, PAGE, SLOW, Pair,   # noqa: E402
                          memfd, pair)
from ballast.vhost import BackEnd                                      # noqa: E402
from ballast.vm import wait_until                                      # noqa: E402

OLD = 0x01d01d01
RINGS = 0x300000                # the block device's driver; the balloon's uses what comes before
OFFSETS = tuple(range(0, 4 * MIB, MIB))
HINTS = 'virtio-balloon-ledger-device,free-page-hint=on'


class Guest:
    """A migration, and the back end of the source's device."""

    def __init__(self, both: Pair, disk: BackEnd) -> None:
        self.both, self.disk = both, disk
        disk.start_driver(both.src.qtest, RINGS)

    def balloon(self) -> virtio.Balloon:
        """Its balloon's driver."""
        return virtio.Balloon(virtio.find_mmio(self.both.src.qtest), virtio.HINT)

    def generation(self) -> int:
        """How many harvests there were."""
        return self.both.ram()['dirty-sync-count']

    def start(self) -> None:
        """Begin; on return all that is absent was left out."""
        self.both.start(SLOW)
        wait_until(lambda: self.both.absent()['scans'] >= 1, 'the scan')
        tap.equal(self.generation(), 1, 'generation')
        assert self.both.absent()['skipped-bytes'] > 0.7 * MEMORY, self.both.absent()

    def write(self, value: int = DATA) -> None:
        """The device writes the pages."""
        for offset in OFFSETS:
            self.disk.write(AREA + offset, value.to_bytes(4, 'little'))

    def mark(self) -> None:
        """The device says which."""
        for offset in OFFSETS:
            self.disk.mark(AREA + offset)

    def harvest(self) -> None:
        """The next generation; it has taken all marks."""
        self.both.harvest()
        for offset in OFFSETS:
            assert not self.disk.is_marked(AREA + offset), 'the harvest left a mark'

    def absent(self, yes: bool = True) -> None:
        """The pages have no memory (or do)."""
        for offset in OFFSETS:
            tap.equal(self.disk.is_hole(AREA + offset), yes, f'AREA + {offset:#x} is a hole')

    def arrives(self) -> None:
        """All memory is the same in the end, with the device's data."""
        self.both.finish()
        self.both.check(*OFFSETS)

    def lost(self, value: int) -> None:
        """Just these pages are different, and hold that on the destination."""
        self.both.finish()
        tap.equal(self.both.differ(), [hex(AREA + offset) for offset in OFFSETS], 'what differs')
        for offset in OFFSETS:
            tap.equal(self.both.dst.qtest.readl(AREA + offset), value, 'on the destination')


@contextmanager
def guest(accel: str, balloon: str = '') -> Iterator[Guest]:
    """Two VMs with a back end each."""
    host.need_device()
    with ExitStack() as stack:
        disk, other = (stack.enter_context(BackEnd()) for _ in ('src', 'dst'))
        both = stack.enter_context(pair(accel, *memfd(MEMORY, ',share=on'), balloon=balloon,
                                        own={'src': disk.args(), 'dst': other.args()}))
        tap.need(both.src.knows_device('vhost-user-blk'), 'the device vhost-user-blk')
        yield Guest(both, disk)


# -- absent ----------------------------------------------------------------

def absent_written(accel: str, marked: bool) -> None:
    """Absent when looked at; data, mark."""
    with guest(accel) as vm:
        vm.start()
        vm.absent()
        vm.write()
        if not marked:
            vm.lost(0)
            return
        vm.mark()
        tap.equal(vm.generation(), 1, 'generation')
        vm.arrives()


def absent_marked_later(accel: str) -> None:
    """Absent when looked at; data, two harvests, mark, harvest."""
    with guest(accel) as vm:
        vm.start()
        vm.absent()
        vm.write()
        vm.harvest()
        vm.harvest()
        vm.mark()
        vm.harvest()
        vm.arrives()


def absent_zeros_then_data(accel: str) -> None:
    """Absent when looked at; zeros, mark, harvest: left out again.  Then data, harvest, mark."""
    with guest(accel) as vm:
        vm.start()
        vm.absent()
        vm.write(0)
        vm.absent(False)
        vm.mark()
        zero = vm.both.absent()['zero']
        vm.harvest()
        wait_until(lambda: vm.both.absent()['zero'] >= zero + len(OFFSETS), 'the look of the second generation')
        vm.write()
        vm.harvest()
        vm.mark()
        vm.arrives()


def absent_at_last(accel: str, marked: bool) -> None:
    """Absent until QEMU stops the device; data and mark before the back end says that it has stopped."""
    with guest(accel) as vm:
        def last() -> None:
            vm.absent()
            vm.write()
            if marked:
                vm.mark()
        vm.start()
        vm.disk.when_stopping = last
        if marked:
            vm.arrives()
        else:
            vm.lost(0)
        tap.equal(vm.disk.running, False, 'running')


# -- zero, but there -------------------------------------------------------

def zero_written(accel: str, later: bool, marked: bool = True) -> None:
    """Zero when looked at; data, (harvest,) mark."""
    with guest(accel) as vm:
        vm.both.src.qtest.do(f'memset {AREA:#x} {16 * MIB:#x} 0')
        vm.absent(False)
        vm.start()
        wait_until(lambda: vm.both.absent()['zero'] >= 16 * MIB // PAGE, 'the look')
        tap.equal(vm.generation(), 1, 'generation')
        vm.write()
        if not marked:
            vm.lost(0)
            return
        if later:
            vm.harvest()
        vm.mark()
        vm.arrives()


# -- data before the look --------------------------------------------------

def data_first(accel: str, harvests: int, marked: bool = True) -> None:
    """Data, look, (harvests, mark): in the file's page cache, though QEMU's page tables do not have it."""
    with guest(accel) as vm:
        vm.absent()
        vm.write()
        vm.absent(False)
        vm.start()
        for _ in range(harvests):
            vm.harvest()
        if marked:
            vm.mark()
        vm.arrives()


# -- hints -----------------------------------------------------------------

class Hinter:
    """The guest's balloon driver."""

    def __init__(self, vm: Guest) -> None:
        self.vm, self.driver = vm, vm.balloon()
        self.cmd_id = virtio.CMD_ID_DONE
        self.hints = 0

    def answer(self) -> None:
        """Say that hints follow, for the question of this generation."""
        self.cmd_id = self.driver.wait_cmd_id(self.cmd_id)
        self.driver.hint_id(self.cmd_id)
        self.driver.queues['hint'].wait_idle()

    def hint(self, verdict: str) -> None:
        """The pages are free; they are judged on return, and so."""
        for offset in OFFSETS:
            self.driver.hint(AREA + offset)
        self.hints += len(OFFSETS)
        wait_until(lambda: host.judged(self.vm.both.src) >= self.hints, 'the verdicts')
        tap.equal(host.verdicts(self.vm.both.src)[verdict], len(OFFSETS), verdict)


@contextmanager
def hinting(accel: str) -> Iterator[Hinter]:
    """A guest whose pages have old content, in the first generation."""
    with guest(accel, HINTS) as vm:
        for offset in OFFSETS:
            vm.both.box.write(AREA + offset, OLD)
        hinter = Hinter(vm)
        vm.start()
        yield hinter


def hint_written(accel: str, marked: bool) -> None:
    """Hint, applied; data, mark: the guest uses the page again, for a request."""
    with hinting(accel) as balloon:
        balloon.answer()
        balloon.hint('applied')
        balloon.vm.write()
        if not marked:
            balloon.vm.lost(0)
            return
        balloon.vm.mark()
        tap.equal(balloon.vm.generation(), 1, 'generation')
        balloon.vm.arrives()


def written_hint(accel: str) -> None:
    """Answer, data, mark; the hint was on its way and is applied: the mark has survived it."""
    with hinting(accel) as balloon:
        balloon.answer()
        balloon.vm.write()
        balloon.vm.mark()
        balloon.hint('applied')
        balloon.vm.harvest()
        balloon.vm.arrives()


def hint_between(accel: str) -> None:
    """Answer, data; the hint is applied; harvest, mark."""
    with hinting(accel) as balloon:
        balloon.answer()
        balloon.vm.write()
        balloon.hint('applied')
        balloon.vm.harvest()
        balloon.vm.mark()
        balloon.vm.arrives()


def hint_late(accel: str, late: bool) -> None:
    """Answer, data, mark, harvest, hint: it answers an old question (or, for the control, the new one)."""
    with hinting(accel) as balloon:
        balloon.answer()
        balloon.vm.write()
        balloon.vm.mark()
        balloon.vm.harvest()
        if late:
            balloon.hint('late')
            balloon.vm.arrives()
        else:
            balloon.answer()
            balloon.hint('applied')
            balloon.vm.lost(0)


def add(name: str, function: Callable[..., None], *args: object) -> None:
    """A case for each accelerator."""
    for accel in ('kvm', 'tcg'):
        tap.add(f'{name}, {accel}', function, accel, *args)


add('absent, then data and mark', absent_written, True)
add('absent, then data, and mark after two harvests', absent_marked_later)
add('absent, then zeros, then data', absent_zeros_then_data)
add('absent until the device is stopped', absent_at_last, True)
add('zero, then data and mark', zero_written, False)
add('zero, then data, and mark after a harvest', zero_written, True)
add('data before the look, mark after it', data_first, 0)
add('data before the look, mark after a harvest', data_first, 1)
# a device that was done before the log was on owes it nothing: what is there must not count as absent
add('data before the look, no mark', data_first, 0, False)
add('hinted, then data and mark', hint_written, True)
add('data and mark, then hinted', written_hint)
add('data, then hinted, mark after a harvest', hint_between)
add('data and mark, then hinted late', hint_late, True)
add('control: absent, data without a mark are lost', absent_written, False)
add('control: absent until the device is stopped, no mark', absent_at_last, False)
add('control: zero, data without a mark are lost', zero_written, False, False)
add('control: hinted, data without a mark are lost', hint_written, False)
add('control: hinted in time, data from before are lost', hint_late, False)

if __name__ == '__main__':
    tap.main()
