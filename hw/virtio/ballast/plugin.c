/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Entry point of ballast-qemu.so.
 *
 *   -plugin ballast-qemu.so[,ledger=PATH][,claim=auto|SIZE[@NODE][/PAGE]]…
 *           [,name=NAME]
 *
 * QEMU loads plug-ins after -object and before the board's RAM is allocated:
 * the claim is staked here.  A refusal ends QEMU at once with the ledger's
 * words, before a page of guest RAM exists.
 */
#include "qemu/osdep.h"
#include "abi.h"
#include "ballast-qapi-emit-events.h"
#include "ballast-qapi-init-commands.h"
#include "hw/virtio/ballast/claim.h"
#include "hw/virtio/ballast/manager.h"
#include "migration/ballast/hints.h"
#include "qapi/error.h"
#include "monitor/monitor-internal.h"
#include "qapi/qapi-emit-events.h"
#include "qemu/error-report.h"
#include "qemu/qemu-plugin.h"
#include "system/system.h"

#define MAX_INITS 16

QEMU_PLUGIN_EXPORT int qemu_plugin_version = QEMU_PLUGIN_VERSION;

static void (*inits[MAX_INITS])(void);
static unsigned nr_inits;

void ballast_plugin_add_init(void (*fn)(void))
{
    assert(nr_inits < MAX_INITS);
    inits[nr_inits++] = fn;
}

/*
 * Events of a schema of our own cannot have a number in QEMU's schema.  The
 * number only selects a rate limit: borrow one that has none.
 */
void ballast_qapi_event_emit(ballast_QAPIEvent event, QDict *qdict)
{
    qapi_event_emit(QAPI_EVENT_RESUME, qdict);
}

/* The generated function empties the list it is given: not QEMU's, then. */
static void register_commands(void)
{
    QmpCommandList ours;
    QmpCommand *cmd, *next;

    ballast_qmp_init_marshal(&ours);
    QTAILQ_FOREACH_SAFE(cmd, &ours, node, next) {
        QTAILQ_REMOVE(&ours, cmd, node);
        QTAILQ_INSERT_TAIL(&qmp_commands, cmd, node);
    }
}

static bool parse_arg(BallastClaimOptions *o, const char *arg, Error **errp)
{
    const char *value = strchr(arg, '=');

    value = value ? value + 1 : "";
    if (g_str_has_prefix(arg, "ledger=") && *value) {
        g_free(o->path);
        o->path = g_strdup(value);
    } else if (g_str_has_prefix(arg, "name=") && *value) {
        g_free(o->name);
        o->name = g_strdup(value);
    } else if (g_str_has_prefix(arg, "claim=") && *value) {
        g_ptr_array_add(o->claims, g_strdup(value));
    } else {
        error_setg(errp, "'%s' is not an option of the plug-in; allowed: "
                   "ledger=PATH, claim=auto, claim=SIZE[@NODE][/PAGESIZE], "
                   "name=NAME", arg);
        return false;
    }
    return true;
}

static bool parse_args(BallastClaimOptions *o, int argc, char **argv,
                       Error **errp)
{
    int i;

    o->claims = g_ptr_array_new_with_free_func(g_free);
    for (i = 0; i < argc; i++) {
        if (!parse_arg(o, argv[i], errp)) {
            return false;
        }
    }
    return true;
}

static void free_options(BallastClaimOptions *o)
{
    g_free(o->path);
    g_free(o->name);
    if (o->claims) {
        g_ptr_array_unref(o->claims);
    }
}

static bool start(int argc, char **argv, Error **errp)
{
    BallastClaimOptions o = {};
    bool ok = ballast_abi_check(errp) && parse_args(&o, argc, argv, errp) &&
              ballast_claim_start(&o, errp);

    free_options(&o);
    return ok;
}

QEMU_PLUGIN_EXPORT int qemu_plugin_install(qemu_plugin_id_t id,
                                           const qemu_info_t *info, int argc,
                                           char **argv)
{
    Error *err = NULL;
    unsigned i;

    if (!start(argc, argv, &err)) {
        error_prepend(&err, "ballast: ");
        error_report_err(err);
        ballast_manager_let_in();
        /* QEMU would only add a line about a failed plug-in. */
        exit(1);
    }
    for (i = 0; i < nr_inits; i++) {
        inits[i]();
    }
    register_commands();
    ballast_hints_install();
    return 0;
}
