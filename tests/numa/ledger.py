# SPDX-License-Identifier: GPL-2.0-or-later
"""A ledger of this host: capacity of every node from sysfs, admission against what the kernel has free."""

import json
import subprocess
from typing import Any, Dict, List, Optional, Tuple

from ballast import host, paths

from . import nodes

Where = Tuple[Optional[int], int]       # node or None for any, page size


# More than any node has: what the kernel has free is all that limits a claim.
BOUNDLESS = [part for node in range(nodes.NEEDED) for part in ('--capacity', f'64G@{node}')]


def limited(mib: int) -> List[str]:
    """For `ballast init`: so much on each node."""
    return [part for node in range(nodes.NEEDED) for part in ('--capacity', f'{mib}M@{node}')]


class Ledger(host.Ledger):
    """With what `ballast init` is given; nothing: as an operator makes one."""

    def __init__(self, *init: str) -> None:
        nodes.need_nodes()
        nodes.drop_caches()
        super().__init__(init=('--count-cache', '0', *init))

    def ask(self, command: str, *args: str) -> Dict[str, Any]:
        """A command that may be refused: its JSON."""
        done = subprocess.run([paths.CLI, command, '--ledger', self.path, '--json', *args], check=False,
                              capture_output=True, text=True, timeout=60)
        return dict(json.loads(done.stdout))

    def claim(self, name: str, *places: str) -> None:
        """A standing claim that must be granted."""
        answer = self.ask('claim', '--name', name, *places)
        assert 'error' not in answer, f'{name}: {places}: {answer}'

    def refused(self, name: str, *places: str) -> Dict[str, Any]:
        """A standing claim that must be refused: why."""
        answer = self.ask('claim', '--name', name, *places)
        assert 'error' in answer, f'{name}: {places} was granted: {self.cli("status")}'
        return dict(answer['error'])

    def cells(self) -> Dict[Where, Dict[str, int]]:
        """Per node (None: the host) and page size."""
        return {(cell['node'], cell['page-size']): cell for cell in self.status()['capacity']}

    def node(self, node: int, page_size: int = nodes.PAGE) -> Dict[str, int]:
        """One of them."""
        return self.cells()[node, page_size]

    def holds(self, name: str) -> Dict[Where, Dict[str, int]]:
        """Of a participant."""
        found: List[Dict[str, Any]] = [one for one in self.participants() if one['name'] == name]
        return {(hold['node'], hold['page-size']): hold for one in found for hold in one['holds']}

