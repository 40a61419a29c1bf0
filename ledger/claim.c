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

/* How many wait for the same, if anybody waits at all. */
static uint32_t ahead(const struct ballast_ledger *l,
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
    if (ahead(l, s, &from, to, ticket, err >= 0, why) && err >= 0) {
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

/* A standing claim on its way in. */
struct standing {
    const char *name;
    struct identity who;
    bool polite;            /* not over the entry of another waiter */
    bool made;              /* the slot is ours to wait in */
    struct file_slot *slot;
    uint64_t serial;
    uint64_t ticket;
    struct waiting w;
};

/* The claim and its slot appear together, by the store to state. */
static int stand_new(struct ballast_ledger *l, struct standing *st,
                     struct sample *sample, struct ballast_refusal *why)
{
    struct birth b = { .name = st->name, .who = st->who };
    struct view none;
    uint32_t nr;
    int err;

    view_zero(&l->geo, &none);
    view_redeem(&l->geo, &st->w.to);
    err = admit(l, &none, &st->w.to, sample, why);
    if (ahead(l, NULL, &none, &st->w.to, UINT64_MAX, err >= 0, why) &&
        err >= 0) {
        return refuse(why, BALLAST_BEHIND_QUEUE);
    }
    if (err) {
        return err;
    }
    if (slot_find_free(l, false, &nr)) {
        return refuse(why, BALLAST_NO_SLOT);
    }
    b.flags = SLOT_STANDING | (st->who.pid ? SLOT_PID_BOUND : 0);
    slot_take(l, slot_at(l, nr), &b, &st->w.to);
    totals_move(l, &none, &st->w.to);
    return 0;
}

/* Bound to nothing before it is bound to another: see slot.c, identity. */
static void stand_rebind(struct file_slot *s, const struct standing *st)
{
    put32(&s->flags, SLOT_STANDING);
    slot_write_identity(s, &st->who);
    if (st->who.pid) {
        put32(&s->flags, SLOT_STANDING | SLOT_PID_BOUND);
    }
}

static int stand_try(struct ballast_ledger *l, void *opaque,
                     struct sample *sample, struct ballast_refusal *why)
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
    } else if (!(s->flags & SLOT_STANDING) ||
               (st->polite && queue_attended(s))) {
        err = refuse(why, BALLAST_NAME_IN_USE);
    } else {
        queue_forget(l, s);
        err = claim_slot(l, s, &st->w.to, UINT64_MAX, sample, why);
    }
    if (!err && s && st->who.pid) {
        stand_rebind(s, st);
    }
    ledger_unlock(l);
    return err;
}

static int stand_prepare(struct ballast_ledger *l, struct standing *st,
                         const struct ballast_demand *set, size_t nr,
                         pid_t pid, struct ballast_refusal *why)
{
    int err;

    why_init(why);
    err = slot_check_name(st->name, why);
    if (err) {
        return err;
    }
    view_zero(&l->geo, &st->w.to);
    err = demand_view(&l->geo, set, nr, &st->w.to, why);
    if (err) {
        return err;
    }
    if (pid) {
        err = identity_of(pid, &st->who);
        return err ? refuse_system(why, err, "process %d", (int)pid) : 0;
    }
    identity_self(&st->who);
    st->who.pid = 0;
    st->who.start_ticks = 0;
    return 0;
}

int ballast_stand(struct ballast_ledger *ledger, const char *name,
                  const struct ballast_demand *set, size_t nr, pid_t pid,
                  struct ballast_refusal *why)
{
    struct standing st;
    int err;

    if (ledger->remote) {
        return remote_stand(ledger, name, set, nr, pid, why);
    }
    st.name = name;
    st.polite = false;
    err = stand_prepare(ledger, &st, set, nr, pid, why);
    if (err) {
        return err;
    }
    ballast_sweep(ledger);
    err = attempt(ledger, stand_try, &st, why, SWEEP_ALL);
    err = ledger_verdict(ledger, err, why);
    finish_refusal(ledger, err, SLOT_NONE, why);
    return err;
}

/*
 * With the mutex held: the slot to wait in.  A new one holds nothing, and is
 * ours: it ends with this process.
 */
