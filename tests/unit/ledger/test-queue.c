/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Waiting in line: order, no barging, who is passed over, time-outs, and
 * wake-ups.
 *
 * The library of this test sleeps a minute where the real one sleeps a tenth
 * of a second: who is granted in time was woken.
 */
#include <pthread.h>

#define IDENTITY_ALWAYS
#include "helper.h"

static struct ballast_refusal why;

#define QUEUE1(l, n, b, ms, w) \
    ballast_queue((l), &(struct ballast_demand){ .node = (n), .bytes = (b) }, \
                  1, (ms), (w))

static struct file_slot *own_slot(struct ballast_ledger *l)
{
    return slot_at(behind(l), l->slot);
}

/* As if it had not been looked after for so long. */
static void age(struct ballast_ledger *l, uint64_t seconds)
{
    own_slot(l)->wait_seen_ns = host_now_ns() - seconds * 1000000000;
}

static struct ballast_participant *participant(struct ballast_status *st,
                                               const char *name)
{
    size_t i;

    for (i = 0; i < st->nr_participants; i++) {
        if (strcmp(st->participants[i].name, name) == 0) {
            return &st->participants[i];
        }
    }
    return NULL;
}

static uint32_t place_of(struct ballast_ledger *l, const char *name)
{
    struct ballast_participant *p;
    struct ballast_status *st;
    uint32_t place = UINT32_MAX;

    if (ballast_status_get(l, &st) == 0) {
        p = participant(st, name);
        place = p ? p->queue_place : UINT32_MAX;
        ballast_status_free(st);
    }
    return place;
}

/* One who holds all of both nodes, and three who want some of it. */
struct cast {
    const char *path;
    struct ballast_ledger *full, *a, *b, *c;
};

static void fill_node(struct ballast_ledger *l, uint64_t on0, uint64_t on1)
{
    const struct ballast_demand set[] = {
        { .node = 0, .bytes = on0 }, { .node = 1, .bytes = on1 },
    };

    if (ballast_claim(l, set, 2, NULL)) {
        abort();
    }
}

static struct cast begin(const char *name)
{
    struct cast t;

    t.path = new_ledger(name, 2, GIB(8));
    t.full = must_join(t.path, "full");
    t.a = must_join(t.path, "a");
    t.b = must_join(t.path, "b");
    t.c = must_join(t.path, "c");
    fill_node(t.full, GIB(8), GIB(8));
    return t;
}

static void end(struct cast *t, const char *what)
{
    OK(identity_holds(t->full) &&
       ballast_check(t->full, 0, NULL, NULL) == 0, "%s: identity", what);
    ballast_ledger_close(t->a);
    ballast_ledger_close(t->b);
    ballast_ledger_close(t->c);
    OK(get32(&behind(t->full)->header->nr_waiters) == 0, "%s: nobody waits", what);
    ballast_ledger_close(t->full);
}

