# SPDX-License-Identifier: GPL-2.0-or-later
"""Tests that run on a host with at least four NUMA nodes: see docs/numa-host.md."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / 'lib'))
