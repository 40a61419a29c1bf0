/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * For targets without the device: QMP commands of qapi/ballast.json, and
 * memory backends that claim nothing.
 */
#include "qemu/osdep.h"
#include "hw/virtio/ballast/backend.h"
#include "qapi/error.h"
#include "qapi/qapi-commands-ballast.h"

static void *not_built(Error **errp)
{
    error_setg(errp, "this QEMU was built without virtio-balloon-ledger");
    return NULL;
}

MemoryLedgerInfo *qmp_query_memory_ledger(Error **errp)
{
    return not_built(errp);
}

FreePageHintInfo *qmp_query_free_page_hints(Error **errp)
{
    return not_built(errp);
}

MemoryPlacement *qmp_query_memory_placement(bool has_mode,
                                            MemoryPlacementMode mode,
                                            bool has_samples,
                                            uint32_t samples, Error **errp)
{
    return not_built(errp);
}

void qmp_memory_placement_start(bool has_time_limit, uint32_t time_limit,
                                Error **errp)
{
    not_built(errp);
}

void qmp_memory_placement_cancel(Error **errp)
{
    not_built(errp);
}

BalloonNodeStart *qmp_balloon_node(uint32_t host_node, uint64_t bytes,
                                   bool has_direction,
                                   BalloonNodeDirection direction,
                                   bool has_exact, bool exact,
                                   bool has_virtio_mem, bool virtio_mem,
                                   bool has_timeout, uint32_t timeout,
                                   Error **errp)
{
    return not_built(errp);
}

void qmp_balloon_node_cancel(Error **errp)
{
    not_built(errp);
}

BalloonNodeInfo *qmp_query_balloon_node(Error **errp)
{
    return not_built(errp);
}

void ballast_backend_class_init(ObjectClass *oc)
{
}

void ballast_plan_backend(const ObjectOptions *options)
{
}

bool ballast_plan_stake(const char *ram_backend, const char *mem_path,
                        Error **errp)
{
    return true;
}

bool ballast_backend_alloc(HostMemoryBackend *backend, Error **errp)
{
    return MEMORY_BACKEND_GET_CLASS(backend)->alloc(backend, errp);
}

bool ballast_virtio_mem_raise(VirtIOMEM *vmem, uint64_t requested_bytes,
                              Error **errp)
{
    return true;
}
