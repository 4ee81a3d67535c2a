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
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random

from loadtest import tables
from loadtest.arguments import count
from loadtest.processes import gateway, model_server

_BORDER = "photograph-of-a-series"


def main() -> int:
    """Measure and print the table."""
    given = _arguments()
    photographs = _chosen(given.folder, given.photographs)
    ways: dict[str, Callable[[http.client.HTTPConnection], None]] = {
        "singles": lambda connection: _singles(connection, photographs),
        "form": lambda connection: _series(connection, *_form(photographs), len(photographs)),
        "zip": lambda connection: _series(connection, *_zip(photographs), len(photographs)),
    }
    rates: list[tuple[int, str, float]] = []
    with model_server(models=given.models) as model, gateway(model.address) as service:
        connection = http.client.HTTPConnection(service.address.removeprefix("http://"))
        for number in range(-1, given.rounds):  # the first warms up
            for name, send in ways.items():
                started = time.perf_counter()
                send(connection)
                rate = len(photographs) / (time.perf_counter() - started)
                if number >= 0:
                    rates.append((number, name, rate))
    _write(given.raw, rates)
    print(_table(rates, list(ways)))
    print(f"every rate: {given.raw}")
    return 0


def _chosen(folder: Path, number: int) -> list[bytes]:
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in {".jpg", ".png"})
    if len(paths) < number:
        raise SystemExit(f"series: {folder} has {len(paths)} photographs, not {number}")
    return [path.read_bytes() for path in Random(7).sample(paths, number)]  # noqa: S311  # no secret


def _singles(connection: http.client.HTTPConnection, photographs: Sequence[bytes]) -> None:
    for data in photographs:
        kind = {"Content-Type": "application/octet-stream"}
        connection.request("POST", "/v1/classify?heatmap=none", data, kind)
        reply = json.load(connection.getresponse())
        if "prediction" not in reply:
            raise SystemExit(f"series: {reply}")


def _series(connection: http.client.HTTPConnection, body: bytes, kind: str, number: int) -> None:
    connection.request("POST", "/v1/differential", body, {"Content-Type": kind})
    reply = json.load(connection.getresponse())
    if (
        "totals" not in reply
        or reply["totals"]["failed"]
        or reply["totals"]["photographs"] < number
    ):
        raise SystemExit(f"series: {str(reply)[:500]}")


def _form(photographs: Sequence[bytes]) -> tuple[bytes, str]:
    head = f'--{_BORDER}\r\nContent-Disposition: form-data; name="file"\r\n\r\n'.encode()
    parts = b"".join(head + data + b"\r\n" for data in photographs)
    return parts + f"--{_BORDER}--\r\n".encode(), f"multipart/form-data; boundary={_BORDER}"


def _zip(photographs: Sequence[bytes]) -> tuple[bytes, str]:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as packed:
        for number, data in enumerate(photographs):
            packed.writestr(f"{number}.jpg", data)
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


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="with the photographs, in it and below it")
    parser.add_argument("--photographs", type=count, default=200)
    parser.add_argument("--rounds", type=count, default=3)
    parser.add_argument("--models", type=Path, default=Path("models/hemavision"))
    parser.add_argument("--raw", type=Path, default=Path("series.csv"))
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
