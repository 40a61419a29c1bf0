/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef BALLAST_ABI_H
#define BALLAST_ABI_H

/**
 * ballast_abi_check() - is this the QEMU the plug-in was built for?
 * @errp: set to what differs
 *
 * Context: before anything else of QEMU is used.
 */
bool ballast_abi_check(Error **errp);

#endif
