/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * ballast placement: on which host nodes a guest's memory is, asked of its
 * QEMU, or seen from outside.
 */
#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "cli.h"
#include "member.h"
#include "placement.h"
#include "qmp.h"
#include "text.h"

#define POLL_MS 100

struct options {
    const char *path;
    const char *svg;
    unsigned long pid;
    unsigned long timeout_s;
    unsigned long exact_s;      /* 0: a sample */
};

/* What QEMU says; any of them may be NULL. */
struct answer {
    struct json_object *greeting, *name, *status, *placement;
};

static volatile sig_atomic_t interrupted;

/* Asking -------------------------------------------------------------------- */

/*
 * One connection for each question: while ballast waits, others may use the
 * socket.  The same as in ballast migration.
 */
static struct json_object *ask_once(const struct options *o,
                                    const char *command,
                                    const char *arguments, bool *absent)
{
    struct qmp *q = qmp_open(o->path, o->timeout_s);
    struct json_object *value = NULL;

    if (q) {
        value = qmp_execute(q, command, arguments, absent);
        qmp_close(q);
    }
    return value;
}

static void no_ballast(const struct options *o)
{
    complain("%s: this QEMU has no Ballast; --pid looks at any QEMU from "
             "outside", o->path);
}

static void interrupt(int number)
{
    (void)number;
    interrupted = 1;
}

static void progress(struct json_object *placement)
{
    uint64_t size = member_number(placement, "size");

    if (isatty(STDERR_FILENO) && size) {
        fprintf(stderr, "\r%3.0f %% looked at ",
                100 * (double)member_number(placement, "looked-at") /
                (double)size);
        fflush(stderr);
    }
}

static bool is_running(struct json_object *placement)
{
    return !strcmp(member_text(placement, "state", ""), "running");
}

/* Until QEMU's exact look has ended; Ctrl-C ends it. */
static struct json_object *wait_exact(const struct options *o)
{
    static const struct timespec pause = { .tv_nsec = POLL_MS * 1000000 };
    static const char mode[] = "{\"mode\": \"exact\"}";
    struct json_object *placement, *done;
    bool told = false;

    while ((placement = ask_once(o, "query-memory-placement", mode, NULL)) &&
           is_running(placement)) {
        progress(placement);
        json_object_put(placement);
        if (interrupted && !told) {
            done = ask_once(o, "memory-placement-cancel", NULL, NULL);
            json_object_put(done);
            told = true;
        }
        nanosleep(&pause, NULL);
    }
    if (placement && isatty(STDERR_FILENO)) {
        fputs("\r                  \r", stderr);
    }
    return placement;
}

static struct json_object *ask_exact(const struct options *o, bool *absent)
{
    struct sigaction ours = { .sa_handler = interrupt }, theirs;
    struct json_object *placement = NULL, *started;
    char limit[64];

    snprintf(limit, sizeof(limit), "{\"time-limit\": %lu}", o->exact_s * 1000);
    sigaction(SIGINT, &ours, &theirs);
    started = ask_once(o, "memory-placement-start", limit, absent);
    if (started) {
        placement = wait_exact(o);
    }
    json_object_put(started);
    sigaction(SIGINT, &theirs, NULL);
    return placement;
}

/* False after a message. */
static bool ask(const struct options *o, struct answer *a)
{
    struct qmp *q = qmp_open(o->path, o->timeout_s);
    bool absent = false;

    if (!q) {
        return false;
    }
    a->greeting = json_object_get(qmp_greeting(q));
    a->name = qmp_query(q, "query-name", NULL);
    a->status = a->name ? qmp_query(q, "query-status", NULL) : NULL;
    if (a->status && !o->exact_s) {
        a->placement = qmp_query(q, "query-memory-placement", &absent);
    }
    qmp_close(q);
    if (a->status && o->exact_s) {
        a->placement = ask_exact(o, &absent);
    }
    if (absent) {
        no_ballast(o);
    }
    return a->placement != NULL;
}

/* Understanding --------------------------------------------------------------- */

static size_t length(struct json_object *list)
{
    return json_object_is_type(list, json_type_array) ?
           json_object_array_length(list) : 0;
}

static struct json_object *item(struct json_object *list, size_t i)
{
    return json_object_array_get_idx(list, i);
}

