/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the commands share.  A command returns its exit status; messages go
 * to stderr in one line each, results to stdout.
 */
#ifndef BALLAST_CLI_H
#define BALLAST_CLI_H

#include <getopt.h>

#include "ballast/admin.h"

#ifndef BALLAST_VERSION
#define BALLAST_VERSION "unknown"
#endif

#define DEFAULT_LEDGER "/run/ballast/ledger"

/* ballast.1 has them in a table. */
enum {
    EXIT_OK = 0,
    EXIT_ERROR = 1,
    EXIT_USAGE = 2,
    EXIT_REFUSED = 3,
    EXIT_CANNOT_RUN = 126,
    EXIT_NOT_FOUND = 127,
};

/* Options that have no letter; help.c describes each. */
enum {
    OPT_LEDGER = 256,
    OPT_HELP,
    OPT_CAPACITY,
    OPT_RESERVE,
    OPT_SLOTS,
    OPT_ADMISSION,
    OPT_COUNT_CACHE,
    OPT_FORCE,
    OPT_JSON,
    OPT_NAME,
    OPT_PID,
    OPT_CLAIM,
    OPT_REPAIR,
    OPT_OVERCOMMIT,
    OPT_TOP,
    OPT_ALL,
    OPT_WAIT,
    OPT_INTERVAL,
    OPT_COUNT,
    OPT_TEXTFILE,
    OPT_NO_PARTICIPANTS,
    OPT_QMP,
    OPT_WATCH,
    OPT_TIMEOUT,
    OPT_EXACT,
    OPT_SVG,
};

#define COMMON_OPTIONS \
    { "ledger", required_argument, NULL, OPT_LEDGER }, \
    { "help", no_argument, NULL, OPT_HELP }

/**
 * struct command - one of ballast's commands
 * @name: the word.
 * @run: gets the word as argv[0].
 * @synopsis: what may follow it.
 * @summary: for the list of commands.
 * @details: for its own help.
 * @stop: the first word that is no option ends the options.
 */
struct command {
    const char *name;
    int (*run)(int argc, char **argv);
    const char *synopsis;
    const char *summary;
    const char *details;
    bool stop;
};

extern const char *ledger_path;
/* --json was given: what goes to stdout is JSON, errors too. */
extern bool json_wanted;

extern const struct command commands[];
extern const size_t nr_commands;

int cmd_init(int argc, char **argv);
int cmd_status(int argc, char **argv);
int cmd_migration(int argc, char **argv);
int cmd_placement(int argc, char **argv);
int cmd_claim(int argc, char **argv);
int cmd_release(int argc, char **argv);
int cmd_run(int argc, char **argv);
int cmd_check(int argc, char **argv);
int cmd_watch(int argc, char **argv);
int cmd_metrics(int argc, char **argv);

/* help.c */
void print_help(void);
int option(int argc, char **argv, const struct option *table);
int bad_option(int argc, char **argv);
int no_arguments(int argc, char **argv);
int run_command_named(int argc, char **argv);

/* main.c */
void complain(const char *format, ...) __attribute__((format(printf, 1, 2)));
int usage_error(const char *format, ...)
    __attribute__((format(printf, 1, 2)));
/* For want of memory: EXIT_REFUSED, with figures. */
bool is_refusal(enum ballast_reason reason);
int failed(int err, const struct ballast_refusal *why);
int failed_after(const char *prefix, int err,
                 const struct ballast_refusal *why);
struct ballast_ledger *open_ledger(int *status);
int read_status(struct ballast_ledger *l, struct ballast_status **st);
int flush_output(void);
int parse_number(const char *what, const char *text, unsigned long min,
                 unsigned long max, unsigned long *out);
int parse_seconds(const char *what, const char *text, double min, double max,
                  double *out);
int parse_demand(const char *what, const char *text,
                 struct ballast_demand *out);

#endif
