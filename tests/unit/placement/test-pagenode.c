/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Samples and exact looks against memory that is a table: what is on which
 * node, and in pages of which size, is known.
 */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "hw/virtio/ballast/pagenode.h"

#define PAGE 4096UL
#define HUGE (16 * PAGE)            /* small, so that tables are */
#define BASE (1UL << 40)
#define PAGES 65536
#define ABSENT (-ENOENT)

/* Of each page: node or -errno; whether a huge entry maps it. */
static int node_of[PAGES];
static bool huge[PAGES];
static unsigned asked[PAGES];

/* What the faked kernel does, and what it was asked. */
static struct {
    int refuse_nodes;
    int refuse_runs;
    int lie;
    unsigned room;
    unsigned nodes_calls;
    unsigned runs_calls;
    uint64_t scanned;
    /* Calls until somebody else wants the lock, once more each time. */
    unsigned calm;
    uint64_t waits;
    unsigned pauses;
} kernel;

static uint64_t page_at(uint64_t address)
{
    if (address < BASE || address >= BASE + PAGES * PAGE) {
        printf("# address %lx is outside\n", (unsigned long)address);
        abort();
    }
    return (address - BASE) / PAGE;
}

static int fake_nodes(const struct ballast_eyes *eyes, void **pages,
                      unsigned nr, int *status)
{
    unsigned i;

    (void)eyes;
    kernel.nodes_calls++;
    kernel.waits += kernel.calm && kernel.nodes_calls % kernel.calm == 0;
    if (kernel.refuse_nodes) {
        return kernel.refuse_nodes;
    }
    for (i = 0; i < nr; i++) {
        uint64_t page = page_at((uintptr_t)pages[i]);

        asked[page]++;
        status[i] = node_of[page];
    }
    return 0;
}

static bool is_there(uint64_t page)
{
    return node_of[page] != ABSENT;
}

/* As the kernel does: a run of one kind, as many as there is room for. */
static int fake_runs(const struct ballast_eyes *eyes, uint64_t start,
                     uint64_t end, struct ballast_page_run *run, unsigned room,
                     uint64_t *walked)
{
    uint64_t page = (start - BASE) / PAGE, last = (end - BASE) / PAGE;
    unsigned nr = 0;

    (void)eyes;
    kernel.runs_calls++;
    if (kernel.refuse_runs) {
        return kernel.refuse_runs;
    }
    room = kernel.room && kernel.room < room ? kernel.room : room;
    while (page < last) {
        uint64_t first = page;

        if (is_there(page)) {
            if (nr == room) {
                break;
            }
            while (page < last && is_there(page) &&
                   huge[page] == huge[first]) {
                page++;
            }
            run[nr++] = (struct ballast_page_run) {
                BASE + first * PAGE, BASE + page * PAGE, huge[first],
            };
        } else {
            page++;
        }
    }
    kernel.scanned += page - (start - BASE) / PAGE;
    *walked = BASE + page * PAGE;
    switch (kernel.lie) {
    case 1:
        *walked = start;
        break;
    case 2:
        *walked = end + PAGE;
        break;
    case 3:
        run[0].end = end + PAGE;
        break;
    case 4:
        run[0].start = run[0].end;
        break;
    case 5:
        if (nr > 1) {
            run[1].start = run[0].end - PAGE;
        }
        break;
    }
    return nr;
}

static uint64_t fake_waits(const struct ballast_eyes *eyes)
{
    (void)eyes;
    return kernel.waits;
}

/* Sleeping is waiting, too. */
static void fake_pause(const struct ballast_eyes *eyes)
{
    (void)eyes;
    kernel.pauses++;
    kernel.waits++;
}

static const struct ballast_eyes eyes = {
    .nodes = fake_nodes, .runs = fake_runs, .pagemap = -1,
    .waits = fake_waits, .pause = fake_pause,
    .page_bytes = PAGE, .huge_bytes = HUGE,
};

static void fill(uint64_t first, uint64_t nr, int node, bool is_huge)
{
    uint64_t i;

    for (i = first; i < first + nr; i++) {
        node_of[i] = node;
        huge[i] = is_huge;
    }
}

