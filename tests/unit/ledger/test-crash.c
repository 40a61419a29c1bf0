/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Kill at every store.
 *
 * Linked with a library in which every store to the file calls
 * ballast_crash_point().  For each operation a child performs it and is killed
 * before store N, for N = 1, 2, ... until it survives.  After each kill
 * another process locks the ledger and finds: totals that agree with the
 * slots, the child's claim as it was or as it was to be, and, once the dead
 * one is swept, all of its capacity back.
 *
 * All stores with a small geometry, and with larger ones every so manieth, or
 * with BALLAST_FULL=1 all but of the largest.
 *
 * Built with BALLAST_NO_RECOVERY it is a control: the repair of totals is
 * left out, and the test must notice.
 */
#include <fcntl.h>

#include "helper.h"

#define MAX_POINTS 200000

/* Nodes, page sizes and slots of the ledger, and every how manieth store. */
static struct {
    const char *name;
    uint32_t nodes, classes, slots;
    long stride;
} geometry = { "", 2, 2, 64, 1 };

static long countdown;
static const char *path;
static char bequest[96];

void ballast_crash_point(void)
{
    if (countdown && --countdown == 0) {
        kill(getpid(), SIGKILL);
    }
}

/* What the victim may hold afterwards, claimed on node 0 and on node 1. */
struct holding {
    bool present;
    uint64_t claimed[2];
    uint64_t resident;
};

struct operation {
    const char *name;
    void (*prepare)(void);
    struct ballast_ledger *(*start)(void);
    void (*perform)(struct ballast_ledger *l);
    struct holding before, after;
};

static struct ballast_ledger *start_open(void)
{
    return must_open(path);
}

static struct ballast_ledger *start_joined(void)
{
    struct ballast_ledger *l = must_join(path, "victim");

    CLAIM1(l, 0, GIB(2), NULL);
    REPORT1(l, 0, GIB(1));
    return l;
}

static struct ballast_ledger *start_bequeathed(void)
{
    struct ballast_ledger *l = start_joined();

    ballast_bequeath(l, bequest, sizeof(bequest));
    return l;
}

static struct ballast_ledger *start_nothing(void)
{
    return NULL;
}

static void do_open(struct ballast_ledger *l)
{
    (void)l;
    must_open(path);
}

static void do_join(struct ballast_ledger *l)
{
    ballast_join(l, "victim", 0, NULL);
}

static void do_claim_up(struct ballast_ledger *l)
{
    CLAIM1(l, 0, GIB(3), NULL);
}

static void do_claim_down(struct ballast_ledger *l)
{
    CLAIM1(l, 0, GIB(1), NULL);
}

static void do_claim_zero(struct ballast_ledger *l)
{
    ballast_claim(l, NULL, 0, NULL);
}

static void do_claim_refused(struct ballast_ledger *l)
{
    struct ballast_refusal why;

    CLAIM1(l, 0, GIB(30), &why);
}

static void do_claim_set(struct ballast_ledger *l)
{
    const struct ballast_demand set[] = {
        { .node = 0, .bytes = GIB(1) }, { .node = 1, .bytes = GIB(3) },
    };

    ballast_claim(l, set, 2, NULL);
}

static void do_report(struct ballast_ledger *l)
{
    REPORT1(l, 0, GIB(2));
}

static void do_leave(struct ballast_ledger *l)
{
    ballast_leave(l);
}

static void do_adopt(struct ballast_ledger *l)
{
    struct ballast_ledger *heir;

    (void)l;
    if (ballast_adopt(bequest, &heir, NULL)) {
        abort();
    }
}

static void do_sweep(struct ballast_ledger *l)
{
    ballast_sweep(l);
}

static void do_status(struct ballast_ledger *l)
{
    struct ballast_status *st;

    if (ballast_status_get(l, &st)) {
        abort();
    }
}

static void do_repair(struct ballast_ledger *l)
{
    if (ballast_check(l, BALLAST_CHECK_REPAIR, NULL, NULL) < 0) {
        abort();
    }
}

static void do_stand(struct ballast_ledger *l)
{
    struct ballast_demand d = { .node = 1, .bytes = GIB(3) };

    ballast_stand(l, "victim", &d, 1, 0, NULL);
}

