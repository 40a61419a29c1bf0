#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""scripts/overlay and scripts/refresh: nothing that is not ours is touched, and all of it is taken back.

On a copy of just those files of QEMU's source that the series changes.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import Dict, Iterator

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / 'lib'))

# pylint: disable=wrong-import-position
from ballast import paths, tap                                          # noqa: E402

SCRIPTS = paths.REPO / 'scripts'
ALWAYS = ('VERSION', 'configure', 'include/qemu/osdep.h')


def _source(version: str) -> Path:
    for source in (paths.QEMU_SRC, *sorted(paths.BUILD.glob('series/*/src'))):
        file = source / 'VERSION'
        if file.exists() and f"{file.read_text(encoding='utf-8').strip()}.".startswith(f'{version}.'):
            return source
    tap.skip(f'needs the source of QEMU {version}: scripts/build-qemu --series {version}')


@contextmanager
def a_tree(version: str = '10.0') -> Iterator[Path]:
    """Files that the series changes, and those that say that it is QEMU."""
    source = _source(version)
    patches = '\n'.join(path.read_text(encoding='utf-8')
                        for path in (paths.REPO / 'patches' / f'qemu-{version}').glob('[0-9]*.patch'))
    names = {*ALWAYS, *re.findall(r'^\+\+\+ b/(\S+)', patches, flags=re.M)}
    with tempfile.TemporaryDirectory(prefix='ballast-') as folder:
        for name in names:
            (Path(folder) / name).parent.mkdir(parents=True, exist_ok=True)
            original = source / '.ballast' / 'original' / name      # of a tree that has been overlaid
            shutil.copy2(original if original.exists() else source / name, Path(folder) / name)
        yield Path(folder)


def content(tree: Path) -> Dict[str, bytes]:
    """Every file, and every folder with an empty content."""
    return {str(path.relative_to(tree)): path.read_bytes() if path.is_file() else b''
            for path in tree.rglob('*')}


def overlay(tree: Path, *options: str) -> str:
    """It works; what it says."""
    done = subprocess.run([SCRIPTS / 'overlay', *options, tree], text=True, check=False,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    tap.equal(done.returncode, 0, f'exit status ({done.stdout.strip()})')
    return done.stdout


def refused(tree: Path, *options: str) -> str:
    """It ends with one line, and has changed nothing."""
    before = content(tree)
    done = subprocess.run([SCRIPTS / 'overlay', *options, tree], text=True, check=False,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    tap.equal(done.returncode, 1, 'exit status')
    tap.equal(len(done.stdout.splitlines()), 1, f'lines of {done.stdout!r}')
    assert content(tree) == before, 'something was changed'
    return done.stdout


def _there_and_back(version: str) -> None:
    """With the times of the files that were patched, so that nothing is built again."""
    with a_tree(version) as tree:
        before = content(tree)
        times = {name: (tree / name).stat().st_mtime_ns for name in before if (tree / name).is_file()}
        overlay(tree)
        assert (tree / 'hw/virtio/ballast/device.c').exists() and content(tree) != before
        assert ' 0 changed' in overlay(tree), 'the second time changes something'
        overlay(tree, '--check')
        overlaid = {name: (tree / name).stat().st_mtime_ns for name in times}
        overlay(tree, '--undo')
        assert content(tree) == before, sorted(set(content(tree)) ^ set(before))
        for name, time in times.items():            # what was built of the patched file is made again
            undone = (tree / name).stat().st_mtime_ns
            assert undone > overlaid[name] if overlaid[name] != time else undone == time, f'time of {name}'


@tap.case('overlay: a file of somebody else is not overwritten')
def foreign() -> None:
    """It is named."""
    with a_tree() as tree:
        (tree / 'qapi').mkdir(exist_ok=True)
        (tree / 'qapi/ballast.json').write_text('mine\n', encoding='utf-8')
        assert 'qapi/ballast.json' in refused(tree)


@tap.case('overlay: a file that was edited since is not overwritten')
def edited() -> None:
    """Neither one of ours nor a patched one, and not by --undo either."""
    with a_tree() as tree:
        overlay(tree)
        for name in ('qapi/ballast.json', 'migration/ram.c'):
            was = (tree / name).read_bytes()
            (tree / name).write_bytes(was + b'\n')
            assert name in refused(tree) and name in refused(tree, '--undo')
            (tree / name).write_bytes(was)
        overlay(tree, '--undo')


def _fuzz(version: str) -> None:
    """A line of context that differs ends it; the patch is named."""
    with a_tree(version) as tree:
        path = tree / 'migration/ram.c'
        text = path.read_text(encoding='utf-8')
        assert '    assert(ram_state);\n' in text
        path.write_text(text.replace('    assert(ram_state);\n', '    assert(ram_state != NULL);\n'),
                        encoding='utf-8')
        assert '.patch does not apply without fuzz' in refused(tree)


@tap.case('overlay: not a QEMU tree, or one without a series')
def wrong_tree() -> None:
    """It says which there are."""
    with a_tree() as tree:
        (tree / 'VERSION').write_text('9.9.9\n', encoding='utf-8')
        assert '10.0' in refused(tree)
        (tree / 'configure').unlink()
        assert 'configure' in refused(tree)


def _round_trip(version: str) -> None:
    """The same again; an overlaid tree serves as well."""
    tap.need(shutil.which('git'), 'git')
    with a_tree(version) as tree:
        for prepare in (lambda: None, lambda: overlay(tree)):
            prepare()
            done = subprocess.run([SCRIPTS / 'refresh', 'check', tree], text=True, check=False,
                                  stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            tap.equal(done.returncode, 0, f'exit status ({done.stdout.strip()})')


for _version in sorted(path.parent.name[len('qemu-'):] for path in paths.REPO.glob('patches/qemu-*/series')):
    tap.add(f'overlay, {_version}: adds, is repeated, is undone byte for byte', _there_and_back, _version)
    tap.add(f'overlay, {_version}: no fuzz', _fuzz, _version)
    tap.add(f'refresh, {_version}: patches, commits, patches', _round_trip, _version)


@tap.case('stubs: every command of the schema has one')
def stubs() -> None:
    """Targets without the device are linked with them."""
    schema = (paths.REPO / 'qapi/ballast.json').read_text(encoding='utf-8')
    text = (paths.REPO / 'hw/virtio/ballast/builtin/stubs.c').read_text(encoding='utf-8')
    for name in re.findall(r"'command': '([a-z-]+)'", schema):
        assert f"qmp_{name.replace('-', '_')}(" in text, f'{name} has no stub'


if __name__ == '__main__':
    os.chdir(paths.REPO)
    tap.main()
