/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Node ballooning: feature bit and configuration space.
 *
 * The fields stand behind those of the specification, at fixed offsets
 * whatever the parent has of its own.  What the driver writes there is kept
 * and shown, and steers what this driver is asked for next; nothing else
 * depends on it.
 */
#include "qemu/osdep.h"
#include "hw/virtio/ballast/placement.h"
#include "internal.h"
#include "qemu/units.h"
#include "trace-hw_virtio_ballast.h"

/* What the guest gives in smaller pieces is of less use: THP, or hugetlb. */
#define THP_BYTES (2 * MiB)

static uint32_t block_pages(void)
{
    return MAX(THP_BYTES, qemu_real_host_page_size()) / BALLAST_PAGE_BYTES;
}

void ballast_nodes_withdraw(BallastBalloon *b)
{
    unsigned i;

    b->nodes.exact_mask = 0;
    for (i = 0; i < ARRAY_SIZE(b->nodes.node); i++) {
        b->nodes.node[i].target_pages = BALLAST_NO_TARGET;
    }
}

uint32_t ballast_nodes_count(void)
{
    return MIN(ballast_vnode_count(), BALLAST_NODES_MAX);
}

void ballast_nodes_init(BallastBalloon *b)
{
    b->nodes = (BallastNodes) {
        .nr = ballast_nodes_count(),
    };
    ballast_nodes_withdraw(b);
    ballast_place_init(b);
    ballast_request_init(b);
}

/*
 * The parent's realize has made the configuration space, and only now is it
 * known whether drivers will be modern.
 */
void ballast_nodes_offer(BallastBalloon *b, uint64_t *features)
{
    VirtIODevice *vdev = VIRTIO_DEVICE(b);

    if (!b->node_balloon ||
        !virtio_has_feature(*features, VIRTIO_F_VERSION_1)) {
        return;
    }
    virtio_add_feature(features, VIRTIO_BALLOON_F_BALLAST_NODES);
    if (vdev->config_len < BALLAST_NODES_CONFIG_BYTES) {
        vdev->config = g_realloc(vdev->config, BALLAST_NODES_CONFIG_BYTES);
        memset(vdev->config + vdev->config_len, 0,
               BALLAST_NODES_CONFIG_BYTES - vdev->config_len);
        vdev->config_len = BALLAST_NODES_CONFIG_BYTES;
    }
}

static bool has_space(BallastBalloon *b)
{
    return VIRTIO_DEVICE(b)->config_len >= BALLAST_NODES_CONFIG_BYTES;
}

void ballast_nodes_publish(BallastBalloon *b, uint32_t num_pages)
{
    BallastNodes *n = &b->nodes;

    n->num_pages = num_pages;
    b->parent_obj.num_pages = num_pages;
    /* 0 is for "none yet". */
    n->seq = n->seq == UINT32_MAX ? 1 : n->seq + 1;
    trace_ballast_nodes_publish(n->seq, num_pages, n->exact_mask);
    virtio_notify_config(VIRTIO_DEVICE(b));
}

/* The parent's command "balloon" replaces whatever nodes were asked for. */
void ballast_nodes_follow(BallastBalloon *b)
{
    if (b->nodes.num_pages != b->parent_obj.num_pages) {
        b->nodes.num_pages = b->parent_obj.num_pages;
        ballast_nodes_withdraw(b);
        ballast_request_end(b, BALLOON_NODE_STATUS_REPLACED);
        b->nodes.seq = b->nodes.seq == UINT32_MAX ? 1 : b->nodes.seq + 1;
    }
}

static void fill(BallastNodesConfig *c, const BallastNodes *n)
{
    unsigned i;

    *c = (BallastNodesConfig) {
        .format = cpu_to_le32(BALLAST_NODES_FORMAT),
        .num_nodes = cpu_to_le32(n->nr),
        .seq = cpu_to_le32(n->seq),
        .exact_mask = cpu_to_le32(n->exact_mask),
        .block_pages = cpu_to_le32(block_pages()),
        .done_seq = cpu_to_le32(n->done_seq),
        .done_status = cpu_to_le32(n->done_status),
    };
    for (i = 0; i < n->nr; i++) {
        c->node[i].proximity = cpu_to_le32(i);
        c->node[i].target_pages = cpu_to_le32(n->node[i].target_pages);
        c->node[i].actual_pages = cpu_to_le32(n->node[i].actual_pages);
    }
}

void ballast_nodes_get_config(BallastBalloon *b, uint8_t *config)
{
    BallastNodesConfig c;

    ballast_nodes_follow(b);
    if (has_space(b)) {
        fill(&c, &b->nodes);
        memcpy(config + BALLAST_NODES_OFFSET, &c, sizeof(c));
    }
}

void ballast_nodes_set_config(BallastBalloon *b, const uint8_t *config)
{
    BallastNodes *n = &b->nodes;
    BallastNodesConfig c;
    uint32_t done_seq = n->done_seq;
    unsigned i;

    if (!has_space(b) || !ballast_nodes_on(b)) {
        ballast_request_step(b);
        return;
    }
    memcpy(&c, config + BALLAST_NODES_OFFSET, sizeof(c));
    for (i = 0; i < n->nr; i++) {
        n->node[i].actual_pages = le32_to_cpu(c.node[i].actual_pages);
    }
    n->done_status = le32_to_cpu(c.done_status);
    n->done_seq = le32_to_cpu(c.done_seq);
    if (n->done_seq != done_seq) {
        trace_ballast_nodes_done(n->seq, n->done_seq, n->done_status);
    }
    ballast_request_step(b);
}

void ballast_nodes_void(BallastBalloon *b)
{
    unsigned i;

    for (i = 0; i < ARRAY_SIZE(b->nodes.node); i++) {
        b->nodes.node[i].in_pages = 0;
    }
}

void ballast_nodes_reset(BallastBalloon *b)
{
    VirtIODevice *vdev = VIRTIO_DEVICE(b);
    unsigned i;

    ballast_nodes_withdraw(b);
    b->nodes.done_seq = 0;
    b->nodes.done_status = 0;
    for (i = 0; i < ARRAY_SIZE(b->nodes.node); i++) {
        b->nodes.node[i].actual_pages = 0;
    }
    /* A write of one field brings the others as they are here. */
    VIRTIO_DEVICE_GET_CLASS(vdev)->get_config(vdev, vdev->config);
}
