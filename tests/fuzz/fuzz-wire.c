/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What clients may send to the daemon: three of them, an ordinary one, one
 * with a quota, and an administrator.
 *
 * The input is a list of messages in short: who, which operation, how many
 * entries, and words that are then changed at any place of the message.  So
 * most get past the first look, and all of them can be anything.
 *
 * After each: totals agree with the slots, a client that is no administrator
 * has changed no slot but its own, and the reply is one that a client takes.
 */
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "daemon/daemon.h"
#include "fuzz.h"

#define CLIENTS         3
#define ADMIN           2
#define MAX_MESSAGES    32

static struct daemon d;
static int peers[CLIENTS];
static uint8_t *file_now, *file_pristine;
static size_t file_bytes;
static union wire_message reply;

struct input {
    const uint8_t *at, *end;
};

static uint64_t take(struct input *in, unsigned bytes)
{
    uint64_t value = 0;
    unsigned i;

    for (i = 0; i < bytes && in->at < in->end; i++) {
        value |= (uint64_t)*in->at++ << 8 * i;
    }
    return value;
}

/* The daemon ----------------------------------------------------------- */

static void make_ledger(void)
{
    const char *path = fuzz_path("wire");
    struct ballast_config c = {
        .nr_nodes = 2, .nr_classes = 2, .nr_slots = 6,
        .admission = BALLAST_ADMIT_STATIC, .page_bytes = { 4096, 2 << 20 },
        .node_id = { 0, 2 },
    };
    uint32_t n;
    struct stat st;
    int fd;

    for (n = 0; n < 2; n++) {
        c.capacity_bytes[n][0] = UINT64_C(1) << 30;
        c.capacity_bytes[n][1] = UINT64_C(1) << 29;
    }
    if (ballast_ledger_create(path, &c, 0, NULL) ||
        ballast_ledger_open(path, &d.ledger, NULL)) {
        abort();
    }
    fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &st)) {
        abort();
    }
    file_bytes = (size_t)st.st_size;
    file_now = mmap(NULL, file_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd,
                    0);
    file_pristine = malloc(file_bytes);
    memcpy(file_pristine, file_now, file_bytes);
}

static void make_daemon(void)
{
    uint32_t i;

    make_ledger();
    d.options.max_clients = CLIENTS;
    d.options.max_clients_per_uid = CLIENTS;
    d.epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    d.clients = calloc(CLIENTS, sizeof(*d.clients));
    d.watches = calloc(d.ledger->geo.nr_slots, sizeof(*d.watches));
    d.accounts = calloc(d.ledger->geo.nr_slots + CLIENTS + 1,
                        sizeof(*d.accounts));
    for (i = 0; i < d.ledger->geo.nr_slots; i++) {
        d.watches[i] = (struct watch){
            .pidfd = -1, .account = NOBODY, .client = NOBODY,
        };
    }
    for (i = 0; i < CLIENTS; i++) {
        d.clients[i].fd = d.clients[i].pidfd = -1;
    }
    if (!freopen("/dev/null", "w", stdout)) {
        abort();
    }
}

static void connect_client(uint32_t i)
{
    struct client *c = &d.clients[i];
    int fds[2];

    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0,
                   fds)) {
        abort();
    }
    memset(c, 0, sizeof(*c));
    peers[i] = fds[1];
    c->fd = fds[0];
    identity_self(&c->who);
    c->who.uid = 1000 + i;
    c->pidfd = (int)syscall(SYS_pidfd_open, getpid(), 0);
    c->access = (struct access){
        .allowed = true, .observer = i == ADMIN, .admin = i == ADMIN,
        .quota_bytes = i == 1 ? UINT64_C(1) << 28 : NO_QUOTA,
    };
    c->account = account_of(&d, c->who.uid);
    c->hello_until_ns = UINT64_MAX;
    c->ledger = *d.ledger;
    c->ledger.slot = SLOT_NONE;
    c->ledger.serving = true;
    d.accounts[c->account].nr_clients++;
    d.nr_clients++;
    d.nr_hellos++;
}

