#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest that drives every queue of the balloon with random and crafted chains while it is migrated.

    test_fuzz.py [--seed N | --random] [--minutes M] [--plain]

The plug-in is built with the address and undefined-behaviour sanitizers and loaded into the distribution's
QEMU; --plain takes the plug-in as it is.  Episode after episode, each with a seed that is printed when
something goes wrong (--seed repeats that one first): a machine, a hostile driver, migrations that are
cancelled, fail, or complete.  Without options the seeds are the same each time; with --random, and with
BALLAST_FULL, they are new ones.  QEMU must not crash, hang, assert, or be caught by a sanitizer, and canary
pages, which the guest writes but never gives away, must arrive.

A guest may break its own device (it wants a reset), its own rings and its own migration: a destination
that refuses the state of inconsistent rings is QEMU's answer to that, and the source goes on.
"""

import contextlib
import functools
import os
import random
import re
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / 'lib'))

# pylint: disable=wrong-import-position
from ballast import host, mailbox, paths, tap, virtio                   # noqa: E402
from ballast.moving import MEMFD, ONE, TWO, Layout                      # noqa: E402
from ballast.virtio import PAGE, Desc                                   # noqa: E402
from ballast.vm import VM, ExecuteError, wait_until                     # noqa: E402

MIB = 1 << 20
FULL = bool(os.environ.get('BALLAST_FULL'))
EPISODE_S = 20.0
RINGS, RING_SPAN = 4 * MIB, 0x20000         # only rings are here, and no chain names them
LISTS, LISTS_BYTES = 16 * MIB, MIB          # what the device may read: page numbers, ids, tables
PLAY, PLAY_BYTES = 32 * MIB, 16 * MIB       # what the guest gives away
CANARY, CANARY_PAGES = 52 * MIB, 256
NOWHERE, ROM, APIC = 0x70000000, 0xffff0000, 0xfee00000
QUEUES = ('inflate', 'deflate', 'stats', 'hint', 'reporting')
SANITIZERS = ('libasan.so', 'libubsan.so')
REPORT = re.compile(r'AddressSanitizer|runtime error:|Assertion|assertion failed')

tap.add_option('--seed', type=int, help='of the first episode (default: 1)')
tap.add_option('--random', action='store_true', default=FULL, help='seeds that nobody knows')
tap.add_option('--minutes', type=float, default=10 if FULL else 1, help='how long (default: 1; 10 with BALLAST_FULL)')
tap.add_option('--plain', action='store_true', help='the plug-in without sanitizers')



@functools.lru_cache(maxsize=None)
def sanitized() -> Tuple[Optional[Path], Dict[str, object]]:
    """The plug-in to load, built if need be, and the environment that it needs."""
    if tap.options.plain:
        return None, {}
    plugin = paths.BUILD / 'ballast-qemu-asan.so'
    done = subprocess.run(['ninja', '-C', paths.BUILD, plugin.name], check=False, capture_output=True, text=True)
    tap.need(done.returncode == 0, f'{plugin.name}: {done.stdout[-500:]}')
    found = [subprocess.run(['gcc', f'-print-file-name={name}'], check=True, capture_output=True,
                            text=True).stdout.strip() for name in SANITIZERS]
    tap.need(all(name.startswith('/') for name in found), 'the sanitizers of gcc')
    # QEMU's coroutines switch stacks behind the sanitizer's back
    return plugin, {'LD_PRELOAD': ':'.join(found), 'UBSAN_OPTIONS': 'print_stacktrace=1',
                    'ASAN_OPTIONS': 'detect_leaks=0:detect_stack_use_after_return=0:abort_on_error=1'}


# -- one machine -----------------------------------------------------------

# pylint: disable=too-many-instance-attributes
class Episode:
    """A machine from its start to its end, all of it decided by the seed (but not by when it is scheduled)."""

    def __init__(self, seed: int, stack: contextlib.ExitStack) -> None:
        self.dice = random.Random(seed)
        self.stack = stack
        self.plugin, self.env = sanitized()
        self.layout: Layout = self.dice.choice([ONE, TWO, MEMFD])
        # not the dirty ring: emulated as on the machine this was written on, it loses writes without any hint
        self.accel = self.dice.choice([name for name in ('kvm', 'tcg') if not mailbox.ACCELS[name].missing()])
        self.ledger = stack.enter_context(host.Ledger('1G'))
        self.options = ','.join(self.dice.choice(values) for values in (
            ['deflate=gate', 'deflate=allow', 'deflate=observe'], ['free-page-reporting=on', 'free-page-reporting=off'],
            ['page-poison=on', 'page-poison=off'], ['event_idx=on', 'event_idx=off'],
            ['indirect_desc=on', 'indirect_desc=off'], ['packed=off', 'packed=off', 'packed=on'],
            ['in_order=off', 'queue_reset=on'], ['iommu_platform=off', 'disable-modern=off']))
        self.vms: List[VM] = []
        self.vm = self._vm()
        self.vm.launch()
        self.box = mailbox.Mailbox(self.vm.qtest)
        self.expected = bytearray(CANARY_PAGES * PAGE)
        self.torn: List[int] = []
        self.pci = virtio.Pci(self.vm.qtest, 5)
        self.dst: Optional[VM] = None
        self.counts: Dict[str, int] = {}
        self.at = 0                                 # next descriptor
        self.history: List[str] = []                # the latest actions
        self.rings: Dict[int, Tuple[int, int, int, int, int]] = {}
        self._prepare()

    def _vm(self, *extra: str) -> VM:
        number = len(self.vms)
        plugin: Dict[str, object] = {'ledger': self.ledger.path, 'name': f'vm{number}'}
        vm = VM([*mailbox.pc()[:-2], *self.layout.args, *mailbox.ACCELS[self.accel].args,
                 '-global', 'migration.x-clear-bitmap-shift=6', '-object', 'iothread,id=iot', '-device',
                 f'virtio-balloon-ledger-pci,id=balloon0,addr=5,free-page-hint=on,iothread=iot,{self.options}', *extra],
                name=f'vm{number}', plugin=plugin, env=self.env)
        if self.plugin:
            # pylint: disable=protected-access
            vm._args = [str(arg).replace(str(paths.PLUGIN), str(self.plugin)) for arg in vm._args]
        self.vms.append(vm)
        self.stack.callback(lambda: vm.shutdown(hard=True))
        return vm

    def _prepare(self) -> None:
        # Nothing the device can read has a small number in it: no list names the mailbox, page 1.
        self.vm.qtest.do(f'memset {LISTS:#x} {LISTS_BYTES:#x} 0xa5')
        self.vm.qtest.do(f'memset {PLAY:#x} {PLAY_BYTES:#x} 0x5a')
        self.vm.qtest.do(f'memset {CANARY:#x} {CANARY_PAGES * PAGE:#x} 0')
        self.start()

    # -- rolling dice

    def one(self, *values: Any) -> Any:
        """Any of them."""
        return self.dice.choice(values)

    def chance(self, probability: float) -> bool:
        """True so often."""
        return self.dice.random() < probability

    def pfn(self) -> int:
        """A page number; never the canary's, never the mailbox'."""
        good = (PLAY + self.dice.randrange(PLAY_BYTES)) // PAGE
        if self.chance(0.9):
            return good
        return int(self.one(0x70000, ROM // PAGE, APIC // PAGE, self.layout.size // PAGE,
                            self.layout.size // PAGE - 1, 0xffffffff, 0x80000000, 0xa0))

    def address(self) -> int:
        """Where a chain's buffer is."""
        if self.chance(0.85):
            page = PLAY + self.dice.randrange(PLAY_BYTES // PAGE) * PAGE
            return page + (0 if self.chance(0.8) else self.dice.randrange(PAGE))
        return int(self.one(NOWHERE, APIC, self.layout.size - PAGE, self.layout.size, 1 << 63, 0xfffffffffffff000,
                            (1 << 52) - 1))

    def length(self) -> int:
        """Of a buffer."""
        if self.chance(0.6):
            return PAGE * int(self.one(1, 1, 2, 16, 512))
        return int(self.one(0, 1, 4, 8, 100, PAGE - 1, PAGE + 4, 65536, MIB, 0x7fffffff, 0xffffffff))

    def buffer(self) -> Desc:
        """Where the device may write.  Past the end of all addresses comes page 0; page 1 is the mailbox."""
        address, length = self.address(), self.length()
        return virtio.into(address, min(length, (1 << 64) + PAGE - address))

    def list(self, data: bytes) -> int:
        """Put it where the device may read it; its address."""
        at = LISTS + self.dice.randrange(LISTS_BYTES - len(data) - 16) // 16 * 16
        self.vm.qtest.write(at, data)
        return at

    # -- chains

    def _readable(self) -> Desc:
        kind = self.dice.randrange(8)
        if kind == 0:
            value = self.balloon_id()       # 1 in another queue would be the mailbox' page number
            return virtio.out(self.list(struct.pack('<I', 0 if value == 1 else value)), self.one(4, 4, 4, 2, 8))
        if kind == 1:
            return virtio.out(self.one(NOWHERE, APIC, 1 << 63, self.layout.size - 64), self.one(4, 64, 128))
        if kind == 2:
            data = b''.join(struct.pack('<HQ', self.dice.randrange(20), self.dice.getrandbits(64) | 1 << 8)
                            for _ in range(self.dice.randrange(1, 20)))
            return virtio.out(self.list(data), len(data) + self.one(0, 0, -1, 3))
        numbers = self._numbers()
        data = struct.pack(f'<{len(numbers)}I', *numbers)
        return virtio.out(self.list(data), max(len(data) + self.one(0, 0, 0, -1, -3), 0))

    def _numbers(self) -> List[int]:
        count = self.one(1, 2, 16, 256, 1024, 16384 + self.one(0, 1))
        if self.chance(0.5):
            first = PLAY // PAGE + self.dice.randrange(PLAY_BYTES // PAGE)
            run = [PLAY // PAGE + (first + at) % (PLAY_BYTES // PAGE) for at in range(count)]
            self.dice.shuffle(run)
            return run
        return [self.pfn() for _ in range(count)]

    def chain(self) -> List[Desc]:
        """Readable descriptors, then writable ones, mostly."""
        descs = [self._readable() for _ in range(self.one(0, 1, 1, 1, 2))]
        descs += [self.buffer() for _ in range(self.one(0, 0, 1, 1, 4, 32))]
        if self.chance(0.05):
            self.dice.shuffle(descs)
        return descs or [self.buffer()]

    def _table(self, descs: List[Desc]) -> bytes:
        parts = []
        for number, desc in enumerate(descs):
            flags = (1 if number + 1 < len(descs) else 0) | (2 if desc.write else 0)
            if self.chance(0.05):
                flags = self.dice.randrange(8)
            following = number + 1 if self.chance(0.95) else self.dice.randrange(70000) & 0xffff
            parts.append(struct.pack('<QIHH', desc.addr & (1 << 64) - 1, desc.length, flags, following))
        return b''.join(parts)

    def put(self, index: int, descs: List[Desc], kick: bool = True) -> None:
        """A chain into a ring of ours, wherever that ring is said to be."""
        size, table, avail, _, idx = self.rings[index]
        if self.chance(0.15):
            data = self._table(descs)
            descs = [Desc(self.list(data), len(data) + self.one(0, 0, 0, 1, 16), flags=self.one(4, 4, 4, 6, 5))]
        commands = []
        head = self.at % size
        for number, desc in enumerate(descs[:size]):
            here, self.at = self.at % size, self.at + 1
            flags = (1 if number + 1 < len(descs) else 0) | (2 if desc.write else 0)
            following = self.at % size
            if self.chance(0.01):
                following = self.one(here, 0, size, 65535)
            if self.chance(0.01):
                flags = self.dice.randrange(1 << 16)
            data = struct.pack('<QIHH', desc.addr & (1 << 64) - 1, desc.length,
                               flags if desc.flags is None else desc.flags, following)
            commands.append(self._write(table + 16 * here, data))
        if self.chance(0.01):
            head = self.dice.randrange(1 << 16)
        commands.append(self._write(avail + 4 + 2 * (idx % size), struct.pack('<H', head)))
        idx = (idx + (1 if self.chance(0.99) else self.dice.randrange(1 << 16))) & 0xffff
        commands.append(self._write(avail + 2, struct.pack('<H', idx)))
        self.rings[index] = (*self.rings[index][:4], idx)
        if kick:
            commands.append(self.pci.notify_command(index))
        self.vm.qtest.batch(commands)

    @staticmethod
    def _write(addr: int, data: bytes) -> str:
        return f'write {addr:#x} {len(data):#x} 0x{data.hex()}'

    # -- what the guest does

    def balloon_id(self) -> int:
        """An id for the hint queue: mostly the published one."""
        if self.chance(0.8):
            return self.vm.qtest.readl(self.pci.config + 8)
        return int(self.one(0, 1, 0x80000000, 0xffffffff, self.dice.getrandbits(32)))

    def start(self) -> None:
        """Reset and negotiate, mostly as it should be."""
        pci, dice = self.pci, self.dice
        pci.set_status(0)
        self.rings.clear()
        if self.chance(0.03):
            return
        pci.set_status(3)
        offered = pci.get_features()
        wanted = offered if self.chance(0.6) else offered & (dice.getrandbits(64) | virtio.VERSION_1)
        pci.set_features(wanted if self.chance(0.97) else dice.getrandbits(64))
        if self.chance(0.97):
            pci.set_status(11)
        for index in range(len(QUEUES)):
            if self.chance(0.97) and pci.queue_max(index):
                self._enable(index)
        if self.chance(0.97):
            pci.set_status(15)

    def _enable(self, index: int) -> None:
        most = self.pci.queue_max(index)
        size = most if self.chance(0.8) else int(self.one(1, 2, 3, most // 2, 64))
        size = max(1, min(size, most))
        base = RINGS + index * RING_SPAN + self.one(0, 0, 0, 16, 0x8000)
        table, avail = base, base + 16 * size
        used = (avail + 6 + 2 * size + 3) & ~3
        self.vm.qtest.do(f'memset {base:#x} {RING_SPAN // 2:#x} 0')
        if self.chance(0.8):
            self.vm.qtest.write(avail, struct.pack('<H', 1))
        said = [table, avail, used]
        if self.chance(0.02):
            said[self.dice.randrange(3)] = self.one(NOWHERE, ROM, APIC, self.layout.size - 16, 1 << 63, base + 1)
        self.pci.set_queue(index, size, (said[0], said[1], said[2]))
        self.rings[index] = (size, table, avail, used, 0)

    def queue_one(self) -> None:
        """Chains on some queue."""
        if self.rings:
            index = self.dice.choice(sorted(self.rings))
            for _ in range(self.one(1, 1, 2, 10)):
                self.put(index, self.chain(), self.chance(0.8))

    def hints(self) -> None:
        """The id, then hints, as a driver does."""
        if 3 not in self.rings:
            return
        self.put(3, [virtio.out(self.list(struct.pack('<I', self.balloon_id())), 4)], self.chance(0.5))
        for _ in range(self.dice.randrange(1, 30)):
            self.put(3, [self.buffer()], kick=False)
        self.vm.qtest.do(self.pci.notify_command(3))

    def canary(self) -> None:
        """The vCPU writes pages that it keeps."""
        page, value = self.dice.randrange(CANARY_PAGES), self.dice.getrandbits(32)
        if self.torn or not self.box.acknowledged():
            return
        self.box.begin_fill(CANARY + page * PAGE, PAGE, value)
        with contextlib.suppress(TimeoutError):
            wait_until(self.box.acknowledged, 'the vCPU', 1)
        if self.box.acknowledged():
            self.expected[page * PAGE:(page + 1) * PAGE] = struct.pack('<I', value) * (PAGE // 4)
        else:
            self.torn.append(page)

    def register(self) -> None:
        """Something odd in the device's registers."""
        # pylint: disable=protected-access
        pci, dice = self.pci, self.dice
        kind = dice.randrange(8)
        if kind == 0:
            pci.set_status(dice.randrange(256))
        elif kind == 1:
            pci.set_features(dice.getrandbits(64))
        elif kind == 2:
            self.vm.qtest.writel(pci.config + self.one(0, 4, 4, 8, 12), dice.getrandbits(32))
        elif kind == 3:
            index = dice.randrange(6)
            pci._write('w', 22, index)
            pci._write('w', 0x3a, 1)                # queue reset
            self.rings.pop(index, None)
        elif kind == 4 and self.rings:
            self._enable(dice.choice(sorted(self.rings)))
        elif kind == 5:
            pci._write(self.one('b', 'w', 'l'), dice.randrange(0, 56, 4), dice.getrandbits(8))
        elif kind == 6:
            self.vm.qtest.do(f'writew {pci._regions[2] + 4 * dice.randrange(8):#x} {dice.randrange(70):#x}')
        else:
            pci._conf_write(4, self.one(6, 2, 6, 7))        # bus mastering on and off
            pci._conf_write(4, 6)

    # -- what the host does

    def manage(self) -> None:
        """A command of the user."""
        kind = self.dice.randrange(9)
        if kind == 0:
            self.vm.qmp('stop')
            self.cont()
            self.history.append('cont')
            if self.vm.migration().get('status') in ('device', 'completed'):
                self.give_up()
        elif kind == 1:
            self.vm.qmp('balloon', value=self.dice.randrange(1, self.layout.size))
        elif kind == 2:
            self.vm.qmp('query-free-page-hints')
            self.vm.qmp('query-memory-ledger')
        elif kind == 3:
            self.vm.qmp('query-memory-placement', samples=64)
        elif kind == 4:
            self.vm.qom_set('/machine/peripheral/balloon0', 'guest-stats-polling-interval', self.one(0, 1, 2))
            self.vm.qom_get('/machine/peripheral/balloon0', 'guest-stats')
        elif kind == 5 and self.chance(0.3):
            self.reset()
        elif kind == 6:
            free = self.ledger.status()['capacity'][-1]['free']
            self.ledger.take('neighbour', str(int(free)))
        elif kind == 7:
            with contextlib.suppress(RuntimeError):
                self.ledger.release('neighbour')
        else:
            self.start()

    def reset(self) -> None:
        """The machine is reset; the driver comes anew."""
        self.vm.drop_events()
        self.vm.qmp('system_reset')
        self.vm.wait_event('RESET')
        self.pci = virtio.Pci(self.vm.qtest, 5)
        self.start()

    def act(self) -> None:
        """One thing."""
        kinds: List[Tuple[int, Callable[[], None]]] = [
            (60, self.queue_one), (12, self.hints), (10, self.canary), (3, self.register), (1, self.start),
            (3, self.manage), (2, self.migrate)]
        action = self.dice.choices([one for _, one in kinds], [weight for weight, _ in kinds])[0]
        self.counts[action.__name__] = self.counts.get(action.__name__, 0) + 1
        self.history = [*self.history[-20:], action.__name__]
        action()
        if self.chance(0.05) and self.pci.get_status() & 64 and self.chance(0.5):
            self.start()

    # -- migrations

    def migrate(self) -> None:
        """Begin one; or cancel it; or see how it stands."""
        status = self.vm.migration().get('status')
        if status in ('setup', 'active', 'cancelling', 'device'):
            if self.chance(0.2):
                self.vm.qmp('migrate_cancel')
            elif self.chance(0.3):
                self.vm.qmp('migrate-set-parameters', {'max-bandwidth': 1 << 40, 'downtime-limit': 30000})
            return
        if status == 'completed' and self.dst:
            self.arrived()
        with contextlib.suppress(ExecuteError):     # a cancelled one is in the way for a moment
            self._begin()

    def _begin(self) -> None:
        self.vm.set_capabilities({'events': True})
        if self.vm.qmp('query-status')['status'] != 'running':
            self.cont()
        self.give_up()
        with contextlib.suppress(RuntimeError):
            self.ledger.release('neighbour')
        self.dst = self._vm('-incoming', 'defer', '-S')
        self.dst.launch()
        uri = 'unix:' + os.path.join(self.dst.temp_dir, 'migrate.sock')
        self.dst.qmp('migrate-incoming', uri=uri)
        self.vm.qmp('migrate-set-parameters', {'max-bandwidth': self.one(MIB, 8 * MIB, 64 * MIB), 'downtime-limit': 300})
        self.vm.qmp('migrate', uri=uri)

    def arrived(self) -> None:
        """The source has sent everything."""
        assert self.dst
        wait_until(lambda: not self.dst.is_running() or self._there() in ('completed', 'failed'),   # type: ignore
                   'the destination', 30)
        if not self.dst.is_running() or self._there() == 'failed':
            self._refused()
            return
        here, there = (self._canaries(vm) for vm in (self.vm, self.dst))
        wrong = [page for page in range(CANARY_PAGES)
                 if here[page * PAGE:(page + 1) * PAGE] != there[page * PAGE:(page + 1) * PAGE]]
        assert not wrong, f'canaries that did not arrive: {[self._words(page, here, there) for page in wrong]}'
        self.counts['arrived'] = self.counts.get('arrived', 0) + 1
        if self.chance(0.5):
            self._go_over()
        else:
            self.give_up()
            self.cont()

    def cont(self) -> None:
        """The guest goes on; not between the last byte of a migration and its end."""
        def done() -> bool:
            try:
                self.vm.qmp('cont')
            except ExecuteError as error:
                assert 'not finalized' in str(error), error
                return False
            return True
        wait_until(done, 'cont', 20)

    def give_up(self) -> None:
        """The guest goes on here: what is there is no longer compared."""
        if self.dst:
            self.dst.shutdown(hard=True)
            self.dst = None

    def _words(self, page: int, here: bytes, there: bytes) -> str:
        at = page * PAGE
        words = [data[at:at + 4].hex() + '…' + data[at + PAGE - 4:at + PAGE].hex()
                 for data in (here, there, bytes(self.expected))]
        return f'{page}: here {words[0]}, there {words[1]}, expected {words[2]}, torn {self.torn}, {self.history}'

    def _there(self) -> str:
        try:
            return str(self.dst.migration().get('status')) if self.dst else ''
        except (OSError, EOFError, ExecuteError):
            return 'failed'
        except Exception as error:  # pylint: disable=broad-except
            # of QEMU's library: which one depends on how far it has come with noticing that QEMU has ended
            if 'disconnect' in str(error).lower():
                return 'failed'
            raise

    def _refused(self) -> None:
        """Rings that make no sense are not taken over there; the guest goes on here."""
        assert self.dst
        said = self.dst.log()
        assert 'load of migration failed' in said, f'the destination ended: {said[-2000:]}'
        self.counts['refused'] = self.counts.get('refused', 0) + 1
        self.give_up()
        self.cont()

    @staticmethod
    def _canaries(vm: VM) -> bytes:
        return b''.join(vm.qtest.read(CANARY + at, 65536) for at in range(0, CANARY_PAGES * PAGE, 65536))

    def _go_over(self) -> None:
        assert self.dst
        self.vm.shutdown(hard=True)
        self.vm, self.dst = self.dst, None
        self.cont()
        self.pci = self.pci.on(self.vm.qtest)       # type: ignore[assignment]
        self.box = mailbox.Mailbox(self.vm.qtest)

    # -- its life

    def run(self, seconds: float) -> None:
        """Act for so long, then see that the device still works."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.act()
            if self.dice.random() < 0.02:
                self.settle()
        self.finish()

    def settle(self) -> None:
        """A VM that is stopped because its migration is complete goes on."""
        if self.vm.migration().get('status') == 'completed' and self.dst:
            self.arrived()

    def finish(self) -> None:
        """The migration ends; after a reset the claim is whole; nothing was written to the canaries."""
        if self.vm.migration().get('status') in ('setup', 'active', 'device'):
            self.vm.qmp('migrate-set-parameters', {'max-bandwidth': 1 << 40, 'downtime-limit': 30000})
        wait_until(lambda: self.vm.migration().get('status') in (None, 'completed', 'failed', 'cancelled'), 'its end')
        self.settle()
        with contextlib.suppress(RuntimeError):
            self.ledger.release('neighbour')
        self.pci.set_status(0)
        if self.vm.qmp('query-status')['status'] != 'running':
            self.cont()
        name = self.vm._name                        # pylint: disable=protected-access
        wait_until(lambda: self.ledger.claimed(name) == self.layout.size, 'the whole claim', 20)
        if not self.torn:
            assert self._canaries(self.vm) == bytes(self.expected), 'canaries changed'
        assert self.vm.alive()

    def trouble(self) -> str:
        """What sanitizers and assertions said, or how a VM ended that should not have."""
        said = []
        for vm in self.vms:
            text, code = vm.log(), vm.exitcode()
            if REPORT.search(text) or code in (-4, -5, -6, -7, -8, -11):
                said.append(f'{vm._name}: exit status {code}: {text[-6000:]}')      # pylint: disable=protected-access
        return '\n'.join(said)


# -- all of them -----------------------------------------------------------

def _seeds() -> Iterator[int]:
    first = 1 if tap.options.seed is None else tap.options.seed
    dice = random.SystemRandom() if tap.options.random else random.Random(first)
    if not tap.options.random:
        yield first
    while True:
        yield dice.randrange(1 << 32)


def _episode(seed: int, seconds: float, total: Dict[str, int]) -> None:
    begun = time.monotonic()
    with contextlib.ExitStack() as stack:
        episode: Optional[Episode] = None
        try:
            episode = Episode(seed, stack)
            episode.run(seconds)
        except Exception as error:
            where = f'{episode.accel}, {episode.options}, {episode.counts}' if episode else 'at the start'
            raise AssertionError(f'--seed {seed}: {where}: {error!r}\n{episode.trouble() if episode else ""}') from error
        trouble = episode.trouble()
        assert not trouble, f'--seed {seed}: {trouble}'
    total['episodes'] = total.get('episodes', 0) + 1
    for name, count in episode.counts.items():
        total[name] = total.get(name, 0) + count
    tap.note(f'seed {seed}: {time.monotonic() - begun:.0f} s, {episode.accel}, {episode.counts}')


@tap.case('whatever a guest does, QEMU lives and its pages arrive')
def fuzz() -> None:
    """As many episodes as there is time for."""
    host.need_device()
    total: Dict[str, int] = {}
    begun, seconds = time.monotonic(), 60 * tap.options.minutes
    for seed in _seeds():
        left = begun + seconds - time.monotonic()
        enough = total.get('queue_one', 0) > 100 and total.get('arrived', 0)
        if left < 3 and (enough or left < -4 * seconds):        # a busy machine is given more time
            break
        _episode(seed, min(EPISODE_S, left) if left > 3 else EPISODE_S, total)
    tap.note(f'in all: {total}')
    assert enough, 'too little to prove anything'


if __name__ == '__main__':
    tap.main()