static void test_order(void)
{
    struct cast t = begin("order");
    struct ballast_status *st;
    char text[512];

    OK(QUEUE1(t.a, 0, GIB(4), 60000, &why) == -EINPROGRESS &&
       why.reason == BALLAST_SHORT_NODE && why.missing_bytes == GIB(4) &&
       why.nr_ahead == 0, "the first waits, and is told what is missing");
    OK(QUEUE1(t.b, 0, GIB(1), 60000, &why) == -EINPROGRESS &&
       why.nr_ahead == 1, "the second is told who is ahead");
    OK(place_of(t.full, "a") == 1 && place_of(t.full, "b") == 2 &&
       place_of(t.full, "full") == 0, "status shows places");
    if (ballast_status_get(t.full, &st)) {
        abort();
    }
    OK(st->nr_waiting == 2 && participant(st, "a")->nr_cells == 1 &&
       participant(st, "a")->cells[0].wanted_bytes == GIB(4) &&
       participant(st, "a")->cells[0].claimed_bytes == 0 &&
       st->cells[0].wanted_bytes == GIB(5), "and what is wanted");
    ballast_status_free(st);
    fill_node(t.full, GIB(6), GIB(8));
    OK(ballast_queue_poll(t.b, &why) == -EINPROGRESS &&
       why.reason == BALLAST_BEHIND_QUEUE && why.nr_ahead == 1 &&
       why.nr_holders == 1 && strcmp(why.holders[0].name, "a") == 0 &&
       why.available_bytes == GIB(2),
       "what fits the second is not given before the first");
    ballast_refusal_text(&why, text, sizeof(text));
    OK(strstr(text, "came first: a ") != NULL, "said as: %s", text);
    OK(CLAIM1(t.c, 0, MIB(4), &why) == -EBUSY &&
       why.reason == BALLAST_BEHIND_QUEUE && why.nr_ahead == 2 &&
       why.holders[1].slot == t.b->slot, "nor to one that does not wait");
    OK(CLAIM1(t.c, ANY, MIB(4), &why) == -EBUSY, "nor on any node");
    OK(ballast_stand(t.c, "s", &(struct ballast_demand){ .node = 0,
       .bytes = MIB(4) }, 1, 0, &why) == -EBUSY &&
       why.reason == BALLAST_BEHIND_QUEUE, "nor to a standing claim");
    fill_node(t.full, GIB(4), GIB(8));
    OK(ballast_queue_poll(t.b, &why) == -EINPROGRESS, "still not");
    OK(ballast_queue_poll(t.a, &why) == 0 && free_on(t.a, 0) == 0 &&
       place_of(t.full, "a") == 0, "the first has it");
    fill_node(t.full, GIB(3), GIB(8));
    OK(ballast_queue_poll(t.b, &why) == 0 && why.reason == BALLAST_OK,
       "then the second");
    OK(ballast_queue_poll(t.b, &why) == -ENOENT, "who has left the queue");
    end(&t, "order");
}

static void test_no_conflict(void)
{
    struct cast t = begin("pass");
    const struct ballast_demand huge = {
        .node = 0, .page_bytes = MIB(2), .bytes = MIB(64)
    };

    OK(QUEUE1(t.a, 0, GIB(8), 60000, &why) == -EINPROGRESS, "a big one waits");
    fill_node(t.full, GIB(4), GIB(4));
    OK(CLAIM1(t.b, 1, GIB(1), &why) == 0, "a small one on another node passes");
    OK(ballast_claim(t.c, &huge, 1, &why) == 0, "one of other pages passes");
    OK(CLAIM1(t.b, 1, MIB(512), &why) == 0 && CLAIM1(t.b, 1, GIB(1), &why) == 0,
       "equal and smaller claims never wait");
    fill_node(t.full, GIB(2), GIB(4));
    OK(ballast_claim(t.full, NULL, 0, &why) == 0, "zero never waits");
    OK(ballast_queue_poll(t.a, &why) == 0, "the big one is served");
    end(&t, "other nodes");
}

static void test_host_wide(void)
{
    struct cast t = begin("any");

    OK(QUEUE1(t.a, ANY, GIB(4), 60000, &why) == -EINPROGRESS &&
       why.reason == BALLAST_SHORT_HOST, "one waits for any node");
    fill_node(t.full, GIB(8), GIB(6));
    OK(CLAIM1(t.b, 1, GIB(1), &why) == -EBUSY, "it comes first on each node");
    OK(QUEUE1(t.b, 1, GIB(1), 60000, &why) == -EINPROGRESS, "another waits");
    fill_node(t.full, GIB(8), GIB(4));
    OK(ballast_queue_poll(t.b, &why) == -EINPROGRESS &&
       ballast_queue_poll(t.a, &why) == 0, "any node: first come first");
    end(&t, "any");
}

