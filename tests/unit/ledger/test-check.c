/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Every byte of a ledger file, changed one at a time: check finds it, or the
 * byte is one of those that carry no meaning by themselves; a repair leaves
 * nothing to be found, sums are right again, and nothing crashes.
 */
#include <fcntl.h>

#include "helper.h"

static struct ballast_refusal why;
static char last_finding[512];
static int nr_damage;
static const char *const kinds[] = {
    "found", "silent, by the list", "SILENT",
};

static void note_finding(void *opaque, enum ballast_severity severity,
                         const char *text)
{
    (void)opaque;
    if (severity == BALLAST_DAMAGE) {
        nr_damage++;
        snprintf(last_finding, sizeof(last_finding), "%s", text);
    }
}

static bool in_range(size_t at, size_t from, size_t bytes)
{
    return at >= from && at < from + bytes;
}

#define IN_FIELD(at, type, field) \
    in_range((at), offsetof(struct type, field), \
             sizeof(((struct type *)0)->field))

/*
 * Counters that only grow or only have to differ, and what the owner of the
 * mutex writes when it takes it.
 */
static bool header_is_silent(size_t at)
{
    return IN_FIELD(at, file_header, epoch) ||
           IN_FIELD(at, file_header, next_serial) ||
           IN_FIELD(at, file_header, returned_seq) ||
           IN_FIELD(at, file_header, next_ticket) ||
           IN_FIELD(at, file_header, slots_high) ||
           (IN_FIELD(at, file_header, mutex_room) &&
            /* its last byte says that the owner died: the next one repairs */
            !in_range(at, offsetof(struct file_header, mutex), 3) &&
            !in_range(at, offsetof(struct file_header, mutex) + 16, 4));
}

static bool used_slot_is_silent(const struct geometry *geo,
                                const struct file_slot *s, size_t at)
{
    size_t copy = NR_COLUMNS * geo->nr_cells * sizeof(uint64_t);
    size_t cells = offsetof(struct file_slot, cells);
    bool waits = s->wait_ticket != 0;
    const uint64_t *one = s->cells, *other = one + copy / sizeof(*one);
    bool alike = memcmp(one, other, copy) == 0;

    if (IN_FIELD(at, file_slot, name)) {
        return true;    /* another good name; a bad one is found, see below */
    }
    if (at == offsetof(struct file_slot, state)) {
        return alike && s->flags == SLOT_SERVED;    /* free, and was empty */
    }
    return (at == offsetof(struct file_slot, seq) && alike) ||
           IN_FIELD(at, file_slot, pid) || IN_FIELD(at, file_slot, uid) ||
           IN_FIELD(at, file_slot, start_ticks) ||
           IN_FIELD(at, file_slot, pidns_inode) ||
           IN_FIELD(at, file_slot, max_bytes) ||
           in_range(at, offsetof(struct file_slot, seq) + 1, 3) ||
           IN_FIELD(at, file_slot, wait_deadline_ns) ||
           /* left behind by whoever died just before it called this dying */
           IN_FIELD(at, file_slot, dying_since_ns) ||
           (IN_FIELD(at, file_slot, wait_seen_ns)) ||
           (IN_FIELD(at, file_slot, wait_since_ns)) ||
           (IN_FIELD(at, file_slot, cookie) && (s->flags & SLOT_SERVED)) ||
           in_range(at, cells + (s->seq & 1 ? 0 : copy), copy) ||
           (in_range(at, cells + 2 * copy, copy / NR_COLUMNS) && !waits) ||
           /* another amount of whole pages */
           (in_range(at, cells + 2 * copy, copy / NR_COLUMNS) &&
            in_range(at % 8, 1, 6));
}

static bool slot_is_silent(const struct geometry *geo,
                           const struct file_slot *s, size_t at)
{
    size_t end = offsetof(struct file_slot, cells) +
                 (2 * NR_COLUMNS + 1) * geo->nr_cells * sizeof(uint64_t);

    if (s->state != SLOT_FREE) {
        return used_slot_is_silent(geo, s, at);
    }
    return !IN_FIELD(at, file_slot, state) &&
           !IN_FIELD(at, file_slot, zero0) &&
           !IN_FIELD(at, file_slot, zero1) && at < end;
}

static bool is_silent(const struct ballast_ledger *l, const uint8_t *whole,
                      size_t at)
{
    const struct geometry *geo = &l->geo;
    size_t in;

    if (at < FILE_HEADER_BYTES) {
        return header_is_silent(at);
    }
    if (at < geo->totals_offset) {
        return false;
    }
    if (at < geo->slots_offset) {
        in = (at - geo->totals_offset) % sizeof(struct total_cell);
        return at < geo->totals_offset + geo->nr_cells *
               sizeof(struct total_cell) &&
               IN_FIELD(in, total_cell, drawn_bytes);
    }
    in = (at - geo->slots_offset) % geo->slot_bytes;
    return slot_is_silent(geo, (const struct file_slot *)(const void *)
                          (whole + at - in), in);
}

