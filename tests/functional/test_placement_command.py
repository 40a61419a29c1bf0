#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""`ballast placement`: tables, JSON and pictures, of a QEMU and of a process seen from outside."""

import json
import mmap
import os
import re
import signal
import subprocess
import sys
import tempfile
import xml.etree.ElementTree
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Dict, Iterator, List, Tuple

from ballast import deny, paths, tap
from ballast.fakeqmp import serve, speak
from ballast.vm import VM, wait_until

MIB, GIB = 1 << 20, 1 << 30
SVG = '{http://www.w3.org/2000/svg}'


def _part(size: int, on: Dict[int, int], **more: Any) -> Dict[str, Any]:
    """Figures of some memory; what is on no node is absent."""
    return {'size': size, 'nodes': [{'node': node, 'bytes': there} for node, there in on.items()],
            'absent': size - sum(on.values()), 'unknown': 0, **more}


# Guest node 0 on host nodes 0 and 2, guest node 1 on node 3 and in two ranges.
LOW = _part(GIB, {0: 600 * MIB, 2: 200 * MIB})
HIGH = (_part(GIB, {3: GIB}), _part(2 * GIB, {3: GIB}))
PLACEMENT: Dict[str, Any] = {
    'mode': 'sample', 'state': 'done', 'method': 'move-pages', 'topology': 'one-to-many',
    'size': 4 * GIB, 'looked-at': 4 * GIB, 'elapsed-us': 1650,
    'backends': [
        {**LOW, 'id': 'm0', 'memdev': '/objects/m0', 'page-size': 4096, 'policy': 'preferred', 'host-nodes': [0],
         'guest-nodes': [0], 'samples': 1024, 'error-bytes': 32 * MIB,
         'ranges': [{**LOW, 'offset': 0, 'address': 0, 'guest-node': 0}]},
        {**_part(3 * GIB, {3: 2 * GIB}), 'id': 'm1', 'memdev': '/objects/m1', 'page-size': 2 * MIB, 'policy': 'bind',
         'host-nodes': [2, 3], 'guest-nodes': [1], 'samples': 3072, 'error-bytes': 48 * MIB,
         'ranges': [{**HIGH[0], 'offset': 0, 'address': GIB, 'guest-node': 1},
                    {**HIGH[1], 'offset': GIB, 'address': 4 * GIB, 'guest-node': 1}]}],
    'vnodes': [{**LOW, 'node': 0, 'pnodes': [0, 2], 'error-bytes': 32 * MIB},
               {**_part(3 * GIB, {3: 2 * GIB}), 'node': 1, 'pnodes': [3], 'error-bytes': 48 * MIB}],
    'pnodes': [{'node': 0, 'vnodes': [0], 'bytes': 600 * MIB}, {'node': 2, 'vnodes': [0], 'bytes': 200 * MIB},
               {'node': 3, 'vnodes': [1], 'bytes': 2 * GIB}]}
STOCK: Dict[str, Any] = {'qmp_capabilities': {}, 'query-name': {'name': 'vm1'},
                         'query-status': {'status': 'running', 'running': True}}
QEMU: Dict[str, Any] = {**STOCK, 'query-memory-placement': PLACEMENT}


def _ballast(*arguments: object, wrapper: Tuple[str, ...] = (), user: Any = None) -> 'subprocess.CompletedProcess[str]':
    return subprocess.run([*wrapper, str(paths.CLI), 'placement', *map(str, arguments)], text=True, check=False,
                          stdin=subprocess.DEVNULL, capture_output=True, timeout=120, user=user,
                          env={**os.environ, 'LC_ALL': 'C.UTF-8'})


def _need() -> None:
    tap.need(paths.CLI.exists(), f'the ballast command ({paths.CLI})')
    tap.need('no JSON library' not in _ballast('--help').stderr, 'a build with json-c (libjson-c-dev)')


def _ok(*arguments: object, **more: Any) -> str:
    done = _ballast(*arguments, **more)
    tap.equal((done.returncode, done.stderr), (0, ''), 'status and stderr')
    return done.stdout


def _fails(words: List[str], *arguments: object, status: int = 1, **more: Any) -> None:
    """One line on stderr that has all of this."""
    done = _ballast(*arguments, **more)
    tap.note(done.stderr)
    tap.equal((done.returncode, done.stdout, len(done.stderr.splitlines())), (status, '', 1), 'status and output')
    assert all(word in done.stderr for word in words), (words, done.stderr)


def _valid(text: str) -> Dict[str, Any]:
    """The object, which fits the schema."""
    value = dict(json.loads(text))
    try:
        import jsonschema       # pylint: disable=import-outside-toplevel
    except ImportError:
        tap.note('not compared with the schema: no python3-jsonschema')
        return value
    schema = json.loads((paths.REPO / 'docs/schema/placement.schema.json').read_text('utf-8'))
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.Draft202012Validator(schema).validate(value)
    return value


