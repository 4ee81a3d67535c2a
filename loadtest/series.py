"""A series beside its photographs sent one by one: `python -m loadtest.series FOLDER`.

In each round the same photographs go three ways to the same gateway, so that a machine whose speed
drifts slows all alike: `singles` one after another by one client on one connection, `form` and
`zip` as a series. Gateway and model server run as processes of their own, as in production.
"""

from __future__ import annotations

import argparse
import http.client
import io
import json
import statistics
import sys
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, cast

from loadtest import tables
from loadtest.arguments import count
from loadtest.photographs import Photograph, named
from loadtest.processes import gateway, served
from loadtest.refusal import refuse

_BORDER = "photograph-of-a-series"

Way = Callable[[http.client.HTTPConnection], None]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print the table."""
    given = _arguments(arguments)
    photographs = named(given.folder, given.photographs)
    ways: dict[str, Way] = {
        "singles": lambda connection: _singles(connection, photographs),
        "form": lambda connection: _series(connection, *_form(photographs), len(photographs)),
        "zip": lambda connection: _series(connection, *_zip(photographs), len(photographs)),
    }
    with (
        served(given.model_server, given.models) as model,
        gateway(model) as service,
        closing(http.client.HTTPConnection(service.address.removeprefix("http://"))) as connection,
    ):
        rates = list(_rates(ways, connection, len(photographs), given.rounds))
    _write(given.raw, rates)
    print(f"photographs: {len(photographs)}\n\n{_table(rates, list(ways))}\n")
    print(f"every rate: {given.raw}")
    return 0


def _rates(
    ways: Mapping[str, Way], connection: http.client.HTTPConnection, photographs: int, rounds: int
) -> Iterator[tuple[int, str, float]]:
    for number in range(-1, rounds):  # the first warms up
        for name, send in ways.items():
            started = time.perf_counter()
            send(connection)
            rate = photographs / (time.perf_counter() - started)
            if number >= 0:
                yield number, name, rate


def _singles(connection: http.client.HTTPConnection, photographs: Sequence[Photograph]) -> None:
    for one in photographs:
        kind = {"Content-Type": "application/octet-stream"}
        reply = _answer(connection, "/v1/classify?heatmap=none", one.body, kind)
        if "prediction" not in reply:
            refuse(f"{one.folder}/{one.name} was refused: {reply.get('detail', reply)}")


def _series(connection: http.client.HTTPConnection, body: bytes, kind: str, number: int) -> None:
    reply = _answer(connection, "/v1/differential", body, {"Content-Type": kind})
    totals = reply.get("totals")
    if not totals:
        refuse(f"the series was refused: {reply.get('detail', reply)}")
    if totals["failed"] or totals["photographs"] < number:
        refuse(f"of {number} photographs in the series not all were counted: {totals}")


def _answer(
    connection: http.client.HTTPConnection, path: str, body: bytes, headers: dict[str, str]
) -> dict[str, Any]:
    try:
        connection.request("POST", path, body, headers)
        return cast("dict[str, Any]", json.load(connection.getresponse()))
    except (OSError, http.client.HTTPException, ValueError) as error:
        refuse(f"the gateway broke off its answer ({type(error).__name__}).")


def _form(photographs: Sequence[Photograph]) -> tuple[bytes, str]:
    head = f'--{_BORDER}\r\nContent-Disposition: form-data; name="file"\r\n\r\n'.encode()
    parts = b"".join(head + one.body + b"\r\n" for one in photographs)
    return parts + f"--{_BORDER}--\r\n".encode(), f"multipart/form-data; boundary={_BORDER}"


def _zip(photographs: Sequence[Photograph]) -> tuple[bytes, str]:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as packed:
        for number, one in enumerate(photographs):
            packed.writestr(f"{number}.jpg", one.body)
    return buffer.getvalue(), "application/zip"


def _table(rates: Sequence[tuple[int, str, float]], ways: Sequence[str]) -> str:
    of = {name: [rate for _, way, rate in rates if way == name] for name in ways}
    lines = [
        "| sent as | photographs a second | of one by one, median of the rounds |",
        "|---|---|---|",
    ]
    for name in ways:
        ratios = [own / single for own, single in zip(of[name], of["singles"], strict=True)]
        low, high = min(of[name]), max(of[name])
        lines.append(
            f"| {name} | {statistics.median(of[name]):.1f} ({low:.1f} to {high:.1f}) | "
            f"{statistics.median(ratios):.2f} |"
        )
    return "\n".join(lines)


def _write(path: Path, rates: Sequence[tuple[int, str, float]]) -> None:
    rows = ([number, name, round(rate, 2)] for number, name, rate in rates)
    tables.write_csv(path, ["round", "sent as", "photographs a second"], rows)


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.series", description="A series beside its photographs one by one."
    )
    add = parser.add_argument
    add("folder", type=Path, help="with the photographs, in it and below it")
    add("--photographs", type=count, default=200, help="at most, evenly of them; default: 200")
    add("--rounds", type=count, default=3, help="default: 3")
    add("--models", type=Path, default=Path("models/hemavision"), metavar="DIR")
    add("--model-server", metavar="HOST:PORT", help="one that runs already")
    add("--raw", type=Path, default=Path("loadtest/results/latest-series.csv"), help="every rate")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
