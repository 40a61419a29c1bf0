/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Where ballooned memory really came from.
 *
 * The host looks before it discards: afterwards there is nothing to see.
 * Each stretch of up to 2 MiB is looked at in eight places, one at random in
 * each eighth.  Where they agree, so that it is a huge page, or was filled in
 * one go, they stand for the stretch; where they do not, every page is looked
 * at.  A stretch of up to sixteen pages is looked at whole.  So a figure can
 * be wrong only where a stretch of more than sixteen pages has strays that all
 * eight looks missed.
 *
 * What could not be discarded was not given back, and is not counted.
 */
#include "qemu/osdep.h"
#include "hw/virtio/ballast/compat.h"
#include "hw/virtio/ballast/placement.h"
#include "internal.h"
#include "qemu/units.h"

#define BATCH 512
#define STRETCH_BYTES (2 * MiB)
#define LOOK_WHOLE_PAGES 16
#define LOOKS 8
#define NOT_LOOKED INT_MIN

/* A part of a run that lies within STRETCH_BYTES. */
typedef struct Stretch {
    uint32_t run;
    int where;
    bool mixed;
    uint8_t *host;
    uint64_t page_bytes;
    uint64_t pages;
} Stretch;

typedef struct Batch {
    GArray *stretches;
    unsigned nr;
    void *pages[BATCH];
    unsigned of[BATCH];
} Batch;

static void batch_look(Batch *batch)
{
    int nodes[BATCH];
    unsigned i;

    ballast_where(batch->pages, batch->nr, nodes);
    for (i = 0; i < batch->nr; i++) {
        Stretch *s = &g_array_index(batch->stretches, Stretch, batch->of[i]);

        s->mixed |= s->where != NOT_LOOKED && s->where != nodes[i];
        s->where = nodes[i];
    }
    batch->nr = 0;
}

static void look_at(Batch *batch, unsigned stretch)
{
    const Stretch *s = &g_array_index(batch->stretches, Stretch, stretch);
    uint64_t looks = s->pages > LOOK_WHOLE_PAGES ? LOOKS : s->pages;
    uint64_t i, page, part = s->pages / looks;

    for (i = 0; i < looks; i++) {
        page = i * part + (part > 1 ? g_random_int_range(0, part) : 0);
        batch->pages[batch->nr] = s->host +
                                  page * s->page_bytes;
        batch->of[batch->nr++] = stretch;
        if (batch->nr == BATCH) {
            batch_look(batch);
        }
    }
}

static void add_stretches(GArray *stretches, const BallastRun *run,
                          uint32_t number)
{
    uint64_t page_bytes = run->block->rb->page_size;
    uint64_t start = run->first * page_bytes;
    uint64_t end = start + run->nr * page_bytes, next;

    for (; start < end; start = next) {
        Stretch s = {
            .run = number, .where = NOT_LOOKED, .page_bytes = page_bytes,
            .host = run->block->rb->host + start,
        };

        next = MIN(end, MAX(ROUND_DOWN(start, STRETCH_BYTES) + STRETCH_BYTES,
                            start + page_bytes));
        s.pages = (next - start) / page_bytes;
        g_array_append_val(stretches, s);
    }
}

/* Adjacent pages of a stretch that are in the same place. */
static void add_part(GArray *stretches, const Stretch *whole, uint64_t page,
                     int where)
{
    Stretch *last = &g_array_index(stretches, Stretch, stretches->len - 1);
    Stretch part = {
        .run = whole->run, .where = where, .page_bytes = whole->page_bytes,
        .host = whole->host + page * whole->page_bytes, .pages = 1,
    };

    if (last->run == part.run && last->where == where &&
        last->host + last->pages * last->page_bytes == part.host) {
        last->pages++;
    } else {
        g_array_append_val(stretches, part);
    }
}

/* Look at every page of a mixed stretch; what was found replaces it. */
static void look_at_each(GArray *stretches, unsigned stretch)
{
    Stretch whole = g_array_index(stretches, Stretch, stretch);
    void *pages[BATCH];
    int nodes[BATCH];
    uint64_t done;
    unsigned nr, i;

    g_array_index(stretches, Stretch, stretch).pages = 0;
    for (done = 0; done < whole.pages; done += nr) {
        nr = MIN(whole.pages - done, BATCH);
        for (i = 0; i < nr; i++) {
            pages[i] = whole.host + (done + i) * whole.page_bytes;
        }
        ballast_where(pages, nr, nodes);
        for (i = 0; i < nr; i++) {
            add_part(stretches, &whole, done + i, nodes[i]);
        }
    }
}

GArray *ballast_look(GArray *runs)
{
    g_autofree Batch *batch = g_new0(Batch, 1);
    GArray *stretches = g_array_new(false, false, sizeof(Stretch));
    unsigned i, nr;

    batch->stretches = stretches;
    for (i = 0; i < runs->len; i++) {
        add_stretches(stretches, &g_array_index(runs, BallastRun, i), i);
    }
    nr = stretches->len;
    for (i = 0; i < nr; i++) {
        look_at(batch, i);
    }
    batch_look(batch);
    for (i = 0; i < nr; i++) {
        if (g_array_index(stretches, Stretch, i).mixed) {
            look_at_each(stretches, i);
        }
    }
    return stretches;
}

static void count(BallastNode *node, int where, uint64_t bytes)
{
    if (where >= 0) {
        node->from_bytes[where] += bytes;
    } else if (where == BALLAST_WHERE_ABSENT) {
        node->absent_bytes += bytes;
    } else {
        node->unseen_bytes += bytes;
    }
}

void ballast_count_gone(BallastBalloon *b, GArray *runs, GArray *looked)
{
    unsigned i;

    for (i = 0; i < looked->len; i++) {
        Stretch *s = &g_array_index(looked, Stretch, i);
        BallastRun *run = &g_array_index(runs, BallastRun, s->run);

        if (run->gone) {
            count(&b->nodes.node[run->entry], s->where,
                  s->pages * s->page_bytes);
        }
    }
}

void ballast_count_unseen(BallastBalloon *b, GArray *runs)
{
    unsigned i;

    for (i = 0; i < runs->len; i++) {
        BallastRun *run = &g_array_index(runs, BallastRun, i);

        if (run->gone) {
            b->nodes.node[run->entry].unseen_bytes +=
                run->nr * run->block->rb->page_size;
        }
    }
}
