# SPDX-License-Identifier: GPL-2.0-or-later
"""The lab's report as one page: self-contained, for light and dark, no names of machines or people in it."""

from __future__ import annotations

import platform
import subprocess
from html import escape
from pathlib import Path
from typing import Any, Dict, List, Mapping, Sequence

from ballast import paths

from . import charts
from .cell import DOWNTIME_MS, Row, Settings, host_thp
from .plan import MODES, SHAPES, TRANSPORTS, mode_of, shape_of, transport_of
from .results import COLUMNS, Summary, host_side, to_csv

MIB = 1 << 20

STYLE = '''
:root{color-scheme:light dark;--paper:#fff;--ink:#1f2933;--soft:#5f6c7b;--grid:#dfe5ec;--bad:#b42318;--good:#1a7f37}
@media (prefers-color-scheme:dark){:root{--paper:#14191f;--ink:#e6ebf1;--soft:#9aa8b8;--grid:#2b343f;--bad:#ff8a7a;--good:#57c26f}}
body{background:var(--paper);color:var(--ink);font:16px/1.5 'Helvetica Neue',Arial,sans-serif;max-width:900px;margin:2em auto;padding:0 1em}
svg{max-width:100%;height:auto}figure{margin:1.5em 0}figcaption{color:var(--soft)}
.wide{overflow-x:auto}table{border-collapse:collapse;font-size:13px;font-variant-numeric:tabular-nums}
th,td{padding:3px 9px;border-bottom:1px solid var(--grid);text-align:right;white-space:nowrap}
th:first-child,td:first-child,th:nth-child(2),td:nth-child(2),.words td{text-align:left}.words td{white-space:normal}
.bad{color:var(--bad)}.good{color:var(--good)}code{font-size:.9em}
'''

FIGURES = (     # of the table: title, key, unit, decimals
    ('total ms', 'total_ms', 1, 0), ('down ms', 'downtime_ms', 1, 0), ('load ms', 'load_ms', 1, 0),
    ('MiB sent', 'bytes', MIB, 0), ('pages', 'pages', 1, 0), ('zero pages', 'zero_pages', 1, 0),
    ('syncs', 'syncs', 1, 0), ('host ms', 'host_ms', 1, 0), ('I/O thread ms', 'source_iothread_ms', 1, 1),
    ('source MiB', 'source_rss', MIB, 0), ('growth MiB', 'source_growth', MIB, 0),
    ('destination MiB', 'destination_rss', MIB, 0))


