// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Free page reporting: the kernel hands over blocks that are free and isolated
 * from the allocator; when the device has answered, they are free again.
 */

#include "balloon.h"

static int report(struct page_reporting_dev_info *reporting,
		  struct scatterlist *sg, unsigned int num)
{
	struct bb *bb = container_of(reporting, struct bb, reporting);
	struct virtqueue *vq = bb->vq[BB_REPORT_VQ];
	int err;

	err = virtqueue_add_inbuf(vq, sg, num, bb, GFP_NOWAIT | __GFP_NOWARN);
	if (err)
		return err;
	virtqueue_kick(vq);
	if (!bb_wait_answer(bb, vq))
		return -EIO;
	bb->count.reported += num;
	return 0;
}

int bb_report_init(struct bb *bb)
{
	if (!bb->vq[BB_REPORT_VQ])
		return 0;
	if (virtqueue_get_vring_size(bb->vq[BB_REPORT_VQ]) <
	    PAGE_REPORTING_CAPACITY) {
		dev_warn(&bb->vdev->dev,
			 "no free page reporting: queue too small\n");
		return 0;
	}
	bb->reporting.report = report;
	return page_reporting_register(&bb->reporting);
}

void bb_report_exit(struct bb *bb)
{
	if (bb->reporting.report)
		page_reporting_unregister(&bb->reporting);
	bb->reporting.report = NULL;
}
