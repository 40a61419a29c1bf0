/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Two participants, one operation each, in every order of their steps that a
 * bounded search reaches, and with one of them killed at a step.
 *
 * The search is stateless: a schedule is the list of its deviations from
 * "run until you end or must wait" (schedule.h).  Every single deviation is
 * tried, and of pairs of them as many as the budget allows, spread evenly;
 * with BALLAST_FULL=1 all pairs, and triples.
 *
 * After each schedule: the totals agree with the slots, the identity holds,
 * check finds nothing, what the operations returned and left behind is what
 * one of the two serial orders returns and leaves (with a death: one of the
 * orders with the death before or after the operation), no refusal named a
 * holder with bytes that it never had, and everything comes back at the end.
 * When the ledger was replaced by force: the old one is retired and nobody is
 * in it, and who lives is in the one that the path names.
 *
 * Built with a planted bug (BALLAST_PLANTED names it) it is a control: some
 * schedule must notice.
 */
#include <fcntl.h>
#include <stdarg.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "schedule.h"

#define OUTCOME_BYTES   1024
#define DEAD_SLOT       1
#define MAX_ALLOWED     64
#define MAX_HOLDINGS    64

/* Long, so that a name is more than one word. */
#define NAME_A "participant-alpha"
#define NAME_B "participant-bravo"
#define NAME_DEAD "participant-that-died"

enum setup { JOINED, UNJOINED, CLOSED, BEQUEATHED, WAITING };

struct operation {
    const char *name;
    enum setup setup;
    int (*perform)(int actor);
    bool several;           /* changes: any order with the other's is allowed */
};

static const char *const names[] = { NAME_A, NAME_B };
static const char *path;
static struct ballast_ledger *handles[ACTORS];
static char bequests[ACTORS][96];
static char results[ACTORS][OUTCOME_BYTES];
static const struct operation *chosen[ACTORS];
static struct run last;
static unsigned long nr_schedules, nr_kills;

/* What participants held between operations: nobody may see anything else. */
struct holding {
    char name[BALLAST_NAME_BYTES];
    uint64_t reserved[3];
};

static struct holding holdings[MAX_HOLDINGS];
static size_t nr_holdings;
static bool learning;

/* Saying what happened ------------------------------------------------- */

