# SPDX-License-Identifier: GPL-2.0-or-later
"""Test library of Ballast: virtual machines, a balloon driver in Python, firmware that writes on demand."""
