/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The slots' part of ballast_check(): see check.c.
 *
 * What cannot be checked: who a process is (whoever holds a slot's lock need
 * not be the process that is named there: it may be its child), a name that
 * could be one, and what a free slot held before.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "check.h"

/* A serial that is further off than that was never given to anybody. */
#define SERIALS_AHEAD (UINT64_C(1) << 32)
/* Nobody counts that far; what has begins at 0 again, which means none. */
#define COUNT_END (UINT64_C(1) << 63)

/* Things that only one slot may have, by what was seen so far. */
static bool serial_is_taken(const struct ballast_ledger *l, uint32_t nr,
                            uint64_t serial)
{
    uint32_t i;

    for (i = 0; i < nr; i++) {
        const struct file_slot *s = slot_at(l, i);

        if (slot_in_use(s) && get64(&s->serial) == serial) {
            return true;
        }
    }
    return false;
}

static bool ticket_is_taken(const struct ballast_ledger *l, uint32_t nr)
{
    uint64_t ticket = get64(&slot_at(l, nr)->wait_ticket);
    uint32_t i;

    for (i = 0; i < nr; i++) {
        if (queue_waits(slot_at(l, i)) &&
            get64(&slot_at(l, i)->wait_ticket) == ticket) {
            return true;
        }
    }
    return false;
}

static bool name_is_taken(const struct ballast_ledger *l, uint32_t nr)
{
    const struct file_slot *s = slot_at(l, nr);
    uint32_t i;

    for (i = 0; i < nr; i++) {
        const struct file_slot *o = slot_at(l, i);

        if (get32(&o->state) == SLOT_LIVE &&
            memcmp(o->name, s->name, sizeof(s->name)) == 0) {
            return true;
        }
    }
    return false;
}

static bool has_lock(const struct ballast_ledger *l, uint32_t nr)
{
    return nr == l->slot || !slot_lock_is_free(l->fd, nr);
}

/* Only if it was ever taken, and by somebody. */
static bool was_somebodys(const struct ballast_ledger *l, uint32_t nr)
{
    const struct file_slot *s = slot_at(l, nr);

    return get64(&s->serial) && get64(&s->name[0]) &&
           get64(&s->serial) <= get64(&l->header->next_serial);
}

static void check_state(struct checker *c, uint32_t nr)
{
    struct ballast_ledger *l = c->l;
    struct file_slot *s = slot_at(l, nr);
    uint32_t state = get32(&s->state);

    if (state > SLOT_DYING) {
        fix32(c, &s->state, was_somebodys(l, nr) ? SLOT_LIVE : SLOT_FREE,
              "slot %" PRIu32 ", state", nr);
    } else if (state != SLOT_FREE && !was_somebodys(l, nr) &&
               !get64(&s->name[0]) && !get64(&s->serial)) {
        fix32(c, &s->state, SLOT_FREE, "slot %" PRIu32 " is nobody's, state",
              nr);
    }
}

/* After the flags, which say how an owner lives. */
static void check_given_up(struct checker *c, uint32_t nr)
{
    struct file_slot *s = slot_at(c->l, nr);
    uint32_t flags = get32(&s->flags) & SLOT_FLAGS;

    if (get32(&s->state) == SLOT_DYING &&
        (flags & (SLOT_STANDING | SLOT_SERVED) ? flags == SLOT_STANDING :
         has_lock(c->l, nr))) {
        fix32(c, &s->state, SLOT_LIVE, "slot %" PRIu32 ", given up though its "
              "owner lives, state", nr);
    }
}

/*
 * The lock tells a participant from the rest; without one, a pid of zero is a
 * standing claim's, and a cookie the daemon's.
 */
