/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Hints of a batch as few ranges: pure logic, no QEMU. */
#include <stdlib.h>
#include "migration/ballast/hints.h"

static int by_address(const void *a, const void *b)
{
    const BallastHint *x = a, *y = b;

    return x->addr < y->addr ? -1 : x->addr > y->addr;
}

size_t ballast_merge(BallastHint *h, size_t nr)
{
    size_t i, last = 0;

    if (!nr) {
        return 0;
    }
    qsort(h, nr, sizeof(*h), by_address);
    for (i = 1; i < nr; i++) {
        size_t gap = (uintptr_t)h[i].addr - (uintptr_t)h[last].addr;

        if (gap > h[last].bytes) {
            h[++last] = h[i];
        } else if (h[i].bytes > h[last].bytes - gap) {
            h[last].bytes = gap + h[i].bytes;
        }
    }
    return last + 1;
}
