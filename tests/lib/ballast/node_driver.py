# SPDX-License-Identifier: GPL-2.0-or-later
"""A driver that does node ballooning as docs/spec/balloon-nodes.md says, in blocks of 2 MiB.

    driver = NodeDriver(balloon, {0: range(0x1000, 0x4000, 512), 1: range(0x4000, 0x7000, 512)})
    driver.obey()
"""

from typing import Dict, Iterable, List, Mapping

from .virtio import NO_TARGET, Balloon

BLOCK, ORDER = 512, 9       # pages, order


class NodeDriver:
    """What it has to give, per guest node; where each block is."""

    def __init__(self, balloon: Balloon, free: Mapping[int, Iterable[int]]) -> None:
        self.balloon = balloon
        self.free: Dict[int, List[int]] = {node: list(blocks) for node, blocks in free.items()}
        self.inside: Dict[int, List[int]] = {node: [] for node in free}
        self.seen: List[int] = []       # seq of the sets it has answered

    def pages(self, node: int) -> int:
        """In the balloon."""
        return len(self.inside[node]) * BLOCK

    def total(self) -> int:
        """All nodes."""
        return sum(self.pages(node) for node in self.inside)

    def _move(self, queue: str, node: int, pages: int) -> int:
        source, sink = ((self.free, self.inside) if queue == 'inflate' else (self.inside, self.free))
        blocks = [source[node].pop() for _ in range(min(pages // BLOCK, len(source[node])))]
        for start in range(0, len(blocks), 128):
            self.balloon.send_blocks(queue, [(block, ORDER) for block in blocks[start:start + 128]])
        sink[node] += blocks
        return len(blocks) * BLOCK

    def _rest(self, wanted: int, nodes: Iterable[int]) -> None:
        for node in nodes:
            self._move('inflate', node, max(0, wanted - self.total()))
            self._move('deflate', node, max(0, self.total() - wanted))

    def work(self) -> int:
        """Do what the present set of targets says; returns its number.  Nothing is told to the device."""
        told = self.balloon.nodes()
        targets = {node: self.balloon.node_target(node) for node in self.inside}
        exact = {node for node in targets if told['exact_mask'] & 1 << node}
        wanted = self.balloon.target
        for node, target in targets.items():
            if target != NO_TARGET:
                self._move('deflate', node, max(0, self.pages(node) - target))
        for node, target in targets.items():
            if target != NO_TARGET:
                self._move('inflate', node, max(0, target - self.pages(node)))
                if node in exact:
                    wanted -= max(0, target - self.pages(node))
        self._rest(wanted, [node for node in targets if targets[node] == NO_TARGET])
        if self.total() < wanted:
            self._rest(wanted, [node for node in targets if node not in exact])
        return told['seq']

    def tell(self, seq: int) -> None:
        """Write what is in the balloon, and that this was all for a set of targets."""
        self.balloon.set_actual(self.total())
        for node in self.inside:
            self.balloon.set_node_actual(node, self.pages(node))
        self.seen.append(seq)
        self.balloon.set_done(seq, 0 if self.total() == self.balloon.target else 1)

    def obey(self) -> None:
        """Until nothing new is asked for."""
        while not self.seen or self.seen[-1] != self.balloon.nodes()['seq']:
            self.tell(self.work())
