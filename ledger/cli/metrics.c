/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * ballast metrics: the ledger in the text format of Prometheus.
 *
 * Nodes and the whole host have metrics of their own, so that a sum over
 * nodes never counts the host too; the host's include claims on no node in
 * particular.  A participant's carry its slot: a dying one may have the name
 * of its successor.
 */
#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli.h"
#include "rows.h"
#include "text.h"

struct metrics {
    const struct ballast_status *st;
    FILE *out;
};

/* Amounts of a cell; free may be negative. */
static const struct {
    const char *name;
    const char *help;
    size_t offset;
    bool is_signed;
} cell_amounts[] = {
#define AMOUNT(name, member, help) \
    { name, help, offsetof(struct ballast_cell, member), false }
    AMOUNT("capacity_bytes", capacity_bytes, "What guests may be promised"),
    AMOUNT("backed_bytes", backed_bytes,
           "The capacity before the overcommit factor"),
    { "free_bytes", "Capacity less everything reserved, negative if more is "
      "resident than the capacity",
      offsetof(struct ballast_cell, free_bytes), true },
    AMOUNT("freeable_bytes", freeable_bytes,
           "Resident, but guests do not need it"),
    AMOUNT("owned_bytes", owned_bytes, "Reserved less freeable"),
    AMOUNT("claimed_bytes", claimed_bytes, "Promised"),
    AMOUNT("resident_bytes", resident_bytes, "Allocated"),
    AMOUNT("outstanding_bytes", outstanding_bytes,
           "Promised and not allocated yet"),
    AMOUNT("wanted_bytes", wanted_bytes,
           "By how much those in the queue want to grow"),
    AMOUNT("kernel_free_bytes", kernel_free_bytes,
           "What the kernel could hand out now"),
    AMOUNT("broken_bytes", broken_bytes,
           "Outstanding that the kernel could not hand out now"),
#undef AMOUNT
};

#define NR_CELL_AMOUNTS (sizeof(cell_amounts) / sizeof(cell_amounts[0]))

static const struct {
    const char *name;
    const char *help;
    size_t offset;
} own_amounts[] = {
    { "claimed_bytes", "Promised to the participant",
      offsetof(struct ballast_own, claimed_bytes) },
    { "resident_bytes", "Allocated by the participant",
      offsetof(struct ballast_own, resident_bytes) },
    { "freeable_bytes", "Allocated by the participant, but not needed",
      offsetof(struct ballast_own, freeable_bytes) },
    { "outstanding_bytes",
      "Promised to the participant and not allocated yet",
      offsetof(struct ballast_own, outstanding_bytes) },
    { "wanted_bytes", "What the participant waits for in the queue, in all",
      offsetof(struct ballast_own, wanted_bytes) },
};

#define NR_OWN_AMOUNTS (sizeof(own_amounts) / sizeof(own_amounts[0]))

static void head(const struct metrics *m, const char *prefix,
                 const char *name, const char *help)
{
    fprintf(m->out, "# HELP %s%s %s.\n# TYPE %s%s gauge\n", prefix, name,
            help, prefix, name);
}

/* A label's value: only these three are special in the format. */
static void label_value(const struct metrics *m, const char *s)
{
    char one[5];
    uint32_t c;

    while ((c = text_next(&s)) != 0) {
        if (c == '\\' || c == '"') {
            fprintf(m->out, "\\%c", (char)c);
        } else if (c == '\n') {
            fputs("\\n", m->out);
        } else {
            text_put(c, one);
            fputs(one, m->out);
        }
    }
}

static const char *node_label(uint32_t node, char buf[TEXT_BYTES])
{
    if (node == BALLAST_NODE_ANY) {
        return "any";
    }
    snprintf(buf, TEXT_BYTES, "%" PRIu32, node);
    return buf;
}

static void amount(const struct metrics *m, const void *at, bool is_signed)
{
    if (is_signed) {
        fprintf(m->out, "%" PRId64 "\n", *(const int64_t *)at);
    } else {
        fprintf(m->out, "%" PRIu64 "\n", *(const uint64_t *)at);
    }
}

