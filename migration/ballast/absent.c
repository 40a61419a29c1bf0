/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Absent pages in migration: neither read nor sent.
 *
 * Round 1: once write tracking is armed, pages that the kernel does not
 * have are taken off the dirty bitmap like a hint's, all at once or ahead of
 * what QEMU sends; so are pages that read as zero.  Later rounds: a page that
 * was left out so far and reads as zero now is left out again; it is zero
 * on the destination, since nothing was ever sent for it.
 *
 * Invariant: a bit in Tracked.left_out says that the page was never sent in
 * this migration, nor will be before it is looked at again.  It is set only
 * in the first generation, together with clearing the dirty bit: a page
 * that is dirty in the first generation was not sent yet.  Whoever cannot
 * keep this forgets all such bits.
 *
 * Where: the hooks are the questions for pending bytes that the migration
 * thread asks each handler of the stream, without a lock, before it sends
 * and after it has harvested.  So it scans itself, and sends nothing
 * meanwhile; vCPUs and the main loop run on.  Nothing is put into the
 * stream.
 *
 * Lock order: hints lock (through ballast_generation_hold()), QEMU's dirty
 * bitmap lock, count lock.  The hints lock is not held while scanning:
 * pages that were absent after arming may be dropped any time before the
 * generation ends.
 */
#include "qemu/osdep.h"
#include "hw/virtio/ballast/compat.h"
#include "migration/ballast/absent.h"
#include "migration/ballast/hints.h"
#include "migration/ballast/pagetable.h"
#include "migration/ballast/sweep.h"
#include "migration/migration.h"
#include "migration/migration-stats.h"
#include "migration/misc.h"
#include "migration/options.h"
#include "migration/qemu-file-types.h"
#include "migration/ram.h"
#include "migration/register.h"
#include "qemu/bitmap.h"
#include "qemu/cutils.h"
#include "qemu/lockable.h"
#include "qemu/rcu_queue.h"
#include "qemu/units.h"
#include "qemu/timer.h"
#include "system/hostmem.h"
#include "system/tcg.h"
#include "binding.h"
#include "internal.h"
#include "trace-migration_ballast.h"

/* The first harvest of a migration, before which nothing was sent. */
#define FIRST 1

#define PIECE_PAGES (BALLAST_PIECE_BYTES >> TARGET_PAGE_BITS)
#define VCPU_TIMEOUT_MS 1000
/* What a hint of Linux's own driver covers. */
#define HINT_PAGES ((4 * MiB) >> TARGET_PAGE_BITS)

/*
 * QEMU sends a part of what has been looked at, and asks again.  What is
 * left then is a reserve: where there is much to read before the next page
 * that is not zero, it is read bit by bit between turns, while the
 * destination has work in the socket, instead of all at once while it
 * stands still.
 *
 * Zeros come in runs.  So one page in each group is looked at; where one is
 * zero, the groups of this step are gone through, some pages of each first.
 */
#define TURN_PAGES 1024
#define AHEAD_PAGES 32768
#define FEWEST_AHEAD_PAGES 512
#define ALL_PAGES UINT64_MAX
#define STEP_PAGES 512
#define COUNT_PAGES 1024
#define GROUP_PAGES 64
#define SAMPLE_EVERY 16
#define LOOK_NS (300 * SCALE_US)
#define LONGEST_LOOK_NS (50 * SCALE_MS)
/* At the far end, for pages that are not zero, before hints are seen to. */
#define FAR_LOOKS 8

/* A block whose absent pages are known. */
typedef struct Tracked {
    RAMBlock *rb;
    struct ballast_memory memory;
    uint64_t before;            /* pages in the blocks that QEMU sends first */
    uint64_t pages;
    unsigned long *left_out;
} Tracked;

/* Dirty pages of a hint, in a tracked block. */
typedef struct Noted {
    Tracked *t;
    uint64_t first, nr;
} Noted;

/* Where a look goes on; at its end, behind the last block. */
typedef struct Place {
    guint block;
    uint64_t page;
} Place;

/* How far round 1 was looked at for zeros. */
typedef struct Ahead {
    bool on;
    guint block;
    uint64_t page;
    uint64_t ready;             /* pages that QEMU may send now */
    Place scan;                 /* for absent pages; nothing that is dirty */
                                /* is looked at for zeros before that */
} Ahead;

/* A block whose end is sent while hints come to the rest. */
typedef struct Far {
    Tracked *t;
    uint64_t page;              /* QEMU was sent to all from there on */
} Far;

/* A look at all blocks; belongs to the migration thread. */
typedef struct Look {
    struct ballast_generation gen;
    struct ballast_runs runs;
    uint64_t left_out_pages;
} Look;

