# SPDX-License-Identifier: GPL-2.0-or-later
"""A vhost-user back end that does what the test says, when the test says it.

    with BackEnd() as disk, VM([*machine, *disk.args()]) as vm:
        vm.launch()
        disk.start_driver(vm.qtest)
        ...
        disk.write(addr, data)          # into the guest's memory, past QEMU and KVM
        disk.mark(addr)                 # in the log of dirty pages that QEMU reads

It never looks into its queue: real back ends write to memory that requests name, but QEMU does not know these,
and needs only a device that was started.  Marking is not atomic here: what QEMU takes from the log between our
load and our store is marked once more, nothing is unmarked.
"""

import mmap
import os
import socket
import struct
import tempfile
import threading
from dataclasses import dataclass
from types import TracebackType
from typing import Callable, Dict, List, Optional, Tuple, Type

from . import virtio
from .vm import Qtest, wait_until

PAGE = virtio.PAGE

_GET_FEATURES, _SET_FEATURES, _SET_OWNER = 1, 2, 3
_SET_MEM_TABLE, _SET_LOG_BASE = 5, 6
_SET_VRING_NUM, _SET_VRING_ADDR, _SET_VRING_BASE, _GET_VRING_BASE = 8, 9, 10, 11
_SET_VRING_KICK, _SET_VRING_CALL, _SET_VRING_ERR = 12, 13, 14
_GET_PROTOCOL_FEATURES, _SET_PROTOCOL_FEATURES, _SET_VRING_ENABLE, _GET_CONFIG = 15, 16, 18, 24

_LOG_ALL, _PROTOCOL_FEATURES = 1 << 26, 1 << 30
_F_LOG_SHMFD, _F_REPLY_ACK, _F_CONFIG = 1 << 1, 1 << 3, 1 << 9
_VERSION, _REPLY, _NEED_REPLY = 1, 1 << 2, 1 << 3
_HEADER = struct.Struct('<III')         # request, flags, size of what follows


@dataclass
class _Region:
    start: int
    size: int
    offset: int                         # in the file
    fd: int
    memory: mmap.mmap


