/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The file: made, opened, checked, and reset after a reboot.
 *
 * Invariants:
 *  - a ledger appears at its path complete or not at all: it is built under
 *    another name, then linked or renamed;
 *  - nothing of a mapping is used before its header was checked against the
 *    size of the file;
 *  - one process at a time creates, opens or resets (the open lock).
 *
 * Crash story: a creator that dies leaves a file named .ballast-XXXXXX that
 * nobody looks at.  A reset writes the boot id last; until then the next one
 * to open resets again.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/futex.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "internal.h"

#define OPEN_LOCK_TRIES     5000
#define OPEN_LOCK_WAIT_NS   1000000
#ifndef ORPHAN_TRIES
#define ORPHAN_TRIES        100
#endif

static int open_lock(int fd, short type)
{
    struct flock lock = {
        .l_type = type,
        .l_whence = SEEK_SET,
        .l_start = LOCK_OPEN_OFFSET,
        .l_len = 1,
    };

    return fcntl(fd, F_OFD_SETLK, &lock) ? -errno : 0;
}

int file_lock_open(int fd)
{
    const struct timespec wait = { .tv_nsec = OPEN_LOCK_WAIT_NS };
    int tries, err = 0;

    for (tries = 0; tries < OPEN_LOCK_TRIES; tries++) {
        err = open_lock(fd, F_WRLCK);
        if (err != -EAGAIN && err != -EACCES) {
            return err;
        }
        nanosleep(&wait, NULL);
    }
    return -ETIMEDOUT;
}

void file_unlock_open(int fd)
{
    open_lock(fd, F_UNLCK);
}

/* FNV-1a. */
static uint64_t sum_of(const void *bytes, size_t len)
{
    const uint8_t *byte = bytes;
    uint64_t sum = UINT64_C(0xcbf29ce484222325);
    size_t i;

    for (i = 0; i < len; i++) {
        sum = (sum ^ byte[i]) * UINT64_C(0x100000001b3);
    }
    return sum;
}

uint64_t file_static_sum(const struct file_header *h)
{
    return sum_of(h, FILE_STATIC_BYTES);
}

uint64_t file_capacity_sum(const uint64_t *cells, uint32_t nr)
{
    return sum_of(cells, nr * sizeof(*cells));
}

