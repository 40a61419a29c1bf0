# SPDX-License-Identifier: GPL-2.0-or-later
"""The patches of a series as a git branch, and back.

    scripts/refresh start QEMU_SRC DIR [FILE…]   a branch in DIR, a commit a patch
    scripts/refresh take DIR                     the branch's commits become the series
    scripts/refresh check QEMU_SRC               round trip: the same patches again

DIR has just the files of QEMU that the series changes, and each FILE besides
that is going to be changed: edit, commit, rebase there as you like.  What
comes back depends on the commits only: no dates, no names, no versions of git.

QEMU_SRC may have been overlaid: the files are taken as they were before.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import overlay
from overlay import Problem

HEAD = 'From: Ballast maintainers <ballast@localhost>\n'
BASE = 'QEMU '
ENV = {'GIT_CONFIG_GLOBAL': '/dev/null', 'GIT_CONFIG_SYSTEM': '/dev/null',
       'GIT_AUTHOR_NAME': 'Ballast maintainers', 'GIT_AUTHOR_EMAIL': 'ballast@localhost',
       'GIT_COMMITTER_NAME': 'Ballast maintainers', 'GIT_COMMITTER_EMAIL': 'ballast@localhost',
       'GIT_AUTHOR_DATE': '2000-01-01T00:00:00Z', 'GIT_COMMITTER_DATE': '2000-01-01T00:00:00Z'}


def git(folder, *args):
    """Run git in a folder; its output."""
    done = subprocess.run(['git', *args], cwd=folder, env={**os.environ, **ENV}, text=True,
                          check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if done.returncode != 0:
        raise Problem(f"git {args[0]}: {' '.join(done.stdout.split(chr(10))[:3]).strip()}")
    return done.stdout


def start(source, folder, more=()):
    """A branch with a commit for QEMU's files and one for each patch."""
    tree = overlay.Tree(source.resolve())
    patches = overlay.patch_files(overlay.series_for(tree.version))
    if folder.exists() and any(folder.iterdir()):
        raise Problem(f'{folder} is there and not empty')
    names = {name for patch in patches for name in overlay.files_of_patch(patch)}
    for name in sorted({*names, *more}):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(tree.original(name))
    folder.mkdir(parents=True, exist_ok=True)
    git(folder, 'init', '-q', '-b', 'ballast')
    git(folder, 'add', '-f', '-A')
    git(folder, 'commit', '-q', '--allow-empty', '-m', BASE + tree.version)
    for patch in patches:
        git(folder, 'am', '-q', '--keep-non-patch', str(patch))
    return f'{len(patches)} patches on QEMU {tree.version} in {folder}'


def clean(text):
    """A patch without what depends on when and with what it was made."""
    text = HEAD + text[text.index('\nSubject: ') + 1:]
    text = re.sub(r'^index [0-9a-f]+\.\.[0-9a-f]+( [0-7]+)?\n', '', text, flags=re.M)
    return re.sub(r'\n-- \n[^\n]*\n*\Z', '\n', text)


def commits(folder):
    """The base and the version it was made of, and the commits on it."""
    lines = git(folder, 'log', '--reverse', '--format=%H %s').splitlines()
    match = re.fullmatch(r'(\S+) QEMU (\S+)', lines[0]) if lines else None
    if not match:
        raise Problem(f'{folder} was not made by scripts/refresh start')
    return match.group(1), match.group(2)


def take(folder, target=None):
    """Write the commits as patches; what is no longer among them goes."""
    base, version = commits(folder)
    if git(folder, 'status', '--porcelain', '--untracked-files=no'):
        raise Problem(f'{folder} has changes that are not committed')
    target = target or overlay.series_for(version)
    with tempfile.TemporaryDirectory(prefix='ballast-refresh-') as out:
        git(folder, 'format-patch', '-q', '-N', '--zero-commit', '--no-renames',
            '--diff-algorithm=histogram', '--no-stat', '-k', '-o', out, base)
        new = {path.name: clean(path.read_text(encoding='utf-8'))
               for path in sorted(Path(out).iterdir())}
    for old in target.glob('[0-9]*.patch'):
        if old.name not in new and old.name != '0000-cover-letter.patch':
            old.unlink()
    for name, text in new.items():
        (target / name).write_text(text, encoding='utf-8')
    (target / 'series').write_text(''.join(f'{name}\n' for name in new), encoding='utf-8')
    return f'{len(new)} patches in {target.name}'


def without_lines(path):
    """A patch without the line numbers, which differ between versions of a series."""
    return re.sub(r'^@@ -\d+(,\d+)? \+\d+(,\d+)? @@.*$', '@@',
                  path.read_text(encoding='utf-8'), flags=re.M)


def check(source):
    """From patches to commits to patches: nothing changes."""
    version = overlay.tree_version(source)
    series = overlay.series_for(version)
    with tempfile.TemporaryDirectory(prefix='ballast-refresh-') as work:
        branch, again = Path(work) / 'branch', Path(work) / 'again'
        again.mkdir()
        start(source, branch)
        take(branch, again)
        for path in [*overlay.patch_files(series), series / 'series']:
            if not (again / path.name).exists() or \
                    without_lines(again / path.name) != without_lines(path):
                raise Problem(f'{path.name} changes on its way through git: run '
                              f'scripts/refresh start, then take')
    return f'{series.name}: the same again'


def main():
    parser = argparse.ArgumentParser(
        prog='refresh', description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest='command', required=True, metavar='start|take|check')
    command = commands.add_parser('start')
    command.add_argument('source', metavar='QEMU_SRC', type=Path)
    command.add_argument('folder', metavar='DIR', type=Path)
    command.add_argument('files', metavar='FILE', nargs='*')
    command = commands.add_parser('take')
    command.add_argument('folder', metavar='DIR', type=Path)
    command = commands.add_parser('check')
    command.add_argument('source', metavar='QEMU_SRC', type=Path)
    args = parser.parse_args()
    try:
        if args.command == 'start':
            print('refresh:', start(args.source, args.folder, args.files))
        elif args.command == 'take':
            print('refresh:', take(args.folder))
        else:
            print('refresh:', check(args.source))
    except (Problem, OSError, ValueError) as error:
        sys.exit(f'refresh: {error}')


if __name__ == '__main__':
    main()
