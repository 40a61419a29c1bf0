# SPDX-License-Identifier: GPL-2.0-or-later
"""Ballast in a QEMU source tree: our files by copy, QEMU's by patches.

    scripts/overlay QEMU_SRC            add our files, apply the series
    scripts/overlay --check QEMU_SRC    is the tree what that would make it?
    scripts/overlay --undo QEMU_SRC     take everything back, byte for byte
    scripts/overlay --objects BUILD QEMU_SRC   names of the objects of all that
                                        in a configured build
    --upto N                            only the first N patches

Nothing in the tree is overwritten that did not come from here: a file of ours
that exists already, or one that was edited since, ends it before anything is
changed.  Running it again brings the tree up to date and touches only what
differs, so that a build makes only that again.

.ballast/ in the tree has the originals of patched files, and a list of all
that was written with its digest.  The list is written first with the digests
before and after, so that a run that was interrupted can be repeated or undone.
"""

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
STATE = '.ballast'
MISSING = ''        # digest of a file that is not there

# Folders and files of ours that QEMU does not have, below TOP and QEMU_SRC.
OURS = (
    'ledger/*.[ch]', 'ledger/meson.build', 'include/ballast/*.h',
    'include/hw/virtio/ballast/*.h', 'include/migration/ballast/*.h',
    'hw/virtio/ballast/*', 'hw/virtio/ballast/builtin/*',
    'migration/ballast/*', 'backends/ballast/*', 'qapi/ballast.json',
    'configs/devices/x86_64-softmmu/ballast*.mak',
    'tests/qtest/ballast/*.h', 'tests/qtest/balloon-*-test.c', 'docs/system/devices/ballast.rst',
)
# Only the plug-in has these.
PLUGIN = {'migration/ballast/bind-plugin.c',
          *('hw/virtio/ballast/' + name for name in
            ('notify.c', 'plugin.c', 'plugin-init.h', 'abi.c', 'abi.h'))}


class Problem(Exception):
    """One line for the user."""


def digest(data):
    return hashlib.sha256(data).hexdigest()


def digest_of(path):
    try:
        return digest(path.read_bytes())
    except FileNotFoundError:
        return MISSING


def our_files():
    """Path in the tree: path in the repository."""
    found = {}
    for pattern in OURS:
        for path in TOP.glob(pattern):
            name = str(path.relative_to(TOP))
            if path.is_file() and name not in PLUGIN:
                found[name] = path
    return found


def tree_version(tree):
    for name in ('VERSION', 'configure', 'include/qemu/osdep.h'):
        if not (tree / name).is_file():
            raise Problem(f'{tree} is not a QEMU source tree: it has no {name}')
    return (tree / 'VERSION').read_text(encoding='utf-8').strip()


def series_for(version):
    """The folder of patches for a QEMU version."""
    folder = TOP / 'patches' / f"qemu-{'.'.join(version.split('.')[:2])}"
    if not (folder / 'series').is_file():
        there = sorted(p.parent.name[len('qemu-'):]
                       for p in TOP.glob('patches/qemu-*/series'))
        raise Problem(f"no series for QEMU {version}; there are: {', '.join(there)}")
    return folder


def patch_files(folder):
    names = (folder / 'series').read_text(encoding='utf-8').split()
    return [folder / name for name in names]


def files_of_patch(path):
    """Names that a patch changes; it must not make or remove any."""
    names = []
    for line in path.read_text(encoding='utf-8').splitlines():
        if line.startswith(('--- /dev/null', '+++ /dev/null')):
            raise Problem(f'{path.name} makes or removes a file: that is for the overlay')
        if line.startswith('+++ b/'):
            names.append(line[len('+++ b/'):].split('\t')[0])
    return names


