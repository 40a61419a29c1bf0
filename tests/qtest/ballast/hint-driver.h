/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A driver of virtio-balloon that only hints, on a PC whose firmware is a few
 * instructions: for tests that make a migration meet a hint.
 *
 * The firmware polls a byte at MAILBOX.  At GO it writes NEW to PAGE, and then
 * DONE to the mailbox: a write of a real vCPU, so that the accelerator's dirty
 * log is what is tested.
 *
 * A migration stays in its first round for half a minute: memory from HEAP_END
 * to MEMORY is not zero, and the slowest one sends 128 KiB of it per 100 ms.
 */
#ifndef TESTS_BALLAST_HINT_DRIVER_H
#define TESTS_BALLAST_HINT_DRIVER_H

#include "libqtest.h"
#include "libqos/libqos-malloc.h"
#include "libqos/pci-pc.h"
#include "libqos/virtio-pci.h"
#include "qobject/qdict.h"
#include "standard-headers/linux/virtio_balloon.h"

#define MAILBOX       0x6000
#define PAGE          0x90000
#define HEAP          0x1000000     /* rings and buffers, to HEAP_END */
#define HEAP_END      0x1100000
#define MEMORY        0x4000000     /* each machine has that much, or more */
#define SLOT          5
#define HINT_QUEUE    3
#define TRIES         6000          /* of 10 ms */
#define NOWHERE       "exec:cat >/dev/null"

enum { GO = 1, DONE = 2, OLD = 0x11, NEW = 0x33 };

typedef struct HintDriver {
    QTestState *qts;
    QPCIBus *pci;
    QGuestAllocator alloc;
    QVirtioPCIDevice *dev;
    QVirtQueue *vq;
} HintDriver;

/* Wait for a condition, a minute at most. */
#define WAIT_FOR(condition)                             \
    do {                                                \
        int tries_ = TRIES;                             \
        while (!(condition)) {                          \
            g_assert_cmpint(--tries_, >, 0);            \
            g_usleep(10 * 1000);                        \
        }                                               \
    } while (0)

/* A file with the firmware; the caller unlinks and frees the name. */
static inline char *hint_firmware(void)
{
    static const uint8_t code[] = {
        0x31, 0xc0,                                 /* xor ax, ax */
        0x8e, 0xd8,                                 /* mov ds, ax */
        0xbb, (PAGE >> 4) & 0xff, PAGE >> 12,       /* mov bx, PAGE / 16 */
        0x8e, 0xc3,                                 /* mov es, bx */
        0xf3, 0x90,                                 /* poll: pause */
        0xa0, MAILBOX & 0xff, MAILBOX >> 8,         /* mov al, [MAILBOX] */
        0x3c, GO,                                   /* cmp al, GO */
        0x75, 0xf7,                                 /* jne poll */
        0x26, 0xc6, 0x06, 0, 0, NEW,                /* mov byte es:[0], NEW */
        0xc6, 0x06, MAILBOX & 0xff, MAILBOX >> 8, DONE, /* mov byte … */
        0xeb, 0xea,                                 /* jmp poll */
    };
    static const uint8_t reset[] = { 0xe9, 0x0d, 0x00 };    /* jmp 0 */
    g_autofree uint8_t *image = g_malloc0(64 * 1024);
    g_autoptr(GError) err = NULL;
    char *name;
    int fd = g_file_open_tmp("hint-firmware-XXXXXX", &name, &err);

    g_assert_no_error(err);
    memcpy(image, code, sizeof(code));
    memcpy(image + 0xfff0, reset, sizeof(reset));
    g_assert_cmpint(qemu_write_full(fd, image, 64 * 1024), ==, 64 * 1024);
    close(fd);
    return name;
}

/* A PC with a balloon; @args: accelerator, memory, and what else it has. */
static inline QTestState *hint_machine(const char *args)
{
    g_autofree char *firmware = hint_firmware();
    QTestState *qts = qtest_initf(
        "-nodefaults -machine pc,vmport=off -bios %s -object iothread,id=iot"
        " -device virtio-balloon-pci,id=balloon0,addr=%d,free-page-hint=on,"
        "iothread=iot %s", firmware, SLOT, args);

    unlink(firmware);
    return qts;
}

