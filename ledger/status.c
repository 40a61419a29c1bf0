/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the ledger looks like at one instant.
 *
 * The slots in use are copied to private memory under the mutex and looked
 * at afterwards.  Totals are summed from the same copy, so that participants
 * always add up to them.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "internal.h"

static void cell_name(const struct geometry *geo, uint32_t cell,
                      uint32_t *node, uint64_t *page_bytes)
{
    uint32_t row = cell / geo->nr_classes;

    *node = row < geo->nr_nodes ? geo->node_id[row] : BALLAST_NODE_ANY;
    *page_bytes = geo->page_bytes[cell % geo->nr_classes];
}

/* @wanted is what it would be after waiting, or NULL. */
static size_t own_cells(const struct geometry *geo, const struct view *v,
                        const struct view *wanted, struct ballast_own *cells,
                        size_t nr)
{
    size_t used = 0;
    uint32_t i;

    for (i = 0; i < geo->nr_cells; i++) {
        uint64_t wants = wanted ? wanted->col[COL_CLAIMED][i] : 0;

        if (!view_uses_cell(v, i) && !wants) {
            continue;
        }
        if (used < nr) {
            struct ballast_own *c = &cells[used];

            memset(c, 0, sizeof(*c));
            cell_name(geo, i, &c->node, &c->page_bytes);
            c->claimed_bytes = v->col[COL_CLAIMED][i];
            c->resident_bytes = v->col[COL_RESIDENT][i];
            c->freeable_bytes = v->col[COL_FREEABLE][i];
            c->outstanding_bytes = v->outstanding[i];
            c->wanted_bytes = wants;
        }
        used++;
    }
    return used;
}

int ballast_own(struct ballast_ledger *ledger, struct ballast_own *cells,
                size_t nr)
{
    struct file_slot *s;
    struct view v, wanted;
    bool waits = false;
    int err;

    if (ledger->remote) {
        return remote_own(ledger, cells, nr);
    }
    err = ledger_lock(ledger);
    if (err) {
        return err;
    }
    s = slot_own(ledger, &err, NULL);
    if (s) {
        slot_view(ledger, s, &v);
        waits = queue_waits(s);
        if (waits) {
            queue_wanted(ledger, s, &v, &wanted);
        }
    }
    ledger_unlock(ledger);
    if (s) {
        err = (int)own_cells(&ledger->geo, &v, waits ? &wanted : NULL, cells,
                             nr);
    }
    return ledger_verdict(ledger, err, NULL);
}

void ballast_geometry(const struct ballast_ledger *ledger,
                      struct ballast_geometry *out)
{
    memset(out, 0, sizeof(*out));
    out->nr_nodes = ledger->geo.nr_nodes;
    out->nr_classes = ledger->geo.nr_classes;
    memcpy(out->node_id, ledger->geo.node_id, sizeof(out->node_id));
    memcpy(out->page_bytes, ledger->geo.page_bytes, sizeof(out->page_bytes));
}

/* Slots in use, one after another, with their numbers. */
struct copies {
    uint32_t nr;
    uint32_t *slot;
    uint8_t *bytes;
};

static void copies_free(struct copies *c)
{
    free(c->slot);
    free(c->bytes);
}

/* Touched before the mutex is taken: a page fault under it can take long. */
static int copies_room(const struct ballast_ledger *l, uint32_t room,
                       struct copies *c)
{
    size_t bytes = (size_t)room * l->geo.slot_bytes;

    c->nr = 0;
    c->slot = malloc(room * sizeof(*c->slot) + 1);
    c->bytes = malloc(bytes + 1);
    if (!c->slot || !c->bytes) {
        copies_free(c);
        return -ENOMEM;
    }
    memset(c->slot, 0xff, room * sizeof(*c->slot));
    memset(c->bytes, 0xff, bytes);
    return 0;
}

static void copy_slots(struct ballast_ledger *l, uint32_t high,
                       struct copies *c)
{
    uint32_t nr;

    for (nr = 0; nr < high; nr++) {
        const struct file_slot *s = slot_at(l, nr);

        if (slot_in_use(s)) {
            memcpy(c->bytes + (size_t)c->nr * l->geo.slot_bytes, s,
                   l->geo.slot_bytes);
            c->slot[c->nr++] = nr;
        }
    }
}

static int copies_take(struct ballast_ledger *l, struct copies *c)
{
    uint32_t room, high;
    int err;

    for (;;) {
        room = slots_high(l) + 16;
        err = copies_room(l, room, c);
        if (err) {
            return err;
        }
        err = ledger_lock(l);
        if (err) {
            copies_free(c);
            return err;
        }
        high = slots_high(l);
        if (high <= room) {
            copy_slots(l, high, c);
            ledger_unlock(l);
            return 0;
        }
        ledger_unlock(l);
        copies_free(c);
    }
}

