/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The floor of what the ledger can cost: claim and release each take the
 * ledger's lock once, so this times two uncontended lock and unlock pairs of a
 * robust mutex in shared memory.  Prints "mutex.two_pairs value_ns".
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "bench.h"

#define ROUNDS  15
#define LOOPS   20000

static pthread_mutex_t *make_mutex(void)
{
    pthread_mutexattr_t attr;
    pthread_mutex_t *mutex;

    mutex = mmap(NULL, sizeof(*mutex), PROT_READ | PROT_WRITE,
                 MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (mutex == MAP_FAILED || pthread_mutexattr_init(&attr) ||
        pthread_mutexattr_setpshared(&attr, PTHREAD_PROCESS_SHARED) ||
        pthread_mutexattr_setrobust(&attr, PTHREAD_MUTEX_ROBUST) ||
        pthread_mutex_init(mutex, &attr)) {
        abort();
    }
    return mutex;
}

static double two_pairs(pthread_mutex_t *mutex)
{
    uint64_t start = now_ns();
    int i;

    for (i = 0; i < 2 * LOOPS; i++) {
        if (pthread_mutex_lock(mutex) || pthread_mutex_unlock(mutex)) {
            abort();
        }
    }
    return (double)(now_ns() - start) / LOOPS;
}

int main(void)
{
    pthread_mutex_t *mutex = make_mutex();
    double ns[ROUNDS];
    int r;

    for (r = 0; r < ROUNDS; r++) {
        ns[r] = two_pairs(mutex);
    }
    printf("mutex.two_pairs %.1f\n", median(ns, ROUNDS));
    return 0;
}
