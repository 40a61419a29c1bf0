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
#include "hw/virtio/ballast/placement.h"
#include "internal.h"
#include "migration/misc.h"
#include "qapi/error.h"
#include "qapi/qapi-commands-ballast.h"
#include "qapi/qapi-events-ballast.h"
#include "qemu/units.h"
#include "system/runstate.h"
#include "trace-hw_virtio_ballast.h"

#define MAX_ROUNDS 16
#define TIMEOUT_S 60
#define TIMEOUT_MAX_S 86400
/* Shares are whole huge pages, as long as there is a choice. */
#define SHARE_PAGES 512
/* A guest node with so much of what it has on a host node is "on" it. */
#define PURE_PERCENT 90

#define NODES_DIR "/sys/devices/system/node/"

/* What came of it ------------------------------------------------------ */

static uint64_t sum_in_pages(const BallastNode *nodes)
{
    uint64_t pages = 0;
    unsigned i;

    for (i = 0; i <= BALLAST_NODES_MAX; i++) {
        pages += nodes[i].in_pages;
    }
    return pages;
}

/* Pages that went the asked way since the beginning, all in all. */
static uint64_t moved_pages(const BallastBalloon *b)
{
    const BallastNodeRequest *r = &b->nodes.request;
    uint64_t before = sum_in_pages(r->start);
    uint64_t now = sum_in_pages(b->nodes.node);
    uint64_t from = r->up ? now : before, to = r->up ? before : now;

    return to - MIN(from, to) +
           ballast_mems_moved_bytes(b) / BALLAST_PAGE_BYTES;
}

static uint64_t left_pages(const BallastBalloon *b)
{
    uint64_t wanted = b->nodes.request.wanted_pages;

    return wanted - MIN(wanted, moved_pages(b));
}

/* A negative @node: none that could be told. */
static void add_part(BalloonNodePartList ***tail, unsigned entry, int node,
                     uint64_t bytes, BalloonNodeServer by)
{
    BalloonNodePart *part;

    if (bytes) {
        part = g_new0(BalloonNodePart, 1);
        part->guest_node = entry;
        part->has_host_node = node >= 0;
        part->host_node = MAX(node, 0);
        part->bytes = bytes;
        part->by = by;
        QAPI_LIST_APPEND(*tail, part);
    }
}

static void tell_down(const BallastBalloon *b, unsigned entry,
                      BalloonNodeRequest *out, BalloonNodePartList ***tail)
{
    const BallastNodeRequest *r = &b->nodes.request;
    const BallastNode *now = &b->nodes.node[entry];
    const BallastNode *was = &r->start[entry];
    uint64_t absent = now->absent_bytes - was->absent_bytes, bytes;
    unsigned node;

    for (node = 0; node < MAX_NODES; node++) {
        bytes = now->from_bytes[node] - was->from_bytes[node];
        add_part(tail, entry, node, bytes, BALLOON_NODE_SERVER_BALLOON);
        if (node == r->host_node) {
            out->got += bytes;
        } else {
            out->other += bytes;
        }
    }
    if (r->bound & (1U << entry)) {
        out->got += absent;
    }
    add_part(tail, entry, -1, absent + now->unseen_bytes - was->unseen_bytes,
             BALLOON_NODE_SERVER_BALLOON);
}

static void tell_up(const BallastBalloon *b, unsigned entry,
                    BalloonNodeRequest *out, BalloonNodePartList ***tail)
{
    const BallastNodeRequest *r = &b->nodes.request;
    const BallastNode *now = &b->nodes.node[entry];
    const BallastNode *was = &r->start[entry];
    uint64_t placed = now->placed_bytes - was->placed_bytes;
    uint64_t other = now->back_bytes - was->back_bytes - placed;

    add_part(tail, entry, r->host_node, placed, BALLOON_NODE_SERVER_BALLOON);
    add_part(tail, entry, -1, other, BALLOON_NODE_SERVER_BALLOON);
    out->got += placed;
    out->other += other;
}

typedef struct TellMems {
    BalloonNodeRequest *out;
    BalloonNodePartList **tail;
} TellMems;

