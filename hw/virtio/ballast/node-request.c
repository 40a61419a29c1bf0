/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * balloon-node: memory of one host node, from the guest or back to it.
 *
 * The host node is turned into guest nodes (candidates) by where their memory
 * really is.  Down, they are asked in rounds: in the first for what was asked
 * for, each for its part; in the next those that gave all, for what the
 * others could not.  No other guest node is touched as long as a candidate
 * has something; then, unless the request is exact, the rest may come from
 * anywhere, in a last round.  Up there is one round, for all of it.
 *
 * What was got is what the host saw go over the queues.  The driver's words
 * (actual_pages, done_seq) steer what it is asked next, and when the request
 * is over: a liar gets a wrong target or a false end, and the event tells what
 * really came.  Rounds are bounded, and so is time, in guest time.
 *
 * At the end all targets are withdrawn and the total becomes what is in the
 * balloon by then, so that nothing goes on unasked.  A migration ends
 * the request: host nodes are other nodes there.
 */
#include "qemu/osdep.h"
#include "internal.h"
#include "migration/misc.h"
#include "qapi/error.h"
#include "qapi/qapi-commands-ballast.h"
#include "qapi/qapi-events-ballast.h"
#include "system/runstate.h"
#include "trace-hw_virtio_ballast.h"

#define TIMEOUT_S 60
#define TIMEOUT_MAX_S 86400

/* Its end -------------------------------------------------------------- */

static void request_clear(BallastBalloon *b)
{
    BallastNodeRequest *r = &b->nodes.request;

    r->active = false;
    timer_del(r->limit);
    ballast_mems_stop(b);
    ballast_mems_free(b);
    g_clear_pointer(&r->start, g_free);
}

void ballast_request_end(BallastBalloon *b, BalloonNodeStatus status)
{
    g_autoptr(BalloonNodeRequest) told = NULL;
    BallastNodeRequest *r = &b->nodes.request;

    if (!r->active) {
        return;
    }
    told = ballast_request_tell(b);
    if (status == BALLOON_NODE_STATUS_REACHED && told->shortfall) {
        status = BALLOON_NODE_STATUS_SHORT;
    }
    request_clear(b);
    trace_ballast_request_end(r->number, r->host_node,
                              BalloonNodeStatus_str(status), told->got,
                              told->other);
    if (status != BALLOON_NODE_STATUS_REPLACED &&
        status != BALLOON_NODE_STATUS_MIGRATED) {
        ballast_nodes_withdraw(b);
        ballast_nodes_publish(b, b->parent_obj.actual);
    }
    qapi_event_send_balloon_node_done(status, told);
}

void ballast_request_left(BallastBalloon *b)
{
    if (b->nodes.requested && !b->nodes.request.active) {
        ballast_nodes_withdraw(b);
        ballast_nodes_publish(b, b->parent_obj.actual);
    }
    b->nodes.requested = false;
}

void ballast_request_step(BallastBalloon *b)
{
    BallastNodeRequest *r = &b->nodes.request;
    bool done = r->by_driver ? b->nodes.done_seq == b->nodes.seq :
                b->parent_obj.actual == b->nodes.num_pages;

    ballast_nodes_follow(b);
    if (r->active && !r->mems_asked && done && !ballast_request_ask_next(b)) {
        ballast_request_end(b, BALLOON_NODE_STATUS_REACHED);
    }
}

static void request_look(void *opaque)
{
    BallastBalloon *b = opaque;

    ballast_nodes_follow(b);
    if (b->nodes.request.active && !ballast_mems_busy(b)) {
        b->nodes.request.mems_asked = 0;
        if (!ballast_request_ask_next(b)) {
            ballast_request_end(b, BALLOON_NODE_STATUS_REACHED);
        }
    }
}

static void request_timeout(void *opaque)
{
    BallastBalloon *b = opaque;

    ballast_nodes_follow(b);
    ballast_request_end(b, BALLOON_NODE_STATUS_TIMED_OUT);
}

static int request_migrated(NotifierWithReturn *n, MigrationEvent *e,
                            Error **errp)
{
    BallastBalloon *b = container_of(n, BallastBalloon, nodes.migrated);

    if (e->type == MIG_EVENT_PRECOPY_DONE) {
        ballast_request_end(b, BALLOON_NODE_STATUS_MIGRATED);
    }
    return 0;
}

void ballast_request_init(BallastBalloon *b)
{
    b->nodes.request.limit = timer_new_ms(QEMU_CLOCK_VIRTUAL, request_timeout,
                                          b);
    b->nodes.request.look = timer_new_ms(QEMU_CLOCK_REALTIME, request_look, b);
    migration_add_notifier(&b->nodes.migrated, request_migrated);
}

void ballast_request_destroy(BallastBalloon *b)
{
    migration_remove_notifier(&b->nodes.migrated);
    ballast_request_end(b, BALLOON_NODE_STATUS_RESET);
    g_clear_pointer(&b->nodes.request.limit, timer_free);
    g_clear_pointer(&b->nodes.request.look, timer_free);
}

/* Its beginning ---------------------------------------------------------- */

static bool check_device(BallastBalloon *b, Error **errp)
{
    if (!b) {
        error_setg(errp, "there is no virtio-balloon-ledger device");
    } else if (!VIRTIO_DEVICE(b)->vm_running) {
        error_setg(errp, "the guest does not run");
    } else if (!(VIRTIO_DEVICE(b)->status & VIRTIO_CONFIG_S_DRIVER_OK)) {
        error_setg(errp, "the guest's balloon driver is not ready");
    } else {
        return true;
    }
    return false;
}

