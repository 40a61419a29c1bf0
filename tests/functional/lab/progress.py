# SPDX-License-Identifier: GPL-2.0-or-later
"""How far the lab is: a bar on a terminal, a line per cell elsewhere."""

from __future__ import annotations

import shutil
import sys
import time
from typing import TextIO

from .cell import Row


def clock(seconds: float) -> str:
    """m:ss."""
    return f'{int(seconds) // 60}:{int(seconds) % 60:02}'


def bar(done: int, total: int, width: int) -> str:
    """[####----]"""
    filled = width * done // max(total, 1)
    return '[' + '#' * filled + '-' * (width - filled) + ']'


def describe(row: Row) -> str:
    """A finished cell in a few words."""
    if 'total_ms' in row:
        text = f'{row["total_ms"]} ms, {row["bytes"] / (1 << 20):.0f} MiB, {row["zero_pages"]} zero pages'
    else:
        text = row['reason']
    return text if row['status'] == 'ok' else f'{row["status"].upper()}: {row["reason"] or text}'


class Progress:
    """Of cells that are done one after the other."""

    def __init__(self, total: int, stream: TextIO = sys.stdout) -> None:
        self.total = total
        self.done = 0
        self._stream = stream
        self._terminal = stream.isatty()
        self._begun = time.monotonic()

    def left(self) -> str:
        """Time until the end, if the rest takes as long as what is done."""
        if not self.done:
            return 'time left not known yet'
        spent = time.monotonic() - self._begun
        return clock(spent / self.done * (self.total - self.done)) + ' left'

    def doing(self, what: str) -> None:
        """What comes now."""
        if self._terminal:
            line = f'{bar(self.done, self.total, 24)} {self.done}/{self.total}  {self.left()}  {what}'
            width = shutil.get_terminal_size().columns - 1
            self._stream.write('\r\033[K' + line[:width])
            self._stream.flush()

    def finished(self, name: str, row: Row) -> None:
        """A cell is done: its line stays."""
        self.done += 1
        if not self._terminal:
            name = f'{self.done}/{self.total} ({self.left()}) {name}'
        self.say(f'{name}: {describe(row)}')

    def step(self, what: str, trouble: str = '') -> None:
        """One of many that are not worth a line unless something is wrong."""
        self.done += 1
        if trouble:
            self.say(trouble)
        self.doing(what)

    def say(self, text: str) -> None:
        """A line that stays."""
        self.end()
        print(text, file=self._stream, flush=True)

    def end(self) -> None:
        """The bar goes."""
        if self._terminal:
            self._stream.write('\r\033[K')
            self._stream.flush()
