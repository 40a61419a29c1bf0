/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Life and death with real processes: killed participants, quarantine, pid
 * re-use, claims inherited across exec and fork, standing claims with a pid.
 *
 * The program executes itself: "heir" adopts what it inherited, "stranger"
 * inherited nothing.  Children say one letter on a pipe when they are ready.
 */
#include <fcntl.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/prctl.h>

#include "helper.h"

static struct ballast_refusal why;

static void join_and_claim(const char *path, const char *name)
{
    struct ballast_ledger *l = must_join(path, name);

    if (CLAIM1(l, 0, GIB(6), NULL)) {
        _exit(1);
    }
}

/* It says so, and then waits to be killed. */
static pid_t child_with_claim(const char *path)
{
    pid_t pid = fork_child();

    if (pid == 0) {
        join_and_claim(path, "child");
        say_ready('k');
        pause();
    }
    return pid;
}

static void test_killed(void)
{
    const char *path = new_ledger("killed", 1, GIB(8));
    struct ballast_ledger *l = must_join(path, "vm");
    pid_t pid = child_with_claim(path);

    OK(wait_ready() == 'k' && CLAIM1(l, 0, GIB(4), &why) == -ENOMEM &&
       why.holders[0].pid == pid, "a living child holds its claim");
    kill_and_reap(pid);
    OK(CLAIM1(l, 0, GIB(4), &why) == 0, "killed: a refusal sweeps and retries");
    OK(identity_holds(l), "identity");
    ballast_ledger_close(l);
}

/* Not reaped: a zombie has given its memory back. */
static void test_zombie(void)
{
    const char *path = new_ledger("zombie", 1, GIB(8));
    struct ballast_ledger *l = must_join(path, "vm");
    siginfo_t info;
    pid_t pid = fork_child();

    if (pid == 0) {
        join_and_claim(path, "child");
        kill(getpid(), SIGKILL);
    }
    waitid(P_PID, (id_t)pid, &info, WEXITED | WNOWAIT);
    OK(CLAIM1(l, 0, GIB(4), &why) == 0, "a zombie's claim is given on");
    waitpid(pid, NULL, 0);
    ballast_ledger_close(l);
}

static void body_drops_lock(const char *path)
{
    struct ballast_ledger *l = must_join(path, "child");

    CLAIM1(l, 0, GIB(6), NULL);
    close(l->fd);
    munmap(l->header, l->geo.file_bytes);   /* the lock goes with the last */
    say_ready('d');
    pause();
}

static void test_quarantine(void)
{
    const char *path = new_ledger("quarantine", 1, GIB(8));
    struct ballast_ledger *l = must_join(path, "vm");
    pid_t pid = fork_child();

    if (pid == 0) {
        body_drops_lock(path);
    }
    OK(wait_ready() == 'd' && nr_in_state(l, BALLAST_STATE_DYING) == 1,
       "without its lock, the child is dying");
    OK(CLAIM1(l, 0, GIB(4), &why) == -ENOMEM && why.nr_holders == 1 &&
       why.holders[0].dying, "its memory is not given away while it runs");
    OK(ballast_sweep(l) == 0 && free_on(l, 0) == GIB(2),
       "however often one sweeps");
    kill_and_reap(pid);
    OK(CLAIM1(l, 0, GIB(4), &why) == 0 &&
       nr_in_state(l, BALLAST_STATE_DYING) == 0, "it is when it is gone");
    ballast_ledger_close(l);
}

static void body_dying_participant(const char *path)
{
    struct ballast_ledger *l = must_join(path, "child");
    int bad = 0;

    CLAIM1(l, 0, GIB(6), NULL);
    slot_lock_byte(l->fd, l->slot, F_UNLCK);
    say_ready('1');
    while (get32(&slot_at(l, l->slot)->state) == SLOT_LIVE) {
        usleep(1000);
    }
    bad |= CLAIM1(l, 0, GIB(7), &why) != -ESHUTDOWN ||
           why.reason != BALLAST_DYING;
    bad |= CLAIM1(l, 0, GIB(6), &why) != 0;
    bad |= ballast_claim(l, NULL, 0, &why) != 0;
    say_ready(bad ? 'b' : 'g');
    pause();
}

