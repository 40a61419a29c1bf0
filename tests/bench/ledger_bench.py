# SPDX-License-Identifier: GPL-2.0-or-later
"""ledger.claim_release: a claim and its release, embedded (no daemon), static admission.

The reference is the floor: two lock and unlock pairs of an uncontended robust mutex in shared memory.
Both are small C programs that print the median of many loops.
"""

import subprocess
from pathlib import Path
from typing import Dict, List, Sequence

from ballast import paths

from report import Absent, Result

KEY = 'ledger.claim_release'
FOLDER = paths.BUILD / 'tests' / 'bench'
TIMEOUT = 60


def _run(program: Path) -> Dict[str, float]:
    """Its "key value" lines."""
    if not program.exists():
        raise Absent(f'{program} (ninja -C {paths.BUILD})')
    result = subprocess.run([str(program)], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                            check=False, timeout=TIMEOUT)
    assert not result.returncode, f'{program.name}: status {result.returncode}: {result.stderr.strip()}'
    return {name: float(value) for name, value in map(str.split, result.stdout.splitlines())}


def measure(_keys: Sequence[str], rounds: int) -> Dict[str, Result]:
    """Rounds of both programs in turn."""
    ours: List[Dict[str, float]] = []
    theirs: List[float] = []
    for _ in range(rounds):
        theirs.append(_run(FOLDER / 'mutex_bench')['mutex.two_pairs'])
        ours.append(_run(FOLDER / 'ledger_bench'))
    return {KEY: Result('ns', [sample[KEY] for sample in ours], theirs)}
