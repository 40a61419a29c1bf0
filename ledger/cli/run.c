/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * ballast claim, release, run.
 *
 * Who waits can be interrupted, and has then left the queue: a claim that was
 * to be replaced is what it was, a new one is gone.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli.h"
#include "json.h"
#include "wait.h"

struct wish {
    const char *name;
    pid_t pid;
    struct ballast_demand set[BALLAST_MAX_DEMANDS];
    size_t nr;
    uint64_t timeout_ms;
    bool wait;
    struct ballast_ledger *l;
    struct ballast_refusal why;
};

/* Claims that name the same place twice add up. */
static int add_wish(struct wish *w, const char *what, const char *text)
{
    struct ballast_demand d;
    int status = parse_demand(what, text, &d);
    size_t i;

    if (status) {
        return status;
    }
    for (i = 0; i < w->nr; i++) {
        if (w->set[i].node == d.node && w->set[i].page_bytes == d.page_bytes) {
            if (d.bytes > BALLAST_MAX_BYTES - w->set[i].bytes) {
                return usage_error("%s '%s': too much", what, text);
            }
            w->set[i].bytes += d.bytes;
            return EXIT_OK;
        }
    }
    if (w->nr == BALLAST_MAX_DEMANDS) {
        return usage_error("%s '%s': too many", what, text);
    }
    if (d.bytes > BALLAST_MAX_BYTES) {
        return usage_error("%s '%s': at most 256T is allowed", what, text);
    }
    w->set[w->nr++] = d;
    return EXIT_OK;
}

static int wish_wait(struct wish *w)
{
    double seconds = 0;
    int status;

    w->wait = true;
    w->timeout_ms = BALLAST_WAIT_FOREVER;
    if (!optarg) {
        return EXIT_OK;
    }
    status = parse_seconds("--wait", optarg, 0, 1e9, &seconds);
    w->timeout_ms = (uint64_t)(seconds * 1000);
    return status;
}

static int wish_option(struct wish *w, int c, int argc, char **argv)
{
    unsigned long n;
    int status;

    switch (c) {
    case OPT_NAME:
        w->name = optarg;
        return EXIT_OK;
    case OPT_PID:
        status = parse_number("--pid", optarg, 1, INT32_MAX, &n);
        w->pid = (pid_t)n;
        return status;
    case OPT_WAIT:
        return wish_wait(w);
    case OPT_CLAIM:
        return add_wish(w, "--claim", optarg);
    default:
        return bad_option(argc, argv);
    }
}

static int parse_claim(struct wish *w, int argc, char **argv)
{
    static const struct option table[] = {
        { "name", required_argument, NULL, OPT_NAME },
        { "pid", required_argument, NULL, OPT_PID },
        { "wait", optional_argument, NULL, OPT_WAIT },
        { "json", no_argument, NULL, OPT_JSON },
        COMMON_OPTIONS,
        { NULL, 0, NULL, 0 }
    };
    int c, status = EXIT_OK;

    while (!status && (c = option(argc, argv, table)) != -1) {
        status = wish_option(w, c, argc, argv);
    }
    for (; !status && optind < argc; optind++) {
        status = add_wish(w, "claim", argv[optind]);
    }
    if (!status && (!w->name || !w->nr)) {
        status = usage_error("claim: --name NAME and at least one size are "
                             "needed");
    }
    return status;
}

/* The participant that waits for us; NULL if it does not any more. */
static const struct ballast_participant *
find_waiter(const struct ballast_status *st, const struct wish *w,
            const uint64_t *serial)
{
    size_t i;

    for (i = 0; i < st->nr_participants; i++) {
        const struct ballast_participant *p = &st->participants[i];

        if (p->queue_place && (serial ? p->serial == *serial :
                               p->state == BALLAST_STANDING &&
                               strcmp(p->name, w->name) == 0)) {
            return p;
        }
    }
    return NULL;
}

static void say_place(const struct wish *w, const uint64_t *serial)
{
    const struct ballast_participant *p;
    struct ballast_ledger *l;
    struct ballast_status *st;

    if (ballast_ledger_open(ledger_path, &l, NULL)) {
        return;
    }
    if (ballast_status_get(l, &st) == 0) {
        p = find_waiter(st, w, serial);
        if (p) {
            complain("waiting in the queue as %s, place %u (Ctrl-C gives up)",
                     p->name, p->queue_place);
        }
        ballast_status_free(st);
    }
    ballast_ledger_close(l);
}

/*
 * Makes the claim what it was, which takes it out of the queue: equal is never
 * refused.  One that was made for waiting is ours, and ends.
 */
static void withdraw(struct ballast_ledger *l, const char *name,
                     const struct ballast_participant *p)
{
    static struct ballast_demand set[BALLAST_MAX_DEMANDS];
    size_t i, nr = 0;

    if (p->pid == getpid()) {
        ballast_release(l, name, NULL);
        return;
    }
    for (i = 0; i < p->nr_cells && nr < BALLAST_MAX_DEMANDS; i++) {
        if (p->cells[i].claimed_bytes) {
            set[nr].node = p->cells[i].node;
            set[nr].page_bytes = p->cells[i].page_bytes;
            set[nr++].bytes = p->cells[i].claimed_bytes;
        }
    }
    ballast_stand(l, name, set, nr, 0, NULL);
}

static int claim_call(void *opaque)
{
    struct wish *w = opaque;

    return ballast_stand_wait(w->l, w->name, w->set, w->nr, w->pid,
                              w->timeout_ms, &w->why);
}

