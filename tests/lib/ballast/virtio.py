# SPDX-License-Identifier: GPL-2.0-or-later
"""A virtio-balloon driver in Python, over a qtest socket: as correct or as hostile as a test wants.

    balloon = Balloon(find_mmio(vm.qtest), features=HINT)
    balloon.inflate([0x2000, 0x2001])
    balloon.hints.add([out(addr, 4)], kick=False)

Modern transports only (virtio-mmio version 2, virtio-pci 1.0), split rings, no interrupts.
"""

import struct
from dataclasses import dataclass
from typing import Dict, Iterable, List, Optional, Sequence, Tuple

from .vm import Qtest, wait_until

BLOCK_ID, BALLOON_ID, MEM_ID = 2, 5, 24
PAGE = 4096

MUST_TELL_HOST = 1 << 0
STATS = 1 << 1
DEFLATE_ON_OOM = 1 << 2
HINT = 1 << 3
PAGE_POISON = 1 << 4
REPORTING = 1 << 5
VERSION_1 = 1 << 32
NODES = 1 << 50
UNPLUGGED_INACCESSIBLE = 1 << 1     # virtio-mem

NO_TARGET = 0xffffffff

CMD_ID_STOP, CMD_ID_DONE = 0, 1

_ACKNOWLEDGE, _DRIVER, _DRIVER_OK, _FEATURES_OK, _NEEDS_RESET = 1, 2, 4, 8, 64
_F_NEXT, _F_WRITE = 1, 2


# -- transports -----------------------------------------------------------

class Transport:
    """What a driver needs of a bus; registers are accessed at their natural size."""

    def __init__(self, qtest: Qtest) -> None:
        self.qtest = qtest

    def get_features(self) -> int:
        """Offered by the device."""
        raise NotImplementedError

    def set_features(self, features: int) -> None:
        """Accepted by the driver."""
        raise NotImplementedError

    def get_status(self) -> int:
        """The device status byte."""
        raise NotImplementedError

    def set_status(self, status: int) -> None:
        """The device status byte; 0 resets."""
        raise NotImplementedError

    def queue_max(self, index: int) -> int:
        """Largest size of a queue, 0 when there is none."""
        raise NotImplementedError

    def set_queue(self, index: int, size: int, rings: Tuple[int, int, int]) -> None:
        """Enable a queue: addresses of descriptor table, available ring, used ring."""
        raise NotImplementedError

    def notify_command(self, index: int) -> str:
        """The qtest command that kicks a queue."""
        raise NotImplementedError

    @property
    def config(self) -> int:
        """Address of the device configuration."""
        raise NotImplementedError

    def on(self, qtest: Qtest) -> 'Transport':
        """The same device in another VM (after a migration)."""
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        other.qtest = qtest
        return other


class Mmio(Transport):
    """virtio-mmio."""

    def __init__(self, qtest: Qtest, base: int) -> None:
        super().__init__(qtest)
        self.base = base

    def _halves(self, select: int, register: int, value: Optional[int] = None) -> int:
        result = 0
        for half in (0, 1):
            self.qtest.writel(self.base + select, half)
            if value is None:
                result |= self.qtest.readl(self.base + register) << 32 * half
            else:
                self.qtest.writel(self.base + register, value >> 32 * half & 0xffffffff)
        return result

    def get_features(self) -> int:
        return self._halves(0x14, 0x10)

    def set_features(self, features: int) -> None:
        self._halves(0x24, 0x20, features)

    def get_status(self) -> int:
        return self.qtest.readl(self.base + 0x70)

    def set_status(self, status: int) -> None:
        self.qtest.writel(self.base + 0x70, status)

    def queue_max(self, index: int) -> int:
        self.qtest.writel(self.base + 0x30, index)
        return self.qtest.readl(self.base + 0x34)

    def set_queue(self, index: int, size: int, rings: Tuple[int, int, int]) -> None:
        registers = [(0x30, index), (0x38, size)]
        for register, addr in zip((0x80, 0x90, 0xa0), rings):
            registers += [(register, addr & 0xffffffff), (register + 4, addr >> 32)]
        registers.append((0x44, 1))
        self.qtest.batch(f'writel {self.base + register:#x} {value:#x}' for register, value in registers)

    def notify_command(self, index: int) -> str:
        return f'writel {self.base + 0x50:#x} {index:#x}'

    @property
    def config(self) -> int:
        return self.base + 0x100


