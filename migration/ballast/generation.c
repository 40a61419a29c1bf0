/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Hint generations: the rules, without QEMU.  See the header for why.
 */
#include "migration/ballast/generation.h"

void ballast_gen_begin(struct ballast_generation *g, uint64_t number,
                       unsigned layout, bool armed)
{
    g->number = number;
    g->layout = layout;
    g->armed = armed;
    g->open = true;
}

void ballast_gen_end(struct ballast_generation *g)
{
    g->open = false;
}

enum ballast_verdict ballast_gen_verdict(const struct ballast_generation *g,
                                         bool asked, unsigned layout)
{
    if (!g->open || !asked || layout != g->layout) {
        return BALLAST_HINT_LATE;
    }
    return g->armed ? BALLAST_HINT_APPLIED : BALLAST_HINT_UNARMED;
}
