/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * ballast migration: what a QEMU tells of its migration and its hints, for
 * people.  It only asks, and any QEMU will do.
 *
 * Members that are not known here are printed with their own names, so that
 * a newer plug-in's figures are seen too.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "cli.h"
#include "member.h"
#include "qmp.h"

#define PAGE_BYTES 4096     /* of an x86 guest */
#define LABEL 24
#define FIGURE 28

struct options {
    const char *path;
    unsigned long timeout_s;
    unsigned long watch_s;
};

/* What QEMU says at one moment; any of them may be NULL. */
struct moment {
    struct json_object *greeting, *name, *status, *migrate, *hints;
    bool ballast;
};

/* A string of QEMU's, nothing in it that moves a cursor; its width. */
static int print_text(const char *text)
{
    int width = 0;

    for (; *text; text++, width++) {
        putchar((unsigned char)*text < ' ' || *text == 0x7f ? '?' : *text);
    }
    return width;
}

static void size_text(uint64_t bytes, char *buf, size_t len)
{
    static const char units[][4] = { "B", "KiB", "MiB", "GiB", "TiB" };
    double size = (double)bytes;
    size_t unit = 0;

    while (size >= 1024 && unit + 1 < sizeof(units) / sizeof(units[0])) {
        size /= 1024;
        unit++;
    }
    snprintf(buf, len, size < 10 && unit ? "%.1f %s" : "%.0f %s", size,
             units[unit]);
}

static bool ends_with(const char *name, const char *end)
{
    size_t len = strlen(name), tail = strlen(end);

    return len > tail && strcmp(name + len - tail, end) == 0;
}

/* A figure, by what its name says that it is. */
static void figure_text(const char *name, struct json_object *value,
                        char *buf, size_t len)
{
    uint64_t n = json_object_get_uint64(value);
    char size[32];

    if (json_object_is_type(value, json_type_boolean)) {
        snprintf(buf, len, "%s", json_object_get_boolean(value) ? "yes" :
                 "no");
    } else if (!json_object_is_type(value, json_type_int)) {
        snprintf(buf, len, "%s", json_object_get_string(value));
    } else if (ends_with(name, "-bytes")) {
        size_text(n, size, sizeof(size));
        snprintf(buf, len, "%s (%" PRIu64 " pages)", size, n / PAGE_BYTES);
    } else if (ends_with(name, "-ns")) {
        snprintf(buf, len, "%.3f ms", (double)n / 1e6);
    } else {
        snprintf(buf, len, "%" PRIu64, n);
    }
}

/* "arm-time-ns" is shown as "arm time". */
static void print_label(const char *name)
{
    char label[LABEL];
    size_t i, len = strlen(name);

    if (ends_with(name, "-ns")) {
        len -= 3;
    }
    for (i = 0; i < len && i < sizeof(label) - 1; i++) {
        label[i] = name[i] == '-' ? ' ' : name[i];
    }
    label[i] = '\0';
    printf("  %-*s", LABEL, label);
}

/* Its width. */
static int print_figure(const char *name, struct json_object *value)
{
    char text[128];

    if (!value) {
        return 0;
    }
    figure_text(name, value, text, sizeof(text));
    return print_text(text);
}

/* One member: of one object, or of two side by side. */
static void print_row(const char *name, struct json_object *left,
                      struct json_object *right)
{
    int width;

    print_label(name);
    width = print_figure(name, member_get(left, name));
    if (member_get(right, name)) {
        printf("%*s", width < FIGURE ? FIGURE - width : 1, "");
        print_figure(name, member_get(right, name));
    }
    putchar('\n');
}

static bool is_one_of(const char *name, const char *const *names)
{
    for (; *names; names++) {
        if (strcmp(name, *names) == 0) {
            return true;
        }
    }
    return false;
}

/*
 * Members in this order, then those that are not known here.  (QEMU sends
 * them in the order of its hash table.)
 */
static void print_rows(struct json_object *names, const char *const *order,
                       const char *const *hidden, struct json_object *left,
                       struct json_object *right)
{
    const char *const *known;

    for (known = order; *known; known++) {
        if (member_get(names, *known)) {
            print_row(*known, left, right);
        }
    }
    json_object_object_foreach(names, name, value) {
        if (!is_one_of(name, order) && !is_one_of(name, hidden) &&
            !json_object_is_type(value, json_type_object)) {
            print_row(name, left, right);
        }
    }
}

