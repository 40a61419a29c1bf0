# SPDX-License-Identifier: GPL-2.0-or-later
"""What a person sees: headings, sentences, results; colours only on a terminal."""

from __future__ import annotations

import sys
import textwrap
from typing import TextIO

_BOLD, _DIM, _GREEN, _RED, _CYAN = "1", "2", "32", "31", "36"
_WIDTH = 78


class Screen:
    """Lines for people on one stream."""

    def __init__(self, stream: TextIO = sys.stdout) -> None:
        self._stream = stream
        self._colour = stream.isatty()

    def _paint(self, code: str, text: str) -> str:
        return f"\033[{code}m{text}\033[0m" if self._colour else text

    def _put(self, text: str = "") -> None:
        print(text, file=self._stream, flush=True)

    def title(self, text: str) -> None:
        """The first line."""
        self._put(self._paint(_BOLD, text))

    def heading(self, number: int, text: str) -> None:
        """A step begins."""
        self._put()
        self._put(self._paint(_BOLD + ";" + _CYAN, f"{number}. {text}"))

    def why(self, text: str) -> None:
        """Why the step matters."""
        for line in textwrap.wrap(text, _WIDTH - 3):
            self._put("   " + self._paint(_DIM, line))

    def result(self, text: str) -> None:
        """Something happened, and was checked."""
        first, *rest = textwrap.wrap(text, _WIDTH - 6)
        self._put("   " + self._paint(_GREEN, "ok") + " " + first)
        for line in rest:
            self._put("      " + line)

    def quote(self, text: str) -> None:
        """Words of a program, as they are."""
        for line in text.rstrip().splitlines():
            self._put("      | " + line)

    def table(self, text: str) -> None:
        """Output with columns, as it is."""
        self._put()
        for line in text.rstrip().splitlines():
            self._put(("  " + line).rstrip())
        self._put()

    def done(self, text: str) -> None:
        """The last line of a demo that went well."""
        self._put()
        self._put(self._paint(_BOLD + ";" + _GREEN, text))

    def failed(self, text: str) -> None:
        """The one line of a demo that did not."""
        self._put()
        colour = sys.stderr.isatty()
        line = f"\033[{_RED}m{text}\033[0m" if colour else text
        print(line, file=sys.stderr, flush=True)
