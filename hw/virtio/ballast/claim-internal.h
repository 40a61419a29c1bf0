/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the files of the claim share (see claim.c).  Context: the big lock.
 */
#ifndef BALLAST_CLAIM_INTERNAL_H
#define BALLAST_CLAIM_INTERNAL_H

#include "ballast/ledger.h"
#include "hw/virtio/ballast/claim.h"
#include "hw/virtio/ballast/compat.h"

#define BALLAST_SOON_MS 200

typedef struct ClaimLine {
    uint32_t node;
    uint64_t page_bytes;
    uint64_t base_bytes;
    /* May exceed base_bytes where the user claimed less than the RAM. */
    uint64_t given_bytes;
    uint64_t granted_bytes;
    /* Promised by this line for another, or by another for this: see Move. */
    uint64_t moved_in_bytes;
    uint64_t moved_out_bytes;
    /* Resident per node, of the latest sample. */
    uint64_t resident_bytes[BALLAST_MAX_NODES];
} ClaimLine;

/*
 * Memory of blocks that may be anywhere, which came back to the guest on one
 * node (balloon-node): the line of that node promises it instead of theirs.
 * It is the first to be taken off again when such blocks give memory back.
 */
typedef struct Move {
    uint32_t from;
    uint32_t to;
    uint64_t bytes;
} Move;

/* A block, the line that pays for it, and how much of the line's base it is. */
typedef struct ClaimBlock {
    RAMBlock *rb;
    uint32_t line;
    uint64_t bytes;
} ClaimBlock;

typedef struct ClaimState {
    struct ballast_ledger *ledger;
    uint32_t slot;
    char *path;
    char *name;
    bool inherited;
    ClaimLine lines[BALLAST_MAX_LINES];
    unsigned nr_lines;
    Move moves[BALLAST_MAX_LINES];
    unsigned nr_moves;
    uint64_t freeable_bytes;
    uint64_t refused;
    /* The ledger's queue has an entry of ours: the gate is closed. */
    bool in_line;
    QEMUTimer *sample_timer;
    QEMUTimer *pursue_timer;
    /*
     * The blocks that the claim was staked for (ClaimBlock), once the machine
     * is made, or from the start where backends stake by themselves: what is
     * not among them is not part of the claim.  NULL until then.
     */
    GArray *blocks;
    bool auto_lines;
    bool by_backend;
    Notifier machine_done;
    RAMBlockNotifier block_notifier;
} ClaimState;

extern ClaimState ballast_claim_state;

/* The one of this process. */
static ClaimState *const claim = &ballast_claim_state;

/* claim.c: lines */

/* The line of a kind of memory, made where there is none; NULL: no room. */
ClaimLine *ballast_line_get(uint32_t node, uint64_t page_bytes);
bool ballast_line_add(uint32_t node, uint64_t page_bytes, uint64_t bytes,
                      Error **errp);
uint64_t ballast_line_desired(const ClaimLine *line);
uint64_t ballast_line_resident(const ClaimLine *line);
/* What the guest may use, or uses, without a promise. */
uint64_t ballast_line_deficit(const ClaimLine *line);
uint64_t ballast_line_granted(const ClaimLine *line);
uint64_t ballast_line_sum(uint64_t (*of_line)(const ClaimLine *));
/* Is what is wanted granted, on every line? */
bool ballast_claim_settled(void);

/* claim.c: talking to the ledger */

typedef enum Ask {
    ASK_NOW,
    /* Or wait in line: asking again keeps the place. */
    ASK_IN_LINE,
    /* No more than was granted on any line: no capacity is needed. */
    ASK_LESS,
} Ask;

/* Ask for what is wanted.  0, or -errno with @why filled in. */
int ballast_claim_ask(Ask ask, struct ballast_refusal *why);
/* The ledger's reason; owned by the caller. */
char *ballast_refusal_words(const struct ballast_refusal *why);
void ballast_count_refusal(const struct ballast_refusal *why);

/* claim-resident.c */

void ballast_claim_timers(void);
void ballast_sample_resident(void);
void ballast_report_resident(void);
/* Bring the claim to what is wanted, or at least down where it can be. */
void ballast_claim_settle(void);
void ballast_pursue_soon(void);
void ballast_sample_soon(void);

/* claim-follow.c: what others promise for a line is its own again */
void ballast_move_back(const ClaimLine *line, uint64_t bytes);

/* claim-blocks.c */
void ballast_follow_blocks(void);

/* claim-stake.c: the two halves of a start */
bool ballast_claim_open(const BallastClaimOptions *o, Error **errp);
void ballast_claim_run(void);

#endif
