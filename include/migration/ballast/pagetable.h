/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Which pages of a piece of memory the kernel has never populated, or has
 * dropped again: they read as zero, and looking populates nothing.
 *
 * Without QEMU, so that it can be tested against real mappings.
 */
#ifndef BALLAST_PAGETABLE_H
#define BALLAST_PAGETABLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/** BALLAST_PIECE_BYTES - the most that one look covers */
#define BALLAST_PIECE_BYTES (64UL << 20)

/** enum ballast_mapping - who knows which pages are absent */
enum ballast_mapping {
    /** @BALLAST_MAP_UNKNOWN: nobody who could be asked: never absent */
    BALLAST_MAP_UNKNOWN,
    /** @BALLAST_MAP_ANON: private, no file: this process' page tables */
    BALLAST_MAP_ANON,
    /** @BALLAST_MAP_SHMEM: shared memory of a nameless file: the file */
    BALLAST_MAP_SHMEM,
    /**
     * @BALLAST_MAP_HUGETLB: the same in huge pages: this process' page
     * tables, but only while they have every page that the file has
     */
    BALLAST_MAP_HUGETLB,
};

/**
 * struct ballast_memory - a mapping to look at
 * @kind: how to look
 * @start: its first byte, page aligned
 * @bytes: its length
 * @page_bytes: size of a page table's entry; also with huge pages
 * @fd: its file, or -1
 * @fd_offset_bytes: where in the file it begins
 */
struct ballast_memory {
    enum ballast_mapping kind;
    char *start;
    uint64_t bytes;
    uint64_t page_bytes;
    int fd;
    uint64_t fd_offset_bytes;
};

/**
 * struct ballast_run - adjacent absent pages
 * @offset_bytes: of the first one in the memory
 * @bytes: their size, whole pages
 */
struct ballast_run {
    uint64_t offset_bytes;
    uint64_t bytes;
};

/**
 * struct ballast_runs - a growing list of them, ascending
 * @run: the list; free() it
 * @nr: how many
 * @room: for how many
 */
struct ballast_runs {
    struct ballast_run *run;
    size_t nr;
    size_t room;
};

/** enum ballast_pagemap - how to read page tables; for tests */
enum ballast_pagemap {
    /** @BALLAST_PAGEMAP_BEST: PAGEMAP_SCAN where the kernel has it */
    BALLAST_PAGEMAP_BEST,
    /** @BALLAST_PAGEMAP_READ: by reading /proc/self/pagemap */
    BALLAST_PAGEMAP_READ,
};

/**
 * ballast_pagemap_force() - choose how to read page tables
 * @how: from now on
 *
 * Context: no other thread is looking.
 */
void ballast_pagemap_force(enum ballast_pagemap how);

/**
 * ballast_memory_kind() - find out how to look at a mapping
 * @m: everything but @m->kind is set; that is filled in
 * @shared: it is mapped MAP_SHARED
 *
 * A file that has a name is unknown: who maps it by that name on another
 * host may find something in it.
 *
 * Context: any thread.
 */
void ballast_memory_kind(struct ballast_memory *m, bool shared);

/**
 * ballast_absent_runs() - absent pages in a part of a mapping
 * @m: the mapping
 * @offset_bytes: where the part begins, page aligned
 * @bytes: its length, at most BALLAST_PIECE_BYTES; for huge pages the
 *         part must be all of @m, of whatever length
 * @out: what was in it is forgotten; runs found, ascending
 *
 * Each page listed read as zero at some moment during the call, and
 * whatever it holds later was written after that moment.
 *
 * Context: any thread; nothing is populated.  Holds the process' mmap lock
 * for reading, for some microseconds at a time.
 *
 * Return: false if the kernel does not tell; @out is empty.
 */
bool ballast_absent_runs(const struct ballast_memory *m,
                         uint64_t offset_bytes, uint64_t bytes,
                         struct ballast_runs *out);

#endif
