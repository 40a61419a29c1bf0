#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Ballooning, reporting, hinting and writing while the guest is migrated: memory, claim and balloon arrive.

Each case ends with the comparison of all guest memory (tests/lib/ballast/moving.py has the model), of both
claims and both balloons, and with the guest going on at the destination.
"""

import os
import sys
from pathlib import Path
from typing import Callable

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / 'lib'))

# pylint: disable=wrong-import-position
from ballast import mailbox, tap                                        # noqa: E402
from ballast.moving import MEMFD, MIB, ONE, PAGE, TWO, Layout, Move, moving  # noqa: E402

SENT = 64 * MIB         # 2 MiB that are sent before anything happens to them
PAGES = list(range(SENT // PAGE, SENT // PAGE + 512))


# -- what is sent and then dropped -----------------------------------------

def _inflate(move: Move) -> None:
    move.worker.balloon.inflate(PAGES)
    move.worker.ballooned.update(PAGES)


def _through(move: Move) -> None:
    _inflate(move)
    move.worker.balloon.deflate(PAGES)
    move.worker.ballooned.clear()


def _report(move: Move) -> None:
    move.worker.balloon.report([(SENT, len(PAGES) * PAGE)])


def _dropped(layout: Layout, accel: str, drop: Callable[[Move], None]) -> None:
    with moving(layout, accel) as move:
        move.begin()
        move.hold(2)                            # everything has been sent once
        drop(move)
        move.let(working=False)
        move.check()


ACCELS = list(mailbox.ACCELS) if os.environ.get('BALLAST_FULL') else ['kvm', 'tcg']
for _accel in ACCELS:
    for _drop, _name in ((_inflate, 'inflated'), (_through, 'inflated and deflated'), (_report, 'reported')):
        tap.add(f'{_accel}, sent, then {_name}', _dropped, TWO if _accel == 'tcg' else ONE, _accel, _drop)
tap.add('memfd, sent, then reported', _dropped, MEMFD, '', _report)


if __name__ == '__main__':
    tap.main()
