/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A client's end of the socket: one exchange at a time, over a connection
 * that is made again when it is lost.
 */
#ifndef LEDGER_CLIENT_H
#define LEDGER_CLIENT_H

#include "internal.h"
#include "remote.h"
#include "wire.h"

#pragma GCC visibility push(hidden)

struct remote {
    pthread_mutex_t lock;       /* of all below, but for the next two */
    pid_t pid;                  /* that opened it; a child may not use it */
    char path[WIRE_PATH_BYTES];
    uint32_t patience_ms;
    int fd;                     /* -1: not connected */
    bool joined;
    bool lost;                  /* the slot is gone */
    bool repeated;              /* the request may have arrived twice */
    bool silent;                /* it was there, and did not answer */
    uint64_t stuck_until_ns;    /* a call failed: the next do not wait */
    uint64_t sequence;
    uint64_t cookie[2];
    uint32_t nr_wanted;         /* what was asked for last, to wait for it */
    struct ballast_demand wanted[BALLAST_MAX_DEMANDS];
    union wire_message out;
    union wire_message in;
};

/*
 * client_begin() locks and returns an empty request; client_call() sends what
 * was made of it and waits for the reply, in ->in; client_done() unlocks.
 */
struct wire_request *client_begin(struct ballast_ledger *l, enum wire_op op,
                                  size_t nr, int *err,
                                  struct ballast_refusal *why);
int client_call(struct ballast_ledger *l, struct ballast_refusal *why);
void client_done(struct ballast_ledger *l);
int client_attach(struct ballast_ledger *l, uint32_t flags,
                  struct ballast_refusal *why);

#pragma GCC visibility pop

#endif
