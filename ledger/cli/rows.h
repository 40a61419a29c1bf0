/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The rows of a table that people read: which, and in which order, when not
 * all of them fit.
 */
#ifndef BALLAST_CLI_ROWS_H
#define BALLAST_CLI_ROWS_H

#include "ballast/admin.h"

/**
 * struct cell_rows - nodes and page sizes worth a row
 * @cells: them, in the ledger's order, the whole host last.
 * @nr: how many there are.
 * @broken: how many of these have a broken promise.
 */
struct cell_rows {
    const struct ballast_cell **cells;
    size_t nr;
    size_t broken;
};

/**
 * struct person - a participant with its sums over all nodes and page sizes
 * @p: what the ledger says.
 * @claimed: promised.
 * @resident: allocated.
 * @freeable: not needed.
 * @outstanding: promised and not allocated.
 * @reserved: resident and outstanding.
 * @wanted: what it waits for, in all.
 */
struct person {
    const struct ballast_participant *p;
    uint64_t claimed;
    uint64_t resident;
    uint64_t freeable;
    uint64_t outstanding;
    uint64_t reserved;
    uint64_t wanted;
};

/**
 * rows_cells() - the cells that are not empty
 * @st: a snapshot.
 * @rows: filled in; @rows->cells is to be freed.
 *
 * Of a ledger with one node only the host's: claims on any node can only be
 * met there, so a row without them would show as free what is promised.
 *
 * Return: false without memory.
 */
bool rows_cells(const struct ballast_status *st, struct cell_rows *rows);

/**
 * rows_cut() - keep the rows that matter most
 * @rows: their order is kept.
 * @room: how many may stay: first those with a broken promise, then the
 *     host's, then the others in order.
 *
 * Return: how many were left out.
 */
size_t rows_cut(struct cell_rows *rows, size_t room);

/**
 * rows_people() - participants, who reserves most first
 * @st: a snapshot.
 *
 * Return: st->nr_participants entries to be freed, NULL without memory.
 */
struct person *rows_people(const struct ballast_status *st);

/**
 * rows_queue() - those that wait, first come first
 * @st: a snapshot.
 * @nr: set to how many.
 *
 * Return: to be freed, NULL without memory.
 */
const struct ballast_participant **rows_queue(const struct ballast_status *st,
                                              size_t *nr);

const char *state_name(enum ballast_state state);

#endif
