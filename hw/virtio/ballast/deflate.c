/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Deflate: the claim is raised before the guest gets its buffer back.
 *
 * The guest waits for the buffer before it uses the pages (the device
 * offers MUST_TELL_HOST, and Linux waits anyway).  When the ledger refuses,
 * "gate" holds the buffer and waits in the ledger's queue, behind who came
 * before: one buffer at most, the others stay in the ring behind it, so order
 * is kept and a stopped VM can be saved after putting one buffer back.
 *
 * A page or block which is not in the balloon (all of it) is counted and
 * ignored: taking back what was never given costs the host nothing.
 */
#include "qemu/osdep.h"
#include "hw/virtio/ballast/compat.h"
#include "internal.h"
#include "qapi/qapi-events-ballast.h"
#include "qemu/main-loop.h"
#include "qemu/timer.h"
#include "trace-hw_virtio_ballast.h"

#define RETRY_MS 100
#define TELL_INTERVAL_MS 1000

/* What was taken out, so that it can be put back when the ledger refuses. */
typedef struct Undo {
    BallastPiece piece;
    /* Host pages that had been given back. */
    uint64_t given_first;
    uint64_t given_nr;
    /* Resident although in the balloon, and counted as freeable. */
    uint64_t kept_bytes;
} Undo;

/* Host pages that were given back are the guest's again. */
static void take_given(BallastBalloon *b, Undo *u, uint64_t first,
                       uint64_t nr, BallastDelta *taken)
{
    BallastBlock *block = u->piece.block;
    uint64_t bytes = nr * block->rb->page_size;

    u->given_first = first;
    u->given_nr = nr;
    bitmap_clear(block->given, first, nr);
    b->given_bytes -= bytes;
    if (block->line != BALLAST_NO_LINE) {
        taken->bytes[block->line] += bytes;
    }
}

/* All of @piece is in the balloon.  Mostly all its host pages are given. */
static void take_out(BallastBalloon *b, const BallastPiece *piece,
                     GArray *undo, BallastDelta *taken)
{
    BallastBlock *block = piece->block;
    uint64_t first = piece->page / block->per_host_page, full, nr;
    uint64_t end = DIV_ROUND_UP(piece->page + piece->nr,
                                block->per_host_page), given = 0;
    Undo u = { .piece = *piece };

    nr = ballast_full_host_pages(piece, &full);
    while (first < end) {
        uint64_t next = find_next_zero_bit(block->given, end, first);

        if (next > first) {
            take_given(b, &u, first, next - first, taken);
            given += next - first;
            g_array_append_val(undo, u);
            u.piece.nr = 0;
        }
        first = find_next_bit(block->given, end, next);
    }
    /* A host page that is given is full, too. */
    u.given_nr = 0;
    u.kept_bytes = (nr - given) * block->rb->page_size;
    if (u.piece.nr || u.kept_bytes) {
        g_array_append_val(undo, u);
    }
    bitmap_clear(block->ballooned, piece->page, piece->nr);
    b->ballooned_pages -= piece->nr;
    b->nodes.node[piece->entry].in_pages -= piece->nr;
}

static void put_back(BallastBalloon *b, GArray *undo)
{
    unsigned i;

    for (i = 0; i < undo->len; i++) {
        Undo *u = &g_array_index(undo, Undo, i);
        BallastBlock *block = u->piece.block;

        bitmap_set(block->ballooned, u->piece.page, u->piece.nr);
        b->ballooned_pages += u->piece.nr;
        b->nodes.node[u->piece.entry].in_pages += u->piece.nr;
        bitmap_set(block->given, u->given_first, u->given_nr);
        b->given_bytes += u->given_nr * block->rb->page_size;
    }
}

/* Does a request want it on its host node? */
static bool is_asked_for(BallastBalloon *b, const BallastPiece *piece)
{
    const BallastNodeRequest *r = &b->nodes.request;

    return r->active && r->up && r->candidates & (1U << piece->entry);
}

static void place(BallastBalloon *b, const BallastPiece *piece)
{
    uint64_t bytes = piece->nr * BALLAST_PAGE_BYTES;

    if (ballast_place(b, piece)) {
        b->nodes.node[piece->entry].placed_bytes += bytes;
    } else {
        b->nodes.unplaced_bytes += bytes;
    }
}

/* The guest has them now. */
static void give_back(BallastBalloon *b, GArray *undo, bool on_node)
{
    unsigned i;

    for (i = 0; i < undo->len; i++) {
        BallastPiece *piece = &g_array_index(undo, Undo, i).piece;

        if (piece->nr) {
            b->nodes.node[piece->entry].back_bytes +=
                piece->nr * BALLAST_PAGE_BYTES;
            if (on_node && is_asked_for(b, piece)) {
                place(b, piece);
            }
        }
    }
}

static void deflate_piece(BallastBalloon *b, const BallastPiece *piece,
                          GArray *undo, BallastDelta *taken)
{
    uint64_t end = piece->page + piece->nr;

    if (find_next_zero_bit(piece->block->ballooned, end, piece->page) < end) {
        b->bad_pages++;
    } else {
        take_out(b, piece, undo, taken);
    }
}