/* What the kernel does not say is left out, not zero. */
static bool is_known(const struct ballast_cell *c, size_t offset)
{
    return c->kernel_free_bytes != UINT64_MAX ||
           (offset != offsetof(struct ballast_cell, kernel_free_bytes) &&
            offset != offsetof(struct ballast_cell, broken_bytes));
}

static void cell_metric(const struct metrics *m, size_t a, bool host)
{
    const char *prefix = host ? "ballast_host_" : "ballast_node_";
    char page[TEXT_BYTES], node[TEXT_BYTES];
    size_t i;

    head(m, prefix, cell_amounts[a].name, cell_amounts[a].help);
    for (i = 0; i < m->st->nr_cells; i++) {
        const struct ballast_cell *c = &m->st->cells[i];

        if ((c->node == BALLAST_NODE_ANY) != host ||
            !is_known(c, cell_amounts[a].offset)) {
            continue;
        }
        fprintf(m->out, "%s%s{", prefix, cell_amounts[a].name);
        if (!host) {
            fprintf(m->out, "node=\"%s\",", node_label(c->node, node));
        }
        fprintf(m->out, "page_size=\"%s\"} ", text_page(c->page_bytes, page));
        amount(m, (const char *)c + cell_amounts[a].offset,
               cell_amounts[a].is_signed);
    }
}

static void participant_labels(const struct metrics *m, const char *name,
                               const struct ballast_participant *p)
{
    fprintf(m->out, "ballast_participant_%s{participant=\"", name);
    label_value(m, p->name);
    fprintf(m->out, "\",slot=\"%" PRIu32 "\"", p->slot);
}

static void own_metric(const struct metrics *m, size_t a)
{
    char page[TEXT_BYTES], node[TEXT_BYTES];
    size_t i, k;

    head(m, "ballast_participant_", own_amounts[a].name,
         own_amounts[a].help);
    for (i = 0; i < m->st->nr_participants; i++) {
        const struct ballast_participant *p = &m->st->participants[i];

        for (k = 0; k < p->nr_cells; k++) {
            const struct ballast_own *c = &p->cells[k];

            participant_labels(m, own_amounts[a].name, p);
            fprintf(m->out, ",node=\"%s\",page_size=\"%s\"} ",
                    node_label(c->node, node),
                    text_page(c->page_bytes, page));
            amount(m, (const char *)c + own_amounts[a].offset, false);
        }
    }
}

static void info_metric(const struct metrics *m)
{
    size_t i;

    head(m, "ballast_participant_", "info", "State, process and user");
    for (i = 0; i < m->st->nr_participants; i++) {
        const struct ballast_participant *p = &m->st->participants[i];

        participant_labels(m, "info", p);
        fprintf(m->out, ",state=\"%s\",pid=\"%" PRId32 "\",uid=\"%" PRIu32
                "\"} 1\n", state_name(p->state), p->pid, p->uid);
    }
}

static void queue_metrics(const struct metrics *m)
{
    size_t i;

    head(m, "ballast_participant_", "queue_place",
         "Place in the queue, 1 for the first");
    for (i = 0; i < m->st->nr_participants; i++) {
        const struct ballast_participant *p = &m->st->participants[i];

        if (p->queue_place) {
            participant_labels(m, "queue_place", p);
            fprintf(m->out, "} %" PRIu32 "\n", p->queue_place);
        }
    }
    head(m, "ballast_participant_", "waited_seconds",
         "For how long the participant has been in the queue");
    for (i = 0; i < m->st->nr_participants; i++) {
        const struct ballast_participant *p = &m->st->participants[i];

        if (p->queue_place) {
            participant_labels(m, "waited_seconds", p);
            fprintf(m->out, "} %" PRIu64 ".%03" PRIu64 "\n",
                    p->waited_ms / 1000, p->waited_ms % 1000);
        }
    }
}

