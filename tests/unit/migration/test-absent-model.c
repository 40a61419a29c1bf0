/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Absent pages against a model: the one of test-generation.c (guest, dirty
 * log (model.h), migration), with what the kernel has of each page added to
 * it, and without layouts, which have nothing to do with it.
 *
 * Absent pages: content 0, and not present.  They are looked up in the first
 * generation and dropped some steps later, and so are, at any time in it,
 * dirty pages that are present and zero; a page may be discarded at any
 * time; what was left out and is dirty and zero in a later generation is
 * left out again.  The migration may wait for hints: nothing is sent for some
 * steps, in which all else happens, harvests (auto-converge's) included.
 * Controls: a look before arming, no mark for what was discarded, a left-out
 * mark that outlives sending, dropping zeros that were seen in a generation
 * that has ended, and a wait after which hints are dropped as they were
 * judged when they came.
 */
#include <stdio.h>
#include <string.h>
#include "migration/ballast/generation.h"
#include "model.h"

/* What is left out, and what is done wrong about it. */
enum absent {
    NONE, ABSENT, EARLY_LOOK, NO_MARK, STALE_LEFT_OUT, LATE_ZERO, JUDGED_EARLY
};

struct model {
    bool ballast;
    enum absent absent;
    int stamp;                  /* content of the latest write */
    bool present[PAGES];
    bool marked[PAGES];         /* discarded: dirty in the next harvest */
    bool seen[PAGES];           /* absent at the look, not dropped yet */
    bool zero[PAGES];           /* there, but zero at the look; the same */
    bool left_out[PAGES];

    int src[PAGES], dst[PAGES];
    bool in_use[PAGES];
    struct dirty_log log;

    struct hint queue[QUEUE];
    int queued;
    unsigned id, answered;
    int waiting;                /* so many steps nothing is sent */
    bool judged[PAGES];         /* hinted in a wait, not dropped yet */
    struct ballast_generation gen;
};

/* The log ------------------------------------------------------------- */

static void harvest(struct model *m)
{
    int p;

    for (p = 0; p < PAGES; p++) {
        m->log.dirty[p] |= m->marked[p];
        m->marked[p] = false;
    }
    log_harvest(&m->log);
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
    if (m->log.dirty[page] && m->gen.number == 1) {
        m->left_out[page] = true;
    }
    log_drop(&m->log, page);
}

/* A little ahead of sending. */
static void look_ahead(struct model *m)
{
    int p;

    for (p = 0; p < PAGES; p++) {
        m->zero[p] = m->gen.number == 1 && m->log.dirty[p] &&
                     m->present[p] && !m->src[p];
    }
}

static void drop_seen(struct model *m)
{
    bool in_time = m->gen.open && m->gen.number == 1;
    int p;

    for (p = 0; p < PAGES; p++) {
        if ((m->seen[p] && in_time) ||
            (m->zero[p] && (in_time || m->absent == LATE_ZERO))) {
            drop_page(m, p);
        }
        m->seen[p] = m->zero[p] = false;
    }
}

/* After arming, before anything is sent. */
static void look_for_zeros(struct model *m)
{
    int p;

    for (p = 0; p < PAGES; p++) {
        if (!m->left_out[p] || !m->log.dirty[p]) {
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
            log_write(&m->log, p);
        }
    }
    if (m->ballast) {
        log_arm(&m->log);
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
    if (!m->waiting && log_send(&m->log, page)) {
        m->dst[page] = m->src[page];
    }
}

/* Round 1, until hints come no more, or not fast enough. */
static void begin_wait(struct model *m)
{
    if (m->gen.open && m->gen.number == 1) {
        m->waiting = 1 + pick(STEPS / 4);
    }
}

static void end_wait(struct model *m)
{
    int p;

    m->waiting = 0;
    for (p = 0; p < PAGES; p++) {
        if (m->judged[p]) {
            drop_page(m, p);
        }
        m->judged[p] = false;
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
        if (m->waiting && m->absent == JUDGED_EARLY) {
            m->judged[h.page] = true;
        } else {
            drop_page(m, h.page);
        }
    }
}

/* The guest ----------------------------------------------------------- */

static void guest_write(struct model *m, int page)
{
    m->in_use[page] = true;
    m->src[page] = m->absent && !pick(3) ? 0 : ++m->stamp;
    m->present[page] = true;
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

    if (m->waiting && !--m->waiting) {
        end_wait(m);
    }
    if (m->absent && !pick(4)) {
        switch (pick(4)) {
        case 0:
            drop_seen(m);
            break;
        case 3:
            begin_wait(m);
            break;
        case 1:
            look_ahead(m);
            break;
        default:
            discard(m, page);
            break;
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
    struct model m = { .log.kind = kind, .ballast = ballast, .absent = absent };
    int i, lost = 0;

    choose(schedule);
    for (i = 0; i < PAGES; i++) {
        m.in_use[i] = pick(2);
        m.present[i] = !absent || pick(2);
        m.src[i] = m.present[i] && (!absent || pick(3)) ? ++m.stamp : 0;
        log_begin(&m.log, i);
    }
    sync_and_publish(&m);
    for (i = 0; i < STEPS; i++) {
        step(&m);
    }
    end_wait(&m);
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
        ", left-out mark outlives sending", ", zeros of an ended generation",
        ", hints dropped after a wait as judged before",
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
    bad += report(run_all(KVM, true, LATE_ZERO) > 0,
                  "control: zeros of a generation that has ended lose");
    bad += report(run_all(KVM, true, JUDGED_EARLY) > 0 &&
                  run_all(TCG, true, JUDGED_EARLY) > 0,
                  "control: hints judged before the wait is over lose");
    report_end();
    return bad > 0;
}
