# SPDX-License-Identifier: GPL-2.0-or-later
"""What a measurement is, and how results are shown."""

import statistics
from dataclasses import dataclass, field
from typing import Any, Callable, Dict, List, Optional, Sequence

Numbers = Sequence[float]


class Absent(Exception):
    """Something that a measurement needs is not here."""


@dataclass(frozen=True)
class Limit:
    """At most so much (or at least), of the value itself or of its ratio to the reference."""

    at_most: float
    of_ratio: bool = True
    at_least: bool = False

    def text(self, unit: str) -> str:
        """For the table."""
        return f"{'≥' if self.at_least else '≤'} {self.at_most:g}" + ('' if self.of_ratio else f' {unit}')


@dataclass
class Result:
    """One key: a sample of ours and one of the reference per round; extra is whatever else is of use."""

    unit: str
    ours: List[float] = field(default_factory=list)
    theirs: List[float] = field(default_factory=list)
    extra: Dict[str, Any] = field(default_factory=dict)

    @property
    def value(self) -> float:
        """Median of ours."""
        return statistics.median(self.ours)

    @property
    def reference(self) -> float:
        """Median of the reference."""
        return statistics.median(self.theirs)

    @property
    def ratio(self) -> float:
        """Of the medians."""
        return self.value / self.reference

    def met(self, limit: Limit) -> bool:
        """Within the limit?"""
        figure = self.ratio if limit.of_ratio else self.value
        return figure >= limit.at_most if limit.at_least else figure <= limit.at_most

    def to_json(self, limit: Limit) -> Dict[str, Any]:
        """The object for --json."""
        return {'value': self.value, 'unit': self.unit, 'reference': self.reference,
                'ratio': self.ratio, 'rounds': len(self.ours),
                'limit': limit.at_most, 'limit-of': 'ratio' if limit.of_ratio else 'value',
                'met': self.met(limit), 'samples': {'value': self.ours, 'reference': self.theirs},
                **({'extra': self.extra} if self.extra else {})}


@dataclass(frozen=True)
class Key:
    """A row of the table; keys of one group are measured together, by measure({keys}, rounds)."""

    name: str
    limit: Limit
    reference: str
    group: str


Measure = Callable[[Sequence[str], int], Dict[str, Result]]


def _row(cells: Sequence[str]) -> str:
    widths = (26, 12, 12, 8, 10, 5)
    return '  '.join([f'{cells[0]:<{widths[0]}}',
                      *(f'{cell:>{width}}' for cell, width in zip(cells[1:], widths[1:])), cells[-1]])


def header() -> str:
    """First line of the table."""
    return _row(('key', 'ours', 'reference', 'ratio', 'limit', 'met', 'reference is'))


def _amount(value: float, unit: str) -> str:
    return f'{value:,.0f} {unit}' if value >= 10 else f'{value:.2f} {unit}'


def row(key: Key, result: Result) -> str:
    """A measured line."""
    return _row((key.name, _amount(result.value, result.unit), _amount(result.reference, result.unit),
                 f'{result.ratio:.2f}' if result.ratio >= 0.005 else f'{result.ratio:.1e}', key.limit.text(result.unit),
                 'yes' if result.met(key.limit) else 'NO', key.reference))


def empty_row(key: Key, why: str) -> str:
    """A line without a measurement."""
    return f'{key.name:<26}  {why}'


def notes(key: Key, result: Result) -> List[str]:
    """The extra figures, a line each; a bare number is the key's own."""
    return [f'    {name}: {_note(value)}' if isinstance(value, dict) else
            f'    {key.name}, {name}: {_note(value)}' for name, value in result.extra.items()]


def _note(value: Any) -> str:
    if isinstance(value, dict):
        return ', '.join(f'{name} {_note(part)}' for name, part in value.items())
    return f'{value:,.0f}' if isinstance(value, (int, float)) and abs(value) >= 10 else \
        f'{value:.3g}' if isinstance(value, float) else str(value)


def median_of(samples: Sequence[Optional[float]]) -> float:
    """Median of those there are."""
    return statistics.median(sample for sample in samples if sample is not None)
