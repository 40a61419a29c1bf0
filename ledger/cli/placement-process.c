/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Where the memory of any process is, seen from outside: what looks like
 * guest RAM among its mappings.
 *
 * The process is not stopped and nothing in it is changed or populated.  The
 * kernel lets those look who may trace it: its own user (unless it made
 * itself undumpable), and root.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#include "cli.h"
#include "hw/virtio/ballast/numamaps.h"
#include "placement.h"
#include "text.h"

#define MIN_BYTES (16UL << 20)
#define SAMPLES 4096

static const char *const notes[] = {
    "Counted are mappings of at least 16M that can be written, hold no code, "
    "and are neither heap nor stack.",
    "Seen from outside it cannot be known which guest node or backend they "
    "belong to, nor why memory is",
    "absent: never touched, ballooned, swapped out, or touched by another "
    "process only.",
    NULL
};

/* A process that is looked at. */
struct process {
    pid_t pid;
    unsigned long exact_s;      /* 0: a sample */
    int64_t deadline_s;
    char name[64];
    uint64_t resident;
    uint64_t total;
    uint64_t looked_at;
    uint64_t lookups;
    const char *method;
    struct ballast_mapping_line *mapping;
    struct ballast_sample *found;
    size_t nr;
};

static uint32_t random_number(void)
{
    static uint64_t state;

    if (!state && getrandom(&state, sizeof(state), GRND_NONBLOCK) < 0) {
        state = (uint64_t)getpid() << 32 | 1;
    }
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (uint32_t)(state >> 16);
}

/* Which mappings ----------------------------------------------------------- */

static bool like_ram(const struct ballast_mapping_line *m)
{
    return !strncmp(m->perms, "rw-", 3) && *m->name != '[';
}

/* mbind() and madvise() cut a mapping, also one that belongs together. */
static bool continues(const struct ballast_mapping_line *last,
                      const struct ballast_mapping_line *m)
{
    return last->end == m->start && !strcmp(last->perms, m->perms) &&
           !strcmp(last->name, m->name);
}

static bool add_mapping(struct process *p,
                        const struct ballast_mapping_line *m)
{
    struct ballast_mapping_line *more;

    if (p->nr && continues(&p->mapping[p->nr - 1], m)) {
        p->mapping[p->nr - 1].end = m->end;
        return true;
    }
    /* what came before is complete */
    if (p->nr && p->mapping[p->nr - 1].end - p->mapping[p->nr - 1].start <
        MIN_BYTES) {
        p->nr--;
    }
    more = realloc(p->mapping, (p->nr + 1) * sizeof(*more));
    if (!more) {
        return false;
    }
    p->mapping = more;
    more[p->nr++] = *m;
    return true;
}

static FILE *open_of(const struct process *p, const char *file)
{
    char path[64];

    snprintf(path, sizeof(path), "/proc/%d/%s", (int)p->pid, file);
    return fopen(path, "re");
}

static int read_mappings(struct process *p)
{
    FILE *f = open_of(p, "maps");
    struct ballast_mapping_line m;
    char *line = NULL;
    size_t room = 0;
    bool ok = true;
    size_t i;

    if (!f) {
        return -errno;
    }
    while (ok && getline(&line, &room, f) > 0) {
        if (ballast_mapping_line_parse(line, &m) && like_ram(&m)) {
            ok = add_mapping(p, &m);
        }
    }
    free(line);
    i = ferror(f);
    fclose(f);
    if (p->nr && p->mapping[p->nr - 1].end - p->mapping[p->nr - 1].start <
        MIN_BYTES) {
        p->nr--;
    }
    return !ok ? -ENOMEM : i ? -EIO : 0;
}

static void read_rest(struct process *p)
{
    unsigned long size, resident;
    FILE *f = open_of(p, "comm");

    snprintf(p->name, sizeof(p->name), "?");
    if (f) {
        if (fgets(p->name, sizeof(p->name), f)) {
            p->name[strcspn(p->name, "\n")] = '\0';
        }
        fclose(f);
    }
    f = open_of(p, "statm");
    if (f) {
        if (fscanf(f, "%lu %lu", &size, &resident) == 2) {
            p->resident = resident * (uint64_t)sysconf(_SC_PAGESIZE);
        }
        fclose(f);
    }
}

/* Looking ------------------------------------------------------------------- */

static uint64_t bytes_of(const struct process *p, size_t i)
{
    return p->mapping[i].end - p->mapping[i].start;
}

static int64_t now_s(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return ts.tv_sec;
}

