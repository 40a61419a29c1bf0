/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The hint queue: from the ring to the dirty bitmap, without polling.
 *
 *   main loop, big lock          I/O thread
 *   -------------------          ----------
 *   drain the ring into     -->  judge and apply them
 *   pending, return buffers      (takes QEMU's dirty bitmap lock, which the
 *                                migration thread holds for up to 50 ms)
 *
 * The ring is touched under the big lock only: returning a buffer or
 * rejecting a malformed one may raise an interrupt, which must not happen
 * in another thread.  The bitmap is touched in the I/O thread only, so that
 * nobody who wants the big lock waits for the migration thread.
 *
 * A buffer may be returned before its hint is applied: the guest may re-use
 * hinted pages at any time anyway, and whether a hint still counts is
 * decided when it is applied, under the hints lock (see hints.c).
 *
 * The cmd id and its state machine are the parent's, under its
 * free_page_lock; this file only moves it from "requested" to "start" when
 * the guest answers, and to "stop" when the guest has finished.
 *
 * Lock order: big lock, then free_page_lock or the hintq lock, both held over
 * a few instructions only.
 */
#include "qemu/osdep.h"
#include "block/aio-wait.h"
#include "hw/virtio/virtio-access.h"
#include "internal.h"
#include "qapi/error.h"
#include "qemu/iov.h"
#include "qemu/lockable.h"
#include "system/iothread.h"
#include "trace-hw_virtio_ballast.h"

#define MAX_PENDING 4096
/* Returned at once: the guest fills in again while the rest is taken. */
#define BATCH_ELEMS 128
/* Taken at once: a whole ring, in 0.1 to 0.3 ms of the main loop. */
#define RUN_ELEMS VIRTQUEUE_MAX_SIZE

/* I/O thread ---------------------------------------------------------- */

static GArray *take_pending(BallastHintQueue *q, uint64_t *question,
                            bool *was_full)
{
    GArray *hints;

    QEMU_LOCK_GUARD(&q->lock);
    hints = q->pending;
    q->pending = g_array_new(false, false, sizeof(BallastHint));
    *question = q->pending_question;
    *was_full = q->full;
    q->full = false;
    return hints;
}

static void apply_pending(void *opaque)
{
    BallastBalloon *b = opaque;
    g_autoptr(GArray) hints = NULL;
    uint64_t question;
    bool was_full;

    hints = take_pending(&b->hintq, &question, &was_full);
    if (hints->len) {
        ballast_hints_apply((BallastHint *)hints->data, hints->len, question);
    }
    if (was_full) {
        qemu_bh_schedule(b->hintq.drain);
    }
}

/* Main loop ----------------------------------------------------------- */

/*
 * The I/O thread may have the hints of this run; those that still wait to
 * answer another question came too late.
 */
static void hand_over(BallastHintQueue *q)
{
    g_autoptr(GArray) stale = NULL;

    WITH_QEMU_LOCK_GUARD(&q->lock) {
        if (q->pending_question != q->taken_question && q->pending->len) {
            stale = q->pending;
            q->pending = g_array_new(false, false, sizeof(BallastHint));
        }
        q->pending_question = q->taken_question;
        g_array_append_vals(q->pending, q->taken->data, q->taken->len);
    }
    g_array_set_size(q->taken, 0);
    if (stale) {
        ballast_hints_count(BALLAST_HINT_LATE, stale->len);
    }
}

/* The question that hints answer which come now; 0 if none. */
static uint64_t answered(BallastBalloon *b)
{
    VirtIOBalloon *s = &b->parent_obj;

    QEMU_LOCK_GUARD(&s->free_page_lock);
    return s->free_page_hint_status == FREE_PAGE_HINT_S_START ?
           b->hintq.question : 0;
}

/* The guest says which id it answers, or VIRTIO_BALLOON_CMD_ID_STOP. */
static void take_id(BallastBalloon *b, uint32_t id)
{
    uint64_t question = ballast_hints_question();
    VirtIOBalloon *s = &b->parent_obj;
    bool accepted = false, was_started, finished = false;

    WITH_QEMU_LOCK_GUARD(&s->free_page_lock) {
        was_started = s->free_page_hint_status == FREE_PAGE_HINT_S_START;
        if (s->free_page_hint_status == FREE_PAGE_HINT_S_REQUESTED &&
            id == s->free_page_hint_cmd_id) {
            s->free_page_hint_status = FREE_PAGE_HINT_S_START;
            b->hintq.question = question;
            accepted = true;
        } else if (was_started && id != s->free_page_hint_cmd_id) {
            /* Finished, or confused: either way it answers no more. */
            s->free_page_hint_status = FREE_PAGE_HINT_S_STOP;
            finished = true;
        }
    }
    if (finished) {
        ballast_hints_finish(b->hintq.question);
    }
    if (!accepted && id != VIRTIO_BALLOON_CMD_ID_STOP) {
        ballast_hints_bad_id();
    }
    trace_ballast_hint_id(id, s->free_page_hint_cmd_id, accepted);
}

