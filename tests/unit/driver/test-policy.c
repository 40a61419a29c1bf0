/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The guest driver's policy: a model guest does what bb_choose() says until
 * it comes to rest.  Usage examples of seed 002, and random goals.
 */
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include "policy.h"

#define NODES 4
#define BATCH 64UL
#define STEPS 5000

static int tests;
static int bad;

static void report(bool ok, const char *what)
{
    printf("%sok %d - %s\n", ok ? "" : "not ", ++tests, what);
    bad += !ok;
}

struct guest {
    struct bb_node_state node[NODES];
    unsigned long total;
    bool is_short;
    bool retry;
};

static unsigned long held(const struct guest *guest)
{
    unsigned long sum = 0;

    for (int i = 0; i < NODES; i++) {
        sum += guest->node[i].held;
    }
    return sum;
}

static struct guest new_guest(unsigned long free)
{
    struct guest guest = {};

    for (int i = 0; i < NODES; i++) {
        guest.node[i].free = free;
        guest.node[i].target = BB_NO_TARGET;
    }
    return guest;
}

/* One batch, as the driver does it: less than asked for means dry. */
static void follow(struct guest *guest, const struct bb_step *step)
{
    struct bb_node_state *node = &guest->node[step->node];
    unsigned long pages = step->pages < BATCH ? step->pages : BATCH;

    if (step->action == BB_DEFLATE) {
        node->held -= pages;
        node->free += pages;
        return;
    }
    if (pages > node->free) {
        pages = node->free;
        node->dry = true;
    }
    node->held += pages;
    node->free -= pages;
}

static bool sane(const struct guest *guest, const struct bb_step *step)
{
    const struct bb_node_state *node = &guest->node[step->node];

    if (step->node >= NODES || !step->pages) {
        return false;
    }
    if (step->action == BB_DEFLATE) {
        return step->pages <= node->held;
    }
    return !node->dry &&
        !(node->exact && node->held + step->pages > node->target);
}

/* To rest; false if it never comes, or on a step that must not be. */
static bool settle(struct guest *guest)
{
    for (int i = 0; i < NODES; i++) {
        guest->node[i].dry = false;
    }
    for (int i = 0; i < STEPS; i++) {
        struct bb_step step = bb_choose(guest->total, guest->node, NODES);

        if (step.action == BB_REST) {
            guest->is_short = step.is_short;
            guest->retry = step.retry;
            return true;
        }
        if (!sane(guest, &step)) {
            return false;
        }
        follow(guest, &step);
    }
    return false;
}

static bool rests_at(struct guest *guest, unsigned long a, unsigned long b,
                     unsigned long c, unsigned long d, bool is_short)
{
    unsigned long want[NODES] = { a, b, c, d };
    bool ok = settle(guest) && guest->is_short == is_short;

    for (int i = 0; i < NODES; i++) {
        ok = ok && guest->node[i].held == want[i];
    }
    if (!ok) {
        printf("# held %lu %lu %lu %lu of %lu, %s\n", guest->node[0].held,
               guest->node[1].held, guest->node[2].held, guest->node[3].held,
               guest->total, guest->is_short ? "short" : "reached");
    }
    return ok;
}

static void ask(struct guest *guest, int node, unsigned long target, bool exact)
{
    guest->node[node].target = target;
    guest->node[node].exact = exact;
}

static void test_plain(void)
{
    struct guest guest = new_guest(1000);

    guest.total = 1200;
    report(settle(&guest) && held(&guest) == 1200 && !guest.is_short,
           "a total without targets is reached");
    bool even = true;
    for (int i = 0; i < NODES; i++) {
        even = even && guest.node[i].held > 200 && guest.node[i].held < 400;
    }
    report(even, "it is taken from all nodes alike");
    guest.total = 100;
    report(settle(&guest) && held(&guest) == 100, "and given back");
    guest.total = 5000;
    report(settle(&guest) && held(&guest) == 4000 && guest.is_short &&
           guest.retry, "more than there is: all there is, short");
}

