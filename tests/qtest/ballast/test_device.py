#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The device and its claim: properties, inflate and deflate, the gate, life and death, migration."""

import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / 'lib'))

# pylint: disable=wrong-import-position
from ballast import host, mailbox, paths, tap, virtio                   # noqa: E402
from ballast.guest import (AREA, BYTES, MIB, PAGE, PAGES, RAM, SLOT, Guest, guest_of,  # noqa: E402
                           vm_of)
from ballast.vm import VM, ExecuteError, Sink, VMLaunchFailure, migrate, wait_until  # noqa: E402

def fails(vm: VM) -> str:
    """Launching ends with exit status 1; what QEMU said."""
    try:
        vm.launch()
    except VMLaunchFailure as failure:
        tap.equal(failure.exitcode, 1, 'exit status')
        return failure.output or ''
    vm.shutdown(hard=True)
    raise AssertionError('QEMU started')


def contains(text: str, *parts: str) -> None:
    """All of it."""
    for part in parts:
        assert part in text, f'no {part!r} in {text!r}'


# -- properties ------------------------------------------------------------

def _realize(args: List[str], device: str) -> None:
    host.need_device()
    with VM([*args, *host.accel(), '-object', 'iothread,id=iot', '-device', device], plugin={}) as vm:
        mailbox.boot(vm)
        path = '/machine/peripheral/balloon0'
        contains(vm.qom_get(path, 'type'), 'virtio-balloon-ledger')
        find = virtio.find_mmio if 'microvm' in args else virtio.find_pci
        balloon = virtio.Balloon(find(vm.qtest), virtio.MUST_TELL_HOST)
        assert balloon.offered & virtio.MUST_TELL_HOST
        balloon.inflate(PAGES[:10])
        balloon.deflate(PAGES[:10])
        vm.qmp('query-balloon')


for _mode in ('gate', 'allow', 'observe'):
    tap.add(f'properties: -device, deflate={_mode}', _realize, mailbox.microvm(),
            f'virtio-balloon-ledger-device,id=balloon0,deflate={_mode}')
    tap.add(f'properties: -pci, deflate={_mode}', _realize, mailbox.pc(),
            f'virtio-balloon-ledger-pci,id=balloon0,deflate={_mode}')
tap.add('properties: hints without an I/O thread', _realize, mailbox.microvm(),
        'virtio-balloon-ledger-device,id=balloon0,free-page-hint=on')
tap.add('properties: everything on', _realize, mailbox.pc(), 'virtio-balloon-ledger-pci,id=balloon0,'
        'free-page-hint=on,free-page-reporting=on,deflate-on-oom=on,iothread=iot')


@tap.case('properties: a bad value is named, with those allowed')
def bad_value() -> None:
    """Launch and hot-plug."""
    contains(fails(vm_of(None, device='deflate=maybe')), "'maybe'", 'gate', 'allow', 'observe')
    with VM([*mailbox.pc(), *host.accel()], plugin={}) as vm:
        vm.launch()
        try:
            vm.qmp('device_add', driver='virtio-balloon-ledger-pci', id='balloon0', deflate='maybe')
            raise AssertionError('plugged')
        except ExecuteError as error:
            contains(str(error), "'maybe'", 'gate', 'allow', 'observe')
        vm.qmp('device_add', driver='virtio-balloon-ledger-pci', id='balloon0', deflate='gate')


@tap.case('properties: a second balloon is refused')
def second_balloon() -> None:
    """QEMU has only one; also where each would make an I/O thread of its own."""
    with guest_of(None, device='free-page-hint=on') as guest:
        for hints in (False, True):
            try:
                guest.vm.qmp('device_add', {'driver': 'virtio-balloon-ledger-pci', 'id': 'balloon1',
                                            'free-page-hint': hints})
                raise AssertionError('plugged')
            except ExecuteError as error:
                contains(str(error), 'balloon')
        assert guest.vm.alive()


@tap.case('plug-in: a bad option is named')
def bad_option() -> None:
    """The series has QEMU's own checks."""
    tap.need(paths.FLAVOUR == 'plugin', 'the plug-in')
    host.need_device()
    for option, value in {'ledgr': '/x', 'claim': 'much', 'ledger': '/nonexistent/ledger'}.items():
        with host.Ledger() as ledger:
            options = {option: value} if option == 'ledger' else {'ledger': ledger.path, option: value}
            output = fails(VM([*mailbox.microvm()], plugin=options))
            contains(output, 'ballast: ', value)


