/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * ballast claim, release, run.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli.h"

struct wish {
    const char *name;
    pid_t pid;
    struct ballast_demand set[BALLAST_MAX_DEMANDS];
    size_t nr;
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
    case OPT_CLAIM:
        return add_wish(w, "--claim", optarg);
    default:
        return bad_option(argc, argv);
    }
}

static int parse_claim(struct wish *w, int argc, char **argv)
{
    static const struct option table[] = {
        COMMON_OPTIONS,
        { "name", required_argument, NULL, OPT_NAME },
        { "pid", required_argument, NULL, OPT_PID },
        { NULL, 0, NULL, 0 }
    };
    int c, status = EXIT_OK;

    while (!status && (c = option(argc, argv, table)) != -1) {
        status = wish_option(w, c, argc, argv);
    }
    for (; !status && optind < argc; optind++) {
        if (argv[optind][0] == '-') {
            return usage_error("claim: options come before sizes: '%s'",
                               argv[optind]);
        }
        status = add_wish(w, "claim", argv[optind]);
    }
    if (!status && (!w->name || !w->nr)) {
        status = usage_error("claim: --name NAME and at least one size are "
                             "needed");
    }
    return status;
}

int cmd_claim(int argc, char **argv)
{
    static struct wish w;
    struct ballast_refusal why;
    struct ballast_ledger *l;
    int err, status = parse_claim(&w, argc, argv);

    if (status) {
        return status;
    }
    l = open_ledger(&status);
    if (!l) {
        return status;
    }
    err = ballast_stand(l, w.name, w.set, w.nr, w.pid, &why);
    status = err ? failed(err, &why) : EXIT_OK;
    ballast_ledger_close(l);
    return status;
}

int cmd_release(int argc, char **argv)
{
    static const struct option table[] = {
        COMMON_OPTIONS, { NULL, 0, NULL, 0 }
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
    ballast_ledger_close(l);
    return status;
}

static int parse_run(struct wish *w, int argc, char **argv)
{
    static const struct option table[] = {
        COMMON_OPTIONS,
        { "name", required_argument, NULL, OPT_NAME },
        { "claim", required_argument, NULL, OPT_CLAIM },
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

int cmd_run(int argc, char **argv)
{
    static struct wish w;
    struct ballast_refusal why;
    struct ballast_ledger *l;
    int err, status = parse_run(&w, argc, argv);

    if (status) {
        return status;
    }
    l = open_ledger(&status);
    if (!l) {
        return status;
    }
    err = ballast_join(l, w.name, 0, &why);
    if (!err) {
        err = ballast_claim(l, w.set, w.nr, &why);
    }
    if (err) {
        status = failed(err, &why);
    } else {
        status = run_command(l, argv + optind);
    }
    ballast_leave(l);
    ballast_ledger_close(l);
    return status;
}
