# SPDX-License-Identifier: GPL-2.0-or-later
"""Where things are.  Everything can be told through the environment.

BALLAST_BUILD  our build directory                    (default: build in the repository)
QEMU           the QEMU under test                    (default: qemu-system-x86_64 in PATH)
BALLAST_STOCK  a QEMU without Ballast, for controls   (default: $QEMU; series: qemu-system-x86_64 in PATH)
BALLAST_OTHER  a QEMU of another version with Ballast inside, and
BALLAST_OTHER_STOCK  the same without                 (default: none; what needs them is skipped)
QEMU_SRC       QEMU's source, for its Python library  (default: $BALLAST_BUILD/deps/qemu-src)
BALLAST_FLAVOUR  plugin: load ballast-qemu.so (default); series: $QEMU has Ballast inside
BALLAST_GUEST  kernel and initramfs of Linux guests   (default: $BALLAST_BUILD/deps/guest)
"""

import os
import sys
from pathlib import Path

REPO = Path(__file__).resolve().parents[3]
BUILD = Path(os.environ.get('BALLAST_BUILD', REPO / 'build')).resolve()
QEMU = os.environ.get('QEMU', 'qemu-system-x86_64')
QEMU_SRC = Path(os.environ.get('QEMU_SRC', BUILD / 'deps' / 'qemu-src'))
GUEST = Path(os.environ.get('BALLAST_GUEST', BUILD / 'deps' / 'guest'))

FLAVOUR = os.environ.get('BALLAST_FLAVOUR', 'plugin')

OTHER = os.environ.get('BALLAST_OTHER', '')
OTHER_STOCK = os.environ.get('BALLAST_OTHER_STOCK', '')
STOCK = os.environ.get('BALLAST_STOCK', 'qemu-system-x86_64' if FLAVOUR == 'series' else QEMU)

PLUGIN = BUILD / 'ballast-qemu.so'
CLI = BUILD / 'ballast'
FIRMWARE = BUILD / 'tests' / 'firmware' / 'mailbox.bin'
KVM_LOG_MODE = BUILD / 'tests' / 'firmware' / 'kvm_log_mode.so'


def has_ballast() -> bool:
    """There is a QEMU with Ballast to test."""
    return FLAVOUR == 'series' or PLUGIN.exists()


def use_qemu_library() -> None:
    """Make `import qemu.machine` find the library in QEMU's source."""
    library = QEMU_SRC / 'python'
    if not (library / 'qemu' / 'machine').is_dir():
        raise ImportError(f"QEMU's Python library is not in {library}: set QEMU_SRC")
    if str(library) not in sys.path:
        sys.path.append(str(library))
