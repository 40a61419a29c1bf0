/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The library's calls, made through a daemon.
 *
 * Invariant: each returns what the same call on the file returns.  What can
 * be wrong with arguments by itself is found here, in the same words; all
 * else is the daemon's to say.
 *
 * A request may arrive twice (client.c).  Claims and reports are absolute; a
 * join is recognised by its cookie, which is made here; a poll, a cancel or a
 * release whose first reply was lost finds nothing the second time, and that
 * is taken for what it must mean.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "client.h"

#define PATIENCE_MS     5000
#define STATUS_TRIES    5
#define HOLD_MS         200
#define NS_PER_MS       (UINT64_C(1000) * 1000)

/* Opening -------------------------------------------------------------- */

bool remote_is_socket(const char *path)
{
    struct stat st;

    return stat(path, &st) == 0 && S_ISSOCK(st.st_mode);
}

/* Absolute, since the process may go elsewhere before it connects again. */
static int keep_path(struct remote *r, const char *path,
                     struct ballast_refusal *why)
{
    char *whole = realpath(path, NULL);
    int err = whole ? 0 : -errno;

    if (!err && strlen(whole) >= sizeof(r->path)) {
        err = -ENAMETOOLONG;
    }
    if (err) {
        refuse_system(why, err, "%.100s", path);
    } else {
        strcpy(r->path, whole);
    }
    free(whole);
    return err;
}

static void handle_free(struct ballast_ledger *l)
{
    struct remote *r = l->remote;

    if (r->fd >= 0) {
        close(r->fd);
    }
    pthread_mutex_destroy(&r->lock);
    free(r);
    free(l);
}

static struct ballast_ledger *handle_new(void)
{
    struct ballast_ledger *l = calloc(1, sizeof(*l));
    struct remote *r = calloc(1, sizeof(*r));

    if (!l || !r) {
        free(l);
        free(r);
        return NULL;
    }
    pthread_mutex_init(&r->lock, NULL);
    r->fd = -1;
    r->pid = getpid();
    r->patience_ms = PATIENCE_MS;
    l->fd = -1;
    l->slot = SLOT_NONE;
    l->remote = r;
    return l;
}

/* Connects by asking for something harmless. */
static int first_call(struct ballast_ledger *l, struct ballast_refusal *why)
{
    int err;

    if (!client_begin(l, WIRE_HELLO, 0, &err, why)) {
        return err;
    }
    err = client_call(l, why);
    client_done(l);
    return err;
}

int remote_open(const char *path, struct ballast_ledger **out,
                struct ballast_refusal *why)
{
    struct ballast_ledger *l = handle_new();
    int err;

    why_init(why);
    if (!l) {
        return refuse_system(why, -ENOMEM, "opening %.80s", path);
    }
    err = keep_path(l->remote, path, why);
    if (!err) {
        err = first_call(l, why);
    }
    if (err) {
        handle_free(l);
        return err;
    }
    *out = l;
    return 0;
}

void remote_close(struct ballast_ledger *l)
{
    if (!l->bequeathed) {
        remote_leave(l);
    }
    handle_free(l);
}

void remote_set_patience(struct ballast_ledger *l, uint32_t ms)
{
    struct remote *r = l->remote;

    pthread_mutex_lock(&r->lock);
    r->patience_ms = ms;
    if (r->fd >= 0) {
        close(r->fd);   /* the socket has the old one; the next call connects */
        r->fd = -1;
    }
    pthread_mutex_unlock(&r->lock);
}

/* Membership ------------------------------------------------------------ */

static int make_cookie(uint64_t cookie[2])
{
    ssize_t n = getrandom(cookie, sizeof(uint64_t) * 2, 0);

    return n == (ssize_t)sizeof(uint64_t) * 2 ? 0 : -EIO;
}

