/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * One message of a client: checked, permitted, done, answered.
 *
 * Invariants:
 *  - a client changes the slot that its connection has joined, and no other;
 *    standing claims and repairs are for administrators;
 *  - a reply to a client that is no observer has nobody's name, pid or slot
 *    in it but its own;
 *  - a message that is wrong is counted, and answered or its sender dropped.
 *
 * Crash story: the library's.  Nothing is kept between a change and its
 * reply, so a client that asks again finds what it asked for.
 */
#include <errno.h>
#include <string.h>
#include <sys/socket.h>

#include "daemon.h"

static struct ballast_refusal *clear(struct ballast_refusal *why)
{
    why_init(why);
    return why;
}

/* Replies --------------------------------------------------------------- */

static void reply_start(struct daemon *d)
{
    const struct wire_head *q = &d->in.head;
    uint32_t bytes = q->bytes == WIRE_LARGE_BYTES ? WIRE_LARGE_BYTES :
                     WIRE_SMALL_BYTES;

    memset(&d->out, 0, bytes);
    d->out.head.magic = WIRE_MAGIC;
    d->out.head.version = WIRE_VERSION;
    d->out.head.op = q->op;
    d->out.head.bytes = bytes;
    d->out.head.sequence = q->sequence;
}

/* Now or never: nothing is queued but in the client's own socket. */
static bool reply_send(struct daemon *d, int fd)
{
    ssize_t n;

    do {
        n = send(fd, &d->out, d->out.head.bytes, MSG_DONTWAIT | MSG_NOSIGNAL);
    } while (n < 0 && errno == EINTR);
    return n == (ssize_t)d->out.head.bytes;
}

/* To somebody who was not even heard: sequence number zero says so. */
void serve_refusal(struct daemon *d, int fd, const struct ballast_refusal *why)
{
    memset(&d->in.head, 0, sizeof(d->in.head));
    d->in.head.op = WIRE_HELLO;
    reply_start(d);
    d->out.head.err = why->err;
    wire_put_refusal(&d->out.reply.why, why);
    reply_send(d, fd);
}

/* Permission ------------------------------------------------------------ */

static int not_allowed(struct ballast_refusal *why, const char *what)
{
    return refuse_detail(why, BALLAST_NOT_ALLOWED, "%s", what);
}

/*
 * What the slot would count for is compared, with what the user's other
 * slots do: not more than before is always allowed.
 */
static int within_quota(struct daemon *d, const struct client *c,
                        uint64_t asked, struct ballast_refusal *why)
{
    uint64_t quota = c->access.quota_bytes, others;
    const struct watch *w;

    if (quota == NO_QUOTA || c->ledger.slot == SLOT_NONE) {
        return 0;
    }
    w = &d->watches[c->ledger.slot];
    others = d->accounts[w->account].charged_bytes - w->charged_bytes;
    if (asked <= w->charged_bytes || (others <= quota &&
                                      asked <= quota - others)) {
        return 0;
    }
    why->asked_bytes = others + asked;
    why->limit_bytes = quota;
    why->missing_bytes = others + asked - quota;
    return refuse(why, BALLAST_ABOVE_QUOTA);
}

/* Absurd amounts are left to the ledger's own judgement. */
static uint64_t add_amount(uint64_t sum, uint64_t bytes)
{
    return bytes > BALLAST_MAX_BYTES ? sum : sum + bytes;
}

static int claim_within_quota(struct daemon *d, const struct client *c,
                              struct ballast_refusal *why)
{
    const struct wire_set *q = &d->in.set;
    uint64_t sum = 0;
    uint32_t i;

    for (i = 0; i < q->request.head.nr; i++) {
        sum = add_amount(sum, q->demands[i].bytes);
    }
    return within_quota(d, c, sum, why);
}

static int report_within_quota(struct daemon *d, const struct client *c,
                               struct ballast_refusal *why)
{
    const struct wire_set *q = &d->in.set;
    uint64_t sum = 0;
    uint32_t i;

    for (i = 0; i < q->request.head.nr; i++) {
        sum = add_amount(sum, q->usages[i].resident_bytes);
    }
    return within_quota(d, c, sum, why);
}

/* Names are for observers; how many there are is for everybody. */
static void hide_holders(const struct client *c, struct ballast_refusal *why)
{
    if (!c->access.observer) {
        why->more_holders += why->nr_holders;
        why->nr_holders = 0;
    }
}

/* Log ------------------------------------------------------------------- */

