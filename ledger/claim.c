/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Claims and reports; standing claims are in stand.c.
 *
 * Every change follows one pattern: read the slot's view, make the new one,
 * admit it, publish it, move the totals.  The mutex is held from the first to
 * the last.  When the kernel must be asked, it is asked with the mutex
 * dropped, and the pattern starts again with what it said.
 *
 * Crash story: see slot.c; the claim is the old one or the new one.
 */
#include <errno.h>
#include <string.h>

#include "internal.h"

#define SAMPLES_MAX 8

static void copy_column(const struct geometry *geo, struct view *to,
                        const struct view *from, enum column col)
{
    memcpy(to->col[col], from->col[col],
           sizeof(to->col[col][0]) * geo->nr_cells);
}

bool same_claim(const struct geometry *geo, const struct view *a,
                const struct view *b)
{
    return memcmp(a->col[COL_CLAIMED], b->col[COL_CLAIMED],
                  sizeof(a->col[0][0]) * geo->nr_cells) == 0;
}

static void column_sums(const struct geometry *geo, const uint64_t *column,
                        uint64_t sums[BALLAST_MAX_CLASSES])
{
    uint32_t i, class = 0;

    memset(sums, 0, sizeof(*sums) * BALLAST_MAX_CLASSES);
    for (i = 0; i < geo->nr_cells; i++) {
        sums[class] += column[i];
        class = class + 1 == geo->nr_classes ? 0 : class + 1;
    }
}

static int refuse_limit(struct ballast_refusal *why,
                        enum ballast_reason reason, uint64_t page_bytes,
                        uint64_t asked, uint64_t limit)
{
    if (why) {
        why->node = BALLAST_NODE_ANY;
        why->page_bytes = page_bytes;
        why->asked_bytes = asked;
        why->limit_bytes = limit;
        why->missing_bytes = asked > limit ? asked - limit : 0;
    }
    return refuse(why, reason);
}

/* Limits that are the participant's own. */
static int within_limits(const struct ballast_ledger *l, uint64_t max_bytes,
                         const struct view *from, const struct view *to,
                         struct ballast_refusal *why)
{
    uint64_t was[BALLAST_MAX_CLASSES], asked[BALLAST_MAX_CLASSES];
    uint64_t resident[BALLAST_MAX_CLASSES];
    uint64_t total = 0, old_total = 0;
    uint32_t c;

    column_sums(&l->geo, from->col[COL_CLAIMED], was);
    column_sums(&l->geo, to->col[COL_CLAIMED], asked);
    column_sums(&l->geo, to->col[COL_RESIDENT], resident);
    for (c = 0; c < l->geo.nr_classes; c++) {
        total += asked[c];
        old_total += was[c];
        if (asked[c] && asked[c] < resident[c]) {
            return refuse_limit(why, BALLAST_BELOW_RESIDENT,
                                l->geo.page_bytes[c], asked[c], resident[c]);
        }
    }
    if (max_bytes && total > max_bytes && total > old_total) {
        return refuse_limit(why, BALLAST_ABOVE_MAXIMUM, l->geo.page_bytes[0],
                            total, max_bytes);
    }
    return 0;
}

bool claims_nothing(const struct geometry *geo, const struct view *v)
{
    uint32_t i;

    for (i = 0; i < geo->nr_cells; i++) {
        if (v->col[COL_CLAIMED][i]) {
            return false;
        }
    }
    return true;
}

/* How many wait for the same, if anybody waits at all. */
uint32_t claim_ahead(const struct ballast_ledger *l,
                     const struct file_slot *s, const struct view *from,
                     const struct view *to, uint64_t ticket, bool name_them,
                     struct ballast_refusal *why)
{
    if (get32(&l->header->nr_waiters)) {
        return queue_ahead(l, s, from, to, ticket, name_them, why);
    }
    if (why) {
        why->nr_ahead = 0;
    }
    return 0;
}

/*
 * With the mutex held; the claimed column of @to is given, the rest is made.
 * Those who wait with an older ticket come first.
 */
int claim_slot(struct ballast_ledger *l, struct file_slot *s,
               struct view *to, uint64_t ticket, struct sample *sample,
               struct ballast_refusal *why)
{
    struct view from;
    int err;

