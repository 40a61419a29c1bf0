/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What claims do, in one process.
 *
 * Xen's claim tests, in spirit, and where they are: creation leaves nothing
 * outstanding, a claim shows globally, populating redeems as much, destroying
 * releases the rest: test_simple (killed: test-life.c).  Replaced after a
 * partial allocation: test_replace.  Moved between nodes: test_move.  Zero
 * resets: test_simple, and with everything else wrong: test_zero_always.
 * Absent node, too many entries, absurd sizes, padding, count without a list:
 * test_malformed.  More than is free, on host or node: test_replace,
 * test_host_wide.  Another's claim refuses mine: test_mine, test_host_wide.
 * Mine lets me allocate all of it: test_mine.  Cancel with a maximum below
 * the total: test_members.  An offlined page recalls a claim only when nothing
 * unclaimed is left: test_lost_pages, and in test-kernel.c.  Claims of dying
 * domains leaked: test-life.c.
 */
#define IDENTITY_ALWAYS
#include "helper.h"

static struct ballast_refusal why;

static void test_simple(void)
{
    const char *path = new_ledger("simple", 2, GIB(8));
    struct ballast_ledger *l = must_join(path, "vm");
    struct ballast_own own[8];

    OK(cell_on(l, ANY).outstanding_bytes == 0, "joining claims nothing");
    OK(CLAIM1(l, 0, GIB(4), &why) == 0, "4 GiB are granted");
    OK(cell_on(l, 0).outstanding_bytes == GIB(4) && free_on(l, 0) == GIB(4) &&
       free_on(l, 1) == GIB(8), "the claim shows on its node only");
    OK(REPORT1(l, 0, GIB(1)) == 0 &&
       cell_on(l, 0).outstanding_bytes == GIB(3) && free_on(l, 0) == GIB(4),
       "what is populated redeems as much, free stays");
    OK(REPORT1(l, 0, GIB(4)) == 0 && cell_on(l, 0).outstanding_bytes == 0,
       "all of it redeems all of it");
    OK(REPORT1(l, 0, GIB(5)) == 0 && free_on(l, 0) == GIB(3),
       "more than claimed comes out of free");
    OK(CLAIM1(l, 0, GIB(4), &why) == 0, "an equal claim never fails");
    OK(CLAIM1(l, 0, GIB(3), &why) == -EINVAL &&
       why.reason == BALLAST_BELOW_RESIDENT && why.limit_bytes == GIB(5),
       "a claim below what is resident is refused");
    OK(ballast_own(l, own, 8) == 1 && own[0].claimed_bytes == GIB(4),
       "a refused claim leaves the old one");
    OK(ballast_claim(l, NULL, 0, &why) == 0 && free_on(l, 0) == GIB(3) &&
       cell_on(l, 0).claimed_bytes == 0, "zero resets the claim");
    OK(identity_holds(l), "identity");
    ballast_leave(l);
    OK(free_on(l, 0) == GIB(8) && identity_holds(l),
       "leaving gives everything back");
    ballast_ledger_close(l);
}

static void test_replace(void)
{
    const char *path = new_ledger("replace", 2, GIB(8));
    struct ballast_ledger *l = must_join(path, "vm");
    const struct ballast_demand both[] = {
        { .node = 0, .bytes = GIB(2) }, { .node = 1, .bytes = GIB(3) },
        { .node = 0, .page_bytes = MIB(2), .bytes = GIB(1) },
    };
    struct ballast_own own[8];

    CLAIM1(l, 0, GIB(4), NULL);
    REPORT1(l, 0, GIB(1));
    OK(ballast_claim(l, both, 3, &why) == 0 && ballast_own(l, own, 8) == 3,
       "a set replaces a claim that is partly allocated");
    OK(free_on(l, 0) == GIB(6) && free_on(l, 1) == GIB(5) &&
       cell_on(l, 0).outstanding_bytes == GIB(1), "amounts are absolute");
    OK(CLAIM1(l, 1, GIB(10), &why) == -ENOMEM &&
       why.reason == BALLAST_SHORT_NODE && why.node == 1 &&
       why.missing_bytes == GIB(1) && ballast_own(l, own, 8) == 3,
       "all or nothing");
    OK(identity_holds(l), "identity");
    ballast_ledger_close(l);
}

