# SPDX-License-Identifier: GPL-2.0-or-later
"""Processor time of QEMU's threads, in nanoseconds of the scheduler and not in clock ticks."""

from pathlib import Path
from typing import NamedTuple

from ballast.vm import VM


class Usage(NamedTuple):
    """How long two threads have run."""

    iothread: int
    main_loop: int

    def since(self, start: 'Usage') -> 'Usage':
        """The difference."""
        return Usage(*(now - then for now, then in zip(self, start)))


def _ran(pid: int, tid: int) -> int:
    return int(Path(f'/proc/{pid}/task/{tid}/schedstat').read_text(encoding='utf-8').split()[0])


def usage(machine: VM) -> Usage:
    """Of the only -object iothread, and of the main loop (QEMU names no threads by default: ask it)."""
    pid = machine.get_pid()
    assert pid is not None
    iothread, = machine.qmp('query-iothreads')
    return Usage(_ran(pid, iothread['thread-id']), _ran(pid, pid))
