/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Life and death through a daemon: what a claim is bound to, who may adopt it,
 * and what a client does when the daemon is silent or gone.
 *
 * The program executes itself: "sleeper" does nothing.
 */
#include <fcntl.h>
#include <sys/stat.h>

#include "client.h"
#include "helper.h"

static struct ballast_refusal why;

static struct ballast_ledger *join_and_claim(const char *path)
{
    struct ballast_ledger *l = must_join(path, "child");

    if (CLAIM1(l, 0, GIB(6), NULL)) {
        _exit(1);
    }
    return l;
}

static void test_closed(void)
{
    const char *path = new_ledger("closed", 1, GIB(8));
    struct ballast_ledger *l = must_open(path);
    pid_t pid = fork_child();

    if (pid == 0) {
        close(join_and_claim(path)->remote->fd);
        say_ready('c');
        pause();
    }
    OK(wait_ready() == 'c' && nr_in_state(l, BALLAST_RUNNING) == 1 &&
       ballast_sweep(l) == 0 && free_on(l, 0) == GIB(2),
       "who closes its connection keeps its claim");
    kill_and_reap(pid);
    OK(free_on(l, 0) == GIB(8) && nr_in_state(l, BALLAST_RUNNING) == 0,
       "as long as it lives");
    ballast_ledger_close(l);
}

static void test_exec(void)
{
    const char *path = new_ledger("exec", 1, GIB(8));
    struct ballast_ledger *l = must_open(path);
    pid_t pid = fork_child();
    char fd[16];

    if (pid == 0) {
        join_and_claim(path);
        snprintf(fd, sizeof(fd), "%d", ready[1]);
        execl("/proc/self/exe", "test-daemon", "sleeper", fd, NULL);
        _exit(1);
    }
    OK(wait_ready() == 's' && nr_in_state(l, BALLAST_RUNNING) == 1 &&
       free_on(l, 0) == GIB(2), "a claim survives exec, with its process");
    kill_and_reap(pid);
    OK(free_on(l, 0) == GIB(8), "and ends with it");
    ballast_ledger_close(l);
}

static void test_forked_handle(void)
{
    const char *path = new_ledger("forked", 1, GIB(8));
    struct ballast_ledger *l = must_join(path, "parent");
    int status;
    pid_t pid;

    CLAIM1(l, 0, GIB(6), NULL);
    pid = fork_child();
    if (pid == 0) {
        int bad = CLAIM1(l, 0, 0, &why) != -ENOTCONN ||
                  why.reason != BALLAST_NOT_JOINED;

        bad |= REPORT1(l, 0, GIB(1)) != -ENOTCONN;
        ballast_ledger_close(l);
        _exit(bad);
    }
    waitpid(pid, &status, 0);
    OK(status == 0 && CLAIM1(l, 0, GIB(5), NULL) == 0 && free_on(l, 0) ==
       GIB(3), "a handle is its process's; closing a copy ends nothing");
    ballast_ledger_close(l);
}

/* Changes a digit of a bequest, and puts it back. */
static int adopt_with(char *claim, const char *key, char other)
{
    struct ballast_ledger *out;
    char *at = strstr(claim, key) + strlen(key), was = *at;
    int err;

    *at = was == other ? '1' : other;
    err = ballast_adopt(claim, &out, &why);
    *at = was;
    return err;
}

