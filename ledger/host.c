/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the kernel says about the host and its processes.  Nothing here is
 * called with the mutex held.
 */
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "internal.h"

#define RESERVE_PARTS   16
#define RESERVE_LEAST   (UINT64_C(256) << 20)

/* Tests put a directory here that looks like sysfs. */
const char *ballast_sysfs_root = "/sys";

/* A file of the kernel's, at most @len - 1 bytes of it. */
int host_read(const char *path, char *buf, size_t len)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n;
    int err;

    if (fd < 0) {
        return -errno;
    }
    n = read(fd, buf, len - 1);
    err = n < 0 ? -errno : 0;
    close(fd);
    buf[n < 0 ? 0 : n] = '\0';
    return err;
}

uint64_t host_now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_BOOTTIME, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

uint64_t host_pidns(void)
{
    struct stat st;

    return stat("/proc/self/ns/pid", &st) ? 0 : (uint64_t)st.st_ino;
}

/* The name, in parentheses, may hold anything: look for the last one. */
int host_process_stat(int32_t pid, struct process_stat *st)
{
    char path[64], buf[1024];
    const char *s;
    int field, err;

    snprintf(path, sizeof(path), "/proc/%" PRId32 "/stat", pid);
    err = host_read(path, buf, sizeof(buf));
    if (err) {
        return err;
    }
    s = strrchr(buf, ')');
    if (!s || s[1] != ' ' || !s[2]) {
        return -EIO;
    }
    s += 2;
    st->state = *s;
    for (field = 3; *s; s++) {
        if (*s != ' ') {
            continue;
        }
        field++;
        if (field == 20) {
            st->threads = strtoull(s, NULL, 10);
        } else if (field == 22) {
            st->start_ticks = strtoull(s, NULL, 10);
            return 0;
        }
    }
    return -EIO;
}

int identity_of(pid_t pid, struct identity *who)
{
    struct process_stat st;
    struct stat owner;
    char path[64];
    int err = host_process_stat((int32_t)pid, &st);

    if (err) {
        return err == -ENOENT ? -ESRCH : err;
    }
    snprintf(path, sizeof(path), "/proc/%" PRId32, (int32_t)pid);
    who->uid = stat(path, &owner) ? geteuid() : owner.st_uid;
    who->pid = (int32_t)pid;
    who->start_ticks = st.start_ticks;
    who->pidns_inode = host_pidns();
    return 0;
}

/* Without /proc: the pid alone, which can only delay a slot's end. */
int identity_self(struct identity *who)
{
    struct process_stat st;

    who->pid = (int32_t)getpid();
    who->uid = (uint32_t)getuid();
    who->pidns_inode = host_pidns();
    who->start_ticks = 0;
    if (host_process_stat(who->pid, &st) == 0) {
        who->start_ticks = st.start_ticks;
    }
    return 0;
}

/* "Node 0 MemFree:   123 kB" or "MemFree:   123 kB", in bytes. */
static bool meminfo_field(const char *text, const char *field, uint64_t *bytes)
{
    size_t len = strlen(field);
    const char *s = text;

    while ((s = strstr(s, field))) {
        if (s[len] == ':' && (s == text || isspace((unsigned char)s[-1]))) {
            *bytes = clamp_bytes(strtoull(s + len + 1, NULL, 10) * 1024);
            return true;
        }
        s += len;
    }
    return false;
}

static int node_meminfo(uint32_t node, char *buf, size_t len)
{
    char path[256];
    int err;

    snprintf(path, sizeof(path), "%s/devices/system/node/node%" PRIu32
             "/meminfo", ballast_sysfs_root, node);
    err = host_read(path, buf, len);
    if (err == -ENOENT && node == 0) {
        err = host_read("/proc/meminfo", buf, len);
    }
    return err;
}

