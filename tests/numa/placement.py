# SPDX-License-Identifier: GPL-2.0-or-later
"""query-memory-placement and `ballast placement` on a host with nodes, against what /proc says.

One guest has a backend of each kind.  A guest of 256 MiB is looked at whole with the largest sample,
so that its figures must be equal to the byte, as those of an exact look; the default sample must be as
near as it says.
"""

import atexit
import json
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from functools import lru_cache
from typing import Any, Dict, List

from ballast import deny, paths, tap
from ballast.vm import wait_until

from . import nodes
from .ledger import Ledger
from .machine import LOW, Guest, Vnode, bound, guest
from .nodes import GIANT, HUGE, MIB, PAGE

ALL = 65536             # pages
SLACK = 1.5             # times the error that an answer tells, which is two sigmas

BIND, INTERLEAVE, OVERFLOW, THP, POOL, SPLIT_POOL, MEMFD, FILE, UNTOUCHED = range(1, 10)
ZOO = [LOW, bound(24, 1), Vnode(24, 'host-nodes=0,host-nodes=2,policy=interleave'),
       Vnode(64, 'host-nodes=2,policy=preferred'), bound(24, 2),
       bound(16, 1, 'hugetlb=on,hugetlbsize=2M', 'memfd'),
       Vnode(16, 'hugetlb=on,hugetlbsize=2M,host-nodes=0,host-nodes=3,policy=interleave', 'memfd'),
       bound(24, 2, 'share=on', 'memfd'), bound(24, 3, 'share=on,mem-path=/dev/shm', 'file'), bound(16, 0)]
POOLS = {0: 8 * MIB, 1: 16 * MIB, 3: 8 * MIB}
LEFT = 40 * MIB         # free on node 2 while memory that prefers it is touched


@lru_cache(maxsize=None)
def zoo() -> Guest:
    """It lives until the program ends."""
    stack = ExitStack()
    atexit.register(stack.close)
    stack.enter_context(nodes.huge_pages(POOLS))
    one: Guest = stack.enter_context(guest(ZOO))
    with nodes.thp('never'):
        for vnode in (BIND, INTERLEAVE, MEMFD):
            one.touch(vnode)
        one.touch(FILE, 10)
    with nodes.thp('always'):
        one.touch(THP, 20, 2)
    for vnode in (POOL, SPLIT_POOL):
        one.touch(vnode)
    with nodes.filled(2, LEFT):
        one.touch(OVERFLOW)
    return one


def _by_node(part: Dict[str, Any]) -> Dict[int, int]:
    return {entry['node']: entry['bytes'] for entry in part['nodes']}


def _backend(answer: Dict[str, Any], vnode: int) -> Dict[str, Any]:
    (found,) = [part for part in answer['backends'] if part['id'] == f'm{vnode}']
    return dict(found)


def _check_equal(one: Guest, vnode: int) -> None:
    """Every page was looked at."""
    _equal(one, vnode, one.placement(samples=ALL))
    _equal(one, vnode, one.exact())


def _equal(one: Guest, vnode: int, answer: Dict[str, Any]) -> None:
    truth, size = one.truth(vnode), one.vnodes[vnode].size
    for part in (_backend(answer, vnode), answer['vnodes'][vnode]):
        tap.equal((_by_node(part), part['absent'], part['unknown']), (truth, size - sum(truth.values()), 0),
                  f"{answer['mode']}")
    tap.equal(_backend(answer, vnode)['error-bytes'], 0, 'error')
    tap.equal(answer['vnodes'][vnode]['pnodes'], sorted(truth), 'vnode to pnodes')
    tap.equal([entry['node'] for entry in answer['pnodes'] if vnode in entry['vnodes']], sorted(truth),
              'pnodes that name it')