static void test_dying_participant(void)
{
    const char *path = new_ledger("dying", 1, GIB(8));
    struct ballast_ledger *l = must_open(path);
    pid_t pid = fork_child();

    if (pid == 0) {
        body_dying_participant(path);
    }
    wait_ready();
    ballast_sweep(l);
    OK(wait_ready() == 'g',
       "a dying participant gets no more, but may have zero");
    kill_and_reap(pid);
    OK(ballast_sweep(l) == 1 && free_on(l, 0) == GIB(8), "and is buried");
    ballast_ledger_close(l);
}

/* This very process, as if its pid had belonged to somebody else before. */
static void test_pid_reuse(void)
{
    const char *path = new_ledger("reuse", 1, GIB(8));
    struct ballast_ledger *past = must_join(path, "past");
    struct ballast_ledger *l = must_open(path);
    struct file_slot *s = slot_at(past, past->slot);

    CLAIM1(past, 0, GIB(6), NULL);
    slot_lock_byte(past->fd, past->slot, F_UNLCK);
    OK(ballast_sweep(l) == 0 && nr_in_state(l, BALLAST_STATE_DYING) == 1,
       "same pid, same start time: still there");
    s->start_ticks--;
    OK(ballast_sweep(l) == 1 && free_on(l, 0) == GIB(8),
       "same pid, other start time: gone");
    OK(CLAIM1(past, 0, GIB(1), &why) == -ESHUTDOWN &&
       ballast_claim(past, NULL, 0, &why) == -ESHUTDOWN,
       "the past has no slot any more");
    ballast_ledger_close(past);
    OK(ballast_join(l, "past", 0, NULL) == 0, "its name is free");
    ballast_ledger_close(l);
}

static void test_other_namespace(void)
{
    const char *path = new_ledger("ns", 1, GIB(8));
    struct ballast_ledger *past = must_join(path, "past");
    struct ballast_ledger *l = must_open(path);
    struct file_slot *s = slot_at(past, past->slot);

    s->pidns_inode ^= 1;
    s->pid = 1;
    slot_lock_byte(past->fd, past->slot, F_UNLCK);
    OK(ballast_sweep(l) == 0 && nr_in_state(l, BALLAST_STATE_DYING) == 1,
       "in another pid namespace: a time of grace");
    s->dying_since_ns -= UINT64_C(3000000000);
    OK(ballast_sweep(l) == 1, "which ends");
    past->slot = SLOT_NONE;
    ballast_ledger_close(past);
    ballast_ledger_close(l);
}

/* A real one, where we may make one: a participant that is its pid 1. */
static void test_real_namespace(void)
{
    const char *path = new_ledger("realns", 1, GIB(8));
    struct ballast_ledger *l = must_open(path);
    struct file_slot *s = slot_at(l, 0);
    pid_t pid = fork_child(), inner;

    if (pid == 0) {
        if (unshare(CLONE_NEWUSER | CLONE_NEWPID)) {
            say_ready('u');
            _exit(0);
        }
        inner = fork_child();
        if (inner == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);   /* nothing else ends a pid 1 */
            join_and_claim(path, "inner");
            say_ready('i');
            pause();
        }
        while (waitpid(inner, NULL, 0) < 0) {
        }
        _exit(0);
    }
    if (wait_ready() == 'u') {
        OK(true, "in a real pid namespace # SKIP not allowed here");
        waitpid(pid, NULL, 0);
        ballast_ledger_close(l);
        return;
    }
    OK(s->pid == 1 && s->pidns_inode != host_pidns() && free_on(l, 0) ==
       GIB(2) && ballast_sweep(l) == 0, "pid 1 of another namespace lives");
    ballast_ledger_close(must_join(path, "one more"));
    OK(nr_in_state(l, BALLAST_RUNNING) == 1, "though it is not our pid 1");
    kill_and_reap(pid);
    while (nr_in_state(l, BALLAST_RUNNING)) {
        usleep(1000);
    }
    OK(ballast_sweep(l) == 0 && nr_in_state(l, BALLAST_STATE_DYING) == 1,
       "killed, it has its time of grace");
    s->dying_since_ns -= UINT64_C(3000000000);
    OK(ballast_sweep(l) == 1 && free_on(l, 0) == GIB(8), "and then is gone");
    ballast_ledger_close(l);
}

