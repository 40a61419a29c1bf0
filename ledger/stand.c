/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Standing claims, and waiting for them.
 *
 * Who waits for a standing claim has a place: a slot, and its entry in the
 * queue.  If there was no such claim, the slot is made, holds nothing, and is
 * bound to the waiting process; if there was one, the entry is that claim's.
 *
 * Invariant: an entry is its waiter's as long as the slot's serial number and
 * the ticket are what they were.
 *
 * Crash story: a waiting process that dies takes the slot that was made with
 * it, and an entry in another one is passed over, then forgotten (queue.c).
 * The daemon may die where its client lives: what the client knows (serial
 * number and ticket) finds the entry again, and if there is none yet, or no
 * more, asking for the same once more finds what was done of it.
 */
#include <errno.h>
#include <string.h>

#include "internal.h"

/* The claim and its slot appear together, by the store to state. */
static int stand_new(struct ballast_ledger *l, struct standing *st,
                     struct sample *sample, struct ballast_refusal *why)
{
    struct birth b = { .name = st->at.name, .who = st->at.who };
    struct view none;
    uint32_t nr;
    int err;

    view_zero(&l->geo, &none);
    view_redeem(&l->geo, &st->w.to);
    err = admit(l, &none, &st->w.to, sample, why);
    if (claim_ahead(l, NULL, &none, &st->w.to, UINT64_MAX, err >= 0, why) &&
        err >= 0) {
        return refuse(why, BALLAST_BEHIND_QUEUE);
    }
    if (err) {
        return err;
    }
    if (slot_find_free(l, false, &nr)) {
        return refuse(why, BALLAST_NO_SLOT);
    }
    b.flags = SLOT_STANDING | (st->at.who.pid ? SLOT_PID_BOUND : 0);
    slot_take(l, slot_at(l, nr), &b, &st->w.to);
    totals_move(l, &none, &st->w.to);
    return 0;
}

/* Bound to nothing before it is bound to another: see slot.c, identity. */
static void stand_rebind(struct file_slot *s, const struct standing *st)
{
    put32(&s->flags, SLOT_STANDING);
    slot_write_identity(s, &st->at.who);
    if (st->at.who.pid) {
        put32(&s->flags, SLOT_STANDING | SLOT_PID_BOUND);
    }
}

/* Bound to the waiting process; or no longer, by a rebind that was cut off. */
static bool is_bound_to(const struct file_slot *s, const struct identity *who)
{
    return s->pid == who->pid &&
           (!(s->flags & SLOT_PID_BOUND) ||
            (get64(&s->start_ticks) == who->start_ticks &&
             s->pidns_inode == who->pidns_inode));
}

/*
 * Whether the slot was made for this waiter, as far as the file can tell: it
 * is bound to the waiting process, and holds nothing, or already what is
 * waited for.
 */
static bool is_made(const struct ballast_ledger *l, const struct file_slot *s,
                    const struct standing *st)
{
    struct view v;

    if (!is_bound_to(s, &st->at.waiter)) {
        return false;
    }
    slot_view(l, s, &v);
    return claims_nothing(&l->geo, &v) || same_claim(&l->geo, &v, &st->w.to);
}

static int stand_try(struct ballast_ledger *l, void *opaque,
                     struct sample *sample, struct ballast_refusal *why)
{
    struct standing *st = opaque;
    bool rebind = st->at.who.pid;
    struct file_slot *s;
    int err = ledger_lock_why(l, why);

    if (err) {
        return err;
    }
    s = slot_find_name(l, st->at.name, SLOT_NONE);
    if (!s) {
        err = stand_new(l, st, sample, why);
    } else if (!(s->flags & SLOT_STANDING) ||
               (st->polite && queue_attended(s))) {
        err = refuse(why, BALLAST_NAME_IN_USE);
    } else {
        queue_forget(l, s);
        rebind |= st->again && is_made(l, s, st);
        err = claim_slot(l, s, &st->w.to, UINT64_MAX, sample, why);
    }
    if (!err && s && rebind) {
        stand_rebind(s, st);
    }
    ledger_unlock(l);
    return err;
}

/* The process that the claim is to end with: @pid, or none. */
static int stand_whose(struct standing *st, pid_t pid,
                       struct ballast_refusal *why)
{
    int err;

    if (pid) {
        err = identity_of(pid, &st->at.who);
        return err ? refuse_system(why, err, "process %d", (int)pid) : 0;
    }
    identity_self(&st->at.who);
    st->at.who.pid = 0;
    st->at.who.start_ticks = 0;
    return 0;
}

static int stand_prepare(struct ballast_ledger *l, struct standing *st,
                         const struct stand_ask *ask,
                         struct ballast_refusal *why)
{
    int err;

