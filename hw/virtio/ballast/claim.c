/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The claim of this process: its participation in the host's ledger.
 *
 *   desired[line] = max(0, base[line] - given[line])   what it may have
 *   wanted[line]  = max(desired, resident), at most base
 *   granted[line]                                      what was agreed to
 *   deficit       = sum of max(0, wanted - granted)
 *
 * A deficit exists only after the guest took memory that the ledger had
 * refused (which the device allows where the user said so, and at a reset)
 * or used, without a word, what it had given back.  It is pursued: asked for
 * again until the ledger grants it.
 *
 * Every two seconds, sooner when the balloon moved, a sample of the guest's
 * pages tells the ledger what is really resident (about half a millisecond:
 * less than 0.03 % of a core at any guest size).
 *
 * Everything here runs under the big lock.  The ledger's own lock is taken
 * inside its calls and never held across anything of QEMU's.  A daemon that is
 * silent, or gone, costs a tenth of a second in each second at most; what was
 * granted last counts meanwhile, a raise is refused, and the next sample
 * brings the claim to where it should be.
 */
#include "qemu/osdep.h"
#include "ballast/admin.h"
#include "ballast/ledger.h"
#include "hw/boards.h"
#include "hw/virtio/ballast/balloon.h"
#include "hw/virtio/ballast/claim.h"
#include "hw/virtio/ballast/compat.h"
#include "hw/virtio/ballast/placement.h"
#include "migration/ballast/binding.h"
#include "qapi/error.h"
#include "qapi/qapi-commands-machine.h"
#include "qemu/cutils.h"
#include "qemu/rcu_queue.h"
#include "qemu/timer.h"
#include "system/hostmem.h"
#include "system/numa.h"
#include "system/system.h"
#include "trace-hw_virtio_ballast.h"

#define SAMPLE_INTERVAL_MS 2000
#define PURSUE_INTERVAL_MS 100
#define SOON_MS 200
/* At start, as long as the library likes; later, with the big lock held. */
#define DAEMON_PATIENCE_MS 100
#define RESIDENT_SAMPLES 1024
/* 1,024 samples err by 3 % of the size at 95 % confidence, or less. */
#define SAMPLE_ERROR_PART 32

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

static struct {
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
} claim;

uint32_t ballast_claim_slot(void)
{
    return claim.ledger ? claim.slot : UINT32_MAX;
}

/* Lines --------------------------------------------------------------- */

static ClaimLine *line_get(uint32_t node, uint64_t page_bytes)
{
    ClaimLine *line;
    unsigned i;

    for (i = 0; i < claim.nr_lines; i++) {
        line = &claim.lines[i];
        if (line->node == node && line->page_bytes == page_bytes) {
            return line;
        }
    }
    if (claim.nr_lines == BALLAST_MAX_LINES) {
        return NULL;
    }
    line = &claim.lines[claim.nr_lines++];
    *line = (ClaimLine) { .node = node, .page_bytes = page_bytes };
    return line;
}

static bool line_add(uint32_t node, uint64_t page_bytes, uint64_t bytes,
                     Error **errp)
{
    ClaimLine *line = line_get(node, page_bytes);

    if (!line) {
        error_setg(errp, "more than %d kinds of memory (node and page size)",
                   BALLAST_MAX_LINES);
        return false;
    }
    line->base_bytes += bytes;
    return true;
}

uint32_t ballast_bound_node(const HostMemoryBackend *backend)
{
    unsigned long node = find_first_bit(backend->host_nodes, MAX_NODES);

    if (backend->policy != HOST_MEM_POLICY_BIND || node >= MAX_NODES ||
        find_next_bit(backend->host_nodes, MAX_NODES, node + 1) < MAX_NODES) {
        return BALLAST_NODE_ANY;
    }
    return node;
}

static ClaimBlock *block_find(const RAMBlock *rb)
{
    unsigned i;

    for (i = 0; claim.blocks && i < claim.blocks->len; i++) {
        ClaimBlock *block = &g_array_index(claim.blocks, ClaimBlock, i);

        if (block->rb == rb) {
            return block;
        }
    }
    return NULL;
}

