/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Which pages will be hinted before QEMU comes to them?  A guest hints a
 * block of 4 MiB each millisecond, in order (with neighbours swapped, as
 * Linux does), downwards, or in any order; QEMU sends from the bottom.
 * What is foreseen is compared with what happens then, at random; control:
 * if hints in any order counted as a sweep, pages would be sent for nothing.
 */
#include <string.h>
#include "migration/ballast/sweep.h"
#include "model.h"

#define BLOCKS 512
#define BLOCK_PAGES 1024
#define NS_PER_HINT 1000000
#define TURN_NS 50e6
#define GUESTS 2000
#define FEWEST_HINTS (3 * BALLAST_SWEEP_HINTS)

enum order { UP, DOWN, ANY, ORDERS };

struct guest {
    bool used[BLOCKS];          /* never hinted */
    bool hinted[BLOCKS];
    int to_hint[BLOCKS];        /* blocks, in order */
    int nr, done;
    int64_t now_ns;
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
        g->now_ns += NS_PER_HINT;
        g->hinted[g->to_hint[g->done]] = true;
        ballast_sweep_hint(&g->s, (uint64_t)g->to_hint[g->done] * BLOCK_PAGES,
                           BLOCK_PAGES, g->now_ns);
    }
}

static bool foresee(const struct guest *g, double pages_per_ns, bool blindly)
{
    struct ballast_course c;
    int i;

    if (!ballast_course_begin(&c, &g->s, pages_per_ns) && !blindly) {
        return false;
    }
    for (i = 0; i < BLOCKS && c.sending_ns < TURN_NS; i++) {
        if (blindly) {
            c.sending_ns += g->hinted[i] ? 0 : BLOCK_PAGES / pages_per_ns;
        } else if (!ballast_course_send(&c, (uint64_t)i * BLOCK_PAGES,
                                        BLOCK_PAGES, g->hinted[i] ? 0 :
                                        BLOCK_PAGES)) {
            return false;
        }
    }
    return true;
}

/* What QEMU sends in its turn, of blocks that are hinted later; in blocks. */
static double sent_for_nothing(struct guest g, double pages_per_ns)
{
    double ns = 0, wasted = 0;
    int i;

    for (i = 0; i < BLOCKS && ns < TURN_NS; i++) {
        while (g.done < g.nr && g.done * (double)NS_PER_HINT < ns) {
            hint(&g, 1);
        }
        if (!g.hinted[i]) {
            ns += BLOCK_PAGES / pages_per_ns;
            wasted += !g.used[i];
        }
    }
    return wasted;
}

/* Guests that were seen through, of those with enough hints, and the worst. */
struct outcome {
    int turns, guests;
    double most_wasted;
};

static struct outcome try_guests(enum order order, bool blindly)
{
    struct outcome o = {};
    uint64_t schedule;
    struct guest g;

    for (schedule = 0; schedule < GUESTS; schedule++) {
        boot(&g, schedule, order);
        hint(&g, FEWEST_HINTS + pick(g.nr - FEWEST_HINTS));
        double pace = (20 + pick(1000)) / 1e6, wasted;

        o.guests++;
        if (foresee(&g, pace, blindly)) {
            struct guest later = g;

            /* The clock of what comes begins with the turn. */
            later.nr -= later.done;
            memmove(later.to_hint, later.to_hint + later.done,
                    later.nr * sizeof(later.to_hint[0]));
            later.done = 0;
            wasted = sent_for_nothing(later, pace);
            o.turns++;
            o.most_wasted = wasted > o.most_wasted ? wasted : o.most_wasted;
        }
    }
    return o;
}

static int models(void)
{
    struct outcome up = try_guests(UP, false);
    struct outcome down = try_guests(DOWN, false);
    struct outcome any = try_guests(ANY, false);
    struct outcome control = try_guests(ANY, true);

    return report(up.turns > GUESTS / 4 && up.most_wasted <= 2,
                  "upwards: QEMU sends what was passed, two blocks at most "
                  "for nothing") +
           report(down.most_wasted <= 2,
                  "downwards: QEMU waits, as it begins at the bottom") +
           report(any.turns <= GUESTS / 100,
                  "in any order: nothing is foreseen") +
           report(control.most_wasted > 2,
                  "control: who sends nevertheless sends for nothing");
}

/* Hints of @n blocks of one page from @from, upwards or downwards. */
static void some_hints(struct ballast_sweep *s, int from, int n, int step)
{
    int i;

    for (i = 0; i < n; i++) {
        ballast_sweep_hint(s, from + i * step, 1, 1000 * (i + 1));
    }
}

static bool begins(int from, int n, int step)
{
    struct ballast_sweep s = {};
    struct ballast_course c;

    some_hints(&s, from, n, step);
    return ballast_course_begin(&c, &s, 1);
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

/* The guest has hinted up to page 99, from 20 on, a page each 1,000 ns. */
static int course(void)
{
    struct ballast_sweep s = {};
    struct ballast_course c;
    int bad;

    some_hints(&s, 20, 80, 1);
    bad = report(ballast_course_begin(&c, &s, 0.002) && !c.down &&
                 c.hinted_per_ns > 0.0009 && c.hinted_per_ns < 0.0011,
                 "as fast as the hints come");
    bad += report(ballast_course_send(&c, 0, 20, 20) &&
                  c.sending_ns > 9999 && c.sending_ns < 10001,
                  "what was passed is sent");
    bad += report(ballast_course_send(&c, 100, 5, 5) &&
                  c.sending_ns < 10001,
                  "what the hints reach before QEMU is not");
    bad += report(!ballast_course_send(&c, 105, 20, 20),
                  "what QEMU reaches before the hints has to wait");
    bad += report(ballast_course_send(&c, 1000, 20, 0),
                  "what is not dirty has not");
    return bad;
}

int main(void)
{
    int bad = models() + windows() + course();

    report_end();
    return bad > 0;
}