static void new_memory(void)
{
    fill(0, PAGES, ABSENT, false);
    memset(asked, 0, sizeof(asked));
    memset(&kernel, 0, sizeof(kernel));
}

static uint64_t total(const struct ballast_sample *s)
{
    uint64_t sum = s->absent + s->unknown;
    unsigned i;

    for (i = 0; i < BALLAST_SAMPLE_NODES; i++) {
        sum += s->on_node[i];
    }
    return sum;
}

static struct ballast_sample sample(uint64_t pages, uint64_t samples)
{
    struct ballast_sample s = { 0 };

    ballast_look_sample(&eyes, BASE, pages * PAGE, PAGE, samples,
                        check_random, &s);
    return s;
}

/* One page in each of the stretches: no more, no less. */
static bool one_of_each(uint64_t pages, uint64_t samples)
{
    struct ballast_sample s;
    uint64_t i, page;

    new_memory();
    s = sample(pages, samples);
    for (i = 0; i < samples; i++) {
        unsigned seen = 0;

        for (page = pages * i / samples; page < pages * (i + 1) / samples;
             page++) {
            seen += asked[page];
        }
        if (seen != 1) {
            return false;
        }
    }
    return s.samples == samples && s.lookups == samples &&
           total(&s) == samples;
}

static void test_strata(void)
{
    static unsigned before[PAGES];
    struct ballast_sample s;
    unsigned i, same = 0;

    check(one_of_each(PAGES, 4096) && one_of_each(PAGES, 64) &&
          one_of_each(1000, 999) && one_of_each(4097, 4096) &&
          one_of_each(3, 1), "a sample has one page of each stretch");
    new_memory();
    sample(PAGES, 4096);
    memcpy(before, asked, sizeof(before));
    memset(asked, 0, sizeof(asked));
    sample(PAGES, 4096);
    for (i = 0; i < PAGES; i++) {
        same += before[i] && asked[i];
    }
    check(same < 1024, "the next sample sees other pages");
    new_memory();
    s = sample(100, 4096);
    for (i = 0; i < 100 && asked[i] == 1; i++) {
        continue;
    }
    check(i == 100 && s.whole && s.samples == 100,
          "memory with fewer pages is looked at whole");
    ballast_look_sample(&eyes, BASE, 200 * PAGE, PAGE, 50, check_random, &s);
    check(!s.whole && s.samples == 150, "whole no more, once a part is not");
}

static void test_counts(void)
{
    struct ballast_sample s;

    new_memory();
    node_of[0] = 0;
    node_of[1] = BALLAST_SAMPLE_NODES - 1;
    node_of[2] = BALLAST_SAMPLE_NODES;
    node_of[3] = 1 << 20;
    node_of[4] = -EFAULT;
    node_of[5] = -EACCES;
    node_of[6] = -EBUSY;
    s = sample(8, 8);
    check(s.on_node[0] == 1 && s.on_node[BALLAST_SAMPLE_NODES - 1] == 1 &&
          s.absent == 2 && s.unknown == 4,
          "a node, the last node, absent, and what nobody knows");
    new_memory();
    kernel.refuse_nodes = -EPERM;
    memset(&s, 0, sizeof(s));
    check(ballast_look_sample(&eyes, BASE, 4096 * PAGE, PAGE, 2048,
                              check_random, &s) == -EPERM &&
          s.unknown == 2048 && total(&s) == 2048,
          "refused: told, and all unknown");
    kernel.refuse_nodes = -EFAULT;
    s = sample(64, 64);
    check(s.unknown == 64 && !s.absent,
          "a call that fails as a whole makes nothing absent");
}

/* How often the bound holds, of a thousand samples. */
static unsigned held(double share, uint64_t samples, bool clustered)
{
    unsigned good = 0, round, i;
    uint64_t there = 0;

    for (i = 0; i < PAGES; i++) {
        node_of[i] = clustered ? i >= share * PAGES :
                     check_below(1000000) >= share * 1000000;
        there += node_of[i] == 0;
    }
    for (round = 0; round < 1000; round++) {
        struct ballast_sample s = sample(PAGES, samples);
        int64_t said = ballast_sample_bytes(&s, s.on_node[0], PAGES * PAGE);
        int64_t bound = ballast_sample_error(&s, PAGES * PAGE);

        good += llabs(said - (int64_t)(there * PAGE)) <= bound;
    }
    return good;
}

