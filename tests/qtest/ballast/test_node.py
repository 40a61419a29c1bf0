#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Node ballooning: blocks, configuration space, requests, and drivers that obey, ignore and lie.

The host has one node here; several are tests/functional/test_numa_host.py's.  A Guest is a VM with the
device on PCI, its driver and its vCPU (tests/lib/ballast/guest.py).
"""

import struct
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Iterator, Optional

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / 'lib'))

# pylint: disable=wrong-import-position
from ballast import host, mailbox, tap, virtio                          # noqa: E402
from ballast.guest import MIB, PAGE, RAM, Guest, guest_of, vm_of        # noqa: E402
from ballast.vm import VM, migrate, wait_until                          # noqa: E402

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


if __name__ == '__main__':
    tap.main()