static inline void hint_driver_init(HintDriver *d, QTestState *qts)
{
    QPCIAddress addr = { .devfn = QPCI_DEVFN(SLOT, 0) };
    QVirtioDevice *vdev;

    *d = (HintDriver) { .qts = qts };
    alloc_init(&d->alloc, ALLOC_NO_FLAGS, HEAP, HEAP_END, 4096);
    d->pci = qpci_new_pc(qts, &d->alloc);
    d->dev = virtio_pci_new(d->pci, &addr);
    g_assert_nonnull(d->dev);
    vdev = &d->dev->vdev;
    qvirtio_pci_device_enable(d->dev);
    qvirtio_start_device(vdev);
    qvirtio_set_features(vdev, qvirtio_get_features(vdev) &
                         ((1ull << VIRTIO_F_VERSION_1) |
                          (1ull << VIRTIO_BALLOON_F_STATS_VQ) |
                          (1ull << VIRTIO_BALLOON_F_FREE_PAGE_HINT)));
    d->vq = qvirtqueue_setup(vdev, &d->alloc, HINT_QUEUE);
    qvirtio_set_driver_ok(vdev);
}

/* One buffer; it has been handled on return. */
static inline void hint_driver_add(HintDriver *d, uint64_t addr, uint32_t len,
                                   bool write)
{
    uint32_t head = qvirtqueue_add(d->qts, d->vq, addr, len, write, false);

    qvirtqueue_kick(d->qts, &d->dev->vdev, d->vq, head);
    WAIT_FOR(qvirtqueue_get_buf(d->qts, d->vq, NULL, NULL));
}

static inline uint32_t hint_driver_id(HintDriver *d)
{
    return qvirtio_config_readl(
        &d->dev->vdev,
        offsetof(struct virtio_balloon_config, free_page_hint_cmd_id));
}

/* Wait until the device asks for hints, and answer. */
static inline void hint_driver_begin(HintDriver *d)
{
    uint64_t buffer = guest_alloc(&d->alloc, sizeof(uint32_t));

    WAIT_FOR(hint_driver_id(d) > VIRTIO_BALLOON_CMD_ID_DONE);
    qtest_writel(d->qts, buffer, hint_driver_id(d));
    hint_driver_add(d, buffer, sizeof(uint32_t), false);
}

static inline void hint_capability(QTestState *qts, const char *name)
{
    qtest_qmp_assert_success(
        qts, "{ 'execute': 'migrate-set-capabilities', 'arguments': {"
        "  'capabilities': [ { 'capability': %s, 'state': true } ] } }", name);
}

/* Is its status so?  A failed migration fails the test. */
static inline bool hint_migration_is(QTestState *qts, const char *wanted)
{
    g_autoptr(QDict) info = qtest_qmp_assert_success_ref(
        qts, "{ 'execute': 'query-migrate' }");
    const char *status = qdict_get_try_str(info, "status");

    g_assert_cmpstr(status, !=, "failed");
    return !g_strcmp0(status, wanted);
}

/* Is it in its first round? */
static inline bool hint_first_round(QTestState *qts)
{
    g_autoptr(QDict) info = qtest_qmp_assert_success_ref(
        qts, "{ 'execute': 'query-migrate' }");
    QDict *ram = qdict_get_qdict(info, "ram");

    return ram && qdict_get_int(ram, "dirty-sync-count") == 1;
}

static inline void hint_migrate(QTestState *qts, const char *uri)
{
    qtest_qmp_assert_success(
        qts, "{ 'execute': 'migrate', 'arguments': { 'uri': %s } }", uri);
}

/* A migration that stays in its first round and has asked for hints. */
static inline void hint_driver_migrate(HintDriver *d, const char *uri)
{
    qtest_memset(d->qts, HEAP_END, 0x5a, MEMORY - HEAP_END);
    qtest_qmp_assert_success(
        d->qts, "{ 'execute': 'migrate-set-parameters',"
        "  'arguments': { 'max-bandwidth': 1000, 'downtime-limit': 1 } }");
    hint_migrate(d->qts, uri);
    hint_driver_begin(d);
}

/* Hint a page; it has been handled on return, in the first round. */
static inline void hint_driver_hint(HintDriver *d, uint64_t addr)
{
    hint_driver_add(d, addr, 4096, true);
    g_assert_true(hint_first_round(d->qts));
}

static inline void hint_driver_cancel(HintDriver *d)
{
    qtest_qmp_assert_success(d->qts, "{ 'execute': 'migrate_cancel' }");
    WAIT_FOR(hint_migration_is(d->qts, "cancelled"));
}

/* The end of driver and machine. */
static inline void hint_driver_quit(HintDriver *d)
{
    qvirtqueue_cleanup(d->dev->vdev.bus, d->vq, &d->alloc);
    qpci_iounmap(d->dev->pdev, d->dev->bar);
    g_free(d->dev->pdev);
    g_free(d->dev);
    qpci_free_pc(d->pci);
    alloc_destroy(&d->alloc);
    qtest_quit(d->qts);
}

#endif
