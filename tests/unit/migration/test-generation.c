/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Generations against a model: a guest that frees, hints, re-uses and
 * writes pages; a host that discards them and replaces a block; a dirty log
 * that harvests; a migration that sends, is cancelled and begins again.
 *
 * Each schedule is a random sequence of their steps.  After the last one
 * the guest stops, the log is harvested, everything dirty is sent: then
 * every page must be the same on both sides, but for those that a hint left
 * out.  The same schedules are run with one rule left out as controls: each
 * must lose pages, or the model is too tame to prove anything.
 *
 * What a write leaves in the log:
 *   KVM  manual protect, all set initially: the page's bit, which stays set
 *        until QEMU clears the chunk; a harvest reads bits, clears none, and
 *        a clear takes only bits that the last harvest had read
 *   TCG  a dirty bit, but only while the TLB entry is reset; a harvest takes
 *        the bits, and resets the TLB only if it found one new to QEMU
 */
#include <assert.h>
#include <stdio.h>
#include <string.h>
#include "migration/ballast/generation.h"
#include "migration/ballast/hints.h"

#define PAGES 8
#define CHUNK 4
#define QUEUE 16
#define BATCH 4
#define PAGE_BYTES 4096
#define STEPS 60
#define SCHEDULES 200000

enum log_kind { KVM, TCG, LOGS };

/* The algorithm, or what is left out of it. */
enum rules { ALL, NO_ARMING, NO_LAYOUT, NO_MARKING };

struct hint {
    int page;
    unsigned id;
};

struct model {
    enum log_kind kind;
    enum rules rules;

    int src[PAGES], dst[PAGES];
    bool in_use[PAGES];
    bool left_out[PAGES];       /* by a hint, and not used since */

    bool log[PAGES];            /* a trace for the next harvest */
    bool harvested[PAGES];      /* KVM: QEMU's copy of the bits it read */
    bool traced[PAGES];         /* TCG: the next write leaves one */
    bool to_clear[PAGES / CHUNK];
    bool dirty[PAGES];          /* QEMU's bitmap */
    bool own[PAGES];            /* QEMU's log of its own writes */

    struct hint queue[QUEUE];
    int queued;
    unsigned id, answered, layout;
    struct ballast_generation gen;
};

static uint64_t seed;
static int version = 1000;

static unsigned pick(unsigned n)
{
    seed = seed * 6364136223846793005ULL + 1442695040888963407ULL;
    return (seed >> 33) % n;
}

/* The log ------------------------------------------------------------- */

static void log_write(struct model *m, int page)
{
    if (m->kind == KVM) {
        m->log[page] = true;
    } else if (m->traced[page]) {
        m->log[page] = true;
        m->traced[page] = false;
    }
}

static void clear_chunk(struct model *m, int chunk)
{
    int p;

    if (m->kind != KVM || !m->to_clear[chunk]) {
        return;
    }
    for (p = chunk * CHUNK; p < (chunk + 1) * CHUNK; p++) {
        m->log[p] &= !m->harvested[p];
        m->harvested[p] = false;
    }
    m->to_clear[chunk] = false;
}

static void harvest(struct model *m)
{
    bool any_new = false;
    int p;

    for (p = 0; p < PAGES; p++) {
        any_new |= m->log[p] && !m->dirty[p];
        m->dirty[p] |= m->log[p] | m->own[p];
        m->own[p] = false;
        m->harvested[p] = m->log[p];
        if (m->kind == TCG) {
            m->log[p] = false;
        }
        m->to_clear[p / CHUNK] = true;
    }
    if (any_new) {
        memset(m->traced, true, sizeof(m->traced));
    }
}

static void arm(struct model *m)
{
    int chunk;

    for (chunk = 0; chunk < PAGES / CHUNK; chunk++) {
        clear_chunk(m, chunk);
    }
    memset(m->traced, true, sizeof(m->traced));
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
            log_write(m, p);
        }
    }
    if (m->rules != NO_ARMING) {
        arm(m);
    }
    ballast_gen_begin(&m->gen, m->gen.number + 1, m->layout, true);
    m->id++;
}

static void send_page(struct model *m, int page)
{
    if (m->dirty[page]) {
        clear_chunk(m, page / CHUNK);
        m->dirty[page] = false;
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
        clear_chunk(m, page / CHUNK);
        m->dirty[page] = false;
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
    if (m->rules != NO_MARKING && !m->dirty[page]) {
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
        m->dirty[p] = true;
        m->own[p] = false;
        m->log[p] = m->kind == KVM;
        m->harvested[p] = false;
        m->traced[p] = true;
    }
}

static void begin(struct model *m)
{
    int i;

    for (i = 0; i < PAGES; i++) {
        m->dirty[i] = true;
        m->own[i] = false;
        m->log[i] = m->kind == KVM;
        m->harvested[i] = false;
        m->traced[i] = true;
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
    log_write(m, page);
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
    struct model m = { .kind = kind, .rules = rules };
    int i, lost = 0;

    seed = schedule * 0x9e3779b97f4a7c15ULL + 1;
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

static int tests;

static int report(bool ok, const char *what)
{
    printf("%sok %d - %s\n", ok ? "" : "not ", ++tests, what);
    return !ok;
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

    seed = 1;
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
    printf("1..%d\n", tests);
    return bad > 0;
}
