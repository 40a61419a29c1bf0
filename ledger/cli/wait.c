/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Waiting that Ctrl-C can end, in good order.
 *
 * The call that waits cannot be interrupted, so it has a thread of its own,
 * and the first one takes the signals.  Nothing is handled in a signal's
 * context.
 */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "wait.h"

#define DONE_SIGNAL SIGUSR2

struct run {
    const struct wait_job *job;
    pthread_t starter;
    atomic_bool done;
    int result;
};

static void *body(void *opaque)
{
    struct run *r = opaque;

    r->result = r->job->call(r->job->opaque);
    atomic_store(&r->done, true);
    pthread_kill(r->starter, DONE_SIGNAL);
    return NULL;
}

/* What is ignored stays so: nohup, and jobs in the background. */
static void signals_to_take(sigset_t *set)
{
    static const int numbers[] = { SIGINT, SIGTERM, SIGHUP };
    struct sigaction action;
    size_t i;

    sigemptyset(set);
    sigaddset(set, DONE_SIGNAL);
    for (i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++) {
        if (sigaction(numbers[i], NULL, &action) == 0 &&
            action.sa_handler != SIG_IGN) {
            sigaddset(set, numbers[i]);
        }
    }
}

static void die(int number)
{
    sigset_t set;

    signal(number, SIG_DFL);
    sigemptyset(&set);
    sigaddset(&set, number);
    raise(number);
    pthread_sigmask(SIG_UNBLOCK, &set, NULL);
    _exit(128 + number);
}

/* Until the call is done; does not return when a signal came. */
static void attend(struct run *r, const sigset_t *set)
{
    struct timespec half = { .tv_nsec = 500 * 1000 * 1000 };
    int number;

    number = sigtimedwait(set, NULL, &half);
    if (number < 0 && errno == EAGAIN && !atomic_load(&r->done)) {
        r->job->patience(r->job->opaque);
    }
    while (!atomic_load(&r->done)) {
        if (number > 0 && number != DONE_SIGNAL) {
            r->job->give_up(r->job->opaque);
            die(number);
        }
        number = sigwaitinfo(set, NULL);
    }
}

int wait_job(const struct wait_job *job)
{
    struct run r = { .job = job, .starter = pthread_self() };
    struct timespec none = { 0 };
    sigset_t set, before;
    pthread_t thread;
    int err;

    signals_to_take(&set);
    pthread_sigmask(SIG_BLOCK, &set, &before);
    err = pthread_create(&thread, NULL, body, &r);
    if (!err) {
        attend(&r, &set);
        pthread_join(thread, NULL);
        sigemptyset(&set);
        sigaddset(&set, DONE_SIGNAL);
        while (sigtimedwait(&set, NULL, &none) == DONE_SIGNAL) {
        }
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return err ? -err : r.result;
}
