/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * One view of ballast watch: title, a row with a bar per node and page size,
 * the queue, participants.  What does not fit is left out by rank, columns as
 * well as rows, and the view says how many rows are missing.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "frame.h"
#include "rows.h"
#include "text.h"

enum style {
    PLAIN,
    TITLE,
    HEADER,
    USED,
    OUTSTANDING,
    BROKEN,
    FREEABLE,
    FREE,
    NR_STYLES,
};

static const char *const colors[NR_STYLES] = {
    [PLAIN] = "\033[m",
    [TITLE] = "\033[0;1m",
    [HEADER] = "\033[0;4m",
    [USED] = "\033[0;32m",
    [OUTSTANDING] = "\033[0;33m",
    [BROKEN] = "\033[0;1;31m",
    [FREEABLE] = "\033[0;36m",
    [FREE] = "\033[0;90m",
};

/* The parts of a bar, in this order. */
static const struct {
    enum style style;
    const char *utf8;
    const char *ascii;
    const char *name;
} parts[] = {
    { USED, "█", "#", "used" },
    { OUTSTANDING, "▓", "=", "outstanding" },
    { BROKEN, "!", "!", "broken" },
    { FREEABLE, "▒", "+", "freeable" },
    { FREE, "░", ".", "free" },
};

#define NR_PARTS ((int)(sizeof(parts) / sizeof(parts[0])))

static void append(struct frame *f, const char *s)
{
    size_t len = strlen(s);

    if (f->len + len + 1 > f->room) {
        size_t room = (f->len + len + 1) * 2 + 4096;
        char *text = realloc(f->text, room);

        if (!text) {
            f->room = 0;    /* frame_draw() looks */
            return;
        }
        f->text = text;
        f->room = room;
    }
    memcpy(f->text + f->len, s, len + 1);
    f->len += len;
}

static bool is_below(const struct frame *f)
{
    return f->height && f->row >= f->height;
}

static void set_style(struct frame *f, int style)
{
    if (f->color && f->style != style && !is_below(f)) {
        append(f, colors[style]);
    }
    f->style = style;
}

/* As much as fits in the row. */
static void put(struct frame *f, int style, const char *s)
{
    char one[5];
    uint32_t c;

    set_style(f, style);
    while (!is_below(f) && (c = text_next(&s)) != 0) {
        int width = c < 0x80 ? 1 : text_width(c);

        width += !width;
        if (f->col + width > f->width) {
            return;
        }
        text_put(c, one);
        append(f, one);
        f->col += width;
    }
}

static void blanks_to(struct frame *f, int style, int column)
{
    column = column < f->width ? column : f->width;
    while (f->col < column && !is_below(f)) {
        put(f, style, " ");
    }
}

static void put_right(struct frame *f, int style, const char *s, int width)
{
    int blanks = width - (int)strlen(s);

    for (; blanks > 0; blanks--) {
        put(f, f->style == HEADER ? HEADER : PLAIN, " ");
    }
    put(f, style, s);
}

/* Rows are ended before the next one begins: a full screen must not scroll. */
static void next_row(struct frame *f)
{
    set_style(f, PLAIN);
    if (f->terminal && !is_below(f) && f->col < f->width) {
        append(f, "\033[K");
    }
    f->row++;
    f->col = 0;
    if (!is_below(f)) {
        append(f, f->terminal ? "\r\n" : "\n");
    }
}

/* Left text, and right text if there is room for it. */
static void title(struct frame *f, const struct ballast_status *st,
                  const char *path)
{
    char clock[16], right[128], left[1024];
    time_t now = time(NULL);
    struct tm tm;
    int room, width;

    localtime_r(&now, &tm);
    strftime(clock, sizeof(clock), "%H:%M:%S", &tm);
    snprintf(right, sizeof(right), "%s", clock);
    if (st && f->width >= 72) {
        snprintf(right, sizeof(right), "%s admission  %zu of %" PRIu32
                 " slots  %s", st->admission == BALLAST_ADMIT_STATIC ?
                 "static" : "kernel", st->nr_participants, st->nr_slots,
                 clock);
    }
    room = f->width - (int)strlen(right) - 1 - 8;
    width = room > 0 ? text_name(path, left, sizeof(left), room) : 0;
    put(f, TITLE, "ballast ");
    put(f, TITLE, room > 0 ? left : "");
    if (room > 0) {
        put_right(f, PLAIN, right, room - width + 1 + (int)strlen(right));
    }
    next_row(f);
}

