/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The QMP commands of qapi/ballast.json. */
#include "qemu/osdep.h"
#include "hw/virtio/ballast/balloon.h"
#include "hw/virtio/ballast/placement.h"
#include "internal.h"
#include "migration/ballast/absent.h"
#include "migration/ballast/obstacle.h"
#include "qapi/error.h"
#include "qapi/qapi-commands-ballast.h"

static BallastBalloon *find_device(void)
{
    return (BallastBalloon *)object_resolve_path_type("", TYPE_BALLAST_BALLOON,
                                                      NULL);
}

MemoryLedgerInfo *qmp_query_memory_ledger(Error **errp)
{
    MemoryLedgerInfo *info = ballast_claim_info(errp);
    BallastBalloon *b = find_device();

    if (info && b) {
        info->waiting = b->gate.held ? 1 : 0;
    }
    return info;
}

static FreePageHintVerdicts *verdicts(const BallastVerdicts *v)
{
    FreePageHintVerdicts *out = g_new0(FreePageHintVerdicts, 1);

    out->applied = v->count[BALLAST_HINT_APPLIED];
    out->late = v->count[BALLAST_HINT_LATE];
    out->unarmed = v->count[BALLAST_HINT_UNARMED];
    out->malformed = v->count[BALLAST_HINT_MALFORMED];
    out->foreign = v->count[BALLAST_HINT_FOREIGN];
    out->applied_bytes = v->bytes[BALLAST_HINT_APPLIED];
    out->late_bytes = v->bytes[BALLAST_HINT_LATE];
    out->bad_ids = v->bad_ids;
    return out;
}

static AbsentPagesInfo *absent_info(void)
{
    static const AbsentPagesUse of_use[] = {
        [BALLAST_ABSENT_IDLE] = ABSENT_PAGES_USE_IDLE,
        [BALLAST_ABSENT_USED] = ABSENT_PAGES_USE_USED,
        [BALLAST_ABSENT_POSTCOPY] = ABSENT_PAGES_USE_POSTCOPY,
        [BALLAST_ABSENT_COLO] = ABSENT_PAGES_USE_COLO,
        [BALLAST_ABSENT_SNAPSHOT] = ABSENT_PAGES_USE_SNAPSHOT,
    };
    AbsentPagesInfo *out = g_new0(AbsentPagesInfo, 1);
    BallastAbsent a;

    ballast_absent_snapshot(&a);
    out->use = of_use[a.use];
    out->skipped = a.skipped_pages;
    out->skipped_bytes = a.skipped_pages * BALLAST_PAGE_BYTES;
    out->zero = a.zero_pages;
    out->unknown_bytes = a.unknown_bytes;
    out->scans = a.scans;
    out->pieces = a.pieces;
    out->scan_time_ns = a.scan_ns;
    out->scan_max_ns = a.max_piece_ns;
    out->arm_time_ns = a.arm_ns;
    return out;
}

static FreePageHintWait *wait_info(void)
{
    FreePageHintWait *out = g_new0(FreePageHintWait, 1);
    struct ballast_patience p;

    ballast_wait_snapshot(&p);
    out->waited_ns = p.waited_ns;
    out->unpaid_ns = p.unpaid_ns;
    out->slices = p.slices;
    out->unpaid_slices = p.unpaid_slices;
    out->pages = p.gained_pages;
    return out;
}

/* Any balloon has an id and a state; ours has a queue of its own besides. */
static void device_info(FreePageHintInfo *info)
{
    VirtIOBalloon *s = (VirtIOBalloon *)
        object_resolve_path_type("", TYPE_VIRTIO_BALLOON, NULL);
    BallastBalloon *b = find_device();

    info->state = s ? ballast_hint_state(s) : FREE_PAGE_HINT_STATE_OFF;
    info->cmd_id = s ? s->free_page_hint_cmd_id : 0;
    info->has_disabled_by = ballast_hints_obstacle(s, &info->disabled_by);
    info->ignored_blocks = ballast_ignored_blocks();
    if (b) {
        DeviceState *outer = qdev_get_parent_bus(DEVICE(b)) ?
                             qdev_get_parent_bus(DEVICE(b))->parent : NULL;

        info->device = outer && outer->id ? g_strdup(outer->id) :
                       object_get_canonical_path(OBJECT(b));
        info->handler_runs = b->hintq.runs;
    }
}

FreePageHintInfo *qmp_query_free_page_hints(Error **errp)
{
    FreePageHintInfo *info = g_new0(FreePageHintInfo, 1);
    BallastHintsSnapshot s;

    ballast_hints_snapshot(&s);
    device_info(info);
    info->generation = s.gen.number;
    info->armed = s.gen.armed;
    info->armings = s.arming.rounds;
    info->arm_chunks = s.arming.chunks;
    info->arm_time_ns = s.arming.total_ns;
    info->arm_max_ns = s.arming.max_ns;
    info->migration = verdicts(&s.migration);
    info->total = verdicts(&s.total);
    info->wait = wait_info();
    info->absent = absent_info();
    return info;
}

MemoryPlacement *qmp_query_memory_placement(bool has_mode,
                                            MemoryPlacementMode mode,
                                            bool has_samples,
                                            uint32_t samples, Error **errp)
{
    if (has_mode && mode == MEMORY_PLACEMENT_MODE_EXACT) {
        if (has_samples) {
            error_setg(errp, "samples is only for mode sample: mode exact "
                       "looks at all");
            return NULL;
        }
        return ballast_exact_placement(errp);
    }
    if (!has_samples) {
        samples = BALLAST_SAMPLES_DEFAULT;
    }
    if (samples < BALLAST_SAMPLES_MIN || samples > BALLAST_SAMPLES_MAX) {
        error_setg(errp, "samples is %u; allowed: %d to %d", samples,
                   BALLAST_SAMPLES_MIN, BALLAST_SAMPLES_MAX);
        return NULL;
    }
    return ballast_placement(samples);
}

void qmp_memory_placement_start(bool has_time_limit, uint32_t time_limit,
                                Error **errp)
{
    if (!has_time_limit) {
        time_limit = BALLAST_EXACT_MS_DEFAULT;
    }
    if (!time_limit || time_limit > BALLAST_EXACT_MS_MAX) {
        error_setg(errp, "time-limit is %u ms; allowed: 1 to %d", time_limit,
                   BALLAST_EXACT_MS_MAX);
        return;
    }
    ballast_exact_start(time_limit, errp);
}

void qmp_memory_placement_cancel(Error **errp)
{
    ballast_exact_cancel();
}
