/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * ballastd: start, and run the loop.  Exit status: 0 stopped by a signal, 1
 * an error, 2 wrong usage.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "daemon.h"

static struct daemon self;

#ifdef BALLAST_TEST_SYSFS
/* For tests only: a sysfs of their own. */
static void use_test_sysfs(void)
{
    const char *root = getenv("BALLAST_TEST_SYSFS");

    if (root) {
        ballast_sysfs_root = root;
    }
}
#else
static void use_test_sysfs(void)
{
}
#endif

static int open_ledger(struct daemon *d)
{
    const char *path = d->options.ledger;
    struct ballast_refusal why;
    char text[512];
    int err = ballast_ledger_open(path, &d->ledger, &why);

    if (err) {
        ballast_refusal_text(&why, text, 160);
        log_line(LOG_ERROR, "event=failed what=\"opening the ledger\" "
                 "ledger=%s error=%s", log_quoted(path), log_quoted(text));
        return err;
    }
    if (d->ledger->remote) {
        log_line(LOG_ERROR, "event=failed what=\"--ledger is a socket: the "
                 "file is needed\" ledger=%s", log_quoted(path));
        return -1;
    }
    return start_lock(d->ledger, path);
}

static int make_tables(struct daemon *d)
{
    uint32_t nr_slots = d->ledger->geo.nr_slots, i;
    uint32_t nr_clients = d->options.max_clients;

    d->clients = calloc(nr_clients, sizeof(*d->clients));
    d->watches = calloc(nr_slots, sizeof(*d->watches));
    d->accounts = calloc((size_t)nr_slots + nr_clients + 1,
                         sizeof(*d->accounts));
    if (!d->clients || !d->watches || !d->accounts) {
        return log_failure("making tables", -12);
    }
    for (i = 0; i < nr_clients; i++) {
        d->clients[i].fd = d->clients[i].pidfd = -1;
    }
    for (i = 0; i < nr_slots; i++) {
        d->watches[i] = (struct watch){
            .pidfd = -1, .account = NOBODY, .client = NOBODY,
        };
    }
    return 0;
}

static int take_signals(struct daemon *d)
{
    sigset_t set;

    signal(SIGPIPE, SIG_IGN);
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGUSR1);
    sigprocmask(SIG_BLOCK, &set, NULL);
    d->signal_fd = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
    return d->signal_fd < 0 ? log_failure("signalfd", -1) : 0;
}

static int start(struct daemon *d)
{
    int err;

    start_close_all();
    err = take_signals(d);
    if (!err) {
        err = open_ledger(d);
    }
    if (!err) {
        err = start_limits(&d->options, d->ledger->geo.nr_slots);
    }
    if (!err) {
        d->listen_fd = start_listen(&d->options);
        err = d->listen_fd < 0 ? d->listen_fd : 0;
    }
    if (!err) {
        err = start_drop(&d->options);
    }
    return err ? err : make_tables(d);
}

int main(int argc, char **argv)
{
    int status = options_parse(&self.options, argc, argv);

    if (status) {
        return status < 0 ? 0 : status;
    }
    use_test_sysfs();
    if (start(&self)) {
        return 1;
    }
    return loop_run(&self);
}