static void test_bound(void)
{
    static const double shares[] = { 0.5, 0.1, 0.01, 0.001, 0.0001 };
    struct ballast_sample s = { .samples = 1000, .on_node = { 1000 } };
    unsigned i, least = 1000, n;

    new_memory();
    for (i = 0; i < sizeof(shares) / sizeof(shares[0]); i++) {
        n = held(shares[i], 256, false);
        least = n < least ? n : least;
        printf("# %g of the pages: the bound held %u times of 1000\n",
               shares[i], n);
        n = held(shares[i], 256, true);
        least = n < least ? n : least;
    }
    check(least >= 930, "the bound at 95 % holds 95 times of 100 or so");
    check(ballast_sample_error(&s, 1000000) > 3000 &&
          ballast_sample_error(&s, 1000000) < 4000,
          "all pages on one node: the bound is not 0");
    s.whole = true;
    check(ballast_sample_error(&s, 1000000) == 0,
          "every page looked at: the bound is 0");
    memset(&s, 0, sizeof(s));
    check(ballast_sample_error(&s, 777) == 777 &&
          ballast_sample_bytes(&s, 0, 777) == 0,
          "nothing looked at: anything is possible");
    s.samples = 1ULL << 40;
    s.on_node[3] = 1ULL << 39;
    check(ballast_sample_bytes(&s, s.on_node[3], 1ULL << 62) == 1ULL << 61,
          "figures of large memory do not overflow");
}

/* Against the table: every byte once, on the right node. */
static bool exact_is_right(uint64_t first, uint64_t nr,
                           struct ballast_sample *s)
{
    uint64_t on[BALLAST_SAMPLE_NODES] = { 0 }, absent = 0, in_huge = 0, i;

    for (i = first; i < first + nr; i++) {
        if (node_of[i] == ABSENT) {
            absent += PAGE;
        } else {
            on[node_of[i]] += PAGE;
            in_huge += huge[i] ? PAGE : 0;
        }
    }
    memset(s, 0, sizeof(*s));
    memset(asked, 0, sizeof(asked));
    if (ballast_look_exact(&eyes, BASE + first * PAGE, nr * PAGE, PAGE, s)) {
        return false;
    }
    return s->samples == nr * PAGE && s->absent == absent && !s->unknown &&
           !memcmp(s->on_node, on, sizeof(on)) &&
           (s->flat || s->huge == in_huge);
}

static void test_exact(void)
{
    struct ballast_sample s;

    new_memory();
    check(exact_is_right(0, PAGES, &s) && s.lookups == 0 && !s.flat,
          "of what is absent nothing is asked");
    fill(0, PAGES, 2, true);
    check(exact_is_right(0, PAGES, &s) && s.lookups == PAGES * PAGE / HUGE,
          "one address for each huge page");
    check(exact_is_right(5, 16, &s) && s.lookups == 2,
          "from the middle of one huge page to that of the next");
    fill(0, PAGES, 1, false);
    kernel.scanned = 0;
    check(exact_is_right(0, PAGES, &s) && s.lookups == PAGES,
          "one address for each small page");
    check(kernel.scanned < PAGES / 2, "dense small pages are not all scanned");
    fill(PAGES / 2, PAGES / 2, 3, true);
    check(exact_is_right(0, PAGES, &s), "dense small pages, then huge ones");
    fill(PAGES / 4 * 3, PAGES / 4, ABSENT, false);
    check(exact_is_right(0, PAGES, &s), "… and then none");
    kernel.refuse_runs = -ENOTTY;
    check(exact_is_right(0, PAGES, &s) && s.lookups == PAGES &&
          s.flat == PAGES * PAGE, "an older kernel: every page is asked for");
}