# -- the claim -------------------------------------------------------------

@tap.case('claim: staked at launch, released at exit')
def staked() -> None:
    """By the name given."""
    with host.Ledger('1G') as ledger:
        with guest_of(ledger) as guest:
            tap.equal(ledger.claimed('guest'), RAM, 'claim')
            tap.equal(guest.claimed(), RAM, 'claim')
            info = guest.ledger()
            tap.equal((info['name'], info['path'], info['inherited']), ('guest', str(ledger.path), False))
        wait_until(lambda: ledger.claimed('guest') == 0, 'the release')


@tap.case('claim: released when QEMU is killed')
def killed() -> None:
    """At any instruction."""
    with host.Ledger('1G') as ledger:
        with guest_of(ledger) as guest:
            guest.balloon.inflate(PAGES)
            guest.vm.kill()
        wait_until(lambda: ledger.claimed('guest') == 0, 'the release')
        ledger.take('everything', '1G')


@tap.case('claim: a refusal ends QEMU with the ledger\'s words')
def refused_at_launch() -> None:
    """What is missing, where, and who holds it."""
    with host.Ledger('1G') as ledger:
        ledger.take('neighbour', '960M')
        contains(fails(vm_of(ledger)), 'refused', '64 MiB missing', 'neighbour', '960 MiB')
        tap.equal([one['name'] for one in ledger.participants() if one['state'] != 'dying'], ['neighbour'])
        ledger.release('neighbour')
        with guest_of(ledger) as guest:
            tap.equal(guest.claimed(), RAM)


@tap.case('claim: a size given by hand')
def by_hand() -> None:
    """Less or more than the RAM."""
    with host.Ledger('1G') as ledger, guest_of(ledger, claim='96M') as guest:
        tap.equal(guest.claimed(), 96 * MIB)
        guest.balloon.inflate(PAGES)
        tap.equal(ledger.claimed('guest'), 96 * MIB - BYTES)
        guest.balloon.deflate(PAGES)
        tap.equal(ledger.claimed('guest'), 96 * MIB)


@tap.case('claim: inherited from ballast run')
def inherited() -> None:
    """QEMU adopts it, and the balloon moves it."""
    host.need_device()
    with host.Ledger('1G') as ledger:
        wrapper = [str(paths.CLI), 'run', '--ledger', str(ledger.path), '--claim', '128M', '--name', 'heir', '--']
        vm = VM([*mailbox.pc(), *host.accel(), '-device', f'virtio-balloon-ledger-pci,id=balloon0,addr={SLOT}'],
                plugin={}, wrapper=wrapper)
        with vm:
            guest = Guest(vm)
            assert guest.ledger()['inherited']
            tap.equal(ledger.claimed('heir'), RAM)
            guest.balloon.inflate(PAGES)
            tap.equal(ledger.claimed('heir'), RAM - BYTES)
        wait_until(lambda: ledger.claimed('heir') == 0, 'the release')


@tap.case('claim: none without a ledger, the device works')
def no_ledger() -> None:
    """And says how to get one."""
    with guest_of(None) as guest:
        guest.box.fill(AREA, PAGE, 7)
        guest.balloon.inflate(PAGES)
        tap.equal(guest.box.count_different(AREA, PAGE, 0), 0, 'dwords kept by an inflated page')
        guest.balloon.deflate(PAGES)
        try:
            guest.ledger()
            raise AssertionError('there is a ledger')
        except ExecuteError as error:
            contains(str(error), 'ledger')


# -- inflate and deflate ---------------------------------------------------

@tap.case('inflate lowers the claim, deflate raises it before the buffer is back')
def up_and_down() -> None:
    """The ring is read before the ledger: once the buffer is back, the claim must be there."""
    with host.Ledger('1G') as ledger, guest_of(ledger) as guest:
        guest.box.fill(AREA, BYTES, 7)
        for start in range(0, len(PAGES), 256):
            guest.balloon.inflate(PAGES[start:start + 256])
            tap.equal(ledger.claimed('guest'), RAM - (start + 256) * PAGE, 'claim')
        tap.equal(guest.box.count_different(AREA, BYTES, 0), 0, 'dwords kept by inflated pages')
        tap.equal(guest.ledger()['claims'][0]['given-back'], BYTES, 'given-back')
        for start in range(0, len(PAGES), 256):
            guest.balloon.deflate(PAGES[start:start + 256], wait=False)
            wait_until(guest.returned, 'the buffer')
            tap.equal(ledger.claimed('guest'), RAM - BYTES + (start + 256) * PAGE, 'claim')
        tap.equal(guest.ledger()['claims'][0]['given-back'], 0, 'given-back')