static void became_member(struct ballast_ledger *l)
{
    struct remote *r = l->remote;

    l->slot = r->in.reply.member.slot;
    l->serial = r->in.reply.member.serial;
    l->joined_pid = r->pid;
    l->bequeathed = false;
    r->joined = true;
    r->lost = false;
}

static int join_call(struct ballast_ledger *l, const char *name,
                     uint64_t max_bytes, struct ballast_refusal *why)
{
    struct remote *r = l->remote;
    struct wire_request *q;
    int err;

    q = client_begin(l, WIRE_JOIN, 0, &err, why);
    if (!q) {
        return err;
    }
    if (l->slot != SLOT_NONE) {
        err = refuse_system(why, -EALREADY, "this handle has joined");
    } else if (make_cookie(r->cookie)) {
        err = refuse_system(why, -EIO, "random numbers");
    }
    if (!err) {
        wire_put_string(q->name, name, sizeof(q->name));
        memcpy(q->cookie, r->cookie, sizeof(q->cookie));
        q->max_bytes = max_bytes;
        err = client_call(l, why);
    }
    if (!err) {
        became_member(l);
    }
    client_done(l);
    return err;
}

int remote_join(struct ballast_ledger *l, const char *name,
                uint64_t max_bytes, struct ballast_refusal *why)
{
    char by_pid[32];
    int err;

    why_init(why);
    if (!name) {
        snprintf(by_pid, sizeof(by_pid), "pid-%d", (int)getpid());
        name = by_pid;
    }
    err = slot_check_name(name, why);
    return err ? err : join_call(l, name, max_bytes, why);
}

/* What the daemon does not hear of, the end of the process tells it. */
void remote_leave(struct ballast_ledger *l)
{
    struct remote *r = l->remote;
    int err;

    if (l->slot == SLOT_NONE || r->pid != getpid()) {
        l->slot = SLOT_NONE;
        return;
    }
    if (client_begin(l, WIRE_LEAVE, 0, &err, NULL)) {
        client_call(l, NULL);
        client_done(l);
    }
    r->joined = r->lost = false;
    l->slot = SLOT_NONE;
    l->bequeathed = false;
}

/* Handing on ------------------------------------------------------------ */

/* socket=PATH,slot=N,serial=N,cookie=32 digits; the path is behind the rest. */
#define BEQUEST_FORMAT "slot=%" PRIu32 ",serial=%" PRIu64 ",cookie=%016" \
    PRIx64 "%016" PRIx64 ",socket=%s"

bool remote_is_bequest(const char *claim)
{
    return strncmp(claim, "slot=", 5) == 0 && strstr(claim, ",socket=");
}

int remote_bequeath(struct ballast_ledger *l, char *buf, size_t len)
{
    struct remote *r = l->remote;
    int n, err;

    if (l->slot == SLOT_NONE) {
        return -ENOTCONN;
    }
    n = snprintf(buf, len, BEQUEST_FORMAT, l->slot, l->serial, r->cookie[0],
                 r->cookie[1], r->path);
    if (n < 0 || (size_t)n >= len) {
        return -ENOSPC;
    }
    if (!client_begin(l, WIRE_BEQUEATH, 0, &err, NULL)) {
        return err;
    }
    err = client_call(l, NULL);
    client_done(l);
    l->bequeathed |= !err;
    return err;
}

/* Digits only: no blanks, no signs, nothing behind. */
static bool parse_number(const char **s, const char *key, int base,
                         size_t digits, uint64_t max, uint64_t *value)
{
    size_t key_len = strlen(key), len;
    char text[24] = "";

    if (strncmp(*s, key, key_len) != 0) {
        return false;
    }
    *s += key_len;
    len = strspn(*s, base == 16 ? "0123456789abcdef" : "0123456789");
    if (digits ? len < digits : len < 1 || len > 20) {
        return false;
    }
    len = digits ? digits : len;
    memcpy(text, *s, len);
    *s += len;
    errno = 0;
    *value = strtoull(text, NULL, base);
    return !errno && *value <= max;
}

