/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Which of the guest's pages will be hinted before QEMU comes to them?
 *
 * A Linux that has not run for long hints its memory in the order of
 * addresses, give or take some blocks: a sweep.  What it has passed over is
 * used, and worth sending while the rest is hinted.  Hints cannot be applied
 * while QEMU sends, so what lies before them has to wait for them.  A guest
 * whose hints come in any order has no sweep, and nothing is known of its
 * pages.
 *
 * Only when pages are sent hangs on it, never whether.
 *
 * Pages are numbered through all RAM blocks, as QEMU sends them.  No
 * locking here: belongs to whoever has the hints lock; others copy it.
 */
#ifndef BALLAST_SWEEP_H
#define BALLAST_SWEEP_H

#include <stdbool.h>
#include <stdint.h>

/** BALLAST_SWEEP_HINTS - as many hints make a window; two make a sweep */
#define BALLAST_SWEEP_HINTS 8

/**
 * struct ballast_window - where some hints in a row were
 * @first: the lowest page
 * @end: one more than the highest; above @first, or no hint was seen
 * @hints: how many
 */
struct ballast_window {
    uint64_t first;
    uint64_t end;
    uint32_t hints;
};

/**
 * struct ballast_sweep - where the hints of a generation go
 * @now: the window that is being filled
 * @last: the one before, full; @last.hints is 0 if there was none
 * @before: the one before that
 * @end: one more than the highest page of any hint
 * All zero at the start.
 */
struct ballast_sweep {
    struct ballast_window now;
    struct ballast_window last;
    struct ballast_window before;
    uint64_t end;
};

/**
 * ballast_sweep_hint() - a hint was applied
 * @s: of this generation
 * @first: its first page
 * @pages: how many, above 0
 */
void ballast_sweep_hint(struct ballast_sweep *s, uint64_t first,
                        uint64_t pages);

/**
 * struct ballast_course - what QEMU would send next
 * @s: the guest's hints so far
 * @down: they go to lower pages
 * @pages: dirty ones that may be sent
 */
struct ballast_course {
    struct ballast_sweep s;
    bool down;
    uint64_t pages;
};

/**
 * ballast_course_begin() - foresee a turn
 * @c: the turn
 * @s: the guest's hints so far; copied
 *
 * Return: false if nothing is known of this guest's pages.
 */
bool ballast_course_begin(struct ballast_course *c,
                          const struct ballast_sweep *s);

/**
 * ballast_course_send() - QEMU comes to these pages next
 * @c: the turn
 * @first: the first of them
 * @pages: as many, no more than a hint covers
 * @dirty_pages: of them, such that QEMU would send
 *
 * Return: false if they may still be hinted, so that QEMU is to stop before.
 */
bool ballast_course_send(struct ballast_course *c, uint64_t first,
                         uint64_t pages, uint64_t dirty_pages);

/** BALLAST_FAR_PAGES - sent at once from the far end */
#define BALLAST_FAR_PAGES 1024

/** BALLAST_FAR_PART - of a RAM block, one part of so many may go from there */
#define BALLAST_FAR_PART 32

/** BALLAST_FAR_MOST - pages of a block that may go from there, at most */
#define BALLAST_FAR_MOST 65536

/**
 * ballast_course_far() - what can be sent from a block's end meanwhile
 * @c: the turn; of a block that hints go upwards in
 * @begin: the block's first page
 * @end: one more than its last
 * @far: QEMU was sent to all from there on; @end at the start
 *
 * Linux puts what it needs while it boots at the end of memory.  If a hint
 * comes for that nevertheless, what was sent was sent for nothing, and no
 * more of it is.
 *
 * Return: the first page of at most BALLAST_FAR_PAGES before @far; @far: none.
 */
uint64_t ballast_course_far(const struct ballast_course *c, uint64_t begin,
                            uint64_t end, uint64_t far);

#endif
