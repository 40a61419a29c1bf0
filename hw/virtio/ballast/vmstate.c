/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Which pages are in the balloon, over migration.
 *
 * The destination's claim begins at the guest's full size and is lowered
 * when this state has come, by what the source says was given back.  The
 * guest's own figure ("actual" in configuration space) would be a guest's
 * word.  Left out while the balloon is empty, so that such a guest can be
 * migrated to the stock device's stream format.  A driver that negotiated
 * node ballooning needs its targets, and this device on the other side.
 *
 * Per block with ballooned pages: its name, then runs of pages (start,
 * length, in 4K pages, ascending), ended by a run of length 0; an empty
 * name ends the list.
 */
#include "qemu/osdep.h"
#include "hw/virtio/ballast/compat.h"
#include "internal.h"
#include "migration/qemu-file-types.h"
#include "migration/vmstate.h"
#include "qemu/bitmap.h"
#include "qemu/error-report.h"
#include "qemu/rcu_queue.h"

static void put_runs(QEMUFile *f, const BallastBlock *block)
{
    uint64_t first, end = 0;

    while (ballast_block_next(block, &first, &end)) {
        qemu_put_be64(f, first);
        qemu_put_be64(f, end - first);
    }
    qemu_put_be64(f, 0);
    qemu_put_be64(f, 0);
}

static int put_pages(QEMUFile *f, void *pv, size_t size,
                     const VMStateField *field, JSONWriter *vmdesc)
{
    BallastBalloon *b = container_of(pv, BallastBalloon, ballooned_pages);
    GHashTableIter iter;
    gpointer value;

    g_hash_table_iter_init(&iter, b->blocks);
    while (g_hash_table_iter_next(&iter, NULL, &value)) {
        BallastBlock *block = value;
        size_t len = strlen(block->rb->idstr);

        qemu_put_byte(f, len);
        qemu_put_buffer(f, (uint8_t *)block->rb->idstr, len);
        put_runs(f, block);
    }
    qemu_put_byte(f, 0);
    return 0;
}

static RAMBlock *block_by_name(const char *name)
{
    RAMBlock *rb;

    QLIST_FOREACH_RCU(rb, &ram_list.blocks, next) {
        if (g_str_equal(rb->idstr, name)) {
            return rb;
        }
    }
    return NULL;
}

/*
 * By words: the guest stands still meanwhile.  A stream that is wrong may name
 * a page twice; it counts once.
 */
static void set_run(BallastBalloon *b, BallastBlock *block, uint64_t first,
                    uint64_t nr)
{
    uint64_t end = first + nr, nr_new;

    for (; first < end; first += nr) {
        const BallastVnodePart *part = ballast_block_part(block, first);

        nr = MIN(end, part->end) - first;
        nr_new = nr - bitmap_count_one_with_offset(block->ballooned, first,
                                                   nr);
        bitmap_set(block->ballooned, first, nr);
        b->ballooned_pages += nr_new;
        b->nodes.node[part->entry].in_pages += nr_new;
    }
}

static int get_runs(QEMUFile *f, BallastBalloon *b, BallastBlock *block)
{
    uint64_t first, nr;

    for (;;) {
        first = qemu_get_be64(f);
        nr = qemu_get_be64(f);
        if (!nr) {
            return 0;
        }
        if (first >= block->pages || nr > block->pages - first) {
            error_report("balloon state: pages %" PRIu64 "+%" PRIu64
                         " of %s, which has %" PRIu64,
                         first, nr, block->rb->idstr, block->pages);
            return -EINVAL;
        }
        set_run(b, block, first, nr);
    }
}

static int get_pages(QEMUFile *f, void *pv, size_t size,
                     const VMStateField *field)
{
    BallastBalloon *b = container_of(pv, BallastBalloon, ballooned_pages);
    char name[256];
    RAMBlock *rb;
    uint8_t len;
    int ret;

    if (b->ballooned_pages) {
        ballast_balloon_void(b);
    }
    RCU_READ_LOCK_GUARD();
    while ((len = qemu_get_byte(f))) {
        if (qemu_get_buffer(f, (uint8_t *)name, len) != len) {
            return -EIO;
        }
        name[len] = 0;
        rb = block_by_name(name);
        if (!rb) {
            error_report("balloon state: no RAM block '%s'", name);
            return -EINVAL;
        }
        ret = get_runs(f, b, ballast_block(b, rb));
        if (ret < 0) {
            return ret;
        }
    }
    return 0;
}

