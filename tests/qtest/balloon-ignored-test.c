/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A free page hint about a block that is not migrated (x-ignore-shared): it
 * has no dirty bitmap.
 */
#include "qemu/osdep.h"
#include "ballast/hint-driver.h"

static void test_hint(void)
{
    g_autoptr(GError) err = NULL;
    g_autofree char *name = NULL, *args = NULL;
    HintDriver d;
    int fd = g_file_open_tmp("balloon-ignored-XXXXXX", &name, &err);

    g_assert_no_error(err);
    close(fd);
    args = g_strdup_printf(
        "-m 128M"
        " -object memory-backend-ram,id=m0,size=64M"
        " -object memory-backend-file,id=m1,size=64M,share=on,mem-path=%s"
        " -numa node,memdev=m0 -numa node,memdev=m1", name);
    hint_driver_init(&d, hint_machine(args));
    unlink(name);

    hint_capability(d.qts, "x-ignore-shared");
    hint_driver_migrate(&d, NOWHERE);
    hint_driver_hint(&d, 0x5000000);        /* in the shared block */
    hint_driver_cancel(&d);
    hint_driver_quit(&d);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    qtest_add_func("balloon-ignored/hint", test_hint);
    return g_test_run();
}