static void log_slot(const struct client *c, const char *event)
{
    char name[BALLAST_NAME_BYTES];

    slot_name(slot_at(&c->ledger, c->ledger.slot), name);
    log_line(LOG_LINE, "event=%s uid=%u pid=%d slot=%u serial=%llu name=%s",
             event, c->who.uid, c->who.pid, c->ledger.slot,
             (unsigned long long)c->ledger.serial, log_quoted(name));
}

static void log_refusal(struct daemon *d, const struct client *c,
                        const struct ballast_refusal *why)
{
    d->counters.refusals++;
    log_line(LOG_LINE, "event=refused op=%u uid=%u pid=%d slot=%d reason=%s "
             "node=%d page=%llu asked=%llu missing=%llu detail=%s",
             d->in.head.op, c->who.uid, c->who.pid, (int)c->ledger.slot,
             ballast_reason_name(why->reason), (int)why->node,
             (unsigned long long)why->page_bytes,
             (unsigned long long)why->asked_bytes,
             (unsigned long long)why->missing_bytes,
             log_quoted(why->detail));
}

/* Operations ------------------------------------------------------------ */

static int do_hello(struct daemon *d, struct client *c)
{
    struct wire_geometry *w = &d->out.reply.geometry;
    const struct geometry *geo = &d->ledger->geo;

    d->nr_hellos -= !c->greeted;
    c->greeted = true;
    w->nr_nodes = geo->nr_nodes;
    w->nr_classes = geo->nr_classes;
    w->nr_slots = geo->nr_slots;
    memcpy(w->node_id, geo->node_id, sizeof(w->node_id));
    memcpy(w->page_bytes, geo->page_bytes, sizeof(w->page_bytes));
    return 0;
}

static int tell_member(struct daemon *d, struct client *c, const char *event)
{
    struct wire_member *w = &d->out.reply.member;

    watch_slot(d, c);
    w->slot = c->ledger.slot;
    w->serial = c->ledger.serial;
    log_slot(c, event);
    return 0;
}

static int do_join(struct daemon *d, struct client *c,
                   struct ballast_refusal *why)
{
    const struct wire_request *q = &d->in.request;
    uint32_t most = d->options.max_clients_per_uid;
    struct birth b = {
        .name = q->name, .max_bytes = q->max_bytes, .flags = SLOT_SERVED,
        .who = c->who, .cookie = { q->cookie[0], q->cookie[1] },
    };
    int err;

    if (c->ledger.slot != SLOT_NONE) {
        return refuse_system(why, -EALREADY, "this handle has joined");
    }
    if (!(q->cookie[0] | q->cookie[1])) {
        return refuse_system(why, -EINVAL, "a cookie of zero");
    }
    if (d->accounts[c->account].nr_slots >= most && !c->access.admin) {
        return refuse_detail(why, BALLAST_NO_SLOT, "user %u has %u, and may "
                             "have no more", c->who.uid, most);
    }
    err = served_join(&c->ledger, &b, why);
    if (err) {
        return err;
    }
    d->counters.joins++;
    return tell_member(d, c, "join");
}

static int do_attach(struct daemon *d, struct client *c,
                     struct ballast_refusal *why)
{
    const struct wire_request *q = &d->in.request;
    int err;

    if (c->ledger.slot != SLOT_NONE) {
        return refuse_system(why, -EALREADY, "this handle has joined");
    }
    if (q->flags & ~WIRE_ADOPT) {
        return refuse(why, BALLAST_NOT_ZERO);
    }
    err = served_attach(&c->ledger, q->slot, q->serial, q->cookie, &c->who,
                        q->flags & WIRE_ADOPT, why);
    return err ? err : tell_member(d, c, q->flags ? "adopt" : "attach");
}

/* The handle's own process, for the library, is this one. */
static int do_leave(struct daemon *d, struct client *c)
{
    uint32_t slot = c->ledger.slot;

    if (slot == SLOT_NONE) {
        return 0;
    }
    d->counters.leaves++;
    log_slot(c, "leave");
    ballast_leave(&c->ledger);
    watch_forget(d, slot);
    return 0;
}

static int do_claim(struct daemon *d, struct client *c,
                    struct ballast_refusal *why)
{
    const struct wire_set *q = &d->in.set;
    int err = claim_within_quota(d, c, why);

