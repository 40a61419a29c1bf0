# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs all tests of a built tree for scripts/check, and reports them.

Three kinds: static checks and extra builds (here), what meson knows (unit
tests), and programs that print TAP (tests/qtest/ballast, tests/functional).
Two run at a time, each reports when it is its turn.  What passed before with
the same inputs is not run again (results.py).
"""

import argparse
import fnmatch
import functools
import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Callable, NamedTuple, Optional

import results
import series

TOP = os.path.dirname(os.path.dirname(os.path.dirname(
    os.path.abspath(__file__))))

PROGRAM_TIMEOUT = 900       # of one program, beside another one
FULL_TIMEOUT = 5400         # of one that does what takes long
TAIL_LINES = 30
AT_ONCE = 2                 # as long as each has a processor and
ROOM = 4 << 20              # so much free memory, in KiB

# These begin first, so that none is left over when all others have ended.
LONGEST = ('series', 'functional/libvirt', 'qtest/late_hint', 'qtest/absent',
           'unit', 'functional/numa_host', 'functional/driver',
           'functional/migration', 'qtest/vhost', 'qtest/moving', 'qtest/fuzz',
           'qtest/garbage', 'functional/survival')

TAP_LINE = re.compile(r'^(not )?ok\b[ \t]*(\d+)?[ \t]*(?:-[ \t]*)?(.*)$')
TAP_PLAN = re.compile(r'^1\.\.(\d+)[ \t]*(?:#[ \t]*(?:skip\S*)[ \t]*(.*))?$',
                      re.IGNORECASE)
TAP_DIRECTIVE = re.compile(r'(?:^|[ \t])#[ \t]*(skip|todo)\S*[ \t]*(.*)$',
                           re.IGNORECASE)

SOURCE_NAMES = {'meson.build', 'meson_options.txt', 'Makefile', 'Kbuild',
                'Kconfig', 'dkms.conf'}
SOURCE_SUFFIXES = ('.c', '.h', '.S', '.s', '.ld', '.py', '.sh', '.bt',
                   '.service')


class Report:
    """Counts results and prints one line for each."""

    def __init__(self, pattern):
        self.pattern = pattern
        self.count = {'PASS': 0, 'FAIL': 0, 'SKIP': 0}
        self.unchanged = 0
        self.failures = []      # lines, told again at the end
        self.lock = threading.Lock()

    def wants(self, name):
        if not self.pattern:
            return True
        return fnmatch.fnmatchcase(name, f'*{self.pattern}*')

    def summary(self):
        n = self.count
        if self.failures:
            print('What failed, again:')
            print('\n'.join(f'  {line}' for line in self.failures))
        if self.unchanged:
            print(f'{self.unchanged} of these passed in an earlier run, and '
                  'what they can read has not changed; scripts/check --fresh '
                  'runs them all')
        print(f"{n['PASS']} passed, {n['FAIL']} failed, {n['SKIP']} skipped",
              flush=True)
        return 0 if n['FAIL'] == 0 and n['PASS'] > 0 else 1


class Section:
    """The part of a report that one unit writes: kept until it is its turn,
    counted and printed at once from then on."""

    def __init__(self, report):
        self.report = report
        self.tests = []         # (status, name), all
        self.kept = []          # (text, status, unchanged), not yet shown
        self.open = False

    def put(self, text, status=None, unchanged=False):
        with self.report.lock:
            self.kept.append((text, status, unchanged))
            if self.open:
                self.show()

    def show(self):
        for text, status, unchanged in self.kept:
            print(text)
            if status:
                self.report.count[status] += 1
            if status in ('FAIL', None):    # None: details of it
                self.report.failures.append(text)
            self.report.unchanged += unchanged
        self.kept.clear()
        sys.stdout.flush()

    def take_turn(self):
        with self.report.lock:
            self.open = True
            self.show()

    def add(self, status, name, seconds=None, reason=''):
        self.tests.append((status, name))
        line = f'{status}  {name}'
        if seconds is not None:
            line += f'  {seconds:.1f} s'
        if reason:
            line += f'  ({reason})'
        self.put(line, status)

    def again(self, names):
        """Tests that passed in an earlier run."""
        for name in names:
            self.put(f'PASS  {name}  (unchanged)', 'PASS', True)

    def detail(self, text, where=None):
        """The end of a failed test's output, indented."""
        for line in text.rstrip().splitlines()[-TAIL_LINES:]:
            self.put(f'      | {line}')
        if where:
            self.put(f'      whole output: {os.path.relpath(where, TOP)}')

    def passed(self, start=0):
        """Names of the tests since then if all passed, or []."""
        tests = self.tests[start:]
        good = all(status == 'PASS' for status, _ in tests)
        return [name for _, name in tests] if good else []


