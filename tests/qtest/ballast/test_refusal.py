#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""A refusal at start, as the program sees it that starts QEMU and then connects to its monitor.

libvirt hands over a socket that listens.  Whenever it connects, it must find QEMU, learn of the end
by the end of the connection, and then have the reason.
"""

import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import List, Optional, Type

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / 'lib'))

# pylint: disable=wrong-import-position
from ballast import paths, tap                   # noqa: E402
from ballast.host import Ledger                  # noqa: E402
from ballast.vm import ballast_args              # noqa: E402

LATE = 1.0          # seconds until a busy machine's libvirt connects: long after the refusal
TIMEOUT = 60.0


class Launch:
    """A QEMU that is handed a listening socket for its monitor, as libvirt does."""

    def __init__(self, args: List[str]) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix='ballast-')   # pylint: disable=consider-using-with
        self._path = f'{self._folder.name}/monitor'
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(self._path)
            listener.listen(1)
            number = listener.fileno()
            self.process = subprocess.Popen(    # pylint: disable=consider-using-with
                [paths.QEMU, '-display', 'none', '-nodefaults', '-no-user-config', '-S',
                 '-chardev', f'socket,id=monitor,fd={number},server=on,wait=off',
                 '-mon', 'chardev=monitor,mode=control', *args],
                pass_fds=[number], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    def __enter__(self) -> 'Launch':
        return self

    def __exit__(self, kind: Optional[Type[BaseException]], value: Optional[BaseException],
                 trace: Optional[TracebackType]) -> None:
        self.process.kill()
        self.process.communicate()
        self._folder.cleanup()

    def connect(self) -> None:
        """It can be connected to, perhaps says hello, and ends it; a reset is an end to libvirt, too."""
        with socket.socket(socket.AF_UNIX) as monitor, suppress(ConnectionResetError):
            monitor.settimeout(TIMEOUT)
            monitor.connect(self._path)
            while monitor.recv(4096):
                pass

    def reason(self) -> str:
        """What QEMU said: it has ended by itself, with one line."""
        text = self.process.communicate(timeout=TIMEOUT)[1].strip()
        tap.equal(self.process.returncode, 1, 'exit status')
        tap.equal(len(text.splitlines()), 1, f'lines in {text!r}')
        return text


def launch(ledger: Path, *more: str) -> Launch:
    """With that ledger."""
    return Launch(['-M', 'q35', '-accel', 'tcg', '-m', '64M,slots=2,maxmem=4G',
                   *ballast_args({'ledger': ledger}), *more])


def check(ledger: Path, words: str, *more: str) -> None:
    """Whoever connects late still finds QEMU, and reads these words."""
    with launch(ledger, *more) as started:
        time.sleep(LATE)
        started.connect()
        reason = started.reason()
        assert words in reason, reason


@tap.case('a claim that does not fit: who connects late has the reason; where nobody does, QEMU ends')
def no_room() -> None:
    tap.need(paths.has_ballast(), f'the plug-in ({paths.PLUGIN})')
    with Ledger('32M') as ledger, launch(ledger.path) as alone:
        check(ledger.path, 'claim of 64 MiB on the host refused: 32 MiB missing')
        assert '32 MiB missing' in alone.reason()
        tap.equal(ledger.participants(), [], 'who is left')


@tap.case('a ledger that is not there: who connects late has the reason')
def no_ledger() -> None:
    tap.need(paths.has_ballast(), f'the plug-in ({paths.PLUGIN})')
    check(Path('/nowhere/ledger'), '/nowhere/ledger: No such file')


def device() -> None:
    """A virtio-mem device whose backend claims as it is filled."""
    with Ledger('128M') as ledger:
        check(ledger.path, '64 MiB missing', '-object', 'memory-backend-ram,id=v0,size=256M,reserve=off',
              '-device', 'virtio-mem-pci,id=mem0,memdev=v0,requested-size=128M')


if paths.FLAVOUR == 'series':
    tap.add('what a device asks for at start does not fit: likewise', device)


if __name__ == '__main__':
    tap.main()
