# SPDX-License-Identifier: GPL-2.0-or-later
"""What the tests of the ballast command share: TAP, and ledgers of their own.

A test is a function of a module whose name begins with "test_"; its doc
string is its name.  It fails by an exception and skips by Skip.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import traceback

BALLAST = os.path.abspath(sys.argv[1])
TOP = os.path.abspath(sys.argv[2])
BUILD = os.path.abspath(sys.argv[3])
GIB = 1 << 30


def heed_signals():
    """As a shell in a terminal starts programs, under nohup as well."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


class Skip(Exception):
    """Something is absent, and which."""


def needs(*paths):
    """The first of these programs that is there."""
    for path in paths:
        found = shutil.which(path)
        if found:
            return found
    raise Skip(f'no {os.path.basename(paths[0])}')


def source(*parts):
    """The text of a file of the project."""
    with open(os.path.join(TOP, *parts), encoding='utf-8') as f:
        return f.read()


def check(got, expected):
    """Both are the same."""
    if got != expected:
        raise AssertionError(f'{got!r} instead of {expected!r}')


def has(text, part):
    """The text has the part in it."""
    if part not in text:
        raise AssertionError(f'no {part!r} in:\n{text}')


class Ledger:
    """A ledger in a directory that goes with it."""

    def __init__(self, *options):
        self.dir = tempfile.mkdtemp(prefix='ballast-cli.')
        self.path = os.path.join(self.dir, 'ledger')
        self.env = dict(os.environ, BALLAST_LEDGER=self.path,
                        LC_ALL='C.UTF-8')
        for name in ('BALLAST_CLAIM', 'NO_COLOR', 'COLUMNS', 'LINES',
                     'POSIXLY_CORRECT'):
            self.env.pop(name, None)
        if options:
            self.ok('init', *options)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        shutil.rmtree(self.dir)

    def run(self, *words, **env):
        """The command to its end."""
        return subprocess.run([BALLAST, *words], env={**self.env, **env},
                              stdin=subprocess.DEVNULL, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                              timeout=60, check=False)

    def ok(self, *words, **env):
        """What it prints; it must succeed."""
        return self.fails(0, *words, **env).stdout

    def fails(self, status, *words, **env):
        """It must end with this status."""
        done = self.run(*words, **env)
        if done.returncode != status:
            raise AssertionError(
                f'{words}: status {done.returncode}, not {status}: '
                f'{done.stdout}{done.stderr}')
        return done

    def start(self, *words):
        """The command, running."""
        return subprocess.Popen([BALLAST, *words], env=self.env, text=True,
                                stdin=subprocess.DEVNULL,
                                stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE)

    def status(self):
        """status --json."""
        return json.loads(self.ok('status', '--json'))

    def person(self, name):
        """A participant, None if there is none of that name."""
        people = [p for p in self.status()['participants']
                  if p['name'] == name]
        return people[0] if people else None


def main(tests):
    """Runs what begins with test_, in order."""
    heed_signals()
    bad = 0
    found = [f for name, f in tests.items() if name.startswith('test_')]
    print(f'1..{len(found)}', flush=True)
    for number, test in enumerate(found, 1):
        name = test.__doc__.rstrip('.')
        try:
            test()
        except Skip as reason:
            print(f'ok {number} - {name} # SKIP {reason}', flush=True)
        except Exception:  # pylint: disable=broad-except
            bad = 1
            print(f'not ok {number} - {name}')
            for line in traceback.format_exc().splitlines():
                print(f'# {line}')
            sys.stdout.flush()
        else:
            print(f'ok {number} - {name}', flush=True)
    sys.exit(bad)
