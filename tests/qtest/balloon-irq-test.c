/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The balloon's I/O thread interrupts the guest: because it has handled a hint
 * of a driver that wants to know, or because the device needs a reset.  Without
 * KVM's interrupt controllers that takes the big lock.
 */
#include "qemu/osdep.h"
#include "ballast/hint-driver.h"
#include "standard-headers/linux/virtio_ring.h"

#define INTX    11
#define NO_HEAD 5000    /* a chain that is none */

static void start(HintDriver *d, const char *accel)
{
    g_autofree char *args = g_strdup_printf("%s -m 64M", accel);

    hint_driver_init(d, hint_machine(args));
    /* PCI interrupts go to the old controller, and from there to the vCPU */
    qtest_outl(d->qts, 0xcf8, 0x80000860);
    qtest_outl(d->qts, 0xcfc, INTX * 0x01010101u);
    qtest_irq_intercept_in(d->qts, "ioapic");
}

static void test_hint(const void *accel)
{
    HintDriver d;

    start(&d, accel);
    hint_driver_migrate(&d, NOWHERE);
    /* The question came with an interrupt: reading the ISR lowers the line. */
    d.dev->vdev.bus->get_queue_isr_status(&d.dev->vdev, d.vq);
    hint_driver_hint(&d, PAGE);
    WAIT_FOR(qtest_get_irq(d.qts, INTX));
    g_assert_true(hint_first_round(d.qts));     /* not the next question */
    hint_driver_cancel(&d);
    hint_driver_quit(&d);
}

static void test_reset(const void *accel)
{
    HintDriver d;

    start(&d, accel);
    qtest_writew(d.qts, d.vq->avail, VRING_AVAIL_F_NO_INTERRUPT);
    /* The queue's start has been handled, too; it came with an interrupt. */
    hint_driver_add(&d, PAGE, 4096, true);
    d.dev->vdev.bus->get_queue_isr_status(&d.dev->vdev, d.vq);
    qvirtqueue_kick(d.qts, &d.dev->vdev, d.vq, NO_HEAD);
    WAIT_FOR(qtest_get_irq(d.qts, INTX));
    hint_driver_quit(&d);
}

int main(int argc, char **argv)
{
    static const char tcg[] = "-accel tcg -cpu qemu64,-apic";
    static const char kvm[] = "-accel kvm";

    g_test_init(&argc, &argv, NULL);
    if (qtest_has_accel("tcg")) {
        qtest_add_data_func("balloon-irq/tcg/hint", tcg, test_hint);
        qtest_add_data_func("balloon-irq/tcg/reset", tcg, test_reset);
    }
    if (qtest_has_accel("kvm")) {
        qtest_add_data_func("balloon-irq/kvm/hint", kvm, test_hint);
        qtest_add_data_func("balloon-irq/kvm/reset", kvm, test_reset);
    }
    return g_test_run();
}
