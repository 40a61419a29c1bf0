/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * ballast: the operator's and the script's way to a ledger.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"

#ifndef BALLAST_VERSION
#define BALLAST_VERSION "unknown"
#endif

const char *ledger_path;

static const char help[] =
"usage: ballast COMMAND [OPTIONS]\n"
"\n"
"  init     make a ledger for this host\n"
"             [--capacity SIZE[@NODE][/PAGE]]... [--reserve SIZE]\n"
"             [--slots N] [--admission kernel|static]\n"
"             [--count-cache PERCENT] [--force]\n"
"  status   show capacity, claims and participants  [--json]\n"
"  migration  tell of a QEMU's migration and its hints; needs no ledger\n"
"             --qmp PATH [--json] [--watch[=SECONDS]] [--timeout SECONDS]\n"
"  claim    hold memory under a name, without a process\n"
"             --name NAME [--pid PID] SIZE[@NODE][/PAGE]...\n"
"  release  end such a claim  NAME\n"
"  run      claim memory, then execute a command that inherits the claim\n"
"             --claim SIZE[@NODE][/PAGE]... [--name NAME] -- COMMAND [ARG]...\n"
"  check    look for contradictions and broken promises  [--repair]\n"
"\n"
"Every command takes --ledger PATH (default: $BALLAST_LEDGER, else\n"
DEFAULT_LEDGER ").\n"
"SIZE is in bytes or like 512M, 4G, 1.5GiB; NODE is a number or any\n"
"(init: a number, default 0); PAGE is a page size like 2M.\n"
"\n"
"Exit status: 0 done; 1 error; 2 wrong usage; 3 claim refused;\n"
"run also: 126 command cannot be executed, 127 not found.\n";

void complain(const char *format, ...)
{
    va_list args;

    va_start(args, format);
    fputs("ballast: ", stderr);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    va_end(args);
}

int usage_error(const char *format, ...)
{
    va_list args;

    va_start(args, format);
    fputs("ballast: ", stderr);
    vfprintf(stderr, format, args);
    fputs(" (see ballast --help)\n", stderr);
    va_end(args);
    return EXIT_USAGE;
}

/* The next option that is the command's own, -1 at the end, '?' if bad. */
int option(int argc, char **argv, const struct option *table)
{
    int c;

    opterr = 0;
    while ((c = getopt_long(argc, argv, "+:", table, NULL)) == OPT_LEDGER) {
        ledger_path = optarg;
    }
    if (c == OPT_HELP) {
        fputs(help, stdout);
        exit(EXIT_OK);
    }
    return c;
}

int bad_option(int argc, char **argv)
{
    const char *given = optind > 1 && optind <= argc ? argv[optind - 1] : "?";

    return usage_error("option %s is unknown, ambiguous or lacks its value",
                       given);
}

int failed(int err, const struct ballast_refusal *why)
{
    char text[2048];

    ballast_refusal_text(why, text, sizeof(text));
    complain("%s", why->reason != BALLAST_OK ? text : strerror(-err));
    switch (why->reason) {
    case BALLAST_SHORT_NODE:
    case BALLAST_SHORT_HOST:
    case BALLAST_SHORT_KERNEL:
    case BALLAST_ABOVE_MAXIMUM:
        return EXIT_REFUSED;
    default:
        return EXIT_ERROR;
    }
}

struct ballast_ledger *open_ledger(int *status)
{
    struct ballast_refusal why;
    struct ballast_ledger *l;
    int err = ballast_ledger_open(ledger_path, &l, &why);
    char text[2048];

    if (!err) {
        return l;
    }
    ballast_refusal_text(&why, text, sizeof(text));
    complain("cannot open the ledger %s: %s%s", ledger_path, text,
             err == -ENOENT ? "; make one with ballast init" : "");
    *status = EXIT_ERROR;
    return NULL;
}

int parse_number(const char *what, const char *text, unsigned long min,
                 unsigned long max, unsigned long *out)
{
    unsigned long value;
    char *end;

    errno = 0;
    value = strtoul(text, &end, 10);
    if (*text < '0' || *text > '9' || *end || errno || value < min ||
        value > max) {
        return usage_error("%s '%s': a number from %lu to %lu is allowed",
                           what, text, min, max);
    }
    *out = value;
    return EXIT_OK;
}

int parse_demand(const char *what, const char *text,
                 struct ballast_demand *out)
{
    if (ballast_parse_demand(text, out)) {
        return usage_error("%s '%s': SIZE[@NODE][/PAGE] is allowed, like 4G, "
                           "1.5GiB@1 or 2G@0/2M", what, text);
    }
    return EXIT_OK;
}

static const struct {
    const char *name;
    int (*run)(int argc, char **argv);
} commands[] = {
    { "init", cmd_init },
    { "status", cmd_status },
    { "migration", cmd_migration },
    { "claim", cmd_claim },
    { "release", cmd_release },
    { "run", cmd_run },
    { "check", cmd_check },
};

int main(int argc, char **argv)
{
    size_t i;

    ledger_path = getenv(BALLAST_ENV_LEDGER);
    if (!ledger_path || !*ledger_path) {
        ledger_path = DEFAULT_LEDGER;
    }
    if (argc < 2) {
        return usage_error("a command is missing");
    }
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0) {
        fputs(help, stdout);
        return EXIT_OK;
    }
    if (strcmp(argv[1], "--version") == 0) {
        puts("ballast " BALLAST_VERSION);
        return EXIT_OK;
    }
    for (i = 0; i < sizeof(commands) / sizeof(commands[0]); i++) {
        if (strcmp(argv[1], commands[i].name) == 0) {
            return commands[i].run(argc - 1, argv + 1);
        }
    }
    return usage_error("there is no command '%s'", argv[1]);
}
