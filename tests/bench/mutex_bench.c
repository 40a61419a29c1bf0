/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The floor of what the ledger can cost: claim and release each take the
 * ledger's lock once, so this times two uncontended lock and unlock pairs of a
 * robust mutex in shared memory.  Prints "mutex.two_pairs value_ns".
 */
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>

#define ROUNDS  15
#define LOOPS   20000

static double now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return x < y ? -1 : x > y;
}

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
    double start = now_ns();
    int i;

    for (i = 0; i < 2 * LOOPS; i++) {
        if (pthread_mutex_lock(mutex) || pthread_mutex_unlock(mutex)) {
            abort();
        }
    }
    return (now_ns() - start) / LOOPS;
}

int main(void)
{
    pthread_mutex_t *mutex = make_mutex();
    double ns[ROUNDS];
    int r;

    for (r = 0; r < ROUNDS; r++) {
        ns[r] = two_pairs(mutex);
    }
    qsort(ns, ROUNDS, sizeof(ns[0]), compare);
    printf("mutex.two_pairs %.1f\n", ns[ROUNDS / 2]);
    return 0;
}