static int hex_digit(char c)
{
    return c >= '0' && c <= '9' ? c - '0' :
           c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* All zero on a host that has no boot id. */
int file_boot_id(uint8_t id[16])
{
    char text[64];
    const char *s;
    int digit, n = 0;

    memset(id, 0, 16);
    if (host_read("/proc/sys/kernel/random/boot_id", text, sizeof(text))) {
        return 0;
    }
    for (s = text; *s && n < 32; s++) {
        digit = hex_digit(*s);
        if (digit >= 0) {
            id[n / 2] = (uint8_t)(id[n / 2] << 4 | digit);
            n++;
        }
    }
    return 0;
}

int file_mutex_init(pthread_mutex_t *mutex)
{
    pthread_mutexattr_t attr;
    int err = pthread_mutexattr_init(&attr);

    if (err) {
        return -err;
    }
    err = pthread_mutexattr_setpshared(&attr, PTHREAD_PROCESS_SHARED);
    if (!err) {
        err = pthread_mutexattr_setrobust(&attr, PTHREAD_MUTEX_ROBUST);
    }
    if (!err) {
        err = pthread_mutex_init(mutex, &attr);
    }
    pthread_mutexattr_destroy(&attr);
    return -err;
}

/* Its type at least: a mutex of any other would not be robust. */
bool file_mutex_looks_right(const pthread_mutex_t *mutex)
{
#ifdef __GLIBC__
    pthread_mutex_t fresh;

    memset(&fresh, 0, sizeof(fresh));
    if (file_mutex_init(&fresh)) {
        return false;
    }
    return mutex->__data.__kind == fresh.__data.__kind;
#else
    (void)mutex;
    return true;
#endif
}

/* Given up for good, by somebody who could not make it consistent. */
bool file_mutex_is_lost(const pthread_mutex_t *mutex)
{
#ifdef __GLIBC__
    return mutex->__data.__owner == INT_MAX - 1;
#else
    (void)mutex;
    return false;
#endif
}

/*
 * Locked, and not by a thread that exists here.  Whoever is in another pid
 * namespace is not seen: it must last a while, too.
 */
bool file_mutex_is_orphan(const pthread_mutex_t *mutex)
{
#ifdef __GLIBC__
    const struct timespec wait = { .tv_nsec = 1000000 };
    uint32_t word = 0, tid;
    int i;

    for (i = 0; i < ORPHAN_TRIES; i++) {
        word = (uint32_t)__atomic_load_n(&mutex->__data.__lock,
                                         __ATOMIC_RELAXED);
        tid = word & FUTEX_TID_MASK;
        if (!word || (word & FUTEX_OWNER_DIED) ||
            (tid && (kill((pid_t)tid, 0) == 0 || errno != ESRCH))) {
            return false;
        }
        nanosleep(&wait, NULL);
    }
    return true;
#else
    (void)mutex;
    return false;
#endif
}

static bool has_lock_in(int fd, off_t start, off_t len)
{
    struct flock lock = {
        .l_type = F_WRLCK, .l_whence = SEEK_SET,
        .l_start = start, .l_len = len,
    };

    return fcntl(fd, F_OFD_GETLK, &lock) == 0 && lock.l_type != F_UNLCK;
}

/* Whoever has a slot's lock lives, whatever the file says. */
bool file_has_locks(int fd)
{
    return has_lock_in(fd, LOCK_SLOT_OFFSET, SLOTS_MAX);
}

/* Other than through @fd. */
bool file_has_daemon(int fd)
{
    return has_lock_in(fd, LOCK_DAEMON_OFFSET, 1);
}

static size_t slot_bytes_for(uint32_t cells)
{
    size_t bytes = sizeof(struct file_slot) +
                   (size_t)(2 * NR_COLUMNS + 1) * cells * sizeof(uint64_t);

    return (bytes + 63) & ~(size_t)63;
}

/* Where everything must be, given the counts: there is no choice. */
void file_lay_out(struct geometry *geo)
{
    geo->nr_cells = (geo->nr_nodes + 1) * geo->nr_classes;
    geo->capacity_offset = FILE_HEADER_BYTES;
    geo->totals_offset = geo->capacity_offset +
                         ((geo->nr_cells * sizeof(uint64_t) + 63) &
                          ~UINT64_C(63));
    geo->slots_offset = (geo->totals_offset +
                         geo->nr_cells * sizeof(struct total_cell) + 4095) &
                        ~UINT64_C(4095);
    geo->slot_bytes = (uint32_t)slot_bytes_for(geo->nr_cells);
    geo->file_bytes = geo->slots_offset +
                      (uint64_t)geo->slot_bytes * geo->nr_slots;
}

static const char *counts_problem(const struct geometry *geo)
{
    uint32_t i, j;

    if (geo->nr_nodes < 1 || geo->nr_nodes > BALLAST_MAX_NODES) {
        return "number of nodes: 1 to 64 are allowed";
    }
    if (geo->nr_classes < 1 || geo->nr_classes > BALLAST_MAX_CLASSES) {
        return "number of page sizes: 1 to 8 are allowed";
    }
    if (geo->nr_slots < 1 || geo->nr_slots > SLOTS_MAX) {
        return "number of slots: 1 to 8192 are allowed";
    }
    if (geo->admission > BALLAST_ADMIT_STATIC) {
        return "admission: kernel or static";
    }
    if (geo->count_cache_percent > 100) {
        return "cache that counts as free: 0 to 100 percent";
    }
    for (i = 0; i < geo->nr_nodes; i++) {
        if (geo->node_id[i] == BALLAST_NODE_ANY ||
            (i && geo->node_id[i] <= geo->node_id[i - 1])) {
            return "node numbers must ascend";
        }
        if (!geo->overcommit_percent[i] ||
            geo->overcommit_percent[i] > OVERCOMMIT_MAX) {
            return "overcommit: 1 to 1000 percent";
        }
    }
    for (i = 0; i < geo->nr_classes; i++) {
        uint64_t page = geo->page_bytes[i];

        if (page < 512 || page > BALLAST_MAX_BYTES || (page & (page - 1))) {
            return "page sizes must be powers of two";
        }
        for (j = 0; j < i; j++) {
            if (geo->page_bytes[j] == page) {
                return "two page sizes are alike";
            }
        }
    }
    return NULL;
}

static int check_identity(const struct file_header *h, uint64_t size,
                          struct ballast_refusal *why)
{
    if (size < sizeof(*h) ||
        memcmp(h->magic, FILE_MAGIC, sizeof(h->magic)) != 0) {
        return refuse_detail(why, BALLAST_BAD_FILE, "not a ledger file");
    }
    if (h->format != FILE_FORMAT || h->header_bytes != FILE_HEADER_BYTES) {
        return refuse_detail(why, BALLAST_OTHER_FORMAT, "format %u, this "
                             "program knows %u; make it anew with ballast "
                             "init --force, when nobody uses it", h->format,
                             FILE_FORMAT);
    }
    if (h->abi != FILE_ABI || h->mutex_bytes != sizeof(pthread_mutex_t)) {
        return refuse_detail(why, BALLAST_OTHER_ABI, "0x%08x, this program "
                             "has 0x%08x", h->abi, FILE_ABI);
    }
    if (h->static_sum != file_static_sum(h)) {
        return refuse_detail(why, BALLAST_BAD_FILE, "its header is damaged");
    }
    return 0;
}

/* @h is private memory: nobody changes it while we look. */
int file_geometry(const struct file_header *h, uint64_t size,
                  struct geometry *geo, struct ballast_refusal *why)
{
    const char *problem;
    int err = check_identity(h, size, why);

    if (err) {
        return err;
    }
    memset(geo, 0, sizeof(*geo));
    geo->nr_nodes = h->nr_nodes;
    geo->nr_classes = h->nr_classes;
    geo->nr_slots = h->nr_slots;
    geo->admission = h->admission;
    geo->count_cache_percent = h->count_cache_percent;
    memcpy(geo->page_bytes, h->page_bytes, sizeof(geo->page_bytes));
    memcpy(geo->node_id, h->node_id, sizeof(geo->node_id));
    memcpy(geo->overcommit_percent, h->overcommit_percent,
           sizeof(geo->overcommit_percent));
    problem = counts_problem(geo);
    if (problem) {
        return refuse_detail(why, BALLAST_BAD_FILE, "%s", problem);
    }
    file_lay_out(geo);
    if (h->slot_bytes != geo->slot_bytes || h->file_bytes != geo->file_bytes ||
        h->capacity_offset != geo->capacity_offset ||
        h->totals_offset != geo->totals_offset ||
        h->slots_offset != geo->slots_offset) {
        return refuse_detail(why, BALLAST_BAD_FILE,
                             "its geometry contradicts itself");
    }
    if (size < geo->file_bytes) {
        return refuse_detail(why, BALLAST_BAD_FILE, "it is cut short");
    }
    return 0;
}

static int map_bytes(int fd, const struct geometry *geo,
                     struct ballast_ledger **out)
{
    struct ballast_ledger *l = calloc(1, sizeof(*l));
    uint8_t *base;
    int err;

    if (!l) {
        return -ENOMEM;
    }
    base = mmap(NULL, geo->file_bytes, PROT_READ | PROT_WRITE, MAP_SHARED,
                fd, 0);
    if (base == MAP_FAILED) {
        free(l);
        return -errno;
    }
    err = guard_map(base, geo->file_bytes);
    if (err) {
        munmap(base, geo->file_bytes);
        free(l);
        return err;
    }
    l->fd = fd;
    l->geo = *geo;
    l->header = (struct file_header *)(void *)base;
    l->capacity = (uint64_t *)(void *)(base + geo->capacity_offset);
    l->totals = (struct total_cell *)(void *)(base + geo->totals_offset);
    l->slots = base + geo->slots_offset;
    l->slot = SLOT_NONE;
    *out = l;
    return 0;
}

void file_unmap(struct ballast_ledger *l)
{
    /* See guard.c: a mapping that was cut short stays. */
    if (get64(&l->header->alive) == FILE_ALIVE) {
        guard_unmap(l->header);
        munmap(l->header, l->geo.file_bytes);
    }
    free(l);
}

/* Base pages only: a pool of huge pages is what it is. */
static void promise(struct ballast_ledger *l)
{
    const struct geometry *geo = &l->geo;
    uint64_t bytes;
    uint32_t n;

    memcpy(l->promisable, l->backed, sizeof(l->promisable));
    for (n = 0; n < geo->nr_nodes; n++) {
        bytes = l->backed[n * geo->nr_classes] / 100 *
                geo->overcommit_percent[n] +
                l->backed[n * geo->nr_classes] % 100 *
                geo->overcommit_percent[n] / 100;
        l->promisable[n * geo->nr_classes] = bytes -
                                             bytes % geo->page_bytes[0];
    }
}

static bool capacities_are_right(const struct ballast_ledger *l,
                                 uint64_t expected_sum)
{
    uint32_t any = l->geo.nr_nodes * l->geo.nr_classes;
    uint32_t i;

    for (i = 0; i < l->geo.nr_cells; i++) {
        uint64_t bytes = l->backed[i];

        if (bytes > (i < any ? BALLAST_MAX_BYTES : 0) ||
            bytes % l->geo.page_bytes[i % l->geo.nr_classes]) {
            return false;
        }
    }
    return file_capacity_sum(l->backed, l->geo.nr_cells) == expected_sum;
}

/* Read, not looked at in the mapping: see struct ballast_ledger. */
static int load_capacities(struct ballast_ledger *l, uint64_t expected_sum,
                           struct ballast_refusal *why)
{
    size_t bytes = l->geo.nr_cells * sizeof(l->backed[0]);
    ssize_t n = pread(l->fd, l->backed, bytes, (off_t)l->geo.capacity_offset);

    if (n != (ssize_t)bytes) {
        return n < 0 ? refuse_system(why, -errno, "reading the ledger file") :
               refuse_detail(why, BALLAST_BAD_FILE, "it is cut short");
    }
    if (!capacities_are_right(l, expected_sum)) {
        return refuse_detail(why, BALLAST_BAD_FILE,
                             "its capacities are damaged");
    }
    promise(l);
    return 0;
}

/* Checks what is behind @fd and maps it; @fd stays the caller's on failure. */
int file_map(int fd, struct ballast_ledger **out, struct ballast_refusal *why)
{
    struct file_header h;
    struct geometry geo;
    struct stat st;
    ssize_t n;
    int err;

    if (fstat(fd, &st)) {
        err = -errno;
        return refuse_system(why, err, "the ledger file");
    }
    if (!S_ISREG(st.st_mode)) {
        return refuse_detail(why, BALLAST_BAD_FILE, "not a regular file");
    }
    n = pread(fd, &h, sizeof(h), 0);
    if (n < 0) {
        err = -errno;
        return refuse_system(why, err, "reading the ledger file");
    }
    err = file_geometry(&h, (uint64_t)n < sizeof(h) ? 0 :
                        (uint64_t)st.st_size, &geo, why);
    if (err) {
        return err;
    }
    if (h.alive != FILE_ALIVE) {
        return refuse_detail(why, BALLAST_BAD_FILE, "somebody cut it short "
                             "while it was in use; its claims are lost");
    }
    if (!file_mutex_looks_right(&h.mutex)) {
        return refuse_detail(why, BALLAST_BAD_FILE, "its lock is damaged");
    }
    err = map_bytes(fd, &geo, out);
    if (err) {
        return refuse_system(why, err, "mapping the ledger file");
    }
    memcpy((*out)->fixed, &h, sizeof((*out)->fixed));
    err = load_capacities(*out, h.capacity_sum, why);
    if (err) {
        file_unmap(*out);
    }
    return err;
}

/* Made elsewhere: whoever dies here must not leave a lock that looks wrong. */
int file_put_mutex(struct file_header *h)
{
    union {
        pthread_mutex_t mutex;
        uint64_t room[FILE_MUTEX_BYTES / 8];
    } fresh;
    int err;

    memset(&fresh, 0, sizeof(fresh));
    err = file_mutex_init(&fresh.mutex);
    if (!err) {
        put_words(h->mutex_room, &fresh, sizeof(fresh));
    }
    return err;
}

/* Whether the path still names the file that we have. */
bool file_is_at(const char *path, int fd)
{
    struct stat by_path, by_fd;

    return stat(path, &by_path) == 0 && fstat(fd, &by_fd) == 0 &&
           by_path.st_dev == by_fd.st_dev && by_path.st_ino == by_fd.st_ino;
}

static int open_locked(const char *path, int fd, struct ballast_ledger **out,
                       struct ballast_refusal *why)
{
    int err = file_lock_open(fd);

    if (err) {
        return refuse_system(why, err, "locking %.80s", path);
    }
    if (!file_is_at(path, fd)) {
        err = -EAGAIN;
    } else {
        err = file_map(fd, out, why);
    }
    if (!err) {
        err = boot_look(*out);
        if (err) {
            refuse_system(why, err, "resetting %.80s", path);
            file_unmap(*out);
        }
    }
    file_unlock_open(fd);
    return err;
}

static int open_once(const char *path, struct ballast_ledger **out,
                     struct ballast_refusal *why)
{
    int fd, err;

    fd = open(path, O_RDWR | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    if (fd < 0) {
        err = -errno;
        return err == -EISDIR || err == -ENXIO ?
               refuse_detail(why, BALLAST_BAD_FILE, "not a regular file") :
               refuse_system(why, err, "%.100s", path);
    }
    err = open_locked(path, fd, out, why);
    if (err) {
        close(fd);
    }
    return err;
}

int ballast_ledger_open(const char *path, struct ballast_ledger **out,
                        struct ballast_refusal *why)
{
    int tries = 0, err;

    if (remote_is_socket(path)) {
        return remote_open(path, out, why);
    }
    why_init(why);
    do {
        err = open_once(path, out, why);
    } while (err == -EAGAIN && ++tries < 100);
    if (err == -EAGAIN) {
        refuse_system(why, err, "%.80s is replaced again and again", path);
    }
    return err;
}

void ballast_set_patience(struct ballast_ledger *ledger, uint32_t ms)
{
    if (ledger->remote) {
        remote_set_patience(ledger, ms);
    }
}

void ballast_ledger_close(struct ballast_ledger *ledger)
{
    int fd;

    if (!ledger) {
        return;
    }
    if (ledger->remote) {
        remote_close(ledger);
        return;
    }
    if (!ledger->bequeathed) {
        ballast_leave(ledger);
    }
    fd = ledger->fd;
    file_unmap(ledger);
    close(fd);
}
