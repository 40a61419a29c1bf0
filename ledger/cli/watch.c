/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * ballast watch: view after view.
 *
 * What goes wrong after the first view is shown in the view, and tried again:
 * a ledger may be replaced, and a daemon restarted, under a long watch.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "cli.h"
#include "frame.h"
#include "terminal.h"
#include "text.h"

struct watch {
    struct ballast_ledger *l;
    struct stat opened;
    double interval;
    unsigned long count;
    struct frame frame;
    char problem[2048];
};

static int parse(struct watch *w, int argc, char **argv)
{
    static const struct option table[] = {
        { "interval", required_argument, NULL, OPT_INTERVAL },
        { "count", required_argument, NULL, OPT_COUNT },
        { "top", required_argument, NULL, OPT_TOP },
        COMMON_OPTIONS,
        { NULL, 0, NULL, 0 }
    };
    unsigned long top = 0;
    int c, status = EXIT_OK;

    while (!status && (c = option(argc, argv, table)) != -1) {
        switch (c) {
        case OPT_INTERVAL:
            status = parse_seconds("--interval", optarg, 0.1, 86400,
                                   &w->interval);
            break;
        case OPT_COUNT:
            status = parse_number("--count", optarg, 1, 1000000000,
                                  &w->count);
            break;
        case OPT_TOP:
            status = parse_number("--top", optarg, 1, 1000000, &top);
            break;
        default:
            status = bad_option(argc, argv);
            break;
        }
    }
    w->frame.top = top;
    return status ? status : no_arguments(argc, argv);
}

static void prepare(struct watch *w)
{
    const char *no_color = getenv("NO_COLOR");
    struct frame *f = &w->frame;

    f->terminal = terminal_usable();
    f->color = f->terminal && !(no_color && *no_color);
    f->utf8 = text_is_utf8();
    if (!f->top) {
        f->top = f->terminal ? 1000000 : 20;
    }
}

/* A ledger that was replaced can still be read, but nobody uses it. */
static void let_go_if_replaced(struct watch *w)
{
    struct stat now;

    if (w->l && (stat(ledger_path, &now) || now.st_ino != w->opened.st_ino ||
                 now.st_dev != w->opened.st_dev)) {
        ballast_ledger_close(w->l);
        w->l = NULL;
    }
}

static void reopen(struct watch *w)
{
    struct ballast_refusal why;
    char text[1024];

    if (stat(ledger_path, &w->opened)) {
        snprintf(w->problem, sizeof(w->problem),
                 "cannot open the ledger: %s", strerror(errno));
    } else if (ballast_ledger_open(ledger_path, &w->l, &why)) {
        w->l = NULL;
        ballast_refusal_text(&why, text, sizeof(text));
        snprintf(w->problem, sizeof(w->problem),
                 "cannot open the ledger: %s", text);
    }
}

static struct ballast_status *look(struct watch *w)
{
    struct ballast_status *st = NULL;
    int err;

    let_go_if_replaced(w);
    if (!w->l) {
        reopen(w);
    }
    if (!w->l) {
        return NULL;
    }
    err = ballast_status_get(w->l, &st);
    if (err) {
        snprintf(w->problem, sizeof(w->problem),
                 "cannot read the ledger: %s", strerror(-err));
        ballast_ledger_close(w->l);
        w->l = NULL;
        return NULL;
    }
    return st;
}

static int show(struct watch *w)
{
    struct ballast_status *st = look(w);
    struct frame *f = &w->frame;
    bool ok;

    terminal_size(&f->width, &f->height);
    if (!f->terminal) {
        f->height = 0;
    }
    ok = frame_draw(f, st, ledger_path, w->problem);
    ballast_status_free(st);
    if (!ok) {
        terminal_leave();
        complain("out of memory");
        return EXIT_ERROR;
    }
    fwrite(f->text, 1, f->len, stdout);
    return flush_output();
}

static int watch(struct watch *w)
{
    uint64_t step = (uint64_t)(w->interval * 1e9), next = terminal_now_ns();
    enum terminal_event event = TERMINAL_TIME;
    int status = show(w);

    while (!status && (!w->count || --w->count)) {
        next += step;
        if (next < terminal_now_ns()) {
            next = terminal_now_ns() + step;
        }
        while ((event = terminal_wait(next)) == TERMINAL_REDRAW && !status) {
            status = show(w);
        }
        if (event != TERMINAL_TIME) {
            break;
        }
        status = status ? status : show(w);
    }
    if (event == TERMINAL_KILLED) {
        terminal_die();
    }
    return status;
}

int cmd_watch(int argc, char **argv)
{
    static struct watch w = { .interval = 1 };
    int status = parse(&w, argc, argv);

    if (status) {
        return status;
    }
    stat(ledger_path, &w.opened);
    w.l = open_ledger(&status);
    if (!w.l) {
        return status;
    }
    prepare(&w);
    if (w.frame.terminal) {
        terminal_enter();
    }
    status = watch(&w);
    terminal_leave();
    ballast_ledger_close(w.l);
    free(w.frame.text);
    return status;
}