    why_init(why);
    err = slot_check_name(ask->name, why);
    if (err) {
        return err;
    }
    memset(&st->at, 0, sizeof(st->at));
    strcpy(st->at.name, ask->name);
    st->at.waiter = ask->waiter;
    st->again = ask->again;
    view_zero(&l->geo, &st->w.to);
    err = demand_view(&l->geo, ask->set, ask->nr, &st->w.to, why);
    return err ? err : stand_whose(st, ask->pid, why);
}

static int stand_verdict(struct ballast_ledger *l, int err,
                         struct ballast_refusal *why)
{
    err = ledger_verdict(l, err, why);
    finish_refusal(l, err, SLOT_NONE, why);
    return err;
}

int ballast_stand(struct ballast_ledger *ledger, const char *name,
                  const struct ballast_demand *set, size_t nr, pid_t pid,
                  struct ballast_refusal *why)
{
    const struct stand_ask ask = { .name = name, .set = set, .nr = nr,
                                   .pid = pid };
    struct standing st;
    int err;

    if (ledger->remote) {
        return remote_stand(ledger, name, set, nr, pid, why);
    }
    st.polite = false;
    err = stand_prepare(ledger, &st, &ask, why);
    if (err) {
        return err;
    }
    ballast_sweep(ledger);
    return stand_verdict(ledger, attempt(ledger, stand_try, &st, why,
                                         SWEEP_ALL), why);
}

/* Waiting --------------------------------------------------------------- */

static void stand_remember(const struct ballast_ledger *l,
                           struct standing *st, const struct file_slot *s)
{
    st->at.placed = true;
    st->at.slot = (uint32_t)(((const uint8_t *)s - l->slots) /
                             l->geo.slot_bytes);
    st->at.serial = get64(&s->serial);
    st->at.ticket = get64(&s->wait_ticket);
}

static struct file_slot *stand_make(struct ballast_ledger *l,
                                    struct standing *st, int *err,
                                    struct ballast_refusal *why)
{
    struct birth b = { .name = st->at.name, .who = st->at.waiter,
                       .flags = SLOT_STANDING | SLOT_PID_BOUND };
    struct view none;
    uint32_t nr;

    if (slot_find_free(l, false, &nr)) {
        *err = refuse(why, BALLAST_NO_SLOT);
        return NULL;
    }
    view_zero(&l->geo, &none);
    slot_take(l, slot_at(l, nr), &b, &none);
    st->at.made = true;
    return slot_at(l, nr);
}

/*
 * With the mutex held: the slot to wait in.  A new one holds nothing, and is
 * ours: it ends with the waiting process.
 */
static struct file_slot *stand_place(struct ballast_ledger *l,
                                     struct standing *st, int *err,
                                     struct ballast_refusal *why)
{
    struct file_slot *s = slot_find_name(l, st->at.name, SLOT_NONE);

    if (!s) {
        return stand_make(l, st, err, why);
    }
    if (!(s->flags & SLOT_STANDING) || queue_attended(s)) {
        *err = refuse(why, BALLAST_NAME_IN_USE);
        return NULL;
    }
    /* With its ticket, whoever left the entry would take ours for it. */
    queue_forget(l, s);
    st->at.made = st->again && is_made(l, s, st);
    return s;
}

/* With the mutex held, when waiting is over, one way or another. */
static void stand_end(struct ballast_ledger *l, struct standing *st,
                      struct file_slot *s, int err)
{
    if (!err && (st->at.made || st->at.who.pid)) {
        stand_rebind(s, st);
    } else if (err < 0 && err != -EINPROGRESS && st->at.made) {
        slot_free(l, s);
        /* after a sweep the same is tried once more, from the beginning */
        st->at.placed = st->at.made = false;
        st->at.ticket = 0;
    }
}

/* With the mutex held: the slot that was found before, if it is still that. */
static struct file_slot *stand_placed(struct ballast_ledger *l,
                                      const struct standing *st, int *err,
                                      struct ballast_refusal *why)
{
    struct file_slot *s = slot_at(l, st->at.slot);

    if (!slot_in_use(s) || get64(&s->serial) != st->at.serial) {
        *err = refuse_system(why, -ENOENT, "somebody released %.63s",
                             st->at.name);
        return NULL;
    }
    if (st->at.ticket && st->at.ticket != get64(&s->wait_ticket)) {
        *err = refuse_system(why, -ENOENT, "somebody claimed as %.63s",
                             st->at.name);
        return NULL;
    }
    return s;
}

static int stand_wait_try(struct ballast_ledger *l, void *opaque,
                          struct sample *sample, struct ballast_refusal *why)
{
    struct standing *st = opaque;
    struct file_slot *s;
    int err = ledger_lock_why(l, why);

