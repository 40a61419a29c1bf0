#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""query-memory-placement on a host with any number of nodes: what belongs where, exact looks, refusals.

On which node a page is, is tested where there are several (tests/functional).
"""

import re
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Sequence

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / 'lib'))

# pylint: disable=wrong-import-position
from ballast import deny, paths, tap                        # noqa: E402
from ballast.vm import VM, ExecuteError, wait_until         # noqa: E402

MIB, GIB = 1 << 20, 1 << 30
DENIED = [sys.executable, deny.__file__, str(deny.MOVE_PAGES)]
ATTEMPTS = 50

Answer = Dict[str, Any]


@contextmanager
def _machine(args: str, wrapper: Sequence[str] = ()) -> Iterator[VM]:
    """A stopped machine with the plug-in, driven by qtest."""
    tap.need(paths.has_ballast(), f'the plug-in ({paths.PLUGIN})')
    with VM([*args.split(), '-accel', 'tcg', '-S'], plugin={}, wrapper=wrapper) as vm:
        vm.launch()
        yield vm


def _touch(vm: VM, address: int, size: int) -> None:
    vm.qtest.do(f'memset {address:#x} {size:#x} 0x5a')


def _sample(vm: VM) -> Answer:
    return _adds_up(vm.qmp('query-memory-placement'))


def _start(vm: VM, **arguments: int) -> None:
    vm.qmp('memory-placement-start', {name.replace('_', '-'): value for name, value in arguments.items()})


def _exact(vm: VM) -> Answer:
    """An exact look to its end."""
    vm.drop_events()
    _start(vm)
    done = vm.wait_event('MEMORY_PLACEMENT_DONE')['data']
    answer = _adds_up(vm.qmp('query-memory-placement', mode='exact'))
    tap.equal(done, {name: answer[name] for name in ('state', 'looked-at', 'size', 'elapsed-us')}, 'event')
    tap.equal((answer['state'], answer['looked-at']), ('done', answer['size']), 'the end')
    return answer


def _there(part: Answer) -> int:
    return sum(int(node['bytes']) for node in part['nodes'])


def _sum(part: Answer) -> int:
    return _there(part) + int(part['absent']) + int(part['unknown'])


def _adds_up(answer: Answer) -> Answer:
    """Sizes, sums and both masks; figures of a sample may be cut by a byte per figure and part."""
    slack = 0 if answer['mode'] == 'exact' else 1000
    whole = answer['looked-at'] == answer['size']
    tap.equal(answer['size'], sum(one['size'] for one in answer['backends']), 'size')
    for one in answer['backends']:
        tap.equal(sum(part['size'] for part in one['ranges']), one['size'], 'ranges')
        assert all(abs(_sum(part) - part['size']) <= slack or not whole for part in one['ranges']), one
        assert abs(_sum(one) - sum(_sum(part) for part in one['ranges'])) <= slack, one
        tap.equal({part['guest-node'] for part in one['ranges'] if 'guest-node' in part},
                  set(one['guest-nodes']), 'guest nodes')
    for vnode in answer['vnodes']:
        parts = [part for one in answer['backends'] for part in one['ranges']
                 if part.get('guest-node') == vnode['node']]
        tap.equal(vnode['size'], sum(part['size'] for part in parts), 'size of a guest node')
        assert abs(_there(vnode) - sum(_there(part) for part in parts)) <= slack, vnode
        tap.equal(vnode['pnodes'], [node['node'] for node in vnode['nodes']], 'pnodes')
    for pnode in answer['pnodes']:
        users = [vnode['node'] for vnode in answer['vnodes'] if pnode['node'] in vnode['pnodes']]
        tap.equal(pnode['vnodes'], users, 'the other mask')
    tap.equal(sum(pnode['bytes'] for pnode in answer['pnodes']),
              sum(_there(vnode) for vnode in answer['vnodes']), 'bytes of host nodes')
    return answer


def _backend(answer: Answer, name: str) -> Answer:
    found = [one for one in answer['backends'] if one['memdev'] == f'/objects/{name}']
    tap.equal(len(found), 1, f'backends named {name}')
    return dict(found[0])


def _ranges(answer: Answer, name: str) -> List[List[Optional[int]]]:
    return [[part['offset'], part['size'], part.get('address'), part.get('guest-node')]
            for part in _backend(answer, name)['ranges']]


# -- what belongs where -----------------------------------------------------

@tap.case('a backend around the PCI hole, and what is read from it')
def hole() -> None:
    """Two ranges; VGA's window and ROM do not make more of them."""
    with _machine('-M q35,memory-backend=m0 -m 5G -object memory-backend-ram,id=m0,size=5G -vga std') as vm:
        _touch(vm, 0x100000, 16 * MIB)
        _touch(vm, 4 * GIB, 32 * MIB)
        for answer in (_sample(vm), _exact(vm)):
            tap.equal(_ranges(answer, 'm0'), [[0, 2 * GIB, 0, 0], [2 * GIB, 3 * GIB, 4 * GIB, 0]], 'ranges')
        low, high = _backend(answer, 'm0')['ranges']
        assert _there(low) >= 16 * MIB and 32 * MIB <= _there(high) < 64 * MIB, (low, high)
        tap.equal(answer['topology'], 'one-to-one', 'topology')