static void test_move(void)
{
    const char *path = new_ledger("move", 2, GIB(8));
    struct ballast_ledger *l = must_join(path, "vm");
    struct ballast_ledger *o = must_join(path, "other");

    CLAIM1(l, 0, GIB(8), NULL);
    OK(CLAIM1(o, 0, MIB(1), &why) == -ENOMEM && CLAIM1(o, 1, MIB(1), &why) == 0
       && ballast_claim(o, NULL, 0, &why) == 0, "a claim blocks its node");
    CLAIM1(l, 1, GIB(8), NULL);
    OK(CLAIM1(o, 1, MIB(1), &why) == -ENOMEM && CLAIM1(o, 0, MIB(1), &why) == 0
       && ballast_claim(o, NULL, 0, &why) == 0, "moved, it blocks the other");
    ballast_claim(l, NULL, 0, NULL);
    OK(CLAIM1(o, 1, GIB(8), &why) == 0 && CLAIM1(o, 0, GIB(8), &why) == 0,
       "gone, it blocks neither");
    ballast_ledger_close(l);
    ballast_ledger_close(o);
}

static void test_host_wide(void)
{
    const char *path = new_ledger("host", 2, GIB(8));
    struct ballast_ledger *l = must_join(path, "vm");
    struct ballast_ledger *o = must_join(path, "other");
    const struct ballast_usage spread[] = {
        { .node = 0, .resident_bytes = GIB(5) },
        { .node = 1, .resident_bytes = GIB(5) },
    };

    OK(CLAIM1(l, ANY, GIB(17), &why) == -ENOMEM &&
       why.reason == BALLAST_SHORT_HOST && why.missing_bytes == GIB(1) &&
       why.limit_bytes == GIB(16), "more than the host has");
    OK(CLAIM1(l, ANY, GIB(10), &why) == 0 && free_on(l, ANY) == GIB(6) &&
       free_on(l, 0) == GIB(8), "host-wide: free on the host falls");
    OK(CLAIM1(o, 0, GIB(7), &why) == -ENOMEM &&
       why.reason == BALLAST_SHORT_HOST && why.nr_holders == 1 &&
       why.holders[0].reserved_bytes == GIB(10),
       "another's host-wide claim refuses mine on a node");
    OK(CLAIM1(o, 0, GIB(6), &why) == 0, "what is left on the node is granted");
    ballast_claim(o, NULL, 0, NULL);
    OK(ballast_report(l, spread, 2) == 0 && free_on(l, ANY) == GIB(6) &&
       cell_on(l, ANY).outstanding_bytes == 0 && free_on(l, 1) == GIB(3),
       "pages on any node redeem a host-wide claim");
    OK(identity_holds(l), "identity");
    CLAIM1(o, 0, GIB(3), NULL);
    OK(CLAIM1(o, ANY, GIB(3), &why) == 0, "node to host-wide never fails");
    ballast_ledger_close(l);
    ballast_ledger_close(o);
}

