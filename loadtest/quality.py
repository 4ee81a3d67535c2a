"""What a running gateway's quality flags find, and what they cost: `python -m loadtest.quality`.

Sends labelled photographs, copies of them that were blurred, darkened or brightened, crops that
show the white cell from closer, and crops beside the white cells, and prints for each kind: how
many got each flag, how many answers were withheld, and how many of all were named right, whether
withheld or not. Every measure of every photograph is written to a CSV file.

The folder has a manifest.csv with the columns path, source, split, label, wbc_boxes (see
export/README.md). Blur is Gaussian, its sigma in pixels of the model's 224; light is multiplied
before the sensor's white, so in linear light. From twice as close, half of each side is seen: round
the cell's box, or round the middle of a photograph without one.
"""

from __future__ import annotations

import argparse
import csv
import http.client
import io
import json
import os
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageFilter

from loadtest import photographs, pictures, tables, target
from loadtest.arguments import count
from loadtest.refusal import refuse
from loadtest.target import Target

_MODEL_INPUT = 224
_GAMMA = 2.2  # sRGB's, near enough
_MARGIN = 8  # pixels between an empty crop and a white cell
_SIDES = (200, 240, 280)  # of an empty crop in a field of 640 x 480, in pixels
_TRIES = 200
_CLOSER = (1.5, 2, 2.5)
_COLUMNS = ("path", "source", "split", "label", "wbc_boxes")

Picture = Image.Image
Row = dict[str, str]


class Answer(NamedTuple):
    """What the gateway said of one picture of a kind."""

    kind: str
    label: str
    reply: dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print the table; status 2 where there is nothing to measure."""
    given = _arguments(arguments)
    rows = _chosen(given.data, given.split, given.most)
    service = Target(given.url, os.environ.get("HEMAVISION_KEY"))
    target.check(service)
    with closing(http.client.HTTPConnection(service.host, service.port)) as connection:
        answers = [
            Answer(kind, label, _classify(connection, service.headers, picture, row["path"]))
            for row in rows
            for kind, label, picture in _kinds(row, given.data, given.plain)
        ]
    _write(given.raw, answers)
    print(_table(answers))
    print(f"every measure: {given.raw}")
    return 0


def _chosen(data: Path, split: str, most: int) -> list[Row]:
    rows = [row for row in _manifest(data / "manifest.csv") if row["split"] == split]
    if not rows:
        refuse(f"no photograph of {split} in {data}/manifest.csv: name another --split.")
    chosen: list[Row] = []
    for source in sorted({row["source"] for row in rows}):
        own = [row for row in rows if row["source"] == source]
        Random(1).shuffle(own)  # noqa: S311  # a sample, the same each time
        chosen += own[:most]
    return chosen


def _manifest(path: Path) -> list[Row]:
    """Read the rows.

    Raises:
        SystemExit: it is not there, or lacks a column.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            table = csv.DictReader(file)
            rows, columns = list(table), table.fieldnames or ()
    except OSError as error:
        refuse(f"{path} cannot be read: {error.strerror}.")
    if missing := [column for column in _COLUMNS if column not in columns]:
        refuse(f"{path} has no column {', '.join(missing)}.")
    return rows


def _kinds(row: Row, data: Path, plain: bool) -> Iterator[tuple[str, str, Picture]]:
    picture = pictures.decoded(photographs.one(data / row["path"]))
    yield f"{row['source']} as it is", row["label"], picture
    if plain:
        return
    for name, degrade in _DEGRADATIONS.items():
        yield f"{row['source']} {name}", row["label"], degrade(picture)
    for factor in _CLOSER:
        near = closer(picture, _boxes(row), factor)
        yield f"{row['source']} closer x {factor}", row["label"], near
    if row["source"] == "bccd" and (crop := _beside_cells(row, picture)):
        yield "bccd beside cells", "", crop


def _blur(sigma: float) -> Callable[[Picture], Picture]:
    return lambda p: p.filter(ImageFilter.GaussianBlur(sigma * p.width / _MODEL_INPUT))


def _light(factor: float) -> Callable[[Picture], Picture]:
    levels = (np.linspace(0, 1, 256) ** _GAMMA * factor).clip(0, 1) ** (1 / _GAMMA) * 255
    return lambda p: p.point(levels.round().astype(int).tolist() * 3)


_DEGRADATIONS: dict[str, Callable[[Picture], Picture]] = {
    **{f"blur {sigma}": _blur(sigma) for sigma in (1, 1.5, 2, 3, 4)},
    **{f"light x {factor}": _light(factor) for factor in (0.05, 0.1, 0.2, 0.4, 1.5, 2, 3, 5)},
}


