/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * See helper.h.  Ledgers live in a private directory on tmpfs that is removed
 * when the process that made it exits.
 */
#include <dirent.h>
#include <fcntl.h>
#include <stdarg.h>
#include <sys/prctl.h>
#include <sys/stat.h>

#include "client.h"
#include "helper.h"

#define MAX_DAEMONS 32

static int tap_count;
int tap_failures;
bool tap_quiet;
static char directory[64];
static pid_t directory_owner;
int ready[2];

static struct {
    pid_t pid, owner;
    char path[256];
    struct ballast_ledger *file;
} daemons[MAX_DAEMONS];
static int nr_daemons;

static bool stop_daemons(void);

bool tap_ok(bool ok, const char *code, const char *file, int line,
            const char *format, ...)
{
    va_list args;

    tap_failures += !ok;
    if (ok && tap_quiet) {
        return ok;
    }
    if (tap_quiet) {
        printf("# not ok: ");
    } else {
        printf("%sok %d - ", ok ? "" : "not ", ++tap_count);
    }
    va_start(args, format);
    vprintf(format, args);
    va_end(args);
    putchar('\n');
    if (!ok) {
        printf("# failed: %s at %s:%d\n", code, file, line);
    }
    fflush(stdout);
    return ok;
}

int tap_done(void)
{
    if (nr_daemons) {
        OK(stop_daemons(), "the daemons end well");
    }
    printf("1..%d\n", tap_count);
    return tap_failures ? 1 : 0;
}

const char *over_daemon(void)
{
    const char *program = getenv("BALLAST_TEST_DAEMON");

    return program && *program ? program : NULL;
}

static const char *file_behind(const char *path)
{
    static char file[300];

    snprintf(file, sizeof(file), "%s.file", path);
    return file;
}

/* Options besides --ledger and --socket; at most fifteen, then NULL. */
const char *daemon_options[16] = { "--max-clients-per-uid", "512" };

/* Its words go to a file, in case somebody wants to know. */
static void exec_daemon(const char *path)
{
    char file[300], log[300];
    const char *argv[24] = { "ballastd", "--ledger", file, "--socket", path };
    int fd;

    snprintf(log, sizeof(log), "%s.log", path);
    snprintf(file, sizeof(file), "%s", file_behind(path));
    memcpy(argv + 5, daemon_options, sizeof(daemon_options));
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    alarm(0);
    fd = open(log, O_WRONLY | O_CREAT | O_APPEND, 0600);
    dup2(fd, STDERR_FILENO);
    if (strcmp(ballast_sysfs_root, "/sys") != 0) {
        setenv("BALLAST_TEST_SYSFS", ballast_sysfs_root, 1);
    }
    execv(over_daemon(), (char **)(uintptr_t)argv);
    _exit(127);
}

static int daemon_of(const char *path)
{
    int i;

    for (i = nr_daemons; i-- > 0; ) {
        if (strcmp(daemons[i].path, path) == 0) {
            return i;
        }
    }
    return -1;
}

pid_t daemon_pid(const char *path)
{
    int i = daemon_of(path);

    return i < 0 ? 0 : daemons[i].pid;
}

void daemon_start(const char *path)
{
    int i = daemon_of(path), tries;

    if (i < 0) {
        i = nr_daemons++;
        if (nr_daemons > MAX_DAEMONS) {
            abort();
        }
        strcpy(daemons[i].path, path);
    }
    daemons[i].owner = getpid();
    daemons[i].pid = fork();
    if (daemons[i].pid == 0) {
        exec_daemon(path);
    }
    for (tries = 0; tries < 10000 && !remote_is_socket(path); tries++) {
        usleep(1000);
    }
}

void daemon_kill(const char *path)
{
    int i = daemon_of(path);

    if (i < 0) {
        abort();
    }
    kill_and_reap(daemons[i].pid);
    daemons[i].pid = 0;         /* may be somebody else's soon */
}

/* What it wrote, in private memory that the next call overwrites. */
const char *daemon_log(const char *path)
{
    static char text[1 << 20];
    char log[300];
    ssize_t n;
    int fd;

    snprintf(log, sizeof(log), "%s.log", path);
    fd = open(log, O_RDONLY);
    n = fd < 0 ? 0 : pread(fd, text, sizeof(text) - 1, 0);
    text[n < 0 ? 0 : n] = '\0';
    close(fd);
    return text;
}