static void test_redeem_order(void)
{
    const char *path = new_ledger("redeem", 3, GIB(8));
    struct ballast_ledger *l = must_join(path, "vm");
    const struct ballast_demand set[] = {
        { .node = 0, .bytes = GIB(2) }, { .node = 1, .bytes = GIB(2) },
        { .node = ANY, .bytes = GIB(2) },
    };

    ballast_claim(l, set, 3, NULL);
    REPORT1(l, 0, GIB(2));
    OK(cell_on(l, 0).outstanding_bytes == 0 &&
       cell_on(l, ANY).outstanding_bytes == GIB(4), "first the same node");
    REPORT1(l, 0, GIB(3));
    OK(cell_on(l, 1).outstanding_bytes == GIB(2) &&
       cell_on(l, ANY).outstanding_bytes == GIB(3), "then the host-wide");
    REPORT1(l, 0, GIB(5));
    OK(cell_on(l, 1).outstanding_bytes == GIB(1) &&
       cell_on(l, ANY).outstanding_bytes == GIB(1), "then other nodes");
    REPORT1(l, 0, GIB(7));
    OK(cell_on(l, ANY).outstanding_bytes == 0 && free_on(l, 0) == GIB(1) &&
       free_on(l, 1) == GIB(8), "never below nothing");
    REPORT1(l, 2, GIB(3));
    OK(cell_on(l, 0).outstanding_bytes == GIB(1) &&
       cell_on(l, 1).outstanding_bytes == GIB(2), "and back again");
    OK(identity_holds(l), "identity");
    ballast_ledger_close(l);
}

static void test_malformed(void)
{
    const char *path = new_ledger("malformed", 2, GIB(8));
    static struct ballast_demand many[BALLAST_MAX_DEMANDS + 1];
    struct ballast_ledger *l = must_join(path, "vm");
    struct ballast_demand d[2] = { { .node = 0, .bytes = GIB(1) },
                                   { .node = 0, .bytes = GIB(1) } };

    OK(CLAIM1(l, 2, GIB(1), &why) == -ENOENT &&
       why.reason == BALLAST_NO_SUCH_NODE && why.node == 2, "absent node");
    OK(CLAIM1(l, UINT32_MAX - 1, 0, &why) == -ENOENT, "absurd node");
    OK(ballast_claim(l, d, 2, &why) == -EINVAL &&
       why.reason == BALLAST_DUPLICATE_ENTRY, "the same entry twice");
    OK(ballast_claim(l, many, BALLAST_MAX_DEMANDS + 1, &why) == -E2BIG &&
       why.reason == BALLAST_TOO_MANY_ENTRIES, "too many entries");
    OK(ballast_claim(l, NULL, 1, &why) == -EFAULT, "a count without a list");
    OK(ballast_claim(l, d, SIZE_MAX, &why) == -E2BIG, "an absurd count");
    d[0].zero = 1;
    OK(ballast_claim(l, d, 1, &why) == -EINVAL &&
       why.reason == BALLAST_NOT_ZERO, "padding that is not zero");
    OK(CLAIM1(l, 0, 4097, &why) == -EINVAL &&
       why.reason == BALLAST_NOT_ALIGNED, "half a page");
    OK(CLAIM1(l, 0, UINT64_MAX - 4095, &why) == -EOVERFLOW &&
       why.reason == BALLAST_OVERFLOW, "an absurd size");
    OK(CLAIM1(l, 0, BALLAST_MAX_BYTES, &why) == -ENOMEM, "the largest size");
    d[0] = (struct ballast_demand){ .node = 0, .page_bytes = GIB(1) };
    OK(ballast_claim(l, d, 1, &why) == -ENOENT &&
       why.reason == BALLAST_NO_SUCH_CLASS, "absent page size");
    d[0] = (struct ballast_demand){ .node = 0, .bytes = BALLAST_MAX_BYTES };
    d[1] = (struct ballast_demand){ .node = 1, .bytes = BALLAST_MAX_BYTES };
    OK(ballast_claim(l, d, 2, &why) == -EOVERFLOW, "a sum that is too large");
    OK(cell_on(l, ANY).claimed_bytes == 0 && identity_holds(l),
       "nothing of all that left a trace");
    OK(CLAIM1(l, 0, GIB(1), NULL) == 0 && CLAIM1(l, 3, GIB(1), NULL) < 0,
       "a caller need not want to know why");
    ballast_ledger_close(l);
}

