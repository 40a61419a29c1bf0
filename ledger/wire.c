/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Checking messages and carrying refusals across.
 *
 * A request is judged by a table that says which fields its operation uses;
 * everything else in it must be zero.  What the values mean (whether a node
 * exists, whether a name is UTF-8) is for the ledger's own calls to judge.
 * Both ends check: the daemon trusts nobody, and a client does not read
 * beyond what it asked for.
 */
#include <errno.h>
#include <string.h>

#include "wire.h"

enum {
    USES_NAME = 1 << 0,
    USES_SERIAL = 1 << 1,
    USES_COOKIE = 1 << 2,
    USES_MAX = 1 << 3,
    USES_TIMEOUT = 1 << 4,
    USES_SLOT = 1 << 5,
    USES_PID = 1 << 6,
    USES_FLAGS = 1 << 7,
    USES_OFFSET = 1 << 8,
};

static const struct {
    uint32_t uses;
    uint32_t entry_bytes;
    bool large;             /* may be */
} ops[WIRE_OPS] = {
    [WIRE_JOIN] = { USES_NAME | USES_COOKIE | USES_MAX, 0, false },
    [WIRE_ATTACH] = { USES_SLOT | USES_SERIAL | USES_COOKIE | USES_FLAGS, 0,
                      false },
    [WIRE_CLAIM] = { 0, sizeof(struct ballast_demand), true },
    [WIRE_REPORT] = { 0, sizeof(struct ballast_usage), true },
    [WIRE_OWN] = { 0, 0, true },
    [WIRE_QUEUE] = { USES_TIMEOUT, sizeof(struct ballast_demand), true },
    [WIRE_POLL] = { USES_TIMEOUT, 0, false },
    [WIRE_STAND] = { USES_NAME | USES_PID, sizeof(struct ballast_demand),
                     true },
    [WIRE_RELEASE] = { USES_NAME, 0, false },
    [WIRE_CELLS] = { USES_OFFSET, 0, true },
    [WIRE_PARTICIPANTS] = { USES_OFFSET, 0, true },
    [WIRE_CHECK] = { USES_FLAGS, 0, false },
    [WIRE_FINDINGS] = { USES_OFFSET, 0, true },
    [WIRE_STAND_QUEUE] = { USES_NAME | USES_PID | USES_TIMEOUT | USES_FLAGS,
                           sizeof(struct ballast_demand), true },
    [WIRE_STAND_POLL] = { USES_NAME | USES_PID | USES_TIMEOUT | USES_SLOT |
                          USES_SERIAL | USES_COOKIE, 0, false },
};

static bool all_zero(const union wire_message *m, size_t from, size_t to)
{
    uint64_t any = 0;
    size_t i;

    for (i = from / 8; i < to / 8; i++) {
        any |= m->words[i];
    }
    return !any;
}

/* A field that is not used is zero. */
static bool fields_fit(const struct wire_request *q, uint32_t uses)
{
    static const char no_name[BALLAST_NAME_BYTES];

    return (uses & USES_NAME || !memcmp(q->name, no_name, sizeof(no_name))) &&
           (uses & USES_SERIAL || !q->serial) &&
           (uses & USES_COOKIE || !(q->cookie[0] | q->cookie[1])) &&
           (uses & USES_MAX || !q->max_bytes) &&
           (uses & USES_TIMEOUT || !q->timeout_ms) &&
           (uses & USES_SLOT || !q->slot) && (uses & USES_PID || !q->pid) &&
           (uses & USES_FLAGS || !q->flags) &&
           (uses & USES_OFFSET || !q->offset) && !q->zero;
}

/* Ends within its field, and nothing is behind its end. */
static bool string_ends(const char *s, size_t room)
{
    size_t len = strnlen(s, room);

    for (; len < room; len++) {
        if (s[len]) {
            return false;
        }
    }
    return s[room - 1] == '\0';
}

static enum wire_fault check_frame(const union wire_message *m, size_t bytes)
{
    if (bytes != WIRE_SMALL_BYTES && bytes != WIRE_LARGE_BYTES) {
        return WIRE_BAD_SIZE;
    }
    if (m->head.magic != WIRE_MAGIC) {
        return WIRE_BAD_MAGIC;
    }
    if (m->head.version != WIRE_VERSION) {
        return WIRE_BAD_VERSION;
    }
    return m->head.bytes == bytes ? WIRE_FINE : WIRE_BAD_SIZE;
}

enum wire_fault wire_check_request(const union wire_message *m, size_t bytes)
{
    const struct wire_request *q = &m->request;
    enum wire_fault fault = check_frame(m, bytes);
    uint32_t op = q->head.op;
    size_t end;