def find_mmio(qtest: Qtest, wanted: int = BALLOON_ID, base: int = 0xfeb00000, slots: int = 24) -> Mmio:
    """The balloon, or the first other device of a kind, among the virtio-mmio transports of a microvm."""
    for slot in range(slots):
        device = Mmio(qtest, base + slot * 512)
        magic, version, kind = (qtest.readl(device.base + offset) for offset in (0, 4, 8))
        if (magic, version, kind) == (0x74726976, 2, wanted):
            return device
    raise LookupError(f'no modern device {wanted} on the virtio-mmio transports')


class Pci(Transport):
    """virtio-pci 1.0 on bus 0; its memory BAR is placed at `where`."""

    _COMMON, _NOTIFY, _DEVICE = 1, 2, 4

    def __init__(self, qtest: Qtest, slot: int, where: int = 0xfe000000) -> None:
        super().__init__(qtest)
        self.slot = slot
        self.where = where
        self._regions: Dict[int, int] = {}
        self._multiplier = 0
        self._notify_offsets: Dict[int, int] = {}
        self._map()

    def _conf_read(self, offset: int) -> int:
        return pci_read(self.qtest, self.slot, offset)

    def _conf_write(self, offset: int, value: int) -> None:
        self.qtest.batch([f'outl 0xcf8 {_pci_address(self.slot, offset):#x}', f'outl 0xcfc {value:#x}'])

    def _byte(self, offset: int) -> int:
        return self._conf_read(offset & ~3) >> 8 * (offset & 3) & 0xff

    def _map(self) -> None:
        bars = set()
        capability = self._byte(0x34)
        while capability:
            if self._byte(capability) == 9:
                bars.add(self._take_capability(capability))
            capability = self._byte(capability + 1)
        (bar,) = bars - {None}      # QEMU has these structures in one BAR
        self._conf_write(0x10 + 4 * bar, self.where)
        self._conf_write(0x14 + 4 * bar, 0)
        self._conf_write(4, 6)      # memory, bus master

    def _take_capability(self, at: int) -> Optional[int]:
        kind = self._byte(at + 3)
        if kind in (self._COMMON, self._NOTIFY, self._DEVICE):
            self._regions[kind] = self.where + self._conf_read(at + 8)
        if kind == self._NOTIFY:
            self._multiplier = self._conf_read(at + 16)
        return self._byte(at + 4) if kind in self._regions else None

    def _read(self, width: str, offset: int) -> int:
        return int(self.qtest.do(f'read{width} {self._regions[self._COMMON] + offset:#x}'), 16)

    def _write(self, width: str, offset: int, value: int) -> None:
        self.qtest.do(f'write{width} {self._regions[self._COMMON] + offset:#x} {value:#x}')

    def get_features(self) -> int:
        result = 0
        for half in (0, 1):
            self._write('l', 0, half)
            result |= self._read('l', 4) << 32 * half
        return result

    def set_features(self, features: int) -> None:
        for half in (0, 1):
            self._write('l', 8, half)
            self._write('l', 12, features >> 32 * half & 0xffffffff)

    def get_status(self) -> int:
        return self._read('b', 20)

    def set_status(self, status: int) -> None:
        self._write('b', 20, status)

    def queue_max(self, index: int) -> int:
        if index >= self._read('w', 18):
            return 0
        self._write('w', 22, index)
        return self._read('w', 24)

    def set_queue(self, index: int, size: int, rings: Tuple[int, int, int]) -> None:
        self._write('w', 22, index)
        self._write('w', 24, size)
        for register, addr in zip((32, 40, 48), rings):
            self._write('l', register, addr & 0xffffffff)
            self._write('l', register + 4, addr >> 32)
        self._notify_offsets[index] = self._read('w', 30) * self._multiplier
        self._write('w', 28, 1)

    def notify_command(self, index: int) -> str:
        return f'writew {self._regions[self._NOTIFY] + self._notify_offsets[index]:#x} {index:#x}'

    @property
    def config(self) -> int:
        return self._regions[self._DEVICE]


def _pci_address(slot: int, offset: int) -> int:
    return 0x80000000 | slot << 11 | offset


def pci_read(qtest: Qtest, slot: int, offset: int) -> int:
    """A dword of PCI configuration space, bus 0."""
    return int(qtest.batch([f'outl 0xcf8 {_pci_address(slot, offset):#x}', 'inl 0xcfc'])[1], 16)


def find_pci(qtest: Qtest, wanted: int = BALLOON_ID) -> Pci:
    """The balloon (modern or transitional), or the first other modern device of a kind, on PCI bus 0."""
    numbers = {0x1040 + wanted} | ({0x1002} if wanted == BALLOON_ID else set())
    for slot in range(32):
        found = pci_read(qtest, slot, 0)
        if found & 0xffff == 0x1af4 and found >> 16 in numbers:
            return Pci(qtest, slot)
    raise LookupError(f'no device {wanted} on PCI bus 0')