static void claim_patience(void *opaque)
{
    say_place(opaque, NULL);
}

static void claim_give_up(void *opaque)
{
    const struct ballast_participant *p;
    struct wish *w = opaque;
    struct ballast_ledger *l;
    struct ballast_status *st;

    if (ballast_ledger_open(ledger_path, &l, NULL)) {
        return;
    }
    if (ballast_status_get(l, &st) == 0) {
        p = find_waiter(st, w, NULL);
        if (p) {
            withdraw(l, w->name, p);
        }
        ballast_status_free(st);
    }
    ballast_ledger_close(l);
}

/* After waiting in vain the reason is still what is missing. */
static int refused(int err, struct wish *w)
{
    char prefix[64] = "";

    if (err == -ETIMEDOUT && w->wait) {
        snprintf(prefix, sizeof(prefix), "waited %.3g s in vain: ",
                 (double)w->timeout_ms / 1000);
        w->why.err = err;
    }
    return failed_after(prefix, err, &w->why);
}

int cmd_claim(int argc, char **argv)
{
    static struct wish w;
    struct wait_job job = { claim_call, claim_patience, claim_give_up, &w };
    int err, status = parse_claim(&w, argc, argv);

    if (status) {
        return status;
    }
    w.l = open_ledger(&status);
    if (!w.l) {
        return status;
    }
    err = w.wait ? wait_job(&job) :
          ballast_stand(w.l, w.name, w.set, w.nr, w.pid, &w.why);
    status = err ? refused(err, &w) : EXIT_OK;
    if (!err && json_wanted) {
        json_granted(w.name);
    }
    ballast_ledger_close(w.l);
    return flush_output() ? EXIT_ERROR : status;
}

int cmd_release(int argc, char **argv)
{
    static const struct option table[] = {
        { "json", no_argument, NULL, OPT_JSON },
        COMMON_OPTIONS,
        { NULL, 0, NULL, 0 }
    };
    struct ballast_refusal why;
    struct ballast_ledger *l;
    int err, status;

    if (option(argc, argv, table) != -1) {
        return bad_option(argc, argv);
    }
    if (argc - optind != 1) {
        return usage_error("release: exactly one NAME is needed");
    }
    l = open_ledger(&status);
    if (!l) {
        return status;
    }
    err = ballast_release(l, argv[optind], &why);
    status = err ? failed(err, &why) : EXIT_OK;
    if (!err && json_wanted) {
        json_released(argv[optind]);
    }
    ballast_ledger_close(l);
    return flush_output() ? EXIT_ERROR : status;
}

static int parse_run(struct wish *w, int argc, char **argv)
{
    static const struct option table[] = {
        { "claim", required_argument, NULL, OPT_CLAIM },
        { "name", required_argument, NULL, OPT_NAME },
        { "wait", optional_argument, NULL, OPT_WAIT },
        { "json", no_argument, NULL, OPT_JSON },
        COMMON_OPTIONS,
        { NULL, 0, NULL, 0 }
    };
    int c, status = EXIT_OK;

    while (!status && (c = option(argc, argv, table)) != -1) {
        status = wish_option(w, c, argc, argv);
    }
    if (!status && !w->nr) {
        status = usage_error("run: --claim SIZE[@NODE][/PAGE] is needed");
    }
    if (!status && optind >= argc) {
        status = usage_error("run: a command is needed, after --");
    }
    return status;
}

/* The claim survives exec; when there is no exec, it ends with us. */
static int run_command(struct ballast_ledger *l, char **command)
{
    char claim[BALLAST_CLAIM_BYTES];
    int err = ballast_bequeath(l, claim, sizeof(claim));

    if (err || setenv(BALLAST_ENV_CLAIM, claim, 1) ||
        setenv(BALLAST_ENV_LEDGER, ledger_path, 1)) {
        complain("cannot hand the claim on: %s",
                 strerror(err ? -err : errno));
        return EXIT_ERROR;
    }
    execvp(command[0], command);
    err = errno;
    complain("cannot execute %s: %s", command[0], strerror(err));
    return err == ENOENT ? EXIT_NOT_FOUND : EXIT_CANNOT_RUN;
}

static int run_call(void *opaque)
{
    struct wish *w = opaque;

    return ballast_claim_wait(w->l, w->set, w->nr, w->timeout_ms, &w->why);
}

static void run_patience(void *opaque)
{
    struct wish *w = opaque;
    uint64_t serial;
    uint32_t slot;

    if (ballast_slot(w->l, &slot, &serial) == 0) {
        say_place(w, &serial);
    }
}

static void run_give_up(void *opaque)
{
    struct wish *w = opaque;

    ballast_leave(w->l);
}

int cmd_run(int argc, char **argv)
{
    static struct wish w;
    struct wait_job job = { run_call, run_patience, run_give_up, &w };
    int err, status = parse_run(&w, argc, argv);

    if (status) {
        return status;
    }
    w.l = open_ledger(&status);
    if (!w.l) {
        return status;
    }
    err = ballast_join(w.l, w.name, 0, &w.why);
    if (!err) {
        err = w.wait ? wait_job(&job) :
              ballast_claim(w.l, w.set, w.nr, &w.why);
    }
    if (err) {
        status = refused(err, &w);
    } else {
        status = run_command(w.l, argv + optind);
    }
    ballast_leave(w.l);
    ballast_ledger_close(w.l);
    return flush_output() ? EXIT_ERROR : status;
}