static int look_exactly(const struct process *p,
                        const struct ballast_eyes *eyes, size_t i)
{
    uint64_t at = p->mapping[i].start, end = p->mapping[i].end, bytes;
    int err = 0;

    for (; at < end && !err && now_s() < p->deadline_s; at += bytes) {
        bytes = end - at < BALLAST_LOOK_BYTES ? end - at : BALLAST_LOOK_BYTES;
        err = ballast_look_exact(eyes, at, bytes, eyes->page_bytes,
                                 &p->found[i]);
    }
    p->found[i].whole = true;
    return err;
}

static int look_at_all(struct process *p)
{
    struct ballast_eyes eyes;
    uint64_t share;
    int err = 0;
    size_t i;

    ballast_eyes_open(&eyes, p->pid);
    p->deadline_s = now_s() + (int64_t)p->exact_s + 1;
    for (i = 0; i < p->nr && !err; i++) {
        if (p->exact_s) {
            err = look_exactly(p, &eyes, i);
            continue;
        }
        share = (uint64_t)((double)SAMPLES * (double)bytes_of(p, i) /
                           (double)p->total);
        err = ballast_look_sample(&eyes, p->mapping[i].start, bytes_of(p, i),
                                  eyes.page_bytes, share ? share : 1,
                                  random_number, &p->found[i]);
    }
    ballast_eyes_close(&eyes);
    return err;
}

static int look_by_numa_maps(struct process *p)
{
    struct ballast_numa_maps maps = { .nr = 0 };
    int err = ballast_numa_maps_read(p->pid, &maps);
    size_t i;

    memset(p->found, 0, p->nr * sizeof(*p->found));
    for (i = 0; i < p->nr && !err; i++) {
        ballast_numa_maps_look(&maps, p->mapping[i].start, bytes_of(p, i),
                               &p->found[i]);
    }
    ballast_numa_maps_free(&maps);
    p->method = "numa-maps";
    return err;
}

static bool is_sample(const struct process *p)
{
    return !p->exact_s && !strcmp(p->method, "move-pages");
}

static int look(struct process *p)
{
    size_t i;
    int err;

    p->found = calloc(p->nr + 1, sizeof(*p->found));
    if (!p->found) {
        return -ENOMEM;
    }
    for (i = 0; i < p->nr; i++) {
        p->total += bytes_of(p, i);
    }
    p->method = "move-pages";
    err = look_at_all(p);
    if (err == -EPERM || err == -EACCES || err == -ENOSYS) {
        err = look_by_numa_maps(p);
    }
    for (i = 0; i < p->nr; i++) {
        p->lookups += p->found[i].lookups;
        p->looked_at += is_sample(p) ? bytes_of(p, i) : p->found[i].samples;
    }
    return err;
}

/* Telling -------------------------------------------------------------------- */

static const char *kind_of(const struct ballast_mapping_line *m)
{
    if (!*m->name) {
        return m->perms[3] == 's' ? "shared" : "private";
    }
    if (!strncmp(m->name, "/memfd:", 7)) {
        return "memfd";
    }
    if (!strncmp(m->name, "/anon_hugepage", 14)) {
        return "hugetlb";
    }
    return !strncmp(m->name, "/dev/zero", 9) ? "shared" : "file";
}

static bool fill_row(struct process *p, size_t i, struct placement_view *v)
{
    const struct ballast_sample *s = &p->found[i];
    struct placement_row *row = placement_add(&v->whole);
    uint64_t seen = is_sample(p) ? bytes_of(p, i) : s->samples;
    unsigned node;

    if (!row) {
        return false;
    }
    row->size = bytes_of(p, i);
    snprintf(row->name, sizeof(row->name), "%012" PRIx64 "-%012" PRIx64,
             p->mapping[i].start, p->mapping[i].end);
    snprintf(row->detail, sizeof(row->detail), "%s%s%.200s",
             kind_of(&p->mapping[i]), *p->mapping[i].name ? " " : "",
             p->mapping[i].name);
    for (node = 0; node < BALLAST_SAMPLE_NODES; node++) {
        row->on_node[node] = ballast_sample_bytes(s, s->on_node[node], seen);
    }
    row->absent = ballast_sample_bytes(s, s->absent, seen);
    row->unknown = ballast_sample_bytes(s, s->unknown, seen);
    row->error = ballast_sample_error(s, row->size);
    return true;
}

static void how_text(const struct process *p, char *buf, size_t len)
{
    if (strcmp(p->method, "move-pages")) {
        snprintf(buf, len, "by %s, exact: asking for pages is forbidden",
                 p->method);
    } else if (is_sample(p)) {
        snprintf(buf, len, "sample: %" PRIu64 " pages asked for, 95 %% "
                 "confidence", p->lookups);
    } else if (p->looked_at < p->total) {
        snprintf(buf, len, "exact, timed out: %" PRIu64 " pages asked for; "
                 "only %.0f %% was looked at", p->lookups,
                 100 * (double)p->looked_at / (double)p->total);
    } else {
        snprintf(buf, len, "exact, done: %" PRIu64 " pages asked for",
                 p->lookups);
    }
}

