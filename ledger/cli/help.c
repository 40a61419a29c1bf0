/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Commands and options: what there is, what it is for, and what was probably
 * meant by a word that is neither.
 *
 * The help of a command lists the very table that its options are parsed
 * with, so an option cannot be forgotten there, only left undescribed, which
 * a test finds.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"

const struct command commands[] = {
    { "init", cmd_init,
      "[--capacity SIZE[@NODE][/PAGE]]... [--json] [OPTIONS]",
      "make a ledger for this host",
      "Makes a ledger for this host, or of exactly the capacity given.",
      false },
    { "status", cmd_status,
      "[--json] [--top N | --all]",
      "show capacity, claims, participants and the queue",
      "Shows per node and page size what is promised, allocated and free,\n"
      "promises that the kernel could not keep, and who holds what.",
      false },
    { "claim", cmd_claim,
      "--name NAME [--pid PID] [--wait[=SECONDS]]\n"
      "                     SIZE[@NODE][/PAGE]...",
      "hold memory under a name, without a process",
      "Makes a standing claim, or replaces the one of that name.  It ends\n"
      "with ballast release, with the process given, or with the boot.",
      false },
    { "release", cmd_release,
      "NAME",
      "end such a claim",
      "Ends the standing claim of that name.",
      false },
    { "run", cmd_run,
      "--claim SIZE[@NODE][/PAGE]... [--name NAME]\n"
      "                   [--wait[=SECONDS]] -- COMMAND [ARG]...",
      "claim memory, then execute a command with the claim",
      "Claims memory, then executes the command, which inherits the claim.\n"
      "The claim ends with the process.",
      true },
    { "check", cmd_check,
      "[--repair] [--json]",
      "look for contradictions and broken promises",
      "Looks for what contradicts itself in the ledger, and for promises\n"
      "that the kernel could not keep.",
      false },
    { "watch", cmd_watch,
      "[--interval SECONDS] [--count N] [--top N]",
      "show the ledger, again and again",
      "Redraws a view of the ledger every second.  q or Ctrl-C ends it.\n"
      "When the output is not a terminal, it prints one view after another.",
      false },
    { "metrics", cmd_metrics,
      "[--textfile PATH] [--no-participants]",
      "print the ledger for Prometheus",
      "Prints the ledger in the text format of Prometheus.",
      false },
    { "migration", cmd_migration,
      "--qmp PATH [--json] [--watch[=SECONDS]]\n"
      "                         [--timeout SECONDS]",
      "tell of a QEMU's migration and its hints; needs no ledger",
      "Asks a QEMU, with Ballast or without, about its migration and its\n"
      "free page hints.",
      false },
    { "placement", cmd_placement,
      "--qmp PATH | --pid PID [--exact[=SECONDS]]\n"
      "                         [--svg FILE] [--json] [--timeout SECONDS]",
      "tell on which host nodes a guest's memory is; needs no ledger",
      "Asks a QEMU with Ballast where its guest's memory really is, or looks\n"
      "at any QEMU from outside.  Nothing is changed or populated.",
      false },
};

const size_t nr_commands = sizeof(commands) / sizeof(commands[0]);

