/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Admission by the kernel's free memory, with a sysfs of our own.
 */
#include <sys/stat.h>

#define IDENTITY_ALWAYS
#include "helper.h"

static struct ballast_refusal why;
static char root[128];

static void write_file(const char *name, const char *text)
{
    char path[512];
    FILE *f;

    snprintf(path, sizeof(path), "%s/%s", root, name);
    f = fopen(path, "w");
    if (!f || fputs(text, f) < 0 || fclose(f)) {
        abort();
    }
}

static void make_dirs(const char *name)
{
    char path[512], *s;

    snprintf(path, sizeof(path), "%s/%s", root, name);
    for (s = path + 1; *s; s++) {
        if (*s == '/') {
            *s = '\0';
            mkdir(path, 0700);
            *s = '/';
        }
    }
    mkdir(path, 0700);
}

static void set_node(unsigned node, uint64_t total, uint64_t free,
                     uint64_t cache)
{
    char name[128], text[1024];

    snprintf(name, sizeof(name), "devices/system/node/node%u/meminfo", node);
    snprintf(text, sizeof(text),
             "Node %u MemTotal:  %" PRIu64 " kB\n"
             "Node %u MemFree:   %" PRIu64 " kB\n"
             "Node %u Active(file):  %" PRIu64 " kB\n"
             "Node %u Inactive(file):  %" PRIu64 " kB\n", node, total / 1024,
             node, free / 1024, node, cache / 2048, node, cache / 2048);
    write_file(name, text);
}

static void set_pool(unsigned node, unsigned nr, unsigned free)
{
    char name[128], text[32];

    snprintf(name, sizeof(name), "devices/system/node/node%u/hugepages/"
             "hugepages-2048kB/nr_hugepages", node);
    snprintf(text, sizeof(text), "%u\n", nr);
    write_file(name, text);
    snprintf(name, sizeof(name), "devices/system/node/node%u/hugepages/"
             "hugepages-2048kB/free_hugepages", node);
    snprintf(text, sizeof(text), "%u\n", free);
    write_file(name, text);
}

static void make_sysfs(void)
{
    snprintf(root, sizeof(root), "%s", temp_path("sys"));
    make_dirs("devices/system/node/node0/hugepages/hugepages-2048kB");
    make_dirs("devices/system/node/node3/hugepages/hugepages-2048kB");
    make_dirs("kernel/mm/hugepages/hugepages-2048kB");
    write_file("devices/system/node/has_memory", "0,3\n");
    set_node(0, GIB(16), GIB(16), 0);
    set_node(3, GIB(16), GIB(16), 0);
    set_pool(0, 1024, 1024);
    set_pool(3, 0, 0);
    ballast_sysfs_root = root;
}

static void remove_sysfs(void)
{
    char command[256];

    snprintf(command, sizeof(command), "rm -r '%s'", root);
    if (system(command)) {
        printf("# could not remove %s\n", root);
    }
}

static const char *host_ledger(uint32_t count_cache)
{
    struct ballast_config config;

    if (ballast_config_host(&config, GIB(2))) {
        abort();
    }
    config.count_cache_percent = count_cache;
    config.nr_slots = 64;
    return make_ledger("kernel", &config);
}

static void test_config(void)
{
    struct ballast_config c;

    OK(ballast_config_host(&c, GIB(2)) == 0 && c.nr_nodes == 2 &&
       c.node_id[0] == 0 && c.node_id[1] == 3, "nodes with a gap");
    OK(c.nr_classes == 2 && c.page_bytes[1] == MIB(2) &&
       c.capacity_bytes[0][1] == GIB(2) && c.capacity_bytes[1][1] == 0,
       "hugetlb pools");
    OK(c.capacity_bytes[0][0] + c.capacity_bytes[1][0] >= GIB(28) - 8192 &&
       c.capacity_bytes[0][0] + c.capacity_bytes[1][0] <= GIB(28) &&
       c.capacity_bytes[0][0] < c.capacity_bytes[1][0],
       "capacity is total less pools less reserve");
    OK(ballast_config_host(&c, UINT64_MAX) == 0 &&
       c.capacity_bytes[0][0] < GIB(14), "there is a default reserve");
    OK(ballast_config_host(&c, GIB(100)) == 0 && c.capacity_bytes[0][0] == 0,
       "a reserve of everything");
}