static void read_figures(struct json_object *o, struct placement_row *row)
{
    struct json_object *nodes = member_get(o, "nodes");
    uint64_t node;
    size_t i;

    row->size = member_number(o, "size");
    row->absent = member_number(o, "absent");
    row->unknown = member_number(o, "unknown");
    row->error = member_number(o, "error-bytes");
    for (i = 0; i < length(nodes); i++) {
        node = member_number(item(nodes, i), "node");
        if (node < BALLAST_SAMPLE_NODES) {
            row->on_node[node] += member_number(item(nodes, i), "bytes");
        }
    }
}

static bool read_vnodes(struct json_object *vnodes, struct placement_rows *to)
{
    struct placement_row *row;
    size_t i;

    to->head = "guest node";
    for (i = 0; i < length(vnodes); i++) {
        row = placement_add(to);
        if (!row) {
            return false;
        }
        snprintf(row->name, sizeof(row->name), "guest node %" PRIu64,
                 member_number(item(vnodes, i), "node"));
        read_figures(item(vnodes, i), row);
    }
    return true;
}

/* "bind 0 1" */
static void policy_text(struct json_object *backend, char *buf, size_t len)
{
    struct json_object *nodes = member_get(backend, "host-nodes");
    size_t used, i;

    snprintf(buf, len, "%s", member_text(backend, "policy", "no policy"));
    for (i = 0; i < length(nodes); i++) {
        used = strlen(buf);
        snprintf(buf + used, len - used, " %" PRIu64,
                 json_object_get_uint64(item(nodes, i)));
    }
}

static void range_detail(struct json_object *backend,
                         struct json_object *range, char *buf, size_t len)
{
    char policy[96], page[TEXT_BYTES], where[48] = "not mapped";
    char guest[32] = "no guest node";

    policy_text(backend, policy, sizeof(policy));
    if (member_get(range, "address")) {
        snprintf(where, sizeof(where), "at 0x%" PRIx64,
                 member_number(range, "address"));
    }
    if (member_get(range, "guest-node")) {
        snprintf(guest, sizeof(guest), "guest node %" PRIu64,
                 member_number(range, "guest-node"));
    }
    snprintf(buf, len, "%s, %s, pages of %s, %s", guest, where,
             text_page(member_number(backend, "page-size"), page), policy);
}

static bool read_ranges(struct json_object *backend, struct placement_rows *to)
{
    struct json_object *ranges = member_get(backend, "ranges");
    struct placement_row *row;
    size_t i;

    for (i = 0; i < length(ranges); i++) {
        row = placement_add(to);
        if (!row) {
            return false;
        }
        snprintf(row->name, sizeof(row->name), "%s",
                 member_text(backend, "id", "?"));
        range_detail(backend, item(ranges, i), row->detail,
                     sizeof(row->detail));
        read_figures(item(ranges, i), row);
    }
    return true;
}

static bool read_backends(struct json_object *backends,
                          struct placement_rows *to)
{
    size_t i;

    to->head = "backend";
    for (i = 0; i < length(backends); i++) {
        if (!read_ranges(item(backends, i), to)) {
            return false;
        }
    }
    return true;
}

static void how_text(struct json_object *p, char *buf, size_t len)
{
    struct json_object *backends = member_get(p, "backends");
    uint64_t pages = 0, size = member_number(p, "size");
    const char *state = member_text(p, "state", "?");
    size_t i, used;

    for (i = 0; i < length(backends); i++) {
        pages += member_number(item(backends, i), "samples");
    }
    snprintf(buf, len, "%s, %s: ", member_text(p, "mode", "?"), state);
    used = strlen(buf);
    if (!strcmp(member_text(p, "method", ""), "move-pages")) {
        snprintf(buf + used, len - used, "%" PRIu64 " pages asked for", pages);
    } else {
        snprintf(buf + used, len - used, "asking for pages is forbidden, by %s",
                 member_text(p, "method", "?"));
    }
    used = strlen(buf);
    snprintf(buf + used, len - used, ", %.1f ms",
             (double)member_number(p, "elapsed-us") / 1e3);
    used = strlen(buf);
    if (strcmp(state, "done") && size) {
        snprintf(buf + used, len - used, "; only %.0f %% was looked at",
                 100 * (double)member_number(p, "looked-at") / (double)size);
    } else if (!strcmp(member_text(p, "mode", ""), "sample")) {
        snprintf(buf + used, len - used, ", 95 %% confidence");
    }
}

