/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Absent pages of real mappings: found where there are none, and nowhere
 * else, and still absent after the look.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include "migration/ballast/pagetable.h"

#define PAGE 4096UL
#define HUGE (2UL << 20)
#define BYTES (64 * PAGE)

static int tests;
static int bad;

static void report(bool ok, const char *what)
{
    printf("%sok %d - %s\n", ok ? "" : "not ", ++tests, what);
    bad += !ok;
}

static void skip(const char *what, const char *needs)
{
    printf("ok %d - %s # SKIP needs %s\n", ++tests, what, needs);
}

static char *map(uint64_t bytes, int flags, int fd)
{
    char *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, flags, fd, 0);

    if (p == MAP_FAILED) {
        perror("mmap");
        exit(1);
    }
    return p;
}

static struct ballast_memory memory(char *start, uint64_t bytes, int fd,
                                    bool shared)
{
    struct ballast_memory m = {
        .start = start, .bytes = bytes, .page_bytes = PAGE, .fd = fd,
    };

    ballast_memory_kind(&m, shared);
    return m;
}

/* The absent runs, as "first+pages" in units of @unit; "?" if unknown. */
static const char *runs(const struct ballast_memory *m, uint64_t unit)
{
    static char text[4096];
    struct ballast_runs found = {};
    size_t i, at = 0;

    text[0] = 0;
    if (!ballast_absent_runs(m, 0, m->bytes, &found)) {
        free(found.run);
        return "?";
    }
    for (i = 0; i < found.nr && at < sizeof(text) - 64; i++) {
        at += snprintf(text + at, sizeof(text) - at, "%s%lu+%lu",
                       i ? " " : "",
                       (unsigned long)(found.run[i].offset_bytes / unit),
                       (unsigned long)(found.run[i].bytes / unit));
    }
    free(found.run);
    return text;
}

static bool is(const struct ballast_memory *m, uint64_t unit,
               const char *wanted)
{
    const char *got = runs(m, unit);

    if (strcmp(got, wanted)) {
        printf("# %s, not %s\n", got, wanted);
        return false;
    }
    return !strcmp(runs(m, unit), wanted);      /* looking changed nothing */
}

static void private_memory(const char *how, bool zero_page_is_absent)
{
    char *p = map(BYTES, MAP_PRIVATE | MAP_ANONYMOUS, -1), what[80];
    struct ballast_memory m = memory(p, BYTES, -1, false);
    bool ok = m.kind == BALLAST_MAP_ANON && is(&m, PAGE, "0+64");
    volatile char sink;

    p[3 * PAGE] = 1;
    p[10 * PAGE] = 1;
    p[11 * PAGE] = 1;
    p[63 * PAGE] = 1;
    ok = ok && is(&m, PAGE, "0+3 4+6 12+51");
    madvise(p + 10 * PAGE, PAGE, MADV_DONTNEED);
    ok = ok && is(&m, PAGE, "0+3 4+7 12+51");
    snprintf(what, sizeof(what), "private memory, %s", how);
    report(ok, what);

    sink = p[5 * PAGE];
    (void)sink;
    ok = is(&m, PAGE, zero_page_is_absent ? "0+3 4+7 12+51" :
            "0+3 4+1 6+5 12+51");
    snprintf(what, sizeof(what), "a page that was only read, %s", how);
    report(ok, what);
    munmap(p, BYTES);
}

/* Whether the kernel has the ioctl, found out without the code under test. */
static bool have_scan(void)
{
    uint64_t arg[12] = { sizeof(arg) };
    int fd = open("/proc/self/pagemap", O_RDONLY);
    bool have = fd >= 0 && !ioctl(fd, _IOWR('f', 16, arg), arg);

    close(fd);
    return have;
}

static void many_runs(void)
{
    uint64_t bytes = BALLAST_PIECE_BYTES, i;
    char *p = map(bytes, MAP_PRIVATE | MAP_ANONYMOUS, -1);
    struct ballast_memory m = memory(p, bytes, -1, false);
    struct ballast_runs found = {};
    bool ok;

    madvise(p, bytes, MADV_NOHUGEPAGE);
    for (i = 0; i < bytes / PAGE; i += 2) {
        p[i * PAGE] = 1;
    }
    ok = ballast_absent_runs(&m, 0, bytes, &found) &&
         found.nr == bytes / PAGE / 2;
    for (i = 0; ok && i < found.nr; i++) {
        ok = found.run[i].offset_bytes == (2 * i + 1) * PAGE &&
             found.run[i].bytes == PAGE;
    }
    report(ok, "every other page of a whole piece");
    free(found.run);
    munmap(p, bytes);
}