class Unit(NamedTuple):
    """What is run, and run again, as a whole."""

    name: str
    check: Callable             # check(name, section)
    key: Optional[Callable]     # of its inputs; None: it always runs


class Tap:
    """Reads TAP line by line and reports each test of it."""

    def __init__(self, report, program):
        self.report = report
        self.program = program
        self.plan = None
        self.seen = 0
        self.failed = 0
        self.bailed = ''
        self.last = time.monotonic()

    def line(self, line, timed=True):
        line = line.rstrip('\r\n')
        plan = TAP_PLAN.match(line)
        if plan:
            if self.plan is not None:
                self.bailed = 'two plan lines'
            self.plan = int(plan.group(1))
            if self.plan == 0:
                self.report.add('SKIP', self.program, None,
                                plan.group(2) or 'no reason given')
            return
        if line.startswith('Bail out!'):
            self.bailed = line
            return
        match = TAP_LINE.match(line)
        if not match:
            return
        self.seen += 1
        if match.group(2) and int(match.group(2)) != self.seen:
            self.bailed = f'test {match.group(2)} where {self.seen} was due'
        bad, text, reason, word = match.group(1), match.group(3), '', ''
        directive = TAP_DIRECTIVE.search(text)
        if directive:
            word = directive.group(1).lower()
            reason = directive.group(2)
            text = text[:directive.start()].rstrip()
        if word == 'skip':
            status, reason = 'SKIP', reason or 'no reason given'
        elif word == 'todo' and bad:
            status, reason = 'SKIP', f'not done yet: {reason}'
        elif bad:
            status = 'FAIL'
            self.failed += 1
        else:
            status = 'PASS'
        now = time.monotonic()
        self.report.add(status, f'{self.program}: {text or self.seen}',
                        now - self.last if timed else None, reason)
        self.last = now

    def trouble(self, exit_text):
        """What was wrong apart from tests that said "not ok"."""
        if self.bailed:
            return self.bailed
        if self.plan is None:
            return f'{exit_text}, no plan line (1..N)'
        if self.plan != self.seen:
            return f'{exit_text}, {self.seen} of {self.plan} tests ran'
        if exit_text != 'exit status 0' and not self.failed:
            return f'{exit_text} though no test failed'
        return ''


def exit_text(code):
    if code < 0:
        try:
            return f'killed by {signal.Signals(-code).name}'
        except ValueError:
            return f'killed by signal {-code}'
    return f'exit status {code}'


def read_text(path):
    with open(path, encoding='utf-8', errors='replace') as f:
        return f.read()