static void tell_mem(uint32_t vnode, uint64_t bytes, void *opaque)
{
    TellMems *t = opaque;

    add_part(&t->tail, vnode, t->out->host_node, bytes,
             BALLOON_NODE_SERVER_VIRTIO_MEM);
    t->out->got += bytes;
}

static BalloonNodeRequest *tell_request(const BallastBalloon *b)
{
    const BallastNodeRequest *r = &b->nodes.request;
    BalloonNodeRequest *out = g_new0(BalloonNodeRequest, 1);
    BalloonNodePartList **tail = &out->parts;
    TellMems mems = { .out = out };
    unsigned entry;

    out->request = r->number;
    out->host_node = r->host_node;
    out->direction = r->up ? BALLOON_NODE_DIRECTION_UP :
                     BALLOON_NODE_DIRECTION_DOWN;
    out->exact = r->exact;
    out->bytes = r->wanted_pages * BALLAST_PAGE_BYTES;
    for (entry = 0; entry <= BALLAST_NODES_MAX; entry++) {
        if (r->up) {
            tell_up(b, entry, out, &tail);
        } else {
            tell_down(b, entry, out, &tail);
        }
    }
    mems.tail = tail;
    ballast_mems_each(b, tell_mem, &mems);
    /* A guest can move the same pages there and back at will. */
    out->got = MIN(out->got, moved_pages(b) * BALLAST_PAGE_BYTES);
    out->shortfall = out->bytes - MIN(out->bytes, out->got);
    return out;
}

/* Rounds --------------------------------------------------------------- */

static uint32_t driver_pages(const BallastBalloon *b)
{
    uint64_t sum = 0;
    unsigned i;

    for (i = 0; i < b->nodes.nr; i++) {
        sum += b->nodes.node[i].actual_pages;
    }
    return MIN(MAX(sum, b->parent_obj.actual), UINT32_MAX);
}

/* Has the driver given all it was asked for, so that it may have more? */
static bool is_dry(const BallastBalloon *b, unsigned entry)
{
    const BallastNode *node = &b->nodes.node[entry];

    return node->target_pages != BALLAST_NO_TARGET &&
           node->actual_pages < node->target_pages;
}

/*
 * Deal @pages to nodes by what each has (@can); what was dealt is taken off
 * @can and added to @share.  Returns how much was dealt.
 */
static uint64_t deal(uint64_t pages, uint32_t mask, uint64_t *can,
                     uint64_t *share)
{
    uint64_t all = 0, left, part;
    unsigned i;

    for (i = 0; i < BALLAST_NODES_MAX; i++) {
        all += mask & (1U << i) ? can[i] : 0;
    }
    pages = MIN(pages, all);
    left = pages;
    for (i = 0; all && i < BALLAST_NODES_MAX; i++) {
        if (mask & (1U << i)) {
            part = ROUND_DOWN((__uint128_t)pages * can[i] / all,
                              SHARE_PAGES);
            share[i] += part;
            can[i] -= part;
            left -= part;
        }
    }
    for (i = 0; left && i < BALLAST_NODES_MAX; i++) {
        if (mask & (1U << i)) {
            part = MIN(left, can[i]);
            share[i] += part;
            can[i] -= part;
            left -= part;
        }
    }
    return pages;
}

static void set_target(BallastBalloon *b, unsigned entry, uint64_t pages)
{
    b->nodes.node[entry].target_pages = MIN(pages, BALLAST_NO_TARGET - 1);
    b->nodes.exact_mask |= 1U << entry;
}

static uint32_t total(uint64_t pages)
{
    return MIN(pages, UINT32_MAX);
}

/* Ask candidates that are not dry; true if there was something to ask. */
static bool ask_candidates(BallastBalloon *b)
{
    BallastNodeRequest *r = &b->nodes.request;
    uint64_t share[BALLAST_NODES_MAX] = {}, left = left_pages(b), dealt;
    uint32_t mask = r->candidates;
    unsigned i;

    for (i = 0; i < b->nodes.nr; i++) {
        if (is_dry(b, i)) {
            mask &= ~(1U << i);
        }
    }
    dealt = deal(left, mask & r->pure, r->can_pages, share);
    dealt += deal(left - dealt, mask & ~r->pure, r->can_pages, share);
    if (!dealt) {
        return false;
    }
    ballast_nodes_withdraw(b);
    for (i = 0; i < b->nodes.nr; i++) {
        if (r->candidates & (1U << i)) {
            set_target(b, i, b->nodes.node[i].actual_pages + share[i]);
        }
    }
    ballast_nodes_publish(b, total(driver_pages(b) + dealt));
    return true;
}

