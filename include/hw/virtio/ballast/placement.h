/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Where guest memory really is.
 *
 * A stratified random sample of each block's pages is looked up with one
 * move_pages(2) call per batch, which tells nodes and populates nothing.
 */
#ifndef BALLAST_PLACEMENT_H
#define BALLAST_PLACEMENT_H

#include "exec/cpu-common.h"
#include "ballast-qapi-types.h"
#include "system/numa.h"

#define BALLAST_SAMPLES_DEFAULT 4096
#define BALLAST_SAMPLES_MIN 64
#define BALLAST_SAMPLES_MAX 65536

/**
 * struct BallastSample - what a look at some memory found
 * @samples: pages looked at
 * @on_node: of them, per host node
 * @absent: of them, not present
 * @unknown: of them, of which the kernel did not tell
 * @whole: every page was looked at
 */
typedef struct BallastSample {
    uint64_t samples;
    uint64_t on_node[MAX_NODES];
    uint64_t absent;
    uint64_t unknown;
    bool whole;
} BallastSample;

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
 * ballast_sample_bytes() - scale a count of a sample to bytes
 * @s: the sample
 * @count: pages of it
 * @bytes: size of what was sampled
 */
uint64_t ballast_sample_bytes(const BallastSample *s, uint64_t count,
                              uint64_t bytes);

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
 * ballast_placement() - for query-memory-placement
 * @samples: pages to look at in all
 *
 * Context: big lock.
 *
 * Return: owned by the caller.
 */
MemoryPlacement *ballast_placement(uint64_t samples);

#endif