    if (fault) {
        return fault;
    }
    if (op < WIRE_HELLO || op >= WIRE_OPS) {
        return WIRE_BAD_OP;
    }
    if (bytes == WIRE_LARGE_BYTES && !ops[op].large) {
        return WIRE_BAD_SIZE;
    }
#ifndef BALLAST_PLANTED_BOUND   /* a control: the fuzzer must notice */
    if (q->head.nr > (ops[op].entry_bytes ? BALLAST_MAX_DEMANDS : 0)) {
        return WIRE_BAD_COUNT;
    }
#endif
    end = WIRE_ENTRIES_OFFSET + (size_t)q->head.nr * ops[op].entry_bytes;
#ifndef BALLAST_PLANTED_BOUND
    if (end > bytes) {
        return WIRE_BAD_COUNT;
    }
#endif
    if (q->head.err || q->head.value || q->head.zero[0] || q->head.zero[1] ||
        q->head.zero[2] || !fields_fit(q, ops[op].uses) ||
        !all_zero(m, end, bytes)) {
        return WIRE_BAD_PADDING;
    }
    return string_ends(q->name, sizeof(q->name)) ? WIRE_FINE : WIRE_BAD_STRING;
}

int wire_check_reply(const union wire_message *m, size_t bytes,
                     const struct wire_head *request)
{
    enum wire_fault fault = check_frame(m, bytes);

    if (fault == WIRE_BAD_VERSION) {
        return -EPROTONOSUPPORT;
    }
    if (fault || m->head.op != request->op || m->head.err > 0) {
        return -EPROTO;
    }
    return 0;
}

/* The smallest message that holds a request of @nr entries. */
size_t wire_request_bytes(uint32_t op, size_t nr)
{
    return WIRE_ENTRIES_OFFSET + nr * ops[op].entry_bytes <= WIRE_SMALL_BYTES ?
           WIRE_SMALL_BYTES : WIRE_LARGE_BYTES;
}

/* @to is all zero. */
void wire_put_string(char *to, const char *from, size_t room)
{
    memcpy(to, from, strnlen(from, room - 1));
}

/* @w is all zero. */
void wire_put_refusal(struct wire_refusal *w,
                      const struct ballast_refusal *why)
{
    uint32_t i;

    w->reason = why->reason;
    w->node = why->node;
    w->page_bytes = why->page_bytes;
    w->asked_bytes = why->asked_bytes;
    w->available_bytes = why->available_bytes;
    w->missing_bytes = why->missing_bytes;
    w->limit_bytes = why->limit_bytes;
    w->err = why->err;
    w->nr_ahead = why->nr_ahead;
    w->nr_holders = why->nr_holders;
    w->more_holders = why->more_holders;
    for (i = 0; i < why->nr_holders; i++) {
        const struct ballast_holder *h = &why->holders[i];

        wire_put_string(w->holders[i].name, h->name, sizeof(h->name));
        w->holders[i].pid = h->pid;
        w->holders[i].slot = h->slot;
        w->holders[i].reserved_bytes = h->reserved_bytes;
        w->holders[i].dying = h->dying;
    }
    wire_put_string(w->detail, why->detail, sizeof(w->detail));
}

void wire_get_refusal(struct ballast_refusal *why,
                      const struct wire_refusal *w)
{
    uint32_t i;

    why->reason = (enum ballast_reason)w->reason;
    why->err = w->err;
    why->node = w->node;
    why->page_bytes = w->page_bytes;
    why->asked_bytes = w->asked_bytes;
    why->available_bytes = w->available_bytes;
    why->missing_bytes = w->missing_bytes;
    why->limit_bytes = w->limit_bytes;
    why->nr_ahead = w->nr_ahead;
    why->zero = 0;
    why->nr_holders = w->nr_holders < BALLAST_MAX_HOLDERS ? w->nr_holders :
                      BALLAST_MAX_HOLDERS;
    why->more_holders = w->more_holders;
    for (i = 0; i < why->nr_holders; i++) {
        struct ballast_holder *h = &why->holders[i];

        memcpy(h->name, w->holders[i].name, sizeof(h->name));
        h->name[sizeof(h->name) - 1] = '\0';
        h->pid = w->holders[i].pid;
        h->slot = w->holders[i].slot;
        h->reserved_bytes = w->holders[i].reserved_bytes;
        h->dying = w->holders[i].dying;
    }
    memcpy(why->detail, w->detail, sizeof(why->detail));
    why->detail[sizeof(why->detail) - 1] = '\0';
}