/* The verdicts of this migration and since the start, side by side. */
static void print_verdicts(struct json_object *hints)
{
    static const char *const order[] = {
        "applied", "applied-bytes", "late", "late-bytes", "unarmed",
        "malformed", "foreign", "bad-ids", NULL
    };
    static const char *const hidden[] = { NULL };
    struct json_object *now = member_get(hints, "migration");
    struct json_object *all = member_get(hints, "total");
    struct json_object *names = all ? all : now;

    if (json_object_is_type(names, json_type_object)) {
        printf("  %-*s%-*s%s\n", LABEL, "", FIGURE, "this migration",
               "since start");
        print_rows(names, order, hidden, now, all);
    }
}

/* A part of its own, like the pages that were absent. */
static void print_part(const char *name, struct json_object *part)
{
    static const char *const order[] = {
        "waited-ns", "unpaid-ns", "slices", "unpaid-slices", "pages",
        "skipped", "skipped-bytes", "zero", "unknown-bytes", "scans",
        "pieces", "scan-time-ns", "scan-max-ns", "arm-time-ns", NULL
    };
    static const char *const hidden[] = { "use", NULL };
    const char *use = member_text(part, "use", NULL);

    print_text(name);
    printf(use ? ": " : ":");
    print_text(use ? use : "");
    putchar('\n');
    print_rows(part, order, hidden, part, NULL);
}

static void print_parts(struct json_object *hints)
{
    json_object_object_foreach(hints, name, value) {
        if (json_object_is_type(value, json_type_object) &&
            strcmp(name, "migration") && strcmp(name, "total")) {
            print_part(name, value);
        }
    }
}

static void print_device(struct json_object *hints, const char *otherwise)
{
    static const char *const order[] = {
        "generation", "cmd-id", "armed", "armings", "arm-chunks",
        "arm-time-ns", "arm-max-ns", "handler-runs", NULL
    };
    static const char *const hidden[] = {
        "device", "state", "devices", NULL
    };

    printf("hints: ");
    print_text(member_text(hints, "device", otherwise));
    printf(": ");
    print_text(member_text(hints, "state", "?"));
    putchar('\n');
    print_rows(hints, order, hidden, hints, NULL);
    print_verdicts(hints);
    print_parts(hints);
}

static void print_hints(const struct moment *m)
{
    struct json_object *devices = member_get(m->hints, "devices");
    size_t i;

    if (!m->hints) {
        puts(m->ballast ? "hints: not told" : "hints: this QEMU has no "
             "Ballast, nothing is known of them");
        return;
    }
    print_device(m->hints, "no Ballast device, arming only");
    for (i = 0; i < (devices ? json_object_array_length(devices) : 0); i++) {
        print_device(json_object_array_get_idx(devices, i), "?");
    }
}

static void print_sent(struct json_object *ram)
{
    uint64_t total = member_number(ram, "total");
    uint64_t left = member_number(ram, "remaining");
    char sent[32], size[32], rest[32];

    size_text(member_number(ram, "transferred"), sent, sizeof(sent));
    size_text(total, size, sizeof(size));
    size_text(left, rest, sizeof(rest));
    printf("  %-*s%s for a guest of %s, %s left (%.0f %% done)\n", LABEL,
           "sent", sent, size, rest, left >= total ? 0 :
           100 - 100 * (double)left / (double)total);
    printf("  %-*s%" PRIu64 " with content, %" PRIu64 " zero\n", LABEL,
           "pages", member_number(ram, "normal"),
           member_number(ram, "duplicate"));
    printf("  %-*s%" PRIu64 "; %" PRIu64 " pages/s dirtied\n", LABEL,
           "harvests", member_number(ram, "dirty-sync-count"),
           member_number(ram, "dirty-pages-rate"));
}

static void print_migration(struct json_object *migrate)
{
    struct json_object *ram = member_get(migrate, "ram");
    const char *error = member_text(migrate, "error-desc", NULL);

    printf("migration: %s", member_text(migrate, "status", "none so far"));
    if (member_get(migrate, "total-time")) {
        printf(", %.1f s", (double)member_number(migrate, "total-time") / 1e3);
    }
    if (member_get(migrate, "downtime")) {
        printf(", downtime %" PRIu64 " ms", member_number(migrate, "downtime"));
    } else if (member_get(migrate, "expected-downtime")) {
        printf(", downtime would be %" PRIu64 " ms",
               member_number(migrate, "expected-downtime"));
    }
    putchar('\n');
    if (error) {
        printf("  %-*s", LABEL, "error");
        print_text(error);
        putchar('\n');
    }
    if (ram) {
        print_sent(ram);
    }
}

