// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A view for people: /sys/kernel/debug/ballast_balloon/DEVICE/nodes has a line
 * for each node of the guest, .../state has the goal and what happened.
 * Figures are pages of the guest; they may be of different instants.
 */

#include <linux/debugfs.h>
#include <linux/nodemask.h>
#include <linux/seq_file.h>

#include "balloon.h"

static struct dentry *root;

static int goal_index(struct bb *bb, int nid)
{
	unsigned int i;

	for (i = 0; i < bb->goal.num_nodes; i++)
		if (bb_goal_nid(&bb->goal, i) == nid)
			return i;
	return -1;
}

static void print_target(struct seq_file *file, struct bb *bb, int nid)
{
	int index = goal_index(bb, nid);
	const struct bb_goal_node *node;

	if (index < 0) {
		seq_puts(file, " proximity=- target=-");
		return;
	}
	node = &bb->goal.node[index];
	seq_printf(file, " proximity=%u", node->proximity);
	if (node->target == BB_NO_TARGET)
		seq_puts(file, " target=-");
	else
		seq_printf(file, " target=%lu%s", node->target,
			   node->exact ? " exact" : "");
}

static void print_blocks(struct seq_file *file, const struct bb_node *node)
{
	unsigned long singles = node->held;
	unsigned int order;

	for (order = 1; order < BB_ORDERS; order++)
		singles -= node->num_blocks[order] << order;
	seq_printf(file, " blocks=%lu", singles);
	for (order = 1; order < BB_ORDERS; order++)
		seq_printf(file, ",%lu", node->num_blocks[order]);
}

static int nodes_show(struct seq_file *file, void *unused)
{
	struct bb *bb = file->private;
	unsigned int nid;

	/* A deflation that the device holds back may take its time. */
	if (mutex_lock_interruptible(&bb->lock))
		return -EINTR;
	for (nid = 0; nid < nr_node_ids; nid++) {
		if (!node_state(nid, N_MEMORY) && !bb->node[nid].held)
			continue;
		seq_printf(file, "node=%u held=%lu", nid, bb->node[nid].held);
		print_target(file, bb, nid);
		print_blocks(file, &bb->node[nid]);
		seq_putc(file, '\n');
	}
	mutex_unlock(&bb->lock);
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(nodes);

static int state_show(struct seq_file *file, void *unused)
{
	struct bb *bb = file->private;

	if (mutex_lock_interruptible(&bb->lock))
		return -EINTR;
	seq_printf(file, "target=%lu\nheld=%lu\n", bb->goal.total,
		   bb_held(bb));
	seq_printf(file, "ranges=%d\nnodes=%u\nblock_pages=%u\nseq=%u\n",
		   bb->ranges, bb->goal.num_nodes, bb->goal.block_pages,
		   bb->goal.seq);
	seq_printf(file, "done_seq=%u\ndone_status=%u\noom_hold=%d\n",
		   bb->shown.done_seq, bb->shown.done_status, bb->oom_hold);
	seq_printf(file, "inflated=%lu\nhelped=%lu\ndeflated=%lu\n",
		   bb->count.inflated, bb->count.helped, bb->count.deflated);
	seq_printf(file, "oom=%lu\nmigrated=%lu\n", bb->count.oom,
		   bb->count.migrated);
	seq_printf(file, "hinted=%lu\nhints_kept=%lu\nhints_reclaimed=%lu\n",
		   bb->count.hinted, READ_ONCE(bb->hint.num),
		   bb->count.hints_reclaimed);
	seq_printf(file, "reported=%lu\nstats=%lu\nretries=%lu\n",
		   bb->count.reported, bb->count.stats, bb->count.retries);
	mutex_unlock(&bb->lock);
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(state);

void bb_debugfs_add(struct bb *bb)
{
	bb->debugfs = debugfs_create_dir(dev_name(&bb->vdev->dev), root);
	debugfs_create_file("nodes", 0400, bb->debugfs, bb, &nodes_fops);
	debugfs_create_file("state", 0400, bb->debugfs, bb, &state_fops);
}

void bb_debugfs_del(struct bb *bb)
{
	debugfs_remove(bb->debugfs);
}

void bb_debugfs_create(void)
{
	root = debugfs_create_dir("ballast_balloon", NULL);
}

void bb_debugfs_remove(void)
{
	debugfs_remove(root);
}
