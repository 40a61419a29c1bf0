// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * virtio-balloon driver of Ballast: the device, from probe to remove.
 *
 * Drives QEMU's virtio-balloon as the kernel's own driver does, and Ballast's
 * virtio-balloon-ledger with a target for each node and with blocks instead
 * of pages (abi.h).
 *
 * Order at start: queues, then DRIVER_OK, then who may call in (OOM notifier,
 * page reporting, debugfs), then the first work.  At the end the other way
 * round: nobody may call in, no work is left, everything is given back and
 * the device has heard of it; only then it is reset.  Suspend is that end
 * without the first step, since a device that was reset remembers nothing, and
 * pages without content must not be in an image of hibernation.
 */

#include <linux/mm.h>
#include <linux/module.h>

#include "balloon.h"

static void config_changed(struct virtio_device *vdev)
{
	struct bb *bb = vdev->priv;
	unsigned long flags;

	spin_lock_irqsave(&bb->stop_lock, flags);
	if (!bb->stopped) {
		set_bit(BB_NEWS_GOAL, &bb->news);
		mod_delayed_work(bb->wq, &bb->steer, 0);
		if (bb->vq[BB_HINT_VQ]) {
			set_bit(BB_NEWS_HINT, &bb->news);
			queue_work(bb->wq, &bb->hint.work);
		}
	}
	spin_unlock_irqrestore(&bb->stop_lock, flags);
}

static void answered(struct virtqueue *vq)
{
	struct bb *bb = vq->vdev->priv;

	wake_up(&bb->answered);
}

static void stats_wanted(struct virtqueue *vq)
{
	struct bb *bb = vq->vdev->priv;
	unsigned long flags;

	spin_lock_irqsave(&bb->stop_lock, flags);
	if (!bb->stopped)
		queue_work(bb->wq, &bb->stats_work);
	spin_unlock_irqrestore(&bb->stop_lock, flags);
}

static int find_queues(struct bb *bb)
{
	static const struct {
		const char *name;
		vq_callback_t *callback;
		int feature;
	} queues[BB_VQS] = {
		[BB_INFLATE_VQ] = { "inflate", answered, -1 },
		[BB_DEFLATE_VQ] = { "deflate", answered, -1 },
		[BB_STATS_VQ] = { "stats", stats_wanted,
				  VIRTIO_BALLOON_F_STATS_VQ },
		[BB_HINT_VQ] = { "hint", NULL,
				 VIRTIO_BALLOON_F_FREE_PAGE_HINT },
		[BB_REPORT_VQ] = { "report", answered,
				   VIRTIO_BALLOON_F_REPORTING },
	};
	vq_callback_t *callbacks[BB_VQS] = { };
	const char *names[BB_VQS] = { };
	unsigned int i;

	for (i = 0; i < BB_VQS; i++) {
		if (queues[i].feature >= 0 &&
		    !virtio_has_feature(bb->vdev, queues[i].feature))
			continue;
		callbacks[i] = queues[i].callback;
		names[i] = queues[i].name;
	}
	return bb_find_vqs(bb->vdev, BB_VQS, bb->vq, callbacks, names);
}

/* What free pages contain, which the device may have to restore. */
static void tell_poison(struct bb *bb)
{
	u32 value = 0;

	if (!virtio_has_feature(bb->vdev, VIRTIO_BALLOON_F_PAGE_POISON))
		return;
	if (!want_init_on_free())
		memset(&value, PAGE_POISON, sizeof(value));
	virtio_cwrite_le(bb->vdev, struct virtio_balloon_config, poison_val,
			 &value);
}

static void let_work(struct bb *bb)
{
	bb_steer_afresh(bb);
	spin_lock_irq(&bb->stop_lock);
	bb->stopped = false;
	set_bit(BB_NEWS_GOAL, &bb->news);
	if (bb->vq[BB_HINT_VQ]) {	/* in the middle of a migration, maybe */
		set_bit(BB_NEWS_HINT, &bb->news);
		queue_work(bb->wq, &bb->hint.work);
	}
	spin_unlock_irq(&bb->stop_lock);
	bb_stats_start(bb);
	bb_steer_now(bb);
}

static void end_work(struct bb *bb)
{
	spin_lock_irq(&bb->stop_lock);
	bb->stopped = true;
	spin_unlock_irq(&bb->stop_lock);
	cancel_delayed_work_sync(&bb->steer);
	cancel_work_sync(&bb->hint.work);
	cancel_work_sync(&bb->stats_work);
}

/* Everything is given back; after that the device knows nothing of us. */
static void quiesce(struct bb *bb)
{
	bb_report_exit(bb);
	end_work(bb);
	bb_deflate_all(bb);
	bb_hint_return(bb);
	mutex_lock(&bb->lock);
	bb_show(bb);
	mutex_unlock(&bb->lock);
	virtio_reset_device(bb->vdev);
	bb_hint_detach(bb);
	bb->vdev->config->del_vqs(bb->vdev);
}

static int start_device(struct bb *bb)
{
	int err = find_queues(bb);

	if (err)
		return err;
	bb->ranges = virtio_has_feature(bb->vdev,
					VIRTIO_BALLOON_F_BALLAST_NODES);
	tell_poison(bb);
	virtio_device_ready(bb->vdev);
	return 0;
}

static struct bb *alloc_bb(struct virtio_device *vdev)
{
	struct bb *bb = kzalloc(sizeof(*bb), GFP_KERNEL);

