#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The firmware itself: every command, under every accelerator, on both machines."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / 'lib'))

# pylint: disable=wrong-import-position
from ballast import mailbox, paths, tap          # noqa: E402
from ballast.vm import VM, migrate               # noqa: E402

PAGE = 32 << 20


def machine(accel: str, *args: str, memory: str = '64M', pc: bool = False) -> VM:
    """A VM with the firmware and no device."""
    kind = mailbox.ACCELS[accel]
    tap.need(not kind.missing(), kind.missing())
    tap.need(paths.FIRMWARE.exists(), f'the firmware ({paths.FIRMWARE})')
    base = mailbox.pc(memory) if pc else mailbox.microvm(memory)
    return VM([*base, *kind.args, *args], env=kind.env)


def commands(accel: str, pc: bool) -> None:
    """Each command does what it says."""
    with machine(accel, pc=pc) as vm:
        box = mailbox.boot(vm)
        box.write(PAGE, 0x12345678)
        tap.equal(vm.qtest.readl(PAGE), 0x12345678)
        tap.equal(box.read(PAGE), 0x12345678)
        box.fill(PAGE, 8192, 0xa5a5a5a5)
        tap.equal(vm.qtest.read(PAGE - 4, 8200), bytes(4) + b'\xa5' * 8192 + bytes(4))
        tap.equal(box.count_different(PAGE - 4, 8200, 0xa5a5a5a5), 2)
        box.stamp(PAGE, 8192, 0xc3c3c3c3)
        tap.equal(vm.qtest.read(PAGE - 4, 12296),
                  bytes(4) + 2 * (b'\xc3' * 4 + b'\xa5' * 4092) + bytes(4100))
        box.start_loop(PAGE, 16384, PAGE + (1 << 20))
        box.wait_full_lap()
        box.stop()
        assert all(vm.qtest.readl(PAGE + page) != 0xa5a5a5a5 for page in range(0, 8192, 4096))
        laps = box.laps()
        tap.equal(vm.qtest.readl(PAGE + (1 << 20)), laps, 'writes to the extra page')
        box.write(PAGE, 1)
        tap.equal(box.laps(), laps, 'laps after stop()')


def high_page(accel: str) -> None:
    """A page at 2.5 GiB, and a migration that takes it along with the running vCPU."""
    page = 0xa0000000
    with machine(accel, memory='3G') as src, machine(accel, '-incoming', 'defer', memory='3G') as dst:
        dst.launch()
        mailbox.boot(src).write(page, 42)
        info = migrate(src, dst, parameters={'max-bandwidth': 1 << 40})
        tap.equal(info['status'], 'completed')
        box = mailbox.Mailbox(dst.qtest)
        tap.equal(box.read(page), 42)
        box.write(page, 43)
        tap.equal(dst.qtest.readl(page), 43)


for _accel in mailbox.ACCELS:
    for _pc in (False, True):
        tap.add(f"commands {_accel} {'pc' if _pc else 'microvm'}", commands, _accel, _pc)
    tap.add(f'page at 2.5 GiB {_accel}', high_page, _accel)

if __name__ == '__main__':
    tap.main()
