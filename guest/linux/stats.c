// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Memory statistics: one buffer, which the device returns when it wants new
 * figures.
 */

#include <linux/mm.h>
#include <linux/swap.h>
#include <linux/vmstat.h>

#include "balloon.h"

static void put(struct bb *bb, unsigned int *num, u16 tag, u64 value)
{
	struct virtio_balloon_stat *stat = &bb->stat[*num];

	if (WARN_ON_ONCE(*num >= ARRAY_SIZE(bb->stat)))
		return;
	stat->tag = cpu_to_virtio16(bb->vdev, tag);
	stat->val = cpu_to_virtio64(bb->vdev, value);
	(*num)++;
}

static void put_memory(struct bb *bb, unsigned int *num)
{
	unsigned long caches = global_node_page_state(NR_FILE_PAGES);
	struct sysinfo info;

	si_meminfo(&info);
	put(bb, num, VIRTIO_BALLOON_S_MEMFREE,
	    (u64)info.freeram * info.mem_unit);
	put(bb, num, VIRTIO_BALLOON_S_MEMTOT,
	    (u64)info.totalram * info.mem_unit);
	put(bb, num, VIRTIO_BALLOON_S_AVAIL,
	    (u64)si_mem_available() << PAGE_SHIFT);
	put(bb, num, VIRTIO_BALLOON_S_CACHES, (u64)caches << PAGE_SHIFT);
}

#ifdef CONFIG_VM_EVENT_COUNTERS
static u64 stalls(const unsigned long *events)
{
	u64 sum = 0;
	int i;

	for (i = 0; i < MAX_NR_ZONES; i++)
		sum += events[ALLOCSTALL_NORMAL - ZONE_NORMAL + i];
	return sum;
}

static void put_events(struct bb *bb, unsigned int *num)
{
	unsigned long events[NR_VM_EVENT_ITEMS];

	all_vm_events(events);
	put(bb, num, VIRTIO_BALLOON_S_SWAP_IN,
	    (u64)events[PSWPIN] << PAGE_SHIFT);
	put(bb, num, VIRTIO_BALLOON_S_SWAP_OUT,
	    (u64)events[PSWPOUT] << PAGE_SHIFT);
	put(bb, num, VIRTIO_BALLOON_S_MAJFLT, events[PGMAJFAULT]);
	put(bb, num, VIRTIO_BALLOON_S_MINFLT, events[PGFAULT]);
#ifdef CONFIG_HUGETLB_PAGE
	put(bb, num, VIRTIO_BALLOON_S_HTLB_PGALLOC,
	    events[HTLB_BUDDY_PGALLOC]);
	put(bb, num, VIRTIO_BALLOON_S_HTLB_PGFAIL,
	    events[HTLB_BUDDY_PGALLOC_FAIL]);
#endif
	put(bb, num, BB_S_OOM_KILL, events[OOM_KILL]);
	put(bb, num, BB_S_ALLOC_STALL, stalls(events));
	put(bb, num, BB_S_ASYNC_SCAN, (u64)events[PGSCAN_KSWAPD]);
	put(bb, num, BB_S_DIRECT_SCAN, (u64)events[PGSCAN_DIRECT]);
	put(bb, num, BB_S_ASYNC_RECLAIM, (u64)events[PGSTEAL_KSWAPD]);
	put(bb, num, BB_S_DIRECT_RECLAIM, (u64)events[PGSTEAL_DIRECT]);
}
#else
static void put_events(struct bb *bb, unsigned int *num)
{
}
#endif

static void answer(struct bb *bb)
{
	struct virtqueue *vq = bb->vq[BB_STATS_VQ];
	struct scatterlist sg;
	unsigned int num = 0;

	put_memory(bb, &num);
	put_events(bb, &num);
	sg_init_one(&sg, bb->stat, num * sizeof(bb->stat[0]));
	if (!virtqueue_add_outbuf(vq, &sg, 1, bb, GFP_KERNEL))
		virtqueue_kick(vq);
}

void bb_stats_work(struct work_struct *work)
{
	struct bb *bb = container_of(work, struct bb, stats_work);
	unsigned int unused;

	if (!virtqueue_get_buf(bb->vq[BB_STATS_VQ], &unused))
		return;
	bb->count.stats++;
	answer(bb);
}

/* The first buffer, which the device keeps until it wants figures. */
void bb_stats_start(struct bb *bb)
{
	if (bb->vq[BB_STATS_VQ])
		answer(bb);
}
