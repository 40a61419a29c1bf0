/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The daemon is killed before every single store to the file that a client's
 * calls make, one after another, and started again.  The client does not
 * notice, and nothing is lost or there twice.
 */
#include <pthread.h>

#include "helper.h"

static char path[256];

/* In the daemon this is another one, which counts (daemon-crash.c). */
void ballast_crash_point(void)
{
}

static bool claims_script(struct ballast_ledger *l)
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

struct look {
    bool there;
    bool waits;
    int32_t pid;
    uint64_t claimed_bytes;
};

static struct look look_at(struct ballast_ledger *l, const char *name)
{
    struct ballast_status *st;
    struct look look = { 0 };
    size_t i;

    if (ballast_status_get(l, &st)) {
        _exit(1);
    }
    for (i = 0; i < st->nr_participants; i++) {
        const struct ballast_participant *p = &st->participants[i];

        if (strcmp(p->name, name) == 0) {
            look.there = true;
            look.waits = p->queue_place;
            look.pid = p->pid;
            look.claimed_bytes = p->nr_cells ? p->cells[0].claimed_bytes : 0;
        }
    }
    ballast_status_free(st);
    return look;
}

static int stands(struct ballast_ledger *l, const char *name, uint64_t ms)
{
    const struct ballast_demand some = { .node = 0, .bytes = GIB(4) };

    return ballast_stand_wait(l, name, &some, 1, 0, ms, NULL);
}

static void *stands_in_thread(void *opaque)
{
    return (void *)(intptr_t)stands(opaque, "s", BALLAST_WAIT_FOREVER);
}

/* A standing claim that is new, and one that grows, are waited for. */
static bool standing_script(struct ballast_ledger *l)
{
    const struct ballast_demand few = { .node = 0, .bytes = GIB(1) };
    struct ballast_ledger *m, *waiter = must_open(path);
    pthread_t thread;
    void *result;
    bool ok = true;
    int old;

    for (old = 0; old < 2; old++) {
        m = must_join(path, "m");
        ok &= CLAIM1(m, 0, GIB(2), NULL) == 0;
        if (old) {
            ok &= ballast_stand(l, "s", &few, 1, 0, NULL) == 0;
        }
        pthread_create(&thread, NULL, stands_in_thread, waiter);
        while (!look_at(l, "s").waits) {
            usleep(1000);
        }
        ok &= old || (stands(l, "t", 2) == -ETIMEDOUT &&
                      !look_at(l, "t").there);
        ballast_ledger_close(m);
        pthread_join(thread, &result);
        ok &= !result && look_at(l, "s").claimed_bytes == GIB(4) &&
              look_at(l, "s").pid == 0 && !look_at(l, "s").waits;
        ok &= ballast_release(l, "s", NULL) == 0;
    }
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

static void test_every_store(bool (*script)(struct ballast_ledger *l),
                             const char *what)
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
       "killed before each of %d stores of %s, nobody notices", at - 2, what);
    ballast_ledger_close(other);
    ballast_ledger_close(l);
}

int main(void)
{
    alarm(400);
    test_every_store(claims_script, "claims");
    test_every_store(standing_script, "standing claims");
    return tap_done();
}
