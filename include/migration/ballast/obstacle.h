/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What hints are not used with.
 *
 * Some ways to migrate cannot do without the pages that hints leave out, or
 * keep no dirty bitmap for some blocks.  QEMU's own device knows of one of
 * them (postcopy); with ignored blocks it dereferences a null pointer at
 * the first hint.
 */
#ifndef BALLAST_OBSTACLE_H
#define BALLAST_OBSTACLE_H

#include "hw/virtio/virtio-balloon.h"
#include "qapi/qapi-types-ballast.h"

/**
 * ballast_hints_obstacle() - why must a device not ask for hints?
 * @s: a balloon, QEMU's own or ours; NULL: one of ours
 * @obstacle: out: what is in the way; untouched if nothing is
 *
 * As the migration's capabilities and mode are now; they cannot change
 * while one is running.
 *
 * Context: big lock.
 *
 * Return: true if something is.
 */
bool ballast_hints_obstacle(VirtIOBalloon *s, FreePageHintObstacle *obstacle);

/**
 * ballast_ignored_blocks() - names of the blocks that migration leaves out
 *
 * Those with x-ignore-shared or in CPR mode, not what is never migrated.
 * Hints about them are skipped, and counted as foreign.
 *
 * Context: big lock.
 *
 * Return: list, owned by the caller.
 */
strList *ballast_ignored_blocks(void);

/**
 * ballast_any_balloon() - is one of the balloon devices such that …?
 * @fn: called for QEMU's own and ours, until it returns true
 *
 * Looked up each time, since a guest may eject its balloon during a
 * migration; among the devices, which are few, and not in QEMU's tree of all
 * objects, a walk through which takes as long as sending a thousand pages.
 *
 * Context: big lock.
 *
 * Return: true if @fn did.
 */
bool ballast_any_balloon(bool (*fn)(VirtIOBalloon *s));

/**
 * ballast_guard_balloons() - from now on no device asks against the above
 *
 * Context: big lock, before the first harvest of each migration.
 */
void ballast_guard_balloons(void);

#endif
