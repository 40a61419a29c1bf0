# SPDX-License-Identifier: GPL-2.0-or-later
"""ledger.residency_cost: what it costs a participant to keep its resident bytes up to date.

Two machines of 1 TiB, one with a claim and one without the plug-in, idle side by side; the difference of their
main loops' processor time, in percent of a core.  The memory is reserved by nobody and touched by nobody: the
number of pages that are looked up does not depend on that.
"""

import shutil
import subprocess
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Dict, List, Sequence

from ballast import paths
from ballast.vm import VM

from report import Absent, Result

KEY = 'ledger.residency_cost'
BYTES = 1 << 40
SECONDS = 10
SETTLE = 3
MACHINE = ['-machine', 'microvm,memory-backend=ram', '-m', f'{BYTES >> 20}M',
           '-object', f'memory-backend-ram,id=ram,size={BYTES},reserve=off']


def _ran_ns(machine: VM) -> int:
    pid = machine.get_pid()
    return int(Path(f'/proc/{pid}/task/{pid}/schedstat').read_text(encoding='utf-8').split()[0])


def _with_claim(folder: Path) -> VM:
    ledger = str(folder / 'ledger')
    subprocess.run([str(paths.CLI), 'init', '--ledger', ledger, '--capacity', str(2 * BYTES),
                    '--admission', 'static'], check=True)
    return VM(MACHINE, plugin={}, wrapper=[str(paths.CLI), 'run', '--ledger', ledger, '--claim', str(BYTES), '--'])


def _percent(machines: Sequence[VM]) -> List[float]:
    """Of a core, over the same time."""
    before = [_ran_ns(machine) for machine in machines]
    start = time.monotonic()
    time.sleep(SECONDS)
    after = [_ran_ns(machine) for machine in machines]
    taken_ns = (time.monotonic() - start) * 1e9
    return [(end - begin) / taken_ns * 100 for begin, end in zip(before, after)]


def measure(_keys: Sequence[str], rounds: int) -> Dict[str, Result]:
    """Both at once, a few times."""
    if not paths.has_ballast() or not paths.CLI.exists():
        raise Absent('the plug-in and the ballast command')
    ours: List[float] = []
    theirs: List[float] = []
    folder = Path(tempfile.mkdtemp(prefix='ballast-bench-', dir='/dev/shm'))
    try:
        with ExitStack() as stack:
            machines = [stack.enter_context(_with_claim(folder)), stack.enter_context(VM(MACHINE))]
            for machine in machines:
                machine.launch()
            time.sleep(SETTLE)
            for _ in range(rounds):
                claimed, plain = _percent(machines)
                ours.append(max(claimed - plain, 0.0))
                theirs.append(plain)
    finally:
        shutil.rmtree(folder)
    return {KEY: Result('%', ours, theirs)}
