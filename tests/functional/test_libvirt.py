#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Guests of libvirt as it is packaged, with the plug-in: what its page in the documentation promises.

Two private daemons (virt.py) start them; nothing of the machine's own libvirt is used.
"""

import json
import os
import re
import time
from functools import partial
from pathlib import Path
from typing import Any, Callable, Dict, Optional

from fixture import served
from guest import DEVICE, GIB, MIB, STOCK_DEVICE
from hostledger import HostLedger
from virt import BALLOON, NAMESPACE, OURS, Host, VirtGuest, command_line, give, host, last_answer, override
from ballast import paths, tap
from ballast.vm import wait_until

SLACK = 16 * MIB    # page tables of the guest's balloon, rounding to huge pages
SMALL = 64 * MIB    # of a guest that is not waited for
SANDBOX = '-sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny'
# the button's device is open before the command ends: what is pressed then is not lost
POWER_BUTTON = ('event=$(grep -A4 "Power Button" /proc/bus/input/devices | grep -o "event[0-9]*") && '
                'exec 3</dev/input/$event && '
                '{ dd of=/dev/null bs=24 count=1 <&3 2>/dev/null && poweroff -f & }')
STATISTICS = ('unused', 'available', 'usable', 'disk_caches')


def _wait_off(guest: VirtGuest) -> None:
    wait_until(lambda: guest.state() == 'shut off', f'{guest.name} to be off')


def _moved(guest: VirtGuest, old: HostLedger, new: HostLedger) -> str:
    """The XML with the other host's ledger in it."""
    return guest.xml.replace(f'ledger={old.path}', f'ledger={new.path}')


def _third_refused(here: Host, ledger: HostLedger) -> str:
    """Two start, the third is told why not, and starts when one has gone: virsh's error."""
    one, two, three = [here.claimant(name, ledger.path, 2 * SMALL) for name in ('vm1', 'vm2', 'vm3')]
    one.start()
    two.start()
    error = three.refused('claim of 128 MiB on the host refused', '64 MiB missing')
    tap.equal(sorted(ledger.status().holders), ['vm1', 'vm2'], 'who holds something')
    one.virsh('destroy')
    three.start()
    wait_until(lambda: sorted(ledger.status().holders) == ['vm2', 'vm3'], 'vm3 instead of vm1')
    three.virsh('destroy')
    two.virsh('destroy')
    ledger.wait_free(5 * SMALL)
    return error


@tap.case('the third guest is refused at virsh start, with the reason of the ledger')
def refused_file() -> None:
    """From a file, whoever may read it is told who holds what."""
    with host() as here:
        error = _third_refused(here, here.ledger('ledger', 5 * SMALL))
        assert 'vm1 (pid ' in error, error
        tap.note(error)
        assert SANDBOX in here.logs(), 'the sandbox that this is to be tested in'


@tap.case('the same through ballastd; when it is not up the guest does not start')
def refused_daemon() -> None:
    """The socket is refused, then absent; the guest starts as soon as the daemon does."""
    with host() as here:
        file = here.ledger('ledger', 5 * SMALL)
        with served(file, '--allow', 'all') as (ledger, daemon):
            tap.note(_third_refused(here, ledger))
            daemon.kill()
            guest = here.claimant('vm', ledger.path, SMALL)
            tap.note(guest.refused('ballast: the daemon does not answer', 'Connection refused'))
            daemon.socket.unlink()
            tap.note(guest.refused('ballast: ', f'{daemon.socket}: No such file or directory'))
            daemon.start()
            guest.start()
            tap.equal(ledger.claimed('vm'), SMALL)
            guest.virsh('destroy')
            ledger.wait_free(5 * SMALL)


