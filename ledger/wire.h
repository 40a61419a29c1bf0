/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What a client and the daemon say to each other, byte for byte, over a Unix
 * SEQPACKET socket; docs/design/ledger-wire.md has the reasons.
 *
 * Invariants:
 *  - a message has one of two sizes, and its reply has the same;
 *  - a reply carries the sequence number of its request;
 *  - every byte that an operation does not use is zero, both ways;
 *  - structures of ledger.h and admin.h that travel as they are have their
 *    offsets asserted here: who changes one makes another version.
 *
 * The two ends are on one machine: its byte order, no more.
 */
#ifndef LEDGER_WIRE_H
#define LEDGER_WIRE_H

#include <assert.h>
#include <stddef.h>
#include <stdint.h>

#include "ballast/admin.h"

#define WIRE_MAGIC          0x54534c42u     /* "BLST", little endian */
#define WIRE_VERSION        1u
#define WIRE_SMALL_BYTES    1536u
#define WIRE_LARGE_BYTES    32768u
#define WIRE_TEXT_BYTES     248u
#define WIRE_PATH_BYTES     108u            /* of a socket, as in sun_path */

enum wire_op {
    WIRE_HELLO = 1,
    WIRE_JOIN,
    WIRE_ATTACH,
    WIRE_LEAVE,
    WIRE_CLAIM,
    WIRE_REPORT,
    WIRE_OWN,
    WIRE_QUEUE,
    WIRE_POLL,
    WIRE_CANCEL,
    WIRE_BEQUEATH,
    WIRE_STAND,
    WIRE_RELEASE,
    WIRE_SWEEP,
    WIRE_STATUS,
    WIRE_CELLS,
    WIRE_PARTICIPANTS,
    WIRE_CHECK,
    WIRE_FINDINGS,
    WIRE_STAND_QUEUE,
    WIRE_STAND_POLL,
    WIRE_OPS,
};

/* WIRE_ATTACH: another process takes the slot over, for good. */
#define WIRE_ADOPT          1u

/* WIRE_STAND_QUEUE: it was sent before, and nobody knows what came of it. */
#define WIRE_AGAIN          1u

struct wire_head {
    uint32_t magic;
    uint32_t version;
    uint32_t op;
    uint32_t bytes;
    uint64_t sequence;
    int32_t err;            /* 0 in a request */
    uint32_t nr;            /* entries behind the fixed part */
    uint64_t value;         /* 0 in a request */
    uint64_t zero[3];
};

struct wire_request {
    struct wire_head head;
    char name[BALLAST_NAME_BYTES];
    uint64_t serial;
    uint64_t cookie[2];
    uint64_t max_bytes;
    uint64_t timeout_ms;
    uint32_t slot;
    int32_t pid;
    uint32_t flags;
    uint32_t offset;
    uint64_t zero;
};

/* A request with its entries. */
struct wire_set {
    struct wire_request request;
    union {
        struct ballast_demand demands[BALLAST_MAX_DEMANDS];
        struct ballast_usage usages[BALLAST_MAX_DEMANDS];
    };
};

/* One that has none: all of a small message. */
struct wire_plain {
    struct wire_request request;
    uint64_t zero[(WIRE_SMALL_BYTES - 192) / 8];
};

struct wire_holder {
    char name[BALLAST_NAME_BYTES];
    int32_t pid;
    uint32_t slot;
    uint64_t reserved_bytes;
    uint32_t dying;
    uint32_t zero;
};

struct wire_refusal {
    uint32_t reason;
    uint32_t node;
    uint64_t page_bytes;
    uint64_t asked_bytes;
    uint64_t available_bytes;
    uint64_t missing_bytes;
    uint64_t limit_bytes;
    int32_t err;
    uint32_t nr_ahead;
    uint32_t nr_holders;
    uint32_t more_holders;
    struct wire_holder holders[BALLAST_MAX_HOLDERS];
    char detail[128];
};

struct wire_geometry {
    uint32_t nr_nodes;
    uint32_t nr_classes;
    uint32_t nr_slots;
    uint32_t zero;
    uint32_t node_id[BALLAST_MAX_NODES];
    uint64_t page_bytes[BALLAST_MAX_CLASSES];
};

struct wire_member {
    uint32_t slot;
    uint32_t zero;
    uint64_t serial;
};

/* Where a standing claim waits: what its poll shows, the ticket as cookie. */
struct wire_place {
    uint32_t slot;
    uint32_t zero;
    uint64_t serial;
    uint64_t ticket;
};

struct wire_status {
    uint32_t admission;
    uint32_t count_cache_percent;
    uint32_t nr_slots;
    uint32_t nr_waiting;
    uint32_t nr_nodes;
    uint32_t nr_classes;
    uint32_t nr_cells;
    uint32_t nr_participants;
};