static bool fill_view(const struct answer *a, struct placement_view *v)
{
    struct json_object *qemu = member_get(
        member_get(member_get(a->greeting, "QMP"), "version"), "qemu");
    char more[96];

    snprintf(v->title, sizeof(v->title), "%.160s (QEMU %" PRIu64 ".%" PRIu64
             ".%" PRIu64 "): %s", member_text(a->name, "name",
             "guest without a name"), member_number(qemu, "major"),
             member_number(qemu, "minor"), member_number(qemu, "micro"),
             member_text(a->status, "status", "?"));
    how_text(a->placement, v->how, sizeof(v->how));
    if (!read_vnodes(member_get(a->placement, "vnodes"), &v->whole) ||
        !read_backends(member_get(a->placement, "backends"), &v->parts)) {
        return false;
    }
    snprintf(more, sizeof(more), ": %s",
             member_text(a->placement, "topology", "?"));
    placement_result(v, more);
    return true;
}

static struct json_object *json_of(const struct answer *a)
{
    struct json_object *all = json_object_new_object();

    json_object_object_add(all, "name",
                           json_object_get(member_get(a->name, "name")));
    json_object_object_add(all, "status",
                           json_object_get(member_get(a->status, "status")));
    json_object_object_add(all, "placement", json_object_get(a->placement));
    return all;
}

static int placement_of_qemu(const struct options *o, struct placement_view *v,
                             struct json_object **json)
{
    struct answer a = { .name = NULL };
    int status = EXIT_ERROR;

    if (ask(o, &a)) {
        if (fill_view(&a, v)) {
            *json = json_of(&a);
            status = EXIT_OK;
        } else {
            complain("out of memory");
        }
    }
    json_object_put(a.greeting);
    json_object_put(a.name);
    json_object_put(a.status);
    json_object_put(a.placement);
    return status;
}

/* The command ------------------------------------------------------------------ */

static int one_option(struct options *o, int c)
{
    switch (c) {
    case OPT_QMP:
        o->path = optarg;
        return *optarg ? EXIT_OK :
               usage_error("--qmp PATH: the path is empty");
    case OPT_PID:
        return parse_number("--pid", optarg, 1, INT32_MAX, &o->pid);
    case OPT_SVG:
        o->svg = optarg;
        return EXIT_OK;
    case OPT_EXACT:
        o->exact_s = 300;
        return optarg ? parse_number("--exact", optarg, 1, 3600, &o->exact_s) :
               EXIT_OK;
    case OPT_TIMEOUT:
        return parse_number("--timeout", optarg, 1, 3600, &o->timeout_s);
    default:
        return -1;
    }
}

static int parse(struct options *o, int argc, char **argv)
{
    static const struct option table[] = {
        { "qmp", required_argument, NULL, OPT_QMP },
        { "pid", required_argument, NULL, OPT_PID },
        { "exact", optional_argument, NULL, OPT_EXACT },
        { "svg", required_argument, NULL, OPT_SVG },
        { "json", no_argument, NULL, OPT_JSON },
        { "timeout", required_argument, NULL, OPT_TIMEOUT },
        COMMON_OPTIONS,
        { NULL, 0, NULL, 0 }
    };
    int c, status;

    while ((c = option(argc, argv, table)) != -1) {
        status = one_option(o, c);
        if (status < 0) {
            return bad_option(argc, argv);
        }
        if (status) {
            return status;
        }
    }
    if (no_arguments(argc, argv)) {
        return EXIT_USAGE;
    }
    if (!o->path == !o->pid) {
        return usage_error("placement: either --qmp PATH or --pid PID is "
                           "needed");
    }
    return EXIT_OK;
}

int cmd_placement(int argc, char **argv)
{
    struct options o = { .timeout_s = 5 };
    struct json_object *json = NULL;
    struct placement_view v = { .notes = NULL };
    int status = parse(&o, argc, argv);

    if (!status) {
        status = o.pid ? placement_of_process((pid_t)o.pid, o.exact_s, &v,
                                              &json) :
                 placement_of_qemu(&o, &v, &json);
    }
    if (!status && json_wanted) {
        puts(json_object_to_json_string_ext(json, JSON_C_TO_STRING_PLAIN |
                                            JSON_C_TO_STRING_NOSLASHESCAPE));
    } else if (!status) {
        placement_print(&v);
    }
    if (!status && o.svg && !placement_draw(&v, o.svg)) {
        status = EXIT_ERROR;
    }
    json_object_put(json);
    placement_free(&v);
    return flush_output() ? EXIT_ERROR : status;
}
