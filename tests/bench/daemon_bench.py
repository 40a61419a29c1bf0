# SPDX-License-Identifier: GPL-2.0-or-later
"""ledger.claim_daemon: a claim and its release through ballastd.

The reference is the floor: two round trips of the same message size over a SEQPACKET socket, to a process that
sends back what it gets.  One C program does both in turn and prints the medians.
"""

import subprocess
from typing import Dict, List, Sequence

from ballast import paths

from report import Absent, Result

KEY = 'ledger.claim_daemon'
REFERENCE = 'socket.two_round_trips'
PROGRAM = paths.BUILD / 'tests' / 'bench' / 'daemon_bench'
DAEMON = paths.BUILD / 'ballastd'
TIMEOUT = 120


def _run() -> Dict[str, float]:
    """Its "key value" lines."""
    for program in (PROGRAM, DAEMON):
        if not program.exists():
            raise Absent(f'{program} (ninja -C {paths.BUILD})')
    result = subprocess.run([str(PROGRAM), str(DAEMON)], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                            check=False, timeout=TIMEOUT)
    assert not result.returncode, f'{PROGRAM.name}: status {result.returncode}: {result.stderr.strip()}'
    return {name: float(value) for name, value in map(str.split, result.stdout.splitlines())}


def measure(_keys: Sequence[str], rounds: int) -> Dict[str, Result]:
    """Each round has its own daemon."""
    samples: List[Dict[str, float]] = [_run() for _ in range(rounds)]
    return {KEY: Result('ns', [sample[KEY] for sample in samples], [sample[REFERENCE] for sample in samples])}