static void test_replace(void)
{
    struct cast t = begin("replaced");

    QUEUE1(t.a, 0, GIB(4), 60000, NULL);
    QUEUE1(t.b, 0, GIB(4), 60000, NULL);
    OK(QUEUE1(t.a, 0, GIB(2), 60000, &why) == -EINPROGRESS &&
       place_of(t.full, "a") == 1, "a replaced entry keeps its place");
    fill_node(t.full, GIB(6), GIB(8));
    OK(QUEUE1(t.a, 0, GIB(1), 60000, &why) == 0 && free_on(t.a, 0) == GIB(1),
       "and may be granted at once");
    OK(ballast_queue_poll(t.b, &why) == -EINPROGRESS &&
       why.reason == BALLAST_SHORT_NODE && why.missing_bytes == GIB(3),
       "what fits decides for the next");
    OK(CLAIM1(t.b, 0, GIB(4), &why) == -ENOMEM &&
       ballast_queue_poll(t.b, &why) == -ENOENT,
       "a claim takes its participant out of the queue, granted or not");
    OK(QUEUE1(t.b, 0, GIB(4), 60000, NULL) == -EINPROGRESS &&
       ballast_queue_cancel(t.b) == 0 && ballast_queue_cancel(t.b) == -ENOENT,
       "so does a cancel");
    end(&t, "replaced");
}

static void test_incurable(void)
{
    struct cast t = begin("never");
    const struct ballast_demand none[] = { { .node = 7, .bytes = GIB(1) } };

    OK(QUEUE1(t.a, 0, GIB(9), 60000, &why) == -ENOMEM &&
       QUEUE1(t.a, ANY, GIB(17), 60000, &why) == -ENOMEM &&
       place_of(t.full, "a") == 0, "more than there is never waits");
    OK(ballast_queue(t.a, none, 1, 1, &why) == -ENOENT, "nor an absent node");
    CLAIM1(t.a, 0, 0, NULL);
    fill_node(t.full, GIB(4), GIB(8));
    CLAIM1(t.a, 0, GIB(4), NULL);
    REPORT1(t.a, 0, GIB(2));
    OK(QUEUE1(t.a, 0, GIB(6), 60000, &why) == -EINPROGRESS, "it wants more");
    REPORT1(t.a, 0, GIB(7));
    OK(ballast_queue_poll(t.a, &why) == -EINVAL &&
       why.reason == BALLAST_BELOW_RESIDENT && place_of(t.full, "a") == 0,
       "an entry below what is resident leaves the queue");
    REPORT1(t.a, 0, GIB(4));
    OK(QUEUE1(t.b, 0, 0, 60000, &why) == 0, "zero is granted at once");
    end(&t, "never");
}

static void test_passed_over(void)
{
    struct cast t = begin("over");

    QUEUE1(t.a, 0, GIB(4), BALLAST_WAIT_FOREVER, NULL);
    QUEUE1(t.b, 0, GIB(2), BALLAST_WAIT_FOREVER, NULL);
    fill_node(t.full, GIB(6), GIB(8));
    OK(ballast_queue_poll(t.b, &why) == -EINPROGRESS, "behind the first");
    age(t.a, 6);
    OK(ballast_queue_poll(t.b, &why) == 0, "who stopped is passed over");
    OK(place_of(t.full, "a") == 1 &&
       ballast_queue_poll(t.a, &why) == -EINPROGRESS &&
       CLAIM1(t.c, 0, MIB(4), &why) == -ENOMEM && why.nr_ahead == 1,
       "and keeps its place for when it comes back");
    ballast_claim(t.b, NULL, 0, NULL);
    own_slot(t.a)->wait_deadline_ns = host_now_ns();
    OK(CLAIM1(t.b, 0, GIB(1), &why) == 0, "whose time is over: passed over");
    OK(ballast_queue_poll(t.a, &why) == -ETIMEDOUT &&
       why.reason == BALLAST_SHORT_NODE &&
       ballast_queue_poll(t.a, &why) == -ENOENT, "and told so once");
    QUEUE1(t.a, 0, GIB(4), BALLAST_WAIT_FOREVER, NULL);
    own_slot(t.a)->wait_seen_ns = host_now_ns() + UINT64_C(3600000000000);
    OK(CLAIM1(t.c, 0, MIB(4), &why) == 0,
       "an entry seen in the future holds up nobody");
    ballast_queue_cancel(t.a);
    end(&t, "passed over");
}

