/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What hints are not used with.
 *
 *   postcopy-ram         a page left out would be asked for on the other side,
 *                        and never come
 *   background-snapshot  pages are saved as they were: there is no harvest
 *   x-colo               both sides run on: what differs there is compared
 *   x-ignore-shared      ignored blocks have no dirty bitmap: our device skips
 *   cpr-transfer         hints about them; QEMU's would crash
 *
 * A device asks for hints in its precopy notifier.  It is put behind a guard
 * that keeps harvests from it while something is in the way, and until the
 * log is armed (see hints.c); the end of the migration passes, so that the
 * guest is told to go on in any case.
 */
#include "qemu/osdep.h"
#include "hw/sysbus.h"
#include "hw/virtio/ballast/balloon.h"
#include "hw/virtio/ballast/compat.h"
#include "migration/ballast/obstacle.h"
#include "migration/misc.h"
#include "migration/options.h"
#include "qapi/util.h"
#include "qemu/rcu_queue.h"
#include "binding.h"
#include "internal.h"
#include "trace-migration_ballast.h"

static bool is_ignored(RAMBlock *rb)
{
    return qemu_ram_is_migratable(rb) && migrate_ram_is_ignored(rb);
}

strList *ballast_ignored_blocks(void)
{
    strList *names = NULL, **tail = &names;
    RAMBlock *rb;

    RCU_READ_LOCK_GUARD();
    QLIST_FOREACH_RCU(rb, &ram_list.blocks, next) {
        if (is_ignored(rb)) {
            QAPI_LIST_APPEND(tail, g_strdup(rb->idstr));
        }
    }
    return names;
}

static bool has_ignored_block(void)
{
    RAMBlock *rb;

    RCU_READ_LOCK_GUARD();
    QLIST_FOREACH_RCU(rb, &ram_list.blocks, next) {
        if (is_ignored(rb)) {
            return true;
        }
    }
    return false;
}

/* Each hint to one of our devices is judged: one block in the way is not. */
static bool judges(VirtIOBalloon *s)
{
    return !s || object_dynamic_cast(OBJECT(s), TYPE_BALLAST_BALLOON);
}

bool ballast_hints_obstacle(VirtIOBalloon *s, FreePageHintObstacle *obstacle)
{
    if (migrate_postcopy_ram() && !(ballast_in_qemu && judges(s))) {
        *obstacle = FREE_PAGE_HINT_OBSTACLE_POSTCOPY_RAM;
    } else if (migrate_background_snapshot()) {
        *obstacle = FREE_PAGE_HINT_OBSTACLE_BACKGROUND_SNAPSHOT;
    } else if (migrate_colo()) {
        *obstacle = FREE_PAGE_HINT_OBSTACLE_X_COLO;
    } else if (judges(s) || !has_ignored_block()) {
        return false;
    } else if (migrate_ignore_shared()) {
        *obstacle = FREE_PAGE_HINT_OBSTACLE_X_IGNORE_SHARED;
    } else {
        *obstacle = FREE_PAGE_HINT_OBSTACLE_CPR_TRANSFER;
    }
    return true;
}

/* The guard ----------------------------------------------------------- */

/* The same function in every device. */
static int (*device_notify)(NotifierWithReturn *n, void *data, Error **errp);

static int guarded_notify(NotifierWithReturn *n, void *data, Error **errp)
{
    VirtIOBalloon *s = container_of(n, VirtIOBalloon, free_page_hint_notify);
    PrecopyNotifyData *event = data;
    FreePageHintObstacle obstacle;

    if (event->reason != PRECOPY_NOTIFY_CLEANUP &&
        ballast_hints_obstacle(s, &obstacle)) {
        trace_ballast_hints_disabled(FreePageHintObstacle_str(obstacle));
        return 0;
    }
    /* The end of the guest's hinting is for the device, whenever it comes. */
    if (event->reason == PRECOPY_NOTIFY_AFTER_BITMAP_SYNC &&
        VIRTIO_DEVICE(s)->vm_running && ballast_hints_deferred()) {
        return 0;
    }
    return device_notify(n, data, errp);
}

/* A walk through QEMU's devices, and what it is for. */
typedef struct Walk {
    bool (*fn)(VirtIOBalloon *s);
    bool found;
} Walk;

static int visit(DeviceState *dev, void *opaque)
{
    Walk *w = opaque;

    w->found = object_dynamic_cast(OBJECT(dev), TYPE_VIRTIO_BALLOON) &&
               w->fn(VIRTIO_BALLOON(dev));
    return w->found ? -1 : 0;
}

bool ballast_any_balloon(bool (*fn)(VirtIOBalloon *s))
{
    Walk w = { .fn = fn };

    qbus_walk_children(sysbus_get_default(), visit, NULL, NULL, NULL, &w);
    return w.found;
}

static bool ask(VirtIOBalloon *s)
{
    PrecopyNotifyData event = { .reason = PRECOPY_NOTIFY_AFTER_BITMAP_SYNC };

    if (virtio_vdev_has_feature(VIRTIO_DEVICE(s),
                                VIRTIO_BALLOON_F_FREE_PAGE_HINT)) {
        guarded_notify(&s->free_page_hint_notify, &event, NULL);
    }
    return false;
}

void ballast_balloons_ask(void)
{
    ballast_any_balloon(ask);
}

static bool guard(VirtIOBalloon *s)
{
    if (s->free_page_hint_notify.notify != guarded_notify) {
        device_notify = s->free_page_hint_notify.notify;
        s->free_page_hint_notify.notify = guarded_notify;
    }
    return false;
}

void ballast_guard_balloons(void)
{
    ballast_any_balloon(guard);
}
