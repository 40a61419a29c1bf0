# SPDX-License-Identifier: GPL-2.0-or-later
"""A Linux guest that a test can talk to: Debian's kernel, busybox, TCG.

    with LinuxGuest('vm1', memory=512 * MIB) as guest:
        guest.start()
        guest.keep(64)                      # MiB of files, checksums remembered
        assert guest.run('uname -s').text == 'Linux'

The image is made by scripts/guest-image; guest/image has what runs inside.
"""

import itertools
import re
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple, Type

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / 'lib'))

# pylint: disable=wrong-import-position
from ballast import paths                                                   # noqa: E402
from ballast.vm import VM, Number, Serial, start_migration, wait_migration, wait_until  # noqa: E402
from ballast.vm import VMLaunchFailure          # type: ignore[attr-defined] # noqa: E402

MIB = 1 << 20
GIB = 1 << 30
PAGE = 4096
BOOT_TIMEOUT = 120.0
DEVICE = 'virtio-balloon-ledger-pci'
STOCK_DEVICE = 'virtio-balloon-pci'
BALLOON = '/machine/peripheral/balloon0'
TROUBLE = ('Oops', 'BUG:', 'Kernel panic', 'general protection fault', 'segfault')

_KERNEL = re.compile(r'\[ *\d+\.\d{6}\] ')       # of the console, not of a command
_tokens = itertools.count(1)


class Result(NamedTuple):
    """What a command in the guest left: exit status and output."""

    status: int
    text: str


class Refusal(NamedTuple):
    """How QEMU ended that did not start: exit status, its output, how long it took."""

    status: Optional[int]
    text: str
    milliseconds: float


class GuestTrouble(AssertionError):
    """The guest is not well, or a command in it failed."""


def image_missing() -> str:
    """What of the guest image is absent, or ''."""
    for name in ('vmlinuz', 'initramfs.cpio.gz'):
        if not (paths.GUEST / name).exists():
            return f'the guest image ({paths.GUEST / name}; see scripts/guest-image)'
    return ''


# With these a kernel clears and copies pages with rep stosb and rep movsb: the fastest way on
# hardware, but TCG executes them byte by byte.
CPU = 'max,-erms,-fsrm'
# On a busy machine TCG's timer is too late for a check at boot, and the kernel panics; or the kernel
# calibrates its clock wrong (482 instead of 2,596 MHz), and 22 s of it without a task switch mean nothing.
APPEND = 'console=ttyS0 quiet no_timer_check nosoftlockup'


def machine_args(memory: int, accel: str = 'tcg') -> List[str]:
    """The machine, without its balloon."""
    return ['-M', 'q35', '-accel', accel, '-cpu', CPU, '-smp', '1', '-m', f'{memory // MIB}M',
            '-kernel', str(paths.GUEST / 'vmlinuz'),
            '-initrd', str(paths.GUEST / 'initramfs.cpio.gz'),
            '-append', APPEND, '-object', 'iothread,id=iothread1']


def balloon_args(device: str, options: Mapping[str, object]) -> List[str]:
    """The balloon, with hints on a thread of its own unless the options say otherwise."""
    merged: Dict[str, object] = {'id': 'balloon0', 'free-page-hint': 'on', 'iothread': 'iothread1',
                                 **options}
    return ['-device', ','.join([device] + [f'{key}={value}' for key, value in merged.items()])]


