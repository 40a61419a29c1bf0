/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Claims of memory backends: staked before a backend allocates.
 *
 * QEMU calls these; they exist in the series only, since a plug-in is loaded
 * after the backends of the command line have allocated.
 *
 * A process has at most one ledger, so at most one memory-ledger object.  With
 * its claim=auto every memory backend stakes what it can use, by host node and
 * page size; with claim=linked those whose property "ledger" names it.  The
 * backends of the command line, and the machine's RAM, are one claim: granted
 * as a whole before the first of them allocates, or QEMU ends.
 *
 * A backend with reserve=off stakes nothing when it is made.  If a virtio-mem
 * device has it, the claim is what the guest was told it may plug, or has
 * plugged, whichever is more; if anything else has it, all of it is claimed
 * once it is in use, and what the ledger refuses then shows as deficit.
 *
 * Context: the big lock.
 */
#ifndef BALLAST_BACKEND_H
#define BALLAST_BACKEND_H

#include "qapi/qapi-types-qom.h"
#include "system/hostmem.h"

#define TYPE_MEMORY_LEDGER "memory-ledger"

typedef struct VirtIOMEM VirtIOMEM;

/** ballast_backend_class_init() - add the property "ledger" to all backends */
void ballast_backend_class_init(ObjectClass *oc);

/**
 * ballast_plan_backend() - a backend that the command line is going to make
 * @options: its options; other objects are passed over; borrowed
 */
void ballast_plan_backend(const ObjectOptions *options);

/**
 * ballast_plan_stake() - claim for all that was planned, and for the RAM
 * @ram_backend: the id given by -machine memory-backend=, or NULL
 * @mem_path: the path given by -mem-path, or NULL
 * @errp: the ledger's own words when it refuses
 *
 * If there is no memory-ledger object, a claim of 'ballast run' is taken
 * over.
 *
 * Context: once, after the machine's options are known, before the first
 * backend is made.
 *
 * Return: true if the claim stands, or if no ledger was asked for.
 */
bool ballast_plan_stake(const char *ram_backend, const char *mem_path,
                        Error **errp);

/**
 * ballast_backend_alloc() - let a backend allocate, if it may
 * @backend: complete but for its memory
 * @errp: the ledger's own words when it refuses, or the allocation's
 *
 * Return: true if it was allocated; if not, nothing is claimed for it.
 */
bool ballast_backend_alloc(HostMemoryBackend *backend, Error **errp);

/**
 * ballast_virtio_mem_raise() - more is to be plugged into a virtio-mem device
 * @vmem: the device, about to be realized or realized
 * @requested_bytes: its new requested size
 * @errp: the ledger's own words when it refuses
 *
 * Less is claimed when the guest has unplugged it, within two seconds.
 *
 * Return: true if the claim covers it; if not, nothing changed.
 */
bool ballast_virtio_mem_raise(VirtIOMEM *vmem, uint64_t requested_bytes,
                              Error **errp);

#endif
