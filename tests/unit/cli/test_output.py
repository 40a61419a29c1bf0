# SPDX-License-Identifier: GPL-2.0-or-later
"""What ballast prints: tables, JSON, metrics, exit statuses."""

import json
import os
import re
import resource
import subprocess

from cli import (BUILD, GIB, TOP, Ledger, Skip, check, has, main, needs,
                 source)

PROMTOOL = (os.path.join(TOP, 'build/deps/promtool/promtool'), 'promtool')
# what may stand in a name, and must not be taken for anything else
ODD = 'Bäcker "x"\\y {},'


def some_ledger():
    """Two nodes, three page sizes, an overcommitted node, two claims."""
    ledger = Ledger('--admission', 'static', '--capacity', '8G@0',
                    '--capacity', '8G@1', '--capacity', '2G@0/2M',
                    '--capacity', '4G@1/1G', '--overcommit', '1=150')
    ledger.ok('claim', '--name', 'vm1', '3G@0', '1G@0/2M')
    ledger.ok('claim', '--name', ODD, '5G')
    return ledger


def valid(kind, text):
    """The object that the text is, which fits its schema."""
    try:
        # pylint: disable=import-outside-toplevel
        import jsonschema
    except ImportError:
        raise Skip('no python3-jsonschema') from None
    schema = json.loads(source('docs/schema', f'{kind}.schema.json'))
    jsonschema.Draft202012Validator.check_schema(schema)
    document = json.loads(text)
    jsonschema.Draft202012Validator(schema).validate(document)
    return document


def test_status_schema():
    """status --json fits its schema, and the identity holds."""
    with some_ledger() as ledger:
        status = valid('status', ledger.ok('status', '--json'))
    for cell in status['capacity']:
        check(cell['free'] + cell['freeable'] + cell['owned'],
              cell['capacity'])
    check(status['capacity'][3]['overcommit-percent'], 150)
    check(status['capacity'][3]['capacity'], 12 * GIB)
    check(status['capacity'][3]['backed'], 8 * GIB)
    check([p['name'] for p in status['participants']], ['vm1', ODD])


def test_init_schema():
    """init --json fits its schema, and says what status says."""
    with some_ledger() as ledger:
        made = valid('init', ledger.ok(
            'init', '--json', '--ledger', ledger.path + '-2', '--slots', '9',
            '--count-cache', '7', '--admission', 'static', '--capacity',
            '3G@1', '--capacity', '2G/2M', '--overcommit', '1=150'))
        check(made['created'], ledger.path + '-2')
        status = json.loads(ledger.ok('status', '--json', '--ledger',
                                      made['created']))
        for key in ('admission', 'count-cache-percent', 'slots'):
            check(made[key], status[key])
        for cell, whole in zip(made['capacity'], status['capacity'],
                               strict=True):
            check(cell, {key: whole[key] for key in cell})
        check(made['slots'], 9)
        check([c['capacity'] for c in made['capacity']
               if c['node'] == 1 and c['backed']], [4.5 * GIB])
        done = ledger.fails(1, 'init', '--json', '--capacity', '1G')
        check(valid('error', done.stdout)['error']['reason'], 'exists')
        os.unlink(made['created'])


def test_status_schema_waiting():
    """status --json of one that waits fits its schema."""
    with some_ledger() as ledger:
        waiter = ledger.start('claim', '--name', 'w', '--wait', '7G@0')
        try:
            while not (ledger.person('w') or {}).get('queue-place'):
                pass
            status = valid('status', ledger.ok('status', '--json'))
        finally:
            waiter.terminate()
            waiter.communicate(timeout=30)
        check(status['waiting'], 1)
        waiting = status['participants'][-1]
        check((waiting['queue-place'], waiting['holds'][0]['wanted']),
              (1, 7 * GIB))


