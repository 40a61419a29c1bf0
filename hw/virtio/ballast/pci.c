/* SPDX-License-Identifier: GPL-2.0-or-later */
/* virtio-balloon-ledger-pci: the device behind a PCI function. */
#include "qemu/osdep.h"
#include "hw/qdev-properties.h"
#include "hw/virtio/ballast/balloon.h"
#include "hw/virtio/ballast/compat.h"
#include "hw/virtio/virtio-pci.h"
#include "qemu/cutils.h"
#include "qemu/module.h"
#include "standard-headers/linux/virtio_pci.h"
#include "trace-hw_virtio_ballast.h"

#define BALLAST_BALLOON_PCI_NAME "virtio-balloon-ledger-pci"
#define TYPE_BALLAST_BALLOON_PCI BALLAST_BALLOON_PCI_NAME "-base"
OBJECT_DECLARE_SIMPLE_TYPE(BallastBalloonPCI, BALLAST_BALLOON_PCI)

struct BallastBalloonPCI {
    VirtIOPCIProxy parent_obj;
    BallastBalloon vdev;
};

/*
 * A queue that is enabled keeps its size and its rings until it is reset, and
 * with queues that have rings the device keeps its features: what a ring
 * looks like depends on them.  The specification forbids drivers to change
 * either, QEMU lets them, and then reads a ring at an index, or in a place,
 * which what it has mapped of it does not have: an assertion that a guest can
 * cause at will.
 */
typedef struct Guard {
    MemoryRegionOps ops;
    void (*write)(void *opaque, hwaddr addr, uint64_t val, unsigned size);
} Guard;

static Guard common, legacy;

static bool any_ring(VirtIODevice *vdev)
{
    int n, nr = virtio_get_num_queues(vdev);

    for (n = 0; n < nr; n++) {
        if (virtio_queue_get_desc_addr(vdev, n)) {
            return true;
        }
    }
    return false;
}

/* A guest may also have given it rings through the legacy registers. */
static bool has_rings(VirtIOPCIProxy *proxy, VirtIODevice *vdev)
{
    return proxy->vqs[vdev->queue_sel].enabled ||
           virtio_queue_get_desc_addr(vdev, vdev->queue_sel);
}

static bool common_is_kept(VirtIOPCIProxy *proxy, VirtIODevice *vdev,
                           hwaddr addr, uint64_t val)
{
    switch (addr) {
    case VIRTIO_PCI_COMMON_Q_SIZE:
        return has_rings(proxy, vdev);
    case VIRTIO_PCI_COMMON_Q_ENABLE:
        return has_rings(proxy, vdev) && val == 1;
    case VIRTIO_PCI_COMMON_GF:
        return any_ring(vdev);
    default:
        return false;
    }
}

static void guarded_common_write(void *opaque, hwaddr addr, uint64_t val,
                                 unsigned size)
{
    VirtIOPCIProxy *proxy = opaque;
    VirtIODevice *vdev = virtio_bus_get_device(&proxy->bus);

    if (vdev && common_is_kept(proxy, vdev, addr, val)) {
        trace_ballast_register_kept(vdev->queue_sel, addr, val);
        return;
    }
    common.write(opaque, addr, val, size);
}

static void guarded_legacy_write(void *opaque, hwaddr addr, uint64_t val,
                                 unsigned size)
{
    VirtIOPCIProxy *proxy = opaque;
    VirtIODevice *vdev = virtio_bus_get_device(&proxy->bus);

    if (vdev && addr == VIRTIO_PCI_GUEST_FEATURES && any_ring(vdev)) {
        trace_ballast_register_kept(vdev->queue_sel, addr, val);
        return;
    }
    legacy.write(opaque, addr, val, size);
}

/* All devices have the same operations, so one copy of each serves them. */
static void guard_region(MemoryRegion *mr, Guard *guard,
                         void (*write)(void *opaque, hwaddr addr,
                                       uint64_t val, unsigned size))
{
    if (mr->ops && mr->ops->write && mr->ops != &guard->ops) {
        guard->ops = *mr->ops;
        guard->write = guard->ops.write;
        guard->ops.write = write;
        mr->ops = &guard->ops;
    }
}