/* A hugetlb mapping: its pages are what they are. */
static void test_exact_hugetlb(void)
{
    struct ballast_sample s = { 0 };

    new_memory();
    fill(0, 32, 1, false);
    fill(64, 16, 0, false);
    kernel.refuse_runs = -EIO;
    ballast_look_exact(&eyes, BASE, 96 * PAGE, HUGE, &s);
    check(s.lookups == 6 && s.on_node[1] == 32 * PAGE && !s.flat &&
          s.on_node[0] == 16 * PAGE && s.absent == 48 * PAGE &&
          s.huge == 48 * PAGE, "hugetlb: one address for each of its pages");
}

static void test_liars(void)
{
    struct ballast_sample s;
    bool ok = true;
    int lie;

    for (lie = 1; lie <= 5; lie++) {
        new_memory();
        fill(0, 40, 1, false);
        fill(48, 32, 2, true);
        fill(100, PAGES - 100, 3, false);
        kernel.lie = lie;
        ok = exact_is_right(0, PAGES, &s) && ok;
        fill(0, PAGES, 1, true);
        ok = exact_is_right(16, 1024, &s) && ok;
    }
    check(ok, "runs that cannot be: every page is asked for, once");
    new_memory();
    kernel.refuse_nodes = -EPERM;
    fill(0, PAGES, 1, false);
    memset(&s, 0, sizeof(s));
    check(ballast_look_exact(&eyes, BASE, 512 * PAGE, PAGE, &s) == -EPERM &&
          s.unknown == 512 * PAGE, "an exact look that is refused says so");
}

/* Pauses of a sample of 4,096 pages, in eight calls. */
static unsigned pauses_of(unsigned calm)
{
    struct ballast_sample s;

    new_memory();
    fill(0, PAGES, 1, false);
    kernel.calm = calm;
    s = sample(PAGES, 4096);
    check(kernel.nodes_calls == 8 && s.on_node[1] == 4096,
          "all was looked at, whoever waited");
    return kernel.pauses;
}

static void test_way(void)
{
    struct ballast_sample s = { 0 };
    unsigned calls;

    check(pauses_of(0) == 0, "nobody else wants the lock: no pause");
    check(pauses_of(1) == 7, "always: a pause between any two calls");
    check(pauses_of(4) == 1, "once: one pause");
    new_memory();
    fill(0, PAGES, 1, false);
    ballast_look_exact(&eyes, BASE, PAGES * PAGE, PAGE, &s);
    calls = kernel.nodes_calls;
    check(!kernel.pauses, "an exact look: no pause");
    new_memory();
    fill(0, PAGES, 1, false);
    kernel.calm = 2;
    memset(&s, 0, sizeof(s));
    ballast_look_exact(&eyes, BASE, PAGES * PAGE, PAGE, &s);
    check(kernel.pauses == (calls - 1) / 2 && s.on_node[1] == PAGES * PAGE,
          "an exact look: a pause after every second call");
}

static void random_memory(void)
{
    uint64_t at, nr;
    int node;

    new_memory();
    for (at = 0; at < PAGES; at += nr) {
        node = (int)check_below(5) - 1;
        nr = 1 + check_below(check_below(4) ? 40 : 20000);
        if (check_below(3) == 0) {
            at = (at + 15) / 16 * 16;
            nr = (nr + 15) / 16 * 16;
            nr = at + nr <= PAGES ? nr : at < PAGES ? PAGES - at : 0;
            fill(at, nr, node < 0 ? ABSENT : node, node >= 0);
        } else {
            nr = at + nr <= PAGES ? nr : PAGES - at;
            fill(at, nr, node < 0 ? ABSENT : node, false);
        }
        nr = nr ? nr : 1;
    }
}

static void test_random(void)
{
    struct ballast_sample s;
    unsigned round;
    bool ok = true;

    for (round = 0; round < 300 && ok; round++) {
        uint64_t first = check_below(PAGES / 2);

        random_memory();
        kernel.room = check_below(3) ? 0 : 1 + check_below(8);
        ok = exact_is_right(first, 1 + check_below(PAGES - first), &s);
    }
    check(ok, "three hundred memories made by chance: every byte, once");
}

int main(void)
{
    test_strata();
    test_counts();
    test_bound();
    test_exact();
    test_exact_hugetlb();
    test_liars();
    test_way();
    test_random();
    return check_end();
}