    if (!err) {
        err = q->request.head.op == WIRE_CLAIM ?
              ballast_claim(&c->ledger, q->demands, q->request.head.nr, why) :
              ballast_queue(&c->ledger, q->demands, q->request.head.nr,
                            q->request.timeout_ms, why);
    }
    return err;
}

static int do_report(struct daemon *d, struct client *c,
                     struct ballast_refusal *why)
{
    const struct wire_set *q = &d->in.set;
    int err = report_within_quota(d, c, why);

    return err ? err :
           ballast_report(&c->ledger, q->usages, q->request.head.nr);
}

static int do_own(struct daemon *d, struct client *c)
{
    struct wire_reply *w = &d->out.reply;
    uint32_t room = wire_payload_room(w->head.bytes) / sizeof(w->own[0]);
    int nr;

    room = room < BALLAST_MAX_DEMANDS ? room : BALLAST_MAX_DEMANDS;
    nr = ballast_own(&c->ledger, w->own, room);
    if (nr < 0) {
        return nr;
    }
    w->head.value = (uint64_t)nr;
    w->head.nr = (uint32_t)nr < room ? (uint32_t)nr : room;
    return 0;
}

static int do_bequeath(struct daemon *d, struct client *c,
                       struct ballast_refusal *why)
{
    if (c->ledger.slot == SLOT_NONE) {
        return refuse(why, BALLAST_NOT_JOINED);
    }
    d->watches[c->ledger.slot].bequeathed = true;
    return 0;
}

static int may_stand(const struct client *c, int32_t pid,
                     struct ballast_refusal *why)
{
    if (!c->access.admin) {
        return not_allowed(why, "standing claims are for administrators");
    }
    return pid < 0 ? refuse_system(why, -EINVAL, "process %d", pid) : 0;
}

static int do_stand(struct daemon *d, struct client *c,
                    struct ballast_refusal *why)
{
    const struct wire_set *q = &d->in.set;
    int err = may_stand(c, q->request.pid, why);

    return err ? err :
           ballast_stand(d->ledger, q->request.name, q->demands,
                         q->request.head.nr, q->request.pid, why);
}

/* A place is kept as long as somebody waits in it. */
static int keep_place(struct client *c, const struct standing *st, int err)
{
    c->place = st->at;
    c->place.placed = err == -EINPROGRESS;
    return err;
}

static int do_stand_queue(struct daemon *d, struct client *c,
                          struct ballast_refusal *why)
{
    const struct wire_set *q = &d->in.set;
    const struct stand_ask ask = {
        .name = q->request.name, .set = q->demands, .nr = q->request.head.nr,
        .pid = q->request.pid, .waiter = c->who,
        .again = q->request.flags & WIRE_AGAIN,
        .timeout_ms = q->request.timeout_ms,
    };
    struct wire_place *w = &d->out.reply.place;
    struct standing st = { .at = { .placed = false } };
    int err;

    if (q->request.flags & ~WIRE_AGAIN) {
        return refuse(why, BALLAST_NOT_ZERO);
    }
    err = may_stand(c, q->request.pid, why);
    if (err) {
        return err;
    }
    err = keep_place(c, &st, stand_queue(d->ledger, &st, &ask, why));
    if (c->place.placed) {
        w->slot = st.at.slot;
        w->serial = st.at.serial;
        w->ticket = st.at.ticket;
    }
    return err;
}

static int poll_place(struct daemon *d, struct client *c,
                      struct ballast_refusal *why)
{
    struct standing st;

    st.at = c->place;
    return keep_place(c, &st, stand_poll(d->ledger, &st, why));
}

/*
 * The place that this connection has, or one that the same process had when
 * it spoke to another daemon: that is found in the file.
 */
static int do_stand_poll(struct daemon *d, struct client *c,
                         struct ballast_refusal *why)
{
    const struct wire_request *q = &d->in.request;
    struct stand_place at = {
        .waiter = c->who, .slot = q->slot, .serial = q->serial,
        .ticket = q->cookie[0],
    };
    struct standing st;
    int err = may_stand(c, q->pid, why);

    if (err) {
        return err;
    }
    if (!c->place.placed || c->place.serial != at.serial ||
        c->place.ticket != at.ticket) {
        wire_put_string(at.name, q->name, sizeof(at.name));
        err = stand_resume(d->ledger, &at, q->pid, &st, why);
        if (err) {
            return err;
        }
        c->place = st.at;
    }
    return poll_place(d, c, why);
}

static int do_release(struct daemon *d, struct client *c,
                      struct ballast_refusal *why)
{
    int err = may_stand(c, 0, why);

