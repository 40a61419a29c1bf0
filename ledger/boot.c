/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A ledger that was made, or emptied last, in another boot; or so it says.
 *
 * Another boot id means a reboot, after which nobody is left, or a damaged
 * id, after which nobody must lose a claim.  What cannot survive a reboot
 * tells them apart: locks, and processes by their start times.
 *
 * Invariant: no slot is freed whose owner lives, or cannot be looked at.  The
 * latter is freed by the sweep of who can.
 *
 * Crash story: under the open lock; the id is written last, so the next one
 * to open starts over.
 */
#include <errno.h>
#include <signal.h>
#include <string.h>

#include "internal.h"

enum owner_state { OWNER_NONE, OWNER_UNSEEN, OWNER_LIVES };

/*
 * The lock of a slot that has one was asked for already, unless it was given
 * up: then its process may not be gone yet.  Without a start time, a process
 * that has the pid may be any.
 */
static enum owner_state owner_state(const struct file_slot *s, uint64_t pidns)
{
    uint32_t flags = get32(&s->flags), state = get32(&s->state);
    uint64_t start_ticks = get64(&s->start_ticks);

    if (!slot_in_use(s) || s->pid <= 0 ||
        !(flags & (SLOT_PID_BOUND | SLOT_SERVED) || state == SLOT_DYING)) {
        return OWNER_NONE;
    }
    if (!pidns || get64(&s->pidns_inode) != pidns) {
        return state == SLOT_DYING ? OWNER_NONE : OWNER_UNSEEN;
    }
    if (process_gone(s->pid, start_ticks)) {
        return OWNER_NONE;
    }
    return start_ticks ? OWNER_LIVES : OWNER_UNSEEN;
}

static bool anybody_lives(const struct ballast_ledger *l, uint64_t pidns)
{
    uint32_t nr;

    if (file_has_locks(l->fd) || file_has_daemon(l->fd)) {
        return true;
    }
    for (nr = 0; nr < l->geo.nr_slots; nr++) {
        if (owner_state(slot_at(l, nr), pidns) == OWNER_LIVES) {
            return true;
        }
    }
    return false;
}

/* Returns the number of slots up to the last that is kept. */
static uint32_t free_slots(struct ballast_ledger *l, uint64_t pidns)
{
    uint32_t nr, high = 0;

    for (nr = 0; nr < l->geo.nr_slots; nr++) {
        struct file_slot *s = slot_at(l, nr);

        if (owner_state(s, pidns) == OWNER_UNSEEN) {
            high = nr + 1;
        } else if (get32(&s->state) != SLOT_FREE) {
            put32(&s->state, SLOT_FREE);
        }
    }
    return high;
}

/* Under the open lock. */
int boot_look(struct ballast_ledger *l)
{
    struct file_header *h = l->header;
    uint64_t pidns;
    uint8_t now[16];
    uint32_t high;
    int err;

    file_boot_id(now);
    if (memcmp(h->boot_id, now, sizeof(now)) == 0) {
        return 0;
    }
    pidns = host_pidns();
    if (anybody_lives(l, pidns)) {
        /* Nobody survives a reboot: it is the id that is damaged. */
        put_words(h->boot_id, now, sizeof(now));
        return 0;
    }
    err = file_put_mutex(h);
    if (err) {
        return err;
    }
    high = free_slots(l, pidns);
    if (high > slots_high(l)) {
        put32(&h->slots_high, high);    /* recovery looks no further */
    }
    ledger_recover(l);
    put32(&h->slots_high, high);
    put_words(h->boot_id, now, sizeof(now));
    return ledger_verdict(l, 0, NULL);
}
