/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * ballast status and check.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "cli.h"

static const char *const state_names[] = {
    [BALLAST_RUNNING] = "running",
    [BALLAST_STATE_DYING] = "dying",
    [BALLAST_STANDING] = "standing",
};

/* For columns: short, rounded down to two decimals. */
static const char *brief(uint64_t bytes, char *buf, size_t len)
{
    char *s;

    if (bytes == UINT64_MAX) {
        snprintf(buf, len, "?");
        return buf;
    }
    if (bytes == 0) {
        snprintf(buf, len, "0");
        return buf;
    }
    ballast_format_bytes(bytes, buf, len);
    s = strstr(buf, " (");
    if (s) {
        *s = '\0';
    }
    return buf;
}

static void column(uint64_t bytes)
{
    char buf[64];

    printf(" %11s", brief(bytes, buf, sizeof(buf)));
}

static void signed_column(int64_t bytes)
{
    char buf[64], negative[72];

    if (bytes >= 0) {
        column((uint64_t)bytes);
    } else {
        snprintf(negative, sizeof(negative), "-%s",
                 brief(0 - (uint64_t)bytes, buf, sizeof(buf)));
        printf(" %11s", negative);
    }
}

static void print_node(uint32_t node)
{
    if (node == BALLAST_NODE_ANY) {
        printf("%-5s", "any");
    } else {
        printf("%-5" PRIu32, node);
    }
}

/* Page sizes without a pool would only make the table longer. */
static bool is_empty(const struct ballast_cell *c)
{
    return !c->capacity_bytes && !c->claimed_bytes && !c->resident_bytes;
}

static void print_cell(const struct ballast_cell *c)
{
    if (is_empty(c)) {
        return;
    }
    if (c->node == BALLAST_NODE_ANY) {
        printf("%-5s", "host");
    } else {
        print_node(c->node);
    }
    column(c->page_bytes);
    column(c->capacity_bytes);
    signed_column(c->free_bytes);
    column(c->freeable_bytes);
    column(c->owned_bytes);
    column(c->claimed_bytes);
    column(c->resident_bytes);
    column(c->outstanding_bytes);
    column(c->kernel_free_bytes);
    putchar('\n');
}

static void print_participant(const struct ballast_participant *p)
{
    size_t i;

    printf("%s: ", p->name);
    if (p->pid) {
        printf("pid %" PRId32 ", ", p->pid);
    }
    puts(state_names[p->state]);
    for (i = 0; i < p->nr_cells; i++) {
        const struct ballast_own *c = &p->cells[i];

        fputs("  ", stdout);
        print_node(c->node);
        column(c->page_bytes);
        column(c->claimed_bytes);
        column(c->resident_bytes);
        column(c->outstanding_bytes);
        column(c->freeable_bytes);
        putchar('\n');
    }
}

static void print_table(const struct ballast_status *st)
{
    size_t i;

    printf("admission: %s", st->admission == BALLAST_ADMIT_STATIC ?
           "static" : "kernel");
    if (st->admission == BALLAST_ADMIT_KERNEL) {
        printf(" (%" PRIu32 "%% of the page cache counts as free)",
               st->count_cache_percent);
    }
    printf("\n\n%-5s %11s %11s %11s %11s %11s %11s %11s %11s %11s\n", "node",
           "page", "capacity", "free", "freeable", "owned", "claimed",
           "resident", "outstanding", "kernel free");
    /*
     * With one node, claims on any node can only be met there: a line that
     * leaves them out would show as free what is promised.
     */
    i = st->nr_nodes == 1 ? st->nr_classes : 0;
    for (; i < st->nr_cells; i++) {
        print_cell(&st->cells[i]);
    }
    printf("\n%zu of %" PRIu32 " slots in use\n", st->nr_participants,
           st->nr_slots);
    if (st->nr_participants) {
        printf("  %-5s %11s %11s %11s %11s %11s\n", "node", "page", "claimed",
               "resident", "outstanding", "freeable");
    }
    for (i = 0; i < st->nr_participants; i++) {
        print_participant(&st->participants[i]);
    }
}

static void json_string(const char *s)
{
    putchar('"');
    for (; *s; s++) {
        if (*s == '"' || *s == '\\') {
            putchar('\\');
        }
        putchar(*s);
    }
    putchar('"');
}

static void json_node(uint32_t node)
{
    if (node == BALLAST_NODE_ANY) {
        fputs("{\"node\": null", stdout);
    } else {
        printf("{\"node\": %" PRIu32, node);
    }
}

static void json_number(const char *key, uint64_t value)
{
    printf(", \"%s\": %" PRIu64, key, value);
}