/* Waits in the queue without looking after it, until it is killed. */
static pid_t waiter(const char *path, const char *name, uint64_t bytes)
{
    pid_t pid = fork_child();

    if (pid == 0) {
        struct ballast_ledger *l = must_join(path, name);

        if (QUEUE1(l, 0, bytes, BALLAST_WAIT_FOREVER, NULL) != -EINPROGRESS) {
            _exit(1);
        }
        say_ready('q');
        pause();
    }
    if (wait_ready() != 'q') {
        abort();
    }
    return pid;
}

static void test_dead_waiter(void)
{
    struct cast t = begin("dead");
    pid_t pid = waiter(t.path, "dead", GIB(4));

    OK(QUEUE1(t.a, 0, GIB(2), 60000, &why) == -EINPROGRESS &&
       why.nr_ahead == 1, "behind a living process");
    fill_node(t.full, GIB(6), GIB(8));
    OK(ballast_queue_poll(t.a, &why) == -EINPROGRESS, "still");
    kill_and_reap(pid);
    OK(ballast_queue_poll(t.a, &why) == 0, "not behind a dead one");
    end(&t, "dead waiter");
}

static void test_stopped_waiter(void)
{
    struct cast t = begin("stopped");
    pid_t pid = waiter(t.path, "stopped", GIB(4));
    struct file_slot *s;

    kill(pid, SIGSTOP);
    fill_node(t.full, GIB(6), GIB(8));
    OK(QUEUE1(t.a, 0, GIB(2), 60000, &why) == -EINPROGRESS,
       "a stopped one counts for five seconds");
    s = slot_find_name(behind(t.full), "stopped", SLOT_NONE);
    s->wait_seen_ns -= UINT64_C(6000000000);
    OK(ballast_queue_poll(t.a, &why) == 0 &&
       place_of(t.full, "stopped") == 1, "not longer");
    kill_and_reap(pid);
    end(&t, "stopped waiter");
}

static pid_t wait_for(const char *path, const char *name, uint64_t bytes,
                      uint64_t timeout_ms)
{
    const struct ballast_demand d = { .node = 0, .bytes = bytes };
    pid_t pid = fork_child();

    if (pid == 0) {
        struct ballast_ledger *l = must_join(path, name);
        int err;

        say_ready('j');
        err = ballast_claim_wait(l, &d, 1, timeout_ms, NULL);
        say_ready(err == 0 ? 'g' : err == -ETIMEDOUT ? 't' : 'e');
        pause();
    }
    if (wait_ready() != 'j') {
        abort();
    }
    return pid;
}

static void until_waiting(struct ballast_ledger *l, uint32_t nr)
{
    while (get32(&behind(l)->header->nr_waiters) != nr) {
        usleep(1000);
    }
    usleep(20000);      /* asleep, most likely; it must work if not, too */
}

static void test_woken(void)
{
    struct cast t = begin("woken");
    pid_t first, second;
    int i;

    for (i = 0; i < 20; i++) {
        fill_node(t.full, GIB(8), GIB(8));
        first = wait_for(t.path, "first", GIB(4), BALLAST_WAIT_FOREVER);
        until_waiting(t.full, 1);
        second = wait_for(t.path, "second", GIB(4), BALLAST_WAIT_FOREVER);
        until_waiting(t.full, 2);
        switch (i % 4) {
        case 0:
            fill_node(t.full, 0, GIB(8));
            break;
        case 1:
            fill_node(t.full, GIB(4), GIB(8));
            if (wait_ready() != 'g') {
                i = 99;
            }
            fill_node(t.full, 0, GIB(8));
            say_ready('g');
            break;
        case 2:
            ballast_leave(t.full);
            break;
        default:
            /* the first gives up: the second fits now */
            fill_node(t.full, GIB(4), GIB(8));
            if (wait_ready() != 'g') {
                i = 99;
            }
            kill_and_reap(first);
            ballast_sweep(t.full);
            say_ready('g');
            break;
        }
        if (wait_ready() != 'g' || wait_ready() != 'g') {
            i = 99;
        }
        kill_and_reap(first);
        kill_and_reap(second);
        if (i % 4 == 2) {
            ballast_join(t.full, "full", 0, NULL);
        }
        ballast_sweep(t.full);
    }
    OK(i == 20, "twenty times, two sleepers are woken by what returns");
    end(&t, "woken");
}

