/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Round 1 waits while hints come faster than QEMU could send.
 *
 * Where: the migration thread, before each of its steps, without any lock
 * (see absent.c), so hints are applied meanwhile.  What they take off the
 * bitmap shows in QEMU's count of dirty pages, whoever's balloon it is:
 * nothing else makes it smaller while the migration thread waits.
 * Where the hints so far say that QEMU's next pages are used (sweep.h), it
 * has a turn for these and no others (turn.c).  Where they are not, it has
 * turns at the far end, as long as no hint has come near that.
 *
 * Only the time of sending changes: no bit is dropped or kept here.
 */
#include "qemu/osdep.h"
#include "exec/target_page.h"
#include "migration/ballast/hints.h"
#include "migration/ballast/patience.h"
#include "migration/migration-stats.h"
#include "migration/misc.h"
#include "migration/ram.h"
#include "qemu/lockable.h"
#include "qemu/timer.h"
#include "system/runstate.h"
#include "internal.h"
#include "trace-migration_ballast.h"

/* QEMU's rate limit is per 100 ms. */
#define RATES_PER_S 10

static struct {
    /* Migration thread. */
    struct ballast_patience p;
    int64_t turn_ns;            /* QEMU's turn began; 0: had none */
    uint64_t turn_pages;
    QemuMutex count_lock;
    struct ballast_patience s;  /* copy for others */
} waiting;

void ballast_wait_snapshot(struct ballast_patience *out)
{
    QEMU_LOCK_GUARD(&waiting.count_lock);
    *out = waiting.s;
}

static void publish(void)
{
    QEMU_LOCK_GUARD(&waiting.count_lock);
    waiting.s = waiting.p;
}

/* QEMU sends for so long before it asks again. */
#define TURN_NS (50.0 * SCALE_MS)

/* Pages that may go in a second; 0: no limit. */
static uint64_t rate_limit(void)
{
    uint64_t bytes_per_s = migration_rate_get() * RATES_PER_S;

    return bytes_per_s ? MAX(1, bytes_per_s / qemu_target_page_size()) : 0;
}

bool ballast_may_wait(void)
{
    struct ballast_generation gen = ballast_generation_hold();

    ballast_generation_release();
    return gen.open && gen.armed && gen.number == 1 &&
           migration_is_running() && runstate_is_running() &&
           ballast_patience_left(&waiting.p);
}

/*
 * Nothing is lost by sending what is used.  A turn is worth no less than a
 * slice, and QEMU asks again after TURN_NS at the latest.  0: no turn.
 */
static uint64_t used_pages(void)
{
    double pace = ballast_patience_pace(&waiting.p, rate_limit());
    uint64_t pages = ballast_absent_foresee(pace * TURN_NS);

    return pages < pace * BALLAST_SLICE_NS ? 0 : pages;
}

/* In this migration; QEMU's own balloon does not count them. */
static uint64_t hinted_bytes(void)
{
    BallastHintsSnapshot s;

    ballast_hints_snapshot(&s);
    return s.migration.bytes[BALLAST_HINT_APPLIED];
}

/* One slice; false: QEMU has its turn. */
static bool wait_slice(void)
{
    uint64_t dirty = ram_bytes_remaining(), hinted = hinted_bytes(), after;
    int64_t began = get_clock();
    bool finished = ballast_hints_finished();

    g_usleep(BALLAST_SLICE_NS / SCALE_US);
    after = ram_bytes_remaining();
    return ballast_patience_waited(&waiting.p, get_clock() - began,
                                   after < dirty ? (dirty - after) /
                                   qemu_target_page_size() : 0,
                                   (hinted_bytes() - hinted) /
                                   qemu_target_page_size(),
                                   rate_limit(), finished);
}

void ballast_wait_begin(void)
{
    waiting.p = (struct ballast_patience) {};
    waiting.turn_ns = 0;
    publish();
}

static void turn_over(void)
{
    if (waiting.turn_ns) {
        ballast_patience_sent(&waiting.p, ballast_pages_sent() - waiting.turn_pages,
                              get_clock() - waiting.turn_ns);
    }
}

/* Pages that no hint will name: QEMU's next, or at the far end; 0: none. */
static uint64_t find_turn(bool *far)
{
    uint64_t pages = used_pages();

    if (pages) {
        return pages;
    }
    pages = ballast_absent_far();
    *far = pages > 0;
    return pages;
}

uint64_t ballast_wait_for_hints(bool *far)
{
    uint64_t waited = waiting.p.waited_ns, pages = 0;

    *far = false;
    turn_over();
    while (ballast_may_wait() && !(pages = find_turn(far)) && wait_slice()) {
        /* More of it. */
    }
    if (waiting.p.waited_ns != waited) {
        trace_ballast_wait(waiting.p.waited_ns, waiting.p.unpaid_ns,
                           waiting.p.gained_pages);
        publish();
    }
    return pages;
}

void ballast_wait_turn(void)
{
    waiting.turn_pages = ballast_pages_sent();
    waiting.turn_ns = get_clock();
}

static void __attribute__((constructor)) init_lock(void)
{
    qemu_mutex_init(&waiting.count_lock);
}
