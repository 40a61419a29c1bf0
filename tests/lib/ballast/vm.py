# SPDX-License-Identifier: GPL-2.0-or-later
"""Virtual machines for tests, on top of QEMU's own Python library.

    with VM(['-M', 'microvm', ...], serial=1) as vm:
        vm.launch()
        vm.qmp('query-status')

Every process started here is stopped by its own handle; nothing is looked up by name.
"""

import asyncio
import functools
import os
import re
import socket
import subprocess
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Callable, Dict, Iterable, Iterator, List, Mapping, Optional, Sequence, Tuple, Type, Union

from . import paths, tap

paths.use_qemu_library()

# pylint: disable=wrong-import-position
from qemu.machine import QEMUMachine                           # noqa: E402
from qemu.machine.machine import VMLaunchFailure               # noqa: E402,F401
from qemu.machine.qtest import QEMUQtestProtocol               # noqa: E402
from qemu.qmp import ExecuteError                              # noqa: E402,F401

TIMEOUT = 60.0      # a bound for failures only: nothing here measures time
_POLL = 0.005
_ASK_ANYWAY = 0.2   # without events
_PIECE = 1 << 20    # of guest memory, at a time: quickest while it stays in the cache


def wait_until(condition: Callable[[], Any], what: str, timeout: float = TIMEOUT, pause: float = _POLL) -> Any:
    """Poll until the condition is true, and return what it returned; a condition that costs much wants a pause."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise TimeoutError(f'waited {timeout:g} s for {what}')
        time.sleep(pause)


class Qtest(QEMUQtestProtocol):
    """QEMU's qtest client, with many commands per round trip and typed accessors."""

    BATCH = 256

    def batch(self, commands: Iterable[str]) -> List[str]:
        """Send all commands, then collect their answers; an answer that is not OK raises."""
        todo = list(commands)
        answers: List[str] = []
        for start in range(0, len(todo), self.BATCH):
            part = todo[start:start + self.BATCH]
            self._sock.sendall(('\n'.join(part) + '\n').encode())
            answers += [self._answer(command) for command in part]
        return answers

    def _answer(self, command: str) -> str:
        assert self._sockfile is not None
        while True:
            line = self._sockfile.readline()
            if not line:
                raise ConnectionError(f'QEMU closed the qtest socket at: {command}')
            if not line.startswith('IRQ'):
                break
        status, _, value = line.strip().partition(' ')
        if status != 'OK':
            raise RuntimeError(f'qtest: {command}: {line.strip()}')
        return value

    def do(self, command: str) -> str:
        """One command."""
        return self.batch([command])[0]

    def read(self, addr: int, size: int) -> bytes:
        """Guest memory."""
        return bytes.fromhex(self.do(f'read {addr:#x} {size:#x}')[2:])

    def write(self, addr: int, data: bytes) -> None:
        """Guest memory."""
        self.do(f'write {addr:#x} {len(data):#x} 0x{data.hex()}')

    def readl(self, addr: int) -> int:
        """A 32-bit load, as one access (registers)."""
        return int(self.do(f'readl {addr:#x}'), 16)

    def writel(self, addr: int, value: int) -> None:
        """A 32-bit store, as one access (registers)."""
        self.do(f'writel {addr:#x} {value:#x}')


class Serial:
    """One serial port: everything the guest prints is kept, from its first byte on.

    Its other end is `theirs`, for a QEMU that inherits it, or that of the connection given.
    """

    def __init__(self, connection: Optional[socket.socket] = None) -> None:
        if connection:
            self._ours, self.theirs = connection, socket.socket()
        else:
            self._ours, self.theirs = socket.socketpair()
        self._data = bytearray()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._drain, daemon=True)
        self._thread.start()

    def _drain(self) -> None:
        while True:
            try:
                data = self._ours.recv(65536)
            except OSError:
                data = b''
            with self._changed:
                self._data += data
                self._closed = not data
                self._changed.notify_all()
            if not data:
                return

    @property
    def text(self) -> str:
        """All output so far."""
        with self._changed:
            return self._data.decode(errors='replace')

    @property
    def closed(self) -> bool:
        """Nothing more will come."""
        with self._changed:
            return self._closed

    def mark(self) -> int:
        """A position for wait_for(start=...): only what is printed from now on."""
        return len(self.text)

    def write(self, text: str) -> None:
        """Type something."""
        self._ours.sendall(text.encode())

    def wait_for(self, pattern: str, timeout: float = TIMEOUT, start: int = 0) -> 're.Match[str]':
        """Wait for a regular expression (multi-line) in the output behind `start`."""
        expression = re.compile(pattern, re.MULTILINE)
        deadline = time.monotonic() + timeout
        with self._changed:
            while True:
                text = self._data.decode(errors='replace')
                match = expression.search(text, start)
                if match:
                    return match
                left = deadline - time.monotonic()
                if left <= 0 or self._closed:
                    raise TimeoutError(f'no {pattern!r} on the serial port; last:\n{text[-2000:]}')
                self._changed.wait(left)

    def close(self) -> None:
        """Stop reading."""
        with suppress(OSError):     # the other side may be gone
            self._ours.shutdown(socket.SHUT_RDWR)
        self._thread.join()         # it must not read from whatever has the number next
        self._ours.close()
        self.theirs.close()


