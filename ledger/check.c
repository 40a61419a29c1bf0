/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Does the file contradict itself, and would every promise be kept?
 *
 * Facts are collected under the mutex and reported after it is dropped.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "internal.h"

struct checker {
    struct ballast_ledger *l;
    ballast_finding *report;
    void *opaque;
    int bad;
};

static void found(struct checker *c, enum ballast_severity severity,
                  const char *format, ...)
    __attribute__((format(printf, 3, 4)));

static void found(struct checker *c, enum ballast_severity severity,
                  const char *format, ...)
{
    char text[512];
    va_list args;

    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    c->bad += severity > BALLAST_NOTE;
    if (c->report) {
        c->report(c->opaque, severity, text);
    }
}

/* One slot's contradictions; the mutex keeps its values from changing. */
struct slot_facts {
    bool bad_state;
    bool bad_flags;
    bool bad_bytes;
    bool bad_name;
    bool bad_serial;
};

static bool bytes_are_bad(const struct ballast_ledger *l,
                          const struct file_slot *s)
{
    uint32_t nr = l->geo.nr_cells;
    uint32_t any = l->geo.nr_nodes * l->geo.nr_classes;
    const uint64_t *copy = s->cells +
                           (size_t)(s->seq & 1) * NR_COLUMNS * nr;
    uint32_t i;

    for (i = 0; i < nr; i++) {
        if (copy[COL_CLAIMED * nr + i] > BALLAST_MAX_BYTES ||
            copy[COL_RESIDENT * nr + i] > (i < any ? BALLAST_MAX_BYTES : 0) ||
            copy[COL_FREEABLE * nr + i] > copy[COL_RESIDENT * nr + i]) {
            return true;
        }
    }
    return false;
}

static void look_at_slot(const struct ballast_ledger *l, uint32_t nr,
                         uint32_t high, struct slot_facts *f)
{
    const struct file_slot *s = slot_at(l, nr);
    char name[BALLAST_NAME_BYTES];

    memset(f, 0, sizeof(*f));
    if (s->state == SLOT_FREE) {
        return;
    }
    memcpy(name, s->name, sizeof(name));
    f->bad_state = s->state > SLOT_DYING || nr >= high;
    f->bad_flags = s->flags & ~SLOT_FLAGS;
    f->bad_bytes = bytes_are_bad(l, s);
    f->bad_name = memchr(name, '\0', sizeof(name)) == NULL ||
                  slot_check_name(name, NULL);
    f->bad_serial = !s->serial || s->serial > get64(&l->header->next_serial);
}

static void report_slot(struct checker *c, uint32_t nr,
                        const struct slot_facts *f)
{
    const struct {
        bool bad;
        const char *what;
    } facts[] = {
        { f->bad_state, "is in no state that exists" },
        { f->bad_flags, "has flags that do not exist" },
        { f->bad_bytes, "holds amounts that cannot be" },
        { f->bad_name, "has a name that is not allowed" },
        { f->bad_serial, "has a serial number that was never given" },
    };
    size_t i;

    for (i = 0; i < sizeof(facts) / sizeof(facts[0]); i++) {
        if (facts[i].bad) {
            found(c, BALLAST_DAMAGE, "slot %" PRIu32 " %s", nr, facts[i].what);
        }
    }
}

/* All slots, also those that were never used: they must be free. */
static int check_slots(struct checker *c)
{
    struct ballast_ledger *l = c->l;
    struct slot_facts facts;
    uint32_t nr, high;
    int err;

    for (nr = 0; nr < l->geo.nr_slots; nr++) {
        if (get32(&slot_at(l, nr)->state) == SLOT_FREE) {
            continue;
        }
        err = ledger_lock(l);
        if (err) {
            return err;
        }
        high = slots_high(l);
        look_at_slot(l, nr, high, &facts);
        ledger_unlock(l);
        report_slot(c, nr, &facts);
    }
    return 0;
}

static bool totals_agree(const struct total_cell *a,
                         const struct total_cell *b)
{
    return a->claimed_bytes == b->claimed_bytes &&
           a->resident_bytes == b->resident_bytes &&
           a->freeable_bytes == b->freeable_bytes &&
           a->outstanding_bytes == b->outstanding_bytes;
}

