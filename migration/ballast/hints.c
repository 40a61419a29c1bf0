/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Hints in migration: generations, verdicts, application.
 *
 * One precopy notifier follows QEMU's harvests.  Notifiers run newest
 * first, and a balloon device publishes its cmd id in one of its own, after
 * the harvest: ours puts itself at the head of the list before each one,
 * also before devices plugged later.  Arming takes milliseconds and the
 * notifiers have the big lock: so the guard in obstacle.c keeps the device
 * from publishing then, and the migration thread arms and lets it publish
 * before it sends.
 *
 * Invariant: while a harvest may be running, the generation is closed; a
 * hint is judged and applied under the same lock that closing takes.
 *
 * Lock order: hints lock, QEMU's dirty bitmap lock, count lock.  The hints
 * lock is never held while arming, and never waited for by the main loop:
 * who holds it may wait for the migration thread to send for 50 ms.
 */
#include "qemu/osdep.h"
#include "hw/virtio/ballast/compat.h"
#include "hw/virtio/virtio-balloon.h"
#include "migration/ballast/hints.h"
#include "migration/ballast/obstacle.h"
#include "migration/migration-stats.h"
#include "migration/misc.h"
#include "qemu/lockable.h"
#include "qemu/main-loop.h"
#include "qemu/timer.h"
#include "binding.h"
#include "internal.h"
#include "trace-migration_ballast.h"

static struct {
    QemuMutex lock;
    /* Under @lock. */
    uint64_t questions;
    /* The open generation's, or 0; read without @lock, too. */
    uint64_t question;
    /* The open generation's is still to be asked; changes with the big lock. */
    bool to_ask;
    /* The latest that the guest has answered to the end; any thread. */
    uint64_t finished;
    /* Changes of the RAM blocks so far; any thread. */
    unsigned layout;
    QemuMutex count_lock;
    /* Under @count_lock; the generation changes under both locks. */
    BallastHintsSnapshot s;
    /* Big lock, as all harvests. */
    NotifierWithReturn notifier;
} hints;

static void count(enum ballast_verdict verdict, uint64_t nr, uint64_t bytes)
{
    QEMU_LOCK_GUARD(&hints.count_lock);
    hints.s.migration.count[verdict] += nr;
    hints.s.migration.bytes[verdict] += bytes;
    hints.s.total.count[verdict] += nr;
    hints.s.total.bytes[verdict] += bytes;
}

void ballast_hints_count(enum ballast_verdict verdict, uint64_t nr)
{
    count(verdict, nr, 0);
}

void ballast_hints_bad_id(void)
{
    QEMU_LOCK_GUARD(&hints.count_lock);
    hints.s.migration.bad_ids++;
    hints.s.total.bad_ids++;
}

void ballast_hints_snapshot(BallastHintsSnapshot *out)
{
    QEMU_LOCK_GUARD(&hints.count_lock);
    *out = hints.s;
}

/* Applying ------------------------------------------------------------ */

static enum ballast_verdict judge_range(const BallastHint *h)
{
    ram_addr_t offset;
    RAMBlock *rb;

    if (!h->bytes || !QEMU_IS_ALIGNED(h->bytes, TARGET_PAGE_SIZE)) {
        return BALLAST_HINT_MALFORMED;
    }
    rb = qemu_ram_block_from_host(h->addr, false, &offset);
    if (!rb || !ballast_block_migrates(rb)) {
        return BALLAST_HINT_FOREIGN;
    }
    if (!QEMU_IS_ALIGNED(offset, TARGET_PAGE_SIZE)) {
        return BALLAST_HINT_MALFORMED;
    }
    if (offset >= rb->used_length || h->bytes > rb->used_length - offset) {
        return BALLAST_HINT_FOREIGN;
    }
    return BALLAST_HINT_APPLIED;
}

/* Keep the hints that may be applied, count the others. */
static size_t judge_locked(BallastHint *h, size_t nr,
                           enum ballast_verdict by_time)
{
    enum ballast_verdict verdict;
    size_t i, kept = 0, bytes = 0;

    if (by_time != BALLAST_HINT_APPLIED) {
        for (i = 0; i < nr; i++) {
            bytes += h[i].bytes;
        }
        count(by_time, nr, bytes);
        return 0;
    }
    for (i = 0; i < nr; i++) {
        verdict = judge_range(&h[i]);
        if (verdict == BALLAST_HINT_APPLIED) {
            h[kept++] = h[i];
        } else {
            count(verdict, 1, verdict == BALLAST_HINT_MALFORMED ?
                         0 : h[i].bytes);
        }
    }
    return kept;
}

