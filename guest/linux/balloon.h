/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Inside of the ballast_balloon driver.
 *
 * One struct bb per device.  Work items: steer (towards the goal) and those
 * that help it to inflate, stats, hint.  Who may be in the driver besides
 * them: the OOM notifier, the shrinker of hinted pages, page reporting, and
 * compaction that moves a page.
 *
 * Lock order:
 *
 *   page lock of a ballooned page (taken by compaction before it calls us)
 *     bb.lock               trylock only, where the page lock is held
 *       bb_node.info.pages_lock
 *   bb_hint.lock            leaf: the list of hinted pages
 *   bb_inflation.lock       leaf: shares of what is to be taken
 *   bb.stop_lock            leaf: no work is queued after bb.stopped
 *
 * Nothing is allocated under bb.lock, so memory reclaim never waits for itself;
 * what the driver holds is waited for (the device's answer) under it.
 */

#ifndef BALLAST_BALLOON_H
#define BALLAST_BALLOON_H

#include <linux/mutex.h>
#include <linux/notifier.h>
#include <linux/page_reporting.h>
#include <linux/spinlock.h>
#include <linux/virtio.h>
#include <linux/wait.h>
#include <linux/workqueue.h>

#include "abi.h"
#include "compat.h"
#include "policy.h"

/* Pages of the guest to units of the interface. */
#define BB_UNIT_ORDER	(PAGE_SHIFT - VIRTIO_BALLOON_PFN_SHIFT)

/* The largest block the driver handles. */
#define BB_ORDERS	(BB_TOP_ORDER + 1)

/* Page numbers in a message to a stock device: what every device can take. */
#define BB_MAX_PFNS	256

/*
 * 4K pages in one message, so that the device is not busy with it for long.
 * Inflating takes less at a time: the device frees one piece while the guest
 * looks for the next one, and clears it.  From so much on, others help.
 */
#define BB_MESSAGE_PAGES	65536
#define BB_PIECE_PAGES		4096
#define BB_HELP_PAGES		16384

/* CPUs that help at most, besides the one that does it anyway. */
#define BB_HELPERS		3

/* Bits of bb.news. */
enum bb_news {
	BB_NEWS_GOAL,
	BB_NEWS_HINT,
};

enum bb_queue {
	BB_INFLATE_VQ,
	BB_DEFLATE_VQ,
	BB_STATS_VQ,
	BB_HINT_VQ,
	BB_REPORT_VQ,
	BB_VQS
};

/**
 * struct bb_node - ballooned pages of one node of the guest; under bb.lock
 * @bb: the device
 * @info: single pages, in the hands of the kernel's balloon compaction
 * @blocks: blocks of each order from 1; page_private() is the order
 * @num_blocks: how many are on each list
 * @held: pages in the balloon, blocks and single ones
 * @dry: nothing was to be had of it lately; the steer work's own
 */
struct bb_node {
	struct bb *bb;
	struct balloon_dev_info info;
	struct list_head blocks[BB_ORDERS];
	unsigned long num_blocks[BB_ORDERS];
	unsigned long held;
	bool dry;
};

/**
 * struct bb_goal - what the device asks for, of one config generation
 * @total: pages over all nodes
 * @seq: number of the request
 * @block_pages: block that is worth most to the host, in 4K pages
 * @num_nodes: entries of @node in use; 0 without node targets
 * @node: proximity domain, target (or BB_NO_TARGET), exact
 */
struct bb_goal {
	unsigned long total;
	u32 seq;
	u32 block_pages;
	u32 num_nodes;
	struct bb_goal_node {
		unsigned long target;
		u32 proximity;
		bool exact;
	} node[BALLAST_BALLOON_NODES];
};

/**
 * struct bb_inflation - what bb_inflate() is at; it is called by one at a time
 * @bb: the device
 * @nid: the node
 * @lock: protects the rest against the helpers
 * @left: pages that are in nobody's share yet
 * @done: pages taken
 * @dry: the node has no more to give
 * @over: no more shares
 * @helper: others who take shares; @done is what this one got
 */
struct bb_inflation {
	struct bb *bb;
	int nid;
	spinlock_t lock;	/* left, done, dry, over */
	unsigned long left;
	unsigned long done;
	bool dry;
	bool over;
	struct bb_helper {
		struct work_struct work;
		struct bb_inflation *inflation;
		unsigned long done;
	} helper[BB_HELPERS];
};

/**
 * struct bb_message - a buffer for the inflate or deflate queue; under bb.lock
 * @vq: where it goes
 * @num: entries in use
 * @pages: 4K pages they stand for
 * @under_way: the device has it; it answers on @vq, and @num is 0
 * @pfn: entries for a stock device
 * @range: entries with node targets negotiated
 */
struct bb_message {
	struct virtqueue *vq;
	unsigned int num;
	unsigned long pages;
	bool under_way;
	union {
		__virtio32 pfn[BB_MAX_PFNS];
		__le64 range[BALLAST_BALLOON_MAX_ENTRIES];
	};
};

/**
 * struct bb_hint - free page hinting
 * @work: gives hints, or takes hinted pages back
 * @lock: protects @pages and @num
 * @pages: blocks that were hinted and are kept until the device is done;
 *	page_private() is the order
 * @num: pages (not blocks) on that list
 * @shrinker: gives them back early when memory is short
 * @last: the last command id that was handled
 */
struct bb_hint {
	struct work_struct work;
	spinlock_t lock;	/* pages, num */
	struct list_head pages;
	unsigned long num;
	struct bb_shrinker shrinker;
	u32 last;
};

/**
 * struct bb_counts - what happened, for debugfs; each has one writer at a time
 * @inflated: pages
 * @helped: of those, pages that helpers took
 * @deflated: pages
 * @oom: pages deflated because the guest ran out of memory
 * @migrated: pages that compaction moved
 * @hinted: pages
 * @hints_reclaimed: hinted pages that the shrinker gave back
 * @reported: blocks
 * @stats: answers to statistics requests
 * @retries: attempts after a shortfall
 */
struct bb_counts {
	unsigned long inflated;
	unsigned long helped;
	unsigned long deflated;
	unsigned long oom;
	unsigned long migrated;
	unsigned long hinted;
	unsigned long hints_reclaimed;
	unsigned long reported;
	unsigned long stats;
	unsigned long retries;
};

/**
 * struct bb - one balloon
 * @vdev: the device
 * @vq: its queues, NULL where not negotiated
 * @ranges: node targets and blocks were negotiated
 * @wq: all work of this device
 * @steer: towards the goal
 * @stats_work: answers a statistics request
 * @hint: free page hinting
 * @reporting: free page reporting
 * @oom: notifier
 * @lock: everything in the balloon, inflate and deflate queues, @shown
 * @answered: woken by the inflate, deflate and reporting queues
 * @stop_lock: protects @stopped against the config interrupt
 * @stopped: no more work
 * @news: the config space changed since who looks at that bit read it
 * @oom_hold: the guest ran out of memory; no inflating until the goal changes
 * @retry_ms: how long to wait after a shortfall
 * @goal: what the device asks for
 * @node: by Linux node, nr_node_ids of them
 * @state: scratch of the steer work: nr_node_ids + BALLAST_BALLOON_NODES
 * @shown: what the config space says we have
 * @inflation: bb_inflate()'s own
 * @message: being put together
 * @stat: the statistics buffer
 * @count: for debugfs
 * @debugfs: directory
 */
struct bb {
	struct virtio_device *vdev;
	struct virtqueue *vq[BB_VQS];
	bool ranges;

	struct workqueue_struct *wq;
	struct delayed_work steer;
	struct work_struct stats_work;
	struct bb_hint hint;
	struct page_reporting_dev_info reporting;
	struct notifier_block oom;

	struct mutex lock;	/* see above */
	wait_queue_head_t answered;
	spinlock_t stop_lock;	/* stopped */
	bool stopped;
	bool oom_hold;
	unsigned long news;
	unsigned int retry_ms;

	struct bb_goal goal;
	struct bb_node *node;
	struct bb_node_state *state;
	struct bb_shown {
		u32 actual;
		u32 node[BALLAST_BALLOON_NODES];
		u32 done_seq;
		u32 done_status;
		bool valid;
	} shown;

	struct bb_inflation inflation;
	struct bb_message message;
	struct virtio_balloon_stat stat[BB_S_NUM];
	struct bb_counts count;
	struct dentry *debugfs;
};

/* config.c: the device's config space */

/**
 * bb_config_supported() - is the config space one that this driver knows?
 * @vdev: the device, which offers the feature bit
 */
bool bb_config_supported(struct virtio_device *vdev);

/**
 * bb_read_goal() - read what the device asks for
 * @bb: the balloon
 * @goal: (out) the goal, of one config generation
 */
void bb_read_goal(struct bb *bb, struct bb_goal *goal);

/**
 * bb_goal_nid() - the Linux node of a node of the device
 * @goal: the goal
 * @index: which of its nodes
 *
 * Return: a node that has memory, or NUMA_NO_NODE if there is none, or if
 * another node of the device would be the same
 */
int bb_goal_nid(const struct bb_goal *goal, unsigned int index);

/**
 * bb_show() - tell the device what is in the balloon
 * @bb: the balloon; bb.lock is held
 */
void bb_show(struct bb *bb);

/**
 * bb_show_done() - tell the device that all that can be done is done
 * @bb: the balloon; bb.lock is held
 * @status: BALLAST_BALLOON_REACHED or _SHORT
 */
void bb_show_done(struct bb *bb, u32 status);

/* message.c: the inflate and deflate queues */

/**
 * bb_message_add() - tell the device of a block, now or with those that follow
 * @bb: the balloon; bb.lock is held
 * @vq: the inflate or the deflate queue
 * @page: first page of the block
 * @order: its order
 */
void bb_message_add(struct bb *bb, struct virtqueue *vq, struct page *page,
		    unsigned int order);

/**
 * bb_message_post() - send what was added; whatever is told next waits for it
 * @bb: the balloon; bb.lock is held
 *
 * bb_message_wait() has to follow, before anybody relies on the device having
 * seen it, and before the device may be reset.
 */
void bb_message_post(struct bb *bb);

/**
 * bb_message_wait() - wait until the device has answered what was posted
 * @bb: the balloon; bb.lock is held
 */
void bb_message_wait(struct bb *bb);

/**
 * bb_message_send() - send what was added, and wait for the answer
 * @bb: the balloon; bb.lock is held
 */
void bb_message_send(struct bb *bb);

/* pages.c: what is in the balloon */

/**
 * bb_nodes_init() - an empty balloon
 * @bb: the balloon
 *
 * Return: 0 or -ENOMEM
 */
int bb_nodes_init(struct bb *bb);

/**
 * bb_put_in() - put a block or a single page into the balloon
 * @bb: the balloon; bb.lock is held
 * @page: the caller's own, marked offline if it is a block; page_private() is
 *        the order
 *
 * The device hears of it with the message that is being put together.
 */
void bb_put_in(struct bb *bb, struct page *page);

/**
 * bb_deflate() - give pages of a node back to the guest
 * @bb: the balloon; bb.lock is held
 * @nid: the node
 * @pages: at most so many; fewer are given if one message cannot hold them
 *
 * The device has answered before the guest has them.
 *
 * Return: pages given back
 */
unsigned long bb_deflate(struct bb *bb, int nid, unsigned long pages);

/**
 * bb_deflate_all() - give everything back, and tell the device
 * @bb: the balloon, whose work has ended
 */
void bb_deflate_all(struct bb *bb);

/**
 * bb_held() - pages in the balloon
 * @bb: the balloon
 */
unsigned long bb_held(const struct bb *bb);

/**
 * bb_count_managed() - whether the guest's total memory follows the balloon
 * @bb: the balloon
 *
 * It does not if the guest may have the pages back whenever it is short.
 */
static inline bool bb_count_managed(const struct bb *bb)
{
	return !virtio_has_feature(bb->vdev, VIRTIO_BALLOON_F_DEFLATE_ON_OOM);
}

/**
 * bb_wait_answer() - wait until the device has used the queue's only buffer
 * @bb: the balloon
 * @vq: a queue that wakes @bb->answered
 *
 * Return: false if the device is broken, and will not answer
 */
bool bb_wait_answer(struct bb *bb, struct virtqueue *vq);

/* inflate.c: how they get there */

/**
 * bb_inflate_init() - nobody helps yet
 * @bb: the balloon
 */
void bb_inflate_init(struct bb *bb);

/**
 * bb_inflate() - take pages of a node into the balloon
 * @bb: the balloon; bb.lock is not held
 * @nid: a node that has memory
 * @pages: at most so many; fewer are taken at a time, so that a new goal is
 *         seen: BB_MESSAGE_PAGES, or what a message of each one who takes them
 *         can tell of single pages, or what had been begun when the goal
 *         changed
 * @dry: (out) the node has no more to give
 *
 * For the steer work only.  From BB_HELP_PAGES on, CPUs of the node help.
 * The device has seen them all on return.
 *
 * Return: pages taken
 */
unsigned long bb_inflate(struct bb *bb, int nid, unsigned long pages,
			 bool *dry);

/* steer.c */
void bb_steer_work(struct work_struct *work);

/**
 * bb_steer_now() - look at the goal soon; any context
 * @bb: the balloon
 */
void bb_steer_now(struct bb *bb);

/**
 * bb_steer_afresh() - the device was reset: no goal of before counts
 * @bb: the balloon, whose work has not begun
 */
void bb_steer_afresh(struct bb *bb);

/* migrate.c */
#ifdef BB_HAVE_BALLOON_MIGRATION
int bb_migrate_page(struct balloon_dev_info *info, struct page *to,
		    struct page *from, enum migrate_mode mode);
#endif

/* stats.c */
void bb_stats_work(struct work_struct *work);
void bb_stats_start(struct bb *bb);

/* hint.c */
int bb_hint_init(struct bb *bb);
void bb_hint_exit(struct bb *bb);

/**
 * bb_hint_return() - hinted pages are the guest's again
 * @bb: the balloon
 */
void bb_hint_return(struct bb *bb);

/**
 * bb_hint_detach() - forget what is in the queue of a device that was reset
 * @bb: the balloon
 */
void bb_hint_detach(struct bb *bb);

/* report.c */
int bb_report_init(struct bb *bb);
void bb_report_exit(struct bb *bb);

/* oom.c */
int bb_oom_init(struct bb *bb);
void bb_oom_exit(struct bb *bb);

/* debugfs.c */
void bb_debugfs_create(void);
void bb_debugfs_remove(void);
void bb_debugfs_add(struct bb *bb);
void bb_debugfs_del(struct bb *bb);

#endif /* BALLAST_BALLOON_H */
