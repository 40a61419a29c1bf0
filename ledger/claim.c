/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Claims, reports, and standing claims.
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

/* Large, so not made anew for every claim. */
static const struct sample no_sample;

static void copy_column(const struct geometry *geo, struct view *to,
                        const struct view *from, enum column col)
{
    memcpy(to->col[col], from->col[col],
           sizeof(to->col[col][0]) * geo->nr_cells);
}

static bool same_claim(const struct geometry *geo, const struct view *a,
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

static bool claims_nothing(const struct geometry *geo, const struct view *v)
{
    uint32_t i;

    for (i = 0; i < geo->nr_cells; i++) {
        if (v->col[COL_CLAIMED][i]) {
            return false;
        }
    }
    return true;
}

/* With the mutex held; the claimed column of @to is given, the rest is made. */
static int claim_slot(struct ballast_ledger *l, struct file_slot *s,
                      struct view *to, const struct sample *sample,
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
    if (err) {
        return err;
    }
    slot_publish(l, s, to);
    totals_move(l, &from, to);
    return 0;
}

static int claim_once(struct ballast_ledger *l, struct view *to,
                      const struct sample *sample,
                      struct ballast_refusal *why)
{
    struct file_slot *s;
    int err = ledger_lock_why(l, why);

    if (err) {
        return err;
    }
    s = slot_own(l, &err, why);
    if (s) {
        err = claim_slot(l, s, to, sample, why);
    }
    ledger_unlock(l);
    return err;
}

static bool is_shortage(int err)
{
    return err == -ENOMEM;
}

typedef int attempt_fn(struct ballast_ledger *l, void *opaque,
                       const struct sample *sample,
                       struct ballast_refusal *why);

/*
 * Tries until the kernel's figure is recent enough to be believed; after a
 * shortage, buries the dead and tries once more.
 */
static int attempt(struct ballast_ledger *l, attempt_fn *try, void *opaque,
                   struct ballast_refusal *why)
{
    struct sample sample = { .valid = false };
    bool swept = false;
    int left, err;

    for (left = SAMPLES_MAX; ; left--) {
        err = try(l, opaque, &sample, why);
        if (err > 0 && left > 0) {
            sample_take(l, &sample);
        } else if (is_shortage(err) && !swept && ballast_sweep(l) > 0) {
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

static void why_init(struct ballast_refusal *why)
{
    why->reason = BALLAST_OK;
    why->err = 0;
    why->node = BALLAST_NODE_ANY;
    why->page_bytes = 0;
    why->asked_bytes = why->available_bytes = 0;
    why->missing_bytes = why->limit_bytes = 0;
    why->nr_holders = why->more_holders = 0;
    why->detail[0] = '\0';
}

static void why_success(struct ballast_refusal *why)
{
    if (why) {
        why_init(why);
    }
}

static int claim_try(struct ballast_ledger *l, void *opaque,
                     const struct sample *sample, struct ballast_refusal *why)
{
    return claim_once(l, opaque, sample, why);
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
    why_success(why);
    view_zero(&ledger->geo, &to);
    err = demand_view(&ledger->geo, set, nr, &to, why);
    if (err) {
        return err;
    }
    err = claim_once(ledger, &to, &no_sample, why);
    if (err > 0 || is_shortage(err)) {
        err = attempt(ledger, claim_try, &to, why);
    }
    if (why && is_shortage(err)) {
        refusal_holders(ledger, why, ledger->slot);
    } else if (!err) {
        why_success(why);
    }
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
    return err;
}

/* A standing claim on its way in. */
struct standing {
    const char *name;
    struct identity who;
    struct view to;
};

/* The claim and its slot appear together, by the store to state. */
static int stand_new(struct ballast_ledger *l, struct standing *st,
                     const struct sample *sample, struct ballast_refusal *why)
{
    struct birth b = { .name = st->name, .who = st->who };
    struct view none;
    uint32_t nr;
    int err;

    view_zero(&l->geo, &none);
    view_redeem(&l->geo, &st->to);
    err = admit(l, &none, &st->to, sample, why);
    if (err) {
        return err;
    }
    if (slot_find_free(l, false, &nr)) {
        return refuse(why, BALLAST_NO_SLOT);
    }
    b.flags = SLOT_STANDING | (st->who.pid ? SLOT_PID_BOUND : 0);
    slot_take(l, slot_at(l, nr), &b, &st->to);
    totals_move(l, &none, &st->to);
    return 0;
}

static int stand_try(struct ballast_ledger *l, void *opaque,
                     const struct sample *sample, struct ballast_refusal *why)
{
    struct standing *st = opaque;
    struct file_slot *s;
    int err = ledger_lock_why(l, why);

    if (err) {
        return err;
    }
    s = slot_find_name(l, st->name, SLOT_NONE);
    if (!s) {
        err = stand_new(l, st, sample, why);
    } else if (!(s->flags & SLOT_STANDING)) {
        err = refuse(why, BALLAST_NAME_IN_USE);
    } else {
        err = claim_slot(l, s, &st->to, sample, why);
    }
    if (!err && s && st->who.pid) {
        slot_write_identity(s, &st->who);
        put32(&s->flags, SLOT_STANDING | SLOT_PID_BOUND);
    }
    ledger_unlock(l);
    return err;
}

int ballast_stand(struct ballast_ledger *ledger, const char *name,
                  const struct ballast_demand *set, size_t nr, pid_t pid,
                  struct ballast_refusal *why)
{
    struct standing st = { .name = name };
    int err;

    if (ledger->remote) {
        return remote_stand(ledger, name, set, nr, pid, why);
    }
    why_success(why);
    err = slot_check_name(name, why);
    if (!err) {
        err = demand_view(&ledger->geo, set, nr, &st.to, why);
    }
    if (err) {
        return err;
    }
    if (pid) {
        err = identity_of(pid, &st.who);
        if (err) {
            return refuse_system(why, err, "process %d", (int)pid);
        }
    } else {
        identity_self(&st.who);
        st.who.pid = 0;
        st.who.start_ticks = 0;
    }
    ballast_sweep(ledger);
    err = attempt(ledger, stand_try, &st, why);
    if (why && is_shortage(err)) {
        refusal_holders(ledger, why, SLOT_NONE);
    } else if (!err) {
        why_success(why);
    }
    return err;
}

int ballast_release(struct ballast_ledger *ledger, const char *name,
                    struct ballast_refusal *why)
{
    struct file_slot *s;
    int err;

    if (ledger->remote) {
        return remote_release(ledger, name, why);
    }
    why_success(why);
    err = ledger_lock_why(ledger, why);
    if (err) {
        return err;
    }
    s = slot_find_name(ledger, name, SLOT_NONE);
    if (s && (s->flags & SLOT_STANDING)) {
        slot_free(ledger, s);
    } else {
        err = refuse_system(why, -ENOENT, "%s claim is named %.63s",
                            s ? "only a running process's" : "no standing",
                            name);
    }
    ledger_unlock(ledger);
    return err;
}
