/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Pages whose content was dropped while a migration runs.
 *
 * A discard is no guest write: it leaves no trace in any dirty log.  A page
 * that was sent and is then discarded would keep its old content, and its
 * memory, on the destination; on the source it reads as zeros.
 */
#ifndef BALLAST_DROPPED_H
#define BALLAST_DROPPED_H

#include "hw/virtio/ballast/compat.h"

/**
 * ballast_dropped() - pages of a block were discarded: they read as zeros now
 * @rb: the block
 * @start: first byte in the block, a multiple of the target page
 * @bytes: length, a multiple of the target page, within the block
 *
 * If a migration is running, those of them that are not going to be sent
 * anyway are sent once more, as zero pages.  Else nothing happens.
 *
 * Context: big lock; after the discard.
 */
void ballast_dropped(RAMBlock *rb, uint64_t start, uint64_t bytes);

#endif