static void start_over(void)
{
    uint32_t i;

    for (i = 0; i < CLIENTS; i++) {
        if (d.clients[i].fd >= 0) {
            client_drop(&d, &d.clients[i], NULL);
        }
        if (peers[i] > 0) {
            close(peers[i]);
        }
    }
    for (i = 0; i < d.ledger->geo.nr_slots; i++) {
        watch_forget(&d, i);
    }
    if (d.nr_clients || d.nr_watched || d.nr_held || d.nr_hellos) {
        fuzz_wrong("a count that is not zero when nobody is there");
    }
    d.stop = false;
    memcpy(file_now, file_pristine, file_bytes);
    for (i = 0; i < CLIENTS; i++) {
        connect_client(i);
    }
}

/* A message ------------------------------------------------------------ */

static void put_entries(struct input *in, struct wire_set *q)
{
    static const uint32_t nodes[] = { 0, 2, BALLAST_NODE_ANY, 1 };
    uint64_t bytes;
    uint32_t i;

    for (i = 0; i < q->request.head.nr; i++) {
        bytes = take(in, 2) << 16;
        if (q->request.head.op == WIRE_REPORT) {
            q->usages[i] = (struct ballast_usage){
                .node = nodes[take(in, 1) & 3], .resident_bytes = bytes,
                .freeable_bytes = bytes / 2,
            };
        } else {
            q->demands[i] = (struct ballast_demand){
                .node = nodes[take(in, 1) & 3], .bytes = bytes,
            };
        }
    }
}

static void put_fields(struct input *in, struct wire_request *q, uint32_t who)
{
    static const char *const names[] = { "one", "two", "stand", "" };

    switch ((enum wire_op)q->head.op) {
    case WIRE_JOIN:
        q->cookie[0] = who + 1;
        snprintf(q->name, sizeof(q->name), "%s", names[take(in, 1) & 3]);
        break;
    case WIRE_ATTACH:
        q->cookie[0] = (take(in, 1) & 3) + 1;
        q->slot = (uint32_t)take(in, 1) & 7;
        q->serial = take(in, 1) & 15;
        break;
    case WIRE_STAND:
    case WIRE_RELEASE:
        snprintf(q->name, sizeof(q->name), "%s", names[take(in, 1) & 3]);
        break;
    case WIRE_STAND_QUEUE:
        snprintf(q->name, sizeof(q->name), "%s", names[take(in, 1) & 3]);
        q->flags = (uint32_t)take(in, 1) & 1;
        q->timeout_ms = take(in, 1);
        break;
    case WIRE_STAND_POLL:
        snprintf(q->name, sizeof(q->name), "%s", names[take(in, 1) & 3]);
        q->slot = (uint32_t)take(in, 1) & 7;
        q->serial = take(in, 1) & 15;
        q->cookie[0] = take(in, 1) & 15;
        q->timeout_ms = take(in, 1);
        break;
    case WIRE_QUEUE:
    case WIRE_POLL:
        q->timeout_ms = take(in, 1);
        break;
    case WIRE_CHECK:
        q->flags = (uint32_t)take(in, 1) & 3;
        break;
    case WIRE_CELLS:
    case WIRE_PARTICIPANTS:
    case WIRE_FINDINGS:
        q->offset = (uint32_t)take(in, 1) & 7;
        break;
    default:
        break;
    }
}

