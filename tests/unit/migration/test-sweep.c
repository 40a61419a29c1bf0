/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Which pages will be hinted before QEMU comes to them?  A guest hints a
 * block of 4 MiB after the other, in order (with neighbours swapped, as
 * Linux does), downwards, or in any order; QEMU sends from the bottom, and
 * no hint is applied meanwhile.  What is foreseen is compared with what is
 * hinted later, at random; control: if hints in any order counted as a
 * sweep, or if QEMU were not stopped, pages would be sent for nothing.
 */
#include <string.h>
#include "migration/ballast/sweep.h"
#include "model.h"

#define BLOCKS 512
#define BLOCK_PAGES 1024
#define TURN_PAGES (64 * BLOCK_PAGES)
#define GUESTS 2000
#define FEWEST_HINTS (3 * BALLAST_SWEEP_HINTS)

enum order { UP, DOWN, ANY, ORDERS };

struct guest {
    bool used[BLOCKS];          /* never hinted */
    bool hinted[BLOCKS];
    int to_hint[BLOCKS];        /* blocks, in order */
    int nr, done;
    struct ballast_sweep s;
};

static void swap(int *a, int *b)
{
    int was = *a;

    *a = *b;
    *b = was;
}

static void put_in_order(struct guest *g, enum order order)
{
    int i;

    for (i = 0; i < g->nr / 2 && order == DOWN; i++) {
        swap(&g->to_hint[i], &g->to_hint[g->nr - 1 - i]);
    }
    for (i = 0; i < g->nr && order == ANY; i++) {
        swap(&g->to_hint[i], &g->to_hint[pick(g->nr)]);
    }
    for (i = pick(2); i + 1 < g->nr && order != ANY; i += 2) {
        swap(&g->to_hint[i], &g->to_hint[i + 1]);
    }
}

/* The kernel at the bottom, the rest scattered. */
static void boot(struct guest *g, uint64_t schedule, enum order order)
{
    unsigned used_below, one_in;
    int i;

    choose(schedule);
    *g = (struct guest) {};
    used_below = pick(64);
    one_in = 2 + pick(40);
    for (i = 0; i < BLOCKS; i++) {
        g->used[i] = i < (int)used_below || !pick(one_in);
        if (!g->used[i]) {
            g->to_hint[g->nr++] = i;
        }
    }
    put_in_order(g, order);
}

static void hint(struct guest *g, int hints)
{
    for (; hints-- && g->done < g->nr; g->done++) {
        g->hinted[g->to_hint[g->done]] = true;
        ballast_sweep_hint(&g->s, (uint64_t)g->to_hint[g->done] * BLOCK_PAGES,
                           BLOCK_PAGES);
    }
}

/* What QEMU does with its turn. */
enum policy { ASKED, BLINDLY, UNSTOPPED };

static uint64_t foresee(const struct guest *g, enum policy policy)
{
    struct ballast_course c;
    int i;

    if (policy == BLINDLY) {
        return TURN_PAGES;
    }
    if (!ballast_course_begin(&c, &g->s)) {
        return 0;
    }
    for (i = 0; i < BLOCKS && c.pages < TURN_PAGES; i++) {
        if (!ballast_course_send(&c, (uint64_t)i * BLOCK_PAGES, BLOCK_PAGES,
                                 g->hinted[i] ? 0 : BLOCK_PAGES)) {
            break;
        }
    }
    return policy == UNSTOPPED && c.pages ? TURN_PAGES : c.pages;
}

/* What goes in a turn of so many pages, but is hinted later; in blocks. */
static uint64_t sent_for_nothing(const struct guest *g, uint64_t pages)
{
    uint64_t wasted = 0;
    int i;

    for (i = 0; i < BLOCKS && pages; i++) {
        if (!g->hinted[i]) {
            pages -= BLOCK_PAGES;
            wasted += !g->used[i];
        }
    }
    return wasted;
}

/* Guests that were seen through, of those with enough hints, and the worst. */
struct outcome {
    int turns;
    uint64_t most_wasted;
};

static struct outcome try_guests(enum order order, enum policy policy)
{
    struct outcome o = {};
    uint64_t schedule, pages, wasted;
    struct guest g;

    for (schedule = 0; schedule < GUESTS; schedule++) {
        boot(&g, schedule, order);
        hint(&g, FEWEST_HINTS + pick(g.nr - FEWEST_HINTS));
        pages = foresee(&g, policy);
        wasted = sent_for_nothing(&g, pages);
        o.turns += pages > 0;
        o.most_wasted = wasted > o.most_wasted ? wasted : o.most_wasted;
    }
    return o;
}

/* The same at the far end, until nothing more is sent there. */
static struct outcome try_far_ends(enum order order)
{
    struct outcome o = {};
    uint64_t schedule, far, first, wasted;
    struct ballast_course c;
    struct guest g;