static void ledger_metrics(const struct metrics *m)
{
    size_t nr[3] = { 0 }, i;

    head(m, "ballast_", "build_info", "The program that wrote this");
    fputs("ballast_build_info{version=\"" BALLAST_VERSION "\"} 1\n", m->out);
    head(m, "ballast_", "ledger_info", "How claims are admitted");
    fprintf(m->out, "ballast_ledger_info{admission=\"%s\","
            "count_cache_percent=\"%" PRIu32 "\"} 1\n",
            m->st->admission == BALLAST_ADMIT_STATIC ? "static" : "kernel",
            m->st->count_cache_percent);
    head(m, "ballast_", "slots", "Participants that fit");
    fprintf(m->out, "ballast_slots %" PRIu32 "\n", m->st->nr_slots);
    for (i = 0; i < m->st->nr_participants; i++) {
        nr[m->st->participants[i].state]++;
    }
    head(m, "ballast_", "participants", "Participants by state");
    for (i = 0; i < 3; i++) {
        fprintf(m->out, "ballast_participants{state=\"%s\"} %zu\n",
                state_name((enum ballast_state)i), nr[i]);
    }
    head(m, "ballast_", "waiting_participants", "Participants in the queue");
    fprintf(m->out, "ballast_waiting_participants %" PRIu32 "\n",
            m->st->nr_waiting);
}

static void write_metrics(const struct metrics *m, bool participants)
{
    size_t i;

    ledger_metrics(m);
    for (i = 0; i < NR_CELL_AMOUNTS; i++) {
        cell_metric(m, i, false);
    }
    for (i = 0; i < NR_CELL_AMOUNTS; i++) {
        cell_metric(m, i, true);
    }
    if (!participants) {
        return;
    }
    info_metric(m);
    for (i = 0; i < NR_OWN_AMOUNTS; i++) {
        own_metric(m, i);
    }
    queue_metrics(m);
}

/* The collector never sees a part of the file: it is renamed when whole. */
static int write_textfile(struct metrics *m, const char *path,
                          bool participants)
{
    char *temporary = NULL;
    bool bad;
    int fd, err;

    /* node_exporter reads *.prom only */
    if (asprintf(&temporary, "%s.XXXXXX", path) < 0) {
        complain("out of memory");
        return EXIT_ERROR;
    }
    signal(SIGXFSZ, SIG_IGN);   /* an error, and the rest is undone */
    fd = mkstemp(temporary);
    m->out = fd < 0 ? NULL : fdopen(fd, "w");
    if (!m->out) {
        complain("cannot make a file beside %s: %s", path, strerror(errno));
        free(temporary);
        return EXIT_ERROR;
    }
    write_metrics(m, participants);
    bad = fflush(m->out) || ferror(m->out) || fchmod(fd, 0644);
    err = errno;
    if (fclose(m->out) && !bad) {
        bad = true;
        err = errno;
    }
    if (!bad && rename(temporary, path)) {
        bad = true;
        err = errno;
    }
    if (bad) {
        complain("cannot write %s: %s", path, strerror(err));
        unlink(temporary);
    }
    free(temporary);
    return bad ? EXIT_ERROR : EXIT_OK;
}

static int parse(int argc, char **argv, const char **textfile,
                 bool *participants)
{
    static const struct option table[] = {
        { "textfile", required_argument, NULL, OPT_TEXTFILE },
        { "no-participants", no_argument, NULL, OPT_NO_PARTICIPANTS },
        COMMON_OPTIONS,
        { NULL, 0, NULL, 0 }
    };
    int c;

    while ((c = option(argc, argv, table)) != -1) {
        if (c == OPT_TEXTFILE) {
            *textfile = optarg;
        } else if (c == OPT_NO_PARTICIPANTS) {
            *participants = false;
        } else {
            return bad_option(argc, argv);
        }
    }
    return no_arguments(argc, argv);
}

int cmd_metrics(int argc, char **argv)
{
    const char *textfile = NULL;
    bool participants = true;
    struct ballast_ledger *l;
    struct ballast_status *st;
    int status = parse(argc, argv, &textfile, &participants);

    l = status ? NULL : open_ledger(&status);
    if (!l) {
        return status;
    }
    status = read_status(l, &st);
    if (!status) {
        struct metrics m = { .st = st, .out = stdout };

        if (textfile) {
            status = write_textfile(&m, textfile, participants);
        } else {
            write_metrics(&m, participants);
        }
        ballast_status_free(st);
    }
    ballast_ledger_close(l);
    return flush_output() ? EXIT_ERROR : status;
}
