/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Under TCG, a sync of the dirty log resets the TLB of the block that it looks
 * at.  With the range at the block's offset in itself instead of at its
 * address, that of a second block that is larger than the first one crosses
 * the end of the first: an assertion.
 */
#include "qemu/osdep.h"
#include "ballast/hint-driver.h"

static void test_second_block(void)
{
    QTestState *qts = hint_machine(
        "-accel tcg -m 64M"
        " -object memory-backend-ram,id=m0,size=16M"
        " -object memory-backend-ram,id=m1,size=48M"
        " -numa node,memdev=m0 -numa node,memdev=m1");

    hint_capability(qts, "pause-before-switchover");
    hint_migrate(qts, NOWHERE);
    WAIT_FOR(hint_migration_is(qts, "pre-switchover"));
    /* sent once and dirty again: the last sync finds it new in the bitmap */
    qtest_memset(qts, 0x2000000, 0x5a, 0x100000);
    qtest_qmp_assert_success(
        qts, "{ 'execute': 'migrate-continue',"
        "  'arguments': { 'state': 'pre-switchover' } }");
    WAIT_FOR(hint_migration_is(qts, "completed"));
    qtest_quit(qts);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    if (qtest_has_accel("tcg")) {
        qtest_add_func("balloon-tlb/second-block", test_second_block);
    }
    return g_test_run();
}
