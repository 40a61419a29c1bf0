// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Compaction wants the place of a ballooned page, and offers another one: the
 * new page goes into the balloon, then the old one is taken out of it.
 *
 * Both pages are locked by the caller.  bb.lock is only tried: who holds it
 * may wait for the lock of this page.  The new page may be of another node
 * (memory that goes offline, a contiguous range that is wanted); it is then
 * counted there, and steering sees to the targets.
 */

#include <linux/migrate.h>
#include <linux/mm.h>
#include <linux/vmstat.h>

#include "balloon.h"

#ifdef BB_HAVE_BALLOON_MIGRATION

static void move_count(struct bb_node *to, struct page *new,
		       struct bb_node *from, struct page *old)
{
	WRITE_ONCE(from->held, from->held - 1);
	WRITE_ONCE(to->held, to->held + 1);
	if (bb_count_managed(to->bb) && page_zone(new) != page_zone(old)) {
		adjust_managed_page_count(old, 1);
		adjust_managed_page_count(new, -1);
	}
}

static void put_in_place(struct bb_node *to, struct page *new,
			 struct bb_node *from)
{
	unsigned long flags;

	get_page(new);
	spin_lock_irqsave(&to->info.pages_lock, flags);
	balloon_page_insert(&to->info, new);
	__count_vm_event(BALLOON_MIGRATE);
	spin_unlock_irqrestore(&to->info.pages_lock, flags);

	spin_lock_irqsave(&from->info.pages_lock, flags);
	from->info.isolated_pages--;
	spin_unlock_irqrestore(&from->info.pages_lock, flags);
}

static void take_out(struct bb_node *from, struct page *old)
{
	unsigned long flags;

	spin_lock_irqsave(&from->info.pages_lock, flags);
	balloon_page_finalize(old);
	spin_unlock_irqrestore(&from->info.pages_lock, flags);
}

int bb_migrate_page(struct balloon_dev_info *info, struct page *to,
		    struct page *from, enum migrate_mode mode)
{
	struct bb_node *old = container_of(info, struct bb_node, info);
	struct bb *bb = old->bb;
	struct bb_node *new = &bb->node[page_to_nid(to)];

	if (!mutex_trylock(&bb->lock))
		return -EAGAIN;
	put_in_place(new, to, old);
	move_count(new, to, old, from);
	bb_message_add(bb, bb->vq[BB_INFLATE_VQ], to, 0);
	bb_message_send(bb);

	take_out(old, from);
	bb_message_add(bb, bb->vq[BB_DEFLATE_VQ], from, 0);
	bb_message_send(bb);
	bb->count.migrated++;
	mutex_unlock(&bb->lock);
	if (new != old)
		bb_steer_now(bb);

	put_page(from);		/* the balloon's reference */
	return MIGRATEPAGE_SUCCESS;
}

#endif /* BB_HAVE_BALLOON_MIGRATION */
