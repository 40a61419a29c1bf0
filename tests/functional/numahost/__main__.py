# SPDX-License-Identifier: GPL-2.0-or-later
"""python3 -m numahost: a shell or a command in the host; scripts/numa-host without the set-up."""

import argparse
import fcntl
import os
import select
import shlex
import socket
import struct
import sys
import termios
import threading
import tty
from contextlib import contextmanager
from typing import Iterator, List

from . import image
from .host import MIB, NODES, NODE_BYTES, NumaHost

LINE_TIMEOUT = 24 * 3600.0
NODES_ALLOWED = 1, 16
MEMORY_ALLOWED = 128, 65536          # MiB of a node


@contextmanager
def _raw(terminal: int) -> Iterator[None]:
    """Keys go through as they are, Ctrl-C too."""
    if not os.isatty(terminal):
        yield
        return
    before = termios.tcgetattr(terminal)
    tty.setraw(terminal)
    try:
        yield
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)


def _relay(port: socket.socket, ended: threading.Event) -> None:
    """Between this terminal and the port, until the shell has ended; keys from its first prompt on."""
    sources: List[object] = [port]
    prompted = False
    while not ended.is_set():
        ready = select.select(sources, [], [], 0.1)[0]
        if port in ready:
            data = port.recv(65536)
            if not data:
                return
            os.write(sys.stdout.fileno(), data)
            if not prompted:
                sources.append(sys.stdin.fileno())
                prompted = True
        if sys.stdin.fileno() in ready:
            data = os.read(sys.stdin.fileno(), 4096)
            if data:
                port.sendall(data)
            else:
                sources.remove(sys.stdin.fileno())
                port.sendall(b'\x04')


def _size() -> str:
    """Of this terminal, for stty."""
    try:
        rows, columns = struct.unpack('hh', fcntl.ioctl(sys.stdout, termios.TIOCGWINSZ, b'\0' * 4))
    except OSError:
        rows, columns = 0, 0
    return f'rows {rows or 24} cols {columns or 80}'


def _shell(host: NumaHost) -> int:
    """bash on the second serial port, and that port on this terminal."""
    host.run(f'stty -F /dev/ttyS1 sane {_size()}')
    ended = threading.Event()
    status = [1]

    def wait() -> None:
        try:
            command = host.command(r"PS1='numa-host:\w\$ ' exec bash -i", {'TERM': os.environ.get('TERM', 'linux')})
            command = f'setsid -c {command} </dev/ttyS1 >/dev/ttyS1 2>&1'
            status[0] = host.follow(command, lambda line: None, LINE_TIMEOUT)
        finally:
            ended.set()
    with socket.socket(socket.AF_UNIX) as port:
        port.connect(host.terminal)
        waiter = threading.Thread(target=wait, daemon=True)
        with _raw(sys.stdin.fileno()):
            waiter.start()
            _relay(port, ended)
    return status[0]


def main() -> int:
    """The exit status of what ran in there."""
    parser = argparse.ArgumentParser(prog='numa-host', allow_abbrev=False, usage=os.environ.get('BALLAST_USAGE'))
    parser.add_argument('--nodes', type=int, default=NODES)
    parser.add_argument('--memory', type=int, default=NODE_BYTES // MIB)
    parser.add_argument('--kernel', default='')
    parser.add_argument('command', nargs='*')
    args = parser.parse_args()
    for name, value, (low, high) in (('nodes', args.nodes, NODES_ALLOWED), ('memory', args.memory, MEMORY_ALLOWED)):
        if not low <= value <= high:
            parser.error(f'--{name} {value}: {low} to {high} is allowed')
    missing = image.missing()
    if missing:
        parser.exit(1, f'numa-host: needs {missing}\n')
    with NumaHost(args.nodes, args.memory * MIB, kernel=args.kernel) as host:
        host.start()
        if args.command:
            command = host.command(shlex.join(args.command))
            return host.follow(command, lambda line: print(line, flush=True), LINE_TIMEOUT)
        print(f'A host with {args.nodes} nodes of {args.memory} MiB.  /ballast is a copy of this build and its tests:\n'
              '  ballast init --ledger /tmp/ledger && ballast status --ledger /tmp/ledger\n'
              '  python3 -m numa -l        # the tests; -k PATTERN runs some\n'
              'exit, or Ctrl-D, ends it; nothing is kept.', flush=True)
        return _shell(host)


if __name__ == '__main__':
    sys.exit(main())