static void do_release(struct ballast_ledger *l)
{
    ballast_release(l, "victim", NULL);
}

/* The queue: the other one holds all but 2 GiB of node 1. */

static void do_queue(struct ballast_ledger *l)
{
    const struct ballast_demand set[] = {
        { .node = 0, .bytes = GIB(2) }, { .node = 1, .bytes = GIB(15) },
    };

    if (ballast_queue(l, set, 2, 60000, NULL) != -EINPROGRESS) {
        abort();
    }
}

static struct ballast_ledger *start_queued(void)
{
    struct ballast_ledger *l = start_joined();

    do_queue(l);
    return l;
}

static void do_requeue(struct ballast_ledger *l)
{
    const struct ballast_demand d = { .node = 1, .bytes = GIB(15) };

    if (ballast_queue(l, &d, 1, 60000, NULL) != -EINPROGRESS) {
        abort();
    }
}

static void do_poll(struct ballast_ledger *l)
{
    if (ballast_queue_poll(l, NULL) != -EINPROGRESS) {
        abort();
    }
}

/* As if the other one had left in between. */
static void do_poll_granted(struct ballast_ledger *l)
{
    long n = countdown;

    countdown = 0;
    ballast_release(l, "blocker", NULL);
    countdown = n;
    if (ballast_queue_poll(l, NULL)) {
        abort();
    }
}

static void do_cancel(struct ballast_ledger *l)
{
    if (ballast_queue_cancel(l)) {
        abort();
    }
}

static void do_expire(struct ballast_ledger *l)
{
    slot_at(l, l->slot)->wait_deadline_ns = 1;
    if (ballast_queue_poll(l, NULL) != -ETIMEDOUT) {
        abort();
    }
}

static void do_wait(struct ballast_ledger *l)
{
    const struct ballast_demand d = { .node = 1, .bytes = GIB(15) };

    if (ballast_claim_wait(l, &d, 1, 1, NULL) != -ETIMEDOUT) {
        abort();
    }
}

static void do_stand_wait(struct ballast_ledger *l)
{
    const struct ballast_demand d = { .node = 1, .bytes = GIB(15) };

    if (ballast_stand_wait(l, "victim", &d, 1, 0, 1, NULL) != -ETIMEDOUT) {
        abort();
    }
}

static void prepare_blocker(void)
{
    const struct ballast_demand d = { .node = 1, .bytes = GIB(14) };
    struct ballast_ledger *l = must_open(path);

    ballast_stand(l, "blocker", &d, 1, 0, NULL);
    ballast_ledger_close(l);
}

static pid_t run_child(void (*body)(void))
{
    pid_t pid = fork_child();

    if (pid == 0) {
        body();
        _exit(0);
    }
    waitpid(pid, NULL, 0);
    return pid;
}

/* A participant that died with its claim, not swept yet. */
static void body_dead(void)
{
    start_joined();
    kill(getpid(), SIGKILL);
}

static void prepare_dead(void)
{
    run_child(body_dead);
}

/* And one that died in the middle of a claim, so that the next recovers. */
static void body_dead_inside(void)
{
    struct ballast_ledger *l = start_joined();

    /* The claim is made, the totals are not. */
    countdown = 6 + 3 * (geometry.nodes + 1) * geometry.classes;
    do_claim_set(l);
}

static void prepare_dead_inside(void)
{
    run_child(body_dead_inside);
}

static void prepare_standing(void)
{
    struct ballast_ledger *l = must_open(path);

    do_stand(l);
    ballast_ledger_close(l);
}

static void prepare_wrong_total(void)
{
    struct ballast_ledger *l = must_open(path);

    l->totals[0].claimed_bytes += GIB(1);
    l->totals[0].outstanding_bytes += GIB(1);
    ballast_ledger_close(l);
}

#define HELD(c0, c1, r) { true, { (c0), (c1) }, (r) }
#define NONE { false, { 0, 0 }, 0 }

