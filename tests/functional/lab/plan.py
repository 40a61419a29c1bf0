# SPDX-License-Identifier: GPL-2.0-or-later
"""What the lab tries: modes × guests × transports, and which of them a person asked for."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Iterator, List, Mapping, NamedTuple, Sequence, Tuple

from guest import DEVICE, STOCK_DEVICE


class BadRequest(Exception):
    """One line for the person who asked."""


@dataclass(frozen=True)
class Mode:
    """Which QEMU migrates, and whether it asks for hints."""

    key: str
    title: str
    device: str
    ballast: bool = False
    balloon: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Shape:
    """A guest; amounts are shares of its memory."""

    key: str
    title: str
    why: str
    keep: float = 0.0625
    churn: float = 0.0
    balloon_to: float = 0.0
    load: Tuple[str, int, float] = ('turn', 8, 0.0625)      # kind, MiB/s, live memory
    balloon: Mapping[str, object] = field(default_factory=dict)
    memory: str = ''            # '', 'thp', 'small' or 'memfd'
    settle: bool = False        # wait until QEMU's memory no longer shrinks


@dataclass(frozen=True)
class Transport:
    """How the bytes get to the other side."""

    key: str
    title: str
    why: str
    capabilities: Mapping[str, bool] = field(default_factory=dict)
    parameters: Mapping[str, int] = field(default_factory=dict)
    limited: bool = False       # to the bandwidth that was asked for
    file: bool = False


RATE = -1       # in a load: the rate that was asked for

MODES = (
    Mode('plain', 'stock, no hints', STOCK_DEVICE, balloon={'free-page-hint': 'off'}),
    Mode('hints', 'stock, hints', STOCK_DEVICE),
    Mode('ballast', 'Ballast', DEVICE, ballast=True),
)

SHAPES = (
    Shape('fresh', 'fresh', 'booted a moment ago; most of its memory was never touched'),
    Shape('half', 'half used', 'half of its memory holds files that stay', keep=0.5),
    Shape('freed', 'used, then freed', 'most of its memory was written once and is free again', churn=0.65),
    Shape('ballooned', 'ballooned', 'the same, then ballooned to three eighths', churn=0.65, balloon_to=0.375),
    Shape('reporting', 'reporting', 'the same with free-page-reporting=on: the host has freed memory back',
          churn=0.65, balloon={'free-page-reporting': 'on'}, settle=True),
    Shape('dirtying', 'dirtying', 'the same, and an eighth of its memory is written over at the set rate',
          churn=0.65, load=('over', RATE, 0.125)),
    Shape('pressure', 'under pressure', 'files fill and leave half of its memory without a pause, so its '
          'driver has to give hinted pages back', keep=0.125, churn=0.25, load=('press', 0, 0.5)),
    Shape('thp', 'huge pages', 'half used, in transparent huge pages of the host', keep=0.5, memory='thp'),
    Shape('memfd', 'memfd', 'fresh, in a shared memfd: reading a page of it allocates the page',
          memory='memfd'),
    Shape('small', 'small pages', 'used, then freed, without transparent huge pages', churn=0.65,
          memory='small'),
)
EXTRA_SHAPES = ('small',)       # only when asked for

TRANSPORTS = (
    Transport('plain', 'socket', 'one Unix socket, bandwidth unlimited'),
    Transport('multifd', 'multifd', 'two channels beside the main one', {'multifd': True},
              {'multifd-channels': 2}),
    Transport('file', 'mapped-ram file', 'into a file with a place for each page, loaded when it is complete',
              {'mapped-ram': True}, file=True),
    Transport('limit', 'limited socket', 'one Unix socket at the set bandwidth', limited=True),
)


class Cell(NamedTuple):
    """One migration."""

    round: int
    shape: Shape
    transport: Transport
    mode: Mode

    @property
    def key(self) -> Tuple[int, str, str, str]:
        """What names it in the results."""
        return self.round, self.shape.key, self.transport.key, self.mode.key

    @property
    def name(self) -> str:
        """For people."""
        return f'{self.shape.title}, {self.transport.title}, {self.mode.title}'


@dataclass
class Wanted:
    """The filters; empty means everything (or, when quick, what quick takes)."""

    modes: Sequence[str] = ()
    guests: Sequence[str] = ()
    transports: Sequence[str] = ()
    only: Sequence[str] = ()
    quick: bool = False


def named(what: str, given: Sequence[str], known: Sequence[str]) -> List[str]:
    """Names with commas or repeated, all of them known."""
    names = [name for part in given for name in part.split(',')]
    for name in names:
        if name not in known:
            raise BadRequest(f'{what} {name!r}: allowed are {", ".join(known)}')
    return names


def _keys(table: Sequence[Mode] | Sequence[Shape] | Sequence[Transport]) -> List[str]:
    return [entry.key for entry in table]


def parse_only(text: str) -> Tuple[str, str, str]:
    """GUEST[/TRANSPORT[/MODE]], each a name or *."""
    parts = text.split('/')
    if len(parts) > 3:
        raise BadRequest(f'--only {text!r}: GUEST[/TRANSPORT[/MODE]] is allowed, like freed/multifd/ballast')
    full = parts + ['*'] * (3 - len(parts))
    for what, name, table in zip(('guest', 'transport', 'mode'), full,
                                 (_keys(SHAPES), _keys(TRANSPORTS), _keys(MODES))):
        if name != '*':
            named(f'--only {text!r}: {what}', [name], table)
    return full[0], full[1], full[2]


def _matches(patterns: Sequence[Tuple[str, str, str]], cell: Cell) -> bool:
    return not patterns or any(all(want in ('*', have) for want, have in zip(pattern, cell.key[1:]))
                               for pattern in patterns)


def quick_takes(shape: Shape, transport: Transport) -> bool:
    """Every guest over a socket, and one of them over the rest: all that fits into five minutes."""
    return transport.key == 'plain' or shape.key == 'freed'


def _defaults(wanted: Wanted, patterns: Sequence[Tuple[str, str, str]]) -> List[str]:
    asked = {pattern[0] for pattern in patterns}
    return [shape.key for shape in SHAPES if shape.key not in EXTRA_SHAPES or shape.key in asked]


def cells(wanted: Wanted, rounds: int) -> List[Cell]:
    """The plan; the modes of a guest take turns, so that what the machine does meanwhile hits all."""
    patterns = [parse_only(text) for text in wanted.only]
    modes = named('--mode', wanted.modes, _keys(MODES)) or _keys(MODES)
    guests = named('--guest', wanted.guests, _keys(SHAPES)) or _defaults(wanted, patterns)
    transports = named('--transport', wanted.transports, _keys(TRANSPORTS)) or _keys(TRANSPORTS)
    quick = wanted.quick and not (wanted.transports or patterns)
    chosen = [cell for cell in _product(rounds) if cell.mode.key in modes and cell.shape.key in guests
              and cell.transport.key in transports and _matches(patterns, cell)
              and (not quick or quick_takes(cell.shape, cell.transport))]
    if not chosen:
        raise BadRequest('these filters leave no cell')
    return chosen


def _product(rounds: int) -> Iterator[Cell]:
    for number in range(1, rounds + 1):
        for transport in TRANSPORTS:
            for place, shape in enumerate(SHAPES):
                first = (number + place) % len(MODES)      # nobody is always the first
                for mode in MODES[first:] + MODES[:first]:
                    yield Cell(number, shape, transport, mode)


def groups(plan: Sequence[Cell]) -> List[List[Cell]]:
    """Cells that differ in mode only: their guests are prepared together."""
    found: List[List[Cell]] = []
    for cell in plan:
        if found and found[-1][0].key[:3] == cell.key[:3]:
            found[-1].append(cell)
        else:
            found.append([cell])
    return found


def shape_of(key: str) -> Shape:
    """By name."""
    return next(shape for shape in SHAPES if shape.key == key)


def mode_of(key: str) -> Mode:
    """By name."""
    return next(mode for mode in MODES if mode.key == key)


def transport_of(key: str) -> Transport:
    """By name."""
    return next(transport for transport in TRANSPORTS if transport.key == key)
