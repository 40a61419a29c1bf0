/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A file that somebody cuts short, or removes, under those who use it: nobody
 * dies, everybody is told, and nothing more is promised.
 */
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "helper.h"

static struct ballast_refusal why;
static int64_t bad_at;

/* Every operation; what each returns is either right or says what happened. */
static bool all_say_so(struct ballast_ledger *l, struct ballast_ledger *plain)
{
    const struct ballast_demand d = { .node = 0, .bytes = GIB(1) };
    struct ballast_status *st;
    struct ballast_own own[4];
    char text[512];
    bool ok = true;

    ok &= CLAIM1(l, 0, GIB(2), &why) == -EBADMSG &&
          why.reason == BALLAST_BAD_FILE;
    ballast_refusal_text(&why, text, sizeof(text));
    ok &= strstr(text, "cut it short") != NULL;
    ok &= ballast_claim(l, NULL, 0, &why) == -EBADMSG;
    ok &= REPORT1(l, 0, GIB(1)) == -EBADMSG;
    ok &= ballast_own(l, own, 4) == -EBADMSG;
    ok &= ballast_queue(l, &d, 1, 10, &why) == -EBADMSG;
    ok &= ballast_queue_poll(l, &why) == -EBADMSG;
    ok &= ballast_claim_wait(l, &d, 1, 10, &why) == -EBADMSG;
    ok &= ballast_sweep(plain) == -EBADMSG;
    ok &= ballast_status_get(plain, &st) == -EBADMSG;
    ok &= ballast_check(plain, BALLAST_CHECK_REPAIR, NULL, NULL) == -EBADMSG;
    ok &= ballast_stand(plain, "s", &d, 1, 0, &why) == -EBADMSG;
    ok &= ballast_stand_wait(plain, "s", &d, 1, 0, 10, &why) == -EBADMSG;
    ok &= ballast_release(plain, "s", &why) == -EBADMSG;
    ok &= ballast_join(plain, "late", 0, &why) == -EBADMSG;
    return ok;
}

static void test_cut(void)
{
    struct ballast_ledger *l, *plain, *other;
    struct ballast_config config;
    off_t size, full = 0;
    bool ok = true;
    int err;

    config_static(&config, 2, GIB(8));
    for (size = 0; ok && (!full || size < full); size += size ? 4096 : 100) {
        const char *path = new_ledger("cut", 2, GIB(8));

        l = must_join(path, "vm");
        plain = must_open(path);
        CLAIM1(l, 0, GIB(1), NULL);
        full = (off_t)slot_at(l, 1) - (off_t)l->header;
        ok &= truncate(path, size) == 0;
        if (size > (off_t)l->geo.slots_offset) {
            /* the lost slots are nobody's; whoever looks at them finds out */
            slots_high(l);
            put32(&l->header->slots_high, l->geo.nr_slots);
            ok &= ballast_sweep(plain) == -EBADMSG;
        }
        ok &= all_say_so(l, plain);
        ok &= ballast_ledger_open(path, &other, &why) == -EBADMSG;
        err = ballast_ledger_create(path, &config, BALLAST_CREATE_FORCE, &why);
        ok &= err == -EBUSY && why.reason == BALLAST_EXISTS;
        ballast_ledger_close(l);
        ballast_ledger_close(plain);
        ok &= ballast_ledger_create(path, &config, BALLAST_CREATE_FORCE,
                                    &why) == 0;
        bad_at = size;
        unlink(path);
    }
    OK(ok, "cut to any size (%" PRId64 "): all are told, none dies", bad_at);
}

/* Behind all that is in use: nobody stumbles over it, but it is seen. */
static void test_cut_behind(void)
{
    const char *path = new_ledger("behind", 2, GIB(8));
    struct ballast_ledger *l = must_join(path, "vm");

    OK(truncate(path, (off_t)l->geo.file_bytes - 4096) == 0 &&
       CLAIM1(l, 0, GIB(1), &why) == 0, "cut behind what is used");
    l->looked_ns = 0;
    OK(CLAIM1(l, 0, GIB(2), &why) == -EBADMSG, "is noticed within a second");
    ballast_ledger_close(l);
    unlink(path);
}

