/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A refusal at start, as seen by the program that starts QEMU (manager.h).
 *
 * Before QEMU has made the socket's chardev, a connection waits where it
 * came in; afterwards, the monitor's thread accepts it and greets, but no
 * command is run before the machine is ready.  Either way the other side
 * learns of QEMU's end by the end of the connection, or its reset, and that is
 * when libvirt looks into QEMU's log.
 */
#include "qemu/osdep.h"
#include <sys/socket.h>
#include "chardev/char.h"
#include "hw/qdev-core.h"
#include "hw/virtio/ballast/manager.h"
#include "qemu/config-file.h"
#include "qemu/cutils.h"
#include "qemu/option.h"

#define CONNECT_PATIENCE_MS 5000
#define LOOK_EVERY_MS 10
/* libvirt has connected, and is about to name the log that it looks into. */
#define CONNECTED_PATIENCE_US 200000

static int listener_of(QemuOpts *opts)
{
    const char *text = qemu_opt_get(opts, "fd");
    int fd = text ? qemu_parse_fd(text) : -1;
    int listens = 0;
    socklen_t len = sizeof(listens);

    if (fd < 0 ||
        getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &len) < 0 ||
        !listens) {
        return -1;
    }
    return fd;
}

static int find_listener(void *opaque, QemuOpts *opts, Error **errp)
{
    return listener_of(opts) >= 0;
}

static int find_connection(void *opaque, QemuOpts *opts, Error **errp)
{
    GPollFD poll = { .fd = listener_of(opts), .events = G_IO_IN };
    const char *id = qemu_opts_id(opts);
    Chardev *chr = id ? qemu_chr_find(id) : NULL;

    if (poll.fd < 0) {
        return 0;
    }
    return g_poll(&poll, 1, 0) > 0 ||
           (chr && object_property_get_bool(OBJECT(chr), "connected", NULL));
}

static bool any_chardev(qemu_opts_loopfunc match)
{
    return qemu_opts_foreach(qemu_find_opts("chardev"), match, NULL, NULL);
}

void ballast_manager_let_in(void)
{
    int left_ms;

    if (phase_check(PHASE_MACHINE_READY) || !any_chardev(find_listener)) {
        return;
    }
    for (left_ms = CONNECT_PATIENCE_MS; left_ms > 0; left_ms -= LOOK_EVERY_MS) {
        if (any_chardev(find_connection)) {
            g_usleep(CONNECTED_PATIENCE_US);
            return;
        }
        g_usleep(LOOK_EVERY_MS * 1000);
    }
}
