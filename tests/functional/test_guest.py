#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The guest image and its library, on stock devices: what the other tests stand on."""

from guest import MIB, STOCK_DEVICE, GuestTrouble, LinuxGuest, image_missing
from ballast import tap


def _stock(name: str, *extra: str) -> LinuxGuest:
    missing = image_missing()
    tap.need(not missing, missing)
    return LinuxGuest(name, 512 * MIB, device=STOCK_DEVICE, extra=extra)


@tap.case('a command has its output and status')
def command() -> None:
    """Also after one that tries to leave the loop."""
    with _stock('vm') as guest:
        guest.start()
        tap.equal(guest.run('uname -s'), 'Linux')
        tap.equal(guest.try_run('exit 3').status, 3)
        tap.equal(guest.try_run('echo one; echo two; false'), (1, 'one\ntwo'))
        tap.equal(guest.run(':'), '')
        guest.check_alive()


@tap.case('a damaged file and an oops are noticed')
def noticed() -> None:
    """The checks that later tests rely on can fail."""
    with _stock('vm') as guest:
        guest.start()
        guest.keep(16)
        tap.equal(guest.check_kept(), 2)
        guest.run('echo x | dd of=/data/keep/1 seek=5000 conv=notrunc 2>/dev/null')
        _fails(guest.check_kept)
        guest.run('echo "Oops: this is a test" >/dev/kmsg')
        _fails(guest.check_alive)


def _fails(check: object) -> None:
    try:
        check()     # type: ignore[operator]
    except GuestTrouble as trouble:
        tap.note(str(trouble))
    else:
        raise AssertionError('not noticed')


@tap.case('the balloon shrinks and grows the guest')
def balloon() -> None:
    """The stock device follows QMP."""
    with _stock('vm') as guest:
        guest.start()
        guest.balloon(256 * MIB)
        guest.balloon(512 * MIB)
        guest.check_alive()


@tap.case('a live migration keeps files and the guest alive')
def migration() -> None:
    """Hints are on, nothing of ours is loaded, the machine has one RAM block of interest."""
    with _stock('src') as source, _stock('dst', '-incoming', 'defer') as destination:
        destination.vm.launch()
        source.start()
        source.keep(48)
        source.churn(128)
        info = source.migrate_to(destination)
        tap.note(f"{info['total-time']} ms, {info['ram']['normal']} pages sent")
        destination.check_kept()
        destination.check_alive()


if __name__ == '__main__':
    tap.main()