static void legend(struct frame *f)
{
    int i;

    for (i = 0; i < NR_PARTS; i++) {
        put(f, PLAIN, i ? "  " : "");
        put(f, parts[i].style, f->utf8 ? parts[i].utf8 : parts[i].ascii);
        put(f, PLAIN, " ");
        put(f, PLAIN, parts[i].name);
    }
    put(f, PLAIN, "   (used, outstanding: owned)");
    next_row(f);
}

/**
 * struct column - a column of figures
 * @title: above it.
 * @width: with the blank before it.
 * @rank: the lowest are kept when not all fit.
 * @shown: there is room.
 */
struct column {
    const char *title;
    int width;
    int rank;
    bool shown;
};

/* Returns what is left of the room. */
static int choose(struct column *columns, int nr, int room)
{
    int rank, i;

    for (rank = 0; rank <= nr; rank++) {
        for (i = 0; i < nr; i++) {
            if (columns[i].rank == rank && columns[i].width <= room) {
                columns[i].shown = true;
                room -= columns[i].width;
            }
        }
    }
    return room;
}

static void column_titles(struct frame *f, const struct column *columns,
                          int nr)
{
    int i;

    for (i = 0; i < nr; i++) {
        if (columns[i].shown) {
            put_right(f, HEADER, columns[i].title, columns[i].width);
        }
    }
}

/* Nodes */

enum {
    CAPACITY, FREE_BYTES, FREEABLE_BYTES, OWNED, OUTSTANDING_BYTES,
    BROKEN_BYTES, WANTED, KERNEL, NR_CELL_COLUMNS,
};

static const struct column cell_columns[NR_CELL_COLUMNS] = {
    [CAPACITY] = { "capacity", 9, 1, false },
    [FREE_BYTES] = { "free", 7, 0, false },
    [FREEABLE_BYTES] = { "freeable", 9, 5, false },
    [OWNED] = { "owned", 7, 3, false },
    [OUTSTANDING_BYTES] = { "outstanding", 12, 4, false },
    [BROKEN_BYTES] = { "broken", 7, 6, false },
    [WANTED] = { "wanted", 7, 7, false },
    [KERNEL] = { "kernel", 7, 8, false },
};

static void cell_figure(struct frame *f, const struct ballast_cell *c, int i,
                        int width)
{
    char buf[TEXT_BYTES];

    switch (i) {
    case CAPACITY:
        put_right(f, PLAIN, text_bytes(c->capacity_bytes, buf), width);
        break;
    case FREE_BYTES:
        put_right(f, c->free_bytes < 0 ? BROKEN : PLAIN,
                  text_signed(c->free_bytes, buf), width);
        break;
    case FREEABLE_BYTES:
        put_right(f, PLAIN, text_bytes(c->freeable_bytes, buf), width);
        break;
    case OWNED:
        put_right(f, PLAIN, text_bytes(c->owned_bytes, buf), width);
        break;
    case OUTSTANDING_BYTES:
        put_right(f, PLAIN, text_bytes(c->outstanding_bytes, buf), width);
        break;
    case BROKEN_BYTES:
        put_right(f, c->broken_bytes ? BROKEN : PLAIN,
                  text_bytes(c->kernel_free_bytes == UINT64_MAX ? UINT64_MAX :
                             c->broken_bytes, buf), width);
        break;
    case WANTED:
        put_right(f, c->wanted_bytes ? OUTSTANDING : PLAIN,
                  text_bytes(c->wanted_bytes, buf), width);
        break;
    default:
        put_right(f, PLAIN, text_bytes(c->kernel_free_bytes, buf), width);
        break;
    }
}

