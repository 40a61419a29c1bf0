#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""`ballast migration`: what it says of a real QEMU, and of one that says anything but what it should."""

import json
import os
import socket
import subprocess
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Dict, Iterator, List, Tuple

from ballast import mailbox, paths, tap
from ballast.fakeqmp import GREETING, Talk, serve, speak
from ballast.vm import VM, Sink, wait_until

VERDICTS: Dict[str, Any] = {'applied': 391, 'late': 2, 'unarmed': 0, 'malformed': 1, 'foreign': 3,
            'applied-bytes': 1 << 30, 'late-bytes': 8192, 'bad-ids': 0}
HINTS: Dict[str, Any] = {'device': 'balloon0', 'state': 'done', 'generation': 4, 'cmd-id': 2147483651, 'armed': True,
         'arm-time-ns': 8600000, 'migration': VERDICTS, 'total': {**VERDICTS, 'applied': 400}}
MIGRATE = {'status': 'active', 'total-time': 1500, 'expected-downtime': 12,
           'ram': {'total': 1 << 30, 'remaining': 1 << 28, 'transferred': 5 << 20, 'normal': 7,
                   'duplicate': 8, 'dirty-sync-count': 4, 'dirty-pages-rate': 9}}


def _need() -> None:
    tap.need(paths.CLI.exists(), f'the ballast command ({paths.CLI})')
    built = 'no JSON library' not in _ballast('/none').stderr
    tap.need(built, 'a build with json-c (libjson-c-dev)')


def _ballast(path: object, *arguments: str) -> 'subprocess.CompletedProcess[str]':
    return subprocess.run([paths.CLI, 'migration', '--qmp', str(path), *arguments], text=True, check=False,
                          stdin=subprocess.DEVNULL, capture_output=True, timeout=60)


def _says(done: 'subprocess.CompletedProcess[str]', *words: str, status: int = 1) -> None:
    """One line on stderr that has all of this."""
    tap.note(done.stderr)
    tap.equal((done.returncode, len(done.stderr.strip().splitlines())), (status, 1), 'status and lines')
    assert all(word in done.stderr for word in words), (words, done.stderr)


STOCK: Dict[str, Any] = {'qmp_capabilities': {}, 'query-name': {'name': 'vm1'},
                         'query-status': {'status': 'running', 'running': True}, 'query-migrate': MIGRATE}
BALLAST = {**STOCK, 'query-free-page-hints': HINTS}


def _lines(text: str) -> List[List[str]]:
    return [line.split() for line in text.splitlines()]


@tap.case('every figure is there, whatever comes between and in whatever pieces')
def figures() -> None:
    """Known members by their names, sizes as sizes, two columns of verdicts."""
    _need()
    with serve(speak(BALLAST, events=True, piecemeal=True)) as path:
        done = _ballast(path)
    tap.note(done.stdout)
    tap.equal((done.returncode, done.stderr), (0, ''), 'status and stderr')
    lines = _lines(done.stdout)
    assert not any(line.endswith(' ') for line in done.stdout.splitlines()), 'blanks at the end'
    for wanted in ('vm1 (QEMU 10.0.2): running', 'migration: active, 1.5 s, downtime would be 12 ms',
                   'sent 5.0 MiB for a guest of 1.0 GiB, 256 MiB left (75 % done)', 'hints: balloon0: done',
                   'pages 7 with content, 8 zero', 'cmd id 2147483651', 'armed yes', 'arm time 8.600 ms',
                   'applied 391 400', 'applied bytes 1.0 GiB (262144 pages) 1.0 GiB (262144 pages)',
                   'malformed 1 1'):
        assert wanted.split() in lines, wanted


