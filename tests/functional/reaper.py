#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs a command, and is the parent of what that leaves behind.

libvirtd waits until the QEMU that it has ended is gone, and QEMU's parent is init by then.  Where
that looks after its children every two seconds only, as in some containers, each end of a guest and
each start that is refused takes that long.  SIGTERM goes to the command, SIGUSR1 kills it.
"""

import ctypes
import os
import signal
import sys

PR_SET_CHILD_SUBREAPER = 36


def main() -> None:
    """reaper.py COMMAND [ARGUMENT…]: ends when the command does, with its status."""
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        sys.exit(f'prctl: {os.strerror(ctypes.get_errno())}')
    child = os.posix_spawnp(sys.argv[1], sys.argv[1:], os.environ)
    signal.signal(signal.SIGTERM, lambda *_: os.kill(child, signal.SIGTERM))
    signal.signal(signal.SIGUSR1, lambda *_: os.kill(child, signal.SIGKILL))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while True:
        pid, status = os.wait()
        if pid == child:
            sys.exit(os.waitstatus_to_exitcode(status) & 0xff)


if __name__ == '__main__':
    main()