# -- queues ---------------------------------------------------------------

@dataclass(frozen=True)
class Desc:
    """A descriptor; flags and next are filled in by Queue.add unless given (for malformed chains)."""

    addr: int
    length: int
    write: bool = False
    flags: Optional[int] = None
    next: Optional[int] = None


def out(addr: int, length: int) -> Desc:
    """A buffer that the device reads."""
    return Desc(addr, length)


def into(addr: int, length: int) -> Desc:
    """A buffer that the device writes (a hint or report names its page so)."""
    return Desc(addr, length, write=True)


class Queue:
    """A split ring; descriptors are used in turn and are free again when the chain was used."""

    def __init__(self, transport: Transport, index: int, base: int, size: int) -> None:
        self.transport = transport
        self.index = index
        self.size = size
        self._desc = base
        self._avail = base + 16 * size
        self._used = (self._avail + 6 + 2 * size + 3) & ~3
        self._next_desc = 0
        self._avail_idx = 0
        self._used_idx = 0

    @property
    def used_flags(self) -> int:
        """Address of the used ring's flags."""
        return self._used

    @property
    def avail_flags(self) -> int:
        """Address of the available ring's flags."""
        return self._avail

    def enable(self) -> None:
        """Give the (empty) ring to the device; interrupts are suppressed."""
        end = self._used + 6 + 8 * self.size
        self.transport.qtest.batch([f'memset {self._desc:#x} {end - self._desc:#x} 0',
                                    _write(self._avail, struct.pack('<H', 1))])
        self.transport.set_queue(self.index, self.size, (self._desc, self._avail, self._used))

    def add(self, chain: Sequence[Desc], kick: bool = True) -> int:
        """Queue one chain; returns its head."""
        return self.add_all([chain], kick)[0]

    def add_all(self, chains: Iterable[Sequence[Desc]], kick: bool = True) -> List[int]:
        """Queue chains; they become visible to the device together."""
        commands: List[str] = []
        heads = []
        for chain in chains:
            heads.append(self._next_desc)
            commands += self._put(chain)
            slot = self._avail + 4 + 2 * (self._avail_idx % self.size)
            commands.append(_write(slot, struct.pack('<H', heads[-1])))
            self._avail_idx = (self._avail_idx + 1) & 0xffff
        commands.append(_write(self._avail + 2, struct.pack('<H', self._avail_idx)))
        if kick:
            commands.append(self.transport.notify_command(self.index))
        self.transport.qtest.batch(commands)
        return heads

    def _put(self, chain: Sequence[Desc]) -> List[str]:
        assert 0 < len(chain) <= self.size
        commands = []
        for number, desc in enumerate(chain):
            here = self._next_desc
            self._next_desc = (here + 1) % self.size
            more = number + 1 < len(chain)
            flags = (_F_NEXT if more else 0) | (_F_WRITE if desc.write else 0)
            data = struct.pack('<QIHH', desc.addr & 0xffffffffffffffff, desc.length,
                               flags if desc.flags is None else desc.flags,
                               self._next_desc if desc.next is None else desc.next)
            commands.append(_write(self._desc + 16 * here, data))
        return commands

    def add_head(self, head: int, kick: bool = True) -> None:
        """Queue a raw head, whatever it names (for malformed rings)."""
        slot = self._avail + 4 + 2 * (self._avail_idx % self.size)
        self._avail_idx = (self._avail_idx + 1) & 0xffff
        commands = [_write(slot, struct.pack('<H', head)),
                    _write(self._avail + 2, struct.pack('<H', self._avail_idx))]
        self.transport.qtest.batch(commands + ([self.transport.notify_command(self.index)] if kick else []))

    def kick(self) -> None:
        """Notify the device."""
        self.transport.qtest.do(self.transport.notify_command(self.index))

    def used_count(self) -> int:
        """Chains that the device returned, modulo 65536."""
        return struct.unpack('<H', self.transport.qtest.read(self._used + 2, 2))[0]

    def pending(self) -> int:
        """Chains that the device has not returned."""
        return (self._avail_idx - self.used_count()) & 0xffff

    def take_used(self) -> List[Tuple[int, int]]:
        """(head, length) of chains returned since the last call."""
        end = self.used_count()
        result = []
        while self._used_idx != end:
            entry = self._used + 4 + 8 * (self._used_idx % self.size)
            result.append(struct.unpack('<II', self.transport.qtest.read(entry, 8)))
            self._used_idx = (self._used_idx + 1) & 0xffff
        return result

    def wait_idle(self, timeout: float = 20) -> None:
        """Until the device has returned everything."""
        wait_until(lambda: self.pending() == 0, f'queue {self.index} to be handled', timeout)


