/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Where guest memory really is: a sample, and what any look has found in the
 * words of QMP.
 *
 * Only this process' page tables count: a page of a shared file that only
 * another process has touched is absent here.
 */
#include "qemu/osdep.h"
#include <math.h>
#include "hw/virtio/ballast/numamaps.h"
#include "hw/virtio/ballast/topology.h"
#include "placement-map.h"
#include "qemu/timer.h"
#include "trace-hw_virtio_ballast.h"

QEMU_BUILD_BUG_ON(BALLAST_SAMPLE_NODES != MAX_NODES);

/* Looking ---------------------------------------------------------------- */

static int look(const BallastPlace *place, uint64_t offset, uint64_t bytes,
                uint64_t samples, BallastSample *out)
{
    struct ballast_eyes eyes;

    ballast_eyes_init(&eyes, 0);
    return ballast_look_sample(&eyes, (uintptr_t)place->host + offset, bytes,
                               place->page_bytes, samples, g_random_int, out);
}

void ballast_sample(uint8_t *host, uint64_t bytes, size_t page_bytes,
                    uint64_t samples, BallastSample *out)
{
    BallastPlace place = { .host = host, .page_bytes = page_bytes };

    look(&place, 0, bytes, samples, out);
}

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
    struct ballast_eyes eyes;
    unsigned i;
    int err;

    ballast_eyes_init(&eyes, 0);
    err = eyes.nodes(&eyes, pages, nr, nodes);
    for (i = 0; i < nr; i++) {
        nodes[i] = err ? BALLAST_WHERE_UNKNOWN : where_of(nodes[i]);
    }
}

bool ballast_refused(int err)
{
    return err == -EPERM || err == -EACCES || err == -ENOSYS;
}

/* A page for each part at least. */
static int sample_parts(BallastMap *map, uint64_t samples)
{
    int err = 0;
    unsigned i;

    for (i = 0; i < map->parts->len && !ballast_refused(err); i++) {
        BallastPart *p = ballast_map_part(map, i);
        uint64_t share = (__uint128_t)samples * p->bytes / map->bytes;

        err = look(ballast_map_place(map, p->place), p->offset, p->bytes,
                   MAX(share, 1), &p->sample);
    }
    return err;
}

void ballast_map_numa_maps(BallastMap *map)
{
    struct ballast_numa_maps maps = {};
    int err = ballast_numa_maps_read(0, &maps);
    unsigned i;

    for (i = 0; i < map->parts->len; i++) {
        BallastPart *p = ballast_map_part(map, i);
        uint8_t *host = ballast_map_place(map, p->place)->host;

        memset(&p->sample, 0, sizeof(p->sample));
        if (err) {
            p->sample.samples = p->sample.unknown = p->bytes;
        } else {
            ballast_numa_maps_look(&maps, (uintptr_t)host + p->offset,
                                   p->bytes, &p->sample);
        }
        p->sample.flat = p->bytes;
    }
    map->method = err ? MEMORY_PLACEMENT_METHOD_NONE :
                  MEMORY_PLACEMENT_METHOD_NUMA_MAPS;
    ballast_numa_maps_free(&maps);
}

MemoryPlacement *ballast_placement(uint64_t samples)
{
    int64_t start = get_clock();
    MemoryPlacement *out;
    BallastMap *map;

    RCU_READ_LOCK_GUARD();
    map = ballast_map_new();
    if (ballast_refused(sample_parts(map, samples))) {
        ballast_map_numa_maps(map);
    }
    out = ballast_map_answer(map, false);
    out->mode = MEMORY_PLACEMENT_MODE_SAMPLE;
    out->state = MEMORY_PLACEMENT_STATE_DONE;
    out->looked_at = out->size;
    ballast_map_free(map);
    out->elapsed_us = (get_clock() - start) / 1000;
    trace_ballast_placement(samples, out->elapsed_us);
    return out;
}

/* The answer ------------------------------------------------------------- */

/* Sums of some parts, in bytes. */
typedef struct Figures {
    uint64_t size;
    uint64_t on_node[MAX_NODES];
    uint64_t absent;
    uint64_t unknown;
    uint64_t huge;
    uint64_t flat;
    uint64_t lookups;
    double error2;          /* squared: the parts' errors are independent */
} Figures;

