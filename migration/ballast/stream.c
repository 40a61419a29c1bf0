/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * How much of a migration may be on its way.
 *
 * A local socket has room for one and a half of QEMU's writes by default.
 * While the destination's kernel clears a huge page, 0.4 ms, the source has
 * filled it and sleeps, and wakes late: neither side is ever busy for long.
 * With room for a huge page each goes on while the other stands still.
 *
 * Only for local sockets: TCP finds its own size, and would stop doing so if
 * it was given one.  What the host allows at most (net.core.wmem_max) holds.
 */
#include "qemu/osdep.h"
#include <sys/socket.h>
#include "io/channel-socket.h"
#include "migration/migration.h"
#include "migration/qemu-file.h"
#include "internal.h"
#include "trace-migration_ballast.h"

/* Linux doubles it. */
#define BUFFER_BYTES (1 << 20)

static bool is_local(int fd)
{
    int domain;
    socklen_t bytes = sizeof(domain);

    return !getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &bytes) &&
           domain == AF_UNIX;
}

static int buffer_bytes(int fd)
{
    int bytes = 0;
    socklen_t len = sizeof(bytes);

    getsockopt(fd, SOL_SOCKET, SO_SNDBUF, &bytes, &len);
    return bytes;
}

void ballast_stream_widen(void)
{
    QEMUFile *file = migrate_get_current()->to_dst_file;
    QIOChannel *ioc = file ? qemu_file_get_ioc(file) : NULL;
    int bytes = BUFFER_BYTES, before, fd;

    if (!object_dynamic_cast(OBJECT(ioc), TYPE_QIO_CHANNEL_SOCKET)) {
        return;
    }
    fd = QIO_CHANNEL_SOCKET(ioc)->fd;
    if (!is_local(fd)) {
        return;
    }
    before = buffer_bytes(fd);
    if (before < 2 * BUFFER_BYTES) {
        setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof(bytes));
        trace_ballast_stream(before, buffer_bytes(fd));
    }
}