@tap.case('inflate: what is given back can be claimed by another')
def given_to_another() -> None:
    """That is the point of it."""
    with host.Ledger('132M') as ledger, guest_of(ledger) as guest:
        guest.balloon.inflate(PAGES)
        ledger.take('neighbour', '8M')
        tap.equal(ledger.claimed('guest') + ledger.claimed('neighbour'), 132 * MIB)


def _crowded(ledger: host.Ledger, guest: Guest) -> None:
    """The guest gives 4 MiB back, the neighbour takes all there is, the guest wants its memory again."""
    guest.balloon.inflate(PAGES)
    ledger.take('neighbour', str(ledger.status()['capacity'][-1]['free']))
    guest.balloon.deflate(PAGES[:256], wait=False)


def _refused(ledger: host.Ledger, name: str, size: int) -> str:
    """A standing claim fails; the ledger's words."""
    try:
        ledger.take(name, str(size))
    except RuntimeError as error:
        return str(error)
    raise AssertionError(f'{name} got {size} bytes')


@tap.case('gate: the buffer is held until capacity returns')
def gate() -> None:
    """Events at both ends; nobody else's claim is touched."""
    with host.Ledger('256M') as ledger, guest_of(ledger, device='deflate=gate') as guest:
        _crowded(ledger, guest)
        event = guest.vm.wait_event('MEMORY_CLAIM_WAITING')
        tap.equal(event['data']['missing'], 256 * PAGE, 'missing')
        contains(event['data']['reason'], 'neighbour')
        tap.equal(guest.ledger()['waiting'], 1, 'waiting')
        tap.equal(guest.ledger()['deficit'], 0, 'deficit')
        tap.equal(ledger.claimed('guest'), RAM - BYTES, 'claim')
        assert not guest.returned(), 'the buffer was returned'
        ledger.release('neighbour')
        guest.vm.wait_event('MEMORY_CLAIM_GRANTED')
        wait_until(guest.returned, 'the buffer')
        tap.equal(ledger.claimed('guest'), RAM - BYTES + 256 * PAGE, 'claim')
        tap.equal(guest.ledger()['waiting'], 0, 'waiting')


@tap.case('gate: who comes later does not get ahead of it')
def gate_first() -> None:
    """Half of what the guest waits for returns: that is for the guest, not for a small claim."""
    with host.Ledger('256M') as ledger, guest_of(ledger, device='deflate=gate') as guest:
        _crowded(ledger, guest)
        guest.vm.wait_event('MEMORY_CLAIM_WAITING')
        ledger.take('neighbour', str(ledger.claimed('neighbour') - 128 * PAGE))
        contains(_refused(ledger, 'late', PAGE), 'guest')
        tap.equal(ledger.claimed('late'), 0, 'claim of the one that came later')
        ledger.take('neighbour', str(ledger.claimed('neighbour') - 129 * PAGE))
        wait_until(guest.returned, 'the buffer')
        ledger.take('late', str(PAGE))


@tap.case('gate: more buffers queue behind the held one, in order')
def gate_order() -> None:
    """And all come back."""
    with host.Ledger('256M') as ledger, guest_of(ledger) as guest:
        _crowded(ledger, guest)
        guest.vm.wait_event('MEMORY_CLAIM_WAITING')
        for start in (256, 512, 768):
            guest.balloon.deflate(PAGES[start:start + 256], wait=False)
        tap.equal(guest.balloon.queues['deflate'].pending(), 4, 'pending')
        ledger.release('neighbour')
        wait_until(guest.returned, 'the buffers')
        heads = [head for head, _ in guest.balloon.queues['deflate'].take_used()]
        tap.equal(heads, [0, 1, 2, 3], 'order')
        tap.equal(ledger.claimed('guest'), RAM, 'claim')
        tap.equal(len(guest.vm.events('MEMORY_CLAIM_WAITING')), 0, 'more events')


