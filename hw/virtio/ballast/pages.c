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
#include "exec/cpu-common.h"
#include "hw/virtio/ballast/compat.h"
#include "hw/virtio/ballast/placement.h"
#include "hw/virtio/virtio-access.h"
#include "internal.h"
#include "migration/ballast/dropped.h"
#include "migration/misc.h"
#include "qemu/bitmap.h"
#include "qemu/iov.h"

/* No processor has addresses of more than 52 bits. */
#define MAX_PFN (1ULL << (52 - VIRTIO_BALLOON_PFN_SHIFT))

static int range_order(gconstpointer a, gconstpointer b)
{
    uint64_t x = ((const BallastRange *)a)->pfn;
    uint64_t y = ((const BallastRange *)b)->pfn;

    return x < y ? -1 : x > y;
}

static void add_pfns(BallastBalloon *b, const uint32_t *pfns, size_t nr,
                     GArray *ranges)
{
    size_t i;

    for (i = 0; i < nr; i++) {
        BallastRange range = { .nr = 1 };

        range.pfn = virtio_tswap32(VIRTIO_DEVICE(b), pfns[i]);
        g_array_append_val(ranges, range);
    }
}

static void add_blocks(BallastBalloon *b, const uint64_t *blocks, size_t nr,
                       GArray *ranges)
{
    size_t i;

    for (i = 0; i < nr; i++) {
        uint64_t block = le64_to_cpu(blocks[i]);
        uint64_t order = block & (BALLAST_PAGE_BYTES - 1);
        BallastRange range = { .pfn = block >> VIRTIO_BALLOON_PFN_SHIFT };

        if (order > BALLAST_NODES_MAX_ORDER) {
            b->bad_pages++;
            continue;
        }
        range.nr = 1ULL << order;
        if (range.pfn & (range.nr - 1)) {
            b->bad_pages++;
        } else {
            g_array_append_val(ranges, range);
        }
    }
}

GArray *ballast_read_ranges(BallastBalloon *b, VirtQueueElement *elem)
{
    bool blocks = ballast_nodes_on(b);
    size_t entry_bytes = blocks ? sizeof(uint64_t) : sizeof(uint32_t);
    size_t most = blocks ? BALLAST_NODES_MAX_BLOCKS : BALLAST_MAX_PFNS;
    size_t bytes = iov_size(elem->out_sg, elem->out_num);
    size_t nr = bytes / entry_bytes;
    g_autofree void *entries = NULL;
    GArray *ranges;

    if (nr > most) {
        return NULL;
    }
    b->bad_pages += DIV_ROUND_UP(bytes, entry_bytes) - nr;
    entries = g_malloc(nr * entry_bytes);
    iov_to_buf(elem->out_sg, elem->out_num, 0, entries, nr * entry_bytes);
    ranges = g_array_sized_new(false, false, sizeof(BallastRange), nr);
    if (blocks) {
        add_blocks(b, entries, nr, ranges);
    } else {
        add_pfns(b, entries, nr, ranges);
    }
    g_array_sort(ranges, range_order);
    return ranges;
}

/* Discarding a block of 512 pages costs about as much as 128 pages do. */
uint64_t ballast_ranges_weight(const GArray *ranges)
{
    uint64_t weight = 1;
    unsigned i;

    for (i = 0; i < ranges->len; i++) {
        weight += DIV_ROUND_UP(g_array_index(ranges, BallastRange, i).nr, 4);
    }
    return weight;
}

void ballast_reject(BallastBalloon *b, VirtQueue *vq, VirtQueueElement *elem)
{
    b->bad_pages++;
    virtio_error(VIRTIO_DEVICE(b), "balloon: a list of more than %d %s",
                 ballast_nodes_on(b) ? BALLAST_NODES_MAX_BLOCKS :
                 BALLAST_MAX_PFNS, ballast_nodes_on(b) ? "blocks" : "pages");
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

    g_array_unref(block->vnodes);
    g_free(block->ballooned);
    g_free(block->given);
    g_free(block);
}

static uint32_t entry_of_vnode(const BallastBalloon *b, uint32_t vnode)
{
    return vnode < b->nodes.nr ? vnode : BALLAST_NODES_MAX;
}