	if (!bb)
		return NULL;
	bb->vdev = vdev;
	vdev->priv = bb;
	mutex_init(&bb->lock);
	spin_lock_init(&bb->stop_lock);
	init_waitqueue_head(&bb->answered);
	INIT_DELAYED_WORK(&bb->steer, bb_steer_work);
	INIT_WORK(&bb->stats_work, bb_stats_work);
	bb_inflate_init(bb);
	bb->stopped = true;
	bb->wq = alloc_workqueue("ballast_balloon",
				 WQ_FREEZABLE | WQ_UNBOUND, 0);
	return bb;
}

static void free_bb(struct bb *bb)
{
	if (bb->wq)
		destroy_workqueue(bb->wq);
	kvfree(bb->node);
	kvfree(bb->state);
	kfree(bb);
}

static int let_callers_in(struct bb *bb)
{
	int err;

	err = bb_hint_init(bb);
	if (err)
		return err;
	err = bb_oom_init(bb);
	if (err)
		goto no_oom;
	err = bb_report_init(bb);
	if (err)
		goto no_report;
	bb_debugfs_add(bb);
	return 0;

no_report:
	bb->reporting.report = NULL;
	bb_oom_exit(bb);
no_oom:
	bb_hint_exit(bb);
	return err;
}

static int balloon_probe(struct virtio_device *vdev)
{
	struct bb *bb;
	int err;

	if (!vdev->config->get) {
		dev_err(&vdev->dev, "the device has no config space\n");
		return -EINVAL;
	}
	bb = alloc_bb(vdev);
	if (!bb)
		return -ENOMEM;
	err = bb->wq ? bb_nodes_init(bb) : -ENOMEM;
	if (err)
		goto no_device;
	err = start_device(bb);
	if (err)
		goto no_device;
	err = let_callers_in(bb);
	if (err)
		goto no_callers;
	let_work(bb);
	dev_info(&vdev->dev, "%s\n", bb->ranges ?
		 "node targets and blocks" : "stock interface");
	return 0;

no_callers:
	virtio_reset_device(vdev);
	vdev->config->del_vqs(vdev);
no_device:
	free_bb(bb);
	return err;
}

static void balloon_remove(struct virtio_device *vdev)
{
	struct bb *bb = vdev->priv;

	bb_debugfs_del(bb);
	bb_oom_exit(bb);
	quiesce(bb);
	bb_hint_exit(bb);
	free_bb(bb);
}

#ifdef CONFIG_PM_SLEEP
static int balloon_freeze(struct virtio_device *vdev)
{
	struct bb *bb = vdev->priv;

	quiesce(bb);
	return 0;
}

static int balloon_restore(struct virtio_device *vdev)
{
	struct bb *bb = vdev->priv;
	int err;

	err = start_device(bb);
	if (err)
		return err;
	err = bb_report_init(bb);
	if (err)
		return err;
	let_work(bb);
	return 0;
}
#endif

/* Before features are agreed on: what we cannot keep is not promised. */
static int balloon_validate(struct virtio_device *vdev)
{
	/*
	 * A device that may alter free pages must know what is in them, if
	 * anybody checks.
	 */
	if (!want_init_on_free() && !page_poisoning_enabled_static())
		__virtio_clear_bit(vdev, VIRTIO_BALLOON_F_PAGE_POISON);
	else if (!virtio_has_feature(vdev, VIRTIO_BALLOON_F_PAGE_POISON))
		__virtio_clear_bit(vdev, VIRTIO_BALLOON_F_REPORTING);

	/* Page numbers are guest-physical, whatever is between. */
	__virtio_clear_bit(vdev, VIRTIO_F_ACCESS_PLATFORM);

	if (virtio_has_feature(vdev, VIRTIO_BALLOON_F_BALLAST_NODES) &&
	    !(virtio_has_feature(vdev, VIRTIO_F_VERSION_1) &&
	      bb_config_supported(vdev))) {
		dev_warn(&vdev->dev, "unknown format, no node targets\n");
		__virtio_clear_bit(vdev, VIRTIO_BALLOON_F_BALLAST_NODES);
	}
	return 0;
}

static const struct virtio_device_id id_table[] = {
	{ VIRTIO_ID_BALLOON, VIRTIO_DEV_ANY_ID },
	{ 0 },
};
MODULE_DEVICE_TABLE(virtio, id_table);

static const unsigned int features[] = {
	VIRTIO_BALLOON_F_MUST_TELL_HOST,
	VIRTIO_BALLOON_F_STATS_VQ,
	VIRTIO_BALLOON_F_DEFLATE_ON_OOM,
	VIRTIO_BALLOON_F_FREE_PAGE_HINT,
	VIRTIO_BALLOON_F_PAGE_POISON,
	VIRTIO_BALLOON_F_REPORTING,
	VIRTIO_BALLOON_F_BALLAST_NODES,
};

static struct virtio_driver ballast_balloon = {
	.feature_table = features,
	.feature_table_size = ARRAY_SIZE(features),
	.driver.name = KBUILD_MODNAME,
	.driver.owner = THIS_MODULE,
	.id_table = id_table,
	.validate = balloon_validate,
	.probe = balloon_probe,
	.remove = balloon_remove,
	.config_changed = config_changed,
#ifdef CONFIG_PM_SLEEP
	.freeze = balloon_freeze,
	.restore = balloon_restore,
#endif
};

static int __init balloon_init(void)
{
	int err;

	bb_debugfs_create();
	err = register_virtio_driver(&ballast_balloon);
	if (err)
		bb_debugfs_remove();
	return err;
}
module_init(balloon_init);

static void __exit balloon_exit(void)
{
	unregister_virtio_driver(&ballast_balloon);
	bb_debugfs_remove();
}
module_exit(balloon_exit);

MODULE_DESCRIPTION("virtio balloon with node targets and blocks");
MODULE_AUTHOR("The Ballast project");
MODULE_LICENSE("GPL");
MODULE_VERSION("1.0");
