/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A handle whose ledger is behind a daemon's socket.  Each function does what
 * the public one without "remote_" does; see ledger.h and admin.h.
 *
 * Lock order: the handle's own mutex is held for one exchange with the
 * daemon, and is the last lock taken.
 */
#ifndef LEDGER_REMOTE_H
#define LEDGER_REMOTE_H

#include "ballast/admin.h"

#pragma GCC visibility push(hidden)

struct remote;

bool remote_is_socket(const char *path);
bool remote_is_bequest(const char *claim);
int remote_open(const char *path, struct ballast_ledger **out,
                struct ballast_refusal *why);
void remote_close(struct ballast_ledger *l);
void remote_set_patience(struct ballast_ledger *l, uint32_t ms);
int remote_join(struct ballast_ledger *l, const char *name,
                uint64_t max_bytes, struct ballast_refusal *why);
int remote_adopt(const char *claim, struct ballast_ledger **out,
                 struct ballast_refusal *why);
int remote_bequeath(struct ballast_ledger *l, char *buf, size_t len);
void remote_leave(struct ballast_ledger *l);
int remote_claim(struct ballast_ledger *l, const struct ballast_demand *set,
                 size_t nr, struct ballast_refusal *why);
int remote_report(struct ballast_ledger *l, const struct ballast_usage *set,
                  size_t nr);
int remote_own(struct ballast_ledger *l, struct ballast_own *cells, size_t nr);
int remote_stand(struct ballast_ledger *l, const char *name,
                 const struct ballast_demand *set, size_t nr, pid_t pid,
                 struct ballast_refusal *why);
int remote_release(struct ballast_ledger *l, const char *name,
                   struct ballast_refusal *why);
int remote_queue(struct ballast_ledger *l, const struct ballast_demand *set,
                 size_t nr, uint64_t timeout_ms, struct ballast_refusal *why);
int remote_queue_poll(struct ballast_ledger *l, struct ballast_refusal *why);
int remote_queue_cancel(struct ballast_ledger *l);
int remote_claim_wait(struct ballast_ledger *l,
                      const struct ballast_demand *set, size_t nr,
                      uint64_t timeout_ms, struct ballast_refusal *why);
int remote_stand_wait(struct ballast_ledger *l, const char *name,
                      const struct ballast_demand *set, size_t nr, pid_t pid,
                      uint64_t timeout_ms, struct ballast_refusal *why);
int remote_sweep(struct ballast_ledger *l);
int remote_status_get(struct ballast_ledger *l, struct ballast_status **out);
int remote_check(struct ballast_ledger *l, unsigned flags,
                 ballast_finding *report, void *opaque);

#pragma GCC visibility pop

#endif
