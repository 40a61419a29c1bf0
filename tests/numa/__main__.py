# SPDX-License-Identifier: GPL-2.0-or-later
"""python3 -m numa [-l] [-k PATTERN]: all of them, TAP."""

from . import ballooning, claims, guests, placement         # noqa: F401  # their cases

# pylint: disable=wrong-import-order
from ballast import tap                         # noqa: E402

assert claims and guests and placement and ballooning
tap.main()
