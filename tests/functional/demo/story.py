# SPDX-License-Identifier: GPL-2.0-or-later
"""The demo's story: six steps, each checked, on two ledgers that stand for two hosts."""

from __future__ import annotations

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Callable, Dict, List, NamedTuple, Sequence, Tuple

from guest import GIB, MIB, PAGE, LinuxGuest
from hostledger import HostLedger, Status
from ballast.vm import wait_until

from .chart import Marker, size_text
from .sampler import Sampler
from .screen import Screen

CAPACITY_A = 2 * GIB
CAPACITY_B = 1536 * MIB
VM1, VM2, VM3 = 768 * MIB, GIB, 512 * MIB
VM1_SMALL = 448 * MIB
KEEP, CHURN = 32, 256     # MiB of files that stay, and that are deleted again
USED = 32                 # MiB of files in the guest that is killed
WATCHERS = 4              # who look at a dying guest
# As for vhost-user: memory that the process shares outlives the process's other files.
SHARED = ("-object", f"memory-backend-memfd,id=ram,size={VM3 // MIB}M",
          "-machine", "memory-backend=ram")
HALF = 512 * 1024         # rounding to what a person reads

Numbers = Dict[str, Any]


class Failure(Exception):
    """A step did not do what it says."""


class Step(NamedTuple):
    """A part of the story."""

    title: str
    why: str
    run: Callable[[], Numbers]


def check(condition: object, what: str) -> None:
    """The step's claim must be true."""
    if not condition:
        raise Failure(what)


def mib(count: int) -> str:
    """Bytes in whole MiB."""
    return f"{(count + HALF) // MIB:,} MiB"