static void test_regrown(void)
{
    const char *path = new_ledger("regrown", 2, GIB(8));
    struct ballast_ledger *l = must_join(path, "vm");
    struct ballast_ledger *plain = must_open(path);
    struct stat st;

    CLAIM1(l, 0, GIB(1), NULL);
    stat(path, &st);
    OK(truncate(path, 0) == 0 && truncate(path, st.st_size) == 0 &&
       all_say_so(l, plain), "cut and grown again: full of zeros");
    ballast_ledger_close(l);
    ballast_ledger_close(plain);
    unlink(path);
}

static int use_it(const char *path, int go)
{
    struct ballast_ledger *l = must_join(path, NULL);
    struct ballast_status *st;
    int err = 0;
    char c = 'g';

    if (write(go, &c, 1) != 1) {
        return 1;
    }
    while (!err) {
        err = CLAIM1(l, 0, GIB(1), &why);
        if (!err) {
            err = REPORT1(l, 0, MIB(2));
        }
        if (!err) {
            err = ballast_claim(l, NULL, 0, &why);
        }
        if (!err) {
            err = ballast_status_get(l, &st);
            if (!err) {
                ballast_status_free(st);
            }
        }
    }
    ballast_ledger_close(l);
    return err == -EBADMSG || err == -ESHUTDOWN ? 0 : 2;
}

/* In the middle of whatever two others are doing. */
static void test_race(void)
{
    int round, status, go[2], bad = 0, k;
    pid_t pid[2];
    char c;

    if (pipe(go)) {
        abort();
    }
    for (round = 0; round < 40; round++) {
        const char *path = new_ledger("race", 2, GIB(8));

        for (k = 0; k < 2; k++) {
            pid[k] = fork_child();
            if (pid[k] == 0) {
                _exit(use_it(path, go[1]));
            }
        }
        bad |= read(go[0], &c, 1) != 1 || read(go[0], &c, 1) != 1;
        usleep((unsigned)(round * 97 % 1000));
        bad |= truncate(path, round % 3 * 4096);
        for (k = 0; k < 2; k++) {
            waitpid(pid[k], &status, 0);
            bad |= status;
        }
        unlink(path);
    }
    close(go[0]);
    close(go[1]);
    OK(!bad, "40 times while two processes use it");
}

static void *blocked_thread(void *opaque)
{
    sigset_t all;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, NULL);
    return (void *)(intptr_t)CLAIM1((struct ballast_ledger *)opaque, 0, GIB(2),
                                    NULL);
}

static void test_blocked(void)
{
    const char *path = new_ledger("blocked", 2, GIB(8));
    struct ballast_ledger *l = must_join(path, "vm");
    pthread_t thread;
    void *result = NULL;

    truncate(path, 4096) ? abort() : (void)0;
    pthread_create(&thread, NULL, blocked_thread, l);
    pthread_join(thread, &result);
    OK((intptr_t)result == -EBADMSG, "in a thread that blocks every signal");
    ballast_ledger_close(l);
    unlink(path);
}

static sigjmp_buf back;
static volatile int passed_on, by_later;

static void earlier(int sig, siginfo_t *info, void *context)
{
    (void)sig;
    (void)info;
    (void)context;
    passed_on++;
    siglongjmp(back, 1);
}

static struct sigaction before_later;

/* A decent handler: what is not its own goes on. */
static void later(int sig, siginfo_t *info, void *context)
{
    by_later++;
    before_later.sa_sigaction(sig, info, context);
}

static void touch_cut_file(void)
{
    const char *path = temp_path("other");
    int fd = open(path, O_CREAT | O_RDWR | O_TRUNC, 0600);
    volatile char *p = mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0);

    close(fd);
    if (sigsetjmp(back, 1) == 0) {
        (void)*p;
    }
    munmap((void *)(uintptr_t)p, 4096);
    unlink(path);
}

