/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the two halves of ballast_check() share: findings are collected with
 * the mutex held, in memory that was allocated before, and told afterwards.
 */
#ifndef LEDGER_CHECK_H
#define LEDGER_CHECK_H

#include "internal.h"

#pragma GCC visibility push(hidden)

#define FINDING_BYTES 256
#define MAX_FINDINGS  512

struct finding {
    enum ballast_severity severity;
    char text[FINDING_BYTES];
};

struct checker {
    struct ballast_ledger *l;
    ballast_finding *report;
    void *opaque;
    bool repair;
    bool changed;           /* totals must be counted again */
    int bad;
    uint32_t nr;
    uint32_t untold;
    struct finding *findings;
};

void found(struct checker *c, enum ballast_severity severity,
           const char *format, ...) __attribute__((format(printf, 3, 4)));
void fix64(struct checker *c, uint64_t *where, uint64_t right,
           const char *format, ...) __attribute__((format(printf, 4, 5)));
void fix32(struct checker *c, uint32_t *where, uint32_t right,
           const char *format, ...) __attribute__((format(printf, 4, 5)));
void check_zero(struct checker *c, void *from, size_t bytes,
                const char *format, ...) __attribute__((format(printf, 4, 5)));
void check_slots(struct checker *c);

#pragma GCC visibility pop

#endif