static void *waits_in_thread(void *opaque)
{
    const struct ballast_demand d = { .node = 0, .bytes = GIB(4) };

    return (void *)(intptr_t)ballast_claim_wait(opaque, &d, 1,
                                                BALLAST_WAIT_FOREVER, NULL);
}

/* An entry that leaves lets the next one through, though nothing returned. */
static void test_leaver_wakes(void)
{
    struct cast t = begin("leaver");
    pthread_t thread;
    void *result = NULL;

    QUEUE1(t.a, 0, GIB(8), 60000, NULL);
    fill_node(t.full, GIB(4), GIB(8));
    pthread_create(&thread, NULL, waits_in_thread, t.b);
    until_waiting(t.full, 2);
    OK(ballast_queue_cancel(t.a) == 0, "the first gives up");
    pthread_join(thread, &result);
    OK(result == NULL, "and the one behind it is woken");
    end(&t, "leaver");
}

static void test_timeout(void)
{
    struct cast t = begin("timeout");
    const struct ballast_demand d = { .node = 0, .bytes = GIB(4) };

    OK(ballast_claim_wait(t.a, &d, 1, 0, &why) == -ETIMEDOUT &&
       why.reason == BALLAST_SHORT_NODE && why.nr_holders == 1,
       "no time at all");
    OK(ballast_claim_wait(t.a, &d, 1, 50, &why) == -ETIMEDOUT &&
       why.missing_bytes == GIB(4) && place_of(t.full, "a") == 0,
       "after 50 ms, with what was missing");
    fill_node(t.full, GIB(4), GIB(8));
    OK(ballast_claim_wait(t.a, &d, 1, 0, &why) == 0, "granted at once");
    end(&t, "timeout");
}

static pid_t stand_for(const char *path, const char *name,
                       uint64_t timeout_ms)
{
    const struct ballast_demand d = { .node = 0, .bytes = GIB(4) };
    pid_t pid = fork_child();

    if (pid == 0) {
        struct ballast_ledger *l = must_open(path);
        int err = ballast_stand_wait(l, name, &d, 1, 0, timeout_ms, NULL);

        say_ready(err == 0 ? 'g' : err == -ETIMEDOUT ? 't' :
                  err == -ENOENT ? 'n' : 'e');
        _exit(0);
    }
    return pid;
}

static void test_standing(void)
{
    struct cast t = begin("standing");
    const struct ballast_demand d = { .node = 0, .bytes = GIB(1) };
    pid_t pid;

    pid = stand_for(t.path, "s", 10);
    OK(wait_ready() == 't', "a standing claim times out");
    waitpid(pid, NULL, 0);
    OK(nr_in_state(t.full, BALLAST_STANDING) == 0, "and leaves nothing");
    pid = stand_for(t.path, "s", BALLAST_WAIT_FOREVER);
    until_waiting(t.full, 1);
    OK(place_of(t.full, "s") == 1 &&
       nr_in_state(t.full, BALLAST_STANDING) == 1, "another waits");
    OK(ballast_stand_wait(t.a, "s", &d, 1, 0, 0, &why) == -EADDRINUSE,
       "not two under one name");
    fill_node(t.full, GIB(4), GIB(8));
    OK(wait_ready() == 'g', "it is granted");
    waitpid(pid, NULL, 0);
    ballast_sweep(t.full);
    OK(nr_in_state(t.full, BALLAST_STANDING) == 1 && free_on(t.a, 0) == 0,
       "and outlives who waited for it");
    ballast_release(t.a, "s", NULL);
    fill_node(t.full, GIB(8), GIB(8));
    pid = stand_for(t.path, "s", BALLAST_WAIT_FOREVER);
    until_waiting(t.full, 1);
    kill_and_reap(pid);
    ballast_sweep(t.full);
    ballast_sweep(t.full);
    OK(nr_in_state(t.full, BALLAST_STANDING) == 0, "a dead one leaves nothing");
    pid = stand_for(t.path, "s", BALLAST_WAIT_FOREVER);
    until_waiting(t.full, 1);
    OK(ballast_release(t.a, "s", &why) == 0, "somebody releases the name");
    fill_node(t.full, GIB(7), GIB(8));
    OK(wait_ready() == 'n', "and the waiter is told");
    waitpid(pid, NULL, 0);
    OK(ballast_stand(t.a, "s", &d, 1, 0, &why) == 0, "a standing claim");
    pid = stand_for(t.path, "s", BALLAST_WAIT_FOREVER);
    until_waiting(t.full, 1);
    kill_and_reap(pid);
    slot_find_name(behind(t.full), "s", SLOT_NONE)->wait_seen_ns -=
        UINT64_C(61000000000);
    ballast_sweep(t.full);
    OK(nr_in_state(t.full, BALLAST_STANDING) == 1 && place_of(t.a, "s") == 0,
       "whose waiter died: the claim stays, the entry is forgotten");
    ballast_release(t.a, "s", NULL);
    end(&t, "standing");
}

