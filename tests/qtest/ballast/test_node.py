#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Node ballooning: blocks, configuration space, requests, and drivers that obey, ignore and lie.

The host has one node here; several are tests/functional/test_numa_host.py's.  A Guest is a VM with the
device on PCI, its driver and its vCPU (tests/lib/ballast/guest.py).
"""

import struct
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Tuple

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / 'lib'))

# pylint: disable=wrong-import-position
from ballast import host, mailbox, tap, virtio                          # noqa: E402
from ballast.guest import MIB, PAGE, RAM, SLOT, Guest, guest_of, vm_of        # noqa: E402
from ballast.node_driver import NodeDriver                              # noqa: E402
from ballast.vm import VM, ExecuteError, Sink, migrate, wait_migration, wait_until     # noqa: E402

FEATURES = virtio.MUST_TELL_HOST | virtio.NODES
AREA = 64 * MIB // PAGE         # first page of what goes in and out
HUGE = 9                        # order of 2 MiB

TWO_NODES = ['-object', 'memory-backend-ram,id=m0,size=64M', '-object', 'memory-backend-ram,id=m1,size=64M',
             '-numa', 'node,nodeid=0,memdev=m0', '-numa', 'node,nodeid=1,memdev=m1']


def drive(guest: Guest, features: int = FEATURES) -> virtio.Balloon:
    """Start the driver again, with node ballooning."""
    guest.balloon = virtio.Balloon(guest.balloon.transport, features)
    return guest.balloon


@contextmanager
def node_guest(ledger: Optional[host.Ledger] = None, *extra: str, **kwargs: Any) -> Iterator[Guest]:
    """A guest whose driver has negotiated node ballooning."""
    with guest_of(ledger, *extra, **kwargs) as guest:
        drive(guest)
        yield guest


# -- feature bit and configuration space ------------------------------------

@tap.case('offered to modern drivers, on PCI and MMIO, unless switched off')
def offered() -> None:
    """With the fields behind it."""
    host.need_device()
    for args, device, find in ((mailbox.microvm(), 'virtio-balloon-ledger-device', virtio.find_mmio),
                               (mailbox.pc(), 'virtio-balloon-ledger-pci', virtio.find_pci)):
        for prop, wanted in (('', True), (',node-balloon=on', True), (',node-balloon=off', False)):
            with VM([*args, *host.accel(), '-device', f'{device},id=balloon0{prop}'], plugin={}) as vm:
                mailbox.boot(vm)
                balloon = virtio.Balloon(find(vm.qtest), virtio.MUST_TELL_HOST)
                tap.equal(bool(balloon.offered & virtio.NODES), wanted, f'{device}{prop}')
                if wanted:
                    tap.equal(balloon.nodes(), {'format': 0x31444e42, 'num_nodes': 1, 'seq': 0, 'exact_mask': 0,
                                                'block_pages': 512, 'done_seq': 0, 'done_status': 0})
                    tap.equal(balloon.node_target(0), virtio.NO_TARGET)


@tap.case('not offered to legacy drivers')
def legacy() -> None:
    """A device with the legacy interface alone has no VERSION_1."""
    host.need_device()
    for props, wanted in (('disable-legacy=on', virtio.NODES), ('disable-modern=on,disable-legacy=off', 0)):
        with VM([*mailbox.pc(), *host.accel(), '-device', f'virtio-balloon-ledger-pci,id=balloon0,{props}'],
                plugin={}) as vm:
            mailbox.boot(vm)
            path = '/machine/peripheral/balloon0/virtio-backend'
            features = vm.qmp('x-query-virtio-status', path=path)['host-features']
            tap.equal(features.get('unknown-dev-features', 0) & virtio.NODES, wanted, props)


@tap.case('guest nodes are named by their proximity domains')
def proximity() -> None:
    """Two of them; none has a target."""
    with node_guest(None, *TWO_NODES) as guest:
        tap.equal(guest.balloon.nodes()['num_nodes'], 2)
        config = guest.vm.qtest.read(guest.balloon.transport.config + 44, 24)
        tap.equal(struct.unpack('<6I', config), (0, virtio.NO_TARGET, 0, 1, virtio.NO_TARGET, 0))


@tap.case('a reset withdraws what was there; another driver may do without')
def renegotiated() -> None:
    """With the bit, without, with it again."""
    with node_guest() as guest:
        guest.balloon.set_node_actual(0, 77)
        guest.balloon.set_done(5, 1)
        tap.equal(guest.balloon.nodes()['done_seq'], 5)
        drive(guest).set_node_actual(0, 78)     # nothing was read before: no old value comes with it
        tap.equal(guest.balloon.nodes()['done_seq'], 0, 'after a reset')
        guest.balloon.set_done(5, 1)
        plain = drive(guest, virtio.MUST_TELL_HOST)
        tap.equal((plain.nodes()['done_seq'], plain.nodes()['done_status']), (0, 0))
        plain.set_done(9, 1)
        tap.equal(plain.nodes()['done_seq'], 0, 'written by a driver without the bit')
        plain.inflate([AREA, AREA + 1])
        again = drive(guest)
        again.send_blocks('inflate', [(AREA, HUGE)])
        again.send_blocks('deflate', [(AREA, HUGE)])
        assert not again.broken()


@tap.case('any value in the fields of the driver is taken, and no other field is written')
def hostile_config() -> None:
    """The device's own fields stay; nothing breaks."""
    with node_guest(None, *TWO_NODES) as guest:
        before = guest.vm.qtest.read(guest.balloon.transport.config + 16, 20)
        for at in range(16, 256, 4):
            for value in (0, 0xffffffff, 0x80000000, 0x5a5a5a5a):
                guest.vm.qtest.writel(guest.balloon.transport.config + at, value)
        tap.equal(guest.vm.qtest.read(guest.balloon.transport.config + 16, 20), before, 'fields of the device')
        tap.equal(guest.balloon.node_target(0), virtio.NO_TARGET)
        assert guest.vm.alive() and not guest.balloon.broken()