def _check_statistics(guest: VirtGuest, actual: int) -> None:
    """dommemstat and domstats tell the balloon's size and what the guest says."""
    wait_until(lambda: 'last_update' in guest.memory(), 'statistics of the guest')
    memory = guest.memory()
    tap.equal(memory['actual'], actual)
    lacking = [name for name in (*STATISTICS, 'rss') if name not in memory]
    assert not lacking, f'dommemstat lacks {lacking}'
    # by events, of which QEMU sends one in a second
    wait_until(lambda: f'balloon.current={actual // 1024}\n' in guest.virsh('domstats', '--balloon'),
               'domstats to follow')
    assert 'balloon.unused=' in guest.virsh('domstats', '--balloon')


def _check_monitor(guest: VirtGuest) -> None:
    """QMP commands of ours through libvirt."""
    ledger = guest.qmp('query-memory-ledger')
    tap.equal(ledger['name'], guest.name)
    tap.equal(ledger['claims'][0]['claimed'], 512 * MIB)
    tap.equal(guest.qmp('query-free-page-hints')['device'], 'balloon0')
    tap.equal(guest.qmp('query-memory-placement')['backends'][0]['size'], 512 * MIB)
    tap.equal(guest.qmp('qom-get', path='/machine/peripheral/balloon0', property='type'), DEVICE)


def _wait_event(guest: VirtGuest, event: str, cause: Callable[[], None]) -> str:
    """qemu-monitor-event must report the event after its cause."""
    watch = guest.daemon.begin('qemu-monitor-event', guest.name, '--event', event,
                               '--timeout', '60', '--timestamp')
    time.sleep(1)       # it says nothing when it is ready
    cause()
    words = watch.communicate(timeout=90)[0]
    assert event in words, words
    return words


def _ballooning(here: Host, guest: VirtGuest, ledger: HostLedger, capacity: int) -> None:
    """setmem down and up; up is refused while another one has the capacity, and waits."""
    guest.balloon(256 * MIB)
    ledger.wait_claim(guest.name, 256 * MIB, SLACK)
    _check_statistics(guest, 256 * MIB)
    wait_until(lambda: f"<currentMemory unit='KiB'>{256 * 1024}<" in guest.virsh('dumpxml'), 'dumpxml to follow')
    size = capacity - 256 * MIB - SLACK
    other = here.claimant('other', ledger.path, size).start()
    tap.note(_wait_event(guest, 'MEMORY_CLAIM_WAITING',
                         lambda: guest.virsh('setmem', '512M', '--live') and None))
    assert guest.memory()['actual'] < 512 * MIB
    tap.note(_wait_event(guest, 'MEMORY_CLAIM_GRANTED', lambda: other.virsh('destroy') and None))
    wait_until(lambda: guest.memory()['actual'] == 512 * MIB, 'the balloon to be empty', 120)
    ledger.wait_claim(guest.name, 512 * MIB, SLACK)


@tap.case("setmem, statistics, monitor commands and events on Ballast's device; shutdown returns the claim")
def device() -> None:
    """libvirt takes it for its own: everything that it does with a balloon works."""
    with host() as here:
        ledger = here.ledger('ledger', 704 * MIB)
        guest = here.claimant('vm', ledger.path,
                              balloon="<memballoon model='virtio'><stats period='1'/></memballoon>").boot()
        _check_monitor(guest)
        _check_statistics(guest, 512 * MIB)
        guest.virsh('dommemstat', '--period', '2', '--live')
        _ballooning(here, guest, ledger, 704 * MIB)
        guest.check_alive()
        guest.run(POWER_BUTTON)
        guest.virsh('shutdown', '--mode', 'acpi')
        _wait_off(guest)
        ledger.wait_free(704 * MIB)


def _hints_of(guest: VirtGuest, move: Callable[[], None]) -> Dict[str, Any]:
    """query-free-page-hints of the source, late in its migration."""
    source, name = guest.daemon, guest.name

    def ask() -> Optional[Dict[str, Any]]:
        answer = source.try_virsh('qemu-monitor-command', name, '{"execute": "query-free-page-hints"}')
        return None if answer.returncode else dict(json.loads(answer.stdout).get('return', {}))
    return last_answer(ask, move)