static int parse_bequest(const char *claim, struct ballast_ledger *l,
                         const char **path, struct ballast_refusal *why)
{
    struct remote *r = l->remote;
    const char *s = claim;
    uint64_t slot;

    if (!parse_number(&s, "slot=", 10, 0, SLOTS_MAX - 1, &slot) ||
        !parse_number(&s, ",serial=", 10, 0, UINT64_MAX, &l->serial) ||
        !parse_number(&s, ",cookie=", 16, 16, UINT64_MAX, &r->cookie[0]) ||
        !parse_number(&s, "", 16, 16, UINT64_MAX, &r->cookie[1]) ||
        strncmp(s, ",socket=/", 9) != 0) {
        return refuse_system(why, -EINVAL, BALLAST_ENV_CLAIM " is not of the "
                             "form slot=N,serial=N,cookie=X,socket=PATH");
    }
    l->slot = (uint32_t)slot;
    *path = s + 8;
    return 0;
}

static int adopt_call(struct ballast_ledger *l, struct ballast_refusal *why)
{
    struct remote *r = l->remote;
    struct wire_request *q;
    int err;

    q = client_begin(l, WIRE_ATTACH, 0, &err, why);
    if (!q) {
        return err;
    }
    q->slot = l->slot;
    q->serial = l->serial;
    memcpy(q->cookie, r->cookie, sizeof(q->cookie));
    q->flags = WIRE_ADOPT;
    err = client_call(l, why);
    if (!err) {
        became_member(l);
    }
    client_done(l);
    return err;
}

int remote_adopt(const char *claim, struct ballast_ledger **out,
                 struct ballast_refusal *why)
{
    struct ballast_ledger *l = handle_new();
    const char *path = NULL;
    int err;

    why_init(why);
    if (!l) {
        return refuse_system(why, -ENOMEM, "adopting a claim");
    }
    err = parse_bequest(claim, l, &path, why);
    if (!err) {
        err = keep_path(l->remote, path, why);
    }
    if (!err) {
        err = adopt_call(l, why);
    }
    if (err) {
        handle_free(l);
        return err;
    }
    *out = l;
    return 0;
}

/* Claims ---------------------------------------------------------------- */

static int check_set(const void *set, size_t nr, struct ballast_refusal *why)
{
    if (nr > BALLAST_MAX_DEMANDS) {
        return refuse(why, BALLAST_TOO_MANY_ENTRIES);
    }
    if (nr && !set) {
        return refuse_system(why, -EFAULT, "%zu entries, but no list", nr);
    }
    return 0;
}

static void put_demands(struct remote *r, const struct ballast_demand *set,
                        size_t nr)
{
    if (nr) {
        memcpy(r->out.set.demands, set, nr * sizeof(*set));
    }
}

int remote_claim(struct ballast_ledger *l, const struct ballast_demand *set,
                 size_t nr, struct ballast_refusal *why)
{
    int err;

    why_init(why);
    err = check_set(set, nr, why);
    if (err || !client_begin(l, WIRE_CLAIM, nr, &err, why)) {
        return err;
    }
    put_demands(l->remote, set, nr);
    err = client_call(l, why);
    client_done(l);
    return err;
}

int remote_report(struct ballast_ledger *l, const struct ballast_usage *set,
                  size_t nr)
{
    int err = check_set(set, nr, NULL);

    if (err || !client_begin(l, WIRE_REPORT, nr, &err, NULL)) {
        return err;
    }
    if (nr) {
        memcpy(l->remote->out.set.usages, set, nr * sizeof(*set));
    }
    err = client_call(l, NULL);
    client_done(l);
    return err;
}

static int own_call(struct ballast_ledger *l, uint32_t bytes,
                    struct ballast_own *cells, size_t room)
{
    struct remote *r = l->remote;
    uint32_t nr;
    int err;

