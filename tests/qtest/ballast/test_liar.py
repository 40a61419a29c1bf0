#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Claims against guests that lie and memory that comes and goes: the ledger sees what is there.

Each case failed before the fix that the history names; a Guest is a VM with the device on PCI, its
driver and its vCPU (tests/lib/ballast/guest.py).
"""

import struct
import sys
from pathlib import Path
from typing import Any, Dict, List, Optional

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / 'lib'))

# pylint: disable=wrong-import-position
from ballast import host, mailbox, paths, tap, virtio                          # noqa: E402
from ballast.vm import VM, migrate, start_migration, wait_migration, wait_until  # noqa: E402
from ballast.guest import BYTES, MIB, PAGE, PAGES, RAM, Guest, guest_of  # noqa: E402

RING_RESET = 1 << 40
QUEUE_SELECT, QUEUE_RESET = 22, 0x3a      # offsets in the common configuration of virtio-pci


def _resident(vm: VM) -> int:
    """Guest memory that is really there, every page looked at."""
    backends: List[Dict[str, Any]] = vm.qmp('query-memory-placement', samples=65536)['backends']
    return sum(node['bytes'] for backend in backends for node in backend['nodes'])


def _reported(ledger: host.Ledger, name: str) -> int:
    """What the ledger was told."""
    return sum(cell['resident'] for one in ledger.participants() if one['name'] == name
               for cell in one['holds'])


@tap.case('a guest that uses its ballooned pages shows as resident')
def uses_ballooned() -> None:
    """It gave back 96 MiB and took them again without a word: nobody else may be promised them."""
    with host.Ledger('256M') as ledger, guest_of(ledger) as guest:
        guest.balloon.inflate(list(range(32 * MIB // PAGE, RAM // PAGE)))
        tap.equal(ledger.claimed('guest'), 32 * MIB, 'claim')
        guest.box.touch(32 * MIB, 96 * MIB)
        wait_until(lambda: _reported(ledger, 'guest') > 90 * MIB, 'the ledger to see it')
        free = ledger.status()['capacity'][-1]['free']
        assert free < 256 * MIB - 90 * MIB, f'{free >> 20} MiB are called free'


def _plugged_later(claim: Optional[str], lowered: bool) -> None:
    """A DIMM goes into the balloon: the claim is lowered only if it covers the DIMM."""
    with host.Ledger('1G') as ledger, guest_of(ledger, memory='128M,slots=2,maxmem=1G', claim=claim) as guest:
        guest.vm.qmp('object-add', {'qom-type': 'memory-backend-ram', 'id': 'm1', 'size': RAM})
        guest.vm.qmp('device_add', driver='pc-dimm', id='d1', memdev='m1')
        start = guest.vm.qmp('query-memory-devices')[0]['data']['addr']
        guest.balloon.inflate(list(range(start // PAGE, (start + 64 * MIB) // PAGE)))
        tap.equal(ledger.claimed('guest'), RAM + (RAM - 64 * MIB if lowered else 0), 'claim')


tap.add('memory that was plugged later pays for nothing', _plugged_later, '128M', False)
if paths.FLAVOUR == 'series':       # object-add has claimed it
    tap.add('memory that was plugged later and is claimed pays', _plugged_later, None, True)


def _over_to(backend: str, during: bool) -> None:
    """The destination's claim is lowered only by memory that is really free there."""
    args = [*mailbox.pc(), '-machine', 'memory-backend=m', *host.accel(),
            '-device', 'virtio-balloon-ledger-pci,id=balloon0,addr=5']
    plain = ['-object', 'memory-backend-ram,id=m,size=128M']
    host.need_device()
    with host.Ledger('1G') as ledger, \
            VM([*args, *plain], plugin={'ledger': ledger.path, 'name': 'src'}, name='src') as src, \
            VM([*args, '-object', backend, '-incoming', 'defer'],
               plugin={'ledger': ledger.path, 'name': 'dst'}, name='dst') as dst:
        dst.launch()
        guest = Guest(src)
        src.qtest.do(f'memset {32 * MIB:#x} {96 * MIB:#x} 0x5a')
        if during:
            start_migration(src, dst, parameters={'max-bandwidth': 30 * MIB})
            wait_until(lambda: src.migration().get('ram', {}).get('normal', 0) * PAGE > 72 * MIB, 'most pages')
            guest.balloon.inflate(PAGES)
            src.qmp('migrate-set-parameters', {'max-bandwidth': 1 << 40})
            wait_migration(src, dst)
        else:
            guest.balloon.inflate(PAGES)
            migrate(src, dst)
        tap.equal(ledger.claimed('dst'), RAM - BYTES, 'claim')
        backend_pages = dst.qmp('query-memory-placement', samples=65536)['backends'][0]
        assert _resident(dst) <= RAM - BYTES, f'{_resident(dst) >> 20} MiB are there: {backend_pages}'