/* Standing claims and participants stand in one line. */
static void test_standing_line(void)
{
    struct cast t = begin("line");
    pid_t first, last;

    first = stand_for(t.path, "s", BALLAST_WAIT_FOREVER);
    until_waiting(t.full, 1);
    OK(QUEUE1(t.a, 0, GIB(1), 60000, &why) == -EINPROGRESS &&
       why.nr_ahead == 1, "a participant behind a standing claim");
    last = stand_for(t.path, "r", BALLAST_WAIT_FOREVER);
    until_waiting(t.full, 3);
    OK(place_of(t.full, "s") == 1 && place_of(t.full, "a") == 2 &&
       place_of(t.full, "r") == 3, "and another one behind it");
    fill_node(t.full, GIB(5), GIB(8));
    OK(ballast_queue_poll(t.a, &why) == -EINPROGRESS &&
       why.reason == BALLAST_BEHIND_QUEUE &&
       strcmp(why.holders[0].name, "s") == 0, "it does not pass the first");
    OK(CLAIM1(t.c, 0, MIB(4), &why) == -EBUSY && why.nr_ahead == 3 &&
       ballast_stand(t.c, "q", &(struct ballast_demand){ .node = 0,
       .bytes = MIB(4) }, 1, 0, &why) == -EBUSY, "nor does who does not wait");
    fill_node(t.full, GIB(4), GIB(8));
    OK(wait_ready() == 'g' && place_of(t.full, "r") == 2, "the first has it");
    waitpid(first, NULL, 0);
    fill_node(t.full, 0, GIB(8));
    usleep(20000);
    OK(place_of(t.full, "r") == 2 && ballast_queue_poll(t.a, &why) == 0,
       "the last waits for the second, though there is enough for it");
    CLAIM1(t.a, 0, 0, NULL);
    OK(wait_ready() == 'g' && free_on(t.a, 0) == 0, "then it has it, too");
    waitpid(last, NULL, 0);
    ballast_release(t.a, "s", NULL);
    ballast_release(t.a, "r", NULL);
    end(&t, "line");
}

static void test_dead_stander(void)
{
    struct cast t = begin("stander");
    pid_t pid = stand_for(t.path, "s", BALLAST_WAIT_FOREVER);

    until_waiting(t.full, 1);
    fill_node(t.full, GIB(6), GIB(8));
    OK(QUEUE1(t.a, 0, GIB(2), 60000, &why) == -EINPROGRESS,
       "behind one who waits for a standing claim");
    kill_and_reap(pid);
    OK(ballast_queue_poll(t.a, &why) == 0, "not when it is dead");
    end(&t, "dead stander");
}

/* The claim ends with a process that is not the one that waits. */
static void test_standing_bound(void)
{
    const struct ballast_demand d = { .node = 0, .bytes = GIB(4) };
    struct cast t = begin("bound");
    pid_t owner = fork_child(), pid;

    if (owner == 0) {
        pause();
    }
    pid = fork_child();
    if (pid == 0) {
        struct ballast_ledger *l = must_open(t.path);

        say_ready(ballast_stand_wait(l, "s", &d, 1, owner,
                                     BALLAST_WAIT_FOREVER, NULL) ? 'e' : 'g');
        _exit(0);
    }
    until_waiting(t.full, 1);
    fill_node(t.full, GIB(4), GIB(8));
    OK(wait_ready() == 'g', "granted");
    waitpid(pid, NULL, 0);
    ballast_sweep(t.full);
    ballast_sweep(t.full);
    OK(free_on(t.a, 0) == 0, "it does not end with who waited");
    kill_and_reap(owner);
    ballast_sweep(t.full);
    ballast_sweep(t.full);
    OK(free_on(t.a, 0) == GIB(4), "but with whose it is");
    end(&t, "bound");
}

