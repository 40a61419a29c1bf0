// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The inflate and deflate queues: blocks where the device knows them, lists
 * of 4K page numbers where it does not.
 *
 * One message is under way at a time: when the device has answered, it has
 * seen the whole of it.  Inflating does not wait for that at once, and takes
 * pages meanwhile; all else that is told waits first, so that the device
 * never sees a deflate before the inflate of the same block.  A device that
 * is broken or gone answers nothing; then nothing more is told.
 */

#include <linux/scatterlist.h>

#include "balloon.h"

/*
 * As long as it takes: the device may hold a deflate buffer until the host has
 * the memory.  Nobody wakes us when a device breaks, so look now and then.
 */
bool bb_wait_answer(struct bb *bb, struct virtqueue *vq)
{
	unsigned int unused;
	bool answered = false;

	while (!wait_event_timeout(bb->answered,
				   (answered = virtqueue_get_buf(vq, &unused)) ||
				   virtqueue_is_broken(vq), HZ))
		;
	return answered;
}

void bb_message_wait(struct bb *bb)
{
	struct bb_message *message = &bb->message;

	if (message->under_way)
		bb_wait_answer(bb, message->vq);
	message->under_way = false;
}

void bb_message_post(struct bb *bb)
{
	struct bb_message *message = &bb->message;
	struct virtqueue *vq = message->vq;
	struct scatterlist sg;

	if (!message->num)
		return;
	if (bb->ranges)
		sg_init_one(&sg, message->range,
			    message->num * sizeof(message->range[0]));
	else
		sg_init_one(&sg, message->pfn,
			    message->num * sizeof(message->pfn[0]));
	message->num = 0;
	message->pages = 0;

	/* The queue is empty, and a single descriptor needs no memory. */
	if (virtqueue_add_outbuf(vq, &sg, 1, message, GFP_NOWAIT))
		return;
	virtqueue_kick(vq);
	message->under_way = true;
}

void bb_message_send(struct bb *bb)
{
	bb_message_post(bb);
	bb_message_wait(bb);
}

static void message_range(struct bb *bb, struct page *page, unsigned int order)
{
	struct bb_message *message = &bb->message;
	u64 entry = page_to_phys(page) | (order + BB_UNIT_ORDER);

	message->range[message->num++] = cpu_to_le64(entry);
	message->pages += 1UL << (order + BB_UNIT_ORDER);
	if (message->num == ARRAY_SIZE(message->range) ||
	    message->pages >= BB_MESSAGE_PAGES)
		bb_message_send(bb);
}

static void message_pfns(struct bb *bb, struct page *page, unsigned int order)
{
	struct bb_message *message = &bb->message;
	u32 first = page_to_phys(page) >> VIRTIO_BALLOON_PFN_SHIFT;
	u32 i;

	for (i = 0; i < 1U << (order + BB_UNIT_ORDER); i++) {
		message->pfn[message->num++] =
			cpu_to_virtio32(bb->vdev, first + i);
		if (message->num == ARRAY_SIZE(message->pfn))
			bb_message_send(bb);
	}
}

void bb_message_add(struct bb *bb, struct virtqueue *vq, struct page *page,
		    unsigned int order)
{
	bb_message_wait(bb);
	bb->message.vq = vq;
	if (bb->ranges)
		message_range(bb, page, order);
	else
		message_pfns(bb, page, order);
}
