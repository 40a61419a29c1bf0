// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Free page hinting: during a migration the device asks (a command id in the
 * config space) which memory is free.  The driver takes free blocks, tells the
 * device of each, and keeps them until the device is done with the migration
 * (the id DONE); or until the guest is short of memory, then the shrinker gives
 * them back at once.  The virtio specification allows that: the device must
 * not lose what is written to a page after its hint was asked for.
 *
 * The queue has no interrupt: used buffers are collected when the next one
 * is added.
 */

#include <linux/delay.h>
#include <linux/gfp.h>
#include <linux/mm.h>
#include <linux/scatterlist.h>

#include "balloon.h"

/* Blocks smaller than this are not worth a hint. */
#define BB_HINT_LEAST	min_t(unsigned int, BB_TOP_ORDER, ilog2(SZ_2M >> PAGE_SHIFT))

/* Only what is free without effort, and no reserves. */
#define BB_HINT_GFP	(__GFP_NORETRY | __GFP_NOWARN | __GFP_NOMEMALLOC)

static u32 command(struct bb *bb)
{
	u32 id;

	virtio_cread_le(bb->vdev, struct virtio_balloon_config,
			free_page_hint_cmd_id, &id);
	return id;
}

/* -- the list -- */

static void keep(struct bb_hint *hint, struct page *page, unsigned int order)
{
	set_page_private(page, order);
	spin_lock_irq(&hint->lock);
	list_add(&page->lru, &hint->pages);
	hint->num += 1UL << order;
	spin_unlock_irq(&hint->lock);
}

static struct page *unkeep(struct bb_hint *hint)
{
	struct page *page;

	spin_lock_irq(&hint->lock);
	page = list_first_entry_or_null(&hint->pages, struct page, lru);
	if (page) {
		list_del(&page->lru);
		hint->num -= 1UL << page_private(page);
	}
	spin_unlock_irq(&hint->lock);
	return page;
}

static unsigned long give_back(struct bb_hint *hint, unsigned long pages)
{
	unsigned long done = 0;
	struct page *page;

	while (done < pages) {
		unsigned int order;

		page = unkeep(hint);
		if (!page)
			break;
		order = page_private(page);
		set_page_private(page, 0);
		__free_pages(page, order);
		done += 1UL << order;
	}
	return done;
}

void bb_hint_return(struct bb *bb)
{
	give_back(&bb->hint, ULONG_MAX);
}

static unsigned long shrink_count(struct shrinker *shrinker,
				  struct shrink_control *control)
{
	struct bb *bb = bb_shrinker_data(shrinker);

	return READ_ONCE(bb->hint.num);
}

static unsigned long shrink_scan(struct shrinker *shrinker,
				 struct shrink_control *control)
{
	struct bb *bb = bb_shrinker_data(shrinker);
	unsigned long done = give_back(&bb->hint, control->nr_to_scan);

	bb->count.hints_reclaimed += done;
	return done ? done : SHRINK_STOP;
}

/* -- the queue: its data pointers are command ids (to be freed) or BLOCK(bb) -- */

#define BLOCK(bb)	((void *)(bb))

static void collect(struct bb *bb)
{
	struct virtqueue *vq = bb->vq[BB_HINT_VQ];
	unsigned int unused;
	void *data;

	while ((data = virtqueue_get_buf(vq, &unused)))
		if (data != BLOCK(bb))
			kfree(data);
}

static bool stop_wanted(struct bb *bb)
{
	return READ_ONCE(bb->stopped) || test_bit(BB_NEWS_HINT, &bb->news) ||
		virtqueue_is_broken(bb->vq[BB_HINT_VQ]);
}

/* One entry stays free for the id that ends the hints. */
static bool wait_for_room(struct bb *bb)
{
	for (;;) {
		collect(bb);
		if (bb->vq[BB_HINT_VQ]->num_free > 1)
			return true;
		if (stop_wanted(bb))
			return false;
		usleep_range(50, 200);
	}
}

static void send_id(struct bb *bb, u32 id)
{
	struct virtqueue *vq = bb->vq[BB_HINT_VQ];
	struct scatterlist sg;
	__virtio32 *wire;

	wire = kmalloc(sizeof(*wire), GFP_KERNEL);
	if (!wire)
		return;
	*wire = cpu_to_virtio32(bb->vdev, id);
	sg_init_one(&sg, wire, sizeof(*wire));
	if (virtqueue_add_outbuf(vq, &sg, 1, wire, GFP_KERNEL)) {
		kfree(wire);
		return;
	}
	virtqueue_kick(vq);
}

static bool send_block(struct bb *bb, struct page *page, unsigned int order)
{
	struct virtqueue *vq = bb->vq[BB_HINT_VQ];
	struct scatterlist sg;

	sg_init_table(&sg, 1);
	sg_set_page(&sg, page, PAGE_SIZE << order, 0);
	if (virtqueue_add_inbuf(vq, &sg, 1, BLOCK(bb), GFP_KERNEL))
		return false;
	virtqueue_kick(vq);
	return true;
}

/* All free blocks of one order; false if the device wants to stop. */
static bool hint_order(struct bb *bb, unsigned int order)
{
	struct page *page;

	while (wait_for_room(bb)) {
		if (stop_wanted(bb))
			return false;
		page = alloc_pages(BB_HINT_GFP, order);
		if (!page)
			return true;
		if (!send_block(bb, page, order)) {
			__free_pages(page, order);
			return false;
		}
		bb->count.hinted += 1UL << order;
		keep(&bb->hint, page, order);
		cond_resched();
	}
	return false;
}

static void give_hints(struct bb *bb, u32 id)
{
	int order;

	collect(bb);
	send_id(bb, id);
	for (order = BB_TOP_ORDER; order >= (int)BB_HINT_LEAST; order--)
		if (!hint_order(bb, order))
			break;
	send_id(bb, VIRTIO_BALLOON_CMD_ID_STOP);
}

static void hint_work(struct work_struct *work)
{
	struct bb *bb = container_of(work, struct bb, hint.work);
	u32 id;

	while (test_and_clear_bit(BB_NEWS_HINT, &bb->news) &&
	       !READ_ONCE(bb->stopped)) {
		id = command(bb);
		if (id == VIRTIO_BALLOON_CMD_ID_DONE)
			bb_hint_return(bb);
		else if (id != VIRTIO_BALLOON_CMD_ID_STOP &&
			 id != bb->hint.last)
			give_hints(bb, id);
		if (id != VIRTIO_BALLOON_CMD_ID_STOP)
			bb->hint.last = id;
	}
}

int bb_hint_init(struct bb *bb)
{
	spin_lock_init(&bb->hint.lock);
	INIT_LIST_HEAD(&bb->hint.pages);
	INIT_WORK(&bb->hint.work, hint_work);
	if (!virtio_has_feature(bb->vdev, VIRTIO_BALLOON_F_FREE_PAGE_HINT))
		return 0;
	return bb_shrinker_register(&bb->hint.shrinker, bb, shrink_count,
				    shrink_scan);
}

void bb_hint_exit(struct bb *bb)
{
	if (!virtio_has_feature(bb->vdev, VIRTIO_BALLOON_F_FREE_PAGE_HINT))
		return;
	bb_shrinker_unregister(&bb->hint.shrinker);
	bb_hint_return(bb);
}

void bb_hint_detach(struct bb *bb)
{
	void *data;

	if (!bb->vq[BB_HINT_VQ])
		return;
	while ((data = virtqueue_detach_unused_buf(bb->vq[BB_HINT_VQ])))
		if (data != BLOCK(bb))
			kfree(data);
}
