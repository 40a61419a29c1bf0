/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Memory that comes back to the guest is placed on the node asked for.
 *
 * The pages are populated when the guest touches them, whenever that is, so
 * what places them is a policy of their addresses.  It covers whole spans of
 * 2 MiB or a host page: a policy for less would split mappings beyond reason
 * (a process may have 65,530).  Adjacent spans are one, and there are at most
 * MAX_SPANS; what exceeds that gets no policy, and is counted.
 *
 * A span has its old policy back as soon as all its pages are there or in the
 * balloon again: a policy moves nothing that is there.  So nothing of this is
 * left when the guest has touched its memory, was reset, or the device is
 * gone.  Each look at it goes on where the one before found a page missing.
 *
 * Context: the big lock.
 */
#include "qemu/osdep.h"
#include <linux/mempolicy.h>
#include <sys/syscall.h>
#include "hw/virtio/ballast/compat.h"
#include "internal.h"
#include "qemu/bitmap.h"
#include "qemu/units.h"
#include "trace-hw_virtio_ballast.h"

#define SPAN_BYTES (2 * MiB)
#define MAX_SPANS 1024
#define SWEEP_MS 2000
/* Spans of SPAN_BYTES that one look at a span covers. */
#define SWEEP_UNITS 64
/* The kernel wants room for all nodes there could be. */
#define KERNEL_NODES 1024

typedef struct Policy {
    int mode;
    unsigned long nodes[BITS_TO_LONGS(KERNEL_NODES)];
} Policy;

/* Units of a block (see unit_bytes) that have a policy of ours. */
typedef struct Span {
    BallastBlock *block;
    uint64_t first;
    uint64_t end;
    /* All before this unit need no policy any more. */
    uint64_t settled;
    Policy ours;
    Policy old;
} Span;

static uint64_t unit_bytes(const BallastBlock *block)
{
    return MAX(SPAN_BYTES, block->rb->page_size);
}

static uint64_t unit_pages(const BallastBlock *block)
{
    return unit_bytes(block) / BALLAST_PAGE_BYTES;
}

static bool policy_is(const Policy *a, const Policy *b)
{
    return a->mode == b->mode && !memcmp(a->nodes, b->nodes, sizeof(a->nodes));
}

static bool policy_set(BallastBlock *block, uint64_t first, uint64_t end,
                       const Policy *p)
{
    uint64_t start = first * unit_bytes(block);
    uint64_t bytes = MIN(end * unit_bytes(block), block->rb->max_length) -
                     start;
    bool any = find_first_bit(p->nodes, KERNEL_NODES) < KERNEL_NODES;

    /* The kernel takes one off the number of bits. */
    return syscall(SYS_mbind, block->rb->host + start, bytes, p->mode,
                   any ? p->nodes : NULL, any ? KERNEL_NODES + 1UL : 0UL,
                   0) == 0;
}

static bool policy_get(const BallastBlock *block, uint64_t unit, Policy *p)
{
    return syscall(SYS_get_mempolicy, &p->mode, p->nodes,
                   (unsigned long)KERNEL_NODES,
                   block->rb->host + unit * unit_bytes(block),
                   (unsigned long)MPOL_F_ADDR) == 0;
}

/* Spans ---------------------------------------------------------------- */

static Span *span_of(BallastBalloon *b, const BallastBlock *block,
                     uint64_t unit)
{
    unsigned i;

    for (i = 0; i < b->nodes.spans->len; i++) {
        Span *s = &g_array_index(b->nodes.spans, Span, i);

        if (s->block == block && s->first <= unit && unit < s->end) {
            return s;
        }
    }
    return NULL;
}

/* Where the next span of the block begins, or @end. */
static uint64_t next_span(BallastBalloon *b, const BallastBlock *block,
                          uint64_t unit, uint64_t end)
{
    unsigned i;

    for (i = 0; i < b->nodes.spans->len; i++) {
        Span *s = &g_array_index(b->nodes.spans, Span, i);

        if (s->block == block && s->first >= unit) {
            end = MIN(end, s->first);
        }
    }
    return end;
}

static bool can_join(const Span *s, const Span *other)
{
    return s && policy_is(&s->ours, &other->ours) &&
           policy_is(&s->old, &other->old);
}

/* Add a span to one beside it, or to the list. */
static bool span_keep(BallastBalloon *b, const Span *s)
{
    Span *before = s->first ? span_of(b, s->block, s->first - 1) : NULL;
    Span *behind = span_of(b, s->block, s->end);

    if (can_join(before, s)) {
        before->end = s->end;
    } else if (can_join(behind, s)) {
        behind->first = s->first;
        behind->settled = s->first;
    } else if (b->nodes.spans->len < MAX_SPANS) {
        g_array_append_val(b->nodes.spans, *s);
    } else {
        return false;
    }
    return true;
}

