/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Served slots and the processes they belong to.
 *
 * A slot is watched by a pidfd: it becomes readable when the process has
 * ended, memory and all.  The connection does not matter: a process that
 * closed it keeps its claim, and a child that holds it open keeps nothing.
 *
 * Invariant: a served slot in use has a watch with its serial number, and
 * counts in its user's account; the file says which user, not the connection.
 *
 * Crash story: watches and accounts are made from the file at start.  Whoever
 * ended while there was no daemon is found by its start time then.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "daemon.h"

#ifndef SO_PEERPIDFD
#define SO_PEERPIDFD    77
#endif
#define LOOK_AGAIN_MS   10
#define NS_PER_MS       (UINT64_C(1000) * 1000)

/* There are as many accounts as clients and slots, so one is always free. */
uint32_t account_of(struct daemon *d, uint32_t uid)
{
    uint32_t i, unused = NOBODY;

    for (i = 0; i < d->nr_accounts; i++) {
        if (d->accounts[i].uid == uid) {
            return i;
        }
        if (!d->accounts[i].nr_clients && !d->accounts[i].nr_slots) {
            unused = i;
        }
    }
    if (unused == NOBODY) {
        unused = d->nr_accounts++;
    }
    d->accounts[unused] = (struct account){ .uid = uid };
    return unused;
}

static int open_pid(int32_t pid)
{
    int fd = (int)syscall(SYS_pidfd_open, pid, 0);

    return fd < 0 ? -errno : fd;
}

static bool has_ended(int pidfd)
{
    struct pollfd p = { .fd = pidfd, .events = POLLIN };

    return poll(&p, 1, 0) != 0;
}

/* The start time is that of the pidfd's process: it lived when it was read. */
static int identify(int pidfd, int32_t pid, uint32_t uid, struct identity *id)
{
    struct process_stat st;

    id->pid = pid;
    id->uid = uid;
    id->pidns_inode = host_pidns();
    id->start_ticks = host_process_stat(pid, &st) ? 0 : st.start_ticks;
    return has_ended(pidfd) ? -ESRCH : 0;
}

int watch_open(int fd, const struct credentials *who, int *pidfd,
               struct identity *id)
{
    socklen_t len = sizeof(*pidfd);
    int err;

    if (who->pid <= 0) {
        return -ESRCH;      /* of a pid namespace that we cannot look into */
    }
    if (getsockopt(fd, SOL_SOCKET, SO_PEERPIDFD, pidfd, &len)) {
        *pidfd = open_pid(who->pid);
    }
    if (*pidfd < 0) {
        return *pidfd;
    }
    err = identify(*pidfd, who->pid, who->uid, id);
    if (err) {
        close(*pidfd);
        *pidfd = -1;
    }
    return err;
}

static void stop_ending(struct daemon *d, struct watch *w)
{
    if (w->end_at_ns) {
        w->end_at_ns = 0;
        d->nr_ending--;
    }
}

static void end_at(struct daemon *d, struct watch *w, uint64_t ms)
{
    d->nr_ending += !w->end_at_ns;
    w->end_at_ns = host_now_ns() + ms * NS_PER_MS;
}

static void close_pidfd(struct daemon *d, struct watch *w)
{
    if (w->pidfd >= 0) {
        epoll_ctl(d->epoll_fd, EPOLL_CTL_DEL, w->pidfd, NULL);
        close(w->pidfd);
        w->pidfd = -1;
    }
}

static void count_in(struct daemon *d, uint32_t slot, uint32_t uid)
{
    struct watch *w = &d->watches[slot];

    if (w->account == NOBODY) {
        w->account = account_of(d, uid);
        d->accounts[w->account].nr_slots++;
        d->nr_watched++;
    }
}

static void start_watch(struct daemon *d, uint32_t slot, int pidfd)
{
    struct watch *w = &d->watches[slot];
    const struct file_slot *s = slot_at(d->ledger, slot);

    if (w->account != NOBODY && w->serial != get64(&s->serial)) {
        watch_forget(d, slot);      /* somebody else buried its past */
    }
    stop_ending(d, w);
    close_pidfd(d, w);
    w->bequeathed = false;
    w->serial = get64(&s->serial);
    count_in(d, slot, s->uid);
    watch_charge(d, slot);
    w->pidfd = pidfd;
    if (pidfd < 0 || loop_add(d, pidfd, EVENT_WATCH, slot)) {
        log_line(LOG_WARN, "event=unwatched slot=%u pid=%d", slot, s->pid);
        end_at(d, w, HELLO_MS);     /* look now and then instead */
    }
}