/* Its nr_cells struct ballast_own follow it at once. */
struct wire_participant {
    char name[BALLAST_NAME_BYTES];
    uint32_t state;
    int32_t pid;
    uint32_t uid;
    uint32_t slot;
    uint64_t serial;
    uint64_t max_bytes;
    uint32_t served;
    uint32_t queue_place;
    uint64_t waited_ms;
    uint32_t nr_cells;
    uint32_t zero;
};

struct wire_finding {
    uint32_t severity;
    uint32_t zero;
    char text[WIRE_TEXT_BYTES];
};

#define WIRE_ENTRIES_OFFSET 192u    /* of a request */
#define WIRE_PAYLOAD_OFFSET 960u    /* of a reply */

struct wire_reply {
    struct wire_head head;
    struct wire_refusal why;
    union {
        uint8_t payload[WIRE_LARGE_BYTES - WIRE_PAYLOAD_OFFSET];
        struct wire_geometry geometry;
        struct wire_member member;
        struct wire_place place;
        struct wire_status status;
        struct ballast_own own[BALLAST_MAX_DEMANDS];
        struct ballast_cell cells[1];
        struct wire_finding findings[1];
    };
};

/* Room for either, whatever its size. */
union wire_message {
    struct wire_head head;
    struct wire_request request;
    struct wire_set set;
    struct wire_reply reply;
    uint8_t bytes[WIRE_LARGE_BYTES];
    uint64_t words[WIRE_LARGE_BYTES / 8];
};