static uint32_t right_flags(const struct ballast_ledger *l, uint32_t nr)
{
    const struct file_slot *s = slot_at(l, nr);
    uint32_t flags = get32(&s->flags) & SLOT_FLAGS;
    bool cookie = get64(&s->cookie[0]) || get64(&s->cookie[1]);

    /* A participant, dead or alive: nothing to ask the kernel for. */
    if (!get32(&s->flags) && s->pid > 0 && !cookie) {
        return 0;
    }
    if (has_lock(l, nr)) {
        return 0;
    }
    if (cookie) {
        return SLOT_SERVED;
    }
    if (s->pid <= 0) {
        return SLOT_STANDING;
    }
    if (flags & SLOT_STANDING) {
        return SLOT_STANDING | SLOT_PID_BOUND;
    }
    /* No lock, no cookie: a participant that just died. */
    return flags & SLOT_PID_BOUND ? SLOT_STANDING | SLOT_PID_BOUND : 0;
}

static void check_flags(struct checker *c, uint32_t nr)
{
    struct file_slot *s = slot_at(c->l, nr);
    uint32_t i;

    fix32(c, &s->flags, right_flags(c->l, nr), "slot %" PRIu32 ", flags", nr);
    if (!(right_flags(c->l, nr) & SLOT_SERVED)) {
        for (i = 0; i < 2; i++) {
            fix64(c, &s->cookie[i], 0, "slot %" PRIu32 ", cookie of a slot "
                  "that is not the daemon's", nr);
        }
    }
}

static void check_name(struct checker *c, uint32_t nr)
{
    struct file_slot *s = slot_at(c->l, nr);
    char name[BALLAST_NAME_BYTES], fresh[BALLAST_NAME_BYTES] = "";
    const char *what = NULL;
    size_t len, i;

    memcpy(name, s->name, sizeof(name));
    len = strnlen(name, sizeof(name));
    if (len == sizeof(name) || slot_check_name(name, NULL)) {
        what = "is not allowed";
    } else if (get32(&s->state) == SLOT_LIVE && name_is_taken(c->l, nr)) {
        what = "is another's too";
    }
    for (i = len; !what && i < sizeof(name); i++) {
        what = name[i] ? "goes on behind its end" : NULL;
    }
    if (what) {
        snprintf(fresh, sizeof(fresh), "slot-%" PRIu32 "-%" PRIu64, nr,
                 get64(&s->serial));
        found(c, BALLAST_DAMAGE, "slot %" PRIu32 ", name %s%s%s", nr, what,
              c->repair ? ", is now " : "", c->repair ? fresh : "");
        if (c->repair) {
            put_words(s->name, fresh, sizeof(fresh));
        }
    }
}

/*
 * The next one; at the end of what is counted, one that no slot before this
 * one has.  Each of those is in the way of one of the numbers tried at most.
 */
static uint64_t fresh_serial(const struct ballast_ledger *l, uint32_t nr,
                             uint64_t next)
{
    uint64_t serial = COUNT_END / 2 + nr;

    if (next + 1 < COUNT_END) {
        return next + 1;
    }
    while (serial_is_taken(l, nr, serial)) {
        serial += SLOTS_MAX;
    }
    return serial;
}

static void check_serial(struct checker *c, uint32_t nr)
{
    struct file_header *h = c->l->header;
    struct file_slot *s = slot_at(c->l, nr);
    uint64_t serial = get64(&s->serial), next = get64(&h->next_serial);

    if (serial && serial <= next && !serial_is_taken(c->l, nr, serial)) {
        return;
    }
    if (serial > next && serial - next < SERIALS_AHEAD && serial < COUNT_END &&
        !serial_is_taken(c->l, nr, serial)) {
        fix64(c, &h->next_serial, serial, "last serial number, below slot %"
              PRIu32 "'s", nr);
        return;
    }
    serial = fresh_serial(c->l, nr, next);
    fix64(c, &s->serial, serial, "slot %" PRIu32 ", serial number", nr);
    if (c->repair && serial > next) {
        put64(&h->next_serial, serial);
    }
}

static uint64_t whole_pages(uint64_t bytes, uint64_t page)
{
    bytes = bytes > BALLAST_MAX_BYTES ? BALLAST_MAX_BYTES : bytes;
    return (bytes + page - 1) & ~(page - 1);
}