def _check_near(one: Guest, vnode: int) -> None:
    """The default sample is as near as it says."""
    truth = one.truth(vnode)
    found = _backend(one.placement(), vnode)
    slack = SLACK * found['error-bytes'] + found['page-size']
    for node in nodes.online():
        off = abs(_by_node(found).get(node, 0) - truth.get(node, 0))
        assert off <= slack, f'node {node}: {found}, by the kernel {truth}'


def _check(vnode: int, truth: Dict[int, int]) -> Guest:
    one = zoo()
    tap.equal(one.truth(vnode), truth, "the kernel's word")
    _check_equal(one, vnode)
    _check_near(one, vnode)
    return one


@tap.case("bind: all on its node")
def bind() -> None:
    """4 KiB pages; the policy is told as it was given."""
    found = _backend(_check(BIND, {1: 24 * MIB}).placement(), BIND)
    tap.equal((found['policy'], found['host-nodes'], found['page-size']), ('bind', [1], PAGE), 'policy')


@tap.case("interleave: half on each of its nodes")
def interleave() -> None:
    """Page by page: a sample that takes every second page would be wrong by all of it."""
    _check(INTERLEAVE, {0: 12 * MIB, 2: 12 * MIB})


@tap.case("preferred, with too little there: what overflowed is told where it is")
def overflow() -> None:
    """The policy names one node, the memory is on more."""
    one = zoo()
    truth = one.truth(OVERFLOW)
    tap.note(f'by the kernel {truth}')
    assert 2 in truth and len(truth) > 1, truth
    tap.equal(sum(truth.values()), 64 * MIB, 'populated')
    _check_equal(one, OVERFLOW)
    _check_near(one, OVERFLOW)
    found = _backend(one.placement(), OVERFLOW)
    tap.equal((found['policy'], found['host-nodes']), ('preferred', [2]), 'policy')


@tap.case("transparent huge pages, in a part of a backend")
def transparent() -> None:
    """The kernel has them: otherwise this would be the case of 4 KiB pages again."""
    one = _check(THP, {2: 20 * MIB})
    huge = nodes.huge_in(one.pid, one.host_address[THP], 24 * MIB)
    assert huge >= 16 * MIB, f'{huge} bytes are huge'


@tap.case("hugetlb pages, from a pool of one node and of two")
def hugetlb() -> None:
    """2 MiB each, told as such."""
    one = _check(POOL, {1: 16 * MIB})
    _check(SPLIT_POOL, {0: 8 * MIB, 3: 8 * MIB})
    tap.equal(_backend(one.placement(), POOL)['page-size'], HUGE, 'page size')


@tap.case("memfd and file, shared")
def shared() -> None:
    """Page cache rather than anonymous memory; half of the file is touched."""
    _check(MEMFD, {2: 24 * MIB})
    _check(FILE, {3: 10 * MIB})


@tap.case("asking populates nothing")
def untouched() -> None:
    """All of it is absent, before and after both ways of asking."""
    one = _check(UNTOUCHED, {})
    tap.equal(one.truth(UNTOUCHED), {}, 'afterwards')
    tap.equal(_backend(one.placement(samples=ALL), UNTOUCHED)['absent'], 16 * MIB, 'absent')


# -- the three cases of seed 002 ------------------------------------------

def _maps(one: Guest, topology: str) -> List[List[int]]:
    """VNODE_TO_PNODE of each guest node; PNODE_TO_VNODE must be the same read backwards."""
    answer = one.placement(samples=ALL)
    tap.equal(answer['topology'], topology, 'topology')
    there = [list(vnode['pnodes']) for vnode in answer['vnodes']]
    back = {entry['node']: entry['vnodes'] for entry in answer['pnodes']}
    for node in nodes.online():
        tap.equal(back.get(node, []), [vnode for vnode, pnodes in enumerate(there) if node in pnodes],
                  f'guest nodes on {node}')
    for vnode in range(1, len(one.vnodes)):
        _equal(one, vnode, answer)
    exact = one.exact()
    tap.equal((exact['topology'], [vnode['pnodes'] for vnode in exact['vnodes']]), (topology, there), 'exact')
    return there


