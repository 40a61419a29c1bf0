/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Guest memory, cut so that each part belongs to one guest node and is one
 * stretch of guest-physical memory.
 *
 * A map holds copies only: it stays true to what it was made of when a DIMM
 * is unplugged, so that a thread can work on it without the big lock.
 */
#include "qemu/osdep.h"
#include "hw/boards.h"
#include "hw/mem/memory-device.h"
#include "hw/virtio/ballast/compat.h"
#include "placement-map.h"
#include "qemu/rcu_queue.h"
#include "system/hostmem.h"

/* Where blocks are in guest-physical memory ------------------------------ */

typedef struct Stretch {
    RAMBlock *rb;
    uint64_t offset;
    uint64_t bytes;
    uint64_t address;
} Stretch;

static HostMemoryBackend *backend_of(const RAMBlock *rb)
{
    Object *owner = rb->mr ? memory_region_owner(rb->mr) : NULL;

    return owner ? (HostMemoryBackend *)
           object_dynamic_cast(owner, TYPE_MEMORY_BACKEND) : NULL;
}

/*
 * Small holes (VGA, ROM over RAM) come and go as the guest likes: what
 * continues at the same distance is one stretch.
 */
static void add_stretch(GArray *stretches, RAMBlock *rb, uint64_t offset,
                        uint64_t bytes, uint64_t address)
{
    Stretch new = { rb, offset, bytes, address };
    unsigned i;

    for (i = 0; i < stretches->len; i++) {
        Stretch *s = &g_array_index(stretches, Stretch, i);

        if (s->rb == rb && offset >= s->offset &&
            address - s->address == offset - s->offset) {
            s->bytes = MAX(s->bytes, offset + bytes - s->offset);
            return;
        }
    }
    g_array_append_val(stretches, new);
}

static bool one_flat_range(Int128 start, Int128 len, const MemoryRegion *mr,
                           hwaddr offset_in_region, void *opaque)
{
    RAMBlock *rb = mr->ram_block;

    if (rb && backend_of(rb)) {
        add_stretch(opaque, rb, offset_in_region, int128_get64(len),
                    int128_get64(start));
    }
    return false;
}

static GArray *all_stretches(void)
{
    GArray *stretches = g_array_new(false, false, sizeof(Stretch));

    flatview_for_each_range(address_space_to_flatview(&address_space_memory),
                            one_flat_range, stretches);
    return stretches;
}

/* Cutting ---------------------------------------------------------------- */

typedef struct Cutter {
    BallastMap *map;
    GArray *stretches;
    MemoryDeviceInfoList *devices;
} Cutter;

/* From @at on, up to @end at most: where it is, and for how long. */
static uint64_t stretch_at(const Cutter *c, RAMBlock *rb, uint64_t at,
                           uint64_t end, uint64_t *address)
{
    unsigned i;

    *address = BALLAST_NO_ADDRESS;
    for (i = 0; i < c->stretches->len; i++) {
        Stretch *s = &g_array_index(c->stretches, Stretch, i);

        if (s->rb == rb && at >= s->offset && at - s->offset < s->bytes) {
            *address = s->address + (at - s->offset);
            return MIN(end, s->offset + s->bytes);
        }
    }
    for (i = 0; i < c->stretches->len; i++) {
        Stretch *s = &g_array_index(c->stretches, Stretch, i);

        if (s->rb == rb && s->offset > at) {
            end = MIN(end, s->offset);
        }
    }
    return end;
}

/* Memory of one guest node, which may be around a hole. */
static void add_parts(Cutter *c, RAMBlock *rb, uint64_t offset,
                      uint64_t bytes, uint32_t vnode)
{
    uint64_t end = offset + bytes, next;
    BallastPart part = { .place = c->map->places->len - 1, .vnode = vnode };

    for (; offset < end; offset = next) {
        next = stretch_at(c, rb, offset, end, &part.address);
        part.offset = offset;
        part.bytes = next - offset;
        g_array_append_val(c->map->parts, part);
    }
}

/* RAM given with -m alone is dealt to the nodes in order of number. */
static void add_split_block(Cutter *c, RAMBlock *rb, const NumaState *numa)
{
    uint64_t offset = 0, bytes;
    int i;

    for (i = 0; i < numa->num_nodes; i++) {
        bytes = MIN(numa->nodes[i].node_mem, rb->used_length - offset);
        add_parts(c, rb, offset, bytes, i);
        offset += bytes;
    }
    add_parts(c, rb, offset, rb->used_length - offset, 0);
}

static bool node_of_memdev(const NumaState *numa, HostMemoryBackend *backend,
                           uint32_t *vnode)
{
    int i;

    for (i = 0; numa && i < numa->num_nodes; i++) {
        if (numa->nodes[i].node_memdev == backend) {
            *vnode = i;
            return true;
        }
    }
    return false;
}

