/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Messages that no client of ours would send, and clients that behave badly:
 * each fault is counted, answered or the sender dropped, and the next client
 * is served as if nothing had been.
 */
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>

#include "helper.h"
#include "wire.h"

static char path[256];
static struct ballast_ledger *good;
static union wire_message out, in;
static uint64_t sequence;

static int raw_connect(void)
{
    struct sockaddr_un to = { .sun_family = AF_UNIX };
    struct timeval tv = { .tv_sec = 10 };
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

    strcpy(to.sun_path, path);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof(tv));
    if (connect(fd, (struct sockaddr *)&to, sizeof(to))) {
        abort();
    }
    return fd;
}

static void make(uint32_t op, uint32_t bytes)
{
    memset(&out, 0, sizeof(out));
    out.head.magic = WIRE_MAGIC;
    out.head.version = WIRE_VERSION;
    out.head.op = op;
    out.head.bytes = bytes;
    out.head.sequence = ++sequence;
}

/* The reply's err; 1 when the connection was closed instead. */
static int say(int fd, size_t bytes)
{
    ssize_t n;

    if (send(fd, &out, bytes, MSG_NOSIGNAL) < 0) {
        return 1;
    }
    n = recv(fd, &in, sizeof(in), 0);
    if (n <= 0) {
        return n == 0 || errno == ECONNRESET ? 1 : -errno;
    }
    return in.head.sequence == out.head.sequence ? in.head.err : 2;
}

static int greeted(void)
{
    int fd = raw_connect();

    make(WIRE_HELLO, WIRE_SMALL_BYTES);
    if (say(fd, WIRE_SMALL_BYTES)) {
        abort();
    }
    return fd;
}

/* A figure of the line that SIGUSR1 asks for. */
static long counter(const char *key)
{
    const char *line = NULL, *s;
    char mark[64], found[64];
    static int asked;
    int tries;

    snprintf(found, sizeof(found), " %s=", key);
    asked++;
    kill(daemon_pid(path), SIGUSR1);
    for (tries = 0; tries < 2000; tries++) {
        int seen = 0;

        for (s = daemon_log(path); (s = strstr(s, "event=figures")); s++) {
            seen++;
            line = s;
        }
        if (seen == asked) {
            break;
        }
        usleep(1000);
    }
    snprintf(mark, sizeof(mark), "%s", found);
    s = line ? strstr(line, mark) : NULL;
    return s ? strtol(s + strlen(mark), NULL, 10) : -1;
}

static bool all_is_well(void)
{
    return CLAIM1(good, 0, MIB(64), NULL) == 0 && identity_holds(good);
}

static void test_frames(void)
{
    static const size_t sizes[] = { 1, 63, 64, 1535, 1537, 32767, 32768 };
    long before = counter("bad-size");
    size_t i;
    int fd;

    for (i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        fd = greeted();
        make(WIRE_OWN, WIRE_SMALL_BYTES);
        OK(say(fd, sizes[i]) == 1, "%zu bytes end the connection", sizes[i]);
        close(fd);
    }
    fd = greeted();
    make(WIRE_JOIN, WIRE_LARGE_BYTES);
    OK(say(fd, WIRE_LARGE_BYTES) == 1, "so does a join in a large message");
    close(fd);
    OK(counter("bad-size") == before + 8, "each is counted");
    before = counter("bad-magic");
    fd = greeted();
    make(WIRE_OWN, WIRE_SMALL_BYTES);
    out.head.magic ^= 1;
    OK(say(fd, WIRE_SMALL_BYTES) == 1 && counter("bad-magic") == before + 1,
       "so does a message of something else");
    close(fd);
    before = counter("bad-version");
    fd = greeted();
    make(WIRE_OWN, WIRE_SMALL_BYTES);
    out.head.version = 2;
    OK(say(fd, WIRE_SMALL_BYTES) == -EPROTONOSUPPORT &&
       in.head.version == WIRE_VERSION && say(fd, WIRE_SMALL_BYTES) == 1 &&
       counter("bad-version") == before + 1,
       "another version is told ours, and goes");
    close(fd);
    OK(all_is_well(), "all is well");
}

/* The good one waits, behind a claim of most; returns its ticket. */
static uint64_t wait_somewhere(void)
{
    const struct ballast_demand most = { .node = 0, .bytes = GIB(7) };
    const struct ballast_demand all = { .node = 0, .bytes = GIB(8) };

    ballast_stand(good, "most", &most, 1, 0, NULL);
    ballast_queue(good, &all, 1, 60000, NULL);
    return slot_at(behind(good), good->slot)->wait_ticket;
}

