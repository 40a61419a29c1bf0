# SPDX-License-Identifier: GPL-2.0-or-later
"""Help, manual pages, completion and installation say the same."""

import os
import re
import shutil
import subprocess

from cli import BALLAST, BUILD, TOP, Ledger, check, has, main, needs, source

COMMON = {'--ledger', '--help'}
# of commands that a build without a JSON library does not have
NEED_JSON = {
    'migration': COMMON | {'--qmp', '--json', '--watch', '--timeout'},
    'placement': COMMON | {'--qmp', '--pid', '--exact', '--svg', '--json',
                           '--timeout'},
}


def absent(ledger, name):
    """Whether this build has the name of the command only."""
    return 'no JSON library' in ledger.run(name, '--help').stderr


def commands():
    """{command: its options}, as --help says."""
    with Ledger() as ledger:
        names = re.findall(r'^  (\w+) +\w', ledger.ok('--help'), re.M)
        return {name: NEED_JSON[name] if absent(ledger, name) else
                set(re.findall(r'^  (--[\w-]+)', ledger.ok(name, '--help'),
                               re.M))
                for name in names}


def test_help():
    """Every option is described in the help of its command."""
    every = commands()
    check(set(every), {'init', 'status', 'claim', 'release', 'run', 'check',
                       'watch', 'metrics', 'migration', 'placement'})
    with Ledger() as ledger:
        for name, options in every.items():
            if absent(ledger, name):
                continue
            text = ledger.ok(name, '--help')
            check(text, ledger.ok(name, '-h'))
            has(text, f'usage: ballast {name} ')
            check('not described' in text, False)
            check(COMMON <= options, True)
            for line in text.splitlines():
                check(len(line) <= 80, True)


def test_help_is_true():
    """Every option in the help is taken, and no other."""
    every = commands()
    union = set().union(*every.values())
    with Ledger() as ledger:
        for name, options in every.items():
            if absent(ledger, name):
                continue
            for option in union - {'--help'}:
                error = ledger.run(name, option + '=').stderr
                unknown = f'option {option} is unknown' in error
                # getopt takes the beginning of an option for it
                known = any(x.startswith(option) for x in options)
                check((name, option, unknown), (name, option, not known))


def page_options():
    """{command: options} of the manual page."""
    page = source('docs/man/ballast.1')
    body = page[page.index('.Sh COMMANDS'):page.index('.Sh ENVIRONMENT')]
    parts = re.split(r'^\.Ss (\w+)\n', body, flags=re.M)[1:]
    return {name: {'-' + option.replace('\\', '') for option in
                   re.findall(r'^\.It Fl (\\-[\w-]+)', text, re.M)}
            for name, text in zip(parts[::2], parts[1::2])
            if name not in NEED_JSON}


def test_man():
    """The manual page describes every option, and no other."""
    described = page_options()
    for name in NEED_JSON:
        own = re.findall(r'^\.It Fl Fl ([\w-]+)',
                         source(f'docs/man/ballast-{name}.1'), re.M)
        described[name] = {'--' + option for option in own}
    check(described, {name: options - COMMON
                      for name, options in commands().items()})


def test_man_synopsis():
    """The manual page's synopsis has every command."""
    page = source('docs/man/ballast.1')
    synopsis = page[page.index('.Sh SYNOPSIS'):page.index('.Sh DESCRIPTION')]
    check(re.findall(r'^\.Cm (\w+)', synopsis, re.M), list(commands()))


def test_man_lint():
    """mandoc finds nothing wrong with the manual pages."""
    mandoc = needs('mandoc')
    for page in sorted(os.listdir(os.path.join(TOP, 'docs/man'))):
        done = subprocess.run(
            [mandoc, '-Tlint', '-Wwarning',
             os.path.join(TOP, 'docs/man', page)],
            capture_output=True, text=True, check=False)
        check((done.returncode, done.stdout + done.stderr), (0, ''))


def test_documented():
    """docs/ledger.md names every command and option."""
    text = source('docs/ledger.md')
    for name, options in commands().items():
        has(text, f'`{name}')
        for option in options - {'--help'}:
            has(text, option)


# completion

def complete(ledger, *words):
    """What bash would offer for these words, the last one unfinished."""
    script = '''
        . "$1"; shift
        COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
        _ballast 2>&1
        printf '%s\\n' "${COMPREPLY[@]}"
    '''
    done = subprocess.run(
        [needs('bash'), '-c', script, 'bash',
         os.path.join(TOP, 'data/completion/ballast.bash'), BALLAST, *words],
        env=ledger.env, capture_output=True, text=True, check=True)
    check(done.stderr, '')
    return set(done.stdout.split())


