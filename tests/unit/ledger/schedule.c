/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * See schedule.h.  The calls that a process is known by to others are
 * replaced at link time (--wrap, see meson.build).
 *
 * The mutex: its lock word holds the actor, and what the kernel and the C
 * library would have written of its death.  That the real ones do so is what
 * test-crash.c and test-torture.c are for.
 */
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <sys/mman.h>
#include <time.h>
#include <ucontext.h>

#include "schedule.h"

#define STACK_BYTES     (1 << 20)
#define MAX_THINGS      16
#define MAX_FORCED      200000
#define FAKE_PID        50000000    /* above any real one */

#define OWNER_DIED      0x40000000
#define OWNER_MASK      0x3fffffff
#define INCONSISTENT    1
#define LOST_FOR_GOOD   2

struct mapping {
    void *base;
    size_t bytes;
};

struct actor {
    ucontext_t context;
    uint8_t *stack;
    actor_fn *body;
    pthread_mutex_t *held;
    int fds[MAX_THINGS];
    struct mapping maps[MAX_THINGS];
    bool done, dead, gone, was_busy;
};

static struct actor actors[ACTORS + 1];
static ucontext_t main_context;
static const struct plan *plan;
static struct run *run;
static int self = OBSERVER;
static uint32_t next_deviation;
static uint32_t forced;
static uint32_t steps_at_preemption;

int __real_close(int fd);
int __real_munmap(void *base, size_t bytes);
void *__real_mmap64(void *at, size_t bytes, int prot, int flags, int fd,
                    off64_t offset);
int __real_open64(const char *path, int flags, ...);
int __real_fcntl64(int fd, int cmd, ...);
int __real_nanosleep(const struct timespec *t, struct timespec *left);

int __wrap_close(int fd);
int __wrap_munmap(void *base, size_t bytes);
void *__wrap_mmap64(void *at, size_t bytes, int prot, int flags, int fd,
                    off64_t offset);
int __wrap_open64(const char *path, int flags, ...);
int __wrap_fcntl64(int fd, int cmd, ...);
int __wrap_nanosleep(const struct timespec *t, struct timespec *left);
int __real_mkostemp64(char *name, int flags);
int __wrap_mkostemp64(char *name, int flags);
int __real_link(const char *from, const char *to);
int __wrap_link(const char *from, const char *to);
int __real_rename(const char *from, const char *to);
int __wrap_rename(const char *from, const char *to);
pid_t __real_getpid(void);
pid_t __wrap_getpid(void);
int __wrap_identity_self(struct identity *who);
int __wrap_host_process_stat(int32_t pid, struct process_stat *st);
uint64_t __wrap_host_kernel_free(uint32_t node, uint64_t page_bytes, bool base,
                                 uint32_t count_cache_percent);
uint64_t __wrap_host_now_ns(void);
int __wrap_pthread_mutex_init(pthread_mutex_t *m,
                              const pthread_mutexattr_t *attr);
int __wrap_pthread_mutex_trylock(pthread_mutex_t *m);
int __wrap_pthread_mutex_lock(pthread_mutex_t *m);
int __wrap_pthread_mutex_consistent(pthread_mutex_t *m);
int __wrap_pthread_mutex_unlock(pthread_mutex_t *m);

static bool runnable(int actor)
{
    return actor < ACTORS && !actors[actor].done && !actors[actor].dead;
}

static int other(void)
{
    return 1 - self;
}

static void enter(int actor)
{
    int was = self;

    self = actor;
    if (actor == OBSERVER) {
        setcontext(&main_context);
    } else if (was == OBSERVER) {
        swapcontext(&main_context, &actors[actor].context);
    } else if (runnable(was)) {
        swapcontext(&actors[was].context, &actors[actor].context);
    } else {
        setcontext(&actors[actor].context);
    }
}

