/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Log lines on standard error: "<priority>event=... key=value".
 *
 * Who floods the daemon must not flood the log: two hundred lines at once,
 * then twenty a second; how many were left out is said when there is room.
 * Standard error that does not take a line loses it: nothing here waits.
 */
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "daemon.h"

#define BURST_LINES     200u
#define LINES_PER_S     20u
#define NS_PER_LINE     (UINT64_C(1000000000) / LINES_PER_S)

static uint64_t spent_until_ns;     /* of the token bucket */
static uint64_t left_out;

/* What was asked for, and errors, always have room. */
static bool has_room(int priority)
{
    uint64_t now = host_now_ns();

    if (spent_until_ns < now) {
        spent_until_ns = now;
    }
    if (priority > LOG_ERROR && !(priority & LOG_ASKED) &&
        spent_until_ns - now > BURST_LINES * NS_PER_LINE) {
        left_out++;
        return false;
    }
    spent_until_ns += NS_PER_LINE;
    return true;
}

static void put(const char *line, size_t len)
{
    struct pollfd p = { .fd = STDERR_FILENO, .events = POLLOUT };

    if (poll(&p, 1, 0) == 1 && write(STDERR_FILENO, line, len) < 0) {
        left_out++;
    }
}

static void put_left_out(void)
{
    char line[96];
    int n;

    if (left_out) {
        n = snprintf(line, sizeof(line), "<%d>event=log-limit lines=%llu\n",
                     LOG_WARN, (unsigned long long)left_out);
        left_out = 0;
        put(line, (size_t)n);
    }
}

void log_line(int priority, const char *format, ...)
{
    char line[768];
    va_list args;
    int n, m;

    if (!has_room(priority)) {
        return;
    }
    put_left_out();
    n = snprintf(line, sizeof(line), "<%d>", priority & 7);
    va_start(args, format);
    m = vsnprintf(line + n, sizeof(line) - (size_t)n - 1, format, args);
    va_end(args);
    n += m < 0 ? 0 : m;
    if (n > (int)sizeof(line) - 2) {
        n = (int)sizeof(line) - 2;
    }
    line[n] = '\n';
    put(line, (size_t)n + 1);
}

/* A client's words; good until the second call after this. */
const char *log_quoted(const char *text)
{
    static char buf[2][2 * BALLAST_NAME_BYTES + 260];
    static unsigned turn;
    char *to = buf[turn ^= 1], *end = to + sizeof(buf[0]) - 3;

    *to++ = '"';
    for (; *text && to < end; text++) {
        if (*text == '"' || *text == '\\') {
            *to++ = '\\';
        }
        /* of two bytes the first, which is the end of both */
        *to++ = slot_control_bytes(text) ? '?' : *text;
    }
    *to++ = '"';
    *to = '\0';
    return buf[turn];
}

int log_failure(const char *what, int err)
{
    log_line(LOG_ERROR, "event=failed what=%s errno=%d error=%s",
             log_quoted(what), -err, log_quoted(strerror(-err)));
    return err;
}
