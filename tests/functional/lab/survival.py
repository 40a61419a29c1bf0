# SPDX-License-Identifier: GPL-2.0-or-later
"""Does every guest live?  Linux guests under TCG, migrated with hints again and again on a busy machine.

On stock QEMU a guest with two small NUMA nodes dies of about one migration in four (hints.md in docs/design,
"TCG").  A chain boots a guest and migrates it from QEMU to fresh QEMU; after each hop it has to answer, to
have printed no oops and to have gone on with its load, and at the end all its files have to be right.

Nodes of which the second is larger than the first are not among the shapes: stock QEMU 10.0.2 aborts on its
own assertion when it migrates them, with or without the plug-in, which cannot avoid it.
"""

from __future__ import annotations

import asyncio
import csv
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Callable, Iterator, List, NamedTuple, Optional, Sequence

from guest import MIB, GuestTrouble, LinuxGuest
from ballast.vm import Number, start_migration, wait_migration, wait_until

from .cell import (ANSWER, PATIENCE, Lost, Settings, install, keep_log, make_guest, one_line, wait_answer,
                   why_dead, wrong_files)
from .plan import SHAPES, TRANSPORTS, Cell, Mode, mode_of
from .progress import Progress

HOPS = 5                # of a chain, after its boot
KEEP = 8                # MiB of files that stay
CHAINS = 2              # side by side
UNBIND_US = 150000      # into a migration of half a second or more
LOAD = 'turn 4 16'      # MiB/s, MiB
END = 300.0             # seconds a migration may take on a loaded machine
BOOTS = 3               # so often a guest may fail to boot on such a machine


def _nodes(*sizes: int) -> List[str]:
    """NUMA nodes of these sizes, each with memory of its own."""
    return [word for number, size in enumerate(sizes) for word in (
        '-object', f'memory-backend-ram,id=m{number},size={size}M', '-numa', f'node,memdev=m{number}')]


def _nothing(_: LinuxGuest) -> None:
    """Most shapes only migrate."""


