/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Hint generations: the rules, without QEMU.
 *
 * A generation is one harvest of the dirty log.  Hints are asked for in a
 * generation and may only take away dirt that is older than the question:
 *
 *     sync n      arm        publish id          hints           sync n+1
 *   ----+----------+-------------+-----------------+-----------------+-----
 *       |  writes here may leave | writes from here on are in the    |
 *       |  no trace              | log and are harvested by n+1      |
 *       |                        |                                   |
 *     ballast_gen_begin(n, armed)                  ballast_gen_end() |
 *
 * A page written after the publication is in the next harvest, whatever a
 * hint does now.  A page last written before it is covered by the promise
 * that the hint makes: "unused at some point after the id was published".
 * Both need the arming; and the first needs the hint to be refused once
 * the next harvest may have begun, since it would take away new dirt.
 *
 * No locking here: the caller holds one lock over ballast_gen_verdict() and
 * the clearing which it allows, and over begin and end (see hints.c).
 */
#ifndef BALLAST_GENERATION_H
#define BALLAST_GENERATION_H

#include <stdbool.h>
#include <stdint.h>

/** enum ballast_verdict - what became of one hint */
enum ballast_verdict {
    /** @BALLAST_HINT_APPLIED: dropped from the dirty bitmap */
    BALLAST_HINT_APPLIED,
    /** @BALLAST_HINT_LATE: outside the generation it was asked for */
    BALLAST_HINT_LATE,
    /** @BALLAST_HINT_UNARMED: tracking was not armed before publication */
    BALLAST_HINT_UNARMED,
    /** @BALLAST_HINT_MALFORMED: unaligned, empty, or rejected by the ring */
    BALLAST_HINT_MALFORMED,
    /** @BALLAST_HINT_FOREIGN: not migratable guest RAM */
    BALLAST_HINT_FOREIGN,
    BALLAST_HINT_VERDICTS
};

/**
 * struct ballast_generation - the current generation
 * @number: the harvest it began with (dirty-sync-count); 0: none yet
 * @layout: how often the RAM blocks had changed when it began
 * @open: between its arming and the next harvest; invariant: false
 *        whenever a harvest may be running
 * @armed: write tracking covered every page hints may name before the
 *         question was published; meaningless while not @open
 */
struct ballast_generation {
    uint64_t number;
    unsigned layout;
    bool open;
    bool armed;
};

/**
 * ballast_gen_begin() - a harvest has ended, hints may be asked for
 * @g: the generation
 * @number: number of that harvest
 * @layout: how often the RAM blocks have changed (see verdict)
 * @armed: whether write tracking was armed since the harvest
 *
 * Context: the caller's lock; before the id is published.
 */
void ballast_gen_begin(struct ballast_generation *g, uint64_t number,
                       unsigned layout, bool armed);

/**
 * ballast_gen_end() - a harvest is about to begin, or migration is over
 * @g: the generation
 *
 * Context: the caller's lock; before the harvest.
 */
void ballast_gen_end(struct ballast_generation *g);

/**
 * ballast_gen_verdict() - may a hint be applied now?
 * @g: the generation
 * @asked: the guest answered the id that is published now
 * @layout: how often the RAM blocks have changed by now
 *
 * A hint names host memory as it was when its buffer was taken.  If a block
 * has come, gone or changed its size since the generation began, that may
 * be another block's, which nobody armed: what is left is late.
 *
 * Return: BALLAST_HINT_APPLIED if the hint's pages may be dropped under
 * the lock that is held now, else why not.
 */
enum ballast_verdict ballast_gen_verdict(const struct ballast_generation *g,
                                         bool asked, unsigned layout);

#endif