/* Which line would pay for it, by where its backend's pages can be? */
static uint32_t line_of_backend(RAMBlock *rb)
{
    Object *owner = rb->mr ? memory_region_owner(rb->mr) : NULL;
    uint64_t page_bytes = rb->page_size;
    uint32_t node, any = BALLAST_NO_LINE;
    unsigned i;

    if (!owner || !object_dynamic_cast(owner, TYPE_MEMORY_BACKEND)) {
        return BALLAST_NO_LINE;
    }
    node = ballast_bound_node(MEMORY_BACKEND(owner));
    for (i = 0; i < claim.nr_lines; i++) {
        if (claim.lines[i].page_bytes != page_bytes) {
            continue;
        }
        if (claim.lines[i].node == node) {
            return i;
        }
        if (claim.lines[i].node == BALLAST_NODE_ANY || any == BALLAST_NO_LINE) {
            any = i;
        }
    }
    return any;
}

uint32_t ballast_claim_line(RAMBlock *rb)
{
    ClaimBlock *block;

    if (!claim.ledger) {
        return BALLAST_NO_LINE;
    }
    if (!claim.blocks) {
        return line_of_backend(rb);
    }
    block = block_find(rb);
    return block ? block->line : BALLAST_NO_LINE;
}

static uint64_t desired_bytes(const ClaimLine *line)
{
    uint64_t bytes = line->base_bytes - MIN(line->base_bytes,
                                            line->given_bytes);

    return bytes - MIN(bytes, line->moved_out_bytes) + line->moved_in_bytes;
}

static uint64_t line_resident_bytes(const ClaimLine *line)
{
    uint64_t bytes = 0;
    unsigned node;

    for (node = 0; node < BALLAST_MAX_NODES; node++) {
        bytes += line->resident_bytes[node];
    }
    return bytes;
}

/*
 * What to ask for: pages that the guest uses although it gave them back
 * need their promise again, whatever it says.
 */
static uint64_t wanted_bytes(const ClaimLine *line)
{
    return MIN(line->base_bytes + line->moved_in_bytes,
               MAX(desired_bytes(line), line_resident_bytes(line)));
}

/* What the guest may use, or uses, without a promise. */
static uint64_t line_deficit_bytes(const ClaimLine *line)
{
    uint64_t wanted = wanted_bytes(line);

    return wanted - MIN(wanted, line->granted_bytes);
}

static uint64_t line_granted_bytes(const ClaimLine *line)
{
    return line->granted_bytes;
}

static uint64_t line_given_bytes(const ClaimLine *line)
{
    return line->given_bytes;
}

static uint64_t sum_bytes(uint64_t (*of_line)(const ClaimLine *))
{
    uint64_t bytes = 0;
    unsigned i;

    for (i = 0; i < claim.nr_lines; i++) {
        bytes += of_line(&claim.lines[i]);
    }
    return bytes;
}

static bool is_settled(void)
{
    unsigned i;

    for (i = 0; i < claim.nr_lines; i++) {
        if (wanted_bytes(&claim.lines[i]) != claim.lines[i].granted_bytes) {
            return false;
        }
    }
    return true;
}

/* Talking to the ledger ----------------------------------------------- */

static char *refusal_words(const struct ballast_refusal *why)
{
    char words[1024];

    ballast_refusal_text(why, words, sizeof(words));
    return g_strdup(words);
}

typedef enum Ask {
    ASK_NOW,
    /* Or wait in line: asking again keeps the place. */
    ASK_IN_LINE,
    /* No more than was granted on any line: no capacity is needed. */
    ASK_LESS,
} Ask;

static void make_demands(struct ballast_demand *set, Ask ask)
{
    unsigned i;

    for (i = 0; i < claim.nr_lines; i++) {
        ClaimLine *line = &claim.lines[i];
        uint64_t wanted = wanted_bytes(line);

        set[i] = (struct ballast_demand) {
            .node = line->node,
            .page_bytes = line->page_bytes,
            .bytes = ask == ASK_LESS ? MIN(wanted, line->granted_bytes) :
                     wanted,
        };
    }
}

/* Ask for what is wanted.  0, or -errno with @why filled in. */
static int claim_ask(Ask ask, struct ballast_refusal *why)
{
    struct ballast_demand set[BALLAST_MAX_LINES];
    unsigned i;
    int ret;

    make_demands(set, ask);
    if (ask == ASK_IN_LINE) {
        ret = ballast_queue(claim.ledger, set, claim.nr_lines,
                            BALLAST_WAIT_FOREVER, why);
    } else {
        ret = ballast_claim(claim.ledger, set, claim.nr_lines, why);
    }
    claim.in_line = ret == -EINPROGRESS;
    for (i = 0; ret == 0 && i < claim.nr_lines; i++) {
        claim.lines[i].granted_bytes = set[i].bytes;
    }
    if (ret == 0) {
        trace_ballast_claim_changed(ballast_claim_slot(),
                                    sum_bytes(line_granted_bytes),
                                    sum_bytes(line_given_bytes));
    }
    return ret;
}