static void test_reports(void)
{
    const char *path = new_ledger("reports", 2, GIB(8));
    struct ballast_ledger *l = must_join(path, "vm");
    struct ballast_usage u = { .node = 0, .resident_bytes = GIB(1),
                               .freeable_bytes = GIB(2) };

    OK(ballast_report(l, &u, 1) == -EINVAL, "freeable above resident");
    u.freeable_bytes = MIB(512);
    OK(ballast_report(l, &u, 1) == 0 &&
       cell_on(l, 0).freeable_bytes == MIB(512) &&
       cell_on(l, 0).owned_bytes == MIB(512), "freeable is not owned");
    OK(identity_holds(l), "identity with freeable");
    u.node = ANY;
    OK(ballast_report(l, &u, 1) == -EINVAL, "pages are on some node");
    u.node = 7;
    OK(ballast_report(l, &u, 1) == -ENOENT, "absent node");
    u.node = 0;
    u.resident_bytes = BALLAST_MAX_BYTES + 1;
    OK(ballast_report(l, &u, 1) == -EOVERFLOW, "absurd amount");
    u.resident_bytes = GIB(9);
    u.freeable_bytes = 0;
    OK(ballast_report(l, &u, 1) == 0 && free_on(l, 0) == -(int64_t)GIB(1) &&
       identity_holds(l), "more than the capacity: free is negative");
    OK(ballast_claim(l, NULL, 0, &why) == 0, "zero succeeds even then");
    OK(ballast_check(l, 0, NULL, NULL) > 0, "check says so");
    OK(ballast_report(l, NULL, 0) == 0 && free_on(l, 0) == GIB(8),
       "an empty report replaces it");
    ballast_ledger_close(l);
}

/* U+0080 to U+009F, which a terminal may obey like ESC. */
static void test_c1_names(struct ballast_ledger *l)
{
    const struct ballast_demand d = { .node = 0, .bytes = GIB(1) };
    char name[] = "a\xc2\x80z";
    struct ballast_status *st;
    struct file_slot *s;
    int i, bad = 0;

    for (i = 0x80; i < 0xa0; i++) {
        name[2] = (char)i;
        bad += ballast_join(l, name, 0, &why) != -EINVAL ||
               why.reason != BALLAST_BAD_NAME;
        bad += ballast_stand(l, name, &d, 1, 0, &why) != -EINVAL ||
               why.reason != BALLAST_BAD_NAME;
        bad += ballast_stand_wait(l, name, &d, 1, 0, 0, &why) != -EINVAL;
        bad += ballast_release(l, name, &why) != -EINVAL ||
               why.reason != BALLAST_BAD_NAME;
    }
    OK(!bad, "control characters of two bytes");
    name[2] = (char)0xa0;
    OK(ballast_stand(l, name, &d, 1, 0, NULL) == 0, "the first that is none");
    s = slot_find_name(behind(l), name, SLOT_NONE);
    name[2] = (char)0x9b;
    memcpy(s->name, name, sizeof(name));
    OK(ballast_status_get(l, &st) == 0 &&
       strcmp(st->participants[0].name, "a??z") == 0,
       "one that is in the file is not shown");
    ballast_status_free(st);
    OK(ballast_release(l, "a??z", NULL) == 0, "and goes by what is shown");
}

