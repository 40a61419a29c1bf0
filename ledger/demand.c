/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * From the caller's lists of {node, page size, bytes} to cells.  Everything
 * that can be wrong with a list by itself is found here, before any lock.
 */
#include <errno.h>
#include <string.h>

#include "internal.h"

static bool find_row(const struct geometry *geo, uint32_t node, uint32_t *row)
{
    uint32_t n;

    if (node == BALLAST_NODE_ANY) {
        *row = geo->nr_nodes;
        return true;
    }
    for (n = 0; n < geo->nr_nodes; n++) {
        if (geo->node_id[n] == node) {
            *row = n;
            return true;
        }
    }
    return false;
}

static bool find_class(const struct geometry *geo, uint64_t page_bytes,
                       uint32_t *class)
{
    uint32_t c;

    for (c = 0; c < geo->nr_classes; c++) {
        if (geo->page_bytes[c] == page_bytes || (c == 0 && !page_bytes)) {
            *class = c;
            return true;
        }
    }
    return false;
}

static bool seen(uint64_t *bits, uint32_t cell)
{
    uint64_t bit = UINT64_C(1) << (cell % 64);
    bool was = bits[cell / 64] & bit;

    bits[cell / 64] |= bit;
    return was;
}

static int demand_cell(const struct geometry *geo,
                       const struct ballast_demand *d, uint32_t *cell,
                       struct ballast_refusal *why)
{
    uint32_t row, class;

    if (why) {
        why->node = d->node;
        why->page_bytes = d->page_bytes;
        why->asked_bytes = d->bytes;
    }
    if (d->zero) {
        return refuse(why, BALLAST_NOT_ZERO);
    }
    if (!find_row(geo, d->node, &row)) {
        return refuse(why, BALLAST_NO_SUCH_NODE);
    }
    if (!find_class(geo, d->page_bytes, &class)) {
        return refuse(why, BALLAST_NO_SUCH_CLASS);
    }
    if (why) {
        why->page_bytes = geo->page_bytes[class];
    }
    if (d->bytes > BALLAST_MAX_BYTES) {
        return refuse(why, BALLAST_OVERFLOW);
    }
    if (d->bytes & (geo->page_bytes[class] - 1)) {
        if (why) {
            why->limit_bytes = geo->page_bytes[class];
        }
        return refuse(why, BALLAST_NOT_ALIGNED);
    }
    *cell = row * geo->nr_classes + class;
    return 0;
}

/* Fills in the claimed column of @v, which the caller has zeroed. */
int demand_view(const struct geometry *geo, const struct ballast_demand *set,
                size_t nr, struct view *v, struct ballast_refusal *why)
{
    uint64_t bits[MAX_CELLS / 64 + 1] = { 0 };
    uint64_t sums[BALLAST_MAX_CLASSES] = { 0 };
    uint32_t cell = 0;
    size_t i;
    int err;

    if (nr > BALLAST_MAX_DEMANDS) {
        return refuse(why, BALLAST_TOO_MANY_ENTRIES);
    }
    if (nr && !set) {
        return refuse_system(why, -EFAULT, "%zu entries, but no list", nr);
    }
    for (i = 0; i < nr; i++) {
        err = demand_cell(geo, &set[i], &cell, why);
        if (err) {
            return err;
        }
        if (seen(bits, cell)) {
            return refuse(why, BALLAST_DUPLICATE_ENTRY);
        }
        v->col[COL_CLAIMED][cell] = set[i].bytes;
        sums[cell % geo->nr_classes] += set[i].bytes;
        if (sums[cell % geo->nr_classes] > BALLAST_MAX_BYTES) {
            return refuse(why, BALLAST_OVERFLOW);
        }
    }
    return 0;
}

/* Fills in the other two columns. */
int usage_view(const struct geometry *geo, const struct ballast_usage *set,
               size_t nr, struct view *v)
{
    uint64_t bits[MAX_CELLS / 64 + 1] = { 0 };
    uint64_t sums[BALLAST_MAX_CLASSES] = { 0 };
    uint32_t row, class, cell;
    size_t i;

    if (nr > BALLAST_MAX_DEMANDS) {
        return -E2BIG;
    }
    if (nr && !set) {
        return -EFAULT;
    }
    for (i = 0; i < nr; i++) {
        if (set[i].zero || set[i].node == BALLAST_NODE_ANY ||
            set[i].freeable_bytes > set[i].resident_bytes) {
            return -EINVAL;
        }
        if (!find_row(geo, set[i].node, &row) ||
            !find_class(geo, set[i].page_bytes, &class)) {
            return -ENOENT;
        }
        cell = row * geo->nr_classes + class;
        if (seen(bits, cell)) {
            return -EINVAL;
        }
        if (set[i].resident_bytes > BALLAST_MAX_BYTES - sums[class]) {
            return -EOVERFLOW;
        }
        sums[class] += set[i].resident_bytes;
        v->col[COL_RESIDENT][cell] = set[i].resident_bytes;
        v->col[COL_FREEABLE][cell] = set[i].freeable_bytes;
    }
    return 0;
}
