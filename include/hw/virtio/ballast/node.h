/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Node ballooning: the interface with the guest's driver, and what is kept
 * per guest node.
 *
 * Source: docs/spec/balloon-nodes.md.
 */
#ifndef BALLAST_NODE_H
#define BALLAST_NODE_H

#include "qemu/notify.h"
#include "qemu/timer.h"
#include "system/numa.h"

#define VIRTIO_BALLOON_F_BALLAST_NODES 50

#define BALLAST_NODES_FORMAT 0x31444e42U
#define BALLAST_NODES_MAX 16
#define BALLAST_NO_TARGET UINT32_MAX
/* Entries of a buffer, and the largest order of a block. */
#define BALLAST_NODES_MAX_BLOCKS 2048
#define BALLAST_NODES_MAX_ORDER 18

/** enum BallastDoneStatus - what the driver says when it is done */
typedef enum BallastDoneStatus {
    BALLAST_DONE_REACHED = 0,
    BALLAST_DONE_SHORT = 1,
} BallastDoneStatus;

/**
 * struct BallastNodesConfig - configuration space from offset 16 on
 *
 * Little-endian.  @done_seq, @done_status and node[].actual_pages are the
 * driver's.
 */
typedef struct BallastNodesConfig {
    uint32_t format;
    uint32_t num_nodes;
    uint32_t seq;
    uint32_t exact_mask;
    uint32_t block_pages;
    uint32_t done_seq;
    uint32_t done_status;
    struct {
        uint32_t proximity;
        uint32_t target_pages;
        uint32_t actual_pages;
    } node[BALLAST_NODES_MAX];
} BallastNodesConfig;

#define BALLAST_NODES_OFFSET 16
#define BALLAST_NODES_CONFIG_BYTES 236

QEMU_BUILD_BUG_ON(BALLAST_NODES_OFFSET + sizeof(BallastNodesConfig) !=
                  BALLAST_NODES_CONFIG_BYTES);

/**
 * struct BallastNode - a guest node, as host and guest see it
 * @target_pages: published, 4K pages that shall be in the balloon
 * @actual_pages: what the driver says
 * @in_pages: pages of it in the balloon, by what went over the queues
 * @from_bytes: given back to the host, ever, per host node it came from
 * @absent_bytes: the same, where there was nothing
 * @unseen_bytes: the same, where nobody looked
 * @back_bytes: given to the guest again, ever
 * @placed_bytes: of it, with a policy that places it where it was asked for
 */
typedef struct BallastNode {
    uint32_t target_pages;
    uint32_t actual_pages;
    uint64_t in_pages;
    uint64_t from_bytes[MAX_NODES];
    uint64_t absent_bytes;
    uint64_t unseen_bytes;
    uint64_t back_bytes;
    uint64_t placed_bytes;
} BallastNode;

/**
 * struct BallastNodeRequest - a request of balloon-node
 * @active: there is one
 * @number: of it, or of the latest
 * @host_node: asked for
 * @up: to the guest
 * @exact: nothing of other host nodes instead
 * @by_driver: the driver knows nodes; otherwise plain ballooning
 * @virtio_mem: virtio-mem devices may serve what is left
 * @mems: those which may, see node-mem.c; NULL: not looked for
 * @mems_asked: bytes that they were asked for; 0: not yet, or no more
 * @mems_done: they had their turn
 * @look: looks whether they are done
 * @last: what is left may come from anywhere now
 * @wanted_pages: asked for, 4K pages
 * @candidates: entries that have memory on @host_node, a bit each
 * @pure: of them, those which have nearly all of their memory there
 * @bound: of them, those which can be nowhere else
 * @can_pages: what is left on @host_node, estimated, per entry
 * @round: targets published for it so far
 * @start: state of the nodes at the beginning
 * @limit: the time limit, in guest time
 */
typedef struct BallastNodeRequest {
    bool active;
    uint32_t number;
    uint32_t host_node;
    bool up;
    bool exact;
    bool by_driver;
    bool virtio_mem;
    GArray *mems;
    uint64_t mems_asked;
    bool mems_done;
    QEMUTimer *look;
    bool last;
    uint64_t wanted_pages;
    uint32_t candidates;
    uint32_t pure;
    uint32_t bound;
    uint64_t can_pages[BALLAST_NODES_MAX];
    unsigned round;
    BallastNode *start;
    QEMUTimer *limit;
} BallastNodeRequest;

/**
 * struct BallastNodes - node ballooning of a device
 * @nr: guest nodes in the table
 * @seq: of the set of targets that is published
 * @exact_mask: of this set
 * @num_pages: of this set; another value in the device: "balloon" was used
 * @done_seq: written by the driver
 * @done_status: written by the driver
 * @node: the last is for all guest nodes beyond the table
 * @request: see there
 * @requested: the targets are of a request that was left behind
 * @spans: guest memory with a policy of ours, see node-place.c
 * @sweep: looks which of them need none any more
 * @unplaced_bytes: given to the guest without one, ever
 * @migrated: notifier of migrations from here
 */
typedef struct BallastNodes {
    uint32_t nr;
    uint32_t seq;
    uint32_t exact_mask;
    uint32_t num_pages;
    uint32_t done_seq;
    uint32_t done_status;
    BallastNode node[BALLAST_NODES_MAX + 1];
    BallastNodeRequest request;
    bool requested;
    GArray *spans;
    QEMUTimer *sweep;
    uint64_t unplaced_bytes;
    NotifierWithReturn migrated;
} BallastNodes;

#endif
