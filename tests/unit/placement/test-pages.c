/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Looks at real mappings of every kind: the right bytes, by a sample, by an
 * exact look and by numa_maps, and nothing populated by any of them.
 *
 * The nodes of this host are as they are; that the bytes add up to what was
 * touched is what is tested here.  tests/functional has hosts with four.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"
#include "hw/virtio/ballast/numamaps.h"

#define PAGE 4096UL
#define MIB (1UL << 20)
#define HUGE (2 * MIB)
#define GIB (1UL << 30)

#ifndef MFD_HUGE_1GB
#define MFD_HUGE_1GB (30U << 26)
#endif

static uint64_t on_nodes(const struct ballast_sample *s)
{
    uint64_t sum = 0;
    unsigned node;

    for (node = 0; node < BALLAST_SAMPLE_NODES; node++) {
        sum += s->on_node[node];
    }
    return sum;
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

/* Of the mapping's page tables, by a way of its own. */
static uint64_t present_bytes(const char *p, uint64_t bytes)
{
    int fd = open("/proc/self/pagemap", O_RDONLY);
    uint64_t entry, at, sum = 0;

    for (at = 0; at < bytes; at += PAGE) {
        if (pread(fd, &entry, 8, ((uintptr_t)p + at) / PAGE * 8) != 8) {
            exit(1);
        }
        sum += entry >> 63 ? PAGE : 0;
    }
    close(fd);
    return sum;
}

/*
 * @bytes of memory, in pages of @page, of which @there is present: by all
 * three ways.  A sample of all pages is exact.
 */
static bool is(char *p, uint64_t bytes, uint64_t page, uint64_t there)
{
    struct ballast_sample sampled = { 0 }, exact = { 0 }, numa = { 0 };
    struct ballast_numa_maps maps = { 0 };
    uint64_t before = present_bytes(p, bytes);
    struct ballast_eyes eyes;
    int err;

    ballast_eyes_open(&eyes, 0);
    err = ballast_look_sample(&eyes, (uintptr_t)p, bytes, page, bytes / page,
                              check_random, &sampled);
    err = err ? err : ballast_look_exact(&eyes, (uintptr_t)p, bytes, page,
                                         &exact);
    ballast_eyes_close(&eyes);
    if (err == -EPERM) {
        check_skip("looks at real mappings", "a host that allows move_pages");
        exit(check_end());
    }
    err = err ? err : ballast_numa_maps_read(0, &maps);
    ballast_numa_maps_look(&maps, (uintptr_t)p, bytes, &numa);
    ballast_numa_maps_free(&maps);
    if (err || on_nodes(&sampled) * page != there || sampled.unknown ||
        on_nodes(&exact) != there || exact.unknown ||
        exact.absent != bytes - there ||
        on_nodes(&numa) != there || numa.absent != bytes - there) {
        printf("# %lu of %lu wanted; error %d; sampled %lu, exact %lu, "
               "numa_maps %lu (%lu unknown)\n", there, bytes, err,
               on_nodes(&sampled) * page, on_nodes(&exact), on_nodes(&numa),
               numa.unknown);
        return false;
    }
    return present_bytes(p, bytes) == before;
}

/* A mapping that no neighbour can be joined with. */
static char *map_apart(uint64_t bytes, int flags, int fd)
{
    char *room = map(bytes + 2 * HUGE, MAP_PRIVATE | MAP_ANONYMOUS, -1), *p;

    mprotect(room, bytes + 2 * HUGE, PROT_NONE);
    p = (char *)(((uintptr_t)room + HUGE) & ~(HUGE - 1));
    if (mmap(p, bytes, PROT_READ | PROT_WRITE, flags | MAP_FIXED, fd, 0) !=
        p) {
        perror("mmap");
        exit(1);
    }
    return p;
}

static void small_pages(void)
{
    char *p = map_apart(8 * MIB, MAP_PRIVATE | MAP_ANONYMOUS, -1);
    volatile char sink;
    bool ok;

    madvise(p, 8 * MIB, MADV_NOHUGEPAGE);
    check(is(p, 8 * MIB, PAGE, 0), "new memory is absent, also after looks");
    memset(p + MIB, 1, MIB);
    p[5 * MIB] = 1;
    check(is(p, 8 * MIB, PAGE, MIB + PAGE), "small pages");
    madvise(p + MIB, MIB / 2, MADV_DONTNEED);
    check(is(p, 8 * MIB, PAGE, MIB / 2 + PAGE), "discarded pages are absent");
    sink = p[6 * MIB];
    (void)sink;
    ok = present_bytes(p, 8 * MIB) == MIB / 2 + 2 * PAGE;
    check(ok && is(p, 8 * MIB, PAGE, MIB / 2 + PAGE),
          "a page that was only read is on no node");
    munmap(p, 8 * MIB);
}

static bool has_scan(void)
{
    uint64_t arg[12] = { sizeof(arg) };
    int fd = open("/proc/self/pagemap", O_RDONLY);
    bool have = fd >= 0 && !ioctl(fd, _IOWR('f', 16, arg), arg);

    close(fd);
    return have;
}

static void transparent_huge(void)
{
    static const char what[] = "transparent huge pages: an address for each";
    char *p = map_apart(8 * HUGE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
    struct ballast_sample s = { 0 };
    struct ballast_eyes eyes;

    madvise(p, 8 * HUGE, MADV_HUGEPAGE);
    p[0] = p[3 * HUGE] = p[4 * HUGE] = 1;
    if (!has_scan() || present_bytes(p, 8 * HUGE) != 3 * HUGE) {
        check_skip(what, "transparent huge pages, and Linux 6.7 to see them");
        munmap(p, 8 * HUGE);
        return;
    }
    ballast_eyes_open(&eyes, 0);
    ballast_look_exact(&eyes, (uintptr_t)p, 8 * HUGE, PAGE, &s);
    ballast_eyes_close(&eyes);
    check(is(p, 8 * HUGE, PAGE, 3 * HUGE) && s.lookups == 3 &&
          s.huge == 3 * HUGE, what);
    madvise(p + 3 * HUGE, PAGE, MADV_DONTNEED);
    check(is(p, 8 * HUGE, PAGE, 3 * HUGE - PAGE),
          "a huge page that was split");
    munmap(p, 8 * HUGE);
}

static void shared_memory(void)
{
    int fd = memfd_create("test", MFD_CLOEXEC);
    char *p, *other;
    struct stat st;

    if (fd < 0 || ftruncate(fd, 4 * MIB)) {
        exit(1);
    }
    p = map_apart(4 * MIB, MAP_SHARED, fd);
    other = map_apart(4 * MIB, MAP_SHARED, fd);
    check(is(p, 4 * MIB, PAGE, 0) && !fstat(fd, &st) && !st.st_blocks,
          "a new memfd has no pages, also after looks");
    memset(other + MIB, 1, MIB);
    check(is(p, 4 * MIB, PAGE, 0) && is(other, 4 * MIB, PAGE, MIB),
          "what another mapping has touched is absent here");
    memset(p, 1, MIB / 2);
    check(is(p, 4 * MIB, PAGE, MIB / 2), "shared memory");
    munmap(p, 4 * MIB);
    munmap(other, 4 * MIB);
    close(fd);
    p = map_apart(4 * MIB, MAP_SHARED | MAP_ANONYMOUS, -1);
    memset(p + MIB, 1, MIB);
    check(is(p, 4 * MIB, PAGE, MIB), "shared memory without a file");
    munmap(p, 4 * MIB);
}

static void files(void)
{
    char name[] = "/tmp/ballast-test-XXXXXX", byte = 1;
    int fd = mkstemp(name);
    char *p;

    unlink(name);
    if (fd < 0 || ftruncate(fd, 4 * MIB)) {
        exit(1);
    }
    p = map_apart(4 * MIB, MAP_SHARED, fd);
    memset(p, 1, MIB);
    check(is(p, 4 * MIB, PAGE, MIB), "a file, shared");
    munmap(p, 4 * MIB);
    if (pwrite(fd, &byte, 1, 4 * MIB - 1) != 1) {
        exit(1);
    }
    p = map_apart(4 * MIB, MAP_PRIVATE, fd);
    madvise(p, 4 * MIB, MADV_RANDOM);
    memset(p + MIB, 1, MIB);
    check(is(p, 4 * MIB, PAGE, MIB), "a file, private");
    munmap(p, 4 * MIB);
    close(fd);
}

static void huge_tlb(const char *what, const char *needs, unsigned flag,
                     uint64_t page, unsigned pages)
{
    int fd = memfd_create("test", MFD_CLOEXEC | MFD_HUGETLB | flag);
    char *p = MAP_FAILED;
    struct stat st;
    bool ok;

    if (fd >= 0 && !ftruncate(fd, pages * page)) {
        p = mmap(NULL, pages * page, PROT_READ | PROT_WRITE, MAP_SHARED, fd,
                 0);
    }
    if (p == MAP_FAILED) {
        check_skip(what, needs);
        return;
    }
    ok = is(p, pages * page, page, 0) && !fstat(fd, &st) && !st.st_blocks;
    p[(pages - 1) * page] = 1;
    check(ok && is(p, pages * page, page, page), what);
    munmap(p, pages * page);
    close(fd);
}

/* What some containers do. */
static bool forbid_move_pages(void)
{
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_move_pages, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = { sizeof(filter) / sizeof(*filter), filter };

    return !prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) &&
           !prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program);
}