static struct {
    /* Hints lock. */
    bool used;
    bool any_left_out;
    uint64_t looked;            /* generation */
    uint64_t sent_at_begin;
    GArray *noted;
    uint64_t sent_at_note;
    struct ballast_sweep sweep; /* of the first generation */
    /* Made and freed under it, and not while the migration thread runs. */
    GPtrArray *blocks;
    uint64_t pages;             /* in them */
    /* Migration thread. */
    Ahead ahead;
    Far far;
    guint sending_block;        /* all before it was sent, or left out, */
    uint64_t sending_page;      /* and before this page in it */
    QemuMutex count_lock;
    BallastAbsent s;
} absent;

void ballast_absent_snapshot(BallastAbsent *out)
{
    QEMU_LOCK_GUARD(&absent.count_lock);
    *out = absent.s;
}

uint64_t ballast_pages_sent(void)
{
    return stat64_get(&mig_stats.normal_pages) +
           stat64_get(&mig_stats.zero_pages) + xbzrle_counters.pages;
}

static bool sending_shows(void)
{
    return !migrate_multifd() && !migrate_rdma();
}

/* Is it known whether something was sent while hints are applied? */
static bool hints_are_exact(void)
{
    return ballast_in_qemu || sending_shows();
}

/* Blocks -------------------------------------------------------------- */

/*
 * Memory of a backend only: what a device makes for itself may be filled
 * by that device on the destination.
 */
static bool is_guest_ram(RAMBlock *rb)
{
    MemoryRegion *mr = rb->mr;

    return object_dynamic_cast(memory_region_owner(mr),
                               TYPE_MEMORY_BACKEND) &&
           memory_region_is_ram(mr) && !memory_region_is_rom(mr) &&
           !mr->rom_device && !memory_region_is_ram_device(mr) &&
           rb->guest_memfd < 0 &&
           !(rb->flags & (RAM_PREALLOC | RAM_PROTECTED | RAM_PMEM));
}

static void track(RAMBlock *rb)
{
    struct ballast_memory m = {
        .start = (char *)rb->host, .bytes = rb->used_length, .fd = rb->fd,
        .fd_offset_bytes = rb->fd_offset,
        .page_bytes = qemu_real_host_page_size(),
    };
    Tracked *t;

    ballast_memory_kind(&m, qemu_ram_is_shared(rb));
    if (m.kind == BALLAST_MAP_UNKNOWN) {
        QEMU_LOCK_GUARD(&absent.count_lock);
        absent.s.unknown_bytes += m.bytes;
        return;
    }
    t = g_new0(Tracked, 1);
    t->rb = rb;
    t->memory = m;
    t->before = absent.pages;
    t->pages = m.bytes >> TARGET_PAGE_BITS;
    absent.pages += t->pages;
    t->left_out = bitmap_new(t->pages);
    g_ptr_array_add(absent.blocks, t);
}

static void tracked_free(gpointer opaque)
{
    Tracked *t = opaque;

    g_free(t->left_out);
    g_free(t);
}

/* A block may be unplugged, or grow, between two pieces.  RCU read side. */
static bool still_there(const Tracked *t)
{
    RAMBlock *rb;

    QLIST_FOREACH_RCU(rb, &ram_list.blocks, next) {
        if (rb == t->rb) {
            return ballast_block_migrates(rb) &&
                   rb->used_length == t->memory.bytes;
        }
    }
    return false;
}

/* Following the generations; hints lock ------------------------------- */

static BallastAbsentUse use_in_this_migration(void)
{
    return !migration_thread_is_self() ? BALLAST_ABSENT_SNAPSHOT :
           migrate_colo() ? BALLAST_ABSENT_COLO :
           migrate_postcopy_ram() && !ballast_in_qemu ?
           BALLAST_ABSENT_POSTCOPY :
           BALLAST_ABSENT_USED;
}

void ballast_absent_end(void)
{
    absent.used = false;
    g_ptr_array_set_size(absent.blocks, 0);
    g_array_set_size(absent.noted, 0);
}

static void start(void)
{
    BallastAbsentUse use = use_in_this_migration();
    RAMBlock *rb;

    ballast_absent_end();
    absent.used = use == BALLAST_ABSENT_USED;
    absent.any_left_out = false;
    absent.looked = 0;
    absent.pages = 0;
    absent.sweep = (struct ballast_sweep) {};
    absent.ahead = (Ahead) {};
    absent.far = (Far) {};
    absent.sending_block = 0;
    absent.sending_page = 0;
    WITH_QEMU_LOCK_GUARD(&absent.count_lock) {
        absent.s = (BallastAbsent) { .use = use };
    }
    if (!absent.used) {
        return;
    }
    RCU_READ_LOCK_GUARD();
    QLIST_FOREACH_RCU(rb, &ram_list.blocks, next) {
        if (ballast_block_migrates(rb) && is_guest_ram(rb)) {
            track(rb);
        }
    }
}

static void forget(void)
{
    guint i;

    for (i = 0; absent.any_left_out && i < absent.blocks->len; i++) {
        Tracked *t = g_ptr_array_index(absent.blocks, i);

        bitmap_zero(t->left_out, t->pages);
    }
    if (absent.any_left_out) {
        trace_ballast_absent_forget(absent.looked);
    }
    absent.any_left_out = false;
}