def test_refusal_schema():
    """claim --json and run --json say what is missing and who has it."""
    with some_ledger() as ledger:
        done = ledger.fails(3, 'claim', '--name', 'x', '--json', '6G@0')
        error = valid('claim', done.stdout)['error']
        check((error['reason'], error['node'], error['missing']),
              ('short-node', 0, GIB))
        check([h['name'] for h in error['holders']], ['vm1'])
        has(done.stderr, error['message'])
        done = ledger.fails(3, 'run', '--claim', '99G', '--json', '--', 'id')
        check(valid('error', done.stdout)['error']['reason'], 'short-host')
        granted = ledger.ok('claim', '--json', '1G@0', '--name', 'x')
        check(valid('claim', granted), {'granted': 'x'})
        check(valid('claim', ledger.ok('release', 'x', '--json')),
              {'released': 'x'})
        done = ledger.fails(1, 'release', 'x', '--json')
        check(valid('error', done.stdout)['error']['reason'], 'system')


def test_in_vain_schema():
    """A wait in vain is a refusal with errno 110."""
    with some_ledger() as ledger:
        done = ledger.fails(3, 'claim', '--name', 'x', '--wait=0.2', '--json',
                            '6G@0')
        error = valid('error', done.stdout)['error']
        check((error['errno'], error['missing']), (110, GIB))
        has(done.stderr, 'waited 0.2 s in vain: claim of 6 GiB on node 0')


def test_check_schema():
    """check --json fits its schema, damage and all."""
    with some_ledger() as ledger:
        document = valid('check', ledger.ok('check', '--json'))
        check((document['repair'], document['bad']), (False, 0))
        document = valid('check', ledger.ok('check', '--json', '--repair'))
        check(document['repair'], True)
        with open(ledger.path, 'wb') as file:
            file.write(b'rubbish' * 1000)
        done = ledger.fails(1, 'check', '--json')
        check(valid('error', done.stdout)['error']['reason'], 'bad-file')
        done = ledger.fails(1, 'status', '--json')
        valid('error', done.stdout)


def test_schema_can_fail():
    """The schema does not take an object with a member too many or less."""
    try:
        # pylint: disable=import-outside-toplevel
        import jsonschema
    except ImportError:
        raise Skip('no python3-jsonschema') from None
    with some_ledger() as ledger:
        text = ledger.ok('status', '--json')
    for broken in (text.replace('"waiting"', '"wating"'),
                   text.replace('"free": ', '"free": 0.5, "x": '),
                   text.replace('"standing"', '"sitting"')):
        try:
            valid('status', broken)
        except jsonschema.ValidationError:
            continue
        raise AssertionError('taken: ' + broken[:200])


def test_exit_statuses():
    """Exit statuses are those of the manual page."""
    page = source('docs/man/ballast.1')
    table = page[page.index('.Sh EXIT STATUS'):page.index('.Sh EXAMPLES')]
    documented = {int(n) for n in re.findall(r'^\.It (\d+)', table, re.M)}
    with some_ledger() as ledger:
        cases = [
            (0, 'status'), (0, 'check'), (0, 'metrics'), (0, '--help'),
            (0, 'run', '--claim', '1G', '--', 'true'),
            (1, 'release', 'nobody'),
            (1, 'status', '--ledger', '/nowhere/ledger'),
            (1, 'claim', '--name', 'x', '1G@9'),
            (1, 'claim', '--name', 'x', '1G@0/4M'),
            (1, 'init'), (1, 'metrics', '--textfile', '/nowhere/x'),
            (2, 'stauts'), (2,), (2, 'claim', '1G'), (2, 'run', '--', 'id'),
            (2, 'watch', '--interval', '0'), (2, 'watch', '--interval', 'x'),
            (2, 'claim', '--name', 'x', '--wait=-1', '1G'),
            (2, 'status', '--top', '-1'), (2, 'metrics', 'x'),
            (3, 'claim', '--name', 'x', '99G'),
            (3, 'claim', '--name', 'x', '--wait=0.1', '6G@0'),
            (3, 'claim', '--name', 'x', '--wait', '99G@0'),
            (3, 'run', '--claim', '99G', '--', 'id'),
            (126, 'run', '--claim', '1G', '--', '/etc/passwd'),
            (127, 'run', '--claim', '1G', '--', '/nowhere/id'),
            (77, 'run', '--claim', '1G', '--', 'sh', '-c', 'exit 77'),
        ]
        for status, *words in cases:
            done = ledger.fails(status, *words)
            if status in (1, 2, 3, 126, 127):
                check(done.stderr.count('\n'), 1)
    check({case[0] for case in cases} - {77}, documented)


