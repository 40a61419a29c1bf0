#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Memory that the kernel does not have is neither read nor sent, and nothing that was ever written is lost.

The firmware's vCPU writes the pages, real migrations carry them (tests/lib/ballast/pair.py).  In a migration that
is kept going "sent" means that two more harvests were seen.  While the vCPU does something else next to nothing is
sent, so that no generation ends.
"""

import mmap
import os
import re
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Callable, List, Mapping

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / 'lib'))

# pylint: disable=wrong-import-position
from ballast import held, host, mailbox, paths, tap, virtio             # noqa: E402
from ballast.pair import (AREA, DATA, FAST, MEMORY, MIB, PAGE, SLOW,   # noqa: E402
                          STEADY, Pair, memfd, pair)
from ballast.vm import (VM, start_migration, wait_migration,           # noqa: E402
                        wait_until)

ACCELS = ('kvm', 'tcg')


def _blocks(vm: VM) -> int:
    """Bytes that the memfds of a VM hold."""
    fds = Path(f'/proc/{vm.get_pid()}/fd')
    return sum(fd.stat().st_blocks * 512 for fd in fds.iterdir() if os.readlink(fd).startswith('/memfd:'))


def _memfd_of(vm: VM) -> Path:
    """The memfd with the VM's RAM, as another process can open it."""
    found = [fd for fd in Path(f'/proc/{vm.get_pid()}/fd').iterdir()
             if os.readlink(fd).startswith('/memfd:') and fd.stat().st_size >= 64 * MIB]
    assert len(found) == 1, found
    return found[0]


# -- left out --------------------------------------------------------------

def fresh(accel: str, *extra: str) -> None:
    """A guest that has used little: little is looked at by QEMU, all of the rest is left out."""
    with pair(accel, *extra) as both:
        both.box.stamp(AREA, MIB, DATA)
        info = both.migrate()
        absent = both.absent()
        tap.note(str(absent))
        both.check(0, MIB - PAGE)
        tap.equal(absent['use'], 'used')
        tap.equal(absent['unknown-bytes'], 0)
        assert absent['skipped-bytes'] > 0.9 * MEMORY, absent
        assert info['ram']['duplicate'] < 0.02 * MEMORY / PAGE, info['ram']


def zeros(accel: str, *extra: str) -> None:
    """Pages that are there, and zero, among others that are not: hardly one is sent."""
    with pair(accel, *extra) as both:
        both.src.qtest.do(f'memset {AREA:#x} {64 * MIB:#x} 0')
        for offset in range(0, 64 * MIB, 16 * MIB):
            both.box.stamp(AREA + offset, MIB, DATA)
        info = both.migrate()
        absent = both.absent()
        tap.note(str(absent))
        both.check(0, 17 * MIB - PAGE)
        assert absent['zero'] > 59 * MIB // PAGE, absent
        assert info['ram']['duplicate'] < MIB // PAGE, info['ram']


def fresh_stock() -> None:
    """Without the plug-in all of it is sent: else the cases above would prove nothing."""
    with pair('tcg', plugin=False) as both:
        info = both.migrate()
        assert info['ram']['duplicate'] > 0.9 * MEMORY / PAGE, info['ram']


def growth(plugin: bool) -> int:
    """By how much a memfd grows on the source while it migrates."""
    with pair('tcg', *memfd(MEMORY), plugin=plugin) as both:
        both.box.stamp(AREA, MIB, DATA)
        before = _blocks(both.src)
        both.migrate()
        grown = _blocks(both.src) - before
        tap.note(f'grown by {grown >> 10} KiB')
        if plugin:
            both.check(0)
        return grown


def memfd_growth() -> None:
    """Reading a hole of a memfd allocates; nothing is read."""
    assert growth(True) <= MEMORY // 100


def memfd_growth_stock() -> None:
    """Stock QEMU's grows: the case above can fail."""
    assert growth(False) > MEMORY // 2


def transport(capabilities: Mapping[str, bool]) -> None:
    """The same over another transport."""
    with pair('kvm' if not mailbox.ACCELS['kvm'].missing() else 'tcg') as both:
        both.box.stamp(AREA, MIB, DATA)
        both.migrate(capabilities)
        both.check(0, MIB - PAGE)
        assert both.absent()['skipped-bytes'] > 0.9 * MEMORY


