/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * 32 processes claim, redeem, wait in line, stand, release, leave and look,
 * at random, while they are killed, stopped and woken at random, from outside
 * and by themselves at a random store to the ledger; another one watches that
 * the identity holds and that nothing is promised twice.  At the end
 * everything comes back.  60 seconds, ten minutes with BALLAST_FULL,
 * ten seconds with BALLAST_BRIEF.
 *
 *   --seconds N    that long instead
 *   --seed N       of the random numbers (but the kernel's order is its own)
 *
 * A worker reports no more than it was granted on that node, and gives back
 * before it claims something else.  So no node is ever short.
 *
 * Built with BALLAST_NO_RECOVERY it is a control, and ends as soon as
 * somebody notices.
 */
#include <getopt.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <time.h>

#include "helper.h"

#define WORKERS     32
#define NODES       2
#define STANDING    6
#define CAPACITY    GIB(16)
#define MAX_STOP_MS 100

enum count {
    JOINED, CLAIMED, REFUSED, WAITED, TIMED_OUT, REPORTED, STOOD, RELEASED,
    CANCELLED, LEFT, LOOKED, NR_COUNTS
};

static const char *const count_names[NR_COUNTS] = {
    "joins", "claims granted", "refused", "granted after waiting",
    "waits timed out", "reports", "standing claims", "released",
    "left the queue", "left", "statuses",
};

struct shared {
    unsigned long count[NR_COUNTS];
    unsigned long looks;
    uint32_t broken;
};

static struct shared *shared;
static const char *path;
static unsigned seed;

static unsigned pick(unsigned below)
{
    return (unsigned)rand_r(&seed) % below;
}

static void counted(enum count what)
{
    __atomic_fetch_add(&shared->count[what], 1, __ATOMIC_RELAXED);
}

static uint64_t now_ms(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

/* A worker ------------------------------------------------------------- */

#define POINTS_PER_DEATH    20000
#define POINTS_PER_YIELD    1000

static bool is_worker;

/* Critical sections are short: from outside they are hardly ever hit. */
void ballast_crash_point(void)
{
    unsigned chance;

    if (!is_worker) {
        return;
    }
    chance = pick(POINTS_PER_DEATH);
    if (chance == 0) {
        kill(getpid(), SIGKILL);
    } else if (chance % POINTS_PER_YIELD == 0) {
        sched_yield();
    }
}

static struct ballast_demand random_demand(void)
{
    return (struct ballast_demand) {
        .node = pick(6) ? pick(NODES) : ANY, .bytes = MIB(pick(1024)),
    };
}

static void redeem(struct ballast_ledger *l, const struct ballast_demand *d)
{
    struct ballast_usage u = { .node = d->node };

    if (d->node == ANY) {
        return;
    }
    u.resident_bytes = MIB(pick((unsigned)(d->bytes >> 20) + 1));
    u.freeable_bytes = u.resident_bytes / 2 & ~UINT64_C(4095);
    if (ballast_report(l, &u, 1) == 0) {
        counted(REPORTED);
    }
}

static void claim(struct ballast_ledger *l)
{
    struct ballast_demand d[2] = { random_demand(), random_demand() };
    struct ballast_refusal why;
    size_t nr = d[0].node == d[1].node ? 1 : 1 + pick(2);

    ballast_report(l, NULL, 0);
    if (ballast_claim(l, d, nr, &why) == 0) {
        counted(CLAIMED);
        redeem(l, &d[0]);
    } else {
        counted(REFUSED);
    }
}

static void wait_in_line(struct ballast_ledger *l)
{
    struct ballast_demand d = random_demand();

    d.bytes *= 4;
    ballast_report(l, NULL, 0);
    if (ballast_claim_wait(l, &d, 1, 1 + pick(50), NULL) == 0) {
        counted(WAITED);
        redeem(l, &d);
    } else {
        counted(TIMED_OUT);
    }
}

static void queue_up(struct ballast_ledger *l)
{
    struct ballast_demand d = random_demand();
    int err, polls;

    d.bytes *= 4;
    ballast_report(l, NULL, 0);
    err = ballast_queue(l, &d, 1, BALLAST_WAIT_FOREVER, NULL);
    for (polls = 0; err == -EINPROGRESS && polls < 8; polls++) {
        usleep(pick(2000));
        err = ballast_queue_poll(l, NULL);
    }
    if (err == 0) {
        counted(WAITED);
    } else if (ballast_queue_cancel(l) == 0) {
        counted(CANCELLED);
    }
}

static void stand(struct ballast_ledger *l)
{
    struct ballast_demand d = random_demand();
    char name[32];

    snprintf(name, sizeof(name), "standing-%u", pick(STANDING));
    if (pick(3)) {
        if (ballast_stand(l, name, &d, 1, pick(2) ? getpid() : 0, NULL) == 0) {
            counted(STOOD);
        }
    } else if (ballast_release(l, name, NULL) == 0) {
        counted(RELEASED);
    }
}

static void look(struct ballast_ledger *l)
{
    struct ballast_status *st;

    if (ballast_status_get(l, &st) == 0) {
        ballast_status_free(st);
        counted(LOOKED);
    }
}

static void act(struct ballast_ledger *l)
{
    switch (pick(24)) {
    case 0:
        wait_in_line(l);
        break;
    case 1:
        queue_up(l);
        break;
    case 2:
        stand(l);
        break;
    case 3:
        look(l);
        break;
    case 4:
        usleep(pick(3000));
        break;
    default:
        claim(l);
        break;
    }
}

static void work(void)
{
    struct ballast_ledger *l = must_open(path);
    char name[48];

    is_worker = true;
    for (;;) {
        snprintf(name, sizeof(name), "worker-%d-%u", (int)getpid(), pick(100));
        if (ballast_join(l, name, 0, NULL)) {
            continue;
        }
        counted(JOINED);
        while (pick(64)) {
            act(l);
        }
        ballast_leave(l);
        counted(LEFT);
        if (!pick(16)) {
            ballast_ledger_close(l);
            l = must_open(path);
        }
    }
}

/* The watcher ---------------------------------------------------------- */

static bool nothing_twice(struct ballast_ledger *l)
{
    struct ballast_status *st;
    bool ok = true;
    size_t i;

    if (ballast_status_get(l, &st)) {
        return false;
    }
    for (i = 0; i < st->nr_cells; i++) {
        ok &= st->cells[i].free_bytes >= 0;
    }
    ballast_status_free(st);
    return ok;
}

static void watch(void)
{
    struct ballast_ledger *l = must_open(path);

    for (;;) {
        if (!identity_holds(l) || !nothing_twice(l)) {
            __atomic_store_n(&shared->broken, 1, __ATOMIC_RELAXED);
        }
        __atomic_fetch_add(&shared->looks, 1, __ATOMIC_RELAXED);
        usleep(2000);
    }
}

/* The torturer --------------------------------------------------------- */

static pid_t start(void (*body)(void), unsigned its_seed)
{
    pid_t parent = getpid(), pid = fork();

    if (pid < 0) {
        perror("fork");         /* -1 must not be killed: all would be */
        abort();
    }
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != parent) {
            _exit(1);
        }
        seed = its_seed;
        body();
    }
    return pid;
}