class Story:
    """Two hosts, three guests, six steps."""

    def __init__(self, screen: Screen, directory: Path, stack: ExitStack) -> None:
        self.screen = screen
        self.host_a = HostLedger.create(directory / "host-a.ledger", CAPACITY_A)
        self.host_b = HostLedger.create(directory / "host-b.ledger", CAPACITY_B)
        self.sampler = Sampler([("Host A", self.host_a), ("Host B", self.host_b)])
        self.markers: List[Marker] = []
        self.guests: Dict[str, LinuxGuest] = {}
        self.launched: List[LinuxGuest] = []
        self.writing: Dict[str, Callable[[], None]] = {}
        self._stack = stack
        stack.callback(self.sampler.stop)

    # -- helpers ----------------------------------------------------------

    def mark(self, text: str) -> None:
        """A numbered line in the picture, for the step that runs."""
        self.markers.append(Marker(self.sampler.now(), text))

    def guest(self, ledger: HostLedger, name: str, memory: int,
              extra: Sequence[str] = ()) -> LinuxGuest:
        """A guest whose memory is claimed from that ledger; not launched."""
        plugin = {"ledger": ledger.path, "claim": "auto", "name": name}
        guest = LinuxGuest(name, memory, plugin=plugin, extra=extra)
        self.launched.append(guest)
        return self._stack.enter_context(guest)

    def boot(self, ledger: HostLedger, name: str, memory: int,
             extra: Sequence[str] = ()) -> float:
        """Launch a guest and wait for its shell; seconds."""
        return self.launch(ledger, name, memory, extra)()

    def launch(self, ledger: HostLedger, name: str, memory: int,
               extra: Sequence[str] = ()) -> Callable[[], float]:
        """Launch a guest; what is returned waits for its shell, and returns the seconds."""
        begun = time.monotonic()
        self.guests[name] = self.guest(ledger, name, memory, extra)
        self.guests[name].vm.launch()

        def wait() -> float:
            self.guests[name].wait_boot()
            return time.monotonic() - begun
        return wait

    def write(self, name: str, keep: int, churn: int = 0) -> None:
        """A guest begins to write files, while the story goes on."""
        deletes = f" and deletes {churn} MiB" if churn else ""
        self.mark(f"{name} writes {keep + churn} MiB{deletes}")
        self.writing[name] = self.guests[name].begin_files(keep, churn)
        self.screen.result(f"{name} runs on: from now on it writes {keep + churn} MiB of "
                           f"files{deletes}")

    def wait_claim(self, ledger: HostLedger, name: str, most: int) -> Status:
        """Wait until a guest's claim has fallen to that."""
        wait_until(lambda: ledger.claimed(name) <= most, f"the claim of {name} to fall")
        return self.sampler.watch(ledger)

    def steps(self) -> List[Step]:
        """The story."""
        return [
            Step("Two guests claim their memory", (
                "Each QEMU claims its guest's memory from the host's ledger before it "
                "allocates a page, so two launches cannot both count on the same memory."),
                self.two_guests),
            Step("A third guest does not fit, and is told so at once", (
                "Without a ledger it would start, and something would be killed later, "
                "when the memory is really used."), self.third_refused),
            Step("A guest is ballooned down: its claim follows, the third fits", (
                "The claim falls by what the guest really gave back. From then on the "
                "memory is promised to the next guest and cannot be taken back unasked."),
                self.balloon_down),
            Step("Live migration with free page hints", (
                "Deleted files are not sent. A hint counts only if writes were tracked "
                "before it was asked for: no page that is used again is lost."),
                self.migrate),
            Step("Where the memory really is", (
                "Not the policy, but the pages: bytes per host NUMA node, sampled "
                "without populating a page."), self.placement),
            Step("A guest is killed: its capacity comes back", (
                "Nothing runs in a killed process. The ledger sees the death itself and "
                "gives the capacity out again when the memory is really free."),
                self.kill),
        ]

    # -- the steps --------------------------------------------------------

    def two_guests(self) -> Numbers:
        """vm1 and vm2 on host A."""
        self.mark(f"vm1 ({size_text(VM1)}) and vm2 ({size_text(VM2)}) claim, then boot")
        numbers: Numbers = {"capacity": CAPACITY_A}
        waits = [(name, memory, self.launch(self.host_a, name, memory))
                 for name, memory in (("vm1", VM1), ("vm2", VM2))]
        for name, memory, wait in waits:
            seconds = wait()
            claimed = self.host_a.claimed(name)
            check(claimed == memory, f"{name} claims {claimed} bytes, not {memory}")
            numbers[name] = {"claimed": claimed, "boot_seconds": round(seconds, 2)}
            self.screen.result(f"{name}: {mib(claimed)} claimed, at its shell "
                               f"after {seconds:.1f} s")
        self.show_status()
        return numbers

    def show_status(self) -> None:
        """The ledger's own table, and its identity."""
        status = self.host_a.status()
        total = status.free + status.freeable + status.owned
        check(total == status.capacity, "free + freeable + owned is not the capacity")
        self.screen.table(self.host_a.table())

    def third_refused(self) -> Numbers:
        """vm3 must not start."""
        self.mark(f"vm3 ({size_text(VM3)}) is refused")
        guest = self.guest(self.host_a, "vm3", VM3)
        status, words, milliseconds = guest.launch_refused()
        check("vm1" in words and "vm2" in words, f"the refusal names no holder: {words}")
        self.screen.result(f"QEMU ended after {milliseconds:.0f} ms with status {status}, "
                           "having allocated nothing. Its words:")
        self.screen.quote(words)
        self.guests["vm1"].check_alive()
        self.guests["vm2"].check_alive()
        self.write("vm2", KEEP, CHURN)
        return {"milliseconds": round(milliseconds, 1), "exit_status": status, "words": words}

    def balloon_down(self) -> Numbers:
        """vm1 shrinks, vm3 fits."""
        self.mark(f"vm1 is ballooned down to {size_text(VM1_SMALL)}; then vm3 fits")
        before = self.host_a.claimed("vm1")
        begun = time.monotonic()
        self.guests["vm1"].balloon(VM1_SMALL)
        seconds = time.monotonic() - begun
        after = self.wait_claim(self.host_a, "vm1", VM1_SMALL + 8 * MIB).holders["vm1"].claimed
        self.screen.result(f"QMP balloon took {seconds:.1f} s; the claim of vm1 fell from "
                           f"{mib(before)} to {mib(after)}")
        boot = self.boot(self.host_a, "vm3", VM3, SHARED)
        status = self.host_a.status()
        check(status.reserved <= status.capacity, "more promised than there is")
        self.screen.result(f"vm3: {mib(VM3)} claimed, at its shell after {boot:.1f} s; "
                           f"{mib(status.free)} left on host A")
        self.guests["vm1"].check_alive()
        self.write("vm3", USED)
        return {"claim_before": before, "claim_after": after,
                "balloon_seconds": round(seconds, 2), "vm3_boot_seconds": round(boot, 2),
                "free": status.free}

    def migrate(self) -> Numbers:
        """vm2 from host A to host B."""
        source = self.guests["vm2"]
        self.writing.pop("vm2")()
        self.screen.result(f"vm2 wrote {CHURN + KEEP} MiB of files and deleted {CHURN} MiB; "
                           f"{len(source.kept)} files with known checksums remain")
        target = self.guest(self.host_b, "vm2", VM2, ("-incoming", "defer"))
        target.vm.launch()
        claimed = self.host_b.claimed("vm2")
        check(claimed == VM2, "the destination has not claimed before the first page")
        self.screen.result(f"host B: {mib(claimed)} claimed before the first page is sent")
        self.mark("vm2 is live-migrated to host B")
        info = source.migrate_to(target)
        numbers = self.migration_numbers(source, info)
        self.guests["vm2"] = target
        source.vm.qmp("quit")
        source.vm.wait(60)
        self.host_a.wait_gone("vm2")
        self.screen.result(f"the old QEMU ended: {mib(self.host_a.status().free)} can be claimed "
                           "on host A")
        numbers["files"] = target.check_kept()
        target.check_alive()
        self.screen.result(f"all {numbers['files']} checksums are right on host B, and the "
                           "guest runs without an oops")
        return numbers

    def migration_numbers(self, source: LinuxGuest, info: Dict[str, Any]) -> Numbers:
        """What the hints did."""
        hints = source.vm.qmp("query-free-page-hints")
        verdicts = hints["migration"]
        sent = info["ram"]["normal"]
        saved = verdicts["applied-bytes"] // PAGE
        check(verdicts["applied"] > 0, "no hint was applied")
        check(not verdicts["unarmed"] and not verdicts["malformed"],
              f"hints without arming or malformed: {verdicts}")
        self.screen.result(f"migrated in {info['total-time'] / 1000:.1f} s, down for "
                           f"{info['downtime']} ms: {sent:,} pages sent, {saved:,} pages "
                           f"({mib(saved * PAGE)}) left out because of hints")
        self.screen.result(
            "hints: " + ", ".join(f"{verdicts[key]} {key}" for key in
                                  ("applied", "late", "unarmed", "malformed", "foreign"))
            + f"; {hints['armings']} generations armed in {hints['arm-time-ns'] / 1e6:.1f} ms")
        return {"total_ms": info["total-time"], "downtime_ms": info["downtime"],
                "pages_sent": sent, "zero_pages_sent": info["ram"]["duplicate"],
                "pages_saved": saved, "hints": hints}

    def placement(self) -> Numbers:
        """query-memory-placement of every guest."""
        self.mark("Placement of each guest's memory")
        numbers: Numbers = {}
        rows = []
        for name, guest in sorted(self.guests.items()):
            answer = guest.vm.qmp("query-memory-placement")
            numbers[name] = answer
            for vnode in answer["vnodes"]:
                rows.append(self.placement_row(name, vnode))
            cost = answer["elapsed-us"] / 1000
            parts = answer["backends"]
            error = max(part["error-bytes"] for part in parts)
            self.screen.result(f"{name}: {sum(p['samples'] for p in parts):,} pages looked at "
                               f"in {cost:.1f} ms, ±{mib(error)} at 95 %")
        self.screen.table("\n".join(["guest  guest node  size       where", *rows]))
        return numbers

    @staticmethod
    def placement_row(name: str, vnode: Dict[str, Any]) -> str:
        """A guest node as a line of the table, after checking that it adds up."""
        total = sum(n["bytes"] for n in vnode["nodes"]) + vnode["absent"] + vnode["unknown"]
        check(abs(total - vnode["size"]) <= MIB, f"the placement of {name} does not add up")
        where = [f"host node {n['node']}: {mib(n['bytes'])}" for n in vnode["nodes"]]
        where.append(f"absent: {mib(vnode['absent'])}")
        if vnode["unknown"]:
            where.append(f"unknown: {mib(vnode['unknown'])}")
        return f"{name:<6} {vnode['node']:<11} {mib(vnode['size']):<10} {', '.join(where)}"

    def kill(self) -> Numbers:
        """SIGKILL for vm3."""
        self.writing.pop("vm3")()
        self.mark(f"vm3, {USED} MiB in use, is killed with SIGKILL")
        before = self.host_a.status()
        held = before.holders["vm3"].reserved
        pid = self.guests["vm3"].vm.get_pid()
        check(pid, "vm3 has no process")
        begun = time.monotonic()
        os.kill(pid or 0, signal.SIGKILL)
        seen = self.watch_death("vm3", begun)
        after = self.host_a.status()
        check(after.free >= before.free + held, "not all of it came back")
        self.guests.pop("vm3").close()
        states = ", ".join(f"{state} after {ms:.0f} ms" for state, ms in seen.items())
        self.screen.result(f"vm3 held {mib(held)}: {states}; {mib(after.free)} can be "
                           "claimed again")
        for guest in self.guests.values():
            guest.check_alive()
        self.screen.result("the other guests run on")
        self.show_status()
        return {"held": held, "available_before": before.free,
                "available_after": after.free,
                "states_ms": {state: round(ms, 1) for state, ms in seen.items()}}

    def watch_death(self, name: str, begun: float) -> Dict[str, float]:
        """The states of a killed guest and when each was first seen, in ms.

        Several ask in turns: a state may last no longer than one question.
        """
        with ThreadPoolExecutor(WATCHERS) as pool:
            sightings = [sighting for watcher in
                         pool.map(lambda _: self.watch_until_gone(name, begun), range(WATCHERS))
                         for sighting in watcher]
        return {state: min(ms for ms, seen in sightings if seen == state)
                for state in ("dying", "free") if state in {seen for _, seen in sightings}}

    def watch_until_gone(self, name: str, begun: float) -> List[Tuple[float, str]]:
        """One watcher: (ms, state) until the guest holds nothing."""
        sightings: List[Tuple[float, str]] = []

        def gone() -> bool:
            holder = self.sampler.watch(self.host_a).holders.get(name)
            state = "free" if holder is None else "dying" if holder.dying else "running"
            sightings.append(((time.monotonic() - begun) * 1000, state))
            return holder is None
        wait_until(gone, f"the capacity of {name}")
        return sightings
