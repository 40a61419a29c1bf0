#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Loading the plug-in: into the QEMU it was built for, and into no other."""

import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / 'lib'))

# pylint: disable=wrong-import-position
from ballast import paths, tap                   # noqa: E402


def load(plugin: str) -> 'subprocess.CompletedProcess[str]':
    """Start a QEMU that has nothing to do but load a plug-in, and leave."""
    command = [paths.QEMU, '-M', 'none', '-display', 'none', '-nodefaults', '-S', '-qmp', 'stdio',
               '-plugin', plugin]
    quit_at_once = '{"execute":"qmp_capabilities"}\n{"execute":"quit"}\n'
    return subprocess.run(command, input=quit_at_once, capture_output=True, text=True, timeout=60, check=False)


def refused(plugin: str, *words: str) -> None:
    """It is not loaded, QEMU ends, and one line says why."""
    result = load(plugin)
    tap.equal(result.returncode, 1)
    tap.equal(len(result.stderr.strip().splitlines()), 1)
    for word in words:
        assert word in result.stderr, f'no {word!r} in: {result.stderr}'


def need_plugin() -> str:
    """Path of the plug-in under test."""
    tap.need(paths.PLUGIN.exists(), f'the plug-in ({paths.PLUGIN})')
    return str(paths.PLUGIN)


@tap.case('loads into the QEMU it was built for')
def loads() -> None:
    result = load(need_plugin())
    tap.equal((result.returncode, result.stderr), (0, ''))


@tap.case('another QEMU version is refused, with both versions')
def other_version() -> None:
    image = Path(need_plugin()).read_bytes()
    have = subprocess.run([paths.QEMU, '--version'], capture_output=True, text=True, check=True).stdout
    version = have.split('version ')[1].splitlines()[0].encode()
    other = b'9.9.9' + version[5:] if version[5:6] == b' ' else b'9' + version[1:]
    assert version in image, f'the plug-in was not built for {version.decode()}'
    with tempfile.TemporaryDirectory() as scratch:
        changed = Path(scratch, 'other.so')
        changed.write_bytes(image.replace(version + b'\0', other + b'\0'))
        refused(str(changed), f'this is QEMU {version.decode()}', f'built for {other.decode()}', 'rebuild')


@tap.case('a parent of another size is refused, with both sizes')
def other_size() -> None:
    plugin = Path(need_plugin()).with_name('ballast-qemu-other-size.so')
    tap.need(plugin.exists(), f'the test plug-in ({plugin})')
    refused(str(plugin), 'virtio-balloon-device has', 'bytes in this QEMU', 'rebuild')


@tap.case('an unknown option is refused, with what is allowed')
def unknown_option() -> None:
    refused(f'{need_plugin()},legder=/x', "'legder=/x'", 'allowed: ledger=PATH')


@tap.case('a claim that is none is refused, with what is allowed')
def bad_claim() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        ledger = f'{scratch}/ledger'
        subprocess.run([paths.CLI, 'init', '--ledger', ledger, '--capacity', '1G'], check=True)
        refused(f'{need_plugin()},ledger={ledger},claim=much', 'claim=much', 'SIZE[@NODE][/PAGESIZE]')


@tap.case('a claim may name 64 kinds of memory: the ledger judges them; 65 are refused before it is asked')
def many_kinds() -> None:
    nodes = ','.join(f'claim=1M@{node}' for node in range(64))
    with tempfile.TemporaryDirectory() as scratch:
        ledger = f'{scratch}/ledger'
        subprocess.run([paths.CLI, 'init', '--ledger', ledger, '--capacity', '1G'], check=True)
        refused(f'{need_plugin()},ledger={ledger},{nodes}', 'there is no node 1 in this ledger')
        refused(f'{need_plugin()},ledger={ledger},{nodes},claim=1M', 'more than 64 kinds of memory')


@tap.case('a ledger that is not there is refused, with its path')
def no_ledger() -> None:
    refused(f'{need_plugin()},ledger=/nowhere/ledger', '/nowhere/ledger', 'No such file')


if __name__ == '__main__':
    tap.main()
