# SPDX-License-Identifier: GPL-2.0-or-later
"""ballast watch on a terminal of our own."""

import codecs
import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time

from cli import BALLAST, BUILD, Ledger, check, has, main

SECONDS = 20
PIECE = re.compile(r'\x1b\[([?\d;]*)([A-Za-z])|([^\x1b])', re.S)


class Screen:
    """As much of a terminal as watch needs; what it does not know fails."""

    def __init__(self, rows, columns):
        self.decoder = codecs.getincrementaldecoder('utf-8')()
        self.rest = ''
        self.modes = {1049: False, 25: True}
        self.scrolled = False
        self.switched = 0
        self.colors = 0
        self.resize(rows, columns)

    def resize(self, rows, columns):
        """A blank screen of that size."""
        self.rows, self.columns = rows, columns
        self.cells = [[' '] * columns for _ in range(rows)]
        self.row = self.col = 0

    def feed(self, data):
        """What the program wrote."""
        text = self.rest + self.decoder.decode(data)
        cut = re.search('\x1b(\\[[?\\d;]*)?$', text)
        self.rest = text[cut.start():] if cut else ''
        text = text[:cut.start()] if cut else text
        for match in PIECE.finditer(text):
            numbers, letter, character = match.groups()
            if letter:
                self.sequence(numbers, letter)
            else:
                self.put(character)

    def sequence(self, numbers, letter):
        """One escape sequence."""
        if letter in 'hl' and numbers.startswith('?'):
            check(int(numbers[1:]) in self.modes, True)
            self.modes[int(numbers[1:])] = letter == 'h'
            self.switched += numbers == '?1049'
        elif letter == 'H':
            check(numbers, '')
            self.row = self.col = 0
        elif letter == 'K':
            self.cells[self.row][self.col:] = \
                [' '] * (self.columns - self.col)
        elif letter == 'J':
            blank = numbers == '2'
            for row in range(0 if blank else self.row + 1, self.rows):
                self.cells[row] = [' '] * self.columns
        elif letter == 'm':
            self.colors += numbers not in ('', '0')
        else:
            raise AssertionError(f'unknown sequence {numbers}{letter}')

    def put(self, character):
        """One character, or the end of a line."""
        if character == '\r':
            self.col = 0
        elif character == '\n':
            self.row += 1
            if self.row == self.rows:
                self.scrolled = True
                self.row -= 1
        elif self.col < self.columns:
            self.cells[self.row][self.col] = character
            self.col += 1
        else:
            raise AssertionError(f'beyond the last column: {character!r}')

    def text(self):
        """The screen."""
        return '\n'.join(''.join(row).rstrip() for row in self.cells)