static void count_refusal(const struct ballast_refusal *why)
{
    g_autofree char *words = refusal_words(why);

    claim.refused++;
    trace_ballast_claim_refused(ballast_claim_slot(), why->missing_bytes,
                                words);
}

/* Resident ------------------------------------------------------------ */

static struct ballast_usage *usage_get(struct ballast_usage *set, size_t *nr,
                                       uint32_t node, uint64_t page_bytes)
{
    size_t i;

    for (i = 0; i < *nr; i++) {
        if (set[i].node == node && set[i].page_bytes == page_bytes) {
            return &set[i];
        }
    }
    set[*nr] = (struct ballast_usage) {
        .node = node, .page_bytes = page_bytes,
    };
    return &set[(*nr)++];
}

/*
 * A sample errs: what exceeds the line by no more than that is cut off, so
 * that the error never blocks lowering the claim.  What exceeds it by more
 * is there, for instance since a guest uses pages that it put into the
 * balloon: the ledger must see it.
 */
static void line_cut(ClaimLine *line)
{
    uint64_t limit = desired_bytes(line), sum = line_resident_bytes(line);
    unsigned node;

    if (sum <= limit || sum - limit > line->base_bytes / SAMPLE_ERROR_PART) {
        return;
    }
    for (node = 0; node < BALLAST_MAX_NODES; node++) {
        line->resident_bytes[node] = QEMU_ALIGN_DOWN((uint64_t)(
            (double)line->resident_bytes[node] / sum * limit),
            line->page_bytes);
    }
}

static void report_resident(void)
{
    g_autofree struct ballast_usage *set =
        g_new(struct ballast_usage, BALLAST_MAX_LINES * BALLAST_MAX_NODES);
    uint64_t resident = 0, left = claim.freeable_bytes;
    struct ballast_usage *u;
    unsigned i, node;
    size_t nr = 0;

    for (i = 0; i < claim.nr_lines; i++) {
        line_cut(&claim.lines[i]);
        for (node = 0; node < BALLAST_MAX_NODES; node++) {
            uint64_t bytes = claim.lines[i].resident_bytes[node];

            if (bytes) {
                u = usage_get(set, &nr, node, claim.lines[i].page_bytes);
                u->resident_bytes += bytes;
                resident += bytes;
            }
        }
    }
    for (i = 0; i < nr; i++) {
        set[i].freeable_bytes = MIN(left, set[i].resident_bytes);
        left -= set[i].freeable_bytes;
    }
    ballast_report(claim.ledger, set, nr);
    trace_ballast_claim_resident(ballast_claim_slot(), resident,
                                 claim.freeable_bytes - left);
}

static void add_block_sample(RAMBlock *rb, uint64_t samples)
{
    uint32_t line = ballast_claim_line(rb);
    BallastSample s = {};
    unsigned node;

    if (line == BALLAST_NO_LINE) {
        return;
    }
    ballast_sample(rb->host, rb->used_length, rb->page_size, samples, &s);
    for (node = 0; node < BALLAST_MAX_NODES; node++) {
        claim.lines[line].resident_bytes[node] += QEMU_ALIGN_DOWN(
            ballast_sample_bytes(&s, s.on_node[node], rb->used_length),
            rb->page_size);
    }
}

/* What is on the node of a line that promises it counts there. */
static void move_resident(void)
{
    unsigned i;

    for (i = 0; i < claim.nr_moves; i++) {
        ClaimLine *from = &claim.lines[claim.moves[i].from];
        ClaimLine *to = &claim.lines[claim.moves[i].to];
        uint64_t bytes = MIN(claim.moves[i].bytes,
                             from->resident_bytes[to->node]);

        from->resident_bytes[to->node] -= bytes;
        to->resident_bytes[to->node] += bytes;
    }
}

static void pursue_soon(void)
{
    timer_mod(claim.pursue_timer, qemu_clock_get_ms(QEMU_CLOCK_REALTIME) +
              PURSUE_INTERVAL_MS);
}

