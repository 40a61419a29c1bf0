# SPDX-License-Identifier: GPL-2.0-or-later
"""Memory that this machine really has.

In a virtual machine the first touch of a page may take ten times as long as the next one, and the kernel may give
what is free for a few seconds back to the host, so that this begins anew.  A destination that is given such pages
measures the host.  So most of what is free is taken and held as long as the bench runs, and the rest, for guests,
is touched and freed right before each migration.
"""

import mmap
import re
from functools import lru_cache
from pathlib import Path

GIB = 1 << 30
FOR_GUESTS = 7 * GIB
SPARE = GIB // 2            # stays free while the rest is touched

asked = False               # --warm  pylint: disable=invalid-name


def _free() -> int:
    found = re.search(r'^MemFree:\s*(\d+) kB', Path('/proc/meminfo').read_text('ascii'), re.MULTILINE)
    assert found
    return int(found[1]) * 1024


def _take(size: int) -> mmap.mmap:
    return mmap.mmap(-1, max(size, mmap.PAGESIZE), mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE)


@lru_cache(maxsize=None)
def _hold() -> mmap.mmap:
    area = _take(_free() - FOR_GUESTS)
    area.madvise(mmap.MADV_DONTFORK)
    return area


def warm() -> None:
    """To be called right before a migration; the first call takes up to a minute, and keeps what it took."""
    _hold()
    _take(_free() - SPARE).close()


def warm_if_asked() -> None:
    """For measurements that take memory as the machine gives it, unless --warm is there."""
    if asked:
        warm()
