# SPDX-License-Identifier: GPL-2.0-or-later
"""A host's ledger as tests and the demo see it: through the ballast command."""

import json
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, List

import guest        # pylint: disable=unused-import  # for the path of the library below
from ballast import paths
from ballast.vm import wait_until

MIB = 1 << 20
GIB = 1 << 30
COMMAND_TIMEOUT = 30


@dataclass(frozen=True)
class Holder:
    """A participant, in bytes over all nodes."""

    name: str
    pid: int
    claimed: int
    resident: int
    outstanding: int
    freeable: int
    dying: bool

    @property
    def reserved(self) -> int:
        """What nobody else can have: what it uses and what it may still take."""
        return self.resident + self.outstanding


@dataclass(frozen=True)
class Status:
    """A ledger at one moment, in bytes over all nodes; free is what a new claim can have."""

    capacity: int
    free: int
    freeable: int
    owned: int
    holders: Dict[str, Holder] = field(default_factory=dict)

    @property
    def reserved(self) -> int:
        """What participants hold together."""
        return sum(holder.reserved for holder in self.holders.values())


class HostLedger:
    """One ledger file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(cls, path: Path, capacity: int, *options: str) -> 'HostLedger':
        """Make a ledger of this capacity in the base page class of node 0."""
        ledger = cls(path)
        ledger._must(str(paths.CLI), 'init', '--ledger', str(path), '--capacity', str(capacity),
                     *options)
        return ledger

    @staticmethod
    def run(*command: str) -> 'subprocess.CompletedProcess[str]':
        """A command to its end, whatever it is."""
        return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              check=False, timeout=COMMAND_TIMEOUT)

    def _must(self, *command: str) -> str:
        result = self.run(*command)
        if result.returncode:
            words = (result.stderr or result.stdout).strip()
            raise RuntimeError(f'{Path(command[0]).name} {command[1]}: {words}')
        return result.stdout

    def run_command(self, *options: str) -> List[str]:
        """The beginning of a command line that runs something with a claim."""
        return [str(paths.CLI), 'run', '--ledger', str(self.path), *options, '--']

    def table(self) -> str:
        """ballast status, for people."""
        return self._must(str(paths.CLI), 'status', '--ledger', str(self.path))

    def raw(self) -> Dict[str, Any]:
        """ballast status --json."""
        text = self._must(str(paths.CLI), 'status', '--ledger', str(self.path), '--json')
        return dict(json.loads(text))

    def status(self) -> Status:
        """The ledger now."""
        return _parse(self.raw())

    def claimed(self, name: str) -> int:
        """A participant's claim; 0 if there is none of that name."""
        holder = self.status().holders.get(name)
        return holder.claimed if holder else 0

    def wait_gone(self, name: str) -> None:
        """Wait until the participant holds nothing any more."""
        wait_until(lambda: name not in self.status().holders, f'{name} to leave the ledger')

    def wait_claim(self, name: str, size: int, slack: int = 0) -> None:
        """Wait until its claim is that, or a little more or less."""
        wait_until(lambda: abs(self.claimed(name) - size) <= slack,
                   f'a claim of {name} of {size // MIB} MiB')

    def wait_free(self, size: int) -> None:
        """Wait until so much is free again."""
        wait_until(lambda: self.status().free == size, f'{size // MIB} MiB of free capacity')


def _parse(raw: Dict[str, Any]) -> Status:
    host = [cell for cell in raw['capacity'] if cell['node'] is None]
    holders = [_holder(entry) for entry in raw['participants']]
    return Status(_sum(host, 'capacity'), _sum(host, 'free'), _sum(host, 'freeable'),
                  _sum(host, 'owned'), {holder.name: holder for holder in holders})


def _holder(entry: Dict[str, Any]) -> Holder:
    holds = entry['holds']
    return Holder(entry['name'], entry['pid'] or 0, _sum(holds, 'claimed'),
                  _sum(holds, 'resident'), _sum(holds, 'outstanding'), _sum(holds, 'freeable'),
                  entry['state'] == 'dying')


def _sum(cells: List[Dict[str, Any]], key: str) -> int:
    return sum(int(cell[key]) for cell in cells)
