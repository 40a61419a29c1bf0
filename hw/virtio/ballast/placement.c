/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Where guest memory really is.
 *
 * move_pages(2) without target nodes tells the node of each page and
 * changes nothing; pages that are not present say so.  In batches of a few
 * hundred it delays other threads' mmap by microseconds, where numa_maps
 * holds the lock for tens of milliseconds (docs/design/placement.md).
 *
 * Only this process' page tables count: a page of a shared file that only
 * another process has touched is absent here.
 */
#include "qemu/osdep.h"
#include <math.h>
#include <sys/syscall.h>
#include "exec/ramblock.h"
#include "hw/boards.h"
#include "hw/virtio/ballast/placement.h"
#include "hw/mem/memory-device.h"
#include "qemu/rcu_queue.h"
#include "qemu/timer.h"
#include "system/hostmem.h"
#include "trace-hw_virtio_ballast.h"

#define BATCH 512

/* Sampling ------------------------------------------------------------ */

static int where_of(int status)
{
    if (status >= 0 && status < MAX_NODES) {
        return status;
    }
    return status == -ENOENT || status == -EFAULT ? BALLAST_WHERE_ABSENT :
           BALLAST_WHERE_UNKNOWN;
}

void ballast_where(void **pages, unsigned nr, int *nodes)
{
    bool told = syscall(SYS_move_pages, 0, (unsigned long)nr, pages, NULL,
                        nodes, 0) >= 0;
    unsigned i;

    for (i = 0; i < nr; i++) {
        nodes[i] = told ? where_of(nodes[i]) : BALLAST_WHERE_UNKNOWN;
    }
}

static void look_up(void **pages, unsigned nr, BallastSample *out)
{
    int nodes[BATCH];
    unsigned i;

    ballast_where(pages, nr, nodes);
    for (i = 0; i < nr; i++) {
        if (nodes[i] >= 0) {
            out->on_node[nodes[i]]++;
        } else if (nodes[i] == BALLAST_WHERE_ABSENT) {
            out->absent++;
        } else {
            out->unknown++;
        }
    }
    out->samples += nr;
}

/* A random page of each of @nr equal strata; every page if @nr is all. */
void ballast_sample(uint8_t *host, uint64_t bytes, size_t page_bytes,
                    uint64_t samples, BallastSample *out)
{
    uint64_t pages = bytes / page_bytes;
    uint64_t nr = MIN(samples, pages), i, first, end, page;
    void *batch[BATCH];
    unsigned in_batch = 0;

    out->whole = (out->whole || !out->samples) && nr == pages;
    for (i = 0; i < nr; i++) {
        first = (__uint128_t)pages * i / nr;
        end = (__uint128_t)pages * (i + 1) / nr;
        page = first + (end - first > 1 ? g_random_int() % (end - first) : 0);
        batch[in_batch++] = host + page * page_bytes;
        if (in_batch == BATCH) {
            look_up(batch, in_batch, out);
            in_batch = 0;
        }
    }
    if (in_batch) {
        look_up(batch, in_batch, out);
    }
}

uint64_t ballast_sample_bytes(const BallastSample *s, uint64_t count,
                              uint64_t bytes)
{
    return s->samples ? (__uint128_t)bytes * count / s->samples : 0;
}

static void sample_add(BallastSample *to, const BallastSample *from)
{
    unsigned node;

    to->samples += from->samples;
    to->absent += from->absent;
    to->unknown += from->unknown;
    for (node = 0; node < MAX_NODES; node++) {
        to->on_node[node] += from->on_node[node];
    }
}

/* Parts: a stretch of a block that belongs to one guest node ----------- */

typedef struct Part {
    RAMBlock *rb;
    uint64_t offset;
    uint64_t bytes;
    uint32_t vnode;
    BallastSample sample;
} Part;

static void add_part(GArray *parts, RAMBlock *rb, uint64_t offset,
                     uint64_t bytes, uint32_t vnode)
{
    Part part = { .rb = rb, .offset = offset, .bytes = bytes, .vnode = vnode };

    if (bytes) {
        g_array_append_val(parts, part);
    }
}

static bool node_of_memdev(const NumaState *numa, HostMemoryBackend *backend,
                           uint32_t *vnode)
{
    int i;

    for (i = 0; i < numa->num_nodes; i++) {
        if (numa->nodes[i].node_memdev == backend) {
            *vnode = i;
            return true;
        }
    }
    return false;
}

/* A hotplugged or cold-plugged DIMM has its node as a property. */
static uint32_t node_of_dimm(HostMemoryBackend *backend)
{
    g_autofree char *path = object_get_canonical_path(OBJECT(backend));
    MemoryDeviceInfoList *list = qmp_memory_device_list(), *it;
    uint32_t vnode = 0;

    for (it = list; it; it = it->next) {
        if (it->value->type == MEMORY_DEVICE_INFO_KIND_DIMM &&
            g_str_equal(it->value->u.dimm.data->memdev, path)) {
            vnode = it->value->u.dimm.data->node;
        }
    }
    qapi_free_MemoryDeviceInfoList(list);
    return vnode;
}

