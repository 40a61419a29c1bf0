/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Does the file contradict itself, and would every promise be kept?
 *
 * Everything that has a meaning is compared with something else: with what
 * was copied at open, with its range, with the sum of other things, with the
 * locks of the file.  docs/design/ledger-format.md lists what has none.
 *
 * A repair never takes memory away from who holds it: amounts are cut to what
 * is possible, what has no owner is let go, and the rest is counted again.
 *
 * Crash story: each repair is one store.  Whoever dies between two of them
 * leaves the mutex, so the totals are counted again, and the next check finds
 * the rest.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "check.h"

static void tell(struct checker *c, enum ballast_severity severity,
                 const char *text)
{
    c->bad += severity > BALLAST_NOTE;
    if (c->report) {
        c->report(c->opaque, severity, text);
    }
}

static void tell_all(struct checker *c)
{
    char text[64];
    uint32_t i;

    for (i = 0; i < c->nr; i++) {
        tell(c, c->findings[i].severity, c->findings[i].text);
    }
    if (c->untold) {
        snprintf(text, sizeof(text), "and %" PRIu32 " more", c->untold);
        tell(c, BALLAST_DAMAGE, text);
    }
    c->nr = c->untold = 0;
}

static struct finding *next_finding(struct checker *c,
                                    enum ballast_severity severity)
{
    if (c->nr == MAX_FINDINGS) {
        c->untold++;
        return NULL;
    }
    c->findings[c->nr].severity = severity;
    return &c->findings[c->nr++];
}

void found(struct checker *c, enum ballast_severity severity,
           const char *format, ...)
{
    struct finding *f = next_finding(c, severity);
    va_list args;

    if (f) {
        va_start(args, format);
        vsnprintf(f->text, sizeof(f->text), format, args);
        va_end(args);
    }
}

__attribute__((format(printf, 4, 0)))
static void found_wrong(struct checker *c, uint64_t is, uint64_t right,
                        const char *format, va_list args)
{
    struct finding *f = next_finding(c, BALLAST_DAMAGE);
    int n;

    c->changed = true;
    if (!f) {
        return;
    }
    n = vsnprintf(f->text, sizeof(f->text), format, args);
    if (n > 0 && (size_t)n < sizeof(f->text)) {
        snprintf(f->text + n, sizeof(f->text) - (size_t)n,
                 ": %" PRIu64 "%s %" PRIu64, is,
                 c->repair ? ", is now" : ", should be", right);
    }
}

/* Whether the right number is to be stored. */
__attribute__((format(printf, 4, 0)))
static bool to_fix(struct checker *c, uint64_t is, uint64_t right,
                   const char *format, va_list args)
{
    if (is != right) {
        found_wrong(c, is, right, format, args);
    }
    return is != right && c->repair;
}

void fix64(struct checker *c, uint64_t *where, uint64_t right,
           const char *format, ...)
{
    va_list args;

    va_start(args, format);
    if (to_fix(c, get64(where), right, format, args)) {
        put64(where, right);
    }
    va_end(args);
}

void fix32(struct checker *c, uint32_t *where, uint32_t right,
           const char *format, ...)
{
    va_list args;

    va_start(args, format);
    if (to_fix(c, get32(where), right, format, args)) {
        put32(where, right);
    }
    va_end(args);
}

/* @bytes is a multiple of four: room that may get a meaning one day. */
void check_zero(struct checker *c, void *from, size_t bytes,
                const char *format, ...)
{
    uint32_t *word = from;
    va_list args;
    size_t i;

    for (i = 0; i < bytes / 4; i++) {
        va_start(args, format);
        if (to_fix(c, get32(&word[i]), 0, format, args)) {
            put32(&word[i], 0);
        }
        va_end(args);
    }
}

/* Under a ledger that is in use nothing of this changes. */
static void check_static(struct checker *c)
{
    struct ballast_ledger *l = c->l;
    uint32_t i;

    for (i = 0; i < sizeof(l->fixed) / 8; i++) {
        fix64(c, (uint64_t *)(void *)l->header + i, l->fixed[i],
              "header, byte %" PRIu32 ", has changed since it was opened",
              i * 8);
    }
    for (i = 0; i < l->geo.nr_cells; i++) {
        fix64(c, &l->capacity[i], l->backed[i], "capacity of cell %" PRIu32, i);
    }
}

static void check_rooms(struct checker *c)
{
    struct ballast_ledger *l = c->l;
    struct geometry *geo = &l->geo;
    struct file_header *h = l->header;
    uint8_t *base = (uint8_t *)h;
    uint64_t end;
    uint32_t i;

    check_zero(c, h->zero1, sizeof(h->zero1), "header, unused");
    check_zero(c, &h->zero2, sizeof(h->zero2), "header, unused");
    check_zero(c, &h->zero3, sizeof(h->zero3), "header, unused");
    check_zero(c, h + 1, FILE_HEADER_BYTES - sizeof(*h), "header, unused");
    end = geo->capacity_offset + geo->nr_cells * sizeof(uint64_t);
    check_zero(c, base + end, geo->totals_offset - end, "behind capacities");
    for (i = 0; i < geo->nr_cells; i++) {
        check_zero(c, l->totals[i].zero, sizeof(l->totals[i].zero),
                   "totals of cell %" PRIu32 ", unused", i);
    }
    end = geo->totals_offset + geo->nr_cells * sizeof(struct total_cell);
    check_zero(c, base + end, geo->slots_offset - end, "behind totals");
}

