# SPDX-License-Identifier: GPL-2.0-or-later
"""migrate.* and hint.iothread_cpu: live migration of a Linux guest, most of whose memory is free but dirty.

2 GiB under TCG; 1.5 GiB are written to files and deleted before.  A round migrates one freshly booted
guest per variant, one after the other.  Bandwidth is unlimited, so the processors decide.  The same
migrations serve all three keys.

Debian's kernel zeroes what it allocates (init_on_alloc), so also each page that it is about to hint: that
takes longer than migrating what is left.  So the variants with hints are measured a second time, with
init_on_alloc=0, as an extra figure: a guest that answers at once shows what the device is worth.  (How long
the zeroing takes depends on the guest's processor: see CPU in tests/functional/guest.py.)

A guest has to run and to have printed no oops on the other side.  One that died is counted, shown, and
measured again: stock QEMU can lose guest writes to hints.
"""

import sys
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Sequence

from ballast import paths
from guest import APPEND, DEVICE, GIB, MIB, STOCK_DEVICE, GuestTrouble, LinuxGuest, image_missing

from processor import usage
from report import Absent, Result, median_of
from warm import warm_if_asked

MEMORY = 2 * GIB
CHURN_MIB = 1536
ANSWER_TIMEOUT = 20.0
MAX_DEATHS = 3              # per variant, then the measurement has failed
PARAMETERS = {'max-bandwidth': 1 << 40}


class Variant(NamedTuple):
    """What is migrated."""

    name: str
    device: str
    plugin: Optional[Mapping[str, object]]
    balloon: Mapping[str, object]
    append: str = ''        # to the guest's kernel


PROMPT = 'init_on_alloc=0'

OURS = Variant('Ballast', DEVICE, {}, {})
HINTS = Variant('stock, hints', STOCK_DEVICE, None, {})
PLAIN = Variant('stock, no hints', STOCK_DEVICE, None, {'free-page-hint': 'off'})

REFERENCES = {'hint.iothread_cpu': HINTS, 'migrate.freed_vs_hints': HINTS, 'migrate.freed_vs_plain': PLAIN}


class Sample(NamedTuple):
    """One migration."""

    total_ms: float
    downtime_ms: float
    mib_sent: float
    pages_sent: float
    zero_pages: float
    iothread_ms: float
    main_ms: float


@dataclass
class Samples:
    """All migrations of a variant."""

    good: List[Sample] = field(default_factory=list)
    deaths: int = 0

    def each(self, name: str) -> List[float]:
        """One figure of each."""
        return [getattr(sample, name) for sample in self.good]


def _prompt(variant: Variant) -> Variant:
    """The same with a guest that hints as fast as it can."""
    return variant._replace(name=f'{variant.name}, {PROMPT}', append=PROMPT)


def _alive(guest: LinuxGuest, name: str) -> bool:
    try:
        guest.try_run('echo alive', ANSWER_TIMEOUT)
        guest.check_alive()
    except (GuestTrouble, TimeoutError) as trouble:
        print(f'{name}: dead after its migration: {trouble}', file=sys.stderr)
        return False
    return True


def _sample(source: LinuxGuest, destination: LinuxGuest) -> Sample:
    warm_if_asked()
    before = usage(source.vm)
    info = source.migrate_to(destination, PARAMETERS)
    used = usage(source.vm).since(before)
    ram = info['ram']
    return Sample(info['total-time'], info['downtime'], ram['transferred'] / MIB, ram['normal'],
                  ram['duplicate'], used.iothread / 1e6, used.main_loop / 1e6)


def _migrate(variant: Variant) -> Optional[Sample]:
    """Boot, use and free memory, migrate; None if the guest did not survive."""
    kernel = ['-append', f'{APPEND} {variant.append}']     # the last one counts
    with ExitStack() as stack:
        source, destination = (
            stack.enter_context(LinuxGuest('bench', MEMORY, plugin=variant.plugin, device=variant.device,
                                           balloon=variant.balloon, extra=[*kernel, *extra]))
            for extra in ((), ('-incoming', 'defer')))
        destination.vm.launch()
        source.start()
        source.churn(CHURN_MIB)
        sample = _sample(source, destination)
        alive = _alive(destination, variant.name)
    return sample if alive else None


def _survivor(variant: Variant, samples: Samples) -> None:
    """Measure until a guest lives."""
    while True:
        sample = _migrate(variant)
        if sample:
            samples.good.append(sample)
            return
        samples.deaths += 1
        assert samples.deaths <= MAX_DEATHS, f'{samples.deaths} guests died ({variant.name})'


def _figures(samples: Samples) -> Dict[str, Any]:
    names = {'total_ms': 'total ms', 'downtime_ms': 'downtime ms', 'mib_sent': 'MiB sent',
             'pages_sent': 'pages', 'zero_pages': 'zero pages', 'iothread_ms': 'I/O thread ms',
             'main_ms': 'main loop ms'}
    figures: Dict[str, Any] = {title: median_of(samples.each(name)) for name, title in names.items()}
    return {**figures, 'deaths': samples.deaths}


def _with_prompt(variant: Variant) -> List[Variant]:
    """A variant that has hints is measured with both guests."""
    return [variant] if variant is PLAIN else [variant, _prompt(variant)]


def _result(key: str, samples: Mapping[str, Samples]) -> Result:
    name = 'iothread_ms' if key == 'hint.iothread_cpu' else 'total_ms'
    ours, theirs = _with_prompt(OURS), _with_prompt(REFERENCES[key])
    prompt = [median_of(samples[variants[-1].name].each(name)) for variants in (ours, theirs)]
    extra: Dict[str, Any] = {variant.name: _figures(samples[variant.name]) for variant in ours + theirs}
    extra[f'ratio with {PROMPT}'] = prompt[0] / prompt[1]
    return Result('ms', samples[OURS.name].each(name), samples[REFERENCES[key].name].each(name), extra)


def measure(keys: Sequence[str], rounds: int) -> Dict[str, Result]:
    """Those of REFERENCES that are asked for, rounds interleaved."""
    missing = image_missing() or (None if paths.has_ballast() else f'the plug-in ({paths.PLUGIN})')
    if missing:
        raise Absent(missing)
    references = {REFERENCES[key].name for key in keys}
    variants = [variant for kind in (PLAIN, HINTS, OURS) if kind is OURS or kind.name in references
                for variant in _with_prompt(kind)]
    samples = {variant.name: Samples() for variant in variants}
    for _ in range(rounds):
        for variant in variants:
            _survivor(variant, samples[variant.name])
    return {key: _result(key, samples) for key in keys}
