# SPDX-License-Identifier: GPL-2.0-or-later
"""A build of QEMU linked anew, with the code of a migration somewhere else.

Where a loop and the functions that it calls lie in their cache lines, and which of them share a line of the
instruction cache, makes a migration of the very same code faster or slower by several percent; each line added
anywhere moves all that follows.  So what a migration runs in is compiled anew with each function at the
beginning of a cache line, and the layouts differ in the gaps between the objects.  A gap depends on the layout's
number and the object's name: two builds get the same ones.
"""

import json
import os
import random
import re
import shlex
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Dict, List

from report import Absent

NUMBER = 4
LINE = 64                       # bytes of a cache line, and what the compiler aligns to
GAPS = 16                       # lengths of gaps, in lines
HOT = re.compile(r'lib[^/]*\.a\.p/(migration_|io_channel|system_(physmem|memory)\.c|'
                 r'util_(bufferiszero|bitmap|bitops|iov|stats64|rcu|qemu-thread)[.-])')
LIBRARY = 'libqemuutil.a'       # what it would bring is named in its place
GAP = '.text\n.p2align 6\n.skip {}, 0x90\n.section .note.GNU-stack, "", @progbits\n'


def _steps(build: Path) -> Dict[str, Any]:
    """What ninja would run, by output."""
    try:
        text = subprocess.run(['ninja', '-C', str(build), '-t', 'compdb', '-x'], check=True,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise Absent(f'a build that ninja can link again ({error})') from error
    return {step['output']: shlex.split(step['command']) for step in json.loads(text)}


def _aligned(build: Path, folder: Path, name: str, command: List[str]) -> Path:
    """Compile one object with its functions aligned."""
    target = folder / name.replace('/', '_')
    words = [{name: str(target), f'{name}.d': f'{target}.d'}.get(word, word) for word in command]
    subprocess.run([*words, f'-falign-functions={LINE}'], check=True, cwd=build)
    return target


def _gap(folder: Path, lines: int) -> str:
    target = folder / f'gap{lines}.o'
    subprocess.run(['cc', '-x', 'assembler', '-c', '-o', str(target), '-'], check=True, text=True,
                   input=GAP.format(lines * LINE))
    return str(target)


def _link(binary: Path, folder: Path) -> None:
    """All layouts."""
    build = binary.parent
    steps = _steps(build)
    names = [name for name in steps if HOT.match(name)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = dict(zip(names, pool.map(lambda name: _aligned(build, folder, name, steps[name]), names)))
    gaps = [_gap(folder, lines) for lines in range(1, GAPS + 1)]
    words = steps[binary.name]
    at = words.index(LIBRARY)
    words[at:at] = [name for name in names if name not in words]
    for layout in range(NUMBER):
        new: List[str] = []
        for word in words:
            if word in objects:
                new += [random.Random(f'{layout} {word}').choice(gaps), str(objects[word])]
            else:
                new.append(str(folder / str(layout)) if word == binary.name else word)
        subprocess.run(new, check=True, cwd=build)


def made(binary: Path) -> List[Path]:
    """The binary in each layout; made when they are first asked for, and when the build is newer."""
    there = [binary.parent / 'layouts' / str(layout) / binary.name for layout in range(NUMBER)]
    if not all(path.exists() and path.stat().st_mtime >= binary.stat().st_mtime for path in there):
        with tempfile.TemporaryDirectory() as folder:
            _link(binary, Path(folder))
            for layout, path in enumerate(there):
                path.parent.mkdir(parents=True, exist_ok=True)
                shutil.move(str(Path(folder) / str(layout)), path)
                bundle = path.parent / 'qemu-bundle'        # its firmware
                if not bundle.is_symlink():
                    bundle.symlink_to('../../qemu-bundle')
    return there