/* Bring the claim to what is wanted, or at least down where it can be. */
static void settle(void)
{
    struct ballast_refusal why;

    if (!is_settled() && claim_ask(ASK_NOW, &why) < 0) {
        claim_ask(ASK_LESS, &why);
    }
}

static void pursue_tick(void *opaque)
{
    settle();
    if (sum_bytes(line_deficit_bytes)) {
        pursue_soon();
    }
}

/*
 * QEMU's own balloon tells nobody which pages it gave back: its size is all
 * there is, and that is a guest's word.  It is believed as far as the pages
 * are really gone, every two seconds, and only where one line pays for all.
 */
static void follow_stock_balloon(void)
{
    uint64_t ram_bytes = current_machine->ram_size;
    ClaimLine *line = &claim.lines[0];
    uint64_t resident_bytes = MIN(line_resident_bytes(line), line->base_bytes);
    g_autoptr(BalloonInfo) info = NULL;
    uint64_t given_bytes;

    if (claim.nr_lines != 1 ||
        object_resolve_path_type("", TYPE_BALLAST_BALLOON, NULL)) {
        return;
    }
    info = qmp_query_balloon(NULL);
    if (!info) {
        return;
    }
    if (current_machine->device_memory) {
        ram_bytes += current_machine->device_memory->dimm_size;
    }
    given_bytes = ram_bytes - MIN(ram_bytes, (uint64_t)info->actual);
    given_bytes = MIN(given_bytes, line->base_bytes - resident_bytes);
    if (given_bytes != line->given_bytes) {
        line->given_bytes = ROUND_DOWN(given_bytes, line->page_bytes);
        pursue_soon();
    }
}

static void sample_tick(void *opaque)
{
    unsigned i, nr_blocks = 0;
    RAMBlock *rb;

    for (i = 0; i < claim.nr_lines; i++) {
        memset(claim.lines[i].resident_bytes, 0,
               sizeof(claim.lines[i].resident_bytes));
    }
    WITH_RCU_READ_LOCK_GUARD() {
        QLIST_FOREACH_RCU(rb, &ram_list.blocks, next) {
            nr_blocks += ballast_claim_line(rb) != BALLAST_NO_LINE;
        }
        QLIST_FOREACH_RCU(rb, &ram_list.blocks, next) {
            add_block_sample(rb, RESIDENT_SAMPLES / MAX(nr_blocks, 1));
        }
    }
    move_resident();
    follow_stock_balloon();
    report_resident();
    settle();
    timer_mod(claim.sample_timer,
              qemu_clock_get_ms(QEMU_CLOCK_REALTIME) + SAMPLE_INTERVAL_MS);
}

/* The balloon moved: look again before long, but not at every buffer. */
static void sample_soon(void)
{
    int64_t at_ms = qemu_clock_get_ms(QEMU_CLOCK_REALTIME) + SOON_MS;

    if (at_ms < timer_expire_time_ns(claim.sample_timer) / SCALE_MS) {
        timer_mod(claim.sample_timer, at_ms);
    }
}

/* Following the balloon ----------------------------------------------- */

static bool is_nothing(const BallastDelta *delta)
{
    return buffer_is_zero(delta, sizeof(*delta));
}

static Move *move_get(uint32_t from, uint32_t to)
{
    Move *move;
    unsigned i;

    for (i = 0; i < claim.nr_moves; i++) {
        move = &claim.moves[i];
        if (move->from == from && move->to == to) {
            return move;
        }
    }
    if (claim.nr_moves == BALLAST_MAX_LINES) {
        return NULL;
    }
    move = &claim.moves[claim.nr_moves++];
    *move = (Move) { .from = from, .to = to };
    return move;
}

/* A negative amount moves back. */
static void move_bytes(Move *move, int64_t bytes)
{
    move->bytes += bytes;
    claim.lines[move->from].moved_out_bytes += bytes;
    claim.lines[move->to].moved_in_bytes += bytes;
}

static void move_back(const ClaimLine *line, uint64_t bytes)
{
    unsigned i;

    for (i = 0; bytes && i < claim.nr_moves; i++) {
        Move *move = &claim.moves[i];
        uint64_t part = MIN(bytes, move->bytes);

        if (&claim.lines[move->from] == line) {
            move_bytes(move, -part);
            bytes -= part;
        }
    }
}

