/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What a claim and its release cost through ballastd, against two bare round
 * trips of the same message size to a process that sends back what it gets.
 * The two take turns, a few hundred each.  Prints "key value_ns" lines.
 *
 * Usage: daemon_bench BALLASTD
 */
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "ballast/admin.h"
#include "bench.h"
#include "wire.h"

#define ROUNDS  61
#define LOOPS   300

static char dir[] = "/dev/shm/ballast-bench-XXXXXX";
static char file[64], sock[64];
static pid_t pids[2];
static int echo_fd;

static void clean_up(void)
{
    int i;

    for (i = 0; i < 2; i++) {
        if (pids[i] > 0) {
            kill(pids[i], SIGTERM);
            waitpid(pids[i], NULL, 0);
        }
    }
    unlink(file);
    unlink(sock);
    rmdir(dir);
}

static void fail(const char *what)
{
    perror(what);
    clean_up();
    exit(1);
}

static void echo(int fd)
{
    static char buf[WIRE_SMALL_BYTES];
    ssize_t n;

    while ((n = recv(fd, buf, sizeof(buf), 0)) > 0) {
        if (send(fd, buf, (size_t)n, MSG_NOSIGNAL) != n) {
            break;
        }
    }
    _exit(0);
}

static void start_echo(void)
{
    int fds[2];

    if (socketpair(AF_UNIX, SOCK_SEQPACKET, 0, fds)) {
        fail("socketpair");
    }
    pids[0] = fork();
    if (pids[0] == 0) {
        close(fds[0]);
        echo(fds[1]);
    }
    close(fds[1]);
    echo_fd = fds[0];
}

static void start_daemon(const char *program)
{
    struct stat st;
    int tries;

    pids[1] = fork();
    if (pids[1] == 0) {
        prctl(PR_SET_PDEATHSIG, SIGTERM);
        freopen("/dev/null", "w", stderr);
        execl(program, program, "--ledger", file, "--socket", sock, NULL);
        _exit(127);
    }
    for (tries = 0; tries < 5000 && stat(sock, &st); tries++) {
        usleep(1000);
    }
}

static struct ballast_ledger *open_ledger(const char *program)
{
    struct ballast_config config = {
        .nr_nodes = 1, .nr_classes = 3, .admission = BALLAST_ADMIT_STATIC,
        .page_bytes = { 4096, 2 << 20, 1 << 30 },
        .capacity_bytes = { { UINT64_C(16) << 30 } },
    };
    struct ballast_ledger *l;

    if (!mkdtemp(dir)) {
        fail(dir);
    }
    snprintf(file, sizeof(file), "%s/ledger", dir);
    snprintf(sock, sizeof(sock), "%s/socket", dir);
    if (ballast_ledger_create(file, &config, 0, NULL)) {
        fail("creating a ledger");
    }
    start_echo();
    start_daemon(program);
    if (ballast_ledger_open(sock, &l, NULL) ||
        ballast_join(l, "bench", 0, NULL)) {
        fail("joining");
    }
    return l;
}

static double time_claims(struct ballast_ledger *l)
{
    const struct ballast_demand d = { .node = 0, .bytes = 1 << 30 };
    uint64_t start = now_ns();
    int i;

    for (i = 0; i < LOOPS; i++) {
        if (ballast_claim(l, &d, 1, NULL) || ballast_claim(l, NULL, 0, NULL)) {
            fail("a claim");
        }
    }
    return (double)(now_ns() - start) / LOOPS;
}

static double time_echo(void)
{
    static char buf[WIRE_SMALL_BYTES];
    uint64_t start = now_ns();
    int i;

    for (i = 0; i < 2 * LOOPS; i++) {
        if (send(echo_fd, buf, sizeof(buf), 0) != sizeof(buf) ||
            recv(echo_fd, buf, sizeof(buf), 0) != sizeof(buf)) {
            fail("an echo");
        }
    }
    return (double)(now_ns() - start) / LOOPS;
}

/*
 * A wake-up on another processor takes several times as long as all the rest
 * here, and the scheduler has the pairs on one processor or on two as it
 * likes.  So all run on one: the difference is what each does.
 */
static void on_one_processor(void)
{
    cpu_set_t one;

    CPU_ZERO(&one);
    CPU_SET(sched_getcpu(), &one);
    if (sched_setaffinity(0, sizeof(one), &one)) {
        fail("staying on one processor");
    }
}

int main(int argc, char **argv)
{
    double ours[ROUNDS], theirs[ROUNDS];
    struct ballast_ledger *l;
    int r;

    if (argc != 2) {
        fputs("usage: daemon_bench BALLASTD\n", stderr);
        return 2;
    }
    on_one_processor();
    l = open_ledger(argv[1]);
    for (r = 0; r < ROUNDS; r++) {
        theirs[r] = time_echo();
        ours[r] = time_claims(l);
    }
    printf("ledger.claim_daemon %.1f\n", median(ours, ROUNDS));
    printf("socket.two_round_trips %.1f\n", median(theirs, ROUNDS));
    ballast_ledger_close(l);
    clean_up();
    return 0;
}
