/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A page that was used again after the device asked for hints, and is hinted
 * after that, arrives on the destination.  Under KVM, with small chunks of the
 * dirty log, since sending the first page of a chunk hides the mistake.  The
 * page is in the smaller block, which is sent after the larger one.
 */
#include "qemu/osdep.h"
#include "ballast/hint-driver.h"

#define MACHINE "-accel kvm -m 64M" \
                " -object memory-backend-ram,id=m0,size=16M" \
                " -object memory-backend-ram,id=m1,size=48M" \
                " -numa node,memdev=m0 -numa node,memdev=m1" \
                " -global migration.x-clear-bitmap-shift=6 "

static void test_used_again(void)
{
    g_autofree char *dir = g_dir_make_tmp("balloon-arm-XXXXXX", NULL);
    g_autofree char *path = g_strdup_printf("%s/migrate", dir);
    g_autofree char *uri = g_strdup_printf("unix:%s", path);
    g_autofree char *args = g_strdup_printf(MACHINE "-incoming %s", uri);
    QTestState *dst = hint_machine(args);
    HintDriver d;

    hint_driver_init(&d, hint_machine(MACHINE));
    qtest_writeb(d.qts, PAGE, OLD);
    hint_driver_migrate(&d, uri);
    qtest_writeb(d.qts, MAILBOX, GO);
    WAIT_FOR(qtest_readb(d.qts, MAILBOX) == DONE);
    g_assert_cmphex(qtest_readb(d.qts, PAGE), ==, NEW);
    hint_driver_hint(&d, PAGE);

    qtest_qmp_assert_success(
        d.qts, "{ 'execute': 'migrate-set-parameters', 'arguments':"
        "  { 'max-bandwidth': 1000000000, 'downtime-limit': 30000 } }");
    WAIT_FOR(hint_migration_is(d.qts, "completed"));
    WAIT_FOR(hint_migration_is(dst, "completed"));
    g_assert_cmphex(qtest_readb(dst, PAGE), ==, NEW);

    hint_driver_quit(&d);
    qtest_quit(dst);
    unlink(path);
    rmdir(dir);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    if (qtest_has_accel("kvm")) {
        qtest_add_func("balloon-arm/used-again", test_used_again);
    }
    return g_test_run();
}
