/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Making a ledger file.
 *
 * Crash story: the file is built under a name of its own and becomes the
 * ledger by link() or rename().  With force, the old ledger is first marked
 * as retired under its mutex, while it has no participants: a process that
 * had it open cannot join it any more, so nobody is left behind in it.  Who
 * is killed before the rename() leaves a ledger that nobody enters, and that
 * the next force replaces.
 *
 * Lock order: the open lock of the old ledger, then its mutex.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "internal.h"

#define REPLACE_TRIES 100

static const char *cell_problem(const struct ballast_config *c)
{
    uint32_t n, k;

    if (c->nr_nodes > BALLAST_MAX_NODES ||
        c->nr_classes > BALLAST_MAX_CLASSES) {
        return NULL;    /* found again, and said, by file_geometry() */
    }
    for (n = 0; n < c->nr_nodes; n++) {
        for (k = 0; k < c->nr_classes; k++) {
            if (c->capacity_bytes[n][k] > BALLAST_MAX_BYTES) {
                return "capacity: at most 256 TiB per node and page size";
            }
            if (c->page_bytes[k] &&
                c->capacity_bytes[n][k] % c->page_bytes[k]) {
                return "capacity: not a multiple of the page size";
            }
        }
    }
    return NULL;
}

static void fill_header(struct file_header *h, const struct ballast_config *c)
{
    struct timespec now;
    uint32_t n;

    memset(h, 0, sizeof(*h));
    memcpy(h->magic, FILE_MAGIC, sizeof(h->magic));
    h->format = FILE_FORMAT;
    h->header_bytes = FILE_HEADER_BYTES;
    h->abi = FILE_ABI;
    h->mutex_bytes = sizeof(pthread_mutex_t);
    h->nr_nodes = c->nr_nodes;
    h->nr_classes = c->nr_classes;
    h->nr_slots = c->nr_slots ? c->nr_slots : SLOTS_DEFAULT;
    h->admission = c->admission;
    h->count_cache_percent = c->count_cache_percent;
    for (n = 0; n < c->nr_nodes && n < BALLAST_MAX_NODES; n++) {
        h->overcommit_percent[n] = c->overcommit_percent[n] ?
                                   c->overcommit_percent[n] : 100;
    }
    clock_gettime(CLOCK_REALTIME, &now);
    h->created_ns = (uint64_t)now.tv_sec * 1000000000 +
                    (uint64_t)now.tv_nsec;
    if (c->nr_classes <= BALLAST_MAX_CLASSES) {
        memcpy(h->page_bytes, c->page_bytes,
               c->nr_classes * sizeof(h->page_bytes[0]));
    }
    if (c->nr_nodes <= BALLAST_MAX_NODES) {
        memcpy(h->node_id, c->node_id, c->nr_nodes * sizeof(h->node_id[0]));
    }
    file_boot_id(h->boot_id);
}

static void fill_capacity(uint64_t capacity[MAX_CELLS],
                          const struct ballast_config *c)
{
    uint32_t n, k;

    memset(capacity, 0, MAX_CELLS * sizeof(*capacity));
    if (c->nr_nodes > BALLAST_MAX_NODES ||
        c->nr_classes > BALLAST_MAX_CLASSES) {
        return;
    }
    for (n = 0; n < c->nr_nodes; n++) {
        for (k = 0; k < c->nr_classes; k++) {
            capacity[n * c->nr_classes + k] = c->capacity_bytes[n][k];
        }
    }
}

/* The offsets follow from the counts; file_geometry() checks the rest. */
static int finish_header(struct file_header *h, struct geometry *geo,
                         const uint64_t *capacity,
                         struct ballast_refusal *why)
{
    int err;

    memset(geo, 0, sizeof(*geo));
    if (h->nr_nodes <= BALLAST_MAX_NODES &&
        h->nr_classes <= BALLAST_MAX_CLASSES && h->nr_slots <= SLOTS_MAX) {
        geo->nr_nodes = h->nr_nodes;
        geo->nr_classes = h->nr_classes;
        geo->nr_slots = h->nr_slots;
    }
    file_lay_out(geo);
    h->capacity_offset = geo->capacity_offset;
    h->totals_offset = geo->totals_offset;
    h->slots_offset = geo->slots_offset;
    h->slot_bytes = geo->slot_bytes;
    h->file_bytes = geo->file_bytes;
    h->capacity_sum = file_capacity_sum(capacity, geo->nr_cells);
    h->static_sum = file_static_sum(h);
    err = file_geometry(h, FILE_MAX_BYTES, geo, why);
    return err ? -EINVAL : 0;
}

static int write_file(int fd, const struct file_header *h,
                      const struct geometry *geo, const uint64_t *capacity)
{
    struct file_header *mapped;
    uint8_t *base;
    int err;

    err = posix_fallocate(fd, 0, (off_t)geo->file_bytes);
    if (err) {
        return -err;
    }
    base = mmap(NULL, geo->file_bytes, PROT_READ | PROT_WRITE, MAP_SHARED,
                fd, 0);
    if (base == MAP_FAILED) {
        return -errno;
    }
    put_words(base, h, offsetof(struct file_header, mutex));
    put_words(base + geo->capacity_offset, capacity,
              geo->nr_cells * sizeof(*capacity));
    mapped = (struct file_header *)(void *)base;
    err = file_mutex_init(&mapped->mutex);
    put64(&mapped->alive, FILE_ALIVE);
    ballast_crash_point();
    munmap(base, geo->file_bytes);
    return err;
}

