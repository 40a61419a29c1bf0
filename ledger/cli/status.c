/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * ballast status: the ledger as tables.
 */
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"
#include "json.h"
#include "rows.h"
#include "text.h"

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

static void print_node(uint32_t node, const char *any)
{
    if (node == BALLAST_NODE_ANY) {
        printf("%-5s", any);
    } else {
        printf("%-5" PRIu32, node);
    }
}

static void print_cell(const struct ballast_cell *c)
{
    print_node(c->node, "host");
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

static void print_where(const struct ballast_cell *c)
{
    char page[TEXT_BYTES];

    if (c->node == BALLAST_NODE_ANY) {
        printf("the host, pages of %s", text_page(c->page_bytes, page));
    } else {
        printf("node %" PRIu32 ", pages of %s", c->node,
               text_page(c->page_bytes, page));
    }
}

/* What the columns do not say, and only where there is something to say. */
static void print_remarks(const struct ballast_cell *c)
{
    char a[64], b[64], d[64];

    if (c->broken_bytes) {
        fputs("broken promise: ", stdout);
        print_where(c);
        ballast_format_bytes(c->outstanding_bytes, a, sizeof(a));
        ballast_format_bytes(c->kernel_free_bytes, b, sizeof(b));
        ballast_format_bytes(c->broken_bytes, d, sizeof(d));
        printf(": %s outstanding, the kernel has %s free: %s missing\n", a,
               c->kernel_free_bytes ? b : "nothing", d);
    }
    if (c->free_bytes < 0) {
        fputs("over capacity: ", stdout);
        print_where(c);
        ballast_format_bytes(0 - (uint64_t)c->free_bytes, a, sizeof(a));
        printf(": by %s\n", a);
    }
    if (c->node != BALLAST_NODE_ANY && c->capacity_bytes &&
        c->backed_bytes != c->capacity_bytes) {
        fputs("overcommit: ", stdout);
        print_where(c);
        ballast_format_bytes(c->backed_bytes, a, sizeof(a));
        printf(": %" PRIu32 "%% of %s\n", c->overcommit_percent, a);
    }
}

static void print_cells(struct cell_rows *rows, size_t top)
{
    size_t broken = rows->broken, more = rows_cut(rows, top), i;

    printf("\n%-5s %11s %11s %11s %11s %11s %11s %11s %11s %11s\n", "node",
           "page", "capacity", "free", "freeable", "owned", "claimed",
           "resident", "outstanding", "kernel free");
    for (i = 0; i < rows->nr; i++) {
        print_cell(rows->cells[i]);
    }
    if (more) {
        printf("and %zu more rows, %zu of them with a broken promise "
               "(--all shows them)\n", more,
               broken > rows->nr ? broken - rows->nr : 0);
    }
    for (i = 0; i < rows->nr; i++) {
        print_remarks(rows->cells[i]);
    }
}

static void print_waiting(const struct ballast_participant *p)
{
    printf(", waits (place %" PRIu32 ", %" PRIu64 " s)", p->queue_place,
           p->waited_ms / 1000);
}

static void print_person(const struct ballast_participant *p)
{
    char name[BALLAST_NAME_BYTES * 4];
    size_t i;

    text_name(p->name, name, sizeof(name), BALLAST_NAME_BYTES);
    printf("%s: ", name);
    if (p->pid) {
        printf("pid %" PRId32 ", ", p->pid);
    }
    fputs(state_name(p->state), stdout);
    if (p->served) {
        printf(", uid %" PRIu32 " through the daemon", p->uid);
    }
    if (p->queue_place) {
        print_waiting(p);
    }
    putchar('\n');
    for (i = 0; i < p->nr_cells; i++) {
        const struct ballast_own *c = &p->cells[i];

        fputs("  ", stdout);
        print_node(c->node, "any");
        column(c->page_bytes);
        column(c->claimed_bytes);
        column(c->resident_bytes);
        column(c->outstanding_bytes);
        column(c->freeable_bytes);
        if (p->queue_place) {
            column(c->wanted_bytes);
        }
        putchar('\n');
    }
}

static void print_people(const struct ballast_status *st,
                         const struct person *people, size_t top)
{
    size_t i;

    printf("\n%zu of %" PRIu32 " slots in use\n", st->nr_participants,
           st->nr_slots);
    if (st->nr_participants && top) {
        printf("  %-5s %11s %11s %11s %11s %11s%s\n", "node", "page",
               "claimed", "resident", "outstanding", "freeable",
               st->nr_waiting ? "      wanted" : "");
    }
    for (i = 0; i < st->nr_participants && i < top; i++) {
        print_person(people[i].p);
    }
    if (i < st->nr_participants) {
        printf("and %zu more participants (--all shows them)\n",
               st->nr_participants - i);
    }
}

/* In their own order: those that hold little would not be seen above. */
static void print_queue(const struct ballast_participant **queue, size_t nr,
                        size_t top)
{
    char name[BALLAST_NAME_BYTES * 4];
    size_t i;

    if (nr) {
        printf("\n%zu in the queue\n", nr);
    }
    for (i = 0; i < nr && i < top; i++) {
        text_name(queue[i]->name, name, sizeof(name), BALLAST_NAME_BYTES);
        printf("  %" PRIu32 ". %s, for %" PRIu64 " s\n",
               queue[i]->queue_place, name, queue[i]->waited_ms / 1000);
    }
    if (i < nr) {
        printf("and %zu more (--all shows them)\n", nr - i);
    }
}

static int print_tables(const struct ballast_status *st, size_t top)
{
    const struct ballast_participant **queue;
    struct cell_rows rows;
    struct person *people = rows_people(st);
    size_t nr = 0;
    bool ok = rows_cells(st, &rows);

    queue = rows_queue(st, &nr);
    if (ok && people && queue) {
        printf("admission: %s", st->admission == BALLAST_ADMIT_STATIC ?
               "static" : "kernel");
        if (st->admission == BALLAST_ADMIT_KERNEL) {
            printf(" (%" PRIu32 "%% of the page cache counts as free)",
                   st->count_cache_percent);
        }
        putchar('\n');
        print_cells(&rows, top);
        print_people(st, people, top);
        print_queue(queue, nr, top);
    } else {
        complain("out of memory");
    }
    free(rows.cells);
    free(people);
    free(queue);
    return ok && people && queue ? EXIT_OK : EXIT_ERROR;
}

static int parse(int argc, char **argv, size_t *top)
{
    static const struct option table[] = {
        { "json", no_argument, NULL, OPT_JSON },
        { "top", required_argument, NULL, OPT_TOP },
        { "all", no_argument, NULL, OPT_ALL },
        COMMON_OPTIONS,
        { NULL, 0, NULL, 0 }
    };
    unsigned long n = 20;
    int c, status = EXIT_OK;

    while (!status && (c = option(argc, argv, table)) != -1) {
        if (c == OPT_TOP) {
            status = parse_number("--top", optarg, 0, 1000000, &n);
        } else if (c == OPT_ALL) {
            n = ULONG_MAX;
        } else {
            status = bad_option(argc, argv);
        }
    }
    *top = n;
    return status ? status : no_arguments(argc, argv);
}

int cmd_status(int argc, char **argv)
{
    struct ballast_ledger *l;
    struct ballast_status *st;
    size_t top;
    int status = parse(argc, argv, &top);

    if (status) {
        return status;
    }
    l = open_ledger(&status);
    if (!l) {
        return status;
    }
    status = read_status(l, &st);
    if (!status) {
        if (json_wanted) {
            json_status(st);
        } else {
            status = print_tables(st, top);
        }
        ballast_status_free(st);
    }
    ballast_ledger_close(l);
    return flush_output() ? EXIT_ERROR : status;
}