/* The candidates are dry: the rest may come from anywhere. */
static bool ask_anybody(BallastBalloon *b)
{
    BallastNodeRequest *r = &b->nodes.request;

    if (r->exact || r->last || !left_pages(b)) {
        return false;
    }
    r->last = true;
    ballast_nodes_withdraw(b);
    ballast_nodes_publish(b, total(driver_pages(b) + left_pages(b)));
    return true;
}

/* virtio-mem devices of the node have their turn once. */
static bool ask_mems(BallastBalloon *b)
{
    BallastNodeRequest *r = &b->nodes.request;

    if (!r->virtio_mem || r->mems_done) {
        return false;
    }
    r->mems_done = true;
    return ballast_mems_ask(b, left_pages(b) * BALLAST_PAGE_BYTES);
}

static bool ask_down(BallastBalloon *b)
{
    return b->nodes.request.round++ < MAX_ROUNDS &&
           ((!b->nodes.request.last && ask_candidates(b)) || ask_mems(b) ||
            ask_anybody(b));
}

/* Give back, first of the candidates; false if there is nothing. */
static bool ask_up(BallastBalloon *b)
{
    BallastNodeRequest *r = &b->nodes.request;
    uint64_t share[BALLAST_NODES_MAX] = {}, can[BALLAST_NODES_MAX] = {}, dealt;
    unsigned i;

    for (i = 0; i < b->nodes.nr; i++) {
        can[i] = MIN(b->nodes.node[i].actual_pages, b->nodes.node[i].in_pages);
    }
    dealt = deal(r->wanted_pages, r->candidates, can, share);
    if (!r->exact) {
        dealt += deal(r->wanted_pages - dealt, ~r->candidates, can, share);
    }
    if (!dealt) {
        return false;
    }
    ballast_nodes_withdraw(b);
    for (i = 0; i < b->nodes.nr; i++) {
        if (share[i]) {
            set_target(b, i, b->nodes.node[i].actual_pages - share[i]);
        }
    }
    ballast_nodes_publish(b, driver_pages(b) - MIN(dealt, driver_pages(b)));
    return true;
}

static bool ask_plainly(BallastBalloon *b)
{
    BallastNodeRequest *r = &b->nodes.request;
    uint64_t actual = b->parent_obj.actual;

    if (r->up && !actual) {
        return false;
    }
    ballast_nodes_withdraw(b);
    ballast_nodes_publish(b, r->up ? actual - MIN(actual, r->wanted_pages) :
                          total(actual + r->wanted_pages));
    return true;
}

static bool ask_first(BallastBalloon *b)
{
    const BallastNodeRequest *r = &b->nodes.request;

    if (!r->by_driver) {
        return (!r->exact && ask_plainly(b)) || ask_mems(b);
    }
    return r->up ? ask_up(b) || ask_mems(b) : ask_down(b);
}

static bool ask_next(BallastBalloon *b)
{
    const BallastNodeRequest *r = &b->nodes.request;

    return r->by_driver && !r->up ? ask_down(b) : ask_mems(b);
}

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
    told = tell_request(b);
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
    if (r->active && !r->mems_asked && done && !ask_next(b)) {
        ballast_request_end(b, BALLOON_NODE_STATUS_REACHED);
    }
}