def test_did_you_mean():
    """A slip of the finger is told what was meant."""
    with some_ledger() as ledger:
        for words, meant in ((('stauts',), 'did you mean status?'),
                             (('realease', 'x'), 'did you mean release?'),
                             (('status', '--jsno'), 'mean --json?'),
                             (('init', '--capasity', '1G'), '--capacity?'),
                             (('init', '--c', '1'),
                              '--c could be --capacity or --count-cache'),
                             (('status', '--top'), '--top needs a value'),
                             (('status', '--all=1'), '--all takes no value'),
                             (('claim', '-x'), 'option -x is unknown')):
            has(ledger.fails(2, *words).stderr, meant)
        error = ledger.fails(2, 'xyzzy').stderr
        check('mean' in error, False)


def test_broken_promise():
    """status says by how much a promise is broken."""
    with Ledger('--admission', 'static', '--capacity', '64T@0') as ledger:
        has(ledger.ok('status'), 'admission: static')
        check('broken promise' in ledger.ok('status'), False)
        ledger.ok('claim', '--name', 'big', '64T@0')
        cell = ledger.status()['capacity'][0]
        check(cell['broken'], cell['outstanding'] - cell['kernel-free'])
        check(cell['broken'] > 0, True)
        text = ledger.ok('status')
        has(text, 'broken promise: the host, pages of 4K: 64 TiB outstanding')
        if not re.search(r'broken promise: .* \(?\d.* missing$', text, re.M):
            raise AssertionError(text)
        has(ledger.ok('watch', '--count', '1'), '!!!!')
        has(ledger.ok('metrics'), 'ballast_node_broken_bytes{node="0",'
            'page_size="4K"} ' + str(cell['broken'])[:3])


def test_names_are_harmless():
    """A name cannot do anything to a terminal."""
    with Ledger('--admission', 'static', '--capacity', '4G') as ledger:
        name = 'plain'
        ledger.ok('claim', '--name', name, '2G')
        refused = [ledger.fails(1, 'claim', '--name', 'x\x9b31mred', '1G'),
                   ledger.fails(1, 'release', 'x\x9b31mred'),
                   ledger.fails(1, 'run', '--name', 'x\x9b31mred', '--claim',
                                '1G', '--', 'true')]
        for result in refused:
            check(result.stderr, 'ballast: bad name: UTF-8 without control '
                                 'characters is allowed\n')
        printed = [ledger.ok('status'), ledger.ok('watch', '--count', '1'),
                   ledger.fails(3, 'claim', '--name', 'y', '4G').stderr,
                   ledger.fails(1, 'release', '\x1b[31m').stderr,
                   ledger.fails(2, '\x1b[31m').stderr,
                   ledger.fails(1, 'status', '--ledger', '/\x1b[m').stderr]
        for text in printed:
            check(re.findall('[\x00-\x09\x0b-\x1f\x7f-\x9f]', text), [])
        check(ledger.status()['participants'][0]['name'], name)
        has(printed[0], name)


def test_overcommit_shown():
    """status says by which factor a node is overcommitted."""
    with some_ledger() as ledger:
        has(ledger.ok('status'),
            'overcommit: node 1, pages of 4K: 150% of 8 GiB')


