# SPDX-License-Identifier: GPL-2.0-or-later
"""Threads of a QEMU that are held for a while, so that what else passes in a moment lasts as long as a test wants.

    with held.Log(vm) as log:
        log.hold()              # whoever traces something stands still there
        ...
        log.go_on()
    with held.vcpu(vm):         # it stands still in what it executes
        ...
"""

import ctypes
import fcntl
import os
import select
import struct
import termios
import threading
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Iterator, List, Optional, Type

from . import tap
from .vm import VM, wait_until

_PIPE_BYTES = 4096
_PAUSE = 0.1


class Log:
    """What a VM traces from now on goes into a pipe: while that is full, who traces waits, with the locks it has."""

    def __init__(self, vm: VM) -> None:
        path = os.path.join(vm.temp_dir, 'held-log')
        os.mkfifo(path)
        self._pipe = os.open(path, os.O_RDWR | os.O_NONBLOCK)
        tap.equal(fcntl.fcntl(self._pipe, fcntl.F_SETPIPE_SZ, _PIPE_BYTES), _PIPE_BYTES, "the pipe's size")
        tap.equal(vm.hmp(f'logfile {path}'), '', 'what QEMU says')
        self._filled = 0
        self._closing = False
        self._thread: Optional[threading.Thread] = None
        self._lock = threading.Lock()
        self._text = bytearray()

    def __enter__(self) -> 'Log':
        return self

    def __exit__(self, kind: Optional[Type[BaseException]], value: Optional[BaseException],
                 trace: Optional[TracebackType]) -> None:
        self._closing = True
        if self._thread:
            self._thread.join()
        os.close(self._pipe)

    def hold(self, room: int = 0) -> None:
        """From now on, after what fits into this many bytes; once."""
        self._filled = os.write(self._pipe, b'\n' * (_PIPE_BYTES - room))
        tap.equal(self._filled, _PIPE_BYTES - room, 'bytes written')

    def traced(self) -> bool:
        """While it is held: something was traced, for which there was room."""
        size = fcntl.ioctl(self._pipe, termios.FIONREAD, bytes(4))
        return int(struct.unpack('i', size)[0]) > self._filled

    def go_on(self) -> None:
        """Nobody waits any more."""
        self._thread = threading.Thread(target=self._drain, daemon=True)
        self._thread.start()

    def _drain(self) -> None:
        while not self._closing:
            select.select([self._pipe], [], [], _PAUSE)
            self._take()

    def _take(self) -> None:
        with self._lock, suppress(BlockingIOError):
            while True:
                self._text += os.read(self._pipe, 1 << 16)

    @property
    def lines(self) -> List[str]:
        """What was traced, once it is not held any more."""
        self._take()
        return [line for line in self._text.decode().splitlines() if line]

    def count(self, event: str) -> int:
        """How often this was traced."""
        return [line.partition(' ')[0] for line in self.lines].count(event)


# -- vCPUs -----------------------------------------------------------------

_CONT, _PEEKUSER, _DETACH, _SEIZE, _INTERRUPT = 7, 3, 17, 0x4206, 0x4207
_EVENT_STOP, _WALL = 128, 0x40000000
_PC = 16 * 8                    # in x86_64's struct user

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
_libc.ptrace.restype = ctypes.c_long


def _translated(vm: VM) -> List[range]:
    """Where TCG has its code: nothing else may be both written and executed."""
    found = []
    for line in Path(f'/proc/{vm.get_pid()}/maps').read_text('utf-8').splitlines():
        bounds, access, *_ = line.split()
        if access.startswith('rwx'):
            found.append(range(*(int(bound, 16) for bound in bounds.split('-'))))
    assert found, 'no translated code'
    return found


def _stop(thread: int) -> int:
    """Stop it, or let it run and stop it again; returns where it is."""
    _libc.ptrace(_CONT, thread, None, None)
    _libc.ptrace(_INTERRUPT, thread, None, None)
    _, status = os.waitpid(thread, _WALL)
    tap.equal(status >> 16, _EVENT_STOP, 'why the vCPU has stopped')      # TCG sends it no signals
    return int(_libc.ptrace(_PEEKUSER, thread, _PC, None))


@contextmanager
def vcpu(vm: VM) -> Iterator[None]:
    """The only vCPU stands still, under TCG, in translated code: it has no lock of QEMU's, and comes to nothing."""
    (cpu,) = vm.qmp('query-cpus-fast')
    thread, code = cpu['thread-id'], _translated(vm)
    tap.need(_libc.ptrace(_SEIZE, thread, None, None) == 0, 'the right to trace a child (ptrace)')
    try:
        wait_until(lambda: any(_stop(thread) in part for part in code), 'the vCPU in translated code')
        yield
    finally:
        _libc.ptrace(_DETACH, thread, None, None)
