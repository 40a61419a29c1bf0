/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Whether a participant may go from one set of claims to another.
 *
 * Rules, per page size: a cell is only looked at where its reserved (or, for
 * the kernel's side, its outstanding) bytes rise, so equal or smaller claims
 * never fail.  Host-wide claims need room in the sum of what the nodes have
 * left; node claims need room on their node, and must leave room for the
 * host-wide claims of everybody.
 *
 * The kernel's free memory was sampled before the mutex was taken.  Bytes
 * that have stopped being outstanding since may have become resident after
 * the sample, so they are taken off it: an old sample can refuse too much,
 * never grant too much.  A refusal by an old sample is tried again.  What
 * overcommit adds to a node's capacity is added to its free memory too.
 */
#include <string.h>

#include "internal.h"

struct shortage {
    enum ballast_reason reason;
    uint64_t missing;
    uint64_t available;
    uint64_t limit;
    uint32_t cell;
};

static uint64_t reserved(const struct view *v, uint32_t i)
{
    return v->outstanding[i] + v->col[COL_RESIDENT][i];
}

static uint64_t rise(uint64_t from, uint64_t to)
{
    return to > from ? to - from : 0;
}

static bool too_little(struct shortage *s, enum ballast_reason reason,
                       uint32_t cell, uint64_t extra, int64_t room)
{
    uint64_t have = room > 0 ? (uint64_t)room : 0;

    if (!extra || (int64_t)extra <= room) {
        return false;
    }
    s->reason = reason;
    s->cell = cell;
    s->available = have;
    s->missing = extra - (uint64_t)room;
    return true;
}

/* What a class takes on the whole host before and after. */
struct sums {
    uint64_t reserved_from, reserved_to;
    uint64_t outstanding_from, outstanding_to;
};

static void class_sums(const struct geometry *geo, const struct view *from,
                       const struct view *to, uint32_t class, struct sums *s)
{
    uint32_t i;

    *s = (struct sums){ 0 };
    for (i = class; i < geo->nr_cells; i += geo->nr_classes) {
        s->reserved_from += reserved(from, i);
        s->reserved_to += reserved(to, i);
        s->outstanding_from += from->outstanding[i];
        s->outstanding_to += to->outstanding[i];
    }
}

static bool short_capacity(const struct ballast_ledger *l,
                           const struct view *from, const struct view *to,
                           uint32_t class, struct shortage *s)
{
    uint32_t any = l->geo.nr_nodes * l->geo.nr_classes + class;
    struct sums sums;
    uint64_t extra;
    uint32_t i;

    for (i = class; i < any; i += l->geo.nr_classes) {
        extra = rise(reserved(from, i), reserved(to, i));
        if (extra && too_little(s, BALLAST_SHORT_NODE, i, extra,
                                cell_free(l, i))) {
            s->limit = l->promisable[i];
            return true;
        }
    }
    class_sums(&l->geo, from, to, class, &sums);
    extra = rise(sums.reserved_from, sums.reserved_to);
    if (too_little(s, BALLAST_SHORT_HOST, any, extra,
                   (int64_t)host_room(l, class))) {
        s->limit = host_capacity(l, class);
        return true;
    }
    return false;
}

/*
 * Drawn since the sample, on any node: a page on one node may have redeemed
 * a claim on another, and we cannot tell.
 */
static uint64_t drawn_since(const struct ballast_ledger *l,
                            const struct sample *sample, uint32_t class)
{
    uint64_t sum = 0;
    uint32_t i;

    for (i = class; i < l->geo.nr_cells; i += l->geo.nr_classes) {
        sum += clamp_bytes(get64(&l->totals[i].drawn_bytes) -
                           sample->drawn_bytes[i]);
    }
    return sum;
}

/* A kernel that does not say how much is free has nothing to give. */
static uint64_t sampled(const struct sample *sample, uint32_t i)
{
    uint64_t bytes = sample->free_bytes[i];

    return bytes == UINT64_MAX ? 0 : clamp_bytes(bytes);
}

/* Free to the kernel on a node, or overcommitted, and promised to nobody. */
static int64_t kernel_room(const struct ballast_ledger *l,
                           const struct sample *sample, uint32_t i,
                           uint64_t drawn)
{
    return (int64_t)(sampled(sample, i) + l->promisable[i] - l->backed[i] -
                     drawn - get64(&l->totals[i].outstanding_bytes));
}

static int64_t kernel_host_room(const struct ballast_ledger *l,
                                const struct sample *sample, uint32_t class,
                                uint64_t *limit)
{
    uint32_t any = l->geo.nr_nodes * l->geo.nr_classes + class;
    uint64_t drawn = drawn_since(l, sample, class);
    uint64_t room = 0;
    int64_t bytes;
    uint32_t i;

    *limit = 0;
    for (i = class; i < any; i += l->geo.nr_classes) {
        bytes = kernel_room(l, sample, i, drawn);
        room += bytes > 0 ? (uint64_t)bytes : 0;
        *limit += sampled(sample, i);
    }
    return (int64_t)(room - get64(&l->totals[any].outstanding_bytes));
}

/* Whether there are claims on no node in particular, see needed_cells(). */
static bool whole_host(const struct ballast_ledger *l, const struct view *to,
                       uint32_t class)
{
    uint32_t any = l->geo.nr_nodes * l->geo.nr_classes + class;

    return get64(&l->totals[any].outstanding_bytes) || to->outstanding[any];
}

static bool short_kernel(const struct ballast_ledger *l,
                         const struct view *from, const struct view *to,
                         uint32_t class, const struct sample *sample,
                         struct shortage *s)
{
    uint32_t any = l->geo.nr_nodes * l->geo.nr_classes + class;
    struct sums sums;
    uint64_t drawn = drawn_since(l, sample, class);
    uint64_t extra, limit;
    uint32_t i;

    for (i = class; i < any; i += l->geo.nr_classes) {
        extra = rise(from->outstanding[i], to->outstanding[i]);
        if (extra && too_little(s, BALLAST_SHORT_KERNEL, i, extra,
                                kernel_room(l, sample, i, drawn))) {
            s->limit = sampled(sample, i);
            return true;
        }
    }
    class_sums(&l->geo, from, to, class, &sums);
    extra = rise(sums.outstanding_from, sums.outstanding_to);
    if (extra && whole_host(l, to, class) &&
        too_little(s, BALLAST_SHORT_KERNEL, any, extra,
                            kernel_host_room(l, sample, class, &limit))) {
        s->limit = limit;
        return true;
    }
    return false;
}

static bool sample_is_old(const struct ballast_ledger *l,
                          const struct sample *sample)
{
    uint32_t i;

    if (get64(&l->header->epoch) != sample->epoch) {
        return true;
    }
    for (i = 0; i < l->geo.nr_cells; i++) {
        if (get64(&l->totals[i].drawn_bytes) != sample->drawn_bytes[i]) {
            return true;
        }
    }
    return false;
}

static bool outstanding_rises(const struct geometry *geo,
                              const struct view *from, const struct view *to)
{
    uint32_t i;

    for (i = 0; i < geo->nr_cells; i++) {
        if (to->outstanding[i] > from->outstanding[i]) {
            return true;
        }
    }
    return false;
}

static uint64_t class_claimed(const struct geometry *geo,
                              const struct view *v, uint32_t class)
{
    uint64_t sum = 0;
    uint32_t i;

    for (i = class; i < geo->nr_cells; i += geo->nr_classes) {
        sum += v->col[COL_CLAIMED][i];
    }
    return sum;
}

/*
 * Whose free memory decides.  The whole host's does, if a claim on no node in
 * particular grows or there are such claims; else, where every node has room
 * for what it gets, so has the host.
 */
static void needed_cells(const struct ballast_ledger *l,
                         const struct view *from, const struct view *to,
                         uint64_t need[CELL_WORDS])
{
    const struct geometry *geo = &l->geo;
    uint32_t any = geo->nr_nodes * geo->nr_classes, class, i;

    memset(need, 0, CELL_WORDS * sizeof(*need));
    for (class = 0; class < geo->nr_classes; class++) {
        bool host = whole_host(l, to, class), some = false;

        for (i = class; i < geo->nr_cells; i += geo->nr_classes) {
            if (to->outstanding[i] > from->outstanding[i]) {
                cell_set(need, i);
                some = true;
            }
        }
        for (i = class; host && some && i < any; i += geo->nr_classes) {
            cell_set(need, i);
        }
    }
}

static bool sample_covers(const struct sample *sample,
                          const uint64_t need[CELL_WORDS])
{
    uint32_t i;

    for (i = 0; i < CELL_WORDS; i++) {
        if (need[i] & ~sample->have[i]) {
            return false;
        }
    }
    return true;
}

static int refuse_short(const struct ballast_ledger *l, const struct view *to,
                        const struct shortage *s, struct ballast_refusal *why)
{
    uint32_t row = s->cell / l->geo.nr_classes;
    uint32_t class = s->cell % l->geo.nr_classes;

    if (why) {
        bool host = row == l->geo.nr_nodes;

        why->node = host ? BALLAST_NODE_ANY : l->geo.node_id[row];
        why->page_bytes = l->geo.page_bytes[class];
        why->asked_bytes = host ? class_claimed(&l->geo, to, class) :
                           to->col[COL_CLAIMED][s->cell];
        why->available_bytes = s->available;
        why->missing_bytes = s->missing;
        why->limit_bytes = s->limit;
    }
    return refuse(why, s->reason);
}

/*
 * With the mutex held.  Returns 0, -errno with @why filled in, or one of the
 * ADMIT_ constants: take a sample with the mutex dropped, and come again.
 */
int admit(const struct ballast_ledger *l, const struct view *from,
          const struct view *to, struct sample *sample,
          struct ballast_refusal *why)
{
    struct shortage s;
    uint32_t class;

    /* A claim does not change what is resident: no rise here, none there. */
    if (!outstanding_rises(&l->geo, from, to)) {
        return 0;
    }
    if (l->unlinked) {
        return refuse_stale(why, "its file was removed; what is promised "
                            "stays, nothing is added");
    }
    for (class = 0; class < l->geo.nr_classes; class++) {
        if (short_capacity(l, from, to, class, &s)) {
            return refuse_short(l, to, &s, why);
        }
    }
    if (l->geo.admission != BALLAST_ADMIT_KERNEL) {
        return 0;
    }
    needed_cells(l, from, to, sample->need);
    if (!sample->valid || !sample_covers(sample, sample->need)) {
        return ADMIT_SAMPLE;
    }
    if (get64(&l->header->epoch) != sample->epoch) {
        return ADMIT_RESAMPLE;
    }
    for (class = 0; class < l->geo.nr_classes; class++) {
        if (short_kernel(l, from, to, class, sample, &s)) {
            refuse_short(l, to, &s, why);
            return sample_is_old(l, sample) ? ADMIT_RESAMPLE :
                   why ? why->err : refuse(NULL, s.reason);
        }
    }
    return 0;
}

static void holder_insert(struct ballast_refusal *why,
                          const struct ballast_holder *h)
{
    uint32_t at = why->nr_holders;

    if (at == BALLAST_MAX_HOLDERS) {
        why->more_holders++;
        if (why->holders[at - 1].reserved_bytes >= h->reserved_bytes) {
            return;
        }
        at--;
    } else {
        why->nr_holders++;
    }
    while (at && why->holders[at - 1].reserved_bytes < h->reserved_bytes) {
        why->holders[at] = why->holders[at - 1];
        at--;
    }
    why->holders[at] = *h;
}

static uint64_t holder_bytes(const struct ballast_ledger *l,
                             const struct view *v, uint32_t row,
                             uint32_t class)
{
    uint64_t sum = 0;
    uint32_t i;

    if (row < l->geo.nr_nodes) {
        return reserved(v, row * l->geo.nr_classes + class);
    }
    for (i = class; i < l->geo.nr_cells; i += l->geo.nr_classes) {
        sum += reserved(v, i);
    }
    return sum;
}

static bool holder_place(const struct ballast_ledger *l,
                         const struct ballast_refusal *why, uint32_t *row,
                         uint32_t *class)
{
    const struct geometry *geo = &l->geo;

    for (*row = 0; *row < geo->nr_nodes; (*row)++) {
        if (geo->node_id[*row] == why->node) {
            break;
        }
    }
    for (*class = 0; *class < geo->nr_classes; (*class)++) {
        if (geo->page_bytes[*class] == why->page_bytes) {
            return true;
        }
    }
    return false;
}

/* Without the mutex: a slot that has become another's is nobody's. */
static bool holder_get(const struct ballast_ledger *l, uint32_t nr,
                       uint32_t row, uint32_t class, struct ballast_holder *h)
{
    const struct file_slot *s = slot_at(l, nr);
    uint64_t serial = get64(&s->serial);
    struct view v;

    if (!slot_in_use(s)) {
        return false;
    }
    slot_view(l, s, &v);
    slot_name(s, h->name);
    h->reserved_bytes = holder_bytes(l, &v, row, class);
    h->pid = (int32_t)get32((const uint32_t *)&s->pid);
    h->slot = nr;
    h->dying = get32(&s->state) == SLOT_DYING;
    __atomic_thread_fence(__ATOMIC_ACQUIRE);
    return slot_in_use(s) && get64(&s->serial) == serial && h->reserved_bytes;
}

/* After a shortage, without the mutex: who has most of it. */
void refusal_holders(struct ballast_ledger *l, struct ballast_refusal *why,
                     uint32_t except)
{
    uint32_t high = slots_high(l);
    uint32_t row, class, nr;
    struct ballast_holder h;

    why->nr_holders = why->more_holders = 0;
    if (!holder_place(l, why, &row, &class)) {
        return;
    }
    for (nr = 0; nr < high; nr++) {
        if (nr != except && holder_get(l, nr, row, class, &h)) {
            holder_insert(why, &h);
        }
    }
}