    if (!client_begin(l, WIRE_OWN, 0, &err, NULL)) {
        return err;
    }
    memset(&r->out, 0, bytes);
    r->out.head.op = WIRE_OWN;
    r->out.head.bytes = bytes;
    err = client_call(l, NULL);
    nr = r->in.head.nr;
    if (!err && nr * sizeof(*cells) > wire_payload_room(bytes)) {
        err = -EPROTO;
    }
    if (!err) {
        nr = nr < room ? nr : (uint32_t)room;
        if (nr) {
            memcpy(cells, r->in.reply.own, nr * sizeof(*cells));
        }
        err = (int)(r->in.head.value & INT32_MAX);
    }
    client_done(l);
    return err;
}

/* In a large message only if there is more than a small one holds. */
int remote_own(struct ballast_ledger *l, struct ballast_own *cells, size_t nr)
{
    const int few = (WIRE_SMALL_BYTES - WIRE_PAYLOAD_OFFSET) / sizeof(*cells);
    int used = own_call(l, WIRE_SMALL_BYTES, cells, nr);

    if (used > few && nr > (size_t)few) {
        used = own_call(l, WIRE_LARGE_BYTES, cells, nr);
    }
    return used;
}

static int check_standing(const char *name, const struct ballast_demand *set,
                          size_t nr, struct ballast_refusal *why)
{
    int err;

    why_init(why);
    err = slot_check_name(name, why);
    return err ? err : check_set(set, nr, why);
}

int remote_stand(struct ballast_ledger *l, const char *name,
                 const struct ballast_demand *set, size_t nr, pid_t pid,
                 struct ballast_refusal *why)
{
    struct wire_request *q;
    int err;

    err = check_standing(name, set, nr, why);
    if (err) {
        return err;
    }
    q = client_begin(l, WIRE_STAND, nr, &err, why);
    if (!q) {
        return err;
    }
    wire_put_string(q->name, name, sizeof(q->name));
    q->pid = pid;
    put_demands(l->remote, set, nr);
    err = client_call(l, why);
    client_done(l);
    return err;
}

int remote_release(struct ballast_ledger *l, const char *name,
                   struct ballast_refusal *why)
{
    struct wire_request *q;
    int err;

    why_init(why);
    err = slot_check_name(name, why);
    if (err) {
        return err;
    }
    q = client_begin(l, WIRE_RELEASE, 0, &err, why);
    if (!q) {
        return err;
    }
    wire_put_string(q->name, name, sizeof(q->name));
    err = client_call(l, why);
    if (err == -ENOENT && l->remote->repeated) {
        why_init(why);
        err = 0;
    }
    client_done(l);
    return err;
}

int remote_sweep(struct ballast_ledger *l)
{
    int err;

    if (!client_begin(l, WIRE_SWEEP, 0, &err, NULL)) {
        return err;
    }
    err = client_call(l, NULL);
    if (!err) {
        err = (int)(l->remote->in.head.value & INT32_MAX);
    }
    client_done(l);
    return err;
}

/* Waiting --------------------------------------------------------------- */

static int queue_call(struct ballast_ledger *l,
                      const struct ballast_demand *set, size_t nr,
                      uint64_t timeout_ms, struct ballast_refusal *why)
{
    struct wire_request *q;
    int err;

    q = client_begin(l, WIRE_QUEUE, nr, &err, why);
    if (!q) {
        return err;
    }
    q->timeout_ms = timeout_ms;
    put_demands(l->remote, set, nr);
    err = client_call(l, why);
    client_done(l);
    return err;
}

int remote_queue(struct ballast_ledger *l, const struct ballast_demand *set,
                 size_t nr, uint64_t timeout_ms, struct ballast_refusal *why)
{
    struct remote *r = l->remote;
    int err;

    why_init(why);
    err = check_set(set, nr, why);
    if (err) {
        return err;
    }
    if (nr) {
        memcpy(r->wanted, set, nr * sizeof(*set));
    }
    r->nr_wanted = (uint32_t)nr;
    return queue_call(l, set, nr, timeout_ms, why);
}

