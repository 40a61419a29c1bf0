#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Claims of Linux guests: launched, refused, ballooned, killed."""

import os
import signal

from fixture import host, refused
from guest import GIB, MIB, LinuxGuest
from hostledger import HostLedger
from ballast import tap
from ballast.vm import wait_until

SLACK = 8 * MIB     # page tables of the guest's balloon, rounding to huge pages


def _holder_claims(ledger: HostLedger, name: str, low: int, high: int) -> None:
    """Wait until a guest's claim is in the range; a bound, not a measurement."""
    wait_until(lambda: low <= ledger.claimed(name) <= high,
               f'a claim of {name} from {low} to {high}')


@tap.case('two guests fit, the third is refused in words')
def third_refused() -> None:
    """Refused before it has memory; the others do not notice."""
    with host() as here:
        ledger = here.ledger('ledger', 1200 * MIB)
        one = here.guest(ledger, 'vm1', 512 * MIB).start()
        two = here.guest(ledger, 'vm2', 512 * MIB).start()
        tap.equal(ledger.claimed('vm1'), 512 * MIB)
        tap.equal(ledger.claimed('vm2'), 512 * MIB)
        tap.note(refused(here.guest(ledger, 'vm3', 512 * MIB), 'vm1', 'vm2'))
        tap.equal(sorted(ledger.status().holders), ['vm1', 'vm2'], 'participants')
        one.check_alive()
        two.check_alive()


@tap.case('ballooned memory is promised to another, and the gate holds it there')
def balloon_and_gate() -> None:
    """Down: the claim falls and a third guest fits.  Up: held until that one is gone."""
    with host() as here:
        ledger = here.ledger('ledger', 1200 * MIB)
        one = here.guest(ledger, 'vm1', 512 * MIB, balloon={'deflate': 'gate'}).start()
        here.guest(ledger, 'vm2', 512 * MIB).start()
        one.balloon(256 * MIB)
        _holder_claims(ledger, 'vm1', 256 * MIB, 256 * MIB + SLACK)
        three = here.guest(ledger, 'vm3', 400 * MIB).start()
        _gate(ledger, one, three)
        _holder_claims(ledger, 'vm1', 512 * MIB - SLACK, 512 * MIB)
        one.check_alive()


def _gate(ledger: HostLedger, one: LinuxGuest, three: LinuxGuest) -> None:
    one.set_balloon(512 * MIB)
    waiting = one.vm.wait_event('MEMORY_CLAIM_WAITING')
    tap.note(str(waiting['data']))
    status = ledger.status()
    assert status.reserved <= status.capacity, 'promised more than there is'
    assert one.actual() < 512 * MIB, 'the guest has memory the ledger refused'
    three.check_alive()
    three.vm.shutdown(hard=True)
    granted = one.vm.wait_event('MEMORY_CLAIM_GRANTED')
    tap.note(str(granted['data']))
    wait_until(lambda: one.actual() == 512 * MIB, 'the balloon to deflate')


@tap.case("the claim follows QEMU's own balloon, within seconds")
def stock_balloon() -> None:
    """Down when pages are really gone, up when the guest has them again."""
    with host() as here:
        ledger = here.ledger('ledger', 700 * MIB)
        one = here.guest(ledger, 'vm1', 512 * MIB, device='virtio-balloon-pci').start()
        one.balloon(256 * MIB)
        _holder_claims(ledger, 'vm1', 256 * MIB, 256 * MIB + SLACK)
        one.balloon(512 * MIB)
        _holder_claims(ledger, 'vm1', 512 * MIB, 512 * MIB)
        one.check_alive()


@tap.case("a killed guest's capacity comes back")
def killed() -> None:
    """SIGKILL: nothing of QEMU or the plug-in runs any more."""
    with host() as here:
        ledger = here.ledger('ledger', 700 * MIB)
        one = here.guest(ledger, 'vm1', 512 * MIB).start()
        one.keep(64)
        tap.note(refused(here.guest(ledger, 'vm2', 512 * MIB), 'vm1'))
        pid = one.vm.get_pid()
        assert pid
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: ledger.status().free == 700 * MIB, 'the capacity')
        here.guest(ledger, 'vm2', 512 * MIB).start().check_alive()


@tap.case('ballast run: the claim is inherited, not doubled')
def inherited() -> None:
    """Claimed before QEMU exists; QEMU with the plug-in takes it over."""
    with host() as here:
        ledger = here.ledger('ledger', GIB + 64 * MIB)
        wrapper = ledger.run_command('--claim', '1G', '--name', 'vm1')
        one = here.plain_guest('vm1', GIB, plugin={}, wrapper=wrapper).start()
        info = one.vm.qmp('query-memory-ledger')
        assert info['inherited'], info
        tap.equal(sorted(ledger.status().holders), ['vm1'], 'participants')
        tap.equal(ledger.claimed('vm1'), GIB)
        one.balloon(512 * MIB)
        _holder_claims(ledger, 'vm1', 512 * MIB, 512 * MIB + SLACK)
        one.check_alive()


@tap.case('ballast run: refused, the command does not start')
def run_refused() -> None:
    """The exit status says that it was the ledger."""
    with host(guests=False) as here:
        ledger = here.ledger('ledger', 256 * MIB)
        marker = ledger.path.parent / 'started'
        result = ledger.run(*ledger.run_command('--claim', '1G'), 'touch', str(marker))
        tap.equal(result.returncode, 3, 'exit status')
        assert not marker.exists(), 'the command ran'
        tap.note(result.stderr)


if __name__ == '__main__':
    tap.main()
