#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Live migration of Linux guests between two hosts, each with a ledger of its own."""

import os
from typing import Any, Dict, List, Tuple

from fixture import Host, host, refused
from guest import GIB, MIB, PAGE, STOCK_DEVICE, LinuxGuest
from ballast import tap
from ballast.vm import wait_until

tap.add_option('--repeat', type=int, default=10 if os.environ.get('BALLAST_FULL') else 2,
               help='rounds of the two-node case (default: 2, or 10 with BALLAST_FULL)')

SLACK = 8 * MIB     # what the balloon's own pages and rounding may cost
INCOMING = ('-incoming', 'defer')
TWO_NODES = ('-object', 'memory-backend-ram,id=m0,size=256M',
             '-object', 'memory-backend-ram,id=m1,size=256M',
             '-numa', 'node,memdev=m0', '-numa', 'node,memdev=m1')
SLOW = {'max-bandwidth': 256 * MIB}


def _pair(here: Host, memory: int, **options: Any) -> Tuple[LinuxGuest, LinuxGuest]:
    """A running guest on one host and its destination on another."""
    extra: List[str] = list(options.pop('extra', ()))
    ledgers = [here.ledger(name, memory + 64 * MIB) for name in ('ledger-a', 'ledger-b')]
    source = here.guest(ledgers[0], 'vm', memory, extra=extra, **options)
    destination = here.guest(ledgers[1], 'vm', memory, extra=[*extra, *INCOMING], **options)
    destination.vm.launch()
    tap.equal(ledgers[1].claimed('vm'), memory, "the destination's claim before the first page")
    return source.start(), destination


def _verdicts(guest: LinuxGuest) -> Dict[str, int]:
    info = guest.vm.qmp('query-free-page-hints')
    tap.note(f"generation {info['generation']}, {info['armings']} armings, {info['migration']}")
    return dict(info['migration'])


def _absent(guest: LinuxGuest) -> Dict[str, Any]:
    absent = dict(guest.vm.qmp('query-free-page-hints')['absent'])
    tap.note(str(absent))
    return absent


@tap.case('a fresh guest: what it never touched is not sent, with the stock balloon and no hints')
def fresh() -> None:
    """Absent pages need neither our device nor hints; a guest at work loses nothing."""
    with host() as here:
        source, destination = _pair(here, GIB, device=STOCK_DEVICE, balloon={'free-page-hint': 'off'})
        source.keep(32)
        source.start_stress()
        info = source.migrate_to(destination, SLOW)
        absent = _absent(source)
        assert absent['skipped-bytes'] > 512 * MIB, absent
        assert info['ram']['duplicate'] < 128 * MIB // PAGE, info['ram']
        destination.finish_stress()
        destination.check_kept()
        destination.check_alive()


@tap.case('written and deleted memory is not sent, kept files arrive')
def hints() -> None:
    """The verdicts say what the hints did; the checksums say that it was right."""
    with host() as here:
        source, destination = _pair(here, GIB)
        source.keep(64)
        source.churn(512)
        info = source.migrate_to(destination, SLOW)
        verdicts = _verdicts(source)
        sent = info['ram']['normal'] * PAGE
        tap.note(f"{info['total-time']} ms, {sent // MIB} MiB of pages sent")
        destination.check_kept()
        destination.check_alive()
        assert verdicts['applied-bytes'] > 256 * MIB, 'hints saved little'
        assert sent < 512 * MIB, 'deleted files were sent'
        for fault in ('unarmed', 'malformed', 'foreign', 'bad-ids'):
            tap.equal(verdicts[fault], 0, fault)


@tap.case('a guest that writes all the time loses nothing')
def under_load() -> None:
    """Files are written, verified and deleted while hints are taken."""
    with host() as here:
        source, destination = _pair(here, 512 * MIB)
        source.keep(32)
        source.churn(200)
        source.start_stress()
        source.migrate_to(destination)
        _verdicts(source)
        tap.note(f'{destination.finish_stress()} rounds')
        destination.check_kept()
        destination.check_alive()


@tap.case('two small nodes right after boot')
def two_nodes() -> None:
    """A sync may come before the second block was reached: its writes must be tracked again."""
    for number in range(tap.options.repeat):
        with host() as here:
            source, destination = _pair(here, 512 * MIB, extra=TWO_NODES)
            source.start_stress()
            source.migrate_to(destination)
            tap.note(f'round {number}: {destination.finish_stress()} rounds of the guest')
            destination.check_alive()


@tap.case('stock balloon with the plug-in loaded')
def stock_device() -> None:
    """Arming protects the device that libvirt's users have."""
    with host() as here:
        source, destination = _pair(here, 512 * MIB, device=STOCK_DEVICE)
        source.keep(32)
        source.churn(200)
        source.start_stress()
        source.migrate_to(destination)
        info = source.vm.qmp('query-free-page-hints')
        assert info['armings'] > 0, info
        destination.finish_stress()
        destination.check_kept()
        destination.check_alive()


@tap.case('migrated there and back')
def there_and_back() -> None:
    """The device's state travels: the second migration starts from the first one's."""
    with host() as here:
        source, middle = _pair(here, 512 * MIB)
        ledger = here.ledger('ledger-c', 512 * MIB)
        last = here.guest(ledger, 'vm', 512 * MIB, extra=INCOMING)
        source.keep(32)
        source.churn(128)
        source.migrate_to(middle)
        source.close()
        middle.churn(128)
        last.vm.launch()
        middle.migrate_to(last)
        assert _verdicts(middle)['applied'] > 0
        last.check_kept()
        last.check_alive()


@tap.case('a ballooned guest arrives ballooned, and so does its claim')
def ballooned() -> None:
    """The destination claims everything, then what the balloon leaves."""
    with host() as here:
        source, destination = _pair(here, 512 * MIB)
        source.keep(32)
        source.balloon(256 * MIB)
        source.migrate_to(destination)
        absent = _absent(source)
        assert absent['skipped-bytes'] > 200 * MIB, absent
        tap.equal(destination.actual(), 256 * MIB, 'the balloon')
        ledger = here.ledgers[1]
        wait_until(lambda: ledger.claimed('vm') <= 256 * MIB + SLACK, 'the claim to fall')
        destination.balloon(384 * MIB)
        wait_until(lambda: ledger.claimed('vm') >= 384 * MIB - SLACK, 'the claim to rise')
        destination.check_kept()
        destination.check_alive()


@tap.case('a destination without room is refused, the source runs on')
def no_room() -> None:
    """Before the first page is sent: there is nobody to send it to."""
    with host() as here:
        source_ledger = here.ledger('ledger-a', 512 * MIB)
        source = here.guest(source_ledger, 'vm', 512 * MIB).start()
        source.keep(32)
        full = here.ledger('ledger-b', 256 * MIB)
        destination = here.guest(full, 'vm', 512 * MIB, extra=INCOMING)
        tap.note(refused(destination))
        tap.equal(full.status().reserved, 0, 'left behind in the ledger')
        source.check_kept()
        source.check_alive()
        tap.equal(source_ledger.claimed('vm'), 512 * MIB)


@tap.case("the source's capacity returns when it ends")
def source_returns() -> None:
    """After a migration the old host can sell the memory again."""
    with host() as here:
        source, destination = _pair(here, 512 * MIB)
        source.migrate_to(destination)
        source.vm.qmp('quit')
        source.vm.wait(60)
        wait_until(lambda: here.ledgers[0].status().reserved == 0, 'the capacity')
        destination.check_alive()


if __name__ == '__main__':
    tap.main()