class Shell:
    """A Linux that takes commands at a serial port; what a test makes it do, whoever started it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.kept: Dict[str, str] = {}

    @property
    def port(self) -> Serial:
        """Where its shell is."""
        raise NotImplementedError

    def wait_boot(self) -> None:
        """Wait until the guest takes commands."""
        self.port.wait_for(r'^@@ready@@', BOOT_TIMEOUT)

    # -- commands in the guest --------------------------------------------

    def _type(self, command: str) -> Tuple[str, int]:
        """Type a shell command: its token, and where its output begins."""
        assert '\n' not in command and len(command) < 4000
        port = self.port
        token = f't{next(_tokens)}'
        start = port.mark()
        port.write(f'{token} {command}\n')
        return token, start

    def _begin(self, command: str, timeout: float) -> Callable[[], Result]:
        """Type a shell command; what is returned waits for its end."""
        port = self.port
        token, start = self._type(command)

        def wait() -> Result:
            match = port.wait_for(rf'^@@begin {token}@@\r?\n((?s:.*?))\r?\n?^@@end {token} (\d+)@@',
                                  timeout, start)
            lines = match[1].replace('\r\n', '\n').rstrip('\n').split('\n')
            return Result(int(match[2]),
                          '\n'.join(line for line in lines if not _KERNEL.match(line)))
        return wait

    def try_run(self, command: str, timeout: float = 60.0) -> Result:
        """A shell command in the guest; its status is the caller's business."""
        return self._begin(command, timeout)()

    def begin(self, command: str, timeout: float = 60.0) -> Callable[[], str]:
        """Begin a shell command; what is returned waits for it, and returns its output.

        It must succeed.  The guest does one command after the other.
        """
        wait = self._begin(command, timeout)

        def finish() -> str:
            result = wait()
            if result.status:
                raise GuestTrouble(f'{self.name}: {command}: status {result.status}: {result.text}')
            return result.text
        return finish

    def run(self, command: str, timeout: float = 60.0) -> str:
        """A shell command in the guest that must succeed: its output."""
        return self.begin(command, timeout)()

    def follow(self, command: str, on_line: Callable[[str], None], timeout: float = 60.0) -> int:
        """A shell command in the guest, each line handed over as it comes; its status.

        The time is for a line, not for the command.
        """
        port = self.port
        token, start = self._type(command)
        at = port.wait_for(rf'^@@begin {token}@@\r?\n', timeout, start).end()
        empty = False                   # the loop prints a line end before its mark
        while True:
            match = port.wait_for(r'^(.*?)\r?\n', timeout, at)
            at, line = match.end(), match[1]
            end = re.fullmatch(rf'@@end {token} (\d+)@@', line)
            if end:
                return int(end[1])
            if empty:
                on_line('')
            empty = not line
            if line and not _KERNEL.match(line):
                on_line(line)

    def check_alive(self) -> None:
        """The guest answers, and neither its console nor its log tells of a fault."""
        self.run('echo alive')
        pattern = '|'.join(TROUBLE)
        log = self.try_run(f'dmesg | grep -nE "{pattern}"').text + self.port.text
        found = [line for line in log.splitlines() if re.search(pattern, line)]
        if found:
            raise GuestTrouble(f'{self.name}: {found[0].strip()}')

    # -- memory -----------------------------------------------------------

    def begin_files(self, keep: int, churn: int = 0) -> Callable[[], None]:
        """Begin to write files: MiB that stay, then MiB that are deleted; what is returned waits."""
        command = f'workload keep {keep}' + (f' && workload churn {churn}' if churn else '')
        finish = self.begin(command, 300)

        def wait() -> None:
            self.kept = _checksums(finish())
        return wait

    def keep(self, mib: int) -> None:
        """Write files that stay, and remember their checksums."""
        self.begin_files(mib)()

    def churn(self, mib: int) -> None:
        """Write files and delete them."""
        self.run(f'workload churn {mib}', 300)

    def check_kept(self, wanted: Optional[Mapping[str, str]] = None) -> int:
        """The kept files have the checksums they had; how many files that are."""
        wanted = self.kept if wanted is None else wanted
        got = _checksums(self.run('workload sums', 300))
        wrong = sorted(name for name in wanted if got.get(name) != wanted[name])
        if wrong or not wanted:
            raise GuestTrouble(f'{self.name}: {len(wrong)} of {len(wanted)} files differ: {wrong}')
        return len(wanted)

    def start_stress(self) -> None:
        """Write, verify and delete files in the background from now on."""
        self.run('workload stress-start')

    def stress_count(self) -> Tuple[int, int]:
        """(rounds, rounds whose data was wrong) so far."""
        rounds, errors = self.run('workload stress-count').split()
        return int(rounds), int(errors)

    def finish_stress(self, more: int = 2) -> int:
        """Let some more rounds pass, end it; no round may have been wrong.  Returns the rounds."""
        rounds = self.stress_count()[0]
        wait_until(lambda: self.stress_count()[0] >= rounds + more, f'{self.name} to go on', 120)
        rounds, errors = [int(part) for part in self.run('workload stress-stop', 120).split()]
        if errors:
            raise GuestTrouble(f'{self.name}: wrong data in {errors} of {rounds} rounds')
        return rounds


