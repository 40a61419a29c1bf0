/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Named as in QEMU's own build; the plug-in generates it with a prefix. */
#include "ballast-qapi-commands.h"
