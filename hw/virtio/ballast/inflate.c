/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Inflate: pages go back to the host, then the claim follows.
 *
 * Order: mark, discard, lower the claim.  Only what was really discarded is
 * taken off the claim: nothing while discarding is inhibited (VFIO,
 * postcopy, background snapshot), and nothing of a large host page until
 * the whole of it is in the balloon.  What stays resident is freeable.
 *
 * A list is sorted first, so that adjacent pages and blocks are discarded
 * with one system call.  A block is put in whole, or ignored: the bitmaps are
 * looked at and written by words, not by pages.
 */
#include "qemu/osdep.h"
#include "hw/virtio/ballast/compat.h"
#include "internal.h"
#include "qemu/main-loop.h"
#include "trace-hw_virtio_ballast.h"

static void run_discard(BallastBalloon *b, BallastRun *run,
                        BallastDelta *given)
{
    BallastBlock *block = run->block;
    uint64_t bytes = run->nr * block->rb->page_size;

    run->gone = !ballast_discard_inhibited() &&
                ballast_discard(block->rb, run->first * block->rb->page_size,
                                bytes);
    if (!run->gone) {
        b->freeable_bytes += bytes;
        return;
    }
    bitmap_set(block->given, run->first, run->nr);
    b->given_bytes += bytes;
    if (block->line != BALLAST_NO_LINE) {
        given->bytes[block->line] += bytes;
    }
}

static void runs_discard(BallastBalloon *b, GArray *runs, BallastDelta *given)
{
    g_autoptr(GArray) looked = NULL;
    unsigned i;

    if (runs->len && !ballast_discard_inhibited() &&
        (ballast_nodes_on(b) || b->nodes.request.active)) {
        looked = ballast_look(runs);
    }
    for (i = 0; i < runs->len; i++) {
        run_discard(b, &g_array_index(runs, BallastRun, i), given);
    }
    if (looked) {
        ballast_count_gone(b, runs, looked);
    } else {
        ballast_count_unseen(b, runs);
    }
}

static void runs_add(GArray *runs, BallastBlock *block, uint32_t entry,
                     uint64_t first, uint64_t nr)
{
    BallastRun run = { block, entry, first, nr };
    BallastRun *last = runs->len ? &g_array_index(runs, BallastRun,
                                                  runs->len - 1) : NULL;

    if (last && last->block == block && last->entry == entry &&
        first == last->first + last->nr) {
        last->nr += nr;
    } else {
        g_array_append_val(runs, run);
    }
}

/* Put a piece in, whole or not at all, and note what is to be discarded. */
static void put_in(BallastBalloon *b, const BallastPiece *piece, GArray *runs)
{
    BallastBlock *block = piece->block;
    uint64_t end = piece->page + piece->nr, first, nr;

    if (find_next_bit(block->ballooned, end, piece->page) < end) {
        b->bad_pages++;
        return;
    }
    bitmap_set(block->ballooned, piece->page, piece->nr);
    b->ballooned_pages += piece->nr;
    b->nodes.node[piece->entry].in_pages += piece->nr;
    nr = ballast_full_host_pages(piece, &first);
    if (nr) {
        runs_add(runs, block, piece->entry, first, nr);
    }
}

static void inflate_list(BallastBalloon *b, GArray *ranges,
                         BallastDelta *given)
{
    g_autoptr(GArray) runs = g_array_new(false, true, sizeof(BallastRun));
    BallastCursor cursor = {};
    BallastPiece piece;
    unsigned i;

    for (i = 0; i < ranges->len; i++) {
        BallastRange *range = &g_array_index(ranges, BallastRange, i);

        while (ballast_cursor_take(b, &cursor, range, &piece)) {
            put_in(b, &piece, runs);
        }
    }
    ballast_cursor_end(&cursor);
    runs_discard(b, runs, given);
}

/* Host pages that are ballooned: what of them was not given back yet. */
static void add_kept(GArray *runs, BallastBlock *block, uint64_t first,
                     uint64_t nr)
{
    uint64_t end = first + nr, next;

    while ((first = find_next_zero_bit(block->given, end, first)) < end) {
        const BallastVnodePart *part =
            ballast_block_part(block, first * block->per_host_page);

        /* A host page belongs to the guest node of its first page. */
        next = MIN(end, DIV_ROUND_UP(part->end, block->per_host_page));
        next = find_next_bit(block->given, next, first);
        runs_add(runs, block, part->entry, first, next - first);
        first = next;
    }
}

static void discard_block(BallastBlock *block, GArray *runs)
{
    /* Without a guest node: a run may be of several. */
    BallastPiece piece = { .block = block };
    uint64_t end = 0, first, nr;

    while (ballast_block_next(block, &piece.page, &end)) {
        piece.nr = end - piece.page;
        nr = ballast_full_host_pages(&piece, &first);
        add_kept(runs, block, first, nr);
    }
}

void ballast_discard_all(BallastBalloon *b)
{
    g_autoptr(GArray) runs = g_array_new(false, true, sizeof(BallastRun));
    BallastDelta given = {};
    GHashTableIter iter;
    gpointer block;

    b->freeable_bytes = 0;
    g_hash_table_iter_init(&iter, b->blocks);
    while (g_hash_table_iter_next(&iter, NULL, &block)) {
        discard_block(block, runs);
    }
    runs_discard(b, runs, &given);
    ballast_claim_freeable(b->freeable_bytes);
    ballast_claim_lower(&given);
}

void ballast_discard_kept(BallastBalloon *b)
{
    if (b->freeable_bytes && !ballast_discard_inhibited()) {
        ballast_discard_all(b);
    }
}

/* Empty the ring, up to the bound of a run; true if nothing was left. */
static bool inflate_run(BallastBalloon *b, VirtQueue *vq, BallastDelta *given,
                        bool *any)
{
    uint64_t pages = 0;

    while (pages < BALLAST_RUN_PAGES) {
        g_autoptr(GArray) ranges = NULL;
        VirtQueueElement *elem = virtqueue_pop(vq, sizeof(*elem));

        if (!elem) {
            return true;
        }
        ranges = ballast_read_ranges(b, elem);
        if (!ranges) {
            ballast_reject(b, vq, elem);
            return true;
        }
        pages += ballast_ranges_weight(ranges);
        inflate_list(b, ranges, given);
        virtqueue_push(vq, elem, 0);
        g_free(elem);
        *any = true;
    }
    return false;
}

void ballast_handle_inflate(VirtIODevice *vdev, VirtQueue *vq)
{
    BallastBalloon *b = BALLAST_BALLOON(vdev);
    BallastDelta given = {};
    bool any = false;

    if (!vdev->vm_running) {
        return;
    }
    RCU_READ_LOCK_GUARD();
    if (!inflate_run(b, vq, &given, &any)) {
        qemu_bh_schedule(b->more);
    }
    if (any) {
        ballast_claim_freeable(b->freeable_bytes);
        ballast_claim_lower(&given);
        trace_ballast_inflate(ballast_claim_slot(), b->ballooned_pages,
                              b->given_bytes, b->bad_pages);
        virtio_notify(vdev, vq);
    }
}