void ballast_absent_harvest(void)
{
    /* Pages that it finds may be sent before they are looked at. */
    if (!migration_thread_is_self()) {
        forget();
    }
}

void ballast_absent_begin(uint64_t number)
{
    if (number == FIRST) {
        start();
    }
    absent.sent_at_begin = ballast_pages_sent();
}

/* Hints: left out, if they were not sent before; hints lock ------------ */

/*
 * The migration thread cannot begin to send while the hints lock is held,
 * except if it was about to: then the count of pages tells.  Dropping the
 * first page waits until it has ended what it is doing now.
 */
void ballast_absent_hints_begin(void *addr, uint64_t number)
{
    g_array_set_size(absent.noted, 0);
    if (absent.used && number == FIRST && sending_shows() &&
        !ballast_in_qemu) {
        qemu_guest_free_page_hint(addr, TARGET_PAGE_SIZE);
        absent.sent_at_note = ballast_pages_sent();
    }
}

static Tracked *find_tracked(RAMBlock *rb)
{
    guint i;

    for (i = 0; i < absent.blocks->len; i++) {
        Tracked *t = g_ptr_array_index(absent.blocks, i);

        if (t->rb == rb) {
            return t;
        }
    }
    return NULL;
}

/* Call @fn for each run of dirty pages in a range. */
static void each_dirty(Tracked *t, uint64_t first, uint64_t nr,
                       void (*fn)(Tracked *t, uint64_t first, uint64_t nr,
                                  void *opaque), void *opaque)
{
    uint64_t end = first + nr, page, next;

    for (page = find_next_bit(t->rb->bmap, end, first); page < end;
         page = find_next_bit(t->rb->bmap, end, next)) {
        next = find_next_zero_bit(t->rb->bmap, end, page);
        fn(t, page, next - page, opaque);
    }
}

static void note(Tracked *t, uint64_t first, uint64_t nr, void *opaque)
{
    Noted noted = { t, first, nr };

    g_array_append_val(absent.noted, noted);
}

void ballast_absent_hint(void *addr, size_t bytes, uint64_t number)
{
    uint64_t first, nr;
    ram_addr_t offset;
    RAMBlock *rb;
    Tracked *t;

    if (!absent.used || number != FIRST) {
        return;
    }
    rb = qemu_ram_block_from_host(addr, false, &offset);
    t = rb ? find_tracked(rb) : NULL;
    if (!t || offset + bytes > t->memory.bytes) {
        return;
    }
    first = offset >> TARGET_PAGE_BITS;
    nr = bytes >> TARGET_PAGE_BITS;
    ballast_sweep_hint(&absent.sweep, t->before + first, nr);
    if (hints_are_exact()) {
        each_dirty(t, first, nr, note, NULL);
    }
}

void ballast_absent_hints_end(void)
{
    guint i;

    if (!absent.noted->len ||
        (!ballast_in_qemu && ballast_pages_sent() != absent.sent_at_note)) {
        return;
    }
    for (i = 0; i < absent.noted->len; i++) {
        Noted *n = &g_array_index(absent.noted, Noted, i);

        bitmap_set(n->t->left_out, n->first, n->nr);
    }
    absent.any_left_out = true;
}

/* Looking; migration thread ------------------------------------------- */

static void count_piece(uint64_t ns)
{
    QEMU_LOCK_GUARD(&absent.count_lock);
    absent.s.pieces++;
    absent.s.scan_ns += ns;
    absent.s.max_piece_ns = MAX(absent.s.max_piece_ns, ns);
}

static bool same_generation(const Look *look, struct ballast_generation now)
{
    return now.open && now.number == look->gen.number;
}

static void leave_out_run(Tracked *t, uint64_t first, uint64_t nr,
                          void *opaque)
{
    Look *look = opaque;

    bitmap_set(t->left_out, first, nr);
    look->left_out_pages += nr;
    absent.any_left_out = true;
}

/* Generation held. */
static void leave_out(Look *look, Tracked *t, uint64_t first, uint64_t nr)
{
    ballast_bitmap_lock();
    each_dirty(t, first, nr, leave_out_run, look);
    ballast_bitmap_drop(t->rb->host + (first << TARGET_PAGE_BITS),
                        nr << TARGET_PAGE_BITS);
    ballast_bitmap_unlock();
}

/* Absent pages of a part of a block; false if that is not known. */
static bool find_absent(Look *look, const Tracked *t, uint64_t first,
                        uint64_t nr)
{
    return ballast_absent_runs(&t->memory, first << TARGET_PAGE_BITS,
                               nr << TARGET_PAGE_BITS, &look->runs);
}

static void count_unknown(uint64_t pages)
{
    QEMU_LOCK_GUARD(&absent.count_lock);
    absent.s.unknown_bytes += pages << TARGET_PAGE_BITS;
}

