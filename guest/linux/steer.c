// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Towards the goal: one step for each run of the work item, so that a changed
 * config space is noticed between two steps, and suspend need not wait.
 *
 * After a shortfall the driver says so and tries again later, each time
 * after twice as long (not for exact targets: what they got is the answer); a
 * new goal starts at once.  When the guest ran out of memory and got some
 * back, nothing is taken again until the goal changes.
 */

#include <linux/mm.h>
#include <linux/nodemask.h>

#include "balloon.h"

#define BB_RETRY_FIRST_MS	200
#define BB_RETRY_LONGEST_MS	10000

/* A step where no target names the node: so far before the next choice. */
#define BB_SPREAD_PAGES		(SZ_64M >> PAGE_SHIFT)

static void steer_in(struct bb *bb, unsigned int ms)
{
	unsigned long flags;

	spin_lock_irqsave(&bb->stop_lock, flags);
	if (!bb->stopped)
		mod_delayed_work(bb->wq, &bb->steer, msecs_to_jiffies(ms));
	spin_unlock_irqrestore(&bb->stop_lock, flags);
}

void bb_steer_now(struct bb *bb)
{
	steer_in(bb, 0);
}

static void forget_dry(struct bb *bb)
{
	unsigned int nid;

	for (nid = 0; nid < nr_node_ids; nid++)
		bb->node[nid].dry = false;
}

static void update_goal(struct bb *bb)
{
	struct bb_goal goal;

	if (!test_and_clear_bit(BB_NEWS_GOAL, &bb->news))
		return;
	bb_read_goal(bb, &goal);
	if (!memcmp(&goal, &bb->goal, sizeof(goal)))
		return;
	mutex_lock(&bb->lock);
	bb->goal = goal;
	bb->oom_hold = false;
	mutex_unlock(&bb->lock);
	bb->retry_ms = BB_RETRY_FIRST_MS;
	forget_dry(bb);
}

void bb_steer_afresh(struct bb *bb)
{
	mutex_lock(&bb->lock);
	memset(&bb->goal, 0, sizeof(bb->goal));
	bb->shown.valid = false;
	bb->oom_hold = false;
	mutex_unlock(&bb->lock);
	bb->retry_ms = BB_RETRY_FIRST_MS;
	forget_dry(bb);
}

static unsigned long free_pages_of(int nid)
{
	unsigned long pages = 0;
	int i;

	for (i = 0; i < MAX_NR_ZONES; i++)
		pages += zone_page_state(&NODE_DATA(nid)->node_zones[i],
					 NR_FREE_PAGES);
	return pages;
}

/* By Linux node; behind those the device's nodes that are unknown here. */
static unsigned int look_at_nodes(struct bb *bb)
{
	unsigned int i, num = nr_node_ids;
	struct bb_node_state *state;

	for (i = 0; i < nr_node_ids; i++) {
		state = &bb->state[i];
		memset(state, 0, sizeof(*state));
		state->target = BB_NO_TARGET;
		state->held = READ_ONCE(bb->node[i].held);
		if (node_state(i, N_MEMORY))
			state->free = free_pages_of(i);
		state->dry = bb->node[i].dry || READ_ONCE(bb->oom_hold) ||
			!node_state(i, N_MEMORY);
	}
	for (i = 0; i < bb->goal.num_nodes; i++) {
		int nid = bb_goal_nid(&bb->goal, i);

		if (nid == NUMA_NO_NODE) {
			state = &bb->state[num++];
			memset(state, 0, sizeof(*state));
			state->dry = true;
		} else {
			state = &bb->state[nid];
		}
		state->target = bb->goal.node[i].target;
		state->exact = bb->goal.node[i].exact;
	}
	return num;
}

/* Returns whether there was anything to do it with. */
static bool do_step(struct bb *bb, const struct bb_step *step)
{
	struct bb_node *node = &bb->node[step->node];
	unsigned long pages = step->pages;
	unsigned long done;

	if (bb->state[step->node].target == BB_NO_TARGET)
		pages = min(pages, (unsigned long)BB_SPREAD_PAGES);
	if (step->action == BB_INFLATE) {
		done = bb_inflate(bb, step->node, pages, &node->dry);
		return done || node->dry;
	}
	mutex_lock(&bb->lock);
	done = bb_deflate(bb, step->node, pages);
	mutex_unlock(&bb->lock);
	return done;
}

/* What an exact node has by then is all it gives for this goal. */
static void settle(struct bb *bb)
{
	unsigned int i;
	int nid;

	forget_dry(bb);
	for (i = 0; i < bb->goal.num_nodes; i++) {
		nid = bb_goal_nid(&bb->goal, i);
		if (nid != NUMA_NO_NODE && bb->goal.node[i].exact)
			bb->node[nid].dry = true;
	}
}

/* Says how it ended; what can be tried again is tried later. */
static void rest(struct bb *bb, bool is_short, bool retry)
{
	mutex_lock(&bb->lock);
	bb_show_done(bb, is_short ? BALLAST_BALLOON_SHORT :
		     BALLAST_BALLOON_REACHED);
	mutex_unlock(&bb->lock);
	settle(bb);
	if (!retry) {
		bb->retry_ms = BB_RETRY_FIRST_MS;
		return;
	}
	if (READ_ONCE(bb->oom_hold))
		return;
	bb->count.retries++;
	steer_in(bb, bb->retry_ms);
	bb->retry_ms = min_t(unsigned int, 2 * bb->retry_ms,
			     BB_RETRY_LONGEST_MS);
}

void bb_steer_work(struct work_struct *work)
{
	struct bb *bb = container_of(to_delayed_work(work), struct bb, steer);
	struct bb_step step;
	unsigned int num;

	update_goal(bb);
	num = look_at_nodes(bb);
	step = bb_choose(bb->goal.total, bb->state, num);
	if (step.action == BB_REST) {
		rest(bb, step.is_short, step.retry);
	} else if (do_step(bb, &step)) {
		mutex_lock(&bb->lock);
		bb_show(bb);
		mutex_unlock(&bb->lock);
		bb_steer_now(bb);
	} else {
		rest(bb, true, true);
	}
}