/* RAM given with -m alone is dealt to the nodes in order of number. */
static void add_split_block(GArray *parts, RAMBlock *rb,
                            const NumaState *numa)
{
    uint64_t offset = 0, bytes;
    int i;

    for (i = 0; i < numa->num_nodes; i++) {
        bytes = MIN(numa->nodes[i].node_mem, rb->used_length - offset);
        add_part(parts, rb, offset, bytes, i);
        offset += bytes;
    }
    add_part(parts, rb, offset, rb->used_length - offset, 0);
}

static void add_block(GArray *parts, RAMBlock *rb, HostMemoryBackend *backend)
{
    MachineState *machine = current_machine;
    NumaState *numa = machine->numa_state;
    uint32_t vnode;

    if (!numa || !numa->num_nodes) {
        add_part(parts, rb, 0, rb->used_length, 0);
    } else if (node_of_memdev(numa, backend, &vnode)) {
        add_part(parts, rb, 0, rb->used_length, vnode);
    } else if (machine->memdev == backend) {
        add_split_block(parts, rb, numa);
    } else {
        add_part(parts, rb, 0, rb->used_length, node_of_dimm(backend));
    }
}

static HostMemoryBackend *backend_of(RAMBlock *rb)
{
    Object *owner = rb->mr ? memory_region_owner(rb->mr) : NULL;

    return owner ? (HostMemoryBackend *)
           object_dynamic_cast(owner, TYPE_MEMORY_BACKEND) : NULL;
}

static GArray *all_parts(void)
{
    GArray *parts = g_array_new(false, true, sizeof(Part));
    RAMBlock *rb;

    QLIST_FOREACH_RCU(rb, &ram_list.blocks, next) {
        if (backend_of(rb)) {
            add_block(parts, rb, backend_of(rb));
        }
    }
    return parts;
}

uint32_t ballast_vnode_at(RAMBlock *rb, uint64_t offset, uint64_t *end)
{
    g_autoptr(GArray) parts = g_array_new(false, true, sizeof(Part));
    unsigned i;

    if (backend_of(rb)) {
        add_block(parts, rb, backend_of(rb));
    }
    for (i = 0; i < parts->len; i++) {
        Part *p = &g_array_index(parts, Part, i);

        if (offset - p->offset < p->bytes) {
            *end = p->offset + p->bytes;
            return p->vnode;
        }
    }
    *end = UINT64_MAX;
    return 0;
}

static void sample_parts(GArray *parts, uint64_t samples)
{
    uint64_t total = 0, share;
    unsigned i;

    for (i = 0; i < parts->len; i++) {
        total += g_array_index(parts, Part, i).bytes;
    }
    for (i = 0; i < parts->len; i++) {
        Part *p = &g_array_index(parts, Part, i);

        share = MAX((__uint128_t)samples * p->bytes / total, 1);
        ballast_sample(p->rb->host + p->offset, p->bytes, p->rb->page_size,
                       share, &p->sample);
    }
}

/* The answer ---------------------------------------------------------- */

static MemoryPlacementNodeList *nodes_list(const uint64_t *bytes)
{
    MemoryPlacementNodeList *list = NULL, **tail = &list;
    unsigned node;

    for (node = 0; node < MAX_NODES; node++) {
        if (bytes[node]) {
            MemoryPlacementNode *n = g_new0(MemoryPlacementNode, 1);

            n->node = node;
            n->bytes = bytes[node];
            QAPI_LIST_APPEND(tail, n);
        }
    }
    return list;
}

/* 95 % confidence, of the least certain of the figures. */
static uint64_t error_bytes(const BallastSample *s, uint64_t bytes)
{
    double worst = 0, p;
    unsigned node;

    if (s->whole || !s->samples) {
        return 0;
    }
    for (node = 0; node <= MAX_NODES; node++) {
        p = (double)(node < MAX_NODES ? s->on_node[node] : s->absent) /
            s->samples;
        worst = MAX(worst, p * (1 - p));
    }
    return 1.96 * sqrt(worst / s->samples) * bytes;
}

static void backend_policy(MemoryPlacementBackend *out,
                           HostMemoryBackend *backend)
{
    uint32List **tail = &out->host_nodes;
    unsigned long node;

    out->memdev = object_get_canonical_path(OBJECT(backend));
    out->policy = g_strdup(HostMemPolicy_str(backend->policy));
    out->has_host_nodes = true;
    for (node = find_first_bit(backend->host_nodes, MAX_NODES);
         node < MAX_NODES;
         node = find_next_bit(backend->host_nodes, MAX_NODES, node + 1)) {
        QAPI_LIST_APPEND(tail, node);
    }
}

static void bytes_add(uint64_t *bytes, const Part *p)
{
    unsigned node;

    for (node = 0; node < MAX_NODES; node++) {
        bytes[node] += ballast_sample_bytes(&p->sample,
                                            p->sample.on_node[node], p->bytes);
    }
}

