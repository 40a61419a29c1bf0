/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the commands share.  A command returns its exit status; messages go
 * to stderr in one line each.
 */
#ifndef BALLAST_CLI_H
#define BALLAST_CLI_H

#include <getopt.h>

#include "ballast/admin.h"

#define DEFAULT_LEDGER "/run/ballast/ledger"

enum {
    EXIT_OK = 0,
    EXIT_ERROR = 1,
    EXIT_USAGE = 2,
    EXIT_REFUSED = 3,
    EXIT_CANNOT_RUN = 126,
    EXIT_NOT_FOUND = 127,
};

/* Options that have no letter. */
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
};

#define COMMON_OPTIONS \
    { "ledger", required_argument, NULL, OPT_LEDGER }, \
    { "help", no_argument, NULL, OPT_HELP }

extern const char *ledger_path;

int cmd_init(int argc, char **argv);
int cmd_status(int argc, char **argv);
int cmd_migration(int argc, char **argv);
int cmd_claim(int argc, char **argv);
int cmd_release(int argc, char **argv);
int cmd_run(int argc, char **argv);
int cmd_check(int argc, char **argv);

void complain(const char *format, ...) __attribute__((format(printf, 1, 2)));
int usage_error(const char *format, ...)
    __attribute__((format(printf, 1, 2)));
int option(int argc, char **argv, const struct option *table);
int bad_option(int argc, char **argv);
int failed(int err, const struct ballast_refusal *why);
struct ballast_ledger *open_ledger(int *status);
int parse_number(const char *what, const char *text, unsigned long min,
                 unsigned long max, unsigned long *out);
int parse_demand(const char *what, const char *text,
                 struct ballast_demand *out);

#endif