/* One of each kind: running, waiting, standing, bound, served, dying. */
static struct ballast_ledger *cast[4];

static struct ballast_ledger *populate(void)
{
    const struct ballast_demand s = { .node = 1, .bytes = MIB(512) };
    const struct ballast_usage u[] = {
        { .node = 0, .resident_bytes = MIB(100), .freeable_bytes = MIB(50) },
        { .node = 1, .page_bytes = MIB(2), .resident_bytes = MIB(4) },
    };
    const struct ballast_demand set[] = {
        { .node = 0, .bytes = GIB(1) }, { .node = ANY, .bytes = MIB(8) },
        { .node = 1, .page_bytes = MIB(2), .bytes = MIB(64) },
    };
    struct birth b = { .name = "served", .flags = SLOT_SERVED,
                       .cookie = { 0x1234567812345678, 0x9abcdef09abcdef0 } };
    struct ballast_config config;
    const char *path = temp_path("check");
    struct view v;
    uint32_t nr;

    config_static(&config, 2, GIB(2));
    config.nr_slots = 7;
    unlink(path);
    if (ballast_ledger_create(path, &config, 0, NULL)) {
        abort();
    }
    cast[0] = must_join(path, "running");
    cast[1] = must_join(path, "waiting");
    cast[2] = must_join(path, "dying");
    cast[3] = must_open(path);
    ballast_claim(cast[0], set, 3, NULL);
    ballast_report(cast[0], u, 2);
    ballast_stand(cast[3], "standing", &s, 1, 0, NULL);
    ballast_stand(cast[3], "bound", &s, 1, getpid(), NULL);
    CLAIM1(cast[2], 0, MIB(4), NULL);
    ledger_lock(cast[3]);
    identity_self(&b.who);
    view_zero(&cast[3]->geo, &v);
    slot_find_free(cast[3], false, &nr);
    slot_take(cast[3], slot_at(cast[3], nr), &b, &v);
    slot_at(cast[2], cast[2]->slot)->state = SLOT_DYING;
    slot_at(cast[2], cast[2]->slot)->dying_since_ns = host_now_ns();
    ledger_unlock(cast[3]);
    slot_lock_byte(cast[2]->fd, cast[2]->slot, F_UNLCK);
    ballast_queue(cast[1], &(struct ballast_demand){ .node = 0,
                  .bytes = GIB(2) }, 1, BALLAST_WAIT_FOREVER, &why);
    return cast[3];
}

static bool is_unrepairable(size_t at)
{
    return IN_FIELD(at, file_header, retired) ||
           in_range(at, offsetof(struct file_header, mutex), 4);
}

/* 0 found, 1 silent as documented, 2 silent; -1 broken. */
static int change_one(struct ballast_ledger *l, const uint8_t *whole, size_t at,
                      uint8_t bits)
{
    uint8_t *base = (uint8_t *)l->header;
    int bad, again, verdict;
    bool sums;

    base[at] ^= bits;
    last_finding[0] = '\0';
    bad = ballast_check(l, BALLAST_CHECK_REPAIR, note_finding, NULL);
    nr_damage = 0;
    again = ballast_check(l, 0, note_finding, NULL);
    /* More may be promised now than there is: a warning, no contradiction. */
    again = again < 0 ? again : nr_damage;
    sums = again < 0 || identity_holds(l);
    verdict = bad ? 0 : is_silent(l, whole, at) ? 1 : 2;
    if (!bad && bits == 0xff && at >= l->geo.slots_offset &&
        IN_FIELD((at - l->geo.slots_offset) % l->geo.slot_bytes, file_slot,
                 name) && slot_at(l, (uint32_t)((at - l->geo.slots_offset) /
                                  l->geo.slot_bytes))->state) {
        verdict = 2;    /* no name has such bytes */
    }
    if ((again && !is_unrepairable(at)) || !sums) {
        printf("# byte %zu ^ %02x: %d findings, then %d (%s), sums %s\n", at,
               bits, bad, again, last_finding, sums ? "right" : "WRONG");
        verdict = -1;
    }
    memcpy(base, whole, l->geo.file_bytes);
    return verdict;
}

