# SPDX-License-Identifier: GPL-2.0-or-later
"""migrate.*: what it costs to migrate memory that a Linux guest does not use, against stock QEMU.

Guests under TCG, a fresh boot for each migration, bandwidth unlimited.  The balloon has hints where the guest
has freed memory, and nowhere else, on both sides.

freed      2 GiB, 1.5 GiB written to files and deleted; with hints
ballooned  2 GiB, a fifth of it left
fresh      8 GiB, of which 256 MiB were touched, the kernel's own (220 MiB of it) included
full       1 GiB, nearly all of it in files: nothing to gain
memfd      1 GiB in a memfd, fresh: by how much the source's memory grows
"""

import os
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from ballast import paths
from guest import DEVICE, GIB, MIB, STOCK_DEVICE, GuestTrouble, LinuxGuest, image_missing

from report import Absent, Result, median_of
from warm import warm

PARAMETERS = {'max-bandwidth': 1 << 40}
MAX_DEATHS = 3
HINTS: Mapping[str, object] = {}
NO_HINTS: Mapping[str, object] = {'free-page-hint': 'off'}


class Scenario(NamedTuple):
    """A guest, and what it does before it is migrated."""

    memory: int
    prepare: Callable[[LinuxGuest], None]
    balloon: Mapping[str, object] = NO_HINTS
    extra: Tuple[str, ...] = ()


SCENARIOS = {
    'freed': Scenario(2 * GIB, lambda guest: guest.churn(1536), HINTS),
    'ballooned': Scenario(2 * GIB, lambda guest: guest.balloon(2 * GIB // 5 // MIB * MIB)),
    'fresh': Scenario(8 * GIB, lambda guest: guest.keep(36)),
    'full': Scenario(GIB, lambda guest: guest.keep(800)),
    'memfd': Scenario(GIB, lambda guest: None, NO_HINTS,
                      ('-object', f'memory-backend-memfd,id=ram,size={GIB}', '-machine', 'memory-backend=ram')),
}

NEEDS = {
    'migrate.ballooned': ('ballooned',), 'migrate.fresh': ('fresh',), 'migrate.full': ('full',),
    'migrate.memfd_growth': ('memfd',), 'migrate.zero_pages': ('freed', 'ballooned', 'fresh'),
}


class Sample(NamedTuple):
    """One migration."""

    total_ms: float
    downtime_ms: float
    pages: float
    zero_pages: float
    growth_percent: float
    absent: Mapping[str, Any]


def _memfd_bytes(guest: LinuxGuest) -> int:
    fds = Path(f'/proc/{guest.vm.get_pid()}/fd')
    return sum(fd.stat().st_blocks * 512 for fd in fds.iterdir() if os.readlink(fd).startswith('/memfd:'))


def _migrate(scenario: Scenario, ours: bool) -> Sample:
    with ExitStack() as stack:
        source, destination = (
            stack.enter_context(LinuxGuest('bench', scenario.memory, plugin={} if ours else None,
                                           device=DEVICE if ours else STOCK_DEVICE, balloon=scenario.balloon,
                                           extra=[*scenario.extra, *extra]))
            for extra in ((), ('-incoming', 'defer')))
        destination.vm.launch()
        source.start()
        scenario.prepare(source)
        before = _memfd_bytes(source)
        warm()
        info = source.migrate_to(destination, PARAMETERS)
        growth = 100 * (_memfd_bytes(source) - before) / scenario.memory
        destination.check_alive()
        absent = source.vm.qmp('query-free-page-hints')['absent'] if ours else {}
    return Sample(info['total-time'], info['downtime'], info['ram']['normal'], info['ram']['duplicate'],
                  growth, absent)


def _survivor(name: str, ours: bool) -> Sample:
    for _ in range(MAX_DEATHS):
        try:
            return _migrate(SCENARIOS[name], ours)
        except (GuestTrouble, TimeoutError) as trouble:
            print(f"{name}, {'Ballast' if ours else 'stock'}: dead: {trouble}", file=sys.stderr)
    raise AssertionError(f'{MAX_DEATHS} guests died ({name})')


class Samples(NamedTuple):
    """All migrations of a scenario."""

    ours: List[Sample]
    stock: List[Sample]


def _figures(samples: Sequence[Sample]) -> Dict[str, Any]:
    figures: Dict[str, Any] = {
        name: median_of([getattr(sample, key) for sample in samples])
        for name, key in (('total ms', 'total_ms'), ('downtime ms', 'downtime_ms'), ('pages', 'pages'),
                          ('zero pages', 'zero_pages'), ('growth %', 'growth_percent'))}
    if samples[0].absent:
        figures['scan ms'] = median_of([sample.absent['scan-time-ns'] / 1e6 for sample in samples])
    return figures


def _result(key: str, samples: Mapping[str, Samples]) -> Result:
    names = NEEDS[key]
    extra = {f'{name}, {who}': _figures(getattr(samples[name], field)) for name in names
             for who, field in (('Ballast', 'ours'), ('stock', 'stock'))}
    if key == 'migrate.zero_pages':
        sums = [[float(sum(parts)) for parts in zip(*([sample.zero_pages for sample in getattr(samples[name], field)]
                                                      for name in names))] for field in ('ours', 'stock')]
        return Result('pages', *sums, extra)
    value = 'growth_percent' if key == 'migrate.memfd_growth' else 'total_ms'
    name, = names
    return Result('%' if value == 'growth_percent' else 'ms', [getattr(one, value) for one in samples[name].ours],
                  [getattr(one, value) for one in samples[name].stock], extra)


def measure(keys: Sequence[str], rounds: int) -> Dict[str, Result]:
    """Each scenario that a key needs, stock and Ballast in turn."""
    missing: Optional[str] = image_missing() or (None if paths.has_ballast() else f'the plug-in ({paths.PLUGIN})')
    if missing:
        raise Absent(missing)
    names = [name for name in SCENARIOS if any(name in NEEDS[key] for key in keys)]
    samples = {name: Samples([], []) for name in names}
    warm()      # the first call moves so much memory that the next migration is slower
    for _ in range(rounds):
        for name in names:
            samples[name].stock.append(_survivor(name, False))
            samples[name].ours.append(_survivor(name, True))
    return {key: _result(key, samples) for key in keys}