    if (err) {
        return err;
    }
    s = st->at.placed ? stand_placed(l, st, &err, why) :
        stand_place(l, st, &err, why);
    if (s) {
        st->w.again = st->at.ticket;
        err = st->w.again ? queue_look_after(l, s, &st->w, sample, why) :
              queue_claim(l, s, &st->w, sample, why);
        stand_remember(l, st, s);
        stand_end(l, st, s, err);
    }
    ledger_unlock(l);
    return err;
}

/* The same call has come before, perhaps, and its entry is still there. */
static bool stand_find_again(struct ballast_ledger *l, struct standing *st)
{
    struct file_slot *s;
    struct view from, wanted;
    bool found = false;

    if (!st->again || ledger_lock(l)) {
        return false;
    }
    s = slot_find_name(l, st->at.name, SLOT_NONE);
    if (s && (s->flags & SLOT_STANDING) && queue_waits(s)) {
        slot_view(l, s, &from);
        queue_wanted(l, s, &from, &wanted);
        found = same_claim(&l->geo, &wanted, &st->w.to);
    }
    if (found) {
        stand_remember(l, st, s);
        st->at.made = is_made(l, s, st);
    }
    ledger_unlock(l);
    return found;
}

/* As ballast_queue(): -EINPROGRESS with a place in ->at, or what came of it. */
int stand_queue(struct ballast_ledger *l, struct standing *st,
                const struct stand_ask *ask, struct ballast_refusal *why)
{
    int err;

    st->polite = true;
    err = stand_prepare(l, st, ask, why);
    if (err) {
        return err;
    }
    if (stand_find_again(l, st)) {
        return stand_poll(l, st, why);
    }
    st->w.again = false;
    st->w.opaque = st;
    st->w.deadline_ns = queue_deadline(ask->timeout_ms);
    ballast_sweep(l);
    err = attempt(l, stand_try, st, why, SWEEP_ALL);
    if (worth_waiting(err) || err == -EAGAIN) {
        why_init(why);
        err = queue_attempt(l, stand_wait_try, &st->w, why);
    }
    return stand_verdict(l, err, why);
}

/* As ballast_queue_poll(), for the place in ->at. */
int stand_poll(struct ballast_ledger *l, struct standing *st,
               struct ballast_refusal *why)
{
    why_init(why);
    st->w.again = true;
    st->w.opaque = st;
    return stand_verdict(l, queue_attempt(l, stand_wait_try, &st->w, why),
                         why);
}

/* With the mutex held. */
static int resume_locked(struct ballast_ledger *l, struct standing *st,
                         int whose, struct ballast_refusal *why)
{
    struct file_slot *s;
    struct view from;
    int err = 0;

    s = stand_placed(l, st, &err, why);
    if (s && (!(s->flags & SLOT_STANDING) || !queue_waits(s))) {
        err = refuse_system(why, -ENOENT, "not in the queue");
    }
    if (err) {
        return err;
    }
    slot_view(l, s, &from);
    queue_wanted(l, s, &from, &st->w.to);
    st->at.made = is_made(l, s, st);
    if (whose) {
        queue_forget(l, s);
        stand_end(l, st, s, whose);
    }
    return whose;
}

/*
 * For the daemon, which was not there when the place was taken: @at has the
 * name, the slot, the serial number, the ticket and the waiter, as the client
 * says.
 */
int stand_resume(struct ballast_ledger *l, const struct stand_place *at,
                 pid_t pid, struct standing *st, struct ballast_refusal *why)
{
    int whose, err = slot_check_name(at->name, why);

    if (err) {
        return err;
    }
    if (at->slot >= l->geo.nr_slots || !at->ticket) {
        return refuse_system(why, -ENOENT, "not in the queue");
    }
    st->at = *at;
    st->at.placed = true;
    whose = stand_whose(st, pid, why);
    err = ledger_lock_why(l, why);
    if (err) {
        return err;
    }
    err = resume_locked(l, st, whose, why);
    ledger_unlock(l);
    return err;
}

int ballast_stand_wait(struct ballast_ledger *ledger, const char *name,
                       const struct ballast_demand *set, size_t nr, pid_t pid,
                       uint64_t timeout_ms, struct ballast_refusal *why)
{
    struct stand_ask ask = { .name = name, .set = set, .nr = nr, .pid = pid,
                             .timeout_ms = timeout_ms };
    struct standing st;
    int err;

    if (ledger->remote) {
        return remote_stand_wait(ledger, name, set, nr, pid, timeout_ms, why);
    }
    identity_self(&ask.waiter);
    err = stand_queue(ledger, &st, &ask, why);
    while (err == -EINPROGRESS) {
        queue_sleep(ledger, st.w.seq, st.w.deadline_ns);
        err = stand_poll(ledger, &st, why);
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
    why_init(why);
    err = slot_check_name(name, why);
    if (!err) {
        err = ledger_lock_why(ledger, why);
    }
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
