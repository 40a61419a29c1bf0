#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The demo, without the set-up: it passes, reports, and fails in one line."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Mapping
from xml.etree import ElementTree

from fixture import need_guests
from ballast import paths, tap
from demo.__main__ import NEEDED, available_memory

HERE = Path(__file__).resolve().parent
TIMEOUT = 400


def _demo(directory: str, env: Mapping[str, str]) -> 'subprocess.CompletedProcess[str]':
    report = str(Path(directory) / 'report')
    log = str(Path(directory) / 'log')
    return subprocess.run([sys.executable, '-B', '-m', 'demo', '--report', report, '--log', log],
                          env={**os.environ, 'PYTHONPATH': str(HERE), **env}, text=True,
                          stdin=subprocess.DEVNULL, capture_output=True, check=False,
                          timeout=TIMEOUT)


@tap.case('every step passes, numbers and picture are written')
def passes() -> None:
    """On a terminal's behalf: nothing on stderr, no escape sequences in a file."""
    tap.need(paths.CLI.exists(), f'the ballast command ({paths.CLI})')
    need_guests()
    tap.need(available_memory() >= NEEDED, f'{NEEDED >> 20} MiB of free memory')
    with tempfile.TemporaryDirectory(prefix='ballast-') as directory:
        result = _demo(directory, {})
        tap.note(result.stdout)
        tap.equal((result.returncode, result.stderr), (0, ''), 'exit status and stderr')
        assert '\033' not in result.stdout, 'colours in a file'
        report = json.loads((Path(directory) / 'report' / 'demo.json').read_text('utf-8'))
        tap.equal(report['result'], 'passed')
        tap.equal([step['result'] for step in report['steps']], ['passed'] * 6, 'steps')
        ElementTree.parse(Path(directory) / 'report' / 'ledger.svg')


@tap.case('without a build it says so in one line')
def one_line() -> None:
    """And the exit status is not 0."""
    with tempfile.TemporaryDirectory(prefix='ballast-') as directory:
        result = _demo(directory, {'BALLAST_BUILD': directory, 'QEMU_SRC': str(paths.QEMU_SRC)})
        tap.equal(result.returncode, 1, 'exit status')
        tap.equal(len(result.stderr.strip().splitlines()), 1, 'lines of error')
        assert 'Traceback' not in result.stdout + result.stderr
        tap.note(result.stderr)


if __name__ == '__main__':
    tap.main()