def ballast_args(options: Mapping[str, object]) -> List[str]:
    """-plugin …/ballast-qemu.so,ledger=…,claim=…, or in the series what means the same."""
    values = [f'{key}={val}' for key, val in options.items()]
    if paths.FLAVOUR != 'series':
        return ['-plugin', ','.join([str(paths.PLUGIN), *values])]
    takes_part = ['-global', 'migration.x-absent-pages=on']
    if 'ledger' not in options:
        return takes_part
    tap.need(_knows_object('memory-ledger'), 'a QEMU with -object memory-ledger')
    return [*takes_part, '-object', ','.join(['memory-ledger,id=ledger0', *values]).replace('ledger=', 'path=')]


@functools.lru_cache(None)
def _knows_object(name: str) -> bool:
    said = subprocess.run([paths.QEMU, '-object', 'help'], stdout=subprocess.PIPE, text=True, check=False).stdout
    return name in said.split()


# pylint: disable=too-many-instance-attributes
class VM(QEMUMachine):
    """A QEMU with QMP, and on demand: the plug-in, a qtest socket beside any accelerator, serial ports.

    args     the machine (display, monitor, defaults and user configuration are off)
    plugin   options of the plug-in, {} for none of them, None to run without it (with a stock QEMU, then)
    serial   how many serial ports; vm.serial[n] is a Serial
    env      variables for QEMU
    wrapper  a command to run QEMU with, for example ['ballast', 'run', '--claim', '1G', '--']
    """

    # pylint: disable=too-many-arguments
    def __init__(self, args: Sequence[str] = (), *, name: str = 'vm', binary: Optional[str] = None,
                 plugin: Optional[Mapping[str, object]] = None, qtest: bool = True, serial: int = 0,
                 env: Optional[Mapping[str, object]] = None, wrapper: Sequence[str] = ()) -> None:
        environment = ['env'] + [f'{key}={val}' for key, val in env.items()] if env else []
        super().__init__(binary or (paths.STOCK if plugin is None else paths.QEMU), [], name=name, wrapper=[*environment, *wrapper],
                         base_temp_dir=tempfile.gettempdir(), qmp_timer=TIMEOUT)
        self.add_args('-nodefaults', '-no-user-config')
        if plugin is not None:
            self.add_args(*ballast_args(plugin))
        self.add_args(*args)
        self.serial: List[Serial] = []
        self._serial_count = serial
        self._qtest_wanted = qtest
        self._qtest: Optional[Qtest] = None
        self._qtest_theirs: Optional[socket.socket] = None
        self._process_id: Optional[int] = None

    # -- life -------------------------------------------------------------

    @property
    def _base_args(self) -> List[str]:
        args = super()._base_args
        if self._qtest_theirs:
            args += ['-chardev', f'socket,id=qtest,fd={self._qtest_theirs.fileno()}',
                     '-qtest', 'chardev:qtest', '-qtest-log', 'none']
        for number, port in enumerate(self.serial):
            args += ['-chardev', f'socket,id=serial{number},fd={port.theirs.fileno()}',
                     '-serial', f'chardev:serial{number}']
        return args

    def _pre_launch(self) -> None:
        if self._qtest_wanted:
            ours, self._qtest_theirs = socket.socketpair()
            os.set_inheritable(self._qtest_theirs.fileno(), True)
            ours.settimeout(TIMEOUT)
            self._qtest = Qtest(sock=ours)
        self.serial = [Serial() for _ in range(self._serial_count)]
        for port in self.serial:
            os.set_inheritable(port.theirs.fileno(), True)
        super()._pre_launch()

    def _post_launch(self) -> None:
        if self._qtest_theirs:
            self._qtest_theirs.close()
        for port in self.serial:
            port.theirs.close()
        self._process_id = self.get_pid()
        super()._post_launch()
        if self._qtest:
            self._qtest.connect()

    def _post_shutdown(self) -> None:
        if self._qtest:
            self._qtest.close()
        if self._qtest_theirs:
            self._qtest_theirs.close()
        super()._post_shutdown()
        for port in self.serial:
            port.close()

    def __exit__(self, kind: Optional[Type[BaseException]], value: Optional[BaseException],
                 trace: Optional[TracebackType]) -> None:
        if value is None:
            super().__exit__(kind, value, trace)
            return
        # the failure matters, not how the VM takes its end: add what QEMU said and did
        code = self.exitcode()
        self.shutdown(hard=True)
        if code is not None or self.get_log():
            value.add_note(f'QEMU {self._name}: exit status {code}: {(self.get_log() or "")[-1000:]}')

    def start(self) -> 'VM':
        """launch() that can be chained."""
        self.launch()
        return self

    def log(self) -> str:
        """What QEMU printed (stdout and stderr), while it runs and afterwards."""
        if self._qemu_log_path:
            return Path(self._qemu_log_path).read_text(encoding='utf-8', errors='replace')
        return self.get_log() or ''

    def alive(self) -> bool:
        """The process runs and its monitor answers."""
        if not self.is_running():
            return False
        self.qmp('query-version')
        return True

    # -- memory -----------------------------------------------------------

    def memory(self, start: int, size: int) -> Iterator[Tuple[int, bytes]]:
        """Guest RAM in pieces, with their addresses: out of QEMU's memory, or the file that it shares.

        pmemsave goes through another file.  On a PC this includes what its holes below 1 MiB hide.
        """
        for addr, length, where in self._stretches(start, size):
            name, offset = self._file_of(where, length)
            with open(name, 'rb', buffering=0) as file:
                for at in range(0, length, _PIECE):
                    wanted = min(_PIECE, length - at)
                    piece = os.pread(file.fileno(), wanted, offset + at)
                    assert len(piece) == wanted, f'{len(piece):#x} of {wanted:#x} bytes at {addr + at:#x}'
                    yield addr + at, piece

    def _file_of(self, where: int, length: int) -> Tuple[str, int]:
        """What holds memory of QEMU, and where: a shared file, in which reading a hole allocates nothing, or just memory."""
        process = Path(f'/proc/{self.get_pid()}')
        for line in (process / 'maps').read_text('utf-8').splitlines():
            bounds, access, offset, _, inode, *_ = line.split()
            start, end = (int(bound, 16) for bound in bounds.split('-'))
            if start <= where and where + length <= end and access.endswith('s'):
                for fd in (process / 'fd').iterdir():
                    with suppress(FileNotFoundError):       # closed meanwhile
                        if os.readlink(fd).startswith('/memfd:') and fd.stat().st_ino == int(inode):
                            return str(fd), int(offset, 16) + where - start
        return str(process / 'mem'), where

    def _stretches(self, start: int, size: int) -> Iterator[Tuple[int, int, int]]:
        """Parts of a range that QEMU has in one block each: address, size, address in QEMU."""
        (block, where), last = self._host_address(start), self._host_address(start + size - 1)
        if last == (block, where + size - 1):
            yield start, size, where
            return
        half = size // 2
        yield from self._stretches(start, half)
        yield from self._stretches(start + half, size - half)

    def _host_address(self, addr: int) -> Tuple[str, int]:
        said = self.hmp(f'gpa2hva {addr:#x}')
        match = re.search(r'\((.*)\) is (0x[0-9a-f]+)', said)
        assert match, said
        return match[1], int(match[2], 16)

    # -- talking ----------------------------------------------------------

    def qmp(self, cmd: str, args_dict: Optional[Dict[str, object]] = None,  # type: ignore[override]
            conv_keys: Optional[bool] = None, **args: Any) -> Any:
        """Execute, return the answer; an error raises ExecuteError with QEMU's words."""
        return self.cmd(cmd, args_dict, conv_keys, **args)

    @property
    def qtest(self) -> Qtest:
        """The qtest socket: guest memory and I/O, beside any accelerator."""
        assert self._qtest is not None, 'this VM was made with qtest=False'
        return self._qtest

    def events(self, name: Optional[str] = None) -> List[Dict[str, Any]]:
        """The events received so far (not consumed), optionally of one name."""
        self.qmp('query-version')       # whatever was sent before is here then
        self._events += self._qmp.get_events()
        return [event for event in self._events if name in (None, event['event'])]

    def drop_events(self) -> None:
        """Forget the events received so far."""
        self.events()
        self._events.clear()

    def await_event(self, timeout: float) -> None:
        """Wait for the next event, whichever (not consumed), but no longer than that."""
        with suppress(asyncio.TimeoutError):
            self._events.append(self._qmp.pull_event(wait=timeout))

    def wait_event(self, name: str, timeout: float = TIMEOUT, **data: Any) -> Dict[str, Any]:
        """Wait for an event (consumed) whose data contains the given members."""
        event = self.event_wait(name, timeout, {'data': data} if data else None)
        assert event is not None
        return event

    def hmp(self, line: str) -> str:
        """A command of the human monitor."""
        return str(self.qmp('human-monitor-command', command_line=line))

    def qom_get(self, path: str, name: str) -> Any:
        """A property."""
        return self.qmp('qom-get', {'path': path, 'property': name})

    def qom_set(self, path: str, name: str, value: object) -> None:
        """A property."""
        self.qmp('qom-set', {'path': path, 'property': name, 'value': value})

    def knows_device(self, name: str) -> bool:
        """This QEMU, as started, has a type of that name."""
        return any(kind['name'] == name for kind in self.qmp('qom-list-types', implements='device'))

    def knows_command(self, name: str) -> bool:
        """This QEMU, as started, has a QMP command of that name."""
        return any(command['name'] == name for command in self.qmp('query-commands'))

    # -- migration --------------------------------------------------------

    def migration(self) -> Dict[str, Any]:
        """query-migrate."""
        return dict(self.qmp('query-migrate'))

    def set_capabilities(self, capabilities: Mapping[str, bool]) -> None:
        """migrate-set-capabilities from {name: state}."""
        self.qmp('migrate-set-capabilities', {'capabilities': [
            {'capability': name, 'state': state} for name, state in capabilities.items()]})


