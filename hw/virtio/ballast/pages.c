/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Guest page numbers, and which pages are in the balloon.
 *
 * Numbers come from the guest: they may name anything, or nothing, twice,
 * or in any order.  A page counts only if it is guest RAM, and only when
 * its state changes; so no list of numbers can give the same memory back
 * twice, or take back what was never given.
 */
#include "qemu/osdep.h"
#include "exec/address-spaces.h"
#include "exec/cpu-common.h"
#include "exec/ramblock.h"
#include "hw/virtio/virtio-access.h"
#include "internal.h"
#include "migration/ballast/dropped.h"
#include "migration/misc.h"
#include "qemu/bitmap.h"
#include "qemu/iov.h"

static int pfn_order(gconstpointer a, gconstpointer b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

    return x < y ? -1 : x > y;
}

GArray *ballast_read_pfns(BallastBalloon *b, VirtQueueElement *elem)
{
    size_t bytes = iov_size(elem->out_sg, elem->out_num);
    size_t nr = bytes / sizeof(uint32_t);
    GArray *pfns;
    size_t i;

    if (nr > BALLAST_MAX_PFNS) {
        return NULL;
    }
    pfns = g_array_sized_new(false, false, sizeof(uint32_t), nr);
    b->bad_pages += DIV_ROUND_UP(bytes, sizeof(uint32_t)) - nr;
    g_array_set_size(pfns, nr);
    iov_to_buf(elem->out_sg, elem->out_num, 0, pfns->data,
               nr * sizeof(uint32_t));
    for (i = 0; i < nr; i++) {
        virtio_tswap32s(VIRTIO_DEVICE(b), &g_array_index(pfns, uint32_t, i));
    }
    g_array_sort(pfns, pfn_order);
    return pfns;
}

void ballast_reject(BallastBalloon *b, VirtQueue *vq, VirtQueueElement *elem)
{
    b->bad_pages++;
    virtio_error(VIRTIO_DEVICE(b), "balloon: a list of more than %d pages",
                 BALLAST_MAX_PFNS);
    virtqueue_detach_element(vq, elem, 0);
    g_free(elem);
}

bool ballast_discard_inhibited(void)
{
    return ram_block_discard_is_disabled() ||
           migration_in_incoming_postcopy() || migration_in_bg_snapshot();
}

bool ballast_discard(RAMBlock *rb, uint64_t start, uint64_t bytes)
{
    if (ram_block_discard_range(rb, start, bytes) < 0) {
        return false;
    }
    ballast_dropped(rb, start, bytes);
    return true;
}

void ballast_block_free(gpointer opaque)
{
    BallastBlock *block = opaque;

    g_free(block->ballooned);
    g_free(block->given);
    g_free(block);
}

BallastBlock *ballast_block(BallastBalloon *b, RAMBlock *rb)
{
    BallastBlock *block = g_hash_table_lookup(b->blocks, rb);

    if (!block) {
        block = g_new0(BallastBlock, 1);
        block->rb = rb;
        block->line = ballast_claim_line(rb);
        block->pages = rb->max_length >> VIRTIO_BALLOON_PFN_SHIFT;
        block->per_host_page = MAX(rb->page_size / BALLAST_PAGE_BYTES, 1);
        block->ballooned = bitmap_new(block->pages);
        block->given = bitmap_new(ballast_block_host_pages(block));
        g_hash_table_insert(b->blocks, rb, block);
    }
    return block;
}

bool ballast_host_page_full(const BallastBlock *block, uint64_t page)
{
    uint64_t first = ROUND_DOWN(page, block->per_host_page);
    uint64_t end = MIN(first + block->per_host_page, block->pages);

    return find_next_zero_bit(block->ballooned, end, first) >= end;
}

void ballast_cursor_end(BallastCursor *c)
{
    if (c->section.mr) {
        memory_region_unref(c->section.mr);
        c->section.mr = NULL;
    }
}

static bool cursor_covers(const BallastCursor *c, hwaddr gpa)
{
    hwaddr start = c->section.offset_within_address_space;

    return c->section.mr && gpa >= start &&
           gpa - start + BALLAST_PAGE_BYTES <= int128_get64(c->section.size);
}

/* Move to the region with the page; false if that is no place for one. */
static bool cursor_move(BallastCursor *c, hwaddr gpa)
{
    hwaddr back;

    if (cursor_covers(c, gpa)) {
        return true;
    }
    ballast_cursor_end(c);
    c->section = memory_region_find(get_system_memory(), gpa,
                                    INT64_MAX - gpa);
    if (!c->section.mr) {
        return false;
    }
    back = c->section.offset_within_address_space;
    return back == gpa && cursor_covers(c, gpa);
}

BallastBlock *ballast_cursor_find(BallastBalloon *b, BallastCursor *c,
                                  uint32_t pfn, uint64_t *page)
{
    hwaddr gpa = (hwaddr)pfn << VIRTIO_BALLOON_PFN_SHIFT;
    MemoryRegion *mr;
    hwaddr offset;

    if (!cursor_move(c, gpa)) {
        return NULL;
    }
    mr = c->section.mr;
    if (!memory_region_is_ram(mr) || memory_region_is_rom(mr) ||
        memory_region_is_romd(mr) || memory_region_is_ram_device(mr) ||
        !mr->ram_block) {
        return NULL;
    }
    offset = c->section.offset_within_region +
             (gpa - c->section.offset_within_address_space);
    if (!QEMU_IS_ALIGNED(offset, BALLAST_PAGE_BYTES) ||
        offset + BALLAST_PAGE_BYTES > mr->ram_block->used_length) {
        return NULL;
    }
    *page = offset >> VIRTIO_BALLOON_PFN_SHIFT;
    return ballast_block(b, mr->ram_block);
}
