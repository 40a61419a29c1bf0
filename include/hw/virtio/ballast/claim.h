/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The claim of this process: its participation in the host's ledger.
 *
 * There is one per process, whatever its devices.  It is staked before the
 * guest's RAM is allocated, follows the guest's balloon, and ends with the
 * process.  Without a ledger every function here succeeds and does nothing.
 *
 * A claim has lines: one per host node and page size that backends are
 * bound to, and one per page size for memory that may be anywhere.
 *
 * Context, unless stated otherwise: the big lock is held.
 */
#ifndef BALLAST_CLAIM_H
#define BALLAST_CLAIM_H

#include "exec/cpu-common.h"
#include "qapi/qapi-types-ballast.h"
#include "system/hostmem.h"

#define BALLAST_MAX_LINES 64
#define BALLAST_NO_LINE UINT32_MAX

/**
 * struct BallastClaimOptions - what the user asked for
 * @path: ledger; NULL: inherited from 'ballast run', or none
 * @name: name in the ledger; NULL: the VM's name
 * @claims: demands as text, 'SIZE[@NODE][/PAGESIZE]'; empty or "auto": the
 *          machine's RAM, by node where its backends are bound
 */
typedef struct BallastClaimOptions {
    char *path;
    char *name;
    GPtrArray *claims;
} BallastClaimOptions;

/**
 * struct BallastDelta - a change of the claim, bytes per line
 * @bytes: indexed by line
 */
typedef struct BallastDelta {
    uint64_t bytes[BALLAST_MAX_LINES];
} BallastDelta;

/**
 * ballast_claim_start() - join the ledger and stake the claim
 * @o: options; borrowed
 * @errp: the ledger's own words when it refuses
 *
 * Context: once, after the machine's options are known and before its RAM
 * is allocated.
 *
 * Return: true if the claim stands, or if no ledger was asked for.
 */
bool ballast_claim_start(const BallastClaimOptions *o, Error **errp);

/**
 * struct BallastPart - memory of one kind
 * @node: host node that it cannot leave, or BALLAST_NODE_ANY
 * @page_bytes: size of its pages
 * @bytes: how much, a multiple of @page_bytes
 */
typedef struct BallastPart {
    uint32_t node;
    uint64_t page_bytes;
    uint64_t bytes;
} BallastPart;

/**
 * ballast_claim_start_empty() - join the ledger; each part comes later
 * @o: options; borrowed; @o->claims is empty or "auto"
 * @errp: the ledger's own words when it refuses
 *
 * For a QEMU that is asked before a backend allocates (backend.h).  An
 * inherited claim is taken over by ballast_claim_start() instead.
 *
 * Context: once, instead of ballast_claim_start().
 *
 * Return: true if this process takes part, or if no ledger was asked for.
 */
bool ballast_claim_start_empty(const BallastClaimOptions *o, Error **errp);

/** ballast_claim_by_backend() - was it ballast_claim_start_empty()? */
bool ballast_claim_by_backend(void);

/**
 * ballast_claim_grow() - stake more, all of it or nothing
 * @parts: what comes on top of the claim
 * @nr: how many
 * @errp: the ledger's own words when it refuses
 *
 * Return: true if the claim was raised; if not, nothing changed.
 */
bool ballast_claim_grow(const BallastPart *parts, unsigned nr, Error **errp);

/**
 * ballast_claim_shrink() - undo ballast_claim_grow() for memory never made
 * @part: what is not needed
 *
 * The ledger hears of it with the next sample, before long.
 */
void ballast_claim_shrink(const BallastPart *part);

/**
 * ballast_claim_attach() - say which block a part was staked for
 * @rb: the block, new.  Its part ends when the block is freed
 * @part: from ballast_claim_grow(); 0 bytes for a block that claims as it is
 *        filled
 */
void ballast_claim_attach(RAMBlock *rb, const BallastPart *part);

