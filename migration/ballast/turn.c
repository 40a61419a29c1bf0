/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A turn of QEMU's that ends early, or begins somewhere else.
 *
 * QEMU sends for 50 ms, with the lock of its dirty bitmap held: hints wait
 * for it, and pages that they were about to name are sent for nothing.  Its
 * rate limit can end a turn after any number of bytes, and an urgent request
 * makes it begin the next step at once instead of waiting until the limit is
 * renewed.  So both are set for one turn, and taken back before anything
 * else is decided.
 *
 * The operator's own limit holds throughout: ours is only ever the lower
 * one.  Whoever changes the limit during a turn has changed it for good.
 *
 * The request is a count in QEMU's semaphore, which outlives a migration: one
 * left over, and the next never sleeps for its limit.  It is taken back exactly
 * once, after the last turn by the end of the migration.
 *
 * QEMU ends no turn within a huge page.  It would sleep there for the
 * operator's limit, but does not while there is a request: so none is made
 * unless the limit leaves room for such a page.
 *
 * Where a turn begins: in postcopy the destination asks for pages, and QEMU
 * sends such a one first and goes on from there.  We ask in its place.  What
 * asks is a request like the other, and QEMU takes it back when it comes to
 * it: if the migration ends before, we do.
 */
#include "qemu/osdep.h"
#include "exec/target_page.h"
#include "migration/migration.h"
#include "migration/migration-stats.h"
#include "migration/misc.h"
#include "migration/options.h"
#include "migration/ram.h"
#include "qemu/units.h"
#include "internal.h"
#include "trace-migration_ballast.h"

/* QEMU's limit is for so many periods in a second. */
#define PERIODS_PER_S 10
/* What a migration is fast from. */
#define FAST_BYTES_PER_S GiB
/* It counts bytes when they leave, so many pages late. */
#define LATE_PAGES 64

/* Migration thread; the main thread once that has ended. */
static bool limited;
static bool moved;

/* By how much a turn may be longer. */
static uint64_t huge_page_bytes(void)
{
    size_t bytes;

    RCU_READ_LOCK_GUARD();
    bytes = qemu_ram_pagesize_largest();
    return bytes > qemu_target_page_size() ? bytes : 0;
}

bool ballast_turns_are_ours(void)
{
    uint64_t now = migration_rate_get();

    return !huge_page_bytes() &&
           (!now || now >= FAST_BYTES_PER_S / PERIODS_PER_S);
}

void ballast_turn_limit(uint64_t pages)
{
    uint64_t used_bytes = migration_transferred_bytes() -
                          stat64_get(&mig_stats.rate_limit_start);
    uint64_t bytes = used_bytes + (pages - MIN(pages / 2, LATE_PAGES)) *
                     qemu_target_page_size();
    uint64_t now = migration_rate_get();

    if (now && now <= bytes + huge_page_bytes()) {
        return;
    }
    limited = true;
    migration_make_urgent_request();
    migration_rate_set(bytes * PERIODS_PER_S);
    trace_ballast_turn(pages);
}

bool ballast_turn_from(RAMBlock *rb, uint64_t page)
{
    bool ok = !ram_save_queue_pages(rb->idstr, page << TARGET_PAGE_BITS,
                                    TARGET_PAGE_SIZE, NULL);

    /* It counts as the destination's, even if it is none. */
    stat64_add(&mig_stats.postcopy_requests, -1);
    moved |= ok;
    return ok;
}

/* An operator writes the parameter first, and then sets the limit. */
static void restore_limit(void)
{
    uint64_t bytes_per_s;

    do {
        bytes_per_s = migrate_max_bandwidth();
        migration_rate_set(bytes_per_s);
    } while (bytes_per_s != migrate_max_bandwidth());
}

void ballast_turn_over(void)
{
    if (!limited) {
        return;
    }
    limited = false;
    migration_consume_urgent_request();
    if (migration_is_running() && !migration_in_postcopy()) {
        restore_limit();
    }
}

/* Nobody else has a request left. */
void ballast_turns_over(void)
{
    ballast_turn_over();
    while (moved && !qemu_sem_timedwait(&migrate_get_current()->rate_limit_sem,
                                        0)) {
        trace_ballast_turn_left();
    }
    moved = false;
}
