/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * On which host node pages are.
 *
 * move_pages(2) without target nodes tells the node of each page, changes
 * nothing, and lets go of the mmap lock every few pages: other threads wait
 * for microseconds, where numa_maps makes them wait for tens of milliseconds.
 * One that wants it for writing may fail to get it between the pages, though,
 * so we stay away from it for a while when somebody else seems to want it.
 *
 * An exact look asks PAGEMAP_SCAN first what there is: a transparent huge
 * page needs one address instead of 512, what is absent needs none.  Between
 * the two calls pages come, go, are split and are joined.  Each is counted
 * once all the same, as it was at one of the two moments.
 */
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "hw/virtio/ballast/pagenode.h"

/*
 * Addresses of one call.  Samples are waited for with QEMU's big lock held, so
 * they have few calls, between which they give way; exact looks have time.
 */
#define BATCH 512
#define EXACT_BATCH 128
#define PAUSE_NS 200000
#define RUNS 512

/*
 * Seen by one scan, which holds the lock for half a millisecond; for two at
 * the most where huge pages, of which it sees many in no time, come to an end.
 */
#define SCAN_BYTES (64UL << 20)
#define SCAN_HUGE_BYTES (256UL << 20)

/* What comes next, by what came last. */
enum landscape { MIXED, DENSE, HUGE };

/* Linux 6.7; the headers of older systems do not have it. */
#define SCAN_PRESENT (1ULL << 3)
#define SCAN_HUGE (1ULL << 6)

struct scan_region {
    uint64_t start, end, categories;
};

struct scan_arg {
    uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages;
    uint64_t inverted, all_of, any_of, returned;
};

#define SCAN_IOCTL _IOWR('f', 16, struct scan_arg)

/* The kernel's answers ------------------------------------------------- */

static int kernel_nodes(const struct ballast_eyes *eyes, void **pages,
                        unsigned nr, int *status)
{
    return syscall(SYS_move_pages, eyes->pid, (unsigned long)nr, pages, NULL,
                   status, 0) < 0 ? -errno : 0;
}

static int kernel_runs(const struct ballast_eyes *eyes, uint64_t start,
                       uint64_t end, struct ballast_page_run *run,
                       unsigned room, uint64_t *walked)
{
    struct scan_region vec[RUNS];
    struct scan_arg arg = {
        .size = sizeof(arg), .start = start, .end = end,
        .vec = (uintptr_t)vec, .vec_len = room < RUNS ? room : RUNS,
        .all_of = SCAN_PRESENT, .returned = SCAN_PRESENT | SCAN_HUGE,
    };
    int i, nr = ioctl(eyes->pagemap, SCAN_IOCTL, &arg);

    if (nr < 0) {
        return -errno;
    }
    if (arg.walk_end <= start) {
        return -EIO;
    }
    for (i = 0; i < nr; i++) {
        run[i].start = vec[i].start;
        run[i].end = vec[i].end;
        run[i].huge = vec[i].categories & SCAN_HUGE;
    }
    *walked = arg.walk_end;
    return nr;
}

/* A wait for the mmap lock is one, and this thread has few others. */
static uint64_t kernel_waits(const struct ballast_eyes *eyes)
{
    struct rusage usage;

    (void)eyes;
    return getrusage(RUSAGE_THREAD, &usage) ? 0 : usage.ru_nvcsw;
}

static void kernel_pause(const struct ballast_eyes *eyes)
{
    struct timespec time = { .tv_nsec = PAUSE_NS };

    (void)eyes;
    nanosleep(&time, NULL);
}

/* Asked for once: it never changes. */
static uint64_t transparent_huge_bytes(void)
{
    static _Atomic uint64_t known;
    unsigned long bytes = 0;
    FILE *f;

    if (known) {
        return known;
    }
    f = fopen("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size", "re");
    if (f) {
        if (fscanf(f, "%lu", &bytes) != 1) {
            bytes = 0;
        }
        fclose(f);
    }
    known = bytes ? bytes : 2UL << 20;
    return known;
}

void ballast_eyes_init(struct ballast_eyes *eyes, pid_t pid)
{
    memset(eyes, 0, sizeof(*eyes));
    eyes->nodes = kernel_nodes;
    eyes->waits = kernel_waits;
    eyes->pause = kernel_pause;
    eyes->pid = pid;
    eyes->pagemap = -1;
    eyes->page_bytes = getauxval(AT_PAGESZ);
}

void ballast_eyes_open(struct ballast_eyes *eyes, pid_t pid)
{
    char path[64] = "/proc/self/pagemap";

    if (pid) {
        snprintf(path, sizeof(path), "/proc/%d/pagemap", (int)pid);
    }
    ballast_eyes_init(eyes, pid);
    eyes->huge_bytes = transparent_huge_bytes();
    eyes->pagemap = open(path, O_RDONLY | O_CLOEXEC);
    if (eyes->pagemap >= 0) {
        eyes->runs = kernel_runs;
    }
}

