/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Inflate: pages go back to the host, then the claim follows.
 *
 * Order: mark, discard, lower the claim.  Only what was really discarded is
 * taken off the claim: nothing while discarding is inhibited (VFIO,
 * postcopy, background snapshot), and nothing of a large host page until
 * the whole of it is in the balloon.  What stays resident is freeable.
 *
 * A list is sorted first, so that adjacent pages are discarded with one
 * system call.
 */
#include "qemu/osdep.h"
#include "exec/ramblock.h"
#include "internal.h"
#include "qemu/main-loop.h"
#include "trace-hw_virtio_ballast.h"

/* Adjacent host pages to discard. */
typedef struct Run {
    BallastBlock *block;
    uint64_t first;
    uint64_t nr;
} Run;

static void run_flush(BallastBalloon *b, Run *run, BallastDelta *given)
{
    BallastBlock *block = run->block;
    uint64_t bytes;

    if (!run->nr) {
        return;
    }
    bytes = run->nr * block->rb->page_size;
    if (ballast_discard_inhibited() ||
        !ballast_discard(block->rb, run->first * block->rb->page_size,
                         bytes)) {
        b->freeable_bytes += bytes;
    } else {
        bitmap_set(block->given, run->first, run->nr);
        b->given_bytes += bytes;
        if (block->line != BALLAST_NO_LINE) {
            given->bytes[block->line] += bytes;
        }
    }
    run->nr = 0;
}

static void run_add(BallastBalloon *b, Run *run, BallastBlock *block,
                    uint64_t host_page, BallastDelta *given)
{
    if (run->nr && run->block == block &&
        host_page == run->first + run->nr) {
        run->nr++;
        return;
    }
    run_flush(b, run, given);
    *run = (Run) { .block = block, .first = host_page, .nr = 1 };
}

/* Put a page in; true if that completes a host page. */
static bool mark(BallastBalloon *b, BallastBlock *block, uint64_t page)
{
    if (test_and_set_bit(page, block->ballooned)) {
        b->bad_pages++;
        return false;
    }
    b->ballooned_pages++;
    return ballast_host_page_full(block, page);
}

static void inflate_list(BallastBalloon *b, GArray *pfns, BallastDelta *given)
{
    BallastCursor cursor = {};
    Run run = {};
    uint64_t page;
    unsigned i;

    for (i = 0; i < pfns->len; i++) {
        BallastBlock *block = ballast_cursor_find(
            b, &cursor, g_array_index(pfns, uint32_t, i), &page);

        if (!block) {
            b->bad_pages++;
        } else if (mark(b, block, page)) {
            run_add(b, &run, block, page / block->per_host_page, given);
        }
    }
    run_flush(b, &run, given);
    ballast_cursor_end(&cursor);
}

static void discard_block(BallastBalloon *b, BallastBlock *block,
                          BallastDelta *given)
{
    uint64_t nr = ballast_block_host_pages(block);
    Run run = {};
    uint64_t i;

    for (i = 0; i < nr; i++) {
        if (!test_bit(i, block->given) &&
            ballast_host_page_full(block, i * block->per_host_page)) {
            run_add(b, &run, block, i, given);
        }
    }
    run_flush(b, &run, given);
}

void ballast_discard_all(BallastBalloon *b)
{
    BallastDelta given = {};
    GHashTableIter iter;
    gpointer block;

    b->freeable_bytes = 0;
    g_hash_table_iter_init(&iter, b->blocks);
    while (g_hash_table_iter_next(&iter, NULL, &block)) {
        discard_block(b, block, &given);
    }
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
        g_autoptr(GArray) pfns = NULL;
        VirtQueueElement *elem = virtqueue_pop(vq, sizeof(*elem));

        if (!elem) {
            return true;
        }
        pfns = ballast_read_pfns(b, elem);
        if (!pfns) {
            ballast_reject(b, vq, elem);
            return true;
        }
        inflate_list(b, pfns, given);
        pages += pfns->len + 1;
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
