#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Guests of a libvirt with the series, from native XML: what docs/libvirt-series.md promises.

On both QEMUs that it can use: the one with Ballast inside (scripts/build-qemu), and the
distribution's with the plug-in that qemu.conf names.  libvirt is built for it
(scripts/build-libvirt): minutes without a compiler cache, so with --full only.  Where both builds
are there already, one guest's life is tried without --full, too.
"""

import atexit
import os
import re
import shutil
import subprocess
import tempfile
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Callable, Dict, Iterator, Optional, Tuple

import virt
from guest import MIB
from virt import Host, VirtGuest, last_answer
from ballast import paths, tap
from ballast.vm import wait_until

REPO = Path(__file__).resolve().parents[2]
LIBVIRT = REPO / 'build' / 'series' / 'libvirt' / 'build'
INSIDE = REPO / 'build' / 'qemu' / 'qemu-system-x86_64'
FULL = bool(os.environ.get('BALLAST_FULL'))
MEMORY = 256 * MIB
SMALL = 64 * MIB
SLACK = 16 * MIB
IOTHREADS = '\n  <iothreads>1</iothreads>'
DRIVER = "<driver iothread='1'/>"
HINTS = "freePageHinting='on'"
# one guest node, since memory is plugged into a node
ROOM = "\n  <maxMemory slots='4' unit='MiB'>1024</maxMemory>"
NODE = "<cpu mode='maximum'>\n    <numa><cell id='0' cpus='0' memory='64' unit='MiB'/></numa>"
_ready = []


def _build(script: str) -> None:
    """Up to date: seconds if nothing has changed."""
    done = subprocess.run([REPO / 'scripts' / script], cwd=REPO, text=True, check=False,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    tap.note(done.stdout)
    tap.need(f'or run scripts/{script} as root' not in done.stdout, 'packages, see above')
    assert done.returncode == 0, f'scripts/{script}: exit status {done.returncode}'


def _prepare() -> None:
    """libvirt and QEMU built, libvirt first in PATH, its daemons configured with a copy of the plug-in."""
    if _ready:
        return
    tap.need(FULL or ((LIBVIRT / 'src/libvirtd').exists() and INSIDE.exists()),
             'scripts/build-libvirt and scripts/build-qemu, or --full, which runs them')
    _build('build-libvirt')
    _build('build-qemu')
    folder = tempfile.TemporaryDirectory(prefix='ballast-')     # pylint: disable=consider-using-with
    atexit.register(folder.cleanup)
    here = Path(folder.name)
    here.chmod(0o755)
    for name in ('src/libvirtd', 'tools/virsh'):
        wrapper = here / Path(name).name
        wrapper.write_text(f'#!/bin/sh\nLIBVIRT_DIR_OVERRIDE=1 exec {LIBVIRT}/{name} "$@"\n', 'utf-8')
        wrapper.chmod(0o755)
    plugin = here / paths.PLUGIN.name
    shutil.copy(paths.PLUGIN, plugin)
    plugin.chmod(0o755)
    os.environ['PATH'] = f"{here}:{os.environ['PATH']}"
    for words in (('libvirtd', '--version'), (str(INSIDE), '--version')):
        found = subprocess.run(virt.as_user(*words), capture_output=True, check=False)
        tap.need(found.returncode == 0, f'{LIBVIRT} and {INSIDE} to be readable for the user of libvirtd')
    virt.QEMU_CONF += f'memory_ledger_plugin = "{plugin}"\n'
    _ready.append(True)


@contextmanager
def host(inside: bool) -> Iterator[Host]:
    """Both daemons, whose guests run on one of the two QEMUs."""
    _prepare()
    with virt.host() as here:
        here.emulator = str(INSIDE) if inside else ''
        yield here


def _balloon(ledger: Path, more: str = '', attributes: str = '', **of_ledger: str) -> str:
    """Native XML."""
    words = ''.join(f" {name}='{value}'" for name, value in of_ledger.items())
    return f"<memballoon model='virtio' {attributes}>{more}<ledger path='{ledger}'{words}/></memballoon>"


def _guest(here: Host, name: str, balloon: str, memory: int = MEMORY, head: str = '') -> VirtGuest:
    return here.guest(name, here.xml(name, memory, balloon, '', head))


def _figures(text: str) -> Dict[str, int]:
    """domstats --balloon, as numbers."""
    pairs = [line.strip().split('=') for line in text.splitlines() if '=' in line]
    return {name: int(value) for name, value in pairs}


def _statistics(guest: VirtGuest) -> Dict[str, int]:
    return _figures(guest.virsh('domstats', '--balloon'))


def _check_binding(guest: VirtGuest, inside: bool) -> None:
    """It is what it was to be: an object of QEMU's own, or the plug-in."""
    tap.equal('ledger0' in [entry['name'] for entry in guest.qmp('qom-list', path='/objects')], inside,
              'there is a memory-ledger object')
    tap.equal(guest.qmp('qom-get', path='/machine/peripheral/balloon0', property='type'),
              'virtio-balloon-ledger-pci')