def test_bash_options():
    """bash completes every option, and no other."""
    every = commands()
    with Ledger() as ledger:
        check(complete(ledger, ''), set(every))
        check(complete(ledger, '--'), {'--ledger', '--help', '--version'})
        for name, options in every.items():
            check((name, complete(ledger, name, '--')), (name, options))
        check(complete(ledger, 'st'), {'status'})
        check(complete(ledger, '--ledger', 'x', 'wa'), {'watch'})
        check(complete(ledger, '--ledger', '=', 'x', 'me'),
              {'metrics'})
        check(complete(ledger, 'status', '--ledger', 'x', '--js'),
              {'--json'})


def test_bash_values():
    """bash completes values where it can."""
    with Ledger('--admission', 'static', '--capacity', '8G') as ledger:
        ledger.ok('claim', '--name', 'later', '1G')
        ledger.ok('claim', '--name', 'last', '1G')
        check(complete(ledger, 'init', '--admission', ''),
              {'kernel', 'static'})
        check(complete(ledger, 'init', '--admission', '=', 's'), {'static'})
        check(complete(ledger, 'init', '--admission', '='),
              {'kernel', 'static'})
        check(complete(ledger, 'release', 'la'), {'later', 'last'})
        check(complete(ledger, 'release', '--ledger', '/nowhere', 'la'),
              set())
        check(complete(ledger, 'claim', '--name', ''), set())
        check(complete(ledger, 'status', '--ledger', ledger.dir + '/'),
              {ledger.path})
        check(str(os.getpid()) in complete(ledger, 'claim', '--pid', ''),
              shutil.which('ps') is not None)
        check(complete(ledger, 'run', '--claim', '1G', '--', 'gre'), set())


def test_zsh_options():
    """The completion for zsh has every option, and no other."""
    text = source('data/completion/_ballast')
    body = text[text.index('_ballast_command()'):text.index('local -a comma')]
    for name, options in commands().items():
        part = re.search(rf'^  {name}\)\n(.*?)^    ;;', body, re.M | re.S)
        found = set(re.findall(r'--[a-z][\w-]*(?==|\[)', part.group(1)))
        check((name, found), (name, options - COMMON))
    check(set(re.findall(r"^  '([a-z]+):", text, re.M)), set(commands()))


def test_zsh_syntax():
    """zsh can read its completion."""
    zsh = needs('zsh')
    done = subprocess.run(
        [zsh, '-n', os.path.join(TOP, 'data/completion/_ballast')],
        capture_output=True, text=True, check=False)
    check((done.returncode, done.stderr), (0, ''))


# installation

def test_install():
    """An installation has the pages, the completion and the rest."""
    meson = needs('/usr/bin/meson', 'meson')
    with Ledger() as ledger:
        subprocess.run([meson, 'install', '-C', BUILD, '--no-rebuild',
                        '--quiet', '--tags', 'man,runtime,ballast-data',
                        '--destdir', ledger.dir], check=True,
                       stdout=subprocess.DEVNULL)
        found = {}
        for folder, _, files in os.walk(ledger.dir):
            for name in files:
                path = os.path.join(folder, name)
                found['/'.join(path.split('/')[-3:])] = path
        for name, origin in (
                ('share/man/man1/ballast.1', 'docs/man/ballast.1'),
                ('man/man7/ballast-ledger.7', 'docs/man/ballast-ledger.7'),
                ('man/man1/ballast-migration.1',
                 'docs/man/ballast-migration.1'),
                ('man/man1/ballast-placement.1',
                 'docs/man/ballast-placement.1'),
                ('bash-completion/completions/ballast',
                 'data/completion/ballast.bash'),
                ('zsh/site-functions/_ballast', 'data/completion/_ballast'),
                ('ballast/grafana/ballast.json', 'data/grafana/ballast.json'),
                ('ballast/prometheus/ballast.rules.yml',
                 'data/prometheus/ballast.rules.yml'),
                ('ballast/schema/status.schema.json',
                 'docs/schema/status.schema.json')):
            name = [x for x in found
                    if x.endswith('/'.join(name.split('/')[-2:]))]
            check(len(name), 1)
            with open(found[name[0]], encoding='utf-8') as file:
                check(file.read(), source(origin))
        program = [x for x in found.values() if x.endswith('/bin/ballast')]
        out = subprocess.run([program[0], '--version'], check=True,
                             capture_output=True, text=True).stdout
        has(out, 'ballast ')


if __name__ == '__main__':
    main(globals())
