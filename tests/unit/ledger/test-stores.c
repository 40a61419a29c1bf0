/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The daemon is killed before every single store to the file that a client's
 * calls make, one after another, and started again.  The client does not
 * notice, and nothing is lost or there twice.
 */
#include "helper.h"

static char path[256];

/* In the daemon this is another one, which counts (daemon-crash.c). */
void ballast_crash_point(void)
{
}

static bool script(struct ballast_ledger *l)
{
    const struct ballast_demand two[] = {
        { .node = 0, .bytes = GIB(2) }, { .node = ANY, .bytes = GIB(1) },
    };
    const struct ballast_demand more = { .node = 0, .bytes = GIB(8) };
    const struct ballast_demand some = { .node = 0, .bytes = GIB(4) };
    struct ballast_ledger *m = must_join(path, "m");
    bool ok = ballast_join(l, "vm", 0, NULL) == 0;

    ok &= ballast_claim(l, two, 2, NULL) == 0;
    ok &= own_claim(l) == GIB(3);
    ok &= REPORT1(l, 0, GIB(1)) == 0;
    ok &= ballast_queue(l, &more, 1, 60000, NULL) == -EINPROGRESS;
    ok &= ballast_queue_cancel(l) == 0;
    ok &= own_claim(l) == GIB(3);
    ok &= CLAIM1(m, 0, GIB(2), NULL) == 0;
    ok &= ballast_queue(l, &some, 1, 60000, NULL) == -EINPROGRESS;
    ballast_ledger_close(m);
    ok &= ballast_queue_poll(l, NULL) == 0;
    ok &= own_claim(l) == GIB(4);
    ok &= REPORT1(l, 0, 0) == 0;
    ok &= CLAIM1(l, 1, GIB(1), NULL) == 0;
    ok &= own_claim(l) == GIB(1);
    ballast_leave(l);
    return ok;
}

/* Starts the daemon again whenever it has ended, until the script is done. */
static int keep_alive(pid_t client)
{
    int status, restarts = 0;
    pid_t pid;

    for (;;) {
        pid = waitpid(-1, &status, 0);
        if (pid == client) {
            return status ? -1 : restarts;
        }
        if (pid == daemon_pid(path)) {
            unsetenv("BALLAST_TEST_CRASH_AT");
            daemon_start(path);
            restarts++;
        }
    }
}

static void test_every_store(void)
{
    struct ballast_ledger *l, *other;
    int at, restarts = 1, bad = 0;
    char text[16];
    pid_t pid;

    strcpy(path, new_ledger("stores", 2, GIB(8)));
    l = must_open(path);
    other = must_join(path, "other");
    CLAIM1(other, 0, GIB(4), NULL);
    for (at = 1; restarts > 0 && at < 2000 && !bad; at++) {
        snprintf(text, sizeof(text), "%d", at);
        setenv("BALLAST_TEST_CRASH_AT", text, 1);
        daemon_kill(path);
        daemon_start(path);
        pid = fork_child();
        if (pid == 0) {
            alarm(20);
            _exit(script(must_open(path)) ? 0 : 1);
        }
        restarts = keep_alive(pid);
        unsetenv("BALLAST_TEST_CRASH_AT");
        if (!restarts) {        /* it would die of what we do to look */
            daemon_kill(path);
            daemon_start(path);
        }
        bad = restarts < 0 || !identity_holds(l) ||
              own_claim(other) != GIB(4) || free_on(l, 0) != GIB(4) ||
              free_on(l, 1) != GIB(8);
    }
    OK(!bad && at > 50 && at < 2000,
       "killed before each of %d stores, nobody notices", at - 2);
    ballast_ledger_close(other);
    ballast_ledger_close(l);
}

int main(void)
{
    alarm(100);
    test_every_store();
    return tap_done();
}
