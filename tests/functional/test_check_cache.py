#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""scripts/lib/check.py on a small tree: what it runs again, what it takes from an earlier run."""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator, List, Optional

REPO = Path(__file__).resolve().parents[2]
LIBRARY = REPO / 'scripts' / 'lib'
sys.path[:0] = [str(REPO / 'tests' / 'lib'), str(LIBRARY)]

# pylint: disable=wrong-import-position
import check                                # noqa: E402
from ballast import tap                     # noqa: E402
from ballast.vm import wait_until           # noqa: E402

PACKAGES = Path('/var/lib/dpkg/status')     # without it nothing is kept
PASSED, FAILED = 'echo "ok 1 - works"', 'echo "not ok 1 - works"; exit 1'
NO_TESTS = '#!/bin/sh\necho "[]"\n'         # a meson that knows none


class Tree:
    """A project with check.py, a build directory, and test programs that tell when they run."""

    def __init__(self, top: Path) -> None:
        self.top = top
        self.ran = top.parent / 'ran'       # outside: it is no input
        for name in ('check.py', 'results.py', 'series.py'):
            self.write(f'scripts/lib/{name}', (LIBRARY / name).read_text('utf-8'))
        self.write('build/product', 'built')
        self.meson = str(self.write('meson', NO_TESTS, 0o755))

    def write(self, name: str, text: str, mode: int = 0o644) -> Path:
        """A file of the tree."""
        path = self.top / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, 'utf-8')
        path.chmod(mode)
        return path

    def program(self, name: str, *lines: str, tests: int = 1) -> None:
        """A test program, in shell."""
        body = '\n'.join(['#!/bin/sh', f'echo {name} >>{self.ran}', f'echo 1..{tests}', *lines, ''])
        self.write(f'tests/functional/test_{name}.py', body, 0o755)

    def command(self, *options: str) -> List[str]:
        """check.py as scripts/check starts it."""
        return [sys.executable, '-B', str(self.top / 'scripts/lib/check.py'), '--meson', self.meson,
                '--build', str(self.top / 'build'), '--qemu', 'true',
                '--qemu-src', str(self.top / 'no-qemu'), *options]

    def check(self, *options: str, variable: str = '') -> 'Outcome':
        """One run of check.py on the test programs."""
        self.ran.write_text('', 'utf-8')
        done = subprocess.run(self.command('--pattern', 'functional/', *options), check=False,
                              capture_output=True, text=True, timeout=60,
                              env={**os.environ, 'BALLAST_VARIABLE': variable})
        tap.equal(done.stderr, '', 'stderr')
        return Outcome(done.stdout.splitlines(), self.ran.read_text('utf-8').split())


class Outcome:
    """What a run of check.py printed, and which programs it ran."""

    def __init__(self, lines: List[str], ran: List[str]) -> None:
        self.lines = lines
        self.ran = sorted(ran)
        self.unchanged = sum(line.endswith('  (unchanged)') for line in lines)
        self.summary = lines[-1]


@contextmanager
def tree(*programs: str, need_packages: bool = True) -> Iterator[Tree]:
    """A tree whose programs of these names pass."""
    tap.need(PACKAGES.exists() or not need_packages, f'{PACKAGES}')
    with tempfile.TemporaryDirectory(prefix='ballast-') as directory:
        here = Tree(Path(directory) / 'tree')
        for name in programs:
            here.program(name, PASSED)
        yield here


def _expect(outcome: Outcome, ran: List[str], summary: str) -> None:
    tap.equal(outcome.ran, ran, 'programs that ran')
    tap.equal(outcome.summary, summary, 'summary')


@tap.case('a pass is not run again: shown as unchanged, counted, and said before the summary')
def unchanged() -> None:
    """Also after another run that takes it from the earlier one."""
    with tree('a', 'b') as here:
        _expect(here.check(), ['a', 'b'], '2 passed, 0 failed, 0 skipped')
        for _ in range(2):
            outcome = here.check()
            _expect(outcome, [], '2 passed, 0 failed, 0 skipped')
            tap.equal(outcome.lines[:-2], ['PASS  functional/a: works  (unchanged)',
                                           'PASS  functional/b: works  (unchanged)'])
            assert re.match('2 of these passed in an earlier run.* --fresh', outcome.lines[-2])


@tap.case('what is new is run, what passed before is not')
def mixed() -> None:
    """And only the latter is called unchanged."""
    with tree('a') as here:
        here.check()
        here.program('b', PASSED)
        outcome = here.check()
        _expect(outcome, ['b'], '2 passed, 0 failed, 0 skipped')
        tap.equal(outcome.unchanged, 1)


def _change(name: str, text: str, ran: str, mode: int = 0o644) -> None:
    """Programs a and b passed; a file gets another content."""
    with tree('a', 'b') as here:
        here.write('tests/lib/helper.py', '1\n')
        here.write('README.md', 'Old.\n')
        here.check()
        _expect(here.check(), [], '2 passed, 0 failed, 0 skipped')
        here.write(name, text, mode)
        _expect(here.check(), ran.split(), '2 passed, 0 failed, 0 skipped')
        _expect(here.check(), [], '2 passed, 0 failed, 0 skipped')