static void check_amounts(struct checker *c, uint32_t nr)
{
    const struct geometry *geo = &c->l->geo;
    struct file_slot *s = slot_at(c->l, nr);
    uint64_t *claimed = s->cells + (size_t)(get32(&s->seq) & 1) * NR_COLUMNS *
                        geo->nr_cells;
    uint64_t *resident = claimed + geo->nr_cells;
    uint64_t *freeable = resident + geo->nr_cells;
    uint32_t any = geo->nr_nodes * geo->nr_classes, i;
    uint64_t sum = 0, most;

    for (i = 0; i < geo->nr_cells; i++) {
        fix64(c, &claimed[i], whole_pages(get64(&claimed[i]),
              geo->page_bytes[i % geo->nr_classes]),
              "slot %" PRIu32 ", claimed in cell %" PRIu32, nr, i);
        sum += clamp_bytes(get64(&claimed[i]));
        most = i < any ? clamp_bytes(get64(&resident[i])) : 0;
        fix64(c, &resident[i], most, "slot %" PRIu32 ", resident in cell %"
              PRIu32, nr, i);
        if (get64(&freeable[i]) > most) {
            fix64(c, &freeable[i], most, "slot %" PRIu32 ", freeable in cell %"
                  PRIu32, nr, i);
        }
    }
    if (get64(&s->max_bytes) && sum > get64(&s->max_bytes)) {
        fix64(c, &s->max_bytes, sum, "slot %" PRIu32 ", maximum, below what "
              "is claimed", nr);
    }
}

static bool wants_nonsense(const struct ballast_ledger *l,
                           const struct file_slot *s)
{
    const struct geometry *geo = &l->geo;
    const uint64_t *wanted = s->cells + (size_t)2 * NR_COLUMNS * geo->nr_cells;
    uint32_t i;

    for (i = 0; i < geo->nr_cells; i++) {
        if (whole_pages(get64(&wanted[i]),
                        geo->page_bytes[i % geo->nr_classes]) !=
            get64(&wanted[i])) {
            return true;
        }
    }
    return false;
}

static void check_entry(struct checker *c, uint32_t nr)
{
    struct file_slot *s = slot_at(c->l, nr);
    uint64_t now = host_now_ns();

    if (!get64(&s->wait_ticket)) {
        return;
    }
    if (get64(&s->wait_ticket) > get64(&c->l->header->next_ticket) ||
        ticket_is_taken(c->l, nr) || get32(&s->state) != SLOT_LIVE) {
        fix64(c, &s->wait_ticket, 0, "slot %" PRIu32 ", ticket that was never "
              "given to it", nr);
        return;
    }
    if (wants_nonsense(c->l, s)) {
        fix64(c, &s->wait_ticket, 0, "slot %" PRIu32 ", waits for amounts that "
              "cannot be, ticket", nr);
        return;
    }
    if (get64(&s->wait_seen_ns) > now) {
        fix64(c, &s->wait_seen_ns, now, "slot %" PRIu32 ", looked after in the "
              "future", nr);
    }
    if (get64(&s->wait_since_ns) > now) {
        fix64(c, &s->wait_since_ns, now, "slot %" PRIu32 ", waits since the "
              "future", nr);
    }
}

static void check_times(struct checker *c, uint32_t nr)
{
    struct file_slot *s = slot_at(c->l, nr);
    uint64_t now = host_now_ns();

    /* Who dies just before it writes SLOT_DYING leaves a time: no damage. */
    if (get32(&s->state) != SLOT_LIVE && get64(&s->dying_since_ns) > now) {
        fix64(c, &s->dying_since_ns, now, "slot %" PRIu32 ", dying since the "
              "future", nr);
    }
}

static void check_identity(struct checker *c, uint32_t nr)
{
    struct file_slot *s = slot_at(c->l, nr);
    bool standing = (s->flags & SLOT_FLAGS) == SLOT_STANDING;

    if (standing ? s->pid != 0 : s->pid < 0) {
        fix32(c, (uint32_t *)&s->pid, 0, "slot %" PRIu32 ", process", nr);
    }
    if (!standing && !s->pid) {
        found(c, BALLAST_NOTE, "slot %" PRIu32 ", process not known", nr);
    }
    if (get64(&s->pidns_inode) == 0) {
        found(c, BALLAST_NOTE, "slot %" PRIu32 ", pid namespace not known",
              nr);
    }
}