#define WIRE_AT(type, field, offset) \
    static_assert(offsetof(struct type, field) == (offset), \
                  #type "." #field " moved")

WIRE_AT(wire_head, magic, 0);
WIRE_AT(wire_head, version, 4);
WIRE_AT(wire_head, op, 8);
WIRE_AT(wire_head, bytes, 12);
WIRE_AT(wire_head, sequence, 16);
WIRE_AT(wire_head, err, 24);
WIRE_AT(wire_head, nr, 28);
WIRE_AT(wire_head, value, 32);
WIRE_AT(wire_head, zero, 40);
static_assert(sizeof(struct wire_head) == 64, "head size");

WIRE_AT(wire_request, name, 64);
WIRE_AT(wire_request, serial, 128);
WIRE_AT(wire_request, cookie, 136);
WIRE_AT(wire_request, max_bytes, 152);
WIRE_AT(wire_request, timeout_ms, 160);
WIRE_AT(wire_request, slot, 168);
WIRE_AT(wire_request, pid, 172);
WIRE_AT(wire_request, flags, 176);
WIRE_AT(wire_request, offset, 180);
WIRE_AT(wire_request, zero, 184);
WIRE_AT(wire_set, demands, WIRE_ENTRIES_OFFSET);
static_assert(sizeof(struct wire_request) == WIRE_ENTRIES_OFFSET,
              "request size");
static_assert(sizeof(struct wire_set) <= WIRE_LARGE_BYTES, "set size");
static_assert(sizeof(struct wire_plain) == WIRE_SMALL_BYTES, "plain size");

WIRE_AT(wire_holder, pid, 64);
WIRE_AT(wire_holder, slot, 68);
WIRE_AT(wire_holder, reserved_bytes, 72);
WIRE_AT(wire_holder, dying, 80);
WIRE_AT(wire_holder, zero, 84);
static_assert(sizeof(struct wire_holder) == 88, "holder size");

WIRE_AT(wire_refusal, reason, 0);
WIRE_AT(wire_refusal, node, 4);
WIRE_AT(wire_refusal, page_bytes, 8);
WIRE_AT(wire_refusal, asked_bytes, 16);
WIRE_AT(wire_refusal, available_bytes, 24);
WIRE_AT(wire_refusal, missing_bytes, 32);
WIRE_AT(wire_refusal, limit_bytes, 40);
WIRE_AT(wire_refusal, err, 48);
WIRE_AT(wire_refusal, nr_ahead, 52);
WIRE_AT(wire_refusal, nr_holders, 56);
WIRE_AT(wire_refusal, more_holders, 60);
WIRE_AT(wire_refusal, holders, 64);
WIRE_AT(wire_refusal, detail, 768);
static_assert(sizeof(struct wire_refusal) == 896, "refusal size");

WIRE_AT(wire_geometry, node_id, 16);
WIRE_AT(wire_geometry, page_bytes, 272);
static_assert(sizeof(struct wire_geometry) == 336, "geometry size");

WIRE_AT(wire_member, serial, 8);
static_assert(sizeof(struct wire_member) == 16, "member size");
WIRE_AT(wire_place, serial, 8);
WIRE_AT(wire_place, ticket, 16);
static_assert(sizeof(struct wire_place) == 24, "place size");
static_assert(sizeof(struct wire_status) == 32, "status size");

WIRE_AT(wire_participant, state, 64);
WIRE_AT(wire_participant, pid, 68);
WIRE_AT(wire_participant, uid, 72);
WIRE_AT(wire_participant, slot, 76);
WIRE_AT(wire_participant, serial, 80);
WIRE_AT(wire_participant, max_bytes, 88);
WIRE_AT(wire_participant, served, 96);
WIRE_AT(wire_participant, queue_place, 100);
WIRE_AT(wire_participant, waited_ms, 104);
WIRE_AT(wire_participant, nr_cells, 112);
WIRE_AT(wire_participant, zero, 116);
static_assert(sizeof(struct wire_participant) == 120, "participant size");

WIRE_AT(wire_finding, text, 8);
static_assert(sizeof(struct wire_finding) == 256, "finding size");

WIRE_AT(wire_reply, why, 64);
WIRE_AT(wire_reply, payload, WIRE_PAYLOAD_OFFSET);
static_assert(sizeof(struct wire_reply) == WIRE_LARGE_BYTES, "reply size");
static_assert(sizeof(struct wire_geometry) <=
              WIRE_SMALL_BYTES - WIRE_PAYLOAD_OFFSET, "hello is small");
static_assert(sizeof(struct wire_participant) +
              BALLAST_MAX_DEMANDS * sizeof(struct ballast_own) <=
              WIRE_LARGE_BYTES - WIRE_PAYLOAD_OFFSET, "a participant fits");

WIRE_AT(ballast_demand, zero, 4);
WIRE_AT(ballast_demand, page_bytes, 8);
WIRE_AT(ballast_demand, bytes, 16);
static_assert(sizeof(struct ballast_demand) == 24, "demand size");

WIRE_AT(ballast_usage, zero, 4);
WIRE_AT(ballast_usage, page_bytes, 8);
WIRE_AT(ballast_usage, resident_bytes, 16);
WIRE_AT(ballast_usage, freeable_bytes, 24);
static_assert(sizeof(struct ballast_usage) == 32, "usage size");

WIRE_AT(ballast_own, page_bytes, 8);
WIRE_AT(ballast_own, claimed_bytes, 16);
WIRE_AT(ballast_own, resident_bytes, 24);
WIRE_AT(ballast_own, freeable_bytes, 32);
WIRE_AT(ballast_own, outstanding_bytes, 40);
WIRE_AT(ballast_own, wanted_bytes, 48);
static_assert(sizeof(struct ballast_own) == 56, "own size");

WIRE_AT(ballast_cell, overcommit_percent, 4);
WIRE_AT(ballast_cell, page_bytes, 8);
WIRE_AT(ballast_cell, backed_bytes, 16);
WIRE_AT(ballast_cell, capacity_bytes, 24);
WIRE_AT(ballast_cell, free_bytes, 32);
WIRE_AT(ballast_cell, freeable_bytes, 40);
WIRE_AT(ballast_cell, owned_bytes, 48);
WIRE_AT(ballast_cell, claimed_bytes, 56);
WIRE_AT(ballast_cell, resident_bytes, 64);
WIRE_AT(ballast_cell, outstanding_bytes, 72);
WIRE_AT(ballast_cell, kernel_free_bytes, 80);
WIRE_AT(ballast_cell, broken_bytes, 88);
WIRE_AT(ballast_cell, wanted_bytes, 96);
static_assert(sizeof(struct ballast_cell) == 104, "cell size");

#undef WIRE_AT

static inline uint32_t wire_payload_room(uint32_t bytes)
{
    return bytes - WIRE_PAYLOAD_OFFSET;
}

#pragma GCC visibility push(hidden)

/* wire.c */
enum wire_fault {
    WIRE_FINE,
    WIRE_BAD_SIZE,
    WIRE_BAD_MAGIC,
    WIRE_BAD_VERSION,
    WIRE_BAD_OP,
    WIRE_BAD_COUNT,
    WIRE_BAD_PADDING,
    WIRE_BAD_STRING,
    WIRE_BAD_SENDER,
    WIRE_FAULTS,
};

enum wire_fault wire_check_request(const union wire_message *m, size_t bytes);
int wire_check_reply(const union wire_message *m, size_t bytes,
                     const struct wire_head *request);
void wire_put_refusal(struct wire_refusal *w,
                      const struct ballast_refusal *why);
void wire_get_refusal(struct ballast_refusal *why,
                      const struct wire_refusal *w);
void wire_put_string(char *to, const char *from, size_t room);
size_t wire_request_bytes(uint32_t op, size_t nr);

#pragma GCC visibility pop

#endif
