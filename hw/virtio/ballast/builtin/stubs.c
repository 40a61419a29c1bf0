/* SPDX-License-Identifier: GPL-2.0-or-later */
/* QMP commands of qapi/ballast.json for targets without the device. */
#include "qemu/osdep.h"
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

MemoryPlacement *qmp_query_memory_placement(bool has_samples,
                                            uint32_t samples, Error **errp)
{
    return not_built(errp);
}

BalloonNodeStart *qmp_balloon_node(uint32_t host_node, uint64_t bytes,
                                   bool has_direction,
                                   BalloonNodeDirection direction,
                                   bool has_exact, bool exact,
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