@tap.case('gate: inflating more opens it')
def gate_inflate() -> None:
    """The guest can help itself."""
    with host.Ledger('256M') as ledger, guest_of(ledger) as guest:
        _crowded(ledger, guest)
        guest.vm.wait_event('MEMORY_CLAIM_WAITING')
        guest.balloon.inflate(list(range(PAGES[-1] + 1, PAGES[-1] + 513)))
        wait_until(guest.returned, 'the buffer')


@tap.case('gate: held over stop and cont')
def gate_stop() -> None:
    """Nothing is lost, nothing is returned while stopped."""
    with host.Ledger('256M') as ledger, guest_of(ledger) as guest:
        _crowded(ledger, guest)
        guest.vm.wait_event('MEMORY_CLAIM_WAITING')
        guest.vm.qmp('stop')
        ledger.release('neighbour')
        assert not guest.returned()
        guest.vm.qmp('cont')
        wait_until(guest.returned, 'the buffer')
        tap.equal(ledger.claimed('guest'), RAM - BYTES + 256 * PAGE, 'claim')


@tap.case('gate: a reset lets go')
def gate_reset() -> None:
    """The guest has all its memory again, and owes what it was refused."""
    with host.Ledger('256M') as ledger, guest_of(ledger) as guest:
        _crowded(ledger, guest)
        guest.vm.wait_event('MEMORY_CLAIM_WAITING')
        guest.vm.qmp('system_reset')
        guest.vm.wait_event('MEMORY_CLAIM_REFUSED')
        tap.equal(guest.ledger()['waiting'], 0, 'waiting')
        tap.equal(guest.ledger()['deficit'], BYTES, 'deficit')
        ledger.release('neighbour')
        wait_until(lambda: guest.ledger()['deficit'] == 0, 'the deficit to be granted')
        tap.equal(ledger.claimed('guest'), RAM, 'claim')


@tap.case('allow: the buffer comes back, the claim follows')
def allow() -> None:
    """A deficit until capacity returns."""
    with host.Ledger('256M') as ledger, guest_of(ledger, device='deflate=allow') as guest:
        _crowded(ledger, guest)
        wait_until(guest.returned, 'the buffer')
        event = guest.vm.wait_event('MEMORY_CLAIM_REFUSED')
        tap.equal(event['data']['missing'], 256 * PAGE, 'missing')
        tap.equal(guest.ledger()['deficit'], 256 * PAGE, 'deficit')
        tap.equal(ledger.claimed('guest'), RAM - BYTES, 'claim')
        ledger.release('neighbour')
        wait_until(lambda: guest.ledger()['deficit'] == 0, 'the deficit to be granted')
        tap.equal(ledger.claimed('guest'), RAM - BYTES + 256 * PAGE, 'claim')


@tap.case('observe: the buffer comes back, it is counted')
def observe() -> None:
    """The deficit shows; the next claim has it all."""
    with host.Ledger('256M') as ledger, guest_of(ledger, device='deflate=observe') as guest:
        _crowded(ledger, guest)
        wait_until(guest.returned, 'the buffer')
        guest.vm.wait_event('MEMORY_CLAIM_REFUSED')
        tap.equal(guest.ledger()['deficit'], 256 * PAGE, 'deficit')
        assert guest.ledger()['refused'] >= 1
        ledger.release('neighbour')
        guest.balloon.deflate(PAGES[256:])
        tap.equal(guest.ledger()['deficit'], 0, 'deficit')
        tap.equal(ledger.claimed('guest'), RAM, 'claim')


# -- life ------------------------------------------------------------------

def _need_sandbox() -> None:
    """A build may lack it: the trimmed one of scripts/build-qemu does."""
    tried = subprocess.run([paths.QEMU, '-sandbox', 'on', '-version'], stdout=subprocess.DEVNULL,
                           stderr=subprocess.PIPE, text=True, check=False)
    tap.need('not enabled in this QEMU' not in tried.stderr, 'a QEMU with -sandbox (seccomp)')


@tap.case('life: works in QEMU\'s sandbox')
def sandbox() -> None:
    """As libvirt starts it."""
    _need_sandbox()
    rules = 'on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny'
    with host.Ledger('256M') as ledger, guest_of(ledger, '-sandbox', rules) as guest:
        _crowded(ledger, guest)
        guest.vm.wait_event('MEMORY_CLAIM_WAITING')
        ledger.release('neighbour')
        wait_until(guest.returned, 'the buffer')
        guest.vm.qmp('query-memory-placement')
        tap.equal(ledger.claimed('guest'), RAM - BYTES + 256 * PAGE, 'claim')