static const struct {
    int id;
    const char *value;
    const char *text;
} descriptions[] = {
    { OPT_LEDGER, "PATH", "a ledger file, or the socket of a ballastd" },
    { OPT_HELP, NULL, "show this" },
    { OPT_CAPACITY, "SIZE[@NODE][/PAGE]", "what guests may use there" },
    { OPT_RESERVE, "SIZE", "keep this much of the host from guests" },
    { OPT_SLOTS, "N", "participants at one time (4096)" },
    { OPT_ADMISSION, "kernel|static",
      "is the kernel's free memory looked at, or not" },
    { OPT_COUNT_CACHE, "PERCENT",
      "how much of the page cache counts as free (50)" },
    { OPT_FORCE, NULL, "replace a ledger that nobody is in" },
    { OPT_JSON, NULL, "print JSON, for errors too" },
    { OPT_NAME, "NAME", "name in the ledger" },
    { OPT_PID, "PID", "a process (claim: the claim ends with it)" },
    { OPT_CLAIM, "SIZE[@NODE][/PAGE]", "what to claim; may be repeated" },
    { OPT_REPAIR, NULL, "put right what can be" },
    { OPT_OVERCOMMIT, "[NODE=]PERCENT",
      "promise so much of the capacity (100)" },
    { OPT_TOP, "N", "show at most N rows of each table (20)" },
    { OPT_ALL, NULL, "show all rows" },
    { OPT_WAIT, "[=SECONDS]", "wait in the queue for what is missing" },
    { OPT_INTERVAL, "SECONDS", "time between views (1)" },
    { OPT_COUNT, "N", "end after N views" },
    { OPT_TEXTFILE, "PATH", "replace this file instead of printing" },
    { OPT_NO_PARTICIPANTS, NULL, "leave out what is per participant" },
    { OPT_QMP, "PATH", "QEMU's QMP socket" },
    { OPT_WATCH, "[=SECONDS]", "ask again and again (1)" },
    { OPT_TIMEOUT, "SECONDS", "give up when QEMU says nothing (5)" },
    { OPT_EXACT, "[=SECONDS]", "look at every page, for so long (300)" },
    { OPT_SVG, "FILE", "also draw a picture" },
};

static const struct command *current;
static const struct option *current_table;
static int current_code;

#define MORE_HELP \
"PATH is --ledger PATH, else $BALLAST_LEDGER, else " DEFAULT_LEDGER ".\n" \
"SIZE is in bytes or like 512M, 4G, 1.5GiB; NODE is a number or any\n" \
"(init: a number, default 0); PAGE is a page size like 2M.\n" \
"\n" \
"Exit status: 0 done; 1 error; 2 wrong usage; 3 claim refused;\n" \
"run also: 126 command cannot be executed, 127 not found.\n"

void print_help(void)
{
    size_t i;

    puts("usage: ballast COMMAND [OPTIONS]\n");
    for (i = 0; i < nr_commands; i++) {
        printf("  %-11s%s\n", commands[i].name, commands[i].summary);
    }
    puts("\nballast COMMAND --help says more.  Every command takes --ledger "
         "PATH.\n");
    fputs(MORE_HELP, stdout);
}

static void describe(const struct option *o)
{
    char left[64];
    size_t i;

    for (i = 0; i < sizeof(descriptions) / sizeof(descriptions[0]); i++) {
        if (descriptions[i].id == o->val) {
            const char *value = descriptions[i].value;

            snprintf(left, sizeof(left), "--%s%s%s", o->name,
                     o->has_arg == required_argument ? " " : "",
                     value ? value : "");
            printf("  %-31s %s\n", left, descriptions[i].text);
            return;
        }
    }
    printf("  --%s (not described)\n", o->name);
}

static void print_command_help(const struct command *c,
                               const struct option *table)
{
    printf("usage: ballast %s %s\n\n%s\n\n", c->name, c->synopsis,
           c->details);
    for (; table->name; table++) {
        describe(table);
    }
    fputs("\n" MORE_HELP, stdout);
}

/* How many letters to change, add, leave out or swap (both are short). */
static size_t distance(const char *a, const char *b)
{
    size_t d[32][32], la = strlen(a), lb = strlen(b), i, j;

    if (la > 31 || lb > 31) {
        return SIZE_MAX;
    }
    for (i = 0; i <= la; i++) {
        for (j = 0; j <= lb; j++) {
            size_t best = i ? (j ? d[i - 1][j - 1] +
                               (a[i - 1] != b[j - 1]) : i) : j;

            if (i && j) {
                best = d[i - 1][j] + 1 < best ? d[i - 1][j] + 1 : best;
                best = d[i][j - 1] + 1 < best ? d[i][j - 1] + 1 : best;
            }
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] &&
                a[i - 2] == b[j - 1] && d[i - 2][j - 2] + 1 < best) {
                best = d[i - 2][j - 2] + 1;
            }
            d[i][j] = best;
        }
    }
    return d[la][lb];
}

