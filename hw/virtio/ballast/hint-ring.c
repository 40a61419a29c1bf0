/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Hints off the ring without virtqueue_pop().
 *
 * For each element QEMU's popper clears 24 KiB of stack (10.0 is built so),
 * allocates, maps and unmaps: half of what a hint costs.  Linux queues each
 * hint as one descriptor that the device may write and that names plain RAM.
 * Such descriptors of a split ring are taken here; all else - an id, a chain,
 * an indirect table, anything odd or wrong - is left where it is, for
 * virtqueue_pop() to take or to refuse.
 *
 * QEMU keeps its own idea of both indices.  It is told as if a vhost back end
 * had worked on the ring, whose interface this is, before anything else
 * touches the queue.  So nothing of ours survives a call, and a migration or
 * a reset between two of them finds a ring like any other.
 *
 * Context: big lock, RCU read side; guests may write to the rings meanwhile,
 * so each field is read once.  What a guest does to the used index harms its
 * own ring only.
 */
#include "qemu/osdep.h"
#include "hw/virtio/ballast/compat.h"
#include "hw/virtio/virtio-access.h"
#include "hw/virtio/virtio-bus.h"
#include "internal.h"
#include "standard-headers/linux/virtio_ring.h"

/* Guest memory that is RAM, and where QEMU has it. */
typedef struct Window {
    hwaddr start, bytes;
    char *host;
    MemoryRegion *mr;
    hwaddr offset_bytes;        /* of @start in @mr */
} Window;

typedef struct Ring {
    VirtIODevice *vdev;
    int queue;
    uint16_t num;
    const struct vring_desc *desc;
    const struct vring_avail *avail;
    struct vring_used *used;
    Window used_window;
    /* Where hints were found last: they are many, regions are few. */
    Window ram;
} Ring;

static bool in_window(const Window *w, hwaddr addr, hwaddr bytes)
{
    return addr >= w->start && addr - w->start < w->bytes &&
           bytes <= w->bytes - (addr - w->start);
}

/* At least @bytes at @addr, of RAM that a device may write. */
static bool open_window(VirtIODevice *vdev, hwaddr addr, hwaddr bytes,
                        Window *w)
{
    hwaddr length = HWADDR_MAX - addr, offset;
    MemoryRegion *mr = address_space_translate(vdev->dma_as, addr, &offset,
                                               &length, true,
                                               MEMTXATTRS_UNSPECIFIED);

    if (length < bytes ||
        !memory_access_is_direct(mr, true, MEMTXATTRS_UNSPECIFIED)) {
        return false;
    }
    *w = (Window) {
        .start = addr, .bytes = length, .mr = mr, .offset_bytes = offset,
        .host = (char *)memory_region_get_ram_ptr(mr) + offset,
    };
    return true;
}

static char *find_ram(Ring *r, hwaddr addr, hwaddr bytes)
{
    if (!in_window(&r->ram, addr, bytes) &&
        !open_window(r->vdev, addr, bytes, &r->ram)) {
        return NULL;
    }
    return r->ram.host + (addr - r->ram.start);
}

static bool is_plain(VirtIODevice *vdev)
{
    return !virtio_vdev_has_feature(vdev, VIRTIO_F_RING_PACKED) &&
           !virtio_vdev_has_feature(vdev, VIRTIO_F_IN_ORDER) &&
           !virtio_vdev_has_feature(vdev, VIRTIO_F_IOMMU_PLATFORM) &&
           !virtio_is_big_endian(vdev);
}

static bool open_ring(Ring *r, VirtIODevice *vdev, VirtQueue *vq)
{
    int n = virtio_get_queue_index(vq);
    hwaddr desc = virtio_queue_get_desc_addr(vdev, n);
    hwaddr avail = virtio_queue_get_avail_addr(vdev, n);
    hwaddr used = virtio_queue_get_used_addr(vdev, n);
    uint16_t num = virtio_queue_get_num(vdev, n);
    Window w;

    *r = (Ring) { .vdev = vdev, .queue = n, .num = num };
    if (!is_plain(vdev) || !desc || !num || avail % 2 || used % 4 ||
        !open_window(vdev, desc, sizeof(struct vring_desc) * num, &w)) {
        return false;
    }
    r->desc = (void *)w.host;
    if (!open_window(vdev, avail, sizeof(*r->avail) + 2 * num, &w)) {
        return false;
    }
    r->avail = (void *)w.host;
    if (!open_window(vdev, used, sizeof(*r->used) +
                     sizeof(struct vring_used_elem) * num, &r->used_window)) {
        return false;
    }
    r->used = (void *)r->used_window.host;
    return true;
}

/* The hint that descriptor @head is; false if it is something else. */
static bool read_hint(Ring *r, uint16_t head, BallastHint *hint)
{
    struct vring_desc d;

    if (head >= r->num) {
        return false;
    }
    memcpy(&d, &r->desc[head], sizeof(d));
    barrier();
    hint->bytes = le32_to_cpu(d.len);
    if (le16_to_cpu(d.flags) != VRING_DESC_F_WRITE || !hint->bytes) {
        return false;
    }
    hint->addr = find_ram(r, le64_to_cpu(d.addr), hint->bytes);
    return hint->addr;
}

static void put_used(Ring *r, uint16_t at, uint16_t head)
{
    struct vring_used_elem *elem = &r->used->ring[at % r->num];

    elem->id = cpu_to_le32(head);
    elem->len = 0;
}

/* The guest may have the buffers again; QEMU goes on from here. */
static void publish(Ring *r, uint16_t last, uint16_t used)
{
    Window *w = &r->used_window;

    /* Elements before the index that makes them known. */
    smp_wmb();
    qatomic_set(&r->used->idx, cpu_to_le16(used));
    memory_region_set_dirty(w->mr, w->offset_bytes, sizeof(*r->used) +
                            sizeof(struct vring_used_elem) * r->num);
    virtio_queue_set_last_avail_idx(r->vdev, r->queue, last);
    virtio_queue_update_used_idx(r->vdev, r->queue);
}

unsigned ballast_hint_ring_take(VirtIODevice *vdev, VirtQueue *vq,
                                GArray *hints, unsigned most)
{
    uint16_t last, used, waiting, head;
    BallastHint hint;
    unsigned nr;
    Ring r;

    RCU_READ_LOCK_GUARD();
    if (vdev->broken || !open_ring(&r, vdev, vq)) {
        return 0;
    }
    last = virtio_queue_get_last_avail_idx(vdev, r.queue);
    waiting = le16_to_cpu(qatomic_read(&r.avail->idx)) - last;
    if (!waiting || waiting > r.num) {
        return 0;
    }
    /* What the index makes known after the index. */
    smp_rmb();
    used = le16_to_cpu(qatomic_read(&r.used->idx));
    for (nr = 0; nr < MIN(most, waiting); nr++) {
        head = le16_to_cpu(qatomic_read(&r.avail->ring[(uint16_t)(last + nr) %
                                                       r.num]));
        if (!read_hint(&r, head, &hint)) {
            break;
        }
        g_array_append_val(hints, hint);
        put_used(&r, used + nr, head);
    }
    if (nr) {
        publish(&r, last + nr, used + nr);
    }
    return nr;
}
