# SPDX-License-Identifier: GPL-2.0-or-later
"""hint.per_hint: what the device does with one hint of 4 MiB.

A microvm with 8 GiB of untouched RAM and real KVM dirty logs is held in the first generation of a
migration (as in tests/qtest/ballast/test_late_hint.py: next to no bandwidth, and no sync before all is
sent).  Its vCPU is halted, this program is the driver: it keeps the ring of 1,024 full for 65,536 hints of
distinct blocks in random order, again and again.

The clock runs from the first hint's publication until the last buffer is back *and*, for Ballast, which
returns buffers before it applies them, until query-free-page-hints has counted every hint as applied.  The
answer's way costs 5 ns a hint, which count against Ballast.
"""

import os
import random
import signal
import statistics
import time
from contextlib import ExitStack, closing
from tempfile import TemporaryDirectory
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

from ballast import paths
from ballast.virtio import HINT, Balloon, find_mmio
from ballast.vm import VM, start_migration, wait_until

from processor import Usage, usage
from report import Absent, Result
from shared_ring import Range, SharedMemory, SharedRing, short_naps

MIB, GIB = 1 << 20, 1 << 30
HINT_BYTES = 4 * MIB
MEMORY = 8 * GIB
BULK = 64 * MIB                     # 16 MiB of content there keep the migration from finishing
SERIES_HINTS = 65536
SERIES = 15                         # per round
PAGE = 4096

# cli; hlt; jmp hlt at the reset vector
HALTED = bytes(0xfff0) + b'\xfa\xf4\xeb\xfd' + bytes(12)


def _blocks() -> List[Range]:
    """4 MiB blocks above what rings and bulk use; RAM above 3 GiB is at 4 GiB."""
    starts = [*range(256 * MIB, 3 * GIB, HINT_BYTES), *range(4 * GIB, MEMORY + GIB, HINT_BYTES)]
    random.Random(1).shuffle(starts)
    return [(start, HINT_BYTES) for start in starts]


def _machine(firmware: Path, memory: SharedMemory, ours: bool, *extra: str) -> VM:
    kind = 'virtio-balloon-ledger-device' if ours else 'virtio-balloon-device'
    return VM(['-M', 'microvm,memory-backend=ram0', '-accel', 'kvm', '-bios', str(firmware),
               '-m', f'{MEMORY // MIB}M', '-global', 'virtio-mmio.force-legacy=false', *memory.args(),
               '-object', 'iothread,id=iothread1',
               '-device', f'{kind},id=balloon0,free-page-hint=on,iothread=iothread1', *extra],
              plugin={} if ours else None)


class Held:
    """A migration that waits in its first generation for hints."""

    def __init__(self, src: VM, dst: VM, memory: SharedMemory, ours: bool) -> None:
        self._src, self._ours = src, ours
        balloon = Balloon(find_mmio(src.qtest), HINT)
        src.qtest.do(f'memset {BULK:#x} {16 * MIB:#x} 0x5a')
        start_migration(src, dst, parameters={
            'max-bandwidth': 1000, 'downtime-limit': 1000, 'avail-switchover-bandwidth': PAGE - 1})
        wait_until(lambda: self.syncs() == 1, 'the first sync')
        balloon.hint_id(balloon.wait_cmd_id())
        balloon.queues['hint'].wait_idle()
        self.ring = SharedRing(balloon, 'hint', memory, filler=(128 * MIB, PAGE))
        self._expected = self.ring.fillers if ours else 0

    def syncs(self) -> int:
        """Generations so far."""
        return int(self._src.migration().get('ram', {}).get('dirty-sync-count', 0))

    def _info(self) -> Dict[str, Any]:
        return dict(self._src.qmp('query-free-page-hints')) if self._ours else {}

    def _verdicts(self) -> Dict[str, int]:
        return dict(self._info().get('migration', {}))

    def arming_ns(self) -> int:
        """What Ballast spent before it asked; the stock device spends it in the first hints."""
        return int(self._info().get('arm-time-ns', 0))

    def usage(self) -> Usage:
        """Processor time so far."""
        return usage(self._src)

    def _wait_counted(self) -> None:
        while True:
            counted = self._verdicts().get('applied', self._expected)
            if counted >= self._expected:
                return

    def timed(self, parts: Sequence[bytes]) -> float:
        """Nanoseconds per hint."""
        count = len(parts) * self.ring.part
        self._expected += count if self._ours else 0
        start = time.perf_counter_ns()
        self.ring.feed(parts)
        self._wait_counted()
        return (time.perf_counter_ns() - start) / count

    def check(self) -> None:
        """Still the same generation, and each hint was applied, none late or refused."""
        assert self.syncs() == 1, 'the generation has ended'
        verdicts = self._verdicts()
        wrong = {name: verdicts[name] for name in ('late', 'unarmed', 'malformed', 'foreign')
                 if verdicts.get(name)}
        assert not wrong and verdicts.get('applied', self._expected) == self._expected, verdicts


