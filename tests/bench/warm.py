# SPDX-License-Identifier: GPL-2.0-or-later
"""Memory that this machine really has.

In a virtual machine the first touch of a page may take forty times as long as the next one: whoever is measured
first would pay for it.  So what is free is touched once, and given back to the kernel, before guests are measured.
"""

import mmap
import re
from functools import lru_cache
from pathlib import Path

MIB = 1 << 20
SPARE = 1024 * MIB          # stays free meanwhile
PIECE = 256 * MIB


def _free_bytes() -> int:
    found = re.search(r'^MemFree:\s*(\d+) kB', Path('/proc/meminfo').read_text('ascii'), re.MULTILINE)
    assert found
    return int(found[1]) * 1024


@lru_cache(maxsize=None)
def warm() -> None:
    """Once in a process: a few seconds, or a minute or two on a machine that was just made."""
    pieces = []
    try:
        while _free_bytes() > SPARE + PIECE:
            pieces.append(mmap.mmap(-1, PIECE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE))
    finally:
        for piece in pieces:
            piece.close()