/* @first to @end: the parts of one block, in order. */
static MemoryPlacementBackend *backend_answer(GArray *parts, unsigned first,
                                              unsigned end)
{
    MemoryPlacementBackend *out = g_new0(MemoryPlacementBackend, 1);
    RAMBlock *rb = g_array_index(parts, Part, first).rb;
    uint32List **tail = &out->guest_nodes;
    uint64_t bytes[MAX_NODES] = {};
    BallastSample sum = { .whole = true };
    unsigned i;

    for (i = first; i < end; i++) {
        Part *p = &g_array_index(parts, Part, i);

        QAPI_LIST_APPEND(tail, p->vnode);
        bytes_add(bytes, p);
        sample_add(&sum, &p->sample);
        sum.whole &= p->sample.whole;
        out->absent += ballast_sample_bytes(&p->sample, p->sample.absent,
                                            p->bytes);
        out->unknown += ballast_sample_bytes(&p->sample, p->sample.unknown,
                                             p->bytes);
    }
    out->id = g_strdup(rb->idstr);
    out->size = rb->used_length;
    out->page_size = rb->page_size;
    out->nodes = nodes_list(bytes);
    out->samples = sum.samples;
    out->error_bytes = error_bytes(&sum, out->size);
    backend_policy(out, backend_of(rb));
    return out;
}

static void answer_backends(GArray *parts, MemoryPlacementBackendList **tail)
{
    unsigned first, end;

    for (first = 0; first < parts->len; first = end) {
        RAMBlock *rb = g_array_index(parts, Part, first).rb;

        for (end = first; end < parts->len &&
             g_array_index(parts, Part, end).rb == rb; end++) {
            continue;
        }
        QAPI_LIST_APPEND(tail, backend_answer(parts, first, end));
    }
}

static MemoryPlacementVnode *vnode_answer(GArray *parts, uint32_t vnode,
                                          unsigned long *pnodes)
{
    MemoryPlacementVnode *out = g_new0(MemoryPlacementVnode, 1);
    uint64_t bytes[MAX_NODES] = {};
    uint32List **tail = &out->pnodes;
    unsigned i, node;

    out->node = vnode;
    for (i = 0; i < parts->len; i++) {
        Part *p = &g_array_index(parts, Part, i);

        if (p->vnode == vnode) {
            bytes_add(bytes, p);
            out->size += p->bytes;
            out->absent += ballast_sample_bytes(&p->sample, p->sample.absent,
                                                p->bytes);
            out->unknown += ballast_sample_bytes(&p->sample,
                                                 p->sample.unknown, p->bytes);
        }
    }
    for (node = 0; node < MAX_NODES; node++) {
        if (bytes[node]) {
            set_bit(node, pnodes);
            QAPI_LIST_APPEND(tail, node);
        }
    }
    out->nodes = nodes_list(bytes);
    return out;
}

uint32_t ballast_vnode_count(void)
{
    NumaState *numa = current_machine->numa_state;

    return numa && numa->num_nodes ? numa->num_nodes : 1;
}

/* The other mask: for each host node the guest nodes that use it. */
static void answer_pnodes(MemoryPlacementVnodeList *vnodes,
                          const unsigned long *pnodes,
                          MemoryPlacementPnodeList **tail)
{
    MemoryPlacementVnodeList *v;
    uint32List *n;
    unsigned long node;

    for (node = find_first_bit(pnodes, MAX_NODES); node < MAX_NODES;
         node = find_next_bit(pnodes, MAX_NODES, node + 1)) {
        MemoryPlacementPnode *out = g_new0(MemoryPlacementPnode, 1);
        uint32List **users = &out->vnodes;

        out->node = node;
        for (v = vnodes; v; v = v->next) {
            for (n = v->value->pnodes; n; n = n->next) {
                if (n->value == node) {
                    QAPI_LIST_APPEND(users, v->value->node);
                }
            }
        }
        QAPI_LIST_APPEND(tail, out);
    }
}

MemoryPlacement *ballast_placement(uint64_t samples)
{
    MemoryPlacement *out = g_new0(MemoryPlacement, 1);
    MemoryPlacementVnodeList **tail = &out->vnodes;
    DECLARE_BITMAP(pnodes, MAX_NODES) = {};
    int64_t start = get_clock();
    g_autoptr(GArray) parts = NULL;
    uint32_t vnode;

    RCU_READ_LOCK_GUARD();
    parts = all_parts();
    sample_parts(parts, samples);
    answer_backends(parts, &out->backends);
    for (vnode = 0; vnode < ballast_vnode_count(); vnode++) {
        QAPI_LIST_APPEND(tail, vnode_answer(parts, vnode, pnodes));
    }
    answer_pnodes(out->vnodes, pnodes, &out->pnodes);
    out->elapsed_us = (get_clock() - start) / 1000;
    trace_ballast_placement(samples, out->elapsed_us);
    return out;
}