/* A line of a node that promises what would be another's; or none. */
static uint32_t line_on(const ClaimLine *from, uint32_t node)
{
    ClaimLine *to = from->node == BALLAST_NODE_ANY ?
                    line_get(node, from->page_bytes) : NULL;

    return to ? to - claim.lines : BALLAST_NO_LINE;
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
    unsigned i, nr = claim.nr_lines;

    for (i = 0; i < nr; i++) {
        uint32_t to = moved->bytes[i] ? line_on(&claim.lines[i], node) :
                      BALLAST_NO_LINE;
        Move *move = to != BALLAST_NO_LINE ? move_get(i, to) : NULL;

        if (move) {
            there->bytes[i] = move_there(&claim.lines[i], &claim.lines[to]);
            move_bytes(move, moved->bytes[i] + there->bytes[i]);
        }
    }
}

static void move_none(const BallastDelta *moved, uint32_t node,
                      const BallastDelta *there)
{
    unsigned i, k;

    for (k = 0; k < claim.nr_moves; k++) {
        Move *move = &claim.moves[k];
        ClaimLine *to = &claim.lines[move->to];

        i = move->from;
        if (moved->bytes[i] && to->node == node) {
            move_bytes(move, -(moved->bytes[i] + there->bytes[i]));
            to->resident_bytes[node] -= there->bytes[i];
            claim.lines[i].resident_bytes[node] += there->bytes[i];
        }
    }
}

static void line_gave(ClaimLine *line, uint64_t bytes)
{
    unsigned node;

    move_back(line, bytes);
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

    if (!claim.ledger || is_nothing(given)) {
        return;
    }
    for (i = 0; i < claim.nr_lines; i++) {
        line_gave(&claim.lines[i], given->bytes[i]);
    }
    report_resident();
    settle();
    sample_soon();
}