def _first_line(command: Sequence[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    return (done.stdout.splitlines() or ['unknown'])[0]


def _value(path: str, name: str) -> str:
    lines = Path(path).read_text('utf-8', errors='replace').splitlines()
    return next((line.partition(':')[2].strip() for line in lines if line.startswith(name)), 'unknown')


def machine(settings: Settings) -> Dict[str, str]:
    """What the figures depend on; nothing that names the machine."""
    kernel = paths.GUEST / 'kernel'
    cores = Path('/proc/cpuinfo').read_text('utf-8', errors='replace').count('processor\t')
    return {'processor': f"{cores} × {_value('/proc/cpuinfo', 'model name')}",
            'memory': f"{int(_value('/proc/meminfo', 'MemTotal').split()[0]) // 1024} MiB",
            'host kernel': platform.release(), 'transparent huge pages': host_thp(),
            'QEMU of Ballast': _first_line([settings.qemu, '--version']),
            'stock QEMU': _first_line([settings.stock_qemu, '--version']),
            'guest kernel': 'given' if settings.kernel else
            kernel.read_text().strip() if kernel.exists() else 'unknown',
            'accelerator': 'TCG, one virtual processor'}


def _pairs(table: Mapping[str, str]) -> str:
    rows = ''.join(f'<tr><td>{escape(name)}</td><td>{escape(value)}</td></tr>'
                   for name, value in table.items())
    return f'<div class="wide"><table class="words">{rows}</table></div>'


def verdict(rows: Sequence[Row]) -> str:
    """The first thing to know."""
    said = []
    for mode in MODES:
        mine = [row for row in rows if row['mode'] == mode.key and row['status'] != 'skipped']
        bad = [row for row in mine if row['status'] in ('lost', 'dead')]
        kind, text = ('bad', f'{len(bad)} of {len(mine)} guests lost data or died') if bad else \
            ('good', f'nothing lost in {len(mine)} migrations')
        if mine:
            said.append(f'<li><b>{escape(mode.title)}</b>: <span class="{kind}">{text}</span></li>')
    return f'<ul>{"".join(said)}</ul>'


def trouble(rows: Sequence[Row]) -> str:
    """Cells that did not go as they should, with the reason."""
    bad = [row for row in rows if row['status'] != 'ok']
    if not bad:
        return ''
    items = ''.join(f'<li>{escape(shape_of(row["guest"]).title)}, {escape(transport_of(row["transport"]).title)}, '
                    f'{escape(mode_of(row["mode"]).title)}, round {row["round"]}: '
                    f'<b>{escape(row["status"])}</b>: {escape(row["reason"])}</li>' for row in bad)
    return f'<h2>Cells without a full result</h2><ul>{items}</ul>'


def drawings(summary: Summary) -> List[Dict[str, Any]]:
    """Every chart there is something to draw for: name, title, sentence, SVG."""
    if not summary.rows:
        return []
    found = []
    base = next(transport for transport in TRANSPORTS if summary.guests(transport.key))
    for chart in charts.CHARTS:
        found.append(('', chart, charts.by_guest(chart, summary, base.key), f', {base.title}'))
    for guest in [shape.key for shape in SHAPES if len(summary.transports(shape.key)) > 1]:
        for key in ('time', 'bytes'):
            chart = charts.chart_of(key)
            found.append((f'-{guest}', chart, charts.by_transport(chart, summary, guest),
                          f' of each transport, guest: {shape_of(guest).title}'))
    return [{'name': f'{chart.key}{suffix}', 'title': f'{chart.title}{more}',
             'sentence': charts.sentence(chart, groups), 'svg': charts.draw(chart, groups)}
            for suffix, chart, groups, more in found if groups]


def _figure(drawing: Mapping[str, Any]) -> str:
    return (f'<h3>{escape(drawing["title"])}</h3><figure>{drawing["svg"]}'
            f'<figcaption>{escape(drawing["sentence"])}</figcaption></figure>')


def _cell(summary: Summary, place: Sequence[str], figure: Sequence[Any]) -> str:
    value = summary.value(place[0], place[1], place[2], figure[1])
    return '<td></td>' if value is None else f'<td>{value / figure[2]:,.{figure[3]}f}</td>'


def _status(rows: Sequence[Row]) -> str:
    words = sorted({row['status'] for row in rows})
    kind = 'good' if words == ['ok'] else 'bad'
    return f'<td class="{kind}">{escape(", ".join(words))}</td>'


def table(summary: Summary, transport: str) -> str:
    """All guests and modes of a transport."""
    head = ''.join(f'<th>{escape(title)}</th>' for title, *_ in FIGURES)
    lines = []
    for guest in summary.guests(transport):
        for mode in MODES:
            rows = summary.rows_of(guest, transport, mode.key)
            cells = ''.join(_cell(summary, (guest, transport, mode.key), figure) for figure in FIGURES)
            if rows:
                lines.append(f'<tr><td>{escape(shape_of(guest).title)}</td><td>{escape(mode.title)}</td>'
                             f'{cells}{_status(rows)}</tr>')
    return (f'<div class="wide"><table><tr><th>guest</th><th>mode</th>{head}<th>status</th></tr>'
            f'{"".join(lines)}</table></div>')


def _tables(summary: Summary) -> str:
    return ''.join(f'<h3>{escape(transport.title)}</h3><p>{escape(transport.why)}.</p>'
                   f'{table(summary, transport.key)}'
                   for transport in TRANSPORTS if summary.guests(transport.key))


def how(settings: Settings) -> str:
    """How it was measured."""
    return (f'''<p>Each cell boots a Linux guest of {settings.memory} MiB under TCG, gives its memory the shape of the
row and migrates it once, live, into a QEMU of its own on the same machine, while a load in the guest goes on
writing (8 MiB/s of files made and deleted; the dirtying guest {settings.rate} MiB/s over files that stay; the guest
under pressure as fast as it can). {DOWNTIME_MS} ms of downtime are allowed; the limited socket has
{settings.limit} MiB/s; a migration that has not ended after {settings.timeout} s is cancelled. The guests of the
modes are prepared together, then stand still until it is their turn: modes take turns, one migration at a time.</p>
<p>Afterwards the guest has to answer on the destination, to have printed no oops, to have all its files with
the right checksums, and its load, which verifies what it wrote, has to go on and to have met nothing wrong. "host ms"
is the processor time of both QEMUs less that of the virtual processor. Figures are medians of the rounds; the thin
line in a bar spans the rounds. Before each migration as much memory as the destination needs is touched and freed, so
that no mode pays for a first touch. Compare modes with each other, not with another machine.</p>''')


def glossary() -> str:
    """The guests, and the columns of the CSV."""
    guests = _pairs({shape.title: shape.why for shape in SHAPES})
    columns = _pairs({column.key: column.text for column in COLUMNS})
    return f'<h2>Guests</h2>{guests}<h2>Columns of <code>cells.csv</code></h2>{columns}'


def with_host_side(rows: Sequence[Row]) -> List[Row]:
    """The rows, and the processor time that is the host's."""
    return [{**row, 'host_ms': host_side(row)} for row in rows]


def page(rows: Sequence[Row], settings: Settings, facts: Mapping[str, str]) -> str:
    """The document."""
    summary = Summary(with_host_side(rows))
    parts = ['<!doctype html><html lang="en"><meta charset="utf-8">',
             '<meta name="viewport" content="width=device-width, initial-scale=1">',
             f'<title>Ballast: live migration lab</title><style>{STYLE}</style>',
             '<h1>Live migration: stock QEMU and Ballast</h1>',
             f'<p>{len(rows)} migrations of Linux guests. What did they cost, and did everything arrive?</p>',
             verdict(rows), trouble(rows), '<h2>Charts</h2>', *map(_figure, drawings(summary)),
             '<h2>Figures</h2>', _tables(summary), '<h2>How it was measured</h2>', how(settings),
             '<h2>Machine</h2>', _pairs(facts), glossary(), '</html>\n']
    return '\n'.join(part for part in parts if part)


def write(directory: Path, rows: Sequence[Row], settings: Settings) -> None:
    """cells.csv, the charts and index.html."""
    (directory / 'cells.csv').write_text(to_csv(rows), 'utf-8')
    for drawing in drawings(Summary(with_host_side(rows))):
        (directory / f'{drawing["name"]}.svg').write_text(drawing['svg'], 'utf-8')
    (directory / 'index.html').write_text(page(rows, settings, machine(settings)), 'utf-8')
