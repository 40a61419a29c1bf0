/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Shared by the files of migration/ballast only. */
#ifndef BALLAST_MIGRATION_INTERNAL_H
#define BALLAST_MIGRATION_INTERNAL_H

#include "exec/ramblock.h"

/**
 * ballast_arm() - arm the kernel's log for every page that hints may name
 *
 * After this and ballast_arm_tlb(), and until the next harvest, each guest
 * write leaves a trace for the next harvest, on KVM with and without manual
 * protect, with the dirty ring, and under TCG.
 *
 * Context: big lock, between a harvest and the publication of the next cmd
 * id.  The migration thread may be sending meanwhile.
 *
 * Return: number of chunks whose log had to be cleared.
 */
uint64_t ballast_arm(void);

/**
 * ballast_arm_tlb() - under TCG, let the next write to each page be seen
 *
 * Needed after every harvest, whether hints are asked for or not: QEMU's
 * own harvest leaves entries writable, and a page that is sent and written
 * through such an entry is lost.
 *
 * Context: big lock, after a harvest.
 */
void ballast_arm_tlb(void);

/**
 * ballast_block_migrates() - are this block's pages in a dirty bitmap?
 * @rb: a block
 *
 * Context: RCU read side, while a migration is running.
 */
bool ballast_block_migrates(RAMBlock *rb);

#endif
