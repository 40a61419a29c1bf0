/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * virtio-balloon-ledger: a virtio balloon whose host side keeps promises.
 *
 * A subclass of QEMU's virtio-balloon (virtio ID 5, same queues, same
 * configuration space): unmodified guests drive it.  It replaces what the
 * device does with inflated, deflated, reported and hinted pages.
 */
#ifndef BALLAST_BALLOON_H
#define BALLAST_BALLOON_H

#include "hw/virtio/virtio-balloon.h"
#include "hw/virtio/ballast/claim.h"
#include "hw/virtio/ballast/node.h"
#include "migration/ballast/hints.h"

#define TYPE_BALLAST_BALLOON "virtio-balloon-ledger-device"
OBJECT_DECLARE_SIMPLE_TYPE(BallastBalloon, BALLAST_BALLOON)

/** enum BallastDeflate - what to do when the ledger refuses a deflation */
typedef enum BallastDeflate {
    /** @BALLAST_DEFLATE_GATE: the guest waits until capacity returns */
    BALLAST_DEFLATE_GATE,
    /** @BALLAST_DEFLATE_ALLOW: it gets the memory, the claim follows */
    BALLAST_DEFLATE_ALLOW,
    /** @BALLAST_DEFLATE_OBSERVE: it gets the memory, this is counted */
    BALLAST_DEFLATE_OBSERVE,
} BallastDeflate;

/**
 * struct BallastVnodePart - part of a block that belongs to one guest node
 * @end: 4K page behind it
 * @entry: index in BallastNodes.node
 */
typedef struct BallastVnodePart {
    uint64_t end;
    uint32_t entry;
} BallastVnodePart;

/**
 * struct BallastBlock - which pages of a RAM block are in the balloon
 * @rb: the block
 * @line: line of the claim that pays for it, or BALLAST_NO_LINE
 * @ballooned: a bit per 4K page
 * @given: a bit per host page: discarded, and taken off the claim.
 *         Invariant: every 4K page of a given host page is ballooned
 * @pages: number of 4K pages
 * @per_host_page: 4K pages in a host page
 * @vnodes: array of BallastVnodePart, ascending, up to the end
 */
typedef struct BallastBlock {
    RAMBlock *rb;
    uint32_t line;
    GArray *vnodes;
    unsigned long *ballooned;
    unsigned long *given;
    uint64_t pages;
    uint64_t per_host_page;
} BallastBlock;

/**
 * struct BallastGate - a deflate buffer held until capacity returns
 * @held: the buffer, or NULL
 * @since_ms: since when, or 0
 * @told_refused_ms: time of the latest MEMORY_CLAIM_REFUSED, or 0
 * @told_waiting_ms: time of the latest MEMORY_CLAIM_WAITING, or 0
 * @told_waiting: MEMORY_CLAIM_WAITING was sent, so GRANTED must follow
 * @retry: asks again
 */
typedef struct BallastGate {
    VirtQueueElement *held;
    int64_t since_ms;
    int64_t told_refused_ms;
    int64_t told_waiting_ms;
    bool told_waiting;
    QEMUTimer *retry;
} BallastGate;

/**
 * struct BallastHintQueue - hints on their way to the dirty bitmap
 * @taken: popped in this run of the drain; empty outside of it (big lock)
 * @taken_question: what they answer, see hints.h (big lock)
 * @question: what the accepted id asked; under free_page_lock
 * @lock: innermost; protects @pending, @pending_question and @full
 * @pending: popped from the ring, not judged yet
 * @pending_question: what they answer
 * @full: the ring was left alone because @pending is full
 * @runs: how often the ring was drained (big lock)
 * @apply: bottom half in the I/O thread that judges them
 * @drain: bottom half in the main loop that empties the ring
 * @own_iothread: created here because the user gave none
 * @saw_broken: the rejected chain has been counted (big lock)
 */
typedef struct BallastHintQueue {
    GArray *taken;
    uint64_t taken_question;
    uint64_t question;
    QemuMutex lock;
    GArray *pending;
    uint64_t pending_question;
    bool full;
    uint64_t runs;
    QEMUBH *apply;
    QEMUBH *drain;
    IOThread *own_iothread;
    bool saw_broken;
} BallastHintQueue;

/**
 * struct BallastBalloon - the device; big lock, unless stated otherwise
 * @parent_obj: QEMU's balloon
 * @deflate_text: property, as given
 * @deflate: property, parsed at realize
 * @blocks: RAMBlock to BallastBlock, made on first use
 * @ballooned_pages: 4K pages in the balloon
 * @given_bytes: of them, discarded and taken off the claim
 * @freeable_bytes: of them, whole host pages that could not be discarded
 * @bad_pages: numbers and ranges of the guest that made no sense
 * @gate: see there
 * @more: handles what a bounded run of a queue's handler has left
 * @hintq: see there
 * @node_balloon: property: offer node ballooning
 * @nodes: see there
 */
struct BallastBalloon {
    VirtIOBalloon parent_obj;

    char *deflate_text;
    BallastDeflate deflate;
    GHashTable *blocks;
    uint64_t ballooned_pages;
    uint64_t given_bytes;
    uint64_t freeable_bytes;
    uint64_t bad_pages;
    BallastGate gate;
    QEMUBH *more;
    BallastHintQueue hintq;
    bool node_balloon;
    BallastNodes nodes;
};

/** ballast_hint_state() - for query-free-page-hints */
FreePageHintState ballast_hint_state(VirtIOBalloon *s);

#endif