static const struct operation operations[] = {
    { "join", NULL, start_open, do_join, NONE, HELD(0, 0, 0) },
    { "claim up", NULL, start_joined, do_claim_up,
      HELD(GIB(2), 0, GIB(1)), HELD(GIB(3), 0, GIB(1)) },
    { "claim down", NULL, start_joined, do_claim_down,
      HELD(GIB(2), 0, GIB(1)), HELD(GIB(1), 0, GIB(1)) },
    { "claim zero", NULL, start_joined, do_claim_zero,
      HELD(GIB(2), 0, GIB(1)), HELD(0, 0, GIB(1)) },
    { "claim refused", NULL, start_joined, do_claim_refused,
      HELD(GIB(2), 0, GIB(1)), HELD(GIB(2), 0, GIB(1)) },
    { "claim set", NULL, start_joined, do_claim_set,
      HELD(GIB(2), 0, GIB(1)), HELD(GIB(1), GIB(3), GIB(1)) },
    { "report", NULL, start_joined, do_report,
      HELD(GIB(2), 0, GIB(1)), HELD(GIB(2), 0, GIB(2)) },
    { "leave", NULL, start_joined, do_leave, HELD(GIB(2), 0, GIB(1)), NONE },
    { "adopt", NULL, start_bequeathed, do_adopt,
      HELD(GIB(2), 0, GIB(1)), HELD(GIB(2), 0, GIB(1)) },
    { "sweep", prepare_dead, start_open, do_sweep,
      HELD(GIB(2), 0, GIB(1)), NONE },
    { "status", prepare_dead, start_open, do_status,
      HELD(GIB(2), 0, GIB(1)), NONE },
    { "recovery", prepare_dead_inside, start_open, do_sweep,
      HELD(GIB(1), GIB(3), GIB(1)), NONE },
    { "repair", prepare_wrong_total, start_open, do_repair, NONE, NONE },
    { "queue", prepare_blocker, start_joined, do_queue,
      HELD(GIB(2), 0, GIB(1)), HELD(GIB(2), 0, GIB(1)) },
    { "queue again", prepare_blocker, start_queued, do_requeue,
      HELD(GIB(2), 0, GIB(1)), HELD(GIB(2), 0, GIB(1)) },
    { "poll", prepare_blocker, start_queued, do_poll,
      HELD(GIB(2), 0, GIB(1)), HELD(GIB(2), 0, GIB(1)) },
    { "poll, granted", prepare_blocker, start_queued, do_poll_granted,
      HELD(GIB(2), 0, GIB(1)), HELD(GIB(2), GIB(15), GIB(1)) },
    { "cancel", prepare_blocker, start_queued, do_cancel,
      HELD(GIB(2), 0, GIB(1)), HELD(GIB(2), 0, GIB(1)) },
    { "poll, too late", prepare_blocker, start_queued, do_expire,
      HELD(GIB(2), 0, GIB(1)), HELD(GIB(2), 0, GIB(1)) },
    { "leave the queue", prepare_blocker, start_queued, do_leave,
      HELD(GIB(2), 0, GIB(1)), NONE },
    { "claim from the queue", prepare_blocker, start_queued, do_claim_up,
      HELD(GIB(2), 0, GIB(1)), HELD(GIB(3), 0, GIB(1)) },
    { "wait", prepare_blocker, start_joined, do_wait,
      HELD(GIB(2), 0, GIB(1)), HELD(GIB(2), 0, GIB(1)) },
    { "stand and wait", prepare_blocker, start_open, do_stand_wait,
      NONE, HELD(0, 0, 0) },
    { "stand", NULL, start_open, do_stand, NONE, HELD(0, GIB(3), 0) },
    { "release", prepare_standing, start_open, do_release,
      HELD(0, GIB(3), 0), NONE },
};

static bool view_is(const struct geometry *geo, const struct view *v,
                    const struct holding *h)
{
    uint32_t i;

    for (i = 0; i < geo->nr_cells; i++) {
        uint32_t row = i / geo->nr_classes;
        bool base = i % geo->nr_classes == 0;
        uint64_t claimed = base && row < 2 ? h->claimed[row] : 0;
        uint64_t resident = base && row == 0 ? h->resident : 0;

        if (v->col[COL_CLAIMED][i] != claimed ||
            v->col[COL_RESIDENT][i] != resident) {
            return false;
        }
    }
    return true;
}

