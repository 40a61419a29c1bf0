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

#define KIB(n) ((uint64_t)(n) << 10)
#define MIB(n) ((uint64_t)(n) << 20)
#define GIB(n) ((uint64_t)(n) << 30)
#define ANY BALLAST_NODE_ANY

#define OK(what, ...) tap_ok((what), #what, __FILE__, __LINE__, __VA_ARGS__)

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
int64_t free_on(struct ballast_ledger *l, uint32_t node);
struct ballast_cell cell_on(struct ballast_ledger *l, uint32_t node);
int nr_in_state(struct ballast_ledger *l, enum ballast_state state);
void kill_and_reap(pid_t pid);
pid_t fork_child(void);

#endif
