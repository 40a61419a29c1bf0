#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Where a Linux guest's memory is, by query-memory-placement."""

from typing import Any, Dict

from fixture import host
from guest import MIB, LinuxGuest
from ballast import tap


def _placement(guest: LinuxGuest) -> Dict[str, Any]:
    return dict(guest.vm.qmp('query-memory-placement'))


def _present(placement: Dict[str, Any]) -> int:
    return sum(node['bytes'] for vnode in placement['vnodes'] for node in vnode['nodes'])


@tap.case('every byte of a guest is on a node, absent or unknown')
def adds_up() -> None:
    """And what the guest writes moves from absent to a node."""
    with host() as here:
        ledger = here.ledger('ledger', 512 * MIB)
        guest = here.guest(ledger, 'vm', 512 * MIB).start()
        before = _placement(guest)
        guest.keep(128)
        after = _placement(guest)
        for placement in (before, after):
            _adds_up(placement)
        tap.note(f'{_present(before) // MIB} then {_present(after) // MIB} MiB present')
        assert _present(after) > _present(before) + 64 * MIB
        guest.check_alive()


def _adds_up(placement: Dict[str, Any]) -> None:
    tap.equal(sum(vnode['size'] for vnode in placement['vnodes']), 512 * MIB, 'guest memory')
    for part in placement['backends'] + placement['vnodes']:
        total = sum(n['bytes'] for n in part['nodes']) + part['absent'] + part['unknown']
        assert abs(total - part['size']) <= MIB, f'{part} adds up to {total}'
    pnodes = {pnode['node'] for pnode in placement['pnodes']}
    for vnode in placement['vnodes']:
        assert set(vnode['pnodes']) <= pnodes, placement


@tap.case('ballooned memory is absent')
def ballooned() -> None:
    """What the balloon took is on no node."""
    with host() as here:
        ledger = here.ledger('ledger', 512 * MIB)
        guest = here.guest(ledger, 'vm', 512 * MIB).start()
        guest.churn(300)
        before = _present(_placement(guest))
        guest.balloon(192 * MIB)
        after = _present(_placement(guest))
        tap.note(f'{before // MIB} then {after // MIB} MiB present')
        assert after < before - 64 * MIB
        guest.check_alive()


if __name__ == '__main__':
    tap.main()
