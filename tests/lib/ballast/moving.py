# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest that works its memory and its balloon while it is migrated, and a model of what must arrive.

The test's own writes (rings, a device's data) do not stop with the vCPU: what it may have written after the
VM was stopped is `torn`, and not compared.

The model knows of every page of the guest's arena whether it is used, free or in the balloon, and which
free pages were hinted (their content is anybody's).  After a migration all of the guest's memory must be
the same on both sides, except for pages that were hinted and not used again.
"""

import random
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Callable, Dict, Iterator, List, Optional, Set, Tuple

from . import host, mailbox, tap, virtio
from .vm import VM, differences, start_migration, wait_migration, wait_until

MIB = 1 << 20
PAGE = virtio.PAGE
BULK, BULK_BYTES = 16 * MIB, 4 * MIB        # written each round, so that migrations do not end by themselves
FEATURES = virtio.HINT | virtio.REPORTING | virtio.STATS
SLOW, FAST = 16 * MIB, 1 << 40
RUN = 48                                    # pages of one action, at most


@dataclass(frozen=True)
class Layout:
    """A machine's memory: arguments, bytes, and the ranges that the guest plays with."""

    args: Tuple[str, ...]
    size: int
    arena: Tuple[Tuple[int, int], ...]


def _blocks(kind: str, *sizes: int) -> Tuple[str, ...]:
    args: List[str] = []
    for node, size in enumerate(sizes):
        args += ['-object', f'{kind},id=m{node},size={size}M', '-numa', f'node,nodeid={node},memdev=m{node}']
    return ('-m', f'{sum(sizes)}M', *args)


ONE = Layout(('-m', '128M'), 128 * MIB, ((64 * MIB, 80 * MIB),))
# the second block is the smaller one: with the other order QEMU aborts under TCG (hints.md in docs/design)
TWO = Layout(_blocks('memory-backend-ram', 96, 64), 160 * MIB, ((64 * MIB, 72 * MIB), (120 * MIB, 128 * MIB)))
MEMFD = Layout(_blocks('memory-backend-memfd,share=on', 96, 64), 160 * MIB, TWO.arena)


def args_of(layout: Layout, accel: str, device: str = 'virtio-balloon-ledger-pci') -> List[str]:
    """A machine with the device on PCI."""
    way = mailbox.ACCELS[accel]
    # small chunks of the dirty log: sending one page arms little else
    return [*mailbox.pc()[:-2], *layout.args, *way.args, '-global', 'migration.x-clear-bitmap-shift=6', '-object', 'iothread,id=iot', '-device',
            f'{device},id=balloon0,bus=pci.0,addr=5,free-page-hint=on,free-page-reporting=on,iothread=iot']


class Worker:
    """The guest: its vCPU, its driver, and the model."""

    def __init__(self, vm: VM, layout: Layout, seed: int, busy: bool = True) -> None:
        self.vm, self.layout, self.busy = vm, layout, busy
        self.dice = random.Random(seed)
        self.box = mailbox.boot(vm)
        self.balloon = virtio.Balloon(virtio.find_pci(vm.qtest), FEATURES)
        self.answered = virtio.CMD_ID_DONE
        self.used: Set[int] = set()
        self.ballooned: Set[int] = set()
        self.hinted: Set[int] = set()
        self.torn: Set[int] = set()                 # written from outside when the VM may have been stopped
        self._chosen: List[int] = []
        self.arena = [page for start, end in layout.arena for page in range(start // PAGE, end // PAGE)]
        for start, end in layout.arena:             # all of it has content, so that a stale page shows
            vm.qtest.do(f'memset {start:#x} {end - start:#x} 0x55')

    # -- choosing

    def _run(self, wanted: Callable[[int], bool]) -> List[int]:
        """Adjacent pages that are in the state wanted; [] if chance finds none."""
        for _ in range(50):
            at = self.dice.randrange(len(self.arena))
            pages: List[int] = []
            for page in self.arena[at:at + self.dice.randrange(1, RUN)]:
                if not wanted(page) or pages and page != pages[-1] + 1:
                    break
                pages.append(page)
            if pages:
                self._chosen = list(pages)
                return pages
        return []

    def _free(self, page: int) -> bool:
        return page not in self.used and page not in self.ballooned

    def _value(self) -> int:
        return self.dice.randrange(1, 1 << 32)

    # -- what a guest does; each is a whole action, done on return unless the VM was stopped meanwhile

    def running(self) -> bool:
        """The vCPU runs."""
        return bool(self.vm.qmp('query-status')['status'] == 'running')

    def _done(self, condition: Callable[[], bool]) -> bool:
        return bool(wait_until(lambda: condition() or not self.running(), 'an action of the guest') and condition())

    def _kick(self, name: str, chains: List[List[virtio.Desc]]) -> bool:
        queue = self.balloon.queues[name]
        queue.add_all(chains)
        return self._done(lambda: queue.pending() == 0)

    def use(self, again: bool = False) -> bool:
        """The vCPU writes pages."""
        pages = self._run((lambda page: page in self.used) if again else self._free)
        if not pages:
            return True
        self.used.update(pages)
        self.hinted.difference_update(pages)
        self.box.begin_fill(pages[0] * PAGE, len(pages) * PAGE, self._value())
        return self._done(self.box.acknowledged)

    def release(self) -> bool:
        """The guest frees pages; nobody is told."""
        self.used.difference_update(self._run(lambda page: page in self.used))
        return True

    def inflate(self) -> bool:
        """Pages go into the balloon."""
        pages = self._run(self._free)
        self.ballooned.update(pages)
        self.hinted.difference_update(pages)
        self.dice.shuffle(pages)
        return not pages or self._kick('inflate', [[self.balloon.pfns(pages)]])

    def deflate(self) -> bool:
        """And out of it."""
        pages = self._run(lambda page: page in self.ballooned)
        self.ballooned.difference_update(pages)
        return not pages or self._kick('deflate', [[self.balloon.pfns(pages)]])

    def report(self) -> bool:
        """Free pages are reported."""
        pages = self._run(self._free)
        self.hinted.difference_update(pages)
        return not pages or self._kick('reporting', [[virtio.into(pages[0] * PAGE, len(pages) * PAGE)]])

    def answer(self) -> bool:
        """The driver answers the published id, or says that it has finished."""
        cmd_id = self.balloon.cmd_id
        if cmd_id in (virtio.CMD_ID_STOP, virtio.CMD_ID_DONE):
            return True
        if cmd_id == self.answered:
            cmd_id = virtio.CMD_ID_STOP if self.dice.random() < 0.3 else cmd_id
        self.answered = cmd_id
        return self._kick('hint', [[self.balloon.id_buffer(cmd_id)]])

    def answer_next(self) -> None:
        """The driver waits for the next id, and answers it.

        A round is counted before its id is published: the log is armed in between, without the big lock.
        """
        self.answered = self.balloon.wait_cmd_id(self.answered)
        self.balloon.hint_id(self.answered)

    def hint(self) -> bool:
        """Free pages are hinted, one by one or as a range."""
        pages = self._run(self._free)
        self.hinted.update(pages)
        chains = [[virtio.into(page * PAGE, PAGE)] for page in pages]
        if pages and self.dice.random() < 0.3:
            chains = [[virtio.into(pages[0] * PAGE, len(pages) * PAGE)]]
        return not pages or self._kick('hint', chains)

    def reuse(self, late: bool = False) -> bool:
        """Pages are hinted and at the same time used again; `late`: the device sees the hint after that."""
        pages = self._run(self._free)
        if not pages:
            return True
        self.used.update(pages)
        self.hinted.difference_update(pages)
        hints = [[virtio.into(page * PAGE, PAGE)] for page in pages]
        queue = self.balloon.queues['hint']
        if not late:
            queue.add_all(hints, kick=False)
        self.box.begin_fill(pages[0] * PAGE, len(pages) * PAGE, self._value())
        if late:                                    # an I/O thread that polls needs no kick
            wait_until(self.box.acknowledged, 'the vCPU')
            queue.add_all(hints, kick=False)
        queue.kick()
        return self._done(lambda: self.box.acknowledged() and not queue.pending())

    def dma(self) -> bool:
        """A device writes into pages."""
        pages = self._run(lambda page: page in self.used)
        if pages:
            self.vm.qtest.do(f'memset {pages[0] * PAGE:#x} {len(pages) * PAGE:#x} {self.dice.randrange(1, 256):#x}')
        return True

    def act(self) -> bool:
        """One of them; false if the VM was stopped meanwhile."""
        actions = [self.use, self.use, lambda: self.use(again=True), self.release, self.release, self.inflate,
                   self.deflate, self.report, self.answer, self.hint, self.reuse, self.dma]
        self._chosen = []
        if not self.running():
            return False
        whole = bool(self.dice.choice(actions)()) and self.running()
        if not whole:
            self.torn.update(self._chosen, (mailbox.BASE // PAGE,), range(self.balloon.base // PAGE, BULK // PAGE))
        return whole

    def bulk(self) -> None:
        """Enough dirt for another round, and more of it until the vCPU has something else to do."""
        self.vm.qtest.do(f'memset {BULK:#x} {BULK_BYTES:#x} {self.dice.randrange(1, 256):#x}')
        if self.busy:
            self.box.begin_loop(BULK, BULK_BYTES)
            self._done(self.box.acknowledged)
        if not self.running():
            self.torn.update((mailbox.BASE // PAGE,), range(BULK // PAGE, (BULK + BULK_BYTES) // PAGE))

    def forget(self, drive: bool = True) -> None:
        """The guest was reset: its balloon is empty, and its driver starts anew."""
        self.ballooned.clear()
        self.answered = virtio.CMD_ID_DONE
        self.box = mailbox.Mailbox(self.vm.qtest)
        if drive:
            self.balloon = virtio.Balloon(virtio.Pci(self.vm.qtest, 5), FEATURES)

    # -- the other side

    def moved(self, vm: VM) -> None:
        """The guest is in this VM now, and runs."""
        self.vm = vm
        self.box = mailbox.Mailbox(vm.qtest)
        wait_until(self.box.acknowledged, 'the vCPU to poll')
        self.balloon = self.balloon.on(vm.qtest)

    def deflate_all(self) -> None:
        """Every page out of the balloon."""
        for name in ('deflate', 'inflate'):
            self.balloon.queues[name].wait_idle()
        self.balloon.deflate(sorted(self.ballooned))
        self.ballooned.clear()


class Move:
    """Source and destination hosts, each with a ledger, and migrations between them."""

    def __init__(self, layout: Layout, accel: str, seed: int, device: str = 'virtio-balloon-ledger-pci',
                 plugin: bool = True, env: Optional[Dict[str, object]] = None) -> None:
        self.layout, self.accel, self.device, self.plugin = layout, accel, device, plugin
        self.env = {**mailbox.ACCELS[accel].env, **(env or {})}
        self.here, self.there = host.Ledger('1G'), host.Ledger('1G')
        self.src = self._vm(self.here, 'src')
        self.dst: Optional[VM] = None
        self.vms = [self.src]
        # a vCPU that writes without pause can overflow the dirty ring
        self.worker = Worker(self.src, layout, seed, accel != 'kvm-ring')

    def _vm(self, ledger: host.Ledger, name: str, *extra: str) -> VM:
        options: Optional[Dict[str, object]] = {'ledger': ledger.path, 'name': name} if self.plugin else None
        return VM([*args_of(self.layout, self.accel, self.device), *extra], plugin=options, name=name, env=self.env)

    def new_destination(self) -> VM:
        """A fresh one; it stays paused when the guest has come."""
        if self.dst:
            self.dst.shutdown(hard=True)
        self.dst = self._vm(self.there, 'dst', '-incoming', 'defer', '-S')
        self.vms.append(self.dst)
        self.dst.launch()
        return self.dst

    def limit(self, bandwidth: int, threshold: int = PAGE - 1) -> None:
        """Bytes per second, and how little must be left for the end."""
        self.src.qmp('migrate-set-parameters', {'max-bandwidth': bandwidth, 'downtime-limit': 1000,
                                                'avail-switchover-bandwidth': threshold})

    def begin(self, capabilities: Optional[Dict[str, bool]] = None, bandwidth: int = SLOW) -> None:
        """Migrate, slowly; it ends when let()."""
        wait_until(lambda: self.src.migration().get('status') in (None, 'cancelled', 'failed', 'completed'), 'its turn')
        dst = self.new_destination()
        self.worker.torn.clear()
        self.limit(bandwidth)
        start_migration(self.src, dst, capabilities)

    def hold(self, rounds: int, working: bool = False) -> None:
        """Come to this round, and stay there; on a machine so busy that it ends before, try again."""
        for _ in range(5):
            while self.active() and self.rounds() < rounds:
                self.worker.bulk()
                if working:
                    self.worker.act()
            self.worker.bulk()
            self.limit(1000)
            if self.active() and self.worker.running():
                return
            wait_migration(self.src)
            self.src.qmp('cont')
            wait_until(self.worker.box.acknowledged, 'the vCPU')
            self.begin()
        raise AssertionError('the migration is over')

    def go_on(self) -> None:
        """After hold()."""
        self.worker.bulk()
        self.limit(SLOW)

    def active(self) -> bool:
        """The migration goes on."""
        return self.src.migration().get('status') in ('setup', 'active', 'device', 'pre-switchover')

    def rounds(self) -> int:
        """Harvests so far."""
        return int(self.src.migration().get('ram', {}).get('dirty-sync-count', 0))

    def work(self, rounds: int, most: int = 2000) -> int:
        """Actions of the guest until so many harvests were seen; how many."""
        done = 0
        while done < most and self.active() and self.rounds() < rounds:
            self.worker.bulk()
            self.worker.act()
            done += 1
        return done

    def let(self, working: bool = True) -> Dict[str, Any]:
        """Let it finish, with the guest at work until it is stopped."""
        assert self.dst
        self.limit(FAST, 0)
        self.src.qmp('migrate-set-parameters', {'downtime-limit': 30000})
        while working and self.active() and self.worker.running():
            self.worker.act()
        return wait_migration(self.src, self.dst)

    def cancel(self) -> None:
        """And wait for it."""
        self.src.qmp('migrate_cancel')
        wait_until(lambda: self.src.migration()['status'] in ('cancelled', 'completed'), 'the cancellation')

    # -- what must hold

    def compare(self) -> None:
        """Memory is the same on both sides."""
        wrong = self.wrong()
        assert not wrong, f'{len(wrong)} pages differ, the first at {wrong[0] * PAGE:#x}'

    def wrong(self) -> List[int]:
        """Pages that must be the same on both sides, and differ."""
        assert self.dst
        anything = self.worker.hinted | self.worker.torn
        wrong = [addr // PAGE for addr in differences(self.src, self.dst, 0, self.layout.size, PAGE)
                 if addr // PAGE not in anything]
        kinds = {'used': self.worker.used, 'ballooned': self.worker.ballooned}
        for name, pages in kinds.items():
            tap.note(f'{name}: {len(pages)} pages, {len(pages.intersection(wrong))} of them differ')
        return wrong

    def check(self) -> None:
        """Memory, claim, balloon; then the guest goes on at the destination."""
        assert self.dst
        if self.plugin and 'ledger' in self.device:
            claims = [sum(line['claimed'] for line in vm.qmp('query-memory-ledger')['claims'])
                      for vm in (self.src, self.dst)]
            tap.equal(claims[1], claims[0], "the destination's claim")
        tap.equal(self.dst.qmp('query-balloon'), self.src.qmp('query-balloon'), 'the balloon')
        self.compare()
        self.dst.qmp('cont')
        self.worker.moved(self.dst)
        if self.worker.torn:
            self.worker.forget()
        self.worker.deflate_all()
        if self.plugin and 'ledger' in self.device:
            wait_until(lambda: self.there.claimed('dst') == self.layout.size, 'the whole claim')
        for _ in range(10):
            assert self.worker.act()

    def close(self) -> None:
        """End everything."""
        for vm in self.vms:
            vm.shutdown(hard=True)
        for ledger in (self.here, self.there):
            ledger.__exit__(None, None, None)


@contextmanager
def moving(layout: Layout = ONE, accel: str = '', seed: int = 1, **options: Any) -> Iterator[Move]:
    """A guest at work; accel '' is KVM where there is one, else TCG."""
    host.need_device()
    accel = accel or ('tcg' if mailbox.ACCELS['kvm'].missing() else 'kvm')
    tap.need(not mailbox.ACCELS[accel].missing(), mailbox.ACCELS[accel].missing())
    move = Move(layout, accel, seed, **options)
    try:
        yield move
    except BaseException as error:
        for vm in move.vms:
            if vm.exitcode() is not None:
                error.add_note(f'{vm._name} ended: {vm.exitcode()}: {vm.log()[-2000:]}')
        raise
    finally:
        move.close()
