# SPDX-License-Identifier: GPL-2.0-or-later
"""The lab's rows: kept as they come, resumed, summed up, written as CSV."""

from __future__ import annotations

import csv
import io
import json
import os
import statistics
from dataclasses import asdict
from pathlib import Path
from typing import Any, Dict, Iterable, List, NamedTuple, Optional, Sequence, Tuple

from .cell import Row, Settings, figures
from .plan import BadRequest, Cell

CELLS = 'cells.jsonl'
SETTINGS = 'settings.json'


class Column(NamedTuple):
    """One figure of a cell."""

    key: str
    text: str


COLUMNS = (
    Column('round', 'from 1'), Column('guest', 'its memory: see the guests'),
    Column('transport', 'plain: a socket; multifd; file: mapped-ram; limit: a socket with a bandwidth'),
    Column('mode', 'plain: stock QEMU without hints; hints: stock QEMU with hints; ballast'),
    Column('status', 'ok; lost: data differ on the destination; dead: the guest does not answer or has '
           'printed an oops; endless: did not converge and was cancelled; failed: QEMU or the migration '
           'failed; skipped: this machine cannot'),
    Column('reason', 'of a status that is not ok'),
    Column('total_ms', 'total-time of query-migrate on the source'),
    Column('downtime_ms', 'downtime of query-migrate on the source'),
    Column('load_ms', 'mapped-ram file: until the destination has loaded it and runs'),
    Column('bytes', 'ram.transferred'),
    Column('file_bytes', 'mapped-ram file: what it takes on the disk'),
    Column('pages', 'pages sent with their content (ram.normal)'),
    Column('zero_pages', 'pages sent as zero (ram.duplicate)'),
    Column('syncs', 'harvests of the dirty log (dirty-sync-count)'),
    Column('hints_applied', 'hints that dropped pages'),
    Column('hints_late', 'hints that came after their generation'),
    Column('hints_bytes', 'size of the applied hints'),
    Column('absent_pages', 'pages left out because the host does not have them'),
    *(Column(f'{side}_{name}', f'{side}: {text}') for side in ('source', 'destination') for name, text in (
        ('cpu_ms', 'processor time, user and system, all threads'),
        ('vcpu_ms', 'of which the virtual processor'),
        ('iothread_ms', 'of which the I/O thread of the balloon'),
        ('rss', 'resident bytes at the end'),
        ('pss', 'proportional share of them'),
        ('memfd', 'bytes of its memfd'),
        ('huge', 'bytes in transparent huge pages'),
        ('growth', 'most that it held during the migration, less what it held before'))),
    Column('checked_pieces', 'pieces of 4 MiB that the load wrote in all'),
)


def key_of(row: Row) -> Tuple[int, str, str, str]:
    """As Cell.key."""
    return int(row['round']), row['guest'], row['transport'], row['mode']


def row_of(cell: Cell, values: Row) -> Row:
    """A cell's figures with its name."""
    number, guest, transport, mode = cell.key
    return {'round': number, 'guest': guest, 'transport': transport, 'mode': mode, **values}


class Store:
    """Rows in a directory; each is on the disk before the next cell begins."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.rows: List[Row] = []

    @property
    def path(self) -> Path:
        """Where they are."""
        return self.directory / CELLS

    def begin(self, settings: Settings, resume: bool, fresh: bool = False) -> None:
        """A new run, or the rest of one."""
        self.directory.mkdir(parents=True, exist_ok=True)
        if resume:
            self._resume(settings)
        elif self.path.exists() and not fresh:
            raise BadRequest(f'{self.directory} has results: --resume goes on with them, --fresh forgets '
                             'them, --out takes another directory')
        else:
            self.path.write_text('', 'utf-8')
        (self.directory / SETTINGS).write_text(json.dumps(asdict(settings), indent=1) + '\n', 'utf-8')

    def _resume(self, settings: Settings) -> None:
        if not self.path.exists():
            raise BadRequest(f'{self.directory} has no results to resume')
        before = json.loads((self.directory / SETTINGS).read_text('utf-8'))
        changed = [name for name, value in asdict(settings).items() if before.get(name) != value]
        if changed:
            name = changed[0]
            raise BadRequest(f'{self.directory} was begun with --{name.replace("_", "-")} '
                             f'{before.get(name) or "(default)"}, not {asdict(settings)[name] or "(default)"}')
        self.rows = read_rows(self.path)
        # a line that was being written when the lab was killed goes
        self.path.write_text(''.join(json.dumps(row) + '\n' for row in self.rows), 'utf-8')

    def add(self, row: Row) -> None:
        """One more."""
        self.rows.append(row)
        with self.path.open('a', encoding='utf-8') as out:
            out.write(json.dumps(row) + '\n')
            out.flush()
            os.fsync(out.fileno())

    def missing(self, plan: Iterable[Cell]) -> List[Cell]:
        """What is still to be done."""
        done = {key_of(row) for row in self.rows}
        return [cell for cell in plan if cell.key not in done]


def read_rows(path: Path) -> List[Row]:
    """All complete lines."""
    rows = []
    for line in path.read_text('utf-8').splitlines():
        try:
            rows.append(dict(json.loads(line)))
        except ValueError:
            continue
    return rows


def to_csv(rows: Sequence[Row]) -> str:
    """A line per cell; a figure that a cell has not is empty."""
    out = io.StringIO()
    writer = csv.DictWriter(out, [column.key for column in COLUMNS], extrasaction='ignore', restval='',
                            lineterminator='\n')
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


class Summary:
    """Medians over the rounds."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = rows
        self._cells: Dict[Tuple[str, str, str], List[Row]] = {}
        for row in rows:
            self._cells.setdefault(key_of(row)[1:], []).append(row)

    def rows_of(self, guest: str, transport: str, mode: str) -> List[Row]:
        """All rounds of a cell."""
        return self._cells.get((guest, transport, mode), [])

    def value(self, guest: str, transport: str, mode: str, name: str) -> Optional[float]:
        """The median of a figure, or None if no round has it."""
        values = [row[name] for row in self.rows_of(guest, transport, mode)
                  if figures(row) and row.get(name) is not None]
        return statistics.median(values) if values else None

    def guests(self, transport: str) -> List[str]:
        """Those that have rows there, in the order of the rows."""
        return list(dict.fromkeys(key[0] for key in self._cells if key[1] == transport))

    def transports(self, guest: str) -> List[str]:
        """The same, the other way round."""
        return list(dict.fromkeys(key[1] for key in self._cells if key[0] == guest))

    def trouble(self) -> List[Row]:
        """Rows that are not as they should be."""
        return [row for row in self.rows if row['status'] not in ('ok', 'skipped')]


def exit_status(rows: Sequence[Row]) -> int:
    """0; 3 if a Ballast cell lost data or its guest; 4 if one could not be measured."""
    ours = [row['status'] for row in rows if row['mode'] == 'ballast']
    if any(status in ('lost', 'dead') for status in ours):
        return 3
    return 4 if any(status == 'failed' for status in ours) else 0


def host_side(row: Row) -> Optional[float]:
    """Processor time of both QEMUs without what the guest itself did."""
    names = ('source_cpu_ms', 'source_vcpu_ms', 'destination_cpu_ms', 'destination_vcpu_ms')
    if any(row.get(name) is None for name in names):
        return None
    values: List[Any] = [row[name] for name in names]
    return round(max(values[0] - values[1], 0) + max(values[2] - values[3], 0), 1)