static void figures_add(Figures *f, const BallastPart *p, bool exact)
{
    const BallastSample *s = &p->sample;
    uint64_t bytes = exact ? s->samples : p->bytes;
    double error = exact ? 0 : ballast_sample_error(s, p->bytes);
    unsigned node;

    for (node = 0; node < MAX_NODES; node++) {
        f->on_node[node] += ballast_sample_bytes(s, s->on_node[node], bytes);
    }
    f->size += p->bytes;
    f->absent += ballast_sample_bytes(s, s->absent, bytes);
    f->unknown += ballast_sample_bytes(s, s->unknown, bytes);
    f->huge += s->huge;
    f->flat += s->flat;
    f->lookups += s->lookups;
    f->error2 += error * error;
}

static uint64_t figures_error(const Figures *f)
{
    return MIN(sqrt(f->error2), f->size);
}

static MemoryPlacementNodeList *nodes_list(const Figures *f)
{
    MemoryPlacementNodeList *list = NULL, **tail = &list;
    unsigned node;

    for (node = 0; node < MAX_NODES; node++) {
        if (f->on_node[node]) {
            MemoryPlacementNode *n = g_new0(MemoryPlacementNode, 1);

            n->node = node;
            n->bytes = f->on_node[node];
            QAPI_LIST_APPEND(tail, n);
        }
    }
    return list;
}

static uint32List *bits_list(const unsigned long *bits)
{
    uint32List *list = NULL, **tail = &list;
    unsigned long bit;

    for (bit = find_first_bit(bits, MAX_NODES); bit < MAX_NODES;
         bit = find_next_bit(bits, MAX_NODES, bit + 1)) {
        QAPI_LIST_APPEND(tail, bit);
    }
    return list;
}

static MemoryPlacementRange *range_answer(const BallastPart *p, bool exact)
{
    MemoryPlacementRange *out = g_new0(MemoryPlacementRange, 1);
    Figures f = {};

    figures_add(&f, p, exact);
    out->offset = p->offset;
    out->size = p->bytes;
    out->has_address = p->address != BALLAST_NO_ADDRESS;
    out->address = out->has_address ? p->address : 0;
    out->has_guest_node = p->vnode != BALLAST_NO_VNODE;
    out->guest_node = out->has_guest_node ? p->vnode : 0;
    out->nodes = nodes_list(&f);
    out->absent = f.absent;
    out->unknown = f.unknown;
    return out;
}

static MemoryPlacementBackend *backend_answer(const BallastMap *map,
                                              unsigned i, bool exact)
{
    const BallastPlace *place = ballast_map_place(map, i);
    MemoryPlacementBackend *out = g_new0(MemoryPlacementBackend, 1);
    MemoryPlacementRangeList **ranges = &out->ranges;
    DECLARE_BITMAP(vnodes, MAX_NODES) = {};
    Figures f = {};

    for (i = 0; i < map->parts->len; i++) {
        const BallastPart *p = ballast_map_part(map, i);

        if (ballast_map_place(map, p->place) == place) {
            figures_add(&f, p, exact);
            QAPI_LIST_APPEND(ranges, range_answer(p, exact));
            if (p->vnode < MAX_NODES) {
                set_bit(p->vnode, vnodes);
            }
        }
    }
    out->id = g_strdup(place->id);
    out->memdev = g_strdup(place->memdev);
    out->device = g_strdup(place->device);
    out->size = place->bytes;
    out->page_size = place->page_bytes;
    out->policy = g_strdup(place->policy);
    out->has_host_nodes = true;
    out->host_nodes = bits_list(place->host_nodes);
    out->guest_nodes = bits_list(vnodes);
    out->nodes = nodes_list(&f);
    out->absent = f.absent;
    out->unknown = f.unknown;
    out->has_huge_bytes = exact && !f.flat;
    out->huge_bytes = f.huge;
    out->samples = f.lookups;
    out->error_bytes = figures_error(&f);
    return out;
}

