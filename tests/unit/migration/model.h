/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the models of a migration share: the dirty log that a guest's writes
 * leave traces in, with QEMU's copies of it; a page that is sent, dropped or
 * begins anew; choices that a seed repeats; TAP lines.  The guest, the host
 * and the rules under test are each model's own.
 *
 * What a write leaves in the log:
 *   KVM  manual protect, all set initially: the page's bit, which stays set
 *        until QEMU clears the chunk; a harvest reads bits, clears none, and
 *        a clear takes only bits that the last harvest had read
 *   TCG  a dirty bit, but only while the TLB entry is reset; a harvest takes
 *        the bits, and resets the TLB only if it found one new to QEMU
 */
#ifndef MIGRATION_TEST_MODEL_H
#define MIGRATION_TEST_MODEL_H

#include <stdbool.h>
#include <stdint.h>

#define PAGES 8
#define CHUNK 4
#define QUEUE 16
#define STEPS 60
#define SCHEDULES 200000

enum log_kind { KVM, TCG };

struct dirty_log {
    enum log_kind kind;
    bool trace[PAGES];          /* for the next harvest */
    bool harvested[PAGES];      /* KVM: QEMU's copy of the bits it read */
    bool traced[PAGES];         /* TCG: the next write leaves a trace */
    bool to_clear[PAGES / CHUNK];
    bool dirty[PAGES];          /* QEMU's bitmap */
};

struct hint {
    int page;
    unsigned id;
};

/* A page as it is when its log begins: dirty. */
void log_begin(struct dirty_log *log, int page);
void log_write(struct dirty_log *log, int page);
void log_harvest(struct dirty_log *log);
void log_arm(struct dirty_log *log);
/* Not dirty any more, as by a hint. */
void log_drop(struct dirty_log *log, int page);
/* True: the page was dirty, and is to be sent now. */
bool log_send(struct dirty_log *log, int page);

/* Each schedule is its own sequence of choices. */
void choose(uint64_t schedule);
unsigned pick(unsigned n);

/* 1 for a failure. */
int report(bool ok, const char *what);
void report_end(void);

#endif