def mapped_ram() -> None:
    """To a file, and from there: pages that are not in the file are zero."""
    with pair('tcg') as both, tempfile.TemporaryDirectory(prefix='ballast-') as directory:
        both.box.stamp(AREA, MIB, DATA)
        uri = f'file:{directory}/ram'
        for vm in (both.src, both.dst):
            vm.set_capabilities({'events': True, 'mapped-ram': True})
        both.limit(FAST, 0)
        both.src.qmp('migrate', uri=uri)
        wait_migration(both.src)
        both.dst.qmp('migrate-incoming', uri=uri)
        wait_migration(both.dst)
        both.check(0, MIB - PAGE)
        assert both.absent()['skipped-bytes'] > 0.9 * MEMORY


def stopped_guest() -> None:
    """A paused guest is saved without its absent pages, too."""
    with pair('tcg') as both:
        both.box.stamp(AREA, MIB, DATA)
        both.src.qmp('stop')
        both.migrate()
        both.check(0)
        assert both.absent()['skipped-bytes'] > 0.9 * MEMORY


# -- nothing is lost -------------------------------------------------------

def written_after(accel: str, *extra: str) -> None:
    """Absent when looked at, written in the same generation: arrives."""
    with pair(accel, *extra) as both:
        both.start(SLOW)
        wait_until(lambda: both.absent()['scans'] >= 1, 'the scan')
        tap.equal(both.ram()['dirty-sync-count'], 1, 'generation')
        for offset in range(0, 4 * MIB, MIB):
            both.do(lambda: both.box.write(AREA + offset, DATA))     # pylint: disable=cell-var-from-loop
        tap.equal(both.ram()['dirty-sync-count'], 1, 'generation')
        assert both.absent()['skipped-bytes'] > 0.9 * MEMORY
        both.finish()
        both.check(*range(0, 4 * MIB, MIB))


def zeroed_at_last(both: Pair) -> None:
    """The rest of a migration that has sent data: zeros instead, which arrive."""
    both.do(lambda: both.box.stamp(AREA, MIB, 0))
    both.send()
    both.finish()
    both.check()
    tap.equal(both.dst.qtest.readl(AREA), 0)


