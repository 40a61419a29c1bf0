# SPDX-License-Identifier: GPL-2.0-or-later
"""The patch series in scripts/check.

    series/patches   each series: applies without fuzz where its source is there,
                     goes through git and back, QEMU's checkpatch
    series/build     QEMU 10.0 with Ballast inside is built whole; what the
                     overlay has written is what the repository has
    series/objects   QEMU 10.2: what its series changes or adds compiles; skipped
                     where its source cannot be had
    series/TEST      test programs of the plug-in on that build: a quick part,
                     everything with --full

and with --full QEMU 10.2 whole, the test programs on it and between the two,
and QEMU's own tests of balloon, migration and QMP.
"""

import glob
import os
import re
import subprocess
import sys
import time

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD_TIMEOUT = 3600        # without a compiler cache, beside other work
NOT_TO_BE_HAD = 3           # of scripts/build-qemu: neither there nor fetched

# program: patterns of the quick part (none: all of it)
QUICK = {
    'test_series': (),
    'test_backends': (),
    'test_refusal': (),
    'test_device': ('inflate', 'deflate', 'migration'),
    'test_absent': ('fresh', 'multifd', 'mapped-ram'),
    'test_obstacle': ('virtio-balloon-pci', 'x-ignore-shared'),
}
# QEMU's own device, repaired: the cases that lose a page on stock QEMU
FIXED = ('kvm, first, late, 128 MiB', 'kvm, again, late, 3 GiB', 'tcg, sent', 'tcg, later, late, two')
FULL = ('test_absent', 'test_backends', 'test_device', 'test_fuzz', 'test_garbage', 'test_late_hint', 'test_liar',
        'test_mailbox', 'test_moving', 'test_node', 'test_obstacle', 'test_refusal', 'test_series', 'test_vhost')
# programs that only a QEMU with Ballast inside can run
ONLY = ('test_series.py', 'test_backends.py', 'test_versions.py')
OWN = ('virtio-balloon-test', 'balloon-tlb-test', 'balloon-ignored-test', 'balloon-arm-test', 'balloon-irq-test',
       'qmp-cmd-test', 'migration-test')


def script(*command):
    """Run a script of ours; its one line of failure, or ''."""
    done = subprocess.run([os.path.join(TOP, 'scripts', command[0]), *command[1:]], text=True,
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, check=False)
    lines = done.stdout.strip().splitlines() or ['no output']
    return '' if done.returncode == 0 else lines[-1]


def sources(build):
    """Unpacked QEMU sources, overlaid or not, by version."""
    found = {}
    for tree in [os.path.join(build, 'deps', 'qemu-src'),
                 *sorted(glob.glob(os.path.join(build, 'series', '*', 'src')))]:
        try:
            with open(os.path.join(tree, 'VERSION'), encoding='utf-8') as f:
                found.setdefault(f.read().strip(), tree)
        except FileNotFoundError:
            continue
    return found


def patch_problems(build, tree):
    """What checkpatch says of the patches but for two rules of upstream's."""
    checkpatch = os.path.join(build, 'deps', 'qemu-src', 'scripts', 'checkpatch.pl')
    problems = []
    version = '.'.join(tree.split('.')[:2])
    for patch in sorted(glob.glob(os.path.join(TOP, 'patches', f'qemu-{version}', '[0-9]*.patch'))):
        out = subprocess.run(['perl', checkpatch, '--no-tree', '--terse', '--no-summary',
                              '--color=never', patch], text=True, stdout=subprocess.PIPE,
                             check=False).stdout
        # downstream: it is not signed off; made without an index line
        problems += [line for line in out.splitlines()
                     if ' ERROR: ' in line and 'Missing Signed-off-by' not in line]
    return problems