static void test_contents(void)
{
    long before = counter("bad-op");
    int fd = greeted();

    make(0, WIRE_SMALL_BYTES);
    OK(say(fd, WIRE_SMALL_BYTES) == -EOPNOTSUPP, "operation 0");
    make(WIRE_OPS, WIRE_SMALL_BYTES);
    OK(say(fd, WIRE_SMALL_BYTES) == -EOPNOTSUPP, "one too high");
    make(UINT32_MAX, WIRE_SMALL_BYTES);
    OK(say(fd, WIRE_SMALL_BYTES) == -EOPNOTSUPP &&
       counter("bad-op") == before + 3, "the highest, all counted");
    before = counter("bad-count");
    make(WIRE_CLAIM, WIRE_SMALL_BYTES);
    out.head.nr = 57;
    OK(say(fd, WIRE_SMALL_BYTES) == -E2BIG, "more entries than fit");
    make(WIRE_CLAIM, WIRE_LARGE_BYTES);
    out.head.nr = BALLAST_MAX_DEMANDS + 1;
    OK(say(fd, WIRE_LARGE_BYTES) == -E2BIG, "more than there can be");
    out.head.nr = UINT32_MAX;
    OK(say(fd, WIRE_LARGE_BYTES) == -E2BIG, "an absurd count");
    make(WIRE_OWN, WIRE_SMALL_BYTES);
    out.head.nr = 1;
    OK(say(fd, WIRE_SMALL_BYTES) == -E2BIG &&
       counter("bad-count") == before + 4, "where there are none, all counted");
    before = counter("bad-string");
    make(WIRE_JOIN, WIRE_SMALL_BYTES);
    memset(out.request.name, 'x', sizeof(out.request.name));
    OK(say(fd, WIRE_SMALL_BYTES) == -EPROTO, "a name without an end");
    make(WIRE_JOIN, WIRE_SMALL_BYTES);
    strcpy(out.request.name, "vm");
    out.request.name[10] = 'x';
    OK(say(fd, WIRE_SMALL_BYTES) == -EPROTO &&
       counter("bad-string") == before + 2, "something behind its end");
    make(WIRE_JOIN, WIRE_SMALL_BYTES);
    strcpy(out.request.name, "vm");
    OK(say(fd, WIRE_SMALL_BYTES) == -EINVAL, "a join without a cookie");
    make(WIRE_JOIN, WIRE_SMALL_BYTES);
    strcpy(out.request.name, "a\xc2\x9bz");
    out.request.cookie[0] = 1;
    OK(say(fd, WIRE_SMALL_BYTES) == -EINVAL &&
       in.reply.why.reason == BALLAST_BAD_NAME, "a name that is obeyed");
    make(WIRE_RELEASE, WIRE_SMALL_BYTES);
    strcpy(out.request.name, "a\xc2\x9bz");
    OK(say(fd, WIRE_SMALL_BYTES) == -EINVAL &&
       in.reply.why.reason == BALLAST_BAD_NAME, "nor is it looked for");
    make(WIRE_ATTACH, WIRE_SMALL_BYTES);
    out.request.slot = UINT32_MAX;
    OK(say(fd, WIRE_SMALL_BYTES) == -ESHUTDOWN, "a slot that cannot be");
    make(WIRE_STAND_QUEUE, WIRE_SMALL_BYTES);
    strcpy(out.request.name, "s");
    out.request.flags = WIRE_AGAIN << 1;
    OK(say(fd, WIRE_SMALL_BYTES) == -EINVAL, "a flag that there is not");
    make(WIRE_STAND_POLL, WIRE_SMALL_BYTES);
    strcpy(out.request.name, "s");
    out.request.slot = UINT32_MAX;
    out.request.cookie[0] = 1;
    OK(say(fd, WIRE_SMALL_BYTES) == -ENOENT, "a place that cannot be");
    out.request.slot = good->slot;
    out.request.serial = good->serial;
    out.request.cookie[0] = wait_somewhere();
    OK(out.request.cookie[0] && say(fd, WIRE_SMALL_BYTES) == -ENOENT &&
       ballast_queue_cancel(good) == 0 &&
       ballast_release(good, "most", NULL) == 0, "a participant's place");
    make(WIRE_PARTICIPANTS, WIRE_SMALL_BYTES);
    OK(say(fd, WIRE_SMALL_BYTES) == -ESTALE, "a page of no status");
    close(fd);
    OK(all_is_well(), "all is well");
}