def _shrink(guest: LinuxGuest) -> None:
    """The balloon moves while pages are sent; it grows back on the other side."""
    guest.set_balloon(guest.memory * 5 // 8)
    time.sleep(0.2)
    guest.set_balloon(guest.memory * 7 // 8)


def _grow(guest: LinuxGuest) -> None:
    guest.balloon(guest.memory)


_DRIVER = '/sys/bus/virtio/drivers/virtio_balloon'


def _unbind_soon(guest: LinuxGuest) -> None:
    """The driver will go in a moment, and take every page back that it has hinted.

    The guest does it by itself: an answer to a command could come out on the other side.
    """
    guest.run(f'cd {_DRIVER}; echo virtio* >/tmp/bound; rm -f /tmp/unbound')
    guest.run(f'(usleep {UNBIND_US}; cat /tmp/bound >{_DRIVER}/unbind; : >/tmp/unbound) >/dev/null 2>&1 &')


def _bind(guest: LinuxGuest) -> None:
    guest.run('until [ -e /tmp/unbound ]; do usleep 20000; done', END)
    guest.run(f'cat /tmp/bound >{_DRIVER}/bind')


@dataclass(frozen=True)
class Kind:
    """A guest to be migrated."""

    key: str
    title: str
    nodes: Sequence[int] = (256, 256)
    keep: int = KEEP
    piece: int = 1          # MiB; the load looks at one after each hop
    bandwidth: int = 1 << 30
    before: Callable[[LinuxGuest], None] = _nothing
    during: Callable[[LinuxGuest], None] = _nothing
    after: Callable[[LinuxGuest], None] = _nothing

    @property
    def lab(self) -> str:
        """The command in the guest."""
        return f'LAB_PIECE={self.piece} /tmp/lab.sh'

    @property
    def memory(self) -> int:
        """MiB."""
        return sum(self.nodes)


KINDS = (
    Kind('two-nodes', 'two nodes of 256 MiB'),
    Kind('unequal', 'small nodes of unequal size', (320, 128, 64)),
    Kind('full', 'memory nearly full', keep=320, piece=4),
    Kind('balloon', 'a balloon that moves', bandwidth=256 * MIB, during=_shrink, after=_grow),
    Kind('unbind', 'a driver unbound mid-way', bandwidth=256 * MIB, before=_unbind_soon, after=_bind),
)


class Hop(NamedTuple):
    """One migration and how it ended."""

    kind: str
    mode: str
    hop: int
    status: str
    reason: str
    total_ms: int


@contextmanager
def busy_machine() -> Iterator[None]:
    """Endless loops, one for two processors, beside the chains: guests died on busy machines only."""
    loops: List['subprocess.Popen[bytes]'] = []
    try:
        for _ in range(((os.cpu_count() or 1) + 1) // 2):
            loops.append(subprocess.Popen(      # pylint: disable=consider-using-with
                [sys.executable, '-c', 'while True: pass'], stdin=subprocess.DEVNULL))
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def _guest(kind: Kind, mode: Mode, settings: Settings, *extra: str) -> LinuxGuest:
    cell = Cell(1, SHAPES[0], TRANSPORTS[0], mode)
    return make_guest(cell, replace(settings, memory=kind.memory), *_nodes(*kind.nodes), *extra)


def _boot(kind: Kind, mode: Mode, settings: Settings, stack: ExitStack) -> LinuxGuest:
    guest = stack.enter_context(_guest(kind, mode, settings)).start()
    install(guest)
    guest.run(f'{kind.lab} prepare {kind.keep} 0')
    guest.run('until [ -e /tmp/lab/ready ]; do usleep 20000; done', END)
    guest.run(f'{kind.lab} start {LOAD}', END)
    return guest


def _booted(kind: Kind, mode: Mode, settings: Settings, stack: ExitStack) -> LinuxGuest:
    """A machine that is too busy can keep a guest from booting: that is not what is looked for."""
    for left in reversed(range(BOOTS)):
        attempt = ExitStack()
        try:
            guest = _boot(kind, mode, settings, attempt)
        except (GuestTrouble, TimeoutError):
            attempt.close()
            if not left:
                raise
        else:
            stack.push(attempt)
            return guest
    raise AssertionError('not reached')


def _pieces(guest: LinuxGuest) -> int:
    count, wrong = guest.run('/tmp/lab.sh count', ANSWER).split()
    if wrong != '0':
        raise Lost(f'the load met {wrong} wrong pieces')
    return int(count)


def _alive(guest: LinuxGuest, before: int) -> None:
    """It answers, has printed no oops, and its load goes on."""
    wait_answer(guest)
    guest.check_alive()
    wait_until(lambda: _pieces(guest) > before, 'the load to go on', PATIENCE * ANSWER)


def _final(guest: LinuxGuest, sums: Sequence[str]) -> None:
    """Everything the guest has is right."""
    wrong = wrong_files(guest.run('/tmp/lab.sh kept', END), sums)
    pieces, bad = guest.run('/tmp/lab.sh stop', END).split()
    guest.check_alive()
    if wrong or bad != '0':
        raise Lost(f'{len(wrong)} of the kept pieces and {bad} of {pieces} of the load differ')


def _migrate(kind: Kind, source: LinuxGuest, destination: LinuxGuest) -> int:
    parameters: dict[str, Number] = {'max-bandwidth': kind.bandwidth, 'downtime-limit': 300}
    kind.before(source)
    start_migration(source.vm, destination.vm, parameters=parameters)
    kind.during(source)
    return int(wait_migration(source.vm, destination.vm, END)['total-time'])


class Chain:
    """A guest on its way from QEMU to QEMU."""

    def __init__(self, kind: Kind, mode: Mode, settings: Settings) -> None:
        self.kind, self.mode, self.settings = kind, mode, settings
        self.hops: List[Hop] = []

    def run(self, count: int) -> List[Hop]:
        """So many hops, or fewer if the guest dies."""
        with ExitStack() as stack:
            guest = _booted(self.kind, self.mode, self.settings, stack)
            sums = guest.run(f'{self.kind.lab} sums').split()
            for hop in range(1, count + 1):
                last = sums if hop == count else None
                following = self._hop(guest, hop, last, stack)
                if following is None:
                    break
                guest = following
        return self.hops

    def _hop(self, guest: LinuxGuest, hop: int, sums: Optional[Sequence[str]],
             stack: ExitStack) -> Optional[LinuxGuest]:
        destination = stack.enter_context(_guest(self.kind, self.mode, self.settings, '-incoming', 'defer'))
        status, reason, total = 'ok', '', 0
        try:
            destination.vm.launch()
            before = _pieces(guest)
            total = _migrate(self.kind, guest, destination)
            _alive(destination, before)
            self.kind.after(destination)
            if sums:
                _final(destination, sums)
        except (GuestTrouble, TimeoutError) as trouble:
            status, reason = 'dead', why_dead(destination, trouble)
            keep_log(destination, f'survival-{self.kind.key}-{self.mode.key}-{time.time():.0f}')
        except Lost as loss:
            status, reason = 'lost', one_line(loss)
        except Exception as error:  # pylint: disable=broad-except
            status, reason = 'failed', one_line(error)
        guest.close()
        self.hops.append(Hop(self.kind.key, self.mode.key, hop, status, reason, total))
        return destination if status == 'ok' else None


def _own_loop() -> None:
    """QEMU's library wants one per thread."""
    asyncio.set_event_loop(asyncio.new_event_loop())


def side_by_side(chains: Sequence[Chain], hops: int) -> List[Hop]:
    """A few guests at a time, each migrated so often."""
    with ThreadPoolExecutor(CHAINS, initializer=_own_loop) as pool:
        return [hop for done in pool.map(lambda chain: chain.run(hops), chains) for hop in done]


class Survey:
    """Chains of a kind side by side, until there have been so many migrations; the dead are replaced."""

    def __init__(self, kind: Kind, mode: Mode, settings: Settings, count: int, hops: int = HOPS) -> None:
        self.kind, self.mode, self.settings, self.hops = kind, mode, settings, hops
        self._lock = threading.Lock()
        self._left = count
        self._stop = False

    def _take(self) -> int:
        with self._lock:
            taken = 0 if self._stop else min(self.hops, self._left)
            self._left -= taken
            return taken

    def _chain(self, count: int) -> List[Hop]:
        done = Chain(self.kind, self.mode, self.settings).run(count)
        with self._lock:
            self._left += count - len(done)
        return done

    def _worker(self, tell: Callable[[Hop], None]) -> None:
        while True:
            count = self._take()
            if not count:
                return
            for hop in self._chain(count):
                with self._lock:
                    tell(hop)

    def run(self, tell: Callable[[Hop], None] = lambda hop: None) -> List[Hop]:
        """All of them; tell() hears of each."""
        hops: List[Hop] = []

        def heard(hop: Hop) -> None:
            hops.append(hop)
            tell(hop)
        with ThreadPoolExecutor(CHAINS, initializer=_own_loop) as pool:
            try:
                for future in as_completed([pool.submit(self._worker, heard) for _ in range(CHAINS)]):
                    future.result()
            finally:
                self._stop = True
        return hops


def write(path: Path, hops: Sequence[Hop]) -> None:
    """The table."""
    with path.open('w', encoding='utf-8', newline='') as out:
        writer = csv.writer(out, lineterminator='\n')
        writer.writerow(Hop._fields)
        writer.writerows(hops)


def survey(count: int, settings: Settings, directory: Path, modes: Sequence[str]) -> int:
    """scripts/lab --survival: every kind so often; 3 if a guest of Ballast died or lost data."""
    directory.mkdir(parents=True, exist_ok=True)
    progress = Progress(count * len(KINDS) * len(modes))
    hops: List[Hop] = []

    def tell(hop: Hop) -> None:
        hops.append(hop)
        write(directory / 'survival.csv', hops)
        progress.step(f'{hop.kind}, {hop.mode}', '' if hop.status == 'ok' else
                      f'{hop.kind}, {hop.mode}, migration {len(hops)}: {hop.status}: {hop.reason}')
    with busy_machine():
        for kind in KINDS:
            for mode in modes:
                mine = Survey(kind, mode_of(mode), settings, count).run(tell)
                progress.say(f'{kind.title}, {mode_of(mode).title}: {alive(mine)} of {len(mine)} alive')
    return verdict(hops)


def alive(hops: Sequence[Hop]) -> int:
    """How many guests were well after their migration."""
    return sum(hop.status == 'ok' for hop in hops)


def verdict(hops: Sequence[Hop]) -> int:
    """The exit status: as of the lab."""
    ours = [hop.status for hop in hops if hop.mode == 'ballast' and hop.status != 'ok']
    return 0 if not ours else 4 if set(ours) == {'failed'} else 3
