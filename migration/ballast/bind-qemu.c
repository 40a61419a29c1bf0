/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Built into QEMU: see binding.h and hooks.h.
 *
 * A page can be dropped before it was ever sent in the first generation only:
 * it is dirty then until it is sent or dropped.  Later a dirty page was either
 * sent before, and is on the destination, or its bit is set already.
 */
#include "qemu/osdep.h"
#include "binding.h"
#include "hw/virtio/ballast/balloon.h"
#include "hw/virtio/ballast/compat.h"
#include "internal.h"
#include "migration/ballast/absent.h"
#include "migration/ballast/hints.h"
#include "migration/ballast/hooks.h"
#include "migration/migration.h"
#include "migration/migration-stats.h"
#include "migration/misc.h"
#include "migration/options.h"
#include "qemu/bitmap.h"
#include "qemu/rcu_queue.h"
#include "trace-migration_ballast.h"

const bool ballast_in_qemu = true;

void ballast_bitmap_lock(void)
{
    ram_bitmap_lock();
}

void ballast_bitmap_unlock(void)
{
    ram_bitmap_unlock();
}

void ballast_bitmap_drop(void *addr, size_t bytes)
{
    qemu_guest_free_page_hint_locked(addr, bytes);
}

void ballast_bitmap_arm(void)
{
    qemu_guest_free_page_hint_arm();
}

bool ballast_asked_for(void)
{
    return migrate_get_current()->capabilities[
        MIGRATION_CAPABILITY_X_ABSENT_PAGES];
}

/* Skipped pages ------------------------------------------------------- */

void ballast_skipped_begin(void)
{
    RAMBlock *rb;

    ballast_skipped_end();
    if (!migrate_postcopy_ram()) {
        return;
    }
    RCU_READ_LOCK_GUARD();
    QLIST_FOREACH_RCU(rb, &ram_list.blocks, next) {
        if (ballast_block_migrates(rb)) {
            rb->skipped_bmap = bitmap_new(rb->max_length >> TARGET_PAGE_BITS);
        }
    }
}

void ballast_skipped_end(void)
{
    RAMBlock *rb;

    RCU_READ_LOCK_GUARD();
    QLIST_FOREACH_RCU(rb, &ram_list.blocks, next) {
        g_free(rb->skipped_bmap);
        rb->skipped_bmap = NULL;
    }
}

void ballast_pages_dropped(RAMBlock *rb, unsigned long first,
                           unsigned long nr)
{
    unsigned long end = first + nr, page, next;

    if (!rb->skipped_bmap || stat64_get(&mig_stats.dirty_sync_count) != 1) {
        return;
    }
    for (page = find_next_bit(rb->bmap, end, first); page < end;
         page = find_next_bit(rb->bmap, end, next)) {
        next = find_next_zero_bit(rb->bmap, end, page);
        bitmap_set(rb->skipped_bmap, page, next - page);
    }
}

void ballast_postcopy_begins(void)
{
    RAMBlock *rb;

    ballast_bitmap_lock();
    WITH_RCU_READ_LOCK_GUARD() {
        QLIST_FOREACH_RCU(rb, &ram_list.blocks, next) {
            if (rb->skipped_bmap) {
                bitmap_andnot(rb->skipped_bmap, rb->skipped_bmap, rb->bmap,
                              rb->used_length >> TARGET_PAGE_BITS);
            }
        }
    }
    ballast_bitmap_unlock();
}

unsigned long ballast_page_wanted(RAMBlock *rb, unsigned long page)
{
    unsigned long nr = qemu_ram_pagesize(rb) >> TARGET_PAGE_BITS;
    unsigned long end, dirty = 0;

    if (!rb->skipped_bmap || !test_bit(page, rb->skipped_bmap)) {
        return 0;
    }
    page = QEMU_ALIGN_DOWN(page, nr);
    end = MIN(page + nr, rb->used_length >> TARGET_PAGE_BITS);
    trace_ballast_page_wanted(rb->idstr, page, end - page);
    bitmap_clear(rb->skipped_bmap, page, end - page);
    for (; page < end; page++) {
        dirty += !test_and_set_bit(page, rb->bmap);
    }
    return dirty;
}

/* Following the migration --------------------------------------------- */

bool ballast_hints_with_postcopy(void *s)
{
    return object_dynamic_cast(s, TYPE_BALLAST_BALLOON);
}

void ballast_fill_migration_info(MigrationInfo *info)
{
    BallastHintsSnapshot hints;
    BallastAbsent absent;
    MigrationFreePages *out;

    if (!ballast_hints_installed()) {
        return;
    }
    ballast_hints_snapshot(&hints);
    ballast_absent_snapshot(&absent);
    out = info->free_pages = g_new0(MigrationFreePages, 1);
    out->hinted = hints.migration.count[BALLAST_HINT_APPLIED];
    out->hinted_bytes = hints.migration.bytes[BALLAST_HINT_APPLIED];
    out->late = hints.migration.count[BALLAST_HINT_LATE];
    out->absent = absent.skipped_pages;
    out->absent_bytes = absent.skipped_pages << TARGET_PAGE_BITS;
    out->zero = absent.zero_pages;
    out->scan_time_ns = absent.scan_ns;
    out->arm_time_ns = hints.arming.total_ns + absent.arm_ns;
}
