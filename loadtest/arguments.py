"""The load tests' command lines: numbers, all else refused with status 2, and how one is told."""

from __future__ import annotations

import math
import shlex
import sys
from argparse import ArgumentTypeError
from collections.abc import Sequence


def count(text: str) -> int:
    """Read how many: 1 or more.

    Raises:
        ArgumentTypeError: it is none.
    """
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise ArgumentTypeError(f"{text!r} is no whole number from 1 on")
    return int(text)


def amount(text: str) -> float:
    """Read how much: more than 0.

    Raises:
        ArgumentTypeError: it is none.
    """
    value = _number(text)
    if not 0 < value < math.inf:
        raise ArgumentTypeError(f"{text!r} is no number above 0")
    return value


def duration(text: str) -> float:
    """Read how long: 0 or more.

    Raises:
        ArgumentTypeError: it is none.
    """
    value = _number(text)
    if not 0 <= value < math.inf:
        raise ArgumentTypeError(f"{text!r} is no number from 0 on")
    return value


def command(module: str, arguments: Sequence[str] | None) -> str:
    """Write a command line as it was given, for a record; None: this process's own arguments."""
    given = sys.argv[1:] if arguments is None else arguments
    return shlex.join(["python", "-m", module, *given])


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
