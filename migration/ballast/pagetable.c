/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Absent pages: what the kernel knows, without asking for a page.
 *
 *   private, no file   /proc/self/pagemap: neither present nor swapped, or
 *                      (where PAGEMAP_SCAN tells) the shared page of zeros
 *   shared memory      the page tables of one process do not tell: another
 *                      mapping may have populated the page.  The file does:
 *                      SEEK_DATA skips holes, and knows swapped pages.  Its
 *                      counterpart SEEK_HOLE would hold the inode's lock
 *                      over all the data that follows, in one call; so
 *                      mincore() finds where asking for a hole is worth it
 *   huge pages         the file does not tell (SEEK_DATA finds all of it
 *                      data), but st_blocks counts its pages: if as many
 *                      are in our page tables, no other page has any.  The
 *                      count is taken before and after
 *
 * Where a call fails, nothing is absent.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <unistd.h>
#include "migration/ballast/pagetable.h"

#define PM_PRESENT (1ULL << 63)
#define PM_SWAPPED (1ULL << 62)

/* Linux 6.7; the headers of older systems do not have it. */
#define SCAN_PRESENT (1ULL << 3)
#define SCAN_SWAPPED (1ULL << 4)
#define SCAN_ZERO_PAGE (1ULL << 5)
#define SCAN_REGIONS 512

struct scan_region {
    uint64_t start, end, categories;
};

struct scan_arg {
    uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages;
    uint64_t inverted, all_of, any_of, returned;
};

/* Pages that mincore() is asked for at once. */
#define WINDOW 256

#define SCAN_IOCTL _IOWR('f', 16, struct scan_arg)

static enum ballast_pagemap forced;

void ballast_pagemap_force(enum ballast_pagemap how)
{
    forced = how;
}

static bool add(struct ballast_runs *out, uint64_t offset, uint64_t bytes)
{
    struct ballast_run *last = out->nr ? &out->run[out->nr - 1] : NULL;

    if (last && last->offset_bytes + last->bytes == offset) {
        last->bytes += bytes;
        return true;
    }
    if (out->nr == out->room) {
        size_t room = out->room ? 2 * out->room : 64;
        struct ballast_run *more = realloc(out->run, room * sizeof(*more));

        if (!more) {
            return false;
        }
        out->run = more;
        out->room = room;
    }
    out->run[out->nr++] = (struct ballast_run) { offset, bytes };
    return true;
}

/* Page tables --------------------------------------------------------- */

/*
 * Wanted: not swapped, and either not present or the page of zeros.  The
 * kernel compares after inverting: see its documentation of the ioctl.
 */
static bool scan(int pagemap, const struct ballast_memory *m,
                 uint64_t offset, uint64_t bytes, struct ballast_runs *out)
{
    struct scan_region vec[SCAN_REGIONS];
    uint64_t base = (uintptr_t)m->start;
    struct scan_arg arg = {
        .size = sizeof(arg), .end = base + offset + bytes,
        .vec = (uintptr_t)vec, .vec_len = SCAN_REGIONS,
        .inverted = SCAN_PRESENT | SCAN_SWAPPED, .all_of = SCAN_SWAPPED,
        .any_of = SCAN_PRESENT | SCAN_ZERO_PAGE, .returned = SCAN_PRESENT,
    };
    int i, nr;

    for (arg.start = base + offset; arg.start < arg.end;
         arg.start = arg.walk_end) {
        nr = ioctl(pagemap, SCAN_IOCTL, &arg);
        if (nr < 0 || arg.walk_end <= arg.start) {
            return false;
        }
        for (i = 0; i < nr; i++) {
            if (!add(out, vec[i].start - base, vec[i].end - vec[i].start)) {
                return false;
            }
        }
    }
    return true;
}

static bool read_entries(int pagemap, const struct ballast_memory *m,
                         uint64_t offset, uint64_t bytes,
                         struct ballast_runs *out)
{
    uint64_t page = m->page_bytes, entry[512];
    uint64_t at, i, nr;

    for (at = offset; at < offset + bytes; at += nr * page) {
        nr = (offset + bytes - at) / page;
        nr = nr < 512 ? nr : 512;
        if (pread(pagemap, entry, nr * sizeof(*entry),
                  ((uintptr_t)m->start + at) / page * sizeof(*entry)) !=
            (ssize_t)(nr * sizeof(*entry))) {
            return false;
        }
        for (i = 0; i < nr; i++) {
            if (!(entry[i] & (PM_PRESENT | PM_SWAPPED)) &&
                !add(out, at + i * page, page)) {
                return false;
            }
        }
    }
    return true;
}

