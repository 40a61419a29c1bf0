/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Pages whose content was dropped while a migration runs.
 *
 * They are marked in QEMU's own log of what its devices write, which every
 * harvest reads, whatever the accelerator.  Only the migration's bit is set:
 * the others (display, translated code) mean writes, and there was none.
 *
 * A page whose bit is still in the migration's bitmap is left alone: it is
 * sent later, from what is there then.  Looking without the bitmap's lock is
 * enough, since the page was discarded before: who has taken the bit already
 * shows as a clear bit, who takes it later finds zeros.
 *
 * The bitmap belongs to the big lock here: it is made and freed under it.
 */
#include "qemu/osdep.h"
#include "hw/virtio/ballast/compat.h"
#include "migration/ballast/dropped.h"
#include "internal.h"
#include "trace-migration_ballast.h"

void ballast_dropped(RAMBlock *rb, uint64_t start, uint64_t bytes)
{
    unsigned long page = start >> TARGET_PAGE_BITS;
    unsigned long end = (start + bytes) >> TARGET_PAGE_BITS;
    unsigned long next, again = 0;

    if (!ballast_block_migrates(rb)) {
        return;
    }
    /* The discard comes before the look at the bitmap. */
    smp_mb();
    for (; page < end; page = next) {
        page = find_next_zero_bit(rb->bmap, end, page);
        if (page >= end) {
            break;
        }
        next = find_next_bit(rb->bmap, end, page);
        ballast_set_dirty_range(
            rb->offset + ((ram_addr_t)page << TARGET_PAGE_BITS),
            (ram_addr_t)(next - page) << TARGET_PAGE_BITS,
            1 << DIRTY_MEMORY_MIGRATION);
        again += next - page;
    }
    trace_ballast_dropped(rb->idstr, start, bytes, again);
}
