/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * ballast: the operator's and the script's way to a ledger.
 */
#include <errno.h>
#include <locale.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"
#include "json.h"
#include "text.h"

const char *ledger_path;
bool json_wanted;

/* Names are others' words: they must not do anything to a terminal. */
static void say(const char *format, va_list args, const char *end)
{
    char text[8192];

    vsnprintf(text, sizeof(text), format, args);
    text_clean(text);
    fprintf(stderr, "ballast: %s%s\n", text, end);
}

void complain(const char *format, ...)
{
    va_list args;

    va_start(args, format);
    say(format, args, "");
    va_end(args);
}

int usage_error(const char *format, ...)
{
    va_list args;

    va_start(args, format);
    say(format, args, " (see ballast --help)");
    va_end(args);
    return EXIT_USAGE;
}

bool is_refusal(enum ballast_reason reason)
{
    switch (reason) {
    case BALLAST_SHORT_NODE:
    case BALLAST_SHORT_HOST:
    case BALLAST_SHORT_KERNEL:
    case BALLAST_BEHIND_QUEUE:
    case BALLAST_ABOVE_MAXIMUM:
    case BALLAST_ABOVE_QUOTA:
        return true;
    default:
        return false;
    }
}

/* What a call said, in words and, if wanted, in JSON. */
int failed_after(const char *prefix, int err,
                 const struct ballast_refusal *why)
{
    char reason[2048], text[2200];

    ballast_refusal_text(why, reason, sizeof(reason));
    snprintf(text, sizeof(text), "%s%s", prefix,
             why->reason != BALLAST_OK ? reason : strerror(-err));
    complain("%s", text);
    if (json_wanted) {
        json_error(text, why);
    }
    return is_refusal(why->reason) ? EXIT_REFUSED : EXIT_ERROR;
}

int failed(int err, const struct ballast_refusal *why)
{
    return failed_after("", err, why);
}

struct ballast_ledger *open_ledger(int *status)
{
    struct ballast_refusal why;
    struct ballast_ledger *l;
    int err = ballast_ledger_open(ledger_path, &l, &why);
    char reason[2048], text[4096];

    if (!err) {
        return l;
    }
    ballast_refusal_text(&why, reason, sizeof(reason));
    if (why.reason == BALLAST_SYSTEM && !strcmp(why.detail, ledger_path)) {
        /* the path is not needed twice */
        snprintf(reason, sizeof(reason), "%s", strerror(-err));
    }
    snprintf(text, sizeof(text), "cannot open the ledger %s: %s%s",
             ledger_path, reason,
             err == -ENOENT ? "; make one with ballast init" : "");
    complain("%s", text);
    if (json_wanted) {
        json_error(text, &why);
    }
    *status = EXIT_ERROR;
    return NULL;
}

int read_status(struct ballast_ledger *l, struct ballast_status **st)
{
    struct ballast_refusal why = { .reason = BALLAST_SYSTEM };
    char text[256];
    int err = ballast_status_get(l, st);

    if (!err) {
        return EXIT_OK;
    }
    snprintf(text, sizeof(text), "cannot read the ledger: %s",
             strerror(-err));
    complain("%s", text);
    if (json_wanted) {
        why.err = err;
        json_error(text, &why);
    }
    return EXIT_ERROR;
}

/* Output that was cut short must not look like success. */
int flush_output(void)
{
    if (fflush(stdout) || ferror(stdout)) {
        complain("cannot write: %s", strerror(errno));
        return EXIT_ERROR;
    }
    return EXIT_OK;
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

int parse_seconds(const char *what, const char *text, double min, double max,
                  double *out)
{
    double value;
    char *end;

    value = strtod(text, &end);
    if (*text < '0' || *text > '9' || strpbrk(text, "xXpP") || *end ||
        !isfinite(value) || value < min || value > max) {
        return usage_error("%s '%s': seconds from %g to %.0f are allowed, "
                           "like 10 or 0.5", what, text, min, max);
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

/* --ledger may come before the command as well. */
static int skip_ledger(int argc, char **argv, int *at)
{
    static const char name[] = "--ledger";
    size_t len = sizeof(name) - 1;

    for (; *at < argc && strncmp(argv[*at], name, len) == 0; (*at)++) {
        if (argv[*at][len] == '=') {
            ledger_path = argv[*at] + len + 1;
        } else if (argv[*at][len] == '\0' && *at + 1 < argc) {
            ledger_path = argv[++*at];
        } else if (argv[*at][len] == '\0') {
            return usage_error("option --ledger needs a value");
        } else {
            break;
        }
    }
    return EXIT_OK;
}

int main(int argc, char **argv)
{
    int at = 1;

    /* Numbers stay as they are in scripts; only letters follow the user. */
    setlocale(LC_CTYPE, "");
    ledger_path = getenv(BALLAST_ENV_LEDGER);
    if (!ledger_path || !*ledger_path) {
        ledger_path = DEFAULT_LEDGER;
    }
    if (skip_ledger(argc, argv, &at)) {
        return EXIT_USAGE;
    }
    if (at >= argc) {
        return usage_error("a command is missing");
    }
    if (strcmp(argv[at], "--help") == 0 || strcmp(argv[at], "-h") == 0) {
        print_help();
        return flush_output();
    }
    if (strcmp(argv[at], "--version") == 0) {
        puts("ballast " BALLAST_VERSION);
        return flush_output();
    }
    if (argv[at][0] == '-') {
        return usage_error("'%s': a command is needed first", argv[at]);
    }
    return run_command_named(argc - at, argv + at);
}
