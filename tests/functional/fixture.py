# SPDX-License-Identifier: GPL-2.0-or-later
"""What the test programs share: needs, ledgers in a directory, guests that claim from them."""

import signal
import subprocess
import tempfile
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Dict, Iterator, List

from guest import LinuxGuest, image_missing
from hostledger import HostLedger
from ballast import paths, tap
from ballast.vm import wait_until

DAEMON = paths.BUILD / 'ballastd'


def need_guests() -> None:
    """Skip unless plug-in and guest image are there."""
    tap.need(paths.PLUGIN.exists(), f'the plug-in ({paths.PLUGIN})')
    missing = image_missing()
    tap.need(not missing, missing)


class LedgerDaemon:
    """ballastd on a ledger file, with its socket beside it."""

    def __init__(self, file: Path, *options: str) -> None:
        self._file = file
        self._options = options
        self.socket = file.with_name(file.name + '.socket')
        self._log = file.with_name(file.name + '.log')
        self.start()

    def start(self) -> None:
        """Start it, and wait for its socket."""
        with self._log.open('ab') as log:
            self.process = subprocess.Popen(    # pylint: disable=consider-using-with
                [str(DAEMON), '--ledger', str(self._file), '--socket', str(self.socket),
                 *self._options],
                stdin=subprocess.DEVNULL, stderr=log)
        wait_until(self.socket.exists, 'the socket of the daemon')

    def send(self, number: signal.Signals) -> None:
        """A signal."""
        self.process.send_signal(number)

    def kill(self) -> None:
        """At once."""
        self.process.kill()
        self.process.wait()

    def log(self) -> str:
        """What it said."""
        return self._log.read_text(encoding='utf-8')


@contextmanager
def served(ledger: HostLedger, *options: str) -> Iterator['tuple[HostLedger, LedgerDaemon]']:
    """A ledger as seen through a daemon's socket, and the daemon."""
    tap.need(DAEMON.exists(), f'the daemon ({DAEMON})')
    daemon = LedgerDaemon(ledger.path, *options)
    try:
        yield HostLedger(daemon.socket), daemon
    finally:
        daemon.kill()


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
