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
 * Asking for one lock walks the list of all locks of the file, so to look at
 * every slot takes the square of their number; even to ask 4096 times whether
 * a process exists takes two milliseconds.  Whoever only wants a picture looks
 * at a part of the slots, each time at the next part.
 *
 * Invariant: a slot moves only under the mutex, and only if it still is what
 * was looked at: serial, process and flags.
 *
 * Crash story: an entry in the queue ends first, then one store to state,
 * then totals.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>

#include "internal.h"

/* For processes that we cannot see: they are in another pid namespace. */
#define GRACE_NS (UINT64_C(2) * 1000 * 1000 * 1000)

/* Look at the clock only now and then. */
#define SLOTS_PER_CLOCK 8

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

/* Whom a slot belonged to when it was looked at. */
struct owner {
    uint32_t flags;
    int32_t pid;
    uint64_t serial;
    uint64_t start_ticks;
    uint64_t pidns_inode;
};

static struct owner owner_of(const struct file_slot *s)
{
    return (struct owner){
        .flags = get32(&s->flags),
        .pid = (int32_t)get32((const uint32_t *)&s->pid),
        .serial = get64(&s->serial),
        .start_ticks = get64(&s->start_ticks),
        .pidns_inode = get64(&s->pidns_inode),
    };
}

static bool same_owner(const struct file_slot *s, const struct owner *o)
{
    struct owner now = owner_of(s);

    return now.flags == o->flags && now.pid == o->pid &&
           now.serial == o->serial && now.start_ticks == o->start_ticks &&
           now.pidns_inode == o->pidns_inode;
}

static bool by_process(uint32_t flags)
{
    return flags & (SLOT_STANDING | SLOT_SERVED);
}

static bool lost_its_owner(struct ballast_ledger *l, uint32_t nr,
                           const struct owner *o, uint64_t pidns)
{
    if (nr == l->slot || (l->serving && (o->flags & SLOT_SERVED))) {
        return false;
    }
    if (by_process(o->flags)) {
        return (o->flags & (SLOT_PID_BOUND | SLOT_SERVED)) &&
               o->pidns_inode == pidns && process_gone(o->pid, o->start_ticks);
    }
    return slot_lock_is_free(l->fd, nr);
}

static bool memory_is_back(const struct file_slot *s, uint64_t pidns)
{
    uint64_t since = host_now_ns() - get64(&s->dying_since_ns);

    if (pidns && get64(&s->pidns_inode) == pidns) {
        return process_gone(s->pid, get64(&s->start_ticks));
    }
    return since >= GRACE_NS;
}

/* Locks, and looks whether the slot still is what the caller saw. */
static bool lock_same(struct ballast_ledger *l, struct file_slot *s,
                      uint32_t state, struct owner *o, int *err)
{
    *err = ledger_lock(l);
    if (*err) {
        return false;
    }
#ifdef BALLAST_PLANTED_LOOK
    *o = owner_of(s);           /* a control: whoever it is by now */
#endif
    if (get32(&s->state) == state && same_owner(s, o)) {
        return true;
    }
    ledger_unlock(l);
    return false;
}

static int sweep_live(struct ballast_ledger *l, uint32_t nr, uint64_t pidns)
{
    struct file_slot *s = slot_at(l, nr);
    struct owner o = owner_of(s);
    uint64_t now;
    int err = 0;

    if (!lost_its_owner(l, nr, &o, pidns)) {
        return 0;
    }
    now = host_now_ns();
    if (lock_same(l, s, SLOT_LIVE, &o, &err)) {
        if (nr != l->slot && (by_process(o.flags) ||
                              slot_lock_is_free(l->fd, nr))) {
            queue_forget(l, s);
            put64(&s->dying_since_ns, now);
            publish32(&s->state, SLOT_DYING);
        }
        ledger_unlock(l);
    }
    return err;
}

static int sweep_dying(struct ballast_ledger *l, uint32_t nr, uint64_t pidns)
{
    struct file_slot *s = slot_at(l, nr);
    struct owner o = owner_of(s);
    int err = 0;

    if (get32(&s->state) != SLOT_DYING || !memory_is_back(s, pidns)) {
        return 0;
    }
    if (!lock_same(l, s, SLOT_DYING, &o, &err)) {
        return err;
    }
    slot_free(l, s);
    ledger_unlock(l);
    return 1;
}

static int sweep_entry(struct ballast_ledger *l, uint32_t nr)
{
    struct file_slot *s = slot_at(l, nr);
    struct owner o = owner_of(s);
    int err = 0;

    if (queue_abandoned(s) && lock_same(l, s, SLOT_LIVE, &o, &err)) {
        if (queue_abandoned(s)) {
            queue_forget(l, s);
        }
        ledger_unlock(l);
    }
    return err;
}

/* One slot, closely.  Returns 1 if it was freed, 0 or -errno. */
static int sweep_slot(struct ballast_ledger *l, uint32_t nr, uint64_t pidns)
{
    int err = 0;

    if (get32(&slot_at(l, nr)->state) == SLOT_LIVE) {
        err = sweep_live(l, nr, pidns);
        if (!err) {
            err = sweep_entry(l, nr);
        }
    }
    return err ? err : sweep_dying(l, nr, pidns);
}

/* For the daemon, which heard that the slot's process has ended. */
int sweep_served(struct ballast_ledger *l, uint32_t nr)
{
    return sweep_slot(l, nr, host_pidns());
}

int ballast_sweep(struct ballast_ledger *ledger)
{
    uint64_t pidns = host_pidns();
    uint32_t high, nr, freed = 0;
    int ret = 0;

    if (ledger->remote) {
        return remote_sweep(ledger);
    }
    guard_thread();
    high = slots_high(ledger);
    for (nr = 0; nr < high && ret >= 0; nr++) {
        ret = sweep_slot(ledger, nr, pidns);
        freed += ret > 0;
    }
    return ledger_verdict(ledger, ret < 0 ? ret : (int)freed, NULL);
}

/* Dying, or, if there is time, in the queue, where others wait for its end. */
static bool is_urgent(const struct file_slot *s, uint64_t until)
{
    return get32(&s->state) == SLOT_DYING ||
           (queue_waits(s) && host_now_ns() < until);
}

/*
 * Those that are urgent, and as many others as the time allows, going on
 * where the last one stopped; with few slots, all of them.
 */
int sweep_some(struct ballast_ledger *l, uint64_t budget_ns)
{
    uint64_t pidns = host_pidns(), until = host_now_ns() + budget_ns;
    uint32_t from = __atomic_load_n(&l->swept_to, __ATOMIC_RELAXED);
    uint32_t high, freed = 0, nr, i;
    int ret = 0;

    guard_thread();
    high = slots_high(l);
    for (nr = 0; nr < high && ret >= 0; nr++) {
        if (is_urgent(slot_at(l, nr), until)) {
            ret = sweep_slot(l, nr, pidns);
            freed += ret > 0;
        }
    }
    for (i = 0; i < high && ret >= 0; i++) {
        if (i % SLOTS_PER_CLOCK == 0 && i && host_now_ns() >= until) {
            break;
        }
        nr = (from + i) % high;
        ret = sweep_slot(l, nr, pidns);
        freed += ret > 0;
    }
    __atomic_store_n(&l->swept_to, high ? (from + i) % high : 0,
                     __ATOMIC_RELAXED);
    return ret < 0 ? ret : (int)freed;
}