/* Bytes of each part; together at least the capacity. */
static void bar_parts(const struct ballast_cell *c, uint64_t bytes[NR_PARTS])
{
    uint64_t broken = c->broken_bytes < c->outstanding_bytes ?
                      c->broken_bytes : c->outstanding_bytes;

    bytes[0] = c->owned_bytes > c->outstanding_bytes ?
               c->owned_bytes - c->outstanding_bytes : 0;
    bytes[1] = c->outstanding_bytes - broken;
    bytes[2] = broken;
    bytes[3] = c->freeable_bytes;
    bytes[4] = c->free_bytes > 0 ? (uint64_t)c->free_bytes : 0;
}

/* Rounded, but a part that is there is seen if the bar is long enough. */
static void bar_cells(const uint64_t bytes[NR_PARTS], int width,
                      int cells[NR_PARTS])
{
    uint64_t total = 0, sum = 0;
    int i, at = 0, largest = 0;

    for (i = 0; i < NR_PARTS; i++) {
        total += bytes[i];
    }
    for (i = 0; i < NR_PARTS; i++) {
        int end;

        sum += bytes[i];
        end = total ? (int)((double)sum / (double)total * width + 0.5) : at;
        cells[i] = end - at;
        at = end;
        largest = cells[i] > cells[largest] ? i : largest;
    }
    for (i = 0; i < NR_PARTS; i++) {
        if (bytes[i] && !cells[i] && cells[largest] > 1) {
            cells[i] = 1;
            cells[largest]--;
        }
    }
}

static void bar(struct frame *f, const struct ballast_cell *c, int width)
{
    uint64_t bytes[NR_PARTS];
    int cells[NR_PARTS], i, k;

    bar_parts(c, bytes);
    bar_cells(bytes, width, cells);
    for (i = 0; i < NR_PARTS; i++) {
        for (k = 0; k < cells[i]; k++) {
            put(f, parts[i].style, f->utf8 ? parts[i].utf8 : parts[i].ascii);
        }
    }
}

static void cell_row(struct frame *f, const struct ballast_cell *c,
                     const struct column *columns, int bar_width)
{
    char node[TEXT_BYTES], page[TEXT_BYTES], label[64];
    int i;

    snprintf(node, sizeof(node), "%" PRIu32, c->node);
    snprintf(label, sizeof(label), "%-4s %4s ",
             c->node == BALLAST_NODE_ANY ? "host" : node,
             text_page(c->page_bytes, page));
    put(f, c->broken_bytes ? BROKEN : PLAIN, label);
    bar(f, c, bar_width);
    blanks_to(f, PLAIN, 10 + bar_width);
    for (i = 0; i < NR_CELL_COLUMNS; i++) {
        if (columns[i].shown) {
            cell_figure(f, c, i, columns[i].width);
        }
    }
    next_row(f);
}

static void more_row(struct frame *f, size_t nr, const char *what,
                     size_t broken)
{
    char line[128];

    snprintf(line, sizeof(line), "and %zu more %s", nr, what);
    put(f, PLAIN, line);
    if (broken) {
        snprintf(line, sizeof(line), ", %zu with a broken promise", broken);
        put(f, BROKEN, line);
    }
    next_row(f);
}

/* Figures that are not all zero are worth more room than others. */
static int cell_layout(struct frame *f, const struct cell_rows *rows,
                       struct column columns[NR_CELL_COLUMNS])
{
    int bar_least = f->width >= 60 ? 16 : 12;
    size_t i;

    memcpy(columns, cell_columns, sizeof(cell_columns));
    for (i = 0; i < rows->nr; i++) {
        if (rows->cells[i]->broken_bytes) {
            columns[BROKEN_BYTES].rank = 1;
        }
        if (rows->cells[i]->wanted_bytes) {
            columns[WANTED].rank = 4;
        }
    }
    i = (size_t)choose(columns, NR_CELL_COLUMNS, f->width - 10 - bar_least);
    return bar_least + (int)i;
}