/**
 * ballast_claim_raise_block() - a block is about to need more
 * @rb: a block; one that was not attached needs no claim
 * @bytes: what it may use from now on; less than now changes nothing
 * @errp: the ledger's own words when it refuses
 *
 * Return: true if the claim covers @bytes; if not, nothing changed.
 */
bool ballast_claim_raise_block(const RAMBlock *rb, uint64_t bytes,
                               Error **errp);

/**
 * ballast_claim_follow_block() - a block needs more or less, whatever is said
 * @rb: a block
 * @bytes: what it may use now
 *
 * What the ledger refuses shows as deficit and is pursued.
 */
void ballast_claim_follow_block(const RAMBlock *rb, uint64_t bytes);

/**
 * ballast_bound_node() - the one node that a backend's pages cannot leave
 * @backend: a backend; its policy need not be in force yet
 *
 * Return: the node, or BALLAST_NODE_ANY.
 */
uint32_t ballast_bound_node(const HostMemoryBackend *backend);

/** ballast_claim_slot() - slot in the ledger, the correlator in traces */
uint32_t ballast_claim_slot(void);

/**
 * ballast_claim_line() - which line of the claim pays for a block?
 * @rb: a block
 *
 * Return: the line, or BALLAST_NO_LINE if the block is not guest RAM of a
 * memory backend (ROMs, video memory), was plugged after the claim was
 * staked, or there is no ledger.
 */
uint32_t ballast_claim_line(RAMBlock *rb);

/**
 * ballast_claim_lower() - memory was given back to the host
 * @given: bytes that were really discarded
 */
void ballast_claim_lower(const BallastDelta *given);

/**
 * ballast_claim_raise() - the guest is about to take memory back
 * @taken: bytes, at most what was given back before
 * @wait: if refused, wait in the ledger's queue: ask again within two
 *        seconds, and again, or call ballast_claim_wait_no_more()
 * @why: the ledger's words if refused, owned by the caller; may be NULL
 * @missing: bytes missing if refused; may be NULL
 *
 * Return: true if the claim was raised; false if the ledger refused, and
 * nothing changed.
 */
bool ballast_claim_raise(const BallastDelta *taken, bool wait, char **why,
                         uint64_t *missing);

/**
 * ballast_claim_raise_on() - the same, for memory that will be on one node
 * @taken: as above
 * @moved: the part of it that will be on @node.  Where the line that pays
 *         promises memory of any node, that node's line promises it instead,
 *         until it is given back
 * @node: host node
 * @wait: as above
 * @why: as above
 * @missing: as above
 *
 * Return: as above.
 */
bool ballast_claim_raise_on(const BallastDelta *taken,
                            const BallastDelta *moved, uint32_t node,
                            bool wait, char **why, uint64_t *missing);

/** ballast_claim_wait_no_more() - leave the ledger's queue, if in it */
void ballast_claim_wait_no_more(void);

/**
 * ballast_claim_owe() - the guest has memory the ledger refused
 * @taken: bytes, refused by ballast_claim_raise()
 * @pursue: keep asking until the ledger grants it
 *
 * The shortfall shows as deficit.
 */
void ballast_claim_owe(const BallastDelta *taken, bool pursue);

/**
 * ballast_claim_forget() - memory that was given back is unplugged
 * @line: line that it was taken off
 * @given_bytes: how much of it had been given back
 */
void ballast_claim_forget(uint32_t line, uint64_t given_bytes);

/**
 * ballast_claim_freeable() - tell the ledger of memory nobody needs
 * @bytes: in the balloon but still resident, since discarding is inhibited
 */
void ballast_claim_freeable(uint64_t bytes);

/**
 * ballast_claim_info() - for query-memory-ledger
 * @errp: set if there is no ledger
 *
 * Return: owned by the caller, or NULL.
 */
MemoryLedgerInfo *ballast_claim_info(Error **errp);

#endif