static bool slot_is(struct ballast_ledger *l, const struct file_slot *s,
                    const struct holding *h)
{
    struct view v;

    if (!s) {
        return !h->present;
    }
    slot_view(l, s, &v);
    return h->present && view_is(&l->geo, &v, h);
}

/* Dying slots too, which slot_find_name() does not find. */
static const struct file_slot *find_victim(struct ballast_ledger *l)
{
    char name[BALLAST_NAME_BYTES];
    uint32_t nr;

    for (nr = 0; nr < slots_high(l); nr++) {
        const struct file_slot *s = slot_at(l, nr);

        slot_name(s, name);
        if (slot_in_use(s) && strcmp(name, "victim") == 0) {
            return s;
        }
    }
    return NULL;
}

static const char *fresh_ledger(void)
{
    struct ballast_config config;
    uint32_t n, k;

    config_static(&config, geometry.nodes, GIB(16));
    config.nr_classes = geometry.classes;
    config.nr_slots = geometry.slots;
    for (k = 2; k < geometry.classes; k++) {
        config.page_bytes[k] = MIB(2) << k;
        for (n = 0; n < geometry.nodes; n++) {
            config.capacity_bytes[n][k] = GIB(8);
        }
    }
    return make_ledger("crash", &config);
}

static void examine(const struct operation *op, long n)
{
    struct ballast_ledger *l = must_open(path);
    const struct file_slot *s;

    if (!OK(ledger_lock(l) == 0, "%s killed at %ld: can be locked", op->name,
            n)) {
        return;
    }
    OK(totals_agree(l) || (op->prepare == prepare_wrong_total &&
       l->header->epoch == 0), "%s killed at %ld: totals", op->name, n);
    s = find_victim(l);
    OK(slot_is(l, s, &op->before) || slot_is(l, s, &op->after),
       "%s killed at %ld: the old claim or the new one", op->name, n);
    ledger_unlock(l);
    if (op->prepare == prepare_wrong_total) {
        ballast_check(l, BALLAST_CHECK_REPAIR, NULL, NULL);
    }
    ballast_sweep(l);
    ballast_release(l, "victim", NULL);
    ballast_release(l, "blocker", NULL);
    OK(get32(&l->header->nr_waiters) == 0, "%s killed at %ld: nobody waits",
       op->name, n);
    OK(identity_holds(l) && free_on(l, 0) == GIB(14) &&
       free_on(l, 1) == GIB(16) && free_on(l, ANY) ==
       (int64_t)(GIB(16) * geometry.nodes - GIB(2)),
       "%s killed at %ld: all is back", op->name, n);
    OK(ballast_check(l, 0, NULL, NULL) == 0, "%s killed at %ld: check",
       op->name, n);
    ballast_ledger_close(l);
}

/* Returns whether the child got through. */
static bool survives(const struct operation *op, long n)
{
    int status;
    pid_t pid = fork_child();

    if (pid == 0) {
        struct ballast_ledger *l = op->start();

        countdown = n;
        op->perform(l);
        countdown = 0;
        _exit(0);
    }
    waitpid(pid, &status, 0);
    if (WIFEXITED(status)) {
        OK(WEXITSTATUS(status) == 0, "%s runs", op->name);
        return true;
    }
    OK(WTERMSIG(status) == SIGKILL, "%s at %ld: killed, not crashed",
       op->name, n);
    return false;
}

static long torture(const struct operation *op)
{
    bool done = false;
    long n;

    for (n = 1; !done && n < MAX_POINTS && !tap_failures;
         n += geometry.stride) {
        struct ballast_ledger *other;

        path = fresh_ledger();
        other = must_join(path, "other");
        CLAIM1(other, 0, GIB(2), NULL);
        if (op->prepare) {
            op->prepare();
        }
        done = survives(op, n);
        examine(op, n);
        ballast_ledger_close(other);
    }
    return n - 1 - geometry.stride;
}