static void test_stopped(void)
{
    const char *path = new_ledger("stopped", 1, GIB(8));
    struct ballast_ledger *l = must_join(path, "vm");
    pid_t pid = child_with_claim(path);

    wait_ready();
    kill(pid, SIGSTOP);
    waitpid(pid, NULL, WUNTRACED);
    OK(CLAIM1(l, 0, GIB(4), &why) == -ENOMEM && ballast_sweep(l) == 0 &&
       nr_in_state(l, BALLAST_RUNNING) == 2, "who is stopped keeps its claim");
    kill_and_reap(pid);
    OK(CLAIM1(l, 0, GIB(4), &why) == 0, "killed then, it loses it");
    ballast_ledger_close(l);
}

#ifdef LOCK_MS
static void test_stopped_inside(void)
{
    const char *path = new_ledger("inside", 1, GIB(8));
    struct ballast_ledger *l = must_join(path, "vm"), *inner;
    char text[256];
    pid_t pid = fork_child();

    if (pid == 0) {
        inner = must_join(path, "child");
        CLAIM1(inner, 0, GIB(6), NULL);
        ledger_lock(inner);
        inner->totals[0].claimed_bytes = 1;     /* in the middle of it */
        say_ready('k');
        kill(getpid(), SIGSTOP);
        pause();
    }
    wait_ready();
    waitpid(pid, NULL, WUNTRACED);
    OK(CLAIM1(l, 0, GIB(1), &why) == -ETIMEDOUT, "stopped inside: others give "
       "up");
    ballast_refusal_text(&why, text, sizeof(text));
    OK(strstr(text, "locked by another process"), "and say why: %s", text);
    kill_and_reap(pid);
    OK(CLAIM1(l, 0, GIB(1), &why) == 0 && identity_holds(l),
       "killed then, the next one repairs");
    ballast_ledger_close(l);
}
#endif

/* A slot that the daemon made: no lock, its process is its life. */
static void test_served(void)
{
    const char *path = new_ledger("served", 1, GIB(8));
    struct ballast_ledger *l = must_open(path);
    struct birth b = { .name = "served", .flags = SLOT_SERVED,
                       .cookie = { 1, 2 } };
    struct ballast_status *st;
    struct view v;
    uint32_t nr;
    pid_t pid = fork_child();

    if (pid == 0) {
        pause();
    }
    identity_of(pid, &b.who);
    view_zero(&l->geo, &v);
    ledger_lock(l);
    slot_find_free(l, false, &nr);
    slot_take(l, slot_at(l, nr), &b, &v);
    ledger_unlock(l);
    OK(ballast_sweep(l) == 0 && ballast_status_get(l, &st) == 0 &&
       st->participants[0].served &&
       st->participants[0].state == BALLAST_RUNNING, "a served one runs");
    ballast_status_free(st);
    OK(ballast_check(l, 0, NULL, NULL) == 0, "check has nothing to say");
    kill_and_reap(pid);
    ballast_sweep(l);
    OK(slot_at(l, nr)->state == SLOT_FREE, "until its process is gone");
    ballast_ledger_close(l);
}

/* The parent's handle in a child: closing it must not end the parent. */
static void test_fork(void)
{
    const char *path = new_ledger("fork", 1, GIB(8));
    struct ballast_ledger *parent = must_join(path, "parent");
    struct ballast_ledger *l = must_open(path);
    pid_t pid;

    CLAIM1(parent, 0, GIB(6), NULL);
    pid = fork_child();
    if (pid == 0) {
        ballast_ledger_close(parent);
        _exit(0);
    }
    waitpid(pid, NULL, 0);
    OK(free_on(l, 0) == GIB(2) && nr_in_state(l, BALLAST_RUNNING) == 1,
       "a child that closes its copy leaves the parent in");
    ballast_ledger_close(parent);
    OK(free_on(l, 0) == GIB(8), "the parent leaves by itself");
    ballast_ledger_close(l);
}

