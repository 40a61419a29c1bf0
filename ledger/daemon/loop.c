/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The loop: connections, and whose turn it is.
 *
 * Fairness: the kernel's list of ready descriptors is a queue, and one
 * message is taken from a client per turn: whoever sends without pause is
 * served as often as everybody else.  A reply is sent without waiting; a
 * client that lets replies pile up until its socket is full is dropped.
 * A connection that does not say hello in five seconds is dropped, and a user
 * has so many connections and no more.
 */
#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "daemon.h"

#define EVENTS          64
#define ACCEPTS         16
#define SEND_BYTES      (128 * 1024)
#define IDLE_NS         (UINT64_C(60) * 1000 * 1000 * 1000)
#define TICK_HELLO_MS   200
#define TICK_ENDING_MS  10
#define TICK_HELD_MS    50
#define TICK_ACCEPT_MS  100
#define NS_PER_MS       (UINT64_C(1000) * 1000)

int loop_add(struct daemon *d, int fd, enum event_kind kind, uint32_t index)
{
    struct epoll_event event = {
        .events = EPOLLIN,
        .data.u64 = (uint64_t)kind << 32 | index,
    };

    return epoll_ctl(d->epoll_fd, EPOLL_CTL_ADD, fd, &event) ? -errno : 0;
}

void loop_log_counters(struct daemon *d, const char *event)
{
    const struct counters *n = &d->counters;

    log_line(LOG_LINE | LOG_ASKED, "event=%s clients=%u participants=%u messages=%" PRIu64
             " joins=%" PRIu64 " leaves=%" PRIu64 " deaths=%" PRIu64
             " refusals=%" PRIu64 " clients-refused=%" PRIu64
             " clients-dropped=%" PRIu64 " bad-size=%" PRIu64 " bad-magic=%"
             PRIu64 " bad-version=%" PRIu64 " bad-op=%" PRIu64 " bad-count=%"
             PRIu64 " bad-padding=%" PRIu64 " bad-string=%" PRIu64
             " bad-sender=%" PRIu64, event, d->nr_clients, d->nr_watched,
             n->messages, n->joins, n->leaves, n->deaths, n->refusals,
             n->refused_clients, n->dropped_clients,
             n->faults[WIRE_BAD_SIZE], n->faults[WIRE_BAD_MAGIC],
             n->faults[WIRE_BAD_VERSION], n->faults[WIRE_BAD_OP],
             n->faults[WIRE_BAD_COUNT], n->faults[WIRE_BAD_PADDING],
             n->faults[WIRE_BAD_STRING], n->faults[WIRE_BAD_SENDER]);
}

/* @why: what the client did, or NULL if it just went. */
void client_drop(struct daemon *d, struct client *c, const char *why)
{
    uint32_t slot = c->ledger.slot;

    if (why) {
        d->counters.dropped_clients++;
        log_line(LOG_NOTE, "event=drop uid=%u pid=%d reason=%s", c->who.uid,
                 c->who.pid, why);
    }
    if (slot != SLOT_NONE) {
        d->watches[slot].client = NOBODY;
    }
    snapshot_drop(c);
    d->nr_held -= c->held;
    c->held = false;
    close(c->fd);
    close(c->pidfd);
    c->fd = c->pidfd = -1;
    d->nr_hellos -= !c->greeted;
    d->accounts[c->account].nr_clients--;
    d->nr_clients--;
}

static struct client *free_client(struct daemon *d)
{
    uint32_t i;

    for (i = 0; i < d->options.max_clients; i++) {
        if (d->clients[i].fd < 0) {
            return &d->clients[i];
        }
    }
    return NULL;
}

static void turn_away(struct daemon *d, int fd,
                      const struct credentials *who,
                      const struct ballast_refusal *why)
{
    d->counters.refused_clients++;
    log_line(LOG_NOTE, "event=turned-away uid=%u pid=%d reason=%s detail=%s",
             who->uid, who->pid, ballast_reason_name(why->reason),
             log_quoted(why->detail));
    serve_refusal(d, fd, why);
    close(fd);
}

/* 0, or why not. */
static int may_connect(struct daemon *d, int fd, const struct credentials *who,
                       struct access *access, struct ballast_refusal *why)
{
    const struct account *a = &d->accounts[account_of(d, who->uid)];