/* A ledger from before a reboot: whoever dies in the reset, it is done. */
static long torture_reset(void)
{
    static const struct operation op = {
        "reset", NULL, start_nothing, do_open, NONE, NONE
    };
    bool done = false;
    long n;

    for (n = 1; !done && n < MAX_POINTS && !tap_failures;
         n += geometry.stride) {
        struct ballast_ledger *l;

        path = fresh_ledger();
        l = start_joined();
        l->header->boot_id[3] ^= 1;
        slot_lock_byte(l->fd, l->slot, F_UNLCK);
        done = survives(&op, n);
        ballast_ledger_close(must_open(path));
        l->slot = SLOT_NONE;
        OK(identity_holds(l) && free_on(l, 0) == GIB(16) && !find_victim(l),
           "reset killed at %ld: empty", n);
        OK(ballast_check(l, 0, NULL, NULL) == 0, "reset at %ld: check", n);
        ballast_ledger_close(l);
    }
    return n - 1 - geometry.stride;
}

static unsigned create_flags;

static void do_create(struct ballast_ledger *l)
{
    struct ballast_config config;

    (void)l;
    config_static(&config, 2, GIB(4));
    if (ballast_ledger_create(path, &config, create_flags, NULL)) {
        abort();
    }
}

/* Not there, or the old one, or the new one; and a second try succeeds. */
static long torture_create(bool force)
{
    static const struct operation op = {
        "create", NULL, start_nothing, do_create, NONE, NONE
    };
    bool done = false;
    long n;

    create_flags = force ? BALLAST_CREATE_FORCE : 0;
    for (n = 1; !done && n < MAX_POINTS && !tap_failures;
         n += geometry.stride) {
        struct ballast_ledger *l;
        int err;

        path = fresh_ledger();
        if (!force) {
            unlink(path);
        }
        done = survives(&op, n);
        err = ballast_ledger_open(path, &l, NULL);
        OK(err == 0 || (!force && err == -ENOENT),
           "create killed at %ld: complete or absent", n);
        if (!err) {
            ballast_ledger_close(l);
        } else {
            do_create(NULL);
        }
        create_flags = BALLAST_CREATE_FORCE;
        do_create(NULL);
        create_flags = force ? BALLAST_CREATE_FORCE : 0;
        l = must_join(path, "vm");
        OK(CLAIM1(l, 0, GIB(4), NULL) == 0 && identity_holds(l),
           "create killed at %ld: usable after another try", n);
        ballast_ledger_close(l);
    }
    return n - 1 - geometry.stride;
}

static void verdict(const char *what, long points)
{
    tap_quiet = false;
    OK(!tap_failures && points > 0 && points < MAX_POINTS,
       "%s%s: killed at each of %ld points, or at every %ldth", geometry.name,
       what, points, geometry.stride);
    tap_quiet = true;
}

#ifdef BALLAST_NO_RECOVERY
static const bool control = true;
#else
static const bool control = false;
#endif

static void run_all(void)
{
    size_t i;

    for (i = 0; i < sizeof(operations) / sizeof(operations[0]); i++) {
        verdict(operations[i].name, torture(&operations[i]));
    }
    verdict("reset after a reboot", torture_reset());
    verdict("create", torture_create(false));
    verdict("create over another", torture_create(true));
}

static void run_control(void)
{
    int failures;
    size_t i;

    for (i = 0; i < sizeof(operations) / sizeof(operations[0]); i++) {
        if (operations[i].perform == do_claim_set) {
            torture(&operations[i]);
        }
    }
    failures = tap_failures;
    tap_failures = 0;
    tap_quiet = false;
    OK(failures, "control: without recovery, wrong totals are noticed");
}

int main(void)
{
    bool full = getenv("BALLAST_FULL") != NULL;

    temp_path("");
    tap_quiet = true;
    if (control) {
        run_control();
        return tap_done();
    }
    run_all();
    geometry = (typeof(geometry)){ "1 page size, ", 2, 1, 4, full ? 1 : 5 };
    run_all();
    geometry = (typeof(geometry)){ "4 nodes, 3 sizes, ", 4, 3, 16,
                                   full ? 1 : 13 };
    run_all();
    geometry = (typeof(geometry)){ "64 nodes, 8 sizes, ", 64, 8, 8,
                                   full ? 311 : 1511 };
    run_all();
    return tap_done();
}
