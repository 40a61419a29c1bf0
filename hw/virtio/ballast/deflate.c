/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Deflate: the claim is raised before the guest gets its buffer back.
 *
 * The guest waits for the buffer before it uses the pages (the device
 * offers MUST_TELL_HOST, and Linux waits anyway).  When the ledger refuses,
 * "gate" holds the buffer until capacity returns: one buffer at most, the
 * others stay in the ring behind it, so order is kept and a stopped VM can
 * be saved after putting one buffer back.
 *
 * A page which is not in the balloon is counted and ignored: taking back
 * what was never given costs the host nothing.
 */
#include "qemu/osdep.h"
#include "exec/ramblock.h"
#include "ballast-qapi-events.h"
#include "internal.h"
#include "qemu/timer.h"
#include "trace-hw_virtio_ballast.h"

#define RETRY_MS 100
#define TELL_INTERVAL_MS 1000

/* One page taken out, so that it can be put back when the ledger refuses. */
typedef struct Undo {
    BallastBlock *block;
    uint64_t page;
    bool was_given;
    /* Resident although in the balloon, and counted as freeable. */
    bool was_kept;
} Undo;

static void take_out(BallastBalloon *b, BallastBlock *block, uint64_t page,
                     GArray *undo, BallastDelta *taken)
{
    uint64_t host_page = page / block->per_host_page;
    uint64_t host_bytes = block->rb->page_size;
    Undo u = { .block = block, .page = page };

    u.was_given = test_and_clear_bit(host_page, block->given);
    u.was_kept = !u.was_given && ballast_host_page_full(block, page);
    clear_bit(page, block->ballooned);
    b->ballooned_pages--;
    if (u.was_given) {
        b->given_bytes -= host_bytes;
        if (block->line != BALLAST_NO_LINE) {
            taken->bytes[block->line] += host_bytes;
        }
    }
    g_array_append_val(undo, u);
}

static void put_back(BallastBalloon *b, GArray *undo)
{
    unsigned i;

    for (i = 0; i < undo->len; i++) {
        Undo *u = &g_array_index(undo, Undo, i);

        set_bit(u->page, u->block->ballooned);
        b->ballooned_pages++;
        if (u->was_given) {
            set_bit(u->page / u->block->per_host_page, u->block->given);
            b->given_bytes += u->block->rb->page_size;
        }
    }
}