static void request_look(void *opaque)
{
    BallastBalloon *b = opaque;

    ballast_nodes_follow(b);
    if (b->nodes.request.active && !ballast_mems_busy(b)) {
        b->nodes.request.mems_asked = 0;
        if (!ask_next(b)) {
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

/* Its beginning: from a host node to guest nodes ------------------------- */

static bool host_has_node(uint32_t node)
{
    g_autofree char *path = g_strdup_printf(NODES_DIR "node%" PRIu32, node);

    return node < MAX_NODES &&
           (g_file_test(path, G_FILE_TEST_IS_DIR) ||
            (node == 0 && !g_file_test(NODES_DIR, G_FILE_TEST_IS_DIR)));
}

/* Is there memory on one node only, so that it can be nowhere else? */
static bool host_is_one_node(void)
{
    g_autofree char *nodes = NULL;

    return !g_file_get_contents(NODES_DIR "has_memory", &nodes, NULL, NULL) ||
           !strpbrk(nodes, ",-");
}

/* Free, or page cache: what a policy that binds could still get. */
static uint64_t node_free_bytes(uint32_t node)
{
    static const char *const names[] = {
        "MemFree:", "Active(file):", "Inactive(file):",
    };
    g_autofree char *path = g_strdup_printf(NODES_DIR "node%" PRIu32
                                            "/meminfo", node);
    g_autofree char *text = NULL;
    uint64_t kib = 0;
    unsigned i;

    if (!g_file_get_contents(path, &text, NULL, NULL)) {
        return UINT64_MAX;
    }
    for (i = 0; i < ARRAY_SIZE(names); i++) {
        char *at = strstr(text, names[i]);

        kib += at ? g_ascii_strtoull(at + strlen(names[i]), NULL, 10) : 0;
    }
    return kib * KiB;
}

static bool list_has(const uint32List *list, uint32_t value)
{
    for (; list; list = list->next) {
        if (list->value == value) {
            return true;
        }
    }
    return false;
}

bool ballast_backend_is_bound(const MemoryPlacementBackend *backend,
                              uint32_t host_node)
{
    return host_is_one_node() ||
           (!g_strcmp0(backend->policy, "bind") && backend->host_nodes &&
            !backend->host_nodes->next &&
            backend->host_nodes->value == host_node);
}

/* Can the memory of a guest node be on this host node only? */
static bool vnode_is_bound(const MemoryPlacement *p, uint32_t vnode,
                           uint32_t host_node)
{
    const MemoryPlacementBackendList *it;
    bool any = false;

    for (it = p->backends; it; it = it->next) {
        const MemoryPlacementBackend *backend = it->value;

        if (!list_has(backend->guest_nodes, vnode)) {
            continue;
        }
        any = true;
        if (!ballast_backend_is_bound(backend, host_node)) {
            return false;
        }
    }
    return any;
}

static void judge_vnode(BallastBalloon *b, const MemoryPlacement *p,
                        const MemoryPlacementVnode *v)
{
    BallastNodeRequest *r = &b->nodes.request;
    uint64_t here = 0, all = 0, absent;
    const BallastNode *node = &b->nodes.node[v->node];
    const MemoryPlacementNodeList *it;
    uint32_t bit = 1U << v->node;

    for (it = v->nodes; it; it = it->next) {
        all += it->value->bytes;
        here += it->value->node == r->host_node ? it->value->bytes : 0;
    }
    if (vnode_is_bound(p, v->node, r->host_node)) {
        absent = v->absent - MIN(v->absent,
                                 node->in_pages * BALLAST_PAGE_BYTES);
        r->bound |= bit;
        here += absent;
        all += absent;
    }
    r->can_pages[v->node] = here / BALLAST_PAGE_BYTES;
    if (here || r->bound & bit ||
        (r->up && node->from_bytes[r->host_node])) {
        r->candidates |= bit;
    }
    if (here && here >= all / 100 * PURE_PERCENT) {
        r->pure |= bit;
    }
}

static void find_candidates(BallastBalloon *b)
{
    g_autoptr(MemoryPlacement) p = ballast_placement(BALLAST_SAMPLES_DEFAULT);
    MemoryPlacementVnodeList *it;

    for (it = p->vnodes; it; it = it->next) {
        if (it->value->node < b->nodes.nr) {
            judge_vnode(b, p, it->value);
        }
    }
    if (b->nodes.request.virtio_mem) {
        ballast_mems_find(b, p);
    }
}

static bool has_something(const BallastNodeRequest *r)
{
    unsigned i;

    for (i = 0; i < BALLAST_NODES_MAX; i++) {
        if (r->candidates & (1U << i) && (r->up || r->can_pages[i])) {
            return true;
        }
    }
    return r->mems && r->mems->len;
}

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
    if (!host_has_node(host_node)) {
        error_setg(errp, "host-node is %" PRIu32 ", which this host has not",
                   host_node);
    } else if (!bytes || bytes > UINT32_MAX * BALLAST_PAGE_BYTES) {
        error_setg(errp, "bytes is %" PRIu64 "; allowed: 1 to %" PRIu64, bytes,
                   (uint64_t)(UINT32_MAX * BALLAST_PAGE_BYTES));
    } else if (!timeout || timeout > TIMEOUT_MAX_S) {
        error_setg(errp, "timeout is %" PRIu32 "; allowed: 1 to %d seconds",
                   timeout, TIMEOUT_MAX_S);
    } else if (up && exact && bytes > node_free_bytes(host_node)) {
        error_setg(errp, "host node %" PRIu32 " has only %" PRIu64 " bytes "
                   "left, and exact=true would bind %" PRIu64 " to it",
                   host_node, node_free_bytes(host_node), bytes);
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
    find_candidates(b);
}

static bool request_start(BallastBalloon *b, uint32_t timeout_s, Error **errp)
{
    BallastNodeRequest *r = &b->nodes.request;

    if (!has_something(r)) {
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
    if (!ask_first(b)) {
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

static BallastBalloon *find_device(void)
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
    BallastBalloon *b = find_device();
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
    BallastBalloon *b = find_device();

    if (!b || !b->nodes.request.active) {
        error_setg(errp, "there is no request of balloon-node");
        return;
    }
    ballast_request_end(b, BALLOON_NODE_STATUS_CANCELLED);
}

/* query-balloon-node ----------------------------------------------------- */

static BalloonNodeVnode *tell_vnode(const BallastBalloon *b, unsigned entry)
{
    const BallastNode *node = &b->nodes.node[entry];
    BalloonNodeVnode *out = g_new0(BalloonNodeVnode, 1);
    MemoryPlacementNodeList **tail = &out->from;
    unsigned i;

    out->has_node = entry < BALLAST_NODES_MAX;
    out->node = out->has_node ? entry : 0;
    out->ballooned = node->in_pages * BALLAST_PAGE_BYTES;
    out->said = node->actual_pages * BALLAST_PAGE_BYTES;
    out->has_target = node->target_pages != BALLAST_NO_TARGET;
    out->target = out->has_target ? node->target_pages * BALLAST_PAGE_BYTES : 0;
    out->absent = node->absent_bytes;
    out->unseen = node->unseen_bytes;
    out->back = node->back_bytes;
    for (i = 0; i < MAX_NODES; i++) {
        if (node->from_bytes[i]) {
            MemoryPlacementNode *from = g_new0(MemoryPlacementNode, 1);

            from->node = i;
            from->bytes = node->from_bytes[i];
            QAPI_LIST_APPEND(tail, from);
        }
    }
    return out;
}

BalloonNodeInfo *qmp_query_balloon_node(Error **errp)
{
    BallastBalloon *b = find_device();
    BalloonNodeVnodeList **tail;
    BalloonNodeInfo *out;
    unsigned i;

    if (!b) {
        error_setg(errp, "there is no virtio-balloon-ledger device");
        return NULL;
    }
    out = g_new0(BalloonNodeInfo, 1);
    out->driver = ballast_nodes_on(b);
    out->seq = b->nodes.seq;
    out->done_seq = b->nodes.done_seq;
    out->bad = b->bad_pages;
    out->placed = ballast_placed_bytes(b);
    out->unplaced = b->nodes.unplaced_bytes;
    tail = &out->vnodes;
    for (i = 0; i < b->nodes.nr; i++) {
        QAPI_LIST_APPEND(tail, tell_vnode(b, i));
    }
    if (ballast_vnode_count() > BALLAST_NODES_MAX) {
        QAPI_LIST_APPEND(tail, tell_vnode(b, BALLAST_NODES_MAX));
    }
    if (b->nodes.request.active) {
        out->request = tell_request(b);
    }
    return out;
}