/*
 * If the reply that it was granted is lost, there is no entry the second
 * time: asking once more is granted at once if it was, and comes to its
 * time-out if that was what we were not told.
 */
static int poll_call(struct ballast_ledger *l, uint64_t hold_ms,
                     struct ballast_refusal *why)
{
    struct remote *r = l->remote;
    struct wire_request *q;
    bool repeated;
    int err;

    why_init(why);
    q = client_begin(l, WIRE_POLL, 0, &err, why);
    if (!q) {
        return err;
    }
    q->timeout_ms = hold_ms;
    err = client_call(l, why);
    repeated = r->repeated;
    client_done(l);
    return err == -ENOENT && repeated ?
           queue_call(l, r->wanted, r->nr_wanted, 0, why) : err;
}

int remote_queue_poll(struct ballast_ledger *l, struct ballast_refusal *why)
{
    return poll_call(l, 0, why);
}

int remote_queue_cancel(struct ballast_ledger *l)
{
    int err;

    if (!client_begin(l, WIRE_CANCEL, 0, &err, NULL)) {
        return err;
    }
    err = client_call(l, NULL);
    if (err == -ENOENT && l->remote->repeated) {
        err = 0;
    }
    client_done(l);
    return err;
}

static uint64_t ms_until(uint64_t deadline_ns, uint64_t most_ms)
{
    uint64_t now = host_now_ns();
    uint64_t ms = deadline_ns > now ? (deadline_ns - now) / NS_PER_MS + 1 : 0;

    return ms < most_ms ? ms : most_ms;
}

/* The daemon keeps its reply back for a while: the handle is busy so long. */
static uint64_t most_held_ms(const struct ballast_ledger *l)
{
    uint32_t half_ms = l->remote->patience_ms / 2;

    return half_ms < HOLD_MS ? half_ms : HOLD_MS;
}

int remote_claim_wait(struct ballast_ledger *l,
                      const struct ballast_demand *set, size_t nr,
                      uint64_t timeout_ms, struct ballast_refusal *why)
{
    uint64_t deadline_ns = queue_deadline(timeout_ms);
    int err = remote_queue(l, set, nr, timeout_ms, why);

    while (err == -EINPROGRESS) {
        err = poll_call(l, ms_until(deadline_ns, most_held_ms(l)), why);
    }
    return err;
}

static int stand_queue_call(struct ballast_ledger *l,
                            const struct stand_ask *ask,
                            struct wire_place *place,
                            struct ballast_refusal *why)
{
    struct remote *r = l->remote;
    struct wire_request *q;
    int err;

    q = client_begin(l, WIRE_STAND_QUEUE, ask->nr, &err, why);
    if (!q) {
        return err;
    }
    wire_put_string(q->name, ask->name, sizeof(q->name));
    q->pid = ask->pid;
    q->timeout_ms = ask->timeout_ms;
    q->flags = ask->again ? WIRE_AGAIN : 0;
    put_demands(r, ask->set, ask->nr);
    err = client_call(l, why);
    *place = r->in.reply.place;
    client_done(l);
    return err;
}

/* As poll_call(): what is not there the second time is asked for once more. */
static int stand_poll_call(struct ballast_ledger *l, struct stand_ask *ask,
                           uint64_t hold_ms, struct wire_place *place,
                           struct ballast_refusal *why)
{
    struct wire_request *q;
    bool repeated;
    int err;

    why_init(why);
    q = client_begin(l, WIRE_STAND_POLL, 0, &err, why);
    if (!q) {
        return err;
    }
    wire_put_string(q->name, ask->name, sizeof(q->name));
    q->pid = ask->pid;
    q->timeout_ms = hold_ms;
    q->slot = place->slot;
    q->serial = place->serial;
    q->cookie[0] = place->ticket;
    err = client_call(l, why);
    repeated = l->remote->repeated;
    client_done(l);
    if (err != -ENOENT || !repeated) {
        return err;
    }
    ask->again = true;
    ask->timeout_ms = 0;
    why_init(why);
    return stand_queue_call(l, ask, place, why);
}

