# SPDX-License-Identifier: GPL-2.0-or-later
"""balloon-node on a host with nodes: the usage examples of seed 002, and guests that do otherwise.

The guest of the seed has four guest nodes: #0 on one host node, #1 and #2 on another, #3 on a third.
What really came from where is known from /proc/PID/numa_maps, before and after.
"""

import os
from contextlib import contextmanager
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple

from ballast import tap, virtio
from ballast.node_driver import BLOCK, ORDER, NodeDriver
from ballast.vm import ExecuteError, wait_until

from . import nodes
from .ledger import Ledger, limited
from .machine import DEVICE, LOW, Guest, Vnode, bound, guest
from .nodes import MIB, NOISE, PAGE

FEATURES = virtio.MUST_TELL_HOST | virtio.NODES
ON = {1: 1, 2: 3, 3: 3, 4: 2}           # guest nodes behind LOW, and the host nodes they are on
SIZE = 32                               # MiB of each
SEED = [LOW, *[bound(SIZE, node) for node in ON.values()]]


def _blocks(one: Guest, vnode: int) -> range:
    """All of a guest node, in blocks."""
    first = one.address(vnode) // PAGE
    return range(first, first + one.vnodes[vnode].size // PAGE, BLOCK)


@contextmanager
def _driven(vnodes: Sequence[Vnode] = tuple(SEED), ledger: Optional[Ledger] = None,
            touch: bool = True, device: str = DEVICE,
            extra: Sequence[str] = ()) -> Iterator[Tuple[Guest, NodeDriver]]:
    """A guest whose memory is there, and its driver, which gives what it is asked for."""
    with guest(vnodes, ledger, extra=['-device', device, *extra]) as one:
        balloon = one.drive(FEATURES)
        if touch:
            for vnode in range(1, len(vnodes)):
                one.touch(vnode)
        yield one, NodeDriver(balloon, {vnode: _blocks(one, vnode) for vnode in range(1, len(vnodes))})


def _ask(one: Guest, node: int, mib: int, **more: object) -> List[int]:
    """balloon-node; the guest nodes that it names."""
    answer = one.vm.qmp('balloon-node', {'host-node': node, 'bytes': mib * MIB, **more})
    return list(answer['guest-nodes'])


def _done(one: Guest) -> Dict[str, Any]:
    """The event, flat; parts as {(guest node, host node): MiB}."""
    data = one.vm.wait_event('BALLOON_NODE_DONE')['data']
    parts = {(part['guest-node'], part.get('host-node')): part['bytes'] // MIB for part in data['request']['parts']}
    told = {**data['request'], 'status': data['status'], 'parts': parts}
    return {name: value // MIB if name in ('bytes', 'got', 'shortfall', 'other') else value
            for name, value in told.items()}


def _truth(one: Guest) -> Dict[Tuple[int, int], int]:
    """MiB by guest node and host node, by the kernel."""
    return {(vnode, node): size // MIB for vnode in range(1, len(one.vnodes))
            for node, size in one.truth(vnode).items()}


def _lost(before: Dict[Tuple[int, int], int], after: Dict[Tuple[int, int], int]) -> Dict[Tuple[int, int], int]:
    """What is no longer there."""
    return {key: size - after.get(key, 0) for key, size in before.items() if size != after.get(key, 0)}


@tap.case("down, exact: all of it from the host node, from both guest nodes on it")
def down_exact() -> None:
    """Seed 002, ballooning down, example 1."""
    with _driven() as (one, driver):
        before, free = _truth(one), nodes.free(3)
        tap.equal(before, {(vnode, node): SIZE for vnode, node in ON.items()}, 'before')
        tap.equal(_ask(one, 3, 40, exact=True), [2, 3], 'guest nodes')
        driver.obey()
        end = _done(one)
        tap.equal((end['status'], end['got'], end['shortfall'], end['other']), ('reached', 40, 0, 0), 'the end')
        lost = _lost(before, _truth(one))
        tap.equal((sum(lost.values()), lost), (40, end['parts']), 'by the kernel')
        tap.equal({node for _, node in lost}, {3}, 'host nodes')
        assert nodes.free(3) >= free + 40 * MIB - NOISE, f'{free} were free on node 3, now {nodes.free(3)}'


@tap.case("down, exact, more than there is: short, and no other host node is touched")
def down_short() -> None:
    """Seed 002, example 1, step 5: less than N may have been freed."""
    with _driven() as (one, driver):
        before = _truth(one)
        driver.free[2], driver.free[3] = driver.free[2][:8], driver.free[3][:4]
        _ask(one, 3, 48, exact=True)
        driver.obey()
        end = _done(one)
        tap.equal((end['status'], end['got'], end['shortfall'], end['other']), ('short', 24, 24, 0), 'the end')
        tap.equal(_lost(before, _truth(one)), {(2, 3): 16, (3, 3): 8}, 'by the kernel')


@tap.case("down, inexact: the host node gives all it can, the rest comes from others and is told")
def down_inexact() -> None:
    """Seed 002, ballooning down, example 2."""
    with _driven() as (one, driver):
        before = _truth(one)
        driver.free[1] = driver.free[1][:10]
        tap.equal(_ask(one, 1, 44), [1], 'guest nodes')
        driver.obey()
        end = _done(one)
        tap.equal((end['got'], end['shortfall'], end['other']), (20, 24, 24), 'the end')
        lost = _lost(before, _truth(one))
        tap.equal((lost, lost[1, 1], sum(lost.values())), (end['parts'], 20, 44), 'by the kernel')


@contextmanager
def _on_processor(one: Guest, node: int) -> Iterator[None]:
    """All of QEMU runs on this node, so that what has no policy goes there."""
    cpus = {int(path.name[3:]) for path in (nodes.NODES / f'node{node}').glob('cpu[0-9]*')}
    for task in os.listdir(f'/proc/{one.pid}/task'):
        os.sched_setaffinity(int(task), cpus)
    yield


FREE_NODES = [LOW, Vnode(SIZE), Vnode(SIZE)]         # without a policy


def _here(one: Guest, vnode: int, node: int) -> None:
    """All of a guest node goes to a host node."""
    first = one.host_address[vnode]
    nodes.move(one.pid, range(first, first + one.vnodes[vnode].size, PAGE), node)


@tap.case("up, exact: what comes back is on the host node asked for")
def up_exact() -> None:
    """Seed 002, ballooning up, example 1.  Plain ballooning brings it where QEMU runs: the control."""
    with nodes.thp('never'), _driven(FREE_NODES) as (one, driver), _on_processor(one, 0):
        _here(one, 1, 3)
        _here(one, 2, 1)
        _ask(one, 3, 16, exact=True)
        driver.obey()
        tap.equal((_done(one)['got'], _truth(one)), (16, {(1, 3): 16, (2, 1): 32}), 'down')
        tap.equal(_ask(one, 3, 8, direction='up', exact=True), [1], 'guest nodes')
        driver.obey()
        end = _done(one)
        tap.equal((end['status'], end['got'], end['parts']), ('reached', 8, {(1, 3): 8}), 'the end')
        one.touch(1, SIZE - 8)          # not what is still in the balloon: blocks go in from the end
        tap.equal(_truth(one), {(1, 3): 24, (2, 1): 32}, 'up, and touched')
        one.vm.qmp('balloon', value=sum(vnode.size for vnode in one.vnodes))
        driver.obey()
        one.touch(1)
        tap.equal(_truth(one), {(1, 3): 24, (1, 0): 8, (2, 1): 32}, 'up by plain ballooning')


@tap.case("up, exact, more than the balloon has of that node: all it has, from both guest nodes, and no more")
def up_short() -> None:
    """Seed 002, ballooning up, example 1, with its vnodes #1 and #2, and its notice: Y, which is less than N."""
    with nodes.thp('never'), _driven() as (one, driver):
        _ask(one, 3, 40, exact=True)
        driver.obey()
        down = _done(one)['parts']
        tap.equal((sum(down.values()), len(down)), (40, 2), 'down')
        _ask(one, 1, 8, exact=True)
        driver.obey()
        tap.equal(_done(one)['parts'], {(1, 1): 8}, 'down on another host node')
        tap.equal(_ask(one, 3, 48, direction='up', exact=True), [2, 3], 'guest nodes')
        driver.obey()
        end = _done(one)
        tap.equal((end['status'], end['got'], end['shortfall'], end['other']), ('short', 40, 8, 0), 'the end')
        tap.equal((end['parts'], driver.total() * PAGE // MIB), (down, 8), 'what came back, what stays')
        for vnode in (2, 3):
            one.touch(vnode)
        tap.equal(_truth(one), {(1, 1): SIZE - 8, (2, 3): SIZE, (3, 3): SIZE, (4, 2): SIZE}, 'by the kernel')


@tap.case("up, inexact: what the balloon has of that node first, the rest of others, and that is told")
def up_inexact() -> None:
    """Seed 002, the second half of step 4 of ballooning up."""
    with nodes.thp('never'), _driven() as (one, driver):
        for node, mib in ((1, 8), (3, 16)):
            _ask(one, node, mib, exact=True)
            driver.obey()
            tap.equal(_done(one)['got'], mib, 'down')
        tap.equal(_ask(one, 1, 12, direction='up'), [1], 'guest nodes')
        driver.obey()
        end = _done(one)
        tap.note(str(end))
        tap.equal(end['parts'].get((1, 1)), 8, 'on the host node')
        tap.equal((driver.pages(1), driver.total() * PAGE // MIB), (0, 12), 'what stays in the balloon')
        tap.equal((end['got'], end['shortfall'], end['other']), (8, 4, 4), 'the end')


@contextmanager
def _back_on_promised(left: int, deflate: str = 'gate') -> Iterator[Tuple[Ledger, NodeDriver]]:
    """2 MiB come back on node 3, of which a neighbour has been promised all that the guest does not use.

    Node 2 has enough for both.
    """
    device = f'{DEVICE},deflate={deflate}'
    with nodes.thp('never'), Ledger(*limited(200)) as ledger, \
            _driven(FREE_NODES, ledger, device=device) as (one, driver):
        _here(one, 1, 3)
        _here(one, 2, 1)
        _ask(one, 3, SIZE - left, exact=True)
        driver.obey()
        tap.equal(_done(one)['got'], SIZE - left, 'down')

        def sampled() -> bool:
            return all(abs(ledger.node(node)['resident'] - mib * MIB) < MIB for node, mib in ((1, SIZE), (3, left)))
        wait_until(sampled, 'a sample of the resident memory')
        ledger.claim('neighbour', f"{ledger.node(3)['free'] // MIB}M@3")
        _ask(one, 3, 2, direction='up', exact=True)
        driver.balloon.send_blocks('deflate', [(driver.inside[1].pop(), ORDER)], wait=False)
        one.vm.wait_event('MEMORY_CLAIM_WAITING' if deflate == 'gate' else 'MEMORY_CLAIM_REFUSED')
        yield ledger, driver


def _up_waits(left: int) -> None:
    """The memory of node 3 that is there already does not pay for what comes back beside it."""
    with _back_on_promised(left) as (ledger, driver):
        tap.equal(driver.balloon.queues['deflate'].pending(), 1, 'buffers held')
        assert (3, PAGE) not in ledger.holds('guest') or not ledger.holds('guest')[3, PAGE]['claimed'], 'claimed'
        ledger.release('neighbour')
        driver.balloon.queues['deflate'].wait_idle()
        claimed = ledger.holds('guest')[3, PAGE]['claimed']
        assert abs(claimed - (left + 2) * MIB) < MIB, f'{claimed} are claimed on node 3'    # a sample has counted


tap.add('up: the claim grows on the host node asked for, and waits for it there', _up_waits, 0)
tap.add('up: what comes back beside memory that is there waits, too, until the neighbour leaves', _up_waits, SIZE // 2)


@tap.case("up, without the gate: what comes back on a promised node is told, and nobody waits")
def up_allowed() -> None:
    """The control of the two cases before."""
    with _back_on_promised(SIZE // 2, 'allow') as (_, driver):
        driver.balloon.queues['deflate'].wait_idle()


class Hotplug:
    """A virtio-mem device of a guest node, 32 of its 64 MiB plugged and touched; its backend is bound."""

    SIZE, PLUGGED = 64, 32

    @classmethod
    def arguments(cls, vnode: int, node: int) -> List[str]:
        """For a guest with this one."""
        return ['-object', f'memory-backend-ram,id=hot{vnode},size={cls.SIZE}M,host-nodes={node},policy=bind',
                '-device', f'virtio-mem-pci,id=mem{vnode},memdev=hot{vnode},node={vnode},addr={5 + vnode},'
                           f'requested-size={cls.PLUGGED}M']

    def __init__(self, one: Guest, vnode: int) -> None:
        self.guest = one
        self.host_address = one.blocks()[f'hot{vnode}']
        transport = virtio.Pci(one.vm.qtest, 5 + vnode, 0xfd000000 + vnode * MIB)
        self.driver = virtio.MemDevice(transport, virtio.UNPLUGGED_INACCESSIBLE, base=3 * MIB + vnode * MIB // 4)
        self.driver.obey()
        (at,) = [device['data']['memaddr'] for device in one.vm.qmp('query-memory-devices')
                 if device['data']['id'] == f'mem{vnode}']
        one.vm.qtest.do(f'memset {at:#x} {self.PLUGGED * MIB:#x} 0x55')

    def truth(self) -> Dict[int, int]:
        """MiB per host node, by the kernel."""
        found = nodes.where(self.guest.pid, self.host_address, self.SIZE * MIB)
        return {node: size // MIB for node, size in found.items()}


@tap.case("virtio-mem on the host node serves what the balloon cannot, down and up; which did is told")
def hotplug() -> None:
    """Two of them: that on another host node is left alone."""
    vnodes = [LOW, bound(SIZE, 1), bound(SIZE, 3)]
    extra = ['-m', f'{sum(vnode.mib for vnode in vnodes)}M,maxmem=1G',
             *Hotplug.arguments(1, 1), *Hotplug.arguments(2, 3)]
    with nodes.thp('never'), _driven(vnodes, extra=extra) as (one, driver):
        other, mine = Hotplug(one, 1), Hotplug(one, 2)
        before = _truth(one)
        tap.equal((other.truth(), mine.truth()), ({1: 32}, {3: 32}), 'before')
        driver.free[2] = driver.free[2][:4]
        tap.equal(_ask(one, 3, 24, exact=True, **{'virtio-mem': True}), [2], 'guest nodes')
        driver.obey()
        mine.driver.obey()
        tap.equal(_served(one), ('reached', {('balloon', 2, 3): 8, ('virtio-mem', 2, 3): 16}), 'down')
        tap.equal((_lost(before, _truth(one)), other.truth(), mine.truth()), ({(2, 3): 8}, {1: 32}, {3: 16}), 'down')
        _ask(one, 3, 24, direction='up', exact=True, **{'virtio-mem': True})
        driver.obey()
        mine.driver.obey()
        tap.equal(_served(one), ('reached', {('balloon', 2, 3): 8, ('virtio-mem', 2, 3): 16}), 'up')
        tap.equal((other.driver.plugged, mine.driver.plugged), (32 * MIB, 32 * MIB), 'plugged')


def _served(one: Guest) -> Tuple[str, Dict[Tuple[str, int, int], int]]:
    """The event: its status; MiB by what served it, guest node and host node."""
    data = one.vm.wait_event('BALLOON_NODE_DONE')['data']
    return data['status'], {(part['by'], part['guest-node'], part['host-node']): part['bytes'] // MIB
                            for part in data['request']['parts']}


@tap.case("one-to-many: what came from other host nodes is told as such")
def one_to_many() -> None:
    """Seed 002, limitations: the driver cannot know which of its pages are where."""
    with nodes.thp('never'), _driven(FREE_NODES) as (one, driver):
        first = one.host_address[1]
        for number, block in enumerate(range(first, first + SIZE * MIB, BLOCK * PAGE)):
            nodes.move(one.pid, range(block, block + BLOCK * PAGE, PAGE), 0 if number % 2 else 3)
        _here(one, 2, 1)
        before = _truth(one)
        tap.equal(before, {(1, 0): 16, (1, 3): 16, (2, 1): 32}, 'before')
        tap.equal(_ask(one, 3, 16, exact=True), [1], 'guest nodes')
        driver.obey()
        end = _done(one)
        tap.equal(_lost(before, _truth(one)), end['parts'], 'by the kernel')
        tap.equal((end['got'], end['other']), (end['parts'][1, 3], end['parts'].get((1, 0), 0)), 'sums')
        assert end['other'] > 0, end


@tap.case("a guest without guest nodes is one node with all of its memory")
def flat() -> None:
    """Seed 002, limitations: many-to-one and the rest are said of such guests, too."""
    low = 8
    with nodes.thp('never'), guest([Vnode(low + SIZE)], extra=['-device', DEVICE], numa=False) as one:
        driver = NodeDriver(one.drive(FEATURES), {0: range(low * MIB // PAGE, (low + SIZE) * MIB // PAGE, BLOCK)})
        one.touch(0, SIZE, low)
        area = one.host_address[0] + low * MIB
        nodes.move(one.pid, range(area, area + SIZE * MIB, PAGE), 3)
        answer = one.placement(samples=65536)
        tap.equal([3 in vnode['pnodes'] for vnode in answer['vnodes']], [True], 'guest nodes that are on node 3')
        before = one.truth(0)[3]
        # and a page of the firmware or a ring, if QEMU ran there when that was touched
        assert SIZE * MIB <= before < (SIZE + 1) * MIB, before
        tap.equal(_ask(one, 3, 12, exact=True), [0], 'guest nodes')
        driver.obey()
        end = _done(one)
        tap.equal((end['status'], end['got'], end['other'], end['parts']), ('reached', 12, 0, {(0, 3): 12}), 'the end')
        now = one.truth(0)[3]
        assert before - 12 * MIB <= now < before - 11 * MIB, f'by the kernel: {before}, then {now}'


@tap.case("a guest that ignores its target gives nothing, and that is told")
def ignores() -> None:
    """Time is over."""
    with _driven() as (one, _):
        before = _truth(one)
        _ask(one, 3, 16, exact=True, timeout=1)
        end = _done(one)
        tap.equal((end['status'], end['got'], end['shortfall'], end['parts']), ('timed-out', 0, 16, {}), 'the end')
        tap.equal(_truth(one), before, 'by the kernel')


@tap.case("a guest that gives memory of another host node, and says otherwise, is seen through")
def lies() -> None:
    """It calls blocks of guest node 1 (host node 1) such of guest node 2 (host node 3)."""
    with _driven() as (one, driver):
        before = _truth(one)
        driver.free[2] = list(driver.free[1])
        driver.free[3] = []
        _ask(one, 3, 16, exact=True)
        driver.obey()
        end = _done(one)
        tap.equal((end['status'], end['got'], end['shortfall']), ('short', 0, 16), 'the end')
        lost = _lost(before, _truth(one))
        tap.equal((lost, set(lost)), (end['parts'], {(1, 1)}), 'by the kernel')
        vnodes = one.vm.qmp('query-balloon-node')['vnodes']
        assert vnodes[1]['ballooned'] == lost[1, 1] * MIB and vnodes[1]['said'] == 0, vnodes[1]
        assert vnodes[2]['ballooned'] == 0 and vnodes[2]['said'] > 0, vnodes[2]


@tap.case("memory that was never there counts for the host node only where it could be nowhere else")
def absent() -> None:
    """Bound to node 3: it can be claimed there.  Without a policy: it is nothing of that node."""
    with _driven([LOW, bound(SIZE, 3), Vnode(SIZE)], touch=False) as (one, driver):
        tap.equal(_ask(one, 3, 8, exact=True), [1], 'guest nodes')
        driver.obey()
        end = _done(one)
        tap.equal((end['status'], end['got'], end['parts']), ('reached', 8, {(1, None): 8}), 'bound')
        try:
            _ask(one, 2, 8, exact=True)
        except ExecuteError as error:
            tap.note(str(error))
        else:
            raise AssertionError('asked for memory that is on no node')