/* Adjacent blocks of host memory may be two RAMBlocks: QEMU splits there. */
static size_t drop_locked(BallastHint *h, size_t nr)
{
    size_t i, ranges, total_bytes = 0;

    if (!nr) {
        return 0;
    }
    for (i = 0; i < nr; i++) {
        total_bytes += h[i].bytes;
    }
    ranges = ballast_merge(h, nr);
    ballast_bitmap_lock();
    ballast_absent_hints_begin(h[0].addr, hints.s.gen.number);
    for (i = 0; i < ranges; i++) {
        ballast_absent_hint(h[i].addr, h[i].bytes, hints.s.gen.number);
        ballast_bitmap_drop(h[i].addr, h[i].bytes);
    }
    ballast_absent_hints_end();
    ballast_bitmap_unlock();
    count(BALLAST_HINT_APPLIED, nr, total_bytes);
    return ranges;
}

uint64_t ballast_hints_question(void)
{
    return qatomic_load_acquire(&hints.question);
}

void ballast_hints_finish(uint64_t question)
{
    qatomic_store_release(&hints.finished, question);
}

bool ballast_hints_finished(void)
{
    uint64_t question = ballast_hints_question();

    return question && qatomic_load_acquire(&hints.finished) == question;
}

void ballast_hints_apply(BallastHint *h, size_t nr, uint64_t question)
{
    enum ballast_verdict by_time;
    size_t kept, ranges;

    RCU_READ_LOCK_GUARD();
    QEMU_LOCK_GUARD(&hints.lock);

    by_time = ballast_gen_verdict(&hints.s.gen,
                                  question && question == hints.question,
                                  qatomic_load_acquire(&hints.layout));
    kept = judge_locked(h, nr, by_time);
    ranges = drop_locked(h, kept);
    trace_ballast_hints_apply(hints.s.gen.number, nr, kept, ranges);
}

/* Following the harvests ---------------------------------------------- */

/* As the device decides whether to publish an id; with the VM stopped, not. */
static bool will_publish(VirtIOBalloon *s)
{
    FreePageHintObstacle obstacle;

    return VIRTIO_DEVICE(s)->vm_running &&
           virtio_vdev_has_feature(VIRTIO_DEVICE(s),
                                   VIRTIO_BALLOON_F_FREE_PAGE_HINT) &&
           !ballast_hints_obstacle(s, &obstacle);
}

/*
 * QEMU harvests with the big lock held; should a version not do so, arm
 * rather than walk the device tree without it.
 */
static bool hints_will_be_asked_for(void)
{
    return !bql_locked() || ballast_any_balloon(will_publish);
}

struct ballast_generation ballast_generation_hold(void)
{
    qemu_mutex_lock(&hints.lock);
    return hints.s.gen;
}

void ballast_generation_release(void)
{
    qemu_mutex_unlock(&hints.lock);
}

static void generation_end(void)
{
    QEMU_LOCK_GUARD(&hints.lock);
    QEMU_LOCK_GUARD(&hints.count_lock);
    ballast_absent_harvest();
    if (hints.s.gen.open) {
        trace_ballast_generation_end(hints.s.gen.number);
    }
    ballast_gen_end(&hints.s.gen);
    hints.to_ask = false;
    qatomic_set(&hints.question, 0);
}

static uint64_t arm_timed(uint64_t *ns)
{
    int64_t start = get_clock();
    uint64_t chunks = ballast_arm();

    *ns = get_clock() - start;
    return chunks;
}

/* Count lock. */
static void count_arming(uint64_t chunks, uint64_t ns)
{
    hints.s.arming.rounds++;
    hints.s.arming.chunks += chunks;
    hints.s.arming.total_ns += ns;
    hints.s.arming.max_ns = MAX(hints.s.arming.max_ns, ns);
}

static void generation_begin(void)
{
    uint64_t number = stat64_get(&mig_stats.dirty_sync_count);
    unsigned layout = qatomic_load_acquire(&hints.layout);
    bool ask = hints_will_be_asked_for();
    bool later = bql_locked() && migration_is_running();
    uint64_t chunks = 0, ns = 0;

    ballast_arm_tlb();
    if (ask && !later) {
        chunks = arm_timed(&ns);
    }
    trace_ballast_generation(number, ask && !later, chunks, ns);

    QEMU_LOCK_GUARD(&hints.lock);
    if (number == 1) {
        ballast_wait_begin();
    }
    ballast_absent_begin(number);
    QEMU_LOCK_GUARD(&hints.count_lock);
    ballast_gen_begin(&hints.s.gen, number, layout, ask && !later);
    qatomic_store_release(&hints.question, ++hints.questions);
    hints.to_ask = ask && later;
    if (ask && !later) {
        count_arming(chunks, ns);
    }
}

