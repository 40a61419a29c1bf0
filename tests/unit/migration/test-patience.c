/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * How long round 1 waits for hints: guests that hint fast, slowly, seldom,
 * never or for ever, at random, on machines that wake late.
 *
 * Whatever they do, a migration waits no longer than patience.h says, and,
 * but for 40 ms, no longer than the dirty pages that went were worth: so no
 * longer than sending them would have taken, if the guest hints as fast as
 * QEMU sends.  Control: if each slice with a hint in it counted as paid, a guest
 * that dribbles would break that.
 */
#include <stdio.h>
#include <string.h>
#include "migration/ballast/patience.h"
#include "model.h"

#define DIRTY_PAGES (2048ULL << 8)      /* 2 GiB */
#define SLICE_MOST_NS (3 * BALLAST_SLICE_NS)
#define GUESTS 20000
/* In a slice, before QEMU had its turn. */
#define UNKNOWN_PACE (BALLAST_PAGES_PER_S / 250)

enum guest { FAST, SLOW, DRIBBLES, SILENT, REPEATS, MIXED, KINDS };

struct migration {
    struct ballast_patience p;
    uint64_t dirty_pages, hinted_pages;
    uint64_t pace;              /* pages QEMU sends in a slice */
    uint64_t most_per_s;
    enum guest guest;
    bool any_pays;              /* the control */
};

static uint64_t hinted(const struct migration *m)
{
    enum guest guest = m->guest == MIXED ? pick(MIXED) : m->guest;
    uint64_t pace = m->pace < UNKNOWN_PACE ? m->pace : UNKNOWN_PACE;
    uint64_t pages = guest == FAST ? m->pace * (4 + pick(5)) :
                     guest == SLOW ? pace / (2 * BALLAST_HINT_WORTH) :
                     guest == DRIBBLES ? 1 : 0;

    return pages < m->dirty_pages ? pages : m->dirty_pages;
}

static bool wait_slice(struct migration *m)
{
    uint64_t ns = BALLAST_SLICE_NS + pick(SLICE_MOST_NS - BALLAST_SLICE_NS);
    uint64_t pages = hinted(m), counted = pages;

    m->dirty_pages -= pages;
    m->hinted_pages += pages;
    if (m->any_pays && pages) {
        counted = 1000 * m->pace;
    }
    return ballast_patience_waited(&m->p, ns, counted, m->guest == REPEATS ?
                                   1000 * m->pace : counted, m->most_per_s,
                                   false);
}

/* QEMU's turn: 50 ms. */
static void turn(struct migration *m)
{
    uint64_t ns = 50 * BALLAST_MS;
    uint64_t pages = m->pace * ns / BALLAST_SLICE_NS;

    pages = pages < m->dirty_pages ? pages : m->dirty_pages;
    m->dirty_pages -= pages;
    ballast_patience_sent(&m->p, pages, ns);
}

static struct migration run(enum guest guest, uint64_t schedule, bool any_pays)
{
    struct migration m = {
        .dirty_pages = DIRTY_PAGES, .guest = guest, .any_pays = any_pays,
    };

    choose(schedule);
    m.pace = 1000 + pick(2000);
    m.most_per_s = pick(3) ? 0 : 1000 + pick(100000);
    if (m.most_per_s) {
        m.pace = m.most_per_s * BALLAST_SLICE_NS / (1000 * BALLAST_MS) + 1;
    }
    while (m.dirty_pages) {
        while (ballast_patience_left(&m.p) && wait_slice(&m)) {
            /* Wait on. */
        }
        turn(&m);
    }
    return m;
}

/* But for what every guest may have, no longer than these pages are worth. */
static bool is_paid_for(const struct migration *m)
{
    uint64_t slowest = m->pace < UNKNOWN_PACE ? m->pace : UNKNOWN_PACE;
    uint64_t per_s = m->most_per_s ? m->most_per_s : slowest * 250;

    return m->p.waited_ns < BALLAST_HINT_WORTH * m->hinted_pages * 1000 *
                            BALLAST_MS / per_s +
                            BALLAST_WAIT_UNPAID_NS + SLICE_MOST_NS;
}

static bool is_bounded(const struct migration *m)
{
    return m->p.waited_ns < BALLAST_WAIT_MOST_NS + SLICE_MOST_NS;
}

/* Not more than every guest may have. */
static bool is_given_up(const struct migration *m)
{
    return m->p.waited_ns < BALLAST_WAIT_UNPAID_NS + SLICE_MOST_NS &&
           m->p.slices <= BALLAST_WAIT_UNPAID_NS / BALLAST_SLICE_NS;
}

