# SPDX-License-Identifier: GPL-2.0-or-later
"""numa.sample, numa.stall_*, numa.exact_*: what it costs to see where memory is.

numa.sample asks real QEMUs of 1 to 16 GiB, all of it populated in small pages, as far as this machine has the
memory; the figure is that of the slowest size, the reference that of the smallest.  The others are a C program with
the plug-in's own code: it needs a thread in the same process, and the raw system call beside it.
"""

import re
import statistics
import subprocess
from pathlib import Path
from typing import Any, Dict, List, Sequence, Tuple

from ballast import paths
from ballast.vm import VM

from report import Absent, Result, median_of

GIB = 1 << 30
PROGRAM = paths.BUILD / 'tests' / 'bench' / 'placement_bench'
SIZES = (1, 2, 4, 8, 16)
SPARE = GIB
QUERIES = 15


def _program(what: str) -> Dict[str, float]:
    """Its "name value" lines, in nanoseconds."""
    if not PROGRAM.exists():
        raise Absent(f'{PROGRAM} (ninja -C {paths.BUILD})')
    done = subprocess.run([str(PROGRAM), what], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                          check=False, timeout=600)
    if done.returncode == 77:
        raise Absent(f'transparent huge pages ({done.stderr.strip()})')
    assert not done.returncode, f'{PROGRAM.name} {what}: status {done.returncode}: {done.stderr.strip()}'
    return {name: float(value) for name, value in map(str.split, done.stdout.splitlines())}


def _cost(what: str, rounds: int) -> Result:
    samples = [_program(what) for _ in range(rounds)]
    return Result('ms', [sample['exact'] / 1e6 for sample in samples], [sample['bare'] / 1e6 for sample in samples])


def _stalls(rounds: int) -> Tuple[Result, Result]:
    """The worse of both modes, against nobody looking."""
    samples = [_program('stall') for _ in range(rounds)]
    extra = {f'{who}, stalls in µs': {what: median_of([sample[f'{who}.{what}'] / 1e3 for sample in samples])
                                      for what in ('median', 'max')} for who in ('none', 'sample', 'exact')}

    def result(what: str, unit: str, scale: float) -> Result:
        return Result(unit, [max(sample[f'sample.{what}'], sample[f'exact.{what}']) / scale for sample in samples],
                      [sample[f'none.{what}'] / scale for sample in samples], extra)
    return result('median', 'µs', 1e3), result('max', 'ms', 1e6)


def _available() -> int:
    found = re.search(r'^MemAvailable:\s*(\d+) kB', Path('/proc/meminfo').read_text('ascii'), re.MULTILINE)
    assert found
    return int(found[1]) * 1024


def _queries(gib: int, rounds: int) -> List[float]:
    """A median for each round, of one machine."""
    args = ['-machine', 'microvm,memory-backend=ram', '-m', f'{gib}G', '-accel', 'tcg', '-S', '-object',
            f'memory-backend-memfd,id=ram,size={gib}G,prealloc=on,prealloc-threads=2']
    with VM(args, plugin={}, qtest=False) as vm:
        vm.launch()
        answer = vm.qmp('query-memory-placement')
        assert not answer['backends'][0]['absent'], answer
        return [statistics.median(vm.qmp('query-memory-placement')['elapsed-us'] / 1e3 for _ in range(QUERIES))
                for _ in range(rounds)]


def _sample(rounds: int) -> Result:
    if not paths.has_ballast():
        raise Absent(f'the plug-in ({paths.PLUGIN})')
    sizes = [gib for gib in SIZES if gib * GIB + SPARE < _available()]
    if not sizes:
        raise Absent('2 GiB of free memory')
    by_size = {gib: _queries(gib, rounds) for gib in sizes}
    slowest = max(sizes, key=lambda gib: statistics.median(by_size[gib]))
    extra: Dict[str, Any] = {'ms by size': {f'{gib} GiB': statistics.median(by_size[gib]) for gib in sizes}}
    if len(sizes) < len(SIZES):
        extra['not measured, for want of memory'] = ', '.join(f'{gib} GiB' for gib in SIZES if gib not in sizes)
    return Result('ms', by_size[slowest], by_size[sizes[0]], extra)


def measure(keys: Sequence[str], rounds: int) -> Dict[str, Result]:
    """Only what is asked for: each takes memory and time."""
    results: Dict[str, Result] = {}
    if 'numa.sample' in keys:
        results['numa.sample'] = _sample(rounds)
    if 'numa.stall_median' in keys or 'numa.stall_max' in keys:
        results['numa.stall_median'], results['numa.stall_max'] = _stalls(rounds)
    for what in ('thp', '4k'):
        if f'numa.exact_{what}' in keys:
            results[f'numa.exact_{what}'] = _cost(what, rounds)
    return results