def apply_series(patches, original):
    """Apply to copies; original(name) gives the bytes.  Name: new bytes."""
    with tempfile.TemporaryDirectory(prefix='ballast-overlay-') as folder:
        work = Path(folder)
        names = []
        for patch in patches:
            for name in files_of_patch(patch):
                if name not in names:
                    names.append(name)
                    (work / name).parent.mkdir(parents=True, exist_ok=True)
                    (work / name).write_bytes(original(name))
            done = subprocess.run(
                ['patch', '-p1', '-F0', '-s', '-f', '-r', '-', '--no-backup-if-mismatch',
                 '-d', work, '-i', patch], text=True, check=False,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            if done.returncode != 0:
                reason = ' '.join(done.stdout.split('\n')[:2]).strip()
                raise Problem(f'{patch.name} does not apply without fuzz: {reason}')
        return {name: (work / name).read_bytes() for name in names}


class Tree:
    """A source tree and what was written to it: {name: [digests allowed]}."""

    def __init__(self, path):
        self.path = path
        self.version = tree_version(path)
        self.list = path / STATE / 'files.json'
        self.written = {}
        if self.list.exists():
            self.written = json.loads(self.list.read_text(encoding='utf-8'))

    def original_path(self, name):
        return self.path / STATE / 'original' / name

    def original(self, name):
        for path in (self.original_path(name), self.path / name):
            if path.is_file():
                return path.read_bytes()
        raise Problem(f'{self.path} has no {name}, which the series changes')

    def check_unedited(self):
        edited = [name for name, allowed in self.written.items()
                  if digest_of(self.path / name) not in allowed]
        if edited:
            raise Problem(f'{edited[0]} was edited in {self.path} after the overlay'
                          f'{f" ({len(edited)} such files)" if len(edited) > 1 else ""};'
                          ' bring the change into the repository or take it back first')

    def save_list(self, written):
        self.list.parent.mkdir(exist_ok=True)
        new = self.list.with_suffix('.new')
        new.write_text(json.dumps(written, indent=1, sort_keys=True) + '\n', encoding='utf-8')
        new.replace(self.list)
        self.written = written

    def restore(self, name):
        """As it was before the overlay, but newer than what was built of the other content."""
        original = self.original_path(name)
        path = self.path / name
        if original.exists():
            if digest_of(path) != digest_of(original):
                shutil.copy(original, path)
            return
        path.unlink(missing_ok=True)
        for folder in path.parents:
            if folder == self.path or any(folder.iterdir()):
                break
            folder.rmdir()

    def wanted(self, upto):
        """Name: bytes of all that is to be there."""
        ours = our_files()
        patches = patch_files(series_for(self.version))[:upto]
        patched = apply_series(patches, self.original)
        for name in ours:
            if name in patched:
                raise Problem(f'{name} is ours, and a patch changes it')
            if name not in self.written and (self.path / name).exists():
                raise Problem(f'{self.path}/{name} exists and is not ours; nothing was changed')
        files = {name: path.read_bytes() for name, path in ours.items()}
        files.update(patched)
        return files, patched, len(patches)

    def write(self, name, data):
        path = self.path / name
        if digest_of(path) == digest(data):
            return 0
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_name(path.name + '.ballast-new')
        new.write_bytes(data)
        if path.exists():
            shutil.copymode(path, new)
        new.replace(path)
        return 1

    def overlay(self, upto=None):
        self.check_unedited()
        files, patched, patches = self.wanted(upto)
        before = {name: digest_of(self.path / name)
                  for name in {*files, *self.written}}
        after = {name: digest(data) for name, data in files.items()}
        for name in patched:
            original = self.original_path(name)
            if not original.exists():
                original.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(self.path / name, original)
        self.save_list({name: sorted({before[name], after.get(name, digest_of(
            self.original_path(name)))}) for name in before})
        changed = sum(self.write(name, data) for name, data in files.items())
        for name in set(before) - set(after):
            self.restore(name)
            self.original_path(name).unlink(missing_ok=True)
            changed += 1
        self.save_list({name: [d] for name, d in after.items()})
        return (f'{len(files) - len(patched)} files, {patches} patches on '
                f'{len(patched)} files of QEMU {self.version}; {changed} changed')

    def undo(self):
        self.check_unedited()
        for name in self.written:
            self.restore(name)
        count = len(self.written)
        shutil.rmtree(self.path / STATE, ignore_errors=True)
        return f'{count} files taken back'

    def check(self, upto=None):
        files, _, _ = self.wanted(upto)
        wrong = sorted(name for name in {*files, *self.written}
                       if name not in files or
                       digest_of(self.path / name) != digest(files[name]))
        if wrong:
            raise Problem(f'{len(wrong)} files in {self.path} are not what the overlay '
                          f'makes: {", ".join(wrong[:5])}')
        return f'{len(files)} files are as they should be'


def objects(tree, build):
    """Objects of a configured build that are made of what was written."""
    commands = json.loads((build / 'compile_commands.json').read_text(encoding='utf-8'))
    found = []
    for command in commands:
        path = os.path.normpath(os.path.join(command['directory'], command['file']))
        name = os.path.relpath(path, tree.path)
        if name in tree.written or re.fullmatch(r'qapi-.*-ballast\.c', os.path.basename(path)):
            found.append(command['output'])
    return '\n'.join(sorted(found))


def main():
    parser = argparse.ArgumentParser(
        prog='overlay', usage='scripts/overlay [--check | --undo | --objects BUILD] [--upto N] QEMU_SRC',
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    action = parser.add_mutually_exclusive_group()
    action.add_argument('--check', action='store_true')
    action.add_argument('--undo', action='store_true')
    action.add_argument('--objects', metavar='BUILD', type=Path)
    parser.add_argument('--upto', type=int)
    parser.add_argument('tree', metavar='QEMU_SRC', type=Path)
    args = parser.parse_args()
    try:
        tree = Tree(args.tree.resolve())
        if args.undo:
            print('overlay:', tree.undo())
        elif args.objects:
            print(objects(tree, args.objects.resolve()))
        elif args.check:
            print('overlay:', tree.check(args.upto))
        else:
            print('overlay:', tree.overlay(args.upto))
    except (Problem, OSError, ValueError) as error:
        sys.exit(f'overlay: {error}')


if __name__ == '__main__':
    main()