def _rows(text: str) -> List[List[str]]:
    return [re.split(' {2,}', line) for line in text.splitlines()]


# -- of a QEMU ------------------------------------------------------------------

@tap.case('a table: guest nodes, host nodes that are used, backends by range')
def table() -> None:
    """Of an answer that is known."""
    _need()
    with serve(speak(QEMU, events=True)) as path:
        text = _ok('--qmp', path)
    tap.note(text)
    rows = _rows(text)
    for wanted in (['vm1 (QEMU 10.0.2): running'], ['4G, 2.78G of it on 3 host nodes: one-to-many'],
                   ['sample, done: 4096 pages asked for, 1.6 ms, 95 % confidence'],
                   ['guest node', 'size', 'node 0', 'node 2', 'node 3', 'absent', 'unknown', 'give/take'],
                   ['guest node 0', '1G', '600M', '200M', '0', '224M', '0', '32M'],
                   ['guest node 1', '3G', '0', '0', '2G', '1G', '0', '48M'],
                   ['all', '4G', '600M', '200M', '2G', '1.21G', '0'],
                   ['m0', '1G', '600M', '200M', '0', '224M', '0', 'guest node 0, at 0x0, pages of 4K, preferred 0'],
                   ['m1', '2G', '0', '0', '1G', '1G', '0',
                    'guest node 1, at 0x100000000, pages of 2M, bind 2 3']):
        assert wanted in rows, wanted
    assert not any(line.endswith(' ') for line in text.splitlines()), 'blanks at the end'


@tap.case('JSON is what QEMU said, and fits the schema')
def as_json() -> None:
    """With name and status."""
    _need()
    with serve(speak(QEMU)) as path:
        value = _valid(_ok('--qmp', path, '--json'))
    tap.equal(value, {'name': 'vm1', 'status': 'running', 'placement': PLACEMENT}, 'JSON')


def _picture(*arguments: object) -> xml.etree.ElementTree.Element:
    with tempfile.TemporaryDirectory(prefix='ballast-') as directory:
        file = Path(directory) / 'picture.svg'
        _ok(*arguments, '--svg', file)
        return xml.etree.ElementTree.fromstring(file.read_text('utf-8'))


def _boxes(picture: xml.etree.ElementTree.Element) -> Dict[str, float]:
    """{title: height}."""
    return {box.findtext(f'{SVG}title', ''): float(box.get('height', '0'))
            for box in picture.iter(f'{SVG}rect') if box.find(f'{SVG}title') is not None}


@tap.case('a picture: boxes as high as memory is large, a band for each pair')
def picture() -> None:
    """Heights are compared, not looked at."""
    _need()
    with serve(speak(QEMU)) as path:
        drawn = _picture('--qmp', path)
    boxes = _boxes(drawn)
    scale = boxes['host node 3'] / (2 * GIB)
    for title, size in (('host node 0', 600 * MIB), ('host node 2', 200 * MIB),
                        ('guest node 0: 600M on host node 0', 600 * MIB), ('guest node 0: 224M absent', 224 * MIB),
                        ('guest node 1: 2G on host node 3', 2 * GIB), ('guest node 1: 1G absent', GIB)):
        assert abs(boxes[title] - size * scale) < 0.1, (title, boxes)
    bands = [band.findtext(f'{SVG}title') for band in drawn.iter(f'{SVG}path')]
    tap.equal(bands, ['guest node 0: 600M on host node 0', 'guest node 0: 200M on host node 2',
                      'guest node 1: 2G on host node 3'], 'bands')
    height = float(drawn.get('height', '0'))
    assert all(float(box.get('y', '0')) + float(box.get('height', '0')) <= height
               for box in drawn.iter(f'{SVG}rect') if box.get('y')), 'a box is outside'


@tap.case('words of QEMU move no cursor and break no picture')
def hostile_words() -> None:
    """And figures that are none are no crash."""
    _need()
    bad = json.loads(json.dumps(PLACEMENT))
    bad['backends'][0].update({'id': '\x1b[2J<b>&"\x9b', 'policy': '\x1b]0;x\x07'})
    bad['vnodes'][0]['nodes'] += [{'node': 1 << 40, 'bytes': 5}, {'node': -1, 'bytes': 5}, {}, 7, None, 'x']
    bad['vnodes'].append('nonsense')
    bad['backends'] += [None, {}, {'ranges': {}}, {'ranges': [1]}]
    with serve(speak({**STOCK, 'query-name': {'name': '\x1b[2J<script>&\x07'}, 'query-memory-placement': bad})) as path:
        done = _ballast('--qmp', path)
        drawn = _picture('--qmp', path)
    tap.equal(done.returncode, 0, 'exit status')
    assert not re.search('[\x00-\x09\x0b-\x1f\x7f-\x9f]', done.stdout), repr(done.stdout)
    assert '<script>' in ''.join(drawn.itertext()), 'the name is not in the picture'
    for odd in ({}, {'vnodes': 3, 'backends': 'x'}, {'vnodes': [], 'size': -1}):
        with serve(speak({**STOCK, 'query-memory-placement': odd})) as path:
            tap.equal(_ballast('--qmp', path).returncode, 0, f'exit status with {odd}')