static void test_admission(void)
{
    struct ballast_ledger *l = must_join(host_ledger(50), "vm");
    struct ballast_ledger *o = must_join(temp_path("kernel"), "other");
    struct ballast_demand huge = { .node = 0, .page_bytes = MIB(2),
                                   .bytes = GIB(1) };

    set_node(0, GIB(16), GIB(4), 0);
    OK(CLAIM1(l, 0, GIB(5), &why) == -ENOMEM &&
       why.reason == BALLAST_SHORT_KERNEL && why.missing_bytes == GIB(1) &&
       why.limit_bytes == GIB(4), "more than the kernel has");
    set_node(0, GIB(16), GIB(4), GIB(2));
    OK(CLAIM1(l, 0, GIB(5) - MIB(1), &why) == 0, "half the cache counts");
    OK(CLAIM1(o, 0, MIB(64), &why) == -ENOMEM &&
       why.reason == BALLAST_SHORT_KERNEL && why.nr_holders == 1,
       "what is promised is not free");
    set_node(0, GIB(16), GIB(1), 0);
    OK(CLAIM1(l, 0, GIB(2), &why) == 0, "less never fails");
    OK(cell_on(l, 0).broken_bytes == GIB(1) &&
       ballast_check(l, 0, NULL, NULL) > 0, "a broken promise is seen");
    OK(CLAIM1(o, 3, GIB(3), &why) == 0, "and does not touch another node");
    OK(CLAIM1(l, 0, GIB(3), &why) == -ENOMEM &&
       why.missing_bytes == GIB(2), "a raise makes the promise good first");
    REPORT1(l, 0, GIB(2));
    OK(CLAIM1(l, 0, GIB(3), &why) == 0, "resident is not counted twice");
    OK(ballast_claim(l, NULL, 0, &why) == 0, "zero");
    OK(ballast_claim(o, &huge, 1, &why) == 0, "a hugetlb pool");
    set_pool(0, 1024, 600);
    huge.bytes = GIB(2);
    OK(ballast_claim(o, &huge, 1, &why) == -ENOMEM &&
       why.reason == BALLAST_SHORT_KERNEL && why.limit_bytes == MIB(1200) &&
       why.page_bytes == MIB(2), "pages of it that others took");
    OK(identity_holds(l), "identity");
    ballast_ledger_close(l);
    ballast_ledger_close(o);
    set_pool(0, 1024, 1024);
}

static void test_host_wide(void)
{
    struct ballast_ledger *l = must_join(host_ledger(0), "vm");
    struct ballast_ledger *o = must_join(temp_path("kernel"), "other");

    set_node(0, GIB(16), GIB(4), GIB(4));
    set_node(3, GIB(16), GIB(4), 0);
    OK(CLAIM1(l, ANY, GIB(9), &why) == -ENOMEM &&
       why.reason == BALLAST_SHORT_KERNEL && why.node == ANY &&
       why.missing_bytes == GIB(1), "host-wide, cache not counted");
    OK(CLAIM1(l, ANY, GIB(7), &why) == 0, "the sum of the nodes");
    OK(CLAIM1(o, 3, GIB(2), &why) == -ENOMEM && why.node == ANY,
       "a node claim leaves room for host-wide ones");
    OK(CLAIM1(o, 3, GIB(1), &why) == 0, "if it can");
    ballast_ledger_close(l);
    ballast_ledger_close(o);
}

/* A sample from before another's pages were drawn must not be believed. */
static void test_stale_sample(void)
{
    struct ballast_ledger *l = must_join(host_ledger(0), "vm");
    struct ballast_ledger *o = must_join(temp_path("kernel"), "other");
    struct sample sample = { .valid = false };
    struct view from, to;
    int err;

    set_node(0, GIB(16), GIB(8), 0);
    set_node(3, GIB(16), GIB(16), 0);
    CLAIM1(o, 0, GIB(4), NULL);
    sample_take_all(l, &sample);
    REPORT1(o, 0, GIB(4));
    set_node(0, GIB(16), GIB(4), 0);
    view_zero(&l->geo, &from);
    view_zero(&l->geo, &to);
    to.col[COL_CLAIMED][0] = GIB(6);
    view_redeem(&l->geo, &to);
    ledger_lock(l);
    err = admit(l, &from, &to, &sample, &why);
    ledger_unlock(l);
    OK(err == ADMIT_RESAMPLE, "an old sample does not refuse for good");
    to.col[COL_CLAIMED][0] = GIB(4);
    view_redeem(&l->geo, &to);
    ledger_lock(l);
    err = admit(l, &from, &to, &sample, &why);
    OK(err == 0, "but grants what is there even so");
    ledger_recover(l);
    err = admit(l, &from, &to, &sample, &why);
    ledger_unlock(l);
    OK(err == ADMIT_RESAMPLE, "nothing is granted by one from before a repair");
    OK(CLAIM1(l, 0, GIB(6), &why) == -ENOMEM &&
       CLAIM1(l, 0, GIB(4), &why) == 0, "the claim itself samples again");
    ballast_ledger_close(l);
    ballast_ledger_close(o);
}