def closer(picture: Picture, boxes: Sequence[tuple[int, ...]], factor: float) -> Picture:
    """Crop round the first box, which a picture's edge may keep out of the middle."""
    left, top, right, bottom = boxes[0] if boxes else (0, 0, *picture.size)
    width, height = round(picture.width / factor), round(picture.height / factor)
    x = min(max((left + right - width) // 2, 0), picture.width - width)
    y = min(max((top + bottom - height) // 2, 0), picture.height - height)
    return picture.crop((x, y, x + width, y + height))


def _boxes(row: Row) -> list[tuple[int, ...]]:
    return [tuple(map(int, box.split())) for box in row["wbc_boxes"].split(";") if box.strip()]


def _beside_cells(row: Row, picture: Picture) -> Picture | None:
    """Crop a place beside all white cells; None where they leave no room."""
    boxes = _boxes(row)
    random = Random(row["path"])  # noqa: S311  # a sample, the same each time
    for _ in range(_TRIES):
        side = random.choice(_SIDES)
        x, y = random.randrange(picture.width - side), random.randrange(picture.height - side)
        if all(
            x + side + _MARGIN <= left
            or right + _MARGIN <= x
            or y + side + _MARGIN <= top
            or bottom + _MARGIN <= y
            for left, top, right, bottom in boxes
        ):
            return picture.crop((x, y, x + side, y + side))
    return None


def _classify(
    connection: http.client.HTTPConnection, headers: dict[str, str], picture: Picture, name: str
) -> dict[str, Any]:
    body = io.BytesIO()
    picture.save(body, "PNG", compress_level=1)
    headers = headers | {"Content-Type": "image/png"}
    connection.request("POST", "/v1/classify?heatmap=none", body.getvalue(), headers)
    reply: dict[str, Any] = json.load(connection.getresponse())
    if "quality" not in reply:
        refuse(f"The gateway refused {name}: {target.told(reply)}")
    return reply


def _flags(reply: dict[str, Any]) -> set[str]:
    return {flag["flag"] for flag in reply["quality"]["flags"]}


def _table(answers: list[Answer]) -> str:
    of_kind: dict[str, list[Answer]] = defaultdict(list)
    for answer in answers:
        of_kind[answer.kind].append(answer)
    flags = ("blurred", "underexposed", "overexposed", "no-nucleus", "uniform")
    lines = [
        f"| photographs | n | {' | '.join(flags)} | withheld | of them unfamiliar | named right |",
        "|---" * (len(flags) + 5) + "|",
    ]
    for kind, own in sorted(of_kind.items()):
        shares = [_share(flag in _flags(a.reply) for a in own) for flag in flags]
        shares.append(_share(a.reply["abstain"] for a in own))
        shares.append(_share("unfamiliar" in _reasons(a.reply) for a in own))
        named = [a.reply["prediction"] == a.label for a in own if a.label]
        shares.append(_share(named) if named else "")
        lines.append(f"| {kind} | {len(own)} | {' | '.join(shares)} |")
    return "\n".join(lines)


def _reasons(reply: dict[str, Any]) -> set[str]:
    return {doubt["reason"] for doubt in reply["abstain_reasons"]}


def _share(facts: Any) -> str:
    return f"{100 * np.mean(list(facts)):.1f} %"


def _write(path: Path, answers: list[Answer]) -> None:
    measures = answers[0].reply["quality"]["measures"]
    header = ["kind", "label", "prediction", "unfamiliarity", *measures]
    tables.write_csv(path, header, map(_row, answers))


def _row(answer: Answer) -> list[object]:
    reply = answer.reply
    measures = reply["quality"]["measures"].values()
    return [answer.kind, answer.label, reply["prediction"], reply["unfamiliarity"], *measures]


def _arguments(arguments: Sequence[str] | None) -> Any:
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.quality", description="What the quality flags find, and cost."
    )
    parser.add_argument("data", type=Path, help="folder with manifest.csv")
    parser.add_argument("--url", default="http://127.0.0.1:8080", help="of a running gateway")
    parser.add_argument("--split", default="test")
    parser.add_argument("--most", type=count, default=200, help="photographs of each source")
    parser.add_argument("--plain", action="store_true", help="the photographs as they are alone")
    parser.add_argument("--raw", type=Path, default=Path("loadtest/results/latest-quality.csv"))
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
