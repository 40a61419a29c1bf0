/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * In the daemon of a test: die before the Nth store to the file that is made
 * after the start, N in BALLAST_TEST_CRASH_AT.  The start's own are left out:
 * a daemon that always dies there would never come up.
 */
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "internal.h"

static long left = -1;

void ballast_crash_point(void)
{
    const char *at;

    if (left < 0) {
        at = getenv("BALLAST_TEST_CRASH_AT");
        left = at ? atol(at) : 0;
    }
    if (left > 0 && --left == 0) {
        kill(getpid(), SIGKILL);
    }
}