static void check_boot_id(struct checker *c)
{
    struct file_header *h = c->l->header;
    uint8_t now[16];

    file_boot_id(now);
    if (memcmp(h->boot_id, now, sizeof(now))) {
        found(c, BALLAST_DAMAGE, "the boot id is not this boot's%s",
              c->repair ? "; written anew" : "");
        if (c->repair) {
            put_words(h->boot_id, now, sizeof(now));
        }
    }
}

/* With the mutex held, after the slots were looked at. */
static void check_totals(struct checker *c)
{
    struct ballast_ledger *l = c->l;
    struct total_cell sums[MAX_CELLS];
    uint32_t i, waiters = ledger_recompute(l, sums);

    fix32(c, &l->header->nr_waiters, waiters, "number of those who wait");
    for (i = 0; i < l->geo.nr_cells; i++) {
        fix64(c, &l->totals[i].claimed_bytes, sums[i].claimed_bytes,
              "claimed in cell %" PRIu32, i);
        fix64(c, &l->totals[i].resident_bytes, sums[i].resident_bytes,
              "resident in cell %" PRIu32, i);
        fix64(c, &l->totals[i].freeable_bytes, sums[i].freeable_bytes,
              "freeable in cell %" PRIu32, i);
        fix64(c, &l->totals[i].outstanding_bytes, sums[i].outstanding_bytes,
              "outstanding in cell %" PRIu32, i);
    }
    if (c->repair && c->changed) {
        ledger_recover(l);
    }
}

/*
 * The mutex itself, before it is taken: one of another kind is not robust, and
 * one whose owner never was is locked for ever.
 */
static int check_mutex(struct checker *c)
{
    struct ballast_ledger *l = c->l;
    bool kind = file_mutex_looks_right(&l->header->mutex) &&
                !file_mutex_is_lost(&l->header->mutex), held;
    int err;

    held = kind && file_mutex_is_orphan(&l->header->mutex);
    if (kind && !held) {
        return 0;
    }
    found(c, BALLAST_DAMAGE, "the lock %s%s", kind ?
          "is held by a thread that does not exist" :
          "is of no known kind, or given up for good",
          c->repair ? "; made anew" : "");
    tell_all(c);
    if (!c->repair) {
        return -ENOTRECOVERABLE;
    }
    err = file_lock_open(l->fd);
    if (!err) {
        err = file_put_mutex(l->header);
        file_unlock_open(l->fd);
    }
    c->changed = true;
    return err;
}

/* The word beside the mutex, as far as the file is whole. */
static int check_alive(struct checker *c)
{
    struct ballast_ledger *l = c->l;
    uint64_t alive = get64(&l->header->alive);
    struct stat st;

    if (alive == FILE_ALIVE) {
        return 0;
    }
    if (fstat(l->fd, &st) || (uint64_t)st.st_size < l->geo.file_bytes ||
        memcmp(l->header, l->fixed, sizeof(l->fixed))) {
        return -EBADMSG;
    }
    fix64(c, &l->header->alive, FILE_ALIVE, "marked as cut short, though all "
          "of it is there");
    tell_all(c);
    return c->repair ? 0 : -EBADMSG;
}

static int check_inside(struct checker *c)
{
    int err = check_alive(c);

    if (!err) {
        err = check_mutex(c);
    }
    if (!err) {
        err = ledger_lock(c->l);
    }
    if (err) {
        return err;
    }
    check_static(c);
    check_rooms(c);
    check_boot_id(c);
    check_slots(c);
    check_totals(c);
    ledger_unlock(c->l);
    tell_all(c);
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
        found(c, broken_severity(c, cell), "%s, pages of %s: %s promised that "
              "the kernel does not have free", where, size, bytes);
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
    tell_all(c);
    return 0;
}

/* Not of the file, but of where it is. */
static void check_name(struct checker *c)
{
    __atomic_store_n(&c->l->looked_ns, 0, __ATOMIC_RELAXED);
    if (guard_unlinked(c->l)) {
        tell(c, BALLAST_WARNING, "the file was removed: nobody can join it, "
             "and a new ledger of that name does not know its promises");
    }
}

int ballast_check(struct ballast_ledger *ledger, unsigned flags,
                  ballast_finding *report, void *opaque)
{
    struct checker c = { .l = ledger, .report = report, .opaque = opaque,
                         .repair = flags & BALLAST_CHECK_REPAIR };
    int err;

    if (ledger->remote) {
        return remote_check(ledger, flags, report, opaque);
    }
    c.findings = calloc(MAX_FINDINGS, sizeof(*c.findings));
    if (!c.findings) {
        return -ENOMEM;
    }
    guard_thread();
    check_name(&c);
    err = check_inside(&c);
    if (!err) {
        ballast_sweep(ledger);
        err = check_promises(&c);
    }
    free(c.findings);
    return ledger_verdict(ledger, err ? err : c.bad, NULL);
}