def _write(addr: int, data: bytes) -> str:
    return f'write {addr:#x} {len(data):#x} 0x{data.hex()}'


# -- drivers --------------------------------------------------------------

class Driver:
    """Negotiation, and as many queues as a device has.  Uses guest RAM from `base` on."""

    RING_SPAN = 0x10000

    def __init__(self, transport: Transport, features: int = 0, base: int = 0x100000) -> None:
        self.transport = transport
        self.base = base
        self.offered = 0
        self.features = 0
        self.queues: Dict[str, Queue] = {}
        self.start(features)

    def start(self, features: int) -> None:
        """Reset the device and negotiate; features that are not offered are an error."""
        self.transport.set_status(0)
        self.transport.set_status(_ACKNOWLEDGE | _DRIVER)
        self.offered = self.transport.get_features()
        self.features = features | VERSION_1
        assert not self.features & ~self.offered, f'not offered: {self.features & ~self.offered:#x}'
        self.transport.set_features(self.features)
        self.transport.set_status(_ACKNOWLEDGE | _DRIVER | _FEATURES_OK)
        assert self.transport.get_status() & _FEATURES_OK, 'the device refuses the features'
        self.queues = {}
        self._add_queues()
        self.transport.set_status(_ACKNOWLEDGE | _DRIVER | _FEATURES_OK | _DRIVER_OK)

    def _queue_names(self) -> Dict[int, str]:
        return {0: 'queue'}

    def _add_queues(self) -> None:
        for index, name in self._queue_names().items():
            size = self.transport.queue_max(index)
            assert size, f'no queue {index} ({name})'
            self.queues[name] = Queue(self.transport, index, self.base + index * self.RING_SPAN, size)
            self.queues[name].enable()

    def broken(self) -> bool:
        """The device asked for a reset."""
        return bool(self.transport.get_status() & _NEEDS_RESET)


class MemDevice(Driver):
    """virtio-mem: plugs and unplugs what the host asks for, from the front.  2 KiB of buffers at base + 64 KiB."""

    def _config(self, offset: int) -> int:
        low, high = (self.transport.qtest.readl(self.transport.config + offset + at) for at in (0, 4))
        return low | high << 32

    @property
    def plugged(self) -> int:
        """Bytes."""
        return self._config(40)

    @property
    def requested(self) -> int:
        """Bytes."""
        return self._config(48)

    def obey(self) -> None:
        """Plug or unplug until the size is as requested."""
        block, addr = self._config(0), self._config(16)
        while self.plugged != self.requested:
            grow = self.requested > self.plugged
            at = addr + self.plugged - (0 if grow else block)
            buffer = self.base + self.RING_SPAN
            self.transport.qtest.write(buffer, struct.pack('<H6xQH6x', 0 if grow else 1, at, 1))
            self.queues['queue'].add([out(buffer, 24), into(buffer + 1024, 10)])
            self.queues['queue'].wait_idle()
            (answer,) = struct.unpack('<H', self.transport.qtest.read(buffer + 1024, 2))
            assert answer == 0, f'virtio-mem: answer {answer}'


