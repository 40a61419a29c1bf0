/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * See model.h.
 */
#include <stdio.h>
#include <string.h>

#include "model.h"

static uint64_t seed;
static int tests;

void log_begin(struct dirty_log *log, int page)
{
    log->dirty[page] = true;
    log->trace[page] = log->kind == KVM;
    log->harvested[page] = false;
    log->traced[page] = true;
}

void log_write(struct dirty_log *log, int page)
{
    if (log->kind == KVM) {
        log->trace[page] = true;
    } else if (log->traced[page]) {
        log->trace[page] = true;
        log->traced[page] = false;
    }
}

static void clear_chunk(struct dirty_log *log, int chunk)
{
    int p;

    if (log->kind != KVM || !log->to_clear[chunk]) {
        return;
    }
    for (p = chunk * CHUNK; p < (chunk + 1) * CHUNK; p++) {
        log->trace[p] &= !log->harvested[p];
        log->harvested[p] = false;
    }
    log->to_clear[chunk] = false;
}

void log_harvest(struct dirty_log *log)
{
    bool any_new = false;
    int p;

    for (p = 0; p < PAGES; p++) {
        any_new |= log->trace[p] && !log->dirty[p];
        log->dirty[p] |= log->trace[p];
        log->harvested[p] = log->trace[p];
        if (log->kind == TCG) {
            log->trace[p] = false;
        }
        log->to_clear[p / CHUNK] = true;
    }
    if (any_new) {
        memset(log->traced, true, sizeof(log->traced));
    }
}

void log_arm(struct dirty_log *log)
{
    int chunk;

    for (chunk = 0; chunk < PAGES / CHUNK; chunk++) {
        clear_chunk(log, chunk);
    }
    memset(log->traced, true, sizeof(log->traced));
}

void log_drop(struct dirty_log *log, int page)
{
    clear_chunk(log, page / CHUNK);
    log->dirty[page] = false;
}

bool log_send(struct dirty_log *log, int page)
{
    if (!log->dirty[page]) {
        return false;
    }
    log_drop(log, page);
    return true;
}

void choose(uint64_t schedule)
{
    seed = schedule * 0x9e3779b97f4a7c15ULL + 1;
}

unsigned pick(unsigned n)
{
    seed = seed * 6364136223846793005ULL + 1442695040888963407ULL;
    return (seed >> 33) % n;
}

int report(bool ok, const char *what)
{
    printf("%sok %d - %s\n", ok ? "" : "not ", ++tests, what);
    return !ok;
}

void report_end(void)
{
    printf("1..%d\n", tests);
}
