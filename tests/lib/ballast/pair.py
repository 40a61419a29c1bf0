# SPDX-License-Identifier: GPL-2.0-or-later
"""A real migration between two VMs whose pages are written by the firmware's vCPU, and what differs after it.

A migration that is *kept going* has a vCPU that dirties 16 MiB all the time, half a second's worth of sending,
and a threshold of less than a page: it sends everything that is dirty, again and again, and ends only when the
vCPU is stopped.  A *slow* one sends a page in 100 ms: it stays in its generation until harvest() ends that.
"""

from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Sequence

from . import mailbox, paths, tap, virtio
from .vm import VM, differences, start_migration, wait_migration, wait_until

MIB = 1 << 20
PAGE = virtio.PAGE
MEMORY = 256 * MIB
AREA = 64 * MIB                 # what a case works on; nothing else touches it
BUSY, BUSY_BYTES = 16 * MIB, 16 * MIB     # what keeps a migration going
FAST, STEADY, SLOW = 1 << 40, 32 * MIB, 1000
DATA = 0x5eed5eed
SPARE, SPARE_BYTES = 160 * MIB, 8 * MIB     # what harvest() dirties, a new piece each time


def memfd(size: int, extra: str = '') -> List[str]:
    """RAM in a memfd."""
    return ['-object', f'memory-backend-memfd,id=ram,size={size}{extra}', '-machine', 'memory-backend=ram']


@dataclass
class Pair:
    """A migration's two ends, and the vCPU of the source."""

    src: VM
    dst: VM
    box: mailbox.Mailbox
    bandwidth: int = FAST
    harvests: int = 0

    def absent(self) -> Dict[str, Any]:
        """What query-free-page-hints says."""
        return dict(self.src.qmp('query-free-page-hints')['absent'])

    def ram(self) -> Dict[str, int]:
        """What query-migrate says."""
        return dict(self.src.migration().get('ram', {}))

    def limit(self, bandwidth: int, threshold: int) -> None:
        """How fast, and when it may end."""
        self.src.qmp('migrate-set-parameters', {'max-bandwidth': bandwidth, 'downtime-limit': 1000,
                                                'avail-switchover-bandwidth': threshold})

    def start(self, bandwidth: int = STEADY) -> None:
        """A migration that does not end by itself; a slow one has enough to send without a loop."""
        self.bandwidth = bandwidth
        self.limit(bandwidth, PAGE - 1)
        self.src.qtest.do(f'memset {BUSY:#x} {BUSY_BYTES:#x} 0x5a')
        self._loop()
        start_migration(self.src, self.dst)
        wait_until(lambda: self.ram().get('dirty-sync-count', 0) >= 1, 'the migration to begin')

    def _until(self, condition: Callable[[], bool], what: str) -> None:
        """Wait for something in a migration that goes on.

        A vCPU that has no processor for a second dirties nothing, and lets it end.
        """
        wait_until(lambda: condition() or self.src.migration().get('status') == 'completed', what)
        if not condition():
            raise tap.Again(f'waiting for {what}, the migration ended')

    def _stop_loop(self) -> None:
        self.box.begin_stop()
        self._until(self.box.acknowledged, 'the loop to end')

    def _loop(self) -> None:
        # a vCPU that writes without pause can overflow the dirty ring of some kernels (seen with kvm-pvm)
        if self.bandwidth > SLOW:
            self.box.start_loop(BUSY, BUSY_BYTES)

    def go_on(self) -> None:
        """Not slow any more."""
        self.bandwidth = STEADY
        self._loop()
        self.limit(self.bandwidth, PAGE - 1)

    def send(self) -> None:
        """Return when all that was dirty has been sent."""
        before = self.ram()['dirty-sync-count']
        self._until(lambda: self.ram()['dirty-sync-count'] >= before + 2, 'two more harvests')

    def harvest(self) -> None:
        """End the generation of a slow migration and stay in the next one; next to nothing is sent."""
        before = self.ram()
        # what remains is below the threshold, so QEMU harvests; what it finds is more, so it goes on
        self.src.qtest.do(f'memset {SPARE + self.harvests * SPARE_BYTES:#x} {SPARE_BYTES:#x} 0x5b')
        self.harvests += 1
        self.limit(SLOW, before['remaining'] + SPARE_BYTES // 2)
        wait_until(lambda: self.ram()['dirty-sync-count'] > before['dirty-sync-count'], 'a harvest')
        self.limit(SLOW, PAGE - 1)
        tap.equal(self.ram()['dirty-sync-count'], before['dirty-sync-count'] + 1, 'generation')

    def finish(self) -> Dict[str, Any]:
        """Let it end; the source's query-migrate."""
        self._stop_loop()
        self.limit(FAST, 0)
        return wait_migration(self.src, self.dst)

    def migrate(self, capabilities: Optional[Mapping[str, bool]] = None) -> Dict[str, Any]:
        """From beginning to end."""
        self.limit(FAST, 0)
        start_migration(self.src, self.dst, capabilities)
        return wait_migration(self.src, self.dst)

    def do(self, action: Callable[[], None]) -> None:
        """Interrupt the vCPU's loop for a command."""
        self.limit(SLOW, PAGE - 1)
        self._stop_loop()
        action()
        self._loop()
        self.limit(self.bandwidth, PAGE - 1)

    def differ(self, start: int = 4 * MIB, length: int = MEMORY - 4 * MIB) -> List[str]:
        """Where the memory of the two ends differs (the firmware's own is left out)."""
        return [hex(page) for page in differences(self.src, self.dst, start, length, PAGE)]

    def check(self, *holds: int) -> None:
        """Both ends are the same, and these pages of AREA hold DATA on the destination."""
        wrong = self.differ()
        assert not wrong, f'{len(wrong)} pages differ, first {wrong[:4]}'
        for offset in holds:
            tap.equal(self.dst.qtest.readl(AREA + offset), DATA, f'the page at AREA + {offset:#x}')


@contextmanager
def pair(accel: str, *extra: str, plugin: bool = True, balloon: str = '', memory: int = MEMORY,
         own: Optional[Mapping[str, Sequence[str]]] = None) -> Iterator[Pair]:
    """Two VMs, the source running its firmware; `own` has arguments that only src or dst gets."""
    kind = mailbox.ACCELS[accel]
    tap.need(not kind.missing(), kind.missing())
    tap.need(paths.FIRMWARE.exists(), f'the firmware ({paths.FIRMWARE})')
    tap.need(not plugin or paths.has_ballast(), f'the plug-in ({paths.PLUGIN})')
    args = [*mailbox.microvm(f'{memory // MIB}M'), *kind.args, *extra]
    if balloon:
        args += ['-object', 'iothread,id=iot', '-device', f'{balloon},id=balloon0,iothread=iot']
    with ExitStack() as stack:
        src, dst = (stack.enter_context(VM([*args, *(own or {}).get(name, ()), *more], env=kind.env,
                                           plugin={} if plugin else None, name=name))
                    for name, more in (('src', ()), ('dst', ('-incoming', 'defer'))))
        dst.launch()
        yield Pair(src, dst, mailbox.boot(src))
