/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Waiting in line.
 *
 * An entry is a ticket in a live slot, and the claim that is wanted behind the
 * slot's two copies.  Nobody grants another's entry: who waits looks after it,
 * and takes the claim when it fits and no older entry that counts is in the
 * way.  An entry counts while its slot is live, its time is not over, and it
 * was looked after in the last five seconds; the dead are found by sweeps.
 *
 * Invariant, under the mutex: nr_waiters is the number of live slots with a
 * ticket.  So without waiters nobody scans, and nobody makes a system call.
 *
 * No wake-up is lost: a waiter reads returned_seq in the critical section in
 * which its claim did not fit, and sleeps only if the word still has that
 * value.  Whatever may let it fit (bytes that return, an entry that leaves)
 * changes the word under the mutex and wakes everybody after dropping it.
 * Who dies between the two, and what nobody tells (a process that ends, the
 * kernel's memory), costs a tenth of a second: no sleep is longer.
 *
 * Lock order: the ledger's mutex only.
 *
 * Crash story: an entry appears and ends by the store to its ticket.  It has
 * no ticket while it is replaced: whoever dies there has left the queue.
 * nr_waiters may then be off, as totals may: the next owner counts again.
 */
#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "internal.h"

#define FRESH_NS    (UINT64_C(5) * 1000 * 1000 * 1000)
#define FORGET_NS   (UINT64_C(60) * 1000 * 1000 * 1000)
#ifndef QUEUE_SLEEP_MS      /* a test takes longer, to see who is woken */
#define QUEUE_SLEEP_MS 100
#endif
#define SLEEP_NS    (UINT64_C(1000000) * QUEUE_SLEEP_MS)

static uint64_t *wanted_cells(const struct ballast_ledger *l,
                              const struct file_slot *s)
{
    const uint64_t *cells = s->cells + (size_t)2 * NR_COLUMNS *
                            l->geo.nr_cells;

    return (uint64_t *)(uintptr_t)cells;
}

bool queue_waits(const struct file_slot *s)
{
    return get32(&s->state) == SLOT_LIVE && get64(&s->wait_ticket);
}

/* What the slot would be with the claim that it waits for. */
void queue_wanted(const struct ballast_ledger *l, const struct file_slot *s,
                  const struct view *from, struct view *to)
{
    const uint64_t *wanted = wanted_cells(l, s);
    uint32_t i;

    for (i = 0; i < l->geo.nr_cells; i++) {
        to->col[COL_CLAIMED][i] = clamp_bytes(get64(&wanted[i]));
        to->col[COL_RESIDENT][i] = from->col[COL_RESIDENT][i];
        to->col[COL_FREEABLE][i] = from->col[COL_FREEABLE][i];
    }
    view_redeem(&l->geo, to);
}

/* Something may fit now that did not: with the mutex held. */
void queue_stir(struct ballast_ledger *l)
{
    struct file_header *h = l->header;

    put32(&h->returned_seq, get32(&h->returned_seq) + 1);
    l->wake |= get32(&h->nr_waiters) != 0;
}

void queue_wake(struct ballast_ledger *l)
{
    syscall(SYS_futex, &l->header->returned_seq, FUTEX_WAKE, INT_MAX, NULL,
            NULL, 0);
}

/* Returns at once when something came back after @seq was read. */
void queue_sleep(struct ballast_ledger *l, uint32_t seq, uint64_t deadline_ns)
{
    uint64_t now = host_now_ns(), ns = SLEEP_NS;
    struct timespec t = { 0 };

    if (deadline_ns < now + ns) {
        ns = deadline_ns > now ? deadline_ns - now : 0;
    }
    t.tv_sec = (time_t)(ns / 1000000000);
    t.tv_nsec = (long)(ns % 1000000000);
    if (ns) {
        syscall(SYS_futex, &l->header->returned_seq, FUTEX_WAIT, seq, &t,
                NULL, 0);
    }
}

uint64_t queue_deadline(uint64_t timeout_ms)
{
    uint64_t now = host_now_ns();

    return timeout_ms >= (UINT64_MAX - now) / 1000000 ? UINT64_MAX :
           now + timeout_ms * 1000000;
}

/*
 * With the mutex held.  Whoever was behind it may be granted now; whoever
 * waits for it, in another thread or process, is to hear that it is gone.
 */
void queue_forget(struct ballast_ledger *l, struct file_slot *s)
{
    uint32_t nr = get32(&l->header->nr_waiters);

    if (!queue_waits(s)) {
        return;
    }
    put64(&s->wait_ticket, 0);
    put32(&l->header->nr_waiters, nr ? nr - 1 : 0);
    queue_stir(l);
    l->wake = true;
}

static void enter(struct ballast_ledger *l, struct file_slot *s,
                  const struct view *to, uint64_t deadline_ns)
{
    struct file_header *h = l->header;
    uint64_t *wanted = wanted_cells(l, s);
    uint64_t ticket = get64(&s->wait_ticket), now = host_now_ns();
    bool fresh = !ticket;
    uint32_t i;

    if (fresh) {
        ticket = get64(&h->next_ticket) + 1;
        put64(&h->next_ticket, ticket);
        put64(&s->wait_since_ns, now);
    } else {
        put64(&s->wait_ticket, 0);
    }
    for (i = 0; i < l->geo.nr_cells; i++) {
        put64(&wanted[i], to->col[COL_CLAIMED][i]);
    }
    put64(&s->wait_deadline_ns, deadline_ns);
    put64(&s->wait_seen_ns, now);
    publish64(&s->wait_ticket, ticket);
    if (fresh) {
        put32(&h->nr_waiters, get32(&h->nr_waiters) + 1);
    }
}

static bool is_fresh(const struct file_slot *s, uint64_t now)
{
    uint64_t age = now - get64(&s->wait_seen_ns);

    /* A time in the future is a damaged one, or another time namespace. */
    return age < FRESH_NS || 0 - age < FRESH_NS;
}

static bool counts(const struct file_slot *s, uint64_t now)
{
    return queue_waits(s) && is_fresh(s, now) &&
           now < get64(&s->wait_deadline_ns);
}

bool queue_attended(const struct file_slot *s)
{
    return queue_waits(s) && is_fresh(s, host_now_ns());
}

/* A standing claim's waiter may be gone for good: nobody else would say so. */
bool queue_abandoned(const struct file_slot *s)
{
    return queue_waits(s) && (s->flags & SLOT_STANDING) &&
           host_now_ns() - get64(&s->wait_seen_ns) - FORGET_NS <
           UINT64_MAX / 2;
}

/* Where a claim grows, per class: a bit for each node, and any. */
struct growth {
    uint64_t nodes[BALLAST_MAX_CLASSES];
    bool any[BALLAST_MAX_CLASSES];
};

static bool grows(const struct geometry *geo, const struct view *from,
                  const struct view *to, struct growth *g)
{
    bool some = false;
    uint32_t i;

    *g = (struct growth){ 0 };
    for (i = 0; i < geo->nr_cells; i++) {
        uint32_t row = i / geo->nr_classes, class = i % geo->nr_classes;

        if (to->outstanding[i] <= from->outstanding[i]) {
            continue;
        }
        some = true;
        if (row < geo->nr_nodes) {
            g->nodes[class] |= UINT64_C(1) << row;
        } else {
            g->any[class] = true;
        }
    }
    return some;
}

/* The first class in which one could take what the other waits for. */
static bool conflict(const struct growth *a, const struct growth *b,
                     uint32_t *class)
{
    uint32_t c;

    for (c = 0; c < BALLAST_MAX_CLASSES; c++) {
        bool have_a = a->nodes[c] || a->any[c];
        bool have_b = b->nodes[c] || b->any[c];

        if (have_a && have_b && (a->any[c] || b->any[c] ||
                                 (a->nodes[c] & b->nodes[c]))) {
            *class = c;
            return true;
        }
    }
    return false;
}

/* Those who came first, in the order in which they came. */
struct line {
    uint32_t nr;
    uint32_t nr_named;
    uint32_t class;
    uint64_t tickets[BALLAST_MAX_HOLDERS];
    struct ballast_holder named[BALLAST_MAX_HOLDERS];
};

static void line_add(struct line *line, uint64_t ticket,
                     const struct ballast_holder *holder)
{
    uint32_t at = line->nr_named;

    line->nr++;
    if (at == BALLAST_MAX_HOLDERS) {
        if (line->tickets[at - 1] < ticket) {
            return;
        }
        at--;
    } else {
        line->nr_named++;
    }
    for (; at && line->tickets[at - 1] > ticket; at--) {
        line->tickets[at] = line->tickets[at - 1];
        line->named[at] = line->named[at - 1];
    }
    line->tickets[at] = ticket;
    line->named[at] = *holder;
}

static uint64_t class_growth(const struct geometry *geo,
                             const struct view *from, const struct view *to,
                             uint32_t class)
{
    uint64_t sum = 0;
    uint32_t i;

    for (i = class; i < geo->nr_cells; i += geo->nr_classes) {
        sum += to->outstanding[i] > from->outstanding[i] ?
               to->outstanding[i] - from->outstanding[i] : 0;
    }
    return sum;
}

static void look_at_waiter(const struct ballast_ledger *l, uint32_t nr,
                           const struct growth *mine, struct line *line)
{
    const struct file_slot *s = slot_at(l, nr);
    struct ballast_holder holder = { .pid = s->pid, .slot = nr };
    struct view from, to;
    struct growth theirs;
    uint32_t class;

    slot_view(l, s, &from);
    queue_wanted(l, s, &from, &to);
    if (!grows(&l->geo, &from, &to, &theirs) ||
        !conflict(mine, &theirs, &class)) {
        return;
    }
    if (!line->nr) {
        line->class = class;
    }
    slot_name(s, holder.name);
    holder.reserved_bytes = class_growth(&l->geo, &from, &to, class);
    line_add(line, get64(&s->wait_ticket), &holder);
}

/* The first place in which we grow in that class. */
static void name_place(const struct ballast_ledger *l,
                       const struct growth *mine, const struct view *to,
                       uint32_t class, struct ballast_refusal *why)
{
    const struct geometry *geo = &l->geo;
    uint32_t row = mine->nodes[class] ?
                   (uint32_t)__builtin_ctzll(mine->nodes[class]) :
                   geo->nr_nodes;
    uint32_t cell = row * geo->nr_classes + class;
    int64_t room = row < geo->nr_nodes ? cell_free(l, cell) :
                   (int64_t)host_room(l, class);

    why->node = row < geo->nr_nodes ? geo->node_id[row] : BALLAST_NODE_ANY;
    why->page_bytes = geo->page_bytes[class];
    why->asked_bytes = to->col[COL_CLAIMED][cell];
    why->available_bytes = room > 0 ? (uint64_t)room : 0;
    why->missing_bytes = 0;
    why->limit_bytes = row < geo->nr_nodes ? l->promisable[cell] :
                       host_capacity(l, class);
}

/*
 * With the mutex held: how many came before @ticket and wait for what @to
 * needs.  Fills in @why, if it is given and @name_them.
 */
uint32_t queue_ahead(const struct ballast_ledger *l,
                     const struct file_slot *self, const struct view *from,
                     const struct view *to, uint64_t ticket, bool name_them,
                     struct ballast_refusal *why)
{
    uint32_t high = slots_high(l), nr;
    uint64_t now = host_now_ns();
    struct line line = { 0 };
    struct growth mine;

    if (!grows(&l->geo, from, to, &mine)) {
        return 0;
    }
    for (nr = 0; nr < high; nr++) {
        const struct file_slot *s = slot_at(l, nr);

        if (s != self && counts(s, now) && get64(&s->wait_ticket) < ticket) {
            look_at_waiter(l, nr, &mine, &line);
        }
    }
    if (why) {
        why->nr_ahead = line.nr;
    }
    if (line.nr && why && name_them) {
        name_place(l, &mine, to, line.class, why);
        why->nr_holders = line.nr_named;
        why->more_holders = line.nr - line.nr_named;
        memcpy(why->holders, line.named,
               line.nr_named * sizeof(line.named[0]));
    }
    return line.nr;
}

/* More than there is will never come back. */
static bool ever_fits(const struct ballast_ledger *l, const struct view *to)
{
    const struct geometry *geo = &l->geo;
    uint32_t class, i;

    for (class = 0; class < geo->nr_classes; class++) {
        uint64_t sum = 0;

        for (i = class; i < geo->nr_cells; i += geo->nr_classes) {
            sum += to->col[COL_CLAIMED][i];
            if (i < geo->nr_nodes * geo->nr_classes &&
                to->col[COL_CLAIMED][i] > l->promisable[i]) {
                return false;
            }
        }
        if (sum > host_capacity(l, class)) {
            return false;
        }
    }
    return true;
}

/*
 * With the mutex held: the claim @w->to, or an entry for it.  Returns 0,
 * -EINPROGRESS, an error that waiting does not cure, or ADMIT_*.
 */
int queue_claim(struct ballast_ledger *l, struct file_slot *s,
                struct waiting *w, struct sample *sample,
                struct ballast_refusal *why)
{
    uint64_t ticket = get64(&s->wait_ticket);
    int err;

    err = claim_slot(l, s, &w->to, ticket ? ticket : UINT64_MAX, sample, why);
    w->seq = get32(&l->header->returned_seq);
    if (err > 0 && w->anyway) {
        err = refuse(why, BALLAST_SHORT_KERNEL);
    }
    if (err == 0) {
        queue_forget(l, s);
        return 0;
    }
    if (err > 0 || !worth_waiting(err) || !ever_fits(l, &w->to)) {
        return err;
    }
    if (!w->again) {
        enter(l, s, &w->to, w->deadline_ns);
    }
    return -EINPROGRESS;
}

/* With the mutex held: the same for the entry that is there already. */
int queue_look_after(struct ballast_ledger *l, struct file_slot *s,
                     struct waiting *w, struct sample *sample,
                     struct ballast_refusal *why)
{
    uint64_t now = host_now_ns();
    struct view from;
    int err;

    if (!queue_waits(s)) {
        return refuse_system(why, -ENOENT, "not in the queue");
    }
    put64(&s->wait_seen_ns, now);
    slot_view(l, s, &from);
    queue_wanted(l, s, &from, &w->to);
    w->again = true;
    w->deadline_ns = get64(&s->wait_deadline_ns);
    err = queue_claim(l, s, w, sample, why);
    if (err == -EINPROGRESS && now >= w->deadline_ns) {
        err = -ETIMEDOUT;
    }
    if (err < 0 && err != -EINPROGRESS) {
        queue_forget(l, s);
    }
    return err;
}

static int try_own(struct ballast_ledger *l, void *opaque,
                   struct sample *sample, struct ballast_refusal *why)
{
    struct waiting *w = opaque;
    struct file_slot *s;
    int err = ledger_lock_why(l, why);

    if (err) {
        return err;
    }
    s = slot_own(l, &err, why);
    if (s && w->again) {
        err = queue_look_after(l, s, w, sample, why);
    } else if (s) {
        err = queue_claim(l, s, w, sample, why);
    }
    ledger_unlock(l);
    return err;
}

/*
 * The kernel's figures may change too fast to be compared with; who waits has
 * time.
 */
int queue_attempt(struct ballast_ledger *l, attempt_fn *try,
                  struct waiting *w, struct ballast_refusal *why)
{
    struct sample none;
    int err;

    w->anyway = false;
    err = attempt(l, try, w->opaque ? w->opaque : w, why,
                  w->again ? SWEEP_SOME : SWEEP_ALL);
    if (err == -EAGAIN) {
        none.valid = false;
        w->anyway = true;
        err = try(l, w->opaque ? w->opaque : w, &none, why);
    }
    return err;
}

static int queue_own(struct ballast_ledger *l, struct waiting *w,
                     struct ballast_refusal *why)
{
    int err = ledger_verdict(l, queue_attempt(l, try_own, w, why), why);

    finish_refusal(l, err, l->slot, why);
    return err;
}

static int queue_start(struct ballast_ledger *l,
                       const struct ballast_demand *set, size_t nr,
                       uint64_t timeout_ms, struct waiting *w,
                       struct ballast_refusal *why)
{
    int err;

    why_init(why);
    w->again = false;
    w->opaque = NULL;
    w->deadline_ns = queue_deadline(timeout_ms);
    view_zero(&l->geo, &w->to);
    err = demand_view(&l->geo, set, nr, &w->to, why);
    return err ? err : queue_own(l, w, why);
}

int ballast_queue(struct ballast_ledger *ledger,
                  const struct ballast_demand *set, size_t nr,
                  uint64_t timeout_ms, struct ballast_refusal *why)
{
    struct waiting w;

    if (ledger->remote) {
        return remote_queue(ledger, set, nr, timeout_ms, why);
    }
    return queue_start(ledger, set, nr, timeout_ms, &w, why);
}

int ballast_queue_poll(struct ballast_ledger *ledger,
                       struct ballast_refusal *why)
{
    struct waiting w;

    if (ledger->remote) {
        return remote_queue_poll(ledger, why);
    }
    why_init(why);
    w.again = true;
    w.opaque = NULL;
    return queue_own(ledger, &w, why);
}

int ballast_queue_cancel(struct ballast_ledger *ledger)
{
    struct file_slot *s;
    int err;

    if (ledger->remote) {
        return remote_queue_cancel(ledger);
    }
    err = ledger_lock(ledger);
    if (err) {
        return err;
    }
    s = slot_own(ledger, &err, NULL);
    if (s && queue_waits(s)) {
        queue_forget(ledger, s);
    } else if (s) {
        err = -ENOENT;
    }
    ledger_unlock(ledger);
    return ledger_verdict(ledger, err, NULL);
}

int ballast_claim_wait(struct ballast_ledger *ledger,
                       const struct ballast_demand *set, size_t nr,
                       uint64_t timeout_ms, struct ballast_refusal *why)
{
    struct waiting w;
    int err;

    if (ledger->remote) {
        return remote_claim_wait(ledger, set, nr, timeout_ms, why);
    }
    err = queue_start(ledger, set, nr, timeout_ms, &w, why);
    while (err == -EINPROGRESS) {
        queue_sleep(ledger, w.seq, w.deadline_ns);
        w.again = true;
        why_init(why);
        err = queue_own(ledger, &w, why);
    }
    return err;
}