static void transparent_huge(void)
{
    char *p = map(4 * HUGE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
    char *aligned = (char *)(((uintptr_t)p + HUGE - 1) & ~(HUGE - 1));
    struct ballast_memory m = memory(aligned, 3 * HUGE, -1, false);

    madvise(p, 4 * HUGE, MADV_HUGEPAGE);
    aligned[HUGE] = 1;
    if (!strcmp(runs(&m, PAGE), "0+512 513+1023")) {
        skip("a transparent huge page is present as a whole",
             "transparent huge pages");
    } else {
        report(is(&m, PAGE, "0+512 1024+512"),
               "a transparent huge page is present as a whole");
    }
    munmap(p, 4 * HUGE);
}

static void shared_memory(void)
{
    int fd = memfd_create("test", MFD_CLOEXEC);
    char *p, *other;
    struct ballast_memory m;

    if (fd < 0 || ftruncate(fd, BYTES)) {
        exit(1);
    }
    p = map(BYTES, MAP_SHARED, fd);
    other = map(BYTES, MAP_SHARED, fd);
    m = memory(p, BYTES, fd, true);
    report(m.kind == BALLAST_MAP_SHMEM && is(&m, PAGE, "0+64"),
           "a new memfd has no pages, also after the look");
    p[2 * PAGE] = 1;
    other[7 * PAGE] = 1;
    report(is(&m, PAGE, "0+2 3+4 8+56"),
           "a page that another mapping has populated is not absent");
    fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 2 * PAGE, PAGE);
    report(is(&m, PAGE, "0+7 8+56"), "a hole is punched: absent");
    m.start += 4 * PAGE;
    m.fd_offset_bytes = 4 * PAGE;
    m.bytes -= 4 * PAGE;
    report(is(&m, PAGE, "0+3 4+56"), "a mapping of a part of the file");
    munmap(p, BYTES);
    munmap(other, BYTES);
    close(fd);
}

static void unknown_kinds(void)
{
    char name[] = "/dev/shm/ballast-test-XXXXXX", disk[] = "/tmp/ballast-XXXXXX";
    int fd = memfd_create("test", MFD_CLOEXEC), named = mkstemp(name);
    int file = mkstemp(disk);
    struct ballast_memory m;
    char *p;

    if (fd < 0 || ftruncate(fd, BYTES) || file < 0 || ftruncate(file, BYTES)) {
        exit(1);
    }
    p = map(BYTES, MAP_PRIVATE, fd);
    m = memory(p, BYTES, fd, false);
    report(is(&m, PAGE, "?"), "a private mapping of a file is unknown");
    m = memory(p, BYTES, -1, true);
    report(is(&m, PAGE, "?"), "shared memory without a file is unknown");
    m = memory(p, 2 * BYTES, fd, true);
    report(is(&m, PAGE, "?"), "a file that is too short is unknown");
    if (named >= 0 && !ftruncate(named, BYTES)) {
        m = memory(p, BYTES, named, true);
        report(is(&m, PAGE, "?"), "a file that has a name is unknown");
        unlink(name);
        close(named);
    } else {
        skip("a file that has a name is unknown", "/dev/shm");
    }
    unlink(disk);
    m = memory(p, BYTES, file, true);
    report(m.kind == BALLAST_MAP_UNKNOWN || m.kind == BALLAST_MAP_SHMEM,
           "a file on a disk is unknown, unless that is a tmpfs");
    close(file);
    munmap(p, BYTES);
    close(fd);
}

static void huge_pages(void)
{
    int fd = memfd_create("test", MFD_CLOEXEC | MFD_HUGETLB);
    static const char *const names[] = {
        "new huge pages are absent", "a populated huge page is not",
        "a huge page of another mapping makes all unknown",
    };
    char *p = MAP_FAILED, *other;
    struct ballast_memory m;
    int i;

    if (fd >= 0 && !ftruncate(fd, 4 * HUGE)) {
        p = mmap(NULL, 4 * HUGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    }
    if (p == MAP_FAILED) {
        for (i = 0; i < 3; i++) {
            skip(names[i], "four huge pages of 2 MiB (vm.nr_hugepages)");
        }
        return;
    }
    other = map(4 * HUGE, MAP_SHARED, fd);
    m = memory(p, 4 * HUGE, fd, true);
    report(m.kind == BALLAST_MAP_HUGETLB && is(&m, HUGE, "0+4"), names[0]);
    p[HUGE] = 1;
    report(is(&m, HUGE, "0+1 2+2"), names[1]);
    other[3 * HUGE] = 1;
    report(is(&m, HUGE, "?"), names[2]);
    munmap(p, 4 * HUGE);
    munmap(other, 4 * HUGE);
    close(fd);
}

int main(void)
{
    if (have_scan()) {
        private_memory("PAGEMAP_SCAN", true);
    } else {
        skip("private memory, PAGEMAP_SCAN", "Linux 6.7");
        skip("a page that was only read, PAGEMAP_SCAN", "Linux 6.7");
    }
    ballast_pagemap_force(BALLAST_PAGEMAP_READ);
    private_memory("pagemap read", false);
    many_runs();
    ballast_pagemap_force(BALLAST_PAGEMAP_BEST);
    many_runs();
    transparent_huge();
    shared_memory();
    unknown_kinds();
    huge_pages();
    printf("1..%d\n", tests);
    return bad > 0;
}