@tap.case('members that are not known yet are shown, those that are gone are not missed')
def other_versions() -> None:
    """A newer plug-in, an older one, and one with several devices."""
    _need()
    absent = {'use': 'used', 'skipped-bytes': 8192, 'scan-time-ns': 500, 'new': 7}
    newer = {**HINTS, 'absent': absent, 'absent-bytes': 4096 * 5, 'cpu-time-ns': 1500000, 'big': (1 << 64) - 1}
    with serve(speak({**STOCK, 'query-free-page-hints': newer})) as path:
        lines = _lines(_ballast(path).stdout)
    for wanted in ('absent bytes 20 KiB (5 pages)', 'cpu time 1.500 ms', 'big 18446744073709551615',
                   'absent: used', 'skipped bytes 8.0 KiB (2 pages)', 'scan time 0.001 ms', 'new 7'):
        assert wanted.split() in lines, (wanted, lines)
    with serve(speak({**STOCK, 'query-free-page-hints': {'devices': [HINTS, {'device': 'b1'}]}})) as path:
        text = _ballast(path).stdout
    assert 'hints: balloon0: done' in text and 'hints: b1: ?' in text, text
    with serve(speak({**STOCK, 'query-migrate': {}, 'query-name': {}})) as path:
        text = _ballast(path).stdout
    assert 'guest without a name' in text and 'migration: none so far' in text, text


@tap.case('a QEMU without Ballast is told of as far as it goes')
def without_ballast() -> None:
    """In words, and in JSON."""
    _need()
    with serve(speak(STOCK)) as path:
        done, as_json = _ballast(path), _ballast(path, '--json')
    tap.equal(done.returncode, 0, 'exit status')
    assert 'no Ballast' in done.stdout and 'active' in done.stdout, done.stdout
    value = json.loads(as_json.stdout)
    tap.equal((value['ballast'], value['hints'], value['migration']), (False, None, MIGRATE))


@tap.case('words of QEMU cannot move the cursor')
def hostile_words() -> None:
    """Escape sequences in a name or an error."""
    _need()
    failed = {'status': 'failed', 'error-desc': 'no\033[2J\nroom'}
    with serve(speak({**BALLAST, 'query-name': {'name': 'a\033b'}, 'query-migrate': failed})) as path:
        text = _ballast(path).stdout
    assert '\033' not in text and 'a?b' in text and 'no?[2J?room' in text, text


def _say(data: bytes) -> Talk:
    return lambda connection: connection.sendall(data)


def _flood(connection: socket.socket) -> None:
    while True:
        connection.sendall(b'x' * 65536)


def _mute(connection: socket.socket) -> None:
    time.sleep(5)


def _greets_only(connection: socket.socket) -> None:
    connection.sendall(json.dumps(GREETING).encode() + b'\n')
    connection.recv(4096)
    time.sleep(5)


def _events_for_ever(connection: socket.socket) -> None:
    connection.sendall(json.dumps(GREETING).encode() + b'\n')
    while True:
        connection.sendall(b'{"event": "STOP"}\n')
        time.sleep(0.01)


STRANGERS: Tuple[Tuple[str, Talk, Tuple[str, ...]], ...] = (
    ('garbage', _say(b'\x00\xff\x1b[2J nonsense\n'), ('does not speak QMP', 'nonsense')),
    ('the human monitor', _say(b"QEMU 10.0.2 monitor - type 'help'\r\n(qemu) \n"), ('does not speak QMP',)),
    ('JSON that is not QMP', _say(b'{"hello": 1}\n'), ('does not speak QMP', 'hello')),
    ('a number', _say(b'17\n'), ('does not speak QMP', '17')),
    ('nesting without end', _say(b'[' * 100000 + b'\n'), ('does not speak QMP',)),
    ('half a line', _say(b'{"QMP": '), ('closed the connection',)),
    ('nothing', _say(b''), ('closed the connection',)),
    ('a line without end', _flood, ('more than 4 MiB',)),
    ('silence', _mute, ('no greeting in 1 s', 'one at a time')),
    ('silence after the greeting', _greets_only, ('did not answer in 1 s',)),
    ('events and no answer', _events_for_ever, ('did not answer in 1 s',)),
)


def stranger(talk: Talk, words: Tuple[str, ...]) -> None:
    """One line, no escape sequence, and in time."""
    _need()
    with serve(talk) as path:
        begun = time.monotonic()
        done = _ballast(path, '--timeout', '1')
    assert time.monotonic() - begun < 20, 'the deadline was missed'
    assert '\033' not in done.stderr and not done.stdout, done
    _says(done, *words)


for _name, _talk, _words in STRANGERS:
    tap.add(f'at the socket: {_name}', stranger, _talk, _words)


