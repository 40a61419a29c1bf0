# SPDX-License-Identifier: GPL-2.0-or-later
"""A test program in TAP: a plan, a line per case, diagnostics behind '#'.

    from ballast import tap

    @tap.case('a claim is refused')
    def refused() -> None:
        tap.need(paths.CLI.exists(), 'the ballast CLI')
        assert ...

    if __name__ == '__main__':
        tap.main()

Options: -l lists the cases, -k PATTERN (repeatable) runs those whose name contains it.
A program adds its own with add_option(); their values are in `options` when the cases run.
"""

import argparse
import sys
import traceback
from typing import Any, Callable, List, NoReturn, Tuple

Function = Callable[..., None]


class Skip(Exception):
    """Something this case needs is absent."""


class Again(Exception):
    """The host did not give what the case is built on, time for a vCPU say: nothing was tested yet."""


TRIES = 3


_cases: List[Tuple[str, Callable[[], None]]] = []
_parser = argparse.ArgumentParser()
options = argparse.Namespace()


def add(name: str, function: Function, *args: Any) -> None:
    """Add a case by hand, for tables."""
    assert name not in [known for known, _ in _cases], f'two cases named {name}'
    _cases.append((name, lambda: function(*args)))


def case(name: str) -> Callable[[Function], Function]:
    """Decorator: this function is a case."""
    def wrap(function: Function) -> Function:
        add(name, function)
        return function
    return wrap


def add_option(*names: str, **kwargs: Any) -> None:
    """An option of this test program (see argparse)."""
    _parser.add_argument(*names, **kwargs)


def skip(reason: str) -> NoReturn:
    """Leave this case, counted as skipped."""
    raise Skip(reason)


def need(present: object, what: str) -> None:
    """Skip unless `present`."""
    if not present:
        skip(f'needs {what}')


def note(text: str) -> None:
    """Diagnostics that harnesses show or ignore."""
    for line in str(text).splitlines():
        print(f'# {line}', flush=True)


def equal(got: object, wanted: object, what: str = 'value') -> None:
    """assert with the two values in the message."""
    assert got == wanted, f'{what} is {got!r}, not {wanted!r}'


def _try(function: Callable[[], None]) -> None:
    for _ in range(TRIES - 1):
        try:
            return function()
        except Again as reason:
            note(f'once more: {reason}')
    return function()


def _run(number: int, name: str, function: Callable[[], None]) -> bool:
    try:
        _try(function)
    except Skip as reason:
        print(f'ok {number} - {name} # SKIP {reason}', flush=True)
        return True
    except Exception:  # pylint: disable=broad-except
        print(f'not ok {number} - {name}', flush=True)
        note(traceback.format_exc())
        return False
    print(f'ok {number} - {name}', flush=True)
    return True


def main() -> NoReturn:
    """Run the cases and exit: 0 when none failed."""
    _parser.add_argument('-l', action='store_true', dest='list', help='list the cases')
    _parser.add_argument('-k', action='append', default=[], metavar='PATTERN', dest='patterns',
                         help='run the cases whose name contains this (repeatable)')
    _parser.parse_args(namespace=options)
    chosen = [(name, function) for name, function in _cases
              if not options.patterns or any(pattern in name for pattern in options.patterns)]
    if options.list:
        print('\n'.join(name for name, _ in chosen))
        sys.exit(0)
    print(f'1..{len(chosen)}', flush=True)
    results = [_run(number, name, function) for number, (name, function) in enumerate(chosen, 1)]
    sys.exit(0 if all(results) else 1)
