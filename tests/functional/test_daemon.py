#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Guests whose ledger is behind ballastd: claims, a daemon that is killed, one that is silent."""

import signal
import time

from fixture import host, refused, served
from guest import MIB
from hostledger import HostLedger
from ballast import tap
from ballast.vm import wait_until

SLACK = 8 * MIB     # page tables of the guest's balloon, rounding to huge pages
SANDBOX = ('-sandbox', 'on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny')
SILENT_S = 3.0


def _holder_claims(ledger: HostLedger, name: str, low: int, high: int) -> None:
    """Wait until a guest's claim is in the range; a bound, not a measurement."""
    wait_until(lambda: low <= ledger.claimed(name) <= high,
               f'a claim of {name} from {low} to {high}')


@tap.case('claims and the balloon, through the daemon, in a sandbox')
def through_daemon() -> None:
    """As with a file; QEMU's seccomp filter has nothing against it."""
    with host() as here, served(here.ledger('ledger', 700 * MIB)) as (ledger, daemon):
        one = here.guest(ledger, 'vm1', 512 * MIB, extra=SANDBOX).start()
        tap.equal(ledger.claimed('vm1'), 512 * MIB)
        tap.note(refused(here.guest(ledger, 'vm2', 512 * MIB), 'vm1'))
        one.balloon(256 * MIB)
        _holder_claims(ledger, 'vm1', 256 * MIB, 256 * MIB + SLACK)
        one.check_alive()
        one.vm.shutdown()
        wait_until(lambda: ledger.status().free == 700 * MIB, 'the capacity')
        assert 'name="vm1"' in daemon.log(), daemon.log()


@tap.case('the daemon is killed and started again: the guest does not notice')
def killed_daemon() -> None:
    """In a sandbox too: the plug-in connects again from inside it."""
    with host() as here, served(here.ledger('ledger', 700 * MIB)) as (ledger, daemon):
        one = here.guest(ledger, 'vm1', 512 * MIB, extra=SANDBOX).start()
        daemon.kill()
        one.balloon(256 * MIB)
        daemon.start()
        tap.equal(sorted(ledger.status().holders), ['vm1'], 'participants')
        _holder_claims(ledger, 'vm1', 256 * MIB, 256 * MIB + SLACK)
        daemon.kill()
        daemon.start()
        one.balloon(512 * MIB)
        _holder_claims(ledger, 'vm1', 512 * MIB - SLACK, 512 * MIB)
        one.check_alive()


@tap.case('a silent daemon does not stop QEMU')
def silent_daemon() -> None:
    """Stopped, it lets QEMU wait a tenth of a second in a second, and no more."""
    with host() as here, served(here.ledger('ledger', 700 * MIB)) as (ledger, daemon):
        one = here.guest(ledger, 'vm1', 512 * MIB).start()
        daemon.send(signal.SIGSTOP)
        one.set_balloon(256 * MIB)
        waits = []
        end = time.monotonic() + SILENT_S
        while time.monotonic() < end:
            begun = time.monotonic()
            one.vm.qmp('query-status')
            waits.append(time.monotonic() - begun)
        one.check_alive()
        tap.note(f'{len(waits)} calls of QMP, the longest took {max(waits) * 1000:.0f} ms')
        assert max(waits) < 1.0, 'QMP was blocked'
        assert sum(wait for wait in waits if wait > 0.05) < SILENT_S / 2, 'QMP was blocked too often'
        daemon.send(signal.SIGCONT)
        _holder_claims(ledger, 'vm1', 256 * MIB, 256 * MIB + SLACK)
        one.check_alive()


@tap.case('ballast run through the daemon: the claim is adopted, not doubled')
def inherited() -> None:
    """By slot, serial number and cookie; there is no descriptor to inherit."""
    with host() as here, served(here.ledger('ledger', 700 * MIB)) as (ledger, _daemon):
        wrapper = ledger.run_command('--claim', '512M', '--name', 'vm1')
        one = here.plain_guest('vm1', 512 * MIB, plugin={}, wrapper=wrapper).start()
        info = one.vm.qmp('query-memory-ledger')
        assert info['inherited'], info
        tap.equal(sorted(ledger.status().holders), ['vm1'], 'participants')
        tap.equal(ledger.claimed('vm1'), 512 * MIB)
        one.check_alive()


if __name__ == '__main__':
    tap.main()