/* The regions are made when the device is plugged into its bus. */
static void guard_registers(VirtIOPCIProxy *proxy)
{
    if (virtio_pci_modern(proxy)) {
        guard_region(&proxy->common.mr, &common, guarded_common_write);
    }
    if (virtio_pci_legacy(proxy)) {
        guard_region(&proxy->bar, &legacy, guarded_legacy_write);
    }
}

static Object *itself(Object *obj, void *opaque, const char *part)
{
    return obj;
}

/*
 * libvirt looks for a balloon's statistics under the name of QEMU's own type,
 * and takes a link to one as well, wherever it is: so it finds ours where its
 * XML replaced the driver.
 */
static void show_as_stock(Object *obj)
{
    const char *name = object_get_typename(obj);
    g_autofree char *stock = NULL;
    ObjectProperty *prop;

    if (!strstart(name, BALLAST_BALLOON_PCI_NAME, &name) ||
        object_property_find(obj, "stock-balloon")) {
        return;
    }
    stock = g_strdup_printf("link<virtio-balloon-pci%s>", name);
    prop = object_property_add(obj, "stock-balloon", stock, NULL, NULL, NULL,
                               NULL);
    prop->resolve = itself;
}

static void ballast_pci_realize(VirtIOPCIProxy *proxy, Error **errp)
{
    BallastBalloonPCI *dev = BALLAST_BALLOON_PCI(proxy);

    if (proxy->nvectors == DEV_NVECTORS_UNSPECIFIED) {
        proxy->nvectors = 2;
    }
    proxy->class_code = PCI_CLASS_OTHERS;
    if (qdev_realize(DEVICE(&dev->vdev), BUS(&proxy->bus), errp)) {
        guard_registers(proxy);
        show_as_stock(OBJECT(proxy));
    }
}

static const Property ballast_pci_properties[] = {
    DEFINE_PROP_BIT("ioeventfd", VirtIOPCIProxy, flags,
                    VIRTIO_PCI_FLAG_USE_IOEVENTFD_BIT, true),
    DEFINE_PROP_UINT32("vectors", VirtIOPCIProxy, nvectors,
                       DEV_NVECTORS_UNSPECIFIED),
};

static void ballast_pci_class_init(ObjectClass *klass,
                                   BALLAST_CLASS_DATA *data)
{
    DeviceClass *dc = DEVICE_CLASS(klass);
    PCIDeviceClass *pci = PCI_DEVICE_CLASS(klass);

    VIRTIO_PCI_CLASS(klass)->realize = ballast_pci_realize;
    set_bit(DEVICE_CATEGORY_MISC, dc->categories);
    device_class_set_props(dc, ballast_pci_properties);
    pci->vendor_id = PCI_VENDOR_ID_REDHAT_QUMRANET;
    pci->device_id = PCI_DEVICE_ID_VIRTIO_BALLOON;
    pci->revision = VIRTIO_PCI_ABI_VERSION;
    pci->class_id = PCI_CLASS_OTHERS;
}

static void ballast_pci_instance_init(Object *obj)
{
    BallastBalloonPCI *dev = BALLAST_BALLOON_PCI(obj);
    Object *inner = OBJECT(&dev->vdev);

    virtio_instance_init_common(obj, &dev->vdev, sizeof(dev->vdev),
                                TYPE_BALLAST_BALLOON);
    object_property_add_alias(obj, "guest-stats", inner, "guest-stats");
    object_property_add_alias(obj, "guest-stats-polling-interval", inner,
                              "guest-stats-polling-interval");
}

static const VirtioPCIDeviceTypeInfo ballast_pci_info = {
    .base_name = TYPE_BALLAST_BALLOON_PCI,
    .generic_name = BALLAST_BALLOON_PCI_NAME,
    .transitional_name = BALLAST_BALLOON_PCI_NAME "-transitional",
    .non_transitional_name = BALLAST_BALLOON_PCI_NAME "-non-transitional",
    .instance_size = sizeof(BallastBalloonPCI),
    .instance_init = ballast_pci_instance_init,
    .class_init = ballast_pci_class_init,
};

static void ballast_pci_register_types(void)
{
    virtio_pci_types_register(&ballast_pci_info);
}

type_init(ballast_pci_register_types)
