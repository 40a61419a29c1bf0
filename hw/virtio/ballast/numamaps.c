/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * /proc/PID/numa_maps, put together with /proc/PID/maps by address.
 *
 * A line of numa_maps names the first address of a mapping, and pages per
 * node in units of the mapping's page size; small pages, where transparent
 * huge pages are used.  The two files are read one after the other, so that
 * mappings may have come and gone between them: what does not fit together
 * is unknown.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "hw/virtio/ballast/numamaps.h"

/* Lines ------------------------------------------------------------------ */

/* The end of the text is the end of a line. */
static bool ends_here(char c, const char *ends)
{
    return strchr(ends, c ? c : '\n') != NULL;
}

static int digit(char c, unsigned base)
{
    int value = c >= '0' && c <= '9' ? c - '0' :
                c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;

    return value < (int)base ? value : -1;
}

/* All digits up to one of @ends; moves on. */
static bool number(const char **text, unsigned base, const char *ends,
                   uint64_t *out)
{
    const char *s = *text;
    uint64_t value = 0;

    for (; digit(*s, base) >= 0; s++) {
        if (value > (UINT64_MAX - digit(*s, base)) / base) {
            return false;
        }
        value = value * base + digit(*s, base);
    }
    if (s == *text || !ends_here(*s, ends)) {
        return false;
    }
    *out = value;
    *text = s;
    return true;
}

/* "N<node>=<pages>": pages; what looks like it and is not, is an error. */
static bool node_field(const char *word, uint64_t *pages, bool *seen)
{
    uint64_t node, nr;

    word++;
    if (!number(&word, 10, "=", &node) || node >= BALLAST_SAMPLE_NODES ||
        seen[node]) {
        return false;
    }
    word++;
    if (!number(&word, 10, "\n ", &nr)) {
        return false;
    }
    seen[node] = true;
    pages[node] = nr;
    return true;
}

static bool page_size_field(const char *word, uint64_t *page_bytes)
{
    uint64_t kib;

    word += strlen("kernelpagesize_kB=");
    if (*page_bytes || !number(&word, 10, "\n ", &kib) || !kib ||
        kib > UINT64_MAX / 1024) {
        return false;
    }
    *page_bytes = kib * 1024;
    return true;
}

static bool to_bytes(struct ballast_numa_line *out)
{
    unsigned node;

    for (node = 0; node < BALLAST_SAMPLE_NODES; node++) {
        if (out->bytes[node] &&
            (!out->page_bytes ||
             out->bytes[node] > UINT64_MAX / out->page_bytes)) {
            return false;
        }
        out->bytes[node] *= out->page_bytes;
    }
    return true;
}

static bool is_node_field(const char *word)
{
    return word[0] == 'N' && word[1] >= '0' && word[1] <= '9';
}

bool ballast_numa_line_parse(const char *text, struct ballast_numa_line *out)
{
    bool seen[BALLAST_SAMPLE_NODES] = { false };
    size_t len;

    memset(out, 0, sizeof(*out));
    if (!number(&text, 16, " ", &out->start) || text[1] == ' ' ||
        text[1] == '\n' || !text[1]) {
        return false;
    }
    /* The policy may be any word; blanks in a file's name are escaped. */
    text += 1 + strcspn(text + 1, "\n ");
    while (*text == ' ') {
        text++;
        len = strcspn(text, "\n ");
        if (is_node_field(text) && !node_field(text, out->bytes, seen)) {
            return false;
        }
        if (!strncmp(text, "kernelpagesize_kB=", 18) &&
            !page_size_field(text, &out->page_bytes)) {
            return false;
        }
        text += len;
    }
    return to_bytes(out);
}

bool ballast_mapping_line_parse(const char *text,
                                struct ballast_mapping_line *out)
{
    uint64_t skipped;
    int i;

    memset(out, 0, sizeof(*out));
    if (!number(&text, 16, "-", &out->start)) {
        return false;
    }
    text++;
    if (!number(&text, 16, " ", &out->end) || out->end <= out->start) {
        return false;
    }
    text++;
    if (strcspn(text, "\n ") != 4 || text[4] != ' ') {
        return false;
    }
    memcpy(out->perms, text, 4);
    text += 5;
    if (!number(&text, 16, " ", &skipped)) {
        return false;
    }
    /* device and inode */
    for (i = 0; i < 2; i++) {
        text += strspn(text, " ");
        text += strcspn(text, "\n ");
    }
    text += strspn(text, " ");
    snprintf(out->name, sizeof(out->name), "%.*s", (int)strcspn(text, "\n"),
             text);
    return true;
}

/* Both files ------------------------------------------------------------- */

static int add(struct ballast_numa_maps *m,
               const struct ballast_mapping_line *line)
{
    struct ballast_numa_mapping *more;
    size_t room;

    if (m->nr == m->room) {
        room = m->room ? 2 * m->room : 64;
        more = realloc(m->mapping, room * sizeof(*more));
        if (!more) {
            return -ENOMEM;
        }
        m->mapping = more;
        m->room = room;
    }
    memset(&m->mapping[m->nr], 0, sizeof(*m->mapping));
    m->mapping[m->nr].start = line->start;
    m->mapping[m->nr].end = line->end;
    m->nr++;
    return 0;
}

