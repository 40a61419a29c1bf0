/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Hints in migration: arming, generations and verdicts of this process.
 *
 * This part belongs to the process, not to a device: once it is installed,
 * every generation in which a balloon device may ask for hints is armed
 * first, QEMU's own virtio-balloon included.
 */
#ifndef BALLAST_HINTS_H
#define BALLAST_HINTS_H

#include <stddef.h>
#include "migration/ballast/generation.h"
#include "migration/ballast/patience.h"

/**
 * struct BallastVerdicts - counted hints
 * @count: hints per verdict
 * @bytes: their sizes; 0 for malformed hints
 * @bad_ids: cmd ids that were stale, from the future or not four bytes
 */
typedef struct BallastVerdicts {
    uint64_t count[BALLAST_HINT_VERDICTS];
    uint64_t bytes[BALLAST_HINT_VERDICTS];
    uint64_t bad_ids;
} BallastVerdicts;

/**
 * struct BallastArming - what arming did and cost since start
 * @rounds: generations armed
 * @chunks: chunks of the dirty log that still had to be armed
 * @total_ns: time spent
 * @max_ns: longest round
 */
typedef struct BallastArming {
    uint64_t rounds;
    uint64_t chunks;
    uint64_t total_ns;
    uint64_t max_ns;
} BallastArming;

/**
 * struct BallastHintsSnapshot - everything query-free-page-hints shows
 * @gen: the current generation
 * @arming: see there
 * @migration: verdicts since the latest migration began
 * @total: verdicts since start
 */
typedef struct BallastHintsSnapshot {
    struct ballast_generation gen;
    BallastArming arming;
    BallastVerdicts migration;
    BallastVerdicts total;
} BallastHintsSnapshot;

/**
 * struct BallastHint - one buffer of the hint queue
 * @addr: host address of its first byte
 * @bytes: its length
 */
typedef struct BallastHint {
    void *addr;
    size_t bytes;
} BallastHint;

/**
 * ballast_merge() - the ranges of a batch of hints
 * @hints: not empty ones, none over the end of the address space; sorted
 *         and merged in place
 * @nr: how many
 *
 * Return: number of ranges, ascending, with gaps between them; they cover
 * what the hints covered.
 *
 * Context: any; pure logic (ranges.c).
 */
size_t ballast_merge(BallastHint *hints, size_t nr);

/**
 * ballast_hints_install() - from now on arm every generation
 *
 * When the plug-in is loaded, or the first device of ours is made; after
 * that it does nothing.
 *
 * Context: big lock.
 */
void ballast_hints_install(void);

/** ballast_hints_installed() - does Ballast take part in migrations? */
bool ballast_hints_installed(void);

/**
 * ballast_hints_question() - which question hints may answer now
 *
 * Read it *before* an answer to the published id is accepted: whatever the
 * migration thread does meanwhile, it is then that id's, or an older one.
 *
 * Context: any thread, no lock.
 *
 * Return: a number that no other generation of this process has; 0 while a
 * harvest may be running and when there is no migration.
 */
uint64_t ballast_hints_question(void);

/**
 * ballast_hints_finish() - the guest has hinted all that it will
 * @question: in answer to this; its hints count as before
 *
 * Context: any thread, no lock.
 */
void ballast_hints_finish(uint64_t question);

/**
 * ballast_hints_apply() - judge hints and drop the pages of the good ones
 * @hints: hints in the order of the queue; owned by the caller, sorted by
 *         address on return
 * @nr: how many
 * @question: what they answer, 0 if nothing
 *
 * Every hint is counted with its verdict.  Adjacent hints are applied as
 * one range.
 *
 * Context: any thread; takes the hints lock and, inside, QEMU's dirty bitmap
 * lock, for which it may wait as long as the migration thread sends.
 */
void ballast_hints_apply(BallastHint *hints, size_t nr, uint64_t question);

/**
 * ballast_hints_count() - count hints that never got as far as a verdict
 * @verdict: what to count them as
 * @nr: how many
 *
 * Context: any thread.
 */
void ballast_hints_count(enum ballast_verdict verdict, uint64_t nr);

/**
 * ballast_hints_bad_id() - count a cmd id that answers nothing asked
 *
 * Context: any thread.
 */
void ballast_hints_bad_id(void);

/**
 * ballast_hints_snapshot() - a consistent copy of all counters
 * @out: filled in
 *
 * Context: any thread.
 */
void ballast_hints_snapshot(BallastHintsSnapshot *out);

/**
 * ballast_wait_snapshot() - how the latest migration waited for hints
 * @out: filled in
 *
 * Context: any thread.
 */
void ballast_wait_snapshot(struct ballast_patience *out);

#endif
