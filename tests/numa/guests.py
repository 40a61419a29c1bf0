# SPDX-License-Identifier: GPL-2.0-or-later
"""Guests whose backends are bound to nodes, and the ledger: claimed, resident, given back at death."""

import os
import signal
from typing import Any, Dict, Optional

from ballast import paths, tap, virtio
from ballast.vm import VMLaunchFailure, wait_until

from . import nodes
from .ledger import Ledger
from .machine import DEVICE, LOW, Guest, Vnode, bound, guest, machine
from .nodes import HUGE, MIB, NOISE, PAGE


def _lines(info: Dict[str, Any]) -> Dict[Any, int]:
    """{(node or None, page size): claimed MiB} of query-memory-ledger."""
    return {(line.get('node'), line['page-size']): line['claimed'] // MIB for line in info['claims']}


@tap.case("claim=auto follows the backends: node and page size")
def automatic() -> None:
    """Bound to one node: claimed there; anything else: on the host."""
    vnodes = [bound(48, 1), bound(64, 3), bound(16, 1), Vnode(32, 'host-nodes=0-1,policy=interleave'),
              bound(8, 2, 'hugetlb=on,hugetlbsize=2M', 'memfd'), Vnode(24)]
    with nodes.huge_pages({2: 8 * MIB}), Ledger('--reserve', '0') as ledger, \
            guest(vnodes, ledger, plugin={'claim': 'auto'}) as one:
        tap.equal(_lines(one.ledger()), {(1, PAGE): 64, (3, PAGE): 64, (2, HUGE): 8, (None, PAGE): 56}, 'lines')
        tap.equal([ledger.node(node)['claimed'] // MIB for node in range(4)], [0, 64, 0, 64], 'per node')
        tap.equal(ledger.node(2, HUGE)['claimed'], 8 * MIB, 'huge pages')


def _resident(ledger: Ledger, name: str, page_size: int = PAGE) -> Dict[Optional[int], int]:
    return {node: hold['resident'] for (node, size), hold in ledger.holds(name).items() if size == page_size}


def _wait_resident(ledger: Ledger, one: Guest) -> None:
    """The ledger's figures come to what the kernel says, node by node; 2 % is the sample's error."""
    wanted: Dict[int, int] = {}
    for vnode in range(len(one.vnodes)):
        for node, size in one.truth(vnode).items():
            wanted[node] = wanted.get(node, 0) + size
    slack = sum(vnode.size for vnode in one.vnodes) // 50

    def near() -> bool:
        found = _resident(ledger, 'guest')
        return all(abs(found.get(node, 0) - wanted.get(node, 0)) <= slack for node in nodes.online())
    wait_until(near, f'resident memory {wanted}')
    tap.note(f'kernel {wanted}, ledger {_resident(ledger, "guest")}')


@tap.case("resident memory is counted on the node where it is")
def resident() -> None:
    """Redeemed there: outstanding falls on that node by as much."""
    vnodes = [bound(96, 1), bound(64, 3), Vnode(64, 'host-nodes=0-1,policy=interleave')]
    with Ledger('--reserve', '0') as ledger, guest(vnodes, ledger) as one:
        one.touch(0, 64)
        one.touch(1)
        _wait_resident(ledger, one)
        holds = ledger.holds('guest')
        assert abs(holds[1, PAGE]['outstanding'] - 32 * MIB) <= 6 * MIB, holds
        assert holds[3, PAGE]['outstanding'] <= 6 * MIB, holds
        one.touch(2)
        _wait_resident(ledger, one)


@tap.case("a guest that does not fit on its node does not start, and others do")
def refused() -> None:
    """By capacity: the holder is named.  By what the kernel has free: nobody is."""
    with Ledger('--reserve', '0') as ledger:
        ledger.claim('first', f'{(nodes.free(1) - 64 * MIB) // MIB}M@1')
        with machine([bound(128, 1)], ledger) as vm:
            try:
                vm.launch()
            except VMLaunchFailure:
                pass
            else:
                raise AssertionError('it started')
            tap.note(vm.log())
            assert 'on node 1 refused' in vm.log() and 'first' in vm.log(), vm.log()
        with guest([bound(128, 2)], ledger):
            tap.equal(ledger.node(2)['claimed'], 128 * MIB, 'claimed on node 2')


@tap.case("ballast run --claim …@N is taken over by QEMU, on that node")
def inherited() -> None:
    """Backends with prealloc have allocated before a plug-in is loaded; the claim was there before."""
    vnodes = [bound(64, 1, 'prealloc=on'), bound(32, 2)]
    with Ledger('--reserve', '0') as ledger:
        wrapper = [str(paths.CLI), 'run', '--ledger', str(ledger.path), '--claim', '64M@1', '--claim', '32M@2',
                   '--name', 'guest', '--']
        with guest(vnodes, wrapper=wrapper) as one:
            info = one.ledger()
            assert info['inherited'], info
            tap.equal(_lines(info), {(1, PAGE): 64, (2, PAGE): 32}, 'lines')
            _wait_resident(ledger, one)
            tap.equal([hold['claimed'] // MIB for hold in ledger.holds('guest').values()], [64, 32], 'in the ledger')


def most_of(node: int) -> int:
    """MiB: what is free there now has room for it once, but not twice."""
    return nodes.free(node) * 5 // 8 // MIB


@tap.case("the death of a guest gives its nodes back, and not before their memory is")
def killed() -> None:
    """SIGKILL, with more than half of the node populated."""
    with Ledger('--reserve', '0') as ledger:
        before = nodes.free(3)
        mib = most_of(3)
        with guest([bound(mib, 3, 'prealloc=on'), bound(32, 0)], ledger) as one:
            assert nodes.free(3) <= before - mib * MIB + NOISE, 'nothing was allocated'
            tap.equal(ledger.refused('next', f'{mib}M@3')['holders'][0]['name'], 'guest', 'holder')
            os.kill(one.pid, signal.SIGKILL)

            def next_fits() -> bool:
                return 'error' not in ledger.ask('claim', '--name', 'next', f'{mib}M@3')
            wait_until(next_fits, 'the capacity of node 3')
            assert nodes.free(3) >= before - NOISE, f'granted with {nodes.free(3)} free, {before} before'
            tap.equal([ledger.node(node)['claimed'] // MIB for node in range(4)], [0, 0, 0, mib], 'claimed')
            one.vm.shutdown(hard=True)


@tap.case("memory that is there before the claim is claimed once, not twice")
def preallocated() -> None:
    """A node that has room for it once; page by page and from a pool."""
    mib, pool = most_of(3), 16
    vnodes = [LOW, bound(mib, 3, 'prealloc=on'), bound(pool, 1, 'prealloc=on,hugetlb=on,hugetlbsize=2M', 'memfd')]
    with nodes.huge_pages({1: pool * MIB}), Ledger('--reserve', '0') as ledger, guest(vnodes, ledger) as one:
        left = nodes.free(3) // MIB
        assert left < mib, f'{left} MiB are free beside {mib} MiB: enough for both'
        tap.equal(nodes.free_huge(1), 0, "free in the pool")
        tap.equal(_lines(one.ledger()), {(0, PAGE): 4, (3, PAGE): mib, (1, HUGE): pool}, 'lines')
        tap.equal((ledger.node(3)['outstanding'] // MIB, ledger.node(3)['broken']), (0, 0), 'still to be allocated')


@tap.case("ballooning gives back on the node that a guest node is bound to")
def ballooned() -> None:
    """The claim, the ledger and the kernel: all say so, of that node and no other."""
    with Ledger('--reserve', '0') as ledger, \
            guest([LOW, bound(64, 1), bound(64, 3)], ledger, extra=['-device', DEVICE]) as one:
        one.touch(1)
        one.touch(2)
        balloon = one.drive(virtio.MUST_TELL_HOST)
        free = {node: nodes.free(node) for node in (1, 3)}
        for vnode, mib, claimed in ((1, 32, [4, 32, 0, 64]), (2, 16, [4, 32, 0, 48])):
            first = one.address(vnode) // PAGE
            balloon.inflate(range(first, first + mib * MIB // PAGE))
            tap.equal([ledger.node(node)['claimed'] // MIB for node in range(4)], claimed, 'claimed')
            tap.equal(sum(one.truth(vnode).values()), (64 - mib) * MIB, f'left of guest node {vnode}')
        assert nodes.free(1) >= free[1] + 32 * MIB - NOISE and nodes.free(3) >= free[3] + 16 * MIB - NOISE
        balloon.deflate(range(one.address(1) // PAGE, one.address(1) // PAGE + 16 * MIB // PAGE))
        tap.equal([ledger.node(node)['claimed'] // MIB for node in range(4)], [4, 48, 0, 48], 'claimed')
        one.touch(1)
        tap.equal(one.truth(1), {1: 64 * MIB}, 'where it is again')
