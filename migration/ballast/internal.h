/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Shared by the files of migration/ballast only. */
#ifndef BALLAST_MIGRATION_INTERNAL_H
#define BALLAST_MIGRATION_INTERNAL_H

#include "exec/ramblock.h"

/**
 * ballast_arm() - arm write tracking of every page that hints may name
 *
 * After this, and until the next harvest, each guest write leaves a trace
 * for the next harvest, on KVM with and without manual protect, with the
 * dirty ring, and under TCG.
 *
 * Context: migration thread, between a harvest and the publication of the
 * next cmd id: nobody else touches RAMBlock.clear_bmap then.
 *
 * Return: number of chunks whose log had to be cleared.
 */
uint64_t ballast_arm(void);

/**
 * ballast_block_migrates() - are this block's pages in a dirty bitmap?
 * @rb: a block
 *
 * Context: RCU read side, while a migration is running.
 */
bool ballast_block_migrates(RAMBlock *rb);

#endif