def differences(one: VM, other: VM, start: int, size: int, unit: int) -> List[int]:
    """Where the RAM of two guests differs: addresses of units."""
    differ = []
    for (at, here), (same, there) in zip(one.memory(start, size), other.memory(start, size), strict=True):
        assert at == same, 'not the same memory'
        if here != there:
            differ += [at + offset for offset in range(0, len(here), unit)
                       if here[offset:offset + unit] != there[offset:offset + unit]]
    return differ


class Sink:
    """A destination that takes everything and says nothing."""

    def __init__(self, vm: VM) -> None:
        self.path = os.path.join(vm.temp_dir, f'sink{len(os.listdir(vm.temp_dir))}')
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(self.path)
        self._socket.listen()
        threading.Thread(target=self._drain, daemon=True).start()

    def _drain(self) -> None:
        connection, _ = self._socket.accept()
        with connection, self._socket:
            while connection.recv(1 << 16):
                pass


Number = Union[int, bool, str]


def start_migration(src: VM, dst: VM, capabilities: Optional[Mapping[str, bool]] = None,
                    parameters: Optional[Mapping[str, Number]] = None) -> None:
    """Begin a migration over a Unix socket; `dst` was launched with -incoming defer."""
    capabilities = {'events': True, **(capabilities or {})}
    uri = 'unix:' + os.path.join(dst.temp_dir, 'migrate.sock')
    for vm in (src, dst):
        vm.set_capabilities(capabilities)
    if parameters:
        src.qmp('migrate-set-parameters', dict(parameters))
    dst.qmp('migrate-incoming', uri=uri)
    src.qmp('migrate', uri=uri)


