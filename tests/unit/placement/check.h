/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What these tests share: TAP, and numbers that are the same each time. */
#ifndef CHECK_H
#define CHECK_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

static int nr_checks, nr_bad;

static inline void check(bool ok, const char *what)
{
    printf("%sok %d - %s\n", ok ? "" : "not ", ++nr_checks, what);
    nr_bad += !ok;
}

static inline void check_skip(const char *what, const char *needs)
{
    printf("ok %d - %s # SKIP needs %s\n", ++nr_checks, what, needs);
}

static inline int check_end(void)
{
    printf("1..%d\n", nr_checks);
    return nr_bad > 0;
}

/* xorshift: any seed but 0. */
static uint64_t check_seed = 0x9e3779b97f4a7c15;

static inline uint32_t check_random(void)
{
    check_seed ^= check_seed << 13;
    check_seed ^= check_seed >> 7;
    check_seed ^= check_seed << 17;
    return check_seed >> 16;
}

static inline uint64_t check_below(uint64_t limit)
{
    return ((uint64_t)check_random() << 32 | check_random()) % limit;
}

#endif
