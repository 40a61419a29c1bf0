/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Joining, leaving, and handing a claim on across exec.
 *
 * Invariant: a live slot's byte lock was taken before the slot became live,
 * and is let go after it is free.
 *
 * Crash story: before the store to state there is no participant; after it
 * there is one, whose lock the kernel drops.  While an adopter writes itself
 * into the slot, its start time is zero (see slot_write_identity()).
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "internal.h"

static int join_locked(struct ballast_ledger *l, const char *name,
                       uint64_t max_bytes, const struct identity *who,
                       struct ballast_refusal *why)
{
    struct birth b = { .name = name, .max_bytes = max_bytes, .who = *who };
    struct file_slot *s;
    struct view none;
    uint32_t nr;

    if (l->unlinked) {
        return refuse_stale(why, "its file was removed");
    }
    if (l->slot != SLOT_NONE) {
        return refuse_system(why, -EALREADY, "this handle has joined");
    }
    if (slot_find_name(l, name, SLOT_NONE)) {
        return refuse(why, BALLAST_NAME_IN_USE);
    }
    if (slot_find_free(l, true, &nr)) {
        return refuse(why, BALLAST_NO_SLOT);
    }
    s = slot_at(l, nr);
    view_zero(&l->geo, &none);
    slot_take(l, s, &b, &none);
    l->slot = nr;
    l->serial = get64(&s->serial);
    l->joined_pid = (pid_t)who->pid;
    l->bequeathed = false;
    return 0;
}

int ballast_join(struct ballast_ledger *ledger, const char *name,
                 uint64_t max_bytes, struct ballast_refusal *why)
{
    char by_pid[32];
    struct identity who;
    int err;

    if (ledger->remote) {
        return remote_join(ledger, name, max_bytes, why);
    }
    why_init(why);
    identity_self(&who);
    if (!name) {
        snprintf(by_pid, sizeof(by_pid), "pid-%" PRId32, who.pid);
        name = by_pid;
    }
    err = slot_check_name(name, why);
    if (err) {
        return err;
    }
    ballast_sweep(ledger);
    ledger->looked_ns = 0;
    guard_unlinked(ledger);
    err = ledger_lock_why(ledger, why);
    if (err) {
        return err;
    }
    err = join_locked(ledger, name, max_bytes, &who, why);
    ledger_unlock(ledger);
    return ledger_verdict(ledger, err, why);
}

/* A forked child that closes its copy of a handle must not end its parent. */
void ballast_leave(struct ballast_ledger *ledger)
{
    uint32_t nr = ledger->slot;
    struct file_slot *s;
    int err;

    if (ledger->remote) {
        remote_leave(ledger);
        return;
    }
    if (nr == SLOT_NONE || ledger->joined_pid != getpid()) {
        ledger->slot = SLOT_NONE;
        return;
    }
    if (ledger_lock(ledger) == 0) {
        s = slot_own(ledger, &err, NULL);
        if (s) {
            slot_free(ledger, s);
        }
        ledger->slot = SLOT_NONE;
        ledger_unlock(ledger);
    }
    ledger->slot = SLOT_NONE;
    if (ledger->bequeathed) {
        fcntl(ledger->fd, F_SETFD, FD_CLOEXEC);
        ledger->bequeathed = false;
    }
    slot_lock_byte(ledger->fd, nr, F_UNLCK);
}

int ballast_bequeath(struct ballast_ledger *ledger, char *buf, size_t len)
{
    int n;

    if (ledger->remote) {
        return remote_bequeath(ledger, buf, len);
    }
    if (ledger->slot == SLOT_NONE) {
        return -ENOTCONN;
    }
    n = snprintf(buf, len, "fd=%d,slot=%" PRIu32 ",serial=%" PRIu64,
                 ledger->fd, ledger->slot, ledger->serial);
    if (n < 0 || (size_t)n >= len) {
        return -ENOSPC;
    }
    if (fcntl(ledger->fd, F_SETFD, 0)) {
        return -errno;
    }
    ledger->bequeathed = true;
    return 0;
}

