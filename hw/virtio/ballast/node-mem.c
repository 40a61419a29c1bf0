/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * virtio-mem devices that serve a request of balloon-node, if they may.
 *
 * Such a device owns a range of guest memory, on a backend of its own: if that
 * backend is on the host node (down: nearly all that is there of it; up: it
 * can be nowhere else), what is plugged or unplugged is, too.  It is asked by
 * its requested-size, in whole blocks, and never for more than is missing.
 * At the end requested-size is what it has by then: nothing goes on unasked.
 *
 * Nothing tells us when its size changes, so it is looked at now and then.
 */
#include "qemu/osdep.h"
#include "internal.h"
#include "qapi/error.h"
#include "trace-hw_virtio_ballast.h"

#define TYPE_MEM "virtio-mem"
#define LOOK_MS 50
#define ON_NODE_PERCENT 90

/* A device that may serve the request. */
typedef struct Mem {
    Object *obj;
    uint64_t start_bytes;
    uint64_t wanted_bytes;
} Mem;

static uint64_t get(Object *obj, const char *name)
{
    return object_property_get_uint(obj, name, NULL);
}

static void set_requested(Object *obj, uint64_t bytes)
{
    object_property_set_uint(obj, "requested-size", bytes, NULL);
}

static Object *backend_of(Object *obj)
{
    return object_property_get_link(obj, "memdev", NULL);
}

static bool is_on_node(const MemoryPlacementBackend *backend,
                       const BallastNodeRequest *r)
{
    const MemoryPlacementNodeList *it;
    uint64_t here = 0, all = 0;

    for (it = backend->nodes; it; it = it->next) {
        all += it->value->bytes;
        here += it->value->node == r->host_node ? it->value->bytes : 0;
    }
    return here && here >= all / 100 * ON_NODE_PERCENT;
}

static bool may_serve(Object *obj, const MemoryPlacement *p,
                      const BallastNodeRequest *r)
{
    Object *memdev = backend_of(obj);
    g_autofree char *path = memdev ? object_get_canonical_path(memdev) : NULL;
    const MemoryPlacementBackendList *it;

    for (it = p->backends; path && it; it = it->next) {
        if (!g_strcmp0(it->value->memdev, path)) {
            return ballast_backend_is_bound(it->value, r->host_node) ||
                   (!r->up && is_on_node(it->value, r));
        }
    }
    return false;
}

typedef struct Search {
    const MemoryPlacement *p;
    BallastNodeRequest *r;
} Search;

static int find_mem(Object *obj, void *opaque)
{
    Search *search = opaque;

    if (object_dynamic_cast(obj, TYPE_MEM) && DEVICE(obj)->realized &&
        may_serve(obj, search->p, search->r)) {
        Mem mem = {
            .obj = object_ref(obj),
            .start_bytes = get(obj, "size"),
        };

        g_array_append_val(search->r->mems, mem);
    }
    return 0;
}

static void mem_clear(gpointer opaque)
{
    object_unref(((Mem *)opaque)->obj);
}

void ballast_mems_find(BallastBalloon *b, const MemoryPlacement *p)
{
    Search search = { .p = p, .r = &b->nodes.request };

    search.r->mems = g_array_new(false, false, sizeof(Mem));
    g_array_set_clear_func(search.r->mems, mem_clear);
    object_child_foreach_recursive(object_get_root(), find_mem, &search);
}

void ballast_mems_free(BallastBalloon *b)
{
    g_clear_pointer(&b->nodes.request.mems, g_array_unref);
}

/* Bytes of it that went the asked way. */
static uint64_t mem_moved(const BallastNodeRequest *r, const Mem *mem)
{
    uint64_t now = get(mem->obj, "size");
    uint64_t from = r->up ? mem->start_bytes : now;
    uint64_t to = r->up ? now : mem->start_bytes;

    return to - MIN(from, to);
}

uint64_t ballast_mems_moved_bytes(const BallastBalloon *b)
{
    const BallastNodeRequest *r = &b->nodes.request;
    uint64_t bytes = 0;
    unsigned i;

    for (i = 0; r->mems && i < r->mems->len; i++) {
        bytes += mem_moved(r, &g_array_index(r->mems, Mem, i));
    }
    return bytes;
}

void ballast_mems_each(const BallastBalloon *b,
                       void (*tell)(uint32_t vnode, uint64_t bytes,
                                    void *opaque), void *opaque)
{
    const BallastNodeRequest *r = &b->nodes.request;
    unsigned i;

    for (i = 0; r->mems && i < r->mems->len; i++) {
        const Mem *mem = &g_array_index(r->mems, Mem, i);
        uint64_t bytes = mem_moved(r, mem);

        if (bytes) {
            tell(get(mem->obj, "node"), bytes, opaque);
        }
    }
}

/* What it could still give, or get, in whole blocks. */
static uint64_t mem_room(const BallastNodeRequest *r, const Mem *mem)
{
    uint64_t size = get(mem->obj, "size");
    Object *backend = backend_of(mem->obj);

    /* It may have been unplugged meanwhile. */
    return !backend ? 0 : r->up ? get(backend, "size") - size : size;
}

static uint64_t mem_ask(const BallastNodeRequest *r, Mem *mem, uint64_t bytes)
{
    uint64_t size = get(mem->obj, "size");

    bytes = ROUND_DOWN(MIN(bytes, mem_room(r, mem)),
                       get(mem->obj, "block-size"));
    mem->wanted_bytes = r->up ? size + bytes : size - bytes;
    if (bytes) {
        trace_ballast_mem_asked(r->number, size, mem->wanted_bytes);
        set_requested(mem->obj, mem->wanted_bytes);
    }
    return bytes;
}

bool ballast_mems_ask(BallastBalloon *b, uint64_t bytes)
{
    BallastNodeRequest *r = &b->nodes.request;
    uint64_t asked = 0;
    unsigned i;

    for (i = 0; r->mems && i < r->mems->len; i++) {
        asked += mem_ask(r, &g_array_index(r->mems, Mem, i), bytes - asked);
    }
    r->mems_asked = asked;
    if (asked) {
        timer_mod(r->look, qemu_clock_get_ms(QEMU_CLOCK_REALTIME) + LOOK_MS);
    }
    return asked;
}

bool ballast_mems_busy(BallastBalloon *b)
{
    BallastNodeRequest *r = &b->nodes.request;
    unsigned i;

    for (i = 0; i < r->mems->len; i++) {
        Mem *mem = &g_array_index(r->mems, Mem, i);

        if (get(mem->obj, "size") != mem->wanted_bytes) {
            timer_mod(r->look,
                      qemu_clock_get_ms(QEMU_CLOCK_REALTIME) + LOOK_MS);
            return true;
        }
    }
    return false;
}

void ballast_mems_stop(BallastBalloon *b)
{
    BallastNodeRequest *r = &b->nodes.request;
    unsigned i;

    timer_del(r->look);
    for (i = 0; r->mems_asked && i < r->mems->len; i++) {
        Mem *mem = &g_array_index(r->mems, Mem, i);

        set_requested(mem->obj, get(mem->obj, "size"));
    }
    r->mems_asked = 0;
}
