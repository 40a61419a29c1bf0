// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Inflating: taking pages of a node, and putting them into the balloon.
 *
 * Pages are allocated on exactly the node asked for, in the largest blocks it
 * has, down to single pages.  For blocks nothing is reclaimed or compacted;
 * for single pages the allocator may reclaim what is easy to have (page
 * cache), as for everybody else; reserves are never touched.
 *
 * Most of the time goes into clearing what is allocated, where the kernel does
 * that (init_on_alloc).  So a large amount is taken by several: the steer work,
 * and helpers on other CPUs of the node.  Each takes charge of a share of what
 * is left, allocates it without a lock, and puts it into the balloon and
 * tells the device under bb.lock, which keeps the queue one message's.
 *
 * - Never more than asked for: a share is subtracted before it is allocated,
 *   and what could not be had of it is nobody's any more.
 * - Who gets less than his share, or sees that the goal changed, work is to
 *   stop or the guest ran out of memory, ends it for all: nobody begins
 *   another share.  The first share is always begun, so each step gets on.
 * - Helpers live within bb_inflate(): it takes shares itself until there are
 *   none, then cancels each helper, which waits for one that runs.  It never
 *   waits for one to start (a workqueue that is frozen starts none), and
 *   holds no lock then.  So whoever has waited for the steer work (remove,
 *   suspend) has waited for the helpers.
 * - A helper allocates with __GFP_NORETRY, so it never calls the OOM notifier
 *   (which takes bb.lock); and nothing is allocated under bb.lock.
 */

#include <linux/cpumask.h>
#include <linux/gfp.h>
#include <linux/mm.h>
#include <linux/topology.h>

#include "balloon.h"

#define BB_GFP	(__GFP_THISNODE | __GFP_NORETRY | __GFP_NOWARN | \
		 __GFP_NOMEMALLOC)

/* Single pages are marked when they go to the kernel's balloon compaction. */
static void mark_offline(struct page *page, unsigned int order)
{
	unsigned long i;

	for (i = 0; order && i < 1UL << order; i++)
		__SetPageOffline(page + i);
}

static struct page *take_one(int nid, unsigned int order)
{
	struct page *page;
	gfp_t gfp;

	if (order)
		gfp = (GFP_HIGHUSER & ~__GFP_RECLAIM) | BB_GFP;
	else
		gfp = balloon_mapping_gfp_mask() | BB_GFP;
	page = alloc_pages_node(nid, gfp, order);
	if (page) {
		set_page_private(page, order);
		mark_offline(page, order);
	}
	return page;
}

/* Takes from the allocator what one message can tell the device of. */
static void take_pages(int nid, unsigned long pages, struct list_head *taken,
		       bool *dry)
{
	unsigned int entries = 0, order = BB_TOP_ORDER;
	struct page *page;

	while (pages && entries < BALLAST_BALLOON_MAX_ENTRIES) {
		order = min_t(unsigned int, order, ilog2(pages));
		page = take_one(nid, order);
		if (page) {
			list_add_tail(&page->lru, taken);
			pages -= 1UL << order;
			entries++;
		} else if (order) {
			order--;
		} else {
			*dry = true;
			return;
		}
		cond_resched();
	}
}

/* Returns before the device has answered. */
static unsigned long inflate_piece(struct bb *bb, int nid, unsigned long pages,
				   bool *dry)
{
	unsigned long done = 0;
	struct page *page, *next;
	LIST_HEAD(taken);

	take_pages(nid, pages, &taken, dry);

	mutex_lock(&bb->lock);
	list_for_each_entry_safe(page, next, &taken, lru) {
		list_del(&page->lru);
		done += 1UL << page_private(page);
		bb_put_in(bb, page);
	}
	bb_message_post(bb);
	bb->count.inflated += done;
	mutex_unlock(&bb->lock);
	return done;
}

/* -- shares -- */

/* 0: there are no more. */
static unsigned long take_share(struct bb_inflation *inflation)
{
	unsigned long share = 0;

	spin_lock(&inflation->lock);
	if (!inflation->over)
		share = min_t(unsigned long, inflation->left,
			      BB_PIECE_PAGES >> BB_UNIT_ORDER);
	inflation->left -= share;
	spin_unlock(&inflation->lock);
	return share;
}

static bool interrupted(const struct bb *bb)
{
	return READ_ONCE(bb->stopped) || READ_ONCE(bb->oom_hold) ||
		test_bit(BB_NEWS_GOAL, &bb->news);
}

/* Share after share, as others do at the same time; returns what it got. */
static unsigned long inflate_shares(struct bb_inflation *inflation)
{
	unsigned long share, piece, done = 0;
	bool dry = false;

	while ((share = take_share(inflation))) {
		piece = inflate_piece(inflation->bb, inflation->nid, share,
				      &dry);
		done += piece;
		spin_lock(&inflation->lock);
		inflation->done += piece;
		inflation->dry |= dry;
		/* With single pages, too: there are fewer in a message. */
		if (piece < share || interrupted(inflation->bb))
			inflation->over = true;
		spin_unlock(&inflation->lock);
	}
	return done;
}

/* -- helpers -- */

static void helper_work(struct work_struct *work)
{
	struct bb_helper *helper = container_of(work, struct bb_helper, work);

	helper->done = inflate_shares(helper->inflation);
}

/* On other CPUs of the node; of a node without any, wherever there are some. */
static unsigned int call_helpers(struct bb_inflation *inflation)
{
	const struct cpumask *cpus = cpumask_of_node(inflation->nid);
	unsigned int cpu, num = 0;

	if (inflation->left < BB_HELP_PAGES >> BB_UNIT_ORDER)
		return 0;
	if (cpumask_empty(cpus))
		cpus = cpu_online_mask;
	for_each_cpu(cpu, cpus) {
		if (num == BB_HELPERS)
			break;
		if (cpu == raw_smp_processor_id())
			continue;
		/* The queue is unbound: the CPU only says near which one. */
		inflation->helper[num].done = 0;
		queue_work_on(cpu, inflation->bb->wq,
			      &inflation->helper[num++].work);
	}
	return num;
}

static void end_helpers(struct bb_inflation *inflation, unsigned int num)
{
	struct bb_helper *helper;

	while (num) {
		helper = &inflation->helper[--num];
		cancel_work_sync(&helper->work);
		inflation->bb->count.helped += helper->done;
	}
}

unsigned long bb_inflate(struct bb *bb, int nid, unsigned long pages,
			 bool *dry)
{
	struct bb_inflation *inflation = &bb->inflation;
	unsigned int num;

	inflation->nid = nid;
	inflation->left = min_t(unsigned long, pages,
				BB_MESSAGE_PAGES >> BB_UNIT_ORDER);
	inflation->done = 0;
	inflation->dry = false;
	inflation->over = false;

	num = call_helpers(inflation);
	inflate_shares(inflation);
	end_helpers(inflation, num);

	mutex_lock(&bb->lock);
	bb_message_wait(bb);
	mutex_unlock(&bb->lock);
	*dry = inflation->dry;
	return inflation->done;
}

void bb_inflate_init(struct bb *bb)
{
	struct bb_inflation *inflation = &bb->inflation;
	unsigned int i;

	inflation->bb = bb;
	spin_lock_init(&inflation->lock);
	for (i = 0; i < BB_HELPERS; i++) {
		inflation->helper[i].inflation = inflation;
		INIT_WORK(&inflation->helper[i].work, helper_work);
	}
}
