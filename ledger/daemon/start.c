/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Starting: the listening socket (our own, or systemd's), one daemon per
 * ledger, and giving up whatever is not needed afterwards.
 *
 * Crash story: a daemon that was killed leaves its socket in the file system.
 * The next one knows by the lock in the ledger that it is alone, and takes
 * the path over.
 */
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <pwd.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include "daemon.h"

#define LISTEN_FD       3
#define BACKLOG         128
#define SPARE_FDS       64

static bool given_by_systemd(void)
{
    const char *fds = getenv("LISTEN_FDS"), *pid = getenv("LISTEN_PID");

    return fds && pid && strtol(pid, NULL, 10) == (long)getpid() &&
           strtol(fds, NULL, 10) == 1;
}

static int check_given(void)
{
    int type = 0, listening = 0;
    socklen_t len = sizeof(int);

    if (getsockopt(LISTEN_FD, SOL_SOCKET, SO_TYPE, &type, &len) ||
        getsockopt(LISTEN_FD, SOL_SOCKET, SO_ACCEPTCONN, &listening, &len)) {
        return log_failure("the socket of LISTEN_FDS", -errno);
    }
    if (type != SOCK_SEQPACKET || !listening) {
        return log_failure("the socket of LISTEN_FDS is not a listening "
                           "SEQPACKET socket", -EPROTOTYPE);
    }
    if (fcntl(LISTEN_FD, F_SETFD, FD_CLOEXEC) ||
        fcntl(LISTEN_FD, F_SETFL, O_NONBLOCK)) {
        return log_failure("the socket of LISTEN_FDS", -errno);
    }
    return LISTEN_FD;
}

/*
 * The name never goes: who opens a ledger while the daemon is started anew
 * finds a socket, waits, and does not take it for a path to nothing.
 *
 * A daemon of another ledger may be there by mistake: it stays.
 */
static bool somebody_listens(const struct sockaddr_un *at)
{
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    bool answered = fd < 0 ||
                    connect(fd, (const struct sockaddr *)at, sizeof(*at)) == 0 ||
                    errno != ECONNREFUSED;

    close(fd);
    return answered;
}

static int bind_own(int fd, const struct sockaddr_un *at)
{
    struct sockaddr_un fresh = { .sun_family = AF_UNIX };
    struct stat st;
    int n;

    n = snprintf(fresh.sun_path, sizeof(fresh.sun_path), "%s.new",
                 at->sun_path);
    if (n < 0 || (size_t)n >= sizeof(fresh.sun_path)) {
        return -ENAMETOOLONG;
    }
    /* Nobody else serves this ledger: what is left there is a dead one's. */
    if (lstat(at->sun_path, &st) == 0 &&
        (!S_ISSOCK(st.st_mode) || somebody_listens(at))) {
        return -EADDRINUSE;
    }
    unlink(fresh.sun_path);
    if (bind(fd, (const struct sockaddr *)&fresh, sizeof(fresh)) ||
        chmod(fresh.sun_path, 0666) || listen(fd, BACKLOG) ||
        rename(fresh.sun_path, at->sun_path)) {
        return -errno;
    }
    return 0;
}

/* Everybody may connect: the rules say who is answered. */
static int listen_own(const struct options *o)
{
    struct sockaddr_un at = { .sun_family = AF_UNIX };
    int fd, err;

    if (!o->socket) {
        log_line(LOG_ERROR, "event=failed what=\"no socket: give --socket "
                 "PATH, or start by systemd socket activation\"");
        return -EINVAL;
    }
    fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) {
        return log_failure("making a socket", -errno);
    }
    wire_put_string(at.sun_path, o->socket, sizeof(at.sun_path));
    err = bind_own(fd, &at);
    if (err) {
        close(fd);
        return log_failure(o->socket, err);
    }
    return fd;
}

/*
 * On the listening socket, so that no message can come before it is set: the
 * kernel names the sender of every one.
 */
int start_listen(const struct options *o)
{
    int fd = given_by_systemd() ? check_given() : listen_own(o);
    int on = 1;

    unsetenv("LISTEN_FDS");
    unsetenv("LISTEN_PID");
    unsetenv("LISTEN_FDNAMES");
    if (fd >= 0 && setsockopt(fd, SOL_SOCKET, SO_PASSCRED, &on, sizeof(on))) {
        return log_failure("SO_PASSCRED", -errno);
    }
    return fd;
}

