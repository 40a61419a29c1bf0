/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Eight processes claim, report, leave and die at random for two seconds; a
 * ninth watches that nothing is ever promised twice.
 */
#include <time.h>

#include "helper.h"

#define WORKERS 8
#define CAPACITY GIB(8)

static const char *path;

static void work(unsigned seed)
{
    struct ballast_ledger *l = must_open(path);
    char name[32];

    snprintf(name, sizeof(name), "w%u-%d", seed, (int)getpid());
    for (;;) {
        uint32_t node = (uint32_t)rand_r(&seed) % 2;
        uint64_t bytes = MIB((unsigned)rand_r(&seed) % 4096);

        if (ballast_join(l, name, 0, NULL)) {
            continue;
        }
        while (rand_r(&seed) % 64) {
            if (CLAIM1(l, rand_r(&seed) % 8 ? node : ANY, bytes, NULL) == 0) {
                REPORT1(l, node, bytes / 2 & ~UINT64_C(4095));
            }
            bytes = MIB((unsigned)rand_r(&seed) % 4096);
        }
        ballast_leave(l);
    }
}

static pid_t start_worker(unsigned seed)
{
    pid_t pid = fork_child();

    if (pid == 0) {
        work(seed);
    }
    return pid;
}

static uint64_t now_ms(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

int main(void)
{
    uint64_t end = now_ms() + 2000;
    unsigned seed = 1, kills = 0, looks = 0;
    struct ballast_ledger *l;
    pid_t pids[WORKERS];
    bool ok = true;
    int i;

    path = new_ledger("stress", 2, CAPACITY);
    l = must_open(path);
    for (i = 0; i < WORKERS; i++) {
        pids[i] = start_worker(++seed);
    }
    while (now_ms() < end && ok) {
        usleep(3000);
        i = rand_r(&seed) % WORKERS;
        kill_and_reap(pids[i]);
        kills++;
        pids[i] = start_worker(++seed);
        ok = identity_holds(l);
        looks++;
    }
    for (i = 0; i < WORKERS; i++) {
        kill_and_reap(pids[i]);
    }
    OK(ok, "the identity held %u times while %u processes were killed", looks,
       kills);
    OK(identity_holds(l) && ballast_check(l, 0, NULL, NULL) == 0,
       "and holds afterwards");
    OK(free_on(l, 0) == (int64_t)CAPACITY && free_on(l, ANY) ==
       2 * (int64_t)CAPACITY, "all capacity is back");
    ballast_ledger_close(l);
    return tap_done();
}
