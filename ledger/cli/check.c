/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * ballast check.
 */
#include <stdio.h>
#include <string.h>

#include "cli.h"
#include "json.h"
#include "text.h"

struct findings {
    size_t nr;
};

static const char *const names[] = {
    [BALLAST_NOTE] = "note",
    [BALLAST_WARNING] = "warning",
    [BALLAST_DAMAGE] = "damage",
};

/* A name in a finding may have anything in it that a damaged file has. */
static void print_clean(const char *text)
{
    char line[4096];

    text_name(text, line, sizeof(line), (int)sizeof(line));
    fputs(line, stdout);
}

static void print_finding(void *opaque, enum ballast_severity severity,
                          const char *text)
{
    struct findings *f = opaque;

    if (json_wanted) {
        printf("%s\n  {\"severity\": \"%s\", \"text\": ", f->nr ? "," : "",
               names[severity]);
        json_string(text);
        putchar('}');
    } else {
        printf("%s: ", names[severity]);
        print_clean(text);
        putchar('\n');
    }
    f->nr++;
}

static int check(struct ballast_ledger *l, unsigned flags)
{
    struct ballast_refusal why = { .reason = BALLAST_SYSTEM };
    struct findings f = { 0 };
    int bad;

    if (json_wanted) {
        printf("{\"repair\": %s, \"findings\": [",
               flags & BALLAST_CHECK_REPAIR ? "true" : "false");
    }
    bad = ballast_check(l, flags, print_finding, &f);
    if (json_wanted) {
        printf("], \"bad\": %d", bad < 0 ? 0 : bad);
        if (bad < 0) {
            why.err = bad;
            fputs(", ", stdout);
            json_error_member(strerror(-bad), &why);
        }
        puts("}");
    } else if (!bad) {
        puts("no contradictions");
    }
    if (bad < 0) {
        complain("cannot check the ledger: %s", strerror(-bad));
    }
    return bad ? EXIT_ERROR : EXIT_OK;
}

int cmd_check(int argc, char **argv)
{
    static const struct option table[] = {
        { "repair", no_argument, NULL, OPT_REPAIR },
        { "json", no_argument, NULL, OPT_JSON },
        COMMON_OPTIONS,
        { NULL, 0, NULL, 0 }
    };
    struct ballast_ledger *l;
    unsigned flags = 0;
    int c, status;

    while ((c = option(argc, argv, table)) == OPT_REPAIR) {
        flags |= BALLAST_CHECK_REPAIR;
    }
    status = c != -1 ? bad_option(argc, argv) : no_arguments(argc, argv);
    if (status) {
        return status;
    }
    l = open_ledger(&status);
    if (!l) {
        return status;
    }
    status = check(l, flags);
    ballast_ledger_close(l);
    return flush_output() ? EXIT_ERROR : status;
}
