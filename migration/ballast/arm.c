/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Arming: from here on every guest write leaves a trace.
 *
 * What a harvest ("sync") leaves unarmed depends on the accelerator:
 *
 *   KVM, manual protect   everything it reported dirty; QEMU notes the
 *                         chunks in RAMBlock.clear_bmap and arms one when
 *                         it sends the first page of it
 *   KVM, legacy log       nothing
 *   KVM, dirty ring       nothing
 *   TCG                   every block but the first, and the first if none
 *                         of its pages was new to the bitmap: their TLB
 *                         entries stay writable (docs/design/hints.md)
 *
 * So: clear the log of every chunk that is still noted, and reset the TLB
 * of every block.  Both do nothing where there is nothing to do.
 */
#include "qemu/osdep.h"
#include "exec/cputlb.h"
#include "hw/core/cpu.h"
#include "hw/virtio/ballast/compat.h"
#include "migration/misc.h"
#include "qemu/rcu_queue.h"
#include "qemu/units.h"
#include "system/tcg.h"
#include "binding.h"
#include "internal.h"

/* What is armed at once. */
#define PIECE_BYTES (32 * MiB)

bool ballast_block_migrates(RAMBlock *rb)
{
    return rb->bmap && !migrate_ram_is_ignored(rb);
}

/*
 * KVM holds its lock, for which vCPUs wait that write, over each call.
 *
 * The chunk stays noted: QEMU clears its log once more before it sends from
 * it, which then finds nothing.  Taking the note away here would race with
 * the migration thread when auto-converge harvests in the main thread: it
 * could send a page between our taking the note and our clearing the log.
 */
static void arm_chunk(RAMBlock *rb, uint64_t start, uint64_t bytes)
{
    uint64_t end = start + bytes;

    for (; start < end; start += PIECE_BYTES) {
        memory_region_clear_dirty_bitmap(rb->mr, start,
                                         MIN(end - start, PIECE_BYTES));
    }
}

static uint64_t arm_chunks(RAMBlock *rb, bool arm)
{
    uint64_t pages = rb->used_length >> TARGET_PAGE_BITS;
    uint64_t chunk_pages = 1ULL << rb->clear_bmap_shift;
    uint64_t page, armed = 0;

    for (page = 0; page < pages; page += chunk_pages) {
        if (test_bit(page >> rb->clear_bmap_shift, rb->clear_bmap)) {
            if (arm) {
                arm_chunk(rb, page << TARGET_PAGE_BITS,
                          chunk_pages << TARGET_PAGE_BITS);
            }
            armed++;
        }
    }
    return armed;
}

static uint64_t arm_blocks(bool arm)
{
    uint64_t armed = 0;
    RAMBlock *rb;

    RCU_READ_LOCK_GUARD();
    QLIST_FOREACH_RCU(rb, &ram_list.blocks, next) {
        if (ballast_block_migrates(rb) && rb->clear_bmap) {
            armed += arm_chunks(rb, arm);
        }
    }
    return armed;
}

/* Built in, under the lock that also sending takes: no note is left then. */
uint64_t ballast_arm(void)
{
    uint64_t noted;

    if (!ballast_in_qemu) {
        return arm_blocks(true);
    }
    noted = arm_blocks(false);
    ballast_bitmap_arm();
    return noted;
}

/*
 * One walk of a vCPU's TLB for all blocks, not one for each: entries for
 * memory that does not migrate trap once for nothing.
 */
void ballast_arm_tlb(void)
{
    CPUState *cpu;

    /* The series has it in the harvest. */
    if (!tcg_enabled() || ballast_in_qemu) {
        return;
    }
    RCU_READ_LOCK_GUARD();
    CPU_FOREACH(cpu) {
        tlb_reset_dirty(cpu, 0, UINTPTR_MAX);
    }
}
