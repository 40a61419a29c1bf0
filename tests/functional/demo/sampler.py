# SPDX-License-Identifier: GPL-2.0-or-later
"""Ledgers over time: a thread that asks each for its status five times a second."""

from __future__ import annotations

import bisect
import threading
import time
from typing import Dict, List, Sequence, Tuple

from hostledger import HostLedger, Status

from .chart import Panel, Sample, Share

INTERVAL = 0.2


def sample_of(seconds: float, status: Status) -> Sample:
    """A status as the picture takes it."""
    return Sample(seconds, {
        holder.name: Share(holder.claimed, holder.resident, holder.freeable, holder.dying)
        for holder in status.holders.values()})


class Sampler:
    """Keeps the samples of several ledgers on one clock."""

    def __init__(self, ledgers: Sequence[Tuple[str, HostLedger]]) -> None:
        self.started = time.monotonic()
        self.panels = [Panel(title, ledger.status().capacity) for title, ledger in ledgers]
        self.errors: List[str] = []
        self._ledgers = [ledger for _, ledger in ledgers]
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop, daemon=True)
        self._thread.start()

    def now(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self.started

    def watch(self, ledger: HostLedger) -> Status:
        """Ask one ledger now; the answer becomes a sample too.  From any thread."""
        seconds = self.now()
        status = ledger.status()
        panel = self.panels[self._ledgers.index(ledger)]
        with self._lock:
            bisect.insort(panel.samples, sample_of(seconds, status),
                          key=lambda sample: sample.seconds)
        return status

    def _loop(self) -> None:
        while not self._stop.is_set():
            for ledger in self._ledgers:
                try:
                    self.watch(ledger)
                except Exception as error:  # pylint: disable=broad-except
                    self.errors.append(str(error))
            self._stop.wait(INTERVAL)

    def stop(self) -> None:
        """No more samples."""
        self._stop.set()
        self._thread.join(30)

    def report(self) -> List[Dict[str, object]]:
        """All samples, for the JSON report."""
        return [{"ledger": panel.title, "capacity": panel.capacity,
                 "samples": [_sample_report(sample) for sample in panel.samples]}
                for panel in self.panels]


def _sample_report(sample: Sample) -> Dict[str, object]:
    return {"seconds": round(sample.seconds, 3),
            "guests": {name: {"claimed": share.claimed, "resident": share.resident,
                              "freeable": share.freeable, "dying": share.dying}
                       for name, share in sample.shares.items()}}