/* In a child of its own: who came first, we, one that came later, we again. */
static int chain_of_handlers(void)
{
    struct sigaction action = {
        .sa_sigaction = earlier, .sa_flags = SA_SIGINFO | SA_NODEFER,
    };
    char path[128];
    struct ballast_ledger *l;
    int bad = 0;

    snprintf(path, sizeof(path), "%s", new_ledger("chain", 2, GIB(8)));
    bad |= ballast_guard_rearm() != 0;
    sigaction(SIGBUS, &action, NULL);
    l = must_join(path, "vm");
    touch_cut_file();
    bad |= passed_on != 1;
    bad |= ballast_guard_rearm() ? 2 : 0;
    action.sa_sigaction = later;
    sigaction(SIGBUS, &action, &before_later);
    touch_cut_file();
    bad |= (passed_on != 2 || by_later != 1) ? 4 : 0;
    bad |= (ballast_guard_rearm() || ballast_guard_rearm()) ? 8 : 0;
    touch_cut_file();
    bad |= (passed_on != 3 || by_later != 2) ? 16 : 0;
    truncate(path, 4096) ? abort() : (void)0;
    bad |= (CLAIM1(l, 0, GIB(1), &why) != -EBADMSG || by_later != 2) ? 32 : 0;
    return bad;
}

static void test_chain(void)
{
    int status;
    pid_t pid = fork_child();

    if (pid == 0) {
        _exit(chain_of_handlers());
    }
    waitpid(pid, &status, 0);
    OK(status == 0, "other handlers get what is theirs, once (%x)", status);
}

/* A fault of the program's own still ends it, and by the right signal. */
static void test_own_fault(void)
{
    int status;
    pid_t pid = fork_child();

    if (pid == 0) {
        struct sigaction action = { .sa_handler = SIG_DFL };

        sigaction(SIGBUS, &action, NULL);
        must_open(new_ledger("fault", 1, GIB(8)));
        touch_cut_file();
        _exit(0);
    }
    waitpid(pid, &status, 0);
    OK(WIFSIGNALED(status) && WTERMSIG(status) == SIGBUS,
       "without another handler, a fault of one's own ends the process");
    pid = fork_child();
    if (pid == 0) {
        struct sigaction action = { .sa_handler = SIG_DFL };

        sigaction(SIGBUS, &action, NULL);
        must_open(new_ledger("fault", 1, GIB(8)));
        raise(SIGBUS);
        _exit(0);
    }
    waitpid(pid, &status, 0);
    OK(WIFSIGNALED(status) && WTERMSIG(status) == SIGBUS,
       "so does a signal that was sent");
}

static void test_removed(void)
{
    const char *path = new_ledger("removed", 2, GIB(8));
    struct ballast_ledger *l = must_join(path, "vm");
    struct ballast_ledger *plain = must_open(path), *fresh;
    char text[512];

    CLAIM1(l, 0, GIB(4), NULL);
    OK(unlink(path) == 0 && ballast_join(plain, "late", 0, &why) == -ESTALE &&
       why.reason == BALLAST_BAD_FILE, "a removed ledger cannot be joined");
    l->looked_ns = 0;
    OK(CLAIM1(l, 0, GIB(5), &why) == -ESTALE && why.reason == BALLAST_BAD_FILE,
       "it promises nothing more");
    ballast_refusal_text(&why, text, sizeof(text));
    OK(strstr(text, "removed") != NULL, "and says why: %s", text);
    OK(REPORT1(l, 0, GIB(3)) == 0 && CLAIM1(l, 0, GIB(3), &why) == 0 &&
       ballast_claim(l, NULL, 0, &why) == 0,
       "what was promised can be used and given back");
    OK(ballast_check(l, 0, NULL, NULL) == 1, "check says so");
    new_ledger("removed", 2, GIB(8));
    fresh = must_open(path);
    OK(free_on(fresh, 0) == GIB(8) && free_on(l, 0) == GIB(5),
       "a new one of that name is another ledger");
    ballast_ledger_close(fresh);
    ballast_ledger_close(l);
    ballast_ledger_close(plain);
}

int main(void)
{
    alarm(60);
    temp_path("");
    test_chain();
    test_own_fault();
    test_cut();
    test_cut_behind();
    test_regrown();
    test_race();
    test_blocked();
    test_removed();
    return tap_done();
}