/* Memory of nodes 1 and 2 is on the host node that is asked for. */
static void test_down(void)
{
    struct guest guest = new_guest(1000);

    guest.total = 600;
    ask(&guest, 1, 300, true);
    ask(&guest, 2, 300, true);
    report(rests_at(&guest, 0, 300, 300, 0, false), "down exact");

    guest.total = 2300;
    ask(&guest, 1, 1150, true);
    ask(&guest, 2, 1150, true);
    report(rests_at(&guest, 0, 1000, 1000, 0, true) && !guest.retry,
           "down exact, more than the nodes have: nothing from elsewhere");

    ask(&guest, 1, 1150, false);
    ask(&guest, 2, 1150, false);
    report(settle(&guest) && guest.node[1].held == 1000 &&
           guest.node[2].held == 1000 && held(&guest) == 2300 &&
           !guest.is_short,
           "down inexact: what they lack comes from elsewhere");
}

static void test_up(void)
{
    struct guest guest = new_guest(1000);

    guest.total = 800;
    for (int i = 0; i < NODES; i++) {
        ask(&guest, i, 200, true);
    }
    report(rests_at(&guest, 200, 200, 200, 200, false), "all nodes exact");
    guest.total = 650;
    ask(&guest, 1, 50, true);
    report(rests_at(&guest, 200, 50, 200, 200, false), "up exact");
}

static void test_compensation(void)
{
    struct guest guest = new_guest(1000);

    guest.total = 1500;
    ask(&guest, 0, 1200, false);
    for (int i = 1; i < NODES; i++) {
        ask(&guest, i, 100, false);
    }
    report(settle(&guest) && held(&guest) == 1500 && !guest.is_short &&
           guest.node[0].held == 1000,
           "inexact nodes stand in for each other");
    struct guest before = guest;
    report(rests_at(&guest, before.node[0].held, before.node[1].held,
                    before.node[2].held, before.node[3].held, false),
           "and are left alone the next time");
    guest.node[0].free = 500;
    report(rests_at(&guest, 1200, 100, 100, 100, false),
           "until the node has its target after all");
}

static void test_unknown(void)
{
    struct guest guest = new_guest(1000);
    struct bb_node_state none = { .target = 300, .exact = true, .dry = true };

    guest.total = 400;
    guest.node[3] = none;
    struct bb_step step = bb_choose(guest.total, guest.node, NODES);
    report(step.action == BB_INFLATE && step.pages == 100,
           "an unknown exact node's share is taken from nowhere");
}

static unsigned long pick(unsigned long below)
{
    return (unsigned long)rand() % below;
}

static bool good_end(const struct guest *guest)
{
    unsigned long targets = 0, owed = 0, capacity_left = 0;

    for (int i = 0; i < NODES; i++) {
        const struct bb_node_state *node = &guest->node[i];

        if (node->target == BB_NO_TARGET) {
            capacity_left += node->free;
            continue;
        }
        targets += node->target;
        if (node->exact && node->held > node->target) {
            return false;
        }
        if (node->held < node->target) {
            if (node->free) {
                return false;       /* it had more to give */
            }
            owed += node->exact ? node->target - node->held : 0;
        }
    }
    if (held(guest) + owed < guest->total && capacity_left) {
        return false;
    }
    if (targets <= guest->total && held(guest) > guest->total) {
        return false;
    }
    return guest->is_short == (owed || held(guest) < guest->total);
}

static void test_random(void)
{
    struct guest guest = new_guest(500);
    int i;

    srand(1);
    for (i = 0; i < 20000; i++) {
        guest.total = pick(2400);
        for (int n = 0; n < NODES; n++) {
            bool some = pick(2);

            ask(&guest, n, some ? pick(700) : BB_NO_TARGET, some && pick(2));
            if (!pick(8)) {         /* the guest uses or frees memory */
                guest.node[n].free = pick(600);
            }
        }
        if (!settle(&guest) || !good_end(&guest)) {
            break;
        }
    }
    if (i < 20000) {
        printf("# goal %d\n", i);
    }
    report(i == 20000, "random goals come to rest where they should");
}

int main(void)
{
    test_plain();
    test_down();
    test_up();
    test_compensation();
    test_unknown();
    test_random();
    printf("1..%d\n", tests);
    return bad != 0;
}