static int check_totals(struct checker *c, unsigned flags)
{
    struct ballast_ledger *l = c->l;
    struct total_cell sums[MAX_CELLS];
    uint32_t i, wrong = 0;
    int err = ledger_lock(l);

    if (err) {
        return err;
    }
    ledger_recompute(l, sums);
    for (i = 0; i < l->geo.nr_cells; i++) {
        wrong += !totals_agree(&l->totals[i], &sums[i]);
    }
    if (wrong && (flags & BALLAST_CHECK_REPAIR)) {
        ledger_recover(l);
    }
    ledger_unlock(l);
    if (wrong) {
        found(c, BALLAST_DAMAGE, "the totals of %" PRIu32 " cells do not agree "
              "with the slots%s", wrong, flags & BALLAST_CHECK_REPAIR ?
              "; recomputed" : "");
    }
    return 0;
}

static int check_header(struct checker *c)
{
    struct file_header h;
    struct geometry geo;

    memset(&h, 0, sizeof(h));
    memcpy(&h, c->l->header, offsetof(struct file_header, boot_id));
    h.slots_high = get32(&c->l->header->slots_high);
    if (file_geometry(&h, c->l->geo.file_bytes, &geo, NULL) ||
        memcmp(&geo, &c->l->geo, sizeof(geo)) != 0) {
        found(c, BALLAST_DAMAGE, "the header has changed since it was opened");
    }
    if (file_capacity_sum(c->l->capacity, c->l->geo.nr_cells) !=
        h.capacity_sum) {
        found(c, BALLAST_DAMAGE, "the capacities have changed");
    }
    if (h.slots_high > c->l->geo.nr_slots) {
        found(c, BALLAST_DAMAGE, "the header counts more slots than exist");
    }
    return 0;
}

/*
 * Under static admission, and as far as a node is overcommitted, the operator
 * has asked not to be held to it.
 */
static enum ballast_severity broken_severity(const struct checker *c,
                                             const struct ballast_cell *cell)
{
    uint64_t over = cell->capacity_bytes > cell->backed_bytes ?
                    cell->capacity_bytes - cell->backed_bytes : 0;

    return c->l->geo.admission == BALLAST_ADMIT_STATIC ||
           cell->broken_bytes <= over ? BALLAST_NOTE : BALLAST_WARNING;
}

static void check_cell(struct checker *c, const struct ballast_cell *cell)
{
    char where[64], size[64], bytes[64];

    ballast_format_bytes(cell->page_bytes, size, sizeof(size));
    if (cell->node == BALLAST_NODE_ANY) {
        snprintf(where, sizeof(where), "the host");
    } else {
        snprintf(where, sizeof(where), "node %" PRIu32, cell->node);
    }
    if (cell->free_bytes < 0) {
        ballast_format_bytes(0 - (uint64_t)cell->free_bytes, bytes,
                             sizeof(bytes));
        found(c, BALLAST_WARNING, "%s, pages of %s: %s more reserved than the "
              "capacity", where, size, bytes);
    }
    if (cell->broken_bytes && cell->kernel_free_bytes != UINT64_MAX) {
        ballast_format_bytes(cell->broken_bytes, bytes, sizeof(bytes));
        found(c, broken_severity(c, cell), "%s, pages of %s: %s promised that the "
              "kernel does not have free", where, size, bytes);
    }
}

static int check_promises(struct checker *c)
{
    struct ballast_status *st;
    size_t i;
    int err = ballast_status_get(c->l, &st);

    if (err) {
        return err;
    }
    for (i = 0; i < st->nr_cells; i++) {
        check_cell(c, &st->cells[i]);
    }
    for (i = 0; i < st->nr_participants; i++) {
        const struct ballast_participant *p = &st->participants[i];

        if (p->state == BALLAST_STATE_DYING) {
            found(c, BALLAST_NOTE, "slot %" PRIu32 ", %s (pid %" PRId32
                  "), is dying", p->slot, p->name, p->pid);
        }
    }
    ballast_status_free(st);
    return 0;
}

/* Not of the file, but of where it is. */
static int check_name(struct checker *c)
{
    __atomic_store_n(&c->l->looked_ns, 0, __ATOMIC_RELAXED);
    if (guard_unlinked(c->l)) {
        found(c, BALLAST_WARNING, "the file was removed: nobody can join it, "
              "and a new ledger of that name does not know its promises");
    }
    return 0;
}

int ballast_check(struct ballast_ledger *ledger, unsigned flags,
                  ballast_finding *report, void *opaque)
{
    struct checker c = { .l = ledger, .report = report, .opaque = opaque };
    int err;

    if (ledger->remote) {
        return remote_check(ledger, flags, report, opaque);
    }
    guard_thread();
    err = check_name(&c);
    if (!err) {
        err = check_header(&c);
    }
    if (!err) {
        err = check_slots(&c);
    }
    if (!err) {
        err = check_totals(&c, flags);
    }
    if (!err) {
        err = check_promises(&c);
    }
    return ledger_verdict(ledger, err ? err : c.bad, NULL);
}
