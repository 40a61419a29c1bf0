/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * LD_PRELOAD for QEMU: makes an older kind of KVM dirty log of the present one.
 *
 * QEMU takes the best kind that the kernel offers and has no option for another.  This answers
 * KVM_CHECK_EXTENSION(KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2) as an older kernel does, so that the tests see
 * every kind: BALLAST_KVM_LOG=legacy (no manual protect) or manual (not initially set).
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <linux/kvm.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

typedef int (*ioctl_fn)(int fd, unsigned long request, ...);

static int limit(int caps)
{
    const char *mode = getenv("BALLAST_KVM_LOG");

    if (mode && !strcmp(mode, "legacy")) {
        return 0;
    }
    if (mode && !strcmp(mode, "manual")) {
        return caps & KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE;
    }
    return caps;
}

int ioctl(int fd, unsigned long request, ...)
{
    static ioctl_fn real;
    va_list ap;
    void *arg;
    int ret;

    if (!real) {
        real = (ioctl_fn)dlsym(RTLD_NEXT, "ioctl");
    }
    va_start(ap, request);
    arg = va_arg(ap, void *);
    va_end(ap);
    ret = real(fd, request, arg);
    if (ret > 0 && request == KVM_CHECK_EXTENSION &&
        (unsigned long)arg == KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2) {
        return limit(ret);
    }
    return ret;
}
