#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""patches/libvirt-11.3: it is in order, fits Debian's libvirt as it is, and libvirt's tests pass.

Building libvirt takes minutes without a compiler cache: with --full only.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import List

REPO = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(REPO / 'tests' / 'lib')]

# pylint: disable=wrong-import-position
from ballast import tap                     # noqa: E402

SERIES = REPO / 'patches' / 'libvirt-11.3'
SCRIPT = REPO / 'scripts' / 'build-libvirt'
TREE = REPO / 'build' / 'series' / 'libvirt' / 'src'
LONGEST = 76
CODE = ('.c', '.h')


def patches() -> List[Path]:
    """The patches in order."""
    return [SERIES / name for name in (SERIES / 'series').read_text('utf-8').split()]


def build_libvirt(*options: str) -> str:
    """Run scripts/build-libvirt; its output."""
    tap.need(shutil.which('apt-get'), "apt, for libvirt's source")
    done = subprocess.run([SCRIPT, *options], cwd=REPO, text=True, check=False,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    tap.note(done.stdout)
    if 'or run scripts/build-libvirt as root' in done.stdout:
        tap.skip(done.stdout.strip().splitlines()[-1])
    assert done.returncode == 0, f'exit status {done.returncode}'
    return done.stdout


def style(patch: Path) -> List[str]:
    """What a reviewer of libvirt would send back."""
    text = patch.read_text('utf-8')
    head, _, diff = text.partition('\ndiff --git ')
    subject = re.search(r'^Subject: (.*(?:\n .*)*)', head, re.M)
    faults = []
    if not subject or not re.fullmatch(r'[a-z][a-z, ]*: \S.*', subject.group(1)):
        faults.append('its subject is not "part: what"')
    faults += [f'long line: {line}' for line in head.splitlines()
               if len(line) > LONGEST + len('Subject: ')]
    if re.search(r'^(Signed-off-by|Co-authored-by):', text, re.M | re.I):
        faults.append('it is signed off')
    name = ''
    for line in diff.splitlines():
        if line.startswith('+++ '):
            name = line[4:]
        elif line.startswith('+') and name.endswith(CODE):
            if '\t' in line or line != line.rstrip():
                faults.append(f'{name}: white space: {line}')
            if re.search(r'\b(malloc|calloc|free|strdup|strcmp|sprintf)\(', line):
                faults.append(f'{name}: not in libvirt: {line}')
    return faults


@tap.case('it lists its patches, each as libvirt wants them')
def order() -> None:
    names = [patch.name for patch in patches()]
    tap.equal(sorted(path.name for path in SERIES.glob('[0-9]*.patch')),
              ['0000-cover-letter.patch', *sorted(names)], 'the folder')
    tap.equal(names, sorted(names), 'the order')
    faults = [f'{patch.name}: {fault}' for patch in patches() for fault in style(patch)]
    assert not faults, '\n'.join(faults)


@tap.case('the check of style finds what is wrong')
def order_control() -> None:
    with tempfile.TemporaryDirectory(prefix='ballast-') as folder:
        bad = Path(folder) / 'bad.patch'
        bad.write_text('From: x\nSubject: Something\n\nSigned-off-by: x\n\ndiff --git a/x.c b/x.c\n'
                       '--- a/x.c\n+++ b/x.c\n@@ -1 +1 @@\n+\tfree(x); \n', 'utf-8')
        tap.equal(len(style(bad)), 4, 'faults')


@tap.case("it applies to Debian's source without fuzz")
def applies() -> None:
    build_libvirt('--apply')
    # a patch whose lines are not what it expects is refused: here, one that is in already
    again = subprocess.run(['git', 'apply', '--check', str(patches()[0])], cwd=TREE, check=False,
                           env=dict(os.environ, GIT_CEILING_DIRECTORIES=str(TREE.parent)),
                           stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert again.returncode != 0 and 'does not apply' in again.stdout, again.stdout


@tap.case('a branch of it comes back as the same patches')
def round_trip() -> None:
    tap.need(os.environ.get('BALLAST_FULL'), '--full: half a minute')
    before = {path.name: path.read_bytes() for path in SERIES.iterdir()}
    with tempfile.TemporaryDirectory(prefix='ballast-') as folder:
        copy = Path(folder) / 'copy'        # what is taken goes to another checkout
        for name in ('scripts', 'patches'):
            shutil.copytree(REPO / name, copy / name)
        (copy / 'build').mkdir()
        build_libvirt('--branch', f'{folder}/branch')
        subprocess.run([copy / 'scripts' / 'build-libvirt', '--take', f'{folder}/branch'],
                       check=True, stdout=subprocess.DEVNULL)
        after = {path.name: path.read_bytes() for path in (copy / SERIES.relative_to(REPO)).iterdir()}
    changed = sorted(name for name in {*before, *after} if before.get(name) != after.get(name))
    assert not changed, f'changed: {changed}; run scripts/build-libvirt --branch, then --take'


@tap.case("libvirt's own tests pass with it")
def own_tests() -> None:
    tap.need(os.environ.get('BALLAST_FULL'), '--full: minutes without a compiler cache')
    output = build_libvirt('--tests')
    assert re.search(r'\[6/6\] tests … \d+ passed', output), output


if __name__ == '__main__':
    tap.main()