static GArray *deflate_list(BallastBalloon *b, GArray *pfns,
                            BallastDelta *taken)
{
    GArray *undo = g_array_new(false, false, sizeof(Undo));
    BallastCursor cursor = {};
    uint64_t page;
    unsigned i;

    for (i = 0; i < pfns->len; i++) {
        BallastBlock *block = ballast_cursor_find(
            b, &cursor, g_array_index(pfns, uint32_t, i), &page);

        if (block && test_bit(page, block->ballooned)) {
            take_out(b, block, page, undo, taken);
        } else {
            b->bad_pages++;
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
        Undo *u = &g_array_index(undo, Undo, i);

        if (u->was_kept) {
            bytes += u->block->rb->page_size;
        }
    }
    b->freeable_bytes -= MIN(bytes, b->freeable_bytes);
    ballast_claim_freeable(b->freeable_bytes);
}

/* A guest can cause these at will: one a second tells enough. */
static void tell_refused(BallastBalloon *b, uint64_t missing, const char *why)
{
    int64_t now_ms = qemu_clock_get_ms(QEMU_CLOCK_REALTIME);

    if (!b->gate.told_ms || now_ms - b->gate.told_ms >= TELL_INTERVAL_MS) {
        b->gate.told_ms = now_ms;
        qapi_event_send_memory_claim_refused(missing, why);
    }
}

/* The ledger refused.  True if the guest gets its pages all the same. */
static bool refused(BallastBalloon *b, const BallastDelta *taken,
                    const char *why, uint64_t missing)
{
    if (b->deflate == BALLAST_DEFLATE_GATE) {
        if (!b->gate.since_ms) {
            b->gate.since_ms = qemu_clock_get_ms(QEMU_CLOCK_REALTIME);
            trace_ballast_gate_closed(ballast_claim_slot(), missing);
            qapi_event_send_memory_claim_waiting(missing, why);
        }
        timer_mod(b->gate.retry,
                  qemu_clock_get_ms(QEMU_CLOCK_REALTIME) + RETRY_MS);
        return false;
    }
    ballast_claim_owe(taken, b->deflate == BALLAST_DEFLATE_ALLOW);
    tell_refused(b, missing, why);
    return true;
}

/* Take the pages of a buffer out of the balloon; false: hold the buffer. */
static bool deflate_elem(BallastBalloon *b, VirtQueueElement *elem)
{
    g_autoptr(GArray) pfns = ballast_read_pfns(b, elem);
    uint64_t bad = b->bad_pages, missing = 0;
    BallastDelta taken = {};
    g_autoptr(GArray) undo = deflate_list(b, pfns, &taken);
    g_autofree char *why = NULL;

    if (!ballast_claim_raise(&taken, &why, &missing) &&
        !refused(b, &taken, why, missing)) {
        put_back(b, undo);
        b->bad_pages = bad;
        return false;
    }
    drop_freeable(b, undo);
    return true;
}

static void gate_opened(BallastBalloon *b)
{
    int64_t waited_ms;

    if (b->gate.since_ms) {
        waited_ms = qemu_clock_get_ms(QEMU_CLOCK_REALTIME) - b->gate.since_ms;
        b->gate.since_ms = 0;
        trace_ballast_gate_opened(ballast_claim_slot(), waited_ms);
        qapi_event_send_memory_claim_granted(waited_ms);
    }
}

void ballast_handle_deflate(VirtIODevice *vdev, VirtQueue *vq)
{
    BallastBalloon *b = BALLAST_BALLOON(vdev);
    VirtQueueElement *elem;
    bool any = false;

    if (!vdev->vm_running) {
        return;
    }
    RCU_READ_LOCK_GUARD();
    for (;;) {
        elem = b->gate.held ?: virtqueue_pop(vq, sizeof(*elem));
        b->gate.held = NULL;
        if (!elem) {
            break;
        }
        if (!deflate_elem(b, elem)) {
            b->gate.held = elem;
            break;
        }
        gate_opened(b);
        virtqueue_push(vq, elem, 0);
        g_free(elem);
        any = true;
    }
    if (any) {
        trace_ballast_deflate(ballast_claim_slot(), b->ballooned_pages,
                              b->given_bytes, b->bad_pages);
        virtio_notify(vdev, vq);
    }
}

static void gate_retry(void *opaque)
{
    BallastBalloon *b = opaque;

    ballast_handle_deflate(VIRTIO_DEVICE(b), b->parent_obj.dvq);
}

void ballast_gate_init(BallastBalloon *b)
{
    b->gate.retry = timer_new_ms(QEMU_CLOCK_REALTIME, gate_retry, b);
}

void ballast_gate_drop(BallastBalloon *b)
{
    timer_del(b->gate.retry);
    b->gate.since_ms = 0;
    if (b->gate.held) {
        virtqueue_detach_element(b->parent_obj.dvq, b->gate.held, 0);
        g_free(b->gate.held);
        b->gate.held = NULL;
    }
}

void ballast_gate_pause(BallastBalloon *b)
{
    timer_del(b->gate.retry);
    if (b->gate.held) {
        virtqueue_unpop(b->parent_obj.dvq, b->gate.held, 0);
        g_free(b->gate.held);
        b->gate.held = NULL;
    }
}

void ballast_gate_resume(BallastBalloon *b)
{
    if (virtio_queue_ready(b->parent_obj.dvq)) {
        ballast_handle_deflate(VIRTIO_DEVICE(b), b->parent_obj.dvq);
    }
}

void ballast_gate_destroy(BallastBalloon *b)
{
    ballast_gate_drop(b);
    timer_free(b->gate.retry);
    b->gate.retry = NULL;
}

static uint64_t block_host_pages(const BallastBlock *block)
{
    return DIV_ROUND_UP(block->pages, block->per_host_page);
}

static uint64_t block_given_bytes(const BallastBlock *block)
{
    return block->rb->page_size *
           bitmap_count_one(block->given, block_host_pages(block));
}

void ballast_block_gone(BallastBalloon *b, BallastBlock *block)
{
    uint64_t bytes = block_given_bytes(block);

    b->ballooned_pages -= bitmap_count_one(block->ballooned, block->pages);
    b->given_bytes -= bytes;
    ballast_claim_forget(block->line, bytes);
}

static void block_void(gpointer key, gpointer value, gpointer opaque)
{
    BallastBlock *block = value;
    BallastDelta *taken = opaque;
    uint64_t host_pages = block_host_pages(block);

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
    b->given_bytes = 0;
    b->freeable_bytes = 0;
    ballast_claim_freeable(0);
    if (!ballast_claim_raise(&taken, &why, &missing)) {
        ballast_claim_owe(&taken, true);
        tell_refused(b, missing, why);
    }
}
