/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Threads: several on one handle, several handles in one process, and some
 * that look, sweep and check meanwhile.  Built with the thread sanitizer,
 * which ends the program at the first access that is not ordered.
 *
 * A fixed number of rounds, no time: the sanitizer sees orders that did not
 * happen.  It knows a mutex by its address, so handles of one file, which map
 * it twice, would be strangers to it: the second half of the test uses one
 * handle each and finds races only within a mapping.
 *
 * Built with a planted race (BALLAST_PLANTED_RACE) it is a control.
 */
#include <pthread.h>

#include "helper.h"

#define ROUNDS  300
#define THREADS 6

static const char *path;
static struct ballast_ledger *shared;

static void act(struct ballast_ledger *l, unsigned n)
{
    struct ballast_demand d = { .node = n % 2, .bytes = MIB(1 + n % 64) };
    struct ballast_refusal why;
    struct ballast_own own[4];
    char text[512];

    switch (n % 7) {
    case 0:
        ballast_report(l, NULL, 0);
        break;
    case 1:
        ballast_own(l, own, 4);
        break;
    case 2:
        ballast_queue(l, &d, 1, 1, &why);
        ballast_queue_poll(l, &why);
        ballast_queue_cancel(l);
        break;
    case 3:
        d.bytes = GIB(100);
        if (ballast_claim(l, &d, 1, &why)) {
            ballast_refusal_text(&why, text, sizeof(text));
        }
        break;
    case 4:
        ballast_claim_wait(l, &d, 1, 5, &why);
        break;
    default:
        ballast_claim(l, &d, 1, &why);
        break;
    }
}

static void look(struct ballast_ledger *l, unsigned n)
{
    struct ballast_demand d = { .node = n % 2, .bytes = MIB(1 + n % 8) };
    struct ballast_status *st;

    switch (n % 5) {
    case 0:
        ballast_sweep(l);
        break;
    case 1:
        ballast_check(l, 0, NULL, NULL);
        break;
    case 2:
        ballast_stand(l, "threads", &d, 1, 0, NULL);
        break;
    case 3:
        ballast_release(l, "threads", NULL);
        break;
    default:
        if (ballast_status_get(l, &st) == 0) {
            ballast_status_free(st);
        }
        break;
    }
}

static void *on_one_handle(void *opaque)
{
    unsigned id = (unsigned)(uintptr_t)opaque, n;

    for (n = 0; n < ROUNDS; n++) {
        if (id % 3) {
            act(shared, n * THREADS + id);
        } else {
            look(shared, n + id);
        }
    }
    return NULL;
}

#ifndef BALLAST_PLANTED_RACE
static void *on_its_own(void *opaque)
{
    unsigned id = (unsigned)(uintptr_t)opaque, n;
    struct ballast_ledger *l = must_open(path);
    char name[32];

    snprintf(name, sizeof(name), "thread-%u", id);
    for (n = 0; n < ROUNDS; n++) {
        if (n % 50 == 0) {
            ballast_leave(l);
            ballast_join(l, name, 0, NULL);
        }
        if (n % 5) {
            act(l, n * THREADS + id);
        } else {
            look(l, n + id);
        }
    }
    ballast_ledger_close(l);
    return NULL;
}
#endif

static void run(void *(*body)(void *))
{
    pthread_t threads[THREADS];
    uintptr_t i;

    for (i = 0; i < THREADS; i++) {
        if (pthread_create(&threads[i], NULL, body, (void *)i)) {
            abort();
        }
    }
    for (i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
    }
}

#ifdef BALLAST_PLANTED_RACE
#define SANITIZER_STATUS 66

int main(void)
{
    int status;
    pid_t pid;

    path = new_ledger("threads", 2, GIB(4));
    pid = fork();
    if (pid == 0) {
        if (!freopen("/dev/null", "w", stderr)) {
            abort();
        }
        shared = must_join(path, "shared");
        run(on_one_handle);
        exit(0);
    }
    waitpid(pid, &status, 0);
    OK(WIFEXITED(status) && WEXITSTATUS(status) == SANITIZER_STATUS,
       "control: the planted race is noticed");
    return tap_done();
}
#else
int main(void)
{
    path = new_ledger("threads", 2, GIB(4));
    shared = must_join(path, "shared");
    run(on_one_handle);
    OK(identity_holds(shared), "%d threads on one handle", THREADS);
    ballast_leave(shared);
    run(on_its_own);
    ballast_release(shared, "threads", NULL);
    OK(identity_holds(shared) && free_on(shared, ANY) == GIB(8) &&
       ballast_check(shared, 0, NULL, NULL) == 0,
       "%d handles in one process, all is back", THREADS);
    ballast_ledger_close(shared);
    return tap_done();
}
#endif