class Paused:
    """A process that stands still outside of `with`: stock's I/O thread polls without pause."""

    def __init__(self, machine: VM) -> None:
        pid = machine.get_pid()
        assert pid is not None
        self._pid = pid
        os.kill(pid, signal.SIGSTOP)

    def __enter__(self) -> None:
        os.kill(self._pid, signal.SIGCONT)

    def __exit__(self, *_: object) -> None:
        os.kill(self._pid, signal.SIGSTOP)


class Side:
    """One of the two devices in a round, and what was measured of it."""

    def __init__(self, stack: ExitStack, firmware: Path, ours: bool) -> None:
        memories = [stack.enter_context(closing(SharedMemory(MEMORY))) for _ in range(2)]
        src = stack.enter_context(_machine(firmware, memories[0], ours))
        dst = stack.enter_context(_machine(firmware, memories[1], ours, '-incoming', 'defer'))
        src.launch()
        dst.launch()
        self._held = Held(src, dst, memories[0], ours)
        once = self._held.ring.encode(_blocks())
        self.first = self._held.timed(once) + self._held.arming_ns() / (len(once) * self._held.ring.part)
        repeat = SERIES_HINTS // self._held.ring.part
        self._parts = (once * (repeat // len(once) + 1))[:repeat]
        self._before = self._held.usage()
        self.series: List[float] = []
        self._running = Paused(src)
        stack.callback(self._running.__enter__)     # a stopped QEMU does not quit

    def run(self) -> None:
        """One series."""
        with self._running:
            self.series.append(self._held.timed(self._parts))

    def finish(self) -> Dict[str, float]:
        """Check, and sum up."""
        with self._running:
            self._held.check()
            used = self._held.usage().since(self._before)
        count = len(self.series) * SERIES_HINTS
        return {'wall': statistics.median(self.series), 'fastest': min(self.series),
                'first': self.first, 'iothread': used.iothread / count, 'main': used.main_loop / count}


def _round(firmware: Path) -> Tuple[Dict[str, float], Dict[str, float]]:
    """Reference and ours, a series of each in turn."""
    with ExitStack() as stack:
        sides = [Side(stack, firmware, ours) for ours in (False, True)]
        for _ in range(SERIES):
            for side in sides:
                side.run()
        theirs, ours = (side.finish() for side in sides)
    return theirs, ours


Samples = Sequence[Dict[str, float]]


def _extra(ours: Samples, theirs: Samples) -> Dict[str, Any]:
    names = {'fastest': 'fastest series, ns', 'first': 'first pass with its arming, ns',
             'iothread': 'I/O thread, ns of processor', 'main': 'main loop, ns of processor'}
    return {title: {'ours': statistics.median(sample[name] for sample in ours),
                    'reference': statistics.median(sample[name] for sample in theirs)}
            for name, title in names.items()}


def _missing() -> Optional[str]:
    if not os.access('/dev/kvm', os.R_OK | os.W_OK):
        return '/dev/kvm'
    return None if paths.has_ballast() else f'the plug-in ({paths.PLUGIN})'


def measure(_keys: Sequence[str], rounds: int) -> Dict[str, Result]:
    """hint.per_hint, rounds interleaved."""
    missing = _missing()
    if missing:
        raise Absent(missing)
    with short_naps() as precise, TemporaryDirectory(prefix='ballast-bench-') as directory:
        firmware = Path(directory) / 'halted.bin'
        firmware.write_bytes(HALTED)
        theirs, ours = zip(*(_round(firmware) for _ in range(rounds)))
    extra = _extra(ours, theirs)
    if not precise:
        extra['careful'] = 'no real-time priority for the driver: the figures include its delays'
    return {'hint.per_hint': Result('ns', [sample['wall'] for sample in ours],
                                    [sample['wall'] for sample in theirs], extra)}
