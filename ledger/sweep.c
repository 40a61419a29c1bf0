/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The end of participants.
 *
 * live: somebody has the slot's byte lock (or, for a standing claim that is
 * bound to a process, and for who joined through the daemon, the process
 * exists; other standing claims just live).
 * dying: that is over, but the process may still be giving its memory back,
 * up to half a second later.  free: the process is gone, memory and all.
 *
 * Invariant: a slot moves only under the mutex, after looking again, and only
 * if its serial is the one that was looked at.
 *
 * Crash story: each step is one store to state, then totals.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>

#include "internal.h"

/* For processes that we cannot see: they are in another pid namespace. */
#define GRACE_NS (UINT64_C(2) * 1000 * 1000 * 1000)

/*
 * A zombie without other threads has dropped its memory and its files.  A
 * process that exists but may not be looked at is not gone.
 */
bool process_gone(int32_t pid, uint64_t start_ticks)
{
    struct process_stat st;

    if (pid <= 0) {
        return true;
    }
    if (host_process_stat(pid, &st)) {
        return kill(pid, 0) && errno == ESRCH;
    }
    if (start_ticks && start_ticks != st.start_ticks) {
        return true;
    }
    return (st.state == 'Z' || st.state == 'X') && st.threads <= 1;
}

static bool lost_its_owner(struct ballast_ledger *l, uint32_t nr)
{
    const struct file_slot *s = slot_at(l, nr);
    uint32_t flags = s->flags;

    if (nr == l->slot || (l->serving && (flags & SLOT_SERVED))) {
        return false;
    }
    if (flags & (SLOT_STANDING | SLOT_SERVED)) {
        return (flags & (SLOT_PID_BOUND | SLOT_SERVED)) &&
               s->pidns_inode == host_pidns() &&
               process_gone(s->pid, get64(&s->start_ticks));
    }
    return slot_lock_is_free(l->fd, nr);
}

static bool memory_is_back(const struct file_slot *s)
{
    uint64_t ours = host_pidns();
    uint64_t since = host_now_ns() - get64(&s->dying_since_ns);

    if (ours && s->pidns_inode == ours) {
        return process_gone(s->pid, get64(&s->start_ticks));
    }
    return since >= GRACE_NS;
}

/* Locks, and looks whether the slot still is what the caller saw. */
static bool lock_same(struct ballast_ledger *l, struct file_slot *s,
                      uint32_t state, uint64_t serial, int *err)
{
    *err = ledger_lock(l);
    if (*err) {
        return false;
    }
    if (get32(&s->state) == state && get64(&s->serial) == serial) {
        return true;
    }
    ledger_unlock(l);
    return false;
}

static int sweep_live(struct ballast_ledger *l, uint32_t nr)
{
    struct file_slot *s = slot_at(l, nr);
    uint64_t serial = get64(&s->serial);
    uint64_t now;
    int err = 0;

    if (!lost_its_owner(l, nr)) {
        return 0;
    }
    now = host_now_ns();
    if (lock_same(l, s, SLOT_LIVE, serial, &err)) {
        if (nr != l->slot && ((s->flags & (SLOT_STANDING | SLOT_SERVED)) ||
                              slot_lock_is_free(l->fd, nr))) {
            put64(&s->dying_since_ns, now);
            publish32(&s->state, SLOT_DYING);
        }
        ledger_unlock(l);
    }
    return err;
}

static int sweep_dying(struct ballast_ledger *l, uint32_t nr)
{
    struct file_slot *s = slot_at(l, nr);
    uint64_t serial = get64(&s->serial);
    int err = 0;

    if (get32(&s->state) != SLOT_DYING || !memory_is_back(s)) {
        return 0;
    }
    if (!lock_same(l, s, SLOT_DYING, serial, &err)) {
        return err;
    }
    slot_free(l, s);
    ledger_unlock(l);
    return 1;
}

/* 1 when it was freed. */
int sweep_slot(struct ballast_ledger *l, uint32_t nr)
{
    int err = 0;

    if (get32(&slot_at(l, nr)->state) == SLOT_LIVE) {
        err = sweep_live(l, nr);
    }
    return err ? err : sweep_dying(l, nr);
}

int ballast_sweep(struct ballast_ledger *ledger)
{
    uint32_t nr, high, freed = 0;
    int ret = 0;

    if (ledger->remote) {
        return remote_sweep(ledger);
    }
    high = slots_high(ledger);
    for (nr = 0; nr < high && ret >= 0; nr++) {
        ret = sweep_slot(ledger, nr);
        freed += ret > 0;
    }
    return ret < 0 ? ret : (int)freed;
}
