#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Guests of root's libvirtd, which run as a user of their own, in namespaces of their own.

It is private as well (virt.System): in a mount namespace in which the directories of a system's
libvirt are empty.  The hook is installed there.  Nothing boots: claims and access are what matters.
"""

import os
import pwd
import shutil
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator, List

import virt
from fixture import served
from guest import MIB
from virt import Host, System, VirtGuest
from ballast import paths, tap

HOOK = paths.REPO / 'data' / 'libvirt' / 'hook'
USER = 'libvirt-qemu'
PATIENCE = '{BALLAST_HOOK_WAIT:-10}'
MEMORY = 64 * MIB


def _start(directory: Path) -> 'List[virt.Daemon]':
    """libvirt gives hooks no variables of ours: one that waits for five seconds instead of ten."""
    brief = directory / 'hook'
    text = HOOK.read_text('utf-8')
    assert PATIENCE in text, text
    brief.write_text(text.replace(PATIENCE, '{BALLAST_HOOK_WAIT:-5}'), 'utf-8')
    return [System(directory / 'system', brief, paths.BUILD).wait_ready()]


@contextmanager
def host() -> Iterator[Host]:
    """One daemon of root's, or a skip."""
    tap.need(os.getuid() == 0, 'to be run by root')
    tap.need(shutil.which('unshare') and subprocess.run(
        ['unshare', '--mount', 'mount', '-t', 'tmpfs', 'none', '/run'], check=False,
        capture_output=True).returncode == 0, 'mount namespaces')
    tap.need(all(Path(place).is_dir() for place in System.HIDDEN), f'the directories {System.HIDDEN}')
    tap.need(USER in [entry.pw_name for entry in pwd.getpwall()], f'the user {USER} (Debian: libvirt-daemon-system)')
    with virt.host(_start) as here:
        yield here


def _pid(guest: VirtGuest, ledger: 'virt.HostLedger') -> int:
    return ledger.status().holders[guest.name].pid


@tap.case("a file of the guests' group: claims are made, and owner, group and mode stay")
def file_of_group() -> None:
    """Libvirt, which chowns disks and kernels, does not touch it; a closed one is told."""
    with host() as here:
        ledger = here.ledger('ledger', MEMORY + MEMORY // 2)
        user = pwd.getpwnam(USER)
        os.chown(ledger.path, 0, user.pw_gid)
        ledger.path.chmod(0o660)
        before = ledger.path.stat()
        one, two = [here.claimant(name, ledger.path, MEMORY) for name in ('vm1', 'vm2')]
        one.start()
        tap.equal(ledger.claimed('vm1'), MEMORY)
        process = Path(f'/proc/{_pid(one, ledger)}')
        tap.equal(process.stat().st_uid, user.pw_uid, 'the user of QEMU')
        assert os.readlink(process / 'ns/mnt') != os.readlink(f'/proc/{here.one.process.pid}/ns/mnt'), 'its namespace'
        tap.note(two.refused('claim of 64 MiB on the host refused', '32 MiB missing'))
        after = ledger.path.stat()
        tap.equal((after.st_uid, after.st_gid, after.st_mode), (before.st_uid, before.st_gid, before.st_mode))
        one.virsh('destroy')
        ledger.wait_free(MEMORY + MEMORY // 2)
        ledger.path.chmod(0o600)
        tap.note(two.refused('ballast: ', 'Permission denied'))


@tap.case("ballastd: guests are one user, whose quota is for them together; others are not served")
def quota() -> None:
    with host() as here:
        file = here.ledger('ledger', 8 * MEMORY)
        with served(file, '--allow', f'user:{USER}=96M') as (ledger, daemon):
            daemon.socket.chmod(0o666)
            one, two = [here.claimant(name, ledger.path, MEMORY) for name in ('vm1', 'vm2')]
            one.start()
            tap.note(two.refused('ballast: '))
            one.virsh('destroy')
            file.wait_free(8 * MEMORY)
            two.start()
            tap.equal(file.claimed('vm2'), MEMORY)
            two.virsh('destroy')
        with served(file, '--allow', 'user:nobody') as (ledger, daemon):
            daemon.socket.chmod(0o666)
            tap.note(two.refused('ballast: '))


@tap.case("the hook: libvirtd calls it; a guest whose ledger is not there is not started, and virsh tells why")
def hook() -> None:
    with host() as here:
        ledger = here.ledger('ledger', MEMORY)
        ledger.path.chmod(0o666)
        guest = here.claimant('vm', ledger.path, MEMORY)
        away = ledger.path.with_name('away')
        ledger.path.rename(away)
        tap.note(guest.refused('Hook script execution failed', 'guest vm is not started, its ledger does not answer'))
        begun = here.one.begin('start', 'vm')
        time.sleep(0.5)                 # so that the hook finds none at first, if the machine is not busy
        away.rename(ledger.path)
        words = begun.communicate(timeout=virt.COMMAND_TIMEOUT)
        tap.equal(begun.returncode, 0, str(words))
        tap.equal(ledger.claimed('vm'), MEMORY)


if __name__ == '__main__':
    tap.main()