static void print_moment(const struct moment *m)
{
    struct json_object *said = member_get(m->greeting, "QMP");
    struct json_object *qemu = member_get(member_get(said, "version"), "qemu");

    print_text(member_text(m->name, "name", "guest without a name"));
    printf(" (QEMU %" PRIu64 ".%" PRIu64 ".%" PRIu64 "): %s\n",
           member_number(qemu, "major"), member_number(qemu, "minor"),
           member_number(qemu, "micro"), member_text(m->status, "status", "?"));
    print_migration(m->migrate);
    print_hints(m);
}

static void print_json(const struct moment *m)
{
    struct json_object *all = json_object_new_object();

    json_object_object_add(all, "name",
                           json_object_get(member_get(m->name, "name")));
    json_object_object_add(all, "status",
                           json_object_get(member_get(m->status, "status")));
    json_object_object_add(all, "migration", json_object_get(m->migrate));
    json_object_object_add(all, "ballast", json_object_new_boolean(m->ballast));
    json_object_object_add(all, "hints", json_object_get(m->hints));
    puts(json_object_to_json_string_ext(all, JSON_C_TO_STRING_PLAIN));
    json_object_put(all);
}

static void forget(struct moment *m)
{
    json_object_put(m->greeting);
    json_object_put(m->name);
    json_object_put(m->status);
    json_object_put(m->migrate);
    json_object_put(m->hints);
}

/* False after a message. */
static bool ask(struct qmp *q, struct moment *m)
{
    bool absent = false;

    m->greeting = json_object_get(qmp_greeting(q));
    m->name = qmp_query(q, "query-name", NULL);
    m->status = m->name ? qmp_query(q, "query-status", NULL) : NULL;
    m->migrate = m->status ? qmp_query(q, "query-migrate", NULL) : NULL;
    if (!m->migrate) {
        return false;
    }
    m->hints = qmp_query(q, "query-free-page-hints", &absent);
    m->ballast = !absent;
    return m->hints || absent;
}

/*
 * One connection for each look: while ballast waits, others may use the
 * socket.
 */
static int look(const struct options *o)
{
    struct moment m = { .ballast = false };
    struct qmp *q = qmp_open(o->path, o->timeout_s);
    bool told = q && ask(q, &m);

    if (told && json_wanted) {
        print_json(&m);
    } else if (told) {
        print_moment(&m);
    }
    fflush(stdout);
    forget(&m);
    if (q) {
        qmp_close(q);
    }
    return told ? EXIT_OK : EXIT_ERROR;
}

static int watch(const struct options *o)
{
    struct timespec pause = { .tv_sec = (time_t)o->watch_s };
    bool screen = isatty(STDOUT_FILENO) && !json_wanted;
    int status;

    do {
        if (screen) {
            fputs("\033[H\033[J", stdout);
        }
        status = look(o);
        if (!status && !screen && !json_wanted) {
            putchar('\n');
        }
    } while (!status && nanosleep(&pause, NULL) == 0);
    return status;
}

static int one_option(struct options *o, int c)
{
    switch (c) {
    case OPT_QMP:
        o->path = optarg;
        return EXIT_OK;
    case OPT_TIMEOUT:
        return parse_number("--timeout", optarg, 1, 3600, &o->timeout_s);
    case OPT_WATCH:
        o->watch_s = 1;
        return optarg ? parse_number("--watch", optarg, 1, 3600, &o->watch_s) :
               EXIT_OK;
    default:
        return -1;
    }
}

static int parse(struct options *o, int argc, char **argv)
{
    static const struct option table[] = {
        { "qmp", required_argument, NULL, OPT_QMP },
        { "json", no_argument, NULL, OPT_JSON },
        { "watch", optional_argument, NULL, OPT_WATCH },
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
    return o->path && *o->path ? EXIT_OK :
           usage_error("migration: --qmp PATH, QEMU's QMP socket, is missing");
}

int cmd_migration(int argc, char **argv)
{
    struct options o = { .timeout_s = 5 };
    int status = parse(&o, argc, argv);

    if (status) {
        return status;
    }
    return o.watch_s ? watch(&o) : look(&o);
}