def _check_hints(info: Dict[str, Any]) -> None:
    total = info['total']
    tap.note(f"{info['armings']} armings; {total}")
    assert info['armings'] > 0 and total['applied-bytes'] > 32 * MIB, 'hints were not used'
    for fault in ('unarmed', 'malformed', 'foreign', 'bad-ids'):
        tap.equal(total[fault], 0, fault)


@tap.case('a guest with hints migrates to another libvirt, and lives; the claim goes with it')
def migrates() -> None:
    """Refused while there is no room; then moved, with files, load and deleted files."""
    with host() as here:
        old, full = here.ledger('ledger-a', 512 * MIB), here.ledger('ledger-b', 256 * MIB)
        new = here.ledger('ledger-c', 512 * MIB)
        guest = here.claimant('vm', old.path).boot()
        guest.keep(32)
        guest.churn(256)
        error = here.one.refused('migrate', '--live', '--xml', guest.file(_moved(guest, old, full)),
                                 '--migrateuri', f'unix://{here.two.directory}/m', 'vm', here.two.uri)
        tap.note(error)
        assert 'refused: 256 MiB missing' in error, error
        tap.equal(full.status().holders, {}, 'left behind')
        guest.start_stress()
        _check_hints(_hints_of(guest, lambda: guest.migrate(here.two, xml=_moved(guest, old, new))))
        guest.finish_stress()
        guest.check_kept()
        guest.check_alive()
        tap.equal(new.claimed('vm'), 512 * MIB)
        old.wait_free(512 * MIB)
        guest.balloon(384 * MIB)
        new.wait_claim('vm', 384 * MIB, SLACK)
        guest.virsh('destroy')
        new.wait_free(512 * MIB)


@tap.case("QEMU's own balloon with hints, under libvirt with the plug-in: claimed, armed, absent pages left out")
def stock_balloon() -> None:
    """libvirt's <memballoon> as it is, hints switched on."""
    with host() as here:
        old, new = here.ledger('ledger-a', 512 * MIB), here.ledger('ledger-b', 512 * MIB)
        stock = override(free_page_hint=True, iothread='iothread1')
        guest = here.claimant('vm', old.path, more=stock, head='<iothreads>1</iothreads>').boot()
        tap.equal(guest.qmp('qom-get', path='/machine/peripheral/balloon0', property='type'), STOCK_DEVICE)
        tap.equal(old.claimed('vm'), 512 * MIB)
        guest.balloon(400 * MIB)
        old.wait_claim('vm', 400 * MIB, SLACK)
        _check_statistics(guest, 400 * MIB)
        guest.keep(16)
        guest.churn(128)
        guest.start_stress()
        info = _hints_of(guest, lambda: guest.migrate(here.two, xml=_moved(guest, old, new)))
        tap.note(f"{info['armings']} armings, {info['absent']['skipped-bytes'] // MIB} MiB absent")
        assert info['armings'] > 0 and info['absent']['skipped-bytes'] > 64 * MIB, info
        guest.finish_stress()
        guest.check_kept()
        guest.check_alive()
        new.wait_claim('vm', 400 * MIB, SLACK)
        old.wait_free(512 * MIB)


@tap.case('save and restore, managed save: no claim meanwhile, and the same guest afterwards')
def saved() -> None:
    """A guest that finds no room keeps its image, and starts later."""
    with host() as here:
        ledger = here.ledger('ledger', 512 * MIB)
        guest = here.claimant('vm', ledger.path, more=override(driver=f'{DEVICE}-transitional'),
                              balloon="<memballoon model='virtio-transitional'/>").boot()
        guest.keep(16)
        guest.balloon(256 * MIB)
        _check_statistics(guest, 256 * MIB)
        image = str(here.one.directory / 'vm.save')
        guest.virsh('save', image)
        ledger.wait_free(512 * MIB)
        guest.resume('restore', image)
        ledger.wait_claim('vm', 256 * MIB, SLACK)
        tap.equal(guest.memory()['actual'], 256 * MIB)
        guest.check_kept()
        guest.virsh('managedsave')
        ledger.wait_free(512 * MIB)
        other = here.claimant('other', ledger.path, SMALL).start()
        tap.note(guest.refused('64 MiB missing', 'other'))
        other.virsh('destroy')
        guest.start()
        ledger.wait_claim('vm', 256 * MIB, SLACK)
        guest.check_kept()
        guest.check_alive()
        guest.virsh('destroy')
        ledger.wait_free(512 * MIB)


