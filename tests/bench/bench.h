/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A clock and a median, for the C parts of the benches.
 */
#ifndef BALLAST_BENCH_H
#define BALLAST_BENCH_H

#include <stdint.h>
#include <stdlib.h>
#include <time.h>

static inline uint64_t now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static inline int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return x < y ? -1 : x > y;
}

/* Leaves the values in order. */
static inline double median(double *v, int nr)
{
    qsort(v, (size_t)nr, sizeof(*v), compare);
    return v[nr / 2];
}

#endif
