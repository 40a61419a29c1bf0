// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * What is in the balloon: for each node of the guest, single pages and blocks.
 *
 * Single pages are movable: the kernel's balloon compaction has their list,
 * and may replace them (migrate.c).  Blocks are not.  All pages are marked
 * offline, each of them (makedumpfile and memory offlining look at each), so
 * that nobody reads them: a crash dump that did would make the host allocate
 * them.
 *
 * Back to the guest go single pages first, then the smallest blocks: those are
 * worth least to the host.  A block of which only a part is wanted is taken
 * apart, and what remains of it stays in the balloon as single pages.
 */

#include <linux/delay.h>
#include <linux/gfp.h>
#include <linux/mm.h>
#include <linux/vmstat.h>

#include "balloon.h"

int bb_nodes_init(struct bb *bb)
{
	unsigned int nid, order;

	bb->node = kvcalloc(nr_node_ids, sizeof(*bb->node), GFP_KERNEL);
	bb->state = kvcalloc(nr_node_ids + BALLAST_BALLOON_NODES,
			     sizeof(*bb->state), GFP_KERNEL);
	if (!bb->node || !bb->state)
		return -ENOMEM;
	for (nid = 0; nid < nr_node_ids; nid++) {
		struct bb_node *node = &bb->node[nid];

		node->bb = bb;
		balloon_devinfo_init(&node->info);
#ifdef BB_HAVE_BALLOON_MIGRATION
		node->info.migratepage = bb_migrate_page;
#endif
		for (order = 0; order < BB_ORDERS; order++)
			INIT_LIST_HEAD(&node->blocks[order]);
	}
	return 0;
}

unsigned long bb_held(const struct bb *bb)
{
	unsigned long held = 0;
	unsigned int nid;

	for (nid = 0; nid < nr_node_ids; nid++)
		held += READ_ONCE(bb->node[nid].held);
	return held;
}

/* The guest's total memory, where it follows the balloon. */
static void adjust_managed(struct bb *bb, struct page *page, long pages)
{
	if (bb_count_managed(bb))
		adjust_managed_page_count(page, pages);
}

static void add_held(struct bb_node *node, struct page *page, long pages)
{
	WRITE_ONCE(node->held, node->held + pages);
	adjust_managed(node->bb, page, -pages);
}

/* -- blocks on their lists; bb.lock is held -- */

static void block_push(struct bb_node *node, struct page *page,
		       unsigned int order)
{
	list_add(&page->lru, &node->blocks[order]);
	node->num_blocks[order]++;
	count_vm_events(BALLOON_INFLATE, 1L << order);
}

static struct page *block_pop(struct bb_node *node, unsigned int order)
{
	struct page *page = list_first_entry_or_null(&node->blocks[order],
						     struct page, lru);
	unsigned long i;

	if (!page)
		return NULL;
	list_del(&page->lru);
	node->num_blocks[order]--;
	for (i = 0; i < 1UL << order; i++)
		__ClearPageOffline(page + i);
	count_vm_events(BALLOON_DEFLATE, 1L << order);
	return page;
}

void bb_put_in(struct bb *bb, struct page *page)
{
	struct bb_node *node = &bb->node[page_to_nid(page)];
	unsigned int order = page_private(page);

	add_held(node, page, 1L << order);
	bb_message_add(bb, bb->vq[BB_INFLATE_VQ], page, order);
	if (order) {
		block_push(node, page, order);
	} else {
		set_page_private(page, 0);
		balloon_page_enqueue(&node->info, page);
	}
}

/* -- deflating; bb.lock is held -- */

/* What goes back to the guest: page_private() is the order of each. */
struct release {
	struct list_head pages;
	unsigned long wanted;
	unsigned int entries;
};

static void release_add(struct release *release, struct page *page,
			unsigned int order)
{
	set_page_private(page, order);
	list_add_tail(&page->lru, &release->pages);
	release->wanted -= 1UL << order;
	release->entries++;
}

static bool release_full(const struct release *release)
{
	return !release->wanted ||
		release->entries >= BALLAST_BALLOON_MAX_ENTRIES;
}

static void release_singles(struct bb_node *node, struct release *release)
{
	size_t most = min_t(unsigned long, release->wanted,
			    BALLAST_BALLOON_MAX_ENTRIES - release->entries);
	struct page *page, *next;
	LIST_HEAD(singles);

	if (!most)
		return;
	balloon_page_list_dequeue(&node->info, &singles, most);
	list_for_each_entry_safe(page, next, &singles, lru) {
		list_del(&page->lru);
		release_add(release, page, 0);
	}
}

static void release_blocks(struct bb_node *node, struct release *release)
{
	struct page *page;
	unsigned int order;

	for (order = 1; order < BB_ORDERS; order++) {
		while (!release_full(release) &&
		       release->wanted >= 1UL << order) {
			page = block_pop(node, order);
			if (!page)
				break;
			release_add(release, page, order);
		}
	}
}

/* Less than any block is wanted: the smallest one becomes single pages. */
static void break_block(struct bb_node *node)
{
	struct page *page = NULL;
	unsigned int order;
	unsigned long i;

	for (order = 1; order < BB_ORDERS && !page; order++)
		page = block_pop(node, order);
	if (!page)
		return;
	order--;
	set_page_private(page, 0);
	split_page(page, order);
	for (i = 0; i < 1UL << order; i++)
		balloon_page_enqueue(&node->info, page + i);
}

/* Tells the device first; then the pages are the guest's. */
static unsigned long release_all(struct bb *bb, struct bb_node *node,
				 struct release *release)
{
	struct page *page, *next;
	unsigned long done = 0;

	list_for_each_entry(page, &release->pages, lru)
		bb_message_add(bb, bb->vq[BB_DEFLATE_VQ], page,
			       page_private(page));
	bb_message_send(bb);
	list_for_each_entry_safe(page, next, &release->pages, lru) {
		unsigned int order = page_private(page);

		list_del(&page->lru);
		set_page_private(page, 0);
		add_held(node, page, -(1L << order));
		done += 1UL << order;
		__free_pages(page, order);
	}
	return done;
}

unsigned long bb_deflate(struct bb *bb, int nid, unsigned long pages)
{
	struct bb_node *node = &bb->node[nid];
	unsigned long limit = BB_MESSAGE_PAGES >> BB_UNIT_ORDER;
	struct release release = { .wanted = min(pages, limit) };
	unsigned long done;

	INIT_LIST_HEAD(&release.pages);
	release_singles(node, &release);
	release_blocks(node, &release);
	if (!release_full(&release)) {
		break_block(node);
		release_singles(node, &release);
	}
	done = release_all(bb, node, &release);
	bb->count.deflated += done;
	return done;
}

void bb_deflate_all(struct bb *bb)
{
	unsigned int nid;

	mutex_lock(&bb->lock);
	for (nid = 0; nid < nr_node_ids; nid++) {
		/* A page that compaction has isolated comes back soon. */
		while (bb->node[nid].held)
			if (!bb_deflate(bb, nid, bb->node[nid].held))
				msleep(20);
	}
	mutex_unlock(&bb->lock);
}
