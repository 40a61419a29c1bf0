/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Human monitor: info memory-ledger, info memory-placement. */
#include "qemu/osdep.h"
#include "monitor/hmp.h"
#include "monitor/monitor.h"
#include "qapi/error.h"
#include "qapi/qapi-commands-ballast.h"

#define MIB_OF(bytes) ((bytes) >> 20)

void hmp_info_memory_ledger(Monitor *mon, const QDict *qdict)
{
    g_autoptr(MemoryLedgerInfo) info = NULL;
    MemoryLedgerDemandList *line;
    Error *err = NULL;

    info = qmp_query_memory_ledger(&err);
    if (hmp_handle_error(mon, err)) {
        return;
    }
    monitor_printf(mon, "ledger %s, slot %u, name %s\n",
                   info->path ? info->path : "(inherited)", info->slot,
                   info->name);
    for (line = info->claims; line; line = line->next) {
        MemoryLedgerDemand *d = line->value;
        g_autofree char *node = d->has_node ?
            g_strdup_printf("node %u", d->node) : g_strdup("any node");

        monitor_printf(mon, "  %s, pages of %" PRIu64 " KiB: claimed %" PRIu64
                       " MiB, given back %" PRIu64 " MiB\n", node,
                       d->page_size >> 10, MIB_OF(d->claimed),
                       MIB_OF(d->given_back));
    }
    monitor_printf(mon, "resident %" PRIu64 " MiB, freeable %" PRIu64
                   " MiB, deficit %" PRIu64 " MiB\n", MIB_OF(info->resident),
                   MIB_OF(info->freeable), MIB_OF(info->deficit));
    monitor_printf(mon, "refused %" PRIu64 " times, %u buffers waiting\n",
                   info->refused, info->waiting);
}

static void print_nodes(Monitor *mon, MemoryPlacementNodeList *nodes,
                        uint64_t absent, uint64_t unknown)
{
    for (; nodes; nodes = nodes->next) {
        monitor_printf(mon, ", node %u: %" PRIu64 " MiB", nodes->value->node,
                       MIB_OF(nodes->value->bytes));
    }
    monitor_printf(mon, ", absent %" PRIu64 " MiB", MIB_OF(absent));
    if (unknown) {
        monitor_printf(mon, ", unknown %" PRIu64 " MiB", MIB_OF(unknown));
    }
    monitor_printf(mon, "\n");
}

void hmp_info_memory_placement(Monitor *mon, const QDict *qdict)
{
    g_autoptr(MemoryPlacement) info = NULL;
    MemoryPlacementBackendList *b;
    MemoryPlacementVnodeList *v;
    Error *err = NULL;

    info = qmp_query_memory_placement(false, 0, &err);
    if (hmp_handle_error(mon, err)) {
        return;
    }
    for (b = info->backends; b; b = b->next) {
        monitor_printf(mon, "backend %s: %" PRIu64 " MiB", b->value->id,
                       MIB_OF(b->value->size));
        print_nodes(mon, b->value->nodes, b->value->absent,
                    b->value->unknown);
        monitor_printf(mon, "  (a sample of %" PRIu64 " pages, +-%" PRIu64
                       " MiB)\n", b->value->samples,
                       MIB_OF(b->value->error_bytes));
    }
    for (v = info->vnodes; v; v = v->next) {
        monitor_printf(mon, "guest node %u: %" PRIu64 " MiB", v->value->node,
                       MIB_OF(v->value->size));
        print_nodes(mon, v->value->nodes, v->value->absent,
                    v->value->unknown);
    }
}