class BackEnd:  # pylint: disable=too-many-instance-attributes
    """One vhost-user-blk device's; it serves one connection in a thread of its own."""

    def __init__(self) -> None:
        self._dir = tempfile.TemporaryDirectory(prefix='ballast-')  # pylint: disable=consider-using-with
        self.path = os.path.join(self._dir.name, 'vhost')
        self.logging = False
        self.running = False
        self.when_stopping: Callable[[], None] = lambda: None
        self._error: Optional[BaseException] = None
        self._lock = threading.Lock()
        self._regions: List[_Region] = []
        self._log: Optional[mmap.mmap] = None
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self.path)
        self._listener.listen()
        self._connection: Optional[socket.socket] = None
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> 'BackEnd':
        self._thread.start()
        return self

    def __exit__(self, kind: Optional[Type[BaseException]], value: Optional[BaseException],
                 trace: Optional[TracebackType]) -> None:
        for sock in (self._listener, self._connection):
            if sock:
                try:
                    sock.shutdown(socket.SHUT_RDWR)     # wakes who waits for it
                except OSError:
                    pass                                # QEMU was first
        self._thread.join()
        self._listener.close()
        self._forget_regions()
        if self._log:
            self._log.close()
        self._dir.cleanup()
        if value is None:
            self._check()
        elif self._error:
            value.add_note(f'back end: {self._error!r}')

    def args(self) -> List[str]:
        """QEMU's arguments for the device; its memory must be shared."""
        return ['-chardev', f'socket,id=vhost0,path={self.path}', '-device', 'vhost-user-blk,id=disk0,chardev=vhost0']

    def start_driver(self, qtest: Qtest, base: int) -> None:
        """A driver on the guest's side: what QEMU waits for before it starts the back end."""
        virtio.Driver(virtio.find_mmio(qtest, virtio.BLOCK_ID), base=base)
        wait_until(lambda: self.running or self._error, 'the back end to be started')
        self._check()

    # -- what the test says

    def write(self, addr: int, data: bytes) -> None:
        """Data, without a mark."""
        with self._lock:
            self._check()
            assert self.running, 'QEMU has not started this back end, or has stopped it'
            region = self._find(addr, len(data))
            at = region.offset + addr - region.start
            region.memory[at:at + len(data)] = data

    def mark(self, addr: int) -> None:
        """A mark in QEMU's log for the page, which has data already."""
        with self._lock:
            byte, bit = self._log_bit(addr)
            assert self._log
            self._log[byte] |= bit

    def is_marked(self, addr: int) -> bool:
        """Nobody has taken the mark so far."""
        with self._lock:
            byte, bit = self._log_bit(addr)
            assert self._log
            return bool(self._log[byte] & bit)

    def is_hole(self, addr: int) -> bool:
        """No process has ever put anything into this page of the memory's file."""
        with self._lock:
            region = self._find(addr, PAGE)
            at = region.offset + addr - region.start
            try:
                return os.lseek(region.fd, at, os.SEEK_DATA) >= at + PAGE
            except OSError:             # no data from here on
                return True

    def _log_bit(self, addr: int) -> Tuple[int, int]:
        self._check()
        assert self.running and self.logging, 'QEMU wants no log'
        page = addr // PAGE
        return page // 8, 1 << page % 8

    def _find(self, addr: int, length: int) -> _Region:
        for region in self._regions:
            if region.start <= addr and addr + length <= region.start + region.size:
                return region
        raise LookupError(f'{addr:#x} is not in the memory table')

    def _check(self) -> None:
        if self._error:
            raise RuntimeError('the back end has ended') from self._error

    # -- what QEMU says

    def _serve(self) -> None:
        try:
            self._connection, _ = self._listener.accept()
        except OSError:
            return                      # nobody came
        with self._connection:
            try:
                while self._message(self._connection):
                    pass
            except ConnectionError:
                pass                    # QEMU was killed
            except Exception as error:  # pylint: disable=broad-except
                self._error = error

    def _message(self, connection: socket.socket) -> bool:
        header, fds, _, _ = socket.recv_fds(connection, _HEADER.size, 8)
        try:
            if not header:
                return False
            request, flags, size = _HEADER.unpack(header)
            payload = connection.recv(size, socket.MSG_WAITALL) if size else b''
            assert len(payload) == size, 'a message that ends early'
            answer = self._answer(request, payload, fds)
        finally:
            for fd in fds:
                os.close(fd)
        if answer is None and flags & _NEED_REPLY:
            answer = bytes(8)           # done
        if answer is not None:
            connection.sendall(_HEADER.pack(request, _VERSION | _REPLY, len(answer)) + answer)
        return True

    def _answer(self, request: int, payload: bytes, fds: List[int]) -> Optional[bytes]:
        constant: Dict[int, bytes] = {
            _GET_FEATURES: struct.pack('<Q', virtio.VERSION_1 | _LOG_ALL | _PROTOCOL_FEATURES),
            _GET_PROTOCOL_FEATURES: struct.pack('<Q', _F_LOG_SHMFD | _F_REPLY_ACK | _F_CONFIG),
            _GET_CONFIG: payload,       # it came with zeros: a disk without sectors
            _GET_VRING_BASE: payload,   # nothing was taken from the queue
        }
        if request == _SET_FEATURES:
            self.logging = bool(struct.unpack('<Q', payload)[0] & _LOG_ALL)
        elif request == _SET_MEM_TABLE:
            self._set_regions(payload, fds)
        elif request == _SET_LOG_BASE:
            self._set_log(payload, fds)
            return bytes(8)             # always wanted
        elif request == _SET_VRING_ENABLE:
            # a queue that is not enabled any more may still end what it has begun
            self.running |= bool(struct.unpack('<II', payload)[1])
        elif request == _GET_VRING_BASE:
            if self.running:
                self.when_stopping()
            self.running = False
        elif request not in (*constant, _SET_OWNER, _SET_PROTOCOL_FEATURES, _SET_VRING_NUM, _SET_VRING_ADDR,
                             _SET_VRING_BASE, _SET_VRING_KICK, _SET_VRING_CALL, _SET_VRING_ERR):
            raise NotImplementedError(f'vhost-user request {request}')
        return constant.get(request)

    def _set_regions(self, payload: bytes, fds: List[int]) -> None:
        count, _ = struct.unpack_from('<II', payload)
        assert count == len(fds), 'a region without a file'
        with self._lock:
            self._forget_regions()
            for index, fd in enumerate(fds):
                start, size, _, offset = struct.unpack_from('<QQQQ', payload, 8 + 32 * index)
                # opened again: seeking must not move QEMU's position
                own = os.open(f'/proc/self/fd/{fd}', os.O_RDWR)
                self._regions.append(_Region(start, size, offset, own, mmap.mmap(own, offset + size)))

    def _forget_regions(self) -> None:
        for region in self._regions:
            region.memory.close()
            os.close(region.fd)
        self._regions = []

    def _set_log(self, payload: bytes, fds: List[int]) -> None:
        size, offset = struct.unpack('<QQ', payload)
        assert offset == 0 and len(fds) == 1
        with self._lock:
            self._log = mmap.mmap(fds[0], size)