/* Every byte of an operation that has no fields, one after another. */
static void test_padding(void)
{
    long before = counter("bad-padding");
    int fd = -1, bad = 0, said = 0;
    size_t i;

    for (i = offsetof(struct wire_head, err); i < WIRE_SMALL_BYTES; i++) {
        if (i >= offsetof(struct wire_head, nr) &&
            i < offsetof(struct wire_head, value)) {
            continue;
        }
        if (said % 50 == 0) {
            close(fd);
            fd = greeted();
        }
        make(WIRE_OWN, WIRE_SMALL_BYTES);
        out.bytes[i] = 1;
        bad += say(fd, WIRE_SMALL_BYTES) != -EPROTO;
        said++;
    }
    close(fd);
    OK(!bad && counter("bad-padding") == before + said,
       "%d bytes that must be zero, each refused and counted", said);
    fd = greeted();
    for (i = 0; i < 64; i++) {
        make(WIRE_OWN, WIRE_SMALL_BYTES);
        out.request.zero = 1;
        bad += say(fd, WIRE_SMALL_BYTES) != -EPROTO;
    }
    OK(!bad && say(fd, WIRE_SMALL_BYTES) == 1,
       "the sixty-fourth fault of a connection is its last");
    close(fd);
}

static void test_before_hello(void)
{
    int fd = raw_connect();

    make(WIRE_OWN, WIRE_SMALL_BYTES);
    OK(say(fd, WIRE_SMALL_BYTES) == -EOPNOTSUPP &&
       say(fd, WIRE_SMALL_BYTES) == 1, "nothing goes before hello");
    close(fd);
}

static uint64_t now_ms(void)
{
    return host_now_ns() / 1000000;
}

static void test_silent(void)
{
    int fd = raw_connect();
    uint64_t start = now_ms();
    char c;
    bool closed = recv(fd, &c, 1, 0) == 0;

    OK(closed && now_ms() - start >= 4000 && now_ms() - start < 9000,
       "who says nothing for five seconds is dropped");
    close(fd);
}

/* Requests without end, replies not read: the socket fills, and that is it. */
static void test_slow(void)
{
    int fd = greeted(), sent = 0;
    long before = counter("clients-dropped");

    for (sent = 0; sent < 100000; sent++) {
        make(WIRE_OWN, WIRE_SMALL_BYTES);
        if (send(fd, &out, WIRE_SMALL_BYTES, MSG_NOSIGNAL) < 0) {
            break;
        }
    }
    OK(sent < 100000 && counter("clients-dropped") == before + 1,
       "who reads no replies is dropped, after %d requests", sent);
    close(fd);
    OK(all_is_well(), "all is well");
}

static void flood(void)
{
    int fd = greeted();
    struct pollfd p = { .fd = fd, .events = POLLIN };
    int ahead = 0;

    for (;;) {
        make(WIRE_OWN, WIRE_SMALL_BYTES);
        if (ahead < 20 && send(fd, &out, WIRE_SMALL_BYTES, 0) > 0) {
            ahead++;
        }
        while (ahead && (poll(&p, 1, ahead < 20 ? 0 : 100) == 1) &&
               recv(fd, &in, sizeof(in), MSG_DONTWAIT) > 0) {
            ahead--;
        }
    }
}

/* Eight who send without pause, and one who asks politely. */
static void test_flood(void)
{
    pid_t pids[8];
    uint64_t start, ms;
    bool ok = true;
    int i;

    for (i = 0; i < 8; i++) {
        pids[i] = fork_child();
        if (pids[i] == 0) {
            flood();
        }
    }
    usleep(200000);
    start = now_ms();
    for (i = 0; i < 100; i++) {
        ok &= CLAIM1(good, 0, MIB(i), NULL) == 0;
    }
    ms = now_ms() - start;
    for (i = 0; i < 8; i++) {
        kill_and_reap(pids[i]);
    }
    OK(ok && ms < 2000, "a hundred claims beside a flood took %u ms",
       (unsigned)ms);
}

static void test_limit(void)
{
    struct ballast_ledger *more[40], *last = NULL;
    struct ballast_refusal why;
    char text[256];
    int i, n;

    for (n = 0; n < 40; n++) {
        if (ballast_ledger_open(path, &more[n], &why)) {
            break;
        }
    }
    ballast_refusal_text(&why, text, sizeof(text));
    OK(n == 31 && why.reason == BALLAST_NOT_ALLOWED && why.err == -EACCES,
       "a user has so many connections: %s", text);
    ballast_ledger_close(more[0]);
    for (i = 0; i < 1000 && !last; i++) {
        if (ballast_ledger_open(path, &last, &why)) {
            last = NULL;
            usleep(1000);
        }
    }
    OK(last != NULL, "one that goes makes room");
    ballast_ledger_close(last);
    for (i = 1; i < n; i++) {
        ballast_ledger_close(more[i]);
    }
    OK(all_is_well(), "all is well");
}

static int nr_fds(pid_t pid)
{
    char command[128];
    FILE *f;
    int n = -1;

    snprintf(command, sizeof(command), "ls /proc/%d/fd | wc -l", (int)pid);
    f = popen(command, "r");
    if (fscanf(f, "%d", &n) != 1) {
        n = -1;
    }
    pclose(f);
    return n;
}

