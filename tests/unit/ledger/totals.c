/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * See totals.h.
 */
#include "totals.h"

bool totals_agree(struct ballast_ledger *l)
{
    struct total_cell sums[MAX_CELLS];
    bool ok = ledger_recompute(l, sums) == l->header->nr_waiters;
    uint32_t i;

    for (i = 0; i < l->geo.nr_cells; i++) {
        ok &= sums[i].claimed_bytes == l->totals[i].claimed_bytes &&
              sums[i].resident_bytes == l->totals[i].resident_bytes &&
              sums[i].freeable_bytes == l->totals[i].freeable_bytes &&
              sums[i].outstanding_bytes == l->totals[i].outstanding_bytes;
    }
    return ok;
}