int remote_stand_wait(struct ballast_ledger *l, const char *name,
                      const struct ballast_demand *set, size_t nr, pid_t pid,
                      uint64_t timeout_ms, struct ballast_refusal *why)
{
    struct stand_ask ask = { .name = name, .set = set, .nr = nr, .pid = pid,
                             .timeout_ms = timeout_ms };
    uint64_t deadline_ns = queue_deadline(timeout_ms);
    struct wire_place place;
    int err;

    err = check_standing(name, set, nr, why);
    if (!err) {
        err = stand_queue_call(l, &ask, &place, why);
    }
    while (err == -EINPROGRESS) {
        err = stand_poll_call(l, &ask, ms_until(deadline_ns, most_held_ms(l)),
                              &place, why);
    }
    return err;
}

/* Status ---------------------------------------------------------------- */

/* With the handle locked; a page of what STATUS or CHECK has collected. */
static int page_call(struct ballast_ledger *l, enum wire_op op,
                     uint32_t offset)
{
    struct remote *r = l->remote;

    memset(&r->out, 0, sizeof(r->out));
    r->out.head.op = op;
    r->out.head.bytes = WIRE_LARGE_BYTES;
    r->out.request.offset = offset;
    return client_call(l, NULL);
}

static int get_cells(struct ballast_ledger *l, struct ballast_status *st)
{
    const struct wire_reply *reply = &l->remote->in.reply;
    size_t got = 0;
    int err = 0;

    while (!err && got < st->nr_cells) {
        err = page_call(l, WIRE_CELLS, (uint32_t)got);
        if (!err && (!reply->head.nr || reply->head.nr > st->nr_cells - got ||
                     reply->head.nr * sizeof(*st->cells) >
                     sizeof(reply->payload))) {
            err = -EPROTO;
        }
        if (!err) {
            memcpy(st->cells + got, reply->payload,
                   reply->head.nr * sizeof(*st->cells));
            got += reply->head.nr;
        }
    }
    return err;
}

static int get_participant(const struct wire_reply *reply, size_t *at,
                           struct ballast_participant *p)
{
    size_t left = sizeof(reply->payload) - *at;
    struct wire_participant w;

    if (left < sizeof(w)) {
        return -EPROTO;
    }
    memcpy(&w, reply->payload + *at, sizeof(w));
    *at += sizeof(w);
    left -= sizeof(w);
    if (w.nr_cells > left / sizeof(*p->cells)) {
        return -EPROTO;
    }
    memcpy(p->name, w.name, sizeof(p->name));
    p->name[sizeof(p->name) - 1] = '\0';
    p->state = (enum ballast_state)w.state;
    p->pid = w.pid;
    p->uid = w.uid;
    p->slot = w.slot;
    p->serial = w.serial;
    p->max_bytes = w.max_bytes;
    p->served = w.served;
    p->queue_place = w.queue_place;
    p->waited_ms = w.waited_ms;
    p->cells = calloc(w.nr_cells + 1, sizeof(*p->cells));
    if (!p->cells) {
        return -ENOMEM;
    }
    p->nr_cells = w.nr_cells;
    memcpy(p->cells, reply->payload + *at, w.nr_cells * sizeof(*p->cells));
    *at += w.nr_cells * sizeof(*p->cells);
    return 0;
}

static int get_participants(struct ballast_ledger *l,
                            struct ballast_status *st, uint32_t nr)
{
    const struct wire_reply *reply = &l->remote->in.reply;
    uint32_t i;
    size_t at;
    int err = 0;

