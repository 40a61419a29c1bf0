/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Absent pages in migration: neither read nor sent.
 *
 * Belongs to the process: works with any balloon and without one.  Why it
 * is sound, and where it is not used: docs/design/hints.md.
 */
#ifndef BALLAST_ABSENT_H
#define BALLAST_ABSENT_H

#include <stdbool.h>
#include <stdint.h>
#include "hw/virtio/ballast/compat.h"

/** enum BallastAbsentUse - whether this migration leaves pages out */
typedef enum BallastAbsentUse {
    /** @BALLAST_ABSENT_IDLE: no migration has begun yet */
    BALLAST_ABSENT_IDLE,
    /** @BALLAST_ABSENT_USED: it does, or did */
    BALLAST_ABSENT_USED,
    /** @BALLAST_ABSENT_POSTCOPY: the destination may ask for any page */
    BALLAST_ABSENT_POSTCOPY,
    /** @BALLAST_ABSENT_COLO: the destination's memory is not new */
    BALLAST_ABSENT_COLO,
    /** @BALLAST_ABSENT_SNAPSHOT: may be loaded over memory in use */
    BALLAST_ABSENT_SNAPSHOT,
} BallastAbsentUse;

/**
 * struct BallastAbsent - what was left out of the latest migration
 * @use: whether it leaves pages out
 * @skipped_pages: absent pages left out of round 1
 * @zero_pages: dirty pages of which nothing was sent and that read as zero:
 *              left out of any round
 * @unknown_bytes: memory of which nobody tells what is absent
 * @scans: generations in which was looked
 * @pieces: pieces looked at
 * @scan_ns: time spent looking, including the bitmap
 * @max_piece_ns: longest piece
 * @arm_ns: time spent arming for it, without the big lock
 */
typedef struct BallastAbsent {
    BallastAbsentUse use;
    uint64_t skipped_pages;
    uint64_t zero_pages;
    uint64_t unknown_bytes;
    uint64_t scans;
    uint64_t pieces;
    uint64_t scan_ns;
    uint64_t max_piece_ns;
    uint64_t arm_ns;
} BallastAbsent;

/**
 * ballast_absent_snapshot() - a consistent copy of the counters
 * @out: filled in
 *
 * Context: any thread.
 */
void ballast_absent_snapshot(BallastAbsent *out);

#endif
