/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What is told of balloon-node: what came of a request, and what is in the
 * balloon by guest and host node.
 *
 * What was got is what the host saw go over the queues since the request
 * began.  A guest can move the same pages there and back at will, so it is
 * never more than what there is more (or less) in the balloon now.
 */
#include "qemu/osdep.h"
#include "hw/virtio/ballast/placement.h"
#include "internal.h"
#include "qapi/error.h"
#include "qapi/qapi-commands-ballast.h"

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

uint64_t ballast_request_left_pages(const BallastBalloon *b)
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

BalloonNodeRequest *ballast_request_tell(const BallastBalloon *b)
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
    BallastBalloon *b = ballast_node_device();
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
        out->request = ballast_request_tell(b);
    }
    return out;
}