@tap.case('life: a reset gives the guest its memory back')
def reset() -> None:
    """The claim is whole again, and the driver starts anew."""
    with host.Ledger('256M') as ledger, guest_of(ledger) as guest:
        guest.balloon.inflate(PAGES)
        guest.vm.qmp('system_reset')
        guest.vm.wait_event('RESET')
        wait_until(lambda: ledger.claimed('guest') == RAM, 'the claim')
        guest.drive()
        guest.balloon.inflate(PAGES)
        tap.equal(ledger.claimed('guest'), RAM - BYTES, 'claim')


@tap.case('life: a device reset gives the guest its memory back')
def device_reset() -> None:
    """As when a driver is unloaded without deflating."""
    with host.Ledger('256M') as ledger, guest_of(ledger) as guest:
        guest.balloon.inflate(PAGES)
        guest.drive()
        tap.equal(ledger.claimed('guest'), RAM, 'claim')


@tap.case('life: unplugged while inflated and gated, plugged again')
def unplug() -> None:
    """The guest ejects through ACPI's register."""
    with host.Ledger('256M') as ledger, guest_of(ledger) as guest:
        _crowded(ledger, guest)
        guest.vm.wait_event('MEMORY_CLAIM_WAITING')
        guest.vm.qmp('device_del', id='balloon0')
        guest.vm.qtest.batch(['outl 0xae10 0x0', f'outl 0xae08 {1 << SLOT:#x}'])
        guest.vm.wait_event('DEVICE_DELETED', device='balloon0')
        tap.equal(guest.ledger()['deficit'], BYTES, 'deficit')
        ledger.release('neighbour')
        wait_until(lambda: ledger.claimed('guest') == RAM, 'the claim')
        guest.vm.qmp('device_add', driver='virtio-balloon-ledger-pci', id='balloon1', addr=f'{SLOT:#x}')
        guest.drive()
        guest.balloon.inflate(PAGES)
        tap.equal(ledger.claimed('guest'), RAM - BYTES, 'claim')


@tap.case('life: unplugged while hints are asked for')
def unplug_hints() -> None:
    """The guest ejects the device while its hints are being applied."""
    with host.Ledger('256M') as ledger, vm_of(ledger, '-object', 'iothread,id=iot',
                                              device='free-page-hint=on,iothread=iot') as vm:
        guest = Guest(vm)
        guest.balloon = virtio.Balloon(guest.balloon.transport, virtio.HINT)
        vm.qmp('device_del', id='balloon0')     # refused while migrating, but the guest may take its time
        # enough to send, lest the migration ends before it is cancelled
        vm.qtest.do(f'memset {16 << 20:#x} {4 << 20:#x} 0x55')
        vm.qmp('migrate-set-parameters', {'max-bandwidth': 1000, 'avail-switchover-bandwidth': 1000})
        vm.qmp('migrate', uri='unix:' + Sink(vm).path)
        guest.balloon.hint_id(guest.balloon.wait_cmd_id())
        guest.balloon.hint(AREA)
        wait_until(lambda: host.verdicts(vm)['applied'] == 1, 'the verdict')
        vm.qtest.batch(['outl 0xae10 0x0', f'outl 0xae08 {1 << SLOT:#x}'])
        vm.wait_event('DEVICE_DELETED', device='balloon0')
        vm.qmp('migrate_cancel')
        wait_until(lambda: vm.migration()['status'] == 'cancelled', 'the cancellation')
        assert vm.alive()


# -- migration -------------------------------------------------------------

@tap.case('migration: the balloon and the claim arrive')
def migration() -> None:
    """Two hosts: the source lets go, the destination claims what the guest has."""
    with host.Ledger('256M') as here, host.Ledger('256M') as there, guest_of(here, name='src') as guest, \
            vm_of(there, '-incoming', 'defer', name='dst') as other:
        guest.balloon.inflate(PAGES)
        guest.balloon.set_actual(len(PAGES))
        other.launch()
        tap.equal(there.claimed('dst'), RAM, 'claim before the first page')
        migrate(guest.vm, other)
        tap.equal(there.claimed('dst'), RAM - BYTES, 'claim')
        balloon = guest.balloon.on(other.qtest)
        tap.equal(balloon.actual, len(PAGES), 'actual')
        balloon.deflate(PAGES)
        tap.equal(there.claimed('dst'), RAM, 'claim')
        guest.vm.shutdown()
        wait_until(lambda: here.claimed('src') == 0, 'the source to let go')


