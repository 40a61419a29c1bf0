/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * How long round 1 waits for hints: the rules, without QEMU.
 *
 * What is sent while the guest hints is hinted, and zeroed, a moment later:
 * work for nothing, for the wire and for both hosts.  So the migration
 * thread waits, one slice after the other.  A slice is paid for if at least
 * a quarter as many dirty pages went in it as could have been sent; what
 * goes beyond that pays for slices in which the guest had no processor, or
 * hinted what it never used and had to populate and zero for that: the rest
 * comes after it.  A dirty page of the first round goes once: a guest that
 * hints as fast as QEMU sends makes no migration longer.  What is not paid
 * for is bounded, as is the whole.
 *
 * No locking here: belongs to the migration thread.
 */
#ifndef BALLAST_PATIENCE_H
#define BALLAST_PATIENCE_H

#include <stdbool.h>
#include <stdint.h>

#define BALLAST_MS 1000000ULL

/** BALLAST_SLICE_NS - the length of a slice */
#define BALLAST_SLICE_NS (4 * BALLAST_MS)
/** BALLAST_WAIT_MOST_NS - the most that a migration waits in all */
#define BALLAST_WAIT_MOST_NS (1000 * BALLAST_MS)
/**
 * BALLAST_WAIT_IDLE_NS - slices in a row that bring too little, before QEMU
 * has its turn; after it there is one slice, to see
 */
#define BALLAST_WAIT_IDLE_NS (20 * BALLAST_MS)
/**
 * BALLAST_WAIT_UNPAID_NS - the most that is not paid for in all; as long in a
 * row, with QEMU's turns between them, and nobody waits any more
 */
#define BALLAST_WAIT_UNPAID_NS (40 * BALLAST_MS)
/**
 * BALLAST_HINT_WORTH - a hinted page is worth waiting this many times as long
 * as sending it would have taken
 */
#define BALLAST_HINT_WORTH 4
/** BALLAST_PAGES_PER_S - how fast QEMU sends, as long as that is not known */
#define BALLAST_PAGES_PER_S 262144

/**
 * struct ballast_patience - a migration's
 * @waited_ns: in all
 * @worth_ns: how long what went meanwhile was worth waiting for
 * @idle_ns: in slices that brought too little, since one that did not
 * @unpaid_ns: in all slices that brought too little
 * @slices: as many
 * @unpaid_slices: of these, such that brought too little
 * @gained_pages: dirty pages that went meanwhile
 * @sent_pages: what QEMU has sent when it had its turn
 * @sending_ns: for how long it had
 * @over: the guest has hinted all that it will
 */
struct ballast_patience {
    uint64_t waited_ns;
    uint64_t worth_ns;
    uint64_t idle_ns;
    uint64_t unpaid_ns;
    uint64_t slices;
    uint64_t unpaid_slices;
    uint64_t gained_pages;
    uint64_t sent_pages;
    uint64_t sending_ns;
    bool over;
};

/**
 * ballast_patience_sent() - QEMU had its turn
 * @p: a migration's
 * @pages: sent in it
 * @ns: how long it was
 */
void ballast_patience_sent(struct ballast_patience *p, uint64_t pages,
                           uint64_t ns);

/**
 * ballast_patience_pace() - how fast QEMU sends
 * @p: a migration's
 * @most_per_s: pages that the bandwidth limit lets through; 0: no limit
 *
 * Return: pages in a ns, above 0 unless QEMU had long turns and sent nothing.
 */
double ballast_patience_pace(const struct ballast_patience *p,
                             uint64_t most_per_s);

/**
 * ballast_patience_left() - may a slice begin?
 * @p: a migration's
 *
 * Return: false if this migration waits no more.
 */
bool ballast_patience_left(const struct ballast_patience *p);

/**
 * ballast_patience_waited() - a slice is over
 * @p: a migration's
 * @ns: how long it was really
 * @pages: dirty pages that went in it
 * @hinted_pages: hinted in it, dirty or not; such a slice does not count as
 *                idle, but is paid for by dirty pages like any other
 * @most_per_s: pages that the bandwidth limit lets through; 0: no limit
 * @finished: the guest says that it has hinted all that it will
 *
 * Return: true to wait on, if patience is left; false: QEMU has its turn.
 */
bool ballast_patience_waited(struct ballast_patience *p, uint64_t ns,
                             uint64_t pages, uint64_t hinted_pages,
                             uint64_t most_per_s, bool finished);

#endif
