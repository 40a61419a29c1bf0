/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A page that was used again after the device asked for hints, and is hinted
 * after that, arrives on the destination.  Under KVM, with small chunks of the
 * dirty log, since sending the first page of a chunk hides the mistake.
 */
#include "qemu/osdep.h"
#include "ballast/hint-driver.h"

#define MACHINE "-accel kvm -m 64M" \
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
    hint_migrate(d.qts, uri);
    hint_driver_begin(&d);
    qtest_writeb(d.qts, MAILBOX, GO);
    WAIT_FOR(qtest_readb(d.qts, MAILBOX) == DONE);
    g_assert_cmphex(qtest_readb(d.qts, PAGE), ==, NEW);
    hint_driver_add(&d, PAGE, 4096, true);
    g_assert_true(hint_migration_is(d.qts, "active"));

    qtest_qmp_assert_success(
        d.qts, "{ 'execute': 'migrate-set-parameters', 'arguments':"
        "  { 'max-bandwidth': 1000000000, 'downtime-limit': 30000 } }");
    WAIT_FOR(hint_migration_is(d.qts, "completed"));
    WAIT_FOR(hint_migration_is(dst, "completed"));
    g_assert_cmphex(qtest_readb(dst, PAGE), ==, NEW);

    hint_driver_free(&d);
    qtest_quit(d.qts);
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
