/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Which pages will be hinted soon?  See the header. */
#include "migration/ballast/sweep.h"

static void widen(struct ballast_window *w, uint64_t first, uint64_t end)
{
    w->first = w->hints && w->first < first ? w->first : first;
    w->end = w->end > end ? w->end : end;
}

void ballast_sweep_hint(struct ballast_sweep *s, uint64_t first,
                        uint64_t pages)
{
    if (s->now.hints == BALLAST_SWEEP_HINTS) {
        s->before = s->last;
        s->last = s->now;
        s->now = (struct ballast_window) {};
    }
    widen(&s->now, first, first + pages);
    s->end = s->end > first + pages ? s->end : first + pages;
    s->now.hints++;
}

static uint64_t middle(const struct ballast_window *w)
{
    return w->first + (w->end - w->first) / 2;
}

/* Does a window lie above the one before, by more than half of that? */
static bool rises(const struct ballast_window *a,
                  const struct ballast_window *b)
{
    return b->first >= middle(a) && b->end > a->end;
}

static bool falls(const struct ballast_window *a,
                  const struct ballast_window *b)
{
    return b->end <= middle(a) && b->first < a->first;
}

bool ballast_course_begin(struct ballast_course *c,
                          const struct ballast_sweep *s)
{
    const struct ballast_window *a = &s->before, *b = &s->last;
    bool up = rises(a, b) && b->first <= s->now.first;

    *c = (struct ballast_course) {
        .s = *s, .down = falls(a, b) && b->end >= s->now.end,
    };
    return a->hints && (up || c->down);
}

/* Some hints come late: a window is left out. */
static bool is_passed(const struct ballast_course *c, uint64_t first,
                      uint64_t end)
{
    return c->down ? first >= c->s.last.end : end <= c->s.last.first;
}

bool ballast_course_send(struct ballast_course *c, uint64_t first,
                         uint64_t pages, uint64_t dirty_pages)
{
    if (dirty_pages && !is_passed(c, first, first + pages)) {
        return false;
    }
    c->pages += dirty_pages;
    return true;
}

uint64_t ballast_course_far(const struct ballast_course *c, uint64_t begin,
                            uint64_t end, uint64_t far)
{
    uint64_t part = (end - begin) / BALLAST_FAR_PART;
    uint64_t least = end - (part < BALLAST_FAR_MOST ? part : BALLAST_FAR_MOST);

    if (c->down || far < least + BALLAST_FAR_PAGES ||
        far - BALLAST_FAR_PAGES < c->s.end) {
        return far;
    }
    return far - BALLAST_FAR_PAGES;
}
