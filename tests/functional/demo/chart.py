# SPDX-License-Identifier: GPL-2.0-or-later
"""A picture of ledgers over time: one SVG, nothing but the standard library.

Each ledger is a panel; in it the guests are stacked.  Steps of the demo are
numbered marks on a common time axis, explained below it, so that no text has
to share a place with another.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from html import escape
from typing import Callable, Iterator, Sequence

MIB = 1 << 20
GIB = 1 << 30

WIDTH = 1120
LEFT = 92
RIGHT = 128
PLOT = WIDTH - LEFT - RIGHT
FONT = "'DejaVu Sans', 'Helvetica Neue', Arial, sans-serif"
INK = "#1f2933"
SOFT = "#52606d"
PAPER = "#fbfcfd"
FREE = "#e8edf2"
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#9b4f96", "#b58900", "#56789a")
CHAR = 0.60  # width of an average character, in units of the font's size


@dataclass(frozen=True)
class Share:
    """What one guest holds of a ledger, in bytes."""

    claimed: int
    resident: int
    freeable: int = 0
    dying: bool = False

    @property
    def reserved(self) -> int:
        """What nobody else can have: the promise, or more if more is used."""
        return max(self.claimed, self.resident)


@dataclass(frozen=True)
class Sample:
    """A ledger at one moment."""

    seconds: float
    shares: dict[str, Share]


@dataclass
class Panel:
    """One ledger: its title, capacity and samples, oldest first."""

    title: str
    capacity: int
    samples: list[Sample] = field(default_factory=list)


@dataclass(frozen=True)
class Marker:
    """A step of the story."""

    seconds: float
    text: str


@dataclass(frozen=True)
class Band:
    """One layer of one guest between two heights, as steps in time."""

    start: float
    end: float
    low: int
    high: int
    claimed: int


Layer = Callable[[Share], tuple[int, int]]


def size_text(count: int) -> str:
    """Bytes for an axis: whole MiB, or GiB with at most two decimals."""
    if count >= GIB:
        return f"{count / GIB:.2f}".rstrip("0").rstrip(".") + " GiB"
    return f"{count // MIB} MiB"


def pick_step(span: float, most: int, steps: Sequence[float]) -> float:
    """The smallest step that puts at most this many ticks on the span."""
    return next((s for s in steps if span / s <= most), steps[-1])


def wrap(text: str, width: int) -> list[str]:
    """Words to lines of at most this many characters."""
    lines = [""]
    for word in text.split():
        if lines[-1] and len(lines[-1]) + 1 + len(word) > width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines


def guest_names(panels: Sequence[Panel]) -> list[str]:
    """Every guest, in order of appearance: the order of colours."""
    seen: dict[str, None] = {}
    for panel in panels:
        for sample in panel.samples:
            seen.update(dict.fromkeys(sample.shares))
    return sorted(seen)


class Drawing:
    """SVG elements, in drawing order."""

    def __init__(self) -> None:
        self.parts: list[str] = []

    def add(self, part: str) -> None:
        """Append an element."""
        self.parts.append(part)

    def rect(self, x: float, y: float, w: float, h: float, fill: str,
             extra: str = "") -> None:
        """A filled rectangle."""
        self.add(f'<rect x="{x:.1f}" y="{y:.1f}" width="{w:.1f}" '
                 f'height="{h:.1f}" fill="{fill}" {extra}/>')

    def line(self, x1: float, y1: float, x2: float, y2: float,
             extra: str) -> None:
        """A line; extra gives its stroke."""
        self.add(f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" '
                 f'y2="{y2:.1f}" {extra}/>')

    def text(self, x: float, y: float, text: str, size: float = 13,
             fill: str = INK, extra: str = "") -> None:
        """A line of text; y is its base line."""
        self.add(f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" '
                 f'fill="{fill}" {extra}>{escape(text)}</text>')

    def finish(self, height: float) -> str:
        """The document."""
        head = (f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" '
                f'height="{height:.0f}" viewBox="0 0 {WIDTH} {height:.0f}" '
                f'font-family="{FONT}" role="img" '
                'aria-label="The memory ledger during the demo">')
        back = (f'<rect width="{WIDTH}" height="{height:.0f}" rx="10" '
                f'fill="{PAPER}" stroke="#cbd2d9"/>')
        return "\n".join([head, patterns(), back, *self.parts, "</svg>\n"])


def patterns() -> str:
    """The hatchings: one for freeable, one for dying."""
    return (
        '<defs>'
        '<pattern id="freeable" width="7" height="7" '
        'patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
        '<rect width="3" height="7" fill="#fff" fill-opacity="0.6"/>'
        '</pattern>'
        '<pattern id="dying" width="6" height="6" '
        'patternUnits="userSpaceOnUse" patternTransform="rotate(-45)">'
        '<rect width="2.6" height="6" fill="#1f2933" fill-opacity="0.65"/>'
        '</pattern></defs>')


class PanelChart:
    """One panel at a place of the drawing."""

    def __init__(self, panel: Panel, top: float, height: float, end: float,
                 names: Sequence[str]) -> None:
        self.panel = panel
        self.top = top
        self.height = height
        self.end = end
        self.names = names
        self.bases = [self._bases(s) for s in panel.samples]
        peak = max((sum(x.reserved for x in s.shares.values())
                    for s in panel.samples), default=0)
        self.limit = int(max(panel.capacity, peak) * 1.06)

    def _bases(self, sample: Sample) -> dict[str, int]:
        """Where each guest's part of the stack begins."""
        base = 0
        result = {}
        for name in self.names:
            result[name] = base
            if name in sample.shares:
                base += sample.shares[name].reserved
        return result

    def x(self, seconds: float) -> float:
        """Time to place."""
        return LEFT + PLOT * seconds / self.end

    def y(self, count: int) -> float:
        """Bytes to place."""
        return self.top + self.height * (1 - count / self.limit)

    def bands(self, name: str, layer: Layer) -> Iterator[list[Band]]:
        """The layer's uninterrupted stretches, each a list of steps."""
        run: list[Band] = []
        samples = self.panel.samples
        for index, sample in enumerate(samples):
            after = (samples[index + 1].seconds
                     if index + 1 < len(samples) else self.end)
            share = sample.shares.get(name)
            low, high = layer(share) if share else (0, 0)
            if share is None or low >= high:
                if run:
                    yield run
                run = []
                continue
            base = self.bases[index][name]
            run.append(Band(sample.seconds, after, base + low, base + high,
                            share.claimed))
        if run:
            yield run

    def area(self, run: Sequence[Band]) -> str:
        """A stretch as the points of a polygon."""
        points: list[str] = []
        for band in run:
            y = self.y(band.high)
            points += [f"{self.x(t):.1f},{y:.1f}"
                       for t in (band.start, band.end)]
        for band in reversed(run):
            y = self.y(band.low)
            points += [f"{self.x(t):.1f},{y:.1f}"
                       for t in (band.end, band.start)]
        return " ".join(points)

    def draw_layer(self, out: Drawing, name: str, layer: Layer, fill: str,
                   opacity: float = 1.0) -> None:
        """Fill one layer of one guest."""
        for run in self.bands(name, layer):
            out.add(f'<polygon points="{self.area(run)}" fill="{fill}" '
                    f'fill-opacity="{opacity}"/>')

    def draw_claim(self, out: Drawing, name: str, colour: str) -> None:
        """The claim itself, as a line over the guest's areas."""
        for run in self.bands(name, lambda s: (0, max(s.reserved, 1))):
            points: list[str] = []
            for band in run:
                y = self.y(band.low + band.claimed)
                points += [f"{self.x(t):.1f},{y:.1f}"
                           for t in (band.start, band.end)]
            out.add(f'<polyline points="{" ".join(points)}" fill="none" '
                    f'stroke="{colour}" stroke-width="2"/>')

    def draw_guest(self, out: Drawing, name: str, colour: str) -> None:
        """All layers of a guest."""
        self.draw_layer(out, name, lambda s: (s.resident, s.reserved),
                        colour, 0.22)
        self.draw_layer(out, name, lambda s: (0, s.resident), colour, 0.72)
        self.draw_layer(out, name,
                        lambda s: (s.resident - s.freeable, s.resident),
                        "url(#freeable)")
        self.draw_layer(out, name,
                        lambda s: (0, s.reserved if s.dying else 0),
                        "url(#dying)")
        self.draw_claim(out, name, colour)

    def label_place(self, name: str, width: float) -> tuple[float, float]:
        """The middle of the roomiest place for a label, and its room."""
        best = (0.0, 0.0, 0.0)
        for run in self.bands(name, lambda s: (0, s.reserved)):
            for band in run[::len(run) // 100 + 1]:
                left = self.x(band.start)
                inside = [b for b in run if self.x(b.end) > left
                          and self.x(b.start) < left + width]
                if self.x(run[-1].end) < left + width:
                    break
                low = max(b.low for b in inside)
                high = min(b.high for b in inside)
                room = self.y(low) - self.y(high)
                if room > best[0] + 0.5:
                    best = (room, left + width / 2,
                            (self.y(low) + self.y(high)) / 2)
        return (best[1], best[2]) if best[0] >= 17 else (0.0, 0.0)

    def draw_label(self, out: Drawing, name: str) -> None:
        """The guest's name inside its area, where there is room."""
        width = len(name) * 13 * CHAR + 16
        x, y = self.label_place(name, width)
        if x:
            out.rect(x - width / 2 + 2, y - 9, width - 4, 18, "#fff",
                     'fill-opacity="0.85" rx="4"')
            out.text(x, y + 4.5, name, 13, INK,
                     'text-anchor="middle" font-weight="bold"')

    def draw_axis(self, out: Drawing) -> None:
        """Amounts on the left, capacity on the right."""
        step = int(pick_step(self.limit, max(2, int(self.height // 42)),
                             [MIB << n for n in range(5, 24)]))
        for count in range(0, self.limit + 1, step):
            y = self.y(count)
            out.line(LEFT - 5, y, LEFT, y, f'stroke="{SOFT}"')
            out.text(LEFT - 9, y + 4, size_text(count), 12, SOFT,
                     'text-anchor="end"')
        y = self.y(self.panel.capacity)
        out.line(LEFT, y, LEFT + PLOT, y,
                 f'stroke="{INK}" stroke-width="1.6" '
                 'stroke-dasharray="7 4"')
        out.text(LEFT + PLOT + 8, y - 2, "capacity", 12)
        out.text(LEFT + PLOT + 8, y + 13,
                 size_text(self.panel.capacity), 12)

    def draw(self, out: Drawing) -> None:
        """The whole panel."""
        out.text(LEFT, self.top - 8, self.panel.title, 14, INK,
                 'font-weight="bold"')
        y = self.y(self.panel.capacity)
        out.rect(LEFT, y, PLOT, self.top + self.height - y, FREE)
        for index, name in enumerate(self.names):
            self.draw_guest(out, name, COLOURS[index % len(COLOURS)])
        self.draw_axis(out)
        bottom = self.top + self.height
        out.line(LEFT, self.top, LEFT, bottom, f'stroke="{SOFT}"')
        out.line(LEFT, bottom, LEFT + PLOT, bottom, f'stroke="{SOFT}"')


def draw_legend(out: Drawing, names: Sequence[str], y: float) -> None:
    """Colours of the guests, then what the shades mean."""
    x = float(LEFT)
    for index, name in enumerate(names):
        out.rect(x, y - 11, 14, 14, COLOURS[index % len(COLOURS)], 'rx="2"')
        out.text(x + 19, y, name, 12.5)
        x += 19 + len(name) * 12.5 * CHAR + 18
    x += 14
    colour = COLOURS[0]
    entries = (
        ("resident", [(colour, 0.72)], ""),
        ("freeable", [(colour, 0.72), ("url(#freeable)", 1.0)], ""),
        ("claimed, not yet allocated", [(colour, 0.22)], colour),
        ("dying", [(colour, 0.72), ("url(#dying)", 1.0)], ""),
        ("free", [(FREE, 1.0)], "#cbd2d9"),
    )
    for label, fills, stroke in entries:
        for fill, opacity in fills:
            out.rect(x, y - 11, 20, 14, fill, f'fill-opacity="{opacity}"')
        if stroke:
            out.line(x, y - 11, x + 20, y - 11,
                     f'stroke="{stroke}" stroke-width="2"')
        out.text(x + 26, y, label, 12.5)
        x += 26 + len(label) * 12.5 * CHAR + 16


def draw_time_axis(out: Drawing, end: float, y: float) -> None:
    """Seconds below the last panel."""
    step = pick_step(end, 14, [1, 2, 5, 10, 20, 30, 60, 120, 300, 600])
    moment = 0.0
    while moment <= end:
        x = LEFT + PLOT * moment / end
        out.line(x, y, x, y + 5, f'stroke="{SOFT}"')
        out.text(x, y + 19, f"{moment:.0f}", 12, SOFT,
                 'text-anchor="middle"')
        moment += step
    out.text(LEFT + PLOT + 24, y + 19, "seconds", 12, SOFT)


def marker_rows(markers: Sequence[Marker], end: float) -> list[int]:
    """A row for each mark, so that neighbours do not touch."""
    last: list[float] = []
    rows = []
    for marker in markers:
        x = LEFT + PLOT * marker.seconds / end
        row = next((r for r, old in enumerate(last) if x - old >= 24),
                   len(last))
        if row == len(last):
            last.append(x)
        last[row] = x
        rows.append(row)
    return rows


def draw_badge(out: Drawing, x: float, y: float, number: int) -> None:
    """A step's number in a circle."""
    out.add(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="10" fill="{INK}"/>')
    out.text(x, y + 4.2, str(number), 12, "#fff",
             'text-anchor="middle" font-weight="bold"')


def draw_markers(out: Drawing, markers: Sequence[Marker], end: float,
                 top: float, bottom: float) -> None:
    """Vertical lines with their numbers above the first panel."""
    for number, (marker, row) in enumerate(
            zip(markers, marker_rows(markers, end)), 1):
        x = LEFT + PLOT * marker.seconds / end
        y = top + row * 24
        out.line(x, y + 10, x, bottom,
                 f'stroke="{INK}" stroke-width="1" stroke-opacity="0.55" '
                 'stroke-dasharray="2 3"')
        draw_badge(out, x, y, number)


def draw_steps(out: Drawing, markers: Sequence[Marker], top: float) -> float:
    """The list of steps in two columns; returns where it ends."""
    column = (WIDTH - 2 * 40) / 2
    half = (len(markers) + 1) // 2
    ends = [top]
    for side in (0, 1):
        y = top
        x = 40 + side * column
        for index in range(side * half, min((side + 1) * half,
                                            len(markers))):
            marker = markers[index]
            draw_badge(out, x + 12, y - 4, index + 1)
            text = f"{marker.text} ({marker.seconds:.1f} s)"
            for part in wrap(text, int((column - 50) / (12.5 * CHAR))):
                out.text(x + 30, y, part, 12.5)
                y += 17
            y += 10
        ends.append(y)
    return max(ends)


def render(title: str, subtitle: str, panels: Sequence[Panel],
           markers: Sequence[Marker]) -> str:
    """The whole picture."""
    out = Drawing()
    names = guest_names(panels)
    moments = [s.seconds for p in panels for s in p.samples]
    moments += [m.seconds for m in markers]
    end = max(moments, default=1.0) + 0.5
    out.text(40, 40, title, 20, INK, 'font-weight="bold"')
    out.text(40, 62, subtitle, 13, SOFT)
    draw_legend(out, names, 92)
    marks_top = 122.0
    rows = max(marker_rows(markers, end), default=0) + 1
    top = marks_top + rows * 24 + 26
    charts: list[PanelChart] = []
    for panel in panels:
        height = 270.0 if not charts else 150.0
        charts.append(PanelChart(panel, top, height, end, names))
        top += height + 44
    bottom = charts[-1].top + charts[-1].height
    for chart in charts:
        chart.draw(out)
    draw_markers(out, markers, end, marks_top, bottom)
    for chart in charts:
        for name in names:
            chart.draw_label(out, name)
    draw_time_axis(out, end, bottom)
    return out.finish(draw_steps(out, markers, bottom + 58) + 12)