/* Remembers the nearest; more than a third of the word is not a slip. */
static void consider(const char *word, const char *candidate,
                     const char **best, size_t *nearest)
{
    size_t n = distance(word, candidate);

    if (n < *nearest && n <= (strlen(word) + 2) / 3) {
        *nearest = n;
        *best = candidate;
    }
}

static const char *similar_command(const char *word)
{
    const char *best = NULL;
    size_t nearest = SIZE_MAX, i;

    for (i = 0; i < nr_commands; i++) {
        consider(word, commands[i].name, &best, &nearest);
    }
    return best;
}

static const char *similar_option(const char *word)
{
    const struct option *o;
    const char *best = NULL;
    size_t nearest = SIZE_MAX;

    for (o = current_table; o->name; o++) {
        consider(word, o->name, &best, &nearest);
    }
    return best;
}

/* The next option that is the command's own, -1 at the end, '?' if bad. */
int option(int argc, char **argv, const struct option *table)
{
    int c;

    opterr = 0;
    current_table = table;
    for (;;) {
        c = getopt_long(argc, argv, current->stop ? "+:h" : ":h", table,
                        NULL);
        if (c == OPT_LEDGER) {
            ledger_path = optarg;
        } else if (c == OPT_JSON) {
            json_wanted = true;
        } else if (c == OPT_HELP || c == 'h') {
            print_command_help(current, table);
            exit(flush_output());
        } else {
            current_code = c;
            return c;
        }
    }
}

/* "--x" or "--x=y" of which there is more than one completion. */
static int ambiguous_option(const char *word, char *list, size_t room)
{
    const struct option *o;
    size_t used = 0;
    int n = 0;

    list[0] = '\0';
    for (o = current_table; o->name; o++) {
        if (strncmp(o->name, word, strlen(word)) == 0 && used < room) {
            used += (size_t)snprintf(list + used, room - used, "%s--%s",
                                     n ? " or " : "", o->name);
            n++;
        }
    }
    return n;
}

static int bad_long_option(const char *given)
{
    char word[64], list[256];
    const char *meant;

    snprintf(word, sizeof(word), "%.*s", (int)strcspn(given + 2, "="),
             given + 2);
    if (current_code == ':') {
        return usage_error("%s: option --%s needs a value", current->name,
                           word);
    }
    if (optopt) {
        return usage_error("%s: option --%s takes no value", current->name,
                           word);
    }
    if (*word && ambiguous_option(word, list, sizeof(list)) > 1) {
        return usage_error("%s: option --%s could be %s", current->name, word,
                           list);
    }
    meant = similar_option(word);
    if (meant) {
        return usage_error("%s: option --%s is unknown; did you mean --%s?",
                           current->name, word, meant);
    }
    return usage_error("%s: option --%s is unknown", current->name, word);
}

int bad_option(int argc, char **argv)
{
    const char *given = optind > 0 && optind <= argc ? argv[optind - 1] : "";

    if (strncmp(given, "--", 2) == 0) {
        return bad_long_option(given);
    }
    return usage_error("%s: option -%c is unknown", current->name, optopt);
}

/* For commands that take options only. */
int no_arguments(int argc, char **argv)
{
    if (optind < argc) {
        return usage_error("%s: '%s' is not an option", current->name,
                           argv[optind]);
    }
    return EXIT_OK;
}

int run_command_named(int argc, char **argv)
{
    const char *meant;
    size_t i;

    for (i = 0; i < nr_commands; i++) {
        if (strcmp(argv[0], commands[i].name) == 0) {
            current = &commands[i];
            optind = 0;     /* GNU: start again, argv is another one */
            return current->run(argc, argv);
        }
    }
    meant = similar_command(argv[0]);
    if (meant) {
        return usage_error("there is no command '%s'; did you mean %s?",
                           argv[0], meant);
    }
    return usage_error("there is no command '%s'", argv[0]);
}