static void test_members(void)
{
    const char *path = new_ledger("members", 1, GIB(8));
    struct ballast_ledger *l = must_open(path), *o = must_open(path);
    struct ballast_ledger *more[64];
    char name[65];
    uint64_t serial;
    uint32_t slot;
    int i, err;

    OK(CLAIM1(l, 0, GIB(1), &why) == -ENOTCONN &&
       why.reason == BALLAST_NOT_JOINED, "a claim before joining");
    OK(REPORT1(l, 0, GIB(1)) == -ENOTCONN, "a report before joining");
    OK(ballast_slot(l, &slot, &serial) == -ENOTCONN, "no slot before joining");
    OK(ballast_join(l, "", 0, &why) == -EINVAL &&
       why.reason == BALLAST_BAD_NAME, "an empty name");
    memset(name, 'x', 64);
    name[64] = '\0';
    OK(ballast_join(l, name, 0, &why) == -EINVAL, "a name too long");
    OK(ballast_join(l, "a\nb", 0, &why) == -EINVAL, "a control character");
    OK(ballast_join(l, "a\xff", 0, &why) == -EINVAL, "not UTF-8");
    test_c1_names(l);
    OK(ballast_join(l, "G\xc3\xa4st 1", GIB(2), &why) == 0, "a good name");
    OK(ballast_join(l, "again", 0, &why) == -EALREADY, "joining twice");
    OK(ballast_join(o, "G\xc3\xa4st 1", 0, &why) == -EADDRINUSE &&
       why.reason == BALLAST_NAME_IN_USE, "a name in use");
    OK(ballast_slot(l, &slot, &serial) == 0 && serial > 0, "slot is known");
    OK(CLAIM1(l, 0, GIB(3), &why) == -EDQUOT &&
       why.reason == BALLAST_ABOVE_MAXIMUM && why.limit_bytes == GIB(2),
       "above the maximum");
    OK(CLAIM1(l, 0, GIB(2), &why) == 0, "the maximum itself");
    slot_at(behind(l), slot)->max_bytes = GIB(1);
    OK(CLAIM1(l, 0, MIB(1536), &why) == 0 && ballast_claim(l, NULL, 0, &why)
       == 0, "less and nothing, with the maximum below the total");
    ballast_leave(l);
    for (i = 0; i < 64; i++) {
        more[i] = must_open(path);
        err = ballast_join(more[i], (sprintf(name, "m%d", i), name), 0, NULL);
        if (err) {
            break;
        }
    }
    OK(i == 64 && ballast_join(o, "m64", 0, &why) == -ENOSPC &&
       why.reason == BALLAST_NO_SLOT, "64 slots, and no more");
    ballast_ledger_close(more[7]);
    OK(ballast_join(o, NULL, 0, &why) == 0 &&
       ballast_slot(o, &slot, &serial) == 0 && slot == 7,
       "a slot that was left is used again");
    while (i--) {
        if (i != 7) {
            ballast_ledger_close(more[i]);
        }
    }
    ballast_ledger_close(l);
    ballast_ledger_close(o);
}

static void test_mine(void)
{
    const char *path = new_ledger("mine", 2, GIB(8));
    struct ballast_ledger *l = must_join(path, "vm");
    struct ballast_ledger *o = must_join(path, "other");
    uint64_t bytes;
    bool ok = true;

    CLAIM1(l, 0, GIB(6), NULL);
    OK(CLAIM1(o, 0, GIB(4), &why) == -ENOMEM && why.holders[0].slot == 0 &&
       strcmp(why.holders[0].name, "vm") == 0 && why.missing_bytes == GIB(2),
       "another's claim refuses mine, and is named");
    for (bytes = MIB(256); bytes <= GIB(6); bytes += MIB(256)) {
        ok &= REPORT1(l, 0, bytes) == 0 && free_on(l, 0) == GIB(2);
    }
    OK(ok && cell_on(l, 0).outstanding_bytes == 0,
       "mine lets me allocate all of it");
    REPORT1(l, 0, GIB(2));
    OK(CLAIM1(l, 0, GIB(2), &why) == 0 && CLAIM1(o, 0, GIB(6), &why) == 0,
       "inflate: report, lower, and another can have it");
    OK(CLAIM1(l, 0, GIB(3), &why) == -ENOMEM && why.missing_bytes == GIB(1),
       "deflate is refused while another has it");
    OK(identity_holds(l), "identity");
    ballast_ledger_close(o);
    OK(CLAIM1(l, 0, GIB(8), &why) == 0, "and granted when it is gone");
    ballast_ledger_close(l);
}

