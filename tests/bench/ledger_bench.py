# SPDX-License-Identifier: GPL-2.0-or-later
"""What the ledger costs, embedded (no daemon): small C programs that print medians of many loops.

ledger.claim_release is compared with the floor, two lock and unlock pairs of an uncontended robust mutex in
shared memory; those that have a reference of their own measure it in turn; the rest stand for themselves.
"""

import subprocess
from pathlib import Path
from typing import Dict, List, Sequence, Tuple

from ballast import paths

from report import Absent, Result

KEY = 'ledger.claim_release'
FOLDER = paths.BUILD / 'tests' / 'bench'
TIMEOUT = 120

# key: which part of scale_bench, what is ours, what is the reference (none: ours), unit, nanoseconds in it
SCALE: Dict[str, Tuple[str, str, str, str, float]] = {
    'ledger.claim_release_4096': ('claims', 'many', 'one', 'ns', 1),
    'ledger.claim_release_8procs': ('procs', 'procs', 'one', 'ns', 1),
    'ledger.claim_kernel': ('kernel', 'kernel', 'kernel', 'µs', 1e3),
    'ledger.status_4096': ('status', 'status', 'status', 'ms', 1e6),
    'ledger.recover_4096': ('recover', 'recover', 'recover', 'ms', 1e6),
    'ledger.claim_vs_populate': ('populate', 'claim', 'populate', 'ns', 1),
}


def _run(program: Path, *arguments: str) -> Dict[str, float]:
    """Its "key value" lines."""
    if not program.exists():
        raise Absent(f'{program} (ninja -C {paths.BUILD})')
    result = subprocess.run([str(program), *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                            check=False, timeout=TIMEOUT)
    assert not result.returncode, f'{program.name}: status {result.returncode}: {result.stderr.strip()}'
    return {name: float(value) for name, value in map(str.split, result.stdout.splitlines())}


def _scale(key: str, rounds: int) -> Result:
    part, ours, theirs, unit, per_unit = SCALE[key]
    samples: List[Dict[str, float]] = [_run(FOLDER / 'scale_bench', part) for _ in range(rounds)]
    return Result(unit, [sample[ours] / per_unit for sample in samples],
                  [sample[theirs] / per_unit for sample in samples])


def measure(keys: Sequence[str], rounds: int) -> Dict[str, Result]:
    """Rounds of ours and the reference in turn."""
    results = {key: _scale(key, rounds) for key in keys if key in SCALE}
    if KEY in keys:
        ours: List[float] = []
        theirs: List[float] = []
        for _ in range(rounds):
            theirs.append(_run(FOLDER / 'mutex_bench')['mutex.two_pairs'])
            ours.append(_run(FOLDER / 'ledger_bench')[KEY])
        results[KEY] = Result('ns', ours, theirs)
    return results
