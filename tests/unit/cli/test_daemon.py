# SPDX-License-Identifier: GPL-2.0-or-later
"""The same commands through a daemon's socket."""

import json
import os
import re
import shutil
import signal
import subprocess
import time

from cli import BALLAST as COMMAND
from cli import BUILD, GIB, Ledger, Skip, check, has, main

BALLASTD = os.path.join(BUILD, 'ballastd')
SECONDS = 20


class Served(Ledger):
    """A ledger that a daemon owns, whose user may do everything."""

    def __init__(self, *words):
        super().__init__()
        if not os.path.exists(BALLASTD):
            raise Skip('no ballastd')
        self.file = self.path
        self.path = os.path.join(self.dir, 'socket')
        self.words = words
        self.ok('init', '--ledger', self.file, '--admission', 'static',
                '--capacity', '8G@0')
        self.env['BALLAST_LEDGER'] = self.path
        self.daemon = None
        self.serve()

    def serve(self):
        """Starts a daemon, and waits until it answers."""
        # pylint: disable=consider-using-with
        self.daemon = subprocess.Popen(
            [BALLASTD, '--ledger', self.file, '--socket', self.path,
             *self.words],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL)
        end = time.monotonic() + SECONDS
        while self.run('status').returncode:
            if time.monotonic() > end:
                raise AssertionError('the daemon does not answer')
            time.sleep(0.05)

    def __exit__(self, *_):
        self.daemon.kill()
        self.daemon.wait()
        super().__exit__(*_)


def test_claims():
    """claim, status, release, check and metrics go through the daemon."""
    with Served() as ledger:
        ledger.ok('claim', '--name', 'a', '6G')
        check(ledger.person('a')['holds'][0]['claimed'], 6 * GIB)
        done = ledger.fails(3, 'claim', '--name', 'b', '--json', '4G')
        error = json.loads(done.stdout)['error']
        check((error['missing'], error['holders'][0]['name']), (2 * GIB, 'a'))
        has(ledger.ok('metrics'), 'participant="a"')
        has(ledger.ok('watch', '--count', '1'), 'a  ')
        has(ledger.ok('check'), 'no contradictions')
        ledger.ok('release', 'a')
        ledger.fails(1, 'release', 'a')


def test_run():
    """run claims through the daemon, and the claim ends with the process."""
    with Served() as ledger:
        text = ledger.ok('run', '--name', 'r', '--claim', '2G', '--',
                         COMMAND, 'status')
        if not re.search(r'^r: pid \d+, running, uid \d+ through the daemon',
                         text, re.M):
            raise AssertionError(text)
        has(text, 'that the daemon shows you')
        end = time.monotonic() + SECONDS
        while ledger.person('r') and time.monotonic() < end:
            time.sleep(0.05)
        check(ledger.person('r'), None)


def test_waiting():
    """run --wait and claim --wait wait through the daemon too."""
    with Served() as ledger:
        ledger.ok('claim', '--name', 'holder', '6G')
        done = ledger.fails(3, 'claim', '--name', 'w', '--wait=0.3', '4G')
        has(done.stderr, 'waited 0.3 s in vain')
        for words in (('claim', '--name', 'w', '--wait', '4G'),
                      ('run', '--name', 'w', '--claim', '4G', '--wait', '--',
                       'true')):
            waiter = ledger.start(*words)
            time.sleep(0.3)
            check(waiter.poll(), None)
            ledger.ok('release', 'holder')
            waiter.communicate(timeout=SECONDS)
            check(waiter.returncode, 0)
            ledger.run('release', 'w')
            ledger.ok('claim', '--name', 'holder', '--wait=10', '6G')


def test_interrupted():
    """Ctrl-C while waiting leaves nothing behind in the daemon."""
    with Served() as ledger:
        ledger.ok('claim', '--name', 'holder', '6G')
        for words in (('claim', '--name', 'w', '--wait', '4G'),
                      ('run', '--name', 'w', '--claim', '4G', '--wait', '--',
                       'true')):
            waiter = ledger.start(*words)
            time.sleep(0.3)
            waiter.send_signal(signal.SIGINT)
            waiter.communicate(timeout=SECONDS)
            check(waiter.returncode, -signal.SIGINT)
            ledger.ok('claim', '--name', 'x', '--wait=5', '2G')
            ledger.ok('release', 'x')
            check(ledger.person('w'), None)


def test_not_allowed():
    """What the daemon does not allow is said in one line."""
    if os.getuid():
        raise Skip('not root, so there is no other user')
    with Served('--allow', 'uid:65534') as ledger:
        os.chmod(ledger.dir, 0o711)
        ledger.ok('claim', '--name', 'a', '1G')
        # The build may be where that user may not go, in /root say.
        command = shutil.copy(COMMAND, ledger.dir)

        def other(*words):
            return subprocess.run([command, *words], env=ledger.env,
                                  user=65534, group=65534, extra_groups=[],
                                  stdin=subprocess.DEVNULL, text=True,
                                  capture_output=True, check=False,
                                  timeout=SECONDS)

        done = other('status', '--json')
        status = json.loads(done.stdout)
        check(status['participants'], [])
        check(status['capacity'][-1]['claimed'], GIB)
        done = other('claim', '--name', 'x', '1G')
        check(done.returncode, 1)
        has(done.stderr, 'does not allow')
        check(done.stderr.count('\n'), 1)
        done = other('check', '--json')
        check(json.loads(done.stdout)['error']['errno'], 13)


def test_restarted():
    """A daemon that does not answer is said; watch sees the next one."""
    with Served() as ledger:
        ledger.ok('claim', '--name', 'a', '1G')
        watch = ledger.start('watch', '--interval', '0.1')
        time.sleep(0.3)
        ledger.daemon.kill()
        ledger.daemon.wait()
        done = ledger.fails(1, 'status')
        check(done.stderr.count('\n'), 1)
        ledger.serve()
        time.sleep(0.5)
        check(watch.poll(), None)
        watch.terminate()
        views = watch.communicate(timeout=SECONDS)[0].split('ballast /')
        has(views[-1], 'a  ')


if __name__ == '__main__':
    main(globals())
