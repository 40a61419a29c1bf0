#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Guests live through migrations with hints under TCG; stock QEMU loses about one in four of the first kind.

A few of each kind, and with BALLAST_FULL a hundred, on a busy machine.  `--device hints` runs them on stock
QEMU: that is how to see the test fail.
"""

import os
from typing import Sequence

from fixture import need_guests
from ballast import paths, tap
from lab.cell import Settings
from lab.plan import mode_of
from lab.survival import KINDS, Chain, Hop, Kind, Survey, busy_machine, side_by_side

FULL = bool(os.environ.get('BALLAST_FULL'))

tap.add_option('--migrations', type=int, default=100, help='of each kind, with BALLAST_FULL (default: 100)')
tap.add_option('--device', choices=('hints', 'ballast'), default='ballast', help='stock with hints, or Ballast')


def _judge(done: Sequence[Hop], count: int) -> None:
    bad = [hop for hop in done if hop.status != 'ok']
    tap.note(f'{len(done) - len(bad)} of {len(done)} alive')
    for hop in bad:
        tap.note(f'{hop.kind}, hop {hop.hop}: {hop.status}: {hop.reason}')
    tap.equal((len(done), len(bad)), (count, 0), 'migrations, and those that a guest did not survive')


def few(kinds: Sequence[Kind], hops: int) -> None:
    """Two guests at a time: that makes a machine with two processors busy."""
    need_guests()
    settings = Settings(qemu=paths.QEMU, stock_qemu=paths.QEMU)
    mode = mode_of(tap.options.device)
    _judge(side_by_side([Chain(kind, mode, settings) for kind in kinds], hops), len(kinds) * hops)


def many(kind: Kind) -> None:
    """Every one is alive, without an oops, with its files."""
    need_guests()
    settings = Settings(qemu=paths.QEMU, stock_qemu=paths.QEMU)
    with busy_machine():
        done = Survey(kind, mode_of(tap.options.device), settings, tap.options.migrations).run()
    _judge(done, tap.options.migrations)


if FULL:
    for _kind in KINDS:
        tap.add(_kind.title, many, _kind)
else:
    tap.add(f'{KINDS[0].title}, two guests, twice each', few, [KINDS[0]] * 2, 2)
    tap.add(f'{", ".join(_kind.title for _kind in KINDS[1:])}, once each', few, KINDS[1:], 1)

if __name__ == '__main__':
    tap.main()
