"""`hemavision differential`: send a series, print its count, write it in other forms."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from gateway.ask import files, series
from gateway.ask.client import Gateway, GatewayUnusable, Json, Refused, sentence, with_advice
from gateway.ask.count import show
from gateway.ask.terminal import Progress, printable, tell
from gateway.errors import HemaVisionError

STANDARD_OUTPUT = Path("-")


class NoPlace(HemaVisionError):
    """A report cannot be written where it was wanted."""


class Order(NamedTuple):
    """What was asked for: ``options`` are the query of `/v1/differential`.

    ``forms`` has a file, or standard output, for each media type that is wanted besides.
    """

    options: Mapping[str, str]
    readers: Path | None
    forms: Mapping[str, Path]
    as_json: bool


def differential(named: Sequence[Path], gateway: Gateway, order: Order) -> int:
    """Count what is named, print the report, and return the exit status.

    0: every photograph was read; 1: some were not, or a form could not be written.

    Raises:
        NothingToSend, Unreadable, NoPlace: nothing was sent, or not all.
        Refused, GatewayUnusable: nothing was counted, or a form was not to be had.
    """
    for path in order.forms.values():
        _check(path)
    report = _counted(series.find(named, order.readers), gateway, order)
    if order.as_json:
        tell(json.dumps(report))
    elif STANDARD_OUTPUT not in order.forms.values():
        show(report)
    written = [
        _write(path, gateway.render(report, order.options, media))
        for media, path in order.forms.items()
    ]
    return 0 if all(written) and not report["totals"]["failed"] else 1


def _counted(wanted: series.Series, gateway: Gateway, order: Order) -> Json:
    progress, lines = Progress(wanted.total), list[Json]()

    def hear(line: Json) -> None:
        lines.append(line)
        progress.draw(min(len(lines), wanted.total))

    try:
        return gateway.count(wanted, order.options, hear)
    except Refused:
        progress.clear()
        _tell_failed(lines)
        raise
    except GatewayUnusable as error:
        raise with_advice(error) from error
    finally:
        progress.clear()


def _tell_failed(lines: Sequence[Json]) -> None:
    for line in lines:
        if line.get("status") == "failed":
            told = f"{line['name'] or line['number']}: {sentence(line['problem'])}"
            print(printable(told), file=sys.stderr)


def _check(path: Path) -> None:
    """See that a file can be there before anything is sent."""
    if path != STANDARD_OUTPUT and (path.is_dir() or not path.parent.is_dir()):
        raise NoPlace(f"{printable(str(path))} cannot be written: name a file in a folder")


def _write(path: Path, form: bytes) -> bool:
    if path == STANDARD_OUTPUT:
        sys.stdout.buffer.write(form)
        sys.stdout.flush()
        return True
    try:
        files.write(path, form)
    except OSError as error:
        told = f"{path} could not be written ({error.strerror})"
        print(f"hemavision: {printable(told)}", file=sys.stderr)
        return False
    return True
