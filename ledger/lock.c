/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The mutex in the file, and what is done when its owner died.
 *
 * Invariant: whoever holds the mutex finds totals that agree with the slots.
 *
 * Crash story: EOWNERDEAD means that the last owner died between two stores.
 * Its slot is as it was or as it was to become, because one store decides;
 * only the totals, and the number of those who wait, may be off.  They are
 * counted again, and only then is the mutex declared consistent: if we die
 * meanwhile, the next one starts over.
 */
#include <errno.h>
#include <sched.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "internal.h"

#ifndef LOCK_MS             /* a test has no patience */
#define LOCK_MS      10000
#endif
#define SPINS        64
#define YIELDS       32
#define FIRST_NAP_NS 20000
#define LAST_NAP_NS  1000000

/* Returns how many wait. */
uint32_t ledger_recompute(struct ballast_ledger *l, struct total_cell *sums)
{
    uint32_t high = slots_high(l), nr_waiters = 0;
    struct view v;
    uint32_t nr, i;

    memset(sums, 0, sizeof(*sums) * l->geo.nr_cells);
    for (nr = 0; nr < high; nr++) {
        const struct file_slot *s = slot_at(l, nr);

        if (!slot_in_use(s)) {
            continue;
        }
        nr_waiters += queue_waits(s);
        slot_view(l, s, &v);
        for (i = 0; i < l->geo.nr_cells; i++) {
            sums[i].claimed_bytes += v.col[COL_CLAIMED][i];
            sums[i].resident_bytes += v.col[COL_RESIDENT][i];
            sums[i].freeable_bytes += v.col[COL_FREEABLE][i];
            sums[i].outstanding_bytes += v.outstanding[i];
        }
    }
    return nr_waiters;
}

/* With the mutex held.  The epoch tells samplers to forget what they saw. */
void ledger_recover(struct ballast_ledger *l)
{
    struct total_cell sums[MAX_CELLS];
    struct file_header *h = l->header;
    uint32_t i, nr_waiters;

#ifdef BALLAST_NO_RECOVERY
    return;     /* a control: the crash test must notice */
#endif
    put64(&h->epoch, get64(&h->epoch) + 1);
    nr_waiters = ledger_recompute(l, sums);
    for (i = 0; i < l->geo.nr_cells; i++) {
        put64(&l->totals[i].claimed_bytes, sums[i].claimed_bytes);
        put64(&l->totals[i].resident_bytes, sums[i].resident_bytes);
        put64(&l->totals[i].freeable_bytes, sums[i].freeable_bytes);
        put64(&l->totals[i].outstanding_bytes, sums[i].outstanding_bytes);
    }
    put32(&h->nr_waiters, nr_waiters);
    queue_stir(l);
}

static bool is_alive(const struct ballast_ledger *l)
{
    return get64(&l->header->alive) == FILE_ALIVE;
}

static void pause_a_little(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/*
 * A critical section takes less than it takes to go to sleep and be woken:
 * spin first, then give the processor to the owner, who may wait for it, then
 * sleep.  Sleeping in the kernel until the mutex is free would not do: when
 * the file is cut short nobody wakes us, and the C library takes a page that
 * is not there for a bug of its own, and aborts.
 */
static int lock_slowly(struct ballast_ledger *l)
{
    struct timespec nap = { .tv_nsec = FIRST_NAP_NS };
    uint64_t until = host_now_ns() + LOCK_MS * UINT64_C(1000000);
    uint32_t round;
    int err;

    for (round = 0; ; round++) {
        if (round % SPINS) {
            pause_a_little();
        } else if (round < SPINS * YIELDS) {
            sched_yield();
        } else if (host_now_ns() >= until) {
            return -ETIMEDOUT;
        } else {
            nanosleep(&nap, NULL);
            nap.tv_nsec = nap.tv_nsec * 2 > LAST_NAP_NS ? LAST_NAP_NS :
                          nap.tv_nsec * 2;
        }
        if (!is_alive(l)) {
            return -EBADMSG;
        }
        err = -pthread_mutex_trylock(&l->header->mutex);
        if (err != -EBUSY) {
            return err;
        }
    }
}

/*
 * glibc's trylock says that a mutex is beyond recovery, and keeps it: the next
 * one would wait for us instead of hearing the same.
 */
static void let_go(pthread_mutex_t *mutex)
{
#ifdef __GLIBC__
    int mine = gettid();

    __atomic_compare_exchange_n(&mutex->__data.__lock, &mine, 0, false,
                                __ATOMIC_RELEASE, __ATOMIC_RELAXED);
#else
    (void)mutex;
#endif
}

int ledger_lock(struct ballast_ledger *l)
{
    pthread_mutex_t *mutex = &l->header->mutex;
    int err;

    guard_thread();
    if (!is_alive(l)) {
        return -EBADMSG;
    }
    ballast_crash_point();
    err = -pthread_mutex_trylock(mutex);
    if (err == -EBUSY) {
        err = lock_slowly(l);
    }
    if (err == -EOWNERDEAD) {
        ledger_recover(l);
        err = -pthread_mutex_consistent(mutex);
    }
    if (!is_alive(l)) {
        return -EBADMSG;    /* what we locked is no mutex any more */
    }
    if (err == -ENOTRECOVERABLE) {
        let_go(mutex);
    }
    if (err) {
        return err;
    }
    ballast_crash_point();
    if (get32(&l->header->retired)) {
        pthread_mutex_unlock(mutex);
        return -ESTALE;
    }
    return 0;
}

int ledger_lock_why(struct ballast_ledger *l, struct ballast_refusal *why)
{
    int err = ledger_lock(l);

    switch (err) {
    case 0:
        return 0;
    case -ESTALE:
        return refuse_stale(why, "the ledger was replaced; open it again");
    case -EBADMSG:
        return ledger_verdict(l, err, why);
    case -ETIMEDOUT:
        return refuse_system(why, err, "the ledger has been locked by another "
                             "process for %d seconds", LOCK_MS / 1000);
    default:
        refuse_detail(why, BALLAST_BAD_FILE,
                      "its lock is unusable; make it anew with init --force");
        break;
    }
    if (why) {
        why->err = err;
    }
    return err;
}

void ledger_unlock(struct ballast_ledger *l)
{
    bool wake = l->wake;

    l->wake = false;
    if (!is_alive(l)) {
        return;
    }
    ballast_crash_point();
    pthread_mutex_unlock(&l->header->mutex);
    if (wake) {
        ballast_crash_point();
        queue_wake(l);
    }
}

/* What an operation returns, in the end, if there still is a ledger. */
int ledger_verdict(const struct ballast_ledger *l, int err,
                   struct ballast_refusal *why)
{
    if (is_alive(l)) {
        return err;
    }
    guard_condemn(l);
    return refuse_detail(why, BALLAST_BAD_FILE, "somebody cut it short while "
                         "it was in use; its claims are lost");
}