static const char *next_line(const char *text)
{
    text += strcspn(text, "\n");
    return *text ? text + 1 : text;
}

static int add_mappings(const char *text, struct ballast_numa_maps *out)
{
    struct ballast_mapping_line line;
    uint64_t last = 0;
    int err = 0;

    for (; *text && !err; text = next_line(text)) {
        if (!ballast_mapping_line_parse(text, &line) || line.start < last) {
            out->bad_lines++;
            continue;
        }
        last = line.end;
        err = add(out, &line);
    }
    return err;
}

static int by_start(const void *key, const void *element)
{
    const uint64_t *start = key;
    const struct ballast_numa_mapping *m = element;

    return (*start > m->start) - (*start < m->start);
}

static bool fits(const struct ballast_numa_line *line, uint64_t room)
{
    unsigned node;

    for (node = 0; node < BALLAST_SAMPLE_NODES; node++) {
        if (line->bytes[node] > room) {
            return false;
        }
        room -= line->bytes[node];
    }
    return true;
}

static void believe(const struct ballast_numa_line *line,
                    struct ballast_numa_maps *out)
{
    struct ballast_numa_mapping *m = out->nr ?
        bsearch(&line->start, out->mapping, out->nr, sizeof(*m), by_start) :
        NULL;

    if (!m) {
        return;
    }
    if (m->known || m->doubted || !fits(line, m->end - m->start)) {
        out->bad_lines++;
        m->doubted = true;
        m->known = false;
        return;
    }
    m->known = true;
    m->page_bytes = line->page_bytes;
    memcpy(m->bytes, line->bytes, sizeof(m->bytes));
}

int ballast_numa_maps_parse(const char *maps, const char *numa,
                            struct ballast_numa_maps *out)
{
    struct ballast_numa_line line;
    int err = add_mappings(maps, out);

    for (; *numa && !err; numa = next_line(numa)) {
        if (ballast_numa_line_parse(numa, &line)) {
            believe(&line, out);
        } else {
            out->bad_lines++;
        }
    }
    return err;
}

static int read_file(pid_t pid, const char *name, char **text)
{
    char path[64], who[16] = "self";
    size_t used = 0, room = 0, got;
    FILE *f;
    int err = 0;

    if (pid) {
        snprintf(who, sizeof(who), "%d", (int)pid);
    }
    snprintf(path, sizeof(path), "/proc/%s/%s", who, name);
    *text = NULL;
    f = fopen(path, "re");
    if (!f) {
        return -errno;
    }
    do {
        char *more = NULL;

        if (room - used < 4096) {
            room = room ? 2 * room : 65536;
            more = realloc(*text, room);
            if (!more) {
                err = -ENOMEM;
                break;
            }
            *text = more;
        }
        got = fread(*text + used, 1, room - used - 1, f);
        used += got;
        (*text)[used] = '\0';
    } while (got);
    if (!err && ferror(f)) {
        err = -EIO;
    }
    fclose(f);
    return err;
}

int ballast_numa_maps_read(pid_t pid, struct ballast_numa_maps *out)
{
    char *maps = NULL, *numa = NULL;
    int err = read_file(pid, "maps", &maps);

    if (!err) {
        err = read_file(pid, "numa_maps", &numa);
    }
    if (!err) {
        err = ballast_numa_maps_parse(maps, numa, out);
    }
    free(maps);
    free(numa);
    return err;
}

void ballast_numa_maps_free(struct ballast_numa_maps *m)
{
    free(m->mapping);
    memset(m, 0, sizeof(*m));
}

/* A range ---------------------------------------------------------------- */

static uint64_t present(const struct ballast_numa_mapping *m)
{
    uint64_t sum = 0;
    unsigned node;

    for (node = 0; node < BALLAST_SAMPLE_NODES; node++) {
        sum += m->bytes[node];
    }
    return sum;
}

/* The bytes from @start to @end of a mapping, which has all of them. */
static void look(const struct ballast_numa_mapping *m, uint64_t start,
                 uint64_t end, struct ballast_sample *out)
{
    bool all = start == m->start && end == m->end;
    uint64_t there = present(m);
    unsigned node;

    out->samples += end - start;
    if (!m->known || (!all && there)) {
        out->unknown += end - start;
        return;
    }
    for (node = 0; node < BALLAST_SAMPLE_NODES; node++) {
        out->on_node[node] += m->bytes[node];
    }
    out->absent += end - start - there;
}

void ballast_numa_maps_look(const struct ballast_numa_maps *m, uint64_t start,
                            uint64_t bytes, struct ballast_sample *out)
{
    uint64_t end = start + bytes, from, to, seen = 0;
    size_t i;

    out->whole = out->whole || !out->samples;
    for (i = 0; i < m->nr; i++) {
        from = m->mapping[i].start > start ? m->mapping[i].start : start;
        to = m->mapping[i].end < end ? m->mapping[i].end : end;
        if (from < to) {
            look(&m->mapping[i], from, to, out);
            seen += to - from;
        }
    }
    /* Not mapped when maps was read. */
    out->samples += bytes - seen;
    out->unknown += bytes - seen;
}