static const VMStateInfo ballooned_info = {
    .name = "ballast-ballooned-pages",
    .put = put_pages,
    .get = get_pages,
};

/*
 * The pages may be populated here: preallocated, or sent before they went
 * into the balloon.
 */
static int ballooned_post_load(void *opaque, int version_id)
{
    ballast_discard_all(opaque);
    return 0;
}

static bool ballooned_needed(void *opaque)
{
    BallastBalloon *b = opaque;

    return b->ballooned_pages;
}

static const VMStateDescription vmstate_ballooned = {
    .name = "virtio-balloon-device/ballast-pages",
    .version_id = 1,
    .minimum_version_id = 1,
    .needed = ballooned_needed,
    .post_load = ballooned_post_load,
    .fields = (const VMStateField[]) {
        {
            .name = "pages",
            .info = &ballooned_info,
            .offset = vmstate_offset_value(BallastBalloon, ballooned_pages,
                                           uint64_t),
            .flags = VMS_SINGLE,
        },
        VMSTATE_END_OF_LIST()
    },
};

/* Node ballooning: what the guest was asked for, and what it says ------- */

static int nodes_post_load(void *opaque, int version_id)
{
    BallastBalloon *b = opaque;
    uint32_t here = ballast_nodes_count();

    if (b->nodes.nr != here) {
        error_report("balloon state: %" PRIu32 " guest nodes, here are %"
                     PRIu32, b->nodes.nr, here);
        return -EINVAL;
    }
    return 0;
}

static int nodes_pre_save(void *opaque)
{
    BallastBalloon *b = opaque;

    b->nodes.requested = b->nodes.request.active;
    return 0;
}

static bool nodes_needed(void *opaque)
{
    return ballast_nodes_on(opaque);
}

static const VMStateDescription vmstate_node = {
    .name = "ballast-node",
    .version_id = 1,
    .minimum_version_id = 1,
    .fields = (const VMStateField[]) {
        VMSTATE_UINT32(target_pages, BallastNode),
        VMSTATE_UINT32(actual_pages, BallastNode),
        VMSTATE_END_OF_LIST()
    },
};

static const VMStateDescription vmstate_nodes = {
    .name = "virtio-balloon-device/ballast-nodes",
    .version_id = 1,
    .minimum_version_id = 1,
    .needed = nodes_needed,
    .pre_save = nodes_pre_save,
    .post_load = nodes_post_load,
    .fields = (const VMStateField[]) {
        VMSTATE_UINT32(nodes.nr, BallastBalloon),
        VMSTATE_UINT32(nodes.seq, BallastBalloon),
        VMSTATE_UINT32(nodes.exact_mask, BallastBalloon),
        VMSTATE_UINT32(nodes.num_pages, BallastBalloon),
        VMSTATE_UINT32(nodes.done_seq, BallastBalloon),
        VMSTATE_UINT32(nodes.done_status, BallastBalloon),
        VMSTATE_BOOL(nodes.requested, BallastBalloon),
        VMSTATE_STRUCT_ARRAY(nodes.node, BallastBalloon,
                             BALLAST_NODES_MAX + 1, 1, vmstate_node,
                             BallastNode),
        VMSTATE_END_OF_LIST()
    },
};

const VMStateDescription *ballast_vmsd(const VMStateDescription *parent)
{
    static const VMStateDescription *subsections[8];
    static VMStateDescription vmsd;
    unsigned i;

    for (i = 0; parent->subsections && parent->subsections[i]; i++) {
        assert(i < ARRAY_SIZE(subsections) - 3);
        subsections[i] = parent->subsections[i];
    }
    subsections[i] = &vmstate_ballooned;
    subsections[i + 1] = &vmstate_nodes;
    vmsd = *parent;
    vmsd.subsections = subsections;
    return &vmsd;
}