class Watch:
    """ballast watch, running on a terminal."""

    def __init__(self, ledger, rows, columns, *words, **env):
        self.screen = Screen(rows, columns)
        self.master, self.slave = pty.openpty()
        self.size(rows, columns)
        self.before = termios.tcgetattr(self.slave)
        self.process = subprocess.Popen(
            [BALLAST, 'watch', *words], stdin=self.slave, stdout=self.slave,
            stderr=subprocess.PIPE, start_new_session=True,
            preexec_fn=self.take_terminal,
            env={**ledger.env, 'TERM': 'xterm', **env})

    def take_terminal(self):
        """So that Ctrl-C and a new size reach it."""
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    def size(self, rows, columns):
        """What the kernel says the size is."""
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ,
                    struct.pack('HHHH', rows, columns, 0, 0))

    def resize(self, rows, columns):
        """As somebody pulls at the window."""
        self.read(0.2)
        self.screen.resize(rows, columns)
        self.size(rows, columns)

    def read(self, seconds):
        """What comes in so much time."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if select.select([self.master], [], [], 0.05)[0]:
                self.screen.feed(os.read(self.master, 65536))

    def until(self, true):
        """Reads until the screen is so."""
        end = time.monotonic() + SECONDS
        while not true():
            if time.monotonic() > end:
                raise AssertionError('never came:\n' + self.screen.text())
            self.read(0.1)
        return self.screen.text()

    def until_text(self, part):
        """Reads until the text is there."""
        return self.until(lambda: part in self.screen.text())

    def key(self, key):
        """Somebody presses it."""
        os.write(self.master, key)

    def ended(self):
        """Its exit status; the terminal must be as it was."""
        status = self.process.wait(timeout=SECONDS)
        self.read(0.1)
        check(self.screen.modes, {1049: False, 25: True})
        check(termios.tcgetattr(self.slave), self.before)
        return status

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.process.stderr.close()
        os.close(self.slave)
        os.close(self.master)


def some_ledger():
    """Two nodes, two claims."""
    ledger = Ledger('--admission', 'static', '--capacity', '8G@0',
                    '--capacity', '8G@1', '--capacity', '2G@0/2M')
    ledger.ok('claim', '--name', 'small', '1G@0/2M')
    ledger.ok('claim', '--name', 'large', '6G@0')
    return ledger


def large_ledger():
    """64 nodes, 8 page sizes, 4096 participants."""
    ledger = Ledger()
    subprocess.run([os.path.join(BUILD, 'tests/unit/cli/many'), ledger.path],
                   check=True, timeout=120)
    return ledger


def test_view():
    """A view has a bar per node, and participants by what they reserve."""
    with some_ledger() as ledger, Watch(ledger, 24, 80) as watch:
        text = watch.until_text('q quits')
        check(watch.screen.modes, {1049: True, 25: False})
        lines = text.splitlines()
        has(lines[0], 'ballast')
        bars = [line for line in lines if '▓' in line and '░' in line]
        check(len(bars) >= 4, True)
        for word in ('capacity', 'free', 'freeable', 'owned', 'outstanding',
                     'broken', 'reserved', 'queue'):
            has(text, word)
        order = [line.split()[0] for line in lines if 'standing  ' in line
                 and line.split()[0] in ('small', 'large')]
        check(order, ['large', 'small'])
        check(watch.screen.colors > 0, True)
        watch.key(b'q')
        check(watch.ended(), 0)


def test_bar_lengths():
    """A bar is as long as what it stands for."""
    with some_ledger() as ledger, Watch(ledger, 24, 120) as watch:
        watch.until_text('q quits')
        line = [x for x in watch.screen.text().splitlines()
                if re.match(r'0 +4K ', x)][0]
        bar = re.search('[█▓▒░!]+', line).group()
        promised = bar.count('▓') + bar.count('!')
        check(abs(promised / len(bar) - 6 / 8) < 0.03, True)


def test_redraw():
    """It redraws once a second, and shows what changed."""
    with some_ledger() as ledger, Watch(ledger, 24, 80) as watch:
        watch.until_text('q quits')
        ledger.ok('claim', '--name', 'newcomer', '1G@1')
        start = time.monotonic()
        watch.until_text('newcomer')
        check(time.monotonic() - start < 3, True)


def test_sizes():
    """It fits every size, and follows a change at once."""
    with some_ledger() as ledger, \
            Watch(ledger, 24, 80, '--interval', '600') as watch:
        watch.until_text('q quits')
        for rows, columns in ((40, 120), (10, 40), (24, 80), (5, 20), (3, 9),
                              (1, 1), (60, 300), (10, 40)):
            watch.resize(rows, columns)
            watch.until(lambda: watch.screen.text().startswith('b'))
            watch.read(0.1)
            check(watch.screen.scrolled, False)
            if columns >= 20:
                has(watch.screen.text().splitlines()[-1], 'q quits')
        has(watch.screen.text(), 'large')
        watch.key(b'q')
        check(watch.ended(), 0)


def test_large():
    """With 64 nodes and 4096 participants it says how many do not fit."""
    with large_ledger() as ledger, \
            Watch(ledger, 24, 80, '--interval', '600') as watch:
        text = watch.until_text('q quits')
        rows = re.search(r'and (\d+) more rows', text)
        people = re.search(r'and (\d+) more participants', text)
        shown = len(re.findall(r'^vm\d+ ', text, re.M))
        check(shown >= 5, True)
        check(int(people.group(1)), 4096 - shown)
        cells = len(re.findall(r'^(?:\d+|host) +\d+[KMG] ', text, re.M))
        check(int(rows.group(1)), 65 * 8 - cells)
        check(watch.screen.scrolled, False)
        for rows, columns in ((10, 40), (40, 120)):
            watch.resize(rows, columns)
            text = watch.until_text('more participants')
            has(text, 'vm4095')


def test_leaves():
    """Ctrl-C, SIGTERM and SIGHUP leave the terminal as it was."""
    with some_ledger() as ledger:
        for how, status in ((b'\x03', 0), (b'Q', 0),
                            (signal.SIGTERM, -signal.SIGTERM),
                            (signal.SIGHUP, -signal.SIGHUP)):
            with Watch(ledger, 24, 80) as watch:
                watch.until_text('q quits')
                if isinstance(how, bytes):
                    watch.key(how)
                else:
                    watch.process.send_signal(how)
                check(watch.ended(), status)


def test_stop():
    """Ctrl-Z gives the terminal back, and going on takes it again."""
    with some_ledger() as ledger, Watch(ledger, 24, 80) as watch:
        watch.until_text('q quits')
        # the kernel does not stop it here: nobody could let it go on
        watch.process.send_signal(signal.SIGTSTP)
        watch.until(lambda: watch.screen.switched == 3)
        check(watch.screen.modes[1049], True)
        watch.until_text('q quits')
        watch.key(b'q')
        check(watch.ended(), 0)


def test_other_keys():
    """Other keys, and a q in an escape sequence, do not end it."""
    with some_ledger() as ledger, Watch(ledger, 24, 80) as watch:
        watch.until_text('q quits')
        for key in (b'x', b'\x1b[A', b'\x1b[1q', b' '):
            watch.key(key)
            watch.read(0.1)
        check(watch.process.poll(), None)


def test_count():
    """--count ends it on a terminal too."""
    with some_ledger() as ledger, \
            Watch(ledger, 24, 80, '--count', '2', '--interval', '0.1') as w:
        check(w.ended(), 0)


def test_no_color():
    """NO_COLOR: bars, but no colours."""
    with some_ledger() as ledger, \
            Watch(ledger, 24, 80, NO_COLOR='1') as watch:
        has(watch.until_text('q quits'), '▓')
        check(watch.screen.colors, 0)


def test_ascii():
    """A locale without UTF-8 has bars of ASCII."""
    with some_ledger() as ledger:
        ledger.ok('claim', '--name', 'Bär', '1G@1')
        with Watch(ledger, 24, 80, LC_ALL='C') as watch:
            text = watch.until_text('q quits')
            check(text.isascii(), True)
            has(text, '====')
            has(text, 'B?r')


def test_ledger_lost():
    """A ledger that is gone is said, and a new one is shown."""
    with some_ledger() as ledger, \
            Watch(ledger, 24, 80, '--interval', '0.1') as watch:
        watch.until_text('q quits')
        os.unlink(ledger.path)
        ledger.ok('init', '--capacity', '16G@3', '--admission', 'static')
        watch.until_text('16G')
        watch.until(lambda: 'large' not in watch.screen.text())
        os.unlink(ledger.path)
        watch.until_text('cannot')
        watch.key(b'q')
        check(watch.ended(), 0)


def test_plain():
    """Not a terminal: one view after another, no escape sequences."""
    with some_ledger() as ledger:
        text = ledger.ok('watch', '--count', '3', '--interval', '0.1')
        check(text.count('ballast '), 3)
        check('\x1b' in text, False)
        has(ledger.ok('watch', '--count', '1', '--top', '1'),
            'and 1 more participants')
        start = time.monotonic()
        ledger.ok('watch', '--count', '2')
        check(0.9 < time.monotonic() - start < 5, True)


def test_dumb():
    """TERM=dumb is no terminal for watch."""
    with some_ledger() as ledger, \
            Watch(ledger, 24, 80, '--count', '1', TERM='dumb') as watch:
        data = b''
        while watch.process.poll() is None or \
                select.select([watch.master], [], [], 0.1)[0]:
            if select.select([watch.master], [], [], 0.1)[0]:
                data += os.read(watch.master, 65536)
        check(b'\x1b' in data, False)
        has(data.decode(), 'large')


if __name__ == '__main__':
    main(globals())