/* Returns its length, which may be a lie, too. */
static size_t put_message(struct input *in, uint32_t who)
{
    static const uint32_t lengths[] = {
        WIRE_SMALL_BYTES, WIRE_LARGE_BYTES, 0, 64,
    };
    struct wire_request *q = &d.in.request;
    uint32_t shape, patches, i;
    size_t bytes, at;

    shape = (uint32_t)take(in, 1);
    memset(&d.in, 0, sizeof(d.in));
    q->head.magic = WIRE_MAGIC;
    q->head.version = WIRE_VERSION;
    q->head.op = (uint32_t)take(in, 1) % WIRE_OPS;
    q->head.sequence = d.counters.messages + 1;
    if (shape & 1) {
        q->head.nr = (uint32_t)take(in, 1) % 8;
    }
    put_entries(in, &d.in.set);
    put_fields(in, q, who);
    bytes = shape & 0x80 ? lengths[shape >> 1 & 3] :
            lengths[shape >> 1 & 1 && shape & 1];
    q->head.bytes = (uint32_t)bytes;
    patches = shape & 0x40 ? (uint32_t)take(in, 1) % 4 : 0;
    for (i = 0; i < patches; i++) {
        at = take(in, 2) % (bytes < 256 ? 256 : shape & 8 ? bytes : 256) / 4;
        ((uint32_t *)(void *)d.in.bytes)[at] = (uint32_t)take(in, 4);
    }
    return bytes;
}

/* What must not have changed ------------------------------------------- */

static void check_others(uint32_t who, uint32_t own_slot,
                         const uint8_t *before)
{
    const struct geometry *geo = &d.ledger->geo;
    uint32_t nr;

    for (nr = 0; nr < geo->nr_slots; nr++) {
        size_t at = geo->slots_offset + (size_t)nr * geo->slot_bytes;
        const struct file_slot *was = (const void *)(before + at);

        if (who != ADMIN && nr != own_slot && nr != d.clients[who].ledger.slot
            && was->state != SLOT_FREE &&
            was->cookie[0] != who + 1 &&
            memcmp(was, file_now + at, geo->slot_bytes) != 0) {
            fuzz_wrong("a client has changed a slot that is not its own");
        }
    }
}

static void check_reply(uint32_t who, const struct wire_head *request)
{
    ssize_t n = recv(peers[who], &reply, sizeof(reply), MSG_DONTWAIT);

    if (n > 0 && request->magic == WIRE_MAGIC &&
        request->version == WIRE_VERSION &&
        wire_check_reply(&reply, (size_t)n, request)) {
        fuzz_wrong("a reply that no client would take");
    }
}

static void send_one(struct input *in)
{
    static uint8_t before[65536];
    uint32_t who = (uint32_t)take(in, 1) % CLIENTS, slot;
    struct client *c = &d.clients[who];
    struct wire_head head;
    size_t bytes;

    if (c->fd < 0) {
        close(peers[who]);
        connect_client(who);
    }
    bytes = put_message(in, who);
    while (recv(peers[who], &reply, sizeof(reply), MSG_DONTWAIT) > 0) {
        continue;               /* what was held back until now */
    }
    head = d.in.head;
    slot = c->ledger.slot;
    memcpy(before, file_now, file_bytes);
    serve(&d, c, bytes);
    check_others(who, slot, before);
    check_reply(who, &head);
    if (!totals_agree(d.ledger)) {
        fuzz_wrong("totals that do not agree with the slots");
    }
    if (d.nr_held) {
        serve_held(&d);
    }
}

/* Everybody has said hello already, for the most part. */
static void greet(void)
{
    uint32_t i;

    for (i = 0; i < CLIENTS; i++) {
        memset(&d.in, 0, sizeof(d.in));
        d.in.head.magic = WIRE_MAGIC;
        d.in.head.version = WIRE_VERSION;
        d.in.head.op = WIRE_HELLO;
        d.in.head.bytes = WIRE_SMALL_BYTES;
        serve(&d, &d.clients[i], WIRE_SMALL_BYTES);
        recv(peers[i], &reply, sizeof(reply), MSG_DONTWAIT);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input in = { data, data + size };
    unsigned left = MAX_MESSAGES;

    if (!d.ledger) {
        make_daemon();
    }
    start_over();
    if (take(&in, 1) & 15) {
        greet();
    }
    while (in.at < in.end && left-- && !d.stop) {
        send_one(&in);
    }
    return 0;
}
