/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Looking at every page of guest memory, in a thread.
 *
 * One look at a time, of the memory there was when it began.  The thread
 * takes a piece at a time; between two of them memory may be unplugged,
 * and it may be told to stop.  What it has found is kept until the next look.
 *
 * Locks: the big lock for @state, @number and for which map there is;
 * @lock for what is in the map and @looked_at.  The thread takes @lock alone.
 */
#include "qemu/osdep.h"
#include "qapi/qapi-events-ballast.h"
#include "block/aio.h"
#include "hw/virtio/ballast/compat.h"
#include "placement-map.h"
#include "qapi/error.h"
#include "qemu/lockable.h"
#include "qemu/main-loop.h"
#include "qemu/rcu_queue.h"
#include "qemu/thread.h"
#include "qemu/timer.h"
#include "trace-hw_virtio_ballast.h"

static struct {
    QemuMutex lock;
    BallastMap *map;            /* NULL: there has been no look */
    MemoryPlacementState state;
    MemoryPlacementState outcome;
    uint32_t number;
    int64_t started_ns;
    int64_t ended_ns;
    int64_t deadline_ns;
    uint64_t looked_at;
    bool cancel;                /* atomic */
} exact;

static uint64_t elapsed_us(void)
{
    int64_t end_ns = exact.state == MEMORY_PLACEMENT_STATE_RUNNING ?
                     get_clock() : exact.ended_ns;

    return (end_ns - exact.started_ns) / 1000;
}

/* The thread ------------------------------------------------------------- */

/* Whether the memory is still that of the map.  Context: RCU read side. */
static bool still_there(const BallastPlace *place)
{
    RAMBlock *rb;

    QLIST_FOREACH_RCU(rb, &ram_list.blocks, next) {
        if (rb->host == place->host) {
            return rb->used_length == place->bytes;
        }
    }
    return false;
}

static int look_piece(const struct ballast_eyes *eyes, BallastPart *p,
                      uint64_t offset, uint64_t bytes)
{
    const BallastPlace *place = ballast_map_place(exact.map, p->place);
    BallastSample found = {};
    int err = 0;

    WITH_RCU_READ_LOCK_GUARD() {
        if (still_there(place)) {
            err = ballast_look_exact(eyes, (uintptr_t)place->host + p->offset +
                                     offset, bytes, place->page_bytes, &found);
        } else {
            found.samples = found.unknown = found.flat = bytes;
        }
    }
    QEMU_LOCK_GUARD(&exact.lock);
    ballast_sample_add(&p->sample, &found);
    exact.looked_at += bytes;
    return err;
}

static bool must_stop(void)
{
    if (qatomic_read(&exact.cancel)) {
        exact.outcome = MEMORY_PLACEMENT_STATE_CANCELLED;
    } else if (get_clock() >= exact.deadline_ns) {
        exact.outcome = MEMORY_PLACEMENT_STATE_TIMED_OUT;
    }
    return exact.outcome != MEMORY_PLACEMENT_STATE_DONE;
}

/* False at its end, or the kernel's refusal. */
static int look_part(const struct ballast_eyes *eyes, BallastPart *p)
{
    uint64_t page = ballast_map_place(exact.map, p->place)->page_bytes;
    uint64_t step = MAX(BALLAST_LOOK_BYTES, page), offset, bytes;
    int err = 0;

    for (offset = 0; offset < p->bytes && !ballast_refused(err);
         offset += bytes) {
        if (must_stop()) {
            break;
        }
        bytes = MIN(step, p->bytes - offset);
        err = look_piece(eyes, p, offset, bytes);
    }
    return err;
}

static void look_all(void)
{
    struct ballast_eyes eyes;
    unsigned i;
    int err = 0;

    ballast_eyes_open(&eyes, 0);
    for (i = 0; i < exact.map->parts->len && !ballast_refused(err); i++) {
        err = look_part(&eyes, ballast_map_part(exact.map, i));
    }
    if (ballast_refused(err)) {
        QEMU_LOCK_GUARD(&exact.lock);
        ballast_map_numa_maps(exact.map);
        exact.looked_at = exact.map->bytes;
    }
    ballast_eyes_close(&eyes);
}

/* Context: big lock, main loop. */
static void exact_done(void *opaque)
{
    exact.state = exact.outcome;
    trace_ballast_exact_end(exact.number,
                            MemoryPlacementState_str(exact.state),
                            exact.looked_at, elapsed_us());
    qapi_event_send_memory_placement_done(exact.state, exact.looked_at,
                                          exact.map->bytes, elapsed_us());
}

static void *exact_thread(void *opaque)
{
    rcu_register_thread();
    look_all();
    exact.ended_ns = get_clock();
    rcu_unregister_thread();
    aio_bh_schedule_oneshot(qemu_get_aio_context(), exact_done, NULL);
    return NULL;
}

/* From QMP --------------------------------------------------------------- */

bool ballast_exact_start(uint32_t limit_ms, Error **errp)
{
    QemuThread thread;

    if (exact.map && exact.state == MEMORY_PLACEMENT_STATE_RUNNING) {
        error_setg(errp, "an exact look is running; see "
                   "query-memory-placement, memory-placement-cancel");
        return false;
    }
    if (!exact.map) {
        qemu_mutex_init(&exact.lock);
    }
    ballast_map_free(exact.map);
    exact.started_ns = get_clock();
    exact.deadline_ns = exact.started_ns + limit_ms * (int64_t)SCALE_MS;
    WITH_RCU_READ_LOCK_GUARD() {
        exact.map = ballast_map_new();
    }
    exact.state = MEMORY_PLACEMENT_STATE_RUNNING;
    exact.outcome = MEMORY_PLACEMENT_STATE_DONE;
    exact.looked_at = 0;
    exact.number++;
    qatomic_set(&exact.cancel, false);
    trace_ballast_exact_start(exact.number, exact.map->bytes, limit_ms);
    qemu_thread_create(&thread, "ballast-exact", exact_thread, NULL,
                       QEMU_THREAD_DETACHED);
    return true;
}

void ballast_exact_cancel(void)
{
    qatomic_set(&exact.cancel, true);
}

MemoryPlacement *ballast_exact_placement(Error **errp)
{
    MemoryPlacement *out;

    if (!exact.map) {
        error_setg(errp, "there has been no exact look; "
                   "memory-placement-start begins one");
        return NULL;
    }
    QEMU_LOCK_GUARD(&exact.lock);
    out = ballast_map_answer(exact.map, true);
    out->mode = MEMORY_PLACEMENT_MODE_EXACT;
    out->state = exact.state;
    out->looked_at = exact.looked_at;
    out->elapsed_us = elapsed_us();
    return out;
}