static void run_pages(const struct ballast_run *run, uint64_t *first,
                      uint64_t *end)
{
    *first = DIV_ROUND_UP(run->offset_bytes, TARGET_PAGE_SIZE);
    *end = (run->offset_bytes + run->bytes) >> TARGET_PAGE_BITS;
}

/* Round 1.  False: the generation is over. */
static bool look_for_absent(Look *look, Tracked *t, uint64_t first,
                            uint64_t nr)
{
    uint64_t begin, end;
    bool ok;
    size_t i;

    if (!find_absent(look, t, first, nr)) {
        count_unknown(nr);
    }
    ok = same_generation(look, ballast_generation_hold());
    for (i = 0; ok && i < look->runs.nr; i++) {
        run_pages(&look->runs.run[i], &begin, &end);
        if (begin < end) {
            leave_out(look, t, begin, end - begin);
        }
    }
    ballast_generation_release();
    return ok;
}

static void *host_of(const Tracked *t, uint64_t page)
{
    return t->rb->host + (page << TARGET_PAGE_BITS);
}

static bool is_zero(const Tracked *t, uint64_t page)
{
    return buffer_is_zero(host_of(t, page), TARGET_PAGE_SIZE);
}

/* Is one of a few of these pages zero, but there? */
static bool is_promising(const Tracked *t, uint64_t first, uint64_t begin,
                         uint64_t end, uint64_t every,
                         const unsigned long *todo, const unsigned long *zero)
{
    uint64_t page;

    for (page = find_next_bit(todo, end, begin); page < end;
         page = find_next_bit(todo, end, page + every)) {
        if (!test_bit(page, zero) && is_zero(t, first + page)) {
            return true;
        }
    }
    return false;
}

/* The same in groups, most of which are not looked at. */
static void find_most_zeros(const Tracked *t, uint64_t first, uint64_t nr,
                            const unsigned long *todo, unsigned long *zero)
{
    uint64_t begin, end;

    for (begin = 0; begin < nr; begin = end) {
        end = MIN(begin + GROUP_PAGES, nr);
        if (is_promising(t, first, begin, end, SAMPLE_EVERY, todo, zero)) {
            ballast_find_each_zero(host_of(t, first), begin, end, todo, zero);
        }
    }
}

/*
 * Of the pages in @todo (numbered from @first), which read as zero?  Absent
 * ones do, and reading them would populate them.
 */
static void find_zeros(Look *look, const Tracked *t, uint64_t first,
                       uint64_t nr, const unsigned long *todo,
                       unsigned long *zero)
{
    bool round_1 = look->gen.number == FIRST;
    uint64_t begin, end;
    size_t i;

    if (!find_absent(look, t, first, nr)) {
        /* The scan has counted it in round 1. */
        if (!round_1) {
            count_unknown(nr);
        }
        return;
    }
    for (i = 0; i < look->runs.nr; i++) {
        run_pages(&look->runs.run[i], &begin, &end);
        if (begin < end) {
            bitmap_set(zero, begin - first, end - begin);
        }
    }
    if (!round_1) {
        ballast_find_zeros(host_of(t, first), nr, todo, zero);
    } else if (is_promising(t, first, 0, nr, GROUP_PAGES, todo, zero)) {
        find_most_zeros(t, first, nr, todo, zero);
    }
}

/*
 * Dirty pages of which nothing was sent: in round 1 all, later those that
 * were left out so far.
 */
static bool find_todo(const Look *look, const Tracked *t, uint64_t first,
                      uint64_t nr, unsigned long *todo)
{
    bool all = look->gen.number == FIRST;
    const unsigned long *map = t->left_out;
    uint64_t page;

    if (all) {
        bitmap_copy_with_src_offset(todo, t->rb->bmap, first, nr);
        return !bitmap_empty(todo, nr);
    }
    for (page = find_next_bit(map, first + nr, first); page < first + nr;
         page = find_next_bit(map, first + nr, page + 1)) {
        if (test_bit(page, t->rb->bmap)) {
            set_bit(page - first, todo);
        }
    }
    return !bitmap_empty(todo, nr);
}

/* Zero is left out (again), the rest will be sent. */
static bool look_for_zeros(Look *look, Tracked *t, uint64_t first,
                           uint64_t nr)
{
    g_autofree unsigned long *todo = bitmap_new(nr);
    g_autofree unsigned long *zero = bitmap_new(nr);
    uint64_t page, next;
    bool ok;

    if (!find_todo(look, t, first, nr, todo)) {
        return true;
    }
    find_zeros(look, t, first, nr, todo, zero);
    ok = same_generation(look, ballast_generation_hold());
    for (page = find_first_bit(todo, nr); ok && page < nr;
         page = find_next_bit(todo, nr, next)) {
        next = find_next_zero_bit(todo, nr, page);
        if (test_bit(page, zero)) {
            next = MIN(next, find_next_zero_bit(zero, nr, page));
            leave_out(look, t, first + page, next - page);
        } else {
            next = MIN(next, find_next_bit(zero, nr, page));
            bitmap_clear(t->left_out, first + page, next - page);
        }
    }
    ballast_generation_release();
    return ok;
}