class Balloon(Driver):
    """The balloon's driver: queues, configuration.  Uses guest RAM in [base, base + 2 MiB)."""

    def __init__(self, transport: Transport, features: int = 0, base: int = 0x100000) -> None:
        self.buffers = base + 0x100000      # 1 MiB for what the device reads
        self._next_buffer = self.buffers
        super().__init__(transport, features, base)

    def _queue_names(self) -> Dict[int, str]:
        # QEMU numbers the queues by what it offers, not by what was accepted
        names = ['inflate', 'deflate', 'stats']
        names += ['hint'] if self.offered & HINT else []
        names += ['reporting'] if self.offered & REPORTING else []
        wanted = {'stats': STATS, 'hint': HINT, 'reporting': REPORTING}
        return {index: name for index, name in enumerate(names)
                if name not in wanted or self.features & wanted[name]}

    def on(self, qtest: Qtest) -> 'Balloon':
        """This driver in the VM that it was migrated to."""
        other = object.__new__(Balloon)
        other.__dict__.update(self.__dict__)
        other.transport = self.transport.on(qtest)
        other.queues = {}
        for name, queue in self.queues.items():
            other.queues[name] = object.__new__(Queue)
            other.queues[name].__dict__.update(queue.__dict__, transport=other.transport)
        return other

    # -- configuration

    def _config(self, offset: int) -> int:
        return self.transport.qtest.readl(self.transport.config + offset)

    @property
    def target(self) -> int:
        """num_pages: how many pages the host wants in the balloon."""
        return self._config(0)

    @property
    def actual(self) -> int:
        """How many pages the driver says are in the balloon."""
        return self._config(4)

    def set_actual(self, pages: int) -> None:
        """Tell the host."""
        self.transport.qtest.writel(self.transport.config + 4, pages)

    def set_poison(self, value: int) -> None:
        """The value that the guest fills free pages with."""
        self.transport.qtest.writel(self.transport.config + 12, value)

    @property
    def cmd_id(self) -> int:
        """free_page_hint_cmd_id."""
        return self._config(8)

    def wait_cmd_id(self, previous: int = CMD_ID_DONE) -> int:
        """Wait for a request, other than `previous`, and return its id."""
        def request() -> int:
            value = self.cmd_id
            return 0 if value in (CMD_ID_STOP, CMD_ID_DONE, previous) else value
        return int(wait_until(request, 'a free page hint request'))

    # -- node ballooning (docs/spec/balloon-nodes.md)

    def nodes(self) -> Dict[str, int]:
        """The fields before the table."""
        names = ('format', 'num_nodes', 'seq', 'exact_mask', 'block_pages', 'done_seq', 'done_status')
        return {name: self._config(16 + 4 * at) for at, name in enumerate(names)}

    def node_target(self, node: int) -> int:
        """Pages of a guest node that the host wants in the balloon, or NO_TARGET."""
        return self._config(44 + 12 * node + 4)

    def set_node_actual(self, node: int, pages: int) -> None:
        """Tell the host how many there are."""
        self.transport.qtest.writel(self.transport.config + 44 + 12 * node + 8, pages)

    def set_done(self, seq: int, status: int = 0) -> None:
        """All was done that can be done for a set of targets: 0 reached, 1 short."""
        self.transport.qtest.writel(self.transport.config + 40, status)
        self.transport.qtest.writel(self.transport.config + 36, seq)

    def send_blocks(self, name: str, blocks: Sequence[Tuple[int, int]], wait: bool = True) -> None:
        """Blocks (first page, order) in one buffer to the inflate or deflate queue; any numbers will do."""
        entries = [(pfn << 12 | order) & 0xffffffffffffffff for pfn, order in blocks]
        self.queues[name].add([self.buffer(struct.pack(f'<{len(entries)}Q', *entries))])
        if wait:
            self.queues[name].wait_idle()

    # -- buffers

    def buffer(self, data: bytes) -> Desc:
        """A buffer with this content for the device to read (buffers are re-used in turn)."""
        if self._next_buffer + len(data) > self.buffers + 0x100000:
            self._next_buffer = self.buffers
        addr = self._next_buffer
        self._next_buffer += (len(data) + 15) & ~15
        self.transport.qtest.write(addr, data)
        return out(addr, len(data))

    def pfns(self, numbers: Sequence[int]) -> Desc:
        """A buffer of page numbers."""
        return self.buffer(struct.pack(f'<{len(numbers)}I', *numbers))

    def id_buffer(self, cmd_id: int) -> Desc:
        """A buffer with a command id."""
        return self.buffer(struct.pack('<I', cmd_id))

    # -- well-behaved use

    def inflate(self, numbers: Sequence[int], wait: bool = True) -> None:
        """Put pages in the balloon, up to 256 a message as Linux does."""
        self._send('inflate', numbers, wait)

    def deflate(self, numbers: Sequence[int], wait: bool = True) -> None:
        """Take pages back; with wait=False the device may hold the buffer."""
        self._send('deflate', numbers, wait)

    def _send(self, name: str, numbers: Sequence[int], wait: bool) -> None:
        queue = self.queues[name]
        for start in range(0, len(numbers), 256):
            queue.add([self.pfns(numbers[start:start + 256])])
            if wait:
                queue.wait_idle()

    def hint_id(self, cmd_id: int, kick: bool = True) -> None:
        """Begin (id of the request) or end (CMD_ID_STOP) a report of free pages."""
        self.queues['hint'].add([self.id_buffer(cmd_id)], kick)

    def hint(self, addr: int, length: int = PAGE, kick: bool = True) -> None:
        """A range is free."""
        self.queues['hint'].add([into(addr, length)], kick)

    def report(self, ranges: Sequence[Tuple[int, int]]) -> None:
        """Ranges are free (free page reporting); returns when the device has seen them."""
        queue = self.queues['reporting']
        queue.add([into(addr, length) for addr, length in ranges])
        queue.wait_idle()
