#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""scripts/lab, without the set-up: what it runs, keeps, draws, refuses; and one small cell of each mode."""

import csv
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Dict, List
from xml.etree import ElementTree

from fixture import need_guests
from ballast import paths, tap
from lab import page, results
from lab.cell import Lost, Row, Settings, wrong_files
from lab.charts import draw, by_guest, chart_of, sentence
from lab.plan import BadRequest, Wanted, cells, groups
from lab.progress import bar, clock

HERE = Path(__file__).resolve().parent
SETTINGS = Settings(memory=320, qemu='qemu', stock_qemu='qemu')


def _row(mode: str, **values: Any) -> Row:
    row = {'round': 1, 'guest': 'freed', 'transport': 'plain', 'mode': mode, 'status': 'ok', 'reason': '',
           'total_ms': 1000, 'downtime_ms': 5, 'bytes': 1 << 28, 'pages': 60000, 'zero_pages': 7, 'syncs': 3}
    return {**row, **values}


def _refused(wanted: Wanted) -> str:
    try:
        cells(wanted, 1)
    except BadRequest as error:
        return str(error)
    raise AssertionError(f'{wanted} was not refused')


@tap.case('filters choose cells, wrong names say what is allowed')
def filters() -> None:
    """Everything is 9 guests × 4 transports × 3 modes; quick is a part of it."""
    tap.equal(len(cells(Wanted(), 1)), 108, 'all')
    tap.equal(len(cells(Wanted(quick=True), 2)), 72, 'two quick rounds')
    chosen = cells(Wanted(only=['freed/multifd', '*/plain/ballast'], guests=['freed,memfd']), 1)
    tap.equal(sorted(cell.key[1:] for cell in chosen),
              [('freed', 'multifd', 'ballast'), ('freed', 'multifd', 'hints'), ('freed', 'multifd', 'plain'),
               ('freed', 'plain', 'ballast'), ('memfd', 'plain', 'ballast')])
    tap.equal({cell.shape.key for cell in cells(Wanted(guests=['small']), 1)}, {'small'})
    for wanted, word in ((Wanted(guests=['fred']), 'fred'), (Wanted(modes=['']), "''"),
                         (Wanted(only=['a/b/c/d']), 'a/b/c/d'), (Wanted(only=['freed/udp']), 'udp'),
                         (Wanted(only=['freed/plain'], transports=['limit']), 'no cell')):
        text = _refused(wanted)
        assert word in text and '\n' not in text, text


@tap.case('modes take turns, and another one is the first each time')
def turns() -> None:
    """Who is first pays for cold memory and cold caches."""
    for number in (1, 2):
        together = groups(cells(Wanted(), number))
        assert all(len(group) == 3 for group in together)
        firsts = [group[0].mode.key for group in together]
        tap.equal(len(together), 36 * number, 'groups')
        assert all(firsts.count(mode) == 12 * number for mode in ('plain', 'hints', 'ballast')), firsts


@tap.case('a lost page is noticed')
def lost() -> None:
    """Wrong, missing and no pieces at all."""
    good = '0 aa\n1 bb\n2 aa'
    tap.equal(wrong_files(good, ['aa', 'bb']), [])
    tap.equal(wrong_files(good.replace('2 aa', '2 bb'), ['aa', 'bb']), [2])
    for text in ('', '1 bb', '0 aa\n2 aa'):
        try:
            wrong_files(text, ['aa', 'bb'])
        except Lost:
            continue
        raise AssertionError(f'{text!r} was taken')


@tap.case('the exit status tells of data that Ballast lost')
def status() -> None:
    """Stock QEMU may lose what it likes."""
    for rows, wanted in (([_row('ballast')], 0), ([_row('hints', status='dead')], 0),
                         ([_row('ballast'), _row('ballast', status='lost')], 3),
                         ([_row('ballast', status='dead')], 3), ([_row('ballast', status='failed')], 4),
                         ([_row('ballast', status='endless'), _row('ballast', status='skipped')], 0)):
        tap.equal(results.exit_status(rows), wanted, f'status of {[row["status"] for row in rows]}')


@tap.case('finished cells survive a kill, and are not run again')
def resumed() -> None:
    """Half a line at the end is what a kill leaves."""
    with tempfile.TemporaryDirectory(prefix='ballast-') as directory:
        store = results.Store(Path(directory))
        store.begin(SETTINGS, False)
        store.add(_row('hints'))
        with store.path.open('a', encoding='utf-8') as out:
            out.write('{"round": 1, "gue')
        again = results.Store(Path(directory))
        again.begin(SETTINGS, True)
        plan = cells(Wanted(only=['freed/plain']), 1)
        tap.equal({cell.mode.key for cell in again.missing(plan)}, {'plain', 'ballast'}, 'to be done')
        again.add(_row('plain'))
        tap.equal(len(results.read_rows(again.path)), 2, 'rows')
        _begin_refused(directory, Settings(memory=512), True, '--memory 320')
        _begin_refused(directory, SETTINGS, False, '--resume')
        _begin_refused(directory + '/none', SETTINGS, True, 'no results')


def _begin_refused(directory: str, settings: Settings, resume: bool, word: str) -> None:
    try:
        results.Store(Path(directory)).begin(settings, resume)
    except BadRequest as error:
        assert word in str(error), error
        return
    raise AssertionError('not refused')