static GArray *deflate_list(BallastBalloon *b, GArray *ranges,
                            BallastDelta *taken)
{
    GArray *undo = g_array_new(false, false, sizeof(Undo));
    BallastCursor cursor = {};
    BallastPiece piece;
    unsigned i;

    for (i = 0; i < ranges->len; i++) {
        BallastRange range = g_array_index(ranges, BallastRange, i);

        while (ballast_cursor_take(b, &cursor, &range, &piece)) {
            deflate_piece(b, &piece, undo, taken);
        }
    }
    ballast_cursor_end(&cursor);
    return undo;
}

/* Pages that were kept while discarding was inhibited are needed again. */
static void drop_freeable(BallastBalloon *b, GArray *undo)
{
    uint64_t bytes = 0;
    unsigned i;

    for (i = 0; i < undo->len; i++) {
        bytes += g_array_index(undo, Undo, i).kept_bytes;
    }
    b->freeable_bytes -= MIN(bytes, b->freeable_bytes);
    ballast_claim_freeable(b->freeable_bytes);
}

/* A guest can cause refusals at will: one a second tells enough. */
static bool may_tell(int64_t *told_ms)
{
    int64_t now_ms = qemu_clock_get_ms(QEMU_CLOCK_REALTIME);

    if (*told_ms && now_ms - *told_ms < TELL_INTERVAL_MS) {
        return false;
    }
    *told_ms = now_ms;
    return true;
}

static void tell_refused(BallastBalloon *b, uint64_t missing, const char *why)
{
    if (may_tell(&b->gate.told_refused_ms)) {
        qapi_event_send_memory_claim_refused(missing, why);
    }
}

static void gate_closed(BallastBalloon *b, uint64_t missing, const char *why)
{
    if (b->gate.since_ms) {
        return;
    }
    b->gate.since_ms = qemu_clock_get_ms(QEMU_CLOCK_REALTIME);
    trace_ballast_gate_closed(ballast_claim_slot(), missing);
    b->gate.told_waiting = may_tell(&b->gate.told_waiting_ms);
    if (b->gate.told_waiting) {
        qapi_event_send_memory_claim_waiting(missing, why);
    }
}

/* The ledger refused.  True if the guest gets its pages all the same. */
static bool refused(BallastBalloon *b, const BallastDelta *taken,
                    const char *why, uint64_t missing)
{
    if (b->deflate == BALLAST_DEFLATE_GATE) {
        gate_closed(b, missing, why);
        timer_mod(b->gate.retry,
                  qemu_clock_get_ms(QEMU_CLOCK_REALTIME) + RETRY_MS);
        return false;
    }
    ballast_claim_owe(taken, b->deflate == BALLAST_DEFLATE_ALLOW);
    tell_refused(b, missing, why);
    return true;
}

/* The part of what is taken that shall be on the request's host node. */
static bool moved_by(BallastBalloon *b, GArray *undo, BallastDelta *moved)
{
    bool any = false;
    unsigned i;

    for (i = 0; i < undo->len; i++) {
        Undo *u = &g_array_index(undo, Undo, i);
        BallastBlock *block = u->piece.block;

        if (block->line != BALLAST_NO_LINE && is_asked_for(b, &u->piece)) {
            moved->bytes[block->line] += u->given_nr * block->rb->page_size;
            any |= u->given_nr;
        }
    }
    return any;
}

/*
 * Ask for memory of the host node, if a request wants it there; an exact one
 * waits for it.  If it does not have to be there, memory of any node will do
 * (and one that waits for that goes on waiting for that).
 */
static bool raise_claim(BallastBalloon *b, GArray *undo,
                        const BallastDelta *taken, bool *on_node, char **why,
                        uint64_t *missing)
{
    const BallastNodeRequest *r = &b->nodes.request;
    bool wait = b->deflate == BALLAST_DEFLATE_GATE;
    BallastDelta moved = {};

    *on_node = !moved_by(b, undo, &moved);
    if (!*on_node && (r->exact || !b->gate.since_ms)) {
        *on_node = ballast_claim_raise_on(taken, &moved, r->host_node,
                                          wait && r->exact, why, missing);
        if (*on_node || r->exact) {
            return *on_node;
        }
        g_clear_pointer(why, g_free);
    }
    return ballast_claim_raise(taken, wait, why, missing);
}

/* Take pages out of the balloon; false: hold the buffer. */
static bool deflate_pages(BallastBalloon *b, GArray *ranges)
{
    uint64_t bad = b->bad_pages, missing = 0;
    BallastDelta taken = {};
    g_autoptr(GArray) undo = deflate_list(b, ranges, &taken);
    g_autofree char *why = NULL;
    bool on_node;

    if (!raise_claim(b, undo, &taken, &on_node, &why, &missing) &&
        !refused(b, &taken, why, missing)) {
        put_back(b, undo);
        b->bad_pages = bad;
        return false;
    }
    drop_freeable(b, undo);
    give_back(b, undo, on_node);
    return true;
}