/* They must end well, too: their sanitizers speak by the exit status. */
static bool stop_daemons(void)
{
    bool ok = true;
    int i, status;

    for (i = 0; i < nr_daemons; i++) {
        if (daemons[i].owner == getpid() && daemons[i].pid) {
            kill(daemons[i].pid, SIGTERM);
            waitpid(daemons[i].pid, &status, 0);
            ok &= status == 0;
            if (status) {
                printf("# the daemon of %s: status 0x%x\n", daemons[i].path,
                       status);
            }
        }
    }
    nr_daemons = 0;
    return ok;
}

/* The same ledger without the daemon: for what a test does to its file. */
struct ballast_ledger *behind(struct ballast_ledger *l)
{
    int i;

    if (!l->remote) {
        return l;
    }
    i = daemon_of(l->remote->path);
    if (!daemons[i].file) {
        daemons[i].file = must_open(file_behind(daemons[i].path));
    }
    return daemons[i].file;
}

static void remove_directory(void)
{
    char path[512];
    struct dirent *entry;
    DIR *dir;

    if (directory_owner != getpid() || !(dir = opendir(directory))) {
        return;
    }
    while ((entry = readdir(dir))) {
        snprintf(path, sizeof(path), "%s/%s", directory, entry->d_name);
        unlink(path);
    }
    closedir(dir);
    rmdir(directory);
}

const char *temp_path(const char *name)
{
    static char path[256];

    if (!directory[0]) {
        strcpy(directory, "/dev/shm/ballast-test-XXXXXX");
        if (!mkdtemp(directory)) {
            strcpy(directory, "/tmp/ballast-test-XXXXXX");
            if (!mkdtemp(directory)) {
                abort();
            }
        }
        directory_owner = getpid();
        atexit(remove_directory);
    }
    snprintf(path, sizeof(path), "%s/%s", directory, name);
    return path;
}

void config_static(struct ballast_config *config, uint32_t nodes,
                   uint64_t per_node_bytes)
{
    uint32_t n;

    memset(config, 0, sizeof(*config));
    config->nr_nodes = nodes;
    config->nr_classes = 2;
    config->nr_slots = 64;
    config->admission = BALLAST_ADMIT_STATIC;
    config->count_cache_percent = 50;
    config->page_bytes[0] = 4096;
    config->page_bytes[1] = MIB(2);
    for (n = 0; n < nodes; n++) {
        config->node_id[n] = n;
        config->capacity_bytes[n][0] = per_node_bytes;
        config->capacity_bytes[n][1] = per_node_bytes / 2;
    }
}

const char *new_ledger(const char *name, uint32_t nodes,
                       uint64_t per_node_bytes)
{
    struct ballast_config config;

    config_static(&config, nodes, per_node_bytes);
    return make_ledger(name, &config);
}

/* A test may make a ledger of the same name again. */
static void forget_daemon(const char *path)
{
    int i = daemon_of(path);

    if (i >= 0) {
        if (daemons[i].pid) {
            kill(daemons[i].pid, SIGTERM);
            waitpid(daemons[i].pid, NULL, 0);
        }
        ballast_ledger_close(daemons[i].file);
        daemons[i] = daemons[--nr_daemons];
        daemons[nr_daemons].file = NULL;
    }
}

/* A path to open: of the file, or of a daemon's socket. */
const char *make_ledger(const char *name, const struct ballast_config *config)
{
    const char *path = temp_path(name);
    const char *file = over_daemon() ? file_behind(path) : path;

    forget_daemon(path);
    unlink(path);
    unlink(file);
    if (ballast_ledger_create(file, config, 0, NULL)) {
        printf("Bail out! cannot create %s\n", file);
        exit(1);
    }
    if (over_daemon()) {
        daemon_start(path);
    }
    return path;
}

struct ballast_ledger *must_open(const char *path)
{
    struct ballast_refusal why;
    struct ballast_ledger *l;
    char text[512];

    if (ballast_ledger_open(path, &l, &why)) {
        ballast_refusal_text(&why, text, sizeof(text));
        printf("Bail out! cannot open: %s\n", text);
        fflush(stdout);
        _exit(1);
    }
    return l;
}

