# SPDX-License-Identifier: GPL-2.0-or-later
"""series.off_*: what the patch series costs where nothing of Ballast is used.

build/qemu against build/qemu-stock: the same source, configured and compiled the same way, with the series and
without it.  Both get the same command line, QEMU's own balloon in it, and nothing of Ballast.

off_boot     a Linux guest under TCG, from the start of QEMU to its shell
off_migrate  the same guest with most of its memory in use, migrated to /dev/null again and again: all the source's
             work and nothing else, so no destination and no socket water down what the series might add

Both sides take turns, and who begins changes.  A step of two percent is to be seen, and on a virtual machine most
of a sample's excess comes from its neighbours and only ever adds: so the figure is processor time, and of each
round the mean of the quickest quarter.  What the clock says is an extra figure.  A round has both builds in four
layouts (layouts.py), which differ by more than the limit for one and the same build: the figure is the mean over
them, and what each gave is an extra figure.  Two processes of one build differ by up to five percent, as long as they
live: each layout has two pairs of guests, and who is started first changes, too.  The last guests of a round are
really migrated, and what they kept is checked there.
"""

import os
import time
from contextlib import ExitStack
from pathlib import Path
from statistics import mean
from typing import Dict, List, Mapping, NamedTuple, Sequence

from ballast import paths
from ballast.vm import wait_migration
from guest import GIB, MIB, PAGE, STOCK_DEVICE, LinuxGuest, image_missing

import layouts
from report import Absent, Result, median_of

MEMORY = GIB
USED_MIB = 700
SAMPLES = {'series.off_boot': 4, 'series.off_migrate': 8}      # of each side and pair in a round
PAIRS = 2
PARAMETERS = {'max-bandwidth': 1 << 40}
# a memfd has small pages; of anonymous memory one process may get huge ones, and the other not
BACKEND = ('-object', f'memory-backend-memfd,id=ram,size={MEMORY}', '-machine', 'memory-backend=ram')
BUILDS = {'series': ('qemu', 'scripts/build-qemu'), 'stock': ('qemu-stock', 'scripts/build-qemu --stock')}


class Sample(NamedTuple):
    """One boot or migration."""

    processor_ms: float
    clock_ms: float


Samples = Dict[str, List[Sample]]       # by side
Round = Dict[int, List[Samples]]        # by layout; who begins changes


def _binary(side: str) -> Path:
    return paths.BUILD / BUILDS[side][0] / 'qemu-system-x86_64'


def _processor_ns(guest: LinuxGuest) -> int:
    """Of all threads that the process has or had: its clock, as the kernel numbers them."""
    pid = guest.vm.get_pid()
    assert pid is not None
    return time.clock_gettime_ns((~pid << 3) | 2)


def _guest(side: str, layout: int, *extra: str) -> LinuxGuest:
    return LinuxGuest(side, MEMORY, device=STOCK_DEVICE, balloon={'free-page-hint': 'off'}, extra=[*BACKEND, *extra],
                      binary=str(layouts.made(_binary(side))[layout]))


def _in_order(turn: int) -> List[str]:
    return sorted(BUILDS, reverse=turn % 2 == 0)


def _turns(number: int) -> List[str]:
    return [side for turn in range(number) for side in _in_order(turn)]


def _boot(side: str, layout: int) -> Sample:
    with _guest(side, layout) as guest:
        begun = time.monotonic_ns()
        guest.start()
        return Sample(_processor_ns(guest) / 1e6, (time.monotonic_ns() - begun) / 1e6)


def _boots(number: int, layout: int) -> List[Samples]:
    samples: Samples = {side: [] for side in BUILDS}
    for side in _turns(number):
        samples[side].append(_boot(side, layout))
    return [samples]


def _to_nowhere(guest: LinuxGuest) -> Sample:
    vm = guest.vm
    nowhere = os.open(os.devnull, os.O_WRONLY)
    vm.send_fd_scm(fd=nowhere)
    os.close(nowhere)
    vm.qmp('getfd', fdname='nowhere')
    before = _processor_ns(guest)
    vm.qmp('migrate', uri='fd:nowhere')
    info = wait_migration(vm)
    spent = _processor_ns(guest) - before
    assert info['ram']['normal'] * PAGE > USED_MIB * MIB, info['ram']
    vm.qmp('cont')
    return Sample(spent / 1e6, info['total-time'])


def _check(side: str, layout: int, guest: LinuxGuest) -> None:
    """It still runs, and arrives with all that it kept."""
    with _guest(side, layout, '-incoming', 'defer') as target:
        target.vm.launch()
        guest.migrate_to(target, PARAMETERS)
        target.check_alive()
        target.check_kept()


def _pair(number: int, layout: int, pair: int) -> Samples:
    samples: Samples = {side: [] for side in BUILDS}
    with ExitStack() as stack:
        guests = {side: stack.enter_context(_guest(side, layout)) for side in _in_order(pair)}
        for guest in guests.values():
            guest.start()
            guest.keep(USED_MIB)
            guest.vm.qmp('migrate-set-parameters', dict(PARAMETERS))
            _to_nowhere(guest)              # busy with its files until then
        for side in _turns(number):
            samples[side].append(_to_nowhere(guests[side]))
        if (layout, pair) == (layouts.NUMBER - 1, PAIRS - 1):
            for side, guest in guests.items():
                _check(side, layout, guest)
    return samples


def _migrations(number: int, layout: int) -> List[Samples]:
    return [_pair(number, layout, pair) for pair in range(PAIRS)]


MEASURES = {'series.off_boot': _boots, 'series.off_migrate': _migrations}


def _quickest(samples: Sequence[Sample], name: str) -> float:
    """Mean of the quickest quarter."""
    values = sorted(getattr(sample, name) for sample in samples)
    return mean(values[:max(len(values) // 4, 1)])


def _of_layout(pairs: Sequence[Samples], side: str, name: str) -> float:
    return mean(_quickest(samples[side], name) for samples in pairs)


def _figure(one: Round, side: str, name: str) -> float:
    return mean(_of_layout(samples, side, name) for samples in one.values())


def _result(key: str, rounds: Sequence[Round]) -> Result:
    figures = {name: {side: [_figure(one, side, name) for one in rounds] for side in BUILDS} for name in Sample._fields}
    clock = {side: median_of(values) for side, values in figures['clock_ms'].items()}
    extra = {'by the clock': _compared(clock)}
    for layout in range(layouts.NUMBER):
        extra[f'layout {layout}'] = _compared({side: median_of([_of_layout(one[layout], side, 'processor_ms')
                                                                 for one in rounds]) for side in BUILDS})
    return Result('ms', figures['processor_ms']['series'], figures['processor_ms']['stock'],
                  {f'{key[len("series."):]}, {name}': figure for name, figure in extra.items()})


def _compared(figures: Mapping[str, float]) -> Dict[str, float]:
    return {**{f'{side} ms': figure for side, figure in figures.items()}, 'ratio': figures['series'] / figures['stock']}


def measure(keys: Sequence[str], rounds: int) -> Dict[str, Result]:
    """Both builds in turn."""
    missing = image_missing() or ', '.join(f'{_binary(side)} ({script})' for side, (_, script) in BUILDS.items()
                                           if not _binary(side).exists())
    if missing:
        raise Absent(missing)
    return {key: _result(key, [{layout: MEASURES[key](SAMPLES[key], layout) for layout in range(layouts.NUMBER)}
                               for _ in range(rounds)]) for key in keys}