static void take_id_buffer(VirtIODevice *vdev, VirtQueueElement *elem)
{
    uint32_t id;

    if (iov_size(elem->out_sg, elem->out_num) != sizeof(id)) {
        ballast_hints_bad_id();
        return;
    }
    iov_to_buf(elem->out_sg, elem->out_num, 0, &id, sizeof(id));
    virtio_tswap32s(vdev, &id);
    take_id(BALLAST_BALLOON(vdev), id);
}

/*
 * Only this thread takes answers, so what hints answer is looked up once a
 * run and after each of them.  A generation that ends meanwhile shows when
 * the hints are judged.  The guest's "stop" does not revoke what it hinted
 * before.
 */
static void take_elem(BallastBalloon *b, VirtQueueElement *elem)
{
    BallastHintQueue *q = &b->hintq;
    unsigned i;

    if (elem->out_num) {
        if (q->taken->len) {
            hand_over(q);
        }
        take_id_buffer(VIRTIO_DEVICE(b), elem);
        q->taken_question = answered(b);
    }
    for (i = 0; i < elem->in_num; i++) {
        BallastHint hint = { elem->in_sg[i].iov_base, elem->in_sg[i].iov_len };

        g_array_append_val(q->taken, hint);
    }
}

/* How many hints fit; if none, apply_pending() will run the drain again. */
static unsigned room(BallastHintQueue *q)
{
    QEMU_LOCK_GUARD(&q->lock);
    q->full = q->pending->len >= MAX_PENDING;
    return q->full ? 0 : MAX_PENDING - q->pending->len;
}

/* The virtqueue code refuses some chains; it wants a reset then. */
static void count_broken(BallastBalloon *b)
{
    if (VIRTIO_DEVICE(b)->broken && !b->hintq.saw_broken) {
        b->hintq.saw_broken = true;
        ballast_hints_count(BALLAST_HINT_MALFORMED, 1);
    }
}

/* Return the buffers of a batch; one index update for all of them. */
static void return_batch(VirtQueue *vq, VirtQueueElement **elem, unsigned nr)
{
    unsigned i;

    RCU_READ_LOCK_GUARD();
    for (i = 0; i < nr; i++) {
        virtqueue_fill(vq, elem[i], 0, i);
        g_free(elem[i]);
    }
    virtqueue_flush(vq, nr);
}

/* Plain hints are taken off the ring together, what else comes one by one. */
static unsigned drain_batch(BallastBalloon *b, VirtQueue *vq)
{
    VirtQueueElement *elem[BATCH_ELEMS];
    unsigned fit = room(&b->hintq);
    unsigned hints, plain, nr = 0;

    b->hintq.taken_question = answered(b);
    plain = ballast_hint_ring_take(VIRTIO_DEVICE(b), vq, b->hintq.taken,
                                   MIN(BATCH_ELEMS, fit));
    hints = plain;
    while (plain + nr < BATCH_ELEMS && hints < fit) {
        elem[nr] = virtqueue_pop(vq, sizeof(VirtQueueElement));
        if (!elem[nr]) {
            count_broken(b);
            break;
        }
        hints += elem[nr]->in_num;
        take_elem(b, elem[nr++]);
    }
    if (b->hintq.taken->len) {
        hand_over(&b->hintq);
    }
    if (nr) {
        return_batch(vq, elem, nr);
    }
    if (plain + nr) {
        trace_ballast_hint_drain(b->parent_obj.free_page_hint_cmd_id,
                                 plain + nr);
    }
    return plain + nr;
}

/* Returns how many buffers; RUN_ELEMS if there may be more. */
static unsigned drain_run(BallastBalloon *b, VirtQueue *vq)
{
    unsigned nr, all = 0;

    do {
        nr = drain_batch(b, vq);
        if (nr) {
            qemu_bh_schedule(b->hintq.apply);
        }
        all += nr;
    } while (nr == BATCH_ELEMS && all < RUN_ELEMS);
    return all;
}