/* Whatever else is wrong: maximum, overfull node, dying, behind a queue. */
static void test_zero_always(void)
{
    const char *path = new_ledger("zero", 2, GIB(8));
    struct ballast_ledger *l = must_join(path, "vm");
    struct ballast_ledger *o = must_join(path, "other");
    const struct ballast_demand d = { .node = 0, .bytes = GIB(8) };

    CLAIM1(l, 0, GIB(4), NULL);
    REPORT1(l, 0, GIB(12));
    slot_at(behind(l), l->slot)->max_bytes = 4096;
    OK(ballast_queue(o, &d, 1, 1000, &why) == -EINPROGRESS, "one waits");
    slot_at(behind(l), l->slot)->state = SLOT_DYING;
    OK(CLAIM1(l, 0, GIB(4), &why) == 0, "an equal claim");
    OK(ballast_claim(l, NULL, 0, &why) == 0 && CLAIM1(l, 1, 0, &why) == 0,
       "zero, above the maximum, on an overfull node, dying, with a queue");
    REPORT1(l, 0, 0);
    slot_at(behind(l), l->slot)->state = SLOT_LIVE;
    OK(ballast_queue_poll(o, &why) == 0, "what it gave back is there");
    ballast_ledger_close(l);
    ballast_ledger_close(o);
}

/* Pages that nobody claimed go first; then claims are broken, one by one. */
static void test_lost_pages(void)
{
    const char *path = new_ledger("lost", 1, GIB(8));
    struct ballast_ledger *l = must_join(path, "vm");
    struct ballast_ledger *hog = must_join(path, "hog");
    uint64_t bytes;
    bool ok = true;

    CLAIM1(l, 0, GIB(4), NULL);
    for (bytes = GIB(1); bytes <= GIB(4); bytes += GIB(1)) {
        ok &= REPORT1(hog, 0, bytes) == 0 &&
              free_on(l, 0) == (int64_t)(GIB(4) - bytes) &&
              ballast_check(l, 0, NULL, NULL) == 0;
    }
    OK(ok, "what was free goes first, no promise is broken");
    REPORT1(hog, 0, GIB(5));
    OK(free_on(l, 0) == -(int64_t)GIB(1) &&
       cell_on(l, 0).outstanding_bytes == GIB(4) &&
       ballast_check(l, 0, NULL, NULL) > 0,
       "then free is negative, check says so, and the claim is not touched");
    ballast_ledger_close(l);
    ballast_ledger_close(hog);
}

static struct ballast_config overcommit_config(uint32_t on0, uint32_t on1)
{
    struct ballast_config config;

    config_static(&config, 2, GIB(8));
    config.overcommit_percent[0] = on0;
    config.overcommit_percent[1] = on1;
    return config;
}

static struct ballast_ledger *overcommitted(uint32_t on0, uint32_t on1)
{
    struct ballast_config config = overcommit_config(on0, on1);

    return must_join(make_ledger("over", &config), "vm");
}

static void test_overcommit(void)
{
    struct ballast_ledger *l = overcommitted(150, 0);
    const struct ballast_demand huge = {
        .node = 0, .page_bytes = MIB(2), .bytes = GIB(4) + MIB(2)
    };
    struct ballast_config config;

    OK(cell_on(l, 0).capacity_bytes == GIB(12) &&
       cell_on(l, 0).backed_bytes == GIB(8) &&
       cell_on(l, 0).overcommit_percent == 150 &&
       cell_on(l, 1).capacity_bytes == GIB(8) &&
       cell_on(l, 1).overcommit_percent == 100 &&
       cell_on(l, ANY).capacity_bytes == GIB(20) &&
       cell_on(l, ANY).backed_bytes == GIB(16), "a factor for one node");
    OK(CLAIM1(l, 0, GIB(12), &why) == 0 && free_on(l, 0) == 0,
       "as much can be promised");
    OK(CLAIM1(l, 0, GIB(12) + 4096, &why) == -ENOMEM &&
       why.limit_bytes == GIB(12), "not more");
    OK(CLAIM1(l, ANY, GIB(20), &why) == 0 && CLAIM1(l, ANY, GIB(20) + 4096,
       &why) == -ENOMEM && CLAIM1(l, 1, GIB(8) + 4096, &why) == -ENOMEM,
       "nor elsewhere");
    ballast_claim(l, NULL, 0, NULL);
    OK(ballast_claim(l, &huge, 1, &why) == -ENOMEM,
       "pools of huge pages are what they are");
    ballast_ledger_close(l);
    l = overcommitted(33, 1000);
    OK(cell_on(l, 0).capacity_bytes == GIB(8) / 100 * 33 / 4096 * 4096 +
       (GIB(8) % 100 * 33 / 100) / 4096 * 4096 &&
       cell_on(l, 0).capacity_bytes % 4096 == 0 &&
       cell_on(l, 1).capacity_bytes == GIB(80),
       "less than all, in whole pages, and ten times");
    ballast_ledger_close(l);
    config = overcommit_config(1001, 0);
    OK(ballast_ledger_create(temp_path("eleven"), &config, 0, &why) == -EINVAL,
       "not eleven times");
}

