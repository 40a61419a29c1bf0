/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What a ledger with many participants, or with many processes at work,
 * costs.  Prints "key value" lines, nanoseconds or a ratio; within a round
 * the measurement and its reference take turns.
 *
 *   scale_bench claims|status|recover|procs|kernel|populate
 */
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "ballast/admin.h"
#include "bench.h"
#include "internal.h"

#define ROUNDS      51
#define LOOPS       1000
#define MANY        4096
#define PROCS       8

static char dir[] = "/dev/shm/ballast-bench-XXXXXX";
static char path[2][64];

static void clean_up(void)
{
    unlink(path[0]);
    unlink(path[1]);
    rmdir(dir);
}

static void make(int which, enum ballast_admission admission)
{
    struct ballast_config c = {
        .nr_nodes = 1, .nr_classes = 3, .nr_slots = MANY + 64,
        .admission = admission, .count_cache_percent = 50,
        .page_bytes = { 4096, 2 << 20, 1 << 30 },
    };

    c.capacity_bytes[0][0] = UINT64_C(4) << 40;
    snprintf(path[which], sizeof(path[which]), "%s/%d", dir, which);
    if (ballast_ledger_create(path[which], &c, 0, NULL)) {
        abort();
    }
}

static struct ballast_ledger *join(int which, const char *name)
{
    struct ballast_ledger *l;

    if (ballast_ledger_open(path[which], &l, NULL) ||
        ballast_join(l, name, 0, NULL)) {
        abort();
    }
    return l;
}

/*
 * Slots and locks as those of so many participants; their process is this
 * one.  To join in the usual way would look at all others each time.
 */
static void attach_many(int which, unsigned nr)
{
    struct ballast_ledger *l = join(which, "first");
    struct view v;
    char name[BALLAST_NAME_BYTES] = "";
    unsigned i;

    view_zero(&l->geo, &v);
    for (i = 1; i < nr; i++) {
        struct birth b = { .name = name };

        snprintf(name, sizeof(name), "participant-%u", i);
        identity_self(&b.who);
        slot_take(l, slot_at(l, i), &b, &v);
        slot_lock_byte(l->fd, i, F_WRLCK);
    }
    l->header->slots_high = nr;
}

static void claim_release(struct ballast_ledger *l)
{
    const struct ballast_demand d = { .node = 0, .bytes = 1 << 30 };

    if (ballast_claim(l, &d, 1, NULL) || ballast_claim(l, NULL, 0, NULL)) {
        abort();
    }
}

static double time_claims(struct ballast_ledger *l, int loops)
{
    uint64_t start = now_ns();
    int i;

    for (i = 0; i < loops; i++) {
        claim_release(l);
    }
    return (double)(now_ns() - start) / loops;
}

static void bench_claims(void)
{
    double one[ROUNDS], many[ROUNDS];
    struct ballast_ledger *a, *b;
    int r;

    make(0, BALLAST_ADMIT_STATIC);
    make(1, BALLAST_ADMIT_STATIC);
    a = join(0, "alone");
    attach_many(1, MANY - 1);
    b = join(1, "last");
    for (r = 0; r < ROUNDS; r++) {
        one[r] = time_claims(a, LOOPS);
        many[r] = time_claims(b, LOOPS);
    }
    printf("one %.1f\nmany %.1f\n", median(one, ROUNDS),
           median(many, ROUNDS));
}

static void bench_status(void)
{
    double ns[ROUNDS];
    struct ballast_status *st;
    struct ballast_ledger *l;
    uint64_t start;
    int r;

    make(0, BALLAST_ADMIT_STATIC);
    attach_many(0, MANY);
    if (ballast_ledger_open(path[0], &l, NULL)) {
        abort();
    }
    for (r = 0; r < ROUNDS; r++) {
        start = now_ns();
        if (ballast_status_get(l, &st) || st->nr_participants != MANY) {
            abort();
        }
        ns[r] = (double)(now_ns() - start);
        ballast_status_free(st);
    }
    printf("status %.1f\n", median(ns, ROUNDS));
}

/* A child dies with the mutex; the next call repairs and goes on. */
static void bench_recover(void)
{
    struct ballast_own own[4];
    struct ballast_ledger *l, *theirs;
    double ns[ROUNDS];
    uint64_t start;
    pid_t pid;
    int r;

    make(0, BALLAST_ADMIT_STATIC);
    attach_many(0, MANY);
    l = join(0, "who repairs");
    for (r = 0; r < ROUNDS; r++) {
        pid = fork();
        if (pid == 0) {
            if (ballast_ledger_open(path[0], &theirs, NULL) ||
                ledger_lock(theirs)) {
                _exit(1);
            }
            kill(getpid(), SIGKILL);
        }
        waitpid(pid, NULL, 0);
        start = now_ns();
        ballast_own(l, own, 4);
        ns[r] = (double)(now_ns() - start);
        if (l->header->epoch != (uint64_t)r + 1) {
            abort();        /* nothing was repaired */
        }
    }
    printf("recover %.1f\n", median(ns, ROUNDS));
}