# metrics

SAMPLE = re.compile(r'^(ballast_\w+)(?:\{(.*)\})? (-?[\d.]+)$')
LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"(?:,|$)')


def samples(text):
    """{(name, labels): value}, each once."""
    found = {}
    for line in text.splitlines():
        if line.startswith('#'):
            continue
        name, labels, value = SAMPLE.match(line).groups()
        pairs = LABEL.findall(labels or '')
        check(''.join(f'{k}="{v}",' for k, v in pairs).rstrip(','),
              labels or '')
        key = (name, tuple(sorted(pairs)))
        check(key in found, False)
        found[key] = float(value)
    return found


def names_exported(text):
    """Names of all metrics, those without a sample too."""
    return set(re.findall(r'^# TYPE (\S+) gauge$', text, re.M))


def test_metrics_promtool():
    """promtool finds nothing wrong with the metrics."""
    promtool = needs(*PROMTOOL)
    with some_ledger() as ledger:
        for text in (ledger.ok('metrics'),
                     ledger.ok('metrics', '--no-participants')):
            done = subprocess.run([promtool, 'check', 'metrics'], input=text,
                                  text=True, capture_output=True, check=False)
            check((done.returncode, done.stdout + done.stderr), (0, ''))
        # and it can find something
        done = subprocess.run([promtool, 'check', 'metrics'],
                              input=text.replace('# HELP', '# X'), text=True,
                              capture_output=True, check=False)
        check(done.returncode == 0, False)


def test_metrics_values():
    """The metrics are what status says."""
    with some_ledger() as ledger:
        status = ledger.status()
        metrics = samples(ledger.ok('metrics'))
        sizes = {4096: '4K', 2 << 20: '2M', GIB: '1G'}
        for cell in status['capacity']:
            labels = [('page_size', sizes[cell['page-size']])]
            kind = 'host'
            if cell['node'] is not None:
                labels.insert(0, ('node', str(cell['node'])))
                kind = 'node'
            for key in ('capacity', 'backed', 'free', 'freeable', 'owned',
                        'claimed', 'resident', 'outstanding', 'wanted'):
                check(metrics[f'ballast_{kind}_{key}_bytes', tuple(labels)],
                      cell[key])
            known = (f'ballast_{kind}_kernel_free_bytes', tuple(labels))
            check(known in metrics, cell['kernel-free'] is not None)
        odd = ODD.replace('\\', '\\\\').replace('"', '\\"')
        check(metrics['ballast_participant_claimed_bytes',
                      (('node', 'any'), ('page_size', '4K'),
                       ('participant', odd), ('slot', '1'))], 5 * GIB)
        check(metrics['ballast_participants', (('state', 'standing'),)], 2)


def test_metrics_documented():
    """Every metric is in docs/ledger.md, and no other."""
    with some_ledger() as ledger:
        exported = names_exported(ledger.ok('metrics'))
    documented = set(re.findall(r'`(ballast_\w+)`',
                                source('docs/ledger.md')))
    check(documented, exported)


def expressions(node):
    """All queries of a dashboard."""
    if isinstance(node, dict):
        for key, value in node.items():
            if key in ('expr', 'definition'):
                yield value
            else:
                yield from expressions(value)
    elif isinstance(node, list):
        for value in node:
            yield from expressions(value)


def test_dashboard():
    """The dashboard asks for every metric, and for no other."""
    dashboard = json.loads(source('data/grafana/ballast.json'))
    asked = set()
    for text in expressions(dashboard):
        asked |= set(re.findall(r'\bballast_\w+', text))
    with some_ledger() as ledger:
        exported = names_exported(ledger.ok('metrics'))
    check(asked, exported)
    ids = [panel['id'] for panel in dashboard['panels']]
    check(len(ids), len(set(ids)))
    for panel in dashboard['panels']:
        check(panel['gridPos']['x'] + panel['gridPos']['w'] <= 24, True)