def wait_migration(src: VM, dst: Optional[VM] = None, timeout: float = TIMEOUT) -> Dict[str, Any]:
    """Wait until both sides completed; return the source's query-migrate."""
    for vm in (src, dst):
        if vm is not None:
            _wait_status(vm, timeout)
    return src.migration()


def _wait_status(vm: VM, timeout: float) -> None:
    """By its events: asked every few milliseconds, QEMU's answers take a tenth of two processors from the migration."""
    deadline = time.monotonic() + timeout
    while not _finished(vm):
        if time.monotonic() > deadline:
            raise TimeoutError(f'waited {timeout:g} s for the migration of {vm._name}')  # pylint: disable=protected-access
        vm.await_event(_ASK_ANYWAY)


def _finished(vm: VM) -> bool:
    info = vm.migration()
    if info.get('status') in ('failed', 'cancelled'):
        raise RuntimeError(f"migration {info['status']}: {info.get('error-desc', vm.log()[-1000:])}")
    return info.get('status') == 'completed'


def migrate(src: VM, dst: VM, capabilities: Optional[Mapping[str, bool]] = None,
            parameters: Optional[Mapping[str, Number]] = None, timeout: float = TIMEOUT) -> Dict[str, Any]:
    """Migrate and wait; return the source's query-migrate."""
    start_migration(src, dst, capabilities, parameters)
    return wait_migration(src, dst, timeout)