@tap.case('migration: a held buffer is returned on a host with capacity')
def migration_gated() -> None:
    """What could not be had here is had there."""
    with host.Ledger('256M') as here, host.Ledger('256M') as there, guest_of(here, name='src') as guest, \
            vm_of(there, '-incoming', 'defer', name='dst') as other:
        _crowded(here, guest)
        guest.vm.wait_event('MEMORY_CLAIM_WAITING')
        other.launch()
        migrate(guest.vm, other)
        balloon = guest.balloon.on(other.qtest)
        balloon.queues['deflate'].wait_idle()
        tap.equal(there.claimed('dst'), RAM - BYTES + 256 * PAGE, 'claim')


@tap.case('migration: refused before the first page')
def migration_refused() -> None:
    """The destination ends at once."""
    with host.Ledger('256M') as there:
        there.take('neighbour', '200M')
        contains(fails(vm_of(there, '-incoming', 'defer')), 'refused', 'neighbour')


def _to_and_from(source: str, target: str) -> None:
    """With an empty balloon the stream is that of the stock device."""
    host.need_device()
    args = [*mailbox.pc(), *host.accel(), '-device']
    device = ',id=balloon0,addr=5'
    with VM([*args, source + device], plugin={}) as src, \
            VM([*args, target + device, '-incoming', 'defer'], plugin={}, name='dst') as dst:
        dst.launch()
        guest = Guest(src) if source == 'virtio-balloon-ledger-pci' else None
        if not guest:
            src.launch()
            mailbox.Mailbox(src.qtest)
        tap.equal(migrate(src, dst)['status'], 'completed')
        mailbox.Mailbox(dst.qtest).write(AREA, 1)


tap.add('migration: from the stock device', _to_and_from, 'virtio-balloon-pci', 'virtio-balloon-ledger-pci')


# -- placement -------------------------------------------------------------

@tap.case('placement: every byte is somewhere')
def placement() -> None:
    """Per backend and per guest node the figures add up to the size; asking populates nothing."""
    backends = '-object memory-backend-ram,id=m0,size=64M -object memory-backend-memfd,id=m1,size=64M ' \
               '-numa node,nodeid=0,memdev=m0 -numa node,nodeid=1,memdev=m1'
    with host.Ledger('256M') as ledger, guest_of(ledger, *backends.split()) as guest:
        guest.box.touch(32 * MIB, 16 * MIB)
        first = guest.vm.qmp('query-memory-placement')
        for one in first['backends'] + first['vnodes']:
            there = sum(node['bytes'] for node in one['nodes'])
            tap.equal(there + one['absent'] + one['unknown'], one['size'], f'sum of {one}')
        tap.equal([one['node'] for one in first['vnodes']], [0, 1], 'guest nodes')
        by_node = {one['node']: one for one in first['vnodes']}
        tap.equal([one['size'] for one in first['vnodes']], [64 * MIB, 64 * MIB], 'sizes')
        assert sum(node['bytes'] for node in by_node[0]['nodes']) >= 16 * MIB
        assert by_node[1]['absent'] > 60 * MIB, 'the second node was not touched'
        again = guest.vm.qmp('query-memory-placement')
        tap.equal(again['vnodes'], first['vnodes'], 'placement after asking')
        for vnode in first['vnodes']:
            tap.equal([node['node'] for node in vnode['nodes']], vnode['pnodes'], 'pnodes')
        for pnode in first['pnodes']:
            for vnode in pnode['vnodes']:
                assert pnode['node'] in by_node[vnode]['pnodes']


@tap.case('placement: samples out of range')
def placement_range() -> None:
    """Named, with the range."""
    with guest_of(None) as guest:
        for samples in (0, 63, 65537, 0xffffffff):
            try:
                guest.vm.qmp('query-memory-placement', samples=samples)
                raise AssertionError(f'{samples} samples')
            except ExecuteError as error:
                contains(str(error), str(samples), '64', '65536')
        guest.vm.qmp('query-memory-placement', samples=64)


if __name__ == '__main__':
    tap.main()
