/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Slots: reading and replacing what a participant holds.
 *
 * Invariants:
 *  - of a slot's two copies, (seq & 1) is the valid one.  A new set is
 *    written to the other and made valid by one store to seq;
 *  - a slot is taken and let go by one store to state;
 *  - every value is checked on its way out of the file.
 *
 * Crash story: before the deciding store nothing has happened, after it
 * everything has, except for the totals (see lock.c).
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "internal.h"

struct file_slot *slot_at(const struct ballast_ledger *l, uint32_t nr)
{
    return (struct file_slot *)(void *)(l->slots +
                                        (size_t)nr * l->geo.slot_bytes);
}

/* No slot from here on was ever used. */
uint32_t slots_high(const struct ballast_ledger *l)
{
    uint32_t high = get32(&l->header->slots_high);

#ifdef BALLAST_PLANTED_BOUND
    return high;                /* a control: the fuzzer must notice */
#endif
    return high > l->geo.nr_slots ? l->geo.nr_slots : high;
}

bool slot_in_use(const struct file_slot *s)
{
    uint32_t state = get32(&s->state);

    return state == SLOT_LIVE || state == SLOT_DYING;
}

/*
 * How many bytes the control character takes that a terminal would obey here:
 * one, two for U+0080 to U+009F, 0 if it is none.
 */
size_t slot_control_bytes(const char *text)
{
    const unsigned char *s = (const unsigned char *)text;

    if (*s < ' ' || *s == 0x7f) {
        return 1;
    }
    return *s == 0xc2 && (s[1] & 0xe0) == 0x80 ? 2 : 0;
}

void slot_name(const struct file_slot *s, char name[BALLAST_NAME_BYTES])
{
    uint64_t word;
    size_t i;

    for (i = 0; i < BALLAST_NAME_BYTES / 8; i++) {
        word = get64(&s->name[i]);
        memcpy(name + i * 8, &word, 8);
    }
    name[BALLAST_NAME_BYTES - 1] = '\0';
    for (i = 0; name[i]; i++) {
        memset(name + i, '?', slot_control_bytes(name + i));
    }
}

static uint64_t *slot_copy(const struct ballast_ledger *l,
                           const struct file_slot *s, uint32_t seq)
{
    const uint64_t *copy;

    copy = s->cells + (size_t)(seq & 1) * NR_COLUMNS * l->geo.nr_cells;
    return (uint64_t *)(uintptr_t)copy;
}

static void view_sanitise(const struct geometry *geo, struct view *v)
{
    uint32_t any = geo->nr_nodes * geo->nr_classes;
    uint32_t i;

    for (i = 0; i < geo->nr_cells; i++) {
        if (i >= any) {
            v->col[COL_RESIDENT][i] = 0;
        }
        if (v->col[COL_FREEABLE][i] > v->col[COL_RESIDENT][i]) {
            v->col[COL_FREEABLE][i] = v->col[COL_RESIDENT][i];
        }
    }
}

/*
 * Without the mutex too: the writer touches our copy only after it has
 * published the other one, so an unchanged seq means that we read one set.
 */
void slot_view(const struct ballast_ledger *l, const struct file_slot *s,
               struct view *v)
{
    uint32_t nr = l->geo.nr_cells;
    uint32_t seq, col, i;
    const uint64_t *copy;

    do {
        seq = get32(&s->seq);
        copy = slot_copy(l, s, seq);
        for (col = 0; col < NR_COLUMNS; col++) {
            for (i = 0; i < nr; i++) {
                v->col[col][i] = clamp_bytes(get64(&copy[col * nr + i]));
            }
        }
        __atomic_thread_fence(__ATOMIC_ACQUIRE);
#ifdef BALLAST_PLANTED_SEQ
        break;                  /* a control: whatever was read */
#endif
    } while (seq != get32(&s->seq));
    view_sanitise(&l->geo, v);
    view_redeem(&l->geo, v);
}

void slot_publish(struct ballast_ledger *l, struct file_slot *s,
                  const struct view *v)
{
    uint32_t nr = l->geo.nr_cells;
#ifdef BALLAST_PLANTED_COPY
    uint32_t seq = s->seq + 2;  /* a control: over the valid copy */
#else
    uint32_t seq = s->seq + 1;
#endif
    uint64_t *copy = slot_copy(l, s, seq);
    uint32_t col, i;

    for (col = 0; col < NR_COLUMNS; col++) {
        for (i = 0; i < nr; i++) {
            put64(&copy[col * nr + i], v->col[col][i]);
        }
    }
    publish32(&s->seq, seq);
}

/*
 * A start time of zero means "not known, go by the pid alone", which can only
 * delay the slot's end: so an identity that is half written is safe.
 */
void slot_write_identity(struct file_slot *s, const struct identity *who)
{
    publish64(&s->start_ticks, 0);
    put32((uint32_t *)&s->pid, (uint32_t)who->pid);
    put32(&s->uid, who->uid);
    put64(&s->pidns_inode, who->pidns_inode);
    publish64(&s->start_ticks, who->start_ticks);
}

/*
 * With the mutex held: a free slot becomes somebody's, by the store to state.
 * Totals are the caller's, unless @v is empty.
 */
