/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Forced in front of every file of the plug-in.
 *
 * type_init() and its like put a function on a list that QEMU has walked
 * long before a plug-in is loaded.  In the plug-in they put it on a list of
 * our own, which qemu_plugin_install() walks; the sources stay the same in
 * both builds.
 */
#ifndef BALLAST_PLUGIN_INIT_H
#define BALLAST_PLUGIN_INIT_H

#include "qemu/osdep.h"
#include "qemu/module.h"

/** ballast_plugin_add_init() - call @fn when the plug-in is installed */
void ballast_plugin_add_init(void (*fn)(void));

#undef module_init
#define module_init(function, type)                                        \
static void __attribute__((constructor)) ballast_init_ ## function(void)   \
{                                                                          \
    ballast_plugin_add_init(function);                                     \
}

#endif