static void test_bad_bequests(void)
{
    static const char *const bad[] = {
        "slot=,serial=1,cookie=,socket=/x", "slot=0,serial=1,socket=/x",
        "slot=-1,serial=1,cookie=00000000000000000000000000000000,socket=/x",
        "slot=0,serial=1,cookie=0000000000000000000000000000000,socket=/x",
        "slot=0,serial=1,cookie=00000000000000000000000000000000,socket=x",
        "slot=9999,serial=1,cookie=00000000000000000000000000000000,socket=/x",
        "slot=0,serial=18446744073709551616,cookie="
            "00000000000000000000000000000000,socket=/x",
        "slot=0,serial=1,cookie=0000000000000000000000000000000G,socket=/x",
    };
    struct ballast_ledger *l = must_join(new_ledger("bad", 1, GIB(8)), "vm");
    struct ballast_ledger *out;
    char claim[BALLAST_CLAIM_BYTES];
    size_t i;

    for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        OK(ballast_adopt(bad[i], &out, &why) == -EINVAL, "'%s'", bad[i]);
    }
    OK(ballast_bequeath(l, claim, 20) == -ENOSPC, "no room for the words");
    OK(ballast_bequeath(l, claim, sizeof(claim)) == 0, "the words: %.40s...",
       claim);
    OK(adopt_with(claim, "slot=", '7') == -ESHUTDOWN, "another slot");
    OK(adopt_with(claim, "serial=", '7') == -ESHUTDOWN, "another serial");
    OK(adopt_with(claim, "cookie=", '0') == -ESHUTDOWN, "another cookie");
    OK(adopt_with(claim, "socket=/", 'x') == -ENOENT, "another socket");
    OK(CLAIM1(l, 0, GIB(1), NULL) == 0, "its owner has it still");
    ballast_ledger_close(l);
}

/* Its heir has two seconds; nobody comes. */
static void test_no_heir(void)
{
    const char *path = new_ledger("noheir", 1, GIB(8));
    struct ballast_ledger *l = must_open(path);
    char claim[BALLAST_CLAIM_BYTES];
    uint64_t start, ms;
    pid_t pid = fork_child();

    if (pid == 0) {
        ballast_bequeath(join_and_claim(path), claim, sizeof(claim));
        say_ready('b');
        pause();
    }
    wait_ready();
    kill_and_reap(pid);
    start = host_now_ns();
    OK(free_on(l, 0) == GIB(2), "what was bequeathed waits for its heir");
    while (free_on(l, 0) != GIB(8)) {
        usleep(10000);
    }
    ms = (host_now_ns() - start) / 1000000;
    OK(ms > 1500 && ms < 5000, "for two seconds (%u ms)", (unsigned)ms);
    ballast_ledger_close(l);
}

/* As if the pid had belonged to somebody else before. */
static void test_pid_reuse(void)
{
    char path[256];
    struct ballast_ledger *past, *l;

    strcpy(path, new_ledger("reuse", 1, GIB(8)));
    past = must_join(path, "past");
    l = must_open(path);
    CLAIM1(past, 0, GIB(6), NULL);
    slot_at(behind(past), past->slot)->start_ticks--;
    daemon_kill(path);
    daemon_start(path);
    OK(CLAIM1(past, 0, GIB(1), &why) == -ESHUTDOWN &&
       why.reason == BALLAST_DYING,
       "same pid, other start time: not the one that joined");
    OK(free_on(l, 0) == GIB(8) && nr_in_state(l, BALLAST_RUNNING) == 0,
       "who is gone, and buried by the next daemon");
    OK(CLAIM1(past, 0, GIB(1), &why) == -ESHUTDOWN, "for good");
    ballast_leave(past);
    OK(ballast_join(past, "past", 0, NULL) == 0, "but one can join again");
    ballast_ledger_close(past);
    ballast_ledger_close(l);
}

static uint64_t ms_of_claim(struct ballast_ledger *l, int *err)
{
    uint64_t start = host_now_ns();

    *err = CLAIM1(l, 0, MIB(4), &why);
    return (host_now_ns() - start) / 1000000;
}

static void test_silent_daemon(void)
{
    char path[256];
    struct ballast_ledger *l;
    uint64_t ms;
    int err;

    strcpy(path, new_ledger("silent", 1, GIB(8)));
    l = must_join(path, "vm");
    ballast_set_patience(l, 100);
    kill(daemon_pid(path), SIGSTOP);
    ms = ms_of_claim(l, &err);
    OK(err == -ENOTCONN && why.reason == BALLAST_NO_DAEMON && ms >= 90 &&
       ms < 1500, "a silent daemon costs the patience: %u ms", (unsigned)ms);
    ms = ms_of_claim(l, &err);
    OK(err == -ENOTCONN && ms < 90, "once a second (%u ms)", (unsigned)ms);
    kill(daemon_pid(path), SIGCONT);
    usleep(1100000);
    ms_of_claim(l, &err);
    OK(err == 0 && identity_holds(l), "and is asked again when it answers");
    ballast_ledger_close(l);
}