    return err ? err : ballast_release(d->ledger, d->in.request.name, why);
}

static int do_sweep(struct daemon *d, struct client *c)
{
    int nr = ballast_sweep(&c->ledger);

    d->out.head.value = nr > 0 ? (uint64_t)nr : 0;
    return nr < 0 ? nr : 0;
}

static int do_check(struct daemon *d, struct client *c,
                    struct ballast_refusal *why)
{
    uint32_t flags = d->in.request.flags;

    if (flags & ~BALLAST_CHECK_REPAIR) {
        return refuse(why, BALLAST_NOT_ZERO);
    }
    if (!c->access.observer) {
        return not_allowed(why, "to check is for observers");
    }
    if (flags && !c->access.admin) {
        return not_allowed(why, "to repair is for administrators");
    }
    return view_check(d, c);
}

static int operate(struct daemon *d, struct client *c,
                   struct ballast_refusal *why)
{
    switch ((enum wire_op)d->in.head.op) {
    case WIRE_HELLO:
        return do_hello(d, c);
    case WIRE_JOIN:
        return do_join(d, c, why);
    case WIRE_ATTACH:
        return do_attach(d, c, why);
    case WIRE_LEAVE:
        return do_leave(d, c);
    case WIRE_CLAIM:
    case WIRE_QUEUE:
        return do_claim(d, c, why);
    case WIRE_REPORT:
        return do_report(d, c, why);
    case WIRE_OWN:
        return do_own(d, c);
    case WIRE_POLL:
        return ballast_queue_poll(&c->ledger, why);
    case WIRE_CANCEL:
        return ballast_queue_cancel(&c->ledger);
    case WIRE_BEQUEATH:
        return do_bequeath(d, c, why);
    case WIRE_STAND:
        return do_stand(d, c, why);
    case WIRE_STAND_QUEUE:
        return do_stand_queue(d, c, why);
    case WIRE_STAND_POLL:
        return do_stand_poll(d, c, why);
    case WIRE_RELEASE:
        return do_release(d, c, why);
    case WIRE_SWEEP:
        return do_sweep(d, c);
    case WIRE_STATUS:
        return view_status(d, c);
    case WIRE_CHECK:
        return do_check(d, c, why);
    case WIRE_CELLS:
    case WIRE_PARTICIPANTS:
    case WIRE_FINDINGS:
        return view_page(d, c);
    case WIRE_OPS:
        break;
    }
    return -EOPNOTSUPP;
}

/* Waiting --------------------------------------------------------------- */

static void finish(struct daemon *d, struct client *c, int err,
                   struct ballast_refusal *why);

/* A reply that may come later; @sequence is that of its request. */
static void answer_held(struct daemon *d, struct client *c, int err,
                        struct ballast_refusal *why)
{
    memset(&d->in.head, 0, sizeof(d->in.head));
    d->in.head.op = c->held_op;
    d->in.head.sequence = c->held_sequence;
    c->held = false;
    d->nr_held--;
    reply_start(d);
    finish(d, c, err, why);
}

static void look_after(struct daemon *d, struct client *c, bool last)
{
    struct ballast_refusal why;
    int err;

    clear(&why);
    err = c->held_op == WIRE_POLL ? ballast_queue_poll(&c->ledger, &why) :
          poll_place(d, c, &why);
    if (err != -EINPROGRESS || last) {
        answer_held(d, c, err, &why);
    }
}

/*
 * Who waits is answered when it is granted, or its time is over: looked after
 * whenever something came back.  What nobody tells (the kernel's memory) it
 * asks for itself, five times a second.
 */
void serve_held(struct daemon *d)
{
    uint32_t seq = get32(&d->ledger->header->returned_seq), i;
    uint64_t now = host_now_ns();
    bool stirred = seq != d->seen_seq;

    d->seen_seq = seq;
    for (i = 0; i < d->options.max_clients && d->nr_held; i++) {
        struct client *c = &d->clients[i];

        if (c->fd >= 0 && c->held && (stirred || c->held_until_ns <= now)) {
            look_after(d, c, c->held_until_ns <= now);
        }
    }
}

/* True if the reply comes later. */
static bool hold(struct daemon *d, struct client *c, int err)
{
    uint32_t op = d->in.head.op;
    uint64_t ms = d->in.request.timeout_ms;

    if ((op != WIRE_POLL && op != WIRE_STAND_POLL) || err != -EINPROGRESS ||
        !ms) {
        return false;
    }
    c->held = true;
    c->held_op = op;
    c->held_sequence = d->in.head.sequence;
    c->held_until_ns = host_now_ns() +
                       (ms < HOLD_MS ? ms : HOLD_MS) * 1000000;
    d->nr_held++;
    return true;
}