static void json_cell(const struct ballast_cell *c)
{
    json_node(c->node);
    json_number("page-size", c->page_bytes);
    json_number("capacity", c->capacity_bytes);
    printf(", \"free\": %" PRId64, c->free_bytes);
    json_number("freeable", c->freeable_bytes);
    json_number("owned", c->owned_bytes);
    json_number("claimed", c->claimed_bytes);
    json_number("resident", c->resident_bytes);
    json_number("outstanding", c->outstanding_bytes);
    if (c->kernel_free_bytes == UINT64_MAX) {
        fputs(", \"kernel-free\": null, \"broken\": null}", stdout);
    } else {
        json_number("kernel-free", c->kernel_free_bytes);
        json_number("broken", c->broken_bytes);
        putchar('}');
    }
}

static void json_participant(const struct ballast_participant *p)
{
    size_t i;

    fputs("{\"name\": ", stdout);
    json_string(p->name);
    printf(", \"state\": \"%s\", \"pid\": ", state_names[p->state]);
    if (p->pid) {
        printf("%" PRId32, p->pid);
    } else {
        fputs("null", stdout);
    }
    json_number("uid", p->uid);
    json_number("slot", p->slot);
    json_number("serial", p->serial);
    json_number("maximum", p->max_bytes);
    fputs(", \"holds\": [", stdout);
    for (i = 0; i < p->nr_cells; i++) {
        const struct ballast_own *c = &p->cells[i];

        fputs(i ? ", " : "", stdout);
        json_node(c->node);
        json_number("page-size", c->page_bytes);
        json_number("claimed", c->claimed_bytes);
        json_number("resident", c->resident_bytes);
        json_number("outstanding", c->outstanding_bytes);
        json_number("freeable", c->freeable_bytes);
        putchar('}');
    }
    fputs("]}", stdout);
}

/* docs/ledger.md documents every member. */
static void print_json(const struct ballast_status *st)
{
    size_t i;

    printf("{\"admission\": \"%s\"", st->admission == BALLAST_ADMIT_STATIC ?
           "static" : "kernel");
    json_number("count-cache-percent", st->count_cache_percent);
    json_number("slots", st->nr_slots);
    fputs(",\n \"capacity\": [", stdout);
    for (i = 0; i < st->nr_cells; i++) {
        fputs(i ? ",\n  " : "\n  ", stdout);
        json_cell(&st->cells[i]);
    }
    fputs("],\n \"participants\": [", stdout);
    for (i = 0; i < st->nr_participants; i++) {
        fputs(i ? ",\n  " : "\n  ", stdout);
        json_participant(&st->participants[i]);
    }
    fputs("]}\n", stdout);
}

/* A table that was cut short must not look like success. */
static int flush(void)
{
    if (fflush(stdout) || ferror(stdout)) {
        complain("cannot write: %s", strerror(errno));
        return EXIT_ERROR;
    }
    return EXIT_OK;
}

int cmd_status(int argc, char **argv)
{
    static const struct option table[] = {
        COMMON_OPTIONS,
        { "json", no_argument, NULL, OPT_JSON },
        { NULL, 0, NULL, 0 }
    };
    struct ballast_ledger *l;
    struct ballast_status *st;
    bool json = false;
    int c, err, status;

    while ((c = option(argc, argv, table)) == OPT_JSON) {
        json = true;
    }
    if (c != -1) {
        return bad_option(argc, argv);
    }
    if (optind < argc) {
        return usage_error("status: '%s' is not an option", argv[optind]);
    }
    l = open_ledger(&status);
    if (!l) {
        return status;
    }
    err = ballast_status_get(l, &st);
    if (err) {
        complain("cannot read the ledger: %s", strerror(-err));
    } else {
        (json ? print_json : print_table)(st);
        ballast_status_free(st);
    }
    ballast_ledger_close(l);
    return err ? EXIT_ERROR : flush();
}

static void print_finding(void *opaque, enum ballast_severity severity,
                          const char *text)
{
    static const char *const names[] = {
        [BALLAST_NOTE] = "note",
        [BALLAST_WARNING] = "warning",
        [BALLAST_DAMAGE] = "damage",
    };

    (void)opaque;
    printf("%s: %s\n", names[severity], text);
}

int cmd_check(int argc, char **argv)
{
    static const struct option table[] = {
        COMMON_OPTIONS,
        { "repair", no_argument, NULL, OPT_REPAIR },
        { NULL, 0, NULL, 0 }
    };
    struct ballast_ledger *l;
    unsigned flags = 0;
    int c, bad, status;

    while ((c = option(argc, argv, table)) == OPT_REPAIR) {
        flags |= BALLAST_CHECK_REPAIR;
    }
    if (c != -1) {
        return bad_option(argc, argv);
    }
    if (optind < argc) {
        return usage_error("check: '%s' is not an option", argv[optind]);
    }
    l = open_ledger(&status);
    if (!l) {
        return status;
    }
    bad = ballast_check(l, flags, print_finding, NULL);
    ballast_ledger_close(l);
    if (bad < 0) {
        complain("cannot check the ledger: %s", strerror(-bad));
        return EXIT_ERROR;
    }
    if (!bad) {
        puts("no contradictions");
    }
    return flush() || bad ? EXIT_ERROR : EXIT_OK;
}