/* The current actor waits for the other one. */
static void wait_for_other(const char *what)
{
    if (next_deviation && next_deviation == plan->nr &&
        run->steps == steps_at_preemption) {
        run->useless = true;
    }
    if (!runnable(other()) || ++forced > MAX_FORCED) {
        run->trouble = what;
        actors[self].dead = true;
        enter(OBSERVER);
    }
    enter(other());
}

/* Dying ---------------------------------------------------------------- */

static void drop_files(struct actor *a)
{
    int i;

    for (i = 0; i < MAX_THINGS; i++) {
        if (a->maps[i].base) {
            guard_unmap(a->maps[i].base);
            __real_munmap(a->maps[i].base, a->maps[i].bytes);
            a->maps[i].base = NULL;
        }
        if (a->fds[i] >= 0) {
            __real_close(a->fds[i]);
            a->fds[i] = -1;
        }
    }
}

static void die(struct actor *a, enum deviation_kind kind)
{
    a->dead = true;
    if (a->held) {
        a->held->__data.__lock = OWNER_DIED;
        a->held = NULL;
    }
    if (kind >= KILL_FILES_CLOSED) {
        drop_files(a);
    }
    a->gone = kind == KILL_GONE;
}

void schedule_end(int actor)
{
    die(&actors[actor], KILL_GONE);
}

/* Steps ---------------------------------------------------------------- */

static void deviate(enum deviation_kind kind)
{
    if (kind == PREEMPT) {
        steps_at_preemption = run->steps;
        enter(other());
        return;
    }
    run->killed = self;
    die(&actors[self], kind);
    enter(runnable(other()) ? other() : OBSERVER);
}

static void step(uint8_t can)
{
    uint32_t n;

    if (self == OBSERVER) {
        return;
    }
    n = run->steps++;
    if (n >= MAX_STEPS) {
        run->trouble = "too many steps";
        actors[self].dead = true;
        enter(OBSERVER);
    }
    if (!runnable(other())) {
        can &= (uint8_t)~CAN_PREEMPT;
    }
    run->can[n] = can;
    if (next_deviation < plan->nr && plan->at[next_deviation].step == n) {
        deviate(plan->at[next_deviation++].kind);
    }
}

void ballast_crash_point(void)
{
    step(CAN_PREEMPT | CAN_KILL);
}

/* Private copies are nobody else's, nor is what the mutex guards. */
void ballast_load_point(const void *where)
{
    const struct actor *a = &actors[self];
    const uint8_t *byte = where;
    int i;

    if (self == OBSERVER || a->held) {
        return;
    }
    for (i = 0; i < MAX_THINGS; i++) {
        const uint8_t *base = a->maps[i].base;

        if (base && byte >= base && byte < base + a->maps[i].bytes) {
            step(CAN_PREEMPT);
            return;
        }
    }
}

/* A complete operation that is followed by death is a case of its own. */
static void trampoline(void)
{
    actors[self].body(self);
    step(CAN_KILL);
    actors[self].done = true;
    enter(runnable(other()) ? other() : OBSERVER);
}

static void remove_temps(void);

void schedule_reset(void)
{
    static bool again;
    int i, k;

    for (i = 0; i <= ACTORS; i++) {
        if (again) {
            drop_files(&actors[i]);
        }
        actors[i].done = actors[i].dead = actors[i].gone = false;
        actors[i].was_busy = false;
        actors[i].held = NULL;
        for (k = 0; k < MAX_THINGS; k++) {
            actors[i].fds[k] = -1;
        }
    }
    again = true;
    remove_temps();
    self = OBSERVER;
}

/* What is opened from here on is that actor's, but nothing is scheduled. */
static int acting = -1;

void schedule_act_as(int actor)
{
    acting = actor == OBSERVER ? -1 : actor;
}

void schedule_run(const struct plan *the_plan, actor_fn *body[ACTORS],
                  struct run *result)
{
    int i;

