# SPDX-License-Identifier: GPL-2.0-or-later
"""python3 -m lab: the lab, without the set-up."""

from __future__ import annotations

import argparse
import logging
import shutil
import signal
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Dict, List, NoReturn, Optional, Sequence

from guest import GuestTrouble, image_missing
from ballast import paths

from . import page, survival
from .cell import Row, Settings, Source, attempt, failure, migrate, one_line
from .plan import MODES, SHAPES, TRANSPORTS, BadRequest, Cell, Wanted, cells, groups
from .progress import Progress, clock
from .results import Store, exit_status, row_of

QUICK_MEMORY = 384
SECONDS_PER_CELL = 9        # a guess for the start; the bar knows better after the first cells
OVERHEAD = 160              # MiB of QEMU itself, of both sides


def _number(low: int, high: int) -> 'type[int]':
    def parse(text: str) -> int:
        if not text.isdigit() or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(f'{text!r}: a number from {low} to {high} is allowed')
        return int(text)
    return parse        # type: ignore[return-value]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog='lab', allow_abbrev=False, description=__doc__)
    add = parser.add_argument
    add('--out', type=Path, default=paths.REPO / 'report', metavar='DIR', help='where to (default: report)')
    add('--quick', action='store_true', help='small guests, fewer cells: under five minutes on two cores')
    for what, keys in (('mode', [mode.key for mode in MODES]), ('guest', [shape.key for shape in SHAPES]),
                       ('transport', [transport.key for transport in TRANSPORTS])):
        add(f'--{what}', action='append', default=[], metavar='NAME', help=', '.join(keys))
    add('--only', action='append', default=[], metavar='GUEST[/TRANSPORT[/MODE]]', help='such cells; * is any')
    add('--rounds', type=_number(1, 100), default=1, metavar='N', help='each cell so often, in turns')
    add('--memory', type=_number(320, 65536), metavar='MIB', help='of a guest (default: 1024, quick 384)')
    add('--rate', type=_number(1, 1024), default=32, metavar='MIB', help='written per second when dirtying')
    add('--limit', type=_number(1, 65536), default=64, metavar='MIB', help='per second, limited transport')
    add('--timeout', type=_number(5, 3600), default=120, metavar='S', help='until a migration is cancelled')
    add('--resume', action='store_true', help='go on with the results in DIR')
    add('--fresh', action='store_true', help='forget the results in DIR')
    add('--list', action='store_true', help='say which cells that would be, and end')
    add('--survival', type=_number(1, 10000), nargs='?', const=100, metavar='N',
        help='instead: so many migrations (default: 100) of each of five guests that should all live')
    add('--stock', action='store_true', help='--survival: stock QEMU with hints as well, for comparison')
    for name, text in (('qemu', "Ballast's QEMU"), ('stock-qemu', 'the QEMU to compare with'),
                       ('plugin', 'ballast-qemu.so'), ('kernel', 'of the guests'), ('initrd', 'of the guests'),
                       ('append', "to the guests' kernel command line")):
        add(f'--{name}', default='', metavar='TEXT' if name == 'append' else 'PATH', help=text)
    return parser


def _file(option: str, path: str) -> str:
    if path and not Path(path).is_file():
        raise BadRequest(f'{option} {path}: there is no such file')
    return str(Path(path).resolve()) if path else ''


def _program(option: str, path: str) -> str:
    found = shutil.which(path)
    if not found:
        raise BadRequest(f'{option} {path}: there is no such program')
    return found


def settings_of(given: argparse.Namespace) -> Settings:
    """What was asked for, checked."""
    return Settings(
        memory=given.memory or (QUICK_MEMORY if given.quick else 1024), rate=given.rate, limit=given.limit,
        timeout=given.timeout, qemu=_program('--qemu', given.qemu or paths.QEMU),
        stock_qemu=_program('--stock-qemu', given.stock_qemu or paths.QEMU),
        plugin=_file('--plugin', given.plugin), kernel=_file('--kernel', given.kernel),
        initrd=_file('--initrd', given.initrd), append=given.append)


def available_mib() -> int:
    """What the machine can give."""
    lines = Path('/proc/meminfo').read_text('ascii').splitlines()
    return next(int(line.split()[1]) >> 10 for line in lines if line.startswith('MemAvailable:'))


def need(plan: Sequence[Cell], settings: Settings) -> None:
    """Refuse what cannot work here, in one line."""
    if any(cell.mode.ballast for cell in plan) and not paths.has_ballast():
        raise BadRequest(f'not found: the plug-in ({paths.PLUGIN}); run scripts/setup, or --mode plain,hints')
    missing = '' if settings.kernel and settings.initrd else image_missing()
    if missing:
        raise BadRequest(f'not found: {missing}')
    wanted = max(len(group) + 1 for group in groups(plan)) * (settings.memory + OVERHEAD)
    if wanted > available_mib():
        raise BadRequest(f'needs {wanted} MiB of free memory, there are {available_mib()}; try --memory')


