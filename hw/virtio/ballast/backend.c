/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What memory backends claim, and when (see backend.h).
 *
 *   plan       the command line's backends and the machine's RAM, summed by
 *              host node and page size: one claim, all or nothing
 *   backend    takes its part out of the plan, or stakes it now (object-add)
 *   block      carries its part until it is freed (claim-blocks.c)
 *   deferred   reserve=off: its part is what a virtio-mem device may plug
 *
 * A part is staked before the first byte is allocated, and given back if the
 * allocation fails.  If QEMU dies in between, the ledger sees a dead
 * participant, as at any other instruction.
 */
#include "qemu/osdep.h"
#include <linux/magic.h>
#include <sys/vfs.h>
#include "ballast/ledger.h"
#include "hw/boards.h"
#include "hw/virtio/ballast/backend.h"
#include "hw/virtio/ballast/claim.h"
#include "hw/virtio/ballast/compat.h"
#include "hw/virtio/ballast/manager.h"
#include "hw/virtio/ballast/memory-ledger.h"
#include "hw/virtio/virtio-mem.h"
#include "qapi/error.h"
#include "qemu/config-file.h"
#include "qemu/main-loop.h"
#include "qemu/option.h"
#include "qemu/timer.h"
#include "qemu/units.h"
#include "system/system.h"
#include "trace-hw_virtio_ballast.h"

#define DEFERRED_INTERVAL_MS 2000

static struct {
    /* Staked, and not yet taken by the backend it was planned for. */
    BallastPart planned[BALLAST_MAX_LINES];
    unsigned nr_planned;
    bool too_many;
    /* Blocks that claim as they are filled. */
    GPtrArray *deferred;
    QEMUTimer *deferred_timer;
    Notifier machine_done;
    RAMBlockNotifier block_notifier;
} plan;

/* Page sizes, before there is a page ---------------------------------- */

/* Of what would be made at @path: it, or the directory it comes into. */
static uint64_t path_page_bytes(const char *path)
{
    g_autofree char *dir = g_path_get_dirname(path);
    struct statfs fs;

    if (statfs(path, &fs) < 0 && statfs(dir, &fs) < 0) {
        /* The backend will say what is wrong with the path. */
        return qemu_real_host_page_size();
    }
    return fs.f_type == HUGETLBFS_MAGIC ? fs.f_bsize :
           qemu_real_host_page_size();
}

static uint64_t default_huge_page_bytes(void)
{
    g_autofree char *text = NULL;
    const char *line;
    uint64_t kib;

    if (g_file_get_contents("/proc/meminfo", &text, NULL, NULL)) {
        line = strstr(text, "\nHugepagesize:");
        if (line && sscanf(line, " Hugepagesize: %" SCNu64 " kB", &kib) == 1) {
            return kib * KiB;
        }
    }
    return qemu_real_host_page_size();
}

static uint64_t memfd_page_bytes(bool hugetlb, uint64_t hugetlb_bytes)
{
    if (!hugetlb) {
        return qemu_real_host_page_size();
    }
    return hugetlb_bytes ? hugetlb_bytes : default_huge_page_bytes();
}

static uint64_t backend_page_bytes(HostMemoryBackend *backend)
{
    Object *obj = OBJECT(backend);
    g_autofree char *path = NULL;

    if (object_dynamic_cast(obj, TYPE_MEMORY_BACKEND_FILE)) {
        path = object_property_get_str(obj, "mem-path", NULL);
        return path ? path_page_bytes(path) : qemu_real_host_page_size();
    }
    if (object_dynamic_cast(obj, TYPE_MEMORY_BACKEND_MEMFD)) {
        return memfd_page_bytes(
            object_property_get_bool(obj, "hugetlb", NULL),
            object_property_get_uint(obj, "hugetlbsize", NULL));
    }
    return qemu_real_host_page_size();
}

/* Planning ------------------------------------------------------------ */

static BallastPart *planned_find(const BallastPart *part)
{
    unsigned i;

    for (i = 0; i < plan.nr_planned; i++) {
        if (plan.planned[i].node == part->node &&
            plan.planned[i].page_bytes == part->page_bytes) {
            return &plan.planned[i];
        }
    }
    return NULL;
}

static void plan_add(uint32_t node, uint64_t page_bytes, uint64_t bytes)
{
    BallastPart part = {
        .node = node,
        .page_bytes = page_bytes,
        .bytes = ROUND_UP(bytes, page_bytes),
    };
    BallastPart *planned = planned_find(&part);

    if (planned) {
        planned->bytes += part.bytes;
    } else if (plan.nr_planned < BALLAST_MAX_LINES) {
        plan.planned[plan.nr_planned++] = part;
    } else {
        plan.too_many = true;
    }
}