    plan = the_plan;
    run = result;
    memset(run, 0, offsetof(struct run, can));
    run->killed = -1;
    run->useless = false;
    run->trouble = NULL;
    next_deviation = forced = 0;
    for (i = 0; i < ACTORS; i++) {
        struct actor *a = &actors[i];

        if (!a->stack) {
            a->stack = mmap(NULL, STACK_BYTES, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        }
        a->body = body[i];
        getcontext(&a->context);
        a->context.uc_stack.ss_sp = a->stack;
        a->context.uc_stack.ss_size = STACK_BYTES;
        a->context.uc_link = NULL;
        makecontext(&a->context, trampoline, 0);
    }
    enter(plan->first);
    self = OBSERVER;
}

/* Who a process is ----------------------------------------------------- */

static int who_acts(void)
{
    return acting >= 0 ? acting : self;
}

pid_t __wrap_getpid(void)
{
    return FAKE_PID + who_acts();
}

int __wrap_identity_self(struct identity *who)
{
    memset(who, 0, sizeof(*who));
    who->pid = FAKE_PID + who_acts();
    who->start_ticks = (uint64_t)(1000 + who_acts());
    who->pidns_inode = host_pidns();
    return 0;
}

int __wrap_host_process_stat(int32_t pid, struct process_stat *st)
{
    int actor = pid - FAKE_PID;

    step(CAN_PREEMPT);
    if (actor < 0 || actor > ACTORS || actors[actor].gone) {
        return -ESRCH;
    }
    *st = (struct process_stat) {
        .state = 'S', .threads = 1, .start_ticks = (uint64_t)(1000 + actor),
    };
    return 0;
}

/*
 * A clock that knows no busy machine: who was preempted for five seconds would
 * have lost his place in the queue.
 */
uint64_t __wrap_host_now_ns(void)
{
    static uint64_t now_ns = UINT64_C(1000000000000);

    return now_ns += 1000;
}

uint64_t __wrap_host_kernel_free(uint32_t node, uint64_t page_bytes, bool base,
                                 uint32_t count_cache_percent)
{
    (void)node;
    (void)page_bytes;
    (void)base;
    (void)count_cache_percent;
    return GIB(64);
}

/* Descriptors and mappings --------------------------------------------- */

static void remember_fd(int fd)
{
    struct actor *a = &actors[who_acts()];
    int i;

    if (fd < 0 || a == &actors[OBSERVER]) {
        return;
    }
    for (i = 0; i < MAX_THINGS; i++) {
        if (a->fds[i] < 0) {
            a->fds[i] = fd;
            return;
        }
    }
    abort();
}

int __wrap_open64(const char *path, int flags, ...)
{
    mode_t mode = 0;
    va_list args;
    int fd;

    va_start(args, flags);
    if (flags & O_CREAT) {
        mode = va_arg(args, mode_t);
    }
    va_end(args);
    fd = __real_open64(path, flags, mode);
    remember_fd(fd);
    return fd;
}

/* Whoever is killed leaves it behind. */
static char temps[MAX_THINGS][256];
static uint32_t nr_temps;

int __wrap_mkostemp64(char *name, int flags)
{
    int fd;

    step(CAN_PREEMPT | CAN_KILL);
    fd = __real_mkostemp64(name, flags);
    remember_fd(fd);
    if (fd >= 0) {
        snprintf(temps[nr_temps++ % MAX_THINGS], sizeof(temps[0]), "%s", name);
    }
    return fd;
}

static void remove_temps(void)
{
    while (nr_temps) {
        unlink(temps[--nr_temps % MAX_THINGS]);
    }
}

int __wrap_link(const char *from, const char *to)
{
    step(CAN_PREEMPT | CAN_KILL);
    return __real_link(from, to);
}

int __wrap_rename(const char *from, const char *to)
{
    step(CAN_PREEMPT | CAN_KILL);
    return __real_rename(from, to);
}

int __wrap_close(int fd)
{
    struct actor *a = &actors[who_acts()];
    int i;

    for (i = 0; i < MAX_THINGS; i++) {
        if (a->fds[i] == fd) {
            a->fds[i] = -1;
        }
    }
    return __real_close(fd);
}

void *__wrap_mmap64(void *at, size_t bytes, int prot, int flags, int fd,
                    off64_t offset)
{
    void *base = __real_mmap64(at, bytes, prot, flags, fd, offset);
    struct actor *a = &actors[who_acts()];
    int i;

    if (base == MAP_FAILED || fd < 0 || a == &actors[OBSERVER]) {
        return base;
    }
    for (i = 0; i < MAX_THINGS; i++) {
        if (!a->maps[i].base) {
            a->maps[i].base = base;
            a->maps[i].bytes = bytes;
            return base;
        }
    }
    abort();
}

int __wrap_munmap(void *base, size_t bytes)
{
    struct actor *a = &actors[who_acts()];
    int i;

    for (i = 0; i < MAX_THINGS; i++) {
        if (a->maps[i].base == base) {
            a->maps[i].base = NULL;
        }
    }
    return __real_munmap(base, bytes);
}

int __wrap_fcntl64(int fd, int cmd, ...)
{
    va_list args;
    void *arg;

    va_start(args, cmd);
    arg = va_arg(args, void *);
    va_end(args);
    if (cmd == F_OFD_SETLK || cmd == F_OFD_GETLK) {
        step(CAN_PREEMPT | CAN_KILL);
    }
    return __real_fcntl64(fd, cmd, arg);
}

/* Only a lock of the other one is ever waited for so. */
int __wrap_nanosleep(const struct timespec *t, struct timespec *left)
{
    (void)t;
    (void)left;
    if (self == OBSERVER) {
        return 0;
    }
    if (runnable(other())) {
        wait_for_other("waits for ever");
    } else {
        die(&actors[other()], KILL_GONE);
    }
    return 0;
}

/* The mutex ------------------------------------------------------------ */

int __real_pthread_mutex_init(pthread_mutex_t *m,
                              const pthread_mutexattr_t *attr);

int __wrap_pthread_mutex_init(pthread_mutex_t *m,
                              const pthread_mutexattr_t *attr)
{
    step(CAN_PREEMPT | CAN_KILL);
    return __real_pthread_mutex_init(m, attr);
}

/* Threads that exist: somebody may look. */
static int owner_word(void)
{
    return self == OBSERVER ? 1 : self ? getppid() : __real_getpid();
}

/* Whoever tries twice would try for ever: the other one's turn. */
int __wrap_pthread_mutex_trylock(pthread_mutex_t *m)
{
    struct actor *a = &actors[self];
    int *word = &m->__data.__lock;

    while (*word & OWNER_MASK) {
        if (self == OBSERVER || !a->was_busy) {
            a->was_busy = true;
            return EBUSY;
        }
        wait_for_other("the mutex is held for ever");
    }
    a->was_busy = false;
    if (m->__data.__owner == LOST_FOR_GOOD) {
        return ENOTRECOVERABLE;
    }
    a->held = m;
    if (*word & OWNER_DIED) {
        *word = owner_word();
        m->__data.__owner = INCONSISTENT;
        return EOWNERDEAD;
    }
    *word = owner_word();
    return 0;
}

/* One of this process only, which is held over nothing that is a step. */
int __wrap_pthread_mutex_lock(pthread_mutex_t *m)
{
    m->__data.__lock = owner_word();
    return 0;
}

int __wrap_pthread_mutex_consistent(pthread_mutex_t *m)
{
    step(CAN_PREEMPT | CAN_KILL);
    m->__data.__owner = 0;
    return 0;
}

int __wrap_pthread_mutex_unlock(pthread_mutex_t *m)
{
    actors[self].held = NULL;
    m->__data.__lock = 0;
    if (m->__data.__owner == INCONSISTENT) {
        m->__data.__owner = LOST_FOR_GOOD;
    }
    return 0;
}