def written_after_zero(accel: str, *extra: str) -> None:
    """Zero when looked at, written in the same generation: arrives."""
    with pair(accel, *extra) as both:
        both.src.qtest.do(f'memset {AREA:#x} {16 * MIB:#x} 0')
        both.start(SLOW)
        wait_until(lambda: both.absent()['zero'] >= 16 * MIB // PAGE, 'the look')
        tap.equal(both.ram()['dirty-sync-count'], 1, 'generation')
        for offset in range(0, 4 * MIB, MIB):
            both.do(lambda: both.box.write(AREA + offset, DATA))     # pylint: disable=cell-var-from-loop
        tap.equal(both.ram()['dirty-sync-count'], 1, 'generation')
        both.finish()
        both.check(*range(0, 4 * MIB, MIB))


def zeroed_again(accel: str) -> None:
    """Absent, then written and sent, then zeroed: the zeros must be sent."""
    with pair(accel) as both:
        both.start()
        both.send()
        both.do(lambda: both.box.stamp(AREA, MIB, DATA))
        both.send()
        zeroed_at_last(both)


def sent_then_zero(accel: str) -> None:
    """Sent in round 1, then zeroed: never left out."""
    with pair(accel) as both:
        both.box.stamp(AREA, MIB, DATA)
        both.start()
        both.send()
        zeroed_at_last(both)


def zero_twice(accel: str, *extra: str) -> None:
    """Absent, then written with zeros: dirty, but nothing to send; written with data later: sent."""
    with pair(accel, *extra) as both:
        both.start()
        both.send()
        duplicate = both.ram()['duplicate']
        both.do(lambda: both.box.stamp(AREA, 16 * MIB, 0))
        both.send()
        absent = both.absent()
        tap.note(str(absent))
        assert absent['zero'] >= 16 * MIB // PAGE, absent
        assert both.ram()['duplicate'] - duplicate < MIB // PAGE, both.ram()
        both.do(lambda: both.box.write(AREA + MIB, DATA))
        both.send()
        both.do(lambda: both.box.write(AREA + 2 * MIB, DATA))
        both.finish()
        both.check(MIB, 2 * MIB)


def _again(both: Pair, accel: str, stack: ExitStack, *extra: str) -> Pair:
    """Another destination."""
    arguments = [*mailbox.microvm(f'{MEMORY // MIB}M'), *mailbox.ACCELS[accel].args, *extra, '-incoming', 'defer']
    second = stack.enter_context(VM(arguments, plugin={}, name='second'))
    second.launch()
    return replace(both, dst=second)


def _trace(vm: VM, *events: str) -> None:
    for event in events:
        vm.qmp('trace-event-set-state', name=event, enable=True)


def _traced(vm: VM, event: str) -> int:
    """How often QEMU has traced it."""
    return vm.log().count(event)


def _asleep(both: Pair, traced: Callable[[str], int], more: int = 0) -> None:
    """A migration that has reached its limit sleeps; `more`: how often it may have been woken before."""
    both.limit(STEADY, PAGE - 1)
    start_migration(both.src, both.dst)
    wait_until(lambda: both.ram().get('transferred', 0) > STEADY, 'something to be sent')
    most = more + traced('ballast_turn') + both.src.migration()['total-time'] / 100 + 2
    assert traced('migration_rate_limit_pre') <= most, f'QEMU does not sleep: asked more than {most:.0f} times'


TURN_PAGES, AHEAD_PAGES = 1024, 32768


def _data_and_zeros(both: Pair) -> None:
    """More than is looked at in one go."""
    both.box.stamp(AREA, 64 * MIB, DATA)
    both.src.qtest.do(f'memset {AREA + 64 * MIB:#x} {32 * MIB:#x} 0')


def turns(accel: str) -> None:
    """QEMU's turns end early, but it does not sleep for that; in the next migration it sleeps as its limit says.

    What turn.c does not take back shows: a limit, in the same migration, which crawls; a request, in the next one,
    which asks without pause whether it may send.
    """
    with pair(accel) as both, ExitStack() as stack:
        _trace(both.src, 'ballast_turn', 'migration_rate_limit_pre')
        _data_and_zeros(both)
        both.migrate()
        both.check(0, 64 * MIB - PAGE)
        limited, asked = (_traced(both.src, event) for event in ('ballast_turn', 'migration_rate_limit_pre'))
        tap.note(f'{limited} turns were limited, {asked} times QEMU asked how long to sleep')
        assert limited and asked <= limited, f'{limited} limits, reached {asked} times'
        longest = max(map(int, re.findall(r'ballast_turn pages=(\d+)', both.src.log())))
        assert longest <= TURN_PAGES, f'a turn of {longest} pages: what was looked at is no reserve'
        both.src.qmp('cont')
        last = _again(both, accel, stack)
        _asleep(last, partial(_traced, both.src), limited)
        last.finish()
        last.check(0, 64 * MIB - PAGE)


def _full_turns(*extra: str) -> int:
    """How many turns are limited to TURN_PAGES, three quarters of what the operator's limit lets through."""
    with pair('tcg', *extra) as both:
        _trace(both.src, 'ballast_turn')
        _data_and_zeros(both)
        both.limit(TURN_PAGES * PAGE * 40 // 3, 0)
        start_migration(both.src, both.dst)
        wait_migration(both.src, both.dst)
        both.check(0, 64 * MIB - PAGE)
        return both.src.log().count(f'ballast_turn pages={TURN_PAGES}\n')


def huge_turns() -> None:
    """Within a huge page QEMU does not sleep for its limit while there is a request: none if it leaves no room for one."""
    _need_huge_pages(2)
    huge = _full_turns('-object', f'memory-backend-memfd,id=huge,size={2 * MIB},hugetlb=on')
    tap.equal((huge, _full_turns() > 0), (0, True), 'such turns with a huge page; any without one')


def _scanned_late(bytes_per_s: int) -> bool:
    """Had QEMU a turn before all of a guest was scanned?

    At its beginning the guest has used more than is looked at ahead, however quick that is, and a little at its end.
    """
    memory, used = 1024 * MIB, (AHEAD_PAGES + TURN_PAGES) * PAGE
    with pair('tcg', memory=memory) as both:
        both.box.stamp(AREA, used, DATA)
        both.box.stamp(memory - 2 * MIB, MIB, DATA)
        _trace(both.src, 'ballast_turn', 'ballast_absent')
        both.limit(bytes_per_s, 0)
        start_migration(both.src, both.dst)
        info, absent, log = wait_migration(both.src, both.dst), both.absent(), both.src.log()
        tap.note(str(absent))
        wrong = both.differ(4 * MIB, memory - 4 * MIB)
        assert not wrong, f'{len(wrong)} pages differ, first {wrong[:4]}'
        tap.equal(both.dst.qtest.readl(memory - 2 * MIB), DATA, 'the page near the end')
        assert absent['skipped-bytes'] > memory - used - 8 * MIB and absent['pieces'] >= memory // (64 * MIB), absent
        assert info['ram']['duplicate'] < 2 * MIB // PAGE, info['ram']
        turn, scanned = log.find('ballast_turn '), log.find('ballast_absent generation=1 ')
        assert turn >= 0 and scanned >= 0, f'no turn, or no end of the scan: {log}'
        return turn < scanned


def scan_late() -> None:
    """The destination does not wait for the end of a scan, unless QEMU would wait for its limit anyway."""
    tap.equal((_scanned_late(FAST), _scanned_late(512 * MIB)), (True, False), 'a turn before the end of the scan')


WMEM_MAX, WMEM_DEFAULT = '/proc/sys/net/core/wmem_max', '/proc/sys/net/core/wmem_default'


def local_socket() -> None:
    """A local socket has room for a huge page, as far as this host allows."""
    tap.need(os.access(WMEM_MAX, os.R_OK), f'{WMEM_MAX}')
    most, usual = (int(Path(name).read_text('ascii')) for name in (WMEM_MAX, WMEM_DEFAULT))
    tap.need(usual < 2 * min(most, MIB), 'a host on which there is something to widen')
    with pair('tcg') as both:
        _trace(both.src, 'ballast_stream')
        both.migrate()
        found = re.search(r'ballast_stream room for (\d+), now (\d+) bytes', both.src.log())
        assert found, both.src.log()
        tap.note(found[0])
        tap.equal(int(found[2]), 2 * min(most, MIB))


def tcp_socket() -> None:
    """TCP finds its own size, which ends when somebody sets one."""
    with pair('tcg') as both:
        _trace(both.src, 'ballast_stream')
        both.dst.qmp('migrate-incoming', uri='tcp:127.0.0.1:0')
        port = both.dst.migration()['socket-address'][0]['port']
        both.src.qmp('migrate', uri=f'tcp:127.0.0.1:{port}')
        wait_migration(both.src, both.dst)
        assert both.absent()['skipped'], both.absent()
        tap.equal(_traced(both.src, 'ballast_stream'), 0)


def cancelled(accel: str) -> None:
    """What one migration left out, the next one does not know: everything counts anew."""
    with pair(accel) as both:
        both.start()
        both.do(lambda: both.box.stamp(AREA, MIB, DATA))
        both.send()
        both.src.qmp('migrate_cancel')
        wait_until(lambda: both.src.migration()['status'] == 'cancelled', 'the end of the first one')
        both.dst.shutdown(hard=True)
        both.box.stop()
        both.box.stamp(AREA + MIB, MIB, DATA)
        with ExitStack() as stack:
            again = _again(both, accel, stack)
            again.migrate()
            again.check(0, MIB)
            assert both.absent()['skipped-bytes'] > 0.9 * MEMORY


# -- balloons --------------------------------------------------------------

BALLOON = 'virtio-balloon-ledger-device,free-page-hint=on'


def _balloon(both: Pair, features: int) -> virtio.Balloon:
    return virtio.Balloon(virtio.find_mmio(both.src.qtest), features)


def dropped_when_sent(accel: str, *extra: str) -> None:
    """Reported after it was sent, so discarded: zero on the other side, too."""
    host.need_device()
    with pair(accel, *extra, balloon='virtio-balloon-ledger-device,free-page-reporting=on') as both:
        both.box.stamp(AREA, MIB, DATA)
        balloon = _balloon(both, virtio.REPORTING)
        both.start()
        both.send()
        balloon.report([(AREA, MIB)])
        tap.equal(both.src.qtest.readl(AREA), 0, 'the page on the source')
        both.send()
        both.finish()
        tap.equal(both.dst.qtest.readl(AREA), 0, 'the page on the destination')
        both.check()


def ballooned_before(accel: str, device: str, *extra: str) -> None:
    """In the balloon of any device: left out."""
    with pair(accel, *extra, balloon=device) as both:
        both.box.stamp(AREA, 32 * MIB, DATA)
        balloon = _balloon(both, virtio.MUST_TELL_HOST if 'ledger' in device else 0)
        balloon.inflate([page // PAGE for page in range(AREA, AREA + 32 * MIB, PAGE)])
        both.migrate()
        both.check()
        tap.note(str(both.absent()))
        assert both.absent()['skipped-bytes'] > 0.9 * MEMORY, both.absent()


def hinted(accel: str) -> None:
    """Hinted before it was sent, zeroed, used again: only what was used again is sent."""
    host.need_device()
    with pair(accel, balloon=BALLOON) as both:
        both.box.stamp(AREA, 32 * MIB, DATA)
        balloon = _balloon(both, virtio.HINT)
        both.start(SLOW)
        balloon.hint_id(balloon.wait_cmd_id())
        balloon.hint(AREA, 32 * MIB)
        wait_until(lambda: host.verdicts(both.src)['applied'] == 1, 'the verdict')
        both.do(lambda: both.box.stamp(AREA, 32 * MIB, 0))
        both.do(lambda: both.box.write(AREA + MIB, DATA))
        tap.equal(both.ram()['dirty-sync-count'], 1, 'generation')
        both.go_on()
        both.send()
        absent = both.absent()
        tap.note(f'{absent}, {both.ram()["duplicate"]} zero pages sent')
        both.finish()
        both.check(MIB)
        assert absent['zero'] >= 31 * MIB // PAGE, absent


FREE, FREE_BYTES, HINT_BYTES, BATCH = 4 * MIB, 12 * MIB, 64 << 10, 24      # below all else that is used
FAR_BYTES = MEMORY // 32        # as much of a block may be sent from its end
ASKED = re.compile(r'get_queued_page[ (]')


def _batches() -> List[List[virtio.Desc]]:
    """Hints upwards; none of them can be merged with another."""
    hints = [virtio.into(at, HINT_BYTES) for at in range(FREE, FREE + FREE_BYTES, 2 * HINT_BYTES)]
    return [hints[first:first + BATCH] for first in range(0, len(hints), BATCH)]


def _fill(both: Pair) -> None:
    both.box.stamp(AREA, MIB, DATA)
    both.src.qtest.do(f'memset {FREE:#x} {FREE_BYTES:#x} 0x5b')
    both.box.stamp(MEMORY - FAR_BYTES, FAR_BYTES, DATA)


def _hint_until(both: Pair, far: Callable[[], Any]) -> bool:
    """Some at once; False: QEMU, which waits 40 ms for a guest that does not answer, had given up."""
    balloon = _balloon(both, virtio.HINT)
    both.start(MIB // 4)
    balloon.hint_id(balloon.wait_cmd_id())
    for hints in _batches():
        balloon.queues['hint'].add_all([[hint] for hint in hints])
        try:                        # QEMU asks ten times in a second
            return bool(wait_until(far, 'a turn there', timeout=0.5))
        except TimeoutError:
            pass
    return False


def _far_end(accel: str) -> bool:
    with pair(accel, balloon=BALLOON) as both:
        _trace(both.src, 'ballast_far', 'get_queued_page')
        _fill(both)
        if not _hint_until(both, lambda: _traced(both.src, 'ballast_far')):
            return False
        both.bandwidth = STEADY
        both.limit(STEADY, PAGE - 1)
        both.send()
        both.do(lambda: both.box.write(MEMORY - MIB, ~DATA & 0xffffffff))
        both.send()
        turns_there, asked = _traced(both.src, 'ballast_far'), len(ASKED.findall(both.src.log()))
        tap.note(f"{turns_there} turns there, {asked} were begun, {both.ram()['normal']} pages sent")
        tap.equal(asked, turns_there, 'turns that QEMU began there')
        tap.equal(both.finish()['ram']['postcopy-requests'], 0, 'requests')
        tap.equal(both.differ(FREE + FREE_BYTES, MEMORY - FREE - FREE_BYTES), [])
        tap.equal(both.dst.qtest.readl(MEMORY - MIB), ~DATA & 0xffffffff)
        return True


def far_end(accel: str) -> None:
    """While hints come, upwards, the end of memory is sent; what is written there later is sent again."""
    host.need_device()
    wait_until(lambda: _far_end(accel), 'a turn at the far end', timeout=60)


ROOM = 100                      # bytes of a log: for the request's line, not for the next


def _request_left(accel: str) -> bool:
    with pair(accel, balloon=BALLOON) as both, held.Log(both.src) as log, ExitStack() as stack:
        _trace(both.src, 'ram_save_queue_pages', 'ballast_far')
        _fill(both)
        log.hold(ROOM)
        if not _hint_until(both, log.traced):
            return False
        both.src.qmp('migrate_cancel')
        _trace(both.src, 'ballast_turn', 'ballast_turn_left', 'get_queued_page', 'migration_rate_limit_pre')
        log.go_on()
        wait_until(lambda: both.src.migration()['status'] == 'cancelled', 'the end of the first one')
        tap.note('; '.join(log.lines))
        tap.equal((log.count('ram_save_queue_pages'), log.count('get_queued_page')), (1, 0), 'asked for, begun')
        both.dst.shutdown(hard=True)
        last = _again(both, accel, stack, '-object', 'iothread,id=iot',
                      '-device', f'{BALLOON},id=balloon0,iothread=iot')
        _asleep(last, log.count, log.count('migration_rate_limit_pre'))
        tap.equal(log.count('ballast_turn_left'), 1, 'requests taken back')
        last.finish()
        last.check(0)
        return True


def request_left(accel: str) -> None:
    """Cancelled when QEMU was to go on at the far end, and had not yet: the next one sleeps as its limit says."""
    host.need_device()
    wait_until(lambda: _request_left(accel), 'a turn at the far end', timeout=60)


# -- a vCPU that does not leave its code -----------------------------------

def _stay(both: Pair, log: held.Log) -> bool:
    """The first round begins while the vCPU stays where it is; False: hints came after QEMU had given up."""
    balloon = _balloon(both, virtio.HINT)
    log.hold()
    both.start(MIB // 4)
    wait_until(lambda: both.src.migration()['status'] == 'active', 'the end of the setup')
    with held.vcpu(both.src):
        log.go_on()
        balloon.hint_id(balloon.wait_cmd_id())
        balloon.queues['hint'].add_all([[hint] for hint in _batches()[0]])
        wait_until(lambda: host.judged(both.src) == BATCH, 'the verdicts')
        if both.absent()['scans']:
            return False
        wait_until(lambda: both.absent()['scans'], 'QEMU to give up')
        return True


def _no_barrier() -> bool:
    with pair('tcg', balloon=BALLOON) as both, held.Log(both.src) as log:
        _trace(both.src, 'migration_thread_setup_complete', 'ballast_ahead', 'ballast_far', 'ballast_foreseen',
               'ballast_absent_forget')
        _fill(both)
        if not _stay(both, log):
            return False
        absent = both.absent()
        tap.note(str(absent))
        tap.equal(both.ram()['dirty-sync-count'], 1, 'generation')
        assert absent['arm-time-ns'] >= 10 ** 9, absent
        both.go_on()
        both.send()
        tap.note(f"{log.count('ballast_foreseen')} times QEMU knew where hints were coming")
        assert log.count('ballast_foreseen'), log.lines
        tap.equal((log.count('ballast_ahead'), log.count('ballast_far')), (0, 0), 'looks ahead, turns at the far end')
        tap.equal(log.count('ballast_absent_forget'), 1, 'times that what was hinted is not known to be left out')
        both.do(lambda: both.box.fill(FREE, HINT_BYTES, 0))
        both.send()
        absent = both.absent()
        tap.equal((absent['pieces'], absent['skipped'], absent['zero']), (0, 0, 0), 'pieces looked at, pages left out')
        both.finish()
        hinted = [range(hint.addr, hint.addr + HINT_BYTES) for hint in _batches()[0][1:]]
        tap.equal([page for page in both.differ() if not any(int(page, 16) in hint for hint in hinted)], [])
        return True


def no_barrier() -> None:
    """It may be about to store, which leaves no trace: nothing is left out, and nothing is looked at for zeros.

    Where it does leave its code the same hints lead to turns at the far end ("hints are far from the end").
    """
    host.need_device()
    wait_until(_no_barrier, 'all hints in time', timeout=60)


# -- other memory ----------------------------------------------------------

def other_mapping() -> None:
    """Another process has populated pages that QEMU's page tables do not have: they arrive."""
    with pair('tcg', *memfd(MEMORY)) as both:
        with open(_memfd_of(both.src), 'r+b') as file, mmap.mmap(file.fileno(), MEMORY) as theirs:
            theirs[AREA:AREA + 4] = DATA.to_bytes(4, 'little')
            theirs[AREA + MIB:AREA + MIB + 4] = DATA.to_bytes(4, 'little')
            both.migrate()
        both.check(0, MIB)
        assert both.absent()['skipped-bytes'] > 0.9 * MEMORY


def named_file(share: str) -> None:
    """Memory of a file that has a name, or that is mapped privately, is sent whole and said to be unknown."""
    with ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix='ballast-', dir='/dev/shm'))
        # one file for both ends would be shared memory: the destination has other memory
        backend = f'memory-backend-file,id=ram,size={MEMORY},share={share},mem-path={directory}'
        kind = mailbox.ACCELS['tcg']
        base = [*mailbox.microvm(f'{MEMORY // MIB}M'), *kind.args, '-machine', 'memory-backend=ram', '-object']
        tap.need(paths.has_ballast() and paths.FIRMWARE.exists(), 'plug-in and firmware')
        src, dst = (stack.enter_context(VM([*base, f'{backend}/{name}', *more], plugin={}, name=name))
                    for name, more in (('src', ()), ('dst', ('-incoming', 'defer'))))
        dst.launch()
        both = Pair(src, dst, mailbox.boot(src))
        dst.qtest.do(f'memset {AREA + MIB:#x} {MIB:#x} 0x77')      # what a file may hold from before
        both.box.stamp(AREA, MIB, DATA)
        both.migrate()
        both.check(0)
        absent = both.absent()
        tap.equal((absent['skipped'], absent['unknown-bytes']), (0, MEMORY), 'skipped, unknown')


def _need_huge_pages(least: int) -> None:
    sizes = Path('/sys/kernel/mm/hugepages/hugepages-2048kB')
    free = int((sizes / 'free_hugepages').read_text('ascii')) if sizes.exists() else 0
    tap.need(free >= least, f'{least} free huge pages of 2 MiB (vm.nr_hugepages)')


def hugetlb() -> None:
    """Whole huge pages are left out; the source's memory does not grow."""
    _need_huge_pages(96)
    size = 96 * MIB
    with pair('tcg', *memfd(size, ',hugetlb=on'), memory=size) as both:
        both.box.stamp(AREA, MIB, DATA)
        before = _blocks(both.src)
        both.migrate()
        tap.equal(_blocks(both.src) - before, 0, 'growth')
        wrong = both.differ(length=size - 4 * MIB)
        assert not wrong, wrong
        tap.equal(both.dst.qtest.readl(AREA), DATA)
        assert both.absent()['skipped-bytes'] > 0.8 * size, both.absent()


def transparent_huge() -> None:
    """A transparent huge page of which little is used is there as a whole; the rest is absent."""
    with pair('tcg', '-object', f'memory-backend-ram,id=ram,size={MEMORY}', '-machine', 'memory-backend=ram',
              '-machine', 'mem-merge=off') as both:
        both.box.write(AREA, DATA)
        both.migrate()
        both.check(0)
        assert both.absent()['skipped-bytes'] > 0.9 * MEMORY


def plugged(kind: str) -> None:
    """Memory that was plugged in while the guest ran, and a second block: looked at as the first."""
    tap.need(paths.has_ballast() and paths.FIRMWARE.exists(), 'plug-in and firmware')
    gate = mailbox.ACCELS[kind]
    tap.need(not gate.missing(), gate.missing())
    base = ['-M', 'pc', '-bios', str(paths.FIRMWARE), '-m', '128M,slots=2,maxmem=1G', *gate.args,
            '-object', 'memory-backend-ram,id=m0,size=96M', '-numa', 'node,nodeid=0,memdev=m0',
            '-object', 'memory-backend-ram,id=m1,size=32M', '-numa', 'node,nodeid=1,memdev=m1']
    dimm = ['-object', 'memory-backend-ram,id=d0,size=128M', '-device', 'pc-dimm,id=dimm0,memdev=d0']
    with VM(base, plugin={}, name='src') as src, \
            VM([*base, *dimm, '-incoming', 'defer'], plugin={}, name='dst') as dst:
        dst.launch()
        both = Pair(src, dst, mailbox.boot(src))
        src.qmp('object-add', {'qom-type': 'memory-backend-ram', 'id': 'd0', 'size': 128 * MIB})
        src.qmp('device_add', {'driver': 'pc-dimm', 'id': 'dimm0', 'memdev': 'd0'})
        where = src.qmp('query-memory-devices')[0]['data']['addr']
        src.qtest.writel(where + 5 * MIB, DATA)
        both.box.write(100 * MIB, DATA)
        both.migrate()
        tap.equal(dst.qtest.readl(where + 5 * MIB), DATA, 'the page in the DIMM')
        tap.equal(dst.qtest.readl(100 * MIB), DATA, 'the page in the second block')
        wrong = both.differ(length=124 * MIB) + both.differ(where, 128 * MIB)
        assert not wrong, wrong
        tap.note(str(both.absent()))
        assert both.absent()['skipped-bytes'] > 240 * MIB, both.absent()


# -- not used --------------------------------------------------------------

def postcopy() -> None:
    """With postcopy the destination may ask for any page: nothing is left out, and it says why."""
    with pair('tcg') as both:
        both.box.stamp(AREA, MIB, DATA)
        both.migrate({'postcopy-ram': True})
        both.check(0)
        tap.equal((both.absent()['use'], both.absent()['skipped']), ('postcopy', 0))


def _job(vm: VM, name: str) -> None:
    def concluded() -> Any:
        return [job for job in vm.qmp('query-jobs') if job['id'] == name and job['status'] == 'concluded']
    wait_until(concluded, f'the job {name}')
    job = concluded()[0]
    assert 'error' not in job, job
    vm.qmp('job-dismiss', id=name)


def snapshot() -> None:
    """Loaded over memory in use: a page that was absent when it was taken must be zero again."""
    with pair('tcg') as both, tempfile.TemporaryDirectory(prefix='ballast-') as directory:
        src, path = both.src, f'{directory}/disk.qcow2'
        src.qmp('blockdev-create', {'job-id': 'file', 'options': {'driver': 'file', 'filename': path, 'size': 0}})
        _job(src, 'file')
        src.qmp('blockdev-add', {'node-name': 'file0', 'driver': 'file', 'filename': path})
        src.qmp('blockdev-create', {'job-id': 'format', 'options': {
            'driver': 'qcow2', 'file': 'file0', 'size': MIB}})
        _job(src, 'format')
        src.qmp('blockdev-add', {'node-name': 'disk0', 'driver': 'qcow2', 'file': 'file0'})
        both.box.stamp(AREA, PAGE, DATA)
        arguments = {'tag': 'one', 'vmstate': 'disk0', 'devices': ['disk0']}
        src.qmp('snapshot-save', {'job-id': 'save', **arguments})
        _job(src, 'save')
        tap.equal((both.absent()['use'], both.absent()['skipped']), ('snapshot', 0))
        both.box.stamp(AREA + MIB, MIB, DATA)
        src.qmp('snapshot-load', {'job-id': 'load', **arguments})
        _job(src, 'load')
        tap.equal(src.qtest.readl(AREA), DATA)
        tap.equal(src.qtest.readl(AREA + MIB), 0, 'a page that was absent when the snapshot was taken')


for _accel in ACCELS:
    tap.add(f'fresh, {_accel}', fresh, _accel)
    tap.add(f'fresh memfd, {_accel}', fresh, _accel, *memfd(MEMORY))
    tap.add(f'zeros, {_accel}', zeros, _accel)
    tap.add(f'zeros, memfd, {_accel}', zeros, _accel, *memfd(MEMORY))
    tap.add(f'zeroed again, {_accel}', zeroed_again, _accel)
    tap.add(f'sent, then zero, {_accel}', sent_then_zero, _accel)
    tap.add(f'zero twice, {_accel}', zero_twice, _accel)
    tap.add(f'zero twice, memfd, {_accel}', zero_twice, _accel, *memfd(MEMORY))
    tap.add(f'cancelled and retried, {_accel}', cancelled, _accel)
    tap.add(f'turns that end early, {_accel}', turns, _accel)
    tap.add(f'dropped when sent, {_accel}', dropped_when_sent, _accel)
    tap.add(f'dropped when sent, memfd, {_accel}', dropped_when_sent, _accel, *memfd(MEMORY))
    tap.add(f'hinted, {_accel}', hinted, _accel)
    tap.add(f'hints are far from the end, {_accel}', far_end, _accel)
    tap.add(f'cancelled before a turn at the far end, {_accel}', request_left, _accel)
    tap.add(f'plugged memory, {_accel}', plugged, _accel)
    for _device in ('virtio-balloon-device', 'virtio-balloon-ledger-device'):
        tap.add(f'ballooned before, {_device}, {_accel}', ballooned_before, _accel, _device)
tap.add('a vCPU that stays in its code', no_barrier)
for _accel in mailbox.ACCELS:
    tap.add(f'written after the scan, {_accel}', written_after, _accel)
    tap.add(f'written after the look for zeros, {_accel}', written_after_zero, _accel)
tap.add('written after the scan, memfd, kvm', written_after, 'kvm', *memfd(MEMORY))
tap.add('ballooned before, memfd', ballooned_before, 'tcg', 'virtio-balloon-device', *memfd(MEMORY))
tap.add('memfd does not grow', memfd_growth)
tap.add('populated by another process', other_mapping)
tap.add('named file, shared', named_file, 'on')
tap.add('named file, private', named_file, 'off')
tap.add('hugetlb', hugetlb)
tap.add('hugetlb: turns that the limit leaves no room for', huge_turns)
tap.add('transparent huge pages', transparent_huge)
tap.add('a scan between turns', scan_late)
tap.add('multifd', transport, {'multifd': True})
tap.add('xbzrle', transport, {'xbzrle': True})
tap.add('auto-converge', transport, {'auto-converge': True})
tap.add('mapped-ram', mapped_ram)
tap.add('a local socket has room', local_socket)
tap.add("TCP's socket is left alone", tcp_socket)
tap.add('a paused guest', stopped_guest)
if paths.FLAVOUR == 'plugin':       # else it is used with postcopy: test_series
    tap.add('not with postcopy', postcopy)
tap.add('not with snapshots', snapshot)
tap.add('control: stock QEMU sends a fresh guest whole', fresh_stock)
tap.add("control: stock QEMU's memfd grows", memfd_growth_stock)

if __name__ == '__main__':
    tap.main()
