/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Generations against a model: a guest that frees, hints, re-uses and
 * writes pages; a host that discards them and replaces a block; a dirty log
 * that harvests (model.h); a migration that sends, is cancelled and begins
 * again.
 *
 * Each schedule is a random sequence of their steps.  After the last one
 * the guest stops, the log is harvested, everything dirty is sent: then
 * every page must be the same on both sides, but for those that a hint left
 * out.  The same schedules are run with one rule left out as controls: each
 * must lose pages, or the model is too tame to prove anything.
 */
#include <stdio.h>
#include <string.h>
#include "migration/ballast/generation.h"
#include "migration/ballast/hints.h"
#include "model.h"

#define BATCH 4
#define PAGE_BYTES 4096

/* The algorithm, or what is left out of it. */
enum rules { ALL, NO_ARMING, NO_LAYOUT, NO_MARKING };

struct model {
    enum rules rules;

    int src[PAGES], dst[PAGES];
    bool in_use[PAGES];
    bool left_out[PAGES];       /* by a hint, and not used since */

    struct dirty_log log;
    bool own[PAGES];            /* QEMU's log of its own writes */

    struct hint queue[QUEUE];
    int queued;
    unsigned id, answered, layout;
    struct ballast_generation gen;
};

static int version = 1000;

/* The log ------------------------------------------------------------- */

static void harvest(struct model *m)
{
    int p;

    log_harvest(&m->log);
    for (p = 0; p < PAGES; p++) {
        m->log.dirty[p] |= m->own[p];
        m->own[p] = false;
    }
}

/* QEMU ---------------------------------------------------------------- */

static void sync_and_publish(struct model *m)
{
    ballast_gen_end(&m->gen);
    m->answered = 0;
    harvest(m);
    /* The guest runs on while QEMU arms. */
    if (pick(2)) {
        int p = pick(PAGES);

        if (m->in_use[p]) {
            m->src[p] = version++;
            log_write(&m->log, p);
        }
    }
    if (m->rules != NO_ARMING) {
        log_arm(&m->log);
    }
    ballast_gen_begin(&m->gen, m->gen.number + 1, m->layout, true);
    m->id++;
}

static void send_page(struct model *m, int page)
{
    if (log_send(&m->log, page)) {
        m->dst[page] = m->src[page];
    }
}

static bool judge(struct model *m, const struct hint *h)
{
    unsigned layout = m->rules == NO_LAYOUT ? m->gen.layout : m->layout;

    if (h->id == m->id) {
        m->answered = h->id;
    }
    return ballast_gen_verdict(&m->gen, m->answered == m->id &&
                               h->id == m->id, layout) ==
           BALLAST_HINT_APPLIED;
}

static void drop_range(struct model *m, const BallastHint *r)
{
    int page = (uintptr_t)r->addr / PAGE_BYTES;
    int end = page + r->bytes / PAGE_BYTES;

    for (; page < end; page++) {
        log_drop(&m->log, page);
        m->left_out[page] = !m->in_use[page];
    }
}

/* A batch: judged one by one, dropped as ranges. */
static void handle_hints(struct model *m)
{
    int i, nr = pick(BATCH) + 1;
    BallastHint batch[BATCH];
    size_t kept = 0, r;

    nr = nr < m->queued ? nr : m->queued;
    for (i = 0; i < nr; i++) {
        if (judge(m, &m->queue[i])) {
            batch[kept++] = (BallastHint) {
                (void *)(uintptr_t)(m->queue[i].page * PAGE_BYTES), PAGE_BYTES
            };
        }
    }
    m->queued -= nr;
    memmove(m->queue, m->queue + nr, m->queued * sizeof(m->queue[0]));
    kept = ballast_merge(batch, kept);
    for (r = 0; r < kept; r++) {
        drop_range(m, &batch[r]);
    }
}

/* The host ------------------------------------------------------------ */

/* A page that nobody uses is ballooned or reported: it reads as zero. */
static void discard(struct model *m, int page)
{
    if (m->in_use[page]) {
        return;
    }
    m->src[page] = 0;
    m->left_out[page] = false;
    if (m->rules != NO_MARKING && !m->log.dirty[page]) {
        m->own[page] = true;
    }
}

/* The second block goes, another one comes in its place, and is used. */
static void replug(struct model *m)
{
    int p;

    m->layout++;
    for (p = PAGES / 2; p < PAGES; p++) {
        m->src[p] = version++;
        m->in_use[p] = true;
        m->left_out[p] = false;
        m->own[p] = false;
        log_begin(&m->log, p);
    }
}

static void begin(struct model *m)
{
    int i;

    for (i = 0; i < PAGES; i++) {
        m->own[i] = false;
        log_begin(&m->log, i);
        m->left_out[i] = false;
    }
    sync_and_publish(m);
}

/* What was sent is lost, what is queued is still there. */
static void cancel(struct model *m)
{
    ballast_gen_end(&m->gen);
    memset(m->dst, 0, sizeof(m->dst));
    begin(m);
}

/* The guest ----------------------------------------------------------- */

static void guest_write(struct model *m, int page)
{
    m->in_use[page] = true;
    m->left_out[page] = false;
    m->src[page] = version++;
    log_write(&m->log, page);
}