@tap.case('--exact starts a look, waits for its end and shows it')
def exact() -> None:
    """With its time limit; the socket is free for others meanwhile."""
    _need()
    asked: List[Any] = []
    states = ['running', 'running', 'timed-out']

    def start(arguments: Dict[str, Any]) -> Dict[str, Any]:
        asked.append(arguments)
        return {}

    def query(arguments: Dict[str, Any]) -> Dict[str, Any]:
        asked.append(arguments)
        return {**PLACEMENT, 'mode': 'exact', 'state': states.pop(0), 'looked-at': GIB}
    with serve(speak({**QEMU, 'memory-placement-start': start, 'query-memory-placement': query})) as path:
        text = _ok('--qmp', path, '--exact=7')
    tap.equal(asked, [{'time-limit': 7000}, *[{'mode': 'exact'}] * 3], 'what was asked')
    assert 'exact, timed-out' in text and 'only 25 % was looked at' in text, text


@tap.case('Ctrl-C cancels an exact look, and shows what it found')
def cancelled() -> None:
    """In QEMU, too."""
    _need()
    done: List[str] = []

    def query(_: Dict[str, Any]) -> Dict[str, Any]:
        if not done:
            done.append('asked')
        return {**PLACEMENT, 'mode': 'exact', 'state': 'cancelled' if 'cancelled' in done else 'running'}
    with serve(speak({**STOCK, 'memory-placement-start': {}, 'query-memory-placement': query,
                      'memory-placement-cancel': lambda _: done.append('cancelled') or {}})) as path:
        with subprocess.Popen([paths.CLI, 'placement', '--qmp', path, '--exact'], text=True, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE) as process:
            wait_until(lambda: done, 'a question')
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=60)
    tap.equal((process.returncode, err), (0, ''), 'status and stderr')
    assert 'exact, cancelled' in out, out


@tap.case('a QEMU without Ballast, and mistakes')
def mistakes() -> None:
    """Each in one line."""
    _need()
    with serve(speak(STOCK)) as path:
        _fails(['no Ballast', '--pid'], '--qmp', path)
        _fails(['no Ballast', '--pid'], '--qmp', path, '--exact')
    with serve(speak(QEMU)) as path:
        done = _ballast('--qmp', path, '--svg', '/nowhere/x.svg')
        assert done.returncode == 1 and '--svg /nowhere/x.svg: No such file' in done.stderr, done
        done = _ballast('--qmp', path, '--svg', '/dev/full')
        assert done.returncode == 1 and 'No space left' in done.stderr, done
    _fails(['--qmp', '--pid'], status=2)
    _fails(['--qmp', '--pid'], '--qmp', '/x', '--pid', '1', status=2)
    for wrong in ('--pid=0', '--pid=x', '--pid=99999999999', '--exact=0', '--exact=x', '--qmp=', '--frob', 'more'):
        _fails([wrong.partition('=')[0]], wrong, status=2)
    _fails(['cannot connect', 'No such file'], '--qmp', '/none')
    _fails(['999999999', 'no such process'], '--pid', 999999999)


# -- of a process ---------------------------------------------------------------

CHILD = '''
import ctypes, mmap, os, sys
kind, size, touched = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
if kind == 'private':
    memory = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
elif kind == 'code':
    memory = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
else:
    fd = os.memfd_create('some ram') if kind == 'memfd' else os.open(kind, os.O_RDWR)
    os.ftruncate(fd, size)
    memory = mmap.mmap(fd, size)
if kind == 'private':
    memory.madvise(mmap.MADV_NOHUGEPAGE)
for at in range(0, touched, 4096):
    memory[at] = 1
if kind == 'private':
    memory.madvise(mmap.MADV_DONTDUMP, size // 4, size // 4)       # three mappings now
print('ready', flush=True)
sys.stdin.read()
'''


@contextmanager
def _child(kind: str, size: int, touched: int, **more: Any) -> Iterator[int]:
    with subprocess.Popen([sys.executable, '-c', CHILD, kind, str(size), str(touched)], text=True,
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE, **more) as process:
        assert process.stdout
        tap.equal(process.stdout.readline(), 'ready\n', 'the child')
        yield process.pid
        process.kill()