    why_init(why);
    access_of(&d->options, fd, who, access);
    if (!access->allowed) {
        return refuse_detail(why, BALLAST_NOT_ALLOWED, "user %u is not "
                             "served", who->uid);
    }
    if (a->nr_clients >= d->options.max_clients_per_uid) {
        return refuse_detail(why, BALLAST_NOT_ALLOWED, "user %u has %u "
                             "connections, and may have no more", who->uid,
                             a->nr_clients);
    }
    if (d->nr_clients >= d->options.max_clients) {
        return refuse_detail(why, BALLAST_NOT_ALLOWED, "there are %u "
                             "connections, and no more are allowed",
                             d->nr_clients);
    }
    return 0;
}

static void welcome(struct daemon *d, int fd, const struct credentials *who,
                    const struct access *access)
{
    struct client *c = free_client(d);
    int bytes = SEND_BYTES;

    memset(c, 0, offsetof(struct client, ledger));
    c->pidfd = -1;
    if (watch_open(fd, who, &c->pidfd, &c->who)) {
        c->fd = -1;
        close(fd);      /* it is gone already, or cannot be told from others */
        return;
    }
    setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof(bytes));
    c->fd = fd;
    c->access = *access;
    c->account = account_of(d, who->uid);
    c->hello_until_ns = host_now_ns() + HELLO_MS * NS_PER_MS;
    c->ledger = *d->ledger;
    c->ledger.slot = SLOT_NONE;
    c->ledger.serving = true;
    c->place.placed = false;
    c->snapshot = NULL;
    d->accounts[c->account].nr_clients++;
    d->nr_clients++;
    d->nr_hellos++;
    if (loop_add(d, fd, EVENT_CLIENT, (uint32_t)(c - d->clients))) {
        client_drop(d, c, "no-memory");
    }
}

static void listen_pause(struct daemon *d, bool pause)
{
    if (d->listening == pause) {
        epoll_ctl(d->epoll_fd, EPOLL_CTL_DEL, d->listen_fd, NULL);
        d->listening = !pause && !loop_add(d, d->listen_fd, EVENT_LISTEN, 0);
    }
}

/* False when there is nobody, or no descriptor for anybody. */
static bool accept_one(struct daemon *d)
{
    struct credentials who;
    struct ballast_refusal why;
    struct access access;
    struct ucred cred;
    socklen_t len = sizeof(cred);
    int fd = accept4(d->listen_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

    if (fd < 0) {
        if (errno == EMFILE || errno == ENFILE || errno == ENOMEM) {
            log_failure("accept", -errno);
            listen_pause(d, true);
        }
        return false;
    }
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len)) {
        close(fd);
        return true;
    }
    who = (struct credentials){ cred.pid, cred.uid, cred.gid };
    if (may_connect(d, fd, &who, &access, &why)) {
        turn_away(d, fd, &who, &why);
    } else {
        welcome(d, fd, &who, &access);
    }
    return true;
}

/* Whether the process that connected has sent it, and no child of its. */
static bool sender_is(const struct msghdr *h, const struct client *c)
{
    const struct cmsghdr *m = CMSG_FIRSTHDR(h);
    struct ucred cred;

    if (!m || m->cmsg_level != SOL_SOCKET ||
        m->cmsg_type != SCM_CREDENTIALS ||
        m->cmsg_len < CMSG_LEN(sizeof(cred))) {
        return false;
    }
    memcpy(&cred, CMSG_DATA(m), sizeof(cred));
    return cred.pid == c->who.pid;
}

/* There is no room for descriptors, so none can be handed to us. */
static void client_event(struct daemon *d, struct client *c)
{
    union {
        struct cmsghdr align;
        char room[CMSG_SPACE(sizeof(struct ucred))];
    } control;
    struct iovec iov = { &d->in, sizeof(d->in) };
    struct msghdr h = {
        .msg_iov = &iov, .msg_iovlen = 1,
        .msg_control = &control, .msg_controllen = sizeof(control),
    };
    ssize_t n;

    if (c->fd < 0) {
        return;
    }
    n = recvmsg(c->fd, &h, MSG_DONTWAIT | MSG_TRUNC | MSG_CMSG_CLOEXEC);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
        return;
    }
    if (n <= 0) {
        client_drop(d, c, NULL);
        return;
    }
    if (!sender_is(&h, c)) {
        d->counters.faults[WIRE_BAD_SENDER]++;
        client_drop(d, c, "bad-sender");
        return;
    }
    serve(d, c, (size_t)n);
}