/*
 * Empty the ring, with notifications off meanwhile.  As much as a full ring
 * is enough for one run: then others have their turn.
 */
static void drain_ring(void *opaque)
{
    BallastBalloon *b = opaque;
    VirtIODevice *vdev = VIRTIO_DEVICE(b);
    VirtQueue *vq = b->parent_obj.free_page_vq;
    unsigned nr;

    if (!vdev->vm_running || vdev->broken || !virtio_queue_ready(vq)) {
        return;
    }
    b->hintq.runs++;
    virtio_queue_set_notification(vq, 0);
    nr = drain_run(b, vq);
    if (nr) {
        virtio_notify(vdev, vq);
    }
    if (nr == RUN_ELEMS) {
        qemu_bh_schedule(b->hintq.drain);
        return;
    }
    virtio_queue_set_notification(vq, 1);
    if (!vdev->broken && room(&b->hintq) && !virtio_queue_empty(vq)) {
        qemu_bh_schedule(b->hintq.drain);
    }
}

static void handle_hints(VirtIODevice *vdev, VirtQueue *vq)
{
    drain_ring(BALLAST_BALLOON(vdev));
}

void ballast_hintq_kick(BallastBalloon *b)
{
    if (b->hintq.drain) {
        qemu_bh_schedule(b->hintq.drain);
    }
}

void ballast_hintq_reset(BallastBalloon *b)
{
    BallastHintQueue *q = &b->hintq;

    if (q->drain) {
        QEMU_LOCK_GUARD(&q->lock);
        g_array_set_size(q->pending, 0);
        q->saw_broken = false;
    }
}

void ballast_hintq_init(BallastBalloon *b)
{
    VirtIODevice *vdev = VIRTIO_DEVICE(b);
    VirtIOBalloon *s = &b->parent_obj;
    MemReentrancyGuard *guard = &DEVICE(b)->mem_reentrancy_guard;
    BallastHintQueue *q = &b->hintq;

    if (!s->free_page_vq) {
        return;
    }
    qemu_mutex_init(&q->lock);
    q->pending = g_array_new(false, false, sizeof(BallastHint));
    q->taken = g_array_new(false, false, sizeof(BallastHint));
    q->apply = aio_bh_new_guarded(iothread_get_aio_context(s->iothread),
                                  apply_pending, b, NULL);
    q->drain = qemu_bh_new_guarded(drain_ring, b, guard);
    ballast_take_over(vdev, s->free_page_vq, handle_hints);
}

static void nothing(void *opaque)
{
}

void ballast_hintq_destroy(BallastBalloon *b)
{
    BallastHintQueue *q = &b->hintq;

    if (!q->drain) {
        return;
    }
    qemu_bh_delete(q->drain);
    q->drain = NULL;
    qemu_bh_delete(q->apply);
    /* A run which has begun ends before this does. */
    aio_wait_bh_oneshot(iothread_get_aio_context(b->parent_obj.iothread),
                        nothing, NULL);
    g_array_unref(q->pending);
    g_array_unref(q->taken);
    qemu_mutex_destroy(&q->lock);
}

FreePageHintState ballast_hint_state(VirtIOBalloon *s)
{
    static const FreePageHintState of_status[] = {
        [FREE_PAGE_HINT_S_STOP] = FREE_PAGE_HINT_STATE_STOPPED,
        [FREE_PAGE_HINT_S_REQUESTED] = FREE_PAGE_HINT_STATE_REQUESTED,
        [FREE_PAGE_HINT_S_START] = FREE_PAGE_HINT_STATE_ACTIVE,
        [FREE_PAGE_HINT_S_DONE] = FREE_PAGE_HINT_STATE_DONE,
    };

    if (!virtio_vdev_has_feature(VIRTIO_DEVICE(s),
                                 VIRTIO_BALLOON_F_FREE_PAGE_HINT)) {
        return FREE_PAGE_HINT_STATE_OFF;
    }
    if (s->free_page_hint_cmd_id == VIRTIO_BALLOON_FREE_PAGE_HINT_CMD_ID_MIN) {
        return FREE_PAGE_HINT_STATE_IDLE;
    }
    return of_status[s->free_page_hint_status & 3];
}
