# SPDX-License-Identifier: GPL-2.0-or-later
"""What passed before, and with what inputs: the result cache of scripts/check.

A program of which every test passed is not run again while all that it can
read is as it was: its key says so, a digest of contents and of facts about
the machine.  More is in a key than most programs read; what is left out is
documentation and the other test programs.

Results are files in build/test-results.  One that is damaged, that cannot be
read or that has another key is none: the program runs.
"""

import glob
import hashlib
import json
import os
import platform
import re
import resource
import sys

# Variables of the environment that programs heed, by how they begin.
VARIABLES = ('ASAN_', 'BALLAST_', 'CC', 'CFLAGS', 'CPPFLAGS', 'CXX', 'G_',
             'GLIBC_', 'HOME', 'LANG', 'LC_', 'LDFLAGS', 'LD_', 'MALLOC_',
             'MESON_', 'NINJA', 'PATH', 'PKG_CONFIG', 'PYTHON', 'QEMU',
             'TMPDIR', 'TZ', 'UBSAN_')

# Without it nothing tells whether libraries and tools are the same.
PACKAGES = '/var/lib/dpkg/status'
MACHINE_FILES = (PACKAGES, '/proc/sys/vm/overcommit_memory',
                 '/proc/sys/vm/nr_hugepages')
MACHINE_PATTERNS = ('/sys/kernel/mm/transparent_hugepage/*enabled',
                    '/sys/module/kvm*/parameters/*')

# In build/: what setup and check leave for themselves, and other builds.
NOT_INPUTS = re.compile(r'deps|demo|series|meson-.*|test-(logs|results)|.*\.p|'
                        r'__pycache__|\.ninja_.*|build\.ninja|.*\.log|'
                        r'compile_commands\.json')
# In build/deps: what products are made from; the products are inputs.
NOT_PRODUCTS = re.compile(r'apt|log|stamps|qemu-(src|headers)(\.aux)?|'
                          r'numa-host|kernel-headers-[-\w]+|'
                          r'.*\.?lock')


def digest(parts):
    total = hashlib.sha256()
    for part in parts:
        data = part.encode('utf-8', 'surrogateescape')
        total.update(b'%d:' % len(data) + data)
    return total.hexdigest()


def files_below(folder):
    """All files of a build, without its by-products and other builds."""
    for path, folders, files in os.walk(folder):
        folders[:] = sorted(
            d for d in folders if not NOT_INPUTS.fullmatch(d) and
            not os.path.isdir(os.path.join(path, d, 'meson-private')))
        for name in sorted(files):
            if not NOT_INPUTS.fullmatch(name):
                yield os.path.join(path, name)


def products(build):
    """What was built, and what setup made or fetched for the tests."""
    yield from files_below(build)
    deps = os.path.join(build, 'deps')
    for name in sorted(os.listdir(deps) if os.path.isdir(deps) else ()):
        if not NOT_PRODUCTS.fullmatch(name):
            yield from files_below(os.path.join(deps, name))


class Contents:
    """Digests of files; each is read once for each time that it changes."""

    def __init__(self):
        self.known = {}

    def of(self, path):
        try:
            if os.path.islink(path):
                return f'link {os.readlink(path)} {self.of_file(path)}'
            return self.of_file(path)
        except OSError as error:
            return f'unreadable: {error.strerror}'

    def of_file(self, path):
        stat = os.stat(path)
        state = (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mode,
                 stat.st_mtime_ns, stat.st_ctime_ns)
        known = self.known.get(path)
        if not known or known[0] != state:
            with open(path, 'rb') as f:
                data = hashlib.sha256(f.read()).hexdigest()
            known = state, f'{stat.st_mode & 0o777:o} {data}'
            self.known[path] = known
        return known[1]

    def lines(self, paths):
        return [f'{path} {self.of(path)}' for path in paths]


def processor():
    """Model and abilities of the first one."""
    with open('/proc/cpuinfo', encoding='ascii', errors='replace') as f:
        first = f.read().partition('\n\n')[0]
    return re.findall(r'^(?:model name|flags)\s*:.*', first, re.MULTILINE)


def memory():
    with open('/proc/meminfo', encoding='ascii') as f:
        return f.readline()


def facts(env):
    """What tests may find different on another machine or another day."""
    yield from (f'{name}={env[name]}' for name in sorted(env)
                if name.startswith(VARIABLES))
    yield f'{platform.uname()} {sys.version} {os.getuid()}'
    yield f'{processor()} {len(os.sched_getaffinity(0))} {memory()}'
    yield f'kvm: {os.access("/dev/kvm", os.R_OK | os.W_OK)}'
    for limit in (resource.RLIMIT_NOFILE, resource.RLIMIT_MEMLOCK,
                  resource.RLIMIT_AS, resource.RLIMIT_CORE):
        yield f'limit {limit}: {resource.getrlimit(limit)}'


def machine_files():
    yield from MACHINE_FILES
    for pattern in MACHINE_PATTERNS:
        yield from sorted(glob.glob(pattern))


class Results:
    """The tests of each program that passed, as files of one folder."""

    def __init__(self, folder, fresh=False):
        self.folder = folder
        self.fresh = fresh
        self.usable = os.path.exists(PACKAGES)

    def path(self, name):
        return os.path.join(self.folder,
                            re.sub(r'[^\w.-]', '-', name) + '.json')

    def earlier(self, name, key):
        """Names of the tests that passed with this key, or []."""
        if self.fresh or not self.usable or not key:
            return []
        try:
            with open(self.path(name), encoding='utf-8') as f:
                record = json.load(f)
            tests = record['passed']
            good = record['seal'] == self.seal(name, key, tests)
            return tests if good else []
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return []

    @staticmethod
    def seal(name, key, tests):
        """Fits one program, one key and one list of tests only."""
        return digest([name, key, *tests])

    def keep(self, name, key, tests):
        path = self.path(name)
        try:
            os.makedirs(self.folder, exist_ok=True)
            with open(f'{path}.new', 'w', encoding='utf-8') as f:
                json.dump({'seal': self.seal(name, key, tests),
                           'passed': tests}, f, indent=1)
            os.replace(f'{path}.new', path)
        except OSError:
            pass        # it will run again

    def forget(self, name):
        """To be called before a program runs: it may fail now."""
        try:
            os.unlink(self.path(name))
        except OSError:
            pass
