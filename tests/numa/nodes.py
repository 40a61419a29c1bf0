# SPDX-License-Identifier: GPL-2.0-or-later
"""The host's nodes as the kernel tells of them, without libnuma and without anything of ours."""

import ctypes
import mmap
import os
import re
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Dict, Iterator, List, Sequence

from ballast import tap
from ballast.vm import wait_until

MIB = 1 << 20
PAGE = 4096
HUGE = 2 * MIB
GIANT = 1024 * MIB
NODES = Path('/sys/devices/system/node')
NEEDED = 4
NOISE = 12 * MIB        # what the kernel and this program use of a node meanwhile

_MBIND, _MIGRATE_PAGES, _MOVE_PAGES = 237, 256, 279         # x86_64
_BIND = 2
_POPULATE_WRITE = 23
_libc = ctypes.CDLL(None, use_errno=True)


def need_nodes() -> None:
    """Skip where there are fewer than the cases are made for."""
    tap.need(len(online()) >= NEEDED, f'a host with {NEEDED} nodes (scripts/numa-host)')


def online() -> List[int]:
    """Nodes that have memory."""
    first_last = [part.split('-') for part in (NODES / 'has_memory').read_text().strip().split(',')]
    return [node for ends in first_last for node in range(int(ends[0]), int(ends[-1]) + 1)]


def meminfo(node: int) -> Dict[str, int]:
    """Bytes, by the names of /sys/devices/system/node/nodeN/meminfo; pages of pools are pages."""
    text = (NODES / f'node{node}/meminfo').read_text()
    return {name: int(value) * (1024 if unit else 1)
            for name, value, unit in re.findall(r'^Node \d+ (\S+): +(\d+)( kB)?', text, re.MULTILINE)}


def total(node: int) -> int:
    """Bytes that the node has, without pages of 1 GiB: those are what they are from boot on."""
    return meminfo(node)['MemTotal'] - _pages(node, 'nr', GIANT)


def free(node: int) -> int:
    """Bytes that are free there now."""
    return meminfo(node)['MemFree']


def compact() -> None:
    """Free pages that processors keep for themselves count as used: they give them back."""
    Path('/proc/sys/vm/compact_memory').write_text('1')


def drop_caches() -> None:
    """Clean pages of files are not memory in use, but they are not free either."""
    os.sync()
    Path('/proc/sys/vm/drop_caches').write_text('3')
    compact()


def _pool(node: int, page: int = HUGE) -> Path:
    return NODES / f'node{node}/hugepages/hugepages-{page // 1024}kB'


def _pages(node: int, which: str, page: int) -> int:
    file = _pool(node, page) / f'{which}_hugepages'
    return int(file.read_text()) * page if file.exists() else 0


def free_huge(node: int, page: int = HUGE) -> int:
    """Bytes of huge pages that are free in the node's pool."""
    return _pages(node, 'free', page)


@contextmanager
def huge_pages(pools: Dict[int, int]) -> Iterator[None]:
    """Pools of so many bytes of 2 MiB pages on these nodes."""
    drop_caches()
    try:
        for node, size in pools.items():
            wait_until(partial(_fill_pool, node, size), f"{size} bytes in node {node}'s pool")
        yield
    finally:
        for node in pools:
            (_pool(node) / 'nr_hugepages').write_text('0')


def _fill_pool(node: int, size: int) -> bool:
    """Memory that is in pieces may need another try."""
    pages = _pool(node) / 'nr_hugepages'
    pages.write_text(str(size // HUGE))
    if int(pages.read_text()) * HUGE == size:
        return True
    drop_caches()
    return False


@contextmanager
def hog(node: int, size: int) -> Iterator[None]:
    """Somebody else's memory: populated pages that are on this node."""
    size -= size % PAGE
    area = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    try:
        address = ctypes.addressof(ctypes.c_char.from_buffer(area))
        mask = ctypes.c_ulong(1 << node)
        _call(_MBIND, ctypes.c_void_p(address), ctypes.c_ulong(size), _BIND, ctypes.byref(mask), 64, 0)
        area.madvise(_POPULATE_WRITE)
        yield
    finally:
        before = free(node)
        area.close()
        wait_until(lambda: compact() or free(node) >= before + size - NOISE, "the hog's memory to come back")


@contextmanager
def filled(node: int, left: int) -> Iterator[None]:
    """No more than this is free on the node: its pool takes most at once, and what is in pieces goes to a hog."""
    drop_caches()
    pages = _pool(node) / 'nr_hugepages'
    before = pages.read_text()
    try:
        pages.write_text(str(int(before) + max(0, free(node) - left) // HUGE))
        with hog(node, max(PAGE, free(node) - left)):
            yield
    finally:
        pages.write_text(before)


@contextmanager
def thp(mode: str) -> Iterator[None]:
    """Transparent huge pages: never, madvise or always."""
    switch = Path('/sys/kernel/mm/transparent_hugepage/enabled')
    before = re.search(r'\[(\w+)\]', switch.read_text())
    assert before
    switch.write_text(mode)
    try:
        yield
    finally:
        switch.write_text(before[1])


def _call(number: int, *args: object) -> int:
    result = _libc.syscall(number, *args)
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return int(result)


def where(pid: int, start: int, size: int) -> Dict[int, int]:
    """Bytes per node of a stretch of a process' memory, by /proc/PID/numa_maps.

    The stretch must be whole mappings, and is from where it begins to where it ends.
    """
    sums: Dict[int, int] = {}
    starts = [int(line.split('-')[0], 16) for line in Path(f'/proc/{pid}/maps').read_text().splitlines()]
    assert start in starts, f'no mapping begins at {start:#x}'
    for line in Path(f'/proc/{pid}/numa_maps').read_text().splitlines():
        if not start <= int(line.split()[0], 16) < start + size:
            continue
        unit = int(re.search(r'kernelpagesize_kB=(\d+)', line)[1]) * 1024 if ' N' in line else 0   # type: ignore
        for node, pages in re.findall(r' N(\d+)=(\d+)', line):
            sums[int(node)] = sums.get(int(node), 0) + int(pages) * unit
    return sums


def huge_in(pid: int, start: int, size: int) -> int:
    """Bytes of a stretch that are transparent huge pages, by /proc/PID/smaps."""
    bytes_, inside = 0, False
    for line in Path(f'/proc/{pid}/smaps').read_text().splitlines():
        head = re.match(r'([0-9a-f]+)-[0-9a-f]+ ', line)
        if head:
            inside = start <= int(head[1], 16) < start + size
        elif inside and re.match(r'(Anon|ShmemPmd|FilePmd)\w*HugePages|ShmemPmdMapped', line):
            bytes_ += int(line.split()[1]) * 1024
    return bytes_


def move(pid: int, addresses: Sequence[int], node: int) -> None:
    """Move pages of a process to a node; all must get there."""
    for at in range(0, len(addresses), 1024):
        part = addresses[at:at + 1024]
        pages = (ctypes.c_void_p * len(part))(*part)
        wanted = (ctypes.c_int * len(part))(*[node] * len(part))
        status = (ctypes.c_int * len(part))()
        _call(_MOVE_PAGES, pid, ctypes.c_ulong(len(part)), pages, wanted, status, 2)
        assert set(status) == {node}, f'not all pages went to node {node}: {set(status)}'