/* The client has joined or attached: a slot has one connection. */
void watch_slot(struct daemon *d, struct client *c)
{
    uint32_t slot = c->ledger.slot, self = (uint32_t)(c - d->clients);
    struct watch *w = &d->watches[slot];

    if (w->client != NOBODY && w->client != self) {
        d->clients[w->client].ledger.slot = SLOT_NONE;
    }
    start_watch(d, slot, fcntl(c->pidfd, F_DUPFD_CLOEXEC, 0));
    w->client = self;
}

void watch_forget(struct daemon *d, uint32_t slot)
{
    struct watch *w = &d->watches[slot];
    struct account *a;

    close_pidfd(d, w);
    stop_ending(d, w);
    if (w->client != NOBODY) {
        d->clients[w->client].ledger.slot = SLOT_NONE;
    }
    if (w->account != NOBODY) {
        a = &d->accounts[w->account];
        a->nr_slots--;
        a->charged_bytes -= w->charged_bytes;
        d->nr_watched--;
    }
    *w = (struct watch){ .pidfd = -1, .account = NOBODY, .client = NOBODY };
}

/* After whatever may have changed what the slot holds. */
void watch_charge(struct daemon *d, uint32_t slot)
{
    struct watch *w = &d->watches[slot];
    uint64_t charge;

    if (w->account == NOBODY) {
        return;
    }
    charge = served_charge(d->ledger, slot);
    d->accounts[w->account].charged_bytes += charge - w->charged_bytes;
    w->charged_bytes = charge;
}

/* The process is gone, or was not there when somebody else looked. */
void watch_end(struct daemon *d, uint32_t slot)
{
    struct watch *w = &d->watches[slot];
    struct file_slot *s = slot_at(d->ledger, slot);
    char name[BALLAST_NAME_BYTES];
    int32_t pid = s->pid;
    uint32_t uid = s->uid;

    slot_name(s, name);
    d->ledger->serving = false;
    sweep_served(d->ledger, slot);
    d->ledger->serving = true;
    if (slot_in_use(s) && get64(&s->serial) == w->serial) {
        end_at(d, w, w->pidfd < 0 ? HELLO_MS : LOOK_AGAIN_MS);
        return;
    }
    d->counters.deaths++;
    log_line(LOG_LINE, "event=death uid=%u pid=%d slot=%u serial=%llu "
             "name=%s held=%llu", uid, pid, slot,
             (unsigned long long)w->serial, log_quoted(name),
             (unsigned long long)w->charged_bytes);
    watch_forget(d, slot);
}

/* A bequest has a time in which its heir may come. */
void watch_event(struct daemon *d, uint32_t slot)
{
    struct watch *w = &d->watches[slot];

    if (w->pidfd < 0) {
        return;
    }
    epoll_ctl(d->epoll_fd, EPOLL_CTL_DEL, w->pidfd, NULL);
    if (w->bequeathed && !w->end_at_ns) {
        end_at(d, w, GRACE_MS);
        return;
    }
    watch_end(d, slot);
}

void watch_tick(struct daemon *d)
{
    uint32_t high = slots_high(d->ledger), slot;
    uint64_t now = host_now_ns();

    for (slot = 0; slot < high && d->nr_ending; slot++) {
        if (d->watches[slot].end_at_ns && d->watches[slot].end_at_ns <= now) {
            watch_end(d, slot);
        }
    }
}

/* Slots of those who came before this daemon. */
void watch_existing(struct daemon *d)
{
    uint32_t high = slots_high(d->ledger), slot, nr = 0;
    struct process_stat st;
    int pidfd;

    d->ledger->serving = false;
    ballast_sweep(d->ledger);
    d->ledger->serving = true;
    for (slot = 0; slot < high; slot++) {
        const struct file_slot *s = slot_at(d->ledger, slot);

        if (!slot_in_use(s) || !(s->flags & SLOT_SERVED)) {
            continue;
        }
        pidfd = open_pid(s->pid);
        if (pidfd >= 0 && (host_process_stat(s->pid, &st) ||
                           st.start_ticks != get64(&s->start_ticks))) {
            close(pidfd);
            pidfd = -1;
        }
        start_watch(d, slot, pidfd);
        nr++;
    }
    log_line(LOG_NOTE, "event=found participants=%u", nr);
}
