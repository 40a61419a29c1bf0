/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Files that are no ledgers, or were: every one gives an error with words, or
 * works, and none makes us read outside of it (the sanitizers watch).
 */
#include <fcntl.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "helper.h"

static struct ballast_refusal why;

static void poke(const char *path, off_t offset, const void *bytes, size_t len)
{
    int fd = open(path, O_RDWR);

    if (fd < 0 || pwrite(fd, bytes, len, offset) != (ssize_t)len) {
        abort();
    }
    close(fd);
}

static void fix_sum(const char *path)
{
    struct file_header h;
    int fd = open(path, O_RDWR);

    if (pread(fd, &h, sizeof(h), 0) != sizeof(h)) {
        abort();
    }
    h.static_sum = file_static_sum(&h);
    if (pwrite(fd, &h, sizeof(h), 0) != sizeof(h)) {
        abort();
    }
    close(fd);
}

static enum ballast_reason open_reason(const char *path)
{
    struct ballast_ledger *l = NULL;
    int err = ballast_ledger_open(path, &l, &why);
    char text[512];

    if (!err) {
        ballast_ledger_close(l);
        return BALLAST_OK;
    }
    if (!ballast_refusal_text(&why, text, sizeof(text)) || err != why.err) {
        return BALLAST_OK;
    }
    return why.reason;
}

static void test_not_ledgers(void)
{
    const char *path = temp_path("file");
    uint8_t noise[8192];
    size_t i;

    OK(open_reason(path) == BALLAST_SYSTEM && why.err == -ENOENT, "no file");
    close(open(path, O_CREAT | O_RDWR, 0600));
    OK(open_reason(path) == BALLAST_BAD_FILE, "an empty file");
    for (i = 0; i < sizeof(noise); i++) {
        noise[i] = (uint8_t)(i * 37 + (i >> 5));
    }
    poke(path, 0, noise, sizeof(noise));
    OK(open_reason(path) == BALLAST_BAD_FILE, "noise");
    unlink(path);
    OK(open_reason("/dev/shm") == BALLAST_BAD_FILE, "a directory");
    OK(open_reason("/dev/null") == BALLAST_BAD_FILE ||
       why.reason == BALLAST_SYSTEM, "a device");
}

static void test_damage(void)
{
    static const struct {
        const char *what;
        off_t offset;
        uint32_t value;
        bool fix;
        enum ballast_reason reason;
    } cases[] = {
        { "magic", 0, 0x21212121, false, BALLAST_BAD_FILE },
        { "older format", 8, 1, true, BALLAST_OTHER_FORMAT },
        { "newer format", 8, 3, true, BALLAST_OTHER_FORMAT },
        { "header size", 12, 8192, true, BALLAST_OTHER_FORMAT },
        { "ABI", 16, 0, true, BALLAST_OTHER_ABI },
        { "mutex size", 20, 24, true, BALLAST_OTHER_ABI },
        { "sum", 1024, 1, false, BALLAST_BAD_FILE },
        { "static part", 80, 1, false, BALLAST_BAD_FILE },
        { "no nodes", 24, 0, true, BALLAST_BAD_FILE },
        { "too many nodes", 24, 65, true, BALLAST_BAD_FILE },
        { "all the nodes", 24, UINT32_MAX, true, BALLAST_BAD_FILE },
        { "other nodes", 24, 1, true, BALLAST_BAD_FILE },
        { "no classes", 28, 0, true, BALLAST_BAD_FILE },
        { "too many classes", 28, 9, true, BALLAST_BAD_FILE },
        { "no slots", 32, 0, true, BALLAST_BAD_FILE },
        { "too many slots", 32, UINT32_MAX, true, BALLAST_BAD_FILE },
        { "slot size", 36, 64, true, BALLAST_BAD_FILE },
        { "capacity offset", 40, 0, true, BALLAST_BAD_FILE },
        { "totals offset", 48, UINT32_MAX, true, BALLAST_BAD_FILE },
        { "slots offset", 60, UINT32_MAX, true, BALLAST_BAD_FILE },
        { "file size", 64, 4096, true, BALLAST_BAD_FILE },
        { "admission", 72, 9, true, BALLAST_BAD_FILE },
        { "count cache", 76, 101, true, BALLAST_BAD_FILE },
        { "page size", 96, 4095, true, BALLAST_BAD_FILE },
        { "page sizes alike", 104, 4096, true, BALLAST_BAD_FILE },
        { "node table", 160, 1, true, BALLAST_BAD_FILE },
        { "no overcommit", 416, 0, true, BALLAST_BAD_FILE },
        { "too much overcommit", 416, 1001, true, BALLAST_BAD_FILE },
        { "what must be zero", 672, 1, false, BALLAST_BAD_FILE },
        { "capacity", 4096, 4096, false, BALLAST_BAD_FILE },
        { "capacity sum", 88, 1, true, BALLAST_BAD_FILE },
        { "mutex type", 1168, 0xdeadbeef, false, BALLAST_BAD_FILE },
    };
    size_t i;

    for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        const char *path = new_ledger("damage", 2, GIB(8));

        poke(path, cases[i].offset, &cases[i].value, 4);
        if (cases[i].fix) {
            fix_sum(path);
        }
        OK(open_reason(path) == cases[i].reason, "damaged: %s",
           cases[i].what);
    }
}

