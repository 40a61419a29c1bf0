/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The arithmetic: what a participant's claim leaves outstanding, and the
 * totals of everybody.
 *
 * Invariants: no value taken from the file exceeds BALLAST_MAX_BYTES once it
 * is in a view, and there are at most SLOTS_MAX slots, so no sum overflows.
 * reserved = resident + outstanding, which is max(claimed, resident) for a
 * participant whose pages are all where it claimed them.
 *
 * Crash story: totals are written after the slot they follow from.  Whoever
 * dies in between leaves the mutex to the next one, which recomputes them.
 */
#include "internal.h"

uint64_t clamp_bytes(uint64_t bytes)
{
    return bytes > BALLAST_MAX_BYTES ? BALLAST_MAX_BYTES : bytes;
}

void view_zero(const struct geometry *geo, struct view *v)
{
    uint32_t i, col;

    for (i = 0; i < geo->nr_cells; i++) {
        for (col = 0; col < NR_COLUMNS; col++) {
            v->col[col][i] = 0;
        }
        v->outstanding[i] = 0;
    }
}

static uint64_t redeem(uint64_t *outstanding, uint64_t pages)
{
    uint64_t part = *outstanding < pages ? *outstanding : pages;

    *outstanding -= part;
    return pages - part;
}

/* Same node first, then the host-wide claim, then claims on other nodes. */
void view_redeem(const struct geometry *geo, struct view *v)
{
    const uint64_t *claimed = v->col[COL_CLAIMED];
    const uint64_t *resident = v->col[COL_RESIDENT];
    uint32_t any = geo->nr_nodes * geo->nr_classes;
    uint32_t class, i;
    uint64_t excess;

    for (class = 0; class < geo->nr_classes; class++) {
        excess = 0;
        for (i = class; i < any; i += geo->nr_classes) {
            v->outstanding[i] = claimed[i];
            excess += redeem(&v->outstanding[i], resident[i]);
        }
        v->outstanding[any + class] = claimed[any + class];
        excess = redeem(&v->outstanding[any + class], excess);
        for (i = class; excess && i < any; i += geo->nr_classes) {
            excess = redeem(&v->outstanding[i], excess);
        }
    }
}

bool view_uses_cell(const struct view *v, uint32_t cell)
{
    return v->col[COL_CLAIMED][cell] || v->col[COL_RESIDENT][cell];
}

static void total_add(uint64_t *total, uint64_t from, uint64_t to)
{
    if (from != to) {
        put64(total, get64(total) + (to - from));
    }
}

/* Bytes that the kernel may have handed out meanwhile: see sample_take(). */
static void draw(struct total_cell *t, uint64_t redeemed, uint64_t populated)
{
    uint64_t bytes = redeemed > populated ? redeemed : populated;

    if (bytes) {
        put64(&t->drawn_bytes, get64(&t->drawn_bytes) + bytes);
    }
}

static bool total_move(struct total_cell *t, const struct view *from,
                       const struct view *to, uint32_t i)
{
    uint64_t was = from->outstanding[i];
    uint64_t is = to->outstanding[i];
    uint64_t res_was = from->col[COL_RESIDENT][i];
    uint64_t res_is = to->col[COL_RESIDENT][i];

    total_add(&t->claimed_bytes, from->col[COL_CLAIMED][i],
              to->col[COL_CLAIMED][i]);
    total_add(&t->resident_bytes, res_was, res_is);
    total_add(&t->freeable_bytes, from->col[COL_FREEABLE][i],
              to->col[COL_FREEABLE][i]);
    total_add(&t->outstanding_bytes, was, is);
    draw(t, was > is ? was - is : 0, res_is > res_was ? res_is - res_was : 0);
    return is + res_is < was + res_was;
}

/* With the mutex held: one participant went from one view to another. */
void totals_move(struct ballast_ledger *l, const struct view *from,
                 const struct view *to)
{
    bool returned = false;
    uint32_t i;

    for (i = 0; i < l->geo.nr_cells; i++) {
        returned |= total_move(&l->totals[i], from, to, i);
    }
    if (returned) {
        queue_stir(l);
    }
}

/* May be negative: more resident than the capacity. */
int64_t cell_free(const struct ballast_ledger *l, uint32_t cell)
{
    const struct total_cell *t = &l->totals[cell];

    return (int64_t)(l->promisable[cell] - get64(&t->resident_bytes) -
                     get64(&t->outstanding_bytes));
}

uint64_t host_capacity(const struct ballast_ledger *l, uint32_t class)
{
    uint64_t sum = 0;
    uint32_t n;

    for (n = 0; n < l->geo.nr_nodes; n++) {
        sum += l->promisable[n * l->geo.nr_classes + class];
    }
    return sum;
}

/* What is free on the nodes that have any, less the host-wide claims. */
uint64_t host_room(const struct ballast_ledger *l, uint32_t class)
{
    uint32_t any = l->geo.nr_nodes * l->geo.nr_classes + class;
    uint64_t taken = get64(&l->totals[any].outstanding_bytes);
    uint64_t room = 0;
    int64_t bytes;
    uint32_t i;

    for (i = class; i < any; i += l->geo.nr_classes) {
        bytes = cell_free(l, i);
        room += bytes > 0 ? (uint64_t)bytes : 0;
    }
    return room > taken ? room - taken : 0;
}
