/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * From a host node to guest nodes: which of them can give memory of it, and
 * how much, by where their memory really is and by what binds it.
 */
#include "qemu/osdep.h"
#include "hw/virtio/ballast/placement.h"
#include "internal.h"
#include "qemu/units.h"

/* A guest node with so much of what it has on a host node is "on" it. */
#define PURE_PERCENT 90

#define NODES_DIR "/sys/devices/system/node/"

bool ballast_host_has_node(uint32_t node)
{
    g_autofree char *path = g_strdup_printf(NODES_DIR "node%" PRIu32, node);

    return node < MAX_NODES &&
           (g_file_test(path, G_FILE_TEST_IS_DIR) ||
            (node == 0 && !g_file_test(NODES_DIR, G_FILE_TEST_IS_DIR)));
}

/* Is there memory on one node only, so that it can be nowhere else? */
static bool host_is_one_node(void)
{
    g_autofree char *nodes = NULL;

    return !g_file_get_contents(NODES_DIR "has_memory", &nodes, NULL, NULL) ||
           !strpbrk(nodes, ",-");
}

uint64_t ballast_host_free_bytes(uint32_t node)
{
    static const char *const names[] = {
        "MemFree:", "Active(file):", "Inactive(file):",
    };
    g_autofree char *path = g_strdup_printf(NODES_DIR "node%" PRIu32
                                            "/meminfo", node);
    g_autofree char *text = NULL;
    uint64_t kib = 0;
    unsigned i;

    if (!g_file_get_contents(path, &text, NULL, NULL)) {
        return UINT64_MAX;
    }
    for (i = 0; i < ARRAY_SIZE(names); i++) {
        char *at = strstr(text, names[i]);

        kib += at ? g_ascii_strtoull(at + strlen(names[i]), NULL, 10) : 0;
    }
    return kib * KiB;
}

static bool list_has(const uint32List *list, uint32_t value)
{
    for (; list; list = list->next) {
        if (list->value == value) {
            return true;
        }
    }
    return false;
}

bool ballast_backend_is_bound(const MemoryPlacementBackend *backend,
                              uint32_t host_node)
{
    return host_is_one_node() ||
           (!g_strcmp0(backend->policy, "bind") && backend->host_nodes &&
            !backend->host_nodes->next &&
            backend->host_nodes->value == host_node);
}

/* Can the memory of a guest node be on this host node only? */
static bool vnode_is_bound(const MemoryPlacement *p, uint32_t vnode,
                           uint32_t host_node)
{
    const MemoryPlacementBackendList *it;
    bool any = false;

    for (it = p->backends; it; it = it->next) {
        const MemoryPlacementBackend *backend = it->value;

        if (!list_has(backend->guest_nodes, vnode)) {
            continue;
        }
        any = true;
        if (!ballast_backend_is_bound(backend, host_node)) {
            return false;
        }
    }
    return any;
}

static void judge_vnode(BallastBalloon *b, const MemoryPlacement *p,
                        const MemoryPlacementVnode *v)
{
    BallastNodeRequest *r = &b->nodes.request;
    uint64_t here = 0, all = 0, absent;
    const BallastNode *node = &b->nodes.node[v->node];
    const MemoryPlacementNodeList *it;
    uint32_t bit = 1U << v->node;

    for (it = v->nodes; it; it = it->next) {
        all += it->value->bytes;
        here += it->value->node == r->host_node ? it->value->bytes : 0;
    }
    if (vnode_is_bound(p, v->node, r->host_node)) {
        absent = v->absent - MIN(v->absent,
                                 node->in_pages * BALLAST_PAGE_BYTES);
        r->bound |= bit;
        here += absent;
        all += absent;
    }
    r->can_pages[v->node] = here / BALLAST_PAGE_BYTES;
    if (here || r->bound & bit ||
        (r->up && node->from_bytes[r->host_node])) {
        r->candidates |= bit;
    }
    if (here && here >= all / 100 * PURE_PERCENT) {
        r->pure |= bit;
    }
}

void ballast_candidates_find(BallastBalloon *b)
{
    g_autoptr(MemoryPlacement) p = ballast_placement(BALLAST_SAMPLES_DEFAULT);
    MemoryPlacementVnodeList *it;

    for (it = p->vnodes; it; it = it->next) {
        if (it->value->node < b->nodes.nr) {
            judge_vnode(b, p, it->value);
        }
    }
    if (b->nodes.request.virtio_mem) {
        ballast_mems_find(b, p);
    }
}

bool ballast_candidates_any(const BallastNodeRequest *r)
{
    unsigned i;

    for (i = 0; i < BALLAST_NODES_MAX; i++) {
        if (r->candidates & (1U << i) && (r->up || r->can_pages[i])) {
            return true;
        }
    }
    return r->mems && r->mems->len;
}
