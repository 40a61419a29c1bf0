/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the ledger costs: medians of several rounds, one host node, file on
 * tmpfs.  Prints "key value" lines, values in nanoseconds.
 *
 * Crowds are made by hand, slot by slot, each with a byte lock on a descriptor
 * of its own as a process would have: to join 4096 times would take minutes.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bench.h"
#include "internal.h"

#define ROUNDS  101
#define LOOPS   1000
#define CROWD   4095
#define PROCS   8

static char dir[] = "/dev/shm/ballast-bench-XXXXXX";
static char path[64];

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

static void status(struct ballast_ledger *l)
{
    struct ballast_status *st;

    if (ballast_status_get(l, &st)) {
        abort();
    }
    ballast_status_free(st);
}

/* What the next one does after somebody died inside the critical section. */
static void recover(struct ballast_ledger *l)
{
    ledger_lock(l);
    ledger_recover(l);
    ledger_unlock(l);
}

static double measure(struct ballast_ledger *l, int rounds, int loops,
                      void (*body)(struct ballast_ledger *l))
{
    double ns[ROUNDS];
    int r, i;

    for (r = 0; r < rounds; r++) {
        uint64_t start = now_ns();

        for (i = 0; i < loops; i++) {
            body(l);
        }
        ns[r] = (double)(now_ns() - start) / loops;
    }
    return median(ns, rounds);
}

static struct ballast_ledger *make(enum ballast_admission admission)
{
    struct ballast_config config;
    struct ballast_ledger *l;

    memset(&config, 0, sizeof(config));
    config.nr_nodes = 1;
    config.nr_classes = 3;
    config.admission = admission;
    config.page_bytes[0] = 4096;
    config.page_bytes[1] = 2 << 20;
    config.page_bytes[2] = 1 << 30;
    config.capacity_bytes[0][0] = UINT64_C(64) << 30;
    if (ballast_ledger_create(path, &config, BALLAST_CREATE_FORCE, NULL) ||
        ballast_ledger_open(path, &l, NULL) ||
        ballast_join(l, "bench", 0, NULL)) {
        abort();
    }
    return l;
}

static void crowd(struct ballast_ledger *l, int *fds)
{
    struct rlimit files;
    struct view v;
    char name[32];
    uint32_t nr;
    int i;

    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    view_zero(&l->geo, &v);
    v.col[COL_CLAIMED][0] = 1 << 20;
    view_redeem(&l->geo, &v);
    for (i = 0; i < CROWD; i++) {
        struct birth b = { .name = name };

        snprintf(name, sizeof(name), "vm%d", i);
        identity_self(&b.who);
        fds[i] = open(path, O_RDWR | O_CLOEXEC);
        nr = (uint32_t)i + 1;
        if (fds[i] < 0 || slot_lock_byte(fds[i], nr, F_WRLCK)) {
            abort();
        }
        ledger_lock(l);
        put32(&l->header->slots_high, nr + 1);
        slot_take(l, slot_at(l, nr), &b, &v);
        ledger_unlock(l);
    }
    recover(l);
}

/* Median over the processes, of the time that one operation takes in each. */
static double together(int procs)
{
    double *ns = mmap(NULL, 4096, PROT_READ | PROT_WRITE,
                      MAP_SHARED | MAP_ANONYMOUS, -1, 0), sum = 0;
    volatile int *go = (int *)(void *)(ns + PROCS);
    int i;

    for (i = 0; i < procs; i++) {
        if (fork() == 0) {
            struct ballast_ledger *l;
            uint64_t start;
            int k;

            if (ballast_ledger_open(path, &l, NULL) ||
                ballast_join(l, NULL, 0, NULL)) {
                _exit(1);
            }
            __atomic_add_fetch(go, 1, __ATOMIC_SEQ_CST);
            while (*go < procs) {
                usleep(100);
            }
            start = now_ns();
            for (k = 0; k < 200 * LOOPS; k++) {
                claim_release(l);
            }
            ns[i] = (double)(now_ns() - start) / (200 * LOOPS);
            _exit(0);
        }
    }
    for (i = 0; i < procs; i++) {
        wait(NULL);
    }
    for (i = 0; i < procs; i++) {
        sum += ns[i];
    }
    munmap(ns, 4096);
    return sum / procs;
}

int main(void)
{
    static int fds[CROWD];
    struct ballast_ledger *l;
    double one, crowded, all;
    long cpus = sysconf(_SC_NPROCESSORS_ONLN);
    int i;

    if (!mkdtemp(dir)) {
        return 1;
    }
    snprintf(path, sizeof(path), "%s/ledger", dir);
    l = make(BALLAST_ADMIT_STATIC);
    one = measure(l, ROUNDS, LOOPS, claim_release);
    printf("ledger.claim_release %.1f\n", one);
    printf("ledger.report %.1f\n", measure(l, ROUNDS, LOOPS, report_usage));
    printf("ledger.refused %.1f\n", measure(l, ROUNDS, LOOPS / 20, refused));
    crowd(l, fds);
    crowded = measure(l, ROUNDS, LOOPS, claim_release);
    printf("ledger.claim_release_4096 %.1f\n", crowded);
    printf("ledger.status_4096 %.1f\n", measure(l, ROUNDS, 1, status));
    printf("ledger.recover_4096 %.1f\n", measure(l, ROUNDS, 1, recover));
    for (i = 0; i < CROWD; i++) {
        close(fds[i]);
    }
    ballast_ledger_close(l);
    unlink(path);
    l = make(BALLAST_ADMIT_KERNEL);
    printf("ledger.claim_kernel %.1f\n", measure(l, ROUNDS, 20,
                                                 claim_release));
    ballast_ledger_close(l);
    l = make(BALLAST_ADMIT_STATIC);
    ballast_ledger_close(l);
    one = together(1);
    all = together(PROCS);
    printf("ledger.claim_release_8procs %.1f\n", all);
    /* Eight on fewer processors take turns: what one did in its turns. */
    printf("ledger.claim_release_8procs_ratio %.2f\n",
           all * (double)(cpus < PROCS ? cpus : PROCS) / PROCS / one);
    unlink(path);
    rmdir(dir);
    return 0;
}
