# SPDX-License-Identifier: GPL-2.0-or-later
"""Processor time and memory of a QEMU, from the kernel's books."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Dict, Iterator, NamedTuple

from ballast.vm import VM

KIB = 1 << 10
_TICK_MS = 1000 / os.sysconf('SC_CLK_TCK')


class Processor(NamedTuple):
    """Milliseconds: the whole process with threads that have ended, and two threads of it."""

    all: float
    vcpu: float
    iothread: float

    def since(self, start: 'Processor') -> 'Processor':
        """The difference."""
        return Processor(*(now - then for now, then in zip(self, start)))


class Memory(NamedTuple):
    """Bytes."""

    rss: int            # what the process has in its page tables
    pss: int            # of that its share
    shmem: int          # its memfds, mapped or not
    huge: int           # of rss: in transparent huge pages

    @property
    def held(self) -> int:
        """What the host would have back: a memfd's pages count whether they are mapped or not."""
        return max(self.rss, self.shmem)


def _ran(pid: int, tid: int) -> float:
    return int(Path(f'/proc/{pid}/task/{tid}/schedstat').read_text('ascii').split()[0]) / 1e6


def _whole(pid: int) -> float:
    fields = Path(f'/proc/{pid}/stat').read_text('utf-8').rpartition(')')[2].split()
    return (int(fields[11]) + int(fields[12])) * _TICK_MS


def processor(machine: VM) -> Processor:
    """QEMU names no threads by default: ask it which they are."""
    pid = machine.get_pid()
    assert pid is not None
    vcpus = [cpu['thread-id'] for cpu in machine.qmp('query-cpus-fast')]
    iothreads = [thread['thread-id'] for thread in machine.qmp('query-iothreads')]
    return Processor(_whole(pid), sum(_ran(pid, tid) for tid in set(vcpus)),
                     sum(_ran(pid, tid) for tid in iothreads))


def _memfds(pid: int) -> Iterator[int]:
    for entry in Path(f'/proc/{pid}/fd').iterdir():
        try:
            if os.readlink(entry).startswith('/memfd:memory-backend'):
                yield os.stat(entry).st_blocks * 512
        except FileNotFoundError:
            continue        # closed meanwhile


def _kib(path: str) -> Dict[str, int]:
    lines = Path(path).read_text('ascii', errors='replace').splitlines()
    return {line.split(':')[0]: int(line.split()[1]) * KIB for line in lines if line.endswith(' kB')}


def memory(machine: VM) -> Memory:
    """Everything; walks the page tables."""
    pid = machine.get_pid()
    assert pid is not None
    rollup = _kib(f'/proc/{pid}/smaps_rollup')
    return Memory(rollup['Rss'], rollup['Pss'], sum(_memfds(pid)), rollup['AnonHugePages'])


def held_now(machine: VM) -> int:
    """The same as memory().held, from counters: cheap enough to ask while pages are sent."""
    pid = machine.get_pid()
    assert pid is not None
    return max(_kib(f'/proc/{pid}/status').get('VmRSS', 0), sum(_memfds(pid)))