/* What nobody promised goes first; then a promise is broken, and shown. */
static void test_hog(void)
{
    struct ballast_ledger *l = must_join(host_ledger(0), "vm");
    bool ok = true;
    unsigned gib;

    set_node(0, GIB(16), GIB(10), 0);
    set_node(3, GIB(16), GIB(10), 0);
    OK(CLAIM1(l, 0, GIB(4), &why) == 0, "a claim on a quiet host");
    for (gib = 9; gib >= 4; gib--) {
        set_node(0, GIB(16), GIB(gib), 0);
        ok &= cell_on(l, 0).broken_bytes == 0 &&
              ballast_check(l, 0, NULL, NULL) == 0;
    }
    OK(ok, "a hog that never heard of the ledger takes what is free");
    set_node(0, GIB(16), GIB(3), 0);
    OK(cell_on(l, 0).broken_bytes == GIB(1) &&
       cell_on(l, 0).outstanding_bytes == GIB(4) &&
       ballast_check(l, 0, NULL, NULL) == 1, "and more: broken, by how much");
    ballast_ledger_close(l);
}

static void test_overcommit(void)
{
    struct ballast_config config;
    struct ballast_ledger *l;

    set_node(0, GIB(16), GIB(4), 0);
    set_node(3, GIB(16), GIB(4), 0);
    if (ballast_config_host(&config, 0)) {
        abort();
    }
    config.count_cache_percent = 0;
    config.overcommit_percent[0] = 125;
    config.overcommit_percent[1] = 50;
    config.capacity_bytes[0][0] = config.capacity_bytes[1][0] = GIB(8);
    l = must_join(make_ledger("kernel", &config), "vm");
    OK(CLAIM1(l, 0, GIB(6) + 4096, &why) == -ENOMEM &&
       why.reason == BALLAST_SHORT_KERNEL && why.missing_bytes == 4096 &&
       CLAIM1(l, 0, GIB(6), &why) == 0,
       "the kernel's free memory counts for a quarter of the capacity more");
    OK(cell_on(l, 0).broken_bytes == GIB(2) &&
       ballast_check(l, 0, NULL, NULL) == 0,
       "status says what is not there, check takes it as meant");
    ballast_claim(l, NULL, 0, NULL);
    OK(CLAIM1(l, 3, 4096, &why) == -ENOMEM &&
       why.reason == BALLAST_SHORT_KERNEL, "or for half of it less");
    set_node(3, GIB(16), GIB(6), 0);
    OK(CLAIM1(l, 3, GIB(2), &why) == 0 && CLAIM1(l, 3, GIB(2) + 4096, &why) ==
       -ENOMEM, "and no more");
    ballast_ledger_close(l);
}

/* Nodes that a claim does not touch are not asked. */
static void test_only_what_is_needed(void)
{
    struct ballast_ledger *l = must_join(host_ledger(0), "vm");
    struct ballast_ledger *o = must_join(temp_path("kernel"), "other");
    struct sample sample = { .valid = false };
    struct view from, to;

    set_node(0, GIB(16), GIB(8), 0);
    view_zero(&l->geo, &from);
    view_zero(&l->geo, &to);
    to.col[COL_CLAIMED][0] = GIB(1);
    view_redeem(&l->geo, &to);
    ledger_lock(l);
    OK(admit(l, &from, &to, &sample, &why) == ADMIT_SAMPLE &&
       sample.need[0] == 1, "one cell for a claim on one node");
    ledger_unlock(l);
    write_file("devices/system/node/node3/meminfo", "no figures\n");
    OK(CLAIM1(l, 0, GIB(1), &why) == 0 && CLAIM1(o, ANY, GIB(1), &why) == 0,
       "a silent node holds up nobody who does not need it");
    ledger_lock(l);
    OK(admit(l, &from, &to, &sample, &why) == ADMIT_SAMPLE &&
       sample.need[0] == (1 | UINT64_C(1) << l->geo.nr_classes),
       "all nodes when there are claims on any");
    ledger_unlock(l);
    OK(CLAIM1(l, 0, GIB(7), &why) == 0 && CLAIM1(l, 0, GIB(8), &why) ==
       -ENOMEM, "and they must stay possible");
    ballast_ledger_close(l);
    ballast_ledger_close(o);
    set_node(3, GIB(16), GIB(8), 0);
}

static void test_silent_kernel(void)
{
    struct ballast_ledger *l = must_join(host_ledger(0), "vm");

    CLAIM1(l, 0, GIB(1), NULL);
    write_file("devices/system/node/node3/meminfo", "no figures\n");
    OK(CLAIM1(l, 3, GIB(1), &why) == -ENOMEM &&
       why.reason == BALLAST_SHORT_KERNEL, "a node without figures has none");
    OK(cell_on(l, 3).kernel_free_bytes == UINT64_MAX &&
       cell_on(l, ANY).kernel_free_bytes == UINT64_MAX, "status says unknown");
    OK(ballast_claim(l, NULL, 0, &why) == 0, "zero succeeds");
    ballast_ledger_close(l);
}

int main(void)
{
    make_sysfs();
    test_config();
    test_admission();
    test_host_wide();
    if (!over_daemon()) {       /* between two inner calls of the library */
        test_stale_sample();
        test_only_what_is_needed();
    }
    test_hog();
    test_overcommit();
    test_silent_kernel();
    remove_sysfs();
    return tap_done();
}
