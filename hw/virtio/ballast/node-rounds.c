/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What guest nodes are asked for, round by round (see node-request.c for what
 * a round is).
 *
 * Down: candidates that are not dry, by what each has; then virtio-mem
 * devices; then, unless the request is exact, anybody.  Up: one round, for
 * all of it.  Without a driver that knows guest nodes: plain ballooning.
 */
#include "qemu/osdep.h"
#include "internal.h"

#define MAX_ROUNDS 16
/* Shares are whole huge pages, as long as there is a choice. */
#define SHARE_PAGES 512

static uint32_t driver_pages(const BallastBalloon *b)
{
    uint64_t sum = 0;
    unsigned i;

    for (i = 0; i < b->nodes.nr; i++) {
        sum += b->nodes.node[i].actual_pages;
    }
    return MIN(MAX(sum, b->parent_obj.actual), UINT32_MAX);
}

/* Has the driver given all it was asked for, so that it may have more? */
static bool is_dry(const BallastBalloon *b, unsigned entry)
{
    const BallastNode *node = &b->nodes.node[entry];

    return node->target_pages != BALLAST_NO_TARGET &&
           node->actual_pages < node->target_pages;
}

/*
 * Deal @pages to nodes by what each has (@can); what was dealt is taken off
 * @can and added to @share.  Returns how much was dealt.
 */
static uint64_t deal(uint64_t pages, uint32_t mask, uint64_t *can,
                     uint64_t *share)
{
    uint64_t all = 0, left, part;
    unsigned i;

    for (i = 0; i < BALLAST_NODES_MAX; i++) {
        all += mask & (1U << i) ? can[i] : 0;
    }
    pages = MIN(pages, all);
    left = pages;
    for (i = 0; all && i < BALLAST_NODES_MAX; i++) {
        if (mask & (1U << i)) {
            part = ROUND_DOWN((__uint128_t)pages * can[i] / all,
                              SHARE_PAGES);
            share[i] += part;
            can[i] -= part;
            left -= part;
        }
    }
    for (i = 0; left && i < BALLAST_NODES_MAX; i++) {
        if (mask & (1U << i)) {
            part = MIN(left, can[i]);
            share[i] += part;
            can[i] -= part;
            left -= part;
        }
    }
    return pages;
}

static void set_target(BallastBalloon *b, unsigned entry, uint64_t pages)
{
    b->nodes.node[entry].target_pages = MIN(pages, BALLAST_NO_TARGET - 1);
    b->nodes.exact_mask |= 1U << entry;
}

static uint32_t total(uint64_t pages)
{
    return MIN(pages, UINT32_MAX);
}

/* Ask candidates that are not dry; true if there was something to ask. */
static bool ask_candidates(BallastBalloon *b)
{
    BallastNodeRequest *r = &b->nodes.request;
    uint64_t share[BALLAST_NODES_MAX] = {}, dealt;
    uint64_t left = ballast_request_left_pages(b);
    uint32_t mask = r->candidates;
    unsigned i;

    for (i = 0; i < b->nodes.nr; i++) {
        if (is_dry(b, i)) {
            mask &= ~(1U << i);
        }
    }
    dealt = deal(left, mask & r->pure, r->can_pages, share);
    dealt += deal(left - dealt, mask & ~r->pure, r->can_pages, share);
    if (!dealt) {
        return false;
    }
    ballast_nodes_withdraw(b);
    for (i = 0; i < b->nodes.nr; i++) {
        if (r->candidates & (1U << i)) {
            set_target(b, i, b->nodes.node[i].actual_pages + share[i]);
        }
    }
    ballast_nodes_publish(b, total(driver_pages(b) + dealt));
    return true;
}

/* The candidates are dry: the rest may come from anywhere. */
static bool ask_anybody(BallastBalloon *b)
{
    BallastNodeRequest *r = &b->nodes.request;

    if (r->exact || r->last || !ballast_request_left_pages(b)) {
        return false;
    }
    r->last = true;
    ballast_nodes_withdraw(b);
    ballast_nodes_publish(b, total(driver_pages(b) +
                                   ballast_request_left_pages(b)));
    return true;
}

/* virtio-mem devices of the node have their turn once. */
static bool ask_mems(BallastBalloon *b)
{
    BallastNodeRequest *r = &b->nodes.request;

    if (!r->virtio_mem || r->mems_done) {
        return false;
    }
    r->mems_done = true;
    return ballast_mems_ask(b, ballast_request_left_pages(b) *
                            BALLAST_PAGE_BYTES);
}

static bool ask_down(BallastBalloon *b)
{
    return b->nodes.request.round++ < MAX_ROUNDS &&
           ((!b->nodes.request.last && ask_candidates(b)) || ask_mems(b) ||
            ask_anybody(b));
}

/* Give back, first of the candidates; false if there is nothing. */
static bool ask_up(BallastBalloon *b)
{
    BallastNodeRequest *r = &b->nodes.request;
    uint64_t share[BALLAST_NODES_MAX] = {}, can[BALLAST_NODES_MAX] = {}, dealt;
    unsigned i;

    for (i = 0; i < b->nodes.nr; i++) {
        can[i] = MIN(b->nodes.node[i].actual_pages, b->nodes.node[i].in_pages);
    }
    dealt = deal(r->wanted_pages, r->candidates, can, share);
    if (!r->exact) {
        dealt += deal(r->wanted_pages - dealt, ~r->candidates, can, share);
    }
    if (!dealt) {
        return false;
    }
    ballast_nodes_withdraw(b);
    for (i = 0; i < b->nodes.nr; i++) {
        if (share[i]) {
            set_target(b, i, b->nodes.node[i].actual_pages - share[i]);
        }
    }
    ballast_nodes_publish(b, driver_pages(b) - MIN(dealt, driver_pages(b)));
    return true;
}

static bool ask_plainly(BallastBalloon *b)
{
    BallastNodeRequest *r = &b->nodes.request;
    uint64_t actual = b->parent_obj.actual;

    if (r->up && !actual) {
        return false;
    }
    ballast_nodes_withdraw(b);
    ballast_nodes_publish(b, r->up ? actual - MIN(actual, r->wanted_pages) :
                          total(actual + r->wanted_pages));
    return true;
}

bool ballast_request_ask_first(BallastBalloon *b)
{
    const BallastNodeRequest *r = &b->nodes.request;

    if (!r->by_driver) {
        return (!r->exact && ask_plainly(b)) || ask_mems(b);
    }
    return r->up ? ask_up(b) || ask_mems(b) : ask_down(b);
}

bool ballast_request_ask_next(BallastBalloon *b)
{
    const BallastNodeRequest *r = &b->nodes.request;

    return r->by_driver && !r->up ? ask_down(b) : ask_mems(b);
}
