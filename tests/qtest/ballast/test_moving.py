#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Ballooning, reporting, hinting and writing while the guest is migrated: memory, claim and balloon arrive.

Each case ends with the comparison of all guest memory (tests/lib/ballast/moving.py has the model), of both
claims and both balloons, and with the guest going on at the destination.
"""

import os
import re
import struct
import sys
from dataclasses import replace
from pathlib import Path
from typing import Callable, Dict

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / 'lib'))

# pylint: disable=wrong-import-position
from ballast import host, mailbox, tables, tap, virtio                          # noqa: E402
from ballast.moving import MEMFD, MIB, ONE, PAGE, TWO, Layout, Move, args_of, moving  # noqa: E402
from ballast.vm import ExecuteError, Qtest, wait_until                         # noqa: E402

tap.add_option('--seed', type=int, default=1, help='of the random actions (default: 1)')

FULL = bool(os.environ.get('BALLAST_FULL'))
ACTING = ('inflate', 'deflate', 'reporting')
SENT = 64 * MIB         # 2 MiB that are sent before anything happens to them
SLICES, UNPAID_SLICES = 250, 10     # of 4 ms, that a migration waits at most (patience.h)
PAGES = list(range(SENT // PAGE, SENT // PAGE + 512))


# -- what is sent and then dropped -----------------------------------------

def _inflate(move: Move) -> None:
    move.worker.balloon.inflate(PAGES)
    move.worker.ballooned.update(PAGES)


def _through(move: Move) -> None:
    _inflate(move)
    move.worker.balloon.deflate(PAGES)
    move.worker.ballooned.clear()


def _report(move: Move) -> None:
    move.worker.balloon.report([(SENT, len(PAGES) * PAGE)])


def _dropped(layout: Layout, accel: str, drop: Callable[[Move], None]) -> None:
    with moving(layout, accel) as move:
        move.begin()
        move.hold(2)                            # everything has been sent once
        drop(move)
        move.let(working=False)
        move.check()


for _accel in mailbox.ACCELS if FULL else ('kvm', 'tcg'):
    for _drop, _name in ((_inflate, 'inflated'), (_through, 'inflated and deflated'), (_report, 'reported')):
        tap.add(f'{_accel}, sent, then {_name}', _dropped, TWO if _accel == 'tcg' else ONE, _accel, _drop)
tap.add('memfd, sent, then reported', _dropped, MEMFD, '', _report)


# -- everything at once ----------------------------------------------------

def _storm(layout: Layout, accel: str, rounds: int = 4) -> None:
    """Random actions of the guest from before the first page until it is stopped."""
    with moving(layout, accel, tap.options.seed) as move:
        for _ in range(30):
            move.worker.act()
        move.begin()
        done = move.work(rounds)
        before = move.rounds()
        move.let()
        tap.note(f'{done} actions in {before} rounds; {host.verdicts(move.src)}')
        assert before >= rounds and done > 20, 'too short to prove anything'
        move.check()


# not with KVM's dirty ring: where KVM emulates it (kvm-pvm), stock QEMU loses such writes without any hint
for _accel in [name for name in mailbox.ACCELS if name != 'kvm-ring'] if FULL else ['kvm']:
    tap.add(f'{_accel}, everything at once', _storm, ONE, _accel)
if FULL:
    tap.add('kvm, everything at once, two blocks', _storm, TWO, 'kvm')
tap.add('tcg, everything at once, two blocks', _storm, TWO, 'tcg')
tap.add('memfd, everything at once', _storm, MEMFD, '')


@tap.case('control: stock QEMU loses pages of this guest')
def control() -> None:
    """If it kept them, the cases above would prove nothing.

    The first hint arms its chunk, so the first page is what is lost: it is written before that.
    """
    with moving(ONE, 'kvm', tap.options.seed, device='virtio-balloon-pci', plugin=False) as move:
        move.begin()
        move.hold(1)
        move.worker.answer_next()
        for _ in range(40):
            assert move.worker.reuse(late=True)
        move.let()
        lost = move.worker.used.intersection(move.wrong())
        assert lost, 'no page in use was lost'


# -- migrations that do not come to their end ------------------------------

def _again(move: Move) -> None:
    """The migration of today, to a new destination, in which everything must be right."""
    move.begin()
    move.work(2)
    move.let()
    move.check()


@tap.case('cancelled in each phase, then again')
def cancelled() -> None:
    """At once, in the first round, in a later one; the guest works on all the time."""
    with moving(seed=tap.options.seed) as move:
        for rounds in (0, 1, 3):
            move.begin()
            if rounds:
                move.hold(rounds, working=True)
                for _ in range(20):
                    assert move.worker.act()
            move.cancel()
            wait_until(lambda: move.worker.balloon.cmd_id == virtio.CMD_ID_DONE, 'the hinted pages to be free again')
            late = host.verdicts(move.src)
            for _ in range(30):
                move.worker.act()
            tap.equal(host.verdicts(move.src)['applied'], late['applied'], 'hints applied without a migration')
        _again(move)


@tap.case('failed, then again')
def failed() -> None:
    """The destination dies in the middle; the source goes on and finds another one."""
    with moving(seed=tap.options.seed) as move:
        move.begin()
        move.work(2)
        assert move.dst
        move.dst.shutdown(hard=True)
        wait_until(lambda: move.src.migration()['status'] == 'failed', 'the failure')
        wait_until(lambda: move.worker.balloon.cmd_id == virtio.CMD_ID_DONE, 'the hinted pages to be free again')
        for _ in range(50):
            assert move.worker.act()
        _again(move)


@tap.case('completed, but the source goes on: then again')
def back_on_source() -> None:
    """The destination is given up after the last byte."""
    with moving(seed=tap.options.seed) as move:
        move.begin()
        move.work(2)
        move.let()
        move.src.qmp('cont')
        for _ in range(50):
            assert move.worker.act()
        _again(move)


@tap.case('stopped and continued while migrating')
def paused() -> None:
    """The guest says nothing while it is stopped, and what it said before is handled or waits."""
    with moving(seed=tap.options.seed) as move:
        move.begin()
        for rounds in (1, 2, 3):
            move.hold(rounds, working=True)
            move.src.qmp('stop')
            tap.equal(move.worker.act(), False, 'what a stopped guest does')
            move.src.qmp('cont')
            for _ in range(20):
                assert move.worker.act()
            move.go_on()
        move.let()
        move.check()


@tap.case('a stopped guest is migrated')
def stopped() -> None:
    """Nothing is asked for."""
    with moving(seed=tap.options.seed) as move:
        for _ in range(50):
            move.worker.act()
        move.src.qmp('stop')
        move.begin()
        move.let(working=False)
        tap.equal(host.verdicts(move.src)['applied'], 0, 'hints applied')
        move.check()


@tap.case('kicks that come after the guest was stopped wait')
def late_kick() -> None:
    """The last harvest is over then: what the device did now would be on one side only."""
    with moving() as move:
        balloon, pages = move.worker.balloon, PAGES[:16]
        move.src.qmp('stop')
        balloon.queues['inflate'].add([balloon.pfns(pages)])
        balloon.queues['reporting'].add([virtio.into(SENT + 64 * PAGE, PAGE)])
        balloon.queues['deflate'].add([balloon.pfns(pages)])
        assert all(queue.pending() for name, queue in balloon.queues.items() if name in ACTING), 'handled'
        tap.equal(move.src.qtest.readl(SENT), 0x55555555, 'the first page')
        move.begin()
        move.let(working=False)
        assert move.dst
        move.compare()
        move.dst.qmp('cont')
        move.worker.moved(move.dst)
        for name in ACTING:
            move.worker.balloon.queues[name].wait_idle()
        tap.equal(move.dst.qtest.readl(SENT), 0, 'the first page, inflated and deflated')
        tap.equal(move.there.claimed('dst'), ONE.size, 'the claim')


def _reset(rounds: int, drive: bool) -> None:
    """The guest is reset; its balloon is empty then, and the claim whole."""
    with moving(seed=tap.options.seed) as move:
        for _ in range(50):
            move.worker.act()
        move.begin()
        move.hold(rounds, working=True)
        move.src.qmp('system_reset')
        move.src.wait_event('RESET')
        wait_until(lambda: move.here.claimed('src') == ONE.size, 'the whole claim')
        move.worker.forget(drive)
        move.go_on()
        if drive:
            move.work(move.rounds() + 2)
        move.let(working=drive)
        if drive:
            move.check()
        else:
            move.compare()


if FULL:
    tap.add('reset in the first round', _reset, 1, True)
tap.add('reset while hinting in a later round', _reset, 2, True)
tap.add('reset while hinting, and no driver any more', _reset, 2, False)


@tap.case('a driver that never answers')
def never_answers() -> None:
    """It negotiated hints, and looks at no id: the migration takes no notice."""
    with moving() as move:
        move.begin()
        move.hold(2)
        # not at once: see answer_next()
        wait_until(lambda: move.src.qmp('query-free-page-hints')['state'] == 'requested', 'the id to be published')
        move.worker.balloon.queues['hint'].add([virtio.into(SENT, PAGE)], kick=False)
        move.let(working=False)
        tap.equal(move.src.qmp('query-free-page-hints')['state'], 'done', 'state')
        tap.equal(host.verdicts(move.src)['applied'], 0, 'hints applied')
        wait = move.src.qmp('query-free-page-hints')['wait']
        assert 1 <= wait['slices'] == wait['unpaid-slices'] <= UNPAID_SLICES and not wait['pages'], wait
        move.compare()


def _dribble(move: Move) -> Dict[str, int]:
    """Hint page after page, whatever round it is, until nobody has waited for the last hundred."""
    wait, quiet = {'slices': -1}, 0
    move.worker.answer_next()
    for page in move.worker.arena:
        move.worker.hinted.add(page)
        move.worker.balloon.hint(page * PAGE)
        now = dict(move.src.qmp('query-free-page-hints')['wait'])
        wait, quiet = now, quiet + 1 if now == wait else 0
        if now['slices'] and quiet > 100:
            break
    return wait


def _dribbling(device: str) -> None:
    """At a few bytes a second each hint is worth waiting for, but not for ever."""
    with moving(device=device) as move:
        for _ in range(5):
            move.begin(bandwidth=1000)
            wait = _dribble(move)
            tap.note(str(wait))
            assert wait['slices'] <= SLICES, wait
            if wait['pages']:
                break
            move.cancel()                       # this machine was too busy to answer in time
        assert wait['pages'] and wait['slices'] > wait['unpaid-slices'], 'nobody waited for a hint'
        move.let(working=False)
        move.check()


tap.add('a driver that dribbles hints is not waited for without end', _dribbling, 'virtio-balloon-ledger-pci')
if FULL:
    tap.add('the same with the stock device', _dribbling, 'virtio-balloon-pci')


@tap.case('the driver leaves while hinting, another one comes')
def other_driver() -> None:
    """As when the driver is unbound and bound again, without a reset of the machine."""
    with moving(seed=tap.options.seed) as move:
        move.begin()
        for rounds in (1, 2, 3):
            move.hold(rounds, working=True)
            move.worker.balloon.transport.set_status(0)
            wait_until(lambda: move.here.claimed('src') == ONE.size, 'the whole claim')
            move.worker.forget()
            for _ in range(20):
                assert move.worker.act()
            move.go_on()
        move.let()
        move.check()


# -- blocks that come and go -----------------------------------------------

DIMM = Layout(('-m', '128M,slots=2,maxmem=1G', '-object', 'memory-backend-ram,id=d0,size=128M',
               '-device', 'pc-dimm,id=dimm0,memdev=d0'), 128 * MIB, ONE.arena)
DIMM_AT = 4 << 30                               # where the board puts it
DIMM_PAGES = 64


def _refused(move: Move, command: str, **arguments: object) -> None:
    try:
        move.src.qmp(command, {name.replace('_', '-'): value for name, value in arguments.items()})
    except ExecuteError as error:
        assert 'migrat' in str(error), error
    else:
        raise AssertionError(f'{command} was allowed')


@tap.case('a DIMM plugged before: its pages are hinted, ballooned and written')
def dimm() -> None:
    """Hints about it count, its other pages arrive; QEMU lets nobody plug or unplug meanwhile."""
    with moving(DIMM) as move:
        qtest, balloon = move.src.qtest, move.worker.balloon
        qtest.do(f'memset {DIMM_AT:#x} {4 * DIMM_PAGES * PAGE:#x} 0x77')
        move.begin()
        move.hold(2)
        move.worker.answer_next()
        free, kept, gone = (DIMM_AT + number * DIMM_PAGES * PAGE for number in range(3))
        qtest.do(f'memset {free:#x} {2 * DIMM_PAGES * PAGE:#x} 0x78')
        balloon.inflate(list(range(gone // PAGE, gone // PAGE + DIMM_PAGES)))
        _refused(move, 'device_del', id='dimm0')
        move.src.qmp('object-add', {'qom-type': 'memory-backend-ram', 'id': 'd1', 'size': 128 * MIB})
        _refused(move, 'device_add', driver='pc-dimm', id='dimm1', memdev='d1')
        move.src.qmp('object-del', id='d1')
        move.go_on()
        move.hold(3)
        balloon.hint_id(balloon.wait_cmd_id())
        qtest.do(f'memset {kept:#x} {DIMM_PAGES * PAGE:#x} 0x79')
        before = host.verdicts(move.src)
        balloon.hint(free, DIMM_PAGES * PAGE)
        wait_until(lambda: host.moved(before, host.verdicts(move.src)), 'the verdict')
        tap.equal(host.verdicts(move.src)['applied'] - before['applied'], 1, 'hints applied')
        move.let(working=False)
        assert move.dst
        there = [move.dst.qtest.readl(at) for at in (kept, gone, gone + DIMM_PAGES * PAGE)]
        tap.equal(there, [0x79797979, 0, 0x77777777], 'what arrived')
        tap.equal(move.there.claimed('dst'), move.here.claimed('src'), "the destination's claim")
        move.compare()


VMEM_BLOCK = 2 * MIB
VMEM = Layout(('-m', '128M,maxmem=1G', '-object', 'memory-backend-ram,id=v0,size=128M', '-device',
               f'virtio-mem-pci,id=vmem0,addr=6,memdev=v0,requested-size=32M,block-size={VMEM_BLOCK}'),
              128 * MIB, ONE.arena)
VMEM_CONFIG_ADDR, PLUG, UNPLUG, ACK, BUSY = 16, 0, 1, 0, 2


class VirtioMem:
    """A driver of virtio-mem that plugs and unplugs blocks."""

    RING, REQUEST = 0xa00000, 0xb00000

    def __init__(self, qtest: Qtest) -> None:
        self.qtest = qtest
        self.pci = virtio.Pci(qtest, 6, 0xfe100000)
        self.pci.set_status(0)
        self.pci.set_status(3)
        self.pci.set_features(self.pci.get_features() & (virtio.VERSION_1 | 3))
        self.pci.set_status(11)
        self.queue = virtio.Queue(self.pci, 0, self.RING, self.pci.queue_max(0))
        self.queue.enable()
        self.pci.set_status(15)
        self.base = struct.unpack('<Q', qtest.read(self.pci.config + VMEM_CONFIG_ADDR, 8))[0]

    def ask(self, kind: int, block: int, count: int) -> int:
        """The device's answer."""
        self.qtest.write(self.REQUEST, struct.pack('<HxxxxxxQHxxxxxx', kind, self.base + block * VMEM_BLOCK, count))
        self.queue.add([virtio.out(self.REQUEST, 24), virtio.into(self.REQUEST + 64, 10)])
        self.queue.wait_idle()
        return int(struct.unpack('<H', self.qtest.read(self.REQUEST + 64, 2))[0])