void slot_take(struct ballast_ledger *l, struct file_slot *s,
               const struct birth *b, const struct view *v)
{
    char name[BALLAST_NAME_BYTES] = "";

    memcpy(name, b->name, strnlen(b->name, sizeof(name) - 1));
    put64(&l->header->next_serial, get64(&l->header->next_serial) + 1);
    put64(&s->serial, get64(&l->header->next_serial));
    /* Who sees any of what follows without the mutex sees the serial, too. */
    __atomic_thread_fence(__ATOMIC_RELEASE);
    put64(&s->max_bytes, b->max_bytes);
    put32(&s->flags, b->flags);
    put64(&s->dying_since_ns, 0);
    put64(&s->wait_ticket, 0);
    put_words(s->cookie, b->cookie, sizeof(s->cookie));
    put_words(s->name, name, sizeof(name));
    slot_write_identity(s, &b->who);
    slot_publish(l, s, v);
    publish32(&s->state, SLOT_LIVE);
}

/* With the mutex held. */
void slot_free(struct ballast_ledger *l, struct file_slot *s)
{
    struct view from, none;

    queue_forget(l, s);
    slot_view(l, s, &from);
    view_zero(&l->geo, &none);
    publish32(&s->state, SLOT_FREE);
    totals_move(l, &from, &none);
}

int slot_lock_byte(int fd, uint32_t nr, short type)
{
    struct flock lock = {
        .l_type = type,
        .l_whence = SEEK_SET,
        .l_start = LOCK_SLOT_OFFSET + nr,
        .l_len = 1,
    };

    return fcntl(fd, F_OFD_SETLK, &lock) ? -errno : 0;
}

/* Nobody but this descriptor has it. */
bool slot_lock_is_free(int fd, uint32_t nr)
{
    struct flock lock = {
        .l_type = F_WRLCK,
        .l_whence = SEEK_SET,
        .l_start = LOCK_SLOT_OFFSET + nr,
        .l_len = 1,
    };

    return fcntl(fd, F_OFD_GETLK, &lock) == 0 && lock.l_type == F_UNLCK;
}

static bool slot_try(struct ballast_ledger *l, bool lock, uint32_t nr)
{
    if (get32(&slot_at(l, nr)->state) != SLOT_FREE) {
        return false;
    }
    if (lock) {
        return slot_lock_byte(l->fd, nr, F_WRLCK) == 0;
    }
    return slot_lock_is_free(l->fd, nr);
}

/* With the mutex held.  A forked child may keep the lock of a slot we left. */
int slot_find_free(struct ballast_ledger *l, bool lock, uint32_t *nr)
{
    uint32_t high = slots_high(l);
    uint32_t i;

    for (i = 0; i < l->geo.nr_slots; i++) {
        if (!slot_try(l, lock, i)) {
            continue;
        }
        if (i >= high) {
            put32(&l->header->slots_high, i + 1);
        }
        *nr = i;
        return 0;
    }
    return -ENOSPC;
}

/* Living participants only: one may start again while its past is dying. */
struct file_slot *slot_find_name(struct ballast_ledger *l, const char *name,
                                 uint32_t except)
{
    uint32_t high = slots_high(l);
    char other[BALLAST_NAME_BYTES];
    uint32_t nr;

    for (nr = 0; nr < high; nr++) {
        struct file_slot *s = slot_at(l, nr);

        if (nr == except || get32(&s->state) != SLOT_LIVE) {
            continue;
        }
        slot_name(s, other);
        if (strcmp(name, other) == 0) {
            return s;
        }
    }
    return NULL;
}

/* With the mutex held: the caller's own slot, if it still is. */
struct file_slot *slot_own(struct ballast_ledger *l, int *err,
                           struct ballast_refusal *why)
{
    struct file_slot *s;

    if (l->slot == SLOT_NONE) {
        *err = refuse(why, BALLAST_NOT_JOINED);
        return NULL;
    }
    s = slot_at(l, l->slot);
    if (s->serial != l->serial || !slot_in_use(s)) {
        *err = refuse(why, BALLAST_DYING);
        return NULL;
    }
    return s;
}

static size_t utf8_length(const unsigned char *s)
{
    size_t more = *s < 0x80 ? 0 : *s < 0xc2 ? 4 : *s < 0xe0 ? 1 :
                  *s < 0xf0 ? 2 : *s < 0xf5 ? 3 : 4;
    size_t i;

    if (more == 4 || (s[0] == 0xe0 && s[1] < 0xa0) ||
        (s[0] == 0xed && s[1] > 0x9f) || (s[0] == 0xf0 && s[1] < 0x90) ||
        (s[0] == 0xf4 && s[1] > 0x8f)) {
        return 0;
    }
    for (i = 1; i <= more; i++) {
        if ((s[i] & 0xc0) != 0x80) {
            return 0;
        }
    }
    return more + 1;
}

int slot_check_name(const char *name, struct ballast_refusal *why)
{
    const unsigned char *s = (const unsigned char *)name;
    size_t step;

    if (!*name || strnlen(name, BALLAST_NAME_BYTES) == BALLAST_NAME_BYTES) {
        return refuse_detail(why, BALLAST_BAD_NAME, "1 to %d bytes are allowed",
                             BALLAST_NAME_BYTES - 1);
    }
    for (; *s; s += step) {
        step = utf8_length(s);
        if (!step || slot_control_bytes((const char *)s)) {
            return refuse_detail(why, BALLAST_BAD_NAME, "UTF-8 without "
                                 "control characters is allowed");
        }
    }
    return 0;
}