static uint64_t huge_pool(uint32_t node, uint64_t page_bytes,
                          const char *which)
{
    char path[256], buf[64];
    uint64_t nr;

    snprintf(path, sizeof(path), "%s/devices/system/node/node%" PRIu32
             "/hugepages/hugepages-%" PRIu64 "kB/%s", ballast_sysfs_root,
             node, page_bytes / 1024, which);
    if (host_read(path, buf, sizeof(buf))) {
        return UINT64_MAX;
    }
    nr = strtoull(buf, NULL, 10);
    return nr > BALLAST_MAX_BYTES / page_bytes ? BALLAST_MAX_BYTES :
           nr * page_bytes;
}

/* UINT64_MAX when the kernel does not say. */
uint64_t host_kernel_free(uint32_t node, uint64_t page_bytes, bool base,
                          uint32_t count_cache_percent)
{
    uint64_t free, active = 0, inactive = 0;
    char buf[4096];

    if (!base) {
        return huge_pool(node, page_bytes, "free_hugepages");
    }
    if (node_meminfo(node, buf, sizeof(buf)) ||
        !meminfo_field(buf, "MemFree", &free)) {
        return UINT64_MAX;
    }
    meminfo_field(buf, "Active(file)", &active);
    meminfo_field(buf, "Inactive(file)", &inactive);
    return free + (active + inactive) / 100 * count_cache_percent;
}

/*
 * First what the ledger has drawn, then what the kernel has free: bytes that
 * are drawn after the first are taken off the second by admit().
 */
void sample_take(const struct ballast_ledger *l, struct sample *s)
{
    const struct geometry *geo = &l->geo;
    uint32_t n, c, i;

    s->valid = true;
    s->epoch = __atomic_load_n(&l->header->epoch, __ATOMIC_ACQUIRE);
    for (i = 0; i < geo->nr_cells; i++) {
        s->drawn_bytes[i] = __atomic_load_n(&l->totals[i].drawn_bytes,
                                            __ATOMIC_ACQUIRE);
        s->free_bytes[i] = 0;
    }
    memcpy(s->have, s->need, sizeof(s->have));
    for (n = 0; n < geo->nr_nodes; n++) {
        for (c = 0; c < geo->nr_classes; c++) {
            i = n * geo->nr_classes + c;
            if (cell_is_set(s->need, i)) {
                s->free_bytes[i] = host_kernel_free(geo->node_id[n],
                                                    geo->page_bytes[c], c == 0,
                                                    geo->count_cache_percent);
            }
        }
    }
}

void sample_take_all(const struct ballast_ledger *l, struct sample *s)
{
    memset(s->need, 0xff, sizeof(s->need));
    sample_take(l, s);
}

static int read_nodes(struct ballast_config *config)
{
    char path[256], buf[4096], *s = buf;
    unsigned long from, to;

    snprintf(path, sizeof(path), "%s/devices/system/node/has_memory",
             ballast_sysfs_root);
    if (host_read(path, buf, sizeof(buf))) {
        config->node_id[0] = 0;
        config->nr_nodes = 1;
        return 0;
    }
    while (isdigit((unsigned char)*s)) {
        from = to = strtoul(s, &s, 10);
        if (*s == '-') {
            to = strtoul(s + 1, &s, 10);
        }
        for (; from <= to; from++) {
            if (config->nr_nodes == BALLAST_MAX_NODES) {
                return -E2BIG;
            }
            config->node_id[config->nr_nodes++] = (uint32_t)from;
        }
        s += *s == ',';
    }
    return config->nr_nodes ? 0 : -ENODATA;
}

/* How much the kernel keeps in its pools of this size, over all nodes. */
static uint64_t pool_everywhere(const struct ballast_config *config,
                                uint64_t page_bytes)
{
    uint64_t sum = 0, pool;
    uint32_t n;

    for (n = 0; n < config->nr_nodes; n++) {
        pool = huge_pool(config->node_id[n], page_bytes, "nr_hugepages");
        sum += pool == UINT64_MAX ? 0 : pool;
    }
    return sum;
}

static void add_class(struct ballast_config *config, uint64_t page_bytes)
{
    if (config->nr_classes < BALLAST_MAX_CLASSES) {
        config->page_bytes[config->nr_classes++] = page_bytes;
    }
}

static int compare_bytes(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return x < y ? -1 : x > y;
}