void ballast_eyes_close(struct ballast_eyes *eyes)
{
    if (eyes->pagemap >= 0) {
        close(eyes->pagemap);
    }
    eyes->pagemap = -1;
    eyes->runs = NULL;
}

/* Counting -------------------------------------------------------------- */

/* Addresses to be asked for, and what each stands for. */
struct batch {
    void *page[BATCH];
    uint64_t weight[BATCH];
    unsigned room;
    unsigned nr;
    int err;
    /* How often this thread had waited when it last asked. */
    uint64_t waits;
};

static struct batch batch_begin(const struct ballast_eyes *eyes, unsigned room)
{
    return (struct batch) {
        .room = room, .waits = eyes->waits ? eyes->waits(eyes) : 0,
    };
}

/*
 * Had to wait: somebody else takes the lock for writing.  The kernel lets
 * readers in again and again before a writer that sleeps.
 */
static void give_way(const struct ballast_eyes *eyes, struct batch *b)
{
    if (eyes->waits && eyes->waits(eyes) != b->waits) {
        eyes->pause(eyes);
        b->waits = eyes->waits(eyes);
    }
}

static void count(struct ballast_sample *out, int status, uint64_t weight)
{
    if (status >= 0 && status < BALLAST_SAMPLE_NODES) {
        out->on_node[status] += weight;
    } else if (status == -ENOENT || status == -EFAULT) {
        out->absent += weight;
    } else {
        out->unknown += weight;
    }
    out->samples += weight;
}

static void look_up(const struct ballast_eyes *eyes, struct batch *b,
                    struct ballast_sample *out)
{
    int status[BATCH], err;
    unsigned i;

    if (!b->nr) {
        return;
    }
    give_way(eyes, b);
    err = eyes->nodes(eyes, b->page, b->nr, status);
    for (i = 0; i < b->nr; i++) {
        count(out, err ? err == -EFAULT ? -EIO : err : status[i],
              b->weight[i]);
    }
    out->lookups += b->nr;
    b->err = b->err ? b->err : err;
    b->nr = 0;
}

static void ask(const struct ballast_eyes *eyes, struct batch *b,
                uint64_t address, uint64_t weight, struct ballast_sample *out)
{
    b->page[b->nr] = (void *)(uintptr_t)address;
    b->weight[b->nr] = weight;
    if (++b->nr == b->room) {
        look_up(eyes, b, out);
    }
}

/* A sample --------------------------------------------------------------- */

/*
 * The more memory, the more page tables: the kernel finds few of a sample's in
 * the caches, and waits for one after the other.  The processor fetches
 * several at once.  It touches no page that is not there, and makes none.
 */
static void fetch(const struct ballast_eyes *eyes, uint64_t address)
{
    if (!eyes->pid) {
        __builtin_prefetch((void *)(uintptr_t)address);
    }
}

int ballast_look_sample(const struct ballast_eyes *eyes, uint64_t start,
                        uint64_t bytes, uint64_t page_bytes, uint64_t samples,
                        uint32_t (*random)(void), struct ballast_sample *out)
{
    uint64_t pages = bytes / page_bytes, i, first, end, page;
    uint64_t nr = samples < pages ? samples : pages;
    struct batch b = batch_begin(eyes, BATCH);

    out->whole = (out->whole || !out->samples) && nr == pages;
    for (i = 0; i < nr; i++) {
        first = (__uint128_t)pages * i / nr;
        end = (__uint128_t)pages * (i + 1) / nr;
        page = first + (end - first > 1 ? random() % (end - first) : 0);
        fetch(eyes, start + page * page_bytes);
        ask(eyes, &b, start + page * page_bytes, 1, out);
    }
    look_up(eyes, &b, out);
    return b.err;
}

/* Every page ------------------------------------------------------------- */

static void ask_each(const struct ballast_eyes *eyes, struct batch *b,
                     uint64_t start, uint64_t end, uint64_t page_bytes,
                     struct ballast_sample *out)
{
    uint64_t at, next;

    /* The first huge page may have begun before. */
    for (at = start; at < end; at = next) {
        next = at - at % page_bytes + page_bytes;
        next = next < end ? next : end;
        ask(eyes, b, at, next - at, out);
    }
}

static void skip(struct ballast_sample *out, uint64_t bytes)
{
    out->absent += bytes;
    out->samples += bytes;
}

/* What one call of runs() found from @at to @end. */
static void count_runs(const struct ballast_eyes *eyes, struct batch *b,
                       const struct ballast_page_run *run, unsigned nr,
                       uint64_t at, uint64_t end, struct ballast_sample *out)
{
    unsigned i;

    for (i = 0; i < nr; i++) {
        skip(out, run[i].start - at);
        ask_each(eyes, b, run[i].start, run[i].end,
                 run[i].huge ? eyes->huge_bytes : eyes->page_bytes, out);
        out->huge += run[i].huge ? run[i].end - run[i].start : 0;
        at = run[i].end;
    }
    skip(out, end - at);
}