/* sd_notify(3), as far as it is needed. */
void start_notify(const char *words)
{
    const char *where = getenv("NOTIFY_SOCKET");
    struct sockaddr_un to = { .sun_family = AF_UNIX };
    size_t len = where ? strlen(where) : 0;
    int fd;

    if (!len || len >= sizeof(to.sun_path) ||
        (*where != '/' && *where != '@')) {
        return;
    }
    memcpy(to.sun_path, where, len);
    if (*where == '@') {
        to.sun_path[0] = '\0';
    }
    fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd >= 0) {
        sendto(fd, words, strlen(words), MSG_NOSIGNAL | MSG_DONTWAIT,
               (struct sockaddr *)&to,
               (socklen_t)(offsetof(struct sockaddr_un, sun_path) + len));
        close(fd);
    }
}

/* The lock goes with the process, however it ends. */
int start_lock(const struct ballast_ledger *l, const char *path)
{
    struct flock lock = {
        .l_type = F_WRLCK, .l_whence = SEEK_SET,
        .l_start = LOCK_DAEMON_OFFSET, .l_len = 1,
    };

    if (fcntl(l->fd, F_OFD_SETLK, &lock) == 0) {
        return 0;
    }
    if (errno != EAGAIN && errno != EACCES) {
        return log_failure(path, -errno);
    }
    log_line(LOG_ERROR, "event=failed what=\"another ballastd serves this "
             "ledger\" ledger=%s", log_quoted(path));
    return -EBUSY;
}

/* Two descriptors per client, one per slot. */
int start_limits(struct options *o, uint32_t nr_slots)
{
    uint64_t need = 2 * (uint64_t)o->max_clients + nr_slots + SPARE_FDS;
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit)) {
        return log_failure("RLIMIT_NOFILE", -errno);
    }
    if (limit.rlim_max < need && geteuid() == 0) {
        limit.rlim_max = need;
    }
    limit.rlim_cur = limit.rlim_max < need ? limit.rlim_max : need;
    if (setrlimit(RLIMIT_NOFILE, &limit)) {
        return log_failure("RLIMIT_NOFILE", -errno);
    }
    if (limit.rlim_cur < need) {
        log_line(LOG_WARN, "event=limit what=\"open files\" have=%llu "
                 "wanted=%llu", (unsigned long long)limit.rlim_cur,
                 (unsigned long long)need);
    }
    return 0;
}

static int change_user(const char *name)
{
    const struct passwd *entry = getpwnam(name);

    if (!entry) {
        return log_failure(name, -ENOENT);
    }
    if (geteuid() == entry->pw_uid && entry->pw_uid == getuid()) {
        return 0;
    }
    if (initgroups(name, entry->pw_gid) ||
        setresgid(entry->pw_gid, entry->pw_gid, entry->pw_gid) ||
        setresuid(entry->pw_uid, entry->pw_uid, entry->pw_uid)) {
        return log_failure(name, -errno);
    }
    return 0;
}

/* While we are root: what an exec could give back, though there is none. */
static void drop_bounding_set(void)
{
    int cap;

    for (cap = 0; cap <= 63; cap++) {
        prctl(PR_CAPBSET_DROP, cap, 0, 0, 0);
    }
}

static int drop_capabilities(void)
{
    struct __user_cap_header_struct header = {
        .version = _LINUX_CAPABILITY_VERSION_3,
    };
    struct __user_cap_data_struct none[2] = { { 0 }, { 0 } }, have[2];

    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
    /* A sandbox may forbid even to give up what one does not have. */
    if (syscall(SYS_capget, &header, have) == 0 &&
        memcmp(have, none, sizeof(none)) == 0) {
        return 0;
    }
    return syscall(SYS_capset, &header, none) ? -errno : 0;
}

int start_drop(const struct options *o)
{
    int err = 0;

    drop_bounding_set();
    if (o->user) {
        err = change_user(o->user);
    }
    if (!err) {
        err = drop_capabilities();
        err = err ? log_failure("dropping capabilities", err) : 0;
    }
    if (!err && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)) {
        err = log_failure("PR_SET_NO_NEW_PRIVS", -errno);
    }
    return err;
}

/* What was inherited, but for the standard three and systemd's socket. */
void start_close_all(void)
{
    unsigned first = given_by_systemd() ? LISTEN_FD + 1 : LISTEN_FD;
    int fd;

    /* A descriptor that is missing would be taken by a file of ours. */
    do {
        fd = open("/dev/null", O_RDWR);
    } while (fd >= 0 && fd < LISTEN_FD);
    syscall(SYS_close_range, first, ~0u, 0);
}
