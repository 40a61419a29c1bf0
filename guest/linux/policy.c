// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * What to do next: see policy.h.
 *
 * The function keeps no state, so a changed target, an OOM deflation or a page
 * that compaction moved needs no special case: the next step starts from
 * what is so now.  It comes to rest because each step it asks for makes a
 * distance smaller, or (a node that had nothing to give) sets that node's
 * dry mark; compensation is never undone before the target it stands for
 * is met.
 */

#include "policy.h"

struct sums {
	unsigned long held;	/* over all nodes */
	unsigned long owed;	/* by exact nodes below their target */
	unsigned long lacking;	/* of other nodes below their target */
};

static bool has_target(const struct bb_node_state *node)
{
	return node->target != BB_NO_TARGET;
}

static bool is_below(const struct bb_node_state *node)
{
	return has_target(node) && node->held < node->target;
}

static bool is_above(const struct bb_node_state *node)
{
	return has_target(node) && node->held > node->target;
}

static unsigned long smaller(unsigned long a, unsigned long b)
{
	return a < b ? a : b;
}

static struct sums add_up(const struct bb_node_state *node, unsigned int num)
{
	struct sums sums = { 0 };
	unsigned int i;

	for (i = 0; i < num; i++) {
		sums.held += node[i].held;
		if (!is_below(&node[i]))
			continue;
		if (node[i].exact)
			sums.owed += node[i].target - node[i].held;
		else
			sums.lacking += node[i].target - node[i].held;
	}
	return sums;
}

/* More than shall be in the balloon: who gives back? */
static bool give_back(unsigned long surplus, const struct bb_node_state *node,
		      unsigned int num, struct bb_step *step)
{
	unsigned int i, needy = num;

	for (i = 0; i < num; i++) {
		if (is_above(&node[i])) {
			step->node = i;
			step->pages = smaller(surplus,
					      node[i].held - node[i].target);
			return true;
		}
		if (!has_target(&node[i]) && node[i].held &&
		    (needy == num || node[i].free < node[needy].free))
			needy = i;
	}
	if (needy == num)
		return false;
	step->node = needy;
	step->pages = smaller(surplus, node[needy].held);
	return true;
}

/* The node with most free pages of those that have a target, or have none. */
static unsigned int richest(const struct bb_node_state *node, unsigned int num,
			    bool with_target)
{
	unsigned int i, found = num;

	for (i = 0; i < num; i++) {
		if (node[i].dry || has_target(&node[i]) != with_target)
			continue;
		if (with_target && node[i].exact)
			continue;
		if (found == num || node[i].free > node[found].free)
			found = i;
	}
	return found;
}

/* The rest, which no target speaks of, and what others could not give. */
static bool take_rest(unsigned long total, const struct sums *sums,
		      const struct bb_node_state *node, unsigned int num,
		      struct bb_step *step)
{
	unsigned long have = sums->held + sums->owed;

	if (total <= have)
		return false;
	step->node = richest(node, num, false);
	step->pages = total - have;
	if (step->node == num && sums->lacking) {
		step->node = richest(node, num, true);
		step->pages = smaller(step->pages, sums->lacking);
	}
	return step->node < num;
}

struct bb_step bb_choose(unsigned long total, const struct bb_node_state *node,
			 unsigned int num)
{
	struct sums sums = add_up(node, num);
	struct bb_step step = { .action = BB_DEFLATE };
	unsigned int i;

	for (i = 0; i < num; i++) {
		if (node[i].exact && is_above(&node[i])) {
			step.node = i;
			step.pages = node[i].held - node[i].target;
			return step;
		}
	}
	if (sums.held > total &&
	    give_back(sums.held - total, node, num, &step))
		return step;

	step.action = BB_INFLATE;
	for (i = 0; i < num; i++) {
		if (is_below(&node[i]) && !node[i].dry) {
			step.node = i;
			step.pages = node[i].target - node[i].held;
			return step;
		}
	}
	if (take_rest(total, &sums, node, num, &step))
		return step;

	step.action = BB_REST;
	step.is_short = sums.owed || sums.held < total;
	step.retry = sums.held + sums.owed < total || sums.lacking;
	return step;
}
