# SPDX-License-Identifier: GPL-2.0-or-later
"""claim --wait and run --wait: granted, in vain, interrupted."""

import os
import signal
import time

from cli import GIB, Ledger, check, has, main

SECONDS = 20


def until(true, what):
    """Waits for it to be true."""
    end = time.monotonic() + SECONDS
    while not true():
        if time.monotonic() > end:
            raise AssertionError(f'no {what}')
        time.sleep(0.01)


def full_ledger():
    """8 GiB, 6 of them held."""
    ledger = Ledger('--admission', 'static', '--capacity', '8G@0')
    ledger.ok('claim', '--name', 'holder', '6G')
    return ledger


def queued(ledger, name):
    """Waits until it is in the queue."""
    until(lambda: (ledger.person(name) or {}).get('queue-place'),
          f'{name} in the queue')


def claimed(ledger, name):
    """What it was promised, 0 for nobody."""
    person = ledger.person(name)
    return sum(c['claimed'] for c in person['holds']) if person else 0


def test_claim_granted():
    """claim --wait is granted when memory comes back."""
    with full_ledger() as ledger:
        waiter = ledger.start('claim', '--name', 'w', '--wait', '4G')
        queued(ledger, 'w')
        check(claimed(ledger, 'w'), 0)
        has(ledger.ok('status'), '1. w, for ')
        ledger.ok('release', 'holder')
        _, error = waiter.communicate(timeout=SECONDS)
        check(waiter.returncode, 0)
        check(error.count('\n') <= 1, True)
        check(claimed(ledger, 'w'), 4 * GIB)
        check(ledger.person('w')['pid'], None)


def test_place_told():
    """Who waits longer than a moment is told its place."""
    with full_ledger() as ledger:
        first = ledger.start('claim', '--name', 'one', '--wait', '4G')
        queued(ledger, 'one')
        second = ledger.start('run', '--name', 'two', '--wait', '--claim',
                              '4G', '--', 'true')
        queued(ledger, 'two')
        has(second.stderr.readline(), 'waiting in the queue as two, place 2')
        first.terminate()
        first.communicate(timeout=SECONDS)
        ledger.ok('release', 'holder')
        second.communicate(timeout=SECONDS)
        check(second.returncode, 0)


def test_not_past_the_queue():
    """A claim that would fit is refused while others wait for the same."""
    with full_ledger() as ledger:
        waiter = ledger.start('claim', '--name', 'w', '--wait', '4G')
        queued(ledger, 'w')
        has(ledger.fails(3, 'claim', '--name', 'x', '1G').stderr, 'w')
        waiter.terminate()
        waiter.communicate(timeout=SECONDS)
        ledger.ok('claim', '--name', 'x', '1G')


def test_claim_in_vain():
    """claim --wait=SECONDS gives up, and says what is missing."""
    with full_ledger() as ledger:
        start = time.monotonic()
        done = ledger.fails(3, 'claim', '--name', 'w', '--wait=0.4', '4G')
        check(0.4 <= time.monotonic() - start < 5, True)
        has(done.stderr, 'waited 0.4 s in vain')
        has(done.stderr, '2 GiB missing')
        check(ledger.person('w'), None)
        check(ledger.status()['waiting'], 0)


def test_never_fits():
    """What can never fit does not wait."""
    with full_ledger() as ledger:
        has(ledger.fails(3, 'claim', '--name', 'w', '--wait', '9G').stderr,
            '7 GiB missing')


def interrupted(ledger, number, *words):
    """Starts it, interrupts it when it is in the queue as w."""
    waiter = ledger.start(*words)
    queued(ledger, 'w')
    waiter.send_signal(number)
    waiter.communicate(timeout=SECONDS)
    check(waiter.returncode, -number)


def test_claim_interrupted():
    """Ctrl-C while claim waits leaves the queue and no claim."""
    with full_ledger() as ledger:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            interrupted(ledger, number, 'claim', '--name', 'w', '--wait',
                        '4G')
            check(ledger.person('w'), None)
            check(ledger.status()['waiting'], 0)
        ledger.ok('claim', '--name', 'other', '2G')


def test_replaced_interrupted():
    """Ctrl-C while a claim waits to be larger leaves it as it was."""
    with full_ledger() as ledger:
        ledger.ok('claim', '--name', 'w', '--pid', str(os.getpid()), '1G')
        interrupted(ledger, signal.SIGINT, 'claim', '--name', 'w', '--wait',
                    '4G')
        person = ledger.person('w')
        check((person['queue-place'], person['pid']), (None, os.getpid()))
        check(claimed(ledger, 'w'), GIB)
        ledger.ok('claim', '--name', 'other', '1G')


def test_run_interrupted():
    """Ctrl-C while run waits leaves the queue and does not execute."""
    with full_ledger() as ledger:
        mark = os.path.join(ledger.dir, 'mark')
        interrupted(ledger, signal.SIGINT, 'run', '--name', 'w', '--wait',
                    '--claim', '4G', '--', 'touch', mark)
        check(ledger.person('w'), None)
        ledger.ok('release', 'holder')
        check(os.path.exists(mark), False)


def test_killed():
    """A waiter that is killed does not block the others."""
    with full_ledger() as ledger:
        interrupted(ledger, signal.SIGKILL, 'claim', '--name', 'w', '--wait',
                    '4G')
        ledger.ok('claim', '--name', 'x', '2G')


def test_run_clean():
    """The command that run executes after waiting has no signal blocked."""
    with full_ledger() as ledger:
        plain = ledger.ok('run', '--claim', '1G', '--', 'grep', '^Sig[BI]',
                          '/proc/self/status')
        waiter = ledger.start('run', '--name', 'w', '--wait', '--claim',
                              '4G', '--', 'grep', '^Sig[BI]',
                              '/proc/self/status')
        queued(ledger, 'w')
        ledger.ok('release', 'holder')
        out, _ = waiter.communicate(timeout=SECONDS)
        check(out, plain)


def test_ignored_stays_ignored():
    """Who ignores a signal goes on ignoring it while it waits."""
    with full_ledger() as ledger:
        before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
        try:
            waiter = ledger.start('claim', '--name', 'w', '--wait', '4G')
        finally:
            signal.signal(signal.SIGHUP, before)
        queued(ledger, 'w')
        waiter.send_signal(signal.SIGHUP)
        time.sleep(0.3)
        check(waiter.poll(), None)
        ledger.ok('release', 'holder')
        waiter.communicate(timeout=SECONDS)
        check(waiter.returncode, 0)


if __name__ == '__main__':
    main(globals())