/* Opened each time: QEMU may fork or drop privileges between two looks. */
static bool page_table_runs(const struct ballast_memory *m, uint64_t offset,
                            uint64_t bytes, struct ballast_runs *out)
{
    int pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    bool ok;

    if (pagemap < 0) {
        return false;
    }
    ok = forced == BALLAST_PAGEMAP_BEST &&
         scan(pagemap, m, offset, bytes, out);
    if (!ok) {
        out->nr = 0;
        ok = read_entries(pagemap, m, offset, bytes, out);
    }
    close(pagemap);
    return ok;
}

/* Shared memory ------------------------------------------------------- */

/* The end of the hole at @at; @at itself if there is none. */
static uint64_t hole_end(const struct ballast_memory *m, uint64_t at,
                         uint64_t end)
{
    off_t data = lseek(m->fd, m->fd_offset_bytes + at, SEEK_DATA);

    if (data < 0) {
        return errno == ENXIO ? end : at;
    }
    data -= m->fd_offset_bytes;
    return (uint64_t)data < end ? (uint64_t)data : end;
}

/* What mincore() said of the pages from @start to @end. */
struct window {
    uint64_t start, end;
    unsigned char in_core[WINDOW];
};

static bool window_move(struct window *w, const struct ballast_memory *m,
                        uint64_t at, uint64_t end)
{
    uint64_t most = WINDOW * m->page_bytes;

    if (at >= w->start && at < w->end) {
        return true;
    }
    w->start = at;
    w->end = end - at < most ? end : at + most;
    return !mincore(m->start + at, w->end - at, w->in_core);
}

/* From the data page @at on, the first that may be a hole. */
static uint64_t data_end(struct window *w, const struct ballast_memory *m,
                         uint64_t at, uint64_t end)
{
    uint64_t page = m->page_bytes;

    if (!window_move(w, m, at, end)) {
        w->end = 0;
        return at + page;
    }
    for (at += page; at < w->end; at += page) {
        if (!(w->in_core[(at - w->start) / page] & 1)) {
            break;
        }
    }
    return at;
}

static bool shmem_runs(const struct ballast_memory *m, uint64_t offset,
                       uint64_t bytes, struct ballast_runs *out)
{
    uint64_t end = offset + bytes, at = offset, next;
    struct window w = {};

    while (at < end) {
        next = hole_end(m, at, end);
        if (next == at) {
            next = data_end(&w, m, at, end);
        } else if (!add(out, at, next - at)) {
            return false;
        }
        at = next;
    }
    return true;
}

/* Huge pages ---------------------------------------------------------- */

static uint64_t file_bytes(int fd)
{
    struct stat st;

    return fstat(fd, &st) ? UINT64_MAX : (uint64_t)st.st_blocks * 512;
}

static bool hugetlb_runs(const struct ballast_memory *m, uint64_t offset,
                         uint64_t bytes, struct ballast_runs *out)
{
    uint64_t in_file = file_bytes(m->fd), present = m->bytes;
    size_t i;

    if (offset || bytes != m->bytes ||
        !page_table_runs(m, offset, bytes, out)) {
        return false;
    }
    for (i = 0; i < out->nr; i++) {
        present -= out->run[i].bytes;
    }
    return present == in_file && file_bytes(m->fd) == in_file;
}

/* All of them --------------------------------------------------------- */

void ballast_memory_kind(struct ballast_memory *m, bool shared)
{
    struct statfs fs;
    struct stat st;

    m->kind = BALLAST_MAP_UNKNOWN;
    if (m->fd < 0) {
        m->kind = shared ? BALLAST_MAP_UNKNOWN : BALLAST_MAP_ANON;
    } else if (shared && !fstat(m->fd, &st) && !fstatfs(m->fd, &fs) &&
               st.st_nlink == 0 &&
               (uint64_t)st.st_size >= m->fd_offset_bytes + m->bytes) {
        m->kind = fs.f_type == TMPFS_MAGIC ? BALLAST_MAP_SHMEM :
                  fs.f_type == HUGETLBFS_MAGIC ? BALLAST_MAP_HUGETLB :
                  BALLAST_MAP_UNKNOWN;
    }
}

bool ballast_absent_runs(const struct ballast_memory *m,
                         uint64_t offset_bytes, uint64_t bytes,
                         struct ballast_runs *out)
{
    bool ok = false;

    out->nr = 0;
    switch (m->kind) {
    case BALLAST_MAP_ANON:
        ok = page_table_runs(m, offset_bytes, bytes, out);
        break;
    case BALLAST_MAP_SHMEM:
        ok = shmem_runs(m, offset_bytes, bytes, out);
        break;
    case BALLAST_MAP_HUGETLB:
        ok = hugetlb_runs(m, offset_bytes, bytes, out);
        break;
    case BALLAST_MAP_UNKNOWN:
        break;
    }
    if (!ok) {
        out->nr = 0;
    }
    return ok;
}
