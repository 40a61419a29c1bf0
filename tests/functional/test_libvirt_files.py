#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""What Ballast brings for libvirt's hosts: the hook, rules for AppArmor and SELinux, the unit."""

import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Dict, List, Optional

from fixture import host
from guest import MIB
from ballast import paths, tap

DATA = paths.REPO / 'data'
TOOLS = paths.BUILD / 'deps' / 'policy-tools'
HOOK = DATA / 'libvirt' / 'hook'
ABSTRACTIONS = Path('/etc/apparmor.d/abstractions')

PLUGIN_XML = """<domain type='kvm'>
  <qemu:commandline>
    <qemu:arg value='-plugin'/>
    <qemu:arg value='/usr/lib/x86_64-linux-gnu/ballast/ballast-qemu.so,claim=auto,ledger={path},name=x'/>
  </qemu:commandline>
</domain>
"""
OBJECT_XML = "<qemu:arg value='-object'/>\n<qemu:arg value='memory-ledger,id=ledger0,path={path}'/>\n"
NATIVE_XML = "<memballoon model='virtio'>\n  <ledger claim='auto' path='{path}'/>\n</memballoon>\n"


def _run(*command: str, text: str = '', env: Optional[Dict[str, str]] = None,
         cwd: Optional[Path] = None) -> 'subprocess.CompletedProcess[str]':
    return subprocess.run(command, input=text, env=env, cwd=cwd, capture_output=True, text=True,
                          check=False, timeout=60)


def _hook(xml: str, *words: str) -> 'subprocess.CompletedProcess[str]':
    """The hook as libvirt calls it."""
    env = {**os.environ, 'PATH': f"{paths.BUILD}:{os.environ['PATH']}", 'BALLAST_HOOK_WAIT': '1'}
    return _run(str(HOOK), 'vm', *words, '-', text=xml, env=env)


@tap.case('the hook: a guest starts when its ledger answers, and is told when it does not')
def hook() -> None:
    """Every way of naming the ledger; a guest that names none is left alone."""
    with host(guests=False) as here:
        there = here.ledger('ledger', 64 * MIB).path
        for xml in (PLUGIN_XML, OBJECT_XML, NATIVE_XML):
            absent = _hook(xml.format(path=f'{there}.no'), 'prepare', 'begin')
            tap.equal(absent.returncode, 1, f'status with {xml}')
            words = ('ballast: guest vm is not started, its ledger does not answer after 1 s: '
                     f'cannot open the ledger {there}.no')
            assert absent.stderr.startswith(words) and absent.stderr.count('\n') == 1, absent.stderr
            present = _hook(xml.format(path=there), 'prepare', 'begin')
            tap.equal((present.returncode, present.stdout, present.stderr), (0, '', ''), 'the verdict')
        tap.note(absent.stderr)
        tap.equal(_hook(PLUGIN_XML.format(path=f'{there}.no'), 'release', 'end').returncode, 0)
        tap.equal(_hook('<domain><name>vm</name></domain>', 'prepare', 'begin').returncode, 0)


def _parse_profile(extra: str) -> 'subprocess.CompletedProcess[str]':
    """A guest's profile with our rules, and more, through AppArmor's parser."""
    with tempfile.TemporaryDirectory(prefix='ballast-') as directory:
        base = Path(directory) / 'apparmor.d'
        shutil.copytree(TOOLS / 'etc' / 'apparmor.d', base)
        shutil.copy(ABSTRACTIONS / 'libvirt-qemu', base / 'abstractions')
        rules = base / 'abstractions' / 'libvirt-qemu.d'
        rules.mkdir()
        (rules / 'ballast').write_text((DATA / 'apparmor' / 'ballast').read_text('utf-8') + extra, 'utf-8')
        profile = ('#include <tunables/global>\nprofile vm flags=(attach_disconnected) {\n'
                   '  #include <abstractions/libvirt-qemu>\n}\n')
        return _run(str(TOOLS / 'sbin' / 'apparmor_parser'), '--skip-kernel-load', '--skip-cache',
                    '--base', str(base), '--debug', text=profile)


