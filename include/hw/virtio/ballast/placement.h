/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Where guest memory really is: a stratified random sample of it at once, or
 * all of it by a thread (docs/design/placement.md).
 */
#ifndef BALLAST_PLACEMENT_H
#define BALLAST_PLACEMENT_H

#include "exec/cpu-common.h"
#include "hw/virtio/ballast/pagenode.h"
#include "qapi/qapi-types-ballast.h"
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

#define BALLAST_WHERE_ABSENT (-1)
#define BALLAST_WHERE_UNKNOWN (-2)

/**
 * ballast_where() - on which host nodes are some pages?
 * @pages: their addresses
 * @nr: how many; a few hundred delay other threads' mmap least
 * @nodes: out: node, or BALLAST_WHERE_ABSENT, or BALLAST_WHERE_UNKNOWN
 *
 * Context: any thread; the pages stay mapped.
 */
void ballast_where(void **pages, unsigned nr, int *nodes);

/**
 * ballast_vnode_at() - guest node of a byte of a block
 * @rb: block
 * @offset: byte in it
 * @end: out: byte behind the part of the block that belongs to this node
 *
 * Context: big lock.
 *
 * Return: the node; 0 for memory that belongs to none.
 */
uint32_t ballast_vnode_at(RAMBlock *rb, uint64_t offset, uint64_t *end);

/** ballast_vnode_count() - guest nodes; a guest without NUMA has one */
uint32_t ballast_vnode_count(void);

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