static struct file_slot *stand_place(struct ballast_ledger *l,
                                     struct standing *st, int *err,
                                     struct ballast_refusal *why)
{
    struct file_slot *s = slot_find_name(l, st->name, SLOT_NONE);
    struct birth b = { .name = st->name };
    struct view none;
    uint32_t nr;

    if (s) {
        if ((s->flags & SLOT_STANDING) && !queue_attended(s)) {
            return s;
        }
        *err = refuse(why, BALLAST_NAME_IN_USE);
        return NULL;
    }
    if (slot_find_free(l, false, &nr)) {
        *err = refuse(why, BALLAST_NO_SLOT);
        return NULL;
    }
    s = slot_at(l, nr);
    identity_self(&b.who);
    b.flags = SLOT_STANDING | SLOT_PID_BOUND;
    view_zero(&l->geo, &none);
    slot_take(l, s, &b, &none);
    st->made = true;
    return s;
}

/* With the mutex held, when waiting is over, one way or another. */
static void stand_end(struct ballast_ledger *l, struct standing *st,
                      struct file_slot *s, int err)
{
    if (!err && (st->made || st->who.pid)) {
        stand_rebind(s, st);
    } else if (err < 0 && err != -EINPROGRESS && st->made) {
        slot_free(l, s);
        /* after a sweep the same is tried once more, from the beginning */
        st->slot = NULL;
        st->ticket = 0;
        st->made = false;
    }
}

static int stand_wait_try(struct ballast_ledger *l, void *opaque,
                          struct sample *sample, struct ballast_refusal *why)
{
    struct standing *st = opaque;
    struct file_slot *s = st->slot;
    int err = ledger_lock_why(l, why);

    if (err) {
        return err;
    }
    if (!s) {
        s = stand_place(l, st, &err, why);
        if (s) {
            st->slot = s;
            st->serial = get64(&s->serial);
            err = queue_claim(l, s, &st->w, sample, why);
        }
    } else if (get64(&s->serial) != st->serial || !slot_in_use(s)) {
        s = NULL;
        err = refuse_system(why, -ENOENT, "somebody released %.63s", st->name);
    } else if (st->ticket) {
        st->w.again = st->ticket == get64(&s->wait_ticket);
        err = st->w.again ? queue_look_after(l, s, &st->w, sample, why) :
              refuse_system(why, -ENOENT, "somebody claimed as %.63s",
                            st->name);
    } else {
        err = queue_claim(l, s, &st->w, sample, why);
    }
    if (s) {
        st->ticket = get64(&s->wait_ticket);
        stand_end(l, st, s, err);
    }
    ledger_unlock(l);
    return err;
}

int ballast_stand_wait(struct ballast_ledger *ledger, const char *name,
                       const struct ballast_demand *set, size_t nr, pid_t pid,
                       uint64_t timeout_ms, struct ballast_refusal *why)
{
    struct standing st;
    int err;

    if (ledger->remote) {
        return remote_stand_wait(ledger, name, set, nr, pid, timeout_ms, why);
    }
    st.name = name;
    st.polite = true;
    st.made = false;
    st.slot = NULL;
    st.ticket = 0;
    err = stand_prepare(ledger, &st, set, nr, pid, why);
    if (err) {
        return err;
    }
    st.w.again = false;
    st.w.opaque = &st;
    st.w.deadline_ns = queue_deadline(timeout_ms);
    ballast_sweep(ledger);
    err = attempt(ledger, stand_try, &st, why, SWEEP_ALL);
    if (worth_waiting(err) || err == -EAGAIN) {
        why_init(why);
        err = queue_attempt(ledger, stand_wait_try, &st.w, why);
    }
    while (err == -EINPROGRESS) {
        queue_sleep(ledger, st.w.seq, st.w.deadline_ns);
        st.w.again = true;
        why_init(why);
        err = queue_attempt(ledger, stand_wait_try, &st.w, why);
    }
    err = ledger_verdict(ledger, err, why);
    finish_refusal(ledger, err, SLOT_NONE, why);
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
    why_init(why);
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
    return ledger_verdict(ledger, err, why);
}
