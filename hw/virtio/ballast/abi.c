/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Is this the QEMU that the plug-in was built for?
 *
 * Nothing else checks: the plug-in uses QEMU's internal structures as its
 * headers describe them.  So the version, the package string and the sizes
 * of the two structures that are embedded in ours must be the same.
 *
 * Sizes of QOM types are private to QOM.  They are read from its type
 * description, whose first fields (name, class size, instance size) have
 * never moved; a probe type of known sizes proves that they have not.
 */
#include "qemu/osdep.h"
#include "abi.h"
#include "hw/virtio/virtio-balloon.h"
#include "hw/virtio/virtio-pci.h"
#include "qapi/error.h"
#include "qapi/qapi-commands-control.h"
#include "qemu-version.h"

/* A test builds a plug-in that expects another size, and must be refused. */
#ifndef BALLAST_ABI_SKEW_BYTES
#define BALLAST_ABI_SKEW_BYTES 0
#endif

#define PROBE_TYPE "ballast-abi-probe"
#define PROBE_CLASS_BYTES (sizeof(ObjectClass) + 40)
#define PROBE_INSTANCE_BYTES (sizeof(Object) + 72)

typedef struct TypeHead {
    const char *name;
    size_t class_bytes;
    size_t instance_bytes;
} TypeHead;

static const TypeHead *type_head(const char *name)
{
    ObjectClass *klass = object_class_by_name(name);

    return klass ? (const TypeHead *)klass->type : NULL;
}

static bool head_is_as_known(void)
{
    static const TypeInfo probe = {
        .name = PROBE_TYPE,
        .parent = TYPE_OBJECT,
        .class_size = PROBE_CLASS_BYTES,
        .instance_size = PROBE_INSTANCE_BYTES,
    };
    const TypeHead *head;

    type_register_static(&probe);
    head = type_head(PROBE_TYPE);
    return head && head->class_bytes == PROBE_CLASS_BYTES &&
           head->instance_bytes == PROBE_INSTANCE_BYTES &&
           g_str_equal(head->name, PROBE_TYPE);
}

static bool check_size(const char *type, size_t bytes, Error **errp)
{
    const TypeHead *head = type_head(type);

    if (!head) {
        error_setg(errp, "this QEMU has no %s", type);
        return false;
    }
    if (head->instance_bytes != bytes) {
        error_setg(errp, "%s has %zu bytes in this QEMU, %zu in the one the "
                   "plug-in was built for; rebuild it from this QEMU's "
                   "source", type, head->instance_bytes, bytes);
        return false;
    }
    return true;
}

static bool check_version(Error **errp)
{
    g_autoptr(VersionInfo) v = qmp_query_version(NULL);
    g_autofree char *have = g_strdup_printf(
        *v->package ? "%" PRId64 ".%" PRId64 ".%" PRId64 " (%s)" :
        "%" PRId64 ".%" PRId64 ".%" PRId64 "%s",
        v->qemu->major, v->qemu->minor, v->qemu->micro, v->package);
    const char *built = QEMU_FULL_VERSION;

    if (!g_str_equal(have, built)) {
        error_setg(errp, "this is QEMU %s, the plug-in was built for %s; "
                   "rebuild it from this QEMU's source", have, built);
        return false;
    }
    return true;
}

bool ballast_abi_check(Error **errp)
{
    if (!check_version(errp)) {
        return false;
    }
    if (!head_is_as_known()) {
        error_setg(errp, "this QEMU's object model is not as known");
        return false;
    }
    return check_size(TYPE_VIRTIO_BALLOON,
                      sizeof(VirtIOBalloon) + BALLAST_ABI_SKEW_BYTES, errp) &&
           check_size(TYPE_VIRTIO_PCI, sizeof(VirtIOPCIProxy), errp);
}