static void check_rooms(struct checker *c, uint32_t nr)
{
    const struct geometry *geo = &c->l->geo;
    struct file_slot *s = slot_at(c->l, nr);
    size_t end = sizeof(*s) + (size_t)(2 * NR_COLUMNS + 1) * geo->nr_cells *
                 sizeof(uint64_t);

    check_zero(c, &s->zero0, sizeof(s->zero0), "slot %" PRIu32 ", unused", nr);
    check_zero(c, s->zero1, sizeof(s->zero1), "slot %" PRIu32 ", unused", nr);
    check_zero(c, (uint8_t *)s + end, geo->slot_bytes - end,
               "slot %" PRIu32 ", behind its cells", nr);
}

static void check_slot(struct checker *c, uint32_t nr)
{
    struct file_slot *s = slot_at(c->l, nr);

    check_rooms(c, nr);
    if (get32(&s->state) == SLOT_FREE) {
        return;
    }
    check_state(c, nr);
    if (!slot_in_use(s)) {
        return;
    }
    check_flags(c, nr);
    check_given_up(c, nr);
    check_identity(c, nr);
    check_serial(c, nr);
    check_name(c, nr);
    check_times(c, nr);
    check_amounts(c, nr);
    check_entry(c, nr);
}

/* Somebody left, or somebody's slot was made free under him. */
static void check_free_locks(struct checker *c, uint32_t from, uint32_t to)
{
    struct flock lock;
    uint32_t nr;

    while (from < to) {
        lock = (struct flock){
            .l_type = F_WRLCK,
            .l_whence = SEEK_SET,
            .l_start = LOCK_SLOT_OFFSET + from,
            .l_len = to - from,
        };
        if (fcntl(c->l->fd, F_OFD_GETLK, &lock) || lock.l_type == F_UNLCK ||
            lock.l_start < LOCK_SLOT_OFFSET + from ||
            lock.l_start >= LOCK_SLOT_OFFSET + to) {
            return;
        }
        nr = (uint32_t)(lock.l_start - LOCK_SLOT_OFFSET);
        found(c, BALLAST_NOTE, "slot %" PRIu32 " is free, but somebody has "
              "its lock: a child of who left, or a participant that was lost",
              nr);
        from = nr + 1;
    }
}

static void check_count(struct checker *c, uint64_t *count,
                        size_t offset_in_slot, const char *what)
{
    uint64_t highest = 0, of_slot;
    uint32_t nr;

    if (get64(count) < COUNT_END) {
        return;
    }
    for (nr = 0; nr < c->l->geo.nr_slots; nr++) {
        of_slot = get64((uint64_t *)(void *)((char *)slot_at(c->l, nr) +
                                             offset_in_slot));
        if (of_slot < COUNT_END && of_slot > highest) {
            highest = of_slot;
        }
    }
    fix64(c, count, highest, "%s", what);
}

void check_slots(struct checker *c)
{
    struct ballast_ledger *l = c->l;
    uint32_t nr, used = 0, from = 0;

    check_count(c, &l->header->next_serial, offsetof(struct file_slot, serial),
                "last serial number, nobody counts that far");
    check_count(c, &l->header->next_ticket,
                offsetof(struct file_slot, wait_ticket),
                "last ticket, nobody counts that far");
    for (nr = 0; nr < l->geo.nr_slots; nr++) {
        check_slot(c, nr);
        if (slot_in_use(slot_at(l, nr))) {
            check_free_locks(c, from, nr);
            from = nr + 1;
            used = nr + 1;
        }
    }
    check_free_locks(c, from, l->geo.nr_slots);
    nr = get32(&l->header->slots_high);
    if (nr > l->geo.nr_slots || nr < used) {
        fix32(c, &l->header->slots_high, used, "number of slots in use");
    }
    if (l->slot != SLOT_NONE && !slot_in_use(slot_at(l, l->slot))) {
        found(c, BALLAST_NOTE, "slot %" PRIu32 ", this process's own, is free",
              l->slot);
    }
}
