# SPDX-License-Identifier: GPL-2.0-or-later
"""The host's side: ledgers made with the CLI, and QMP that is Ballast's."""

import json
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, Dict, List, Optional, Sequence, Type

from . import mailbox, paths, tap
from .vm import VM

MIB = 1 << 20


class Ledger:
    """A ledger of its own in a private directory; admission is static, so other processes do not matter.

    init: instead of that, options of `ballast init`.
    """

    def __init__(self, capacity: str = '1G', init: Sequence[str] = ()) -> None:
        tap.need(paths.CLI.exists(), f'the CLI ({paths.CLI})')
        self._dir = tempfile.TemporaryDirectory(prefix='ballast-')  # pylint: disable=consider-using-with
        self.path = Path(self._dir.name) / 'ledger'
        self.cli('init', *(init or ('--capacity', capacity, '--admission', 'static')))

    def __enter__(self) -> 'Ledger':
        return self

    def __exit__(self, kind: Optional[Type[BaseException]], value: Optional[BaseException],
                 trace: Optional[TracebackType]) -> None:
        self._dir.cleanup()

    def cli(self, command: str, *args: str) -> str:
        """A command of the CLI on this ledger."""
        done = subprocess.run([paths.CLI, command, '--ledger', self.path, *args], check=False,
                              capture_output=True, text=True, timeout=30)
        if done.returncode:
            raise RuntimeError(f'ballast {command}: exit status {done.returncode}: {done.stderr.strip()}')
        return done.stdout

    def status(self) -> Dict[str, Any]:
        """`ballast status --json`."""
        return dict(json.loads(self.cli('status', '--json')))

    def participants(self) -> List[Dict[str, Any]]:
        """Who takes part."""
        return list(self.status()['participants'])

    def claimed(self, name: str) -> int:
        """Bytes that a participant has claimed; 0 when there is none of that name."""
        return sum(hold['claimed'] for one in self.participants() if one['name'] == name
                   for hold in one['holds'])

    def take(self, name: str, size: str) -> None:
        """Somebody else's standing claim."""
        self.cli('claim', '--name', name, size)

    def release(self, name: str) -> None:
        """Its end."""
        self.cli('release', name)


def accel() -> List[str]:
    """KVM where there is one, else TCG."""
    name = 'tcg' if mailbox.ACCELS['kvm'].missing() else 'kvm'
    return mailbox.ACCELS[name].args


def need_device() -> None:
    """Skip where there is no Ballast to test."""
    tap.need(paths.has_ballast(), f'the plug-in ({paths.PLUGIN})')
    tap.need(paths.FIRMWARE.exists(), f'the firmware ({paths.FIRMWARE})')


def verdicts(vm: VM, scope: str = 'total') -> Dict[str, int]:
    """Verdict counters of query-free-page-hints."""
    return dict(vm.qmp('query-free-page-hints')[scope])


VERDICTS = ('applied', 'late', 'unarmed', 'malformed', 'foreign')


def judged(vm: VM) -> int:
    """How many hints have been judged since start."""
    counts = verdicts(vm)
    return sum(counts[name] for name in VERDICTS)


def moved(before: Dict[str, int], after: Dict[str, int]) -> Dict[str, int]:
    """The counters that changed, by how much."""
    return {name: after[name] - before[name] for name in after if after[name] != before[name]}
