/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A scheduler for two make-believe processes.
 *
 * Both are coroutines of this process, each with its own descriptors and
 * mappings (so the kernel's file locks tell them apart), its own pid, and a
 * stand-in for the robust mutex.  A step is a store to the ledger, a load
 * without the mutex, a file lock, an operation on the mutex, or a file's
 * getting its name.  An actor
 * runs until it ends or must wait for the other, unless the plan deviates:
 * at a given step it is preempted, or killed.  So a plan is a schedule, and
 * running it twice gives the same.
 */
#ifndef LEDGER_TEST_SCHEDULE_H
#define LEDGER_TEST_SCHEDULE_H

#include "helper.h"

#define ACTORS          2
#define OBSERVER        ACTORS
#define MAX_STEPS       4000
#define MAX_DEVIATIONS  4

/* How far the kernel has got with a dead process, in its order. */
enum deviation_kind {
    PREEMPT,
    KILL_MUTEX_FREE,
    KILL_FILES_CLOSED,
    KILL_GONE,
};

struct deviation {
    uint32_t step;
    enum deviation_kind kind;
};

struct plan {
    int first;
    uint32_t nr;
    struct deviation at[MAX_DEVIATIONS];
};

#define CAN_PREEMPT     1u
#define CAN_KILL        2u

struct run {
    uint32_t steps;
    uint8_t can[MAX_STEPS];
    int killed;             /* actor, or -1 */
    bool useless;           /* the last preemption changed nothing */
    const char *trouble;    /* a deadlock, for instance */
};

typedef void actor_fn(int actor);

void schedule_reset(void);
void schedule_act_as(int actor);
void schedule_run(const struct plan *plan, actor_fn *body[ACTORS],
                  struct run *result);
void schedule_end(int actor);

#endif
