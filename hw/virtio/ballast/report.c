/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Reported free pages: discarded, but never given away.
 *
 * The guest may write to a reported page again without asking, so the claim
 * stays; the memory moves from resident to outstanding by itself, when the
 * next sample finds it absent.
 */
#include "qemu/osdep.h"
#include "hw/virtio/ballast/compat.h"
#include "internal.h"
#include "qemu/main-loop.h"
#include "trace-hw_virtio_ballast.h"

/*
 * Whatever is not guest RAM was mapped through a bounce buffer, which is
 * in no block; the bytes of it are never written back.
 */
static bool report_range(void *host, size_t bytes)
{
    ram_addr_t offset;
    RAMBlock *rb = qemu_ram_block_from_host(host, false, &offset);

    return rb && bytes && QEMU_IS_ALIGNED(offset | bytes, rb->page_size) &&
           offset < rb->used_length && bytes <= rb->used_length - offset &&
           ballast_discard(rb, offset, bytes);
}

static uint64_t report_elem(BallastBalloon *b, VirtQueueElement *elem)
{
    uint64_t bytes = 0;
    unsigned i;

    for (i = 0; i < elem->in_num; i++) {
        if (report_range(elem->in_sg[i].iov_base, elem->in_sg[i].iov_len)) {
            bytes += elem->in_sg[i].iov_len;
        } else {
            b->bad_pages++;
        }
    }
    return bytes;
}

void ballast_handle_report(VirtIODevice *vdev, VirtQueue *vq)
{
    BallastBalloon *b = BALLAST_BALLOON(vdev);
    VirtQueueElement *elem;
    unsigned buffers = 0;
    uint64_t bytes = 0;

    if (!vdev->vm_running) {
        return;
    }
    RCU_READ_LOCK_GUARD();
    while (buffers < BALLAST_RUN_BUFFERS &&
           (elem = virtqueue_pop(vq, sizeof(*elem)))) {
        /* A guest that expects its poison must find it again. */
        if (!ballast_discard_inhibited() && !b->parent_obj.poison_val) {
            bytes += report_elem(b, elem);
        }
        virtqueue_push(vq, elem, 0);
        g_free(elem);
        buffers++;
    }
    if (buffers == BALLAST_RUN_BUFFERS) {
        qemu_bh_schedule(b->more);
    }
    if (buffers) {
        trace_ballast_report(ballast_claim_slot(), bytes, b->bad_pages);
        virtio_notify(vdev, vq);
    }
}
