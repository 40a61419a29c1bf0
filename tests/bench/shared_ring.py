# SPDX-License-Identifier: GPL-2.0-or-later
"""The hint queue's ring in memory shared with QEMU, kept full.

The driver in tests/lib/ballast goes through QEMU's main loop for each access: fine for tests, but a
measurement would wait for the very thread it measures.  Here the guest's RAM is mapped on both sides:
filling the ring and looking at the used index costs QEMU nothing; only a kick is a request.
"""

import ctypes
import mmap
import os
import struct
import time
from contextlib import contextmanager
from typing import Iterator, List, Sequence, Tuple

from ballast.virtio import Balloon

Range = Tuple[int, int]

_WRITE = 2
_NO_NOTIFY = 1
_PR_SET_TIMERSLACK = 29
_NAP = 60e-6
_TIMEOUT = 30.0


@contextmanager
def short_naps() -> Iterator[bool]:
    """Within, this thread wakes up when it wants to, however busy the machine is, if that is permitted.

    It looks at the ring every 80 µs (the device needs longer for a quarter of it) and sleeps in between: if
    it spun, or came late because another process had its turn, the measurement would be of that.  What it
    starts does not inherit the priority.
    """
    usual = os.sched_getscheduler(0), os.sched_getparam(0)
    ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, 1, 0, 0, 0)
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(1))
    except PermissionError:
        yield False
        return
    try:
        yield True
    finally:
        os.sched_setscheduler(0, *usual)


class SharedMemory:
    """Guest RAM, of which the first bytes are mapped here too."""

    MAPPED = 16 << 20

    def __init__(self, size: int) -> None:
        self._size = size
        self._fd = os.memfd_create('bench-guest-ram', os.MFD_CLOEXEC)
        os.ftruncate(self._fd, size)
        self.map = mmap.mmap(self._fd, self.MAPPED)
        self._bytes = memoryview(self.map)
        # one load or store each; struct would go byte by byte, and QEMU could see half of an index
        self.words = self._bytes.cast('H')

    def args(self) -> List[str]:
        """The backend, id=ram0, for a QEMU started by this process."""
        path = f'/proc/{os.getpid()}/fd/{self._fd}'
        return ['-object', f'memory-backend-file,id=ram0,size={self._size},mem-path={path},share=on']

    def close(self) -> None:
        """Let go of it."""
        self.words.release()
        self._bytes.release()
        self.map.close()
        os.close(self._fd)


class SharedRing:      # pylint: disable=too-many-instance-attributes
    """Takes over a queue of a Balloon on which all is idle.

    Descriptor and place in the ring have the same number, so that a part of the ring is filled by one copy.
    """

    PARTS = 4

    def __init__(self, balloon: Balloon, name: str, memory: SharedMemory, filler: Range) -> None:
        queue = balloon.queues[name]
        self._kick = queue.kick
        self._map, self._words = memory.map, memory.words
        self._size = queue.size
        self._desc = balloon.base + queue.index * balloon.RING_SPAN
        self._avail = self._desc + 16 * self._size
        self._used = queue.used_flags
        self._index = self._words[self._avail // 2 + 1]
        self.part = self._size // self.PARTS
        assert self._in_flight() == 0, 'the queue is not idle'
        self._align(filler)
        struct.pack_into(f'<{self._size}H', self._map, self._avail + 4, *range(self._size))

    def _in_flight(self) -> int:
        return (self._index - self._words[self._used // 2 + 1]) & 0xffff

    def _align(self, filler: Range) -> None:
        """Advance to the next part of the ring."""
        self.fillers = -self._index % self.part
        while self._index % self.part:
            here = self._index % self._size
            struct.pack_into('<H', self._map, self._avail + 4 + 2 * here, here)
            struct.pack_into('<QIHH', self._map, self._desc + 16 * here, *filler, _WRITE, 0)
            self._publish(1)
        self.wait_below(1)

    def encode(self, ranges: Sequence[Range]) -> List[bytes]:
        """Ranges to parts of a descriptor table for feed(); what fills no whole part is left off."""
        whole = [ranges[at:at + self.part] for at in range(0, len(ranges) - self.part + 1, self.part)]
        return [b''.join(struct.pack('<QIHH', addr, length, _WRITE, 0) for addr, length in part)
                for part in whole]

    def feed(self, parts: Sequence[bytes]) -> None:
        """Put all in the ring as places come free, and wait until the last was returned."""
        for part in parts:
            self.wait_below(self._size - self.part + 1)
            start = self._desc + 16 * (self._index % self._size)
            self._map[start:start + len(part)] = part
            self._publish(self.part)
        self.wait_below(1)

    def _publish(self, count: int) -> None:
        """Show buffers to the device; kick it unless it polls, as a driver does."""
        self._index = (self._index + count) & 0xffff
        self._words[self._avail // 2 + 1] = self._index
        if not self._words[self._used // 2] & _NO_NOTIFY:
            self._kick()

    def wait_below(self, count: int) -> None:
        """Until fewer than so many buffers are with the device."""
        deadline = time.monotonic() + _TIMEOUT
        while self._in_flight() >= count:
            if time.monotonic() > deadline:
                raise TimeoutError(f'the device keeps {self._in_flight()} buffers')
            time.sleep(_NAP)
