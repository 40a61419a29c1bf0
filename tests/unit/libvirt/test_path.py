#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Where libvirt's guests find the plug-in: one path, wherever it is named.

    test_path.py SOURCE BUILD

It is what meson installs with the prefix of packages, /usr.
"""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import List, Tuple

SOURCE, BUILD = [Path(word).resolve() for word in sys.argv[1:3]]
del sys.argv[1:3]
sys.path.insert(0, str(SOURCE / 'tests' / 'lib'))

# pylint: disable=wrong-import-position
from ballast import tap                     # noqa: E402

FILE = 'ballast-qemu.so'
NAMED = re.compile(rf'(?<![\w./…-])(/[\w./-]+/{re.escape(FILE)})')
# each of these names it
MUST = {'libvirt.md', 'libvirt-series.md', 'libvirt-ledger.xml', 'libvirt-numa.xml', 'libvirt-own-balloon.xml'}


def installed() -> str:
    """As meson's install rule has it."""
    meson = shutil.which('meson', path='/usr/bin') or shutil.which('meson')
    tap.need(meson, 'meson')
    done = subprocess.run([str(meson), 'introspect', '--installed', '--buildoptions', str(BUILD)],
                          stdout=subprocess.PIPE, text=True, check=True)
    told = json.loads(done.stdout)
    prefix = next(option['value'] for option in told['buildoptions'] if option['name'] == 'prefix')
    places = [place for place in told['installed'].values() if place.endswith(f'/{FILE}')]
    tap.need(places, 'the plug-in in this build')
    tap.equal(len(places), 1, f'places of the plug-in in {places}')
    return '/usr' + places[0][len(prefix.rstrip('/')):]


def named() -> List[Tuple[str, str]]:
    """(file, path) of documents, examples and the series for libvirt."""
    files = [SOURCE / 'README.md', *sorted((SOURCE / 'docs').rglob('*.md')),
             *sorted((SOURCE / 'docs').rglob('*.xml')),
             *sorted((SOURCE / 'patches').glob('libvirt-*/*.patch'))]
    return [(file.name, path) for file in files for path in NAMED.findall(file.read_text('utf-8'))]


def allows(rule: str, path: str) -> bool:
    """A file rule of AppArmor's, with Debian's lib directories."""
    pattern = re.escape(rule.replace('@{multiarch}', '*-linux-gnu*')).replace(r'\*', '[^/]*')
    pattern = pattern.replace(r'\{', '(').replace(',', '|').replace(r'\}', ')')
    return bool(re.fullmatch(pattern, path))


@tap.case("documents, examples and the series name the path that it is installed at")
def one_path() -> None:
    wanted = installed()
    seen = named()
    others = [place for place in seen if place[1] != wanted]
    assert not others, f'it is installed as {wanted}, but: {others}'
    files = {name for name, _ in seen}
    assert MUST <= files and any(name.endswith('.patch') for name in files), f'named in {sorted(files)} only'


@tap.case("AppArmor's rule allows it there, and where else packages and people put it")
def apparmor() -> None:
    wanted = installed()
    text = (SOURCE / 'data' / 'apparmor' / 'ballast').read_text('utf-8')
    rules = re.findall(rf'^  (/\S+{re.escape(FILE)}) mr,$', text, re.M)
    tap.equal(len(rules), 1, f'rules in {rules}')
    for path, allowed in ((wanted, True), (wanted.replace('/usr/', '/usr/local/'), True),
                          (f'/usr/lib64/ballast/{FILE}', True), (f'/usr/lib/{FILE}', False),
                          (f'/opt/ballast/{FILE}', False)):
        tap.equal(allows(rules[0], path), allowed, f'{path} with {rules[0]}')


if __name__ == '__main__':
    tap.main()
