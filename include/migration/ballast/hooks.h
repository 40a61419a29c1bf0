/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What QEMU's migration calls where Ballast is built in (patches/): a flag is
 * tested, and nothing is done, unless there is a virtio-balloon-ledger device
 * or the capability x-absent-pages.
 *
 * Skipped pages: in a migration with the postcopy capability, a page that was
 * taken off the dirty bitmap before it was ever sent has a bit in
 * RAMBlock.skipped_bmap.  The destination may ask for it: then it is made
 * dirty, and sent like any other; mostly it is zero.
 *
 * Nothing is done for a page that is sent.  What is sent before postcopy is on
 * the destination, which does not ask for it.  What is sent later was dirty
 * when postcopy began, or asked for: both take the bit away, so that a request
 * that comes too late does not send the page twice.
 */
#ifndef BALLAST_HOOKS_H
#define BALLAST_HOOKS_H

#include "hw/virtio/ballast/compat.h"
#include "migration/ballast/harvest.h"
#include "qapi/qapi-types-migration.h"

/**
 * ballast_pages_dropped() - pages go off the dirty bitmap without being sent
 * @rb: block
 * @first: page of it
 * @nr: how many
 *
 * Context: bitmap lock; the dirty bits are still there.
 */
void ballast_pages_dropped(RAMBlock *rb, unsigned long first,
                           unsigned long nr);

/**
 * ballast_postcopy_begins() - postcopy sends what is dirty now
 *
 * When it begins, and when it goes on after a failure with the bitmap of what
 * has arrived.  From here on nothing is dropped, and a page becomes dirty by
 * ballast_page_wanted() only.
 *
 * Context: the VM is stopped; no bitmap lock; before the destination asks.
 */
void ballast_postcopy_begins(void);

/**
 * ballast_page_wanted() - the postcopy destination asks for a host page
 * @rb: block
 * @page: first page of it
 *
 * If it was skipped, it is dirty afterwards, and no longer skipped.
 *
 * Context: bitmap lock.
 *
 * Return: number of pages that have become dirty.
 */
unsigned long ballast_page_wanted(RAMBlock *rb, unsigned long page);

/**
 * ballast_hints_with_postcopy() - may a device ask for hints all the same?
 * @s: a balloon device
 */
bool ballast_hints_with_postcopy(void *s);

/**
 * ballast_fill_migration_info() - our part of query-migrate
 * @info: filled in if Ballast takes part in migrations of this process
 */
void ballast_fill_migration_info(MigrationInfo *info);

#endif
