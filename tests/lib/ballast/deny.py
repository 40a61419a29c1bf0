#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""deny.py NUMBER COMMAND…: run a command that gets EPERM for one system call, as some containers do.

x86_64 only; seccomp needs no privilege.
"""

import ctypes
import errno
import os
import struct
import sys

MOVE_PAGES = 279
_NO_NEW_PRIVS, _SECCOMP, _FILTER = 38, 22, 2
_LOAD, _JUMP_EQUAL, _RETURN = 0x20, 0x15, 0x06
_ERRNO, _ALLOW = 0x00050000, 0x7fff0000


def deny(number: int) -> None:
    """From now on, for this process and its children."""
    code = b''.join(struct.pack('HBBI', *instruction) for instruction in (
        (_LOAD, 0, 0, 0), (_JUMP_EQUAL, 0, 1, number),
        (_RETURN, 0, 0, _ERRNO | errno.EPERM), (_RETURN, 0, 0, _ALLOW)))
    text = ctypes.create_string_buffer(code)
    program = struct.pack('HxxxxxxP', len(code) // 8, ctypes.addressof(text))
    libc = ctypes.CDLL(None, use_errno=True)
    for arguments in ((_NO_NEW_PRIVS, 1, 0, 0, 0), (_SECCOMP, _FILTER, program, 0, 0)):
        if libc.prctl(*arguments):
            raise OSError(ctypes.get_errno(), 'prctl')


if __name__ == '__main__':
    deny(int(sys.argv[1]))
    os.execvp(sys.argv[2], sys.argv[2:])