/* Faults ---------------------------------------------------------------- */

static const char *const fault_names[WIRE_FAULTS] = {
    [WIRE_BAD_SIZE] = "bad-size", [WIRE_BAD_MAGIC] = "bad-magic",
    [WIRE_BAD_VERSION] = "bad-version", [WIRE_BAD_OP] = "bad-op",
    [WIRE_BAD_COUNT] = "bad-count", [WIRE_BAD_PADDING] = "bad-padding",
    [WIRE_BAD_STRING] = "bad-string", [WIRE_BAD_SENDER] = "bad-sender",
};

static int fault_error(enum wire_fault fault)
{
    switch (fault) {
    case WIRE_BAD_VERSION:
        return -EPROTONOSUPPORT;
    case WIRE_BAD_OP:
        return -EOPNOTSUPP;
    case WIRE_BAD_COUNT:
        return -E2BIG;
    default:
        return -EPROTO;
    }
}

/*
 * What is no message of ours, or of another version, ends the connection; the
 * rest is answered, sixty-four times.
 */
static void serve_fault(struct daemon *d, struct client *c,
                        enum wire_fault fault)
{
    struct ballast_refusal why;

    d->counters.faults[fault]++;
    if (fault == WIRE_BAD_SIZE || fault == WIRE_BAD_MAGIC) {
        client_drop(d, c, fault_names[fault]);
        return;
    }
    reply_start(d);
    refuse_system(clear(&why), fault_error(fault), "%s", fault_names[fault]);
    d->out.head.err = why.err;
    wire_put_refusal(&d->out.reply.why, &why);
    if (!reply_send(d, c->fd) || fault == WIRE_BAD_VERSION || !c->greeted ||
        ++c->faults >= FAULTS_MAX) {
        client_drop(d, c, fault_names[fault]);
        return;
    }
    log_line(LOG_NOTE, "event=fault uid=%u pid=%d reason=%s op=%u",
             c->who.uid, c->who.pid, fault_names[fault], d->in.head.op);
}

/* A ledger that was replaced, or damaged, is not ours to serve. */
static void check_ledger(struct daemon *d, int err)
{
    uint32_t op = d->in.head.op;
    bool page = op == WIRE_CELLS || op == WIRE_PARTICIPANTS ||
                op == WIRE_FINDINGS;

    if ((err == -ESTALE && !page) || err == -EBADMSG ||
        err == -ENOTRECOVERABLE) {
        log_failure("the ledger", err);
        d->stop = true;
        d->status = 1;
    }
}

/* A slot that somebody else buried (ballast check on the file) is no more. */
static void look_at_slot(struct daemon *d, struct client *c)
{
    if (c->ledger.slot != SLOT_NONE) {
        watch_charge(d, c->ledger.slot);
    }
}

static void finish(struct daemon *d, struct client *c, int err,
                   struct ballast_refusal *why)
{
    look_at_slot(d, c);
    if (why->reason != BALLAST_OK) {
        if (err != -EINPROGRESS || d->in.head.op == WIRE_QUEUE ||
            d->in.head.op == WIRE_STAND_QUEUE) {
            log_refusal(d, c, why);
        }
        hide_holders(c, why);
        wire_put_refusal(&d->out.reply.why, why);
    } else {
        d->out.reply.why.node = why->node;
    }
    d->out.head.err = err;
    if (!reply_send(d, c->fd)) {
        client_drop(d, c, "slow");
    }
    check_ledger(d, err);
}

void serve(struct daemon *d, struct client *c, size_t bytes)
{
    enum wire_fault fault = wire_check_request(&d->in, bytes);
    struct ballast_refusal why;
    int err;

    d->counters.messages++;
    if (!fault && !c->greeted && d->in.head.op != WIRE_HELLO) {
        fault = WIRE_BAD_OP;
    }
    if (!fault && c->held) {
        fault = WIRE_BAD_OP;    /* one thing at a time */
    }
    if (fault) {
        serve_fault(d, c, fault);
        return;
    }
    reply_start(d);
    err = operate(d, c, clear(&why));
    if (!hold(d, c, err)) {
        finish(d, c, err, &why);
    }
}
