#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Linux guests whose balloon, driver or kernel changes while they are migrated."""

import itertools
from contextlib import contextmanager
from typing import Iterator, Tuple

from fixture import host, Host
from guest import MIB, LinuxGuest
from ballast import tap
from ballast.vm import start_migration, wait_migration, wait_until

MEMORY = 512 * MIB
TRICKLE, SLOW, FAST = 1000, 24 * MIB, 1 << 40
SLACK = 8 * MIB
DRIVER = '/sys/bus/virtio/drivers/virtio_balloon'
UNBIND = f'cd {DRIVER} && for d in virtio*; do echo "$d" >/tmp/balloon && echo "$d" >unbind; done'
BIND = f'cat /tmp/balloon >{DRIVER}/bind'


class Pair:
    """A guest that is being migrated, slowly."""

    def __init__(self, here: Host) -> None:
        self.ledgers = [here.ledger(name, MEMORY + 64 * MIB) for name in ('ledger-a', 'ledger-b')]
        self.source = here.guest(self.ledgers[0], 'vm', MEMORY)
        self.destination = here.guest(self.ledgers[1], 'vm', MEMORY, extra=('-incoming', 'defer'))
        self.destination.vm.launch()
        self.source.start()
        self.source.keep(32)
        self.source.churn(64)

    def _limit(self, bandwidth: int, threshold: int) -> None:
        self.source.vm.qmp('migrate-set-parameters', {'max-bandwidth': bandwidth, 'downtime-limit': 1000,
                                                      'avail-switchover-bandwidth': threshold})

    def begin(self) -> None:
        """Start, and see the guest hint."""
        self._limit(SLOW, 1)
        start_migration(self.source.vm, self.destination.vm)
        wait_until(lambda: self.source.vm.qmp('query-free-page-hints')['migration']['applied'], 'hints')

    def active(self) -> bool:
        """It goes on."""
        return self.source.vm.migration()['status'] == 'active'

    def balloon(self, target: int) -> None:
        """Move the source's.

        Where rounds are short a guest dirties nothing in one, and the migration ends: nearly nothing is sent meanwhile.
        """
        self._limit(TRICKLE, 1)
        self.source.set_balloon(target)
        wait_until(lambda: self.source.actual() == target or not self.active(), 'the balloon', 120)
        if self.source.actual() != target:
            raise tap.Again('the migration ended before the balloon was there')

    def end(self) -> None:
        """Let it finish."""
        assert self.active(), 'the migration is over'
        self._limit(FAST, 0)
        wait_migration(self.source.vm, self.destination.vm, 300)
        tap.note(str(self.source.vm.qmp('query-free-page-hints')['migration']))
        self.destination.kept = self.source.kept

    def check(self) -> LinuxGuest:
        """The guest is well there, its files are what they were, its claim is what its balloon leaves."""
        guest = self.destination
        guest.check_kept()
        guest.check_alive()
        wait_until(lambda: abs(self.ledgers[1].claimed('vm') - guest.actual()) <= SLACK, 'the claim')
        return guest


@contextmanager
def pair(stress: bool = True) -> Iterator[Tuple[Pair, LinuxGuest, LinuxGuest]]:
    """The migration, its source and its destination."""
    with host() as here:
        move = Pair(here)
        if stress:
            move.source.start_stress()
        move.begin()
        yield move, move.source, move.destination


@tap.case('the driver is unbound while it hints, and bound again at the destination')
def unbind() -> None:
    """Its pages are the guest's again at once; what it had hinted may be in use by now."""
    with pair() as (move, source, destination):
        source.run(UNBIND)
        source.churn(64)
        move.end()
        destination.finish_stress()
        move.check()
        destination.run(BIND)
        destination.balloon(MEMORY - 128 * MIB)
        move.check()


@tap.case('the driver is unbound and bound again while migrating')
def rebind() -> None:
    """Another driver answers the next id."""
    with pair() as (move, source, destination):
        for _ in range(2):
            source.run(UNBIND)
            source.run(BIND)
        move.end()
        destination.finish_stress()
        destination.balloon(MEMORY - 128 * MIB)
        move.check()


@tap.case('the balloon moves while migrating')
def balloon_moves() -> None:
    """In and out, a hundred MiB and more at a time, whatever the phase."""
    with pair() as (move, source, destination):
        targets = itertools.cycle([MEMORY - size * MIB for size in (160, 40, 200, 0)])
        for _ in range(12):
            target = next(targets)
            source.set_balloon(target)
            source.run('usleep 200000')
        move.balloon(MEMORY - 200 * MIB)
        source.set_balloon(MEMORY - 100 * MIB)      # under way when the guest is stopped
        move.end()
        wait_until(lambda: destination.actual() == MEMORY - 100 * MIB, 'the balloon')
        destination.finish_stress()
        move.check()


@tap.case('the guest reboots while it hints')
def reboot() -> None:
    """It starts on the source and is up at the destination."""
    with pair(stress=False) as (move, source, destination):
        source.balloon(MEMORY - 128 * MIB)
        source.vm.qmp('system_reset')
        source.vm.wait_event('RESET')
        move.end()
        destination.wait_boot()
        destination.keep(32)
        destination.churn(200)
        move.check()


if __name__ == '__main__':
    tap.main()