static void test_fork_keeps(void)
{
    const char *path = new_ledger("forkkeeps", 1, GIB(8));
    struct ballast_ledger *l = must_open(path);
    char buf[16];
    int child[2];
    pid_t pid, grandchild;

    if (pipe(child)) {
        abort();
    }
    pid = fork_child();
    if (pid == 0) {
        join_and_claim(path, "parent");
        grandchild = fork_child();
        if (grandchild == 0) {
            pause();
        }
        snprintf(buf, sizeof(buf), "%d", (int)grandchild);
        if (write(child[1], buf, sizeof(buf)) != sizeof(buf)) {
            _exit(1);
        }
        _exit(0);
    }
    waitpid(pid, NULL, 0);
    if (read(child[0], buf, sizeof(buf)) != sizeof(buf)) {
        abort();
    }
    OK(free_on(l, 0) == GIB(2) && nr_in_state(l, BALLAST_RUNNING) == 1,
       "a forked child without exec keeps the claim alive");
    kill(atoi(buf), SIGKILL);
    while (nr_in_state(l, BALLAST_RUNNING) || ballast_sweep(l) > 0) {
        usleep(1000);
    }
    OK(free_on(l, 0) == GIB(8), "until it is gone too");
    close(child[0]);
    close(child[1]);
    ballast_ledger_close(l);
}

static void exec_self(const char *role)
{
    char fd[16];

    snprintf(fd, sizeof(fd), "%d", ready[1]);
    fcntl(ready[1], F_SETFD, 0);
    execl("/proc/self/exe", "test-life", role, fd, NULL);
    _exit(1);
}

static int be_heir(void)
{
    struct ballast_ledger *l;
    struct ballast_own own[2];
    const char *claim = getenv(BALLAST_ENV_CLAIM);

    if (!claim || ballast_adopt(claim, &l, &why)) {
        say_ready('a');
        return 1;
    }
    if (ballast_own(l, own, 2) != 1 || own[0].claimed_bytes != GIB(6) ||
        (!l->remote && !(fcntl(l->fd, F_GETFD) & FD_CLOEXEC))) {
        say_ready('o');
        return 1;
    }
    if (CLAIM1(l, 0, GIB(7), &why)) {
        say_ready('c');
        return 1;
    }
    say_ready('h');
    pause();
    return 0;
}

static void bequeath_and_exec(const char *path, bool daemonize)
{
    struct ballast_ledger *l = must_join(path, "heir");
    char claim[BALLAST_CLAIM_BYTES];

    CLAIM1(l, 0, GIB(6), NULL);
    if (ballast_bequeath(l, claim, sizeof(claim)) ||
        setenv(BALLAST_ENV_CLAIM, claim, 1)) {
        _exit(1);
    }
    if (daemonize && fork_child() > 0) {
        _exit(0);
    }
    exec_self("heir");
}

static int32_t pid_of_first(struct ballast_ledger *l)
{
    struct ballast_status *st;
    int32_t pid = 0;

    if (ballast_status_get(l, &st) == 0) {
        pid = st->nr_participants ? st->participants[0].pid : 0;
        ballast_status_free(st);
    }
    return pid;
}

static void test_adopt(bool daemonize)
{
    const char *path = new_ledger("adopt", 1, GIB(8));
    struct ballast_ledger *l = must_open(path);
    const char *how = daemonize ? "exec in a forked child" : "exec";
    int32_t heir;
    pid_t pid = fork_child();

    if (pid == 0) {
        bequeath_and_exec(path, daemonize);
    }
    OK(wait_ready() == 'h', "%s: the claim is adopted and raised", how);
    heir = pid_of_first(l);
    OK(free_on(l, 0) == GIB(1) && nr_in_state(l, BALLAST_RUNNING) == 1 &&
       (heir == pid) == !daemonize, "%s: it is the heir's", how);
    kill(heir, SIGKILL);
    waitpid(pid, NULL, 0);
    while (nr_in_state(l, BALLAST_RUNNING) || nr_in_state(l,
           BALLAST_STATE_DYING)) {
        usleep(1000);
    }
    OK(free_on(l, 0) == GIB(8), "%s: and ends with the heir", how);
    ballast_ledger_close(l);
}

static void test_no_bequest(void)
{
    const char *path = new_ledger("stranger", 1, GIB(8));
    struct ballast_ledger *l = must_open(path);
    pid_t pid = fork_child();

    if (pid == 0) {
        join_and_claim(path, "vm");
        exec_self("stranger");
    }
    OK(wait_ready() == 's' && nr_in_state(l, BALLAST_STATE_DYING) == 1,
       "exec without a bequest drops the lock");
    kill_and_reap(pid);
    OK(ballast_sweep(l) == 1 && free_on(l, 0) == GIB(8), "and is cleaned up");
    ballast_ledger_close(l);
}

