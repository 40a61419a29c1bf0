/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The claim follows the balloon: lowered by what was given back, raised before
 * the guest has its pages again, and moved to the line of a node where memory
 * that may be anywhere came back on it.
 */
#include "qemu/osdep.h"
#include "claim-internal.h"
#include "qemu/cutils.h"

static bool is_nothing(const BallastDelta *delta)
{
    return buffer_is_zero(delta, sizeof(*delta));
}

static Move *move_get(uint32_t from, uint32_t to)
{
    Move *move;
    unsigned i;

    for (i = 0; i < claim->nr_moves; i++) {
        move = &claim->moves[i];
        if (move->from == from && move->to == to) {
            return move;
        }
    }
    if (claim->nr_moves == BALLAST_MAX_LINES) {
        return NULL;
    }
    move = &claim->moves[claim->nr_moves++];
    *move = (Move) { .from = from, .to = to };
    return move;
}

/* A negative amount moves back. */
static void move_bytes(Move *move, int64_t bytes)
{
    move->bytes += bytes;
    claim->lines[move->from].moved_out_bytes += bytes;
    claim->lines[move->to].moved_in_bytes += bytes;
}

void ballast_move_back(const ClaimLine *line, uint64_t bytes)
{
    unsigned i;

    for (i = 0; bytes && i < claim->nr_moves; i++) {
        Move *move = &claim->moves[i];
        uint64_t part = MIN(bytes, move->bytes);

        if (&claim->lines[move->from] == line) {
            move_bytes(move, -part);
            bytes -= part;
        }
    }
}

/* A line of a node that promises what would be another's; or none. */
static uint32_t line_on(const ClaimLine *from, uint32_t node)
{
    ClaimLine *to = from->node == BALLAST_NODE_ANY ?
                    ballast_line_get(node, from->page_bytes) : NULL;

    return to ? to - claim->lines : BALLAST_NO_LINE;
}

/*
 * What the other line has on the node already moves, too: the ledger reserves
 * what is claimed there or what is resident there, whichever is more, so that
 * memory besides it is promised only by a claim for both.
 */
static uint64_t move_there(ClaimLine *from, ClaimLine *to)
{
    uint64_t bytes = from->resident_bytes[to->node];

    from->resident_bytes[to->node] -= bytes;
    to->resident_bytes[to->node] += bytes;
    return bytes;
}

/* @there: out: what was there already, per line. */
static void move_all(const BallastDelta *moved, uint32_t node,
                     BallastDelta *there)
{
    unsigned i, nr = claim->nr_lines;

    for (i = 0; i < nr; i++) {
        uint32_t to = moved->bytes[i] ? line_on(&claim->lines[i], node) :
                      BALLAST_NO_LINE;
        Move *move = to != BALLAST_NO_LINE ? move_get(i, to) : NULL;

        if (move) {
            there->bytes[i] = move_there(&claim->lines[i], &claim->lines[to]);
            move_bytes(move, moved->bytes[i] + there->bytes[i]);
        }
    }
}

static void move_none(const BallastDelta *moved, uint32_t node,
                      const BallastDelta *there)
{
    unsigned i, k;

    for (k = 0; k < claim->nr_moves; k++) {
        Move *move = &claim->moves[k];
        ClaimLine *to = &claim->lines[move->to];

        i = move->from;
        if (moved->bytes[i] && to->node == node) {
            move_bytes(move, -(moved->bytes[i] + there->bytes[i]));
            to->resident_bytes[node] -= there->bytes[i];
            claim->lines[i].resident_bytes[node] += there->bytes[i];
        }
    }
}

static void line_gave(ClaimLine *line, uint64_t bytes)
{
    unsigned node;

    ballast_move_back(line, bytes);
    line->given_bytes += bytes;
    /* Most of it was resident; a sample will tell before long. */
    for (node = 0; bytes && node < BALLAST_MAX_NODES; node++) {
        uint64_t part = MIN(bytes, line->resident_bytes[node]);

        line->resident_bytes[node] -= part;
        bytes -= part;
    }
}

void ballast_claim_lower(const BallastDelta *given)
{
    unsigned i;

    if (!claim->ledger || is_nothing(given)) {
        return;
    }
    for (i = 0; i < claim->nr_lines; i++) {
        line_gave(&claim->lines[i], given->bytes[i]);
    }
    ballast_report_resident();
    ballast_claim_settle();
    ballast_sample_soon();
}

static void take(const BallastDelta *taken, bool back)
{
    unsigned i;

    for (i = 0; i < claim->nr_lines; i++) {
        if (back) {
            claim->lines[i].given_bytes += taken->bytes[i];
        } else {
            claim->lines[i].given_bytes -= MIN(taken->bytes[i],
                                               claim->lines[i].given_bytes);
        }
    }
}

bool ballast_claim_raise(const BallastDelta *taken, bool wait, char **words,
                         uint64_t *missing)
{
    static const BallastDelta nothing;

    return ballast_claim_raise_on(taken, &nothing, 0, wait, words, missing);
}

bool ballast_claim_raise_on(const BallastDelta *taken,
                            const BallastDelta *moved, uint32_t node,
                            bool wait, char **words, uint64_t *missing)
{
    unsigned nr_lines = claim->nr_lines, nr_moves = claim->nr_moves;
    bool was_in_line = claim->in_line;
    struct ballast_refusal why;
    BallastDelta there = {};

    if (!claim->ledger || is_nothing(taken)) {
        return true;
    }
    take(taken, false);
    move_all(moved, node, &there);
    /*
     * More than the claim is resident where the user claimed less than the
     * RAM: that is no want of capacity, and no reason to hold anybody back.
     */
    if (ballast_claim_ask(wait ? ASK_IN_LINE : ASK_NOW, &why) == 0 ||
        why.reason == BALLAST_BELOW_RESIDENT) {
        return true;
    }
    take(taken, true);
    move_none(moved, node, &there);
    /* Lines made for this, and never granted: a node may not be known. */
    claim->nr_lines = nr_lines;
    claim->nr_moves = nr_moves;
    if (!was_in_line) {
        ballast_count_refusal(&why);
    }
    if (words) {
        *words = ballast_refusal_words(&why);
    }
    if (missing) {
        *missing = why.missing_bytes;
    }
    return false;
}

void ballast_claim_wait_no_more(void)
{
    if (claim->in_line) {
        ballast_queue_cancel(claim->ledger);
        claim->in_line = false;
    }
}

void ballast_claim_owe(const BallastDelta *taken, bool pursue)
{
    if (!claim->ledger) {
        return;
    }
    take(taken, false);
    if (pursue) {
        ballast_pursue_soon();
    }
}

void ballast_claim_forget(uint32_t line, uint64_t given_bytes)
{
    if (claim->ledger && line != BALLAST_NO_LINE) {
        claim->lines[line].given_bytes -=
            MIN(given_bytes, claim->lines[line].given_bytes);
    }
}

void ballast_claim_freeable(uint64_t bytes)
{
    claim->freeable_bytes = bytes;
}
