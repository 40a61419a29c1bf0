# SPDX-License-Identifier: GPL-2.0-or-later
"""migrate.arm_stall: for how long a vCPU stands still when a migration begins, per GiB of populated memory.

A microvm with KVM; its vCPU writes a page and then a register of a device, again and again: so it needs the dirty
log's lock, and QEMU's big lock.  Another process reads its count of laps from QEMU's memory as fast as it can,
while a migration begins with hints negotiated, which is when Ballast arms and looks for absent pages.  The figure
is the longest time in which the count stood still, so it contains what stock QEMU's setup costs; the reference is
stock QEMU.  On a busy machine it is mostly the scheduler's delay, for both: the smallest of five is taken.
"""

import os
import re
import time
from multiprocessing import Event, Pipe, Process
from pathlib import Path
from typing import Any, Dict, Sequence

from ballast import mailbox, paths, virtio
from ballast.vm import VM, Sink, wait_until

from report import Absent, Result, median_of

MIB, GIB = 1 << 20, 1 << 30
MEMORY, POPULATED = GIB, GIB // 2
START = 256 * MIB
PAGE_WRITTEN = 64 * MIB
REGISTER = 0xfeb00000 + 23 * 512        # the balloon is in the last slot of the machine
LAPS = mailbox.BASE + 32


def _ram(pid: int) -> int:
    """Where QEMU has the guest's RAM."""
    for line in Path(f'/proc/{pid}/maps').read_text(encoding='ascii').splitlines():
        begin, end = (int(text, 16) for text in re.split('[- ]', line)[:2])
        if end - begin >= MEMORY:
            return begin
    raise LookupError('no mapping of the size of the RAM')


def _watch(pid: int, address: int, stop: Any, result: Any) -> None:
    """The longest time in which the count stood still."""
    memory = os.open(f'/proc/{pid}/mem', os.O_RDONLY)
    last, since, longest = b'', time.monotonic_ns(), 0
    while not stop.is_set():
        laps, now = os.pread(memory, 4, address), time.monotonic_ns()
        if laps != last:
            last, since = laps, now
        elif now - since > longest:
            longest = now - since
    result.send(longest)


def _stall(ours: bool) -> Dict[str, float]:
    kind = 'virtio-balloon-ledger-device' if ours else 'virtio-balloon-device'
    args = [*mailbox.microvm(f'{MEMORY // MIB}M'), *mailbox.ACCELS['kvm'].args, '-object', 'iothread,id=iot',
            '-device', f'{kind},id=balloon0,free-page-hint=on,iothread=iot']
    with VM(args, plugin={} if ours else None, name='bench') as vm:
        box = mailbox.boot(vm)
        virtio.Balloon(virtio.find_mmio(vm.qtest), virtio.HINT)
        vm.qtest.do(f'memset {START:#x} {POPULATED:#x} 0x5a')
        box.start_loop(PAGE_WRITTEN, 4096, REGISTER)
        box.wait_full_lap()
        pid = vm.get_pid()
        assert pid is not None
        stop, (ours_end, theirs) = Event(), Pipe()
        watcher = Process(target=_watch, args=(pid, _ram(pid) + LAPS, stop, theirs))
        watcher.start()
        time.sleep(0.1)
        vm.qmp('migrate-set-parameters', {'max-bandwidth': 1000})
        vm.qmp('migrate', uri=f'unix:{Sink(vm).path}')
        wait_until(lambda: vm.migration().get('ram', {}).get('dirty-sync-count'), 'the first harvest')
        time.sleep(0.1)
        stop.set()
        longest = ours_end.recv()
        watcher.join()
        info = vm.qmp('query-free-page-hints') if ours else None
    return {'stall': longest / 1e6, **({} if info is None else {
        'armed ms': info['arm-max-ns'] / 1e6, 'longest piece ms': info['absent']['scan-max-ns'] / 1e6})}


def measure(keys: Sequence[str], rounds: int) -> Dict[str, Result]:
    """Both in turn; of five measurements the smallest, which has least of the scheduler in it."""
    lacks = mailbox.ACCELS['kvm'].missing() or (None if paths.has_ballast() else f'the plug-in ({paths.PLUGIN})')
    if lacks:
        raise Absent(lacks)
    samples = [tuple(min((_stall(ours) for _ in range(5)), key=lambda one: one['stall'])
                     for ours in (False, True)) for _ in range(rounds)]
    per_gib = POPULATED / GIB
    extra = {'Ballast, 512 MiB populated': {name: median_of([ours[name] for _, ours in samples]) for name in samples[0][1]},
             'stock, 512 MiB populated': {'stall': median_of([stock['stall'] for stock, _ in samples])}}
    return {key: Result('ms', [ours['stall'] / per_gib for _, ours in samples],
                        [stock['stall'] / per_gib for stock, _ in samples], extra) for key in keys}
