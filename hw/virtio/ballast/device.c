/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * virtio-balloon-ledger-device: life of the device.
 *
 * The parent keeps configuration space, features, statistics, the balloon's
 * QMP handlers and the cmd id; this class takes over the inflate, deflate,
 * reporting and hint queues after the parent's realize.  A queue keeps its
 * index and its address when its handler is replaced.
 */
#include "qemu/osdep.h"
#include "hw/qdev-properties.h"
#include "hw/virtio/ballast/compat.h"
#include "internal.h"
#include "qapi/error.h"
#include "qemu/main-loop.h"
#include "qemu/module.h"
#include "system/iothread.h"

typedef struct BallastBalloonClass {
    VirtioDeviceClass parent_class;
    VirtioDeviceClass parent;
} BallastBalloonClass;

static const VirtioDeviceClass *parent_of(void *obj)
{
    return &((BallastBalloonClass *)object_get_class(OBJECT(obj)))->parent;
}

void ballast_take_over(VirtIODevice *vdev, VirtQueue *vq,
                       VirtIOHandleOutput handler)
{
    int index = virtio_get_queue_index(vq);
    int size = virtio_queue_get_num(vdev, index);
    VirtQueue *again;

    virtio_del_queue(vdev, index);
    again = virtio_add_queue(vdev, size, handler);
    assert(again == vq);
}

/* Properties ---------------------------------------------------------- */

static bool parse_deflate(BallastBalloon *b, Error **errp)
{
    static const char *const names[] = {
        [BALLAST_DEFLATE_GATE] = "gate",
        [BALLAST_DEFLATE_ALLOW] = "allow",
        [BALLAST_DEFLATE_OBSERVE] = "observe",
    };
    unsigned i;

    for (i = 0; i < ARRAY_SIZE(names); i++) {
        if (!b->deflate_text || g_str_equal(b->deflate_text, names[i])) {
            b->deflate = i;
            return true;
        }
    }
    error_setg(errp, "property 'deflate' is '%s'; allowed: gate, allow, "
               "observe", b->deflate_text);
    return false;
}

/* Hints need a thread of their own; the user need not name one. */
static bool ensure_iothread(BallastBalloon *b, Error **errp)
{
    static unsigned made;
    VirtIOBalloon *s = &b->parent_obj;
    g_autofree char *name = NULL;

    if (s->iothread ||
        !virtio_has_feature(s->host_features,
                            VIRTIO_BALLOON_F_FREE_PAGE_HINT)) {
        return true;
    }
    /* Creating one under a name that exists aborts QEMU. */
    name = g_strdup_printf("ballast-hints%u", made++);
    b->hintq.own_iothread = iothread_create(name, errp);
    s->iothread = b->hintq.own_iothread;
    return s->iothread;
}

static void drop_iothread(BallastBalloon *b)
{
    if (b->hintq.own_iothread) {
        b->parent_obj.iothread = NULL;
        iothread_destroy(b->hintq.own_iothread);
        b->hintq.own_iothread = NULL;
    }
}

/* Blocks that go away ------------------------------------------------- */

typedef struct BlockNotifier {
    RAMBlockNotifier n;
    BallastBalloon *b;
} BlockNotifier;

static gboolean block_has_host(gpointer key, gpointer value, gpointer host)
{
    return ((BallastBlock *)value)->rb->host == host;
}

static void block_removed(RAMBlockNotifier *n, void *host, size_t size,
                          size_t max_size)
{
    BallastBalloon *b = container_of(n, BlockNotifier, n)->b;
    BallastBlock *block = g_hash_table_find(b->blocks, block_has_host, host);

    if (block) {
        ballast_place_drop(b, block);
        ballast_block_gone(b, block);
        g_hash_table_remove(b->blocks, block->rb);
    }
}

static BlockNotifier block_notifier = {
    .n.ram_block_removed = block_removed,
};

/* Realize ------------------------------------------------------------- */

/* A run of a queue's handler is bounded; what is left has its turn here. */
static void handle_more(void *opaque)
{
    BallastBalloon *b = opaque;
    VirtIODevice *vdev = VIRTIO_DEVICE(b);
    VirtIOBalloon *s = &b->parent_obj;

    if (!vdev->vm_running || vdev->broken ||
        !(vdev->status & VIRTIO_CONFIG_S_DRIVER_OK)) {
        return;
    }
    ballast_handle_inflate(vdev, s->ivq);
    ballast_handle_deflate(vdev, s->dvq);
    if (s->reporting_vq) {
        ballast_handle_report(vdev, s->reporting_vq);
    }
}

static void take_queues_over(BallastBalloon *b)
{
    VirtIODevice *vdev = VIRTIO_DEVICE(b);
    VirtIOBalloon *s = &b->parent_obj;

    ballast_take_over(vdev, s->ivq, ballast_handle_inflate);
    ballast_take_over(vdev, s->dvq, ballast_handle_deflate);
    if (s->reporting_vq) {
        ballast_take_over(vdev, s->reporting_vq, ballast_handle_report);
    }
    ballast_hintq_init(b);
}