@tap.case('errors that QEMU reports are passed on')
def errors() -> None:
    """Also an answer that is none."""
    _need()

    def talk(connection: socket.socket) -> None:
        connection.sendall(json.dumps(GREETING).encode() + b'\n')
        connection.recv(4096)
        connection.sendall(b'{"error": {"class": "GenericError", "desc": "not today"}}\n')
    with serve(talk) as path:
        _says(_ballast(path), 'qmp_capabilities', 'not today')


@tap.case('no socket, no such thing, wrong options')
def refusals() -> None:
    """Each in one line."""
    _need()
    with tempfile.TemporaryDirectory(prefix='ballast-') as directory:
        _says(_ballast(f'{directory}/none'), 'cannot connect', 'No such file')
        plain = Path(directory) / 'file'
        plain.write_text('')
        _says(_ballast(plain), 'Connection refused')
        _says(_ballast(f'{directory}/{"x" * 120}'), 'at most 107 bytes')
    _says(_ballast(''), '--qmp PATH', status=2)
    for wrong in (['--timeout', '0'], ['--watch=x'], ['--frob'], ['more']):
        _says(_ballast('/none', *wrong), wrong[0].partition('=')[0], status=2)


@contextmanager
def _machine(plugin: bool) -> Iterator[Tuple[VM, str]]:
    """A real QEMU with a QMP socket beside the test's own."""
    tap.need(not plugin or paths.has_ballast(), f'the plug-in ({paths.PLUGIN})')
    tap.need(paths.FIRMWARE.exists(), f'the firmware ({paths.FIRMWARE})')
    with tempfile.TemporaryDirectory(prefix='ballast-') as directory:
        path = os.path.join(directory, 'qmp')
        device = 'virtio-balloon-ledger-pci' if plugin else 'virtio-balloon-pci'
        with VM([*mailbox.pc('64M'), '-accel', 'tcg', '-device', f'{device},id=balloon0', '-name', 'real',
                 '-qmp', f'unix:{path},server=on,wait=off'], plugin={} if plugin else None) as machine:
            machine.launch()
            yield machine, path


@tap.case('a real QEMU, before and while it migrates')
def real() -> None:
    """With the plug-in; slow enough to be looked at."""
    _need()
    with _machine(True) as (machine, path):
        text = _ballast(path).stdout
        tap.note(text)
        assert 'hints: balloon0: ' in text and 'migration: none so far' in text, text
        machine.qmp('migrate-set-parameters', {'max-bandwidth': 4096})
        machine.qmp('migrate', uri=f'unix:{Sink(machine).path}')
        wait_until(lambda: machine.migration().get('ram'), 'the migration to send')
        text = _ballast(path).stdout
        tap.note(text)
        assert 'migration: active' in text and 'for a guest of' in text, text
        tap.equal(json.loads(_ballast(path, '--json').stdout)['migration']['status'], 'active')


@tap.case('a real QEMU without the plug-in')
def real_stock() -> None:
    """Nothing of it is a mistake."""
    _need()
    with _machine(False) as (_, path):
        done = _ballast(path)
        tap.equal(done.returncode, 0, 'exit status')
        assert 'real (QEMU ' in done.stdout and 'no Ballast' in done.stdout, done.stdout


@tap.case('a real QMP socket that another client has')
def in_use() -> None:
    """QEMU greets one client at a time."""
    _need()
    with _machine(False) as (_, path), socket.socket(socket.AF_UNIX) as other:
        other.connect(path)
        assert b'QMP' in other.recv(65536)
        _says(_ballast(path, '--timeout', '1'), 'another client', 'one at a time')


@tap.case('--watch looks again and again, and leaves the socket to others meanwhile')
def watch() -> None:
    """It ends when QEMU does."""
    _need()
    with _machine(False) as (machine, path):
        with subprocess.Popen([paths.CLI, 'migration', '--qmp', path, '--watch', '--json'], text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE) as watcher:
            assert watcher.stdout and watcher.stderr
            for _ in range(2):
                tap.equal(json.loads(watcher.stdout.readline())['name'], 'real')
            tap.equal(_ballast(path).returncode, 0, 'another client')
            machine.shutdown()
            tap.equal(watcher.wait(30), 1, 'exit status')
            tap.note(watcher.stderr.read())


if __name__ == '__main__':
    tap.main()