struct bequest {
    int fd;
    uint32_t slot;
    uint64_t serial;
};

static bool parse_field(const char **s, const char *key, uint64_t max,
                        uint64_t *value)
{
    size_t len = strlen(key);

    if (strncmp(*s, key, len) != 0 || (*s)[len] < '0' || (*s)[len] > '9') {
        return false;
    }
    *s += len;
    for (*value = 0; **s >= '0' && **s <= '9'; (*s)++) {
        uint64_t digit = (uint64_t)(**s - '0');

        if (*value > (max - digit) / 10) {
            return false;
        }
        *value = *value * 10 + digit;
    }
    return true;
}

static int parse_bequest(const char *text, struct bequest *b,
                         struct ballast_refusal *why)
{
    uint64_t fd, slot;
    const char *s = text;

    if (!parse_field(&s, "fd=", INT32_MAX, &fd) ||
        !parse_field(&s, ",slot=", SLOTS_MAX - 1, &slot) ||
        !parse_field(&s, ",serial=", UINT64_MAX, &b->serial) || *s) {
        return refuse_system(why, -EINVAL, BALLAST_ENV_CLAIM
                             " is not of the form fd=N,slot=N,serial=N");
    }
    b->fd = (int)fd;
    b->slot = (uint32_t)slot;
    return 0;
}

static int adopt_locked(struct ballast_ledger *l, const struct bequest *b,
                        const struct identity *who,
                        struct ballast_refusal *why)
{
    struct file_slot *s = slot_at(l, b->slot);

    if (get64(&s->serial) != b->serial || (s->flags & SLOT_FLAGS) ||
        get32(&s->state) != SLOT_LIVE) {
        return refuse(why, BALLAST_DYING);
    }
    if (slot_lock_byte(l->fd, b->slot, F_WRLCK)) {
        return refuse_system(why, -EBADF, "descriptor %d does not hold the "
                             "inherited claim", b->fd);
    }
    slot_write_identity(s, who);
    l->slot = b->slot;
    l->serial = b->serial;
    l->joined_pid = (pid_t)who->pid;
    return 0;
}

/* The descriptor is the handle from here on; on failure it is left alone. */
static int adopt_mapped(struct ballast_ledger *l, const struct bequest *b,
                        struct ballast_refusal *why)
{
    struct identity who;
    int err;

    if (b->slot >= l->geo.nr_slots) {
        return refuse_system(why, -EINVAL, BALLAST_ENV_CLAIM
                             ": this ledger has no slot %" PRIu32, b->slot);
    }
    identity_self(&who);
    err = ledger_lock_why(l, why);
    if (err) {
        return err;
    }
    err = adopt_locked(l, b, &who, why);
    ledger_unlock(l);
    return ledger_verdict(l, err, why);
}

int ballast_adopt(const char *claim, struct ballast_ledger **out,
                  struct ballast_refusal *why)
{
    struct bequest b = { .fd = -1 };
    struct ballast_ledger *l;
    int err;

    if (remote_is_bequest(claim)) {
        return remote_adopt(claim, out, why);
    }
    why_init(why);
    err = parse_bequest(claim, &b, why);
    if (err) {
        return err;
    }
    if (fcntl(b.fd, F_GETFD) < 0) {
        return refuse_system(why, -EBADF, "descriptor %d of the inherited "
                             "claim is not open", b.fd);
    }
    err = file_map(b.fd, &l, why);
    if (err) {
        return err;
    }
    err = adopt_mapped(l, &b, why);
    if (!err) {
        fcntl(b.fd, F_SETFD, FD_CLOEXEC);
        *out = l;
    } else {
        file_unmap(l);
    }
    return err;
}

int ballast_slot(struct ballast_ledger *ledger, uint32_t *slot,
                 uint64_t *serial)
{
    if (ledger->slot == SLOT_NONE) {
        return -ENOTCONN;
    }
    *slot = ledger->slot;
    *serial = ledger->serial;
    return 0;
}
