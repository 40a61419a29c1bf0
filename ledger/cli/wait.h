/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Waiting that Ctrl-C can end, in good order.
 */
#ifndef BALLAST_CLI_WAIT_H
#define BALLAST_CLI_WAIT_H

/**
 * struct wait_job - a call that waits
 * @call: runs in a thread of its own; returns 0 or -errno.
 * @patience: called once, if it takes longer than half a second.
 * @give_up: undoes what @call has begun, while it still runs.
 * @opaque: handed to all of them.
 */
struct wait_job {
    int (*call)(void *opaque);
    void (*patience)(void *opaque);
    void (*give_up)(void *opaque);
    void *opaque;
};

/**
 * wait_job() - run it
 *
 * SIGINT, SIGTERM and SIGHUP, unless they are ignored: gives up and ends the
 * process by that signal, so that a shell sees it.
 *
 * Return: what the call returned, -errno of pthread_create().
 */
int wait_job(const struct wait_job *job);

#endif
