/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A terminal that is borrowed and given back as it was.
 */
#ifndef BALLAST_CLI_TERMINAL_H
#define BALLAST_CLI_TERMINAL_H

#include <stdbool.h>
#include <stdint.h>

/**
 * enum terminal_event - why terminal_wait() returned
 * @TERMINAL_TIME: the time has come.
 * @TERMINAL_REDRAW: the size changed, or a key other than q.
 * @TERMINAL_QUIT: q, Ctrl-C, or the keyboard is gone.
 * @TERMINAL_KILLED: SIGTERM, SIGHUP or SIGQUIT: see terminal_die().
 */
enum terminal_event {
    TERMINAL_TIME,
    TERMINAL_REDRAW,
    TERMINAL_QUIT,
    TERMINAL_KILLED,
};

/* Whether stdout is a terminal that understands escape sequences. */
bool terminal_usable(void);

/* The alternate screen, no cursor, keys at once. */
void terminal_enter(void);

/* Everything as it was; does nothing the second time. */
void terminal_leave(void);

/* Ends the process by the signal that was caught. */
void terminal_die(void);

/* Falls back to $COLUMNS and $LINES, then to 80 and 24. */
void terminal_size(int *columns, int *rows);

/* Until a time on the monotonic clock. */
enum terminal_event terminal_wait(uint64_t until_ns);

uint64_t terminal_now_ns(void);

#endif
