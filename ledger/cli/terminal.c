/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A terminal that is borrowed and given back as it was.
 *
 * Signals are blocked but while ppoll() sleeps, so none is lost between a
 * look at the flags and the sleep.
 */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#include "terminal.h"

static const int caught[] = {
    SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGWINCH, SIGTSTP,
};

#define NR_CAUGHT (sizeof(caught) / sizeof(caught[0]))

static struct termios as_it_was;
static sigset_t mask_as_it_was;
static bool entered;
static bool has_keys;
static volatile sig_atomic_t resized, stopped, quit, killed_by;

static void on_signal(int number)
{
    switch (number) {
    case SIGWINCH:
        resized = 1;
        break;
    case SIGTSTP:
        stopped = 1;
        break;
    case SIGINT:
        quit = 1;
        break;
    default:
        killed_by = number;
        break;
    }
}

static void catch_signals(void)
{
    struct sigaction action;
    sigset_t set;
    size_t i;

    memset(&action, 0, sizeof(action));
    action.sa_handler = on_signal;
    sigemptyset(&set);
    for (i = 0; i < NR_CAUGHT; i++) {
        sigaddset(&set, caught[i]);
    }
    sigprocmask(SIG_BLOCK, &set, &mask_as_it_was);
    for (i = 0; i < NR_CAUGHT; i++) {
        sigaction(caught[i], &action, NULL);
        sigdelset(&mask_as_it_was, caught[i]);
    }
}

bool terminal_usable(void)
{
    const char *term = getenv("TERM");

    return isatty(STDOUT_FILENO) && term && *term && strcmp(term, "dumb");
}

static void send(const char *s)
{
    fputs(s, stdout);
    fflush(stdout);
}

void terminal_enter(void)
{
    struct termios raw;

    catch_signals();
    has_keys = isatty(STDIN_FILENO) &&
               tcgetattr(STDIN_FILENO, &as_it_was) == 0;
    if (has_keys) {
        raw = as_it_was;
        raw.c_lflag &= ~(tcflag_t)(ICANON | ECHO);
        raw.c_cc[VMIN] = 1;
        raw.c_cc[VTIME] = 0;
        tcsetattr(STDIN_FILENO, TCSADRAIN, &raw);
    }
    send("\033[?1049h\033[?25l\033[2J");
    entered = true;
}

void terminal_leave(void)
{
    if (!entered) {
        return;
    }
    entered = false;
    send("\033[m\033[?25h\033[?1049l");
    if (has_keys) {
        tcsetattr(STDIN_FILENO, TCSADRAIN, &as_it_was);
    }
}

static void take_default(int number)
{
    sigset_t set;

    signal(number, SIG_DFL);
    raise(number);
    sigemptyset(&set);
    sigaddset(&set, number);
    sigprocmask(SIG_UNBLOCK, &set, NULL);
}

void terminal_die(void)
{
    terminal_leave();
    take_default(killed_by);
}

/* Ctrl-Z: the shell gets its screen, and we take it again afterwards. */
static void stop(void)
{
    stopped = 0;
    terminal_leave();
    take_default(SIGTSTP);
    terminal_enter();
}

static int from_environment(const char *name, int otherwise)
{
    const char *text = getenv(name);
    int value = text ? atoi(text) : 0;

    return value > 0 && value < 10000 ? value : otherwise;
}

void terminal_size(int *columns, int *rows)
{
    struct winsize size = { 0 };

    if (isatty(STDOUT_FILENO)) {
        ioctl(STDOUT_FILENO, TIOCGWINSZ, &size);
    }
    *columns = size.ws_col ? size.ws_col : from_environment("COLUMNS", 80);
    *rows = size.ws_row ? size.ws_row : from_environment("LINES", 24);
}

uint64_t terminal_now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

static bool look(enum terminal_event *event)
{
    if (stopped) {
        stop();
        resized = 1;
    }
    *event = killed_by ? TERMINAL_KILLED : quit ? TERMINAL_QUIT :
             TERMINAL_REDRAW;
    if (killed_by || quit || resized) {
        resized = 0;
        return true;
    }
    return false;
}

/* Also the rest of what an arrow key sends, but never a q inside that. */
static enum terminal_event key(void)
{
    char keys[64];
    ssize_t n = read(STDIN_FILENO, keys, sizeof(keys));

    if (n == 0 || (n < 0 && errno != EINTR && errno != EAGAIN)) {
        return TERMINAL_QUIT;
    }
    return n > 0 && keys[0] != '\033' &&
           (memchr(keys, 'q', (size_t)n) || memchr(keys, 'Q', (size_t)n)) ?
           TERMINAL_QUIT : TERMINAL_REDRAW;
}

enum terminal_event terminal_wait(uint64_t until_ns)
{
    struct pollfd keys = { .fd = STDIN_FILENO, .events = POLLIN };
    enum terminal_event event;

    for (;;) {
        uint64_t now = terminal_now_ns();
        uint64_t left = until_ns > now ? until_ns - now : 0;
        struct timespec wait = {
            .tv_sec = (time_t)(left / 1000000000),
            .tv_nsec = (long)(left % 1000000000),
        };
        int n;

        if (entered && look(&event)) {
            return event;
        }
        n = ppoll(&keys, has_keys, &wait, entered ? &mask_as_it_was : NULL);
        if (n == 0) {
            return TERMINAL_TIME;
        }
        if (n > 0) {
            return key();
        }
    }
}
