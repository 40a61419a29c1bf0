/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What of the claim is resident: sampled every two seconds, sooner when the
 * balloon moved, and told to the ledger; and the claim brought to what is
 * wanted, as often as it takes.
 */
#include "qemu/osdep.h"
#include "claim-internal.h"
#include "hw/boards.h"
#include "hw/virtio/ballast/balloon.h"
#include "hw/virtio/ballast/placement.h"
#include "qapi/qapi-commands-machine.h"
#include "qemu/rcu_queue.h"
#include "qemu/timer.h"
#include "trace-hw_virtio_ballast.h"

#define SAMPLE_INTERVAL_MS 2000
#define PURSUE_INTERVAL_MS 100
#define RESIDENT_SAMPLES 1024
/* 1,024 samples err by 3 % of the size at 95 % confidence, or less. */
#define SAMPLE_ERROR_PART 32

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
    uint64_t limit = ballast_line_desired(line);
    uint64_t sum = ballast_line_resident(line);
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

void ballast_report_resident(void)
{
    g_autofree struct ballast_usage *set =
        g_new(struct ballast_usage, BALLAST_MAX_LINES * BALLAST_MAX_NODES);
    uint64_t resident = 0, left = claim->freeable_bytes;
    struct ballast_usage *u;
    unsigned i, node;
    size_t nr = 0;

    for (i = 0; i < claim->nr_lines; i++) {
        line_cut(&claim->lines[i]);
        for (node = 0; node < BALLAST_MAX_NODES; node++) {
            uint64_t bytes = claim->lines[i].resident_bytes[node];

            if (bytes) {
                u = usage_get(set, &nr, node, claim->lines[i].page_bytes);
                u->resident_bytes += bytes;
                resident += bytes;
            }
        }
    }
    for (i = 0; i < nr; i++) {
        set[i].freeable_bytes = MIN(left, set[i].resident_bytes);
        left -= set[i].freeable_bytes;
    }
    ballast_report(claim->ledger, set, nr);
    trace_ballast_claim_resident(ballast_claim_slot(), resident,
                                 claim->freeable_bytes - left);
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
        claim->lines[line].resident_bytes[node] += QEMU_ALIGN_DOWN(
             ballast_sample_bytes(&s, s.on_node[node], rb->used_length),
             rb->page_size);
    }
}

/* What is on the node of a line that promises it counts there. */
static void move_resident(void)
{
    unsigned i;

    for (i = 0; i < claim->nr_moves; i++) {
        ClaimLine *from = &claim->lines[claim->moves[i].from];
        ClaimLine *to = &claim->lines[claim->moves[i].to];
        uint64_t bytes = MIN(claim->moves[i].bytes,
                             from->resident_bytes[to->node]);

        from->resident_bytes[to->node] -= bytes;
        to->resident_bytes[to->node] += bytes;
    }
}

void ballast_pursue_soon(void)
{
    timer_mod(claim->pursue_timer, qemu_clock_get_ms(QEMU_CLOCK_REALTIME) +
              PURSUE_INTERVAL_MS);
}

/* Bring the claim to what is wanted, or at least down where it can be. */
void ballast_claim_settle(void)
{
    struct ballast_refusal why;

    if (!ballast_claim_settled() && ballast_claim_ask(ASK_NOW, &why) < 0) {
        ballast_claim_ask(ASK_LESS, &why);
    }
}

static void pursue_tick(void *opaque)
{
    ballast_claim_settle();
    if (ballast_line_sum(ballast_line_deficit)) {
        ballast_pursue_soon();
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
    ClaimLine *line = &claim->lines[0];
    uint64_t resident_bytes = MIN(ballast_line_resident(line),
                                  line->base_bytes);
    g_autoptr(BalloonInfo) info = NULL;
    uint64_t given_bytes;

    if (claim->nr_lines != 1 ||
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
        ballast_pursue_soon();
    }
}

void ballast_sample_resident(void)
{
    unsigned i, nr_blocks = 0;
    RAMBlock *rb;

    for (i = 0; i < claim->nr_lines; i++) {
        memset(claim->lines[i].resident_bytes, 0,
               sizeof(claim->lines[i].resident_bytes));
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
}

static void sample_tick(void *opaque)
{
    ballast_sample_resident();
    follow_stock_balloon();
    ballast_report_resident();
    ballast_claim_settle();
    timer_mod(claim->sample_timer,
              qemu_clock_get_ms(QEMU_CLOCK_REALTIME) + SAMPLE_INTERVAL_MS);
}

/* The balloon moved: look again before long, but not at every buffer. */
void ballast_sample_soon(void)
{
    int64_t at_ms = qemu_clock_get_ms(QEMU_CLOCK_REALTIME) + BALLAST_SOON_MS;

    if (at_ms < timer_expire_time_ns(claim->sample_timer) / SCALE_MS) {
        timer_mod(claim->sample_timer, at_ms);
    }
}

void ballast_claim_timers(void)
{
    claim->sample_timer = timer_new_ms(QEMU_CLOCK_REALTIME, sample_tick, NULL);
    claim->pursue_timer = timer_new_ms(QEMU_CLOCK_REALTIME, pursue_tick, NULL);
    timer_mod(claim->sample_timer,
              qemu_clock_get_ms(QEMU_CLOCK_REALTIME) + BALLAST_SOON_MS);
}