# how libvirt moves it: words of virsh migrate
_WAYS = (('--p2p',), ('--p2p', '--tunnelled'), ('--listen-address', '127.0.0.1', '--migrateuri', 'tcp://127.0.0.1'),
         ('--p2p', '--parallel', '--migrateuri', 'tcp://127.0.0.1'))


def many_ways() -> None:
    """There, and back by the next way, with the XML of the host that it goes to."""
    with host() as here:
        ledgers = {here.one: here.ledger('ledger-a', 512 * MIB), here.two: here.ledger('ledger-b', 512 * MIB)}
        guest = here.claimant('vm', ledgers[here.one].path).boot()
        guest.keep(32)
        guest.start_stress()
        for way in _WAYS:
            source, to = guest.daemon, here.two if guest.daemon is here.one else here.one
            xml = _moved(guest, ledgers[here.one], ledgers[to])
            info = _hints_of(guest, partial(guest.migrate, to, *way, xml=xml))
            tap.note(f"{' '.join(way)}: {info['total']['applied-bytes'] // MIB} MiB of hints")
            source.try_virsh('undefine', 'vm')
            guest.check_kept()
            guest.check_alive()
            tap.equal(ledgers[to].claimed('vm'), 512 * MIB)
            ledgers[source].wait_free(512 * MIB)
        guest.finish_stress()


if os.environ.get('BALLAST_FULL'):
    tap.add("peer to peer, tunnelled, over TCP, over several connections, and back", many_ways)


# what is wrong in the XML, the plug-in's options, and what virsh says
_MISTAKES = (
    ('a property that is not there', 'ledger={ledger}', override(driver=DEVICE, free_page_hin=True),
     f"Property '{DEVICE}.free-page-hin' not found"),
    ('a value that is not allowed', 'ledger={ledger}', override(driver=DEVICE, deflate='never'),
     "property 'deflate' is 'never'; allowed: gate, allow, observe"),
    ('an option that is not there', 'ledgr={ledger}', OURS,
     "'ledgr={ledger}' is not an option of the plug-in; allowed: ledger=PATH"),
    ('a claim that is none', 'ledger={ledger},claim=lots', OURS,
     'claim=lots is not a claim; allowed: auto, or SIZE[@NODE][/PAGESIZE]'),
    ('a ledger that is not there', 'ledger={ledger}.absent', OURS,
     'ballast: {ledger}.absent: No such file or directory'),
    ('no plug-in', '', OURS, f"'{DEVICE}' is not a valid device model name"),
)


@tap.case('mistakes in the XML: each is told by virsh start; a wrong alias, a lost namespace by nobody')
def mistakes() -> None:
    """libvirt ignores an override whose alias no device has: the guest has QEMU's balloon."""
    with host() as here:
        path = str(here.ledger('ledger', 512 * MIB).path)
        for number, (what, plugin, more, wanted) in enumerate(_MISTAKES):
            load = command_line('-plugin', f'{here.plugin},{plugin.format(ledger=path)}') if plugin else ''
            guest = here.guest(f'vm{number}', here.xml(f'vm{number}', SMALL, BALLOON, load + more))
            tap.note(f'{what}: {guest.refused(wanted.format(ledger=path))}')
        guest = here.claimant('wrong', Path(path), SMALL, more=override('balloon', driver=DEVICE)).start()
        tap.equal(guest.qmp('qom-get', path='/machine/peripheral/balloon0', property='type'), STOCK_DEVICE)
        xml = here.xml('bare', SMALL, BALLOON, here.load(Path(path)) + OURS)
        bare = here.guest('bare', xml.replace(f" xmlns:qemu='{NAMESPACE}'", ''))
        assert 'qemu:' not in bare.virsh('dumpxml'), 'kept without its namespace'
        # an error of QMP is no error of virsh unless it is asked for the value
        words = ('qemu-monitor-command', 'wrong', '{"execute": "memory-claims"}')
        assert 'CommandNotFound' in here.one.virsh(*words)
        assert "'return' member missing" in here.one.refused(*words, '--return-value')