# pylint: disable=too-many-instance-attributes
class LinuxGuest(Shell):
    """A VM with a Linux in it, driven through its first serial port."""

    # pylint: disable=too-many-arguments
    def __init__(self, name: str, memory: int = 512 * MIB, *,
                 plugin: Optional[Mapping[str, object]] = None, device: str = DEVICE,
                 balloon: Optional[Mapping[str, object]] = None, extra: Sequence[str] = (),
                 wrapper: Sequence[str] = (), env: Optional[Mapping[str, object]] = None,
                 binary: Optional[str] = None, driver: str = 'stock', accel: str = 'tcg') -> None:
        super().__init__(name)
        self.memory = memory
        args = [*machine_args(memory, accel), *balloon_args(device, balloon or {}), *extra]
        if driver != 'stock':       # 'ballast' or 'none': see guest/image/init
            args += ['-append', f'{APPEND} balloon={driver}']
        self.vm = VM(args, name=name, plugin=plugin, qtest=False, serial=1, wrapper=wrapper,
                     env=env, binary=binary)

    @property
    def port(self) -> Serial:
        return self.vm.serial[0]

    def __enter__(self) -> 'LinuxGuest':
        return self

    def __exit__(self, kind: Optional[Type[BaseException]], value: Optional[BaseException],
                 trace: Optional[TracebackType]) -> None:
        self.close()

    def close(self) -> None:
        """End the VM, whatever state it is in."""
        self.vm.shutdown(hard=True)

    def start(self) -> 'LinuxGuest':
        """Launch and boot."""
        self.vm.launch()
        self.wait_boot()
        return self

    def launch_refused(self) -> Refusal:
        """Launch, and expect QEMU to end at once with an error."""
        begun = time.monotonic()
        try:
            self.vm.launch()
        except VMLaunchFailure:
            pass
        else:
            raise GuestTrouble(f'{self.name} was not refused')
        milliseconds = (time.monotonic() - begun) * 1000
        refusal = Refusal(self.vm.exitcode(), self.vm.log().strip(), milliseconds)
        if not refusal.status or refusal.status < 0:
            raise GuestTrouble(f'{self.name} was refused with status {refusal.status}')
        return refusal

    # -- balloon ----------------------------------------------------------

    def actual(self) -> int:
        """Bytes the guest has according to its balloon."""
        return int(self.vm.qmp('query-balloon')['actual'])

    def set_balloon(self, target: int) -> None:
        """Ask the guest to shrink or grow; returns at once."""
        self.vm.qmp('balloon', value=target)

    def balloon(self, target: int, timeout: float = 120.0) -> None:
        """Ask, and wait until the guest has done it."""
        self.set_balloon(target)
        wait_until(lambda: self.actual() == target, f'the balloon of {self.name}', timeout)

    # -- migration --------------------------------------------------------

    def migrate_to(self, other: 'LinuxGuest',
                   parameters: Optional[Mapping[str, Number]] = None) -> Dict[str, Any]:
        """Live-migrate into a guest launched with -incoming defer; the source's statistics."""
        limits: Dict[str, Number] = {'max-bandwidth': 1 << 30, 'downtime-limit': 300}
        start_migration(self.vm, other.vm, parameters={**limits, **(parameters or {})})
        info = wait_migration(self.vm, other.vm, 300)
        other.kept = self.kept
        return info


def _checksums(text: str) -> Dict[str, str]:
    """sha256sum's lines to {file: checksum}."""
    pairs = [line.split() for line in text.splitlines() if line.strip()]
    return {name: checksum for checksum, name in pairs}
