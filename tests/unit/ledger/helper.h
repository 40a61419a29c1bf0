/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the ledger's tests share: TAP lines, private ledgers, and the
 * accounting identity.
 *
 * With BALLAST_TEST_DAEMON in the environment, a program, every ledger is made
 * behind a daemon of its own, and what new_ledger() returns is its socket.
 */
#ifndef LEDGER_TEST_HELPER_H
#define LEDGER_TEST_HELPER_H

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "ballast/admin.h"
#include "internal.h"
#include "totals.h"

#define KIB(n) ((uint64_t)(n) << 10)
#define MIB(n) ((uint64_t)(n) << 20)
#define GIB(n) ((uint64_t)(n) << 30)
#define ANY BALLAST_NODE_ANY

#define OK(what, ...) tap_ok((what), #what, __FILE__, __LINE__, __VA_ARGS__)

/*
 * With IDENTITY_ALWAYS, the identity is looked at after every operation that
 * may change something; a failure is a failed test of its own.
 */
int identity_after(struct ballast_ledger *l, int ret, const char *code,
                   const char *file, int line);
#ifdef IDENTITY_ALWAYS
#define AFTER(l, call) identity_after((l), (call), #call, __FILE__, __LINE__)
#define ballast_join(l, ...) AFTER(l, ballast_join((l), __VA_ARGS__))
#define ballast_leave(l) \
    do { \
        ballast_leave(l); \
        identity_after((l), 0, "leave", __FILE__, __LINE__); \
    } while (0)
#define ballast_claim(l, ...) AFTER(l, ballast_claim((l), __VA_ARGS__))
#define ballast_report(l, ...) AFTER(l, ballast_report((l), __VA_ARGS__))
#define ballast_queue(l, ...) AFTER(l, ballast_queue((l), __VA_ARGS__))
#define ballast_queue_poll(l, ...) \
    AFTER(l, ballast_queue_poll((l), __VA_ARGS__))
#define ballast_queue_cancel(l) AFTER(l, ballast_queue_cancel(l))
#define ballast_claim_wait(l, ...) \
    AFTER(l, ballast_claim_wait((l), __VA_ARGS__))
#define ballast_stand(l, ...) AFTER(l, ballast_stand((l), __VA_ARGS__))
#define ballast_stand_wait(l, ...) \
    AFTER(l, ballast_stand_wait((l), __VA_ARGS__))
#define ballast_release(l, ...) AFTER(l, ballast_release((l), __VA_ARGS__))
#define ballast_sweep(l) AFTER(l, ballast_sweep(l))
#endif

/* A claim of one entry, as an expression. */
#define CLAIM1(l, n, b, why) \
    ballast_claim((l), &(struct ballast_demand){ .node = (n), .bytes = (b) }, \
                  1, (why))
#define REPORT1(l, n, b) \
    ballast_report((l), &(struct ballast_usage){ .node = (n), \
                   .resident_bytes = (b) }, 1)

bool tap_ok(bool ok, const char *code, const char *file, int line,
            const char *format, ...) __attribute__((format(printf, 5, 6)));
int tap_done(void);
extern int tap_failures;
extern bool tap_quiet;

const char *temp_path(const char *name);
void config_static(struct ballast_config *config, uint32_t nodes,
                   uint64_t per_node_bytes);
const char *new_ledger(const char *name, uint32_t nodes,
                       uint64_t per_node_bytes);
const char *make_ledger(const char *name, const struct ballast_config *config);
const char *over_daemon(void);
extern const char *daemon_options[16];
pid_t daemon_pid(const char *path);
void daemon_start(const char *path);
void daemon_kill(const char *path);
const char *daemon_log(const char *path);
struct ballast_ledger *behind(struct ballast_ledger *l);
struct ballast_ledger *must_open(const char *path);
struct ballast_ledger *must_join(const char *path, const char *name);
bool identity_holds(struct ballast_ledger *l);
uint64_t own_claim(struct ballast_ledger *l);
int64_t free_on(struct ballast_ledger *l, uint32_t node);
struct ballast_cell cell_on(struct ballast_ledger *l, uint32_t node);
int nr_in_state(struct ballast_ledger *l, enum ballast_state state);
void kill_and_reap(pid_t pid);
pid_t fork_child(void);
/* A pipe that the test makes; a child says a letter when it is ready. */
extern int ready[2];
void say_ready(char c);
char wait_ready(void);

#endif