static void guest_hint(struct model *m, int page)
{
    if (!m->in_use[page] && m->queued < QUEUE) {
        m->queue[m->queued++] = (struct hint) { page, m->id };
    }
}

static void step(struct model *m)
{
    int page = pick(PAGES);

    switch (pick(10)) {
    case 0:
        sync_and_publish(m);
        break;
    case 1:
    case 2:
        handle_hints(m);
        break;
    case 6:
        discard(m, page);
        break;
    case 7:
        if (!pick(4)) {
            pick(2) ? replug(m) : cancel(m);
        }
        break;
    case 3:
        send_page(m, page);
        break;
    case 4:
        m->in_use[page] = false;
        break;
    case 5:
        guest_hint(m, page);
        break;
    default:
        guest_write(m, page);
        break;
    }
}

/* Pages that differ in the end, although no hint left them out. */
static int run(enum log_kind kind, enum rules rules, uint64_t schedule)
{
    struct model m = { .log.kind = kind, .rules = rules };
    int i, lost = 0;

    choose(schedule);
    for (i = 0; i < PAGES; i++) {
        m.in_use[i] = pick(2);
        m.src[i] = 1;
    }
    begin(&m);
    for (i = 0; i < STEPS; i++) {
        step(&m);
    }
    ballast_gen_end(&m.gen);
    harvest(&m);
    for (i = 0; i < PAGES; i++) {
        send_page(&m, i);
    }
    for (i = 0; i < PAGES; i++) {
        lost += !m.left_out[i] && m.src[i] != m.dst[i];
    }
    return lost;
}

static int run_all(enum log_kind kind, enum rules rules)
{
    static const char *const names[] = {
        "all rules", "no arming", "no layout", "no marking"
    };
    int schedule, bad = 0;

    for (schedule = 0; schedule < SCHEDULES; schedule++) {
        bad += run(kind, rules, schedule) > 0;
    }
    printf("# %s, %s: %d of %d schedules lose a page\n",
           kind == KVM ? "KVM" : "TCG", names[rules], bad, SCHEDULES);
    return bad;
}

static int test_verdicts(void)
{
    struct ballast_generation g = {};
    int bad = 0;

    bad += report(ballast_gen_verdict(&g, true, 7) == BALLAST_HINT_LATE,
                  "before the first generation a hint is late");
    ballast_gen_begin(&g, 1, 7, false);
    bad += report(ballast_gen_verdict(&g, true, 7) == BALLAST_HINT_UNARMED,
                  "without arming a hint is unarmed");
    ballast_gen_begin(&g, 2, 7, true);
    bad += report(ballast_gen_verdict(&g, true, 7) == BALLAST_HINT_APPLIED,
                  "in its armed generation a hint is applied");
    bad += report(ballast_gen_verdict(&g, false, 7) == BALLAST_HINT_LATE,
                  "a hint for another id is late");
    bad += report(ballast_gen_verdict(&g, true, 8) == BALLAST_HINT_LATE,
                  "once a block has come or gone a hint is late");
    ballast_gen_end(&g);
    bad += report(ballast_gen_verdict(&g, true, 7) == BALLAST_HINT_LATE,
                  "once the harvest may have begun a hint is late");
    return bad;
}

/* Merged ranges cover what the hints covered, with gaps between them. */
static bool merges(void)
{
    enum { SPAN = 64, MOST = 24 };
    bool before[SPAN + 16] = {}, after[SPAN + 16] = {};
    BallastHint h[MOST];
    size_t i, page, nr = pick(MOST + 1), end = 0;

    for (i = 0; i < nr; i++) {
        size_t first = pick(SPAN), pages = 1 + pick(6);

        h[i] = (BallastHint) { (void *)(first * PAGE_BYTES + PAGE_BYTES),
                               pages * PAGE_BYTES };
        memset(before + first, true, pages);
    }
    nr = ballast_merge(h, nr);
    for (i = 0; i < nr; i++) {
        page = (uintptr_t)h[i].addr / PAGE_BYTES - 1;
        if (i && page <= end) {
            return false;
        }
        end = page + h[i].bytes / PAGE_BYTES;
        memset(after + page, true, end - page);
    }
    return !memcmp(before, after, sizeof(before));
}

static int test_merge(void)
{
    bool ok = true;
    int i;

    choose(0);
    for (i = 0; i < SCHEDULES; i++) {
        ok &= merges();
    }
    return report(ok, "ranges cover what their hints covered");
}

int main(void)
{
    int bad = test_verdicts() + test_merge();

    bad += report(run_all(KVM, ALL) == 0, "KVM: nothing is lost");
    bad += report(run_all(TCG, ALL) == 0, "TCG: nothing is lost");
    bad += report(run_all(KVM, NO_ARMING) > 0,
                  "control: KVM without arming (as stock) loses pages");
    bad += report(run_all(TCG, NO_ARMING) > 0,
                  "control: TCG without arming (as stock) loses pages");
    /* On KVM the log of a new block begins full, and sends them again. */
    bad += report(run_all(TCG, NO_LAYOUT) > 0,
                  "control: late hints take pages of a new block");
    bad += report(run_all(KVM, NO_MARKING) > 0 && run_all(TCG, NO_MARKING) > 0,
                  "control: discards that are not marked leave old pages");
    report_end();
    return bad > 0;
}
