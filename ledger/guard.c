/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Living on when somebody cuts the file short.
 *
 * To touch a page that a mapped file has no more raises SIGBUS.  Our handler
 * puts private, empty pages over the whole mapping, and the access is made
 * again, and reads zeros.  Every value of the file is checked as it is read,
 * so zeros do no harm; every operation ends with a look at the word "alive",
 * finds zero, and says that the ledger was cut short.  What is somebody
 * else's fault goes to the handler that was there before.
 *
 * Invariants: a mapping is in the registry from before its first use until
 * it is unmapped, and a mapping that was given empty pages is not unmapped:
 * the thread that held its mutex keeps it in its list of robust mutexes.  The
 * registry has no locks, and its memory is never given back.
 *
 * A handler that others install later takes ours away; ballast_guard_rearm()
 * puts one in front again.  Each time it is another function with another
 * predecessor: whoever is in between may call the earlier one, and no circle
 * arises.
 */
#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "internal.h"

#define SPANS_PER_CHUNK 64
#define MAX_LEVELS      4
#define RESERVED        1
#define LOOK_NS         (UINT64_C(1) * 1000 * 1000 * 1000)

struct span {
    _Atomic uintptr_t base;
    _Atomic size_t bytes;
};

struct chunk {
    struct span spans[SPANS_PER_CHUNK];
    struct chunk *_Atomic next;
};

static struct chunk registry;
static struct sigaction previous[MAX_LEVELS];
static atomic_int levels;
static pthread_mutex_t install_lock = PTHREAD_MUTEX_INITIALIZER;
static __thread bool thread_is_ready
    __attribute__((tls_model("initial-exec")));

static bool take_span(struct chunk *c, uintptr_t base, size_t bytes)
{
    uintptr_t nobody;
    size_t i;

    for (i = 0; i < SPANS_PER_CHUNK; i++) {
        nobody = 0;
        if (atomic_compare_exchange_strong(&c->spans[i].base, &nobody,
                                           RESERVED)) {
            atomic_store(&c->spans[i].bytes, bytes);
            atomic_store(&c->spans[i].base, base);
            return true;
        }
    }
    return false;
}

static int add_span(uintptr_t base, size_t bytes)
{
    struct chunk *c = &registry, *next, *fresh;

    while (!take_span(c, base, bytes)) {
        next = atomic_load(&c->next);
        if (!next) {
            fresh = calloc(1, sizeof(*fresh));
            if (!fresh) {
                return -ENOMEM;
            }
            if (atomic_compare_exchange_strong(&c->next, &next, fresh)) {
                next = fresh;
            } else {
                free(fresh);
            }
        }
        c = next;
    }
    return 0;
}

static struct span *find_span(uintptr_t address)
{
    struct chunk *c;
    size_t i;

    for (c = &registry; c; c = atomic_load(&c->next)) {
        for (i = 0; i < SPANS_PER_CHUNK; i++) {
            uintptr_t base = atomic_load(&c->spans[i].base);

            if (base > RESERVED && address >= base &&
                address - base < atomic_load(&c->spans[i].bytes)) {
                return &c->spans[i];
            }
        }
    }
    return NULL;
}

/* As if we were not there. */
static void pass_on(const struct sigaction *to, int sig, siginfo_t *info,
                    void *context)
{
    struct sigaction action = { .sa_handler = SIG_DFL };

    if (to->sa_flags & SA_SIGINFO) {
        to->sa_sigaction(sig, info, context);
    } else if (to->sa_handler != SIG_DFL && to->sa_handler != SIG_IGN) {
        to->sa_handler(sig);
    } else if (to->sa_handler == SIG_DFL || info->si_code > 0) {
        /* The access is made again and ends us; a sent signal is sent again. */
        sigaction(sig, &action, NULL);
        if (info->si_code <= 0) {
            raise(sig);
        }
    }
}

static void on_sigbus(int level, int sig, siginfo_t *info, void *context)
{
    struct span *span = NULL;
    int saved = errno;

    if (info->si_code == BUS_ADRERR) {
        span = find_span((uintptr_t)info->si_addr);
    }
    if (!span ||
        mmap((void *)atomic_load(&span->base), atomic_load(&span->bytes),
             PROT_READ | PROT_WRITE,
             MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1,
             0) == MAP_FAILED) {
        pass_on(&previous[level], sig, info, context);
    }
    errno = saved;
}

