/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What ballast placement knows, wherever it comes from, and how it is shown.
 */
#ifndef BALLAST_CLI_PLACEMENT_H
#define BALLAST_CLI_PLACEMENT_H

#include <json-c/json.h>
#include <stdbool.h>
#include <sys/types.h>

#include "hw/virtio/ballast/pagenode.h"

#define PLACEMENT_NAME 48
#define PLACEMENT_LINE 256

/**
 * struct placement_row - some memory and where it is
 * @name: of it, for people
 * @detail: what else is known of it, or ""
 * @size: bytes
 * @on_node: bytes per host node
 * @absent: bytes on no node
 * @unknown: bytes of which nobody tells
 * @error: what the figures may be off by
 */
struct placement_row {
    char name[PLACEMENT_NAME];
    char detail[PLACEMENT_LINE];
    uint64_t size;
    uint64_t on_node[BALLAST_SAMPLE_NODES];
    uint64_t absent;
    uint64_t unknown;
    uint64_t error;
};

/** struct placement_rows - a table of them */
struct placement_rows {
    /** @head: above the names */
    const char *head;
    /** @row: the rows, to be freed */
    struct placement_row *row;
    /** @nr: how many */
    size_t nr;
};

/**
 * struct placement_view - all that is shown
 * @title: what was looked at
 * @result: what was found, in a line
 * @how: how was looked, in a line
 * @whole: what the picture shows: guest nodes, or mappings
 * @parts: more of the same memory, in smaller parts; may be empty
 * @notes: lines below, NULL at the end
 */
struct placement_view {
    char title[PLACEMENT_LINE];
    char result[PLACEMENT_LINE];
    char how[PLACEMENT_LINE];
    struct placement_rows whole;
    struct placement_rows parts;
    const char *const *notes;
};

/* A new row, zeroed; NULL without memory. */
struct placement_row *placement_add(struct placement_rows *rows);

void placement_free(struct placement_view *v);

/* Whether any row has something there. */
bool placement_uses(const struct placement_rows *rows, unsigned node);

/* The sum of all rows. */
void placement_sum(const struct placement_rows *rows,
                   struct placement_row *sum);

/* "3.2G on 2 host nodes", into view->result. */
void placement_result(struct placement_view *v, const char *more);

void placement_print(const struct placement_view *v);

/* A picture; false after a message. */
bool placement_draw(const struct placement_view *v, const char *path);

/*
 * Of a process, from outside, every page if @exact_s is not 0: the view, and
 * what --json prints.  An exit status, after a message.
 */
int placement_of_process(pid_t pid, unsigned long exact_s,
                         struct placement_view *v, struct json_object **json);

#endif