def _move(one: Guest, vnode: int, node: int, begin_mib: int = 0, end_mib: int = 16) -> None:
    first = one.host_address[vnode]
    nodes.move(one.pid, range(first + begin_mib * MIB, first + end_mib * MIB, PAGE), node)


CASES = {'one-to-one': [[1], [2], [3]], 'many-to-one': [[3], [3], [1]], 'one-to-many': [[0, 2], [3], [2]]}


def _three(topology: str) -> None:
    """Three guest nodes without a policy; their pages are then moved where the case has them."""
    case = CASES[topology]
    with nodes.thp('never'), guest([LOW, Vnode(16), Vnode(16), Vnode(16)]) as one:
        for vnode, pnodes in enumerate(case, 1):
            one.touch(vnode)
            for number, node in enumerate(pnodes):
                _move(one, vnode, node, 16 * number // len(pnodes))
        tap.equal(_maps(one, topology), [[], *[sorted(pnodes) for pnodes in case]], 'vnode to pnodes')
        page = one.host_address[2] + 5 * MIB
        nodes.move(one.pid, [page], 0)
        tap.equal(_maps(one, 'one-to-many')[2], sorted({0, *case[1]}), 'with a page astray')


tap.add('one-to-one: each guest node on a host node of its own', _three, 'one-to-one')
tap.add('many-to-one: two guest nodes on one host node', _three, 'many-to-one')
tap.add('one-to-many: a guest node on two host nodes is told so, and one page is enough', _three, 'one-to-many')


# -- other ways to look ---------------------------------------------------

DIMM = ['-object', 'memory-backend-ram,id=dimm,size=16M,host-nodes=3,policy=bind']


@tap.case("a DIMM that is plugged in belongs to its guest node")
def plugged() -> None:
    """That node is on two host nodes then."""
    with guest([LOW, bound(16, 1)], extra=['-m', '20M,maxmem=1G,slots=2', *DIMM]) as one:
        one.touch(1)
        one.vm.qmp('device_add', driver='pc-dimm', id='dimm0', memdev='dimm', node=1)
        (device,) = one.vm.qmp('query-memory-devices')
        one.vm.qtest.do(f"memset {device['data']['addr']:#x} {8 * MIB:#x} 0x55")
        for answer in (one.placement(samples=ALL), one.exact()):
            tap.equal(_by_node(answer['vnodes'][1]), {1: 16 * MIB, 3: 8 * MIB}, answer['mode'])
            tap.equal((answer['vnodes'][1]['absent'], answer['topology']), (8 * MIB, 'one-to-many'), answer['mode'])


@tap.case("where move_pages is forbidden, numa_maps tells the same")
def forbidden() -> None:
    """As in some containers: EPERM."""
    wrapper = [sys.executable, deny.__file__, str(deny.MOVE_PAGES)]
    with guest([LOW, bound(16, 1), Vnode(16, 'host-nodes=2,host-nodes=3,policy=interleave')], wrapper=wrapper) as one:
        for vnode in (1, 2):
            one.touch(vnode, 8)
        answer = one.placement()
        tap.equal(answer['method'], 'numa-maps', 'method')
        for vnode in (1, 2):
            _equal(one, vnode, answer)


PAIR = [LOW, Vnode(2 * GIANT // MIB, 'hugetlb=on,hugetlbsize=1G,host-nodes=3,policy=bind', 'memfd')]


def _need_giant() -> None:
    nodes.need_nodes()
    tap.need(nodes.free_huge(3, GIANT) >= 2 * GIANT, 'two free pages of 1 GiB on node 3 (numahost.host: giant=2)')


def _second(one: Guest) -> None:
    """The second of two pages is written, a little; the kernel has it on node 3 then, as a whole."""
    one.touch(1, 1, GIANT // MIB)
    tap.equal(one.truth(1), {3: GIANT}, "the kernel's word")
    tap.equal(nodes.free_huge(3, GIANT), GIANT, 'free in the pool')


@tap.case("pages of 1 GiB: one there, one absent, by a sample and exactly; they are a class of the claim")
def giant() -> None:
    """Told as such; an answer in pages of 4 KiB would be 512 or 262,144 times too small."""
    _need_giant()
    with tempfile.TemporaryDirectory(prefix='ballast-') as work, Ledger('--reserve', '0') as ledger, \
            guest(PAIR, ledger, plugin={'claim': 'auto'},
                  extra=['-qmp', f'unix:{work}/qmp,server=on,wait=off']) as one:
        _check_equal(one, 1)
        tap.equal(nodes.free_huge(3, GIANT), 2 * GIANT, 'free in the pool after asking')
        _second(one)
        _check_equal(one, 1)
        for answer in (one.placement(), one.exact(), _command('--qmp', f'{work}/qmp')['placement']):
            found = _backend(answer, 1)
            tap.equal((_by_node(found), found['absent'], found['page-size']), ({3: GIANT}, GIANT, GIANT),
                      answer['mode'])
        tap.equal(_by_node(_mapping(one, 1)), {3: GIANT}, 'from outside')
        held = ledger.holds('guest')[3, GIANT]
        tap.equal((held['claimed'], ledger.node(3, GIANT)['capacity']), (2 * GIANT, 2 * GIANT), 'claimed')
        wait_until(lambda: ledger.holds('guest')[3, GIANT]['resident'] == GIANT, 'a sample of the resident memory')


@tap.case("pages of 1 GiB where move_pages is forbidden: numa_maps tells the same")
def giant_forbidden() -> None:
    """numa_maps counts in kernelpagesize_kB."""
    _need_giant()
    with guest(PAIR, wrapper=[sys.executable, deny.__file__, str(deny.MOVE_PAGES)]) as one:
        _second(one)
        answer = one.placement()
        tap.equal((answer['method'], _backend(answer, 1)['page-size']), ('numa-maps', GIANT), 'method, page size')
        _equal(one, 1, answer)


def _mapping(one: Guest, vnode: int) -> Dict[str, Any]:
    """Of a guest node's backend, as `ballast placement` sees it from outside."""
    address = one.host_address[vnode]
    (found,) = [part for part in _command('--pid', str(one.pid), '--exact')['mappings']
                if part['start'] <= address < part['start'] + part['size']]
    return dict(found)


def _command(*args: str) -> Dict[str, Any]:
    done = subprocess.run([paths.CLI, 'placement', '--json', *args], check=True, capture_output=True, text=True,
                          timeout=120)
    return dict(json.loads(done.stdout))


@tap.case("ballast placement tells the same, over QMP and from outside")
def command() -> None:
    """From outside there are mappings, adjacent ones together; QMP is a second monitor."""
    with tempfile.TemporaryDirectory(prefix='ballast-') as work, \
            guest([LOW, bound(24, 1), bound(24, 2)], extra=['-qmp', f'unix:{work}/qmp,server=on,wait=off']) as other:
        path = f'{work}/qmp'
        other.touch(1)
        other.touch(2, 10)
        told = _command('--qmp', path, '--exact')['placement']
        tap.equal(told['vnodes'][1:], other.placement(mode='exact')['vnodes'][1:], 'over QMP')
        tap.equal({node: size for vnode in told['vnodes'][1:] for node, size in _by_node(vnode).items()},
                  {1: 24 * MIB, 2: 10 * MIB}, 'by node')
        for vnode in (1, 2):
            found = _mapping(other, vnode)
            tap.equal(_by_node(found), nodes.where(other.pid, found['start'], found['size']), 'mapping')
            assert _by_node(found)[vnode] >= _by_node(told['vnodes'][vnode])[vnode], f'{found}: guest node {vnode}'
