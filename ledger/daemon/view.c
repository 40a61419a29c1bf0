/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Status and check: what a client may see, fetched in pages.
 *
 * All of it is of one instant, so it is kept while its client fetches it.
 * There are eight of these at most: the oldest makes way, and its client
 * starts over.  What a client may not see never gets into one.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "daemon.h"

#define FINDINGS_MAX 1024u

static void empty(struct snapshot *s)
{
    ballast_status_free(s->status);
    free(s->findings);
    if (s->owner) {
        s->owner->snapshot = NULL;
    }
    memset(s, 0, sizeof(*s));
}

void snapshot_drop(struct client *c)
{
    if (c->snapshot) {
        empty(c->snapshot);
    }
}

static struct snapshot *snapshot_new(struct daemon *d, struct client *c)
{
    struct snapshot *s = &d->snapshots[0];
    uint32_t i;

    snapshot_drop(c);
    for (i = 1; i < MAX_SNAPSHOTS && s->owner; i++) {
        if (!d->snapshots[i].owner || d->snapshots[i].age < s->age) {
            s = &d->snapshots[i];
        }
    }
    empty(s);
    s->owner = c;
    s->age = ++d->snapshot_age;
    c->snapshot = s;
    return s;
}

/* A plain client's own slot, and no other. */
static void hide_others(struct ballast_status *st, const struct client *c)
{
    size_t i, kept = 0;

    for (i = 0; i < st->nr_participants; i++) {
        struct ballast_participant *p = &st->participants[i];

        if (p->slot == c->ledger.slot && p->serial == c->ledger.serial) {
            st->participants[kept++] = *p;
        } else {
            free(p->cells);
        }
    }
    st->nr_participants = kept;
}

int view_status(struct daemon *d, struct client *c)
{
    struct wire_status *w = &d->out.reply.status;
    struct snapshot *s = snapshot_new(d, c);
    struct ballast_status *st;
    int err = ballast_status_get(&c->ledger, &s->status);

    if (err) {
        empty(s);
        return err;
    }
    st = s->status;
    if (!c->access.observer) {
        hide_others(st, c);
    }
    w->admission = st->admission;
    w->count_cache_percent = st->count_cache_percent;
    w->nr_slots = st->nr_slots;
    w->nr_waiting = st->nr_waiting;
    w->nr_nodes = st->nr_nodes;
    w->nr_classes = st->nr_classes;
    w->nr_cells = (uint32_t)st->nr_cells;
    w->nr_participants = (uint32_t)st->nr_participants;
    return 0;
}

static void collect(void *opaque, enum ballast_severity severity,
                    const char *text)
{
    struct snapshot *s = opaque;
    struct finding *f;

    if (s->nr_findings < FINDINGS_MAX) {
        f = &s->findings[s->nr_findings++];
        f->severity = severity;
        wire_put_string(f->text, text, sizeof(f->text));
    }
}

/* More than fit are not told of one by one, but they count. */
int view_check(struct daemon *d, struct client *c)
{
    struct snapshot *s = snapshot_new(d, c);
    uint32_t flags = d->in.request.flags;
    int bad;

    s->findings = calloc(FINDINGS_MAX, sizeof(*s->findings));
    if (!s->findings) {
        empty(s);
        return -ENOMEM;
    }
    bad = ballast_check(d->ledger, flags, collect, s);
    if (bad < 0) {
        empty(s);
        return bad;
    }
    d->out.head.nr = s->nr_findings;
    d->out.head.value = (uint64_t)bad;
    return 0;
}

static int page_cells(struct daemon *d, const struct ballast_status *st,
                      uint32_t offset, uint32_t room)
{
    size_t nr = st->nr_cells > offset ? st->nr_cells - offset : 0;

    if (nr > room / sizeof(*st->cells)) {
        nr = room / sizeof(*st->cells);
    }
    if (nr) {
        memcpy(d->out.reply.payload, st->cells + offset,
               nr * sizeof(*st->cells));
    }
    d->out.head.nr = (uint32_t)nr;
    return 0;
}

static void put_participant(uint8_t *to, const struct ballast_participant *p)
{
    struct wire_participant w = {
        .state = p->state, .pid = p->pid, .uid = p->uid, .slot = p->slot,
        .serial = p->serial, .max_bytes = p->max_bytes, .served = p->served,
        .queue_place = p->queue_place, .waited_ms = p->waited_ms,
        .nr_cells = (uint32_t)p->nr_cells,
    };

    wire_put_string(w.name, p->name, sizeof(w.name));
    memcpy(to, &w, sizeof(w));
    memcpy(to + sizeof(w), p->cells, p->nr_cells * sizeof(*p->cells));
}

static int page_participants(struct daemon *d, const struct ballast_status *st,
                             uint32_t offset, uint32_t room)
{
    uint8_t *to = d->out.reply.payload;
    size_t i, bytes;

    for (i = offset; i < st->nr_participants; i++) {
        const struct ballast_participant *p = &st->participants[i];

        bytes = sizeof(struct wire_participant) +
                p->nr_cells * sizeof(*p->cells);
        if (bytes > room) {
            break;
        }
        put_participant(to, p);
        to += bytes;
        room -= (uint32_t)bytes;
        d->out.head.nr++;
    }
    return 0;
}

static int page_findings(struct daemon *d, const struct snapshot *s,
                         uint32_t offset, uint32_t room)
{
    struct wire_finding w;
    uint32_t i;

    for (i = offset; i < s->nr_findings && room >= sizeof(w); i++) {
        memset(&w, 0, sizeof(w));
        w.severity = s->findings[i].severity;
        memcpy(w.text, s->findings[i].text, sizeof(w.text));
        memcpy(d->out.reply.payload + d->out.head.nr * sizeof(w), &w,
               sizeof(w));
        d->out.head.nr++;
        room -= sizeof(w);
    }
    return 0;
}

/* -ESTALE: it made way for another's. */
int view_page(struct daemon *d, struct client *c)
{
    uint32_t offset = d->in.request.offset;
    uint32_t room = wire_payload_room(d->out.head.bytes);
    struct snapshot *s = c->snapshot;

    if (!s || !(d->in.head.op == WIRE_FINDINGS ? (void *)s->findings :
                (void *)s->status)) {
        return -ESTALE;
    }
    switch (d->in.head.op) {
    case WIRE_CELLS:
        return page_cells(d, s->status, offset, room);
    case WIRE_PARTICIPANTS:
        return page_participants(d, s->status, offset, room);
    default:
        return page_findings(d, s, offset, room);
    }
}