struct ballast_ledger *must_join(const char *path, const char *name)
{
    struct ballast_ledger *l = must_open(path);
    int err = ballast_join(l, name, 0, NULL);

    if (err) {
        printf("Bail out! cannot join as %s: %d\n", name, err);
        fflush(stdout);
        _exit(1);
    }
    return l;
}

static bool cell_adds_up(const struct ballast_cell *c)
{
    return c->free_bytes + (int64_t)c->freeable_bytes +
           (int64_t)c->owned_bytes == (int64_t)c->capacity_bytes;
}

static uint64_t held(const struct ballast_status *st, uint32_t node,
                     uint64_t page_bytes)
{
    uint64_t sum = 0;
    size_t p, i;

    for (p = 0; p < st->nr_participants; p++) {
        for (i = 0; i < st->participants[p].nr_cells; i++) {
            const struct ballast_own *c = &st->participants[p].cells[i];

            if ((node == ANY || c->node == node) &&
                c->page_bytes == page_bytes) {
                sum += c->resident_bytes + c->outstanding_bytes;
            }
        }
    }
    return sum;
}

/* Per node and for the host, against the participants and the totals. */
bool identity_holds(struct ballast_ledger *l)
{
    struct ballast_status *st;
    bool ok = true;
    uint32_t i;

    if (ballast_status_get(l, &st)) {
        return false;
    }
    for (i = 0; i < st->nr_cells; i++) {
        const struct ballast_cell *c = &st->cells[i];

        ok &= cell_adds_up(c);
        ok &= held(st, c->node, c->page_bytes) ==
              c->resident_bytes + c->outstanding_bytes;
    }
    ballast_status_free(st);
    l = behind(l);
    if (ledger_lock(l)) {
        return false;
    }
    ok &= totals_agree(l);
    ledger_unlock(l);
    return ok;
}

int identity_after(struct ballast_ledger *l, int ret, const char *code,
                   const char *file, int line)
{
    if (!identity_holds(l)) {
        tap_failures++;
        printf("# identity broken after %s at %s:%d\n", code, file, line);
        fflush(stdout);
    }
    return ret;
}

struct ballast_cell cell_on(struct ballast_ledger *l, uint32_t node)
{
    struct ballast_cell cell = { 0 };
    struct ballast_status *st;
    size_t i;

    if (ballast_status_get(l, &st)) {
        return cell;
    }
    for (i = 0; i < st->nr_cells; i++) {
        if (st->cells[i].node == node && st->cells[i].page_bytes == 4096) {
            cell = st->cells[i];
        }
    }
    ballast_status_free(st);
    return cell;
}

/* In its first four cells; UINT64_MAX for an error. */
uint64_t own_claim(struct ballast_ledger *l)
{
    struct ballast_own own[4];
    int i, n = ballast_own(l, own, 4);
    uint64_t sum = 0;

    for (i = 0; i < n && i < 4; i++) {
        sum += own[i].claimed_bytes;
    }
    return n < 0 ? UINT64_MAX : sum;
}

int64_t free_on(struct ballast_ledger *l, uint32_t node)
{
    return cell_on(l, node).free_bytes;
}

int nr_in_state(struct ballast_ledger *l, enum ballast_state state)
{
    struct ballast_status *st;
    int nr = 0;
    size_t i;

    if (ballast_status_get(l, &st)) {
        return -1;
    }
    for (i = 0; i < st->nr_participants; i++) {
        nr += st->participants[i].state == state;
    }
    ballast_status_free(st);
    return nr;
}

/* 0 and less would be whole groups of processes, or all there are. */
void kill_and_reap(pid_t pid)
{
    if (pid <= 0) {
        abort();
    }
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
}

/* A child that is forgotten must not hold up whoever reads our output. */
pid_t fork_child(void)
{
    pid_t pid = fork();

    if (pid < 0) {
        perror("fork");
        abort();
    }
    if (pid == 0) {
        alarm(20);
    }
    return pid;
}

void say_ready(char c)
{
    if (write(ready[1], &c, 1) != 1) {
        _exit(1);
    }
}

char wait_ready(void)
{
    char c = '!';

    return read(ready[0], &c, 1) == 1 ? c : '!';
}