@tap.case('virtio-mem: plugged blocks are hinted, ballooned and written')
def virtio_mem() -> None:
    """As a DIMM; and hints about blocks that are not plugged harm nobody."""
    with moving(VMEM) as move:
        qtest, balloon = move.src.qtest, move.worker.balloon
        mem = VirtioMem(qtest)
        tap.equal(mem.ask(PLUG, 0, 4), ACK, 'answer')
        kept, free, gone = (mem.base + number * VMEM_BLOCK for number in range(3))
        qtest.do(f'memset {mem.base:#x} {4 * VMEM_BLOCK:#x} 0x77')
        move.begin(bandwidth=1000)
        balloon.hint_id(balloon.wait_cmd_id())
        qtest.do(f'memset {kept:#x} {VMEM_BLOCK:#x} 0x79')
        before = host.verdicts(move.src)
        balloon.hint(free, VMEM_BLOCK)
        balloon.hint(mem.base + 8 * VMEM_BLOCK, VMEM_BLOCK)
        wait_until(lambda: host.judged(move.src) == 2, 'the verdicts')
        tap.equal(host.verdicts(move.src)['applied'] - before['applied'], 2, 'hints applied')
        move.go_on()
        move.hold(2)
        balloon.inflate(list(range(gone // PAGE, gone // PAGE + 64)))
        tap.equal((mem.ask(PLUG, 4, 1), mem.ask(UNPLUG, 3, 1)), (BUSY, BUSY), 'answers while migrating')
        move.let(working=False)
        assert move.dst
        there = [move.dst.qtest.readl(at) for at in (kept, gone, gone + VMEM_BLOCK)]
        tap.equal(there, [0x79797979, 0, 0x77777777], 'what arrived')
        tap.equal(move.there.claimed('dst'), move.here.claimed('src'), "the destination's claim")
        move.compare()


@tap.case('a block that comes or goes makes the hints of its generation late')
def layout() -> None:
    """They name host memory, which may be another block's by now."""
    with moving() as move:
        move.begin()
        move.hold(2)
        move.worker.answer_next()

        def hint() -> Dict[str, int]:
            before = host.verdicts(move.src)
            move.worker.balloon.hint(SENT)
            move.worker.hinted.add(SENT // PAGE)
            wait_until(lambda: host.moved(before, host.verdicts(move.src)), 'a verdict')
            return {name: more for name, more in host.moved(before, host.verdicts(move.src)).items()
                    if name in host.VERDICTS}

        tap.equal(hint(), {'applied': 1}, 'before')
        move.src.qmp('object-add', {'qom-type': 'memory-backend-ram', 'id': 'new', 'size': MIB, 'prealloc': True})
        tap.equal(hint(), {'late': 1}, 'a block has come')
        move.go_on()
        move.hold(3)
        move.worker.answer_next()
        tap.equal(hint(), {'applied': 1}, 'the next generation')
        move.src.qmp('object-del', id='new')
        tap.equal(hint(), {'late': 1}, 'a block has gone')
        move.let(working=False)
        move.check()


@tap.case('a block that grows ends the migration, and makes waiting hints late; the next migration is right')
def grown() -> None:
    """QEMU gives up by itself: a destination could not follow.  What was hinted before counts in no later one."""
    tap.need(not tables.missing(), tables.missing())
    accel = 'tcg' if mailbox.ACCELS['kvm'].missing() else 'kvm'
    with tables.nearly_full(*args_of(ONE, accel, 'virtio-balloon-pci')) as args, \
            moving(replace(ONE, args=(*ONE.args, *args)), accel) as move:
        move.src.qmp('trace-event-set-state', name='ballast_layout', enable=True)
        move.begin()
        move.hold(2)
        move.worker.answer_next()
        tables.grow(move.src.qtest)
        assert 'layout=' in move.src.log(), 'no block has changed'
        wait_until(lambda: move.src.migration()['status'] == 'cancelled', 'the end of the migration')
        before = host.verdicts(move.src)
        move.worker.balloon.hint(SENT)
        move.worker.hinted.add(SENT // PAGE)
        wait_until(lambda: host.moved(before, host.verdicts(move.src)), 'a verdict')
        tap.equal(host.verdicts(move.src)['applied'], before['applied'], 'hints applied without a migration')
        wait_until(lambda: move.worker.balloon.cmd_id == virtio.CMD_ID_DONE, 'the hinted pages to be free again')
        _again(move)


@tap.case('adjacent hints are applied as one range')
def merged() -> None:
    """99 pages in disorder, two of them twice: two ranges, one lock round.  Up to 128 are handed over together."""
    with moving() as move:
        move.src.qmp('trace-event-set-state', name='ballast_hints_apply', enable=True)
        move.begin()
        move.hold(1)
        move.worker.answer_next()
        pages = [page for page in PAGES[:100] if page != PAGES[50]] + [PAGES[7], PAGES[8]]
        move.worker.dice.shuffle(pages)
        move.worker.hinted.update(pages)
        queue = move.worker.balloon.queues['hint']
        queue.add_all([[virtio.into(page * PAGE, PAGE)] for page in pages])
        wait_until(lambda: host.judged(move.src) == len(pages), 'the verdicts')
        lines = re.findall(r'hints=(\d+) applied=(\d+) ranges=(\d+)', move.src.log())
        tap.equal(lines, [(str(len(pages)), str(len(pages)), '2')], '(hints, applied, ranges)')
        move.let(working=False)
        move.check()


if __name__ == '__main__':
    tap.main()