struct start_line {
    uint32_t ready;
    uint32_t go;
    double ns[PROCS];
};

/*
 * What an operation costs whoever makes it: processor time, since there may
 * be fewer processors than processes.
 */
static double cpu_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

static void run_one(struct start_line *line, int which)
{
    struct ballast_ledger *l = join(0, NULL);
    double start;
    int i;

    __atomic_fetch_add(&line->ready, 1, __ATOMIC_SEQ_CST);
    while (!__atomic_load_n(&line->go, __ATOMIC_SEQ_CST)) {
        usleep(100);
    }
    start = cpu_ns();
    for (i = 0; i < 20 * LOOPS; i++) {
        claim_release(l);
    }
    line->ns[which] = (cpu_ns() - start) / (20 * LOOPS);
    _exit(0);
}

static double run_procs(struct start_line *line, uint32_t nr)
{
    double sum = 0;
    uint32_t i;

    memset(line, 0, sizeof(*line));
    for (i = 0; i < nr; i++) {
        if (fork() == 0) {
            run_one(line, (int)i);
        }
    }
    while (__atomic_load_n(&line->ready, __ATOMIC_SEQ_CST) < nr) {
        usleep(100);
    }
    __atomic_store_n(&line->go, 1, __ATOMIC_SEQ_CST);
    for (i = 0; i < nr; i++) {
        wait(NULL);
    }
    for (i = 0; i < nr; i++) {
        sum += line->ns[i];
    }
    return sum / nr;
}

static void bench_procs(void)
{
    struct start_line *line = mmap(NULL, sizeof(*line),
                                   PROT_READ | PROT_WRITE,
                                   MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    double one[5], eight[5];
    int r;

    make(0, BALLAST_ADMIT_STATIC);
    for (r = 0; r < 5; r++) {
        one[r] = run_procs(line, 1);
        eight[r] = run_procs(line, PROCS);
    }
    printf("one %.1f\nprocs %.1f\n", median(one, 5), median(eight, 5));
}

static void bench_kernel(void)
{
    const struct ballast_demand d = { .node = 0, .bytes = 1 << 20 };
    struct ballast_ledger *l;
    double ns[ROUNDS];
    uint64_t start;
    int r;

    make(0, BALLAST_ADMIT_KERNEL);
    l = join(0, "bench");
    for (r = 0; r < ROUNDS; r++) {
        start = now_ns();
        if (ballast_claim(l, &d, 1, NULL) || ballast_claim(l, NULL, 0, NULL)) {
            abort();
        }
        ns[r] = (double)(now_ns() - start);
    }
    printf("kernel %.1f\n", median(ns, ROUNDS));
}

static void bench_populate(void)
{
    const struct ballast_demand d = { .node = 0, .bytes = UINT64_C(1) << 40 };
    size_t bytes = (size_t)1 << 30;
    struct ballast_ledger *l;
    double ns[ROUNDS];
    uint64_t start;
    void *memory;
    int r;

    make(0, BALLAST_ADMIT_STATIC);
    l = join(0, "bench");
    for (r = 0; r < ROUNDS; r++) {
        start = now_ns();
        if (ballast_claim(l, &d, 1, NULL)) {
            abort();
        }
        ns[r] = (double)(now_ns() - start);
        ballast_claim(l, NULL, 0, NULL);
    }
    printf("claim %.1f\n", median(ns, ROUNDS));
    start = now_ns();
    memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    printf("populate %.1f\n", (double)(now_ns() - start));
    if (memory == MAP_FAILED) {
        abort();
    }
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        void (*run)(void);
    } benches[] = {
        { "claims", bench_claims }, { "status", bench_status },
        { "recover", bench_recover }, { "procs", bench_procs },
        { "kernel", bench_kernel }, { "populate", bench_populate },
    };
    size_t i;

    if (argc != 2 || !mkdtemp(dir)) {
        return 2;
    }
    atexit(clean_up);
    for (i = 0; i < sizeof(benches) / sizeof(benches[0]); i++) {
        if (strcmp(benches[i].name, argv[1]) == 0) {
            benches[i].run();
            return 0;
        }
    }
    return 2;
}
