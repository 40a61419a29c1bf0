# SPDX-License-Identifier: GPL-2.0-or-later
"""The two disks of the host: this machine's QEMU, Python and bash; and what this project built.

The first is made again when one of these programs changes, the second each time: what the tests of a
build run in there is that build.  Both are only read.
"""

import compileall
import hashlib
import os
import re
import shutil
import subprocess
import sysconfig
import tarfile
import tempfile
from pathlib import Path
from py_compile import PycInvalidationMode
from typing import Iterator, List, Sequence, Set

from guest import image_missing
from ballast import paths

PYTHON = Path('/usr/bin/python3')
STDLIB = Path(sysconfig.get_path('stdlib'))
# of the standard library what no test needs
LEFT_OUT = re.compile(r'test|idlelib|tkinter|lib2to3|ensurepip|pydoc_data|turtledemo|distutils|venv|config-.*|'
                      r'(site|dist)-packages')
PROGRAMS = ('bash', 'strace', 'numactl')        # for people; what is not installed is left out
DATA = [Path(folder, name) for folder in ('/usr/share/seabios', '/usr/share/qemu')
        for name in ('bios-256k.bin', 'bios.bin', 'kvmvapic.bin', 'linuxboot.bin', 'linuxboot_dma.bin', 'pvh.bin')]
LOCALE = Path('/usr/lib/locale/C.utf8')
MOUNT_POINTS = ('proc', 'sys', 'dev', 'tmp', 'run', 'root', 'ballast', 'busybox', 'etc', 'usr/bin', 'usr/lib64')

FOLDER = paths.BUILD / 'deps' / 'numa-host'
SYSTEM = FOLDER / 'system.img'
INSIDE = '/ballast'             # where the project is in there
BUILT = ('ballast', 'ballastd', 'ballast-qemu.so', 'tests/firmware/mailbox.bin')


def missing() -> str:
    """What the host needs and this machine lacks, or ''."""
    for name in (paths.QEMU, 'mke2fs', 'ldd'):
        if not _which(name):
            return name
    if not STDLIB.is_relative_to('/usr'):
        return f"the machine's own Python ({PYTHON}) to run this with"
    return image_missing()


def _which(name: str) -> str:
    return shutil.which(name, path=os.environ.get('PATH', '') + ':/usr/sbin:/sbin') or ''


def _roots() -> List[Path]:
    """Programs, each by its own name."""
    found = [_which(name) for name in (paths.QEMU, *PROGRAMS)]
    return [Path(name) for name in found if name] + [PYTHON.resolve()]


def _libraries_of_built() -> Set[Path]:
    programs = [paths.BUILD / name for name in BUILT if not name.endswith('.bin')]
    return {path for program in programs if program.exists() for path in _libraries(program)} - set(programs)


def _libraries(program: Path) -> Set[Path]:
    """Shared objects that a program loads, and itself."""
    text = subprocess.run(['ldd', str(program)], capture_output=True, text=True, check=False).stdout
    return {program} | {Path(name) for name in re.findall(r'(?:=> )?(/\S+) \(0x', text)}


def _stdlib() -> Iterator[Path]:
    for folder, folders, names in os.walk(STDLIB):
        folders[:] = [name for name in folders if not LEFT_OUT.fullmatch(name)]
        yield from (Path(folder, name) for name in names)


def _fingerprint(programs: Set[Path]) -> str:
    """Of the programs with their libraries, and of how the disk is made."""
    lines = [Path(__file__).read_text(encoding='utf-8')]
    for path in [*sorted(programs), STDLIB]:
        stat = path.stat()
        lines.append(f'{path} {stat.st_size} {stat.st_mtime_ns}')
    return hashlib.sha256('\n'.join(lines).encode()).hexdigest()


def _stage(root: Path, files: Set[Path]) -> None:
    """A tree with usr/ merged, as Debian has it."""
    for name in MOUNT_POINTS:
        (root / name).mkdir(parents=True)
    for name in ('bin', 'lib', 'lib64'):
        (root / name).symlink_to(f'usr/{name}')
    for path in files:
        there = root / str(path.parent.resolve())[1:] / path.name
        there.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, there)       # what Python compiled counts only with the time of its source
    (root / 'usr/bin/python3').symlink_to(PYTHON.resolve().name)
    (root / 'usr/bin/sh').symlink_to('bash')
    (root / 'etc/passwd').write_text('root:x:0:0::/root:/bin/bash\n')
    (root / 'etc/group').write_text('root:x:0:\n')


def _make_disk(root: Path, image: Path) -> None:
    kib = sum(entry.lstat().st_size // 1024 + 4 for entry in root.rglob('*'))
    subprocess.run([_which('mke2fs'), '-q', '-F', '-t', 'ext4', '-O', '^has_journal', '-m', '0', '-N', '8192',
                    '-d', str(root), str(image), f'{kib + 8192}k'], check=True, capture_output=True)


def system() -> Path:
    """The first disk; made when it is not there or old.

    Two that make it at one time do not disturb each other: it comes in one step.
    """
    programs = _libraries_of_built()
    for program in _roots():
        programs |= _libraries(program)
    now = _fingerprint(programs)
    stamp = FOLDER / 'fingerprint'
    if SYSTEM.exists() and stamp.exists() and stamp.read_text(encoding='ascii') == now:
        return SYSTEM
    FOLDER.mkdir(parents=True, exist_ok=True)
    files = programs | set(_stdlib()) | {path for path in DATA if path.exists()}
    files |= {path for path in LOCALE.rglob('*') if path.is_file()}
    for path in (path for path in files if path.parent.name == 'lib-dynload'):
        programs |= _libraries(path)
    with tempfile.TemporaryDirectory(dir=FOLDER, prefix='.work.') as work:
        _stage(Path(work, 'root'), files | programs)
        _make_disk(Path(work, 'root'), Path(work, 'image'))
        os.replace(Path(work, 'image'), SYSTEM)
    stamp.write_text(now, encoding='ascii')
    return SYSTEM


def project(archive: Path, extra: Sequence[str] = ()) -> None:
    """The second disk, a tar archive: tests, libraries and what is built, as in the project's folder.

    Python there takes a second to compile what takes a hundredth here, so it is compiled here.
    """
    with tempfile.TemporaryDirectory(prefix='ballast-') as work:
        top = Path(work)
        shutil.copytree(paths.REPO / 'tests', top / 'tests',
                        ignore=shutil.ignore_patterns('__pycache__', 'corpus', '*.c', '*.h'))
        library = top / 'build/deps/qemu-src/python/qemu'
        shutil.copytree(paths.QEMU_SRC / 'python' / 'qemu', library, ignore=shutil.ignore_patterns('__pycache__'))
        for name in (*BUILT, *extra):
            if (paths.BUILD / name).exists():
                (top / 'build' / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(paths.BUILD / name, top / 'build' / name)
        for folder in ('tests/lib', 'tests/numa', 'tests/functional', 'build/deps/qemu-src/python/qemu'):
            compileall.compile_dir(top / folder, ddir=f'{INSIDE}/{folder}', quiet=2,
                                   invalidation_mode=PycInvalidationMode.UNCHECKED_HASH)
        with tarfile.open(archive, 'w') as tar:
            tar.add(top, '.')
