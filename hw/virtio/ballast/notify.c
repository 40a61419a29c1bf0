/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Interrupts of QEMU's own balloon come from the main loop.
 *
 * QEMU's virtio-balloon handles hints in an I/O thread and raises its
 * interrupts there, without the big lock.  QEMU's own interrupt controllers
 * want it: under TCG that is an assertion, and so the end of QEMU, for every
 * guest that does not suppress the hint queue's interrupt or queues a chain
 * that the ring rejects.  Linux does neither; our device takes the ring in
 * the main loop.  (QEMU 10.2 loses these interrupts before they get here.)
 *
 * The bus' class raises them: its method is put behind one that leaves the
 * work to the main loop when the lock is not held.  Not where interrupts go to
 * KVM: any thread may raise those.
 */
#include "qemu/osdep.h"
#include "block/aio.h"
#include "hw/qdev-core.h"
#include "hw/virtio/virtio-bus.h"
#include "internal.h"
#include "qemu/main-loop.h"
#include "qemu/module.h"
#include "system/kvm.h"

typedef void (*NotifyFn)(DeviceState *d, uint16_t vector);

/* An interrupt on its way to the main loop. */
typedef struct Later {
    NotifyFn notify;
    DeviceState *d;
    uint16_t vector;
} Later;

static NotifyFn pci_notify, mmio_notify;

static void notify_later(void *opaque)
{
    g_autofree Later *later = opaque;

    /* It may have been unplugged meanwhile. */
    if (later->d->realized) {
        later->notify(later->d, later->vector);
    }
    object_unref(OBJECT(later->d));
}

static void notify_in_main_loop(NotifyFn notify, DeviceState *d,
                                uint16_t vector)
{
    Later *later;

    if (kvm_async_interrupts_enabled() || bql_locked()) {
        notify(d, vector);
        return;
    }
    later = g_new(Later, 1);
    *later = (Later) { notify, d, vector };
    object_ref(OBJECT(d));
    aio_bh_schedule_oneshot(qemu_get_aio_context(), notify_later, later);
}

static void notify_pci(DeviceState *d, uint16_t vector)
{
    notify_in_main_loop(pci_notify, d, vector);
}

static void notify_mmio(DeviceState *d, uint16_t vector)
{
    notify_in_main_loop(mmio_notify, d, vector);
}

static void put_behind(const char *bus, NotifyFn *saved, NotifyFn ours)
{
    ObjectClass *klass = object_class_by_name(bus);
    VirtioBusClass *k;

    if (klass) {
        k = VIRTIO_BUS_CLASS(klass);
        *saved = k->notify;
        k->notify = ours;
    }
}

static void ballast_notify_init(void)
{
    put_behind("virtio-pci-bus", &pci_notify, notify_pci);
    put_behind("virtio-mmio-bus", &mmio_notify, notify_mmio);
}

type_init(ballast_notify_init)