/* Guest nodes are as the machine was made: a block's parts never change. */
static GArray *vnode_parts(BallastBalloon *b, const BallastBlock *block)
{
    GArray *parts = g_array_new(false, false, sizeof(BallastVnodePart));
    uint64_t start = 0, end_byte;

    while (start < block->pages) {
        uint32_t vnode = ballast_vnode_at(
            block->rb, start << VIRTIO_BALLOON_PFN_SHIFT, &end_byte);
        BallastVnodePart part = {
            .end = MIN(end_byte >> VIRTIO_BALLOON_PFN_SHIFT, block->pages),
            .entry = entry_of_vnode(b, vnode),
        };

        part.end = MAX(part.end, start + 1);
        g_array_append_val(parts, part);
        start = part.end;
    }
    return parts;
}

const BallastVnodePart *ballast_block_part(const BallastBlock *block,
                                           uint64_t page)
{
    const BallastVnodePart *part = (void *)block->vnodes->data;

    while (part->end <= page) {
        part++;
    }
    return part;
}

bool ballast_block_next(const BallastBlock *block, uint64_t *first,
                        uint64_t *end)
{
    *first = find_next_bit(block->ballooned, block->pages, *end);
    *end = find_next_zero_bit(block->ballooned, block->pages, *first);
    return *first < block->pages;
}

void ballast_block_uncount(BallastBalloon *b, const BallastBlock *block)
{
    uint64_t end = 0, first, nr;

    while ((first = find_next_bit(block->ballooned, block->pages, end)) <
           block->pages) {
        const BallastVnodePart *part = ballast_block_part(block, first);

        end = find_next_zero_bit(block->ballooned, part->end, first);
        nr = end - first;
        b->ballooned_pages -= nr;
        b->nodes.node[part->entry].in_pages -= nr;
    }
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
        block->vnodes = vnode_parts(b, block);
        g_hash_table_insert(b->blocks, rb, block);
    }
    return block;
}

/* Is the whole host page of a page ballooned? */
static bool host_page_full(const BallastBlock *block, uint64_t page)
{
    uint64_t first = ROUND_DOWN(page, block->per_host_page);
    uint64_t end = MIN(first + block->per_host_page, block->pages);

    return find_next_zero_bit(block->ballooned, end, first) >= end;
}

uint64_t ballast_full_host_pages(const BallastPiece *piece, uint64_t *first)
{
    const BallastBlock *block = piece->block;
    uint64_t end = DIV_ROUND_UP(piece->page + piece->nr,
                                block->per_host_page);

    *first = piece->page / block->per_host_page;
    if (!host_page_full(block, piece->page)) {
        ++*first;
    }
    if (end > *first &&
        !host_page_full(block, piece->page + piece->nr - 1)) {
        end--;
    }
    return end - *first;
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

/* Is this a place for a page, and how many follow it? */
static BallastBlock *cursor_find(BallastBalloon *b, BallastCursor *c,
                                 uint64_t pfn, uint64_t *page, uint64_t *nr)
{
    hwaddr gpa = (hwaddr)pfn << VIRTIO_BALLOON_PFN_SHIFT;
    hwaddr skipped, offset, bytes;
    MemoryRegion *mr;

    if (pfn > MAX_PFN || !cursor_move(c, gpa)) {
        return NULL;
    }
    mr = c->section.mr;
    if (!memory_region_is_ram(mr) || memory_region_is_rom(mr) ||
        memory_region_is_romd(mr) || memory_region_is_ram_device(mr) ||
        !mr->ram_block) {
        return NULL;
    }
    skipped = gpa - c->section.offset_within_address_space;
    offset = c->section.offset_within_region + skipped;
    if (!QEMU_IS_ALIGNED(offset, BALLAST_PAGE_BYTES) ||
        offset + BALLAST_PAGE_BYTES > mr->ram_block->used_length) {
        return NULL;
    }
    bytes = MIN(int128_get64(c->section.size) - skipped,
                mr->ram_block->used_length - offset);
    *page = offset >> VIRTIO_BALLOON_PFN_SHIFT;
    *nr = bytes >> VIRTIO_BALLOON_PFN_SHIFT;
    return ballast_block(b, mr->ram_block);
}

bool ballast_cursor_take(BallastBalloon *b, BallastCursor *c,
                         BallastRange *range, BallastPiece *piece)
{
    const BallastVnodePart *part;

    if (!range->nr) {
        return false;
    }
    piece->block = cursor_find(b, c, range->pfn, &piece->page, &piece->nr);
    if (!piece->block) {
        b->bad_pages++;
        range->nr = 0;
        return false;
    }
    part = ballast_block_part(piece->block, piece->page);
    piece->entry = part->entry;
    piece->nr = MIN(MIN(piece->nr, range->nr), part->end - piece->page);
    range->pfn += piece->nr;
    range->nr -= piece->nr;
    return true;
}