static int bounds(void)
{
    bool bounded = true, paid = true, given_up = true, control = true;
    uint64_t schedule;
    struct migration m;
    enum guest guest;

    for (schedule = 0; schedule < GUESTS; schedule++) {
        for (guest = 0; guest < KINDS; guest++) {
            m = run(guest, schedule, false);
            bounded &= is_bounded(&m);
            paid &= is_paid_for(&m);
            if (guest == DRIBBLES || guest == SILENT || guest == SLOW ||
                guest == REPEATS) {
                given_up &= is_given_up(&m);
            }
        }
        m = run(DRIBBLES, schedule, true);
        control &= is_paid_for(&m);
    }
    return report(bounded, "no guest makes a migration wait without end") +
           report(paid, "nobody waits longer than the hints are worth") +
           report(given_up, "slow, dribbling and silent guests, and those that hint "
                  "the same again: 40 ms") +
           report(!control, "control: if any hint paid, dribbling would do");
}

/* A slice of 4 ms with nothing but this in it. */
static bool slice(struct ballast_patience *p, uint64_t pages)
{
    return ballast_patience_waited(p, BALLAST_SLICE_NS, pages, pages, 0,
                                   false);
}

static bool pays(uint64_t pages, uint64_t most_per_s, bool has_sent)
{
    struct ballast_patience p = {};

    if (has_sent) {
        ballast_patience_sent(&p, 500000, 1000 * BALLAST_MS);
    }
    ballast_patience_waited(&p, BALLAST_SLICE_NS, pages, pages, most_per_s,
                            false);
    return !p.unpaid_slices;
}

static int pace(void)
{
    return report(pays(263, 0, false) && !pays(262, 0, false),
                  "at first a slice costs a quarter of 1 GiB/s") +
           report(pays(500, 0, true) && !pays(499, 0, true),
                  "once QEMU has sent, of its pace") +
           report(pays(11, 10000, true) && !pays(9, 10000, true),
                  "at most of what the bandwidth limit lets through");
}

/* A guest without a processor for a while, after one in which it had it. */
static int stall(void)
{
    struct ballast_patience p = {};
    int bad, i, slices = 1;

    for (i = 0; i < 10; i++) {
        slice(&p, 4 * UNKNOWN_PACE);
    }
    while (slice(&p, 0)) {
        slices++;
    }
    bad = report(slices == BALLAST_WAIT_IDLE_NS / BALLAST_SLICE_NS,
                 "some slices without a hint are waited for");
    for (i = 0; i < 4; i++) {
        bad += !ballast_patience_left(&p) || slice(&p, 0);
    }
    bad += report(!bad && ballast_patience_left(&p) &&
                  slice(&p, 2 * UNKNOWN_PACE) && !p.idle_ns,
                  "then one at a time; if there are hints again, more");
    for (i = 0; i < 10; i++) {
        slice(&p, 0);
    }
    bad += report(!ballast_patience_left(&p), "nobody waits for ever");
    return bad;
}

/* A guest that comes to memory that it never used, with more behind it. */
static int passing(void)
{
    struct ballast_patience p = {};
    bool waited = true;
    int i;

    for (i = 0; i < 10; i++) {
        slice(&p, 4 * UNKNOWN_PACE);
    }
    for (i = 0; i < 20; i++) {
        waited &= ballast_patience_waited(&p, BALLAST_SLICE_NS, 0,
                                          UNKNOWN_PACE, 0, false) &&
                  ballast_patience_left(&p);
    }
    return report(waited && !p.idle_ns && p.unpaid_slices == 20,
                  "who hints what is not dirty is not idle") +
           report(!(ballast_patience_waited(&p, BALLAST_SLICE_NS, 0,
                                            UNKNOWN_PACE, 0, true) &&
                    ballast_patience_left(&p)),
                  "but has finished when it says so");
}

static int finished(void)
{
    struct ballast_patience p = {};
    int bad;

    bad = report(ballast_patience_waited(&p, BALLAST_SLICE_NS, 5000, 5000, 0,
                                         true) &&
                 ballast_patience_left(&p),
                 "who has finished is waited for while hints come");
    ballast_patience_waited(&p, BALLAST_SLICE_NS, 0, 0, 0, true);
    bad += report(!ballast_patience_left(&p), "and no more after");
    return bad;
}

int main(void)
{
    int bad = bounds() + pace() + stall() + passing() + finished();

    report_end();
    return bad > 0;
}