static void take(const BallastDelta *taken, bool back)
{
    unsigned i;

    for (i = 0; i < claim.nr_lines; i++) {
        if (back) {
            claim.lines[i].given_bytes += taken->bytes[i];
        } else {
            claim.lines[i].given_bytes -= MIN(taken->bytes[i],
                                              claim.lines[i].given_bytes);
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
    unsigned nr_lines = claim.nr_lines, nr_moves = claim.nr_moves;
    bool was_in_line = claim.in_line;
    struct ballast_refusal why;
    BallastDelta there = {};

    if (!claim.ledger || is_nothing(taken)) {
        return true;
    }
    take(taken, false);
    move_all(moved, node, &there);
    /*
     * More than the claim is resident where the user claimed less than the
     * RAM: that is no want of capacity, and no reason to hold anybody back.
     */
    if (claim_ask(wait ? ASK_IN_LINE : ASK_NOW, &why) == 0 ||
        why.reason == BALLAST_BELOW_RESIDENT) {
        return true;
    }
    take(taken, true);
    move_none(moved, node, &there);
    /* Lines made for this, and never granted: a node may not be known. */
    claim.nr_lines = nr_lines;
    claim.nr_moves = nr_moves;
    if (!was_in_line) {
        count_refusal(&why);
    }
    if (words) {
        *words = refusal_words(&why);
    }
    if (missing) {
        *missing = why.missing_bytes;
    }
    return false;
}

void ballast_claim_wait_no_more(void)
{
    if (claim.in_line) {
        ballast_queue_cancel(claim.ledger);
        claim.in_line = false;
    }
}

void ballast_claim_owe(const BallastDelta *taken, bool pursue)
{
    if (!claim.ledger) {
        return;
    }
    take(taken, false);
    if (pursue) {
        pursue_soon();
    }
}

void ballast_claim_forget(uint32_t line, uint64_t given_bytes)
{
    if (claim.ledger && line != BALLAST_NO_LINE) {
        claim.lines[line].given_bytes -=
            MIN(given_bytes, claim.lines[line].given_bytes);
    }
}

void ballast_claim_freeable(uint64_t bytes)
{
    claim.freeable_bytes = bytes;
}

/* Blocks -------------------------------------------------------------- */

static void find_blocks(void)
{
    GArray *blocks = g_array_new(false, false, sizeof(ClaimBlock));
    RAMBlock *rb;

    RCU_READ_LOCK_GUARD();
    QLIST_FOREACH_RCU(rb, &ram_list.blocks, next) {
        ClaimBlock block = {
            .rb = rb,
            .line = line_of_backend(rb),
            .bytes = claim.auto_lines ? rb->used_length : 0,
        };

        if (block.line != BALLAST_NO_LINE) {
            g_array_append_val(blocks, block);
        }
    }
    claim.blocks = blocks;
}

static void machine_made(Notifier *n, void *unused)
{
    if (!claim.by_backend) {
        find_blocks();
    }
    /* QEMU has installed its own handler of SIGBUS since the ledger's open. */
    ballast_guard_rearm();
}

/* Unplugged: it needs no promise any more.  A sample before long asks for less. */
static void block_removed(RAMBlockNotifier *n, void *host, size_t size,
                          size_t max_size)
{
    ClaimLine *line;
    unsigned i;

    for (i = 0; claim.blocks && i < claim.blocks->len; i++) {
        ClaimBlock *block = &g_array_index(claim.blocks, ClaimBlock, i);

        if (block->rb->host == host) {
            line = &claim.lines[block->line];
            line->base_bytes -= MIN(block->bytes, line->base_bytes);
            if (line->moved_out_bytes > line->base_bytes) {
                move_back(line, line->moved_out_bytes - line->base_bytes);
            }
            g_array_remove_index_fast(claim.blocks, i);
            sample_soon();
            return;
        }
    }
}

static void follow_blocks(void)
{
    claim.machine_done.notify = machine_made;
    qemu_add_machine_init_done_notifier(&claim.machine_done);
    claim.block_notifier.ram_block_removed = block_removed;
    ram_block_notifier_add(&claim.block_notifier);
}

/* Staking ------------------------------------------------------------- */

static bool add_user_line(const char *text, Error **errp)
{
    struct ballast_demand demand;

    if (ballast_parse_demand(text, &demand) < 0) {
        error_setg(errp, "claim=%s is not a claim; allowed: auto, or "
                   "SIZE[@NODE][/PAGESIZE] such as 4G, 2G@1, 1G@0/2M", text);
        return false;
    }
    if (!demand.page_bytes) {
        demand.page_bytes = qemu_real_host_page_size();
    }
    return line_add(demand.node, demand.page_bytes, demand.bytes, errp);
}

static int add_backend_line(Object *obj, void *opaque)
{
    Error **errp = opaque;
    HostMemoryBackend *backend;

    if (!object_dynamic_cast(obj, TYPE_MEMORY_BACKEND)) {
        return 0;
    }
    backend = MEMORY_BACKEND(obj);
    return !line_add(ballast_bound_node(backend),
                     host_memory_backend_pagesize(backend),
                     backend->size, errp);
}

/* Is the machine's RAM made of backends which exist already? */
static bool ram_is_there(MachineState *machine)
{
    int i;

    if (machine->memdev) {
        return true;
    }
    for (i = 0; machine->numa_state && i < machine->numa_state->num_nodes;
         i++) {
        if (machine->numa_state->nodes[i].node_memdev) {
            return true;
        }
    }
    return false;
}

static bool add_machine_lines(Error **errp)
{
    Error *err = NULL;

    object_child_foreach(object_get_objects_root(), add_backend_line, &err);
    if (!err && !ram_is_there(current_machine)) {
        line_add(BALLAST_NODE_ANY, qemu_real_host_page_size(),
                 current_machine->ram_size, &err);
    }
    if (err) {
        error_propagate(errp, err);
        return false;
    }
    return true;
}

static bool is_auto(const BallastClaimOptions *o)
{
    return !o->claims->len ||
           (o->claims->len == 1 &&
            g_str_equal(g_ptr_array_index(o->claims, 0), "auto"));
}

static bool add_inherited_lines(Error **errp)
{
    struct ballast_own own[BALLAST_MAX_LINES];
    int nr = ballast_own(claim.ledger, own, BALLAST_MAX_LINES);
    int i;

    if (nr < 0) {
        error_setg_errno(errp, -nr, "cannot read the inherited claim");
        return false;
    }
    for (i = 0; i < MIN(nr, BALLAST_MAX_LINES); i++) {
        if (own[i].claimed_bytes &&
            !line_add(own[i].node, own[i].page_bytes, own[i].claimed_bytes,
                      errp)) {
            return false;
        }
    }
    return true;
}

static bool add_lines(const BallastClaimOptions *o, Error **errp)
{
    unsigned i;

    if (claim.inherited && !o->claims->len) {
        return add_inherited_lines(errp);
    }
    if (is_auto(o)) {
        claim.auto_lines = true;
        return add_machine_lines(errp);
    }
    for (i = 0; i < o->claims->len; i++) {
        if (!add_user_line(g_ptr_array_index(o->claims, i), errp)) {
            return false;
        }
    }
    return true;
}

static char *default_name(void)
{
    const char *name = qemu_get_vm_name();

    return name ? g_strdup(name) : g_strdup_printf("qemu-%d", getpid());
}

/* An heir is known to the ledger by the name that 'ballast run' gave it. */
static void take_inherited_name(void)
{
    struct ballast_status *st;
    uint64_t serial;
    uint32_t slot;
    size_t i;

    if (ballast_slot(claim.ledger, &slot, &serial) < 0 ||
        ballast_status_get(claim.ledger, &st) < 0) {
        return;
    }
    for (i = 0; i < st->nr_participants; i++) {
        if (st->participants[i].slot == slot) {
            g_free(claim.name);
            claim.name = g_strdup(st->participants[i].name);
        }
    }
    ballast_status_free(st);
}

/* Leave @claim.ledger open and joined, or NULL if none was asked for. */
static bool claim_join(const BallastClaimOptions *o, Error **errp)
{
    const char *inherit = getenv(BALLAST_ENV_CLAIM);
    struct ballast_refusal why;
    g_autofree char *words = NULL;
    int ret;

    if (inherit) {
        claim.inherited = true;
        g_clear_pointer(&claim.path, g_free);
        ret = ballast_adopt(inherit, &claim.ledger, &why);
        unsetenv(BALLAST_ENV_CLAIM);
        if (ret == 0) {
            take_inherited_name();
        }
    } else if (o->path) {
        ret = ballast_ledger_open(o->path, &claim.ledger, &why);
        if (ret == 0) {
            ret = ballast_join(claim.ledger, claim.name, 0, &why);
        }
    } else {
        return true;
    }
    if (ret < 0) {
        words = refusal_words(&why);
        error_setg(errp, "%s", words);
    }
    return ret == 0;
}

static void start_timers(void)
{
    claim.sample_timer = timer_new_ms(QEMU_CLOCK_REALTIME, sample_tick, NULL);
    claim.pursue_timer = timer_new_ms(QEMU_CLOCK_REALTIME, pursue_tick, NULL);
    timer_mod(claim.sample_timer,
              qemu_clock_get_ms(QEMU_CLOCK_REALTIME) + SOON_MS);
}

static bool claim_stake(Error **errp)
{
    struct ballast_refusal why;
    g_autofree char *words = NULL;

    if (claim_ask(false, &why) < 0) {
        words = refusal_words(&why);
        error_setg(errp, "%s", words);
        return false;
    }
    trace_ballast_claim_staked(ballast_claim_slot(),
                               sum_bytes(line_granted_bytes),
                               claim.inherited);
    return true;
}

static bool claim_open(const BallastClaimOptions *o, Error **errp)
{
    uint64_t serial;

    claim.name = o->name ? g_strdup(o->name) : default_name();
    claim.path = g_strdup(o->path);

    if (!claim_join(o, errp)) {
        return false;
    }
    if (claim.ledger) {
        ballast_slot(claim.ledger, &claim.slot, &serial);
    }
    return true;
}

static void claim_run(void)
{
    ballast_set_patience(claim.ledger, DAEMON_PATIENCE_MS);
    start_timers();
    follow_blocks();
}

static void claim_close(void)
{
    ballast_ledger_close(claim.ledger);
    claim.ledger = NULL;
}

bool ballast_claim_start(const BallastClaimOptions *o, Error **errp)
{
    if (!claim_open(o, errp)) {
        return false;
    }
    if (!claim.ledger) {
        return true;
    }
    if (!add_lines(o, errp) || !claim_stake(errp)) {
        claim_close();
        return false;
    }
    claim_run();
    return true;
}

/* Parts: what backends stake by themselves ---------------------------- */

bool ballast_claim_start_empty(const BallastClaimOptions *o, Error **errp)
{
    if (!claim_open(o, errp)) {
        return false;
    }
    if (claim.ledger) {
        claim.auto_lines = claim.by_backend = true;
        claim.blocks = g_array_new(false, false, sizeof(ClaimBlock));
        claim_run();
    }
    return true;
}

bool ballast_claim_by_backend(void)
{
    return claim.by_backend;
}

static void parts_undo(const BallastPart *parts, unsigned nr)
{
    unsigned i;

    for (i = 0; i < nr; i++) {
        line_get(parts[i].node, parts[i].page_bytes)->base_bytes -=
            parts[i].bytes;
    }
}

static bool parts_add(const BallastPart *parts, unsigned nr, Error **errp)
{
    unsigned i;

    for (i = 0; i < nr; i++) {
        if (!line_add(parts[i].node, parts[i].page_bytes, parts[i].bytes,
                      errp)) {
            parts_undo(parts, i);
            return false;
        }
    }
    return true;
}

bool ballast_claim_grow(const BallastPart *parts, unsigned nr, Error **errp)
{
    struct ballast_refusal why;
    g_autofree char *words = NULL;

    if (!parts_add(parts, nr, errp)) {
        return false;
    }
    if (claim_ask(ASK_NOW, &why) == 0 ||
        why.reason == BALLAST_BELOW_RESIDENT) {
        return true;
    }
    parts_undo(parts, nr);
    count_refusal(&why);
    words = refusal_words(&why);
    error_setg(errp, "%s", words);
    return false;
}

void ballast_claim_shrink(const BallastPart *part)
{
    ClaimLine *line = line_get(part->node, part->page_bytes);

    line->base_bytes -= MIN(part->bytes, line->base_bytes);
    sample_soon();
}

void ballast_claim_attach(RAMBlock *rb, const BallastPart *part)
{
    ClaimBlock block = {
        .rb = rb,
        .line = line_get(part->node, part->page_bytes) - claim.lines,
        .bytes = part->bytes,
    };

    g_array_append_val(claim.blocks, block);
    sample_soon();
}

static BallastPart block_part(const ClaimBlock *block, uint64_t bytes)
{
    return (BallastPart) {
        .node = claim.lines[block->line].node,
        .page_bytes = claim.lines[block->line].page_bytes,
        .bytes = bytes,
    };
}

bool ballast_claim_raise_block(const RAMBlock *rb, uint64_t bytes,
                               Error **errp)
{
    ClaimBlock *block = block_find(rb);
    BallastPart part;

    if (!block || bytes <= block->bytes) {
        return true;
    }
    part = block_part(block, bytes - block->bytes);
    if (!ballast_claim_grow(&part, 1, errp)) {
        return false;
    }
    block->bytes = bytes;
    return true;
}

void ballast_claim_follow_block(const RAMBlock *rb, uint64_t bytes)
{
    ClaimBlock *block = block_find(rb);

    if (block && block->bytes != bytes) {
        claim.lines[block->line].base_bytes += bytes - block->bytes;
        block->bytes = bytes;
        pursue_soon();
    }
}

/* QMP ----------------------------------------------------------------- */

static MemoryLedgerDemandList *info_lines(void)
{
    MemoryLedgerDemandList *list = NULL, **tail = &list;
    unsigned i;

    for (i = 0; i < claim.nr_lines; i++) {
        const ClaimLine *line = &claim.lines[i];
        MemoryLedgerDemand *d = g_new0(MemoryLedgerDemand, 1);

        d->has_node = line->node != BALLAST_NODE_ANY;
        d->node = d->has_node ? line->node : 0;
        d->page_size = line->page_bytes;
        d->claimed = desired_bytes(line);
        d->given_back = line->given_bytes;
        QAPI_LIST_APPEND(tail, d);
    }
    return list;
}

MemoryLedgerInfo *ballast_claim_info(Error **errp)
{
    MemoryLedgerInfo *info;

    if (!claim.ledger) {
        error_setg(errp, "this QEMU has no memory ledger (give one with %s, "
                   "or start it with 'ballast run')", ballast_in_qemu ?
                   "-object memory-ledger,id=ID,path=PATH" :
                   "-plugin ballast-qemu.so,ledger=PATH");
        return NULL;
    }
    info = g_new0(MemoryLedgerInfo, 1);
    info->path = g_strdup(claim.path);
    info->name = g_strdup(claim.name);
    info->slot = ballast_claim_slot();
    info->inherited = claim.inherited;
    info->claims = info_lines();
    info->resident = sum_bytes(line_resident_bytes);
    info->freeable = MIN(claim.freeable_bytes, info->resident);
    info->deficit = sum_bytes(line_deficit_bytes);
    info->refused = claim.refused;
    return info;
}