static const struct file_slot *copy_at(const struct ballast_ledger *l,
                                       const struct copies *c, uint32_t i)
{
    return (const struct file_slot *)(const void *)
           (c->bytes + (size_t)i * l->geo.slot_bytes);
}

static uint64_t waited_ms(const struct file_slot *s)
{
    uint64_t now = host_now_ns();

    return now < s->wait_since_ns ? 0 : (now - s->wait_since_ns) / 1000000;
}

static int fill_participant(struct ballast_ledger *l,
                            const struct file_slot *s, uint32_t nr,
                            const struct view *v, const struct view *wanted,
                            struct ballast_participant *p)
{
    slot_name(s, p->name);
    p->state = s->state == SLOT_DYING ? BALLAST_STATE_DYING :
               s->flags & SLOT_STANDING ? BALLAST_STANDING : BALLAST_RUNNING;
    p->pid = s->pid > 0 ? s->pid : 0;
    p->uid = s->uid;
    p->slot = nr;
    p->serial = s->serial;
    p->max_bytes = s->max_bytes;
    p->served = s->flags & SLOT_SERVED;
    p->waited_ms = wanted ? waited_ms(s) : 0;
    p->nr_cells = own_cells(&l->geo, v, wanted, NULL, 0);
    p->cells = calloc(p->nr_cells + 1, sizeof(*p->cells));
    if (!p->cells) {
        p->nr_cells = 0;
        return -ENOMEM;
    }
    own_cells(&l->geo, v, wanted, p->cells, p->nr_cells);
    return 0;
}

static void add_to_cells(const struct geometry *geo, const struct view *v,
                         struct ballast_cell *cells)
{
    uint32_t any = geo->nr_nodes * geo->nr_classes;
    uint32_t i, k;

    for (i = 0; i < geo->nr_cells; i++) {
        for (k = 0; k < 2; k++) {
            struct ballast_cell *c;

            /* A node's bytes count for the node and for the host. */
            if (k == 0 && i >= any) {
                continue;
            }
            c = &cells[k == 0 ? i : any + i % geo->nr_classes];
            c->claimed_bytes += v->col[COL_CLAIMED][i];
            c->resident_bytes += v->col[COL_RESIDENT][i];
            c->freeable_bytes += v->col[COL_FREEABLE][i];
            c->outstanding_bytes += v->outstanding[i];
        }
    }
}

/* By how much somebody who waits wants to grow. */
static void add_wanted(const struct geometry *geo, const struct view *v,
                       const struct view *wanted, struct ballast_cell *cells)
{
    uint32_t any = geo->nr_nodes * geo->nr_classes;
    uint32_t i;

    for (i = 0; i < geo->nr_cells; i++) {
        uint64_t more = wanted->outstanding[i] > v->outstanding[i] ?
                        wanted->outstanding[i] - v->outstanding[i] : 0;

        if (i < any) {
            cells[i].wanted_bytes += more;
        }
        cells[any + i % geo->nr_classes].wanted_bytes += more;
    }
}

static void add_known(uint64_t *sum, uint64_t bytes)
{
    if (*sum == UINT64_MAX || bytes == UINT64_MAX) {
        *sum = UINT64_MAX;
    } else {
        *sum += bytes;
    }
}

static void init_cells(struct ballast_ledger *l, const struct sample *sample,
                       struct ballast_cell *cells)
{
    const struct geometry *geo = &l->geo;
    uint32_t any = geo->nr_nodes * geo->nr_classes;
    uint32_t i;

    for (i = 0; i < geo->nr_cells; i++) {
        struct ballast_cell *c = &cells[i];
        struct ballast_cell *host = &cells[any + i % geo->nr_classes];

        cell_name(geo, i, &c->node, &c->page_bytes);
        c->overcommit_percent = 100;
        if (i < any) {
            c->overcommit_percent = i % geo->nr_classes ? 100 :
                                    geo->overcommit_percent[i /
                                                            geo->nr_classes];
            c->backed_bytes = l->backed[i];
            c->capacity_bytes = l->promisable[i];
            host->backed_bytes += c->backed_bytes;
            c->kernel_free_bytes = sample->free_bytes[i];
            host->capacity_bytes += c->capacity_bytes;
            add_known(&host->kernel_free_bytes, c->kernel_free_bytes);
        }
    }
}