_OTHER_A = f'#!/bin/sh\necho a >>"$(dirname "$0")/../../../ran"\necho 1..1\n{PASSED} # changed\n'
tap.add('a changed program runs again, by itself', _change, 'tests/functional/test_a.py', _OTHER_A,
        'a', 0o755)
tap.add('a changed helper: all run', _change, 'tests/lib/helper.py', '2\n', 'a b')
tap.add('a new file: all run', _change, 'ledger/new.c', '', 'a b')
tap.add('a changed build: all run', _change, 'build/product', 'built anew', 'a b')
tap.add('a changed guest image: all run', _change, 'build/deps/guest/vmlinuz', 'new', 'a b')
tap.add('another check.py: all run', _change, 'scripts/lib/check.py',
        (LIBRARY / 'check.py').read_text('utf-8') + '#\n', 'a b')
tap.add('documentation: none runs', _change, 'README.md', 'New.\n', '')
tap.add('logs of setup and other builds: none runs', _change, 'build/deps/log/build.log', 'x', '')


@tap.case('a changed mode, variable or option: all run')
def other_facts() -> None:
    """What is not in a file's content."""
    with tree('a') as here:
        product = here.write('build/product', 'built')
        here.check()
        product.chmod(0o755)
        tap.equal(here.check().ran, ['a'], 'after a changed mode')
        tap.equal(here.check(variable='x').ran, ['a'], 'with another variable')
        tap.equal(here.check('--full', variable='x').ran, ['a'], 'with --full')


@tap.case('a program that another one names is an input of all')
def imported() -> None:
    """It may be imported."""
    with tree('a', 'b') as here:
        here.write('tests/functional/helper.py', 'import test_b\n')
        here.check()
        here.program('b', PASSED, '# changed')
        tap.equal(here.check().ran, ['a', 'b'], 'programs that ran')


def _runs_again(lines: List[str], summary: str, tests: int = 1) -> None:
    """Never kept, neither as a whole nor in part."""
    with tree() as here:
        here.program('a', *lines, tests=tests)
        for _ in range(2):
            _expect(here.check(), ['a'], summary)


tap.add('a failure is not kept', _runs_again, [FAILED], '0 passed, 1 failed, 0 skipped')
tap.add('a skip is not kept', _runs_again, ['echo "ok 1 - works # SKIP no"'],
        '0 passed, 0 failed, 1 skipped')
tap.add('a program that ends badly is not kept', _runs_again, [PASSED, 'exit 1'],
        '1 passed, 1 failed, 0 skipped')
tap.add('a pass next to a skip is not kept', _runs_again,
        [PASSED, 'echo "ok 2 - rest # SKIP no"'], '1 passed, 0 failed, 1 skipped', 2)


@tap.case('what failed is told again before the summary, with its last words')
def told_again() -> None:
    """Whoever sees only the end of a long log sees it, too."""
    with tree('b', 'c') as here:
        here.program('a', 'echo "not ok 1 - works"; echo "# why"; exit 1')
        outcome = here.check()
        tap.equal(outcome.summary, '2 passed, 1 failed, 0 skipped')
        told = outcome.lines[outcome.lines.index('What failed, again:') + 1:-1]
        assert told[0].startswith('  FAIL  functional/a: works') and told[2].endswith('| # why'), told
        tap.equal(sum(line.startswith('FAIL') for line in outcome.lines), 1, 'lines that begin so')


@tap.case('--fresh runs all; a failure then forgets the earlier pass')
def fresh() -> None:
    """The program fails as long as a file that is no input is there."""
    with tree() as here:
        trouble = here.top.parent / 'trouble'
        here.program('a', f'[ ! -e {trouble} ] || {{ {FAILED}; }}', PASSED)
        here.check()
        tap.equal(here.check('--fresh').ran, ['a'], 'programs that ran')
        tap.equal(here.check().ran, [], 'programs that ran')
        trouble.touch()
        tap.equal(here.check().summary, '1 passed, 0 failed, 0 skipped')
        tap.equal(here.check('--fresh').summary, '0 passed, 1 failed, 0 skipped')
        tap.equal(here.check().summary, '0 passed, 1 failed, 0 skipped')