static void test_truncated(void)
{
    const char *path = new_ledger("short", 2, GIB(8));
    struct stat st;
    off_t size;
    bool ok = true;

    stat(path, &st);
    for (size = st.st_size - 1; size > 0; size -= size > 9000 ? 4097 : 97) {
        ok &= truncate(path, size) == 0 &&
              open_reason(path) == BALLAST_BAD_FILE;
    }
    OK(ok, "cut short at many sizes");
}

/* Everything behind the checked part may be anything. */
static void test_noise_in_slots(void)
{
    unsigned seed = 12345;
    int round, done = 0, findings = 0;

    for (round = 0; round < 40; round++) {
        const char *path = new_ledger("noise", 2, GIB(8));
        struct ballast_ledger *l = must_join(path, "vm"), *o;
        struct ballast_status *st;
        char text[2048];
        size_t i, from = l->geo.totals_offset;
        uint8_t *base = (uint8_t *)l->header;

        for (i = 0; i < 3000; i++) {
            size_t at = from + (size_t)rand_r(&seed) %
                        (l->geo.file_bytes - from);

            base[at] = (uint8_t)rand_r(&seed);
        }
        l->header->slots_high = (uint32_t)rand_r(&seed);
        o = must_open(path);
        CLAIM1(l, 0, GIB(1), &why);
        ballast_refusal_text(&why, text, sizeof(text));
        REPORT1(l, 1, GIB(1));
        ballast_join(o, "other", 0, &why);
        CLAIM1(o, ANY, GIB(100), &why);
        ballast_refusal_text(&why, text, sizeof(text));
        findings += ballast_check(o, BALLAST_CHECK_REPAIR, NULL, NULL) > 0;
        if (ballast_status_get(o, &st) == 0) {
            ballast_status_free(st);
            done++;
        }
        ballast_ledger_close(o);
        ballast_ledger_close(l);
    }
    OK(done == 40 && findings == 40,
       "noise in slots and totals: found 40 of 40 times, nothing broken");
}

/* As after a reboot: another boot id, and a mutex that somebody held. */
static void test_reboot(void)
{
    const char *path = new_ledger("boot", 2, GIB(8));
    uint32_t held = 1;
    struct ballast_ledger *l;
    pid_t pid = fork_child();

    if (pid == 0) {
        l = must_join(path, "before");
        CLAIM1(l, 0, GIB(8), NULL);
        ledger_lock(l);
        l->header->boot_id[0] ^= 0xff;
        l->header->boot_id[15] ^= 0xff;
        kill(getpid(), SIGKILL);
    }
    waitpid(pid, NULL, 0);
    poke(path, offsetof(struct file_header, mutex), &held, 4);
    l = must_open(path);
    OK(free_on(l, 0) == GIB(8) && identity_holds(l) &&
       ballast_check(l, 0, NULL, NULL) == 0, "after a reboot, all is void");
    OK(ballast_join(l, "after", 0, &why) == 0 &&
       CLAIM1(l, 0, GIB(8), &why) == 0, "and can be claimed");
    ballast_ledger_close(l);
}