static bool look_at_piece(Look *look, Tracked *t, uint64_t first, uint64_t nr)
{
    int64_t began = get_clock();
    bool ok = look->gen.number == FIRST ?
              look_for_absent(look, t, first, nr) :
              look_for_zeros(look, t, first, nr);

    count_piece(get_clock() - began);
    return ok && migration_is_running();
}

static bool is_behind_all(const Place *at)
{
    return at->block >= absent.blocks->len;
}

/* False: the generation is over. */
static bool look_at_next(Look *look, Place *at)
{
    Tracked *t = g_ptr_array_index(absent.blocks, at->block);
    uint64_t nr = t->pages - at->page;

    RCU_READ_LOCK_GUARD();
    if (still_there(t)) {
        if (t->memory.kind != BALLAST_MAP_HUGETLB) {
            nr = MIN(nr, PIECE_PAGES);
        }
        if (!look_at_piece(look, t, at->page, nr)) {
            return false;
        }
    }
    at->page += nr;
    if (at->page >= t->pages) {
        *at = (Place) { .block = at->block + 1 };
    }
    return true;
}

static bool look_at_all(Look *look, Place *at)
{
    while (!is_behind_all(at)) {
        if (!look_at_next(look, at)) {
            return false;
        }
    }
    return true;
}

/*
 * A part of round 1's scan of absent pages, or a look of a later round;
 * @done: it was the last part.
 */
static void count_scan(const Look *look, bool done)
{
    uint64_t pages = look->left_out_pages;

    QEMU_LOCK_GUARD(&absent.count_lock);
    if (look->gen.number == FIRST) {
        pages = absent.s.skipped_pages += pages;
    } else {
        absent.s.zero_pages += pages;
    }
    if (done) {
        absent.s.scans++;
        trace_ballast_absent(look->gen.number, pages, absent.s.unknown_bytes,
                             absent.s.pieces, absent.s.scan_ns);
    }
}

/* Ahead of QEMU, in round 1 ------------------------------------------- */

/*
 * One more piece, to be counted even if the generation is over, which false
 * says.
 */
static bool scan_further(const Look *of, Ahead *a)
{
    Look look = { .gen = of->gen };
    bool ok = look_at_next(&look, &a->scan);

    count_scan(&look, is_behind_all(&a->scan));
    free(look.runs.run);
    return ok;
}

static bool scan_rest(const Look *of, Ahead *a)
{
    while (!is_behind_all(&a->scan)) {
        if (!scan_further(of, a)) {
            return false;
        }
    }
    return true;
}

/* How much of its block was scanned. */
static uint64_t scanned_pages(const Ahead *a, const Tracked *t)
{
    return a->scan.block > a->block ? t->pages :
           a->scan.block == a->block ? a->scan.page : 0;
}

/* Pages are few and far between: holes are passed over, not counted. */
static uint64_t count_between(const unsigned long *map, uint64_t first,
                              uint64_t end)
{
    uint64_t pages = 0, nr;

    for (first = find_next_bit(map, end, first); first < end;
         first = find_next_bit(map, end, first + nr)) {
        nr = MIN(COUNT_PAGES, end - first);
        pages += bitmap_count_one_with_offset(map, first, nr);
    }
    return pages;
}

/* Where QEMU is at least; behind the last block if nothing is left for it. */
static void find_place(void)
{
    Tracked *t;

    for (; absent.sending_block < absent.blocks->len; absent.sending_block++) {
        t = g_ptr_array_index(absent.blocks, absent.sending_block);
        if (still_there(t)) {
            absent.sending_page = find_next_bit(t->rb->bmap, t->pages,
                                                absent.sending_page);
            if (absent.sending_page < t->pages) {
                return;
            }
        }
        absent.sending_page = 0;
    }
}

/* What was looked at, and QEMU has still to send. */
static uint64_t count_ready(const Ahead *a)
{
    uint64_t pages = 0, first, end;
    guint i;

    RCU_READ_LOCK_GUARD();
    find_place();
    first = absent.sending_page;
    for (i = absent.sending_block; i < absent.blocks->len && i <= a->block;
         i++, first = 0) {
        const Tracked *t = g_ptr_array_index(absent.blocks, i);

        end = i < a->block ? t->pages : a->page;
        if (first < end && still_there(t)) {
            pages += count_between(t->rb->bmap, first, end);
        }
    }
    return pages;
}

/* Enough to send, or as much as can be had in no time? */
static bool is_enough(const Ahead *a, uint64_t most_pages, uint64_t ns)
{
    return a->ready >= most_pages ||
           (a->ready >= FEWEST_AHEAD_PAGES && ns > LOOK_NS &&
            most_pages < ALL_PAGES) ||
           (a->ready && ns > LONGEST_LOOK_NS);
}

