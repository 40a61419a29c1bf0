# SPDX-License-Identifier: GPL-2.0-or-later
"""KVM in a guest of ours, which is a host itself: TCG has AMD's virtualization, and a guest in it is
translated once, not twice."""

import subprocess
from pathlib import Path

from . import paths

MODULES = ('irqbypass.ko', 'kvm.ko', 'kvm-amd.ko')      # in this order
DEVICE = Path('/dev/kvm')


def load() -> bool:
    """As root, in the guest: whether there is KVM now."""
    folder = paths.GUEST / 'kvm'
    for name in MODULES:
        if DEVICE.exists() or not (folder / name).exists():
            break
        subprocess.run(['insmod', folder / name], check=False, capture_output=True)
    return DEVICE.exists()