static bool check_arguments(BallastBalloon *b, uint32_t host_node,
                            uint64_t bytes, bool up, bool exact,
                            bool virtio_mem, uint32_t timeout, Error **errp)
{
    if (!ballast_host_has_node(host_node)) {
        error_setg(errp, "host-node is %" PRIu32 ", which this host has not",
                   host_node);
    } else if (!bytes || bytes > UINT32_MAX * BALLAST_PAGE_BYTES) {
        error_setg(errp, "bytes is %" PRIu64 "; allowed: 1 to %" PRIu64, bytes,
                   (uint64_t)(UINT32_MAX * BALLAST_PAGE_BYTES));
    } else if (!timeout || timeout > TIMEOUT_MAX_S) {
        error_setg(errp, "timeout is %" PRIu32 "; allowed: 1 to %d seconds",
                   timeout, TIMEOUT_MAX_S);
    } else if (up && exact && bytes > ballast_host_free_bytes(host_node)) {
        error_setg(errp, "host node %" PRIu32 " has only %" PRIu64 " bytes "
                   "left, and exact=true would bind %" PRIu64 " to it",
                   host_node, ballast_host_free_bytes(host_node), bytes);
    } else if (exact && !virtio_mem && !ballast_nodes_on(b)) {
        error_setg(errp, "the guest's driver does not know guest nodes, so "
                   "that exact=true cannot be done (exact=false is plain "
                   "ballooning, with a report)");
    } else {
        return true;
    }
    return false;
}

/* A request that is not active yet. */
static void request_make(BallastBalloon *b, uint32_t host_node, uint64_t bytes,
                         bool up, bool exact, bool virtio_mem)
{
    BallastNodeRequest *r = &b->nodes.request;

    *r = (BallastNodeRequest) {
        .number = r->number, .limit = r->limit, .look = r->look,
        .virtio_mem = virtio_mem,
        .host_node = host_node, .up = up, .exact = exact,
        .by_driver = ballast_nodes_on(b),
        .wanted_pages = DIV_ROUND_UP(bytes, BALLAST_PAGE_BYTES),
    };
    ballast_candidates_find(b);
}

static bool request_start(BallastBalloon *b, uint32_t timeout_s, Error **errp)
{
    BallastNodeRequest *r = &b->nodes.request;

    if (!ballast_candidates_any(r)) {
        ballast_mems_free(b);
        error_setg(errp, "the guest has no memory on host node %" PRIu32,
                   r->host_node);
        return false;
    }
    r->start = g_memdup2(b->nodes.node, sizeof(b->nodes.node));
    r->active = true;
    r->number++;
    timer_mod(r->limit, qemu_clock_get_ms(QEMU_CLOCK_VIRTUAL) +
              timeout_s * 1000LL);
    if (!ballast_request_ask_first(b)) {
        request_clear(b);
        r->number--;
        error_setg(errp, r->up ?
                   "nothing of host node %" PRIu32 " is in the balloon" :
                   "nothing can be had of host node %" PRIu32, r->host_node);
        return false;
    }
    trace_ballast_request_start(r->number, r->host_node, r->up, r->exact,
                                r->wanted_pages, r->candidates);
    return true;
}

BallastBalloon *ballast_node_device(void)
{
    return (BallastBalloon *)object_resolve_path_type("", TYPE_BALLAST_BALLOON,
                                                      NULL);
}

BalloonNodeStart *qmp_balloon_node(uint32_t host_node, uint64_t bytes,
                                   bool has_direction,
                                   BalloonNodeDirection direction,
                                   bool has_exact, bool exact,
                                   bool has_virtio_mem, bool virtio_mem,
                                   bool has_timeout, uint32_t timeout,
                                   Error **errp)
{
    BallastBalloon *b = ballast_node_device();
    BalloonNodeStart *out;
    bool up = has_direction && direction == BALLOON_NODE_DIRECTION_UP;
    bool was_active;
    uint32List **tail;
    unsigned i;

    timeout = has_timeout ? timeout : TIMEOUT_S;
    exact = has_exact && exact;
    virtio_mem = has_virtio_mem && virtio_mem;
    if (!check_device(b, errp) ||
        !check_arguments(b, host_node, bytes, up, exact, virtio_mem, timeout,
                         errp)) {
        return NULL;
    }
    ballast_nodes_follow(b);
    was_active = b->nodes.request.active;
    ballast_request_end(b, BALLOON_NODE_STATUS_REPLACED);
    ballast_nodes_withdraw(b);
    request_make(b, host_node, bytes, up, exact, virtio_mem);
    if (!request_start(b, timeout, errp)) {
        if (was_active) {
            ballast_nodes_publish(b, b->parent_obj.actual);
        }
        return NULL;
    }
    out = g_new0(BalloonNodeStart, 1);
    tail = &out->guest_nodes;
    for (i = 0; i < b->nodes.nr; i++) {
        if (b->nodes.request.candidates & (1U << i)) {
            QAPI_LIST_APPEND(tail, i);
        }
    }
    out->request = b->nodes.request.number;
    out->driver = b->nodes.request.by_driver;
    return out;
}

void qmp_balloon_node_cancel(Error **errp)
{
    BallastBalloon *b = ballast_node_device();

    if (!b || !b->nodes.request.active) {
        error_setg(errp, "there is no request of balloon-node");
        return;
    }
    ballast_request_end(b, BALLOON_NODE_STATUS_CANCELLED);
}
