/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * How long round 1 waits for hints: guests that hint fast, slowly, seldom,
 * never or for ever, at random, on machines that wake late.
 *
 * Whatever they do, a migration waits no longer than patience.h says, and,
 * but for what is not paid for, no longer than sending the dirty pages that
 * went would have taken.  Control: if each slice with a hint in it counted as
 * paid, a guest that dribbles would break that.
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

enum guest { FAST, SLOW, DRIBBLES, SILENT, MIXED, KINDS };

struct migration {
    struct ballast_patience p;
    uint64_t dirty_pages;
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
                     guest == SLOW ? pace / 2 :
                     guest == DRIBBLES ? 1 : 0;

    return pages < m->dirty_pages ? pages : m->dirty_pages;
}

static bool wait_slice(struct migration *m)
{
    uint64_t ns = BALLAST_SLICE_NS + pick(SLICE_MOST_NS - BALLAST_SLICE_NS);
    uint64_t pages = hinted(m), counted = pages;

    m->dirty_pages -= pages;
    if (m->any_pays && pages) {
        counted = 1000 * m->pace;
    }
    return ballast_patience_waited(&m->p, ns, counted, m->most_per_s, false);
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

/* All the pages that went, at the pace that was known when they did. */
static bool is_paid_for(const struct migration *m)
{
    uint64_t paid = m->p.waited_ns - m->p.unpaid_ns;
    uint64_t slowest = m->pace < UNKNOWN_PACE ? m->pace : UNKNOWN_PACE;

    return paid <= DIRTY_PAGES / slowest * BALLAST_SLICE_NS;
}

static bool is_bounded(const struct migration *m)
{
    return m->p.waited_ns < BALLAST_WAIT_MOST_NS + SLICE_MOST_NS &&
           m->p.unpaid_ns < BALLAST_WAIT_UNPAID_NS + SLICE_MOST_NS &&
           m->p.unpaid_slices <= BALLAST_WAIT_UNPAID_NS / BALLAST_SLICE_NS;
}

/* How much a dribbling guest may gain by what it dribbles. */
static bool pays_its_way(const struct migration *m)
{
    return m->p.waited_ns < BALLAST_WAIT_UNPAID_NS + SLICE_MOST_NS;
}

static int bounds(void)
{
    bool ok = true, paid = true, idle = true, control = true;
    uint64_t schedule;
    struct migration m;
    enum guest guest;

    for (schedule = 0; schedule < GUESTS; schedule++) {
        for (guest = 0; guest < KINDS; guest++) {
            m = run(guest, schedule, false);
            ok &= is_bounded(&m);
            paid &= is_paid_for(&m);
            if (guest == DRIBBLES || guest == SILENT || guest == SLOW) {
                idle &= pays_its_way(&m);
            }
        }
        m = run(DRIBBLES, schedule, true);
        control &= pays_its_way(&m);
    }
    return report(ok, "no guest makes a migration wait longer than allowed") +
           report(paid, "what is waited for hints is less than sending takes") +
           report(idle, "slow, dribbling and silent guests are not waited for") +
           report(!control, "control: if any hint paid, dribbling would do");
}

static int patience(void)
{
    struct ballast_patience p = {};
    int bad = 0, slices = 1;

    while (ballast_patience_waited(&p, BALLAST_SLICE_NS, 0, 0, false)) {
        slices++;
    }
    bad += report(slices == BALLAST_WAIT_FIRST_NS / BALLAST_SLICE_NS,
                  "a first hint is waited for some slices");
    bad += report(ballast_patience_waited(&p, BALLAST_SLICE_NS, 1049, 0, false),
                  "as many pages as are sent at 1 GiB/s pay for a slice");
    bad += report(!ballast_patience_waited(&p, BALLAST_SLICE_NS, 1048, 0,
                                           false),
                  "less does not");
    bad += report(ballast_patience_waited(&p, BALLAST_SLICE_NS, 40, 10000,
                                          false),
                  "with a bandwidth limit, what it lets through does");
    ballast_patience_sent(&p, 500000, 1000 * BALLAST_MS);
    bad += report(!ballast_patience_waited(&p, BALLAST_SLICE_NS, 1999, 0,
                                           false) &&
                  ballast_patience_waited(&p, BALLAST_SLICE_NS, 2000, 0, false),
                  "once QEMU has sent, its own pace counts");
    bad += report(ballast_patience_waited(&p, BALLAST_SLICE_NS, 5000, 0, true) &&
                  ballast_patience_left(&p),
                  "a guest that has finished is waited for while hints come");
    bad += report(!ballast_patience_waited(&p, BALLAST_SLICE_NS, 0, 0, true) &&
                  !ballast_patience_left(&p),
                  "and no more after");
    return bad;
}

int main(void)
{
    int bad = bounds() + patience();

    report_end();
    return bad > 0;
}
