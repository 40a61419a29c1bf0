// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The device's config space: what it asks for, and what we say we have.
 *
 * The device is not trusted to be sane: numbers of nodes and orders are
 * bounded here, and targets are only ever compared, so the worst a wrong one
 * does is to ask for all memory there is, which num_pages can do as well.
 */

#include <linux/acpi.h>
#include <linux/limits.h>
#include <linux/nodemask.h>
#include <linux/virtio_config.h>

#include "balloon.h"

#define BB_OFFSET(field)	offsetof(struct ballast_balloon_config, field)

static u32 read_word(struct virtio_device *vdev, unsigned int offset)
{
	__le32 word;

	vdev->config->get(vdev, offset, &word, sizeof(word));
	return le32_to_cpu(word);
}

static void write_word(struct virtio_device *vdev, unsigned int offset,
		       u32 value)
{
	__le32 word = cpu_to_le32(value);

	vdev->config->set(vdev, offset, &word, sizeof(word));
}

bool bb_config_supported(struct virtio_device *vdev)
{
	return read_word(vdev, BB_OFFSET(format)) == BALLAST_BALLOON_FORMAT &&
		read_word(vdev, BB_OFFSET(num_nodes)) <= BALLAST_BALLOON_NODES;
}

/* Units of the interface to pages of the guest. */
static unsigned long to_pages(u32 units)
{
	return units >> BB_UNIT_ORDER;
}

static u32 to_units(unsigned long pages)
{
	return min_t(u64, (u64)pages << BB_UNIT_ORDER, U32_MAX);
}

static void read_nodes(struct bb *bb, struct bb_goal *goal)
{
	struct ballast_balloon_config raw;
	u32 target, exact, i;

	BUILD_BUG_ON(sizeof(raw) != 236);
	/* 32 bits at a time, all of one config generation. */
	__virtio_cread_many(bb->vdev, 0, &raw, sizeof(raw) / sizeof(__le32),
			    sizeof(__le32));
	goal->total = to_pages(le32_to_cpu(raw.num_pages));
	goal->seq = le32_to_cpu(raw.seq);
	goal->block_pages = le32_to_cpu(raw.block_pages);
	goal->num_nodes = min_t(u32, le32_to_cpu(raw.num_nodes),
				BALLAST_BALLOON_NODES);
	exact = le32_to_cpu(raw.exact_mask);
	for (i = 0; i < goal->num_nodes; i++) {
		target = le32_to_cpu(raw.node[i].target_pages);
		goal->node[i].proximity = le32_to_cpu(raw.node[i].proximity);
		goal->node[i].target = BB_NO_TARGET;
		if (target == BALLAST_BALLOON_NO_TARGET)
			continue;
		goal->node[i].target = to_pages(target);
		goal->node[i].exact = exact & BIT(i);
	}
}

void bb_read_goal(struct bb *bb, struct bb_goal *goal)
{
	memset(goal, 0, sizeof(*goal));
	if (bb->ranges)
		read_nodes(bb, goal);
	else
		goal->total = to_pages(read_word(bb->vdev,
						 BB_OFFSET(num_pages)));
}

static int proximity_nid(const struct bb_goal *goal, u32 proximity)
{
	int nid;

	/* Nothing to tell apart: firmware need not describe a single node. */
	if (goal->num_nodes == 1 && num_node_state(N_MEMORY) == 1)
		return first_memory_node;
	if (proximity > INT_MAX)
		return NUMA_NO_NODE;
	nid = pxm_to_node(proximity);
	if (nid < 0 || nid >= nr_node_ids || !node_state(nid, N_MEMORY))
		return NUMA_NO_NODE;
	return nid;
}

int bb_goal_nid(const struct bb_goal *goal, unsigned int index)
{
	int nid = proximity_nid(goal, goal->node[index].proximity);
	unsigned int i;

	for (i = 0; i < goal->num_nodes && nid != NUMA_NO_NODE; i++)
		if (i != index &&
		    proximity_nid(goal, goal->node[i].proximity) == nid)
			return NUMA_NO_NODE;
	return nid;
}

static void show_word(struct bb *bb, unsigned int offset, u32 *shown,
		      u32 value)
{
	if (bb->shown.valid && *shown == value)
		return;
	*shown = value;
	write_word(bb->vdev, offset, value);
}

static void show_nodes(struct bb *bb)
{
	unsigned int i;
	u32 units;
	int nid;

	for (i = 0; i < bb->goal.num_nodes; i++) {
		nid = bb_goal_nid(&bb->goal, i);
		units = nid == NUMA_NO_NODE ? 0 : to_units(bb->node[nid].held);
		show_word(bb, BB_OFFSET(node[0].actual_pages) +
			  i * sizeof(struct ballast_balloon_node),
			  &bb->shown.node[i], units);
	}
}

void bb_show(struct bb *bb)
{
	show_word(bb, BB_OFFSET(actual), &bb->shown.actual,
		  to_units(bb_held(bb)));
	if (bb->ranges)
		show_nodes(bb);
}

void bb_show_done(struct bb *bb, u32 status)
{
	bb_show(bb);
	if (bb->ranges && !(bb->shown.valid && bb->shown.done_status == status &&
			    bb->shown.done_seq == bb->goal.seq)) {
		bb->shown.valid = false;
		show_word(bb, BB_OFFSET(done_status), &bb->shown.done_status,
			  status);
		show_word(bb, BB_OFFSET(done_seq), &bb->shown.done_seq,
			  bb->goal.seq);
	}
	bb->shown.valid = true;
}
