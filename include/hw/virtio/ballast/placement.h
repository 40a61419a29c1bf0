/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Where guest memory really is: a stratified random sample of it at once, or
 * all of it by a thread (docs/design/placement.md).
 */
#ifndef BALLAST_PLACEMENT_H
#define BALLAST_PLACEMENT_H

#include "exec/cpu-common.h"
#include "ballast-qapi-types.h"
#include "hw/virtio/ballast/pagenode.h"
#include "system/numa.h"

#define BALLAST_SAMPLES_DEFAULT 4096
#define BALLAST_SAMPLES_MIN 64
#define BALLAST_SAMPLES_MAX 65536

#define BALLAST_EXACT_MS_DEFAULT 300000
#define BALLAST_EXACT_MS_MAX 3600000

typedef struct ballast_sample BallastSample;

/**
 * ballast_sample() - look at a range of host memory
 * @host: first byte, aligned to @page_bytes
 * @bytes: length of the range
 * @page_bytes: host page size of the mapping
 * @samples: how many pages to look at, at the most
 * @out: added to, so that ranges can be put together
 *
 * Context: any thread; the range stays mapped (RCU read side).
 */
void ballast_sample(uint8_t *host, uint64_t bytes, size_t page_bytes,
                    uint64_t samples, BallastSample *out);

/**
 * ballast_placement() - for query-memory-placement, mode sample
 * @samples: pages to look at in all
 *
 * Context: big lock.
 *
 * Return: owned by the caller.
 */
MemoryPlacement *ballast_placement(uint64_t samples);

/**
 * ballast_exact_start() - begin to look at every page
 * @limit_ms: for at most so long
 * @errp: a look is running
 *
 * Context: big lock.
 */
bool ballast_exact_start(uint32_t limit_ms, Error **errp);

/** ballast_exact_cancel() - end it; does not wait.  Context: big lock */
void ballast_exact_cancel(void);

/**
 * ballast_exact_placement() - what it has found, so far or at its end
 * @errp: there has been none
 *
 * Context: big lock.
 *
 * Return: owned by the caller.
 */
MemoryPlacement *ballast_exact_placement(Error **errp);

#endif
