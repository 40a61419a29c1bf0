// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The guest is out of memory: it gets some of the balloon back, where the
 * device allows that (VIRTIO_BALLOON_F_DEFLATE_ON_OOM).
 *
 * How much is a compromise: a process is about to be killed, so it must be
 * worth the kernel's while to try again; and the host counts on the rest.
 */

#include <linux/oom.h>

#include "balloon.h"

/* At least so much, rounded up to whole blocks by what there is. */
#define BB_OOM_PAGES	(SZ_1M >> PAGE_SHIFT)

static unsigned long give_some(struct bb *bb)
{
	unsigned long done = 0;
	unsigned int nid;

	for (nid = 0; nid < nr_node_ids && done < BB_OOM_PAGES; nid++)
		done += bb_deflate(bb, nid, BB_OOM_PAGES - done);
	return done;
}

static int out_of_memory_now(struct notifier_block *notifier,
			     unsigned long unused, void *freed)
{
	struct bb *bb = container_of(notifier, struct bb, oom);
	unsigned long done;

	mutex_lock(&bb->lock);
	done = give_some(bb);
	if (done) {
		WRITE_ONCE(bb->oom_hold, true);
		bb->count.oom += done;
		bb_show(bb);
	}
	mutex_unlock(&bb->lock);
	if (done)
		bb_steer_now(bb);	/* it says what became of the goal */
	*(unsigned long *)freed += done;
	return NOTIFY_OK;
}

int bb_oom_init(struct bb *bb)
{
	if (!virtio_has_feature(bb->vdev, VIRTIO_BALLOON_F_DEFLATE_ON_OOM))
		return 0;
	bb->oom.notifier_call = out_of_memory_now;
	return register_oom_notifier(&bb->oom);
}

void bb_oom_exit(struct bb *bb)
{
	if (bb->oom.notifier_call)
		unregister_oom_notifier(&bb->oom);
	bb->oom.notifier_call = NULL;
}
