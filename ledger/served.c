/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Slots of participants that the daemon looks after.
 *
 * Such a slot is bound to a process, not to a byte lock: its flags say
 * SLOT_SERVED, and it ends as a standing claim with a pid does.  Names are
 * unique per user here, so that nobody can take another user's names, or
 * find them out; only the names of standing claims are taken for everybody.
 *
 * Invariant: a slot is given to a process that has its pid and start time,
 * or, when it is handed on, its user; and that knows its cookie.
 *
 * Crash story: as in member.c.  A join that is repeated because the daemon
 * died after it finds the slot by name, process and cookie.
 */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "internal.h"

static bool same_process(const struct file_slot *s,
                         const struct identity *who)
{
    return s->pid == who->pid && get64(&s->start_ticks) == who->start_ticks &&
           s->pidns_inode == who->pidns_inode;
}

/* Takes the same time whatever differs. */
static bool same_cookie(const struct file_slot *s, const uint64_t cookie[2])
{
    return !((s->cookie[0] ^ cookie[0]) | (s->cookie[1] ^ cookie[1]));
}

static void take_over(struct ballast_ledger *l, uint32_t nr)
{
    l->slot = nr;
    l->serial = get64(&slot_at(l, nr)->serial);
    l->joined_pid = getpid();       /* the handle's owner: the daemon */
    l->bequeathed = false;
}

/* 0 with *@nr set to our own slot or SLOT_NONE; or the name is taken. */
static int find_name(struct ballast_ledger *l, const struct birth *b,
                     uint32_t *found, struct ballast_refusal *why)
{
    uint32_t high = slots_high(l), nr;
    char other[BALLAST_NAME_BYTES];

    *found = SLOT_NONE;
    for (nr = 0; nr < high; nr++) {
        const struct file_slot *s = slot_at(l, nr);

        if (get32(&s->state) != SLOT_LIVE ||
            (s->uid != b->who.uid && !(s->flags & SLOT_STANDING))) {
            continue;
        }
        slot_name(s, other);
        if (strcmp(other, b->name) != 0) {
            continue;
        }
        if (!(s->flags & SLOT_SERVED) || !same_process(s, &b->who) ||
            !same_cookie(s, b->cookie)) {
            return refuse(why, BALLAST_NAME_IN_USE);
        }
        *found = nr;
    }
    return 0;
}

static int join_locked(struct ballast_ledger *l, const struct birth *b,
                       struct ballast_refusal *why)
{
    struct view none;
    uint32_t nr;
    int err = find_name(l, b, &nr, why);

    if (err) {
        return err;
    }
    if (nr == SLOT_NONE) {
        if (slot_find_free(l, false, &nr)) {
            return refuse(why, BALLAST_NO_SLOT);
        }
        view_zero(&l->geo, &none);
        slot_take(l, slot_at(l, nr), b, &none);
    }
    take_over(l, nr);
    return 0;
}

/* The handle has not joined; @b->flags is SLOT_SERVED. */
int served_join(struct ballast_ledger *l, const struct birth *b,
                struct ballast_refusal *why)
{
    int err = slot_check_name(b->name, why);

    if (!err) {
        ballast_sweep(l);
        err = ledger_lock_why(l, why);
    }
    if (err) {
        return err;
    }
    err = join_locked(l, b, why);
    ledger_unlock(l);
    return err;
}

/* One error for whatever is wrong: there is nothing to be learnt from it. */
static int attach_locked(struct ballast_ledger *l, uint32_t nr,
                         uint64_t serial, const uint64_t cookie[2],
                         const struct identity *who, bool adopt,
                         struct ballast_refusal *why)
{
    struct file_slot *s = slot_at(l, nr);
    struct identity heir = *who;

    if (get32(&s->state) != SLOT_LIVE || !(s->flags & SLOT_SERVED) ||
        get64(&s->serial) != serial || !same_cookie(s, cookie)) {
        return refuse(why, BALLAST_DYING);
    }
    if (!same_process(s, who)) {
        if (!adopt || s->uid != who->uid) {
            return refuse(why, BALLAST_DYING);
        }
        slot_write_identity(s, &heir);
    }
    take_over(l, nr);
    return 0;
}

int served_attach(struct ballast_ledger *l, uint32_t slot, uint64_t serial,
                  const uint64_t cookie[2], const struct identity *who,
                  bool adopt, struct ballast_refusal *why)
{
    int err;

    if (slot >= l->geo.nr_slots) {
        return refuse(why, BALLAST_DYING);
    }
    err = ledger_lock_why(l, why);
    if (err) {
        return err;
    }
    err = attach_locked(l, slot, serial, cookie, who, adopt, why);
    ledger_unlock(l);
    return err;
}

/* Whether the slot that the handle has joined still is what it was. */
bool served_is_mine(const struct ballast_ledger *l)
{
    const struct file_slot *s;

    if (l->slot == SLOT_NONE) {
        return false;
    }
    s = slot_at(l, l->slot);
    return slot_in_use(s) && get64(&s->serial) == l->serial;
}

static uint64_t column_sum(const struct geometry *geo, const uint64_t *column)
{
    uint64_t sum = 0;
    uint32_t i;

    for (i = 0; i < geo->nr_cells; i++) {
        sum += column[i];
    }
    return sum;
}

/* What a slot counts for in its user's quota: the most of what it keeps. */
uint64_t served_charge(const struct ballast_ledger *l, uint32_t nr)
{
    const struct file_slot *s = slot_at(l, nr);
    uint64_t most, wanted, resident;
    struct view v, w;

    if (!slot_in_use(s)) {
        return 0;
    }
    slot_view(l, s, &v);
    most = column_sum(&l->geo, v.col[COL_CLAIMED]);
    resident = column_sum(&l->geo, v.col[COL_RESIDENT]);
    most = most > resident ? most : resident;
    if (queue_waits(s)) {
        queue_wanted(l, s, &v, &w);
        wanted = column_sum(&l->geo, w.col[COL_CLAIMED]);
        most = most > wanted ? most : wanted;
    }
    return most;
}