tap.add('migration: to preallocated memory', _over_to, 'memory-backend-ram,id=m,size=128M,prealloc=on', False)
tap.add('migration: ballooned after it was sent', _over_to, 'memory-backend-ram,id=m,size=128M', True)


@tap.case('one queue is reset while its buffer is held')
def queue_reset() -> None:
    """A fresh ring gets no buffer of the old one."""
    with host.Ledger('256M') as ledger, guest_of(ledger) as guest:
        transport = guest.balloon.transport
        guest.balloon = virtio.Balloon(transport, virtio.MUST_TELL_HOST | RING_RESET)
        guest.balloon.inflate(PAGES)
        ledger.take('neighbour', str(ledger.status()['capacity'][-1]['free']))
        guest.balloon.deflate(PAGES[:256], wait=False)
        guest.vm.wait_event('MEMORY_CLAIM_WAITING')
        transport._write('w', QUEUE_SELECT, 1)      # pylint: disable=protected-access
        transport._write('w', QUEUE_RESET, 1)       # pylint: disable=protected-access
        tap.equal(guest.ledger()['waiting'], 0, 'waiting')
        fresh = virtio.Queue(transport, 1, guest.balloon.base + guest.balloon.RING_SPAN, 128)
        fresh.enable()
        guest.balloon.queues['deflate'] = fresh
        ledger.release('neighbour')
        guest.balloon.deflate(PAGES[256:512])
        tap.equal(fresh.used_count(), 1, 'buffers returned')


@tap.case('an honest deflation is not held for what the guest uses anyway')
def uses_then_deflates() -> None:
    """Ballooned pages used again without a word, then deflated: there is capacity, so the gate is open."""
    with host.Ledger('1G') as ledger, guest_of(ledger, device='deflate=gate') as guest:
        pages = list(range(32 * MIB // PAGE, RAM // PAGE))
        guest.balloon.inflate(pages)
        guest.balloon.deflate(pages[:256])
        guest.box.touch(32 * MIB, 96 * MIB)
        wait_until(lambda: _reported(ledger, 'guest') > 90 * MIB, 'the ledger to see it')
        guest.balloon.deflate(pages[256:512])
        tap.equal(guest.ledger()['refused'], 0, 'refusals')


@tap.case('a list of more pages than allowed lets none of them out')
def too_long() -> None:
    """The claim stays, the device asks for a reset."""
    with host.Ledger('1G') as ledger, guest_of(ledger) as guest:
        guest.balloon.inflate(PAGES)
        claimed = ledger.claimed('guest')
        numbers = struct.pack('<16385I', *[PAGES[at % len(PAGES)] for at in range(16385)])
        guest.vm.qtest.write(32 * MIB, numbers[:32768])
        guest.vm.qtest.write(32 * MIB + 32768, numbers[32768:])
        guest.balloon.queues['deflate'].add_all([[virtio.out(32 * MIB, len(numbers))]])
        tap.equal(ledger.claimed('guest'), claimed, 'claim')
        wait_until(guest.balloon.broken, 'the device to ask for a reset')
        assert not guest.returned(), 'the buffer was returned'


@tap.case('refusals cannot flood the monitor')
def event_rate() -> None:
    """Two thousand refused deflations: each is counted, few are told."""
    with host.Ledger('256M') as ledger, guest_of(ledger, device='deflate=allow') as guest:
        guest.balloon.inflate(PAGES)
        ledger.take('neighbour', str(ledger.status()['capacity'][-1]['free']))
        buffers = [[guest.balloon.pfns([page])] for page in PAGES[:100]]
        for _ in range(20):
            for name in ('deflate', 'inflate'):
                guest.balloon.queues[name].add_all(buffers)
                guest.balloon.queues[name].wait_idle()
        assert guest.ledger()['refused'] >= 2000, guest.ledger()
        told = len(guest.vm.events('MEMORY_CLAIM_REFUSED'))
        assert 1 <= told <= 20, f'{told} events'


@tap.case('an heir is known by the name it was given')
def heir() -> None:
    """ballast run decides ledger and name, whatever the plug-in's options say."""
    host.need_device()
    with host.Ledger('1G') as ledger, host.Ledger('1G') as other:
        wrapper = [str(paths.CLI), 'run', '--ledger', str(ledger.path), '--claim', '64M', '--name', 'heir', '--']
        with VM([*mailbox.pc(), *host.accel()], plugin={'ledger': other.path, 'name': 'x'}, wrapper=wrapper) as vm:
            vm.launch()
            info = vm.qmp('query-memory-ledger')
            tap.equal((info['name'], info['inherited'], 'path' in info), ('heir', True, False))
            tap.equal([one['name'] for one in ledger.participants()], ['heir'])
            tap.equal(other.participants(), [])


if __name__ == '__main__':
    tap.main()