struct victim {
    pid_t pid;
    uint64_t wake_ms;       /* stopped until then, or 0 */
};

static struct victim victims[WORKERS];

static void start_worker(struct victim *v)
{
    v->pid = start(work, pick(1u << 30));
    v->wake_ms = 0;
}

/* Who has died by itself is replaced, who was stopped for long enough runs. */
static unsigned look_after(uint64_t now)
{
    unsigned dead = 0;
    int i;

    for (i = 0; i < WORKERS; i++) {
        struct victim *v = &victims[i];

        if (waitpid(v->pid, NULL, WNOHANG) == v->pid) {
            start_worker(v);
            dead++;
        } else if (v->wake_ms && v->wake_ms <= now) {
            kill(v->pid, SIGCONT);
            v->wake_ms = 0;
        }
    }
    return dead;
}

static bool is_broken(void)
{
    return __atomic_load_n(&shared->broken, __ATOMIC_RELAXED);
}

static unsigned torture(uint64_t end, unsigned *dead)
{
    unsigned kills = 0;
    uint64_t now;

    for (now = now_ms(); now < end && !is_broken(); now = now_ms()) {
        struct victim *v = &victims[pick(WORKERS)];

        *dead += look_after(now);
        if (pick(4) == 0) {
            kill(v->pid, SIGSTOP);
            v->wake_ms = now + pick(MAX_STOP_MS);
        } else {
            kill_and_reap(v->pid);
            kills++;
            start_worker(v);
        }
        usleep(1000 + pick(8000));
    }
    return kills;
}