    while (!err && st->nr_participants < nr) {
        err = page_call(l, WIRE_PARTICIPANTS, (uint32_t)st->nr_participants);
        if (!err && (!reply->head.nr ||
                     reply->head.nr > nr - st->nr_participants)) {
            err = -EPROTO;
        }
        for (i = 0, at = 0; !err && i < reply->head.nr; i++) {
            err = get_participant(reply, &at,
                                  &st->participants[st->nr_participants]);
            st->nr_participants += !err;
        }
    }
    return err;
}

static struct ballast_status *status_from(const struct wire_status *w)
{
    struct ballast_status *st;

    if (w->nr_cells > MAX_CELLS || w->nr_participants > SLOTS_MAX) {
        return NULL;
    }
    st = calloc(1, sizeof(*st));
    if (!st) {
        return NULL;
    }
    st->admission = (enum ballast_admission)w->admission;
    st->count_cache_percent = w->count_cache_percent;
    st->nr_slots = w->nr_slots;
    st->nr_waiting = w->nr_waiting;
    st->nr_nodes = w->nr_nodes;
    st->nr_classes = w->nr_classes;
    st->nr_cells = w->nr_cells;
    st->cells = calloc(w->nr_cells + 1, sizeof(*st->cells));
    st->participants = calloc(w->nr_participants + 1,
                              sizeof(*st->participants));
    if (!st->cells || !st->participants) {
        ballast_status_free(st);
        return NULL;
    }
    return st;
}

/* -ESTALE: the daemon has forgotten, or is another one by now. */
static int status_try(struct ballast_ledger *l, struct ballast_status **out)
{
    struct remote *r = l->remote;
    struct ballast_status *st;
    uint32_t nr;
    int err = client_call(l, NULL);

    if (err) {
        return err;
    }
    nr = r->in.reply.status.nr_participants;
    st = status_from(&r->in.reply.status);
    if (!st) {
        return -ENOMEM;
    }
    err = get_cells(l, st);
    if (!err) {
        err = get_participants(l, st, nr);
    }
    if (err) {
        ballast_status_free(st);
        return err;
    }
    *out = st;
    return 0;
}

int remote_status_get(struct ballast_ledger *l, struct ballast_status **out)
{
    int tries, err = 0;

    for (tries = 0; tries < STATUS_TRIES; tries++) {
        if (!client_begin(l, WIRE_STATUS, 0, &err, NULL)) {
            return err;
        }
        err = status_try(l, out);
        client_done(l);
        if (err != -ESTALE) {
            break;
        }
    }
    return err;
}

static int get_findings(struct ballast_ledger *l, uint32_t nr,
                        ballast_finding *report, void *opaque)
{
    const struct wire_reply *reply = &l->remote->in.reply;
    const size_t most = sizeof(reply->payload) / sizeof(struct wire_finding);
    struct wire_finding w;
    uint32_t got = 0, i;
    int err = 0;

    while (!err && got < nr) {
        err = page_call(l, WIRE_FINDINGS, got);
        if (!err && (!reply->head.nr || reply->head.nr > nr - got ||
                     reply->head.nr > most)) {
            err = -EPROTO;
        }
        for (i = 0; !err && i < reply->head.nr; i++) {
            memcpy(&w, reply->payload + i * sizeof(w), sizeof(w));
            w.text[sizeof(w.text) - 1] = '\0';
            if (report) {
                report(opaque, (enum ballast_severity)w.severity, w.text);
            }
        }
        got += err ? 0 : reply->head.nr;
    }
    return err;
}

int remote_check(struct ballast_ledger *l, unsigned flags,
                 ballast_finding *report, void *opaque)
{
    struct wire_request *q;
    uint32_t nr;
    int err, bad;

    q = client_begin(l, WIRE_CHECK, 0, &err, NULL);
    if (!q) {
        return err;
    }
    q->flags = flags;
    err = client_call(l, NULL);
    nr = l->remote->in.head.nr;
    bad = (int)(l->remote->in.head.value & INT32_MAX);
    if (!err) {
        err = get_findings(l, nr, report, opaque);
    }
    client_done(l);
    return err ? err : bad;
}
