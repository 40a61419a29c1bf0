# SPDX-License-Identifier: GPL-2.0-or-later
"""numa.inflate, numa.inflate_4k, numa.on_target: the guest driver in guest/linux.

Two Linux guests of two CPUs under TCG: the kernel's driver on QEMU's device, ours on Ballast's.  Each gives 512 MiB
and gets them back, in turn, as often as there are rounds; the clock runs from the command until the device's
`actual` is there.  Before each round the guest writes and deletes nearly all that is free, so that what it gives is
memory that the host really has to free, wherever in the guest the two drivers look for it; for the little that it
did not write, and the guest's kernel clears, the machine has pages at hand (warm.py).  The fragmented guest has locked
every second page of 1.3 GiB, so that hardly anything but single pages is free.  Ours is asked by balloon-node, with
exact.

On target are pages that the host counts in the guest node that they were asked of, of all pages asked for, while the
nodes have them: one request with exact, one without, in a guest of two unlike nodes.  The reference is what the
kernel's driver gives of those nodes, which cannot be asked.
"""

import time
from contextlib import ExitStack
from typing import Callable, Dict, List, Sequence

from guest import MIB, STOCK_DEVICE, LinuxGuest, image_missing
from ballast import paths

from report import Absent, Result
from warm import warm

AMOUNT = 512 * MIB
MEMORY = 1536 * MIB
SMP = ('-smp', '2')
ASKED_EVERY_S = 0.004           # asking takes processor time, which the guest's second processor needs
FRAGMENT_MIB = 1300             # half of it stays; the rest is AMOUNT and some
TOUCHED_MIB = {'whole': 1200, 'fragmented': 640}     # nearly all that is free; more, and the guest is out of memory


def _timed(guest: LinuxGuest, target: int, command: Callable[[], object]) -> float:
    """Milliseconds until the balloon is there; QEMU has been asked something before, and is awake."""
    guest.actual()
    begun = time.monotonic()
    command()
    while guest.actual() != target:
        time.sleep(ASKED_EVERY_S)
        if time.monotonic() - begun > 300:
            raise RuntimeError(f'{guest.name} is at {guest.actual() // MIB} MiB, not at {target // MIB}')
    return (time.monotonic() - begun) * 1000


def _inflate(guest: LinuxGuest, ours: bool) -> float:
    """Milliseconds for AMOUNT."""
    target = MEMORY - AMOUNT
    if not ours:
        return _timed(guest, target, lambda: guest.set_balloon(target))
    return _timed(guest, target, lambda: guest.vm.qmp(
        'balloon-node', {'host-node': 0, 'bytes': AMOUNT, 'exact': True}))


def _guests(stack: ExitStack) -> List[LinuxGuest]:
    guests = [LinuxGuest('stock', MEMORY, device=STOCK_DEVICE, extra=SMP),
              LinuxGuest('ours', MEMORY, plugin={}, driver='ballast', extra=SMP)]
    return [stack.enter_context(guest).start() for guest in guests]


def _compare(rounds: int, prepare: Callable[[LinuxGuest], None], fresh: Callable[[LinuxGuest], None]) -> Result:
    """Both kinds of guest, in turn; the time to give it back as a note."""
    result = Result('ms')
    back: List[List[float]] = [[], []]
    with ExitStack() as stack:
        guests = _guests(stack)
        for guest in guests:
            prepare(guest)
        for _ in range(rounds):
            for guest, samples, ours in zip(guests, (result.theirs, result.ours), (False, True)):
                fresh(guest)
                warm()
                samples.append(_inflate(guest, ours))
                back[ours].append(_timed(guest, MEMORY, lambda guest=guest: guest.set_balloon(MEMORY)))
        for guest in guests:
            guest.check_alive()
    result.extra['deflating, ms'] = {'ours': sorted(back[1])[rounds // 2], 'stock': sorted(back[0])[rounds // 2]}
    return result


def _whole(rounds: int) -> Result:
    return _compare(rounds, lambda guest: None, lambda guest: guest.churn(TOUCHED_MIB['whole']))


def _fragmented(rounds: int) -> Result:
    def prepare(guest: LinuxGuest) -> None:
        guest.run(f'echo 0 >/proc/sys/vm/compact_unevictable_allowed && fragment {FRAGMENT_MIB}', 300)

    def fresh(guest: LinuxGuest) -> None:
        guest.churn(TOUCHED_MIB['fragmented'])
        locked = int(guest.run("sed -n 's/^Mlocked: *\\([0-9]*\\) kB/\\1/p' /proc/meminfo"))
        if locked < FRAGMENT_MIB // 2 << 10:
            raise RuntimeError(f'{guest.name}: only {locked} kB are locked, so that it is not fragmented')
    return _compare(rounds, prepare, fresh)


def _of_nodes(guest: LinuxGuest, field: str) -> List[int]:
    """Bytes in the balloon by guest node: as the host counts ('ballooned'), or as the driver says ('said')."""
    return [int(vnode[field]) for vnode in guest.vm.qmp('query-balloon-node')['vnodes']]


def _overlap(some: Sequence[int], others: Sequence[int]) -> int:
    return sum(min(pair) for pair in zip(some, others))


def _on_target(rounds: int) -> Result:
    """The driver says it did as told, node by node: the host has it from there."""
    result = Result('%')
    half = MEMORY // 2
    numa: List[str] = []
    for node, size in enumerate((half - 128 * MIB, half + 128 * MIB)):
        numa += ['-object', f'memory-backend-ram,id=m{node},size={size}', '-numa', f'node,nodeid={node},memdev=m{node}']
    with ExitStack() as stack:
        ours, stock = [stack.enter_context(LinuxGuest(driver, MEMORY, plugin={}, driver=driver, extra=numa)).start()
                       for driver in ('ballast', 'stock')]
        for _ in range(rounds):
            for exact in (True, False):
                ours.vm.qmp('balloon-node', {'host-node': 0, 'bytes': AMOUNT // 2, 'exact': exact})
                done = ours.vm.wait_event('BALLOON_NODE_DONE', 120)['data']
                if done['status'] != 'reached':
                    raise RuntimeError(f'balloon-node: {done}')
            asked = _of_nodes(ours, 'said')
            stock.balloon(MEMORY - AMOUNT)
            result.ours.append(100 * _overlap(_of_nodes(ours, 'ballooned'), asked) / AMOUNT)
            result.theirs.append(100 * _overlap(_of_nodes(stock, 'ballooned'), asked) / AMOUNT)
            for guest in (ours, stock):
                guest.balloon(MEMORY)
                guest.check_alive()
    return result


MEASURES: Dict[str, Callable[[int], Result]] = {
    'numa.inflate': _whole, 'numa.inflate_4k': _fragmented, 'numa.on_target': _on_target,
}


def measure(keys: Sequence[str], rounds: int) -> Dict[str, Result]:
    """The keys asked for."""
    missing = image_missing()
    if missing:
        raise Absent(missing)
    if not paths.PLUGIN.exists():
        raise Absent(f'the plug-in ({paths.PLUGIN})')
    return {key: MEASURES[key](rounds) for key in keys}