static void say(char *out, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

static void say(char *out, const char *format, ...)
{
    size_t len = strlen(out);
    va_list args;

    va_start(args, format);
    vsnprintf(out + len, OUTCOME_BYTES - len, format, args);
    va_end(args);
}

static void complain(const char *format, ...)
    __attribute__((format(printf, 1, 2)));

static char complaint[3 * OUTCOME_BYTES];

static void complain(const char *format, ...)
{
    va_list args;

    if (!complaint[0]) {
        va_start(args, format);
        vsnprintf(complaint, sizeof(complaint), format, args);
        va_end(args);
    }
}

static unsigned gib(uint64_t bytes)
{
    return (unsigned)(bytes >> 30);
}

static bool was_held_so(const char *name, const uint64_t reserved[3])
{
    size_t i;

    for (i = 0; i < nr_holdings; i++) {
        if (strcmp(holdings[i].name, name) == 0 &&
            memcmp(holdings[i].reserved, reserved, 24) == 0) {
            return true;
        }
    }
    return false;
}

static void learn(const char *name, const uint64_t reserved[3])
{
    if (was_held_so(name, reserved)) {
        return;
    }
    if (nr_holdings == MAX_HOLDINGS) {
        abort();
    }
    snprintf(holdings[nr_holdings].name, BALLAST_NAME_BYTES, "%s", name);
    memcpy(holdings[nr_holdings++].reserved, reserved, 24);
}

static bool was_held(const struct ballast_holder *h, uint32_t node)
{
    size_t i;

    for (i = 0; i < nr_holdings; i++) {
        const uint64_t *r = holdings[i].reserved;

        if (strcmp(holdings[i].name, h->name) == 0 &&
            h->reserved_bytes == (node < 2 ? r[node] : r[0] + r[1] + r[2])) {
            return true;
        }
    }
    return false;
}

static void say_refusal(char *out, const struct ballast_refusal *why)
{
    uint32_t i;

    say(out, " reason=%d node=%d asked=%u available=%u missing=%u",
        (int)why->reason, (int)why->node, gib(why->asked_bytes),
        gib(why->available_bytes), gib(why->missing_bytes));
    /* Who waits is named with what it wants. */
    for (i = 0; i < why->nr_holders && !learning &&
         why->reason != BALLAST_BEHIND_QUEUE; i++) {
        if (!was_held(&why->holders[i], why->node)) {
            complain("a holder that never was: %s with %" PRIu64,
                     why->holders[i].name, why->holders[i].reserved_bytes);
        }
    }
}

/* Operations ----------------------------------------------------------- */

static struct ballast_ledger *mine(int actor)
{
    return handles[actor];
}

static int claim_sets(int actor, const struct ballast_demand *set, size_t nr)
{
    struct ballast_refusal why;
    int err = ballast_claim(mine(actor), set, nr, &why);

    if (err) {
        say_refusal(results[actor], &why);
    }
    return err;
}

static int do_join(int actor)
{
    return ballast_join(mine(actor), names[actor], 0, NULL);
}

static int do_join_same(int actor)
{
    return ballast_join(mine(actor), "somebody-everybody-wants-to-be", 0,
                        NULL);
}

static int do_claim_up(int actor)
{
    const struct ballast_demand set = { .node = 0, .bytes = GIB(4) };

    return claim_sets(actor, &set, 1);
}

static int do_claim_down(int actor)
{
    const struct ballast_demand set = { .node = 0, .bytes = GIB(1) };

    return claim_sets(actor, &set, 1);
}

static int do_claim_set(int actor)
{
    const struct ballast_demand set[] = {
        { .node = 0, .bytes = GIB(1) }, { .node = 1, .bytes = GIB(3) },
        { .node = ANY, .bytes = GIB(1) },
    };

    return claim_sets(actor, set, 3);
}

static int do_claim_zero(int actor)
{
    return claim_sets(actor, NULL, 0);
}

static int do_claim_refused(int actor)
{
    const struct ballast_demand set = { .node = ANY, .bytes = GIB(30) };

    return claim_sets(actor, &set, 1);
}

/* Twice in a row: a reader's copy is written again while it is read. */
static int do_claim_twice(int actor)
{
    int err = do_claim_up(actor);

    if (learning) {
        learn(names[actor], (uint64_t[3]) { GIB(4), 0, 0 });
    }
    return err ? err : do_claim_set(actor);
}

static int queue(int actor)
{
    const struct ballast_demand set = { .node = 0, .bytes = GIB(7) };

    return ballast_queue(mine(actor), &set, 1, BALLAST_WAIT_FOREVER, NULL);
}

/* While somebody else buries the dead, once is not enough to see it. */
static int do_poll(int actor)
{
    int err = ballast_queue_poll(mine(actor), NULL);

    return err == -EINPROGRESS ? ballast_queue_poll(mine(actor), NULL) : err;
}

static int do_cancel(int actor)
{
    return ballast_queue_cancel(mine(actor));
}

static int do_report(int actor)
{
    const struct ballast_usage set[] = {
        { .node = 0, .resident_bytes = GIB(2), .freeable_bytes = GIB(1) },
        { .node = 1, .resident_bytes = GIB(1) },
    };

    return ballast_report(mine(actor), set, 2);
}

static int do_leave(int actor)
{
    ballast_leave(mine(actor));
    return 0;
}

/* The slot is another's all of a sudden: the first actor gets it back. */
static int do_rejoin(int actor)
{
    static const char *const others[] = {
        "another-one-than-alpha", "another-one-than-bravo",
    };
    int err;

    ballast_leave(mine(actor));
    err = ballast_join(mine(actor), others[actor], 0, NULL);
    if (learning) {
        learn(others[actor], (uint64_t[3]) { 0, 0, 0 });
    }
    return err ? err : do_claim_set(actor);
}

static int do_own(int actor)
{
    struct ballast_own cells[3];
    int i, nr = ballast_own(mine(actor), cells, 3);

    for (i = 0; i < nr; i++) {
        say(results[actor], " %d:%u/%u", (int)cells[i].node,
            gib(cells[i].claimed_bytes), gib(cells[i].resident_bytes));
    }
    return nr;
}

static int do_stand(int actor)
{
    const struct ballast_demand set = { .node = 1, .bytes = GIB(2) };
    struct ballast_refusal why;
    int err = ballast_stand(mine(actor), "standing-claim-new", &set, 1, 0,
                            &why);

    if (err) {
        say_refusal(results[actor], &why);
    }
    return err;
}

static int do_stand_again(int actor)
{
    const struct ballast_demand set = {
        .node = 1, .bytes = GIB((unsigned)(2 + actor))
    };

    return ballast_stand(mine(actor), "standing-claim-old", &set, 1, 0, NULL);
}

static int do_release(int actor)
{
    return ballast_release(mine(actor), "standing-claim-old", NULL);
}

/* How many is not told: whoever is killed may have swept before. */
static int do_sweep(int actor)
{
    int freed = ballast_sweep(mine(actor));

    return freed == 1 ? 0 : freed;
}

static int do_status(int actor)
{
    struct ballast_status *st;
    int err = ballast_status_get(mine(actor), &st);
    size_t i;

    if (err) {
        return err;
    }
    for (i = 0; i < st->nr_cells; i++) {
        const struct ballast_cell *c = &st->cells[i];

        say(results[actor], " %d/%u/%u", (int)(c->free_bytes >> 30),
            gib(c->freeable_bytes), gib(c->owned_bytes));
        if (c->free_bytes + (int64_t)c->freeable_bytes +
            (int64_t)c->owned_bytes != (int64_t)c->capacity_bytes) {
            complain("a status whose identity does not hold");
        }
    }
    say(results[actor], " %zu participants", st->nr_participants);
    ballast_status_free(st);
    return 0;
}

static void tell(void *opaque, enum ballast_severity severity,
                 const char *text)
{
    if (severity > BALLAST_NOTE) {
        say(opaque, " %s", text);
    }
}

static int do_check(int actor)
{
    return ballast_check(mine(actor), BALLAST_CHECK_REPAIR, tell,
                         results[actor]);
}

static int do_adopt(int actor)
{
    struct ballast_ledger *heir;
    int err = ballast_adopt(bequests[actor], &heir, NULL);

    if (!err) {
        free(handles[actor]);
        handles[actor] = heir;
    }
    return err;
}

static int do_open(int actor)
{
    return ballast_ledger_open(path, &handles[actor], NULL);
}

static int do_open_join(int actor)
{
    int err = do_open(actor);

    if (!err) {
        err = do_join(actor);
    }
    if (learning) {
        learn(names[actor], (uint64_t[3]) { 0, 0, 0 });
    }
    return err ? err : do_claim_up(actor);
}

static void config_pristine(struct ballast_config *config)
{
    config_static(config, 2, GIB(8));
    config->nr_classes = 1;
    config->nr_slots = 6;
}

static int do_replace(int actor)
{
    struct ballast_config config;

    (void)actor;
    config_pristine(&config);
    return ballast_ledger_create(path, &config, BALLAST_CREATE_FORCE, NULL);
}

static int do_replace_join(int actor)
{
    int err = do_replace(actor);

    return err ? err : do_open_join(actor);
}

static const struct operation operations[] = {
    { "join", UNJOINED, do_join, false },
    { "join by one name", UNJOINED, do_join_same, false },
    { "claim more", JOINED, do_claim_up, false },
    { "claim less", JOINED, do_claim_down, false },
    { "claim a set", JOINED, do_claim_set, false },
    { "claim and claim again", JOINED, do_claim_twice, true },
    { "leave and join as another", JOINED, do_rejoin, true },
    { "claim nothing", JOINED, do_claim_zero, false },
    { "claim too much", JOINED, do_claim_refused, false },
    { "queue", JOINED, queue, false },
    { "poll", WAITING, do_poll, false },
    { "cancel", WAITING, do_cancel, false },
    { "report", JOINED, do_report, false },
    { "leave", JOINED, do_leave, false },
    { "own", JOINED, do_own, false },
    { "adopt", BEQUEATHED, do_adopt, false },
    { "stand", UNJOINED, do_stand, false },
    { "stand again", UNJOINED, do_stand_again, false },
    { "release", UNJOINED, do_release, false },
    { "sweep", UNJOINED, do_sweep, false },
    { "status", UNJOINED, do_status, false },
    { "check and repair", UNJOINED, do_check, false },
    { "open", CLOSED, do_open, false },
};
#define NR_OPERATIONS (sizeof(operations) / sizeof(operations[0]))

/* After a reboot nobody has it open: both do, and the first resets it. */
static const struct operation after_boot[] = {
    { "open", CLOSED, do_open, false },
    { "open, join and claim", CLOSED, do_open_join, true },
};
static bool rebooted;

/* Against each of these, and against itself; nobody stands in the way. */
static const struct operation replacing[] = {
    { "replace by force", CLOSED, do_replace, false },
    { "replace by force, open, join and claim", CLOSED, do_replace_join,
      true },
    { "open", CLOSED, do_open, false },
    { "open, join and claim", CLOSED, do_open_join, true },
    { "join", UNJOINED, do_join, false },
    { "stand", UNJOINED, do_stand, false },
    { "adopt", BEQUEATHED, do_adopt, false },
    { "leave", JOINED, do_leave, false },
};
static bool replaced;

/* One schedule --------------------------------------------------------- */

static int dead_fd;
static uint8_t *file_now;
static uint8_t *file_pristine;
static size_t file_bytes;

static void map_file(void)
{
    file_now = mmap(NULL, file_bytes, PROT_READ | PROT_WRITE, MAP_SHARED,
                    dead_fd, 0);
    if (file_now == MAP_FAILED) {
        abort();
    }
}

/* A ledger with a standing claim and a participant that has died. */
static void make_pristine(void)
{
    const struct ballast_demand stand = { .node = 1, .bytes = GIB(1) };
    struct ballast_ledger *l, *first;
    struct ballast_config config;
    struct stat st;

    config_pristine(&config);
    path = temp_path("schedule");
    unlink(path);
    if (ballast_ledger_create(path, &config, 0, NULL)) {
        abort();
    }
    schedule_reset();
    schedule_act_as(0);
    first = must_join(path, "who-leaves-at-once");
    l = must_join(path, NAME_DEAD);
    CLAIM1(l, 0, GIB(3), NULL);
    REPORT1(l, 0, GIB(1));
    if (!replaced) {
        ballast_stand(l, "standing-claim-old", &stand, 1, 0, NULL);
    }
    ballast_ledger_close(first);
    /* A pid that nobody has; its slot is neither the first nor the last. */
    slot_at(l, DEAD_SLOT)->pid -= 100;
    schedule_act_as(OBSERVER);
    schedule_reset();
    free(l);
    dead_fd = open(path, O_RDWR);
    if (dead_fd < 0 || fstat(dead_fd, &st)) {
        abort();
    }
    file_bytes = (size_t)st.st_size;
    map_file();
    file_pristine = malloc(file_bytes);
    if (!file_pristine) {
        abort();
    }
    memcpy(file_pristine, file_now, file_bytes);
}

static bool is_at_path(int fd)
{
    struct stat by_path, by_fd;

    return stat(path, &by_path) == 0 && fstat(fd, &by_fd) == 0 &&
           by_path.st_ino == by_fd.st_ino;
}

/* As make_pristine() left it: the same file, unless it was replaced. */
static void restore_file(void)
{
    if (!is_at_path(dead_fd)) {
        munmap(file_now, file_bytes);
        close(dead_fd);
        unlink(path);
        dead_fd = open(path, O_RDWR | O_CREAT, 0600);
        if (dead_fd < 0 || ftruncate(dead_fd, (off_t)file_bytes)) {
            abort();
        }
        map_file();
    }
    memcpy(file_now, file_pristine, file_bytes);
}

static void set_up(int actor)
{
    struct ballast_ledger *l;

    handles[actor] = NULL;
    results[actor][0] = '\0';
    if (chosen[actor]->setup == CLOSED) {
        return;
    }
    schedule_act_as(actor);
    l = handles[actor] = must_open(path);
    if (chosen[actor]->setup != UNJOINED) {
        ballast_join(l, names[actor], 0, NULL);
        CLAIM1(l, 0, GIB(2), NULL);
        REPORT1(l, 0, GIB(1));
    }
    if (chosen[actor]->setup == BEQUEATHED) {
        ballast_bequeath(l, bequests[actor], sizeof(bequests[actor]));
    }
    schedule_act_as(OBSERVER);
}

static void body(int actor)
{
    int ret = chosen[actor]->perform(actor);

    say(results[actor], " = %d", ret);
}

static int compare_lines(const void *a, const void *b)
{
    return strcmp(a, b);
}

/* All slots in use, by name: which slot is whose does not matter. */
static void describe(struct ballast_ledger *l, int except, char *out)
{
    char line[16][160], name[BALLAST_NAME_BYTES];
    uint32_t nr, i, waiting = 0;
    size_t n = 0;
    struct view v;

    for (nr = 0; nr < slots_high(l); nr++) {
        const struct file_slot *s = slot_at(l, nr);
        uint64_t reserved[3];
        int len;

        slot_name(s, name);
        if (!slot_in_use(s)) {
            continue;
        }
        slot_view(l, s, &v);
        waiting += queue_waits(s);
        len = snprintf(line[n], sizeof(line[n]), "%s %u%s", name, s->state,
                       queue_waits(s) ? " waits" : "");
        for (i = 0; i < 3; i++) {
            len += snprintf(line[n] + len, sizeof(line[n]) - (size_t)len,
                            " %u/%u/%u", gib(v.col[COL_CLAIMED][i]),
                            gib(v.col[COL_RESIDENT][i]),
                            gib(v.col[COL_FREEABLE][i]));
            reserved[i] = v.outstanding[i] + v.col[COL_RESIDENT][i];
        }
        if (learning) {
            learn(name, reserved);
        } else if (!was_held_so(name, reserved)) {
            complain("%s holds what it never claimed", name);
        }
        n += except < 0 || s->pid != 50000000 + except;
    }
    if (waiting != l->header->nr_waiters) {
        complain("%u wait and %u are counted", waiting, l->header->nr_waiters);
    }
    qsort(line, n, sizeof(line[0]), compare_lines);
    for (i = 0; i < n; i++) {
        say(out, "; %s", line[i]);
    }
}

static void learn_now(void)
{
    char nobody_reads[OUTCOME_BYTES] = "";
    struct ballast_ledger *l = must_open(path);

    describe(l, -1, nobody_reads);
    ballast_ledger_close(l);
}

static void finding(void *opaque, enum ballast_severity severity,
                    const char *text)
{
    if (severity > BALLAST_NOTE) {
        complain("%s: %s", (const char *)opaque, text);
    }
}

static void examine_end(struct ballast_ledger *l)
{
    uint32_t nr, i;
    int k;

    for (k = 0; k < ACTORS; k++) {
        schedule_end(k);
    }
    ballast_sweep(l);
    ballast_release(l, "standing-claim-old", NULL);
    ballast_release(l, "standing-claim-new", NULL);
    for (nr = 0; nr < l->geo.nr_slots; nr++) {
        if (slot_at(l, nr)->state != SLOT_FREE) {
            complain("slot %u is in use at the end", nr);
        }
    }
    for (i = 0; i < l->geo.nr_cells; i++) {
        if (l->totals[i].claimed_bytes || l->totals[i].resident_bytes ||
            l->totals[i].outstanding_bytes || l->totals[i].freeable_bytes) {
            complain("not all capacity is back");
        }
    }
}

/* The file that was at the path, if it no longer is. */
static void examine_old(void)
{
    const struct file_header *h = (const void *)file_now;
    uint32_t nr;

    if (!h->retired) {
        complain("a ledger was replaced, and not retired");
    }
    for (nr = 0; nr < h->nr_slots; nr++) {
        if (slot_in_use((const void *)(file_now + h->slots_offset +
                                       (size_t)nr * h->slot_bytes))) {
            complain("somebody is in a ledger that was replaced");
        }
    }
}

/* Who was killed between two steps left a ledger that only force replaces. */
static void examine_replaced(void)
{
    struct file_header h;
    int k, fd = open(path, O_RDONLY);

    if (!is_at_path(dead_fd)) {
        examine_old();
    }
    if (pread(fd, &h, sizeof(h), 0) != sizeof(h)) {
        abort();
    }
    close(fd);
    if (h.retired && (last.killed < 0 || do_replace(OBSERVER))) {
        complain("a retired ledger was left, or cannot be replaced");
    }
    for (k = 0; k < ACTORS; k++) {
        if (k != last.killed && handles[k] && handles[k]->slot != SLOT_NONE &&
            !is_at_path(handles[k]->fd)) {
            complain("%s is in a ledger that was replaced", names[k]);
        }
    }
}

/* What this schedule came to, in @outcome; complains of what must not be. */
static void examine(char *outcome)
{
    struct ballast_ledger *l;
    int k, err;

    if (last.killed >= 0) {
        schedule_end(last.killed);
    }
    if (replaced) {
        examine_replaced();
    }
    err = ballast_ledger_open(path, &l, NULL);
    if (err) {
        complain("the ledger cannot be opened: %d", err);
        return;
    }
    err = ledger_lock(l);
    if (err) {
        complain("the ledger cannot be locked: %d", err);
        ballast_ledger_close(l);
        return;
    }
    if (!totals_agree(l)) {
        complain("the totals do not agree with the slots");
    }
    outcome[0] = '\0';
    describe(l, -1, outcome);
    ledger_unlock(l);
    ballast_sweep(l);
    outcome[0] = '\0';
    for (k = 0; k < ACTORS; k++) {
        if (k != last.killed) {
            say(outcome, "%d:%s; ", k, results[k]);
        }
    }
    describe(l, last.killed, outcome);
    if (!identity_holds(l)) {
        complain("the identity does not hold");
    }
    ballast_check(l, 0, finding, (void *)(uintptr_t)"check");
    examine_end(l);
    ballast_ledger_close(l);
}

static void perform(const struct plan *plan, char *outcome)
{
    actor_fn *bodies[ACTORS] = { body, body };
    int k;

    schedule_reset();
    restore_file();
    complaint[0] = '\0';
    /* Joining sweeps, and the dead one is for the operations to find. */
    slot_lock_byte(dead_fd, DEAD_SLOT, F_WRLCK);
    for (k = 0; k < ACTORS; k++) {
        set_up(k);
    }
    for (k = 0; k < ACTORS; k++) {
        if (chosen[k]->setup == WAITING) {
            schedule_act_as(k);
            queue(k);
            schedule_act_as(OBSERVER);
        }
    }
    slot_lock_byte(dead_fd, DEAD_SLOT, F_UNLCK);
    if (rebooted) {
        ((struct file_header *)(void *)file_now)->boot_id[3] ^= 1;
    }
    if (learning) {
        learn_now();
    }
    schedule_run(plan, bodies, &last);
    nr_schedules++;
    nr_kills += last.killed >= 0;
    if (last.trouble) {
        complain("%s", last.trouble);
    }
    examine(outcome);
    schedule_reset();
    for (k = 0; k < ACTORS; k++) {
        free(handles[k]);
    }
}

/* What is allowed ------------------------------------------------------ */

static char allowed[MAX_ALLOWED][OUTCOME_BYTES];
static size_t nr_allowed;

static bool is_allowed(const char *outcome)
{
    size_t i;

    for (i = 0; i < nr_allowed; i++) {
        if (strcmp(allowed[i], outcome) == 0) {
            return true;
        }
    }
    return false;
}

static void allow(const struct plan *plan)
{
    char outcome[OUTCOME_BYTES];

    perform(plan, outcome);
    if (!is_allowed(outcome)) {
        if (nr_allowed == MAX_ALLOWED) {
            abort();
        }
        strcpy(allowed[nr_allowed++], outcome);
    }
    if (complaint[0]) {
        printf("# serial: %s\n", complaint);
        OK(false, "a serial order, without a death in between");
    }
}

/* Serial, and with a death just before or just after each operation. */
static void learn_allowed(int first)
{
    struct plan plan = { .first = first };
    uint32_t ends[2], k;
    int kind;

    plan.nr = 0;
    allow(&plan);
    for (k = 0, ends[0] = 0; k < last.steps; k++) {
        if (last.can[k] == CAN_KILL && !ends[0]) {
            ends[0] = k;        /* the first one's end */
        }
    }
    ends[1] = last.steps - 1;
    plan.nr = 1;
    for (kind = KILL_MUTEX_FREE; kind <= KILL_GONE; kind++) {
        const uint32_t at[] = { 0, ends[0], ends[0] + 1, ends[1] };

        for (k = 0; k < 4; k++) {
            plan.at[0] = (struct deviation) {
                at[k], (enum deviation_kind)kind
            };
            allow(&plan);
        }
    }
}

/* The search ----------------------------------------------------------- */

/* How many schedules of two and of three deviations, about, per pair. */
static unsigned long budgets[MAX_DEVIATIONS];
static uint32_t strides[MAX_DEVIATIONS];

static void print_plan(const struct plan *plan)
{
    static const char *const kinds[] = {
        "preempted", "killed, mutex free", "killed, files closed",
        "killed, gone",
    };
    uint32_t i;

    printf("# %s with %s, the %s first", chosen[0]->name, chosen[1]->name,
           plan->first ? "second" : "first");
    for (i = 0; i < plan->nr; i++) {
        printf("; at step %u %s", plan->at[i].step, kinds[plan->at[i].kind]);
    }
    printf("\n");
}

static bool try(const struct plan *plan)
{
    char outcome[OUTCOME_BYTES];
    size_t i;

    perform(plan, outcome);
    if (!complaint[0] && !chosen[0]->several && !chosen[1]->several &&
        !is_allowed(outcome)) {
        complain("an outcome of no serial order: %s", outcome);
    }
    if (!complaint[0]) {
        return true;
    }
    if (!tap_failures) {
        print_plan(plan);
        printf("# %s\n", complaint);
        for (i = 0; i < nr_allowed; i++) {
            printf("# allowed: %s\n", allowed[i]);
        }
    }
    tap_failures++;
    return false;
}

/* One more deviation after those of @plan, whose run is @of. */
static void extend(const struct plan *plan, const struct run *of)
{
    uint32_t from = plan->nr ? plan->at[plan->nr - 1].step + 1 : 0;
    struct run *here = malloc(sizeof(*here));
    static uint32_t turn[MAX_DEVIATIONS];
    struct plan next = *plan;
    uint32_t at;
    int kind;

    if (!here) {
        abort();
    }
    next.nr++;
    for (at = from; at < of->steps && !tap_failures; at++) {
        for (kind = PREEMPT; kind <= KILL_GONE && !tap_failures; kind++) {
            if (!(of->can[at] & (kind ? CAN_KILL : CAN_PREEMPT)) ||
                turn[plan->nr]++ % strides[plan->nr]) {
                continue;
            }
            next.at[plan->nr] = (struct deviation) {
                at, (enum deviation_kind)kind
            };
            if (try(&next) && !kind && !last.useless && strides[next.nr]) {
                *here = last;
                extend(&next, here);
            }
        }
    }
    free(here);
}

/* All single deviations; of more of them, every so manieth. */
static void choose_strides(const struct run *serial)
{
    unsigned long preemptions = 0, kills = 0, estimate;
    uint32_t i;

    for (i = 0; i < serial->steps; i++) {
        preemptions += (serial->can[i] & CAN_PREEMPT) != 0;
        kills += serial->can[i] & CAN_KILL ? 3 : 0;
    }
    memset(strides, 0, sizeof(strides));
    strides[0] = 1;
    estimate = preemptions + kills;
    for (i = 1; i < MAX_DEVIATIONS && budgets[i]; i++) {
        estimate = estimate * (preemptions + kills) / (i + 1);
        strides[i] = (uint32_t)(estimate / budgets[i]) | 1;
        estimate /= strides[i];
    }
}

static void explore(const struct operation *a, const struct operation *b)
{
    struct run *serial = malloc(sizeof(*serial));
    struct plan plan = { .nr = 0 };

    if (!serial) {
        abort();
    }
    chosen[0] = a;
    chosen[1] = b;
    nr_allowed = nr_holdings = 0;
    learning = true;
    learn_allowed(0);
    learn_allowed(1);
    learning = false;
    for (plan.first = 0; plan.first < ACTORS && !tap_failures; plan.first++) {
        if (try(&plan)) {
            *serial = last;
            choose_strides(serial);
            extend(&plan, serial);
        }
    }
    free(serial);
}

/* In a child, which takes the memory of killed operations with it. */
struct counts {
    unsigned long schedules, kills;
    int failures;
};

static void explore_row(const struct operation *a, const struct operation *set,
                        size_t nr, struct counts *counts)
{
    size_t i;
    pid_t pid;

    *counts = (struct counts) { .failures = 1 };
    pid = fork();
    if (pid == 0) {
        tap_failures = 0;
        make_pristine();
        for (i = 0; i < nr && !tap_failures; i++) {
            explore(a, &set[i]);
        }
        counts->schedules = nr_schedules;
        counts->kills = nr_kills;
        counts->failures = tap_failures;
        fflush(stdout);
        _exit(0);
    }
    waitpid(pid, NULL, 0);
}

#ifdef BALLAST_PLANTED
static const bool control = true;
#else
static const bool control = false;
#endif

static struct counts *counts;
static struct counts sum;

/* Pairs are explored from either side, so each is taken once. */
static void explore_rows(const struct operation *set, size_t rows, size_t nr)
{
    size_t i;

    for (i = 0; i < rows && !(control && sum.failures); i++) {
        explore_row(&set[i], set + i, nr - i, counts);
        if (!control) {
            OK(!counts->failures, "%s: %lu schedules, %lu with a death",
               set[i].name, counts->schedules, counts->kills);
        }
        sum.schedules += counts->schedules;
        sum.kills += counts->kills;
        sum.failures += counts->failures;
    }
}

static void explore_all(const struct operation *set, size_t nr)
{
    explore_rows(set, nr, nr);
}

int main(void)
{
    bool full = getenv("BALLAST_FULL") != NULL;

    temp_path("");
    budgets[1] = full ? 20 * 1000 : 100;
    budgets[2] = full ? 5 * 1000 : 0;
    counts = mmap(NULL, sizeof(*counts), PROT_READ | PROT_WRITE,
                  MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    explore_all(operations, NR_OPERATIONS);
    rebooted = true;
    explore_all(after_boot, sizeof(after_boot) / sizeof(after_boot[0]));
    rebooted = false;
    replaced = true;
    explore_rows(replacing, 2, sizeof(replacing) / sizeof(replacing[0]));
    if (control) {
        OK(sum.failures, "control: the planted bug is noticed, after %lu "
           "schedules", sum.schedules);
    }
    printf("# %lu schedules, %lu with a death\n", sum.schedules, sum.kills);
    return tap_done();
}