/* Not a reboot: somebody's lock is there, and no lock survives one. */
static void test_damaged_boot_id(void)
{
    const char *path = new_ledger("bootid", 2, GIB(8));
    struct ballast_ledger *l = must_join(path, "vm"), *o;

    CLAIM1(l, 0, GIB(3), NULL);
    l->header->boot_id[5] ^= 1;
    o = must_open(path);
    OK(free_on(o, 0) == GIB(5) && nr_in_state(o, BALLAST_RUNNING) == 1 &&
       ballast_check(o, 0, NULL, NULL) == 0,
       "a damaged boot id does not empty a ledger that is in use");
    ballast_ledger_close(o);
    ballast_ledger_close(l);
}

/* As the daemon does it, for a process of ours; returns its slot. */
static uint32_t serve(const char *path, pid_t pid, uint64_t bytes)
{
    struct birth b = { .name = "served", .flags = SLOT_SERVED,
                       .cookie = { 1, 2 } };
    struct ballast_ledger *l = must_open(path);
    uint32_t slot;

    if (identity_of(pid, &b.who) || served_join(l, &b, NULL) ||
        CLAIM1(l, 0, bytes, NULL)) {
        abort();
    }
    slot = l->slot;
    l->slot = SLOT_NONE;
    ballast_ledger_close(l);
    return slot;
}

/* What is left for who opens it next, with an id that was changed. */
static int64_t left_on_reopen(const char *path)
{
    struct ballast_ledger *l = must_open(path);
    int64_t left;

    l->header->boot_id[7] ^= 0x40;
    ballast_ledger_close(l);
    l = must_open(path);
    left = identity_holds(l) ? free_on(l, 0) : -1;
    if (ballast_check(l, 0, NULL, NULL) != 0) {
        left = -2;
    }
    ballast_ledger_close(l);
    return left;
}

static pid_t sleeper(void)
{
    pid_t pid = fork_child();

    if (pid == 0) {
        pause();
    }
    return pid;
}

/* Nobody has a lock: not who is served, nor a standing claim. */
static void test_boot_id_and_processes(void)
{
    const struct ballast_demand one = { .node = 0, .bytes = GIB(1) };
    char path[256];
    struct ballast_ledger *l;
    pid_t pid = sleeper();

    snprintf(path, sizeof(path), "%s", new_ledger("lives", 2, GIB(8)));
    serve(path, pid, GIB(2));
    l = must_open(path);
    ballast_stand(l, "free", &one, 1, 0, NULL);
    ballast_ledger_close(l);
    OK(left_on_reopen(path) == GIB(5),
       "a damaged boot id, and a served process lives: all is kept");
    kill_and_reap(pid);
    OK(left_on_reopen(path) == GIB(8), "it does not: this is another boot");
    pid = sleeper();
    l = must_open(path);
    ballast_stand(l, "bound", &one, 1, pid, NULL);
    ballast_ledger_close(l);
    OK(left_on_reopen(path) == GIB(7), "a claim bound to a process that lives");
    kill_and_reap(pid);
    OK(left_on_reopen(path) == GIB(8), "and to one that does not");
}

/* As that of another process: our own locks are not in our way. */
static void test_boot_id_and_daemon(void)
{
    const struct ballast_demand one = { .node = 0, .bytes = GIB(1) };
    struct flock lock = {
        .l_type = F_WRLCK, .l_whence = SEEK_SET,
        .l_start = LOCK_DAEMON_OFFSET, .l_len = 1,
    };
    char path[256];
    struct ballast_ledger *l;

    snprintf(path, sizeof(path), "%s", new_ledger("daemon", 2, GIB(8)));
    l = must_open(path);
    ballast_stand(l, "free", &one, 1, 0, NULL);
    OK(fcntl(l->fd, F_OFD_SETLK, &lock) == 0 && left_on_reopen(path) == GIB(7),
       "a damaged boot id, and a daemon runs: all is kept");
    ballast_ledger_close(l);
    OK(left_on_reopen(path) == GIB(8), "no daemon: this is another boot");
}

