#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""A hostile guest: whatever it puts into the balloon's queues, QEMU lives, counts it and works on.

Each case has a machine of its own.  What the guest may do to itself (a broken device wants a reset) is
its own affair; what it must not do is stop QEMU, touch the claim, or lose another page.
"""

import base64
import random
import struct
import sys
import tempfile
from pathlib import Path
from typing import Callable, Dict, Iterator, List, Sequence

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / 'lib'))

# pylint: disable=wrong-import-position
from contextlib import contextmanager                                   # noqa: E402

from ballast import host, mailbox, tap, virtio                          # noqa: E402
from ballast.virtio import PAGE, Desc, into, out                        # noqa: E402
from ballast.vm import VM, ExecuteError, Sink, wait_until               # noqa: E402

MIB = 1 << 20
RAM = 128 * MIB
NOWHERE = 0x70000000        # behind the RAM, nothing there
ROM = 0xffff0000            # the firmware
LIST = 16384                   # page numbers in one buffer: more are refused (test_liar.py)
DEVICE = 0xfee00000         # the local APIC
VICTIM = 64 * MIB           # must keep its content whatever happens elsewhere
SPARE = 80 * MIB


class Machine:
    """A VM, its vCPU and its hostile driver."""

    FEATURES = virtio.HINT | virtio.REPORTING | virtio.STATS

    def __init__(self, vm: VM) -> None:
        self.vm = vm
        self.box = mailbox.boot(vm)
        self.box.fill(VICTIM, PAGE, 0x600df00d)
        # so much that a slow migration cannot end meanwhile
        vm.qtest.do(f'memset {8 * MIB:#x} {16 * MIB:#x} 0x5a')
        self.balloon = virtio.Balloon(virtio.find_pci(vm.qtest), self.FEATURES)
        self.claimed = self.claim()

    def claim(self) -> List[Dict[str, int]]:
        """The claim of this process."""
        return list(self.vm.qmp('query-memory-ledger')['claims'])

    def ask(self) -> int:
        """Begin a migration that stays in its first generation; the id it published."""
        before = self.balloon.cmd_id
        wait_until(self._may_migrate, 'the previous migration to be over')
        self.vm.qmp('migrate-set-parameters', {'max-bandwidth': 1000})
        self.vm.qmp('migrate', uri='unix:' + Sink(self.vm).path)
        return self.balloon.wait_cmd_id(before)

    def _may_migrate(self) -> bool:
        # a migration that was cancelled is in QEMU's way for a moment longer
        try:
            self.vm.set_capabilities({'events': True})
        except ExecuteError as error:
            assert 'in progress' in str(error), error
            return False
        return True

    def begin(self) -> int:
        """... and answer it."""
        cmd_id = self.ask()
        self.balloon.hint_id(cmd_id)
        self.balloon.queues['hint'].wait_idle()
        return cmd_id

    def add(self, name: str, *chain: Desc) -> None:
        """Queue one chain; it may or may not come back."""
        self.balloon.queues[name].add(chain)

    def verdicts(self) -> Dict[str, int]:
        """Since start."""
        return host.verdicts(self.vm)

    def check(self) -> None:
        """Everything else works as if nothing had happened."""
        assert self.vm.alive(), 'QEMU does not answer'
        tap.equal(self.box.count_different(VICTIM, PAGE, 0x600df00d), 0, 'changed dwords of the victim')
        if self.vm.migration().get('status') == 'active':
            self.vm.qmp('migrate_cancel')
            wait_until(lambda: self.vm.migration()['status'] == 'cancelled', 'the cancellation')
        self.balloon.start(self.FEATURES)
        self._check_balloon()
        self._check_hints()

    def _check_balloon(self) -> None:
        self.box.fill(SPARE, PAGE, 7)
        self.balloon.inflate([SPARE // PAGE])
        tap.equal(self.box.count_different(SPARE, PAGE, 0), 0, 'dwords kept by an inflated page')
        tap.equal(self.claim()[0]['claimed'], self.claimed[0]['claimed'] - PAGE, 'claim after inflating a page')
        self.balloon.deflate([SPARE // PAGE])
        tap.equal(self.claim(), self.claimed, 'claim')
        tap.equal(self.balloon.queues['inflate'].take_used()[-1][1], 0, 'bytes written by the device')

    def _check_hints(self) -> None:
        self.begin()
        before = self.verdicts()
        self.balloon.hint(SPARE)
        wait_until(lambda: host.moved(before, self.verdicts()), 'a verdict')
        tap.equal(host.moved(before, self.verdicts()), {'applied': 1, 'applied-bytes': PAGE}, 'verdict')


@contextmanager
def machine(*args: str, memory: Sequence[str] = ()) -> Iterator[Machine]:
    """A machine with the device, a ledger and everything offered."""
    host.need_device()
    with host.Ledger('1G') as ledger:
        vm = VM([*mailbox.pc('128M'), *memory, *host.accel(), '-object', 'iothread,id=iot', '-device',
                 'virtio-balloon-ledger-pci,id=balloon0,free-page-hint=on,free-page-reporting=on,iothread=iot',
                 *args], plugin={'ledger': ledger.path, 'name': 'guest'})
        with vm:
            yield Machine(vm)


# -- hints -----------------------------------------------------------------

def _hint_case(name: str, wanted: Dict[str, int], *chain: Desc) -> None:
    """A chain of hints in a generation that was answered; the counters that must move."""
    def run() -> None:
        with machine() as guest:
            guest.begin()
            before = guest.verdicts()
            guest.add('hint', *chain)
            wait_until(lambda: all(guest.verdicts()[key] - before[key] >= more for key, more in wanted.items()),
                       f'{wanted}, there is {host.moved(before, guest.verdicts())}', 20)
            tap.equal(host.moved(before, guest.verdicts()), wanted, 'verdict')
            guest.check()
    tap.add('hint: ' + name, run)


_hint_case('a page', {'applied': 1, 'applied-bytes': PAGE}, into(SPARE, PAGE))
_hint_case('outside RAM', {'foreign': 1}, into(NOWHERE, PAGE))
_hint_case('ROM', {'foreign': 1}, into(ROM, PAGE))
_hint_case('a device', {'foreign': 1}, into(DEVICE, PAGE))
_hint_case('unaligned address', {'malformed': 1}, into(SPARE + 0x800, PAGE))
_hint_case('unaligned length', {'malformed': 1}, into(SPARE, PAGE + 4))
_hint_case('less than a page', {'malformed': 1}, into(SPARE, 100))
_hint_case('zero length', {'malformed': 1}, into(SPARE, 0))
_hint_case('address wraps around', {'foreign': 1, 'applied': 1, 'applied-bytes': PAGE},
           into(0xfffffffffffff000, 2 * PAGE))
_hint_case('length wraps around', {'malformed': 1}, into(RAM - PAGE, 0xfffff000))
_hint_case('over the end of RAM', {'applied': 1, 'applied-bytes': PAGE, 'foreign': 1},
           into(RAM - PAGE, 2 * PAGE))
_hint_case('the whole RAM but the first 100 MiB', {'applied': 1, 'applied-bytes': 28 * MIB},
           into(100 * MIB, 28 * MIB))
_hint_case('1,023 pages in a chain', {'applied': 1023, 'applied-bytes': 1023 * PAGE},
           *[into(SPARE + 2 * PAGE * number, PAGE) for number in range(1023)])
_hint_case('the same page 100 times', {'applied': 100, 'applied-bytes': 100 * PAGE}, *[into(SPARE, PAGE)] * 100)
_hint_case('a bad page among good ones', {'applied': 2, 'applied-bytes': 2 * PAGE, 'foreign': 1},
           into(SPARE, PAGE), into(NOWHERE, PAGE), into(SPARE + 8 * PAGE, PAGE))
_hint_case('next descriptor does not exist', {'malformed': 1}, Desc(SPARE, PAGE, flags=3, next=5000))
_hint_case('chain that ends in itself', {'malformed': 1}, Desc(SPARE, PAGE, flags=3, next=1))
_hint_case('id behind a hint', {'malformed': 1}, into(SPARE, PAGE), out(VICTIM, 4))
_hint_case('indirect table nowhere', {'malformed': 1}, Desc(NOWHERE, 64, flags=4))


@tap.case('hint: ring with a head that does not exist')
def bad_head() -> None:
    """The virtqueue code refuses; the device wants a reset."""
    with machine() as guest:
        guest.begin()
        guest.balloon.queues['hint'].add_head(5000)
        wait_until(lambda: guest.verdicts()['malformed'] == 1, 'the verdict')
        assert guest.balloon.broken()
        guest.check()


@tap.case('hint: without an id')
def no_id() -> None:
    """Asked for, but not answered."""
    with machine() as guest:
        guest.ask()
        guest.balloon.hint(SPARE)
        wait_until(lambda: guest.verdicts()['late'] == 1, 'the verdict')
        tap.equal(guest.verdicts()['applied'], 0)
        guest.check()


@tap.case('hint: nobody asked')
def nobody_asked() -> None:
    """There is no migration."""
    with machine() as guest:
        for cmd_id in (virtio.CMD_ID_STOP, virtio.CMD_ID_DONE, 0x80000000, 0xffffffff):
            guest.balloon.hint_id(cmd_id)
            guest.balloon.hint(SPARE)
        wait_until(lambda: guest.verdicts()['late'] == 4, 'the verdicts')
        tap.equal(guest.verdicts()['applied'], 0)
        guest.check()


def _wrong_id(make: Callable[[int], bytes]) -> None:
    with machine() as guest:
        cmd_id = guest.ask()
        guest.add('hint', guest.balloon.buffer(make(cmd_id)))
        guest.balloon.hint(SPARE)
        wait_until(lambda: guest.verdicts()['late'] == 1, 'the verdict')
        tap.equal(guest.verdicts()['bad-ids'], 1, 'bad-ids')
        tap.equal(guest.verdicts()['applied'], 0, 'applied')
        guest.check()


def _id(value: int) -> bytes:
    return struct.pack('<I', value & 0xffffffff)


for _name, _make in {
        'stale': lambda good: _id(good - 1),
        'from the future': lambda good: _id(good + 1),
        'DONE': lambda good: _id(virtio.CMD_ID_DONE),
        'two bytes': lambda good: _id(good)[:2],
        'eight bytes': lambda good: _id(good) * 2,
        'a page': lambda good: _id(good) * 1024}.items():
    tap.add(f'hint: id {_name}', _wrong_id, _make)


@tap.case('hint: id in a buffer outside RAM')
def id_nowhere() -> None:
    """It reads as something, but not as the id."""
    with machine() as guest:
        guest.ask()
        guest.add('hint', out(NOWHERE, 4))
        guest.balloon.hint(SPARE)
        wait_until(lambda: guest.verdicts()['late'] == 1, 'the verdict')
        guest.check()


@tap.case('hint: the id in pieces, with hints in the same chain')
def id_in_pieces() -> None:
    """Odd, but what the specification allows."""
    with machine() as guest:
        data = guest.balloon.id_buffer(guest.ask())
        guest.add('hint', *[out(data.addr + byte, 1) for byte in range(4)], into(SPARE, PAGE))
        wait_until(lambda: guest.verdicts()['applied'] == 1, 'the verdict')
        guest.check()


@tap.case('hint: shared memory that the migration ignores')
def ignored_shared() -> None:
    """Stock QEMU crashes here."""
    with tempfile.NamedTemporaryFile() as shared:       # only named files count
        memory = f'-object memory-backend-file,id=m0,size=64M,share=on,mem-path={shared.name} ' \
                 '-object memory-backend-ram,id=m1,size=64M ' \
                 '-numa node,nodeid=0,memdev=m0 -numa node,nodeid=1,memdev=m1'
        _ignored_shared(memory.split())


def _ignored_shared(memory: List[str]) -> None:
    with machine(memory=memory) as guest:
        guest.vm.qtest.do(f'memset {SPARE:#x} {32 * MIB:#x} 1')      # not shared, and enough to do
        guest.vm.set_capabilities({'x-ignore-shared': True})
        guest.begin()
        guest.balloon.hint(32 * MIB)                # shared
        guest.balloon.hint(SPARE)                   # not shared
        wait_until(lambda: host.judged(guest.vm) == 2, 'the verdicts')
        tap.equal(host.moved({**guest.verdicts(), 'applied': 0, 'foreign': 0}, guest.verdicts()),
                  {'applied': 1, 'foreign': 1}, 'verdicts')
        assert guest.vm.alive()
        tap.equal(guest.box.count_different(VICTIM, PAGE, 0x600df00d), 0, 'changed dwords of the victim')


@tap.case('hint: more than anybody wants to read')
def flood() -> None:
    """100,000 hints: all are judged, and QMP answers meanwhile."""
    with machine() as guest:
        guest.begin()
        queue = guest.balloon.queues['hint']
        for _ in range(100):
            queue.add([into(SPARE + 2 * PAGE * number, PAGE) for number in range(1000)])
            guest.vm.qmp('query-status')
            queue.wait_idle()
        wait_until(lambda: guest.verdicts()['applied'] == 100_000, 'the verdicts')
        guest.check()


# -- inflate, deflate ------------------------------------------------------

def _pages(*numbers: int) -> bytes:
    return struct.pack(f'<{len(numbers)}I', *numbers)


_LISTS = {
    'pages that do not exist': _pages(0xffffffff, 0x7fffffff, 0x80000000, NOWHERE // PAGE, RAM // PAGE),
    'ROM and devices': _pages(ROM // PAGE, DEVICE // PAGE, 0xfe000000 // PAGE, 0xfec00000 // PAGE),
    'a torn number': _pages(0xffffffff) + b'\x12\x34\x56',
    'less than a number': b'\x01',
    'as many numbers as allowed, none of which exists': _pages(*[0xfffffff0] * LIST),
    'as many numbers as allowed, descending': _pages(*range(0xffffffff, 0xffffffff - LIST, -1)),
}


def _bad_list(queue: str, data: bytes) -> None:
    with machine() as guest:
        guest.vm.qtest.batch(f'b64write {96 * MIB + at:#x} {len(part):#x} {_base64(part)}'
                             for at, part in _parts(data))
        guest.add(queue, out(96 * MIB, len(data)))
        guest.balloon.queues[queue].wait_idle()
        tap.equal(guest.claim(), guest.claimed, 'claim')
        guest.check()


def _parts(data: bytes) -> Iterator['tuple[int, bytes]']:
    for start in range(0, len(data), 65536):
        yield start, data[start:start + 65536]


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


for _queue in ('inflate', 'deflate'):
    for _name, _data in _LISTS.items():
        tap.add(f'{_queue}: {_name}', _bad_list, _queue, _data)


def _bad_chain(queue: str, chain: Sequence[Desc]) -> None:
    with machine() as guest:
        kept = 1 if queue == 'stats' else 0         # the device keeps the last buffer of statistics
        guest.add(queue, *chain)
        wait_until(lambda: guest.balloon.broken() or guest.balloon.queues[queue].pending() == kept, 'a reaction')
        guest.check()


for _queue in ('inflate', 'deflate', 'stats', 'reporting'):
    for _name, _chain in {
            'list outside RAM': [out(NOWHERE, 64)],
            'list in a device': [out(DEVICE, 64)],
            'nothing to read': [into(SPARE, 64)],
            'zero length': [out(SPARE, 0)],
            'length wraps around': [out(RAM - PAGE, 0xfffff000)],
            'chain that ends in itself': [Desc(SPARE, 64, flags=1, next=0)],
            'next descriptor does not exist': [Desc(SPARE, 64, flags=1, next=60000)]}.items():
        tap.add(f'{_queue}: {_name}', _bad_chain, _queue, _chain)


@tap.case('inflate: the same page again and again')
def inflate_twice() -> None:
    """It is given back once."""
    with machine() as guest:
        guest.balloon.inflate([SPARE // PAGE + 1] * 256)
        guest.balloon.inflate([SPARE // PAGE + 1] * 256)
        tap.equal(guest.claim()[0]['given-back'], PAGE, 'given-back')
        guest.balloon.deflate([SPARE // PAGE + 1] * 256)
        tap.equal(guest.claim(), guest.claimed, 'claim')
        guest.check()


@tap.case('deflate: what was never inflated')
def deflate_nothing() -> None:
    """The claim does not rise above what it was, and never falls below zero."""
    with machine() as guest:
        guest.balloon.deflate(list(range(16384, 20480)))
        tap.equal(guest.claim(), guest.claimed, 'claim')
        guest.check()


@tap.case('inflate: everything, the firmware\'s mailbox and the rings included')
def inflate_everything() -> None:
    """A guest that gives away its own rings harms nobody else."""
    with machine() as guest:
        numbers = list(range(RAM // PAGE))
        for start in range(0, len(numbers), 1024):
            guest.add('inflate', guest.balloon.pfns(numbers[start:start + 1024]))
        assert guest.vm.alive()
        given = guest.claim()[0]['given-back']
        assert 0 < given <= RAM, f'{given} bytes given back'


# -- reports, statistics, configuration ------------------------------------

_REPORTS = {
    'unaligned address': [(VICTIM + 0x800, PAGE)],
    'unaligned length': [(VICTIM, PAGE - 4)],
    'outside RAM': [(NOWHERE, PAGE)],
    'ROM': [(ROM, PAGE)],
    'a device': [(DEVICE, PAGE)],
    'over the end of RAM': [(RAM - PAGE, 2 * PAGE)],
    'bad ones among good ones': [(SPARE, PAGE), (NOWHERE, PAGE), (SPARE + 2 * PAGE, PAGE)],
}


def _bad_report(ranges: Sequence['tuple[int, int]']) -> None:
    with machine() as guest:
        guest.balloon.report(ranges)
        tap.equal(guest.claim(), guest.claimed, 'claim')
        guest.check()


for _name, _ranges in _REPORTS.items():
    tap.add(f'reporting: {_name}', _bad_report, _ranges)


@tap.case('reporting: the claim stays')
def report_keeps_claim() -> None:
    """A reported page may be used again without asking."""
    with machine() as guest:
        guest.box.fill(SPARE, PAGE, 7)
        guest.balloon.report([(SPARE, PAGE)])
        tap.equal(guest.box.count_different(SPARE, PAGE, 0), 0, 'dwords kept by a reported page')
        tap.equal(guest.claim(), guest.claimed, 'claim')
        guest.check()


@tap.case('reporting: a poisoned page keeps its poison')
def report_poison() -> None:
    """The guest expects to find it again."""
    with machine() as guest:
        guest.balloon.start(guest.FEATURES | virtio.PAGE_POISON)
        guest.balloon.set_poison(0xaaaaaaaa)
        guest.box.fill(SPARE, PAGE, 0xaaaaaaaa)
        guest.balloon.report([(SPARE, PAGE)])
        tap.equal(guest.box.count_different(SPARE, PAGE, 0xaaaaaaaa), 0, 'dwords that lost their poison')
        guest.check()


@tap.case('stats: garbage')
def stats() -> None:
    """Odd lengths, unknown tags, several buffers at once."""
    dice = random.Random(1)
    with machine() as guest:
        guest.vm.qom_set('/machine/peripheral/balloon0', 'guest-stats-polling-interval', 1)
        for length in (1, 9, 10, 11, 1000, 65530):
            guest.add('stats', guest.balloon.buffer(dice.randbytes(length)))
        assert 'stats' in guest.vm.qom_get('/machine/peripheral/balloon0', 'guest-stats')
        guest.check()


@tap.case('configuration: absurd actual')
def actual() -> None:
    """What the guest says about its balloon is only what it says."""
    with machine() as guest:
        for pages in (0xffffffff, RAM // PAGE + 1, 0x80000000, 0):
            guest.balloon.set_actual(pages)
            tap.equal(guest.balloon.actual, pages, 'actual')
            guest.vm.qmp('query-balloon')
            tap.equal(guest.claim(), guest.claimed, 'claim')
        guest.check()


# -- registers -------------------------------------------------------------

RING_PACKED = 1 << 34


def _shrink(vm: VM) -> None:
    """A packed ring of which some was used is enabled again, smaller than that."""
    mailbox.boot(vm)
    balloon = virtio.Balloon(virtio.find_pci(vm.qtest), virtio.STATS | RING_PACKED)
    queue, ring = balloon.queues['stats'], balloon.base + 2 * balloon.RING_SPAN
    for number in range(4):
        vm.qtest.write(ring + 16 * number, struct.pack('<QIHH', SPARE, 10, number, 1 << 7))
        queue.kick()
    wait_until(lambda: vm.qtest.read(ring + 16 * 2 + 14, 2) != struct.pack('<H', 1 << 7), 'the device to use it')
    queue.transport.set_queue(2, 2, (ring, ring + PAGE, ring + 2 * PAGE))
    queue.kick()


def _split(vm: VM) -> None:
    """The features of a packed ring are taken back while the device has it: it is read as a split one."""
    mailbox.boot(vm)
    balloon = virtio.Balloon(virtio.find_pci(vm.qtest), virtio.STATS | RING_PACKED)
    queue = balloon.queues['stats']
    vm.qtest.write(queue.avail_flags + 2, struct.pack('<H', 1))
    balloon.transport.set_status(3)
    balloon.transport.set_features(virtio.STATS | virtio.VERSION_1)
    balloon.transport.set_status(15)
    queue.kick()


def _packed(device: str, plugin: bool) -> VM:
    return VM([*mailbox.pc('128M'), *host.accel(), '-device', f'{device},packed=on'], plugin={} if plugin else None)


def _lives(trick: Callable[[VM], None]) -> None:
    host.need_device()
    with _packed('virtio-balloon-ledger-pci', True) as vm:
        trick(vm)
        assert vm.alive()


def _kills_stock(trick: Callable[[VM], None]) -> None:
    """It reads behind what it has mapped."""
    host.need_device()
    with _packed('virtio-balloon-pci', False) as vm:
        try:
            trick(vm)
        except OSError:
            pass                # it is gone already
        wait_until(lambda: not vm.is_running(), 'the crash')
        tap.equal(vm.exitcode(), -6, 'exit status')
        vm.shutdown(hard=True)


# what the driver writes there is ignored until it resets the queue, or the device
tap.add('registers: an enabled queue keeps its size', _lives, _shrink)
tap.add('registers: a device with rings keeps its features', _lives, _split)
tap.add('control: stock QEMU aborts when a packed ring shrinks', _kills_stock, _shrink)
tap.add('control: stock QEMU aborts when a packed ring becomes a split one', _kills_stock, _split)


@tap.case('noise: random chains on every queue')
def noise() -> None:
    """1,000 of them, with a reset whenever the device wants one (seed 1)."""
    dice = random.Random(1)
    # none that reaches low memory, where the mailbox is
    addresses = [SPARE, SPARE + 1, RAM - PAGE, RAM, NOWHERE, ROM, DEVICE, 1 << 63, 0xffffffffffff0000]
    lengths = [0, 1, 4, 8, 100, PAGE, PAGE + 1, 65536, MIB, 0x7fffffff, 0xffffffff]

    def chain() -> List[Desc]:
        return [Desc(dice.choice(addresses), dice.choice(lengths), dice.random() < 0.5,
                     flags=dice.randrange(8) if dice.random() < 0.1 else None,
                     next=dice.randrange(2000) if dice.random() < 0.1 else None)
                for _ in range(dice.randrange(1, 8))]

    with machine() as guest:
        guest.begin()
        for _ in range(1000):
            guest.add(dice.choice(['inflate', 'deflate', 'stats', 'hint', 'reporting']), *chain())
            if guest.balloon.broken():
                guest.balloon.start(guest.FEATURES)
        assert guest.vm.alive()
        if guest.vm.qmp('query-status')['status'] == 'postmigrate':
            guest.vm.qmp('cont')        # so much was hinted that the migration is over
        guest.balloon.start(guest.FEATURES)
        tap.equal(guest.claim(), guest.claimed, 'claim after a reset')
        guest.box.fill(VICTIM, PAGE, 0x600df00d)        # random buffers may name it
        guest.check()


if __name__ == '__main__':
    tap.main()