def _there(part: Dict[str, Any]) -> int:
    return sum(int(node['bytes']) for node in part['nodes'])


def _mapping(pid: int, size: int, *options: str, **more: Any) -> Tuple[Dict[str, Any], Dict[str, Any]]:
    """All, and the mapping that has at least that size."""
    value = _valid(_ok('--pid', pid, '--json', *options, **more))
    found = [one for one in value['mappings'] if one['size'] >= size]
    tap.equal(len(found), 1, f'mappings of {size} bytes in {value}')
    for one in value['mappings']:
        total = _there(one) + one['absent'] + one['unknown']
        assert abs(total - one['size']) < 1000, one
    return value, found[0]


def _process(kind: str) -> None:
    _need()
    with tempfile.NamedTemporaryFile(prefix='ballast-') as file:
        with _child(file.name if kind == 'file' else kind, 256 * MIB, 96 * MIB) as pid:
            value, exactly = _mapping(pid, 256 * MIB, '--exact')
            tap.equal((value['mode'], value['method'], exactly['kind']), ('exact', 'move-pages', kind), 'how')
            slack = 16 * MIB if kind == 'private' else 0        # a neighbour may have been joined to it
            assert 96 * MIB <= _there(exactly) <= 96 * MIB + slack, exactly
            _, sampled = _mapping(pid, 256 * MIB)
            assert abs(_there(sampled) - _there(exactly)) <= 3 * sampled['error-bytes'], sampled
            text = _ok('--pid', pid)
            tap.note(text)
            assert 'cannot be known' in text and f'process {pid} (python' in text, text
            assert 'mapping' in ''.join(_picture('--pid', pid).itertext())


for _kind in ('private', 'memfd', 'file'):
    tap.add(f'a process from outside: {_kind}', _process, _kind)


@tap.case('a process from outside: what is not like guest RAM')
def unlike() -> None:
    """Code that can be written, as TCG's, and nothing large at all."""
    _need()
    with _child('code', 256 * MIB, 64 * MIB) as pid:
        _fails([str(pid), 'no mapping like guest RAM'], '--pid', pid)


@tap.case('a process from outside: where it is forbidden')
def forbidden() -> None:
    """By seccomp: numa_maps tells.  Somebody else's: refused."""
    _need()
    with _child('memfd', 128 * MIB, 32 * MIB) as pid:
        value, mapping = _mapping(pid, 128 * MIB, wrapper=(sys.executable, deny.__file__, str(deny.MOVE_PAGES)))
        tap.equal((value['method'], _there(mapping), mapping['error-bytes']), ('numa-maps', 32 * MIB, 0), 'numa_maps')
        tap.need(os.getuid() == 0, 'root, to be somebody else')
        with tempfile.TemporaryDirectory(prefix='ballast-') as directory:
            os.chmod(directory, 0o755)
            copy = Path(directory) / 'ballast'
            copy.write_bytes(paths.CLI.read_bytes())
            copy.chmod(0o755)
            done = subprocess.run([copy, 'placement', '--pid', str(pid)], text=True, check=False, user=65534,
                                  capture_output=True, timeout=60)
        tap.note(done.stderr)
        assert done.returncode == 1 and 'not permitted' in done.stderr and not done.stdout, done


@tap.case('a real QEMU: what it says, and what is seen from outside')
def real() -> None:
    """The same memory."""
    _need()
    tap.need(paths.has_ballast(), f'the plug-in ({paths.PLUGIN})')
    with tempfile.TemporaryDirectory(prefix='ballast-') as directory:
        path = os.path.join(directory, 'qmp')
        with VM(['-M', 'q35,memory-backend=m0', '-m', '384M', '-object', 'memory-backend-memfd,id=m0,size=384M',
                 '-accel', 'tcg', '-S', '-name', 'real', '-qmp', f'unix:{path},server=on,wait=off'],
                plugin={}) as vm:
            vm.launch()
            vm.qtest.do(f'memset {64 * MIB:#x} {96 * MIB:#x} 0x5a')
            pid = vm.get_pid()
            assert pid
            inside = _valid(_ok('--qmp', path, '--exact', '--json'))['placement']
            _, outside = _mapping(pid, 384 * MIB, '--exact')
            assert _there(inside['backends'][0]) >= 96 * MIB
            tap.equal(_there(outside), _there(inside['backends'][0]), 'bytes on nodes')
            text = _ok('--qmp', path)
            tap.note(text)
            assert 'real (QEMU ' in text, text
            assert len(_boxes(_picture('--qmp', path))) >= 2
            _valid(_ok('--qmp', path, '--json'))


assert mmap.PAGESIZE == 4096, 'these tests count in pages of 4 KiB'

if __name__ == '__main__':
    tap.main()