static bool span_make(BallastBalloon *b, BallastBlock *block, uint64_t first,
                      uint64_t end, const Policy *ours)
{
    Span s = {
        .block = block, .first = first, .end = end, .settled = first,
        .ours = *ours,
    };

    if (!policy_get(block, first, &s.old) ||
        !policy_set(block, first, end, ours)) {
        return false;
    }
    if (!span_keep(b, &s)) {
        policy_set(block, first, end, &s.old);
        return false;
    }
    trace_ballast_place(b->nodes.request.number, block->rb->idstr, first, end,
                        b->nodes.spans->len);
    return true;
}

static void sweep_soon(BallastBalloon *b)
{
    if (b->nodes.spans->len) {
        timer_mod(b->nodes.sweep,
                  qemu_clock_get_ms(QEMU_CLOCK_REALTIME) + SWEEP_MS);
    } else {
        timer_del(b->nodes.sweep);
    }
}

bool ballast_place(BallastBalloon *b, const BallastPiece *piece)
{
    BallastBlock *block = piece->block;
    uint64_t unit = piece->page / unit_pages(block), next;
    uint64_t end = DIV_ROUND_UP(piece->page + piece->nr, unit_pages(block));
    Policy ours = {
        .mode = b->nodes.request.exact ? MPOL_BIND : MPOL_PREFERRED,
    };
    Span *s;

    set_bit(b->nodes.request.host_node, ours.nodes);
    for (; unit < end; unit = next) {
        s = span_of(b, block, unit);
        if (s) {
            if (!policy_is(&s->ours, &ours)) {
                return false;
            }
            s->settled = MIN(s->settled, unit);
            next = s->end;
        } else {
            next = next_span(b, block, unit, end);
            if (!span_make(b, block, unit, next, &ours)) {
                return false;
            }
        }
    }
    sweep_soon(b);
    return true;
}

/* What is there needs no policy ------------------------------------------ */

/* Has the unit a page that the guest may touch, and that is not there? */
static bool unit_needs(const BallastBlock *block, uint64_t unit)
{
    uint64_t first = unit * unit_pages(block);
    uint64_t pages = MIN(unit_pages(block), block->pages - first), page;
    uint64_t per_4k = MAX(qemu_real_host_page_size() / BALLAST_PAGE_BYTES, 1);
    g_autofree unsigned char *there = g_malloc0(pages);

    if (mincore(block->rb->host + first * BALLAST_PAGE_BYTES,
                pages * BALLAST_PAGE_BYTES, there) < 0) {
        return true;
    }
    for (page = 0; page < pages; page++) {
        if (!(there[page / per_4k] & 1) &&
            !test_bit(first + page, block->ballooned)) {
            return true;
        }
    }
    return false;
}

static bool span_needs(Span *s)
{
    uint64_t end = MIN(s->end, s->settled + SWEEP_UNITS);

    while (s->settled < end) {
        if (unit_needs(s->block, s->settled)) {
            return true;
        }
        s->settled++;
    }
    return s->settled < s->end;
}

static void span_drop(BallastBalloon *b, unsigned i)
{
    Span *s = &g_array_index(b->nodes.spans, Span, i);

    policy_set(s->block, s->first, s->end, &s->old);
    g_array_remove_index_fast(b->nodes.spans, i);
    trace_ballast_place_dropped(b->nodes.spans->len);
}

static void sweep(void *opaque)
{
    BallastBalloon *b = opaque;
    unsigned i = b->nodes.spans->len;

    while (i--) {
        if (!span_needs(&g_array_index(b->nodes.spans, Span, i))) {
            span_drop(b, i);
        }
    }
    sweep_soon(b);
}

void ballast_place_drop(BallastBalloon *b, const BallastBlock *block)
{
    unsigned i = b->nodes.spans->len;

    while (i--) {
        if (!block || g_array_index(b->nodes.spans, Span, i).block == block) {
            span_drop(b, i);
        }
    }
    sweep_soon(b);
}

uint64_t ballast_placed_bytes(const BallastBalloon *b)
{
    uint64_t bytes = 0;
    unsigned i;

    for (i = 0; i < b->nodes.spans->len; i++) {
        Span *s = &g_array_index(b->nodes.spans, Span, i);

        bytes += (s->end - s->first) * unit_bytes(s->block);
    }
    return bytes;
}

void ballast_place_init(BallastBalloon *b)
{
    b->nodes.spans = g_array_new(false, false, sizeof(Span));
    b->nodes.sweep = timer_new_ms(QEMU_CLOCK_REALTIME, sweep, b);
}

void ballast_place_destroy(BallastBalloon *b)
{
    ballast_place_drop(b, NULL);
    g_clear_pointer(&b->nodes.sweep, timer_free);
    g_clear_pointer(&b->nodes.spans, g_array_unref);
}
