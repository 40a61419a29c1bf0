# SPDX-License-Identifier: GPL-2.0-or-later
"""One cell of the lab: boot, fill, migrate under load, look at everything on the other side."""

from __future__ import annotations

import base64
import mmap
import re
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence

from guest import APPEND, MIB, TROUBLE, GuestTrouble, LinuxGuest
from ballast import paths
from ballast.vm import VM, VMLaunchFailure, wait_until

from . import probe
from .plan import RATE, Cell, Shape

Row = Dict[str, Any]

INSIDE = Path(__file__).with_name('inside.sh')
DOWNTIME_MS = 300
ANSWER = 60.0               # seconds a living guest may take for an answer
PATIENCE = 5                # so often that, if its virtual processor had less than this to do it with
ENOUGH_MS = 30e3
SPARE = 128                 # MiB: the source grows, and QEMU itself
CHUNK = 3000                # characters of a line that the guest's console takes at once
WITHOUT_THP = ('import ctypes, os, sys; ctypes.CDLL(None).prctl(41, 1, 0, 0, 0); '
               'os.execvp(sys.argv[1], sys.argv[1:])')


@dataclass(frozen=True)
class Settings:
    """What holds for all cells of a run; a run can only be resumed with the same."""

    memory: int = 1024          # MiB of each guest
    rate: int = 32              # MiB/s that the dirtying guest writes
    limit: int = 64             # MiB/s of the limited transport
    timeout: int = 120          # seconds until a migration that does not end is cancelled
    qemu: str = ''
    stock_qemu: str = ''
    plugin: str = ''
    kernel: str = ''
    initrd: str = ''
    append: str = ''


class Skipped(Exception):
    """This machine has not what the cell needs."""


class Endless(Exception):
    """The migration did not converge, and was cancelled."""


class Lost(Exception):
    """The guest lives, and what it wrote is not there."""


def host_thp() -> str:
    """always, madvise or never."""
    path = Path('/sys/kernel/mm/transparent_hugepage/enabled')
    text = path.read_text('ascii') if path.exists() else '[never]'
    return text.partition('[')[2].partition(']')[0]


def _backing(shape: Shape, memory: int) -> List[str]:
    if shape.memory != 'memfd':
        return []
    return ['-object', f'memory-backend-memfd,id=ram0,size={memory}M,share=on', '-M', 'memory-backend=ram0']


def _boot_files(settings: Settings) -> List[str]:
    pairs = (('-kernel', settings.kernel), ('-initrd', settings.initrd),
             ('-append', settings.append and f'{APPEND} {settings.append}'))
    return [word for pair in pairs if pair[1] for word in pair]


def make_guest(cell: Cell, settings: Settings, *extra: str) -> LinuxGuest:
    """One side of the cell; not launched."""
    shape, mode = cell.shape, cell.mode
    if shape.memory == 'thp' and host_thp() == 'never':
        raise Skipped("transparent huge pages are 'never' on this host")
    return LinuxGuest(
        f'lab-{mode.key}', settings.memory * MIB, device=mode.device, plugin={} if mode.ballast else None,
        balloon={**mode.balloon, **shape.balloon}, binary=settings.qemu if mode.ballast else settings.stock_qemu,
        wrapper=(sys.executable, '-c', WITHOUT_THP) if shape.memory == 'small' else (),
        extra=[*_boot_files(settings), *_backing(shape, settings.memory), *extra])


def install(guest: LinuxGuest) -> None:
    """Type the lab's script into the guest."""
    text = base64.b64encode(INSIDE.read_bytes()).decode()
    guest.run(': >/tmp/lab.b64')
    for start in range(0, len(text), CHUNK):
        guest.run(f'echo {text[start:start + CHUNK]} >>/tmp/lab.b64')
    guest.run('base64 -d </tmp/lab.b64 >/tmp/lab.sh && chmod 755 /tmp/lab.sh')


def share(part: float, settings: Settings) -> int:
    """MiB, in whole pieces of the script."""
    return int(settings.memory * part) // 4 * 4


