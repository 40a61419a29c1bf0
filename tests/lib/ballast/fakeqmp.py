# SPDX-License-Identifier: GPL-2.0-or-later
"""Somebody at a QMP socket who says what a test wants: `with serve(speak({...})) as path`."""

import json
import socket
import tempfile
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable, Dict, Iterator

GREETING = {'QMP': {'version': {'qemu': {'major': 10, 'minor': 0, 'micro': 2}, 'package': ''},
                    'capabilities': []}}

Talk = Callable[[socket.socket], None]


@contextmanager
def serve(talk: Talk) -> Iterator[Path]:
    """Somebody at a socket, who talks to each that comes."""
    with tempfile.TemporaryDirectory(prefix='ballast-') as directory, socket.socket(socket.AF_UNIX) as door:
        path = Path(directory) / 'qmp'
        door.bind(str(path))
        door.listen()
        threading.Thread(target=_talk_to_each, args=(door, talk), daemon=True).start()
        yield path
        door.shutdown(socket.SHUT_RDWR)


def _talk_to_each(door: socket.socket, talk: Talk) -> None:
    while True:
        try:
            connection, _ = door.accept()
        except OSError:
            return
        with connection:
            try:
                talk(connection)
            except OSError:
                pass        # the client has heard enough


def speak(answers: Dict[str, Any], events: bool = False, piecemeal: bool = False) -> Talk:
    """A QMP server that knows these commands; an answer may be a function of the arguments."""
    def send(connection: socket.socket, message: Any) -> None:
        data = json.dumps(message).encode() + b'\r\n'
        for part in ([bytes([byte]) for byte in data] if piecemeal else [data]):
            connection.sendall(part)

    def talk(connection: socket.socket) -> None:
        send(connection, GREETING)
        for line in connection.makefile():
            request = json.loads(line)
            name = request['execute']
            if events:
                send(connection, {'event': 'STOP', 'timestamp': {'seconds': 1, 'microseconds': 2}})
            missing = {'error': {'class': 'CommandNotFound', 'desc': f'The command {name} has not been found'}}
            answer = answers.get(name)
            value = answer(request.get('arguments', {})) if callable(answer) else answer
            send(connection, {'return': value} if name in answers else missing)
    return talk