#define LEVEL(n) \
    static void on_sigbus_##n(int sig, siginfo_t *info, void *context) \
    { \
        on_sigbus(n, sig, info, context); \
    }
LEVEL(0)
LEVEL(1)
LEVEL(2)
LEVEL(3)
#undef LEVEL

static void (*const handlers[MAX_LEVELS])(int, siginfo_t *, void *) = {
    on_sigbus_0, on_sigbus_1, on_sigbus_2, on_sigbus_3,
};

static int install(void)
{
    struct sigaction action = {
        .sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK | SA_RESTART,
    };
    int level = atomic_load(&levels);

    if (level == MAX_LEVELS) {
        return -ENOSPC;
    }
    action.sa_sigaction = handlers[level];
    if (sigaction(SIGBUS, NULL, &previous[level])) {
        return -errno;
    }
    atomic_store(&levels, level + 1);
    return sigaction(SIGBUS, &action, NULL) ? -errno : 0;
}

static bool is_first(void)
{
    struct sigaction now;
    int level = atomic_load(&levels);

    return level && sigaction(SIGBUS, NULL, &now) == 0 &&
           (now.sa_flags & SA_SIGINFO) &&
           now.sa_sigaction == handlers[level - 1];
}

int ballast_guard_rearm(void)
{
    int err = 0;

    pthread_mutex_lock(&install_lock);
    if (atomic_load(&levels) && !is_first()) {
        err = install();
    }
    pthread_mutex_unlock(&install_lock);
    return err;
}

static int install_once(void)
{
    int err = 0;

    pthread_mutex_lock(&install_lock);
    if (!atomic_load(&levels)) {
        err = install();
    }
    pthread_mutex_unlock(&install_lock);
    return err;
}

int guard_map(void *base, size_t bytes)
{
    int err = install_once();

    return err ? err : add_span((uintptr_t)base, bytes);
}

/* Before it is unmapped. */
void guard_unmap(void *base)
{
    struct span *span = find_span((uintptr_t)base);

    if (span) {
        atomic_store(&span->base, 0);
    }
}

/* A thread that has SIGBUS blocked is killed by one, handler or not. */
void guard_thread(void)
{
    sigset_t set;

    if (!thread_is_ready) {
        sigemptyset(&set);
        sigaddset(&set, SIGBUS);
        pthread_sigmask(SIG_UNBLOCK, &set, NULL);
        thread_is_ready = true;
    }
}

/*
 * What is left of the file is nobody's basis for promises any more, and its
 * mutex may be ours for ever: tell the others, who look before they lock.
 */
void guard_condemn(const struct ballast_ledger *l)
{
    static const uint64_t dead;
    struct stat st;

    if (fstat(l->fd, &st) == 0 && st.st_size >= FILE_HEADER_BYTES) {
        ssize_t n = pwrite(l->fd, &dead, sizeof(dead),
                           offsetof(struct file_header, alive));

        (void)n;
    }
}

/*
 * Whether the file still has a name; a system call once a second.  Under that
 * name there may be another ledger now, which does not know our promises.
 * And whether all of it is there: a cut behind what we use does not hurt us.
 */
bool guard_unlinked(struct ballast_ledger *l)
{
    struct timespec t;
    struct stat st;
    uint64_t now;

    clock_gettime(CLOCK_MONOTONIC_COARSE, &t);
    now = (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
    if (now - __atomic_load_n(&l->looked_ns, __ATOMIC_RELAXED) >= LOOK_NS) {
        __atomic_store_n(&l->looked_ns, now, __ATOMIC_RELAXED);
        if (fstat(l->fd, &st)) {
            return false;
        }
        if (st.st_nlink == 0) {
            __atomic_store_n(&l->unlinked, true, __ATOMIC_RELAXED);
        }
        if ((uint64_t)st.st_size < l->geo.file_bytes) {
            guard_condemn(l);
        }
    }
    return __atomic_load_n(&l->unlinked, __ATOMIC_RELAXED);
}
