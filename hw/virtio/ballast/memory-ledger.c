/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The memory-ledger object: options of the process' claim (claim.h).
 *
 * It stays until QEMU ends: memory that was claimed must not lose its claim
 * while it is there, so it cannot be deleted.
 */
#include "qemu/osdep.h"
#include "ballast/ledger.h"
#include "hw/virtio/ballast/backend.h"
#include "hw/virtio/ballast/claim.h"
#include "hw/virtio/ballast/compat.h"
#include "hw/virtio/ballast/manager.h"
#include "hw/virtio/ballast/memory-ledger.h"
#include "qapi/error.h"
#include "qom/object_interfaces.h"

OBJECT_DECLARE_SIMPLE_TYPE(MemoryLedger, MEMORY_LEDGER)

/**
 * struct MemoryLedger - the object
 * @path: ledger file, or socket of its daemon; NULL: as inherited
 * @name: name in the ledger; NULL: the VM's
 * @claim: as given; NULL: auto
 */
struct MemoryLedger {
    Object parent_obj;

    char *path;
    char *name;
    char *claim;
};

/* The one that is complete. */
static MemoryLedger *the_ledger;

bool memory_ledger_exists(void)
{
    return the_ledger;
}

bool memory_ledger_linked_only(void)
{
    return the_ledger && g_strcmp0(the_ledger->claim, "linked") == 0;
}

static bool is_by_backend(const MemoryLedger *ml)
{
    return !ml->claim || g_str_equal(ml->claim, "auto") ||
           g_str_equal(ml->claim, "linked");
}

static GPtrArray *claims_of(const MemoryLedger *ml)
{
    GPtrArray *claims = g_ptr_array_new_with_free_func(g_free);
    g_auto(GStrv) parts = NULL;
    unsigned i;

    if (!is_by_backend(ml)) {
        parts = g_strsplit(ml->claim, "+", -1);
        for (i = 0; parts[i]; i++) {
            g_ptr_array_add(claims, g_strdup(parts[i]));
        }
    }
    return claims;
}

static bool start(MemoryLedger *ml, Error **errp)
{
    g_autoptr(GPtrArray) claims = claims_of(ml);
    BallastClaimOptions o = {
        .path = ml->path,
        .name = ml->name,
        .claims = claims,
    };

    /* An inherited claim is in force already, and of its own lines. */
    if (is_by_backend(ml) && !getenv(BALLAST_ENV_CLAIM)) {
        return ballast_claim_start_empty(&o, errp);
    }
    return ballast_claim_start(&o, errp);
}

static void memory_ledger_complete(UserCreatable *uc, Error **errp)
{
    ERRP_GUARD();
    MemoryLedger *ml = MEMORY_LEDGER(uc);

    if (the_ledger) {
        error_setg(errp, "there is a memory-ledger already ('%s'): a process "
                   "takes part in one ledger",
                   object_get_canonical_path_component(OBJECT(the_ledger)));
        return;
    }
    if (!ml->path && !getenv(BALLAST_ENV_CLAIM)) {
        error_setg(errp, "memory-ledger needs 'path' (a ledger, or the socket "
                   "of its daemon), or to be started by 'ballast run'");
        return;
    }
    if (!start(ml, errp)) {
        ballast_manager_let_in();
        return;
    }
    the_ledger = ml;
}

static bool memory_ledger_can_be_deleted(UserCreatable *uc)
{
    return MEMORY_LEDGER(uc) != the_ledger;
}

static char *get_path(Object *obj, Error **errp)
{
    return g_strdup(MEMORY_LEDGER(obj)->path);
}

static void set_text(Object *obj, char **field, const char *value,
                     Error **errp)
{
    if (MEMORY_LEDGER(obj) == the_ledger) {
        error_setg(errp, "memory-ledger cannot be changed once it is made");
        return;
    }
    g_free(*field);
    *field = g_strdup(value);
}

static void set_path(Object *obj, const char *value, Error **errp)
{
    set_text(obj, &MEMORY_LEDGER(obj)->path, value, errp);
}

static char *get_name(Object *obj, Error **errp)
{
    return g_strdup(MEMORY_LEDGER(obj)->name);
}

static void set_name(Object *obj, const char *value, Error **errp)
{
    set_text(obj, &MEMORY_LEDGER(obj)->name, value, errp);
}

static char *get_claim(Object *obj, Error **errp)
{
    return g_strdup(MEMORY_LEDGER(obj)->claim);
}

static void set_claim(Object *obj, const char *value, Error **errp)
{
    set_text(obj, &MEMORY_LEDGER(obj)->claim, value, errp);
}

static void memory_ledger_finalize(Object *obj)
{
    MemoryLedger *ml = MEMORY_LEDGER(obj);

    if (ml == the_ledger) {
        the_ledger = NULL;
    }
    g_free(ml->path);
    g_free(ml->name);
    g_free(ml->claim);
}

static void memory_ledger_class_init(ObjectClass *oc, BALLAST_CLASS_DATA *data)
{
    UserCreatableClass *ucc = USER_CREATABLE_CLASS(oc);

    ucc->complete = memory_ledger_complete;
    ucc->can_be_deleted = memory_ledger_can_be_deleted;
    object_class_property_add_str(oc, "path", get_path, set_path);
    object_class_property_set_description(oc, "path",
        "Ledger, or socket of its daemon (default: inherited)");
    object_class_property_add_str(oc, "name", get_name, set_name);
    object_class_property_set_description(oc, "name",
        "Name in the ledger (default: the VM's)");
    object_class_property_add_str(oc, "claim", get_claim, set_claim);
    object_class_property_set_description(oc, "claim",
        "auto, linked, or SIZE[@NODE][/PAGESIZE] joined by '+'");
}

static const TypeInfo memory_ledger_info = {
    .name = TYPE_MEMORY_LEDGER,
    .parent = TYPE_OBJECT,
    .instance_size = sizeof(MemoryLedger),
    .instance_finalize = memory_ledger_finalize,
    .class_init = memory_ledger_class_init,
    .interfaces = (InterfaceInfo[]) {
        { TYPE_USER_CREATABLE },
        { }
    }
};

static void register_types(void)
{
    type_register_static(&memory_ledger_info);
}

type_init(register_types)