static MemoryPlacementVnode *vnode_answer(uint32_t vnode, const Figures *f)
{
    MemoryPlacementVnode *out = g_new0(MemoryPlacementVnode, 1);
    DECLARE_BITMAP(pnodes, MAX_NODES) = {};
    unsigned node;

    for (node = 0; node < MAX_NODES; node++) {
        if (f->on_node[node]) {
            set_bit(node, pnodes);
        }
    }
    out->node = vnode;
    out->size = f->size;
    out->pnodes = bits_list(pnodes);
    out->nodes = nodes_list(f);
    out->absent = f->absent;
    out->unknown = f->unknown;
    out->error_bytes = figures_error(f);
    return out;
}

/* The other mask: the guest nodes that use a host node; NULL if none does. */
static MemoryPlacementPnode *pnode_answer(const Figures *vnodes, uint32_t nr,
                                          unsigned node)
{
    MemoryPlacementPnode *out = g_new0(MemoryPlacementPnode, 1);
    uint32List **users = &out->vnodes;
    uint32_t i;

    out->node = node;
    for (i = 0; i < nr; i++) {
        if (vnodes[i].on_node[node]) {
            out->bytes += vnodes[i].on_node[node];
            QAPI_LIST_APPEND(users, i);
        }
    }
    if (!out->bytes) {
        g_clear_pointer(&out, qapi_free_MemoryPlacementPnode);
    }
    return out;
}

static MemoryPlacementTopology topology_of(const Figures *vnodes, uint32_t nr)
{
    static const MemoryPlacementTopology names[] = {
        [BALLAST_TOPOLOGY_NONE] = MEMORY_PLACEMENT_TOPOLOGY_NONE,
        [BALLAST_TOPOLOGY_ONE_TO_ONE] = MEMORY_PLACEMENT_TOPOLOGY_ONE_TO_ONE,
        [BALLAST_TOPOLOGY_MANY_TO_ONE] = MEMORY_PLACEMENT_TOPOLOGY_MANY_TO_ONE,
        [BALLAST_TOPOLOGY_ONE_TO_MANY] = MEMORY_PLACEMENT_TOPOLOGY_ONE_TO_MANY,
    };
    g_autofree uint64_t (*bytes)[MAX_NODES] =
        g_malloc_n(nr, sizeof(*bytes));
    uint32_t i;

    for (i = 0; i < nr; i++) {
        memcpy(bytes[i], vnodes[i].on_node, sizeof(bytes[i]));
    }
    return names[ballast_topology(bytes, nr)];
}

static void answer_nodes(MemoryPlacement *out, const Figures *vnodes,
                         uint32_t nr)
{
    MemoryPlacementVnodeList **vtail = &out->vnodes;
    MemoryPlacementPnodeList **ptail = &out->pnodes;
    uint32_t i;

    for (i = 0; i < nr; i++) {
        QAPI_LIST_APPEND(vtail, vnode_answer(i, &vnodes[i]));
    }
    for (i = 0; i < MAX_NODES; i++) {
        MemoryPlacementPnode *pnode = pnode_answer(vnodes, nr, i);

        if (pnode) {
            QAPI_LIST_APPEND(ptail, pnode);
        }
    }
    out->topology = topology_of(vnodes, nr);
}

MemoryPlacement *ballast_map_answer(const BallastMap *map, bool exact)
{
    MemoryPlacement *out = g_new0(MemoryPlacement, 1);
    MemoryPlacementBackendList **tail = &out->backends;
    g_autofree Figures *vnodes = g_new0(Figures, map->nr_vnodes);
    unsigned i;

    for (i = 0; i < map->parts->len; i++) {
        const BallastPart *p = ballast_map_part(map, i);

        if (p->vnode < map->nr_vnodes) {
            figures_add(&vnodes[p->vnode], p, exact);
        }
    }
    for (i = 0; i < map->places->len; i++) {
        QAPI_LIST_APPEND(tail, backend_answer(map, i, exact));
    }
    answer_nodes(out, vnodes, map->nr_vnodes);
    out->method = map->method;
    out->size = map->bytes;
    return out;
}