/* Of so many rows, when those left out need a row that says so. */
static size_t fitting(const struct frame *f, size_t nr, size_t room)
{
    size_t most = room ? room - 1 : 0;

    return nr <= f->top && nr <= room ? nr : f->top < most ? f->top : most;
}

static void cell_table(struct frame *f, struct cell_rows *rows, size_t room)
{
    struct column columns[NR_CELL_COLUMNS];
    int bar_width = cell_layout(f, rows, columns);
    size_t broken = rows->broken, i;
    size_t more = rows_cut(rows, fitting(f, rows->nr, room));

    put(f, HEADER, "node page ");
    blanks_to(f, HEADER, 10 + bar_width);
    column_titles(f, columns, NR_CELL_COLUMNS);
    next_row(f);
    for (i = 0; i < rows->nr; i++) {
        cell_row(f, rows->cells[i], columns, bar_width);
    }
    if (more && room) {
        more_row(f, more, "rows",
                 broken > rows->nr ? broken - rows->nr : 0);
    }
}

/* Participants */

enum {
    STATE, PLACE, RESERVED, P_CLAIMED, P_RESIDENT, P_OUTSTANDING, P_FREEABLE,
    P_WANTED, P_WAITED, PID, NR_PERSON_COLUMNS,
};

static const struct column person_columns[NR_PERSON_COLUMNS] = {
    [STATE] = { "state", 9, 1, false },
    [PLACE] = { "queue", 6, 2, false },
    [RESERVED] = { "reserved", 9, 0, false },
    [P_CLAIMED] = { "claimed", 8, 3, false },
    [P_RESIDENT] = { "resident", 9, 4, false },
    [P_OUTSTANDING] = { "outstanding", 12, 5, false },
    [P_FREEABLE] = { "freeable", 9, 6, false },
    [P_WANTED] = { "wanted", 7, 8, false },
    [P_WAITED] = { "waited", 7, 9, false },
    [PID] = { "pid", 9, 7, false },
};

/* Fills in the words of a row. */
static void person_words(const struct person *p,
                         char word[NR_PERSON_COLUMNS][TEXT_BYTES])
{
    snprintf(word[STATE], TEXT_BYTES, "%s", state_name(p->p->state));
    text_bytes(p->reserved, word[RESERVED]);
    text_bytes(p->claimed, word[P_CLAIMED]);
    text_bytes(p->resident, word[P_RESIDENT]);
    text_bytes(p->outstanding, word[P_OUTSTANDING]);
    text_bytes(p->freeable, word[P_FREEABLE]);
    strcpy(word[P_WANTED], "-");
    strcpy(word[P_WAITED], "-");
    strcpy(word[PLACE], "-");
    strcpy(word[PID], "-");
    if (p->p->queue_place) {
        snprintf(word[PLACE], TEXT_BYTES, "%" PRIu32, p->p->queue_place);
        snprintf(word[P_WAITED], TEXT_BYTES, "%us",
                 (unsigned)(p->p->waited_ms / 1000));
        text_bytes(p->wanted, word[P_WANTED]);
    }
    if (p->p->pid) {
        snprintf(word[PID], TEXT_BYTES, "%" PRId32, p->p->pid);
    }
}

static void person_row(struct frame *f, const struct person *p,
                       const struct column *columns, int name_width)
{
    char word[NR_PERSON_COLUMNS][TEXT_BYTES];
    char name[BALLAST_NAME_BYTES * 4];
    int i, style = p->p->state == BALLAST_STATE_DYING ? BROKEN :
                   p->p->queue_place ? OUTSTANDING : PLAIN;

    text_name(p->p->name, name, sizeof(name), name_width);
    put(f, style, name);
    blanks_to(f, PLAIN, name_width);
    person_words(p, word);
    for (i = 0; i < NR_PERSON_COLUMNS; i++) {
        if (columns[i].shown) {
            put_right(f, i == STATE || i == PLACE ? style : PLAIN, word[i],
                      columns[i].width);
        }
    }
    next_row(f);
}

static int person_layout(const struct frame *f,
                         const struct ballast_status *st,
                         struct column columns[NR_PERSON_COLUMNS])
{
    int least = f->width >= 60 ? 20 : 14, left, width;

