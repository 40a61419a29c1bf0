/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Absent pages against a model: the one of test-generation.c (guest, dirty
 * log, migration), with what the kernel has of each page added to it, and
 * without layouts, which have nothing to do with it.
 *
 * Absent pages: content 0, and not present.  They are looked up in the first
 * generation and dropped some steps later; a page may be discarded at any
 * time; what was left out and is dirty and zero in a later generation is
 * left out again.  Controls: a look before arming, no mark for what was
 * discarded, and a left-out mark that outlives sending.
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

#define PAGES 8
#define CHUNK 4
#define QUEUE 16
#define STEPS 60
#define SCHEDULES 200000

enum log_kind { KVM, TCG, LOGS };

struct hint {
    int page;
    unsigned id;
};

/* What is left out, and what is done wrong about it. */
enum absent { NONE, ABSENT, EARLY_LOOK, NO_MARK, STALE_LEFT_OUT };

struct model {
    enum log_kind kind;
    bool ballast;
    enum absent absent;
    int stamp;                  /* content of the latest write */
    bool present[PAGES];
    bool marked[PAGES];         /* discarded: dirty in the next harvest */
    bool seen[PAGES];           /* absent at the look, not dropped yet */
    bool left_out[PAGES];

    int src[PAGES], dst[PAGES];
    bool in_use[PAGES];

    bool log[PAGES];            /* a trace for the next harvest */
    bool harvested[PAGES];      /* KVM: QEMU's copy of the bits it read */
    bool traced[PAGES];         /* TCG: the next write leaves one */
    bool to_clear[PAGES / CHUNK];
    bool dirty[PAGES];          /* QEMU's bitmap */

    struct hint queue[QUEUE];
    int queued;
    unsigned id, answered;
    struct ballast_generation gen;
};

static uint64_t seed;

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
        m->dirty[p] |= m->marked[p];
        m->marked[p] = false;
        any_new |= m->log[p] && !m->dirty[p];
        m->dirty[p] |= m->log[p];
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

/* Absent pages -------------------------------------------------------- */

static void look(struct model *m)
{
    int p;

    for (p = 0; p < PAGES; p++) {
        m->seen[p] = !m->present[p];
    }
}

static void drop_page(struct model *m, int page)
{
    clear_chunk(m, page / CHUNK);
    if (m->dirty[page] && m->gen.number == 1) {
        m->left_out[page] = true;
    }
    m->dirty[page] = false;
}

static void drop_seen(struct model *m)
{
    int p;

    for (p = 0; p < PAGES; p++) {
        if (m->seen[p] && m->gen.open && m->gen.number == 1) {
            drop_page(m, p);
        }
        m->seen[p] = false;
    }
}

/* After arming, before anything is sent. */
static void look_for_zeros(struct model *m)
{
    int p;

    for (p = 0; p < PAGES; p++) {
        if (!m->left_out[p] || !m->dirty[p]) {
            continue;
        }
        if (!m->src[p]) {
            drop_page(m, p);
        } else if (m->absent != STALE_LEFT_OUT) {
            m->left_out[p] = false;
        }
    }
}

static void discard(struct model *m, int page)
{
    m->src[page] = 0;
    m->present[page] = false;
    m->marked[page] = m->absent != NO_MARK;
}

/* QEMU ---------------------------------------------------------------- */

static void sync_and_publish(struct model *m)
{
    ballast_gen_end(&m->gen);
    m->answered = 0;
    harvest(m);
    if (m->absent == EARLY_LOOK) {
        look(m);
    }
    /* The guest runs on while QEMU arms. */
    if (pick(2)) {
        int p = pick(PAGES);

        if (m->in_use[p]) {
            m->src[p] = ++m->stamp;
            m->present[p] = true;
            log_write(m, p);
        }
    }
    if (m->ballast) {
        arm(m);
    }
    ballast_gen_begin(&m->gen, m->gen.number + 1, 0, true);
    m->id++;
    if (m->absent && m->absent != EARLY_LOOK) {
        look(m);
    }
    look_for_zeros(m);
}

