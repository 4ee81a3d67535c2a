"""What a large photograph costs the gateway, beside decoding it whole: `python -m loadtest.large`.

A photograph is enlarged to several sizes and saved as JPEG. In each round every size goes two
ways, so that a machine whose speed drifts slows both alike: `whole` is Pillow alone, in this
process, decoding all of it and stretching that to the model's 224 x 224; `gateway` is what the
running gateway says its stage `prepare` took, which does the same and makes the overlay's picture
and measures the quality besides. How far apart the two tensors are is printed too, as the gateway
decodes at a reduced scale. With `--pid` the gateway's highest memory is told as well, from /proc.
"""

from __future__ import annotations

import argparse
import http.client
import io
import itertools
import json
import os
import re
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from loadtest import photographs, pictures, tables, target
from loadtest.arguments import count
from loadtest.refusal import refuse
from loadtest.target import Target

_SIZES = ((1000, 750), (2000, 1500), (4000, 3000), (6000, 4000))
_INPUT = (224, 224)
_LARGEST_SIDE = 1024  # of the overlay: the gateway's decoder leaves at least that


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print the table."""
    given = _arguments(arguments)
    picture = pictures.decoded(photographs.one(given.photograph))
    service = Target(given.url, os.environ.get("HEMAVISION_KEY"))
    target.check(service)
    bodies = {size: _jpeg(picture, size) for size in _SIZES}
    times: list[tuple[int, str, float, float]] = []
    with closing(http.client.HTTPConnection(service.host, service.port)) as connection:
        for number, (size, body) in itertools.product(range(-1, given.rounds), bodies.items()):
            gateway = _prepare(connection, body, service.headers)
            whole = _decode_whole(body)
            if number >= 0:
                times.append((number, "{} x {}".format(*size), whole, gateway))
    _write(given.raw, times)
    print(_table(times, bodies))
    if given.pid:
        print(f"gateway's highest memory: {_highest_memory(given.pid)} MiB")
    print(f"every time: {given.raw}")
    return 0


def _jpeg(picture: Image.Image, size: tuple[int, int]) -> bytes:
    body = io.BytesIO()
    picture.resize(size, Image.Resampling.BICUBIC).save(body, "JPEG", quality=92)
    return body.getvalue()


def _prepare(connection: http.client.HTTPConnection, body: bytes, headers: dict[str, str]) -> float:
    kind = {"Content-Type": "application/octet-stream"}
    connection.request("POST", "/v1/classify?heatmap=none", body, headers | kind)
    reply = json.load(connection.getresponse())
    if "timing_ms" not in reply:
        refuse(f"The gateway refused the photograph: {target.told(reply)}")
    return float(reply["timing_ms"]["prepare"])


def _decode_whole(body: bytes) -> float:
    started = time.perf_counter()
    with Image.open(io.BytesIO(body)) as image:
        _tensor(image)
    return (time.perf_counter() - started) * 1000


def _tensor(image: Image.Image) -> NDArray[np.uint8]:
    return np.asarray(image.convert("RGB").resize(_INPUT, Image.Resampling.BILINEAR))


def _difference(body: bytes) -> tuple[int, int, float]:
    """By how much reduced decoding changes the model's input: factor, largest, mean (of 255)."""
    with Image.open(io.BytesIO(body)) as image:
        width, height = image.size
        whole = _tensor(image).astype(int)
    fits = [f for f in (8, 4, 2) if max(width, height) >= f * _LARGEST_SIDE]
    factor = next((f for f in fits if min(width, height) >= f * 2 * _INPUT[0]), 1)
    with Image.open(io.BytesIO(body)) as image:
        image.draft(None, (width // factor, height // factor))
        found = np.abs(_tensor(image) - whole)
    return factor, int(found.max()), float(found.mean())


def _highest_memory(pid: int) -> int:
    found = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    assert found is not None  # Linux writes it for every process
    return int(found[1]) // 1024


def _table(times: list[tuple[int, str, float, float]], bodies: dict[tuple[int, int], bytes]) -> str:
    lines = [
        "| JPEG, pixels | whole, p50 ms | prepare, p50 ms | ratio | scale | most off | mean |",
        "|---|---|---|---|---|---|---|",
    ]
    for size, body in bodies.items():
        name = "{} x {}".format(*size)
        whole = float(np.median([w for _, n, w, _ in times if n == name]))
        gateway = float(np.median([g for _, n, _, g in times if n == name]))
        factor, largest, mean = _difference(body)
        lines.append(
            f"| {name} | {whole:.0f} | {gateway:.0f} | {gateway / whole:.2f} | 1/{factor} "
            f"| {largest} of 255 | {mean:.2f} |"
        )
    return "\n".join(lines)


def _write(path: Path, times: list[tuple[int, str, float, float]]) -> None:
    rows = ([number, size, f"{w:.2f}", f"{g:.2f}"] for number, size, w, g in times)
    tables.write_csv(path, ["round", "size", "whole_ms", "gateway_prepare_ms"], rows)


def _arguments(arguments: Sequence[str] | None) -> Any:
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.large", description="What a large photograph costs."
    )
    parser.add_argument("photograph", type=Path)
    parser.add_argument("--url", default="http://127.0.0.1:8080", help="of a running gateway")
    parser.add_argument("--pid", type=int, help="the gateway's, for its highest memory")
    parser.add_argument("--rounds", type=count, default=20)
    parser.add_argument("--raw", type=Path, default=Path("loadtest/results/latest-large.csv"))
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