def warm(mib: int) -> None:
    """Touch memory and free it, so that the kernel hands out pages that this machine really has.

    In a virtual machine the first touch of a page may take forty times as long as the next one, and only
    the first mode of a group would pay for it.
    """
    with mmap.mmap(-1, mib * MIB, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as area:
        area.madvise(mmap.MADV_HUGEPAGE)
        for offset in range(0, mib * MIB, mmap.PAGESIZE):
            area[offset] = 1


class Source:
    """A guest that has been prepared for its cell, or what went wrong."""

    def __init__(self, cell: Cell, settings: Settings, stack: ExitStack) -> None:
        self.cell = cell
        self.settings = settings
        self.sums: List[str] = []
        self.guest = stack.enter_context(make_guest(cell, settings))

    def launch(self) -> None:
        """Begin to boot."""
        self.guest.vm.launch()

    def fill(self) -> None:
        """Begin to write."""
        self.guest.wait_boot()
        install(self.guest)
        shape = self.cell.shape
        self.guest.run(f'/tmp/lab.sh prepare {share(shape.keep, self.settings)} '
                       f'{share(shape.churn, self.settings)}')

    def ready(self) -> None:
        """Everything is written; then the guest stands still until it is its turn."""
        self.guest.run('until [ -e /tmp/lab/ready ]; do usleep 50000; done', 600)
        self.sums = self.guest.run('/tmp/lab.sh sums').split()
        if self.cell.shape.balloon_to:
            self.guest.balloon(share(self.cell.shape.balloon_to, self.settings) * MIB)
        if self.cell.shape.settle:
            settle(self.guest.vm)
        self.guest.vm.qmp('stop')

    def go(self) -> None:
        """It runs again, and writes."""
        self.guest.vm.qmp('cont')
        kind, rate, live = self.cell.shape.load
        rate = self.settings.rate if rate == RATE else rate
        self.guest.run(f'/tmp/lab.sh start {kind} {rate} {share(live, self.settings)}')


def settle(machine: VM, quiet: float = 2.5, timeout: float = 30.0) -> None:
    """Until QEMU's memory has not shrunk for a while: reports come in every two seconds."""
    deadline = time.monotonic() + timeout
    low, since = probe.held_now(machine), time.monotonic()
    while time.monotonic() < min(since + quiet, deadline):
        time.sleep(0.1)
        now = probe.held_now(machine)
        if now < low - MIB:
            low, since = now, time.monotonic()


def _uri(cell: Cell, destination: VM) -> str:
    return ('file:' if cell.transport.file else 'unix:') + f'{destination.temp_dir}/migration'


def _configure(cell: Cell, settings: Settings, source: VM, destination: VM) -> None:
    bandwidth = settings.limit * MIB if cell.transport.limited else 1 << 40
    for machine in (source, destination):
        machine.set_capabilities({'events': True, **cell.transport.capabilities})
        if cell.transport.parameters:
            machine.qmp('migrate-set-parameters', dict(cell.transport.parameters))
    source.qmp('migrate-set-parameters', {'max-bandwidth': bandwidth, 'downtime-limit': DOWNTIME_MS})


class Watch:
    """What both sides use while a migration runs."""

    def __init__(self, source: VM, destination: VM) -> None:
        self.sides = {'source': source, 'destination': destination}
        self.processor = {name: probe.processor(side) for name, side in self.sides.items()}
        self.memory = {name: probe.memory(side) for name, side in self.sides.items()}
        self.peak = {name: memory.held for name, memory in self.memory.items()}

    def look(self) -> None:
        """Now and then."""
        for name, side in self.sides.items():
            self.peak[name] = max(self.peak[name], probe.held_now(side))

    def row(self) -> Row:
        """Everything so far."""
        self.look()
        row: Row = {}
        for name, side in self.sides.items():
            used = probe.processor(side).since(self.processor[name])
            now = probe.memory(side)
            row.update({f'{name}_cpu_ms': round(used.all, 1), f'{name}_vcpu_ms': round(used.vcpu, 1),
                        f'{name}_iothread_ms': round(used.iothread, 2), f'{name}_rss': now.rss,
                        f'{name}_pss': now.pss, f'{name}_memfd': now.shmem, f'{name}_huge': now.huge,
                        f'{name}_growth': self.peak[name] - self.memory[name].held})
        return row


def _ended(machine: VM) -> bool:
    info = machine.migration()
    if info.get('status') in ('failed', 'cancelled'):
        raise RuntimeError(f"migration {info['status']}: {info.get('error-desc') or machine.log()[-300:]}")
    return bool(info.get('status') == 'completed')


def _wait(machine: VM, watch: Watch, timeout: float) -> None:
    """Until this side is through; looks at memory five times a second."""
    deadline = time.monotonic() + timeout
    look = 0.0
    while not _ended(machine):
        now = time.monotonic()
        if now > deadline:
            raise Endless(f'did not converge in {timeout:.0f} s')
        if now >= look:
            watch.look()
            look = now + 0.2
        time.sleep(0.01)


def _cancel(source: LinuxGuest) -> None:
    source.vm.qmp('migrate_cancel')
    wait_until(lambda: source.vm.migration().get('status') == 'cancelled', 'the migration to be cancelled')


def _send(cell: Cell, settings: Settings, source: LinuxGuest, destination: LinuxGuest) -> Row:
    """The migration itself."""
    _configure(cell, settings, source.vm, destination.vm)
    watch = Watch(source.vm, destination.vm)
    uri = _uri(cell, destination.vm)
    if not cell.transport.file:
        destination.vm.qmp('migrate-incoming', uri=uri)
    source.vm.qmp('migrate', uri=uri)
    try:
        _wait(source.vm, watch, settings.timeout)
    except Endless:
        _cancel(source)
        raise
    row = _load(uri, destination.vm, watch) if cell.transport.file else {}
    _wait(destination.vm, watch, settings.timeout)
    return {**row, **watch.row()}


def _load(uri: str, destination: VM, watch: Watch) -> Row:
    """A file is read when it is complete."""
    begun = time.monotonic()
    size = Path(uri.partition(':')[2]).stat().st_blocks * 512
    destination.qmp('migrate-incoming', uri=uri)
    _wait(destination, watch, ANSWER)
    return {'load_ms': round((time.monotonic() - begun) * 1000, 1), 'file_bytes': size}


def _statistics(source: VM) -> Row:
    info = source.migration()
    ram = info['ram']
    row = {'total_ms': info['total-time'], 'downtime_ms': info['downtime'], 'bytes': ram['transferred'],
           'pages': ram['normal'], 'zero_pages': ram['duplicate'], 'syncs': ram['dirty-sync-count']}
    if source.knows_command('query-free-page-hints'):
        hints = source.qmp('query-free-page-hints')
        row['hints'] = hints
        row.update({f'hints_{name}': hints['migration'][name] for name in ('applied', 'late')},
                   hints_bytes=hints['migration']['applied-bytes'],
                   absent_pages=hints.get('absent', {}).get('skipped'))
    return row


def wait_answer(guest: LinuxGuest) -> None:
    """Dead is who had processor time and did not answer; who had none may be on a machine that is too busy."""
    begun = used = 0.0
    for _ in range(PATIENCE):
        begun = begun or probe.processor(guest.vm).vcpu
        try:
            guest.try_run('echo alive', ANSWER)
            return
        except TimeoutError:
            used = probe.processor(guest.vm).vcpu - begun
            if used > ENOUGH_MS:
                break
    raise GuestTrouble(f'does not answer; its processor has run for {used / 1e3:.0f} s meanwhile')


def _check(source: Source, destination: LinuxGuest) -> Row:
    """The guest lives, its files hold, and its load has met nothing wrong on either side."""
    wait_answer(destination)
    destination.check_alive()
    wrong = wrong_files(destination.run('/tmp/lab.sh kept', 300), source.sums)
    before = int(destination.run('/tmp/lab.sh count', ANSWER).split()[0])
    wait_until(lambda: int(destination.run('/tmp/lab.sh count').split()[0]) > before,
               'the load to go on', PATIENCE * ANSWER)
    pieces, bad = (int(word) for word in destination.run('/tmp/lab.sh stop', 300).split())
    destination.check_alive()
    if wrong or bad:
        raise Lost(f'{len(wrong)} of the kept pieces and {bad} of the load differ')
    return {'checked_pieces': pieces}


def wrong_files(text: str, sums: Sequence[str]) -> List[int]:
    """Numbers of pieces whose checksum is not that of their version; nothing to look at is wrong, too."""
    pieces = {int(number): checksum for number, checksum in (line.split() for line in text.splitlines())}
    if not pieces or sorted(pieces) != list(range(len(pieces))):
        raise Lost(f'the guest lists {len(pieces)} kept pieces, with gaps')
    return [number for number, checksum in pieces.items() if checksum != sums[number % len(sums)]]


def migrate(source: Source, stack: ExitStack) -> Row:
    """The cell's row; raises what went wrong."""
    destination = stack.enter_context(make_guest(source.cell, source.settings, '-incoming', 'defer'))
    destination.vm.launch()
    warm(source.settings.memory + SPARE)
    source.go()
    row = _send(source.cell, source.settings, source.guest, destination)
    row.update(_statistics(source.guest.vm))
    if source.cell.shape.memory == 'thp' and not row['source_huge']:
        raise Skipped('the kernel gave QEMU no huge pages')
    try:
        row.update(_check(source, destination))
    except (GuestTrouble, TimeoutError) as trouble:
        row.update(status='dead', reason=why_dead(destination, trouble))
        keep_log(destination, '-'.join(map(str, source.cell.key)))
    except Lost as loss:
        row.update(status='lost', reason=one_line(loss))
    return {'status': 'ok', 'reason': '', **row}


def why_dead(guest: LinuxGuest, trouble: BaseException) -> str:
    """What its console tells of the fault, else how it was noticed."""
    pattern = '|'.join(TROUBLE)
    lines = [line for port in guest.vm.serial for line in port.text.splitlines() if re.search(pattern, line)]
    if not lines and isinstance(trouble, TimeoutError):
        return 'does not answer'
    return one_line(lines[0] if lines else trouble)


def keep_log(guest: LinuxGuest, name: str) -> Path:
    """Everything that helps to find out why: what QEMU, the console and, if it answers, the kernel say."""
    parts = [f'== QEMU\n{guest.vm.log()}', *(f'== console\n{port.text}' for port in guest.vm.serial)]
    try:
        parts.append(f"== dmesg\n{guest.run('dmesg | cat -n')}\n== uptime\n{guest.run('cat /proc/uptime')}")
    except Exception as error:  # pylint: disable=broad-except
        parts.append(f'== no dmesg: {one_line(error)}')
    path = paths.BUILD / 'lab' / f'{name}.log'
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text('\n'.join(parts), 'utf-8', errors='replace')
    return path


def one_line(error: object, length: int = 300) -> str:
    """The reason as one line, without anybody's paths."""
    text = getattr(error, 'output', '') or str(error) or type(error).__name__
    words = ' '.join(str(text).split())
    return words[-length:] if isinstance(error, VMLaunchFailure) else words[:length]


def failure(error: BaseException) -> Row:
    """A row for a cell that has no figures: nobody can say that it lost something."""
    kinds = {Skipped: 'skipped', Endless: 'endless'}
    status = next((name for kind, name in kinds.items() if isinstance(error, kind)), 'failed')
    return {'status': status, 'reason': one_line(error)}


def attempt(step: Callable[[Source], None], source: Source) -> Optional[Row]:
    """Run a step of a cell; the row of its failure, or None."""
    try:
        step(source)
    except (GuestTrouble, TimeoutError) as trouble:
        return {'status': 'failed', 'reason': f'before the migration: {why_dead(source.guest, trouble)}'}
    except Exception as error:  # pylint: disable=broad-except
        return failure(error)
    return None


def figures(row: Mapping[str, Any]) -> bool:
    """The cell has something to draw."""
    return row.get('status') in ('ok', 'lost', 'dead') and 'total_ms' in row