/* A process of another pid namespace may live: its claim alone is kept. */
static void test_boot_id_and_unseen(void)
{
    const struct ballast_demand one = { .node = 0, .bytes = GIB(1) };
    pid_t pid = sleeper();
    char path[256];
    struct ballast_ledger *l;
    uint32_t slot;

    snprintf(path, sizeof(path), "%s", new_ledger("unseen", 2, GIB(8)));
    l = must_open(path);
    ballast_stand(l, "free", &one, 1, 0, NULL);
    slot = serve(path, pid, GIB(2));
    slot_at(l, slot)->pidns_inode ^= 1;
    ballast_ledger_close(l);
    OK(left_on_reopen(path) == GIB(6), "whom we cannot look at keeps a claim");
    l = must_open(path);
    slot_at(l, slot)->pidns_inode ^= 1;
    kill_and_reap(pid);
    ballast_sweep(l);
    ballast_sweep(l);
    OK(free_on(l, 0) == GIB(8), "until somebody can");
    ballast_ledger_close(l);
}

/* Where a daemon listens, force would take the ledger from its clients. */
static void test_force_and_socket(void)
{
    struct sockaddr_un at = { .sun_family = AF_UNIX };
    struct ballast_config config;
    int fd = socket(AF_UNIX, SOCK_SEQPACKET, 0);

    config_static(&config, 1, GIB(4));
    snprintf(at.sun_path, sizeof(at.sun_path), "%s", temp_path("socket"));
    OK(bind(fd, (struct sockaddr *)&at, sizeof(at)) == 0 &&
       ballast_ledger_create(at.sun_path, &config, BALLAST_CREATE_FORCE,
                             &why) == -EBUSY &&
       why.reason == BALLAST_EXISTS && remote_is_socket(at.sun_path),
       "force does not replace a socket");
    close(fd);
}

/* Words that say what to do; and nobody is thrown out by doing it. */
static void test_other_formats(void)
{
    const char *path = new_ledger("format", 2, GIB(8));
    struct ballast_ledger *l = must_join(path, "vm");
    struct ballast_config config;
    uint32_t format;
    char text[512];

    config_static(&config, 1, GIB(4));
    for (format = 1; format <= 3; format += 2) {
        poke(path, 8, &format, 4);
        fix_sum(path);
        OK(open_reason(path) == BALLAST_OTHER_FORMAT &&
           why.err == -EPROTONOSUPPORT, "format %u", format);
        ballast_refusal_text(&why, text, sizeof(text));
        OK(strstr(text, "init --force"), "says what to do: %s", text);
        OK(ballast_ledger_create(path, &config, BALLAST_CREATE_FORCE, &why) ==
           -EBUSY, "not while somebody is in it");
    }
    ballast_ledger_close(l);
    OK(ballast_ledger_create(path, &config, BALLAST_CREATE_FORCE, &why) == 0 &&
       open_reason(path) == BALLAST_OK, "when nobody is");
}

/* Ours alone, of one MiB: where we may. */
static bool mount_small(const char *dir)
{
    char map[32];
    uid_t uid = getuid();
    int fd;

    if (unshare(CLONE_NEWNS)) {
        if (unshare(CLONE_NEWUSER | CLONE_NEWNS)) {
            return false;
        }
        fd = open("/proc/self/uid_map", O_WRONLY);
        snprintf(map, sizeof(map), "0 %u 1", uid);
        if (fd < 0 || write(fd, map, strlen(map)) < 0) {
            return false;
        }
        close(fd);
    }
    return mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0 &&
           mount("small", dir, "tmpfs", 0, "size=1m") == 0;
}

static int fill_up(const char *path)
{
    struct ballast_config config;
    struct ballast_ledger *l;
    char filler[300];
    struct stat st;
    int bad = 0, fd;

    config_static(&config, 2, GIB(1));
    config.nr_slots = 4096;
    bad |= ballast_ledger_create(path, &config, 0, &why) == -ENOSPC ? 0 : 1;
    bad |= open_reason(path) == BALLAST_SYSTEM && why.err == -ENOENT ? 0 : 2;
    config.nr_slots = 100;
    bad |= ballast_ledger_create(path, &config, 0, &why) == 0 ? 0 : 4;
    snprintf(filler, sizeof(filler), "%s.filler", path);
    fd = open(filler, O_CREAT | O_RDWR, 0600);
    for (st.st_size = 0; posix_fallocate(fd, st.st_size, 4096) == 0;
         st.st_size += 4096) {
    }
    l = must_join(path, "vm");
    bad |= CLAIM1(l, 0, GIB(1), &why) == 0 && identity_holds(l) ? 0 : 8;
    ballast_ledger_close(l);
    return bad;
}