def _hints_during(guest: VirtGuest, move: Callable[[], None]) -> Dict[str, int]:
    """domstats of the source, late in its migration."""
    source, name = guest.daemon, guest.name

    def ask() -> Optional[Dict[str, int]]:
        answer = source.try_virsh('domstats', '--balloon', name)
        found = _figures(answer.stdout)
        return found if 'balloon.hints.applied' in found else None
    return last_answer(ask, move)


def life(inside: bool) -> None:
    """Refused, started, ballooned, saved, restored, migrated with hints, destroyed: and its claim."""
    with host(inside) as here:
        one, two = here.ledger('one', MEMORY + SMALL // 2), here.ledger('two', MEMORY)
        guest = _guest(here, 'vm1', _balloon(one.path, DRIVER, HINTS), head=IOTHREADS).boot()
        other = _guest(here, 'vm2', _balloon(one.path), SMALL)
        tap.note(other.refused('claim of 64 MiB on the host refused', '32 MiB missing', 'held by vm1'))
        _check_binding(guest, inside)
        guest.keep(16)
        guest.balloon(MEMORY - SMALL)
        one.wait_claim('vm1', MEMORY - SMALL, SLACK)
        now = _statistics(guest)
        tap.equal(now['balloon.ledger.claimed'] + now['balloon.ledger.given_back'], MEMORY // 1024, 'in all')
        image = str(here.one.directory / 'vm1.save')
        guest.virsh('save', image)
        one.wait_free(one.status().capacity)
        guest.resume('restore', image)
        one.wait_claim('vm1', MEMORY - SMALL, SLACK)
        guest.check_kept()
        guest.churn(64)
        xml = guest.xml.replace(str(one.path), str(two.path))
        now = _hints_during(guest, partial(guest.migrate, here.two, xml=xml))
        tap.note(f"{now['balloon.hints.applied_size'] // 1024} MiB of hints")
        assert now['balloon.hints.applied'] and now['balloon.hints.applied_size'] >= 32 * 1024, now
        tap.equal(now['balloon.hints.malformed'], 0, 'hints that make no sense')
        one.wait_free(one.status().capacity)
        two.wait_claim('vm1', MEMORY - SMALL, SLACK)
        guest.check_kept()
        guest.check_alive()
        guest.virsh('destroy')
        two.wait_free(MEMORY)


def capabilities(inside: bool) -> None:
    """domcapabilities tells that ledgers can be used."""
    with host(inside) as here:
        text = here.one.virsh('domcapabilities', '--emulatorbin', here.emulator or str(shutil.which(paths.QEMU)))
        assert "<memoryLedger supported='yes'/>" in text, text


# what is wrong in <ledger>, and what virsh says
_BAD = (("deflate='never'", "'never' must be 'gate', 'allow' or 'observe'"),
        ("claim='4GB'", "'4GB' must be 'auto', or SIZE"),
        ("claim='1G,deflate=allow'", "must be 'auto', or SIZE"))


def bad_values(inside: bool) -> None:
    """Refused when the domain is defined, not when it is started."""
    with host(inside) as here:
        guest = _guest(here, 'vm1', _balloon(here.ledger('ledger', MEMORY).path))
        for bad, words in _BAD:
            error = here.one.refused('define', guest.file(guest.xml.replace('<ledger ', f'<ledger {bad} ')))
            assert words in error, error
        for old, new, words in (("<ledger path='/", "<ledger path='", "path '"),
                                ("model='virtio'", "model='none'", 'ledger')):
            error = here.one.refused('define', guest.file(guest.xml.replace(old, new)))
            assert words in error, error
            tap.note(error)


def refused(inside: bool) -> None:
    """By the ledger: its reason is in virsh's error; the guest starts when another one has gone."""
    with host(inside) as here:
        ledger = here.ledger('ledger', 3 * SMALL + SMALL // 2)
        one, two = [_guest(here, name, _balloon(ledger.path), 2 * SMALL) for name in ('vm1', 'vm2')]
        one.start()
        _check_binding(one, inside)
        tap.note(two.refused('claim of 128 MiB on the host refused', '32 MiB missing', 'held by vm1'))
        tap.equal(sorted(ledger.status().holders), ['vm1'], 'who holds something')
        one.virsh('destroy')
        two.start()
        ledger.wait_claim('vm2', 2 * SMALL)
        two.virsh('destroy')
        ledger.wait_free(3 * SMALL + SMALL // 2)


def claim(inside: bool) -> None:
    """claim='…' is what is claimed, in one piece or several; auto is the guest's memory by host node."""
    with host(inside) as here:
        ledger = here.ledger('ledger', MEMORY)
        for number, (words, wanted) in enumerate((('96M', [(None, 96)]), ('32M@0+48M', [(0, 32), (None, 48)]))):
            guest = _guest(here, f'vm{number}', _balloon(ledger.path, claim=words), SMALL).start()
            lines = [(line.get('node'), line['claimed'] // MIB) for line in guest.qmp('query-memory-ledger')['claims']]
            tap.equal(sorted(lines, key=str), sorted(wanted, key=str), f'claim={words}')
            guest.virsh('destroy')
            ledger.wait_free(MEMORY)


def statistics(inside: bool) -> None:
    """Every figure is there; the thread of the balloon cannot be taken from it."""
    with host(inside) as here:
        ledger = here.ledger('ledger', MEMORY)
        guest = _guest(here, 'vm1', _balloon(ledger.path, DRIVER, HINTS), head=IOTHREADS).boot()
        tap.equal(_statistics(guest)['balloon.ledger.claimed'], MEMORY // 1024, 'the claim, KiB')
        guest.virsh('dommemstat', '--period', '1', '--live')
        guest.balloon(MEMORY - SMALL)
        ledger.wait_claim('vm1', MEMORY - SMALL, SLACK)
        now = _statistics(guest)
        assert now['balloon.ledger.given_back'] >= (SMALL - SLACK) // 1024, now
        for name in ('ledger.resident', 'ledger.freeable', 'ledger.deficit', 'ledger.refused',
                     'ledger.waiting', 'hints.applied', 'hints.applied_size', 'hints.late',
                     'hints.unarmed', 'hints.malformed', 'hints.foreign'):
            assert f'balloon.{name}' in now, f'no balloon.{name}: {now}'
        wait_until(lambda: 'unused' in guest.memory(), "the guest's own statistics")
        assert 'used by the memory balloon' in here.one.refused('iothreaddel', 'vm1', '1', '--live')


def waiting(inside: bool) -> None:
    """The gate: a balloon that finds no room waits, and shows; it is granted when another guest goes."""
    with host(inside) as here:
        ledger = here.ledger('ledger', MEMORY)
        guest = _guest(here, 'vm1', _balloon(ledger.path, deflate='gate')).boot()
        guest.balloon(MEMORY - SMALL)
        ledger.wait_claim('vm1', MEMORY - SMALL, SLACK)
        other = _guest(here, 'vm2', _balloon(ledger.path), SMALL - SLACK).start()
        guest.virsh('setmem', f'{MEMORY // 1024}', '--live')
        wait_until(lambda: _statistics(guest)['balloon.ledger.waiting'], 'a balloon that waits')
        assert _statistics(guest)['balloon.ledger.refused'], 'refusals'
        assert guest.memory()['actual'] < MEMORY, 'the guest has it'
        other.virsh('destroy')
        wait_until(lambda: guest.memory()['actual'] == MEMORY, 'the balloon to be empty', 120)
        tap.equal(_statistics(guest)['balloon.ledger.claimed'], MEMORY // 1024)
        guest.check_alive()


def no_ledger(inside: bool) -> None:
    """A guest without one is not asked for its figures; hints are counted where QEMU can."""
    with host(inside) as here:
        now = _statistics(_guest(here, 'vm1', "<memballoon model='virtio'/>", SMALL).start())
        assert 'balloon.current' in now, now
        assert not [name for name in now if 'ledger' in name], now
        tap.equal('balloon.hints.applied' in now, inside, 'hints are counted')
        assert 'query-memory-ledger' not in here.logs(), here.logs()


def absent(inside: bool) -> None:
    """A ledger that is not there, or closed, is told before QEMU is started."""
    with host(inside) as here:
        ledger = here.ledger('ledger', MEMORY)
        guest = _guest(here, 'vm1', _balloon(ledger.path), SMALL)
        ledger.path.chmod(0o400)
        guest.refused(f"memory ledger '{ledger.path}' cannot be read and written", 'Permission denied')
        ledger.path.rename(ledger.path.with_name('gone'))
        guest.refused(f"memory ledger '{ledger.path}' does not exist; is its daemon running?")
        ledger.path.with_name('gone').rename(ledger.path)
        ledger.path.chmod(0o600)
        guest.start()


def unequal(inside: bool) -> None:
    """Both sides of a migration have a ledger, or neither; where there is no room, the guest stays."""
    with host(inside) as here:
        one, two = here.ledger('one', MEMORY), here.ledger('two', SMALL)
        guest = _guest(here, 'vm1', _balloon(one.path)).boot()
        way = ('migrate', '--live', '--migrateuri', f'unix://{here.two.directory}/x.sock', '--xml')
        without = guest.file(guest.xml.replace(f"<ledger path='{one.path}'/>", ''))
        error = here.one.refused(*way, without, 'vm1', here.two.uri)
        assert 'Target balloon has no ledger, the source has one' in error, error
        full = guest.file(guest.xml.replace(str(one.path), str(two.path)))
        error = here.one.refused(*way, full, 'vm1', here.two.uri)
        assert 'refused: 192 MiB missing' in error, error
        tap.equal((guest.state(), two.status().holders), ('running', {}), 'what is left')
        guest.check_alive()


def managed_save(inside: bool) -> None:
    """No claim meanwhile; an image that finds no room is kept, and starts later."""
    with host(inside) as here:
        ledger = here.ledger('ledger', MEMORY)
        guest = _guest(here, 'vm1', _balloon(ledger.path)).boot()
        guest.keep(16)
        guest.virsh('managedsave')
        ledger.wait_free(MEMORY)
        other = _guest(here, 'vm2', _balloon(ledger.path), SMALL).start()
        guest.refused('64 MiB missing', 'vm2')
        other.virsh('destroy')
        guest.start()
        ledger.wait_claim('vm1', MEMORY)
        guest.check_kept()
        guest.check_alive()


def _plugged(guest: VirtGuest, model: str, more: str) -> Tuple[str, ...]:
    """Words of virsh that plug 64 MiB."""
    xml = (f"<memory model='{model}'><target><size unit='MiB'>64</size><node>0</node>{more}</target>"
           '</memory>')
    return 'attach-device', guest.name, guest.file(xml), '--live'


def hot_plug(inside: bool) -> None:
    """Inside: memory is claimed before it is plugged, a DIMM whole, virtio-mem by what is requested.
    The plug-in: it is not in the claim.  The balloon is neither attached nor detached."""
    with host(inside) as here:
        ledger = here.ledger('ledger', SMALL + SMALL // 2)
        xml = here.xml('vm1', SMALL, _balloon(ledger.path), '', ROOM)
        guest = here.guest('vm1', xml.replace("<cpu mode='maximum'>", NODE)).start()
        ledger.wait_claim('vm1', SMALL)
        dimm = _plugged(guest, 'dimm', '')
        mem = _plugged(guest, 'virtio-mem', "<block unit='KiB'>2048</block><requested unit='KiB'>0</requested>")
        here.one.virsh(*mem)
        ask = ('update-memory-device', 'vm1', '--live', '--alias', 'virtiomem0', '--requested-size')
        if inside:
            error = here.one.refused(*dimm)
            assert 'claim of 128 MiB on the host refused: 32 MiB missing' in error, error
            tap.note(error)
            error = here.one.refused(*ask, '64MiB')
            assert '32 MiB missing' in error, error
            here.one.virsh(*ask, '32MiB')
            ledger.wait_claim('vm1', SMALL + SMALL // 2)
        else:
            here.one.virsh(*dimm)
            here.one.virsh(*ask, '64MiB')
            tap.equal(ledger.claimed('vm1'), SMALL, 'the claim')
        balloon = re.search(r'<memballoon.*?</memballoon>', guest.virsh('dumpxml'), re.S)
        assert balloon, guest.virsh('dumpxml')
        for command in ('attach-device', 'detach-device'):
            error = here.one.refused(command, 'vm1', guest.file(balloon[0]), '--live')
            tap.note(error)
            assert 'memballoon' in error or 'memory balloon' in error, error


CASES = (
    ('domain capabilities tell that ledgers can be used', capabilities),
    ('values that make no sense are refused when the domain is defined', bad_values),
    ('a guest that does not fit is not started, and virsh has the reason of the ledger', refused),
    ('the claim is what the XML says', claim),
    ('domstats tells of claim and hints', statistics),
    ('a balloon that finds no room waits for it', waiting),
    ('a guest without a ledger has no figures of one', no_ledger),
    ('a ledger that is not there, or closed, is told before QEMU is started', absent),
    ('a migration needs a ledger on both sides, and room', unequal),
    ('managed save: no claim meanwhile', managed_save),
    ('hot-plug: memory is claimed first, or not at all; the balloon stays', hot_plug),
)

tap.add("a guest's life, Ballast inside QEMU: refused, ballooned, saved, restored, migrated with hints, destroyed",
        life, True)
if FULL:
    tap.add("a guest's life, the distribution's QEMU with the plug-in", life, False)
    for _name, _case in CASES:
        tap.add(f'{_name} (inside)', _case, True)
        tap.add(f'{_name} (plug-in)', _case, False)


if __name__ == '__main__':
    tap.main()