@tap.case("AppArmor's parser takes the rules, as a part of libvirt's")
def apparmor() -> None:
    """With the lines for a ledger file, too; and it does notice mistakes."""
    tap.need((TOOLS / 'sbin' / 'apparmor_parser').exists(), f'apparmor_parser ({TOOLS})')
    tap.need((ABSTRACTIONS / 'libvirt-qemu').exists(), f"libvirt's rules ({ABSTRACTIONS / 'libvirt-qemu'})")
    commented = re.findall(r'^  #(\S.*,)$', (DATA / 'apparmor' / 'ballast').read_text('utf-8'), re.M)
    tap.equal(len(commented), 2, 'lines for a file')
    result = _parse_profile('\n'.join(commented) + '\n')
    tap.equal(result.returncode, 0, result.stderr)
    for path in ('/run/ballast/socket', '/run/ballast/ledger', 'ballast/ballast-qemu.so'):
        assert path in result.stdout, f'no rule for {path}'
    assert _parse_profile('/run/ballast/socket rwq,\n').returncode, 'a mistake was not noticed'


@tap.case("SELinux's compiler takes the module")
def selinux() -> None:
    """And does notice mistakes."""
    compiler = TOOLS / 'usr' / 'bin' / 'checkmodule'
    tap.need(compiler.exists(), f'checkmodule ({TOOLS})')
    source = (DATA / 'selinux' / 'ballast.te').read_text('utf-8')
    with tempfile.TemporaryDirectory(prefix='ballast-') as directory:
        file = Path(directory) / 'ballast.te'
        command: List[str] = [str(compiler), '-M', '-m', '-o', str(file.with_suffix('.mod')), str(file)]
        file.write_text(source, 'utf-8')
        result = _run(*command)
        tap.equal(result.returncode, 0, result.stderr)
        file.write_text(source.replace('allow virt_domain ', 'allow virt_domian ', 1), 'utf-8')
        assert _run(*command).returncode, 'a mistake was not noticed'
    context = re.compile(r'^/var/run/\S+\s+system_u:object_r:(\w+):s0$', re.M)
    label = context.search((DATA / 'selinux' / 'ballast.fc').read_text('utf-8'))
    assert label and f'type {label[1]},' in source, 'the label of the files'


@tap.case("libvirt's units begin after the socket of the ledger")
def units() -> None:
    """As systemd reads the drop-in; with the daemon's own units beside it."""
    tap.need(shutil.which('systemd-analyze'), 'systemd-analyze')
    with tempfile.TemporaryDirectory(prefix='ballast-') as directory:
        tree = Path(directory) / 'units'
        (tree / 'libvirtd.service.d').mkdir(parents=True)
        shutil.copy(DATA / 'systemd' / 'libvirt.conf', tree / 'libvirtd.service.d' / 'ballast.conf')
        (tree / 'libvirtd.service').write_text('[Service]\nExecStart=/bin/true\n', 'utf-8')
        for name in ('ballastd.socket', 'ballastd.service'):
            shutil.copy(paths.BUILD / 'data' / 'systemd' / name
                        if name.endswith('service') else DATA / 'systemd' / name, tree)
        env = {**os.environ, 'SYSTEMD_UNIT_PATH': f'{tree}:'}
        result = _run('systemd-analyze', 'verify', '--man=no', str(tree / 'libvirtd.service'), env=env)
        complaints = [line for line in result.stderr.splitlines() if 'libvirt' in line]
        assert not complaints, complaints
        broken = tree / 'libvirtd.service.d' / 'ballast.conf'
        broken.write_text(broken.read_text('utf-8').replace('Wants=', 'Wnats='), 'utf-8')
        result = _run('systemd-analyze', 'verify', '--man=no', str(tree / 'libvirtd.service'), env=env)
        assert 'Wnats' in result.stderr, 'a mistake was not noticed'


if __name__ == '__main__':
    tap.main()