@tap.case('CSV, charts and page of good, dead and missing cells')
def report() -> None:
    """The medians are medians, a dead guest is named, nothing is put into the page as HTML."""
    rows = [_row('hints', total_ms=ms, round=number) for number, ms in enumerate((1000, 9000, 2000), 1)]
    rows += [_row('ballast', total_ms=500), {**_row('plain'), 'status': 'dead', 'reason': 'BUG: <b>&'},
             {'round': 1, 'guest': 'freed', 'transport': 'limit', 'mode': 'hints', 'status': 'endless',
              'reason': 'did not converge'}]
    lines = list(csv.DictReader(results.to_csv(rows).splitlines()))
    tap.equal([line['total_ms'] for line in lines], ['1000', '9000', '2000', '500', '1000', ''])
    summary = results.Summary(rows)
    tap.equal(summary.value('freed', 'plain', 'hints', 'total_ms'), 2000)
    chart = chart_of('time')
    drawn = by_guest(chart, summary, 'plain')
    assert '0.25 of what stock, hints has' in sentence(chart, drawn), sentence(chart, drawn)
    svg = draw(chart, drawn)
    words = {element.text for element in ElementTree.fromstring(svg).iter() if element.tag.endswith('text')}
    assert {'2.00', '0.50', 'the guest died', 'used, then freed'} <= words, words
    html = page.page(rows, SETTINGS, {'processor': 'one'})
    assert 'BUG: &lt;b&gt;&amp;' in html and '<b>&' not in html
    assert not re.search(r'(src|href)=', html), 'the page needs something else'
    assert '<svg' in page.page(rows[-1:], SETTINGS, {}), 'a chart of the only transport'
    assert '<svg' not in page.page([], SETTINGS, {}), 'a chart of nothing'


@tap.case('a bar and a clock')
def progress() -> None:
    """At both ends."""
    tap.equal((bar(0, 9, 4), bar(9, 9, 4), bar(0, 0, 2)), ('[----]', '[####]', '[--]'))
    tap.equal((clock(0), clock(61.9)), ('0:00', '1:01'))


def _lab(*arguments: str) -> 'subprocess.CompletedProcess[str]':
    return subprocess.run([sys.executable, '-B', '-m', 'lab', *arguments], text=True, check=False,
                          env={**os.environ, 'PYTHONPATH': f'{HERE}:{HERE.parent / "lib"}'},
                          stdin=subprocess.DEVNULL, capture_output=True, timeout=300)


@tap.case('wrong options are refused in one line')
def refusals() -> None:
    """Before anything is launched."""
    for arguments in (['--guest', 'fred'], ['--qemu', '/none'], ['--kernel', '/none'], ['--only', 'x/y'],
                      ['--out', '/proc/none'], ['--stock'], ['--survival', '5', '--guest', 'thp']):
        result = _lab(*arguments)
        tap.equal((result.returncode, len(result.stderr.strip().splitlines())), (2, 1), str(arguments))
        assert arguments[0].split('/')[0] in result.stderr and 'Traceback' not in result.stderr, result.stderr
    for arguments in (['--rounds', '0'], ['--memory', '1G'], ['--onl', 'x']):
        tap.equal(_lab(*arguments).returncode, 2, str(arguments))


@tap.case('one small cell of each mode, and a QEMU that does not start')
def small_cells() -> None:
    """The rows, and the report that is made of them."""
    need_guests()
    with tempfile.TemporaryDirectory(prefix='ballast-') as directory:
        result = _lab('--only', 'fresh/plain', '--memory', '320', '--out', directory)
        tap.note(result.stdout + result.stderr)
        tap.equal(result.returncode, 0, 'exit status')
        rows = {row['mode']: row for row in results.read_rows(Path(directory) / 'cells.jsonl')}
        tap.equal({mode: row['status'] for mode, row in rows.items()},
                  {mode: 'ok' for mode in ('plain', 'hints', 'ballast')}, 'rows')
        _plausible(rows)
        assert 'nothing lost in 1 migrations' in (Path(directory) / 'index.html').read_text('utf-8')
        _dead_qemu(directory)


def _plausible(rows: Dict[str, Row]) -> None:
    """Figures that cannot be otherwise."""
    assert rows['ballast']['hints_applied'] > 0, rows['ballast']
    assert 'hints' not in rows['hints'] and 'hints' not in rows['plain']
    for row in rows.values():
        assert 32 << 20 < row['bytes'] < 320 << 20 and row['pages'] * 4096 < row['bytes'], row
        assert row['destination_growth'] > 32 << 20 and row['checked_pieces'] > 0, row
        assert row['source_cpu_ms'] > 0 and row['source_rss'] > 64 << 20, row


def _dead_qemu(directory: str) -> None:
    """A cell that fails is a row with the reason."""
    result = _lab('--only', 'fresh/plain/ballast', '--memory', '320', '--out', directory + '/dead',
                  '--qemu', '/bin/false')
    tap.equal(result.returncode, 4, 'exit status')
    lines: List[str] = (Path(directory) / 'dead' / 'cells.jsonl').read_text('utf-8').splitlines()
    tap.equal([json.loads(line)['status'] for line in lines], ['failed'])


if __name__ == '__main__':
    tap.main()