def _damage(here: Tree) -> Iterator[str]:
    """Each time the file is damaged in another way: how."""
    path, = (here.top / 'build/test-results').iterdir()
    good = path.read_text('utf-8')
    for how, text in (('cut', good[:len(good) // 2]), ('empty', ''), ('no object', '[1]'),
                      ('no key', '{}'), ('another name', good.replace('works', 'words')),
                      ('more tests', good.replace('"passed": [', '"passed": ["functional/x: y",')),
                      ('no list', re.sub(r'\[[^]]*\]', '7', good)), ('no text', '\0\udcff')):
        assert text != good
        path.write_bytes(text.encode('utf-8', 'surrogateescape'))
        yield how
    path.unlink()
    path.mkdir()
    yield 'a directory'


@tap.case('a damaged result is none')
def damaged() -> None:
    """The program runs, and its result is right again unless it cannot be written."""
    with tree('a') as here:
        here.check()
        for how in _damage(here):
            _expect(here.check(), ['a'], '1 passed, 0 failed, 0 skipped')
            tap.note(how)


@tap.case('no room for results: all run, none fails')
def unwritable() -> None:
    """A file is where the folder should be."""
    with tree('a') as here:
        here.write('build/test-results', '')
        for _ in range(2):
            _expect(here.check(), ['a'], '1 passed, 0 failed, 0 skipped')


@tap.case('an input that changes while the program runs: not kept')
def meanwhile() -> None:
    """Nobody knows which of the two it read, also when it is then as it was."""
    with tree() as here:
        helper = here.write('tests/lib/helper.py', 'old')
        here.program('a', f'echo new >{helper}', PASSED)
        for _ in range(2):
            _expect(here.check(), ['a'], '1 passed, 0 failed, 0 skipped')
            here.write('tests/lib/helper.py', 'old')


@tap.case('builds begin first, then what takes long, each of which there is')
def longest() -> None:
    """The report's order is another one, and stays."""
    names = ['static/spdx', 'build/clang', 'unit', 'qtest/absent', 'qtest/device', 'functional/libvirt', 'series']
    tap.equal(sorted(names, key=check.turn),
              ['static/spdx', 'build/clang', 'series', 'functional/libvirt', 'qtest/absent', 'unit', 'qtest/device'])
    folders = {'qtest': 'tests/qtest/ballast', 'functional': 'tests/functional'}
    for kind, _, program in (name.partition('/') for name in check.LONGEST):
        assert not program or (REPO / folders[kind] / f'test_{program}.py').exists(), f'no {kind}/{program}'


@tap.case('two run at once, and report in order')
def two_at_once() -> None:
    """The first one waits for the second, and goes on when that has long ended."""
    tap.need(check.at_once() > 1, 'two processors, and memory for two')
    with tree() as here:
        signal_ = here.top.parent / 'signal'
        here.program('a', f'until [ -e {signal_} ]; do sleep 0.05; done', 'sleep 1', PASSED)
        here.program('b', f'touch {signal_}', PASSED)
        lines = [line.split('  ')[1] for line in here.check().lines[:-1]]
        tap.equal(lines, ['functional/a: works', 'functional/b: works'], 'order')


def _process(path: Path) -> Optional[int]:
    text = path.read_text('utf-8') if path.exists() else ''
    return int(text) if text.endswith('\n') else None


@tap.case('a polite signal ends the programs, too')
def interrupted() -> None:
    """What was not shown is not counted."""
    with tree('b', need_packages=False) as here:
        pid = here.top.parent / 'pid'
        here.program('a', f'echo $$ >{pid}', 'sleep 60', PASSED)
        command = here.command('--pattern', 'functional/')
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
            program = wait_until(lambda: _process(pid), 'the program to start')
            running.send_signal(signal.SIGTERM)
            output = running.communicate(timeout=100)[0]
        tap.equal(running.returncode, 130, 'exit status')
        assert output.endswith('0 passed, 1 failed, 0 skipped\n'), output
        assert not Path(f'/proc/{program}').exists(), 'the program runs on'


_MESON = """project('x')
test('fixed', find_program('t.sh'), args: 'fixed', protocol: 'tap', suite: 'unit')
test('drawn', find_program('t.sh'), args: 'drawn', protocol: 'tap', suite: ['unit', 'random'])
"""


@tap.case('unit tests: each on its own, random ones always, but brief')
def unit() -> None:
    """With the real meson."""
    with tree() as here:
        here.meson = shutil.which('meson') or ''
        tap.need(here.meson and shutil.which('ninja'), 'meson and ninja')
        here.write('t.sh', f'#!/bin/sh\necho $1$BALLAST_BRIEF >>{here.ran}\necho 1..1\n{PASSED}\n', 0o755)
        here.write('meson.build', _MESON)
        shutil.rmtree(here.top / 'build')
        subprocess.run([here.meson, 'setup', 'build'], cwd=here.top, check=True, timeout=60,
                       stdout=subprocess.DEVNULL)
        for ran, unchanged_ in ((['drawn', 'fixed'], 0), (['drawn1'], 1), (['drawn1'], 1)):
            outcome = here.check('--pattern', 'unit/')
            _expect(outcome, ran, '2 passed, 0 failed, 0 skipped')
            tap.equal(outcome.unchanged, unchanged_, 'unchanged')


@tap.case('no program reads documentation, which only the keys of unit tests have')
def documentation() -> None:
    """Whoever adds one that does must put it into its key (tree() in check.py: docs/examples and docs/schema are)."""
    pattern = re.compile(r"""['"/](docs/(?!examples|schema)|docs['"]|[\w/]+\.md\b)""")
    own = Path(__file__).resolve()
    for path in sorted((REPO / 'tests').rglob('*')):
        if path.suffix == '.py' and path != own and 'unit' not in path.parts:
            found = pattern.search(path.read_text('utf-8'))
            assert not found, f'{path.name} names {found[0] if found else ""}'


if __name__ == '__main__':
    tap.main()
