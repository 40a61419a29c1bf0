/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The plug-in: what QEMU exports, see binding.h. */
#include "qemu/osdep.h"
#include "binding.h"
#include "migration/misc.h"

const bool ballast_in_qemu;

void ballast_bitmap_lock(void)
{
}

void ballast_bitmap_unlock(void)
{
}

void ballast_bitmap_drop(void *addr, size_t bytes)
{
    qemu_guest_free_page_hint(addr, bytes);
}

void ballast_bitmap_arm(void)
{
    g_assert_not_reached();
}

bool ballast_asked_for(void)
{
    return false;
}

void ballast_skipped_begin(void)
{
}

void ballast_skipped_end(void)
{
}
