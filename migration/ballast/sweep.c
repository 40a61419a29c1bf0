/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Which pages will be hinted soon?  See the header. */
#include "migration/ballast/sweep.h"

static void widen(struct ballast_window *w, uint64_t first, uint64_t end)
{
    w->first = w->hints && w->first < first ? w->first : first;
    w->end = w->end > end ? w->end : end;
}

void ballast_sweep_hint(struct ballast_sweep *s, uint64_t first,
                        uint64_t pages, int64_t now_ns)
{
    if (s->now.hints == BALLAST_SWEEP_HINTS) {
        s->before = s->last;
        s->last = s->now;
        s->now = (struct ballast_window) {};
    }
    if (!s->now.hints) {
        s->now.began_ns = now_ns;
    }
    widen(&s->now, first, first + pages);
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
                          const struct ballast_sweep *s, double pages_per_ns)
{
    const struct ballast_window *a = &s->before, *b = &s->last;
    int64_t ns = b->began_ns - a->began_ns;
    bool up, down;

    *c = (struct ballast_course) { .s = *s, .pages_per_ns = pages_per_ns };
    if (!a->hints || ns <= 0) {
        return false;
    }
    up = rises(a, b) && b->first <= s->now.first;
    down = falls(a, b) && b->end >= s->now.end;
    c->down = down;
    c->hinted_per_ns = (double)(up ? b->first - a->first :
                                down ? a->end - b->end : 0) / ns;
    return up || down;
}

/* Pages that the hints have passed; some come late: a window is left out. */
static bool is_passed(const struct ballast_course *c, uint64_t first,
                      uint64_t end)
{
    return c->down ? first >= c->s.last.end : end <= c->s.last.first;
}

/* When the hints have passed them, if they go on as they do. */
static double ns_to_hint(const struct ballast_course *c, uint64_t first,
                         uint64_t end)
{
    const struct ballast_window *now = &c->s.now;
    uint64_t pages = c->down ?
                     now->first > first ? now->first - first : 0 :
                     end > now->end ? end - now->end : 0;

    return pages / c->hinted_per_ns;
}

bool ballast_course_send(struct ballast_course *c, uint64_t first,
                         uint64_t pages, uint64_t dirty_pages)
{
    if (is_passed(c, first, first + pages)) {
        c->sending_ns += dirty_pages / c->pages_per_ns;
        return true;
    }
    return !dirty_pages || ns_to_hint(c, first, first + pages) < c->sending_ns;
}
