/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Placement for people: tables.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "placement.h"
#include "text.h"

struct placement_row *placement_add(struct placement_rows *rows)
{
    struct placement_row *more =
        realloc(rows->row, (rows->nr + 1) * sizeof(*more));

    if (!more) {
        return NULL;
    }
    rows->row = more;
    memset(&more[rows->nr], 0, sizeof(*more));
    return &more[rows->nr++];
}

void placement_free(struct placement_view *v)
{
    free(v->whole.row);
    free(v->parts.row);
}

bool placement_uses(const struct placement_rows *rows, unsigned node)
{
    size_t i;

    for (i = 0; i < rows->nr; i++) {
        if (rows->row[i].on_node[node]) {
            return true;
        }
    }
    return false;
}

void placement_sum(const struct placement_rows *rows,
                   struct placement_row *sum)
{
    unsigned node;
    size_t i;

    memset(sum, 0, sizeof(*sum));
    snprintf(sum->name, sizeof(sum->name), "all");
    for (i = 0; i < rows->nr; i++) {
        sum->size += rows->row[i].size;
        sum->absent += rows->row[i].absent;
        sum->unknown += rows->row[i].unknown;
        for (node = 0; node < BALLAST_SAMPLE_NODES; node++) {
            sum->on_node[node] += rows->row[i].on_node[node];
        }
    }
}

void placement_result(struct placement_view *v, const char *more)
{
    char size[TEXT_BYTES], there[TEXT_BYTES];
    unsigned node, used = 0;
    struct placement_row sum;
    uint64_t present = 0;

    placement_sum(&v->whole, &sum);
    for (node = 0; node < BALLAST_SAMPLE_NODES; node++) {
        present += sum.on_node[node];
        used += sum.on_node[node] > 0;
    }
    snprintf(v->result, sizeof(v->result), "%s, %s of it on %u host node%s%s",
             text_bytes(sum.size, size), text_bytes(present, there), used,
             used == 1 ? "" : "s", more);
}

/* Names are others' words; in columns, not in bytes. */
static void print_name(const char *name, int width)
{
    char clean[4 * PLACEMENT_NAME];
    int columns = text_name(name, clean, sizeof(clean), PLACEMENT_NAME);

    printf("%s%*s", clean, width > columns ? width - columns : 0, "");
}

static int name_width(const struct placement_rows *rows)
{
    char clean[4 * PLACEMENT_NAME];
    int width = (int)strlen(rows->head), columns;
    size_t i;

    for (i = 0; i < rows->nr; i++) {
        columns = text_name(rows->row[i].name, clean, sizeof(clean),
                            PLACEMENT_NAME);
        width = columns > width ? columns : width;
    }
    return width;
}

static void print_bytes(uint64_t bytes)
{
    char text[TEXT_BYTES];

    printf("%10s", text_bytes(bytes, text));
}

static void print_row(const struct placement_row *row,
                      const struct placement_rows *all, int width)
{
    char clean[4 * PLACEMENT_LINE];
    unsigned node;

    print_name(row->name, width);
    print_bytes(row->size);
    for (node = 0; node < BALLAST_SAMPLE_NODES; node++) {
        if (placement_uses(all, node)) {
            print_bytes(row->on_node[node]);
        }
    }
    print_bytes(row->absent);
    print_bytes(row->unknown);
    if (row->error) {
        print_bytes(row->error);
    } else if (*row->detail) {
        printf("%10s", "");
    }
    if (*row->detail) {
        text_name(row->detail, clean, sizeof(clean), PLACEMENT_LINE);
        printf("  %s", clean);
    }
    putchar('\n');
}

static void print_head(const struct placement_rows *rows, int width)
{
    unsigned node;
    bool error = false;
    char name[16];
    size_t i;

    printf("%-*s%10s", width, rows->head, "size");
    for (node = 0; node < BALLAST_SAMPLE_NODES; node++) {
        if (placement_uses(rows, node)) {
            snprintf(name, sizeof(name), "node %u", node);
            printf("%10s", name);
        }
    }
    for (i = 0; i < rows->nr; i++) {
        error = error || rows->row[i].error;
    }
    printf("%10s%10s%s\n", "absent", "unknown", error ? "  give/take" : "");
}

static void print_table(const struct placement_rows *rows)
{
    int width = name_width(rows);
    struct placement_row sum;
    size_t i;

    putchar('\n');
    print_head(rows, width);
    for (i = 0; i < rows->nr; i++) {
        print_row(&rows->row[i], rows, width);
    }
    if (rows->nr > 1) {
        placement_sum(rows, &sum);
        print_row(&sum, rows, width);
    }
}

void placement_print(const struct placement_view *v)
{
    char clean[4 * PLACEMENT_LINE];
    const char *const *note;

    text_name(v->title, clean, sizeof(clean), PLACEMENT_LINE);
    printf("%s\n%s\n%s\n", clean, v->result, v->how);
    print_table(&v->whole);
    if (v->parts.nr) {
        print_table(&v->parts);
    }
    for (note = v->notes; note && *note; note++) {
        printf("%s%s\n", note == v->notes ? "\n" : "", *note);
    }
}