static uint32_t planned_node(const MemoryBackendProperties *p)
{
    if (!p->has_policy || p->policy != HOST_MEM_POLICY_BIND ||
        !p->host_nodes || p->host_nodes->next) {
        return BALLAST_NODE_ANY;
    }
    return p->host_nodes->value;
}

/* Its properties, if it claims when it is made, and its page size. */
static const MemoryBackendProperties *planned_backend(const ObjectOptions *o,
                                                      uint64_t *page_bytes)
{
    *page_bytes = qemu_real_host_page_size();
    switch (o->qom_type) {
    case OBJECT_TYPE_MEMORY_BACKEND_RAM:
        return &o->u.memory_backend_ram;
    case OBJECT_TYPE_MEMORY_BACKEND_FILE:
        *page_bytes = path_page_bytes(o->u.memory_backend_file.mem_path);
        return qapi_MemoryBackendFileProperties_base(
            &o->u.memory_backend_file);
    case OBJECT_TYPE_MEMORY_BACKEND_MEMFD:
        *page_bytes = memfd_page_bytes(o->u.memory_backend_memfd.hugetlb,
                                       o->u.memory_backend_memfd.hugetlbsize);
        return qapi_MemoryBackendMemfdProperties_base(
            &o->u.memory_backend_memfd);
    case OBJECT_TYPE_MEMORY_BACKEND_SHM:
        return qapi_MemoryBackendShmProperties_base(
            &o->u.memory_backend_shm);
    default:
        return NULL;
    }
}

void ballast_plan_backend(const ObjectOptions *o)
{
    const MemoryBackendProperties *p;
    uint64_t page_bytes;

    if (!ballast_claim_by_backend()) {
        return;
    }
    p = planned_backend(o, &page_bytes);
    if (p && (!p->has_reserve || p->reserve) &&
        (p->ledger || !memory_ledger_linked_only())) {
        plan_add(planned_node(p), page_bytes, p->size);
    }
}

static int find_numa_backend(void *opaque, QemuOpts *opts, Error **errp)
{
    return qemu_opt_get(opts, "memdev") != NULL;
}

/* RAM that the machine makes a backend for, when it is initialised. */
static void plan_ram(const char *ram_backend, const char *mem_path)
{
    if (ram_backend || memory_ledger_linked_only() ||
        qemu_opts_foreach(qemu_find_opts("numa"), find_numa_backend, NULL,
                          NULL)) {
        return;
    }
    plan_add(BALLAST_NODE_ANY,
             mem_path ? path_page_bytes(mem_path) : qemu_real_host_page_size(),
             current_machine->ram_size);
}

static void give_back_unused(Notifier *n, void *unused)
{
    unsigned i;

    for (i = 0; i < plan.nr_planned; i++) {
        if (plan.planned[i].bytes) {
            ballast_claim_shrink(&plan.planned[i]);
        }
    }
    plan.nr_planned = 0;
}

static bool adopt_inherited(Error **errp)
{
    g_autoptr(GPtrArray) none = g_ptr_array_new();
    BallastClaimOptions o = { .claims = none };

    return ballast_claim_start(&o, errp);
}

static bool plan_stake(const char *ram_backend, const char *mem_path,
                       Error **errp)
{
    if (!memory_ledger_exists()) {
        return adopt_inherited(errp);
    }
    if (!ballast_claim_by_backend()) {
        return true;
    }
    plan_ram(ram_backend, mem_path);
    if (plan.too_many) {
        error_setg(errp, "more than %d kinds of memory (node and page size)",
                   BALLAST_MAX_LINES);
        return false;
    }
    plan.machine_done.notify = give_back_unused;
    qemu_add_machine_init_done_notifier(&plan.machine_done);
    return ballast_claim_grow(plan.planned, plan.nr_planned, errp);
}

bool ballast_plan_stake(const char *ram_backend, const char *mem_path,
                        Error **errp)
{
    ERRP_GUARD();

    if (!plan_stake(ram_backend, mem_path, errp)) {
        ballast_manager_let_in();
        return false;
    }
    return true;
}

/* A backend is made --------------------------------------------------- */

static bool backend_claims(const HostMemoryBackend *backend)
{
    return ballast_claim_by_backend() &&
           !object_dynamic_cast(OBJECT(backend), "memory-backend-epc") &&
           (backend->ledger || !memory_ledger_linked_only());
}

static bool backend_stake(HostMemoryBackend *backend, const BallastPart *part,
                          Error **errp)
{
    ERRP_GUARD();
    BallastPart *planned = planned_find(part);

    if (planned && planned->bytes >= part->bytes) {
        planned->bytes -= part->bytes;
        return true;
    }
    if (!ballast_claim_grow(part, 1, errp)) {
        error_prepend(errp, "memory backend '%s': ",
                      object_get_canonical_path_component(OBJECT(backend)));
        ballast_manager_let_in();
        return false;
    }
    return true;
}

