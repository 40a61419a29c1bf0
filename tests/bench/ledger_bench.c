/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the ledger costs, in nanoseconds: the median of several rounds, static
 * admission, one host node, file on tmpfs.  Prints "key value_ns" lines.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "ballast/admin.h"

#define ROUNDS  201
#define LOOPS   1000

static char dir[] = "/dev/shm/ballast-bench-XXXXXX";
static char path[64];

static uint64_t now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return x < y ? -1 : x > y;
}

static void claim_release(struct ballast_ledger *l)
{
    const struct ballast_demand d = { .node = 0, .bytes = 1 << 30 };

    if (ballast_claim(l, &d, 1, NULL) || ballast_claim(l, NULL, 0, NULL)) {
        abort();
    }
}

static void report_usage(struct ballast_ledger *l)
{
    static uint64_t bytes;
    struct ballast_usage u = { .node = 0 };

    bytes ^= 1 << 20;
    u.resident_bytes = bytes;
    if (ballast_report(l, &u, 1)) {
        abort();
    }
}

static void refused(struct ballast_ledger *l)
{
    const struct ballast_demand d = { .node = 0, .bytes = 1ull << 40 };
    struct ballast_refusal why;

    if (!ballast_claim(l, &d, 1, &why)) {
        abort();
    }
}

static void measure(const char *key, struct ballast_ledger *l, int loops,
                    void (*body)(struct ballast_ledger *l))
{
    double ns[ROUNDS];
    int r, i;

    for (r = 0; r < ROUNDS; r++) {
        uint64_t start = now_ns();

        for (i = 0; i < loops; i++) {
            body(l);
        }
        ns[r] = (double)(now_ns() - start) / loops;
    }
    qsort(ns, ROUNDS, sizeof(ns[0]), compare);
    printf("%s %.1f\n", key, ns[ROUNDS / 2]);
}

int main(void)
{
    struct ballast_config config;
    struct ballast_ledger *l;

    memset(&config, 0, sizeof(config));
    config.nr_nodes = 1;
    config.nr_classes = 3;
    config.admission = BALLAST_ADMIT_STATIC;
    config.page_bytes[0] = 4096;
    config.page_bytes[1] = 2 << 20;
    config.page_bytes[2] = 1 << 30;
    config.capacity_bytes[0][0] = UINT64_C(16) << 30;
    if (!mkdtemp(dir)) {
        return 1;
    }
    snprintf(path, sizeof(path), "%s/ledger", dir);
    if (ballast_ledger_create(path, &config, 0, NULL) ||
        ballast_ledger_open(path, &l, NULL) ||
        ballast_join(l, "bench", 0, NULL)) {
        unlink(path);
        rmdir(dir);
        return 1;
    }
    measure("ledger.claim_release", l, LOOPS, claim_release);
    measure("ledger.report", l, LOOPS, report_usage);
    measure("ledger.refused", l, LOOPS / 20, refused);
    ballast_ledger_close(l);
    unlink(path);
    rmdir(dir);
    return 0;
}