/* In order, within the range, not empty: nothing is counted twice. */
static bool runs_sane(const struct ballast_page_run *run, unsigned nr,
                      uint64_t at, uint64_t end)
{
    unsigned i;

    for (i = 0; i < nr; i++) {
        if (run[i].start < at || run[i].end <= run[i].start ||
            run[i].end > end) {
            return false;
        }
        at = run[i].end;
    }
    return true;
}

/*
 * By the page at @at.  Where small pages are dense, a scan of all of them
 * costs a tenth of asking for them, and saves nothing: a look at the first
 * of 2 MiB tells that it is not a huge page, and not absent.
 */
static enum landscape landscape_at(const struct ballast_eyes *eyes,
                                   uint64_t at)
{
    struct ballast_page_run run;
    uint64_t walked;

    if (!eyes->runs || eyes->runs(eyes, at, at + eyes->page_bytes, &run, 1,
                                  &walked) != 1) {
        return MIXED;
    }
    return run.huge ? HUGE : DENSE;
}

/* Scan from @at; where to go on, or @at if the kernel does not tell. */
static uint64_t look_scan(const struct ballast_eyes *eyes, struct batch *b,
                          uint64_t at, uint64_t end, enum landscape *next,
                          struct ballast_sample *out)
{
    struct ballast_page_run run[RUNS];
    uint64_t asked = out->lookups + b->nr, huge = out->huge, walked = end;
    int nr = eyes->runs(eyes, at, end, run, RUNS, &walked);

    if (nr < 0 || walked <= at || walked > end ||
        !runs_sane(run, nr, at, walked)) {
        return at;
    }
    count_runs(eyes, b, run, nr, at, walked, out);
    asked = out->lookups + b->nr - asked;
    *next = out->huge - huge == walked - at ? HUGE :
            asked * eyes->page_bytes >= (walked - at) / 8 * 7 ? DENSE : MIXED;
    return walked;
}

static void look_small(const struct ballast_eyes *eyes, struct batch *b,
                       uint64_t start, uint64_t end,
                       struct ballast_sample *out)
{
    enum landscape land = landscape_at(eyes, start);
    uint64_t at = start, next;

    while (eyes->runs && at < end) {
        if (land == DENSE) {
            next = at - at % eyes->huge_bytes + eyes->huge_bytes;
            next = next < end ? next : end;
            ask_each(eyes, b, at, next, eyes->page_bytes, out);
        } else {
            next = at + (land == HUGE ? SCAN_HUGE_BYTES : SCAN_BYTES);
            next = next < end ? next : end;
            next = look_scan(eyes, b, at, next, &land, out);
            if (next == at) {
                break;
            }
        }
        at = next;
        if (land == DENSE && at < end) {
            land = landscape_at(eyes, at);
        }
    }
    out->flat += end - at;
    ask_each(eyes, b, at, end, eyes->page_bytes, out);
}

int ballast_look_exact(const struct ballast_eyes *eyes, uint64_t start,
                       uint64_t bytes, uint64_t page_bytes,
                       struct ballast_sample *out)
{
    uint64_t there = out->samples - out->absent - out->unknown;
    struct batch b = batch_begin(eyes, EXACT_BATCH);

    if (page_bytes > eyes->page_bytes) {
        ask_each(eyes, &b, start, start + bytes, page_bytes, out);
        look_up(eyes, &b, out);
        out->huge += out->samples - out->absent - out->unknown - there;
    } else {
        look_small(eyes, &b, start, start + bytes, out);
        look_up(eyes, &b, out);
    }
    return b.err;
}

/* Figures ---------------------------------------------------------------- */

uint64_t ballast_sample_bytes(const struct ballast_sample *s, uint64_t count_,
                              uint64_t bytes)
{
    return s->samples ? (__uint128_t)bytes * count_ / s->samples : 0;
}

void ballast_sample_add(struct ballast_sample *to,
                        const struct ballast_sample *from)
{
    unsigned node;

    to->samples += from->samples;
    to->absent += from->absent;
    to->unknown += from->unknown;
    to->huge += from->huge;
    to->flat += from->flat;
    to->lookups += from->lookups;
    for (node = 0; node < BALLAST_SAMPLE_NODES; node++) {
        to->on_node[node] += from->on_node[node];
    }
}

/* How far @p of @n may be from the truth, as a share. */
static double wilson(double p, double n)
{
    const double z2 = 1.96 * 1.96;
    double middle = (p + z2 / (2 * n)) / (1 + z2 / n);
    double half = sqrt(z2 * (p * (1 - p) / n + z2 / (4 * n * n))) /
                  (1 + z2 / n);

    return fabs(middle - p) + half;
}

uint64_t ballast_sample_error(const struct ballast_sample *s, uint64_t bytes)
{
    double worst = 0, off;
    unsigned node;

    if (s->whole) {
        return 0;
    }
    if (!s->samples) {
        return bytes;
    }
    for (node = 0; node <= BALLAST_SAMPLE_NODES; node++) {
        uint64_t n = node < BALLAST_SAMPLE_NODES ? s->on_node[node] :
                     s->absent;

        off = wilson((double)n / s->samples, s->samples);
        worst = off > worst ? off : worst;
    }
    return worst * bytes;
}