@tap.case('the device on the command line, beside memballoon none: what works and what does not')
def beside() -> None:
    """setmem does; statistics do not, and domstats tells the size that the guest began with."""
    with host() as here:
        ledger = here.ledger('ledger', 512 * MIB)
        words = command_line('-plugin', f'{here.plugin},ledger={ledger.path}',
                             '-device', f'{DEVICE},id=balloon0,bus=pcie.0,addr=0x1e')
        guest = here.guest('vm', here.xml('vm', 512 * MIB, "<memballoon model='none'/>", words)).boot()
        guest.virsh('setmem', '300M', '--live')
        ledger.wait_claim('vm', 300 * MIB, SLACK)
        wait_until(lambda: guest.qmp('query-balloon')['actual'] == 300 * MIB, 'the balloon')
        tap.equal(sorted(guest.memory()), ['rss'])
        assert 'No memory balloon device' in here.one.refused('dommemstat', 'vm', '--period', '1')
        assert f'balloon.current={512 * 1024}' in guest.virsh('domstats', '--balloon')
        guest.check_alive()


# what a test has in another place than a host, or not at all
_PLACES = (("type='kvm'", "type='qemu'"), ("type='qcow2'", "type='raw'"), ("nodeset='1'", "nodeset='0'"),
           ('/usr/lib/x86_64-linux-gnu/ballast/ballast-qemu.so', '{plugin}'),
           ('/run/ballast/socket', '{ledger}'), ('/var/lib/libvirt/images/', '{images}/'))
_EXAMPLES = sorted((paths.REPO / 'docs/examples').glob('libvirt-*.xml'))


def _example(here: Host, path: Path, ledger: HostLedger) -> str:
    """An example with the test's paths in it; its disk, if it has one, is there."""
    text = path.read_text('utf-8')
    values = {'plugin': here.plugin, 'ledger': ledger.path, 'images': here.one.directory}
    for old, new in _PLACES:
        text = text.replace(old, new.format(**values))
    for image in re.findall(r"file='([^']*)'", text):
        Path(image).write_bytes(bytes(MIB))
        give(Path(image))
    return text


@tap.case('the examples: each is valid, starts, and claims what it says')
def examples() -> None:
    """docs/examples, with other paths, without KVM and on one node."""
    assert len(_EXAMPLES) >= 3, _EXAMPLES
    with host() as here:
        ledger = here.ledger('ledger', 16 * GIB)
        for path in _EXAMPLES:
            text = _example(here, path, ledger)
            name, size = re.findall(r"<name>(.*)</name>\s*<memory unit='GiB'>(\d+)<", text)[0]
            guest = VirtGuest(here.one, name, text, here.port(name))
            guest.daemon.virsh('define', '--validate', guest.file())
            guest.virsh('start')
            tap.equal(ledger.claimed(name), int(size) * GIB, f'the claim of {name}')
            lines = guest.qmp('query-memory-ledger')['claims']
            tap.note(f"{path.name}: {[(line.get('node'), line['claimed'] // GIB) for line in lines]}")
            kind = DEVICE if DEVICE in text else STOCK_DEVICE
            tap.equal(guest.qmp('qom-get', path='/machine/peripheral/balloon0', property='type'), kind)
            guest.virsh('destroy')
            ledger.wait_free(16 * GIB)


if __name__ == '__main__':
    tap.main()