def test_dashboard_queries():
    """promtool takes every query of the dashboard as a rule."""
    promtool = needs(*PROMTOOL)
    dashboard = json.loads(source('data/grafana/ballast.json'))
    rules = [{'record': f'r{i}', 'expr': text.replace('$instance', '.*')
              .replace('$page_size', '.*')}
             for i, text in enumerate(expressions(dashboard['panels']))]
    document = json.dumps({'groups': [{'name': 'g', 'rules': rules}]})
    with Ledger() as ledger:
        path = os.path.join(ledger.dir, 'rules.yml')
        with open(path, 'w', encoding='utf-8') as file:
            file.write(document)
        done = subprocess.run([promtool, 'check', 'rules', path], text=True,
                              capture_output=True, check=False)
        check((done.returncode, done.stderr), (0, ''))


def test_alert_rules():
    """promtool takes the alert rules, and each fires when it should."""
    promtool = needs(*PROMTOOL)
    rules = os.path.join(TOP, 'data/prometheus/ballast.rules.yml')
    cases = os.path.join(TOP, 'tests/unit/cli/ballast.rules.test.yml')
    for words in (('check', 'rules', rules), ('test', 'rules', cases)):
        done = subprocess.run([promtool, *words], text=True, check=False,
                              capture_output=True)
        check((done.returncode, done.stderr), (0, ''))
    alerts = re.findall(r'alert: (\w+)', source('data/prometheus/'
                                                'ballast.rules.yml'))
    tested = source('tests/unit/cli/ballast.rules.test.yml')
    for alert in alerts:
        has(tested, f'alertname: {alert}\n        exp_alerts:\n')
        has(source('docs/ledger.md'), f'`{alert}`')


def test_textfile():
    """A text file is replaced when whole, and else left as it was."""
    with some_ledger() as ledger:
        path = os.path.join(ledger.dir, 'ballast.prom')
        ledger.ok('metrics', '--textfile', path)
        with open(path, encoding='utf-8') as file:
            first = file.read()
        check(samples(first) != {}, True)
        check(os.stat(path).st_mode & 0o777, 0o644)
        inode = os.stat(path).st_ino
        limit = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limit[1]))
        try:
            done = ledger.run('metrics', '--textfile', path)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        check(done.returncode == 0, False)
        with open(path, encoding='utf-8') as file:
            check(file.read(), first)
        check(os.stat(path).st_ino, inode)
        ledger.ok('metrics', '--textfile', path)
        check(os.stat(path).st_ino == inode, False)
        check(sorted(os.listdir(ledger.dir)), ['ballast.prom', 'ledger'])


def test_large():
    """64 nodes, 8 page sizes and 4096 participants stay readable."""
    helper = os.path.join(BUILD, 'tests/unit/cli/many')
    with Ledger() as ledger:
        subprocess.run([helper, ledger.path], check=True, timeout=120)
        lines = ledger.ok('status').splitlines()
        check(len(lines) < 100, True)
        has('\n'.join(lines), 'and 4076 more participants (--all shows them)')
        has('\n'.join(lines), 'and 500 more rows')
        lines = ledger.ok('status', '--top', '3').splitlines()
        check(len(lines) < 25, True)
        everything = ledger.ok('status', '--all')
        check(everything.count(': standing'), 4096)
        people = re.findall(r'^(\S+): standing', '\n'.join(lines), re.M)
        check(people, ['vm4095', 'vm4094', 'vm4093'])
        for columns in ('40', '80', '200'):
            for line in ledger.ok('watch', '--count', '1',
                                  COLUMNS=columns).splitlines():
                check(len(line) <= int(columns), True)
        status = ledger.status()
        check(len(status['capacity']), 65 * 8)
        check(len(status['participants']), 4096)
        check(len(samples(ledger.ok('metrics'))) > 4096, True)


if __name__ == '__main__':
    main(globals())