# -- blocks ------------------------------------------------------------------

@tap.case('blocks go in and out: the claim follows to the byte')
def blocks() -> None:
    """Of each order, in one buffer."""
    with host.Ledger('1G') as ledger, node_guest(ledger) as guest:
        wanted = [(AREA + (1 << order), order) for order in range(0, 13)]
        total = sum(PAGE << order for _, order in wanted)
        guest.box.touch(AREA * PAGE, 32 * MIB)
        guest.balloon.send_blocks('inflate', wanted)
        tap.equal(ledger.claimed('guest'), RAM - total, 'claim')
        guest.balloon.send_blocks('deflate', wanted)
        tap.equal(ledger.claimed('guest'), RAM, 'claim')


@tap.case('a block may come back in pieces, and others out of order')
def pieces() -> None:
    """2 MiB in; 4K, 1 MiB and the rest out."""
    with host.Ledger('1G') as ledger, node_guest(ledger) as guest:
        guest.balloon.send_blocks('inflate', [(AREA + 512, HUGE), (AREA, HUGE)])
        guest.balloon.send_blocks('deflate', [(AREA + 256, 8), (AREA, 0)])
        tap.equal(ledger.claimed('guest'), RAM - 4 * MIB + MIB + PAGE, 'claim')
        guest.balloon.send_blocks('deflate', [(AREA + (1 << order), order) for order in range(8)])
        guest.balloon.send_blocks('deflate', [(AREA + 512, HUGE)])
        tap.equal(ledger.claimed('guest'), RAM, 'claim')


