/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Differences between kernel versions, all of them.  What Kbuild found out by
 * compiling (probe.sh) comes as BB_HAVE_*; what a macro tells needs no probe.
 */

#ifndef BALLAST_BALLOON_COMPAT_H
#define BALLAST_BALLOON_COMPAT_H

#include <linux/balloon_compaction.h>
#include <linux/log2.h>
#include <linux/mmzone.h>
#include <linux/shrinker.h>
#include <linux/slab.h>
#include <linux/virtio_balloon.h>
#include <linux/virtio_config.h>

/* The largest order of the page allocator; MAX_ORDER has meant two things. */
#define BB_TOP_ORDER	ilog2(MAX_ORDER_NR_PAGES)

/* Statistics that came later than the oldest kernel here. */
#define BB_S_OOM_KILL		10
#define BB_S_ALLOC_STALL	11
#define BB_S_ASYNC_SCAN		12
#define BB_S_DIRECT_SCAN	13
#define BB_S_ASYNC_RECLAIM	14
#define BB_S_DIRECT_RECLAIM	15
#define BB_S_NUM		16

/**
 * bb_find_vqs() - virtio_find_vqs(), however it takes its arguments
 * @vdev: the device
 * @num: how many queues
 * @vqs: (out) the queues
 * @callbacks: NULL for a queue that needs none
 * @names: NULL for a queue that is not there
 *
 * Return: 0 or -errno
 */
static inline int bb_find_vqs(struct virtio_device *vdev, unsigned int num,
			      struct virtqueue **vqs, vq_callback_t **callbacks,
			      const char * const *names)
{
#ifdef BB_HAVE_VIRTQUEUE_INFO
	struct virtqueue_info info[8] = { };
	unsigned int i;

	for (i = 0; i < num && i < ARRAY_SIZE(info); i++) {
		info[i].name = names[i];
		info[i].callback = callbacks[i];
	}
	return virtio_find_vqs(vdev, num, vqs, info, NULL);
#else
	return virtio_find_vqs(vdev, num, vqs, callbacks, names, NULL);
#endif
}

typedef unsigned long (*bb_shrink_t)(struct shrinker *shrinker,
				     struct shrink_control *control);

/**
 * struct bb_shrinker - a registered shrinker
 * @data: what the callbacks belong to
 */
struct bb_shrinker {
	void *data;
#ifdef BB_HAVE_SHRINKER_ALLOC
	struct shrinker *shrinker;
#else
	struct shrinker shrinker;
#endif
};

static inline void *bb_shrinker_data(struct shrinker *shrinker)
{
#ifdef BB_HAVE_SHRINKER_ALLOC
	return shrinker->private_data;
#else
	return container_of(shrinker, struct bb_shrinker, shrinker)->data;
#endif
}

static inline int bb_shrinker_register(struct bb_shrinker *bb, void *data,
				       bb_shrink_t count, bb_shrink_t scan)
{
#ifdef BB_HAVE_SHRINKER_ALLOC
	bb->shrinker = shrinker_alloc(0, "ballast-balloon");
	if (!bb->shrinker)
		return -ENOMEM;
	bb->shrinker->count_objects = count;
	bb->shrinker->scan_objects = scan;
	bb->shrinker->seeks = DEFAULT_SEEKS;
	bb->shrinker->private_data = data;
	shrinker_register(bb->shrinker);
	return 0;
#else
	bb->data = data;
	bb->shrinker.count_objects = count;
	bb->shrinker.scan_objects = scan;
	bb->shrinker.seeks = DEFAULT_SEEKS;
	return register_shrinker(&bb->shrinker, "ballast-balloon");
#endif
}

static inline void bb_shrinker_unregister(struct bb_shrinker *bb)
{
#ifdef BB_HAVE_SHRINKER_ALLOC
	shrinker_free(bb->shrinker);
#else
	unregister_shrinker(&bb->shrinker);
#endif
}

#endif /* BALLAST_BALLOON_COMPAT_H */
