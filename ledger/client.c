/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A client's connection to the daemon.
 *
 * Invariants:
 *  - a call ends within the handle's patience, whatever the daemon does;
 *  - a request is sent again only on a new connection, after HELLO, and
 *    ATTACH if the handle had joined: requests are made so that they may
 *    arrive twice;
 *  - a handle belongs to the process that opened it: the kernel tells the
 *    daemon who connected, and a forked child is somebody else.
 *
 * Crash story: a daemon that dies closes the connection, or leaves the
 * request unread: both end as an error of the socket, and the call starts
 * over with the next daemon.  What a client knows is its slot, its serial
 * number and its cookie; the claim itself is in the file.
 *
 * Lock order: remote.lock alone.
 */
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "client.h"

#define WAIT_FIRST_MS   1
#define WAIT_MOST_MS    100
#define STUCK_NS        (UINT64_C(1000) * 1000 * 1000)
#define NS_PER_MS       (UINT64_C(1000) * 1000)

static void disconnect(struct remote *r)
{
    if (r->fd >= 0) {
        close(r->fd);
        r->fd = -1;
    }
}

static int set_timeouts(int fd, uint32_t ms)
{
    struct timeval tv = { .tv_sec = ms / 1000,
                          .tv_usec = (suseconds_t)(ms % 1000 * 1000) };

    if (!ms) {
        tv.tv_usec = 1000;      /* zero would mean for ever */
    }
    return setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof(tv)) ||
           setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &tv, sizeof(tv)) ?
           -errno : 0;
}

static int connect_socket(struct remote *r)
{
    struct sockaddr_un to = { .sun_family = AF_UNIX };
    int err;

    r->fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (r->fd < 0) {
        return -errno;
    }
    memcpy(to.sun_path, r->path, sizeof(r->path));
    err = set_timeouts(r->fd, r->patience_ms);
    if (!err && connect(r->fd, (struct sockaddr *)&to, sizeof(to))) {
        err = -errno;
    }
    if (err) {
        disconnect(r);
    }
    return err;
}

static int receive(struct remote *r, const struct wire_head *request)
{
    union wire_message *in = &r->in;
    bool again = true;
    ssize_t n;

    for (;;) {
        n = recv(r->fd, in, sizeof(*in), MSG_TRUNC);
        if (n > 0) {
            break;
        }
        if (n < 0 && errno == EINTR) {
            continue;
        }
        /* A daemon that refused and closed: its words are still there. */
        if (n < 0 && errno == ECONNRESET && again) {
            again = false;
            continue;
        }
        return n == 0 ? -ECONNRESET : errno == EAGAIN ? -ETIMEDOUT : -errno;
    }
    if ((size_t)n > sizeof(*in)) {
        return -EPROTO;
    }
    if (in->head.sequence == 0 && in->head.op == WIRE_HELLO) {
        return wire_check_reply(in, (size_t)n, &in->head) ? -EPROTO : 0;
    }
    return in->head.sequence != request->sequence ? -EPROTO :
           wire_check_reply(in, (size_t)n, request);
}

static int exchange(struct remote *r, struct wire_head *out)
{
    ssize_t n;

    out->magic = WIRE_MAGIC;
    out->version = WIRE_VERSION;
    out->sequence = ++r->sequence;
    do {
        n = send(r->fd, out, out->bytes, MSG_NOSIGNAL);
    } while (n < 0 && errno == EINTR);
    if (n < 0 && errno != EPIPE && errno != ECONNRESET) {
        return errno == EAGAIN ? -ETIMEDOUT : -errno;
    }
    return receive(r, out);
}

/* HELLO and ATTACH do not disturb the request that waits in ->out. */
static int exchange_plain(struct remote *r, struct wire_plain *p,
                          enum wire_op op)
{
    p->request.head.op = op;
    p->request.head.bytes = sizeof(*p);
    return exchange(r, &p->request.head);
}

/* @geo is the handle's: set once, and what a later daemon says must fit. */
static int learn_geometry(struct geometry *geo, const struct wire_geometry *w)
{
    if (w->nr_nodes < 1 || w->nr_nodes > BALLAST_MAX_NODES ||
        w->nr_classes < 1 || w->nr_classes > BALLAST_MAX_CLASSES) {
        return -EPROTO;
    }
    geo->nr_nodes = w->nr_nodes;
    geo->nr_classes = w->nr_classes;
    geo->nr_cells = (w->nr_nodes + 1) * w->nr_classes;
    geo->nr_slots = w->nr_slots;
    memcpy(geo->node_id, w->node_id, sizeof(geo->node_id));
    memcpy(geo->page_bytes, w->page_bytes, sizeof(geo->page_bytes));
    return 0;
}

static int reply_error(const struct remote *r, struct ballast_refusal *why)
{
    if (why) {
        wire_get_refusal(why, &r->in.reply.why);
    }
    return r->in.head.err;
}

static int say_hello(struct ballast_ledger *l, struct ballast_refusal *why)
{
    struct remote *r = l->remote;
    struct wire_plain p = { .zero = { 0 } };
    int err = exchange_plain(r, &p, WIRE_HELLO);

    if (!err && r->in.head.err) {
        err = reply_error(r, why);
        disconnect(r);
        return err;
    }
    if (!err) {
        err = learn_geometry(&l->geo, &r->in.reply.geometry);
    }
    return err;
}

/* On a connection that has said hello: be the participant that one was. */
int client_attach(struct ballast_ledger *l, uint32_t flags,
                  struct ballast_refusal *why)
{
    struct remote *r = l->remote;
    struct wire_plain p = { .request = {
        .slot = l->slot, .serial = l->serial, .flags = flags,
        .cookie = { r->cookie[0], r->cookie[1] },
    } };
    int err = exchange_plain(r, &p, WIRE_ATTACH);

