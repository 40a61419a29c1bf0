# SPDX-License-Identifier: GPL-2.0-or-later
"""Claims against the nodes of a real host: its capacity, its free memory, its hugetlb pools."""

from typing import Any, Dict, List

from ballast import tap

from . import nodes
from .ledger import BOUNDLESS, Ledger, limited
from .nodes import HUGE, MIB, NOISE, PAGE


def _mib(size: int, node: 'int | str' = 'any', page: str = '') -> str:
    """A place of the command line; sizes are rounded down to MiB."""
    return f'{size // MIB}M@{node}{page}'


def _holders(refusal: Dict[str, Any]) -> List[str]:
    return [one['name'] for one in refusal['holders']]


@tap.case("the capacity of each node is its memory less its part of the reserve")
def capacity() -> None:
    """As an operator makes a ledger: by sysfs."""
    totals = {node: nodes.total(node) for node in nodes.online()}
    reserve = 300 * MIB
    with Ledger('--reserve', '300M') as ledger:
        cells = ledger.cells()
        tap.equal(sorted(node for node, page in cells if node is not None and page == PAGE), nodes.online(), 'nodes')
        for node, size in totals.items():
            wanted = size - reserve * size // sum(totals.values())
            assert abs(cells[node, PAGE]['capacity'] - wanted) <= PAGE, f'node {node}: {cells[node, PAGE]}'
            assert abs(cells[node, PAGE]['kernel-free'] - nodes.free(node)) <= NOISE, f'node {node}: {cells}'
        tap.equal(cells[None, PAGE]['capacity'], sum(cells[node, PAGE]['capacity'] for node in totals), 'the host')


@tap.case("hugetlb pools are a class of their own on each node")
def huge_pools() -> None:
    """Two nodes have pools, two have none; what is in a pool is no base-page memory."""
    with nodes.huge_pages({1: 32 * MIB, 3: 16 * MIB}), Ledger('--reserve', '0') as ledger:
        for node, pool in ((0, 0), (1, 32 * MIB), (2, 0), (3, 16 * MIB)):
            tap.equal(ledger.node(node, HUGE)['capacity'], pool, f"node {node}'s pool")
            tap.equal(ledger.node(node, HUGE)['kernel-free'], pool, f'free in it')
            tap.equal(ledger.node(node)['capacity'], nodes.total(node) - pool, f'base pages of node {node}')
        ledger.claim('one', '32M@1/2M')
        ledger.claim('three', '10M@3/2M')
        refusal = ledger.refused('two', '2M@1/2M')
        tap.equal((refusal['node'], refusal['page-size'], refusal['missing'], _holders(refusal)),
                  (1, HUGE, 2 * MIB, ['one']), 'refusal')
        tap.equal(ledger.refused('two', '2M@0/2M')['node'], 0, 'a node without pages')
        ledger.claim('two', '6M@any/2M')
        refusal = ledger.refused('four', '2M@any/2M')
        tap.equal((refusal['node'], sorted(_holders(refusal))), (None, ['one', 'three', 'two']), 'on the host')


@tap.case("a claim is granted up to what the kernel has free on its node, and no further")
def kernel_free() -> None:
    """The ledger alone would grant all of it."""
    with Ledger(*BOUNDLESS) as ledger:
        for node in (0, 2):
            free = nodes.free(node)
            refusal = ledger.refused('vm', _mib(free + 2 * NOISE, node))
            tap.equal((refusal['reason'], refusal['node']), ('short-kernel', node), 'refusal')
            assert abs(refusal['available'] - free) <= NOISE, f'{refusal}, by the kernel {free}'
            ledger.claim('vm', _mib(free - 2 * NOISE, node))
            refusal = ledger.refused('other', _mib(4 * NOISE, node))
            tap.equal((refusal['node'], _holders(refusal)), (node, ['vm']), 'refusal')
            ledger.release('vm')