/* False: the generation is over. */
static bool step_ahead(Look *look, Ahead *a, Tracked *t)
{
    uint64_t scanned, nr;

    RCU_READ_LOCK_GUARD();
    if (!still_there(t)) {
        a->page = t->pages;
        return true;
    }
    a->page = find_next_bit(t->rb->bmap, t->pages, a->page);
    if (a->page >= t->pages) {
        return true;
    }
    scanned = scanned_pages(a, t);
    if (a->page >= scanned) {
        return scan_further(look, a);
    }
    nr = MIN(STEP_PAGES, scanned - a->page);
    if (!look_for_zeros(look, t, a->page, nr)) {
        return false;
    }
    a->ready += count_between(t->rb->bmap, a->page, a->page + nr);
    a->page += nr;
    return true;
}

/* False: enough for now, or the generation is over. */
static bool look_ahead_in_block(Look *look, Ahead *a, Tracked *t,
                                uint64_t most_pages, int64_t began)
{
    while (a->page < t->pages) {
        if (is_enough(a, most_pages, get_clock() - began) ||
            !migration_is_running() || !step_ahead(look, a, t)) {
            return false;
        }
    }
    return true;
}

/* QEMU is going to send all that is left without asking again. */
static bool is_ending(void)
{
    return ram_bytes_remaining() < migrate_get_current()->threshold_size;
}

static void look_ahead_in_blocks(Look *look, Ahead *a, uint64_t most_pages)
{
    int64_t began = get_clock();

    while (a->block < absent.blocks->len &&
           look_ahead_in_block(look, a,
                               g_ptr_array_index(absent.blocks, a->block),
                               most_pages, began)) {
        a->block++;
        a->page = 0;
    }
}

/*
 * What is left of a scan goes on by a piece each time.  Where nothing is left
 * of what was ready, QEMU went further than it was to; where the limit or the
 * RAM has changed, it may: no more of this.
 */
static bool go_on_scanning(const Look *look, Ahead *a)
{
    bool begun = a->scan.block || a->scan.page;

    if (is_behind_all(&a->scan)) {
        return true;
    }
    return (begun && !a->ready) || !ballast_turns_are_ours() ?
           scan_rest(look, a) : scan_further(look, a);
}

/* False: there is no more to look at. */
static bool look_ahead(Look *look, uint64_t most_pages)
{
    Ahead *a = &absent.ahead;
    int64_t began = get_clock();
    uint64_t scan_ns = absent.s.scan_ns;

    a->ready = count_ready(a);
    if (go_on_scanning(look, a)) {
        look_ahead_in_blocks(look, a, most_pages);
    }
    /* QEMU's turn might come to the rest; or there is none to speak of. */
    if (a->block >= absent.blocks->len || most_pages == ALL_PAGES ||
        a->ready < FEWEST_AHEAD_PAGES) {
        scan_rest(look, a);
    }
    QEMU_LOCK_GUARD(&absent.count_lock);
    /* That of the pieces is in it. */
    absent.s.scan_ns = scan_ns + get_clock() - began;
    absent.s.zero_pages += look->left_out_pages;
    trace_ballast_ahead(look->gen.number, a->block, a->page,
                        look->left_out_pages);
    return a->block < absent.blocks->len;
}

/*
 * Once tracking is armed, and as long as round 1 lasts: all that is absent
 * was left out by then, or is ahead of this look.
 */
static bool may_look_ahead(Look *look)
{
    bool may;

    look->gen = ballast_generation_hold();
    may = absent.used && absent.ahead.on && look->gen.open &&
          look->gen.number == FIRST;
    ballast_generation_release();
    return may;
}

/* QEMU's next turn, in round 1 ----------------------------------------- */

/* False: QEMU is to stop here. */
static bool foresee_block(struct ballast_course *c, const Tracked *t,
                          uint64_t page, uint64_t most_pages)
{
    const unsigned long *dirty = t->rb->bmap;
    uint64_t nr;

    for (page = find_next_bit(dirty, t->pages, page);
         page < t->pages && c->pages < most_pages;
         page = find_next_bit(dirty, t->pages, page + nr)) {
        nr = MIN(HINT_PAGES - page % HINT_PAGES, t->pages - page);
        if (!ballast_course_send(c, t->before + page, nr,
                                 bitmap_count_one_with_offset(dirty, page,
                                                              nr))) {
            return false;
        }
    }
    return c->pages < most_pages;
}

/* Is there a sweep of hints in round 1? */
static bool begin_course(struct ballast_course *c)
{
    struct ballast_generation gen = ballast_generation_hold();
    bool known = absent.used && gen.open && gen.number == FIRST &&
                 ballast_course_begin(c, &absent.sweep);

    ballast_generation_release();
    return known;
}