    if (!err && r->in.head.err) {
        err = reply_error(r, why);
        r->lost = err == -ESHUTDOWN;
    }
    return err;
}

/* Errors after which another connection may help. */
static bool is_link_error(int err)
{
    switch (err) {
    case -ECONNRESET:
    case -ECONNREFUSED:
    case -ECONNABORTED:
    case -EPIPE:
    case -ENOENT:
    case -EAGAIN:
    case -ETIMEDOUT:
        return true;
    default:
        return false;
    }
}

/* What went wrong with the link, as opposed to what the daemon said. */
static int make_link(struct ballast_ledger *l, bool *answered,
                     struct ballast_refusal *why)
{
    struct remote *r = l->remote;
    int err;

    *answered = false;
    if (r->fd >= 0) {
        return 0;
    }
    err = connect_socket(r);
    if (!err) {
        err = say_hello(l, why);
        *answered = err && r->fd < 0;
    }
    if (!err && r->joined) {
        err = client_attach(l, 0, why);
        *answered = r->lost;
    }
    return err;
}

static void sleep_ms(uint64_t ms)
{
    struct timespec t = { .tv_sec = (time_t)(ms / 1000),
                          .tv_nsec = (long)(ms % 1000 * NS_PER_MS) };

    nanosleep(&t, NULL);
}

static int no_daemon(struct remote *r, int err, struct ballast_refusal *why)
{
    return refuse_detail(why, BALLAST_NO_DAEMON, "%.80s: %s", r->path,
                         err == -ETIMEDOUT ? "no answer" : strerror(-err));
}

static int protocol_error(struct remote *r, int err,
                          struct ballast_refusal *why)
{
    if (err == -EPROTONOSUPPORT) {
        return refuse_detail(why, BALLAST_OTHER_FORMAT, "the daemon speaks "
                             "version %u, this program %u",
                             r->in.head.version, WIRE_VERSION);
    }
    return refuse_system(why, err, "talking to %.80s", r->path);
}

/* One try: 0 with a reply in ->in, or an error; *answered if it is final. */
static int try_once(struct ballast_ledger *l, bool *answered,
                    struct ballast_refusal *why)
{
    struct remote *r = l->remote;
    int err = make_link(l, answered, why);

    if (err || *answered) {
        return err;
    }
    if (r->repeated && r->out.head.op == WIRE_STAND_QUEUE) {
        r->out.request.flags |= WIRE_AGAIN;
    }
    err = exchange(r, &r->out.head);
    r->repeated |= err != 0;
    return err;
}

static int call_until(struct ballast_ledger *l, uint64_t deadline_ns,
                      struct ballast_refusal *why)
{
    struct remote *r = l->remote;
    uint64_t wait_ms = WAIT_FIRST_MS;
    bool answered;
    int err;

    for (;;) {
        err = try_once(l, &answered, why);
        if (!err) {
            return 0;
        }
        if (answered) {
            return err;
        }
        disconnect(r);
        if (!is_link_error(err)) {
            return protocol_error(r, err, why);
        }
        if (host_now_ns() + wait_ms * NS_PER_MS >= deadline_ns) {
            r->silent = err == -ETIMEDOUT;
            r->stuck_until_ns = host_now_ns() + STUCK_NS;
            return no_daemon(r, err, why);
        }
        sleep_ms(wait_ms);
        wait_ms = wait_ms * 2 > WAIT_MOST_MS ? WAIT_MOST_MS : wait_ms * 2;
    }
}

static int lost_slot(struct remote *r, struct ballast_refusal *why)
{
    return r->lost ? refuse(why, BALLAST_DYING) : 0;
}

/* The reply is in ->in; returns what it says. */
int client_call(struct ballast_ledger *l, struct ballast_refusal *why)
{
    struct remote *r = l->remote;
    uint64_t now = host_now_ns(), patience_ns = r->patience_ms * NS_PER_MS;
    int err;

    r->repeated = false;
    if (now < r->stuck_until_ns) {
        if (r->silent) {
            return no_daemon(r, -ETIMEDOUT, why);
        }
        patience_ns = 0;        /* that there is none is found out at once */
    }
    err = call_until(l, now + patience_ns, why);
    if (!err) {
        r->stuck_until_ns = 0;
    }
    return err ? err : reply_error(r, why);
}

/* Makes a request of @nr entries; more than fit were refused before. */
struct wire_request *client_begin(struct ballast_ledger *l, enum wire_op op,
                                  size_t nr, int *err,
                                  struct ballast_refusal *why)
{
    struct remote *r = l->remote;
    size_t bytes = wire_request_bytes(op, nr);

    if (r->pid != getpid()) {
        *err = refuse_detail(why, BALLAST_NOT_JOINED, "this handle belongs to "
                             "the process that opened it");
        return NULL;
    }
    pthread_mutex_lock(&r->lock);
    *err = op == WIRE_STATUS || op == WIRE_SWEEP ? 0 : lost_slot(r, why);
    if (*err) {
        pthread_mutex_unlock(&r->lock);
        return NULL;
    }
    memset(&r->out, 0, bytes);
    r->out.head.op = op;
    r->out.head.bytes = (uint32_t)bytes;
    r->out.head.nr = (uint32_t)nr;
    return &r->out.request;
}

void client_done(struct ballast_ledger *l)
{
    pthread_mutex_unlock(&l->remote->lock);
}
