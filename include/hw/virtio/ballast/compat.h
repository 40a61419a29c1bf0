/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Everything that differs between the QEMU versions Ballast builds for.
 *
 * The BALLAST_HAVE_* macros come from compile probes (see meson.build in
 * hw/virtio/ballast), never from version numbers: distributions backport.
 * Headers that moved are asked for with __has_include.
 */
#ifndef BALLAST_COMPAT_H
#define BALLAST_COMPAT_H

#include "hw/virtio/ballast/ballast-probes.h"

/* Memory regions and RAM blocks */
#if __has_include("system/ramblock.h")
#include "system/address-spaces.h"
#include "system/memory.h"
#include "system/ramblock.h"
#else
#include "exec/address-spaces.h"
#include "exec/memory.h"
#include "exec/ramblock.h"
#endif

/*
 * Their dirty bitmaps, which once were for code of one target only.  The log
 * of what devices write:
 *
 * ballast_set_dirty_range() - physical_memory_set_dirty_range()
 */
#if __has_include("system/physmem.h")
#include "system/physmem.h"
#include "system/ram_addr.h"
#define ballast_set_dirty_range physical_memory_set_dirty_range
#elif defined(COMPILING_PER_TARGET)
#include "exec/ram_addr.h"
#define ballast_set_dirty_range cpu_physical_memory_set_dirty_range
#endif

/**
 * BALLAST_CLASS_DATA - type of class_init's second argument
 *
 * Became const when type descriptions became read-only.
 */
#ifdef BALLAST_HAVE_CONST_CLASS_DATA
#define BALLAST_CLASS_DATA const void
#else
#define BALLAST_CLASS_DATA void
#endif

/**
 * BALLAST_SET_STATUS - return type of VirtioDeviceClass.set_status
 *
 * BALLAST_SET_STATUS_RETURN() passes on what the parent returned.
 */
#ifdef BALLAST_HAVE_INT_SET_STATUS
#define BALLAST_SET_STATUS int
#define BALLAST_SET_STATUS_RETURN(call, after) \
    do { int ret_ = (call); after; return ret_; } while (0)
#else
#define BALLAST_SET_STATUS void
#define BALLAST_SET_STATUS_RETURN(call, after) \
    do { call; after; } while (0)
#endif

#endif
