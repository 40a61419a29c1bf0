/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What to do next, so that every node has what it shall have.
 *
 * No kernel interface is used here: tests/unit builds it for user space.
 */

#ifndef BALLAST_BALLOON_POLICY_H
#define BALLAST_BALLOON_POLICY_H

#ifdef __KERNEL__
#include <linux/types.h>
#else
#include <stdbool.h>
#include <stddef.h>
#endif

#define BB_NO_TARGET	(~0UL)

/**
 * struct bb_node_state - a node, as the policy sees it
 * @target: pages of it that shall be in the balloon, or BB_NO_TARGET
 * @held: pages of it that are in the balloon
 * @free: pages of it that are free
 * @exact: @target is met from this node or not at all
 * @dry: no more pages are to be had of it for now
 */
struct bb_node_state {
	unsigned long target;
	unsigned long held;
	unsigned long free;
	bool exact;
	bool dry;
};

enum bb_action { BB_REST, BB_INFLATE, BB_DEFLATE };

/**
 * struct bb_step - what to do next
 * @action: what
 * @node: index of the node; not with BB_REST
 * @pages: how many; not with BB_REST
 * @is_short: with BB_REST: not all could be reached
 * @retry: with BB_REST: something that no exact target speaks of is missing
 */
struct bb_step {
	enum bb_action action;
	unsigned int node;
	unsigned long pages;
	bool is_short;
	bool retry;
};

/**
 * bb_choose() - the next step towards a goal
 * @total: pages that shall be in the balloon over all nodes
 * @node: the nodes; one that is unknown here has nothing held and is dry
 * @num: how many
 *
 * An exact node is brought to its target, never above it, and what it lacks
 * is taken from nowhere else.  What another node lacks is taken from nodes
 * without a target, then from nodes that are not exact; it goes back there as
 * soon as the node has its target after all.
 *
 * Return: the step, BB_REST if there is nothing left to do
 */
struct bb_step bb_choose(unsigned long total, const struct bb_node_state *node,
			 unsigned int num);

#endif /* BALLAST_BALLOON_POLICY_H */