    slot_view(l, s, &from);
    if (same_claim(&l->geo, &from, to)) {
        return 0;
    }
    if (get32(&s->state) == SLOT_DYING && !claims_nothing(&l->geo, to)) {
        return refuse(why, BALLAST_DYING);
    }
    copy_column(&l->geo, to, &from, COL_RESIDENT);
    copy_column(&l->geo, to, &from, COL_FREEABLE);
    err = within_limits(l, s->max_bytes, &from, to, why);
    if (err) {
        return err;
    }
    view_redeem(&l->geo, to);
    err = admit(l, &from, to, sample, why);
    if (claim_ahead(l, s, &from, to, ticket, err >= 0, why) && err >= 0) {
        return refuse(why, BALLAST_BEHIND_QUEUE);
    }
    if (err) {
        return err;
    }
    slot_publish(l, s, to);
    totals_move(l, &from, to);
    return 0;
}

static int claim_try(struct ballast_ledger *l, void *opaque,
                     struct sample *sample, struct ballast_refusal *why)
{
    struct view *to = opaque;
    struct file_slot *s;
    int err = ledger_lock_why(l, why);

    if (err) {
        return err;
    }
    s = slot_own(l, &err, why);
    if (s) {
        if (get32(&l->header->nr_waiters)) {
            queue_forget(l, s);
        }
        err = claim_slot(l, s, to, UINT64_MAX, sample, why);
    }
    ledger_unlock(l);
    return err;
}

static bool is_shortage(int err)
{
    return err == -ENOMEM;
}

bool worth_waiting(int err)
{
    return is_shortage(err) || err == -EBUSY;
}

/*
 * Whether to try again.  After a sweep of all in any case: who buried the dead
 * may be somebody else, and not have finished yet.
 */
static bool bury(struct ballast_ledger *l, enum sweep sweep)
{
    if (sweep == SWEEP_ALL) {
        ballast_sweep(l);
        return true;
    }
    return sweep_some(l, SWEEP_BUDGET_NS) > 0;
}

/*
 * Tries until the kernel's figure is recent enough to be believed; after a
 * shortage, buries the dead and tries once more.
 */
int attempt(struct ballast_ledger *l, attempt_fn *try, void *opaque,
            struct ballast_refusal *why, enum sweep sweep)
{
    struct sample sample;
    bool swept = false;
    int left, err;

    sample.valid = false;
    guard_unlinked(l);
    for (left = SAMPLES_MAX; ; left--) {
        err = try(l, opaque, &sample, why);
        if (err > 0 && left > 0) {
            sample_take(l, &sample);
        } else if ((worth_waiting(err) || err == -EINPROGRESS) && !swept &&
                   bury(l, sweep)) {
            swept = true;
        } else {
            break;
        }
    }
    if (err > 0) {
        return refuse_system(why, -EAGAIN, "the host's memory changes too "
                             "fast to be compared with");
    }
    return err;
}

/* The words of a refusal: who has it; no words for a success. */
void finish_refusal(struct ballast_ledger *l, int err, uint32_t except,
                    struct ballast_refusal *why)
{
    if (!why) {
        return;
    }
    if (!err) {
        why_init(why);
    } else if (is_shortage(why->err)) {
        refusal_holders(l, why, except);
    }
}

int ballast_claim(struct ballast_ledger *ledger,
                  const struct ballast_demand *set, size_t nr,
                  struct ballast_refusal *why)
{
    struct view to;
    int err;

    if (ledger->remote) {
        return remote_claim(ledger, set, nr, why);
    }
    why_init(why);
    view_zero(&ledger->geo, &to);
    err = demand_view(&ledger->geo, set, nr, &to, why);
    if (err) {
        return err;
    }
    err = attempt(ledger, claim_try, &to, why, SWEEP_ALL);
    err = ledger_verdict(ledger, err, why);
    finish_refusal(ledger, err, ledger->slot, why);
    return err;
}

int ballast_report(struct ballast_ledger *ledger,
                   const struct ballast_usage *set, size_t nr)
{
    struct view from, to;
    struct file_slot *s;
    int err;

    if (ledger->remote) {
        return remote_report(ledger, set, nr);
    }
    view_zero(&ledger->geo, &to);
    err = usage_view(&ledger->geo, set, nr, &to);
    if (err) {
        return err;
    }
    err = ledger_lock(ledger);
    if (err) {
        return err;
    }
    s = slot_own(ledger, &err, NULL);
    if (s) {
        slot_view(ledger, s, &from);
        copy_column(&ledger->geo, &to, &from, COL_CLAIMED);
        view_redeem(&ledger->geo, &to);
        slot_publish(ledger, s, &to);
        totals_move(ledger, &from, &to);
    }
    ledger_unlock(ledger);
    return ledger_verdict(ledger, err, NULL);
}
