# SPDX-License-Identifier: GPL-2.0-or-later
"""What the test programs share: needs, ledgers in a directory, guests that claim from them."""

import tempfile
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Dict, Iterator, List

from guest import LinuxGuest, image_missing
from hostledger import HostLedger
from ballast import paths, tap


def need_guests() -> None:
    """Skip unless plug-in and guest image are there."""
    tap.need(paths.PLUGIN.exists(), f'the plug-in ({paths.PLUGIN})')
    missing = image_missing()
    tap.need(not missing, missing)


class Host:
    """Ledgers and guests of one case; all end with it, in the reverse order."""

    def __init__(self, stack: ExitStack, directory: Path) -> None:
        self._stack = stack
        self._directory = directory
        self.ledgers: List[HostLedger] = []

    def ledger(self, name: str, capacity: int) -> HostLedger:
        """A new ledger that counts promises only, so that a busy machine changes nothing."""
        self.ledgers.append(HostLedger.create(self._directory / name, capacity,
                                              '--admission', 'static'))
        return self.ledgers[-1]

    def guest(self, ledger: HostLedger, name: str, memory: int, **options: Any) -> LinuxGuest:
        """A guest that will claim its memory there; not launched."""
        plugin: Dict[str, object] = {'ledger': ledger.path, 'claim': 'auto', 'name': name}
        plugin.update(options.pop('plugin', {}))
        return self._stack.enter_context(LinuxGuest(name, memory, plugin=plugin, **options))

    def plain_guest(self, name: str, memory: int, **options: Any) -> LinuxGuest:
        """A guest whose options are all the caller's."""
        return self._stack.enter_context(LinuxGuest(name, memory, **options))


@contextmanager
def host(guests: bool = True) -> Iterator[Host]:
    """Everything a case needs, or a skip; guests=False if it launches none."""
    tap.need(paths.CLI.exists(), f'the ballast command ({paths.CLI})')
    if guests:
        need_guests()
    with tempfile.TemporaryDirectory(prefix='ballast-') as directory, ExitStack() as stack:
        yield Host(stack, Path(directory))


def refused(guest: LinuxGuest, *words: str) -> str:
    """Launching must fail, QEMU's last words must contain these; returns QEMU's output."""
    text = guest.launch_refused().text
    lost: List[str] = [word for word in words if word not in text]
    assert not lost, f'the refusal does not say {lost}: {text}'
    return text