static void test_every_byte(uint8_t bits)
{
    struct ballast_ledger *l = populate();
    size_t bytes = l->geo.file_bytes, at, counts[3] = { 0 }, broken = 0;
    uint8_t *whole = malloc(bytes);
    int kind;

    OK(ballast_check(l, 0, note_finding, NULL) == 0, "clean before (%s)",
       last_finding);
    memcpy(whole, l->header, bytes);
    for (at = 0; at < bytes; at++) {
        bool room = (in_range(at, sizeof(struct file_header),
                              FILE_HEADER_BYTES - sizeof(struct file_header)) ||
                     in_range(at, l->geo.totals_offset + l->geo.nr_cells *
                              sizeof(struct total_cell), 4096)) &&
                    at < l->geo.slots_offset;

        if (room && at % 64) {
            continue;   /* zeros that are looked at in a loop */
        }
        if (bits == 0x01 && at < offsetof(struct file_header, boot_id)) {
            continue;   /* compared with a copy: one change tells as much */
        }
        kind = change_one(l, whole, at, bits);
        if (kind < 0) {
            broken++;
        } else {
            counts[kind]++;
        }
        if (kind == 2) {
            printf("# byte %zu ^ %02x is not found\n", at, bits);
        }
    }
    OK(!broken && !counts[2] && counts[0] > 500, "each byte ^ %02x: %zu %s, "
       "%zu %s, %zu %s", bits, counts[0], kinds[0], counts[1], kinds[1],
       counts[2], kinds[2]);
    OK(identity_holds(l) && ballast_check(l, 0, NULL, NULL) == 0,
       "clean afterwards");
    free(whole);
    for (at = 0; at < 4; at++) {
        ballast_ledger_close(cast[at]);
    }
}

/* Without --repair nothing is written. */
static void test_only_looks(void)
{
    struct ballast_ledger *l = populate();
    size_t i;

    l->totals[0].claimed_bytes += 4096;
    slot_at(l, 0)->flags |= 64;
    OK(ballast_check(l, 0, note_finding, NULL) == 2, "two findings");
    OK(ballast_check(l, 0, note_finding, NULL) == 2 &&
       l->totals[0].claimed_bytes % MIB(1) == 4096, "and again: nothing is "
       "changed by looking (%s)", last_finding);
    OK(ballast_check(l, BALLAST_CHECK_REPAIR, note_finding, NULL) >= 2 &&
       ballast_check(l, 0, NULL, NULL) == 0, "until it is repaired (%s)",
       last_finding);
    for (i = 0; i < 4; i++) {
        ballast_ledger_close(cast[i]);
    }
}

/* Amounts in a row, names alike: what one byte cannot do. */
static void test_more(void)
{
    struct ballast_ledger *l = populate();
    struct file_slot *a = slot_at(l, 0), *b = slot_at(l, 1);
    uint32_t i;

    memcpy(b->name, a->name, sizeof(a->name));
    b->serial = a->serial;
    OK(ballast_check(l, BALLAST_CHECK_REPAIR, note_finding, NULL) == 2 &&
       ballast_check(l, 0, NULL, NULL) == 0 &&
       memcmp(a->name, b->name, sizeof(a->name)) && a->serial != b->serial,
       "two of one name and number (%s)", last_finding);
    for (i = 0; i < 7; i++) {
        memset(slot_at(l, i), 0xa5, l->geo.slot_bytes);
    }
    OK(ballast_check(l, BALLAST_CHECK_REPAIR, note_finding, NULL) > 7 &&
       ballast_check(l, 0, note_finding, NULL) == 0 && identity_holds(l),
       "noise in all slots (%s)", last_finding);
    for (i = 0; i < 4; i++) {
        ballast_ledger_close(cast[i]);
    }
}

/*
 * Its owner died, and whoever had it next could not make it consistent.  All
 * are told so, not that somebody holds it: nobody does.
 */
static void test_given_up(void)
{
    struct ballast_ledger *l = populate();
    pthread_mutex_t *mutex = &l->header->mutex;
    struct ballast_refusal told[2];
    pid_t owner = fork();
    int i;

    if (owner == 0) {
        _exit(pthread_mutex_lock(mutex));
    }
    waitpid(owner, NULL, 0);
    OK(pthread_mutex_lock(mutex) == EOWNERDEAD &&
       pthread_mutex_unlock(mutex) == 0, "a lock is given up for good");
    for (i = 0; i < 2; i++) {
        OK(ledger_lock_why(l, &told[i]) == -ENOTRECOVERABLE &&
           told[i].err == -ENOTRECOVERABLE, "told, time %d: %s", i + 1,
           told[i].detail);
    }
    OK(ballast_check(l, BALLAST_CHECK_REPAIR, note_finding, NULL) == 1 &&
       ballast_check(l, 0, NULL, NULL) == 0 && ledger_lock(l) == 0,
       "until it is repaired (%s)", last_finding);
    ledger_unlock(l);
    for (i = 0; i < 4; i++) {
        ballast_ledger_close(cast[i]);
    }
}

int main(void)
{
    ballast_sysfs_root = "/nowhere";
    alarm(100);
    test_only_looks();
    test_more();
    test_given_up();
    test_every_byte(0xff);
    test_every_byte(0x01);
    return tap_done();
}
