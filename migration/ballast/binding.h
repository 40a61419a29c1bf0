/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the plug-in cannot reach and the series can: the lock of QEMU's dirty
 * bitmap, the requests of a postcopy destination, the places of the calls.
 *
 * bind-plugin.c and bind-qemu.c; all else is the same in both builds.
 */
#ifndef BALLAST_MIGRATION_BINDING_H
#define BALLAST_MIGRATION_BINDING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/**
 * ballast_in_qemu - built into QEMU
 *
 * QEMU calls us at each harvest and before it sends (hooks.h); dropping pages
 * excludes sending; requests of a postcopy destination for pages that were
 * left out are answered.
 */
extern const bool ballast_in_qemu;

/**
 * ballast_bitmap_lock() - nobody sends or drops until ballast_bitmap_unlock()
 *
 * In the plug-in it does nothing: each ballast_bitmap_drop() takes the lock.
 *
 * Context: hints lock; while a migration is running.
 */
void ballast_bitmap_lock(void);

/** ballast_bitmap_unlock() - see ballast_bitmap_lock() */
void ballast_bitmap_unlock(void);

/**
 * ballast_bitmap_drop() - take pages off the dirty bitmap
 * @addr: host address
 * @bytes: length, whole pages
 *
 * Context: between ballast_bitmap_lock() and ballast_bitmap_unlock().
 */
void ballast_bitmap_drop(void *addr, size_t bytes);

/**
 * ballast_bitmap_arm() - arm the kernel's log under the bitmap's lock
 *
 * Only if ballast_in_qemu.
 *
 * Context: no bitmap lock.
 */
void ballast_bitmap_arm(void);

/**
 * ballast_asked_for() - does this migration ask for Ballast by a capability?
 *
 * Not where it is loaded as a plug-in: that asks for it.
 */
bool ballast_asked_for(void);

/** ballast_skipped_begin() - a migration begins: nothing was left out */
void ballast_skipped_begin(void);

/** ballast_skipped_end() - it is over: no page will be asked for */
void ballast_skipped_end(void);

#endif
