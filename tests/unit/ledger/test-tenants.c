/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Users that do not trust each other, with real user ids: what one may see of
 * another, change, adopt, or take away.  Needs root, to become them.
 */
#include <sys/stat.h>

#include "client.h"
#include "helper.h"

#define ALICE       65534u      /* has a quota of 2 GiB */
#define BOB         65533u
#define OBSERVER    65532u
#define STRANGER    65531u

static char path[256];
static char words[BALLAST_CLAIM_BYTES];
static struct ballast_refusal why;
static int to_child[2], to_parent[2];

static void become(uint32_t uid)
{
    if (setresgid(uid, uid, uid) || setresuid(uid, uid, uid)) {
        _exit(99);
    }
}

/* In a process of that user; its number of failures. */
static int run_as(uint32_t uid, int (*body)(void))
{
    int status;
    pid_t pid = fork_child();

    if (pid == 0) {
        become(uid);
        _exit(body());
    }
    waitpid(pid, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 255;
}

#define MUST(what) do { \
    if (!(what)) { \
        printf("# uid %u: %s\n", getuid(), #what); \
        fflush(stdout); \
        bad++; \
    } \
} while (0)

/* Alice stays, with a claim, until she is told to go. */
static pid_t start_alice(void)
{
    char c;
    pid_t pid = fork_child();

    if (pid == 0) {
        struct ballast_ledger *l;

        become(ALICE);
        l = must_join(path, "vm");
        if (CLAIM1(l, 0, GIB(1), NULL) ||
            ballast_bequeath(l, words, sizeof(words)) ||
            write(to_parent[1], words, sizeof(words)) != sizeof(words) ||
            read(to_child[0], &c, 1) != 1) {
            _exit(1);
        }
        pause();
    }
    if (read(to_parent[0], words, sizeof(words)) != sizeof(words)) {
        abort();
    }
    return pid;
}

static int bob_looks(void)
{
    struct ballast_ledger *l = must_join(path, "vm");
    struct ballast_status *st;
    char text[512];
    int bad = 0;

    MUST(CLAIM1(l, 0, GIB(8), &why) == -ENOMEM);
    MUST(why.reason == BALLAST_SHORT_NODE && why.missing_bytes == GIB(1));
    MUST(why.nr_holders == 0 && why.more_holders == 1);
    MUST(why.holders[0].name[0] == '\0' && why.holders[0].pid == 0);
    ballast_refusal_text(&why, text, sizeof(text));
    MUST(strstr(text, "; held by 1 that a daemon does not name"));
    MUST(CLAIM1(l, 0, GIB(2), NULL) == 0);
    MUST(ballast_status_get(l, &st) == 0);
    MUST(st->nr_participants == 1 && st->participants[0].uid == BOB &&
         st->participants[0].cells[0].claimed_bytes == GIB(2));
    MUST(st->cells[0].claimed_bytes == GIB(3));
    ballast_status_free(st);
    MUST(ballast_check(l, 0, NULL, NULL) == -EACCES);
    MUST(ballast_check(l, BALLAST_CHECK_REPAIR, NULL, NULL) == -EACCES);
    ballast_ledger_close(l);
    return bad;
}

static int bob_stands(void)
{
    struct ballast_ledger *l = must_open(path);
    const struct ballast_demand d = { .node = 0, .bytes = GIB(1) };
    int bad = 0;

    MUST(ballast_stand(l, "s", &d, 1, 0, &why) == -EACCES &&
         why.reason == BALLAST_NOT_ALLOWED);
    MUST(ballast_stand_wait(l, "s", &d, 1, 0, 60000, &why) == -EACCES &&
         why.reason == BALLAST_NOT_ALLOWED);
    MUST(ballast_release(l, "vm", &why) == -EACCES);
    MUST(ballast_sweep(l) == 0);
    ballast_ledger_close(l);
    return bad;
}

/* With the very words: they are worth nothing to another user. */
static int bob_steals(void)
{
    struct ballast_ledger *l;
    int bad = 0;

    MUST(ballast_adopt(words, &l, &why) == -ESHUTDOWN &&
         why.reason == BALLAST_DYING);
    return bad;
}

static int alice_guesses(void)
{
    struct ballast_ledger *l;
    char *digit = strstr(words, "cookie=") + 7;
    int bad = 0;

    *digit = *digit == '0' ? '1' : '0';
    MUST(ballast_adopt(words, &l, &why) == -ESHUTDOWN);
    return bad;
}

static int alice_adopts(void)
{
    struct ballast_ledger *l;
    struct ballast_own own[2];
    int bad = 0;

    MUST(ballast_adopt(words, &l, &why) == 0);
    MUST(ballast_own(l, own, 2) == 1 && own[0].claimed_bytes == GIB(1));
    ballast_ledger_close(l);
    return bad;
}

static int alice_has_a_quota(void)
{
    struct ballast_ledger *l = must_join(path, "vm2");
    struct ballast_ledger *m = must_join(path, "vm3");
    const struct ballast_demand d = { .node = 0, .bytes = GIB(2) };
    char text[256];
    int bad = 0;

    /* the first participant has one of two GiB */
    MUST(CLAIM1(l, 0, MIB(512), &why) == 0);
    MUST(CLAIM1(m, 0, GIB(1), &why) == -EDQUOT &&
         why.reason == BALLAST_ABOVE_QUOTA && why.limit_bytes == GIB(2) &&
         why.missing_bytes == MIB(512));
    ballast_refusal_text(&why, text, sizeof(text));
    MUST(strstr(text, "2 GiB"));
    MUST(CLAIM1(m, 0, MIB(512), &why) == 0);
    MUST(CLAIM1(l, 0, MIB(516), &why) == -EDQUOT);
    MUST(CLAIM1(l, 0, MIB(512), &why) == 0);
    MUST(ballast_queue(l, &d, 1, 1000, &why) == -EDQUOT);
    MUST(REPORT1(l, 0, GIB(2)) == -EDQUOT);
    MUST(REPORT1(l, 0, MIB(512)) == 0);
    MUST(REPORT1(l, 0, 0) == 0 && CLAIM1(l, 0, 0, &why) == 0);
    MUST(CLAIM1(m, 0, GIB(1), &why) == 0);
    ballast_leave(m);
    MUST(CLAIM1(l, 0, GIB(1), &why) == 0);
    ballast_ledger_close(l);
    ballast_ledger_close(m);
    return bad;
}

static int observer_looks(void)
{
    struct ballast_ledger *l = must_join(path, "o");
    const struct ballast_demand d = { .node = 0, .bytes = GIB(1) };
    struct ballast_status *st;
    int bad = 0;

    MUST(ballast_status_get(l, &st) == 0 && st->nr_participants == 2 &&
         strcmp(st->participants[0].name, "vm") == 0 &&
         st->participants[0].uid == ALICE && st->participants[0].pid > 0 &&
         st->participants[0].served);
    ballast_status_free(st);
    MUST(ballast_check(l, 0, NULL, NULL) >= 0);
    MUST(ballast_check(l, BALLAST_CHECK_REPAIR, NULL, NULL) == -EACCES);
    MUST(CLAIM1(l, 0, GIB(1), &why) == -EDQUOT);
    MUST(ballast_stand(l, "s", &d, 1, 0, &why) == -EACCES);
    ballast_ledger_close(l);
    return bad;
}

static int stranger_comes(void)
{
    struct ballast_ledger *l;
    int bad = 0;

    MUST(ballast_ledger_open(path, &l, &why) == -EACCES &&
         why.reason == BALLAST_NOT_ALLOWED);
    return bad;
}

/* Participants of one user are as limited as its connections. */
static int bob_joins_often(void)
{
    struct ballast_ledger *l;
    int i, err = 0, bad = 0;

    for (i = 0; i < 100 && !err; i++) {
        l = must_open(path);
        err = ballast_join(l, (sprintf(words, "b%d", i), words), 0, &why);
        close(l->remote->fd);
        l->remote->fd = -1;
        usleep(1000);
    }
    MUST(err == -ENOSPC && why.reason == BALLAST_NO_SLOT && i == 17);
    return bad;
}

static bool line_of_status(pid_t pid, const char *line)
{
    char name[64], text[4096];

    snprintf(name, sizeof(name), "/proc/%d/status", (int)pid);
    return host_read(name, text, sizeof(text)) == 0 && strstr(text, line);
}

/* As "nobody": privileges, capabilities, and no way back. */
static void test_dropped(void)
{
    struct ballast_ledger *l;
    pid_t pid;

    memcpy(daemon_options, (const char *[]){ "--user", "nobody", NULL },
           3 * sizeof(char *));
    strcpy(path, new_ledger("dropped", 1, GIB(8)));
    l = must_join(path, "vm");
    pid = daemon_pid(path);
    OK(line_of_status(pid, "Uid:\t65534\t65534\t65534\t65534") &&
       line_of_status(pid, "CapEff:\t0000000000000000") &&
       line_of_status(pid, "CapPrm:\t0000000000000000") &&
       line_of_status(pid, "CapBnd:\t0000000000000000") &&
       line_of_status(pid, "NoNewPrivs:\t1"), "privileges are dropped");
    OK(CLAIM1(l, 0, GIB(1), NULL) == 0, "and it works");
    ballast_ledger_close(l);
}

int main(void)
{
    static const char *const options[] = {
        "--allow", "uid:65534=2G", "--allow", "uid:65533", "--observer",
        "uid:65532", "--max-clients-per-uid", "16", NULL
    };
    struct ballast_ledger *l;
    pid_t alice;

    if (getuid() != 0) {
        puts("1..0 # SKIP needs root, to become several users");
        return 0;
    }
    if (pipe(to_child) || pipe(to_parent)) {
        return 1;
    }
    alarm(100);
    memcpy(daemon_options, options, sizeof(options));
    strcpy(path, new_ledger("tenants", 1, GIB(8)));
    chmod(temp_path(""), 0755);
    l = must_open(path);
    alice = start_alice();
    OK(run_as(BOB, bob_looks) == 0, "a user sees its own slot, and sums");
    OK(run_as(BOB, bob_stands) == 0, "standing claims are not for users");
    OK(run_as(BOB, bob_steals) == 0,
       "another's slot is not adopted, not even with the cookie");
    OK(run_as(ALICE, alice_guesses) == 0, "nor one's own without it");
    OK(run_as(ALICE, alice_has_a_quota) == 0, "a quota is for all slots");
    OK(run_as(STRANGER, stranger_comes) == 0, "others are not served");
    OK(nr_in_state(l, BALLAST_RUNNING) == 1 && free_on(l, 0) == GIB(7),
       "the first user has what it had");
    OK(run_as(OBSERVER, observer_looks) == 0, "an observer sees names");
    OK(run_as(BOB, bob_joins_often) == 0,
       "a user cannot take all the slots");
    OK(run_as(ALICE, alice_adopts) == 0,
       "another process of the same user adopts with the cookie");
    kill_and_reap(alice);
    ballast_ledger_close(l);
    test_dropped();
    return tap_done();
}