static void gate_opened(BallastBalloon *b)
{
    int64_t waited_ms;

    if (b->gate.since_ms) {
        waited_ms = qemu_clock_get_ms(QEMU_CLOCK_REALTIME) - b->gate.since_ms;
        b->gate.since_ms = 0;
        trace_ballast_gate_opened(ballast_claim_slot(), waited_ms);
        if (b->gate.told_waiting) {
            qapi_event_send_memory_claim_granted(waited_ms);
        }
    }
}

/* Handle a buffer: how many pages that was, or 0 if no other may follow. */
static uint64_t deflate_elem(BallastBalloon *b, VirtQueue *vq,
                             VirtQueueElement *elem)
{
    g_autoptr(GArray) ranges = ballast_read_ranges(b, elem);

    if (!ranges) {
        ballast_reject(b, vq, elem);
        return 0;
    }
    if (!deflate_pages(b, ranges)) {
        b->gate.held = elem;
        return 0;
    }
    gate_opened(b);
    virtqueue_push(vq, elem, 0);
    g_free(elem);
    return ballast_ranges_weight(ranges);
}

static void deflate_run(BallastBalloon *b, VirtQueue *vq)
{
    uint64_t pages = 0, nr = 0;
    VirtQueueElement *elem;

    RCU_READ_LOCK_GUARD();
    do {
        elem = b->gate.held ?: virtqueue_pop(vq, sizeof(*elem));
        b->gate.held = NULL;
        nr = elem ? deflate_elem(b, vq, elem) : 0;
        pages += nr;
    } while (nr && pages < BALLAST_RUN_PAGES);
    if (nr) {
        qemu_bh_schedule(b->more);
    }
    if (pages) {
        trace_ballast_deflate(ballast_claim_slot(), b->ballooned_pages,
                              b->given_bytes, b->bad_pages);
        virtio_notify(VIRTIO_DEVICE(b), vq);
    }
}

/* While a buffer is held only the timer asks: kicks are the guest's. */
void ballast_handle_deflate(VirtIODevice *vdev, VirtQueue *vq)
{
    BallastBalloon *b = BALLAST_BALLOON(vdev);

    if (vdev->vm_running && !b->gate.held) {
        deflate_run(b, vq);
    }
}

static void gate_retry(void *opaque)
{
    BallastBalloon *b = opaque;

    if (VIRTIO_DEVICE(b)->vm_running) {
        deflate_run(b, b->parent_obj.dvq);
    }
}

void ballast_gate_init(BallastBalloon *b)
{
    b->gate.retry = timer_new_ms(QEMU_CLOCK_REALTIME, gate_retry, b);
}

void ballast_gate_drop(BallastBalloon *b)
{
    timer_del(b->gate.retry);
    ballast_claim_wait_no_more();
    gate_opened(b);
    if (b->gate.held) {
        virtqueue_detach_element(b->parent_obj.dvq, b->gate.held, 0);
        g_free(b->gate.held);
        b->gate.held = NULL;
    }
}

void ballast_gate_pause(BallastBalloon *b)
{
    timer_del(b->gate.retry);
    ballast_claim_wait_no_more();
    if (b->gate.held) {
        virtqueue_unpop(b->parent_obj.dvq, b->gate.held, 0);
        g_free(b->gate.held);
        b->gate.held = NULL;
    }
}

void ballast_gate_destroy(BallastBalloon *b)
{
    ballast_gate_drop(b);
    timer_free(b->gate.retry);
    b->gate.retry = NULL;
}

static uint64_t block_given_bytes(const BallastBlock *block)
{
    return block->rb->page_size *
           bitmap_count_one(block->given, ballast_block_host_pages(block));
}

void ballast_block_gone(BallastBalloon *b, BallastBlock *block)
{
    uint64_t bytes = block_given_bytes(block);

    ballast_block_uncount(b, block);
    b->given_bytes -= bytes;
    ballast_claim_forget(block->line, bytes);
}

static void block_void(gpointer key, gpointer value, gpointer opaque)
{
    BallastBlock *block = value;
    BallastDelta *taken = opaque;
    uint64_t host_pages = ballast_block_host_pages(block);

    if (block->line != BALLAST_NO_LINE) {
        taken->bytes[block->line] += block_given_bytes(block);
    }
    bitmap_zero(block->ballooned, block->pages);
    bitmap_zero(block->given, host_pages);
}

/*
 * A guest that has been reset uses all its memory again and asks nobody.
 * What the ledger does not grant now is owed, whatever the deflate property
 * says: nothing can hold the guest back.
 */
void ballast_balloon_void(BallastBalloon *b)
{
    g_autofree char *why = NULL;
    BallastDelta taken = {};
    uint64_t missing = 0;

    trace_ballast_reset(ballast_claim_slot(), b->given_bytes);
    g_hash_table_foreach(b->blocks, block_void, &taken);
    b->ballooned_pages = 0;
    ballast_nodes_void(b);
    b->given_bytes = 0;
    b->freeable_bytes = 0;
    ballast_claim_freeable(0);
    if (!ballast_claim_raise(&taken, false, &why, &missing)) {
        ballast_claim_owe(&taken, true);
        tell_refused(b, missing, why);
    }
}
