# SPDX-License-Identifier: GPL-2.0-or-later
"""Bars of the lab's figures: SVG for light and dark pages, nothing but the standard library."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import Callable, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from .cell import DOWNTIME_MS, Row, figures
from .plan import MODES, mode_of, shape_of, transport_of
from .results import Summary, host_side

MIB = 1 << 20

WIDTH = 860
LEFT = 150
RIGHT = 110
PLOT = WIDTH - LEFT - RIGHT
TOP = 84
BAR = 13
GAP = 14                # between the groups
NEXT_TO_NOTHING = 0.03  # of the longest bar
CHAR = 0.58             # width of an average character, in units of the font's size

# Colours that people with any kind of colour vision tell apart, on white and on black.
LIGHT = {'paper': '#fff', 'ink': '#1f2933', 'soft': '#5f6c7b', 'grid': '#dfe5ec', 'bad': '#b42318',
         'plain': '#8a97a6', 'hints': '#d9822b', 'ballast': '#1f77c9'}
DARK = {'paper': '#14191f', 'ink': '#e6ebf1', 'soft': '#9aa8b8', 'grid': '#2b343f', 'bad': '#ff8a7a',
        'plain': '#7b8794', 'hints': '#e89a4b', 'ballast': '#58a6f0'}


def _rules(colours: Mapping[str, str]) -> str:
    """No variables: there are programs that show an SVG and do not know them."""
    fills = ''.join(f'.lab .{name}{{fill:{colour}}}' for name, colour in colours.items())
    return (f'.lab text{{fill:{colours["ink"]}}}{fills}.lab line{{stroke:{colours["grid"]}}}'
            f'.lab .spread{{stroke:{colours["ink"]}}}')


STYLE = ("<style>.lab text{font-family:'DejaVu Sans','Helvetica Neue',Arial,sans-serif;font-size:12px}"
         f".lab .title{{font-size:16px;font-weight:bold}}\n{_rules(LIGHT)}\n"
         f"@media (prefers-color-scheme:dark){{{_rules(DARK)}}}</style>")

Get = Callable[[Row], Optional[float]]


class Bar(NamedTuple):
    """One mode of a group: the median, the extremes, or words instead."""

    mode: str
    value: Optional[float]
    low: float = 0.0
    high: float = 0.0
    words: str = ''


class Group(NamedTuple):
    """The modes of one guest, or of one transport."""

    title: str
    bars: List[Bar]


@dataclass(frozen=True)
class Chart:
    """What is drawn of the rows."""

    key: str
    title: str
    unit: str
    get: Get
    how: str
    better: str = 'shorter is better'


def _figure(name: str, unit: float = 1.0) -> Get:
    def get(row: Row) -> Optional[float]:
        return row[name] / unit if row.get(name) is not None else None
    return get


CHARTS = (
    Chart('time', 'Total time', 's', _figure('total_ms', 1000),
          'From the migrate command until the source has sent everything.'),
    Chart('bytes', 'Sent', 'MiB', _figure('bytes', MIB), 'What the source wrote to the socket or file.'),
    Chart('zero', 'Zero pages', 'thousand', _figure('zero_pages', 1000),
          'Pages that were read, found to be zero and sent as such: work that says nothing.'),
    Chart('downtime', 'Downtime', 'ms', _figure('downtime_ms'),
          f'The guest stands still on both sides; {DOWNTIME_MS} ms were allowed.'),
    Chart('processor', 'Processor time of both QEMUs', 's', lambda row: _scaled(host_side(row), 1000),
          "User and system time of all threads during the migration, without the guest's own."),
    Chart('growth', "Growth of the source's memory", 'MiB', _figure('source_growth', MIB),
          "The most that the source held during the migration, less what it held before. A part is the guest's "
          'own load; with hints the larger one is that Linux zeroes each page as it hints it (init_on_alloc), and '
          'so populates it.'),
    Chart('destination', 'Memory of the destination', 'MiB', _figure('destination_rss', MIB),
          'Resident when the migration was through.'),
)


def _scaled(value: Optional[float], unit: float) -> Optional[float]:
    return None if value is None else value / unit


def chart_of(key: str) -> Chart:
    """By name."""
    return next(chart for chart in CHARTS if chart.key == key)


def _words(rows: Sequence[Row]) -> str:
    bad = [row['status'] for row in rows if row['status'] != 'ok']
    said = {'dead': 'the guest died', 'lost': 'data lost', 'endless': 'did not converge',
            'failed': 'failed', 'skipped': 'skipped'}
    if not bad:
        return ''
    text = said[bad[0]]
    return text if len(rows) == 1 else f'{text} ({len(bad)} of {len(rows)})'


def _bar(chart: Chart, rows: Sequence[Row], mode: str) -> Bar:
    found = sorted(value for value in (chart.get(row) for row in rows if figures(row)) if value is not None)
    if not found:
        return Bar(mode, None, words=_words(rows))
    middle = len(found) // 2
    median = found[middle] if len(found) % 2 else (found[middle - 1] + found[middle]) / 2
    return Bar(mode, median, found[0], found[-1], _words(rows))


def by_guest(chart: Chart, summary: Summary, transport: str) -> List[Group]:
    """A group per guest."""
    return _groups(chart, summary, [(shape_of(guest).title, guest, transport)
                                    for guest in summary.guests(transport)])


def by_transport(chart: Chart, summary: Summary, guest: str) -> List[Group]:
    """A group per transport."""
    return _groups(chart, summary, [(transport_of(name).title, guest, name)
                                    for name in summary.transports(guest)])


def _groups(chart: Chart, summary: Summary, places: Sequence[Tuple[str, str, str]]) -> List[Group]:
    groups = []
    for title, guest, transport in places:
        rows = [(mode.key, summary.rows_of(guest, transport, mode.key)) for mode in MODES]
        groups.append(Group(title, [_bar(chart, found, mode) for mode, found in rows if found]))
    return groups


def nice_step(span: float, most: int = 6) -> float:
    """1, 2 or 5 of some power of ten, so that at most this many fit."""
    step = 1e-6
    factors = (2.0, 2.5, 2.0)
    number = 0
    while span / step > most:
        step *= factors[number % 3]
        number += 1
    return step


def number_text(value: float) -> str:
    """Three digits or so."""
    if value >= 100:
        return f'{value:,.0f}'
    return f'{value:.1f}' if value >= 10 else f'{value:.2f}'


def _text(x: float, y: float, text: str, kind: str = '', extra: str = '') -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}" {extra}>{escape(text)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, kind: str = '') -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{kind}"/>'


def _legend(chart: Chart) -> List[str]:
    parts, x = [_text(16, 26, f'{chart.title}, {chart.unit}', 'title')], 16.0
    for mode in MODES:
        parts += [f'<rect x="{x:.0f}" y="40" width="13" height="13" rx="2" class="{mode.key}"/>',
                  _text(x + 19, 51, mode.title)]
        x += 19 + len(mode.title) * 12 * CHAR + 26
    return parts + [_text(WIDTH - 16, 51, chart.better, 'soft', 'text-anchor="end"')]


def _grid(limit: float, bottom: float) -> List[str]:
    step, parts, count = nice_step(limit), [], 0
    while count * step <= limit * 1.0001:
        x = LEFT + PLOT * count * step / limit
        label = f'{count * step:.10g}'
        parts += [_line(x, TOP - 6, x, bottom), _text(x, TOP - 11, label, 'soft', 'text-anchor="middle"')]
        count += 1
    return parts


def _draw_bar(bar: Bar, y: float, limit: float) -> List[str]:
    if bar.value is None:
        return [_text(LEFT + 4, y + BAR - 3, bar.words or 'no figure', 'bad')]
    width = PLOT * bar.value / limit
    end = LEFT + PLOT * bar.high / limit
    parts = [f'<rect x="{LEFT}" y="{y:.1f}" width="{max(width, 1):.1f}" height="{BAR - 2}" rx="2" '
             f'class="{bar.mode}"/>']
    if bar.high > bar.low:
        parts.append(_line(LEFT + PLOT * bar.low / limit, y + BAR / 2 - 1, end, y + BAR / 2 - 1, 'spread'))
    label = number_text(bar.value)
    parts.append(_text(end + 6, y + BAR - 3, label))
    if bar.words:
        parts.append(_text(end + 12 + len(label) * 12 * CHAR, y + BAR - 3, bar.words, 'bad'))
    return parts


def draw(chart: Chart, groups: Sequence[Group]) -> str:
    """The SVG."""
    highs = [bar.high for group in groups for bar in group.bars if bar.value is not None]
    limit = max(highs, default=0) or 1.0
    parts, y = [], float(TOP + 4)
    for group in groups:
        height = BAR * len(group.bars)
        parts.append(_text(LEFT - 10, y + height / 2 + 4, group.title, '', 'text-anchor="end"'))
        for bar in group.bars:
            parts += _draw_bar(bar, y, limit)
            y += BAR
        y += GAP
    body = [*_legend(chart), *_grid(limit, y - GAP / 2), *parts]
    return '\n'.join([_head(chart, y), STYLE, f'<rect width="{WIDTH}" height="{y:.0f}" rx="8" '
                      'class="paper"/>', *body, '</svg>\n'])


def _head(chart: Chart, height: float) -> str:
    return (f'<svg xmlns="http://www.w3.org/2000/svg" class="lab" viewBox="0 0 {WIDTH} {height:.0f}" '
            f'width="{WIDTH}" height="{height:.0f}" role="img" aria-label="{escape(chart.title)}">')


def ratios(groups: Sequence[Group], reference: str) -> List[Tuple[float, str]]:
    """Ballast's figure over the reference's, smallest first, with what it is of.

    A reference that is next to nothing in the chart makes no ratio.
    """
    found = []
    least = NEXT_TO_NOTHING * max((bar.value or 0 for group in groups for bar in group.bars), default=0)
    for group in groups:
        values = {bar.mode: bar.value for bar in group.bars}
        ours, theirs = values.get('ballast'), values.get(reference)
        if ours is not None and theirs and theirs >= least:
            found.append((ours / theirs, group.title))
    return sorted(found)


def sentence(chart: Chart, groups: Sequence[Group]) -> str:
    """What there is to see, in figures of this run."""
    said = []
    for reference in ('hints', 'plain'):
        found = ratios(groups, reference)
        if len(found) == 1:
            said.append(f'Ballast has {found[0][0]:.2f} of what {mode_of(reference).title} has')
        elif found:
            said.append(f'Ballast has {found[0][0]:.2f} ({found[0][1]}) to {found[-1][0]:.2f} '
                        f'({found[-1][1]}) of what {mode_of(reference).title} has')
    text = '; '.join(said) or 'There is nothing to compare here'
    return f'{chart.how} {text}.'