class Series:
    """Units of scripts/check; `checker` is its Checker."""

    def __init__(self, checker, run):
        self.checker = checker
        self.run = run
        self.build = checker.args.build

    def result(self, section, name, start, problem):
        section.add('FAIL' if problem else 'PASS', name, time.monotonic() - start, problem)
        return not problem

    def patches(self, section):
        """Without building: each series whose source is there."""
        there = sources(self.build)
        for folder in sorted(glob.glob(os.path.join(TOP, 'patches', 'qemu-*'))):
            base = os.path.join(folder, 'BASE')
            with open(base, encoding='utf-8') as f:
                versions = [line.split()[0] for line in f if line.strip() and line[0] != '#']
            for version in versions:
                name = f'series/patches: {version}'
                start = time.monotonic()
                if version not in there:
                    section.add('SKIP', name, None, f'needs the source of QEMU {version}: '
                                f'scripts/build-qemu --series {".".join(version.split(".")[:2])}')
                    continue
                problem = script('refresh', 'check', there[version])
                problem = problem or '; '.join(patch_problems(self.build, version)[:2])
                self.result(section, name, start, problem)

    def whole(self, section):
        """Build 10.0; False if there is nothing to run tests on."""
        start = time.monotonic()
        log = self.checker.log('series-build')
        options = ['--tests'] if self.checker.args.full else []
        code = self.run([os.path.join(TOP, 'scripts', 'build-qemu'), *options], log, BUILD_TIMEOUT)
        problem = '' if code == 0 else self.last_line(log)
        problem = problem or script('overlay', '--check', os.path.join(self.build, 'series', 'qemu', 'src'))
        return self.result(section, 'series/build: QEMU 10.0', start, problem)

    def objects(self, section):
        """Compile what 10.2's series touches."""
        start = time.monotonic()
        log = self.checker.log('series-objects')
        code = self.run([os.path.join(TOP, 'scripts', 'build-qemu'), '--series', '10.2', '--objects'],
                        log, BUILD_TIMEOUT)
        name = 'series/objects: QEMU 10.2'
        if code == NOT_TO_BE_HAD:
            section.add('SKIP', name, None, f'needs the source of QEMU 10.2: {self.last_line(log)}')
            return
        problem = '' if code == 0 else self.last_line(log)
        problem = problem or script('overlay', '--check', os.path.join(self.build, 'series', 'qemu-10.2', 'src'))
        self.result(section, name, start, problem)

    @staticmethod
    def last_line(log):
        with open(log, encoding='utf-8', errors='replace') as f:
            lines = f.read().strip().splitlines()
        return lines[-1] if lines else 'no output'

    def binary(self, name):
        """What scripts/build-qemu makes."""
        return os.path.join(self.build, name, 'qemu-system-x86_64')

    def other(self, section):
        """Build 10.2 whole, with and without the series; the environment for tests of it, or None."""
        for options in (('--series', '10.2'), ('--series', '10.2', '--stock')):
            start = time.monotonic()
            log = self.checker.log('series-other')
            code = self.run([os.path.join(TOP, 'scripts', 'build-qemu'), *options], log, BUILD_TIMEOUT)
            name = f'series/build: QEMU 10.2{" without the series" if len(options) > 2 else ""}'
            if code == NOT_TO_BE_HAD:
                section.add('SKIP', name, None, f'needs the source of QEMU 10.2: {self.last_line(log)}')
                return None
            if not self.result(section, name, start, '' if code == 0 else self.last_line(log)):
                return None
        return dict(self.checker.env, BALLAST_FLAVOUR='series', QEMU=self.binary('qemu-10.2'),
                    BALLAST_STOCK=self.binary('qemu-10.2-stock'))

    def other_tests(self, section):
        """The test programs on 10.2, and migration between the two."""
        env = self.other(section)
        if not env:
            return
        for name, command, _ in self.programs():
            self.checker.run_tap(command, f'series-10.2/{name}', section, env)
        both = dict(env, BALLAST_STOCK=self.checker.args.qemu, QEMU=self.binary('qemu'),
                    BALLAST_OTHER=env['QEMU'], BALLAST_OTHER_STOCK=env['BALLAST_STOCK'])
        command = os.path.join(TOP, 'tests', 'qtest', 'ballast', 'test_versions.py')
        self.checker.run_tap([command], 'series/versions', section, both)

    def programs(self):
        """Name, command and environment of the test programs."""
        folder = os.path.join(TOP, 'tests', 'qtest', 'ballast')
        env = dict(self.checker.env, BALLAST_FLAVOUR='series', BALLAST_STOCK=self.checker.args.qemu,
                   QEMU=self.binary('qemu'))
        full = self.checker.args.full
        todo = [(name, ()) for name in FULL] if full else list(QUICK.items())
        for name, patterns in todo:
            options = [word for pattern in patterns for word in ('-k', pattern)]
            yield name[5:], [os.path.join(folder, name + '.py'), *options], env
        options = [] if full else [word for pattern in FIXED for word in ('-k', pattern)]
        yield 'fixed', [os.path.join(folder, 'test_late_hint.py'), '--device', 'fixed', *options], env

    def tests(self, section):
        for name, command, env in self.programs():
            self.checker.run_tap(command, f'series/{name}', section, env)

    def own_tests(self, section):
        """QEMU's, on the patched build; some look for a script of QEMU's below where they are run."""
        folder = os.path.join(self.build, 'qemu')
        env = dict(self.checker.env, PYTHON=sys.executable,
                   QTEST_QEMU_BINARY=os.path.join(folder, 'qemu-system-x86_64'))
        for name in OWN:
            command = ['env', '-C', folder, os.path.join('tests', 'qtest', name), '--tap', '-k']
            self.checker.run_tap(command, f'series/qemu-{name}', section, env)

    def check(self, _, section):
        """The unit."""
        self.objects(section)       # this fetches the source that patches() looks for
        self.patches(section)
        if self.whole(section):
            self.tests(section)
            if self.checker.args.full:
                self.own_tests(section)
                self.other_tests(section)
