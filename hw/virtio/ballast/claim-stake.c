/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The claim is made: from options, from what the machine is made of, or from
 * what 'ballast run' has staked.
 */
#include "qemu/osdep.h"
#include "ballast/admin.h"
#include "claim-internal.h"
#include "hw/boards.h"
#include "migration/ballast/binding.h"
#include "qapi/error.h"
#include "system/numa.h"
#include "system/system.h"
#include "trace-hw_virtio_ballast.h"

/* At start, as long as the library likes; later, with the big lock held. */
#define DAEMON_PATIENCE_MS 100

static bool add_user_line(const char *text, Error **errp)
{
    struct ballast_demand demand;

    if (ballast_parse_demand(text, &demand) < 0) {
        error_setg(errp, "claim=%s is not a claim; allowed: auto, or "
                   "SIZE[@NODE][/PAGESIZE] such as 4G, 2G@1, 1G@0/2M", text);
        return false;
    }
    if (!demand.page_bytes) {
        demand.page_bytes = qemu_real_host_page_size();
    }
    return ballast_line_add(demand.node, demand.page_bytes, demand.bytes, errp);
}

static int add_backend_line(Object *obj, void *opaque)
{
    Error **errp = opaque;
    HostMemoryBackend *backend;

    if (!object_dynamic_cast(obj, TYPE_MEMORY_BACKEND)) {
        return 0;
    }
    backend = MEMORY_BACKEND(obj);
    return !ballast_line_add(ballast_bound_node(backend),
                             host_memory_backend_pagesize(backend),
                             backend->size, errp);
}

/* Is the machine's RAM made of backends which exist already? */
static bool ram_is_there(MachineState *machine)
{
    int i;

    if (machine->memdev) {
        return true;
    }
    for (i = 0; machine->numa_state && i < machine->numa_state->num_nodes;
         i++) {
        if (machine->numa_state->nodes[i].node_memdev) {
            return true;
        }
    }
    return false;
}

static bool add_machine_lines(Error **errp)
{
    Error *err = NULL;

    object_child_foreach(object_get_objects_root(), add_backend_line, &err);
    if (!err && !ram_is_there(current_machine)) {
        ballast_line_add(BALLAST_NODE_ANY, qemu_real_host_page_size(),
                         current_machine->ram_size, &err);
    }
    if (err) {
        error_propagate(errp, err);
        return false;
    }
    return true;
}

static bool is_auto(const BallastClaimOptions *o)
{
    return !o->claims->len ||
           (o->claims->len == 1 &&
            g_str_equal(g_ptr_array_index(o->claims, 0), "auto"));
}

static bool add_inherited_lines(Error **errp)
{
    struct ballast_own own[BALLAST_MAX_LINES];
    int nr = ballast_own(claim->ledger, own, BALLAST_MAX_LINES);
    int i;

    if (nr < 0) {
        error_setg_errno(errp, -nr, "cannot read the inherited claim");
        return false;
    }
    for (i = 0; i < MIN(nr, BALLAST_MAX_LINES); i++) {
        if (own[i].claimed_bytes &&
            !ballast_line_add(own[i].node, own[i].page_bytes,
                              own[i].claimed_bytes, errp)) {
            return false;
        }
    }
    return true;
}

static bool add_lines(const BallastClaimOptions *o, Error **errp)
{
    unsigned i;

    if (claim->inherited && !o->claims->len) {
        return add_inherited_lines(errp);
    }
    if (is_auto(o)) {
        claim->auto_lines = true;
        return add_machine_lines(errp);
    }
    for (i = 0; i < o->claims->len; i++) {
        if (!add_user_line(g_ptr_array_index(o->claims, i), errp)) {
            return false;
        }
    }
    return true;
}

static char *default_name(void)
{
    const char *name = qemu_get_vm_name();

    return name ? g_strdup(name) : g_strdup_printf("qemu-%d", getpid());
}

/* An heir is known to the ledger by the name that 'ballast run' gave it. */
static void take_inherited_name(void)
{
    struct ballast_status *st;
    uint64_t serial;
    uint32_t slot;
    size_t i;

    if (ballast_slot(claim->ledger, &slot, &serial) < 0 ||
        ballast_status_get(claim->ledger, &st) < 0) {
        return;
    }
    for (i = 0; i < st->nr_participants; i++) {
        if (st->participants[i].slot == slot) {
            g_free(claim->name);
            claim->name = g_strdup(st->participants[i].name);
        }
    }
    ballast_status_free(st);
}

/* Leave @claim.ledger open and joined, or NULL if none was asked for. */
static bool claim_join(const BallastClaimOptions *o, Error **errp)
{
    const char *inherit = getenv(BALLAST_ENV_CLAIM);
    struct ballast_refusal why;
    g_autofree char *words = NULL;
    int ret;

    if (inherit) {
        claim->inherited = true;
        g_clear_pointer(&claim->path, g_free);
        ret = ballast_adopt(inherit, &claim->ledger, &why);
        unsetenv(BALLAST_ENV_CLAIM);
        if (ret == 0) {
            take_inherited_name();
        }
    } else if (o->path) {
        ret = ballast_ledger_open(o->path, &claim->ledger, &why);
        if (ret == 0) {
            ret = ballast_join(claim->ledger, claim->name, 0, &why);
        }
    } else {
        return true;
    }
    if (ret < 0) {
        words = ballast_refusal_words(&why);
        error_setg(errp, "%s", words);
    }
    return ret == 0;
}

static bool claim_stake(Error **errp)
{
    struct ballast_refusal why;
    g_autofree char *words = NULL;

    /*
     * What backends have allocated already (prealloc=on) is no longer free by
     * the kernel: it must not be asked for a second time.
     */
    ballast_sample_resident();
    ballast_report_resident();
    if (ballast_claim_ask(false, &why) < 0) {
        words = ballast_refusal_words(&why);
        error_setg(errp, "%s", words);
        return false;
    }
    trace_ballast_claim_staked(ballast_claim_slot(),
                               ballast_line_sum(ballast_line_granted),
                               claim->inherited);
    return true;
}

bool ballast_claim_open(const BallastClaimOptions *o, Error **errp)
{
    uint64_t serial;

    claim->name = o->name ? g_strdup(o->name) : default_name();
    claim->path = g_strdup(o->path);

    if (!claim_join(o, errp)) {
        return false;
    }
    if (claim->ledger) {
        ballast_slot(claim->ledger, &claim->slot, &serial);
    }
    return true;
}

void ballast_claim_run(void)
{
    ballast_set_patience(claim->ledger, DAEMON_PATIENCE_MS);
    ballast_claim_timers();
    ballast_follow_blocks();
}

static void claim_close(void)
{
    ballast_ledger_close(claim->ledger);
    claim->ledger = NULL;
}

bool ballast_claim_start(const BallastClaimOptions *o, Error **errp)
{
    if (!ballast_claim_open(o, errp)) {
        return false;
    }
    if (!claim->ledger) {
        return true;
    }
    if (!add_lines(o, errp) || !claim_stake(errp)) {
        claim_close();
        return false;
    }
    ballast_claim_run();
    return true;
}