/* A daemon that is started anew knows from the file who waits. */
static void test_standing_restart(void)
{
    const struct ballast_demand d = { .node = 0, .bytes = GIB(1) };
    struct cast t = begin("anew");
    pid_t pid;
    int old;

    for (old = 0; old < 2; old++) {
        fill_node(t.full, GIB(7), GIB(8));
        if (old) {
            ballast_stand(t.a, "s", &d, 1, 0, NULL);
        }
        fill_node(t.full, old ? GIB(7) : GIB(8), GIB(8));
        pid = stand_for(t.path, "s", BALLAST_WAIT_FOREVER);
        until_waiting(t.full, 1);
        QUEUE1(t.a, 0, GIB(1), 60000, NULL);
        daemon_kill(t.path);
        daemon_start(t.path);
        OK(place_of(t.full, "s") == 1 && place_of(t.full, "a") == 2,
           "places are kept");
        fill_node(t.full, GIB(4), GIB(8));
        OK(wait_ready() == 'g', "a %s claim is granted to who waited",
           old ? "standing" : "new");
        waitpid(pid, NULL, 0);
        ballast_sweep(t.full);
        ballast_sweep(t.full);
        OK(nr_in_state(t.full, BALLAST_STANDING) == 1 && free_on(t.a, 0) == 0 &&
           place_of(t.full, "a") == 1, "and stays");
        ballast_release(t.a, "s", NULL);
        OK(ballast_queue_poll(t.a, NULL) == 0, "the second is next");
        CLAIM1(t.a, 0, 0, NULL);
    }
    end(&t, "restarted");
}

/* Many at once; nobody holds a byte in the end, and nobody is left. */
static int takes_turns(const char *path)
{
    struct ballast_ledger *l = must_join(path, NULL);
    const struct ballast_demand d = { .node = 0, .bytes = GIB(5) };
    int bad = 0, i;

    for (i = 0; i < 50; i++) {
        bad |= ballast_claim_wait(l, &d, 1, BALLAST_WAIT_FOREVER, NULL);
        bad |= free_on(l, 0) < 0;
        bad |= ballast_claim(l, NULL, 0, NULL);
    }
    ballast_ledger_close(l);
    return bad;
}

static void test_stampede(void)
{
    char path[128];
    struct ballast_ledger *l;
    pid_t pids[8];
    int i, status, bad = 0;

    snprintf(path, sizeof(path), "%s", new_ledger("stampede", 1, GIB(8)));
    l = must_open(path);
    for (i = 0; i < 8; i++) {
        pids[i] = fork_child();
        if (pids[i] == 0) {
            _exit(takes_turns(path) ? 1 : 0);
        }
    }
    for (i = 0; i < 8; i++) {
        waitpid(pids[i], &status, 0);
        bad |= status;
    }
    OK(!bad && free_on(l, 0) == GIB(8) && identity_holds(l) &&
       get32(&behind(l)->header->nr_waiters) == 0,
       "eight processes take turns fifty times, each woken by the last");
    ballast_ledger_close(l);
}

int main(void)
{
    if (pipe(ready)) {
        return 1;
    }
    alarm(60);
    temp_path("");
    test_order();
    test_no_conflict();
    test_host_wide();
    test_replace();
    test_incurable();
    test_passed_over();
    test_dead_waiter();
    test_stopped_waiter();
    test_timeout();
    test_leaver_wakes();
    test_woken();
    test_standing();
    test_standing_line();
    test_standing_bound();
    test_dead_stander();
    if (over_daemon()) {
        test_standing_restart();
    }
    test_stampede();
    return tap_done();
}