static void send_page(struct model *m, int page)
{
    if (m->dirty[page]) {
        clear_chunk(m, page / CHUNK);
        m->dirty[page] = false;
        m->dst[page] = m->src[page];
    }
}

static void handle_hint(struct model *m)
{
    struct hint h;

    if (!m->queued) {
        return;
    }
    h = m->queue[0];
    memmove(m->queue, m->queue + 1, --m->queued * sizeof(h));
    if (h.id == m->id) {
        m->answered = h.id;
    }
    if (ballast_gen_verdict(&m->gen, m->answered == m->id && h.id == m->id, 0) ==
        BALLAST_HINT_APPLIED) {
        drop_page(m, h.page);
    }
}

/* The guest ----------------------------------------------------------- */

static void guest_write(struct model *m, int page)
{
    m->in_use[page] = true;
    m->src[page] = m->absent && !pick(3) ? 0 : ++m->stamp;
    m->present[page] = true;
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

    if (m->absent && !pick(5)) {
        if (pick(2)) {
            drop_seen(m);
        } else {
            discard(m, page);
        }
        return;
    }
    switch (pick(8)) {
    case 0:
        sync_and_publish(m);
        break;
    case 1:
    case 2:
        handle_hint(m);
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

/* Pages in use that differ in the end. */
static int run(enum log_kind kind, bool ballast, enum absent absent,
               uint64_t schedule)
{
    struct model m = { .kind = kind, .ballast = ballast, .absent = absent };
    int i, lost = 0;

    seed = schedule * 0x9e3779b97f4a7c15ULL + 1;
    for (i = 0; i < PAGES; i++) {
        m.in_use[i] = pick(2);
        m.present[i] = !absent || pick(2);
        m.src[i] = m.present[i] ? ++m.stamp : 0;
        m.dirty[i] = true;
        m.log[i] = kind == KVM;
        m.traced[i] = true;
    }
    sync_and_publish(&m);
    for (i = 0; i < STEPS; i++) {
        step(&m);
    }
    ballast_gen_end(&m.gen);
    harvest(&m);
    for (i = 0; i < PAGES; i++) {
        send_page(&m, i);
    }
    for (i = 0; i < PAGES; i++) {
        lost += m.in_use[i] && m.src[i] != m.dst[i];
    }
    return lost;
}

static int run_all(enum log_kind kind, bool ballast, enum absent absent)
{
    static const char *const names[] = {
        "", ", absent pages", ", looked before arming", ", no mark for discards",
        ", left-out mark outlives sending",
    };
    int schedule, bad = 0;

    for (schedule = 0; schedule < SCHEDULES; schedule++) {
        bad += run(kind, ballast, absent, schedule) > 0;
    }
    printf("# %s, %s%s: %d of %d schedules lose a page\n",
           kind == KVM ? "KVM" : "TCG", ballast ? "armed" : "stock",
           names[absent], bad, SCHEDULES);
    return bad;
}

static int tests;

static int report(bool ok, const char *what)
{
    printf("%sok %d - %s\n", ok ? "" : "not ", ++tests, what);
    return !ok;
}

int main(void)
{
    int bad = 0;

    bad += report(run_all(KVM, true, ABSENT) == 0,
                  "KVM, absent pages left out: nothing is lost");
    bad += report(run_all(TCG, true, ABSENT) == 0,
                  "TCG, absent pages left out: nothing is lost");
    bad += report(run_all(KVM, true, EARLY_LOOK) > 0,
                  "control: looking before arming loses pages");
    bad += report(run_all(KVM, true, NO_MARK) > 0,
                  "control: discards without a mark lose pages");
    bad += report(run_all(TCG, true, STALE_LEFT_OUT) > 0,
                  "control: a left-out mark that outlives sending loses");
    printf("1..%d\n", tests);
    return bad > 0;
}