static bool anybody_lives(struct ballast_ledger *l)
{
    uint32_t high = slots_high(l);
    uint32_t nr;

    for (nr = 0; nr < high; nr++) {
        if (slot_in_use(slot_at(l, nr))) {
            return true;
        }
    }
    return false;
}

/*
 * A file of another format, or that was cut short, says nothing about its
 * participants; but their locks do.
 */
static int busy_by_locks(int fd)
{
    return file_has_locks(fd) ? -EBUSY : 0;
}

/* With the mutex held or not, as it comes: nobody is in it from here on. */
static int retire_mapped(struct ballast_ledger *l)
{
    int err;

    ballast_sweep(l);
    err = ledger_lock(l);
    if (err) {
        /* retired before, or beyond repair */
        return err == -ETIMEDOUT ? err : busy_by_locks(l->fd);
    }
    if (anybody_lives(l)) {
        err = -EBUSY;
    } else {
        publish32(&l->header->retired, 1);
    }
    ledger_unlock(l);
    return err;
}

/* What is in the way may also be something that never was a ledger. */
static int retire(int fd)
{
    struct ballast_ledger *l;
    int err = file_map(fd, &l, NULL);

    if (err) {
        return busy_by_locks(fd);
    }
    err = boot_look(l) ? busy_by_locks(fd) : retire_mapped(l);
    file_unmap(l);
    return err;
}

/*
 * Under the open lock of what is replaced, until the new one has its name:
 * otherwise another force, which finds the old one retired, could put its own
 * over ours, with those who have joined that already.  -EAGAIN: the path
 * names something else by now.
 */
static int replace_locked(int fd, const char *temp, const char *path)
{
    int err = file_lock_open(fd);

    if (err == -ETIMEDOUT) {
        return err;
    }
    if (!err && !file_is_at(path, fd)) {
        return -EAGAIN;
    }
    err = retire(fd);
    return err ? err : rename(temp, path) ? -errno : 0;
}

static int replace_once(const char *temp, const char *path)
{
    int fd = open(path, O_RDWR | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    int err;

    if (fd < 0 && errno == ENOENT) {
        /* A dangling symbolic link is there, too. */
        err = link(temp, path) ? -errno : unlink(temp) ? -errno : 0;
        if (err != -EEXIST || access(path, F_OK) == 0) {
            return err == -EEXIST ? -EAGAIN : err;
        }
    }
    if (fd < 0 && remote_is_socket(path)) {
        return -EBUSY;      /* a daemon's: what it has is not ours to see */
    }
    if (fd < 0) {
        return rename(temp, path) ? -errno : 0;
    }
    err = replace_locked(fd, temp, path);
    close(fd);
    return err;
}

static int replace(const char *temp, const char *path,
                   struct ballast_refusal *why)
{
    int tries = 0, err;

    do {
        err = replace_once(temp, path);
    } while (err == -EAGAIN && ++tries < REPLACE_TRIES);
    if (err == -EBUSY) {
        refuse_detail(why, BALLAST_EXISTS, "it is in use: %.90s", path);
        if (why) {
            why->err = err;
        }
        return err;
    }
    return err ? refuse_system(why, err, "replacing %.90s", path) : 0;
}

static int give_name(const char *temp, const char *path, unsigned flags,
                     struct ballast_refusal *why)
{
    int err;

    if (flags & BALLAST_CREATE_FORCE) {
        return replace(temp, path, why);
    }
    if (link(temp, path) == 0) {
        return unlink(temp) ? -errno : 0;
    }
    err = -errno;
    return err == -EEXIST ?
           refuse_detail(why, BALLAST_EXISTS, "%.100s", path) :
           refuse_system(why, err, "%.100s", path);
}

static int create_temp(const char *path, char *temp, size_t len)
{
    const char *slash = strrchr(path, '/');
    int dir = slash ? (int)(slash - path) + 1 : 0;
    int n = snprintf(temp, len, "%.*s.ballast-XXXXXX", dir, path);
    int fd;

    if (n < 0 || (size_t)n >= len) {
        return -ENAMETOOLONG;
    }
    fd = mkostemp(temp, O_CLOEXEC);
    return fd < 0 ? -errno : fd;
}

static int create_checked(const char *path, const struct file_header *h,
                          const struct geometry *geo,
                          const uint64_t *capacity, mode_t mode,
                          unsigned flags, struct ballast_refusal *why)
{
    char temp[4096];
    int fd = create_temp(path, temp, sizeof(temp));
    int err;

    if (fd < 0) {
        return refuse_system(why, fd, "making a file for %.80s", path);
    }
    err = write_file(fd, h, geo, capacity);
    if (!err && fchmod(fd, mode ? mode & 0777 : 0660)) {
        err = -errno;
    }
    close(fd);
    if (err) {
        refuse_system(why, err, "writing %.100s", path);
    } else {
        err = give_name(temp, path, flags, why);
    }
    if (err) {
        unlink(temp);
    }
    return err;
}

int ballast_ledger_create(const char *path,
                          const struct ballast_config *config,
                          unsigned flags, struct ballast_refusal *why)
{
    struct file_header h;
    struct geometry geo;
    uint64_t capacity[MAX_CELLS];
    const char *problem = cell_problem(config);
    int err;

    why_init(why);
    if (problem) {
        return refuse_system(why, -EINVAL, "%s", problem);
    }
    fill_header(&h, config);
    fill_capacity(capacity, config);
    err = finish_header(&h, &geo, capacity, why);
    if (err) {
        if (why) {
            why->reason = BALLAST_SYSTEM;
            why->err = err;
        }
        return err;
    }
    return create_checked(path, &h, &geo, capacity, config->mode, flags, why);
}