@tap.case('blocks that break the rules are ignored')
def bad_blocks() -> None:
    """Unaligned, absurd, nowhere, double: no claim changes, and good ones beside them count."""
    with host.Ledger('1G') as ledger, node_guest(ledger) as guest:
        bad = [(AREA + 1, HUGE), (AREA, 19), (AREA, 31), (AREA, 1 << 5), (AREA, 0xfff), (1 << 51, 0),
               ((1 << 52) - 512, HUGE), (RAM // PAGE, 0), ((1 << 40), 18), (0xfee00, 0), (0xfeb00, 8)]
        guest.balloon.send_blocks('inflate', bad)
        tap.equal(ledger.claimed('guest'), RAM, 'claim')
        guest.balloon.send_blocks('inflate', [*bad, (AREA, HUGE), (AREA, HUGE), (AREA + 256, 8), (AREA + 511, 0)])
        tap.equal(ledger.claimed('guest'), RAM - 2 * MIB, 'claim')
        guest.balloon.send_blocks('inflate', [(AREA & ~1023, 10)])
        tap.equal(ledger.claimed('guest'), RAM - 2 * MIB, 'claim after a block that is partly in')
        guest.balloon.send_blocks('deflate', [*bad, (AREA & ~1023, 10), (AREA + 512, HUGE), (AREA + 600, 0)])
        tap.equal(ledger.claimed('guest'), RAM - 2 * MIB, 'claim after what is not in, not all of it')
        guest.balloon.send_blocks('deflate', [(AREA, HUGE), (AREA, HUGE), (AREA + 1, 0)])
        tap.equal(ledger.claimed('guest'), RAM, 'claim')
        guest.balloon.send_blocks('inflate', [(AREA + 512, HUGE)])
        guest.balloon.send_blocks('inflate', [(AREA, 10)])
        tap.equal(ledger.claimed('guest'), RAM - 2 * MIB, 'claim after a block whose end is in')
        assert not guest.balloon.broken()


@tap.case('a torn entry is ignored, and the whole ones count')
def torn() -> None:
    """Seven bytes too many."""
    with host.Ledger('1G') as ledger, node_guest(ledger) as guest:
        data = struct.pack('<Q', AREA << 12 | HUGE) + bytes(7)
        guest.balloon.queues['inflate'].add([guest.balloon.buffer(data)])
        guest.balloon.queues['inflate'].wait_idle()
        tap.equal(ledger.claimed('guest'), RAM - 2 * MIB, 'claim')


@tap.case('a buffer of too many blocks lets none of them out')
def too_long() -> None:
    """2,049: the claim stays, the device asks for a reset."""
    with host.Ledger('1G') as ledger, node_guest(ledger) as guest:
        guest.balloon.send_blocks('inflate', [(AREA, HUGE)])
        guest.balloon.send_blocks('deflate', [(AREA, 0)] * 2049, wait=False)
        wait_until(guest.balloon.broken, 'the device to ask for a reset')
        tap.equal(ledger.claimed('guest'), RAM - 2 * MIB, 'claim')


@tap.case('a block at the end of one node and the beginning of the other is two pieces')
def across_nodes() -> None:
    """64 MiB of each: 128 MiB from page 0 on has holes, the middle has none."""
    with host.Ledger('1G') as ledger, node_guest(ledger, *TWO_NODES) as guest:
        middle = 64 * MIB // PAGE
        guest.balloon.send_blocks('inflate', [(middle - 512, HUGE), (middle, HUGE)])
        tap.equal(ledger.claimed('guest'), RAM - 4 * MIB, 'claim')
        guest.balloon.send_blocks('deflate', [(middle - 512, HUGE), (middle, HUGE)])
        tap.equal(ledger.claimed('guest'), RAM, 'claim')


@tap.case('the gate holds a whole buffer of blocks, and returns it whole')
def gate() -> None:
    """Its capacity was taken meanwhile."""
    with host.Ledger('256M') as ledger, node_guest(ledger) as guest:
        wanted = [(AREA, HUGE), (AREA + 512, HUGE), (AREA + 2048, 0)]
        guest.balloon.send_blocks('inflate', wanted)
        ledger.take('neighbour', str(ledger.status()['capacity'][-1]['free']))
        guest.balloon.send_blocks('deflate', wanted, wait=False)
        guest.vm.wait_event('MEMORY_CLAIM_WAITING')
        assert not guest.returned()
        tap.equal(ledger.claimed('guest'), RAM - 4 * MIB - PAGE, 'claim')
        ledger.release('neighbour')
        wait_until(guest.returned, 'the buffer')
        tap.equal(ledger.claimed('guest'), RAM, 'claim')


@tap.case('blocks in the balloon, targets and the driver\'s word migrate')
def over() -> None:
    """And can be taken out on the other side."""
    host.need_device()
    with host.Ledger('1G') as ledger, vm_of(ledger, *TWO_NODES, name='src') as src, \
            vm_of(ledger, *TWO_NODES, '-incoming', 'defer', name='dst') as dst:
        dst.launch()
        guest = Guest(src)
        balloon = drive(guest)
        balloon.send_blocks('inflate', [(AREA, HUGE)])
        balloon.set_node_actual(1, 512)
        balloon.set_done(3, 1)
        migrate(src, dst)
        there = balloon.on(dst.qtest)
        tap.equal((there.nodes()['done_seq'], there.nodes()['done_status']), (3, 1))
        tap.equal(struct.unpack('<I', dst.qtest.read(there.transport.config + 44 + 12 + 8, 4)), (512,), 'actual')
        tap.equal(ledger.claimed('dst'), RAM - 2 * MIB, 'claim')
        there.send_blocks('deflate', [(AREA, HUGE)])
        tap.equal(ledger.claimed('dst'), RAM, 'claim')


ONE_BLOCK = ['-M', 'pc-i440fx-4.2', '-numa', 'node,mem=64M', '-numa', 'node,mem=64M']
MIDDLE = 64 * MIB // PAGE       # first page of guest node 1


def _run(first: int, pages: int) -> bytes:
    """As in the state of the balloon."""
    return struct.pack('>QQ', first, pages)


def _ballooned(vm: VM) -> List[int]:
    """Pages, per guest node."""
    return [node['ballooned'] // PAGE for node in vm.qmp('query-balloon-node')['vnodes']]


def _loaded(second: Tuple[int, int], ballooned: List[int]) -> None:
    """Save runs of pages: one over the middle, and one behind it, which `second` replaces in the file; load them."""
    host.need_device()
    first, saved = (MIDDLE - 512, 1024), (MIDDLE + 1024, 512)
    with host.Ledger('1G') as ledger, vm_of(ledger, *ONE_BLOCK, name='src') as src, \
            vm_of(ledger, *ONE_BLOCK, '-incoming', 'defer', name='dst') as dst:
        dst.launch()
        balloon = drive(Guest(src))
        balloon.send_blocks('inflate', [(page, HUGE) for page in (first[0], MIDDLE, saved[0])])
        tap.equal(_ballooned(src), [512, 1024], 'before')
        file = Path(src.temp_dir, 'state')
        src.qmp('migrate', uri=f'file:{file}')
        wait_migration(src)
        state = file.read_bytes()
        runs = _run(*first) + _run(*saved)
        tap.equal(state.count(runs), 1, 'the runs in the file')
        file.write_bytes(state.replace(runs, _run(*first) + _run(*second)))
        dst.qmp('migrate-incoming', uri=f'file:{file}')
        wait_migration(dst)
        tap.equal(_ballooned(dst), ballooned, 'ballooned, per guest node')
        tap.equal(ledger.claimed('dst'), RAM - sum(ballooned) * PAGE, 'claim')
        there = balloon.on(dst.qtest)
        for start in range(MIDDLE - 1024, MIDDLE + 2048, 1024):
            there.send_blocks('deflate', [(page, 0) for page in range(start, start + 1024)])
        tap.equal(_ballooned(dst), [0, 0], 'taken out')
        tap.equal(ledger.claimed('dst'), RAM, 'claim')


tap.add('a run of ballooned pages over two guest nodes of one block is loaded', _loaded,
        (MIDDLE + 1024, 512), [512, 1024])
for _name, _second, _pages in (('again', (MIDDLE - 512, 1024), [512, 512]),
                               ('inside', (MIDDLE - 101, 150), [512, 512]),
                               ('around', (MIDDLE - 1001, 2005), [1001, 1004]),
                               ('in part', (MIDDLE + 33, 1000), [512, 1033])):
    tap.add(f'a state that is wrong: a run named {_name} counts once', _loaded, _second, _pages)


# -- requests: down ------------------------------------------------------------

def blocks_of(node: int) -> range:
    """What a guest of TWO_NODES has to give, in blocks of 2 MiB: 48 MiB of each node."""
    return range((8 + 64 * node) * MIB // PAGE, (56 + 64 * node) * MIB // PAGE, 512)


@contextmanager
def two_nodes(ledger: Optional[host.Ledger] = None, touch: bool = True,
              **kwargs: Any) -> Iterator[Tuple[Guest, NodeDriver]]:
    """A guest of two nodes whose memory is there, and its driver."""
    with node_guest(ledger, *TWO_NODES, **kwargs) as guest:
        if touch:
            for node in (0, 1):
                guest.box.touch((8 + 64 * node) * MIB, 48 * MIB)
        yield guest, NodeDriver(guest.balloon, {node: blocks_of(node) for node in (0, 1)})


def ask(vm: VM, mib: int, node: int = 0, **more: object) -> Dict[str, Any]:
    """balloon-node."""
    return dict(vm.qmp('balloon-node', {'host-node': node, 'bytes': mib * MIB, **more}))


def done(vm: VM) -> Dict[str, Any]:
    """The event, flat."""
    data = vm.wait_event('BALLOON_NODE_DONE')['data']
    return {'status': data['status'], **data['request']}


def refused(vm: VM, *words: str, **arguments: object) -> None:
    """balloon-node fails, with these words, and no request is there afterwards."""
    try:
        vm.qmp('balloon-node', arguments)
    except ExecuteError as error:
        for word in words:
            assert word in str(error), f'no {word!r} in {str(error)!r}'
    else:
        raise AssertionError(f'accepted: {arguments}')


@tap.case('down, exact: all of it comes from the node')
def down_exact() -> None:
    """Two guest nodes have memory on it (many-to-one): both give."""
    with host.Ledger('1G') as ledger, two_nodes(ledger) as (guest, driver):
        answer = ask(guest.vm, 32, exact=True)
        tap.equal((answer['guest-nodes'], answer['driver']), ([0, 1], True))
        driver.obey()
        end = done(guest.vm)
        tap.equal((end['status'], end['got'], end['shortfall'], end['other'], end['exact']),
                  ('reached', 32 * MIB, 0, 0, True))
        tap.equal(sorted((part['guest-node'], part['host-node']) for part in end['parts']), [(0, 0), (1, 0)])
        tap.equal(ledger.claimed('guest'), RAM - 32 * MIB, 'claim')
        after = guest.vm.qmp('query-balloon-node')
        assert 'request' not in after and not any('target' in node for node in after['vnodes']), after
        tap.equal([node['ballooned'] for node in after['vnodes']], [node['said'] for node in after['vnodes']])
        tap.equal(guest.balloon.target, driver.total(), 'the total at the end')


@tap.case('down, exact: what one guest node cannot give is asked of the other')
def down_rounds() -> None:
    """The first has 8 MiB only: three rounds, and all is there."""
    with two_nodes() as (guest, driver):
        driver.free[0] = driver.free[0][:4]
        ask(guest.vm, 48, exact=True)
        driver.obey()
        end = done(guest.vm)
        tap.equal((end['status'], end['got'], driver.pages(0) * PAGE, driver.pages(1) * PAGE),
                  ('reached', 48 * MIB, 8 * MIB, 40 * MIB))


@tap.case('down, exact: short when the node is dry, and the guest keeps what it has')
def down_short() -> None:
    """Nobody asks further; the total becomes what is in the balloon."""
    with two_nodes() as (guest, driver):
        for node in (0, 1):
            driver.free[node] = driver.free[node][:4]
        ask(guest.vm, 64, exact=True)
        driver.obey()
        end = done(guest.vm)
        tap.equal((end['status'], end['got'], end['shortfall']), ('short', 16 * MIB, 48 * MIB))
        tap.equal(guest.balloon.target * PAGE, 16 * MIB, 'the total at the end')


@tap.case('down, memory that was never touched counts where it can be nowhere else')
def down_absent() -> None:
    """The host has one node; parts tell that there was nothing."""
    with host.Ledger('1G') as ledger, two_nodes(ledger, touch=False) as (guest, driver):
        ask(guest.vm, 16, exact=True)
        driver.obey()
        end = done(guest.vm)
        tap.equal((end['status'], end['got'], any('host-node' in part for part in end['parts'])),
                  ('reached', 16 * MIB, False))
        tap.equal(ledger.claimed('guest'), RAM - 16 * MIB, 'claim')


@tap.case('down: a stretch that is there in part is counted page by page')
def down_mixed() -> None:
    """Of 2 MiB one half is there, of the other every second page but in its last quarter: two looks differ for sure."""
    with node_guest(None, '-object', 'memory-backend-memfd,id=m,size=128M', '-machine',
                    'memory-backend=m') as guest:       # no transparent huge pages here
        guest.vm.qtest.do(f'memset {AREA * PAGE:#x} {MIB:#x} 0x55')
        guest.vm.qtest.batch(f'write {(AREA + page) * PAGE:#x} 1 0x55' for page in range(256, 448, 2))
        guest.balloon.send_blocks('inflate', [(AREA, HUGE)])
        vnode = guest.vm.qmp('query-balloon-node')['vnodes'][0]
        tap.equal((vnode['from'], vnode['absent'], vnode['unseen']),
                  ([{'node': 0, 'bytes': 352 * PAGE}], 160 * PAGE, 0))


# -- requests: up ---------------------------------------------------------------

def policies(vm: VM, policy: str) -> int:
    """Bytes of guest RAM with a policy, by /proc/PID/numa_maps and the address of the next mapping."""
    pid = vm.get_pid()
    ends = {}
    for line in Path(f'/proc/{pid}/maps').read_text(encoding='ascii').splitlines():
        start, end = line.split()[0].split('-')
        ends[int(start, 16)] = int(end, 16)
    total = 0
    for line in Path(f'/proc/{pid}/numa_maps').read_text(encoding='ascii').splitlines():
        start, have = line.split()[:2]
        if have == policy:
            total += ends[int(start, 16)] - int(start, 16)
    return total


def take(guest: Guest, driver: NodeDriver, mib: int) -> None:
    """Some memory goes into the balloon first."""
    ask(guest.vm, mib)
    driver.obey()
    tap.equal(done(guest.vm)['status'], 'reached')


@tap.case('up: what comes back has a policy until it is there')
def up_policy() -> None:
    """Exact binds it, inexact prefers the node; touched, the old policy is back."""
    for exact, policy in ((True, 'bind:0'), (False, 'prefer:0')):
        with two_nodes() as (guest, driver):
            take(guest, driver, 32)
            tap.equal(policies(guest.vm, policy), 0, f'{policy} before')
            ask(guest.vm, 16, direction='up', exact=exact)
            driver.obey()
            end = done(guest.vm)
            tap.equal((end['status'], end['got'], end['other'], driver.total() * PAGE),
                      ('reached', 16 * MIB, 0, 16 * MIB))
            tap.equal({part.get('host-node') for part in end['parts']}, {0})
            tap.equal((policies(guest.vm, policy), guest.vm.qmp('query-balloon-node')['placed']),
                      (16 * MIB, 16 * MIB), policy)
            for node in (0, 1):
                guest.box.touch((8 + 64 * node) * MIB, 48 * MIB)
            wait_until(lambda guest=guest: guest.vm.qmp('query-balloon-node')['placed'] == 0, 'the old policy')
            tap.equal(policies(guest.vm, policy), 0, f'{policy} afterwards')


@tap.case('up: pages that go into the balloon again need no policy, nor does a guest that is reset')
def up_again() -> None:
    """Nothing of it is left."""
    with two_nodes() as (guest, driver):
        take(guest, driver, 32)
        ask(guest.vm, 32, direction='up', exact=True)
        driver.obey()
        tap.equal((done(guest.vm)['got'], policies(guest.vm, 'bind:0')), (32 * MIB, 32 * MIB))
        take(guest, driver, 32)
        wait_until(lambda: guest.vm.qmp('query-balloon-node')['placed'] == 0, 'the old policy')
        ask(guest.vm, 32, direction='up', exact=True)
        driver.obey()
        tap.equal(policies(guest.vm, 'bind:0'), 32 * MIB)
        drive(guest)
        tap.equal((guest.vm.qmp('query-balloon-node')['placed'], policies(guest.vm, 'bind:0')), (0, 0))


@tap.case('up: less than asked for is in the balloon')
def up_short() -> None:
    """Exact: that is given, and the rest is told."""
    with two_nodes() as (guest, driver):
        take(guest, driver, 16)
        ask(guest.vm, 64, direction='up', exact=True)
        driver.obey()
        end = done(guest.vm)
        tap.equal((end['status'], end['got'], end['shortfall'], driver.total()), ('short', 16 * MIB, 48 * MIB, 0))


@tap.case('up: a backend\'s own policy comes back afterwards')
def up_restores() -> None:
    """It was interleave."""
    host.need_device()
    with node_guest(None, '-object', 'memory-backend-ram,id=m,size=128M,policy=interleave,host-nodes=0',
                    '-machine', 'memory-backend=m') as guest:
        tap.equal(policies(guest.vm, 'interleave:0'), RAM, 'the policy at start')
        driver = NodeDriver(guest.balloon, {0: blocks_of(1)})
        take(guest, driver, 16)
        ask(guest.vm, 16, direction='up', exact=True)
        driver.obey()
        tap.equal(policies(guest.vm, 'interleave:0'), RAM - 16 * MIB, 'the policy of the rest')
        guest.box.touch(64 * MIB, 60 * MIB)
        wait_until(lambda: policies(guest.vm, 'interleave:0') == RAM, 'the old policy')


@tap.case('up: no more mappings than there may be')
def up_bounded() -> None:
    """Every other 2 MiB of 6 GiB: 1,024 spans get a policy, the rest is counted."""
    with guest_of(None, memory='9G') as guest:
        drive(guest)
        first = (4 << 30) // PAGE
        blocks = range(first, first + (6 << 30) // PAGE, 1024)
        driver = NodeDriver(guest.balloon, {0: blocks})
        driver._move('inflate', 0, len(blocks) * 512)      # pylint: disable=protected-access
        driver.tell(0)
        mib = len(blocks) * 2
        assert mib == 3072
        ask(guest.vm, mib, direction='up', exact=True)
        driver.obey()
        end = done(guest.vm)
        info = guest.vm.qmp('query-balloon-node')
        tap.equal((end['status'], end['got'], end['other']), ('short', 2 << 30, 1 << 30))
        tap.equal((info['placed'], info['unplaced']), (2 << 30, 1 << 30))


def lines(guest: Guest) -> Dict[Optional[int], int]:
    """The claim, by host node (None: any)."""
    return {line.get('node'): line['claimed'] for line in guest.ledger()['claims']}


@tap.case('up: the node\'s own capacity is claimed for what comes back, beside what is there already')
def up_claim() -> None:
    """The guest's RAM may be on any node; 16 MiB are promised on node 0, until as much goes again."""
    with host.Ledger('1G') as ledger, two_nodes(ledger, touch=False) as (guest, driver):
        tap.equal(lines(guest), {None: RAM}, 'at start')
        take(guest, driver, 64)
        ask(guest.vm, 16, direction='up', exact=True)
        driver.obey()
        tap.equal(done(guest.vm)['got'], 16 * MIB)
        first = lines(guest)
        resident = guest.ledger()['resident']
        assert resident < 16 * MIB, 'hardly anything was touched'
        assert 16 * MIB <= first[0] <= 32 * MIB, first
        tap.equal(sum(first.values()), RAM - 48 * MIB, 'up')
        for block in (*driver.free[0], *driver.free[1]):
            guest.box.touch(block * PAGE, 2 * MIB)
        wait_until(lambda: guest.ledger()['resident'] > 40 * MIB, 'a sample')
        tap.equal(lines(guest), first, 'touched')
        ask(guest.vm, 16, direction='up', exact=True)
        driver.obey()
        tap.equal(done(guest.vm)['got'], 16 * MIB)
        second = lines(guest)
        assert second[0] >= 16 * MIB + 40 * MIB, f'{second}: what is there would use up what was promised'
        tap.equal(ledger.claimed('guest'), RAM - 32 * MIB, 'in all')
        take(guest, driver, 16)
        tap.equal(lines(guest), {**second, 0: second[0] - 16 * MIB}, 'down again')
        drive(guest)
        tap.equal((sum(lines(guest).values()), ledger.claimed('guest')), (RAM, RAM), 'after a reset')


@tap.case('up: a node without capacity: exact waits, inexact takes what there is')
def up_refused() -> None:
    """The neighbour has all of it: nothing is to be had on any node here, so both are held by the gate."""
    for exact in (True, False):
        with host.Ledger('256M') as ledger, two_nodes(ledger) as (guest, driver):
            take(guest, driver, 32)
            ledger.take('neighbour', str(ledger.status()['capacity'][-1]['free']))
            ask(guest.vm, 16, direction='up', exact=exact)
            blocks = [(driver.inside[0].pop(), HUGE)]
            driver.balloon.send_blocks('deflate', blocks, wait=False)
            guest.vm.wait_event('MEMORY_CLAIM_WAITING')
            assert not guest.returned()
            tap.equal(lines(guest), {None: RAM - 32 * MIB}, f'exact={exact}')
            ledger.release('neighbour')
            wait_until(guest.returned, 'the buffer')
            tap.equal(sum(lines(guest).values()), RAM - 30 * MIB)
            tap.equal(lines(guest).get(0, 0) >= 2 * MIB, exact, 'promised on node 0')
            tap.equal(policies(guest.vm, 'bind:0' if exact else 'prefer:0'), 2 * MIB if exact else 0)


@tap.case('up: a driver without the bit gets its memory placed, too')
def up_plain() -> None:
    """Inexact only."""
    with guest_of(None) as guest:
        guest.balloon.inflate(list(range(AREA, AREA + 1024)))
        guest.balloon.set_actual(1024)
        ask(guest.vm, 4, direction='up')
        guest.balloon.deflate(list(range(AREA, AREA + 1024)))
        guest.balloon.set_actual(0)
        end = done(guest.vm)
        tap.equal((end['status'], end['got'], policies(guest.vm, 'prefer:0')), ('reached', 4 * MIB, 4 * MIB))


# -- requests: virtio-mem -----------------------------------------------------------

@contextmanager
def mem_guest(requested: int = 64) -> Iterator[Tuple[Guest, NodeDriver, virtio.MemDevice]]:
    """A guest with 256 MiB of virtio-mem, so many MiB of them plugged."""
    extra = ['-object', 'memory-backend-ram,id=extra,size=256M', '-device',
             f'virtio-mem-pci,id=mem0,memdev=extra,node=0,requested-size={requested}M,addr=6']
    with guest_of(None, *extra, memory='128M,maxmem=1G') as guest:
        drive(guest)
        mem = virtio.MemDevice(virtio.Pci(guest.vm.qtest, 6, 0xfd000000), virtio.UNPLUGGED_INACCESSIBLE,
                               base=4 * MIB)
        mem.obey()
        tap.equal(mem.plugged, requested * MIB, 'plugged')
        yield guest, NodeDriver(guest.balloon, {0: blocks_of(1)}), mem


def servers(end: Dict[str, Any]) -> Dict[str, int]:
    """MiB by what served it."""
    return {part['by']: part['bytes'] // MIB for part in end['parts']}


@tap.case('virtio-mem: serves what the balloon cannot, if it may')
def mem_down() -> None:
    """16 MiB of the balloon, 24 of virtio-mem; the event tells which did."""
    with mem_guest() as (guest, driver, mem):
        driver.free[0] = driver.free[0][:8]
        ask(guest.vm, 40, exact=True)
        driver.obey()
        end = done(guest.vm)
        tap.equal((end['status'], servers(end), mem.requested), ('short', {'balloon': 16}, 64 * MIB), 'not asked to')
        guest.balloon.send_blocks('deflate', [(block, HUGE) for block in driver.inside[0]])
        driver = NodeDriver(drive(guest), {0: list(blocks_of(1))[:8]})
        ask(guest.vm, 40, exact=True, **{'virtio-mem': True})
        driver.obey()
        tap.equal((mem.requested, guest.vm.events('BALLOON_NODE_DONE')), (40 * MIB, []))
        mem.obey()
        end = done(guest.vm)
        tap.equal((end['status'], servers(end), end['got']), ('reached', {'balloon': 16, 'virtio-mem': 24}, 40 * MIB))


@tap.case('virtio-mem: exact without our driver, and up again')
def mem_alone() -> None:
    """The balloon is left alone."""
    with mem_guest() as (guest, _, mem):
        drive(guest, virtio.MUST_TELL_HOST)
        ask(guest.vm, 32, exact=True, **{'virtio-mem': True})
        mem.obey()
        end = done(guest.vm)
        tap.equal((end['status'], servers(end), mem.plugged), ('reached', {'virtio-mem': 32}, 32 * MIB))
        ask(guest.vm, 16, exact=True, direction='up', **{'virtio-mem': True})
        mem.obey()
        end = done(guest.vm)
        tap.equal((end['status'], servers(end), mem.plugged), ('reached', {'virtio-mem': 16}, 48 * MIB))
        tap.equal(guest.balloon.target, 0, 'the balloon')


@tap.case('virtio-mem: a guest that does not unplug: what it has stays requested')
def mem_ignores() -> None:
    """The time limit ends it."""
    with mem_guest() as (guest, driver, mem):
        driver.free[0] = driver.free[0][:8]
        ask(guest.vm, 40, exact=True, timeout=2, **{'virtio-mem': True})
        driver.obey()
        wait_until(lambda: mem.requested == 40 * MIB, 'the request')
        end = done(guest.vm)
        tap.equal((end['status'], servers(end), end['shortfall']), ('timed-out', {'balloon': 16}, 24 * MIB))
        tap.equal((mem.requested, mem.plugged), (64 * MIB, 64 * MIB))


# -- requests: guests that do otherwise -------------------------------------------

@tap.case('a guest that ignores its target: the time limit ends the request')
def ignores() -> None:
    """The target is withdrawn."""
    with two_nodes() as (guest, _):
        ask(guest.vm, 16, timeout=1)
        end = done(guest.vm)
        tap.equal((end['status'], end['got'], end['shortfall']), ('timed-out', 0, 16 * MIB))
        tap.equal((guest.balloon.node_target(0), guest.balloon.target), (virtio.NO_TARGET, 0))


@tap.case('the time limit does not run while the guest is stopped')
def stopped_clock() -> None:
    """Guest time."""
    with two_nodes() as (guest, driver):
        ask(guest.vm, 16, timeout=2)
        guest.vm.qmp('stop')
        time.sleep(3)
        guest.vm.qmp('cont')
        driver.obey()
        tap.equal(done(guest.vm)['status'], 'reached')


@tap.case('a guest that says it is done, and is not: nothing was got')
def lies_about_done() -> None:
    """As many rounds as there may be, then it is short."""
    with two_nodes() as (guest, _):
        ask(guest.vm, 16, exact=True)
        for _ in range(40):
            told = guest.balloon.nodes()
            guest.balloon.set_actual(guest.balloon.target)
            for node in (0, 1):
                if guest.balloon.node_target(node) != virtio.NO_TARGET:
                    guest.balloon.set_node_actual(node, guest.balloon.node_target(node))
            guest.balloon.set_done(told['seq'])
            if guest.vm.events('BALLOON_NODE_DONE'):
                break
        end = done(guest.vm)
        tap.equal((end['status'], end['got'], end['shortfall']), ('short', 0, 16 * MIB))
        vnodes = guest.vm.qmp('query-balloon-node')['vnodes']
        tap.equal([node['ballooned'] for node in vnodes], [0, 0])
        assert any(node['said'] for node in vnodes), vnodes


@tap.case('a guest that says it has the most there can be')
def lies_about_actual() -> None:
    """No target wraps around; the request ends."""
    with two_nodes() as (guest, _):
        guest.balloon.set_actual(0xffffffff)
        for node in (0, 1):
            guest.balloon.set_node_actual(node, 0xffffffff)
        for direction in ('down', 'up'):
            guest.vm.drop_events()
            try:
                ask(guest.vm, 16, direction=direction)
            except ExecuteError:
                continue
            for node in (0, 1):
                assert guest.balloon.node_target(node) >= 0xfffffff0 - 16 * MIB // PAGE, direction
            guest.balloon.set_done(guest.balloon.nodes()['seq'])
            guest.vm.qmp('balloon-node-cancel') if not guest.vm.events('BALLOON_NODE_DONE') else None
            assert guest.vm.alive()


@tap.case('the same memory in and out a hundred times counts once')
def in_and_out() -> None:
    """What is got is what stays."""
    with two_nodes() as (guest, driver):
        ask(guest.vm, 32, exact=True)
        for _ in range(100):
            guest.balloon.send_blocks('inflate', [(driver.free[0][0], HUGE)])
            guest.balloon.send_blocks('deflate', [(driver.free[0][0], HUGE)])
        guest.vm.qmp('balloon-node-cancel')
        end = done(guest.vm)
        tap.equal((end['status'], end['got'], end['shortfall']), ('cancelled', 0, 32 * MIB))


@tap.case('a driver without the bit: inexact is plain ballooning with a report, exact is refused')
def plain() -> None:
    """Where it came from is told all the same."""
    with guest_of(None, *TWO_NODES) as guest:
        guest.box.touch(72 * MIB, 16 * MIB)
        refused(guest.vm, 'driver', 'exact', **{'host-node': 0, 'bytes': MIB, 'exact': True})
        answer = ask(guest.vm, 4)
        tap.equal(answer['driver'], False)
        tap.equal(guest.balloon.target * PAGE, 4 * MIB)
        first = 72 * MIB // PAGE
        guest.balloon.inflate(list(range(first, first + 1024)))
        guest.balloon.set_actual(1024)
        end = done(guest.vm)
        tap.equal((end['status'], end['got'], end['parts']),
                  ('reached', 4 * MIB, [{'guest-node': 1, 'host-node': 0, 'bytes': 4 * MIB, 'by': 'balloon'}]))


# -- requests: refused, replaced, over --------------------------------------------

@tap.case('a request that cannot work is refused, with the reason')
def refusals() -> None:
    """And changes nothing."""
    with two_nodes() as (guest, _):
        args: Dict[str, object] = {'host-node': 0, 'bytes': MIB}
        refused(guest.vm, 'host-node is 77', **{**args, 'host-node': 77})
        refused(guest.vm, 'host-node is 4000000000', **{**args, 'host-node': 4000000000})
        refused(guest.vm, 'bytes is 0', **{**args, 'bytes': 0})
        refused(guest.vm, 'bytes is', **{**args, 'bytes': 1 << 62})
        refused(guest.vm, 'timeout is 0', **{**args, 'timeout': 0})
        refused(guest.vm, 'in the balloon', **{**args, 'direction': 'up'})
        refused(guest.vm, 'host node 0 has only', **{**args, 'bytes': 1 << 43, 'direction': 'up', 'exact': True})
        guest.vm.qmp('stop')
        refused(guest.vm, 'does not run', **args)
        guest.vm.qmp('cont')
        tap.equal((guest.balloon.nodes()['seq'], guest.vm.events('BALLOON_NODE_DONE')), (0, []))
        guest.balloon.transport.set_status(0)
        refused(guest.vm, 'not ready', **args)
        try:
            guest.vm.qmp('balloon-node-cancel')
            raise AssertionError('cancelled nothing')
        except ExecuteError as error:
            assert 'no request' in str(error), error
    with VM([*mailbox.pc(), *host.accel()], plugin={}) as vm:
        mailbox.boot(vm)
        refused(vm, 'no virtio-balloon-ledger', **args)


@tap.case('a new request, and the command balloon, replace a request; what it got stays')
def replaced() -> None:
    """Each tells its end."""
    with two_nodes() as (guest, driver):
        ask(guest.vm, 32, exact=True)
        driver.work()       # says nothing
        ask(guest.vm, 16, exact=True)
        end = done(guest.vm)
        tap.equal((end['request'], end['status'], end['got']), (1, 'replaced', 32 * MIB))
        guest.vm.qmp('balloon', value=RAM - 8 * MIB)
        tap.equal(guest.balloon.target * PAGE, 8 * MIB)
        end = done(guest.vm)
        tap.equal((end['request'], end['status'], end['got']), (2, 'replaced', 0))
        tap.equal(guest.balloon.node_target(0), virtio.NO_TARGET)
        driver.obey()
        tap.equal(driver.total() * PAGE, 8 * MIB, 'in the balloon')
        assert 'request' not in guest.vm.qmp('query-balloon-node')


@tap.case('a cancelled request leaves what it got')
def cancelled() -> None:
    """And the driver in peace."""
    with two_nodes() as (guest, driver):
        ask(guest.vm, 16, exact=True)
        driver.work()
        guest.balloon.set_actual(driver.total())
        guest.vm.qmp('balloon-node-cancel')
        end = done(guest.vm)
        tap.equal((end['status'], end['got']), ('cancelled', 16 * MIB))
        tap.equal(guest.balloon.target, driver.total())


@tap.case('a reset ends the request')
def reset_ends() -> None:
    """Of the driver, and of the machine."""
    with two_nodes() as (guest, driver):
        for reset in (lambda: drive(guest), lambda: guest.vm.qmp('system_reset')):
            ask(guest.vm, 16, exact=True)
            driver.work()
            guest.vm.drop_events()
            reset()
            end = done(guest.vm)
            tap.equal((end['status'], end['got']), ('reset', 16 * MIB))
            driver = NodeDriver(guest.balloon, {node: blocks_of(node) for node in (0, 1)})


@tap.case('unplugged in the middle of a request, with memory placed')
def unplugged() -> None:
    """The request ends, the policies are as they were; another device has its own."""
    with guest_of(None) as guest:
        driver = NodeDriver(drive(guest), {0: blocks_of(1)})
        take(guest, driver, 32)
        ask(guest.vm, 32, direction='up', exact=True)
        driver.work()
        tap.equal(policies(guest.vm, 'bind:0'), 32 * MIB)
        guest.vm.qmp('device_del', id='balloon0')
        guest.vm.qtest.batch(['outl 0xae10 0x0', f'outl 0xae08 {1 << SLOT:#x}'])
        guest.vm.wait_event('DEVICE_DELETED', device='balloon0')
        tap.equal((done(guest.vm)['status'], policies(guest.vm, 'bind:0')), ('reset', 0))
        guest.vm.qmp('device_add', driver='virtio-balloon-ledger-pci', id='balloon1', addr=f'{SLOT:#x}')
        guest.drive()
        drive(guest).send_blocks('inflate', [(AREA, HUGE)])
        assert guest.vm.alive()


@tap.case('a migration ends the request; on the other side nothing goes on unasked')
def migrates() -> None:
    """In the middle of it: half is in the balloon."""
    host.need_device()
    with host.Ledger('1G') as ledger, vm_of(ledger, *TWO_NODES, name='src') as src, \
            vm_of(ledger, *TWO_NODES, '-incoming', 'defer', name='dst') as dst:
        dst.launch()
        guest = Guest(src)
        driver = NodeDriver(drive(guest), {node: blocks_of(node) for node in (0, 1)})
        guest.box.touch(72 * MIB, 16 * MIB)
        ask(src, 32, exact=True)
        driver.free[0], rest = driver.free[0][:4], driver.free[0][4:]
        driver.work()
        guest.balloon.set_actual(driver.total())
        got = driver.total() * PAGE
        assert 0 < got < 32 * MIB
        migrate(src, dst)
        end = done(src)
        tap.equal((end['status'], end['got']), ('migrated', got))
        driver.balloon = guest.balloon.on(dst.qtest)
        wait_until(lambda: driver.balloon.node_target(0) == virtio.NO_TARGET, 'the target to be withdrawn')
        driver.free[0] += rest
        driver.obey()
        tap.equal(driver.total() * PAGE, got, 'in the balloon')
        tap.equal(ledger.claimed('dst'), RAM - got, 'claim')
        after = dst.qmp('query-balloon-node')
        tap.equal(('request' in after, sum(node['ballooned'] for node in after['vnodes'])), (False, got))
        ask(dst, 4, exact=True)
        driver.obey()
        tap.equal(done(dst)['status'], 'reached')


@tap.case('a migration that fails leaves the request as it is')
def migration_fails() -> None:
    """The guest goes on here."""
    with two_nodes() as (guest, driver):
        ask(guest.vm, 16, exact=True)
        sink = Sink(guest.vm)
        guest.vm.qmp('migrate-set-parameters', {'max-bandwidth': MIB})
        guest.vm.qmp('migrate', uri=f'unix:{sink.path}')
        guest.vm.qmp('migrate_cancel')
        wait_until(lambda: guest.vm.migration()['status'] == 'cancelled', 'the end of the migration')
        driver.obey()
        tap.equal(done(guest.vm)['status'], 'reached')


if __name__ == '__main__':
    tap.main()
