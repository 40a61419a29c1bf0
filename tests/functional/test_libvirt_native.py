#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Guests of a libvirt with the series, from native XML: what docs/libvirt-series.md promises.

libvirt is built for it (scripts/build-libvirt): minutes without a compiler cache, so with --full
only.  The QEMU is the distribution's, with the plug-in that qemu.conf names.
"""

import atexit
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Dict

import virt
from guest import MIB
from hostledger import HostLedger
from virt import Host, VirtGuest, host
from ballast import paths, tap
from ballast.vm import wait_until

REPO = Path(__file__).resolve().parents[2]
BUILD = REPO / 'build' / 'series' / 'libvirt' / 'build'
MEMORY = 256 * MIB
SLACK = 16 * MIB
IOTHREADS = '\n  <iothreads>1</iothreads>'
DRIVER = "<driver iothread='1'/>"
HINTS = "freePageHinting='on'"
_ready = []


def _prepare() -> None:
    """libvirt built, first in PATH, and its daemons configured with a copy of the plug-in."""
    if _ready:
        return
    tap.need(os.environ.get('BALLAST_FULL'), '--full: libvirt is built, minutes without a compiler cache')
    done = subprocess.run([REPO / 'scripts' / 'build-libvirt'], cwd=REPO, text=True, check=False,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    tap.note(done.stdout)
    tap.need('or run scripts/build-libvirt as root' not in done.stdout, 'packages, see above')
    assert done.returncode == 0, f'scripts/build-libvirt: exit status {done.returncode}'
    folder = tempfile.TemporaryDirectory(prefix='ballast-')     # pylint: disable=consider-using-with
    atexit.register(folder.cleanup)
    here = Path(folder.name)
    here.chmod(0o755)
    for name in ('src/libvirtd', 'tools/virsh'):
        wrapper = here / Path(name).name
        wrapper.write_text(f'#!/bin/sh\nLIBVIRT_DIR_OVERRIDE=1 exec {BUILD}/{name} "$@"\n', 'utf-8')
        wrapper.chmod(0o755)
    plugin = here / paths.PLUGIN.name
    shutil.copy(paths.PLUGIN, plugin)
    plugin.chmod(0o755)
    os.environ['PATH'] = f"{here}:{os.environ['PATH']}"
    found = subprocess.run(virt.as_user('libvirtd', '--version'), capture_output=True, check=False)
    tap.need(found.returncode == 0, f'{BUILD} to be readable for the user that libvirtd runs as')
    virt.QEMU_CONF += f'memory_ledger_plugin = "{plugin}"\n'
    _ready.append(True)


def _balloon(ledger: Path, more: str = '', attributes: str = '') -> str:
    """Native XML."""
    return f"<memballoon model='virtio' {attributes}>{more}<ledger path='{ledger}'/></memballoon>"


def _guest(here: Host, name: str, balloon: str, memory: int = MEMORY, head: str = '') -> VirtGuest:
    return here.guest(name, here.xml(name, memory, balloon, '', head))


def _statistics(guest: VirtGuest) -> Dict[str, int]:
    """domstats --balloon, as numbers."""
    pairs = [line.strip().split('=') for line in guest.virsh('domstats', '--balloon').splitlines()
             if '=' in line]
    return {name: int(value) for name, value in pairs}


def _wait_claim(ledger: HostLedger, name: str, size: int) -> None:
    wait_until(lambda: abs(ledger.claimed(name) - size) <= SLACK,
               f'a claim of {name} of {size // MIB} MiB')


@tap.case('domain capabilities tell that ledgers can be used')
def capabilities() -> None:
    _prepare()
    with host() as here:
        text = here.one.virsh('domcapabilities', '--emulatorbin', str(shutil.which(paths.QEMU)))
        assert "<memoryLedger supported='yes'/>" in text, text


@tap.case('values that make no sense are refused when the domain is defined')
def bad_values() -> None:
    _prepare()
    with host() as here:
        ledger = here.ledger('ledger', MEMORY)
        guest = _guest(here, 'vm1', _balloon(ledger.path))
        for bad, words in (("deflate='never'", "'never' must be 'gate', 'allow' or 'observe'"),
                           ("claim='4GB'", "'4GB' must be 'auto', or SIZE"),
                           ("claim='1G,deflate=allow'", "must be 'auto', or SIZE")):
            text = guest.xml.replace('<ledger ', f'<ledger {bad} ')
            error = here.one.refused('define', guest.file(text))
            assert words in error, error


@tap.case('a guest that does not fit is not started, and virsh has the reason of the ledger')
def refused() -> None:
    _prepare()
    with host() as here:
        ledger = here.ledger('ledger', MEMORY + MEMORY // 2)
        one, two = [_guest(here, name, _balloon(ledger.path)) for name in ('vm1', 'vm2')]
        one.start()
        two.refused('claim of 256 MiB on the host refused', '128 MiB missing')
        tap.equal(sorted(ledger.status().holders), ['vm1'], 'who holds something')
        one.virsh('destroy')
        two.start()
        _wait_claim(ledger, 'vm2', MEMORY)


@tap.case('setmem changes the claim, and domstats tells of claim and hints')
def statistics() -> None:
    _prepare()
    with host() as here:
        ledger = here.ledger('ledger', MEMORY)
        guest = _guest(here, 'vm1', _balloon(ledger.path, DRIVER, HINTS), head=IOTHREADS).boot()
        tap.equal(_statistics(guest)['balloon.ledger.claimed'], MEMORY // 1024, 'the claim, KiB')
        guest.virsh('dommemstat', '--period', '1', '--live')
        guest.balloon(MEMORY - 64 * MIB)
        _wait_claim(ledger, 'vm1', MEMORY - 64 * MIB)
        now = _statistics(guest)
        tap.equal(now['balloon.ledger.claimed'] + now['balloon.ledger.given_back'], MEMORY // 1024, 'in all')
        assert now['balloon.ledger.given_back'] >= (64 * MIB - SLACK) // 1024, now
        for name in ('ledger.resident', 'ledger.freeable', 'ledger.deficit', 'ledger.refused',
                     'ledger.waiting', 'hints.applied', 'hints.applied_size', 'hints.late',
                     'hints.unarmed', 'hints.malformed', 'hints.foreign'):
            assert f'balloon.{name}' in now, f'no balloon.{name}: {now}'
        wait_until(lambda: 'unused' in guest.memory(), "the guest's own statistics")
        assert 'used by the memory balloon' in here.one.refused('iothreaddel', 'vm1', '1', '--live')


@tap.case('a guest without a ledger has none of these figures')
def no_ledger() -> None:
    _prepare()
    with host() as here:
        guest = _guest(here, 'vm1', "<memballoon model='virtio'/>").start()
        now = _statistics(guest)
        assert 'balloon.current' in now, now
        assert not [name for name in now if 'ledger' in name or 'hints' in name], now
        assert 'query-memory-ledger' not in here.logs(), here.logs()


@tap.case('a ledger that is not there, or closed, is told before QEMU is started')
def absent() -> None:
    _prepare()
    with host() as here:
        ledger = here.ledger('ledger', MEMORY)
        guest = _guest(here, 'vm1', _balloon(ledger.path))
        ledger.path.chmod(0o400)
        guest.refused(f"memory ledger '{ledger.path}' cannot be read and written", 'Permission denied')
        ledger.path.rename(ledger.path.with_name('gone'))
        guest.refused(f"memory ledger '{ledger.path}' does not exist; is its daemon running?")
        ledger.path.with_name('gone').rename(ledger.path)
        ledger.path.chmod(0o600)
        guest.start()


@tap.case("a guest migrates to the other host's ledger, with hints")
def migrates() -> None:
    _prepare()
    with host() as here:
        one, two = here.ledger('one', MEMORY), here.ledger('two', MEMORY)
        guest = _guest(here, 'vm1', _balloon(one.path, DRIVER, HINTS), head=IOTHREADS).boot()
        without = guest.file(guest.xml.replace(f"<ledger path='{one.path}'/>", ''))
        error = here.one.refused('migrate', '--live', '--migrateuri', f'unix://{here.two.directory}/x.sock',
                                 '--xml', without, 'vm1', here.two.uri)
        assert 'Target balloon has no ledger, the source has one' in error, error
        guest.migrate(here.two, xml=guest.xml.replace(str(one.path), str(two.path)))
        wait_until(lambda: one.status().free == MEMORY, 'the first ledger to be free again')
        _wait_claim(two, 'vm1', MEMORY)
        guest.check_alive()


if __name__ == '__main__':
    tap.main()
