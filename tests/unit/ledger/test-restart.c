/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The daemon is killed, again and again, while thirty-two processes join,
 * claim, report, wait and leave through it.  None of them may notice; what
 * each was last granted is what it has.
 */
#include <sys/mman.h>

#include "helper.h"

#define CLIENTS     32
#define CAPACITY    GIB(64)
#define SECONDS     5

static char path[256];
static volatile int *stop;

struct state {
    uint64_t claimed_bytes;
    bool joined;
};

static bool good(int err)
{
    return err == 0 || err == -ENOMEM || err == -EBUSY;
}

static int complain(const char *what, int err)
{
    printf("# client %d: %s: %d\n", (int)getpid(), what, err);
    fflush(stdout);
    return 1;
}

static int step(struct ballast_ledger *l, struct state *s, const char *name,
                unsigned *seed)
{
    const struct ballast_demand d = {
        .node = (uint32_t)rand_r(seed) % 2,
        .bytes = MIB((unsigned)rand_r(seed) % 4096),
    };
    int err;

    if (!s->joined) {
        err = ballast_join(l, name, 0, NULL);
        s->joined = !err;
        return err ? complain("join", err) : 0;
    }
    switch (rand_r(seed) % 8) {
    case 0:
        ballast_leave(l);
        *s = (struct state){ 0 };
        return 0;
    case 1:
        err = ballast_claim_wait(l, &d, 1, 20, NULL);
        err = err == -ETIMEDOUT ? -ENOMEM : err;
        break;
    default:
        err = ballast_claim(l, &d, 1, NULL);
        break;
    }
    if (!good(err)) {
        return complain("claim", err);
    }
    s->claimed_bytes = err ? s->claimed_bytes : d.bytes;
    err = REPORT1(l, d.node, s->claimed_bytes / 2 & ~UINT64_C(4095));
    if (err) {
        return complain("report", err);
    }
    err = REPORT1(l, d.node, 0);
    return err ? complain("report", err) :
           own_claim(l) != s->claimed_bytes ? complain("not what it was", 0) :
           0;
}

static int be_client(unsigned seed)
{
    struct ballast_ledger *l = must_open(path);
    struct state s = { 0 };
    char name[32];
    int bad = 0;

    alarm(60);
    /* A daemon lives for 5 to 45 ms here: on a busy host for few clients. */
    ballast_set_patience(l, 30 * 1000);
    snprintf(name, sizeof(name), "c%u", seed);
    while (!*stop && !bad) {
        bad = step(l, &s, name, &seed);
    }
    ballast_ledger_close(l);
    return bad;
}

static void test_torture(void)
{
    uint64_t end = host_now_ns() + SECONDS * UINT64_C(1000000000);
    struct ballast_ledger *l;
    pid_t pids[CLIENTS];
    unsigned seed = 5;
    int i, status, bad = 0, kills = 0;
    bool ok = true;

    strcpy(path, new_ledger("torture", 2, CAPACITY));
    l = must_open(path);
    for (i = 0; i < CLIENTS; i++) {
        pids[i] = fork_child();
        if (pids[i] == 0) {
            _exit(be_client((unsigned)i + 1));
        }
    }
    while (host_now_ns() < end) {
        usleep(5000 + (unsigned)rand_r(&seed) % 40000);
        daemon_kill(path);
        daemon_start(path);
        ok &= identity_holds(behind(l));
        kills++;
    }
    *stop = 1;
    for (i = 0; i < CLIENTS; i++) {
        waitpid(pids[i], &status, 0);
        bad += status != 0;
    }
    OK(!bad, "%d clients did not notice that the daemon was killed %d times",
       CLIENTS, kills);
    OK(ok && identity_holds(l) && ballast_check(l, 0, NULL, NULL) == 0,
       "the identity held each time");
    OK(free_on(l, 0) == (int64_t)CAPACITY && free_on(l, 1) ==
       (int64_t)CAPACITY && nr_in_state(l, BALLAST_RUNNING) == 0,
       "and all capacity is back");
    ballast_ledger_close(l);
}

/* Who waits keeps the place: it is in the file. */
static void test_waiting(void)
{
    struct ballast_ledger *full, *a, *b;
    const struct ballast_demand d = { .node = 0, .bytes = GIB(4) };
    struct ballast_refusal why;

    strcpy(path, new_ledger("waiting", 1, GIB(8)));
    full = must_join(path, "full");
    a = must_join(path, "a");
    b = must_join(path, "b");
    CLAIM1(full, 0, GIB(8), NULL);
    ballast_queue(a, &d, 1, BALLAST_WAIT_FOREVER, NULL);
    ballast_queue(b, &d, 1, BALLAST_WAIT_FOREVER, NULL);
    daemon_kill(path);
    daemon_start(path);
    OK(ballast_queue_poll(b, &why) == -EINPROGRESS && why.nr_ahead == 1 &&
       ballast_queue_poll(a, &why) == -EINPROGRESS && why.nr_ahead == 0,
       "after a restart, the line is what it was");
    CLAIM1(full, 0, GIB(4), NULL);
    OK(ballast_queue_poll(b, &why) == -EINPROGRESS &&
       ballast_queue_poll(a, &why) == 0, "and the first is served first");
    ballast_ledger_close(a);
    ballast_ledger_close(b);
    ballast_ledger_close(full);
}

/* Who ended while there was no daemon is found by the next one. */
static void test_death_between(void)
{
    struct ballast_ledger *l;
    pid_t pid;

    strcpy(path, new_ledger("between", 1, GIB(8)));
    l = must_open(path);
    pid = fork_child();
    if (pid == 0) {
        struct ballast_ledger *own = must_join(path, "child");

        CLAIM1(own, 0, GIB(6), NULL);
        daemon_kill(path);      /* not ours to reap: the parent does */
        pause();
    }
    waitpid(daemon_pid(path), NULL, 0);
    kill_and_reap(pid);
    daemon_start(path);
    OK(free_on(l, 0) == GIB(8) && nr_in_state(l, BALLAST_RUNNING) == 0,
       "who died without a daemon is buried by the next");
    ballast_ledger_close(l);
}

/* Nobody who is served has a lock that would tell a reboot from damage. */
static void test_damaged_boot_id(void)
{
    struct ballast_ledger *l;

    strcpy(path, new_ledger("bootid", 2, GIB(8)));
    l = must_join(path, "vm");
    CLAIM1(l, 0, GIB(3), NULL);
    daemon_kill(path);
    behind(l)->header->boot_id[2] ^= 1;
    daemon_start(path);
    OK(own_claim(l) == GIB(3) && free_on(l, 0) == GIB(5) &&
       identity_holds(l), "a damaged boot id takes nobody's claim");
    ballast_ledger_close(l);
}

int main(void)
{
    stop = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
                -1, 0);
    alarm(100);
    test_torture();
    test_waiting();
    test_death_between();
    test_damaged_boot_id();
    return tap_done();
}