static void test_descriptors(void)
{
    union {
        struct cmsghdr align;
        char room[CMSG_SPACE(8 * sizeof(int))];
    } control = { .align = { .cmsg_level = SOL_SOCKET,
                             .cmsg_type = SCM_RIGHTS,
                             .cmsg_len = CMSG_LEN(8 * sizeof(int)) } };
    struct iovec iov = { &out, WIRE_SMALL_BYTES };
    struct msghdr h = { .msg_iov = &iov, .msg_iovlen = 1,
                        .msg_control = &control,
                        .msg_controllen = sizeof(control) };
    int fd = greeted(), before = nr_fds(daemon_pid(path)), i;

    memset(CMSG_DATA(&control.align), 0, 8 * sizeof(int));
    for (i = 0; i < 20; i++) {
        make(WIRE_OWN, WIRE_SMALL_BYTES);
        if (sendmsg(fd, &h, 0) < 0 || recv(fd, &in, sizeof(in), 0) <= 0) {
            break;
        }
    }
    OK(i == 20 && nr_fds(daemon_pid(path)) == before && before > 0,
       "descriptors that are handed to the daemon are not taken");
    close(fd);
}

/* The socket of a client in its child: the kernel says who sends. */
static void test_child(void)
{
    long before = counter("bad-sender");
    int fd = greeted(), status;
    pid_t pid = fork_child();

    make(WIRE_OWN, WIRE_SMALL_BYTES);
    if (pid == 0) {
        _exit(say(fd, WIRE_SMALL_BYTES) == 1 ? 0 : 1);
    }
    waitpid(pid, &status, 0);
    OK(status == 0 && say(fd, WIRE_SMALL_BYTES) == 1 &&
       counter("bad-sender") == before + 1,
       "a forked child does not speak for its parent");
    close(fd);
}

static int join_as(int fd, const char *name, uint64_t cookie)
{
    make(WIRE_JOIN, WIRE_SMALL_BYTES);
    strcpy(out.request.name, name);
    out.request.cookie[1] = cookie;
    return say(fd, WIRE_SMALL_BYTES);
}

/* As after a crash of the daemon between the join and its reply. */
static void test_join_again(void)
{
    int one = greeted(), two = greeted(), three = greeted();
    struct wire_member first;

    OK(join_as(one, "twin", 7) == 0, "a join");
    first = in.reply.member;
    OK(join_as(two, "twin", 7) == 0 && in.reply.member.slot == first.slot &&
       in.reply.member.serial == first.serial,
       "the same once more finds the slot it made");
    OK(join_as(three, "twin", 8) == -EADDRINUSE,
       "another of that name does not");
    make(WIRE_OWN, WIRE_SMALL_BYTES);
    OK(say(one, WIRE_SMALL_BYTES) == -ENOTCONN,
       "a slot has one connection, the last");
    make(WIRE_LEAVE, WIRE_SMALL_BYTES);
    OK(say(two, WIRE_SMALL_BYTES) == 0, "which leaves");
    close(one);
    close(two);
    close(three);
}

/* Real messages with a few bytes changed; an op in range, most of the time. */
static void test_noise(void)
{
    unsigned seed = 7, i, k;
    int fd = -1, answered = 0, dropped = 0;

    for (i = 0; i < 20000; i++) {
        uint32_t bytes = rand_r(&seed) % 4 ? WIRE_SMALL_BYTES :
                         WIRE_LARGE_BYTES;

        if (fd < 0) {
            fd = greeted();
        }
        make(rand_r(&seed) % (WIRE_OPS + 1), bytes);
        if (out.head.op == WIRE_CLAIM || out.head.op == WIRE_REPORT ||
            out.head.op == WIRE_QUEUE || out.head.op == WIRE_STAND ||
            out.head.op == WIRE_STAND_QUEUE) {
            out.head.nr = rand_r(&seed) % 4;
        }
        for (k = rand_r(&seed) % 4; k; k--) {
            size_t at = 24 + (size_t)rand_r(&seed) % 300;

            out.bytes[at] = (uint8_t)rand_r(&seed);
        }
        if (out.head.op == WIRE_POLL || out.head.op == WIRE_STAND_POLL) {
            out.request.timeout_ms = 0;
        }
        if (say(fd, bytes) == 1) {
            close(fd);
            fd = -1;
            dropped++;
        } else {
            answered++;
        }
    }
    close(fd);
    OK(answered && dropped && all_is_well(),
       "noise: %d messages answered, %d senders dropped", answered, dropped);
}

int main(void)
{
    alarm(100);
    daemon_options[1] = "32";
    strcpy(path, new_ledger("wire", 2, GIB(8)));
    good = must_join(path, "good");
    test_frames();
    test_contents();
    test_padding();
    test_before_hello();
    test_slow();
    test_flood();
    test_limit();
    test_descriptors();
    test_child();
    test_join_again();
    test_noise();
    test_silent();
    ballast_ledger_close(good);
    return tap_done();
}