static void ballast_realize(DeviceState *dev, Error **errp)
{
    BallastBalloon *b = BALLAST_BALLOON(dev);
    Error *err = NULL;

    if (!parse_deflate(b, errp) || !ensure_iothread(b, errp)) {
        return;
    }
    ballast_hints_install();
    parent_of(dev)->realize(dev, &err);
    if (err) {
        drop_iothread(b);
        error_propagate(errp, err);
        return;
    }
    b->blocks = g_hash_table_new_full(NULL, NULL, NULL, ballast_block_free);
    ballast_nodes_init(b);
    /* QEMU allows one balloon, so one notifier is enough. */
    block_notifier.b = b;
    ram_block_notifier_add(&block_notifier.n);
    ballast_gate_init(b);
    b->more = qemu_bh_new_guarded(handle_more, b,
                                  &dev->mem_reentrancy_guard);
    take_queues_over(b);
}

static void ballast_unrealize(DeviceState *dev)
{
    BallastBalloon *b = BALLAST_BALLOON(dev);

    ballast_request_destroy(b);
    ballast_balloon_void(b);
    ballast_gate_destroy(b);
    qemu_bh_delete(b->more);
    ballast_hintq_destroy(b);
    ram_block_notifier_remove(&block_notifier.n);
    ballast_place_destroy(b);
    g_hash_table_destroy(b->blocks);
    parent_of(dev)->unrealize(dev);
    drop_iothread(b);
}

static void ballast_reset(VirtIODevice *vdev)
{
    BallastBalloon *b = BALLAST_BALLOON(vdev);

    ballast_request_end(b, BALLOON_NODE_STATUS_RESET);
    ballast_gate_drop(b);
    ballast_hintq_reset(b);
    ballast_place_drop(b, NULL);
    ballast_balloon_void(b);
    parent_of(vdev)->reset(vdev);
    ballast_nodes_reset(b);
}

/* The driver may reset one queue alone (VIRTIO_F_RING_RESET). */
static void ballast_queue_reset(VirtIODevice *vdev, uint32_t index)
{
    BallastBalloon *b = BALLAST_BALLOON(vdev);
    VirtQueue *vq = virtio_get_queue(vdev, index);

    if (vq == b->parent_obj.dvq) {
        ballast_gate_drop(b);
    } else if (vq == b->parent_obj.free_page_vq) {
        ballast_hintq_reset(b);
    }
    if (parent_of(vdev)->queue_reset) {
        parent_of(vdev)->queue_reset(vdev, index);
    }
}

static uint64_t ballast_get_features(VirtIODevice *vdev, uint64_t features,
                                     Error **errp)
{
    features = parent_of(vdev)->get_features(vdev, features, errp);
    virtio_add_feature(&features, VIRTIO_BALLOON_F_MUST_TELL_HOST);
    ballast_nodes_offer(BALLAST_BALLOON(vdev), &features);
    return features;
}

static void ballast_get_config(VirtIODevice *vdev, uint8_t *config)
{
    parent_of(vdev)->get_config(vdev, config);
    ballast_nodes_get_config(BALLAST_BALLOON(vdev), config);
}

static void ballast_set_config(VirtIODevice *vdev, const uint8_t *config)
{
    parent_of(vdev)->set_config(vdev, config);
    ballast_nodes_set_config(BALLAST_BALLOON(vdev), config);
}

static void after_status(BallastBalloon *b, uint8_t status)
{
    if (!VIRTIO_DEVICE(b)->vm_running) {
        ballast_gate_pause(b);
    } else if (status & VIRTIO_CONFIG_S_DRIVER_OK) {
        ballast_discard_kept(b);
        ballast_request_left(b);
        qemu_bh_schedule(b->more);
        ballast_hintq_kick(b);
    }
}

static BALLAST_SET_STATUS ballast_set_status(VirtIODevice *vdev,
                                             uint8_t status)
{
    BALLAST_SET_STATUS_RETURN(parent_of(vdev)->set_status(vdev, status),
                              after_status(BALLAST_BALLOON(vdev), status));
}

static const Property ballast_properties[] = {
    DEFINE_PROP_STRING("deflate", BallastBalloon, deflate_text),
    DEFINE_PROP_BOOL("node-balloon", BallastBalloon, node_balloon, true),
};

static void ballast_class_init(ObjectClass *klass, BALLAST_CLASS_DATA *data)
{
    BallastBalloonClass *bc = (BallastBalloonClass *)klass;
    VirtioDeviceClass *vdc = VIRTIO_DEVICE_CLASS(klass);

    bc->parent = *vdc;
    device_class_set_props(DEVICE_CLASS(klass), ballast_properties);
    vdc->realize = ballast_realize;
    vdc->unrealize = ballast_unrealize;
    vdc->reset = ballast_reset;
    vdc->queue_reset = ballast_queue_reset;
    vdc->get_features = ballast_get_features;
    vdc->get_config = ballast_get_config;
    vdc->set_config = ballast_set_config;
    vdc->set_status = ballast_set_status;
    vdc->vmsd = ballast_vmsd(vdc->vmsd);
}

static const TypeInfo ballast_balloon_info = {
    .name = TYPE_BALLAST_BALLOON,
    .parent = TYPE_VIRTIO_BALLOON,
    .instance_size = sizeof(BallastBalloon),
    .class_size = sizeof(BallastBalloonClass),
    .class_init = ballast_class_init,
};

static void ballast_register_types(void)
{
    type_register_static(&ballast_balloon_info);
}

type_init(ballast_register_types)