def failed_parts(text):
    """Each "not ok" line and the end of what was printed after it."""
    parts = []
    for line in text.splitlines():
        if TAP_LINE.match(line):
            parts.append([line])
        elif parts:
            parts[-1].append(line)
    parts = [part for part in parts if part[0].startswith('not ok')]
    share = max(TAIL_LINES // max(len(parts), 1), 3)
    return '\n'.join('\n'.join(part if len(part) <= share else
                               part[:1] + part[1 - share:])
                     for part in parts)


def kill_group(pid, number):
    try:
        os.killpg(pid, number)
    except ProcessLookupError:
        pass


stopping = threading.Event()


class Stopped(Exception):
    """Somebody interrupted the whole run."""


def run(command, log, timeout, env=None, on_line=None):
    """Runs a program in a process group of its own, output to a file.

    Returns its exit code, or None after a time-out.  Nothing of its group
    outlives it: the group is killed while the leader is not yet reaped, so
    that its number cannot be somebody else's.
    """
    if stopping.is_set():
        raise Stopped
    with open(log, 'wb') as out:
        process = subprocess.Popen(command, cwd=TOP, env=env, stdout=out,
                                   stderr=subprocess.STDOUT,
                                   stdin=subprocess.DEVNULL,
                                   start_new_session=True)
    deadline = time.monotonic() + timeout
    pidfd = os.pidfd_open(process.pid)
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    timed_out = False
    try:
        with open(log, encoding='utf-8', errors='replace') as follow:
            partial = ''
            ended = False
            while True:
                # Asked before reading: what was written before the end of
                # the program is read after it is known to have ended.
                ended = ended or bool(poll.poll(100))
                for piece in follow.readlines():
                    partial += piece
                    if partial.endswith('\n'):
                        if on_line:
                            on_line(partial)
                        partial = ''
                if ended:
                    break
                if stopping.is_set():
                    raise Stopped
                if time.monotonic() > deadline:
                    timed_out = True
                    kill_group(process.pid, signal.SIGTERM)
                    ended = bool(poll.poll(5000))
                    break
            if partial and on_line:
                on_line(partial)
    finally:
        kill_group(process.pid, signal.SIGKILL)
        os.close(pidfd)
        process.wait()
    return None if timed_out else process.returncode


def at_once():
    """How many units this machine can run at a time."""
    available = re.search(r'MemAvailable:\s*(\d+)', read_text('/proc/meminfo'))
    return max(1, min(AT_ONCE, len(os.sched_getaffinity(0)),
                      int(available[1]) // ROOM))


def turn(name):
    """When a unit begins: what needs no build first, while that is made."""
    if name.startswith(('static/', 'build/')):
        return -1
    return LONGEST.index(name) if name in LONGEST else len(LONGEST)


class Checker:
    def __init__(self, args):
        self.args = args
        self.report = Report(args.pattern)
        self.logs = os.path.join(args.build, 'test-logs')
        os.makedirs(self.logs, exist_ok=True)
        self.env = self.environment()
        self.contents = results.Contents()
        self.results = results.Results(
            os.path.join(args.build, 'test-results'), args.fresh)
        self.built = None       # a future: the unit tests, once built

    def log(self, name):
        return os.path.join(self.logs, re.sub(r'[^\w.-]+', '-', name) + '.log')

    # static checks

    @staticmethod
    def files():
        """Names in the project, tracked or not, without ignored ones."""
        if os.path.exists(os.path.join(TOP, '.git')) and shutil.which('git'):
            out = subprocess.run(
                ['git', '-c', f'safe.directory={TOP}', 'ls-files', '-z', '-c',
                 '-o', '--exclude-standard'],
                cwd=TOP, stdout=subprocess.PIPE, check=True).stdout.decode()
            return sorted(set(out.split('\0')) - {''})
        names = []
        for folder, folders, files in os.walk(TOP):
            folders[:] = sorted(d for d in folders if d not in
                                ('.git', 'build', '__pycache__'))
            names += [os.path.relpath(os.path.join(folder, f), TOP)
                      for f in sorted(files)]
        return names

    def sources(self):
        return [n for n in self.files()
                if os.path.isfile(os.path.join(TOP, n)) and
                not os.path.islink(os.path.join(TOP, n))]

    @staticmethod
    def head(name):
        with open(os.path.join(TOP, name), 'rb') as f:
            return f.read(4096)

    def is_source(self, name):
        base = os.path.basename(name)
        if name.startswith('patches/') or base.endswith('.patch'):
            return False
        return (base in SOURCE_NAMES or base.endswith(SOURCE_SUFFIXES) or
                name == 'qapi/ballast.json' or
                self.head(name).startswith(b'#!'))

    @staticmethod
    def result(section, name, start, problems, log=None):
        seconds = time.monotonic() - start
        if problems:
            section.add('FAIL', name, seconds)
            section.detail('\n'.join(problems), log)
        else:
            section.add('PASS', name, seconds)

    def check_spdx(self, name, section):
        start = time.monotonic()
        problems = [f'{source}: no SPDX-License-Identifier line'
                    for source in self.sources() if self.is_source(source)
                    and b'SPDX-License-Identifier:' not in self.head(source)]
        self.result(section, name, start, problems)

    def check_shellcheck(self, name, section):
        tool = shutil.which('shellcheck')
        if not tool:
            section.add('SKIP', name, None, 'shellcheck is not installed')
            return
        scripts = [s for s in self.sources() if self.is_source(s) and
                   (s.endswith('.sh') or
                    re.match(rb'#!\s*\S*(/|env )(ba|da)?sh\b', self.head(s)))]
        start = time.monotonic()
        log = self.log(name)
        code = run([tool, '-x', '-S', 'warning', '--'] + scripts, log, 120)
        self.result(section, name, start,
                    [] if code == 0 else read_text(log).splitlines(), log)

    @staticmethod
    def style_exempt(line):
        """Errors of checkpatch that the ledger cannot follow or are wrong."""
        match = re.match(r'([^:]+):(\d+): ERROR: (.*)', line)
        if not match:
            return False
        path, number, text = match.group(1), int(match.group(2)), match.group(3)
        if (path.startswith(('ledger/', 'include/ballast/')) and
                re.match(r'(consider using|use) (qemu|g)_', text)):
            return True     # it has no QEMU and no GLib
        with open(os.path.join(TOP, path), encoding='utf-8') as f:
            following = ''.join(f.readlines()[number:number + 1]).strip()
        return ((text.startswith('suspect code indent') and
                 following == '}') or       # a loop without a body
                (text.startswith('Macros with multiple statements') and
                 following.startswith('{')))    # initialisers, no statements

    def check_style(self, name, section):
        script = os.path.join(self.args.qemu_src, 'scripts', 'checkpatch.pl')
        perl = shutil.which('perl')
        if not perl or not os.path.exists(script):
            section.add('SKIP', name, None,
                            'needs perl' if not perl else 'needs QEMU source')
            return
        folders = ('hw/', 'migration/', 'include/', 'ledger/')
        files = [s for s in self.sources()
                 if s.startswith(folders) and s.endswith(('.c', '.h'))]
        if not files:
            section.add('SKIP', name, None, 'no C files')
            return
        start = time.monotonic()
        log = self.log(name)
        run([perl, script, '--no-tree', '--terse', '--no-summary',
             '--color=never', '-f'] + files, log, 300)
        lines = read_text(log).splitlines()
        # Its warnings are advice; its errors are QEMU's rules.
        errors = [line for line in lines if ' ERROR: ' in line and
                  not self.style_exempt(line)]
        broken = [line for line in lines
                  if not re.search(r'(ERROR|WARNING): ', line)]
        self.result(section, name, start, errors or broken, log)

    # further builds

    def configure(self, folder, log, options, env):
        command = [self.args.meson, 'setup']
        if os.path.exists(os.path.join(folder, 'meson-private',
                                       'coredata.dat')):
            command.append('--reconfigure')
        return run(command + [folder] + options, log, 300, env)

    def build(self, name, folder, options, env):
        """Configures and compiles; a list of problems."""
        log = self.log(name)
        if self.configure(folder, log, options, env) != 0:
            return read_text(log).splitlines()[-TAIL_LINES:]
        if run(['ninja', '-C', folder], log, 600, env) != 0:
            return read_text(log).splitlines()[-TAIL_LINES:]
        return []

    def check_clang(self, name, section):
        if not shutil.which('clang'):
            section.add('SKIP', name, None, 'clang is not installed')
            return
        start = time.monotonic()
        options = []
        headers = self.headers()
        if headers:
            options = [f'-Dqemu_src={self.args.qemu_src}',
                       f'-Dqemu_headers={headers}']
        problems = self.build(name, os.path.join(self.args.build, 'clang'),
                              options, dict(os.environ, CC='clang'))
        self.result(section, name, start, problems, self.log(name))

    def headers(self):
        path = os.path.join(self.args.build, 'deps', 'qemu-headers')
        usable = (os.path.exists(os.path.join(path, 'config-host.h')) and
                  os.path.exists(os.path.join(self.args.qemu_src, 'VERSION')))
        return path if usable else None

    def check_ledger_only(self, name, section):
        """The ledger builds and passes its tests without QEMU and GLib."""
        start = time.monotonic()
        folder = os.path.join(self.args.build, 'ledger-only')
        # No package is found: the machine looks as if there were no GLib.
        env = dict(os.environ, PKG_CONFIG_LIBDIR='/nonexistent')
        env.pop('PKG_CONFIG_PATH', None)
        problems = self.build(name, folder, ['-Dqemu_src=none'], env)
        self.result(section, f'{name}: build', start, problems, self.log(name))
        if problems:
            return
        # All suites run in the main build; these are those one waits for.
        start = time.monotonic()
        log = self.log(name)
        code = run(['ninja', '-C', folder, 'unit-tests'], log, 600, env)
        if code == 0:
            code = run([self.args.meson, 'test', '-C', folder, '--no-rebuild',
                        '--print-errorlogs', '--suite', 'unit'], log, 600)
        problems = read_text(log).splitlines() if code != 0 else []
        self.result(section, f'{name}: unit tests', start, problems, log)

    # what meson knows

    def meson_tests(self, folder):
        out = subprocess.run([self.args.meson, 'introspect', '--tests',
                              folder], stdout=subprocess.PIPE,
                             check=True).stdout
        return json.loads(out)

    @staticmethod
    def has_tag(test, *tags):
        return any(s.rpartition(':')[2] in tags for s in test['suite'])

    def built_by_tests(self):
        """What a test would build: then keys made before it and after differ."""
        ninja = read_text(os.path.join(self.args.build, 'build.ninja'))
        return [name for name in ('ballast-qemu-asan.so',)
                if f'\nbuild {name}:' in ninja]

    def build_tests(self):
        """scripts/setup does not.  Those that are wanted."""
        tests = [test for test in self.meson_tests(self.args.build)
                 if self.report.wants(f"unit/{test['name']}")]
        if tests:
            run(['ninja', '-C', self.args.build, 'meson-test-prereq',
                 *self.built_by_tests()],
                self.log('meson-test-build'), 1200)
        return tests

    def run_meson(self, _, section):
        """Each test has a result of its own to keep."""
        key = self.unit_key()
        new, known = [], []
        for test in self.built.result():
            name = f"unit/{test['name']}"
            earlier = self.results.earlier(name, key)
            if earlier and self.has_tag(test, 'random'):
                known.append(test['name'])
            elif earlier:
                section.again(earlier)
            elif self.has_tag(test, 'slow') and not self.args.full:
                section.add('SKIP', name, None, 'long: run with --full')
            else:
                new.append(test['name'])
        # What draws other numbers each time runs each time, but shorter
        # when it passed before with the same inputs.
        for names, env in ((new, self.env),
                           (known, dict(self.env, BALLAST_BRIEF='1'))):
            for name in names:
                self.results.forget(f'unit/{name}')
            if names:
                self.meson_test(section, names, key, env)

    def meson_test(self, section, names, key, env):
        log = self.log('meson-test')
        output = os.path.join(self.args.build, 'meson-logs', 'testlog.json')
        if os.path.exists(output):
            os.unlink(output)
        code = run([self.args.meson, 'test', '-C', self.args.build, *names],
                   log, 3600, env)
        if not os.path.exists(output):
            section.add('FAIL', 'unit', None, 'meson test ran nothing')
            section.detail(read_text(log), log)
            return
        unchanged = self.unit_key() == key
        seen = set()
        for line in read_text(output).splitlines():
            test = json.loads(line)
            # "suite / name", or "project:suite / name"
            name = test['name'].rpartition(' / ')[2]
            seen.add(name)
            start = len(section.tests)
            self.one_meson_result(f'unit/{name}', section, test)
            if unchanged and section.passed(start):
                self.results.keep(f'unit/{name}', key, section.passed(start))
        for name in names:
            if name not in seen:
                section.add('FAIL', f'unit/{name}', None, 'did not run')
        if code != 0 and all(status != 'FAIL' for status, _ in section.tests):
            section.add('FAIL', 'unit/meson test', None, 'time-out'
                        if code is None else exit_text(code))
            section.detail(read_text(log), log)

    def one_meson_result(self, name, section, test):
        output = test.get('stdout') or ''
        result = test['result']
        tap = Tap(section, name)
        if any(TAP_PLAN.match(x) for x in output.splitlines()):
            for line in output.splitlines():
                tap.line(line, timed=False)
            trouble = tap.trouble(exit_text(test.get('returncode') or 0))
            if result == 'TIMEOUT':
                trouble = 'time-out'
            elif result not in ('OK', 'SKIP') and not tap.failed:
                trouble = trouble or result
            if trouble:
                section.add('FAIL', name, test['duration'], trouble)
            elif not tap.failed:
                return
        elif result == 'SKIP':
            reason = output.strip().splitlines()
            section.add('SKIP', name, test['duration'],
                        reason[-1] if reason else 'no reason given')
            return
        elif result in ('OK', 'EXPECTEDFAIL'):
            section.add('PASS', name, test['duration'])
            return
        else:
            section.add('FAIL', name, test['duration'],
                        'time-out' if result == 'TIMEOUT' else
                        exit_text(test.get('returncode') or 0))
        log = self.log(name)
        with open(log, 'w', encoding='utf-8') as f:
            f.write(output + (test.get('stderr') or ''))
        section.detail(read_text(log), log)

    # programs that print TAP

    def run_program(self, path, name, section):
        if not os.access(path, os.X_OK):
            section.add('FAIL', name, None, 'not executable')
            return
        self.run_tap([path], name, section, self.env)

    def run_tap(self, command, name, section, env):
        log = self.log(name)
        start = time.monotonic()
        tap = Tap(section, name)
        timeout = FULL_TIMEOUT if self.args.full else PROGRAM_TIMEOUT
        code = run(command, log, timeout, env, tap.line)
        if code is None:
            trouble = f'time-out after {timeout} s'
        else:
            trouble = tap.trouble(exit_text(code))
        if trouble:
            section.add('FAIL', name, time.monotonic() - start, trouble)
            section.detail(read_text(log), log)
        elif tap.failed:
            section.detail(failed_parts(read_text(log)), log)

    def programs(self):
        for kind, folder in (('qtest', 'tests/qtest/ballast'),
                             ('functional', 'tests/functional')):
            full = os.path.join(TOP, folder)
            if not os.path.isdir(full):
                continue
            for entry in sorted(os.listdir(full)):
                if (re.fullmatch(r'test_\w+\.py', entry) and
                        entry not in series.ONLY):
                    yield f'{kind}/{entry[5:-3]}', os.path.join(full, entry)

    def environment(self):
        env = dict(os.environ)
        env.update(BALLAST_BUILD=self.args.build,
                   BALLAST_GUEST=os.path.join(self.args.build, 'deps',
                                              'guest'),
                   BALLAST_QEMU=self.args.qemu,
                   PYTHONDONTWRITEBYTECODE='1')
        path = [os.path.join(TOP, 'tests', 'lib')]
        if os.path.isdir(self.args.qemu_src):
            env['QEMU_SRC'] = self.args.qemu_src
            path.append(os.path.join(self.args.qemu_src, 'python'))
        env['PYTHONPATH'] = os.pathsep.join(path)
        if self.args.full:
            env['BALLAST_FULL'] = '1'
        return env

    # inputs

    @functools.cached_property
    def shared(self):
        """Test programs that another file of the tests names."""
        texts = {name: read_text(os.path.join(TOP, name))
                 for name in self.files()
                 if name.startswith('tests/') and name.endswith('.py')}
        return {name for name in texts for other, text in texts.items()
                if other != name and
                os.path.basename(name)[:-len('.py')] in text}

    def tree(self):
        """All files but documentation and what only runs by itself; examples
        are tried out."""
        programs = {os.path.relpath(path, TOP) for _, path in self.programs()}
        return [name for name in self.files()
                if name not in programs - self.shared and
                (not name.startswith('docs/') or
                 name.startswith(('docs/examples/', 'docs/schema/'))) and
                not name.endswith('.md')]

    def qemu_files(self):
        src = self.args.qemu_src
        yield shutil.which(self.args.qemu) or self.args.qemu
        for name in ('VERSION', 'scripts/checkpatch.pl'):
            yield os.path.join(src, name)
        yield from results.files_below(os.path.join(src, 'python', 'qemu'))

    def key(self, names, built=False):
        """Of these files of the project, QEMU, the machine, what is built."""
        paths = [os.path.join(TOP, name) for name in names]
        paths += [*results.machine_files(), *self.qemu_files()]
        if built:
            self.built.result()
            paths += results.products(self.args.build)
        asked = [TOP, self.args.meson, self.args.qemu, self.args.qemu_src]
        return results.digest([*asked, *results.facts(self.env),
                               *self.contents.lines(paths)])

    def static_key(self):
        return self.key(self.files())

    def build_key(self):
        """Nothing tells whether a QEMU tree of the user's has changed."""
        inside = self.args.qemu_src.startswith(self.args.build + os.sep)
        return self.key(self.tree()) if inside else None

    def series_key(self):
        """It builds its own QEMU of what is here; that has to be there still."""
        there = os.path.exists(os.path.join(self.args.build, 'qemu', 'qemu-system-x86_64'))
        return self.key(self.files(), built=True) if there else None

    def unit_key(self):
        """Of all files: the command's tests read its manual and schemas."""
        return self.key(self.files(), built=True)

    def program_key(self, path):
        return self.key([*self.tree(), path], built=True)

    # all of it

    def units(self):
        for name, check, key in (
                ('static/spdx', self.check_spdx, self.static_key),
                ('static/shellcheck', self.check_shellcheck, self.static_key),
                ('static/checkpatch', self.check_style, self.static_key),
                ('build/ledger-only', self.check_ledger_only, self.build_key),
                ('build/clang', self.check_clang, self.build_key)):
            if self.report.wants(name):
                yield Unit(name, check, key)
        yield Unit('unit', self.run_meson, None)
        for name, path in self.programs():
            if self.report.wants(name):
                yield Unit(name, functools.partial(self.run_program, path),
                           functools.partial(self.program_key, path))
        if self.report.wants('series'):
            yield Unit('series', series.Series(self, run).check, self.series_key)

    def one(self, unit, section):
        key = unit.key and unit.key()
        earlier = self.results.earlier(unit.name, key)
        if earlier:
            section.again(earlier)
            return
        self.results.forget(unit.name)
        unit.check(unit.name, section)
        # Nothing is known if an input changed meanwhile.
        if key and section.passed() and unit.key() == key:
            self.results.keep(unit.name, key, section.passed())

    def all(self):
        with ThreadPoolExecutor(at_once()) as pool:
            self.built = pool.submit(self.build_tests)
            try:
                units = [(unit, Section(self.report)) for unit in self.units()]
                jobs = {unit.name: pool.submit(self.one, unit, section)
                        for unit, section in
                        sorted(units, key=lambda entry: turn(entry[0].name))}
                for unit, section in units:
                    section.take_turn()
                    jobs[unit.name].result()
            except BaseException:
                stopping.set()
                pool.shutdown(cancel_futures=True)
                raise


def interrupted(report):
    section = Section(report)
    section.take_turn()
    section.add('FAIL', 'check', None, 'interrupted')
    report.summary()
    return 130


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('--meson', required=True)
    parser.add_argument('--build', required=True)
    parser.add_argument('--qemu-src', required=True)
    parser.add_argument('--qemu', required=True)
    parser.add_argument('--pattern', default='')
    parser.add_argument('--full', action='store_true')
    parser.add_argument('--fresh', action='store_true')
    checker = Checker(parser.parse_args())
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        checker.all()
    except KeyboardInterrupt:
        return interrupted(checker.report)
    return checker.report.summary()


if __name__ == '__main__':
    sys.exit(main())