/* In a child: it cannot be taken back. */
static int forbidden(void)
{
    char *p = map_apart(4 * MIB, MAP_PRIVATE | MAP_ANONYMOUS, -1);
    struct ballast_sample sampled = { 0 }, exact = { 0 }, numa = { 0 };
    struct ballast_numa_maps maps = { 0 };
    struct ballast_eyes eyes;

    memset(p, 1, MIB);
    if (!forbid_move_pages()) {
        return 77;
    }
    ballast_eyes_open(&eyes, 0);
    if (ballast_look_sample(&eyes, (uintptr_t)p, 4 * MIB, PAGE, 64,
                            check_random, &sampled) != -EPERM ||
        ballast_look_exact(&eyes, (uintptr_t)p, 4 * MIB, PAGE, &exact) !=
        -EPERM || sampled.unknown != 64 || on_nodes(&exact)) {
        return 1;
    }
    ballast_eyes_close(&eyes);
    if (ballast_numa_maps_read(0, &maps)) {
        return 2;
    }
    ballast_numa_maps_look(&maps, (uintptr_t)p, 4 * MIB, &numa);
    ballast_numa_maps_free(&maps);
    return on_nodes(&numa) == MIB && numa.absent == 3 * MIB ? 0 : 3;
}

static void eperm(void)
{
    static const char what[] = "move_pages forbidden: numa_maps tells";
    int status = 0;
    pid_t pid;

    fflush(stdout);
    pid = fork();
    if (!pid) {
        _exit(forbidden());
    }
    waitpid(pid, &status, 0);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 77) {
        check_skip(what, "seccomp");
    } else {
        check(status == 0, what);
    }
}