uint64_t ballast_absent_foresee(uint64_t most_pages)
{
    struct ballast_course c;
    uint64_t page;
    guint i;

    if (!begin_course(&c)) {
        return 0;
    }
    RCU_READ_LOCK_GUARD();
    find_place();
    page = absent.sending_page;
    for (i = absent.sending_block; i < absent.blocks->len; i++, page = 0) {
        Tracked *t = g_ptr_array_index(absent.blocks, i);

        if (still_there(t) && !foresee_block(&c, t, page, most_pages)) {
            break;
        }
    }
    trace_ballast_foreseen(c.pages, c.s.now.first, c.s.now.end, c.down);
    return c.pages;
}

/* The far end, in round 1 ---------------------------------------------- */

/* The block to which the guest's hints have come. */
static Tracked *find_hinted(const struct ballast_course *c)
{
    guint i;

    for (i = 0; i < absent.blocks->len; i++) {
        Tracked *t = g_ptr_array_index(absent.blocks, i);

        if (still_there(t) && c->s.now.first >= t->before &&
            c->s.now.end <= t->before + t->pages) {
            return t;
        }
    }
    return NULL;
}

/* From a block's end QEMU goes on to the next one, not back to the hints. */
static bool is_last(const Tracked *last)
{
    guint i;

    for (i = 0; i < absent.blocks->len; i++) {
        Tracked *t = g_ptr_array_index(absent.blocks, i);

        if (t->before > last->before && still_there(t) &&
            !bitmap_empty(t->rb->bmap, t->pages)) {
            return false;
        }
    }
    return true;
}

/* Dirty pages between the first one, from @first on, and @end. */
static uint64_t count_dirty(const Tracked *t, uint64_t *first, uint64_t end)
{
    *first = find_next_bit(t->rb->bmap, end, *first);
    return count_between(t->rb->bmap, *first, end);
}

/* The next pages before those sent, of which some are not zero. */
static uint64_t go_further(Look *look, const struct ballast_course *c,
                           Far *far, uint64_t *first)
{
    int64_t began = get_clock();
    uint64_t nr = 0, end;
    int looks;

    for (looks = 0; !nr && looks < FAR_LOOKS; looks++) {
        end = far->page;
        *first = ballast_course_far(c, far->t->before,
                                    far->t->before + far->t->pages,
                                    far->t->before + end) - far->t->before;
        if (*first == end ||
            !look_for_zeros(look, far->t, *first, end - *first)) {
            break;
        }
        far->page = *first;
        nr = count_dirty(far->t, first, end);
    }
    free(look->runs.run);
    QEMU_LOCK_GUARD(&absent.count_lock);
    absent.s.zero_pages += look->left_out_pages;
    absent.s.scan_ns += get_clock() - began;
    return nr;
}

/* Zeros are left out there, so only where they are elsewhere. */
static bool may_go_far(Look *look)
{
    return may_look_ahead(look) && sending_shows() && !migrate_xbzrle() &&
           !migrate_postcopy_ram() &&
           !migration_rate_exceeded(migrate_get_current()->to_dst_file);
}

uint64_t ballast_absent_far(void)
{
    struct ballast_course c;
    Far *far = &absent.far;
    uint64_t first, nr;
    Look look = {};
    Tracked *t;

    if (!may_go_far(&look) || !begin_course(&c)) {
        return 0;
    }
    RCU_READ_LOCK_GUARD();
    t = find_hinted(&c);
    if (t && far->t != t) {
        *far = (Far) { .t = t, .page = is_last(t) ? t->pages : 0 };
    }
    nr = t ? go_further(&look, &c, far, &first) : 0;
    if (!nr || !ballast_turn_from(t->rb, first)) {
        return 0;
    }
    trace_ballast_far(t->rb->idstr, first, nr);
    return nr;
}

/* Preparing ----------------------------------------------------------- */

typedef struct Barrier {
    QemuSemaphore passed;
    int refs;
} Barrier;

static void barrier_unref(Barrier *b)
{
    if (qatomic_fetch_dec(&b->refs) == 1) {
        qemu_sem_destroy(&b->passed);
        g_free(b);
    }
}

static void pass(CPUState *cpu, run_on_cpu_data data)
{
    Barrier *b = data.host_ptr;

    qemu_sem_post(&b->passed);
    barrier_unref(b);
}

/*
 * Under TCG a store may have looked up its TLB entry before that was reset,
 * and write after it: wait until each vCPU has left the code that it is in.
 */
static bool stores_are_done(void)
{
    Barrier *b = g_new0(Barrier, 1);
    int waits = 0;
    bool ok = true;
    CPUState *cpu;

    qemu_sem_init(&b->passed, 0);
    b->refs = 1;
    WITH_RCU_READ_LOCK_GUARD() {
        CPU_FOREACH(cpu) {
            qatomic_inc(&b->refs);
            async_run_on_cpu(cpu, pass, RUN_ON_CPU_HOST_PTR(b));
            waits++;
        }
    }
    while (ok && waits--) {
        ok = qemu_sem_timedwait(&b->passed, VCPU_TIMEOUT_MS) == 0;
    }
    barrier_unref(b);
    return ok;
}

