/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * ballastd: owns a ledger file, and works on it for clients that may not
 * trust each other.
 *
 * One thread, one epoll set, one mapping of the file.  A client is a copy of
 * the daemon's own handle with a slot of its own, so that the library does
 * the work; what a client may do is decided before it is called.
 *
 * Invariants:
 *  - nothing is allocated by a size that a client gives: tables have the
 *    sizes of the options and of the ledger, snapshots that of the ledger;
 *  - a client has at most one message handled per turn of the loop, and its
 *    reply goes out at once or the client is dropped;
 *  - a slot outlives its connection, and ends with its process;
 *  - whatever is only in memory here (connections, pidfds, quotas in use) can
 *    be found again from the file: the daemon may die at any instruction.
 */
#ifndef LEDGER_DAEMON_H
#define LEDGER_DAEMON_H

#include "internal.h"
#include "wire.h"

#define MAX_RULES           256
#define MAX_SNAPSHOTS       8
#define GRACE_MS            2000
#define HELLO_MS            5000
#define HOLD_MS             1000
#define FAULTS_MAX          64
#define NO_QUOTA            UINT64_MAX
#define NOBODY              UINT32_MAX

/* options.c */
enum rule_kind { RULE_UID, RULE_GID, RULE_ALL };
enum role { ROLE_ALLOW, ROLE_OBSERVER, ROLE_ADMIN };

struct rule {
    enum rule_kind kind;
    enum role role;
    uint32_t id;
    uint64_t quota_bytes;
};

struct options {
    const char *ledger;
    const char *socket;
    const char *user;
    uint32_t max_clients;
    uint32_t max_clients_per_uid;
    bool idle_log;
    uint32_t nr_rules;
    struct rule rules[MAX_RULES];
};

int options_parse(struct options *o, int argc, char **argv);

/* access.c */
struct credentials {
    int32_t pid;
    uint32_t uid;
    uint32_t gid;
};

struct access {
    bool allowed;
    bool observer;
    bool admin;
    uint64_t quota_bytes;
};

struct account {
    uint32_t uid;
    uint32_t nr_clients;
    uint32_t nr_slots;
    uint64_t charged_bytes;
};

void access_of(const struct options *o, int fd, const struct credentials *who,
               struct access *access);

/* log.c: one line each, key=value, with journald's priorities */
enum { LOG_ERROR = 3, LOG_WARN = 4, LOG_NOTE = 5, LOG_LINE = 6,
       LOG_ASKED = 8 };

void log_line(int priority, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
const char *log_quoted(const char *text);
int log_failure(const char *what, int err);

/* start.c */
int start_listen(const struct options *o);
void start_notify(const char *words);
int start_lock(const struct ballast_ledger *l, const char *path);
int start_limits(struct options *o, uint32_t nr_slots);
int start_drop(const struct options *o);
void start_close_all(void);

/* loop.c */
struct client {
    int fd;                     /* -1: free */
    int pidfd;
    uint32_t account;
    uint32_t faults;
    bool greeted;
    struct access access;
    struct identity who;
    uint64_t hello_until_ns;
    bool held;                  /* waits for the reply to a poll */
    uint32_t held_op;
    uint64_t held_sequence;
    uint64_t held_until_ns;
    struct ballast_ledger ledger;
    struct stand_place place;   /* of the standing claim it waits for */
    struct snapshot *snapshot;
};

/* What is known of a served slot beyond the file. */
struct watch {
    int pidfd;                  /* -1: not watched */
    uint32_t account;           /* NOBODY: none */
    uint32_t client;            /* connected, or NOBODY */
    uint64_t serial;
    uint64_t charged_bytes;
    uint64_t end_at_ns;         /* gone, but an heir may come until then */
    bool bequeathed;
};

struct finding {
    enum ballast_severity severity;
    char text[WIRE_TEXT_BYTES];
};

/* A status or a check, while its client fetches it. */
struct snapshot {
    struct client *owner;
    uint64_t age;
    struct ballast_status *status;
    struct finding *findings;
    uint32_t nr_findings;
};

struct counters {
    uint64_t messages;
    uint64_t joins;
    uint64_t leaves;
    uint64_t deaths;
    uint64_t refusals;
    uint64_t refused_clients;
    uint64_t dropped_clients;
    uint64_t faults[WIRE_FAULTS];
};

struct daemon {
    struct options options;
    struct ballast_ledger *ledger;
    int listen_fd;
    int epoll_fd;
    int signal_fd;
    bool listening;
    bool stop;
    int status;
    uint32_t nr_clients;
    uint32_t nr_watched;
    uint32_t nr_accounts;
    uint32_t nr_hellos;         /* clients that have not said it yet */
    uint32_t nr_ending;
    uint32_t nr_held;
    uint32_t seen_seq;          /* returned_seq when the held were looked at */
    uint64_t snapshot_age;
    uint64_t idle_at_ns;
    struct client *clients;
    struct account *accounts;
    struct watch *watches;
    struct snapshot snapshots[MAX_SNAPSHOTS];
    struct counters counters;
    union wire_message in;
    union wire_message out;
};

enum event_kind { EVENT_LISTEN, EVENT_SIGNAL, EVENT_CLIENT, EVENT_WATCH };

int loop_run(struct daemon *d);
int loop_add(struct daemon *d, int fd, enum event_kind kind, uint32_t index);
void loop_log_counters(struct daemon *d, const char *event);
void client_drop(struct daemon *d, struct client *c, const char *why);

/* watch.c */
uint32_t account_of(struct daemon *d, uint32_t uid);
int watch_open(int fd, const struct credentials *who, int *pidfd,
               struct identity *id);
void watch_existing(struct daemon *d);
void watch_slot(struct daemon *d, struct client *c);
void watch_forget(struct daemon *d, uint32_t slot);
void watch_charge(struct daemon *d, uint32_t slot);
void watch_event(struct daemon *d, uint32_t slot);
void watch_end(struct daemon *d, uint32_t slot);
void watch_tick(struct daemon *d);

/* serve.c, view.c */
void serve(struct daemon *d, struct client *c, size_t bytes);
void serve_held(struct daemon *d);
void serve_refusal(struct daemon *d, int fd, const struct ballast_refusal *why);
void snapshot_drop(struct client *c);
int view_status(struct daemon *d, struct client *c);
int view_check(struct daemon *d, struct client *c);
int view_page(struct daemon *d, struct client *c);

#endif