@tap.case("a claim on no node in particular is measured against all nodes")
def host_wide() -> None:
    """More than any node has, less than all have."""
    with Ledger(*BOUNDLESS) as ledger:
        free = [nodes.free(node) for node in nodes.online()]
        assert max(free) + 4 * NOISE < sum(free) - 8 * NOISE
        ledger.claim('vm', _mib(sum(free) - 8 * NOISE))
        ledger.release('vm')
        refusal = ledger.refused('vm', _mib(sum(free) + 8 * NOISE))
        tap.equal((refusal['reason'], refusal['node']), ('short-kernel', None), 'refusal')
        # what is promised on nodes is not there for the host
        ledger.claim('one', _mib(free[1] - 2 * NOISE, 1))
        ledger.claim('two', _mib(free[2] - 2 * NOISE, 2))
        refusal = ledger.refused('vm', _mib(sum(free) - free[1] - free[2] + 8 * NOISE))
        tap.equal(sorted(_holders(refusal)), ['one', 'two'], 'holders')
        ledger.claim('vm', _mib(sum(free) - free[1] - free[2] - 8 * NOISE))


@tap.case("a claim on two nodes is granted on both or on none")
def whole_or_nothing() -> None:
    """And its refusal names the node that lacks memory."""
    with Ledger(*BOUNDLESS) as ledger:
        refusal = ledger.refused('vm', '100M@0', _mib(nodes.free(3) + 2 * NOISE, 3))
        tap.equal(refusal['node'], 3, 'node')
        tap.equal(ledger.node(0)['claimed'], 0, 'left behind')
        ledger.claim('vm', '100M@0', '100M@3', '16M@any')
        tap.equal([ledger.node(node)['claimed'] // MIB for node in (0, 1, 2, 3)], [100, 0, 0, 100], 'claimed')
        tap.equal(ledger.cells()[None, PAGE]['claimed'], 216 * MIB, 'on the host')


@tap.case("a claim that moves frees the node it leaves and fills the one it goes to")
def moved() -> None:
    """Xen's test of claims, in spirit: it blocks the source, then the destination, then neither."""
    unit = min(nodes.free(node) for node in nodes.online()) // 5 // MIB
    one, two, three = (f'{count * unit}M' for count in (1, 2, 3))
    with Ledger(*limited(4 * unit)) as ledger:
        ledger.claim('mover', f'{three}@0')
        refusal = ledger.refused('other', f'{two}@0')
        tap.equal((refusal['reason'], refusal['node'], refusal['missing'], _holders(refusal)),
                  ('short-node', 0, unit * MIB, ['mover']), 'refusal at the source')
        ledger.claim('mover', f'{three}@1')
        tap.equal(ledger.refused('other', f'{two}@1')['node'], 1, 'refusal at the destination')
        ledger.claim('other', f'{two}@0')
        ledger.claim('mover', f'{two}@1', f'{one}@2')
        ledger.claim('other', f'{two}@1')
        tap.equal([ledger.node(node)['claimed'] // MIB // unit for node in range(4)], [0, 4, 1, 0], 'claimed')
        refusal = ledger.refused('mover', f'{three}@1')
        tap.equal((refusal['node'], sorted(_holders(refusal))), (1, ['mover', 'other']), 'back again')
        tap.equal(ledger.holds('mover')[1, PAGE]['claimed'], 2 * unit * MIB, 'what it keeps')


@tap.case("a hog on one node is felt there and nowhere else")
def hogged() -> None:
    """Before the claim: refused.  After it: the promise is shown as broken."""
    with Ledger(*BOUNDLESS) as ledger:
        least = min(nodes.free(2), nodes.free(3))
        most, size = least * 7 // 8, least // 3
        with nodes.hog(2, size):
            refusal = ledger.refused('vm', _mib(most, 2))
            tap.equal((refusal['reason'], refusal['node'], _holders(refusal)), ('short-kernel', 2, []), 'refusal')
            assert abs(refusal['missing'] - (most - nodes.free(2))) <= NOISE, refusal
            ledger.claim('vm', _mib(most, 3))
        ledger.claim('vm', _mib(most, 2))
        tap.equal(ledger.node(2)['broken'], 0, 'broken before')
        with nodes.hog(2, size):
            broken = ledger.node(2)['broken']
            assert broken > 0 and abs(broken - (most - nodes.free(2))) <= NOISE, f'{broken} are broken'
            tap.equal([ledger.node(node)['broken'] for node in (0, 1, 3)], [0, 0, 0], 'elsewhere')
        tap.equal(ledger.node(2)['broken'], 0, 'broken afterwards')