static void test_bad_bequests(void)
{
    static const char *const bad[] = {
        "", "fd=3", "fd=-1,slot=0,serial=1", "fd=3,slot=0,serial=1x",
        "fd=3,slot=99999,serial=1", "fd=99999999999,slot=0,serial=1",
        "fd=3,slot=0,serial=18446744073709551616", "slot=0,fd=3,serial=1",
        "fd= 3,slot=0,serial=1", "fd=999,slot=0,serial=1",
        "fd=0,slot=0,serial=1",
    };
    const char *path = new_ledger("bad", 1, GIB(8));
    struct ballast_ledger *l = must_join(path, "vm"), *out;
    struct ballast_ledger *plain = must_open(path);
    char claim[96];
    size_t i;

    for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        OK(ballast_adopt(bad[i], &out, &why) < 0, "'%s' is not adopted",
           bad[i]);
    }
    OK(ballast_bequeath(plain, claim, sizeof(claim)) == -ENOTCONN,
       "nothing to bequeath");
    OK(ballast_bequeath(l, claim, 8) == -ENOSPC &&
       (fcntl(l->fd, F_GETFD) & FD_CLOEXEC), "no room for the words");
    snprintf(claim, sizeof(claim), "fd=%d,slot=%u,serial=%" PRIu64, plain->fd,
             l->slot, l->serial);
    OK(ballast_adopt(claim, &out, &why) == -EBADF,
       "a descriptor without the lock");
    snprintf(claim, sizeof(claim), "fd=%d,slot=%u,serial=%" PRIu64, l->fd,
             l->slot, l->serial + 1);
    OK(ballast_adopt(claim, &out, &why) == -ESHUTDOWN, "another serial");
    snprintf(claim, sizeof(claim), "fd=%d,slot=%u,serial=%" PRIu64, l->fd,
             l->geo.nr_slots, l->serial);
    OK(ballast_adopt(claim, &out, &why) == -EINVAL, "a slot too far");
    ballast_ledger_close(l);
    ballast_ledger_close(plain);
}

static void test_standing_with_pid(void)
{
    const char *path = new_ledger("standpid", 1, GIB(8));
    struct ballast_ledger *l = must_open(path);
    struct ballast_demand d = { .node = 0, .bytes = GIB(6) };
    pid_t pid = fork_child();

    if (pid == 0) {
        pause();
    }
    OK(ballast_stand(l, "s", &d, 1, pid, &why) == 0 &&
       pid_of_first(l) == pid && free_on(l, 0) == GIB(2),
       "a standing claim bound to a process");
    OK(ballast_sweep(l) == 0, "lives as long");
    kill_and_reap(pid);
    OK(ballast_sweep(l) == 1 && free_on(l, 0) == GIB(8), "and not longer");
    OK(ballast_stand(l, "s", &d, 1, pid, &why) == -ESRCH,
       "not bound to what is not there");
    ballast_ledger_close(l);
}

static void test_restart_while_dying(void)
{
    const char *path = new_ledger("restart", 1, GIB(8));
    struct ballast_ledger *l;
    pid_t pid = fork_child();

    if (pid == 0) {
        body_drops_lock(path);
    }
    wait_ready();
    l = must_join(path, "child");
    OK(nr_in_state(l, BALLAST_STATE_DYING) == 1,
       "a name is free while its past is dying");
    kill_and_reap(pid);
    ballast_ledger_close(l);
}

/*
 * Of a claim that is bound to a lock in the file; through a daemon it is bound
 * to its process (test-daemon.c has those cases).
 */
static void test_locks(void)
{
    test_quarantine();
    test_dying_participant();
    test_pid_reuse();
    test_other_namespace();
    test_real_namespace();
    test_stopped();
#ifdef LOCK_MS
    test_stopped_inside();
#endif
    test_served();
    test_fork_keeps();
    test_no_bequest();
    test_bad_bequests();
    test_restart_while_dying();
}

int main(int argc, char **argv)
{
    if (argc == 3) {
        ready[1] = atoi(argv[2]);
        if (strcmp(argv[1], "heir") == 0) {
            return be_heir();
        }
        say_ready('s');
        pause();
    }
    if (pipe(ready)) {
        return 1;
    }
    alarm(60);
    test_killed();
    test_zombie();
    test_fork();
    test_adopt(false);
    test_adopt(true);
    test_standing_with_pid();
    if (!over_daemon()) {
        test_locks();
    }
    return tap_done();
}