static void test_sparse(void)
{
    struct ballast_config config;
    struct ballast_ledger *l;
    uint32_t n;

    config_static(&config, 64, GIB(1));
    for (n = 0; n < 64; n++) {
        config.node_id[n] = n * 3 + 5;
    }
    config.nr_classes = 8;
    config.page_bytes[2] = GIB(1);
    for (n = 3; n < 8; n++) {
        config.page_bytes[n] = KIB(64) << (n - 3);
    }
    OK((l = must_join(make_ledger("sparse", &config), "vm")) != NULL,
       "64 nodes with gaps, 8 page sizes");
    OK(CLAIM1(l, 0, GIB(1), &why) == -ENOENT && CLAIM1(l, 5, GIB(1), &why) ==
       0 && CLAIM1(l, 194, GIB(1), &why) == 0 && free_on(l, 5) == GIB(1) &&
       CLAIM1(l, ANY, GIB(64), &why) == 0 &&
       CLAIM1(l, ANY, GIB(65), &why) == -ENOMEM, "claims on all of them");
    OK(identity_holds(l), "identity");
    ballast_ledger_close(l);
}

static void test_standing(void)
{
    const char *path = new_ledger("standing", 2, GIB(8));
    struct ballast_ledger *l = must_open(path), *o;
    struct ballast_demand d = { .node = 0, .bytes = GIB(6) };

    OK(ballast_stand(l, "s", &d, 1, 0, &why) == 0, "a standing claim");
    ballast_ledger_close(l);
    l = must_join(path, "vm");
    OK(nr_in_state(l, BALLAST_STANDING) == 1 && free_on(l, 0) == GIB(2),
       "outlives its handle");
    OK(CLAIM1(l, 0, GIB(4), &why) == -ENOMEM && why.nr_holders == 1 &&
       strcmp(why.holders[0].name, "s") == 0, "and refuses others");
    d.bytes = GIB(4);
    OK(ballast_stand(l, "s", &d, 1, 0, &why) == 0 && free_on(l, 0) == GIB(4),
       "is replaced by name");
    d.bytes = GIB(9);
    OK(ballast_stand(l, "t", &d, 1, 0, &why) == -ENOMEM &&
       nr_in_state(l, BALLAST_STANDING) == 1, "refused, it leaves nothing");
    OK(ballast_stand(l, "vm", &d, 1, 0, &why) == -EADDRINUSE,
       "not with a participant's name");
    o = must_open(path);
    OK(ballast_join(o, "s", 0, &why) == -EADDRINUSE, "nor the other way");
    OK(ballast_release(o, "vm", &why) == -ENOENT &&
       ballast_release(o, "nobody", &why) == -ENOENT,
       "only standing claims are released");
    OK(ballast_release(o, "s", &why) == 0 && free_on(o, 0) == GIB(8),
       "released");
    OK(identity_holds(o), "identity");
    ballast_ledger_close(o);
    ballast_ledger_close(l);
}

int main(void)
{
    test_simple();
    test_replace();
    test_move();
    test_host_wide();
    test_redeem_order();
    test_malformed();
    test_reports();
    test_members();
    test_mine();
    test_zero_always();
    test_lost_pages();
    test_overcommit();
    test_sparse();
    test_standing();
    return tap_done();
}