static bool all_is_back(struct ballast_ledger *l)
{
    char name[32];
    uint32_t i;

    ballast_sweep(l);
    for (i = 0; i < STANDING; i++) {
        snprintf(name, sizeof(name), "standing-%u", i);
        ballast_release(l, name, NULL);
    }
    for (i = 0; i < l->geo.nr_slots; i++) {
        if (slot_in_use(slot_at(l, i))) {
            return false;
        }
    }
    return free_on(l, 0) == (int64_t)CAPACITY &&
           free_on(l, 1) == (int64_t)CAPACITY &&
           free_on(l, ANY) == NODES * (int64_t)CAPACITY &&
           l->header->nr_waiters == 0;
}

#ifdef BALLAST_NO_RECOVERY
static const bool control = true;
#else
static const bool control = false;
#endif

static void verdict(struct ballast_ledger *l, unsigned kills, unsigned dead)
{
    int i;

    if (control) {
        OK(shared->broken, "control: without recovery, it is noticed after %u "
           "deaths", kills + dead);
        return;
    }
    OK(!shared->broken && shared->looks,
       "the identity held in %lu looks; %u were killed, %u died at a store",
       shared->looks, kills, dead);
    OK(all_is_back(l) && identity_holds(l), "all capacity is back");
    OK(ballast_check(l, 0, NULL, NULL) == 0, "check finds nothing");
    for (i = 0; i < NR_COUNTS; i++) {
        OK(shared->count[i], "%lu %s", shared->count[i], count_names[i]);
    }
}

static uint64_t parse(int argc, char **argv)
{
    static const struct option options[] = {
        { "seconds", required_argument, NULL, 's' },
        { "seed", required_argument, NULL, 'r' },
        { NULL, 0, NULL, 0 },
    };
    uint64_t seconds = getenv("BALLAST_BRIEF") ? 10 :
                       getenv("BALLAST_FULL") ? 600 : 60;
    int c;

    seed = (unsigned)(now_ms() ^ (uint64_t)getpid() << 16);
    while ((c = getopt_long(argc, argv, "", options, NULL)) >= 0) {
        if (c == 's') {
            seconds = strtoul(optarg, NULL, 10);
        } else if (c == 'r') {
            seed = (unsigned)strtoul(optarg, NULL, 10);
        } else {
            exit(2);
        }
    }
    return seconds;
}

int main(int argc, char **argv)
{
    uint64_t seconds = parse(argc, argv);
    struct ballast_ledger *l;
    unsigned kills, dead = 0;
    pid_t watcher;
    int i;

    printf("# --seed %u --seconds %" PRIu64 "\n", seed, seconds);
    fflush(stdout);
    if (nice(10) < 0) {     /* 32 processes: other tests run beside them */
        printf("# cannot be nice\n");
    }
    shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE,
                  MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    path = new_ledger("torture", NODES, CAPACITY);
    l = must_open(path);
    watcher = start(watch, 0);
    for (i = 0; i < WORKERS; i++) {
        start_worker(&victims[i]);
    }
    kills = torture(now_ms() + seconds * 1000, &dead);
    for (i = 0; i < WORKERS; i++) {
        kill_and_reap(victims[i].pid);
    }
    kill_and_reap(watcher);
    verdict(l, kills, dead);
    ballast_ledger_close(l);
    return tap_done();
}