/* Sizes that have a pool come first, in case they do not all fit. */
static void read_classes(struct ballast_config *config)
{
    uint64_t sizes[16];
    size_t nr = 0, i;
    char path[256];
    struct dirent *entry;
    DIR *dir;

    add_class(config, (uint64_t)sysconf(_SC_PAGESIZE));
    snprintf(path, sizeof(path), "%s/kernel/mm/hugepages", ballast_sysfs_root);
    dir = opendir(path);
    while (dir && nr < 16 && (entry = readdir(dir))) {
        uint64_t kib = 0;

        if (sscanf(entry->d_name, "hugepages-%" SCNu64 "kB", &kib) == 1 &&
            kib && kib <= (BALLAST_MAX_BYTES >> 10) && !(kib & (kib - 1))) {
            sizes[nr++] = kib * 1024;
        }
    }
    if (dir) {
        closedir(dir);
    }
    qsort(sizes, nr, sizeof(sizes[0]), compare_bytes);
    for (i = 0; i < nr; i++) {
        if (pool_everywhere(config, sizes[i])) {
            add_class(config, sizes[i]);
            sizes[i] = 0;
        }
    }
    for (i = 0; i < nr; i++) {
        if (sizes[i]) {
            add_class(config, sizes[i]);
        }
    }
}

/* Pools are set aside already: they are not base-page memory. */
static uint64_t node_base_bytes(uint32_t node)
{
    uint64_t total, pools = 0, pool;
    struct dirent *entry;
    char buf[4096];
    DIR *dir;

    if (node_meminfo(node, buf, sizeof(buf)) ||
        !meminfo_field(buf, "MemTotal", &total)) {
        return 0;
    }
    snprintf(buf, sizeof(buf), "%s/kernel/mm/hugepages", ballast_sysfs_root);
    dir = opendir(buf);
    while (dir && (entry = readdir(dir))) {
        uint64_t kib = 0;

        if (sscanf(entry->d_name, "hugepages-%" SCNu64 "kB", &kib) != 1 ||
            !kib || kib > (BALLAST_MAX_BYTES >> 10)) {
            continue;
        }
        pool = huge_pool(node, kib * 1024, "nr_hugepages");
        pools += pool == UINT64_MAX ? 0 : pool;
    }
    if (dir) {
        closedir(dir);
    }
    return total > pools ? total - pools : 0;
}

static void read_capacities(struct ballast_config *config, uint64_t reserve)
{
    uint64_t base[BALLAST_MAX_NODES], sum = 0, pool, part;
    uint32_t n, c;

    for (n = 0; n < config->nr_nodes; n++) {
        base[n] = node_base_bytes(config->node_id[n]);
        sum += base[n];
    }
    if (reserve == UINT64_MAX) {
        reserve = sum / RESERVE_PARTS;
        reserve = reserve < RESERVE_LEAST ? RESERVE_LEAST : reserve;
    }
    for (n = 0; n < config->nr_nodes; n++) {
        part = !sum ? 0 : (uint64_t)((long double)reserve * base[n] / sum);
        part = base[n] > part ? base[n] - part : 0;
        config->capacity_bytes[n][0] = part - part % config->page_bytes[0];
        for (c = 1; c < config->nr_classes; c++) {
            pool = huge_pool(config->node_id[n], config->page_bytes[c],
                             "nr_hugepages");
            config->capacity_bytes[n][c] = pool == UINT64_MAX ? 0 : pool;
        }
    }
}

int ballast_config_host(struct ballast_config *config, uint64_t reserve_bytes)
{
    uint64_t sum = 0;
    uint32_t n;
    int err;

    memset(config, 0, sizeof(*config));
    config->admission = BALLAST_ADMIT_KERNEL;
    config->count_cache_percent = 50;
    config->mode = 0660;
    err = read_nodes(config);
    if (err) {
        return err;
    }
    read_classes(config);
    for (n = 0; n < config->nr_nodes; n++) {
        sum += node_base_bytes(config->node_id[n]);
    }
    if (!sum) {
        return -ENODATA;
    }
    read_capacities(config, reserve_bytes);
    return 0;
}
