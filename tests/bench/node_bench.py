# SPDX-License-Identifier: GPL-2.0-or-later
"""numa.inflate, numa.inflate_4k: how long a Linux guest takes to give 512 MiB of one node.

TCG, one processor; a fresh boot for each.  The guest has used its memory before, so that there is something to
give back on the host.  Ours: our driver on our device, asked by balloon-node with exact=true.  Stock: the
kernel's driver on QEMU's device, asked by balloon.  The clock runs until query-balloon says so, on both sides.

Whole: files of 1 GiB were written and deleted.  Fragmented: a process has every second page of nearly all
memory, and they cannot be moved.

Debian's kernel zeroes what it allocates, so also what it is about to give away, block or page: much of the time
is that.  So all is measured once more with init_on_alloc=0, as an extra figure.
"""

import time
from dataclasses import dataclass, field
from typing import Dict, List, NamedTuple, Sequence

from guest import APPEND, DEVICE, MIB, STOCK_DEVICE, LinuxGuest, image_missing

from report import Absent, Result, median_of

SIZE = 512 * MIB
PAGE = 4096
TIMEOUT = 300.0
PROMPT = 'init_on_alloc=0'
STATE = '/sys/kernel/debug/ballast_balloon/*/nodes'


class Case(NamedTuple):
    """What the guest's memory looks like."""

    memory: int
    prepare: Sequence[str]


CASES = {
    'numa.inflate': Case(2048 * MIB, ['workload churn 1024']),
    'numa.inflate_4k': Case(1536 * MIB, ['echo 0 >/proc/sys/vm/compact_unevictable_allowed', 'fragment 1280']),
}


def _wait(guest: LinuxGuest) -> float:
    begun = time.perf_counter()
    while guest.actual() != guest.memory - SIZE:
        if time.perf_counter() - begun > TIMEOUT:
            raise TimeoutError(f'{guest.name}: {guest.actual() // MIB} MiB after {TIMEOUT:.0f} s')
        time.sleep(0.002)
    return time.perf_counter() - begun


def _prepared(case: Case, guest: LinuxGuest) -> LinuxGuest:
    guest.start()
    for command in case.prepare:
        guest.run(command, TIMEOUT)
    return guest


def _whole_share(guest: LinuxGuest) -> float:
    """Of the pages that our driver holds, those in blocks of 2 MiB or more, in per cent."""
    words = dict(word.split('=') for word in guest.run(f'cat {STATE}').split('\n')[0].split() if '=' in word)
    orders = [int(number) for number in words['blocks'].split(',')]
    pages = [number << order for order, number in enumerate(orders)]
    return 100 * sum(pages[9:]) / sum(pages)


def _ours(case: Case, append: str, whole: List[float]) -> float:
    driver = f'ballast {append}'.strip()
    with LinuxGuest('ours', case.memory, plugin={}, device=DEVICE, driver=driver) as guest:
        _prepared(case, guest)
        guest.vm.qmp('balloon-node', {'host-node': 0, 'bytes': SIZE, 'exact': True})
        took = _wait(guest)
        done = guest.vm.wait_event('BALLOON_NODE_DONE')['data']
        if done['status'] != 'reached':
            raise RuntimeError(f'the request was not reached: {done}')
        whole.append(_whole_share(guest))
    return 1000 * took


def _stock(case: Case, append: str) -> float:
    kernel = ['-append', f'{APPEND} {append}'.strip()]     # the last one counts
    with LinuxGuest('stock', case.memory, device=STOCK_DEVICE, extra=kernel) as guest:
        _prepared(case, guest)
        guest.set_balloon(case.memory - SIZE)
        return 1000 * _wait(guest)


@dataclass
class Samples:
    """Of a key, milliseconds."""

    result: Result = field(default_factory=lambda: Result('ms'))
    prompt: Result = field(default_factory=lambda: Result('ms'))
    whole: List[float] = field(default_factory=list)

    def add(self, case: Case) -> None:
        """A round."""
        for append, result in (('', self.result), (PROMPT, self.prompt)):
            result.ours.append(_ours(case, append, self.whole))
            result.theirs.append(_stock(case, append))

    def finish(self) -> Result:
        """With the extra figures."""
        self.result.extra = {f'with {PROMPT}, ms': self.prompt.value,
                             f'with {PROMPT}, stock, ms': self.prompt.reference,
                             f'with {PROMPT}, ratio': round(self.prompt.ratio, 3),
                             'of it in blocks of 2 MiB or more, per cent': median_of(self.whole)}
        return self.result


def measure(keys: Sequence[str], rounds: int) -> Dict[str, Result]:
    """In turn."""
    missing = image_missing()
    if missing:
        raise Absent(missing)
    samples = {key: Samples() for key in keys}
    for _ in range(rounds):
        for key, sample in samples.items():
            sample.add(CASES[key])
    return {key: sample.finish() for key, sample in samples.items()}