/* The backend, the device's id and the node of a memory device. */
static const char *device_memdev(const MemoryDeviceInfo *info,
                                 const char **id, uint32_t *vnode)
{
    switch (info->type) {
    case MEMORY_DEVICE_INFO_KIND_DIMM:
    case MEMORY_DEVICE_INFO_KIND_NVDIMM: {
        /* both members are of the same type, at the same place */
        PCDIMMDeviceInfo *dimm = info->u.dimm.data;

        *id = dimm->id;
        *vnode = dimm->node;
        return dimm->memdev;
    }
    case MEMORY_DEVICE_INFO_KIND_VIRTIO_MEM:
        *id = info->u.virtio_mem.data->id;
        *vnode = info->u.virtio_mem.data->node;
        return info->u.virtio_mem.data->memdev;
    case MEMORY_DEVICE_INFO_KIND_VIRTIO_PMEM:
        *id = info->u.virtio_pmem.data->id;
        return info->u.virtio_pmem.data->memdev;
    default:
        return NULL;
    }
}

/* DIMMs, virtio-mem and their like have their node as a property. */
static uint32_t node_of_device(const Cutter *c, BallastPlace *place)
{
    MemoryDeviceInfoList *it;

    for (it = c->devices; it; it = it->next) {
        uint32_t vnode = BALLAST_NO_VNODE;
        const char *id = NULL, *memdev = device_memdev(it->value, &id, &vnode);

        if (memdev && g_str_equal(memdev, place->memdev)) {
            place->device = g_strdup(id);
            return vnode;
        }
    }
    return BALLAST_NO_VNODE;
}

static BallastPlace *add_place(BallastMap *map, RAMBlock *rb,
                               HostMemoryBackend *backend)
{
    BallastPlace place = {
        .id = g_strdup(*rb->idstr ? rb->idstr : memory_region_name(rb->mr)),
        .memdev = object_get_canonical_path(OBJECT(backend)),
        .policy = HostMemPolicy_str(backend->policy),
        .host = rb->host,
        .bytes = rb->used_length,
        .page_bytes = rb->page_size,
    };

    bitmap_copy(place.host_nodes, backend->host_nodes, MAX_NODES);
    g_array_append_val(map->places, place);
    map->bytes += place.bytes;
    return ballast_map_place(map, map->places->len - 1);
}

static void add_block(Cutter *c, RAMBlock *rb, HostMemoryBackend *backend)
{
    BallastPlace *place = add_place(c->map, rb, backend);
    MachineState *machine = current_machine;
    NumaState *numa = machine->numa_state;
    uint32_t vnode;

    if (node_of_memdev(numa, backend, &vnode)) {
        add_parts(c, rb, 0, rb->used_length, vnode);
    } else if (machine->memdev != backend) {
        add_parts(c, rb, 0, rb->used_length, node_of_device(c, place));
    } else if (numa && numa->num_nodes) {
        add_split_block(c, rb, numa);
    } else {
        add_parts(c, rb, 0, rb->used_length, 0);
    }
}

static void place_clear(gpointer data)
{
    BallastPlace *place = data;

    g_free(place->id);
    g_free(place->memdev);
    g_free(place->device);
}

uint32_t ballast_vnode_count(void)
{
    NumaState *numa = current_machine->numa_state;

    return numa && numa->num_nodes ? numa->num_nodes : 1;
}

static void cutter_begin(Cutter *c, GArray *stretches)
{
    c->map = g_new0(BallastMap, 1);
    c->map->places = g_array_new(false, true, sizeof(BallastPlace));
    g_array_set_clear_func(c->map->places, place_clear);
    c->map->parts = g_array_new(false, true, sizeof(BallastPart));
    c->map->nr_vnodes = ballast_vnode_count();
    c->stretches = stretches;
    c->devices = qmp_memory_device_list();
}

static BallastMap *cutter_end(Cutter *c)
{
    g_array_unref(c->stretches);
    qapi_free_MemoryDeviceInfoList(c->devices);
    return c->map;
}

BallastMap *ballast_map_new(void)
{
    RAMBlock *rb;
    Cutter c;

    cutter_begin(&c, all_stretches());
    QLIST_FOREACH_RCU(rb, &ram_list.blocks, next) {
        if (rb->host && rb->used_length && backend_of(rb)) {
            add_block(&c, rb, backend_of(rb));
        }
    }
    return cutter_end(&c);
}

/* Guest nodes only: where it is mapped does not matter. */
uint32_t ballast_vnode_at(RAMBlock *rb, uint64_t offset, uint64_t *end)
{
    uint32_t vnode = 0;
    BallastMap *map;
    unsigned i;
    Cutter c;

    cutter_begin(&c, g_array_new(false, false, sizeof(Stretch)));
    if (backend_of(rb)) {
        add_block(&c, rb, backend_of(rb));
    }
    map = cutter_end(&c);
    *end = UINT64_MAX;
    for (i = 0; i < map->parts->len; i++) {
        BallastPart *p = ballast_map_part(map, i);

        if (offset - p->offset < p->bytes) {
            *end = p->offset + p->bytes;
            vnode = p->vnode == BALLAST_NO_VNODE ? 0 : p->vnode;
        }
    }
    ballast_map_free(map);
    return vnode;
}

void ballast_map_free(BallastMap *map)
{
    if (map) {
        g_array_unref(map->places);
        g_array_unref(map->parts);
        g_free(map);
    }
}