def prepare(group: Sequence[Cell], settings: Settings, stack: ExitStack,
            failed: Dict[str, Row]) -> Dict[str, Source]:
    """Boot and fill the guests of a group side by side, one of each mode; who fails is out."""
    sources: Dict[str, Source] = {}
    for cell in group:
        try:
            sources[cell.mode.key] = Source(cell, settings, stack)
        except Exception as error:  # pylint: disable=broad-except
            failed[cell.mode.key] = failure(error)
    for step in (Source.launch, Source.fill, Source.ready):
        for mode, source in list(sources.items()):
            trouble = attempt(step, source)
            if trouble:
                failed[mode] = trouble
                del sources[mode]
    return sources


def _one(source: Source) -> Row:
    stack = ExitStack()
    stack.callback(source.guest.close)
    try:
        return migrate(source, stack)
    except Exception as error:  # pylint: disable=broad-except
        return failure(error)
    finally:
        stack.close()


def run_group(group: Sequence[Cell], settings: Settings, store: Store, progress: Progress) -> None:
    """The modes of one guest, one after the other."""
    progress.doing(f'{group[0].shape.title}, {group[0].transport.title}: preparing')
    failed: Dict[str, Row] = {}
    with ExitStack() as stack:
        sources = prepare(group, settings, stack, failed)
        for cell in group:
            progress.doing(cell.name)
            mode = cell.mode.key
            row = row_of(cell, failed[mode] if mode in failed else _one(sources[mode]))
            store.add(row)
            progress.finished(cell.name, row)


def run(plan: Sequence[Cell], settings: Settings, store: Store) -> bool:
    """Everything that is missing; False if somebody ended it."""
    todo = store.missing(plan)
    progress = Progress(len(todo))
    print(f'lab: {len(todo)} migrations, about {clock(len(todo) * SECONDS_PER_CELL)} minutes'
          + (f' ({len(plan) - len(todo)} are there already)' if len(plan) > len(todo) else ''), flush=True)
    try:
        for group in groups(todo):
            run_group(group, settings, store, progress)
    except KeyboardInterrupt:
        progress.end()
        print('lab: interrupted; its guests were ended, --resume goes on', file=sys.stderr)
        return False
    progress.end()
    return True


def conclude(store: Store, settings: Settings, whole: bool) -> int:
    """The report of what there is."""
    page.write(store.directory, store.rows, settings)
    status = exit_status(store.rows)
    bad = {3: 'a Ballast cell LOST DATA or its guest died', 4: 'a Ballast cell could not be measured'}
    print(f'lab: {len(store.rows)} cells in {store.directory}: cells.csv, index.html, charts'
          + (f'; {bad[status]}' if status else ''), flush=True)
    return status if whole else 130


def survive(given: argparse.Namespace, settings: Settings) -> int:
    """--survival."""
    try:
        status = survival.survey(given.survival, settings, given.out, ['hints'] * given.stock + ['ballast'])
    except (GuestTrouble, TimeoutError) as trouble:
        print(f'lab: guests do not boot here: {one_line(trouble)}', file=sys.stderr)
        return 4
    print(f'lab: {given.out}/survival.csv has every migration'
          + ('; a guest of Ballast DIED' if status == 3 else ''), flush=True)
    return status


def _interrupt(*_: object) -> NoReturn:
    """A polite signal ends the lab like Ctrl-C: its guests go with it."""
    raise KeyboardInterrupt


def lab(given: argparse.Namespace) -> int:
    """Plan, check, run, report."""
    if given.stock and not given.survival:
        raise BadRequest('--stock goes with --survival only')
    if given.survival and (given.mode or given.guest or given.transport or given.only or given.resume):
        raise BadRequest('--survival has guests of its own: no filter goes with it, and no --resume')
    wanted = Wanted(given.mode, given.guest, given.transport, given.only, given.quick)
    plan = cells(wanted, given.rounds)
    if given.list:
        print('\n'.join('/'.join(map(str, cell.key[1:])) for cell in plan if cell.round == 1))
        return 0
    settings = settings_of(given)
    if settings.plugin:
        paths.PLUGIN = Path(settings.plugin)
    need(plan, settings)
    if given.survival:
        return survive(given, settings)
    store = Store(given.out)
    try:
        store.begin(settings, given.resume, given.fresh)
    except OSError as error:
        raise BadRequest(f'--out {given.out}: {error.strerror}') from error
    return conclude(store, settings, run(plan, settings, store))


def main(arguments: Optional[List[str]] = None) -> int:
    """Arguments, then the lab."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    logging.disable()       # what went wrong is in the rows
    try:
        return lab(_parser().parse_args(arguments))
    except BadRequest as error:
        print(f'lab: {error}', file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print('lab: interrupted', file=sys.stderr)
        return 130


if __name__ == '__main__':
    sys.exit(main())