    for (schedule = 0; schedule < GUESTS; schedule++) {
        boot(&g, schedule, order);
        hint(&g, FEWEST_HINTS + pick(g.nr - FEWEST_HINTS));
        far = (uint64_t)BLOCKS * BLOCK_PAGES;
        wasted = 0;
        while (ballast_course_begin(&c, &g.s) &&
               (first = ballast_course_far(&c, 0, BLOCKS * BLOCK_PAGES,
                                           far)) < far) {
            o.turns++;
            far = first;
            wasted += !g.used[far / BLOCK_PAGES];
            hint(&g, 1);
        }
        o.most_wasted = wasted > o.most_wasted ? wasted : o.most_wasted;
    }
    return o;
}

static int far_ends(void)
{
    struct outcome up = try_far_ends(UP);
    struct outcome down = try_far_ends(DOWN);
    struct outcome any = try_far_ends(ANY);

    return report(up.turns > GUESTS &&
                  up.most_wasted <= BLOCKS / BALLAST_FAR_PART,
                  "upwards: the far end is sent meanwhile, no more than a "
                  "part of memory for nothing") +
           report(!down.turns, "downwards: the far end is not touched") +
           report(any.turns <= GUESTS / 100, "nor is it in any order");
}

static int models(void)
{
    struct outcome up = try_guests(UP, ASKED);
    struct outcome down = try_guests(DOWN, ASKED);
    struct outcome any = try_guests(ANY, ASKED);
    struct outcome blindly = try_guests(ANY, BLINDLY);
    struct outcome unstopped = try_guests(UP, UNSTOPPED);

    return report(up.turns > GUESTS / 4 && up.most_wasted <= 2,
                  "upwards: QEMU sends what was passed, two blocks at most "
                  "for nothing") +
           report(down.most_wasted <= 2,
                  "downwards: QEMU waits, as it begins at the bottom") +
           report(any.turns <= GUESTS / 100,
                  "in any order: nothing is foreseen") +
           report(blindly.most_wasted > 2,
                  "control: who sends nevertheless sends for nothing") +
           report(unstopped.most_wasted > 2,
                  "control: so does who is not stopped at the hints");
}

/* Hints of @n blocks of one page from @from, upwards or downwards. */
static void some_hints(struct ballast_sweep *s, int from, int n, int step)
{
    int i;

    for (i = 0; i < n; i++) {
        ballast_sweep_hint(s, from + i * step, 1);
    }
}

static bool begins(int from, int n, int step)
{
    struct ballast_sweep s = {};
    struct ballast_course c;

    some_hints(&s, from, n, step);
    return ballast_course_begin(&c, &s);
}

static int windows(void)
{
    int full = 2 * BALLAST_SWEEP_HINTS;

    return report(!begins(0, 0, 1) && !begins(0, full, 1),
                  "nothing is known before there are two windows and more") +
           report(begins(0, full + 1, 1) && begins(100, full + 1, -1),
                  "then there is a sweep, up or down") +
           report(!begins(100, full + 1, 0),
                  "the same page again and again is none");
}

/* The guest has hinted up to page 99, from 20 on. */
static int course(void)
{
    struct ballast_sweep s = {};
    struct ballast_course c;
    int bad;

    some_hints(&s, 20, 80, 1);
    bad = report(ballast_course_begin(&c, &s) && !c.down && !c.pages,
                 "upwards");
    bad += report(ballast_course_send(&c, 0, 20, 15) && c.pages == 15,
                  "what was passed is sent");
    bad += report(!ballast_course_send(&c, 95, 10, 10) && c.pages == 15,
                  "what the hints have just reached has to wait");
    bad += report(!ballast_course_send(&c, 105, 20, 20) && c.pages == 15,
                  "what they have not reached has, too");
    bad += report(ballast_course_send(&c, 1000, 20, 0) && c.pages == 15,
                  "what is not dirty has not");
    return bad;
}

/* Of a block from page 1000 on, with hints up to @hinted: sent after @far. */
static uint64_t far_after(uint64_t pages, int hinted, uint64_t far)
{
    struct ballast_sweep s = {};
    struct ballast_course c;
    uint64_t end = 1000 + pages;

    some_hints(&s, hinted - 80, 80, 1);
    return ballast_course_begin(&c, &s) ?
           end - ballast_course_far(&c, 1000, end, end - far) : 0;
}

static int far_rules(void)
{
    uint64_t turn = BALLAST_FAR_PAGES, pages = 64 * turn;
    int last = 1000 + pages - turn;
    uint64_t huge = 100ULL * BALLAST_FAR_MOST * BALLAST_FAR_PART;

    return report(far_after(pages, 2000, 0) == turn &&
                  far_after(pages, 2000, turn) == 2 * turn,
                  "the far end: one turn's pages after the other") +
           report(far_after(pages, 2000, 2 * turn) == 2 * turn &&
                  far_after(huge, 2000, BALLAST_FAR_MOST - turn) ==
                  BALLAST_FAR_MOST &&
                  far_after(huge, 2000, BALLAST_FAR_MOST) ==
                  BALLAST_FAR_MOST, "no more than its part, nor than most") +
           report(far_after(pages, last, 0) == turn &&
                  far_after(pages, last + 1, 0) == 0,
                  "no page to which hints have come");
}

int main(void)
{
    int bad = models() + far_ends() + windows() + course() + far_rules();

    report_end();
    return bad > 0;
}