static bool fill_view(struct process *p, struct placement_view *v)
{
    char resident[TEXT_BYTES], more[64];
    size_t i;

    v->whole.head = "mapping";
    v->notes = notes;
    for (i = 0; i < p->nr; i++) {
        if (!fill_row(p, i, v)) {
            return false;
        }
    }
    snprintf(v->title, sizeof(v->title), "process %d (%s): %zu mapping%s "
             "like guest RAM", (int)p->pid, p->name, p->nr,
             p->nr == 1 ? "" : "s");
    snprintf(more, sizeof(more), "; %s of the process in all",
             text_bytes(p->resident, resident));
    placement_result(v, more);
    how_text(p, v->how, sizeof(v->how));
    return true;
}

static void put_number(struct json_object *o, const char *name, uint64_t n)
{
    json_object_object_add(o, name, json_object_new_uint64(n));
}

static void put_figures(struct json_object *o, const struct placement_row *row)
{
    struct json_object *list = json_object_new_array(), *one;
    unsigned node;

    put_number(o, "size", row->size);
    for (node = 0; node < BALLAST_SAMPLE_NODES; node++) {
        if (row->on_node[node]) {
            one = json_object_new_object();
            put_number(one, "node", node);
            put_number(one, "bytes", row->on_node[node]);
            json_object_array_add(list, one);
        }
    }
    json_object_object_add(o, "nodes", list);
    put_number(o, "absent", row->absent);
    put_number(o, "unknown", row->unknown);
    put_number(o, "error-bytes", row->error);
}

static struct json_object *mapping_json(const struct process *p, size_t i,
                                        const struct placement_row *row)
{
    const struct ballast_mapping_line *m = &p->mapping[i];
    struct json_object *o = json_object_new_object();
    char name[sizeof(m->name)];

    snprintf(name, sizeof(name), "%s", m->name);
    text_clean(name);
    put_number(o, "start", m->start);
    put_number(o, "end", m->end);
    json_object_object_add(o, "kind", json_object_new_string(kind_of(m)));
    json_object_object_add(o, "name", json_object_new_string(name));
    put_figures(o, row);
    return o;
}

static struct json_object *json_of(struct process *p,
                                   const struct placement_view *v)
{
    struct json_object *o = json_object_new_object();
    struct json_object *list = json_object_new_array();
    size_t i;

    text_clean(p->name);
    put_number(o, "pid", (uint64_t)p->pid);
    json_object_object_add(o, "command", json_object_new_string(p->name));
    json_object_object_add(o, "mode", json_object_new_string(
        p->exact_s ? "exact" : "sample"));
    json_object_object_add(o, "method", json_object_new_string(p->method));
    put_number(o, "samples", p->lookups);
    put_number(o, "size", p->total);
    put_number(o, "looked-at", p->looked_at);
    put_number(o, "resident", p->resident);
    for (i = 0; i < p->nr; i++) {
        json_object_array_add(list, mapping_json(p, i, &v->whole.row[i]));
    }
    json_object_object_add(o, "mappings", list);
    return o;
}

static int complain_of(const struct process *p, int err)
{
    if (err == -ENOENT || err == -ESRCH) {
        complain("--pid %d: there is no such process", (int)p->pid);
    } else if (err == -EACCES || err == -EPERM) {
        complain("--pid %d: not permitted; the process' own user and root may "
                 "look", (int)p->pid);
    } else {
        complain("--pid %d: %s", (int)p->pid, strerror(-err));
    }
    return EXIT_ERROR;
}

int placement_of_process(pid_t pid, unsigned long exact_s,
                         struct placement_view *v, struct json_object **json)
{
    struct process p = { .pid = pid, .exact_s = exact_s };
    int err = read_mappings(&p), status = EXIT_OK;

    read_rest(&p);
    if (!err && p.nr) {
        err = look(&p);
    }
    if (!err && !p.nr) {
        complain("--pid %d: %s has no mapping like guest RAM (16M or more)",
                 (int)pid, p.name);
        status = EXIT_ERROR;
    } else if (!err && fill_view(&p, v)) {
        *json = json_of(&p, v);
    } else {
        status = complain_of(&p, err ? err : -ENOMEM);
    }
    free(p.mapping);
    free(p.found);
    return status;
}