static void test_no_daemon(void)
{
    char path[256];
    struct ballast_ledger *l;
    uint64_t ms;
    int err;

    strcpy(path, new_ledger("gone", 1, GIB(8)));
    l = must_join(path, "vm");
    ballast_set_patience(l, 200);
    daemon_kill(path);
    ms = ms_of_claim(l, &err);
    OK(err == -ENOTCONN && why.reason == BALLAST_NO_DAEMON && ms < 1000,
       "no daemon: %u ms", (unsigned)ms);
    OK(ballast_ledger_open(path, &(struct ballast_ledger *){ NULL }, &why) ==
       -ENOTCONN && why.reason == BALLAST_NO_DAEMON, "none to open, either");
    daemon_start(path);
    do {                        /* its socket's name was there all the time */
        usleep(10000);
        ms = ms_of_claim(l, &err);
    } while (err == -ENOTCONN);
    OK(err == 0, "the next one is found as soon as it is there");
    ballast_ledger_close(l);
}

static void test_second_daemon(void)
{
    char path[256], file[300], other[300];
    int status;
    pid_t pid;

    strcpy(path, new_ledger("twice", 1, GIB(8)));
    snprintf(file, sizeof(file), "%s.file", path);
    snprintf(other, sizeof(other), "%s.other", path);
    ballast_ledger_close(must_open(path));
    pid = fork_child();
    if (pid == 0) {
        freopen("/dev/null", "w", stderr);
        execl(over_daemon(), "ballastd", "--ledger", file, "--socket", other,
              NULL);
        _exit(127);
    }
    waitpid(pid, &status, 0);
    OK(WIFEXITED(status) && WEXITSTATUS(status) == 1,
       "a ledger has one daemon");
}

/* A page of status for each of many: it comes in several messages. */
static void test_large_status(void)
{
    struct ballast_config config;
    struct ballast_ledger *l, *more[100];
    struct ballast_demand all[65];
    struct ballast_own own[65];
    struct ballast_status *st;
    char name[16];
    uint32_t n;
    bool ok = true;

    config_static(&config, 64, GIB(8));
    config.nr_slots = 128;
    l = must_open(make_ledger("large", &config));
    for (n = 0; n < 65; n++) {
        all[n] = (struct ballast_demand){
            .node = n == 64 ? ANY : n, .bytes = MIB(4) * (n + 1),
        };
    }
    for (n = 0; n < 100; n++) {
        sprintf(name, "vm%u", n);
        more[n] = must_join(l->remote->path, name);
        ok &= ballast_claim(more[n], all, n % 20 ? n % 20 : 65, NULL) == 0;
    }
    OK(ok && ballast_own(more[0], own, 65) == 65 && own[64].claimed_bytes ==
       MIB(4) * 65 && ballast_own(more[0], own, 3) == 65,
       "a claim of sixty-five entries");
    OK(ballast_status_get(l, &st) == 0 && st->nr_participants == 100 &&
       st->nr_cells == 130 && st->participants[0].nr_cells == 65 &&
       st->participants[99].nr_cells == 19 &&
       strcmp(st->participants[99].name, "vm99") == 0, "a hundred of them");
    ballast_status_free(st);
    OK(identity_holds(l), "identity");
    for (n = 0; n < 100; n++) {
        ballast_ledger_close(more[n]);
    }
    ballast_ledger_close(l);
}

int main(int argc, char **argv)
{
    if (argc == 3) {
        ready[1] = atoi(argv[2]);
        say_ready('s');
        pause();
    }
    if (pipe(ready)) {
        return 1;
    }
    fcntl(ready[1], F_SETFD, 0);
    alarm(100);
    test_closed();
    test_exec();
    test_forked_handle();
    test_bad_bequests();
    test_no_heir();
    test_pid_reuse();
    test_silent_daemon();
    test_no_daemon();
    test_second_daemon();
    test_large_status();
    return tap_done();
}