/* Deferred blocks ----------------------------------------------------- */

typedef struct DeferredFind {
    const HostMemoryBackend *backend;
    const VirtIOMEM *vmem;
} DeferredFind;

static int find_vmem(Object *obj, void *opaque)
{
    DeferredFind *find = opaque;
    VirtIOMEM *vmem = (VirtIOMEM *)object_dynamic_cast(obj, TYPE_VIRTIO_MEM);

    if (vmem && vmem->memdev == find->backend) {
        find->vmem = vmem;
        return 1;
    }
    return 0;
}

static uint64_t deferred_bytes(const RAMBlock *rb)
{
    DeferredFind find = {
        .backend = MEMORY_BACKEND(memory_region_owner(rb->mr)),
    };

    object_child_foreach_recursive(object_get_root(), find_vmem, &find);
    if (find.vmem) {
        return MAX(find.vmem->requested_size, find.vmem->size);
    }
    return find.backend->is_mapped ? rb->used_length : 0;
}

static void deferred_tick(void *opaque)
{
    unsigned i;

    for (i = 0; i < plan.deferred->len; i++) {
        const RAMBlock *rb = g_ptr_array_index(plan.deferred, i);

        ballast_claim_follow_block(rb, deferred_bytes(rb));
    }
    if (plan.deferred->len) {
        timer_mod(plan.deferred_timer,
                  qemu_clock_get_ms(QEMU_CLOCK_REALTIME) +
                  DEFERRED_INTERVAL_MS);
    }
}

static void deferred_removed(RAMBlockNotifier *n, void *host, size_t size,
                             size_t max_size)
{
    unsigned i;

    for (i = 0; i < plan.deferred->len; i++) {
        const RAMBlock *rb = g_ptr_array_index(plan.deferred, i);

        if (rb->host == host) {
            g_ptr_array_remove_index_fast(plan.deferred, i);
            return;
        }
    }
}

static void deferred_add(RAMBlock *rb)
{
    if (!plan.deferred) {
        plan.deferred = g_ptr_array_new();
        plan.deferred_timer = timer_new_ms(QEMU_CLOCK_REALTIME, deferred_tick,
                                           NULL);
        plan.block_notifier.ram_block_removed = deferred_removed;
        ram_block_notifier_add(&plan.block_notifier);
    }
    g_ptr_array_add(plan.deferred, rb);
    timer_mod(plan.deferred_timer, qemu_clock_get_ms(QEMU_CLOCK_REALTIME) +
              DEFERRED_INTERVAL_MS);
}

bool ballast_virtio_mem_raise(VirtIOMEM *vmem, uint64_t requested_bytes,
                              Error **errp)
{
    ERRP_GUARD();
    const HostMemoryBackend *backend = vmem->memdev;

    if (!ballast_claim_by_backend() || backend->reserve) {
        return true;
    }
    if (!ballast_claim_raise_block(backend->mr.ram_block,
                                   MAX(requested_bytes, vmem->size), errp)) {
        ballast_manager_let_in();
        return false;
    }
    return true;
}

/* Allocation ---------------------------------------------------------- */

bool ballast_backend_alloc(HostMemoryBackend *backend, Error **errp)
{
    HostMemoryBackendClass *bc = MEMORY_BACKEND_GET_CLASS(backend);
    uint64_t page_bytes;
    BallastPart part;

    if (!backend_claims(backend)) {
        return bc->alloc(backend, errp);
    }
    page_bytes = backend_page_bytes(backend);
    part = (BallastPart) {
        .node = ballast_bound_node(backend),
        .page_bytes = page_bytes,
        .bytes = backend->reserve ? ROUND_UP(backend->size, page_bytes) : 0,
    };
    /* Also of no bytes: that there is a line for it is found out here. */
    if (!backend_stake(backend, &part, errp)) {
        return false;
    }
    if (!bc->alloc(backend, errp)) {
        ballast_claim_shrink(&part);
        return false;
    }
    ballast_claim_attach(backend->mr.ram_block, &part);
    if (!backend->reserve) {
        deferred_add(backend->mr.ram_block);
    }
    trace_ballast_backend_staked(ballast_claim_slot(), part.node,
                                 part.page_bytes, part.bytes);
    return true;
}

void ballast_backend_class_init(ObjectClass *oc)
{
    object_class_property_add_link(oc, "ledger", TYPE_MEMORY_LEDGER,
                                   offsetof(HostMemoryBackend, ledger),
                                   object_property_allow_set_link,
                                   OBJ_PROP_LINK_STRONG);
    object_class_property_set_description(oc, "ledger",
        "The memory-ledger that the backend stakes its claim in");
}
