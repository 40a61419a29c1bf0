/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * When the dirty log is read, and when pages may be left out: called by QEMU's
 * migration in the series (hooks.h), by the precopy notifier in the plug-in.
 */
#ifndef BALLAST_HARVEST_H
#define BALLAST_HARVEST_H

/**
 * ballast_harvest_begins() - the dirty log is about to be read
 *
 * Context: big lock, or the VM is stopped; no bitmap lock.
 */
void ballast_harvest_begins(void);

/**
 * ballast_harvest_ended() - it was read; not for postcopy's last one
 *
 * Context: big lock; no bitmap lock; before precopy notifiers hear of it.
 */
void ballast_harvest_ended(void);

/**
 * ballast_about_to_send() - pages may be left out now
 *
 * Context: migration thread, no lock.  Does nothing in other threads.
 */
void ballast_about_to_send(void);

#endif