static void signal_event(struct daemon *d)
{
    struct signalfd_siginfo info;

    while (read(d->signal_fd, &info, sizeof(info)) == sizeof(info)) {
        if (info.ssi_signo == SIGUSR1) {
            loop_log_counters(d, "figures");
        } else {
            d->stop = true;
        }
    }
}

static void handle(struct daemon *d, uint64_t data)
{
    uint32_t index = (uint32_t)data;
    int left;

    switch ((enum event_kind)(data >> 32)) {
    case EVENT_LISTEN:
        for (left = ACCEPTS; left && accept_one(d); left--) {
            continue;
        }
        break;
    case EVENT_SIGNAL:
        signal_event(d);
        break;
    case EVENT_CLIENT:
        client_event(d, &d->clients[index]);
        break;
    case EVENT_WATCH:
        watch_event(d, index);
        break;
    }
}

static bool is_end(const struct epoll_event *e)
{
    return e->data.u64 >> 32 == EVENT_WATCH;
}

/*
 * Ends of processes first: a client that was just served is in the list again
 * ahead of them, and who asks after a death must find it.
 */
static void handle_all(struct daemon *d, const struct epoll_event *events,
                       int nr)
{
    int i;

    for (i = 0; i < nr; i++) {
        if (is_end(&events[i])) {
            handle(d, events[i].data.u64);
        }
    }
    for (i = 0; i < nr; i++) {
        if (!is_end(&events[i])) {
            handle(d, events[i].data.u64);
        }
    }
}

static void drop_silent(struct daemon *d)
{
    uint64_t now = host_now_ns();
    uint32_t i;

    for (i = 0; i < d->options.max_clients && d->nr_hellos; i++) {
        struct client *c = &d->clients[i];

        if (c->fd >= 0 && !c->greeted && c->hello_until_ns <= now) {
            client_drop(d, c, "no-hello");
        }
    }
}

static void tick(struct daemon *d)
{
    uint64_t now;

    if (d->nr_hellos) {
        drop_silent(d);
    }
    if (d->nr_ending) {
        watch_tick(d);
    }
    if (!d->listening) {
        listen_pause(d, false);
    }
    if (d->options.idle_log) {
        now = host_now_ns();
        if (now >= d->idle_at_ns) {
            loop_log_counters(d, "figures");
            d->idle_at_ns = now + IDLE_NS;
        }
    }
}

static int tick_ms(const struct daemon *d)
{
    return d->nr_ending ? TICK_ENDING_MS : d->nr_held ? TICK_HELD_MS :
           !d->listening ? TICK_ACCEPT_MS :
           d->nr_hellos ? TICK_HELLO_MS : d->options.idle_log ? 1000 : -1;
}

static int loop_start(struct daemon *d)
{
    int err;

    d->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (d->epoll_fd < 0) {
        return log_failure("epoll", -errno);
    }
    err = loop_add(d, d->signal_fd, EVENT_SIGNAL, 0);
    if (!err) {
        watch_existing(d);
        err = loop_add(d, d->listen_fd, EVENT_LISTEN, 0);
        d->listening = !err;
    }
    return err ? log_failure("epoll", err) : 0;
}

/* Ticks come from idle waits, or else at every so many events. */
int loop_run(struct daemon *d)
{
    struct epoll_event events[EVENTS];
    uint64_t tick_at = 0;
    int nr;

    if (loop_start(d)) {
        return 1;
    }
    log_line(LOG_NOTE, "event=ready ledger=%s uid=%u clients-max=%u "
             "per-uid-max=%u", log_quoted(d->options.ledger), geteuid(),
             d->options.max_clients, d->options.max_clients_per_uid);
    start_notify("READY=1\n");
    while (!d->stop) {
        nr = epoll_wait(d->epoll_fd, events, EVENTS, tick_ms(d));
        if (nr < 0 && errno != EINTR) {
            return log_failure("epoll_wait", -errno), 1;
        }
        handle_all(d, events, nr);
        if (d->nr_held) {
            serve_held(d);
        }
        if (tick_ms(d) >= 0 && (nr <= 0 || host_now_ns() >= tick_at)) {
            tick(d);
            tick_at = host_now_ns() + TICK_ENDING_MS * NS_PER_MS;
        }
    }
    start_notify("STOPPING=1\n");
    loop_log_counters(d, "stop");
    return d->status;
}