    memcpy(columns, person_columns, sizeof(person_columns));
    if (!st->nr_waiting) {
        columns[P_WANTED].width = columns[P_WAITED].width = 10000;
    }
    left = choose(columns, NR_PERSON_COLUMNS, f->width - least);
    width = least + left;
    return width < BALLAST_NAME_BYTES ? width : BALLAST_NAME_BYTES;
}

static void person_table(struct frame *f, const struct ballast_status *st,
                         const struct person *people, size_t room)
{
    struct column columns[NR_PERSON_COLUMNS];
    int name_width = person_layout(f, st, columns);
    size_t nr = st->nr_participants, shown = fitting(f, nr, room), i;

    put(f, HEADER, "participant");
    blanks_to(f, HEADER, name_width);
    column_titles(f, columns, NR_PERSON_COLUMNS);
    next_row(f);
    for (i = 0; i < shown; i++) {
        person_row(f, &people[i], columns, name_width);
    }
    if (shown < nr && room) {
        more_row(f, nr - shown, "participants", 0);
    }
}

static void queue_row(struct frame *f, const struct ballast_status *st)
{
    char line[BALLAST_NAME_BYTES * 4 + 128], name[BALLAST_NAME_BYTES * 4];
    size_t i;

    for (i = 0; i < st->nr_participants; i++) {
        const struct ballast_participant *p = &st->participants[i];

        if (p->queue_place == 1) {
            text_name(p->name, name, sizeof(name), 24);
            snprintf(line, sizeof(line), "%" PRIu32 " in the queue, first: "
                     "%s for %" PRIu64 " s", st->nr_waiting, name,
                     p->waited_ms / 1000);
            put(f, OUTSTANDING, line);
            break;
        }
    }
    next_row(f);
}

/* The whole */

/* Rows that a table would like to have. */
static size_t wish(const struct frame *f, size_t nr)
{
    return nr <= f->top ? nr : f->top + 1;
}

static void body(struct frame *f, const struct ballast_status *st,
                 struct cell_rows *rows, const struct person *people)
{
    bool roomy = !f->height || f->height >= 14;
    size_t cells = wish(f, rows->nr), persons = wish(f, st->nr_participants);
    size_t fixed = 3 + (roomy ? 2 : 0) + (st->nr_waiting > 0) + f->terminal;
    size_t room = f->height > (int)fixed ? (size_t)f->height - fixed : 0;

    if (f->height && cells + persons > room) {
        size_t half = persons < room / 2 ? room - persons : (room + 1) / 2;

        cells = cells < half ? cells : half;
        persons = room - cells;
    }
    if (roomy) {
        legend(f);
    }
    cell_table(f, rows, cells);
    if (roomy) {
        next_row(f);
    }
    if (st->nr_waiting) {
        queue_row(f, st);
    }
    person_table(f, st, people, persons);
}

static void footer(struct frame *f)
{
    static const char keys[] = "q quits";

    if (!f->terminal || is_below(f)) {
        return;
    }
    while (f->row < f->height - 1) {
        next_row(f);
    }
    put(f, FREE, keys);
    blanks_to(f, PLAIN, f->width);
    set_style(f, PLAIN);
}

bool frame_draw(struct frame *f, const struct ballast_status *st,
                const char *path, const char *problem)
{
    struct person *people = st ? rows_people(st) : NULL;
    struct cell_rows rows = { 0 };
    bool ok = !st || (rows_cells(st, &rows) && people);

    free(f->text);
    f->text = NULL;
    f->len = f->room = 0;
    f->col = f->row = 0;
    f->style = PLAIN;
    if (ok) {
        append(f, f->terminal ? "\033[H" : "");
        title(f, st, path);
        if (st) {
            body(f, st, &rows, people);
        } else {
            put(f, BROKEN, problem);
            next_row(f);
        }
        footer(f);
        append(f, f->terminal ? "\033[J" : "\n");
    }
    free(rows.cells);
    free(people);
    return ok && f->room;
}