bool ballast_hints_deferred(void)
{
    return hints.to_ask;
}

/* The generation is armed, if it is still that one; big lock. */
static bool armed_since(uint64_t number, uint64_t chunks, uint64_t ns)
{
    bool same;

    QEMU_LOCK_GUARD(&hints.lock);
    QEMU_LOCK_GUARD(&hints.count_lock);
    same = hints.s.gen.open && hints.s.gen.number == number;
    if (same) {
        hints.s.gen.armed = true;
        hints.to_ask = false;
    }
    count_arming(chunks, ns);
    return same;
}

void ballast_hints_ask(void)
{
    uint64_t number, chunks, ns;

    WITH_QEMU_LOCK_GUARD(&hints.lock) {
        number = hints.s.gen.open && hints.to_ask ? hints.s.gen.number : 0;
    }
    if (!number) {
        return;
    }
    chunks = arm_timed(&ns);
    trace_ballast_ask(number, chunks, ns);
    BQL_LOCK_GUARD();
    if (armed_since(number, chunks, ns)) {
        ballast_balloons_ask();
    }
}

void ballast_harvest_begins(void)
{
    if (ballast_asked_for()) {
        ballast_hints_install();
    }
    if (!ballast_hints_installed()) {
        return;
    }
    if (bql_locked()) {
        ballast_guard_balloons();
    }
    if (!stat64_get(&mig_stats.dirty_sync_count)) {
        ballast_skipped_begin();
        QEMU_LOCK_GUARD(&hints.count_lock);
        memset(&hints.s.migration, 0, sizeof(hints.s.migration));
    }
    generation_end();
}

void ballast_harvest_ended(void)
{
    if (ballast_hints_installed()) {
        generation_begin();
    }
}

static void migration_end(void)
{
    WITH_QEMU_LOCK_GUARD(&hints.lock) {
        ballast_absent_end();
    }
    ballast_skipped_end();
    ballast_turns_over();
}

/* Harvests, where QEMU does not call us. */
static void harvest_event(PrecopyNotifyReason reason)
{
    if (reason == PRECOPY_NOTIFY_BEFORE_BITMAP_SYNC) {
        precopy_remove_notifier(&hints.notifier);
        precopy_add_notifier(&hints.notifier);
        ballast_harvest_begins();
    } else {
        ballast_harvest_ended();
    }
}

static int precopy_event(NotifierWithReturn *n, void *data, Error **errp)
{
    PrecopyNotifyData *event = data;

    switch (event->reason) {
    case PRECOPY_NOTIFY_BEFORE_BITMAP_SYNC:
    case PRECOPY_NOTIFY_AFTER_BITMAP_SYNC:
        if (!ballast_in_qemu) {
            harvest_event(event->reason);
        }
        break;
    case PRECOPY_NOTIFY_COMPLETE:
        generation_end();
        break;
    case PRECOPY_NOTIFY_CLEANUP:
        generation_end();
        migration_end();
        break;
    default:
        break;
    }
    return 0;
}

/* RAM blocks that come, go or change their size ----------------------- */

static void layout_changed(void)
{
    unsigned now = qatomic_fetch_inc(&hints.layout) + 1;

    trace_ballast_layout(now);
}

static void block_changed(RAMBlockNotifier *n, void *host, size_t size,
                          size_t other_size)
{
    layout_changed();
}

static RAMBlockNotifier block_notifier = {
    .ram_block_added = block_changed,
    .ram_block_removed = block_changed,
    .ram_block_resized = block_changed,
};

/* Questions about it are answered before, too. */
static void __attribute__((constructor)) init_locks(void)
{
    qemu_mutex_init(&hints.lock);
    qemu_mutex_init(&hints.count_lock);
}

bool ballast_hints_installed(void)
{
    return hints.notifier.notify;
}

void ballast_hints_install(void)
{
    if (ballast_hints_installed()) {
        return;
    }
    hints.notifier.notify = precopy_event;
    precopy_add_notifier(&hints.notifier);
    ballast_absent_install();
    ram_block_notifier_add(&block_notifier);
}
