#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Guests live through migrations with hints under TCG; stock QEMU loses about one in four of the first kind.

A few of each kind, and with BALLAST_FULL a hundred, on a busy machine.  `--device hints` runs them on stock
QEMU: that is how to see the test fail.
"""

import os
from contextlib import nullcontext

from fixture import need_guests
from ballast import paths, tap
from lab.cell import Settings
from lab.plan import mode_of
from lab.survival import KINDS, Kind, Survey, busy_machine

FULL = bool(os.environ.get('BALLAST_FULL'))
FEW = {'two-nodes': (4, 2)}     # migrations, of which so many with one guest

tap.add_option('--migrations', type=int, default=0, help='of each kind (default: a few; 100 with BALLAST_FULL)')
tap.add_option('--device', choices=('hints', 'ballast'), default='ballast', help='stock with hints, or Ballast')


def lives(kind: Kind) -> None:
    """Every one is alive, without an oops, with its files."""
    need_guests()
    count, hops = (100, 5) if FULL else FEW.get(kind.key, (1, 1))
    count = tap.options.migrations or count
    settings = Settings(qemu=paths.QEMU, stock_qemu=paths.QEMU)
    with busy_machine() if FULL else nullcontext():
        done = Survey(kind, mode_of(tap.options.device), settings, count, hops).run()
    bad = [hop for hop in done if hop.status != 'ok']
    tap.note(f'{len(done) - len(bad)} of {len(done)} alive')
    for hop in bad:
        tap.note(f'hop {hop.hop}: {hop.status}: {hop.reason}')
    tap.equal((len(done), len(bad)), (count, 0), 'migrations, and those that a guest did not survive')


for _kind in KINDS:
    tap.add(_kind.title, lives, _kind)

if __name__ == '__main__':
    tap.main()