/* Somebody else's memory. */
static void other_process(void)
{
    char *p = map_apart(4 * MIB, MAP_PRIVATE | MAP_ANONYMOUS, -1), byte;
    struct ballast_sample exact = { 0 }, sampled = { 0 };
    struct ballast_eyes eyes;
    int ready[2], status;
    pid_t pid;

    if (pipe(ready)) {
        exit(1);
    }
    pid = fork();
    if (!pid) {
        memset(p, 1, MIB);
        status = write(ready[1], "x", 1) != 1;
        pause();
        _exit(status);
    }
    status = read(ready[0], &byte, 1) != 1;
    ballast_eyes_open(&eyes, pid);
    ballast_look_exact(&eyes, (uintptr_t)p, 4 * MIB, PAGE, &exact);
    ballast_look_sample(&eyes, (uintptr_t)p, 4 * MIB, PAGE, 1024,
                        check_random, &sampled);
    ballast_eyes_close(&eyes);
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    check(!status && on_nodes(&exact) == MIB && on_nodes(&sampled) == 256,
          "the memory of another process");
    munmap(p, 4 * MIB);
}

int main(void)
{
    small_pages();
    transparent_huge();
    shared_memory();
    files();
    huge_tlb("huge pages of 2 MiB", "four huge pages (vm.nr_hugepages)", 0,
             HUGE, 4);
    huge_tlb("a huge page of 1 GiB", "a huge page of 1 GiB "
             "(/sys/kernel/mm/hugepages/hugepages-1048576kB/nr_hugepages)",
             MFD_HUGE_1GB, GIB, 1);
    other_process();
    eperm();
    return check_end();
}
