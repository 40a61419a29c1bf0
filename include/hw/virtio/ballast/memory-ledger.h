/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * -object memory-ledger: the ledger that this process takes part in.
 *
 *   -object memory-ledger,id=ID[,path=PATH][,name=NAME]
 *           [,claim=auto|linked|SIZE[@NODE][/PAGESIZE][+…]]
 *
 * QEMU makes it before the first memory backend.  There is at most one.
 *
 * Context: the big lock.
 */
#ifndef BALLAST_MEMORY_LEDGER_H
#define BALLAST_MEMORY_LEDGER_H

/** memory_ledger_exists() - is there one? */
bool memory_ledger_exists(void);

/** memory_ledger_linked_only() - do only backends claim that name it? */
bool memory_ledger_linked_only(void);

#endif
