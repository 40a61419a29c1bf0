/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The rows of a table that people read.
 */
#include <stdlib.h>
#include <string.h>

#include "rows.h"

/* Page sizes without a pool would only make the table longer. */
static bool is_empty(const struct ballast_cell *c)
{
    return !c->capacity_bytes && !c->claimed_bytes && !c->resident_bytes &&
           !c->wanted_bytes;
}

bool rows_cells(const struct ballast_status *st, struct cell_rows *rows)
{
    size_t i = st->nr_nodes == 1 ? st->nr_classes : 0;

    memset(rows, 0, sizeof(*rows));
    rows->cells = calloc(st->nr_cells + 1, sizeof(*rows->cells));
    if (!rows->cells) {
        return false;
    }
    for (; i < st->nr_cells; i++) {
        if (!is_empty(&st->cells[i])) {
            rows->cells[rows->nr++] = &st->cells[i];
            rows->broken += st->cells[i].broken_bytes > 0;
        }
    }
    return true;
}

/* 0 for what is kept longest. */
static int rank(const struct ballast_cell *c)
{
    return c->broken_bytes ? 0 : c->node == BALLAST_NODE_ANY ? 1 : 2;
}

size_t rows_cut(struct cell_rows *rows, size_t room)
{
    size_t quota[3] = { 0 }, left = room, before = rows->nr, i, kept = 0;
    int r;

    for (i = 0; i < rows->nr; i++) {
        quota[rank(rows->cells[i])]++;
    }
    for (r = 0; r < 3; r++) {
        quota[r] = quota[r] < left ? quota[r] : left;
        left -= quota[r];
    }
    for (i = 0; i < rows->nr; i++) {
        const struct ballast_cell *c = rows->cells[i];

        if (quota[rank(c)]) {
            quota[rank(c)]--;
            rows->cells[kept++] = c;
        }
    }
    rows->nr = kept;
    return before - kept;
}

static void add_up(struct person *sum, const struct ballast_participant *p)
{
    size_t i;

    sum->p = p;
    for (i = 0; i < p->nr_cells; i++) {
        sum->claimed += p->cells[i].claimed_bytes;
        sum->resident += p->cells[i].resident_bytes;
        sum->freeable += p->cells[i].freeable_bytes;
        sum->outstanding += p->cells[i].outstanding_bytes;
        sum->wanted += p->cells[i].wanted_bytes;
    }
    sum->reserved = sum->resident + sum->outstanding;
}

static int larger_first(const void *a, const void *b)
{
    const struct person *x = a, *y = b;

    if (x->reserved != y->reserved) {
        return x->reserved < y->reserved ? 1 : -1;
    }
    return strcmp(x->p->name, y->p->name);
}

struct person *rows_people(const struct ballast_status *st)
{
    struct person *people = calloc(st->nr_participants + 1, sizeof(*people));
    size_t i;

    if (people) {
        for (i = 0; i < st->nr_participants; i++) {
            add_up(&people[i], &st->participants[i]);
        }
        qsort(people, st->nr_participants, sizeof(*people), larger_first);
    }
    return people;
}

static int earlier_first(const void *a, const void *b)
{
    const struct ballast_participant *const *x = a, *const *y = b;

    return ((*x)->queue_place > (*y)->queue_place) -
           ((*x)->queue_place < (*y)->queue_place);
}

const struct ballast_participant **rows_queue(const struct ballast_status *st,
                                              size_t *nr)
{
    const struct ballast_participant **queue =
        calloc(st->nr_participants + 1, sizeof(*queue));
    size_t i;

    *nr = 0;
    if (queue) {
        for (i = 0; i < st->nr_participants; i++) {
            if (st->participants[i].queue_place) {
                queue[(*nr)++] = &st->participants[i];
            }
        }
        qsort(queue, *nr, sizeof(*queue), earlier_first);
    }
    return queue;
}

const char *state_name(enum ballast_state state)
{
    switch (state) {
    case BALLAST_RUNNING:
        return "running";
    case BALLAST_STATE_DYING:
        return "dying";
    default:
        return "standing";
    }
}