static void derive_cells(const struct geometry *geo,
                         struct ballast_cell *cells)
{
    uint32_t i;

    for (i = 0; i < geo->nr_cells; i++) {
        struct ballast_cell *c = &cells[i];
        uint64_t reserved = c->resident_bytes + c->outstanding_bytes;

        c->free_bytes = (int64_t)(c->capacity_bytes - reserved);
        c->owned_bytes = reserved - c->freeable_bytes;
        if (c->outstanding_bytes > c->kernel_free_bytes) {
            c->broken_bytes = c->outstanding_bytes - c->kernel_free_bytes;
        }
    }
}

struct place {
    uint64_t ticket;
    uint32_t participant;
};

static int compare_tickets(const void *a, const void *b)
{
    const struct place *x = a, *y = b;

    return x->ticket < y->ticket ? -1 : x->ticket > y->ticket;
}

/* @line has room for all copies: those who wait, first come first. */
static void fill_places(const struct ballast_ledger *l,
                        const struct copies *c, struct place *line,
                        struct ballast_status *st)
{
    uint32_t i;

    for (i = 0; i < c->nr; i++) {
        const struct file_slot *s = copy_at(l, c, i);

        if (queue_waits(s)) {
            line[st->nr_waiting].ticket = s->wait_ticket;
            line[st->nr_waiting++].participant = i;
        }
    }
    qsort(line, st->nr_waiting, sizeof(line[0]), compare_tickets);
    for (i = 0; i < st->nr_waiting; i++) {
        st->participants[line[i].participant].queue_place = i + 1;
    }
}

static int fill(struct ballast_ledger *l, const struct copies *c,
                struct ballast_status *st)
{
    struct place *line;
    struct view v, wanted;
    uint32_t i;
    int err;

    for (i = 0; i < c->nr; i++) {
        const struct file_slot *s = copy_at(l, c, i);

        slot_view(l, s, &v);
        add_to_cells(&l->geo, &v, st->cells);
        if (queue_waits(s)) {
            queue_wanted(l, s, &v, &wanted);
            add_wanted(&l->geo, &v, &wanted, st->cells);
        }
        err = fill_participant(l, s, c->slot[i], &v,
                               queue_waits(s) ? &wanted : NULL,
                               &st->participants[i]);
        st->nr_participants++;
        if (err) {
            return err;
        }
    }
    line = calloc(c->nr + 1, sizeof(*line));
    if (!line) {
        return -ENOMEM;
    }
    fill_places(l, c, line, st);
    free(line);
    derive_cells(&l->geo, st->cells);
    return 0;
}

static struct ballast_status *status_new(const struct ballast_ledger *l,
                                         uint32_t participants)
{
    struct ballast_status *st = calloc(1, sizeof(*st));

    if (!st) {
        return NULL;
    }
    st->admission = l->geo.admission;
    st->count_cache_percent = l->geo.count_cache_percent;
    st->nr_slots = l->geo.nr_slots;
    st->nr_nodes = l->geo.nr_nodes;
    st->nr_classes = l->geo.nr_classes;
    st->nr_cells = l->geo.nr_cells;
    st->cells = calloc(st->nr_cells, sizeof(*st->cells));
    st->participants = calloc(participants + 1, sizeof(*st->participants));
    if (!st->cells || !st->participants) {
        ballast_status_free(st);
        return NULL;
    }
    return st;
}

int ballast_status_get(struct ballast_ledger *ledger,
                       struct ballast_status **out)
{
    struct ballast_status *st;
    struct sample sample;
    struct copies c;
    int err;

    if (ledger->remote) {
        return remote_status_get(ledger, out);
    }
    sweep_some(ledger, SWEEP_BUDGET_NS);
    sample_take_all(ledger, &sample);
    err = copies_take(ledger, &c);
    if (err) {
        return err;
    }
    st = status_new(ledger, c.nr);
    if (st) {
        init_cells(ledger, &sample, st->cells);
        err = fill(ledger, &c, st);
    } else {
        err = -ENOMEM;
    }
    copies_free(&c);
    if (err) {
        ballast_status_free(st);
        return err;
    }
    err = ledger_verdict(ledger, 0, NULL);
    if (err) {
        ballast_status_free(st);
        return err;
    }
    *out = st;
    return 0;
}

void ballast_status_free(struct ballast_status *status)
{
    size_t i;

    if (!status) {
        return;
    }
    for (i = 0; i < status->nr_participants; i++) {
        free(status->participants[i].cells);
    }
    free(status->participants);
    free(status->cells);
    free(status);
}