MEMORY_DEVICES = '''
    -M q35,nvdimm=on -m 512M,maxmem=8G,slots=8
    -object memory-backend-ram,id=m0,size=256M -object memory-backend-memfd,id=m1,size=256M
    -numa node,nodeid=0,memdev=m0 -numa node,nodeid=1,memdev=m1
    -object memory-backend-memfd,id=d0,size=128M -device pc-dimm,id=dimm0,memdev=d0,node=1
    -object memory-backend-ram,id=d1,size=128M -device pc-dimm,id=dimm1,memdev=d1,node=0
    -object memory-backend-ram,id=v0,size=1G
    -device virtio-mem-pci,id=vm0,memdev=v0,node=1,requested-size=512M
    -object memory-backend-ram,id=n0,size=64M -device nvdimm,id=nv0,memdev=n0,node=0
    -object memory-backend-memfd,id=p0,size=64M -device virtio-pmem-pci,id=pm0,memdev=p0
    -object memory-backend-memfd,id=i0,size=16M,share=on -device ivshmem-plain,memdev=i0
    -object memory-backend-ram,id=u0,size=32M
'''


@tap.case('DIMMs, NVDIMM, virtio-mem, several backends of a node, and what is no node\'s')
def devices() -> None:
    """Each with its guest node, device and address."""
    with _machine(MEMORY_DEVICES) as vm:
        where = {one['data']['memdev']: one['data'].get('addr', one['data'].get('memaddr'))
                 for one in vm.qmp('query-memory-devices')}
        for answer in (_sample(vm), _exact(vm)):
            for name, node, size, device in (('m0', 0, 256, None), ('m1', 1, 256, None), ('d0', 1, 128, 'dimm0'),
                                             ('d1', 0, 128, 'dimm1'), ('v0', 1, 1024, 'vm0'), ('n0', 0, 64, 'nv0'),
                                             ('p0', None, 64, 'pm0'), ('u0', None, 32, None)):
                address = {'m0': 0, 'm1': 256 * MIB}.get(name, where.get(f'/objects/{name}'))
                tap.equal(_ranges(answer, name), [[0, size * MIB, address, node]], name)
                tap.equal(_backend(answer, name).get('device'), device, f'device of {name}')
            tap.equal([part[3] for part in _ranges(answer, 'i0')], [None], 'ivshmem')
            tap.equal([vnode['size'] // MIB for vnode in answer['vnodes']], [448, 1408], 'guest nodes')
            tap.equal(_backend(answer, 'm0')['policy'], 'default', 'policy')


@tap.case('memory dealt to the nodes of an old machine')
def dealt() -> None:
    """-numa node,mem=: one backend, several nodes, one of them around the hole."""
    with _machine('-M pc-i440fx-4.2 -m 5G -numa node,mem=1G -numa node,mem=4G') as vm:
        _touch(vm, GIB, 8 * MIB)
        answer = _exact(vm)
        ranges = [[part['offset'], part['address'], part['guest-node']] for part in answer['backends'][0]['ranges']]
        tap.equal(ranges, [[0, 0, 0], [GIB, GIB, 1], [3 * GIB, 4 * GIB, 1]], 'ranges')
        assert 8 * MIB <= _there(answer['vnodes'][1]) < 16 * MIB, answer['vnodes']


@tap.case('two guest nodes on one host node are many-to-one')
def many_to_one() -> None:
    """And none without memory."""
    two = '-M q35 -m 128M -object memory-backend-ram,id=m0,size=64M -object memory-backend-ram,id=m1,size=64M ' \
          '-numa node,nodeid=0,memdev=m0 -numa node,nodeid=1,memdev=m1'
    with _machine(two) as vm:
        _touch(vm, 32 * MIB, 16 * MIB)
        tap.equal(_exact(vm)['topology'], 'one-to-one', 'one node without memory')
        _touch(vm, 64 * MIB, 16 * MIB)
        answer = _exact(vm)
        if len(answer['pnodes']) == 1:
            tap.equal(answer['topology'], 'many-to-one', 'both on one host node')
        else:
            tap.note(f"{len(answer['pnodes'])} host nodes have a part of it")


# -- exact looks --------------------------------------------------------------

SMALL_PAGES = '-M q35,memory-backend=m0 -m 768M -object memory-backend-memfd,id=m0,size=768M'


@tap.case('an exact look is exact, and a sample is within its bound')
def exactly() -> None:
    """In small pages of shared memory, written one by one."""
    with _machine(SMALL_PAGES) as vm:
        before = _there(_exact(vm)['backends'][0])
        _touch(vm, 256 * MIB, 96 * MIB)
        _touch(vm, 512 * MIB, 4096)
        backend = _exact(vm)['backends'][0]
        tap.equal(_there(backend) - before, 96 * MIB + 4096, 'bytes touched')
        tap.equal(backend['error-bytes'], 0, 'error of an exact look')
        # nineteen of twenty are within the bound
        within = 0
        for _ in range(20):
            sampled = _sample(vm)['backends'][0]
            assert 0 < sampled['error-bytes'] < 32 * MIB, sampled
            within += abs(_there(sampled) - _there(backend)) <= sampled['error-bytes']
        assert within >= 14, f'{within} of 20 samples were within their bound'


def _resident(vm: VM, size: int) -> int:
    """Bytes of the guest's RAM in QEMU's page tables, by smaps."""
    text = Path(f'/proc/{vm.get_pid()}/smaps').read_text('ascii', errors='replace')
    for part in re.split(r'^(?=[0-9a-f]+-[0-9a-f]+ )', text, flags=re.M):
        found = re.search(r'^Size: +(\d+) kB\n(?:.*\n)*?Rss: +(\d+) kB', part, re.M)
        if found and int(found[1]) * 1024 == size:
            return int(found[2]) * 1024
    raise LookupError('no mapping of that size')


@tap.case('no look populates a page')
def populates_nothing() -> None:
    """By the kernel's own count, before and after; also the file's."""
    for kind in ('ram', 'memfd'):
        with _machine(f'-M q35,memory-backend=m0 -m 384M -object memory-backend-{kind},id=m0,size=384M') as vm:
            _touch(vm, 64 * MIB, 32 * MIB)
            before = _resident(vm, 384 * MIB)
            _sample(vm)
            _exact(vm)
            vm.qmp('query-memory-placement', samples=65536)
            tap.equal(_resident(vm, 384 * MIB), before, f'resident bytes, {kind}')


@tap.case('an exact look says how far it is, is there once, and can be cancelled')
def running() -> None:
    """The machine may be slow: each must be seen at least once."""
    with _machine(SMALL_PAGES) as vm:
        _touch(vm, 0x100000, 700 * MIB)
        seen = set()
        for _ in range(ATTEMPTS):
            vm.drop_events()
            _start(vm)
            now = _adds_up(vm.qmp('query-memory-placement', mode='exact'))
            if now['state'] == 'running':
                seen.add('running')
                assert now['looked-at'] <= now['size'], now
                tap.equal(sum(_sum(one) for one in now['backends']), now['looked-at'], 'bytes so far')
            try:
                _start(vm)
            except ExecuteError as error:
                assert 'is running' in str(error), error
                seen.add('refused')
            vm.qmp('memory-placement-cancel')
            wait_until(lambda: vm.qmp('query-memory-placement', mode='exact')['state'] != 'running', 'the end')
            end = _adds_up(vm.qmp('query-memory-placement', mode='exact'))
            seen.add(end['state'])
            if end['state'] == 'cancelled':
                tap.equal(vm.events('MEMORY_PLACEMENT_DONE')[-1]['data']['state'], 'cancelled', 'event')
                tap.equal(sum(_sum(one) for one in end['backends']), end['looked-at'], 'bytes at the end')
            if seen >= {'running', 'refused', 'cancelled'}:
                break
        tap.note(f'seen: {sorted(seen)}')
        assert seen >= {'running', 'refused', 'cancelled'}, seen
        tap.equal(_exact(vm)['state'], 'done', 'the next look')
        vm.qmp('memory-placement-cancel')
        tap.equal(vm.qmp('query-memory-placement', mode='exact')['state'], 'done', 'cancelled too late')


@tap.case('a time limit ends an exact look, and what it found is kept')
def time_limit() -> None:
    """700 MiB of small pages are never looked at in a millisecond."""
    with _machine(SMALL_PAGES) as vm:
        _touch(vm, 0x100000, 700 * MIB)
        _start(vm, time_limit=1)
        vm.wait_event('MEMORY_PLACEMENT_DONE', state='timed-out')
        answer = _adds_up(vm.qmp('query-memory-placement', mode='exact'))
        assert answer['state'] == 'timed-out' and answer['looked-at'] < answer['size'], answer


@tap.case('what was looked at may be gone')
def gone() -> None:
    """A backend is deleted: the answer stays, the next one is without it; also while a look is running."""
    with _machine(SMALL_PAGES) as vm:
        _touch(vm, 0x100000, 512 * MIB)
        for number in range(5):
            vm.qmp('object-add', {'qom-type': 'memory-backend-ram', 'id': 'x', 'size': 64 * MIB})
            if number == 0:
                _exact(vm)
            else:
                vm.drop_events()
                _start(vm)
            vm.qmp('object-del', id='x')
            if number:
                vm.wait_event('MEMORY_PLACEMENT_DONE')
            tap.equal(_backend(_adds_up(vm.qmp('query-memory-placement', mode='exact')), 'x')['size'], 64 * MIB, 'size')
            assert len(_exact(vm)['backends']) == 1


@tap.case('huge pages')
def huge() -> None:
    """hugetlb: one look-up for each."""
    free = int(Path('/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages').read_text('ascii'))
    tap.need(free >= 32, '32 free huge pages of 2 MiB (vm.nr_hugepages)')
    with _machine('-M q35,memory-backend=m0 -m 64M -object memory-backend-memfd,id=m0,size=64M,hugetlb=on,'
                  'hugetlbsize=2M') as vm:
        _touch(vm, 32 * MIB, 4096)
        backend = _backend(_exact(vm), 'm0')
        tap.equal((backend['page-size'], backend['samples']), (2 * MIB, 32), 'pages')
        assert _there(backend) == backend['huge-bytes'] and _there(backend) % (2 * MIB) == 0, backend
        assert _there(_backend(_sample(vm), 'm0')) == _there(backend)


# -- refusals -------------------------------------------------------------------

@tap.case('where move_pages is forbidden, numa_maps tells')
def forbidden() -> None:
    """By seccomp, as in a container: exact in both modes."""
    with _machine(SMALL_PAGES, DENIED) as vm:
        before = _there(_sample(vm)['backends'][0])
        _touch(vm, 256 * MIB, 64 * MIB)
        for answer in (_sample(vm), _exact(vm)):
            tap.equal(answer['method'], 'numa-maps', 'method')
            backend = answer['backends'][0]
            tap.equal((_there(backend) - before, backend['unknown'], backend['error-bytes']), (64 * MIB, 0, 0),
                      'touched, unknown, error')
            assert 'huge-bytes' not in backend, backend
    with _machine(SMALL_PAGES) as vm:
        tap.equal(_sample(vm)['method'], 'move-pages', 'method where it is allowed')


@tap.case('mistakes are refused in words')
def mistakes() -> None:
    """The value, and what is allowed."""
    with _machine('-M q35 -m 64M') as vm:
        for command, arguments, words in (
                ('query-memory-placement', {'mode': 'exact'}, ('no exact look', 'memory-placement-start')),
                ('query-memory-placement', {'mode': 'exact', 'samples': 64}, ('samples', 'sample')),
                ('query-memory-placement', {'mode': 'guess'}, ('guess',)),
                ('memory-placement-start', {'time-limit': 0}, ('time-limit', '0 ms', '3600000')),
                ('memory-placement-start', {'time-limit': 3600001}, ('3600001', '3600000'))):
            try:
                vm.qmp(command, arguments)
            except ExecuteError as error:
                assert all(word in str(error) for word in words), error
            else:
                raise AssertionError(f'{command} {arguments} was taken')
        vm.qmp('memory-placement-cancel')
        _exact(vm)


if __name__ == '__main__':
    tap.main()