static bool arm(const Look *look)
{
    int64_t began = get_clock();
    bool ok = true;

    if (!look->gen.armed) {
        ballast_arm();
    }
    if (tcg_enabled()) {
        ok = stores_are_done();
    }
    QEMU_LOCK_GUARD(&absent.count_lock);
    absent.s.arm_ns += get_clock() - began;
    return ok;
}

/* Is a page dirty that was left out so far?  Generation held. */
static bool any_to_do(void)
{
    guint i;

    RCU_READ_LOCK_GUARD();
    for (i = 0; absent.any_left_out && i < absent.blocks->len; i++) {
        Tracked *t = g_ptr_array_index(absent.blocks, i);

        if (still_there(t) &&
            bitmap_intersects(t->left_out, t->rb->bmap, t->pages)) {
            return true;
        }
    }
    return false;
}

/* Is there something to look at, for the first time in this generation? */
static bool take_turn(Look *look)
{
    bool mine;

    look->gen = ballast_generation_hold();
    mine = absent.used && look->gen.open && look->gen.number != absent.looked;
    if (mine) {
        if (look->gen.number != absent.looked + 1 ||
            (sending_shows() && ballast_pages_sent() != absent.sent_at_begin)) {
            forget();
        }
        absent.looked = look->gen.number;
        mine = look->gen.number == FIRST ? absent.blocks->len : any_to_do();
    }
    ballast_generation_release();
    return mine;
}

/*
 * While a scan lasts nothing is sent, and the destination has nothing to do
 * at first.  So it is cut into pieces, where each turn of QEMU's ends within
 * what was scanned.  Not where QEMU waits for hints, or for a low limit,
 * anyway: there the operator sees at once how much is left.
 */
static bool may_scan_late(const Look *look)
{
    return look->gen.number == FIRST && !look->gen.armed && sending_shows() &&
           !migrate_postcopy_ram() && ballast_turns_are_ours();
}

/* The first look in a generation. */
static void begin_round(Look *look)
{
    bool first = look->gen.number == FIRST, late = may_scan_late(look), ok;
    Place begin = {};

    if (first) {
        ballast_stream_widen();
    }
    ok = arm(look) &&
         (late || look_at_all(look, first ? &absent.ahead.scan : &begin));
    if (!ok) {
        ballast_generation_hold();
        forget();
        ballast_generation_release();
    }
    count_scan(look, !late || !ok);
    free(look->runs.run);
    absent.ahead.on = ok;
}

/* While hints are waited for, each turn is followed by waiting once more. */
static uint64_t longest_turn(void)
{
    return ballast_may_wait() ? AHEAD_PAGES : TURN_PAGES;
}

/*
 * Of what is ready some pages are zeros that were not found, which QEMU's
 * limit does not count: so a turn may end later, but not where the scan does.
 */
static uint64_t safe_pages(const Ahead *a)
{
    return is_behind_all(&a->scan) ? a->ready : a->ready - a->ready / 2;
}

/* QEMU's next turn: after so many pages we want to be asked; 0: as always. */
static uint64_t look_further(uint64_t most_pages)
{
    bool ending = is_ending(), more;
    Look look = {};
    uint64_t pages;

    if (!may_look_ahead(&look)) {
        return most_pages;
    }
    pages = most_pages ? most_pages : longest_turn();
    more = look_ahead(&look, ending ? ALL_PAGES :
                      most_pages ? most_pages : AHEAD_PAGES);
    /* The look itself may have left out enough for that. */
    if (more && !ending && is_ending()) {
        look.left_out_pages = 0;
        more = look_ahead(&look, ALL_PAGES);
    }
    free(look.runs.run);
    return more && absent.ahead.ready ?
           MIN(pages, safe_pages(&absent.ahead)) : most_pages;
}

void ballast_about_to_send(void)
{
    Look look = {};
    uint64_t pages;
    bool far;

    if (!ballast_hints_installed() || !migration_thread_is_self()) {
        return;
    }
    ballast_turn_over();
    ballast_hints_ask();
    if (take_turn(&look)) {
        begin_round(&look);
    }
    pages = ballast_wait_for_hints(&far);
    if (!far) {
        pages = look_further(pages);
    }
    if (pages) {
        ballast_turn_limit(pages);
    }
    ballast_wait_turn();
}

static void __attribute__((constructor)) init_lock(void)
{
    qemu_mutex_init(&absent.count_lock);
}

static void about_to_send(void *opaque, uint64_t *must_precopy,
                          uint64_t *can_postcopy)
{
    ballast_about_to_send();
}

void ballast_absent_install(void)
{
    static const SaveVMHandlers hooks = {
        .state_pending_estimate = about_to_send,
        .state_pending_exact = about_to_send,
    };

    absent.blocks = g_ptr_array_new_with_free_func(tracked_free);
    absent.noted = g_array_new(false, false, sizeof(Noted));
    if (!ballast_in_qemu) {
        register_savevm_live("ballast-absent", 0, 1, &hooks, NULL);
    }
}
