/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Under TCG: the balloon's I/O thread has handled a hint of a driver that wants
 * an interrupt for it.  It is raised with the big lock held.
 */
#include "qemu/osdep.h"
#include "ballast/hint-driver.h"

static void test_hint(void)
{
    HintDriver d;

    hint_driver_init(&d, hint_machine("-accel tcg -cpu qemu64,-apic -m 64M"));
    /* PCI interrupts go to the old controller, and from there to the vCPU */
    qtest_outl(d.qts, 0xcf8, 0x80000860);
    qtest_outl(d.qts, 0xcfc, 0x0b0b0b0b);

    hint_driver_migrate(&d, NOWHERE);
    hint_driver_hint(&d, PAGE);
    /* a legacy interrupt is a bit in the ISR; reading it clears it */
    WAIT_FOR(d.dev->vdev.bus->get_queue_isr_status(&d.dev->vdev, d.vq));
    hint_driver_cancel(&d);
    hint_driver_quit(&d);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    if (qtest_has_accel("tcg")) {
        qtest_add_func("balloon-irq/hint", test_hint);
    }
    return g_test_run();
}