/* Nothing is left of the try; what is there already can be used. */
static void test_full(void)
{
    char dir[256], path[280];
    int status;
    pid_t pid;

    snprintf(dir, sizeof(dir), "%s", temp_path("small"));
    mkdir(dir, 0700);
    snprintf(path, sizeof(path), "%s/ledger", dir);
    pid = fork_child();
    if (pid == 0) {
        _exit(mount_small(dir) ? fill_up(path) : 77);
    }
    waitpid(pid, &status, 0);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 77) {
        OK(true, "a full file system # SKIP mounting is not allowed");
    } else {
        OK(status == 0, "a full file system: no new ledger, old ones work "
           "(%x)", status);
    }
    rmdir(dir);
}

static void test_create(void)
{
    const char *path = new_ledger("create", 2, GIB(8));
    struct ballast_config good, bad;
    struct ballast_ledger *l, *old;

    config_static(&good, 1, GIB(4));
    OK(ballast_ledger_create(path, &good, 0, &why) == -EEXIST &&
       why.reason == BALLAST_EXISTS, "not over another");
    old = must_open(path);
    l = must_join(path, "vm");
    OK(ballast_ledger_create(path, &good, BALLAST_CREATE_FORCE, &why) ==
       -EBUSY, "not by force while somebody is in it");
    ballast_ledger_close(l);
    OK(ballast_ledger_create(path, &good, BALLAST_CREATE_FORCE, &why) == 0,
       "by force when nobody is");
    OK(ballast_join(old, "late", 0, &why) == -ESTALE &&
       why.reason == BALLAST_BAD_FILE, "the old one cannot be joined");
    ballast_ledger_close(old);
    l = must_open(path);
    OK(free_on(l, 0) == GIB(4), "the new one is in its place");
    ballast_ledger_close(l);
    poke(path, 0, "rubbish!", 8);
    OK(ballast_ledger_create(path, &good, BALLAST_CREATE_FORCE, &why) == 0 &&
       open_reason(path) == BALLAST_OK, "by force over rubbish");
    unlink(path);

    bad = good;
    bad.nr_nodes = 65;
    OK(ballast_ledger_create(path, &bad, 0, &why) == -EINVAL, "65 nodes");
    bad.nr_nodes = 0;
    OK(ballast_ledger_create(path, &bad, 0, &why) == -EINVAL, "no nodes");
    bad = good;
    bad.nr_classes = 9;
    OK(ballast_ledger_create(path, &bad, 0, &why) == -EINVAL, "9 classes");
    bad = good;
    bad.nr_slots = 8193;
    OK(ballast_ledger_create(path, &bad, 0, &why) == -EINVAL, "8193 slots");
    bad = good;
    bad.capacity_bytes[0][0] = BALLAST_MAX_BYTES + 4096;
    OK(ballast_ledger_create(path, &bad, 0, &why) == -EINVAL,
       "too much capacity");
    bad.capacity_bytes[0][0] = 4097;
    OK(ballast_ledger_create(path, &bad, 0, &why) == -EINVAL, "half a page");
    bad = good;
    bad.page_bytes[1] = 3000;
    OK(ballast_ledger_create(path, &bad, 0, &why) == -EINVAL, "odd pages");
    OK(ballast_ledger_create("/nowhere/l", &good, 0, &why) == -ENOENT,
       "no directory");
    OK(open_reason(path) == BALLAST_SYSTEM, "none of them left a file");
}

int main(void)
{
    test_not_ledgers();
    test_damage();
    test_truncated();
    test_noise_in_slots();
    test_reboot();
    test_damaged_boot_id();
    test_boot_id_and_processes();
    test_boot_id_and_daemon();
    test_boot_id_and_unseen();
    test_force_and_socket();
    test_other_formats();
    test_full();
    test_create();
    return tap_done();
}
