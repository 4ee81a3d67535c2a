"""Where a photograph's time goes in the gateway: `python -m loadtest.stages DIR`.

Each photograph is brought to 256, 360, 640 and 2048 pixels along its longer side and saved as
JPEG. One client sends each to the gateway for its overlay, and to the bare model server by the
`gradcam` signature, in an order drawn each time. The stages are the gateway's own (`timing_ms` of
its reply); what is left of the client's time is HTTP and JSON.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from statistics import median

from PIL import Image

from loadtest import machine, photographs, pictures, processes, tables
from loadtest.arguments import count
from loadtest.bench import BASELINE, contenders
from loadtest.bench.contenders import Ask

_OURS = "gateway overlay"
_WARM_UP = 2  # rounds
_RECORD = Path("loadtest/results/stages.csv")
_ROWS = {
    "decode, resize, tensor": "prepare",
    "model, asked by gRPC": "predict",
    "colours, overlay, encoding": "explain",
    "HTTP, JSON, waits": "beside",
    "the client waits": "client",
    f"{BASELINE}, beside it": "bare",
}


@dataclass(frozen=True)
class Times:
    """One photograph's, in ms: the client's, the gateway's stages, and the bare model server's."""

    round: int
    side: int
    photograph: int
    client: float
    prepare: float
    predict: float
    explain: float
    bare: float

    @property
    def beside(self) -> float:
        """What the client waits for that is no stage's."""
        return self.client - self.prepare - self.predict - self.explain


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, keep every time, and print the table."""
    given = _parser().parse_args(arguments)
    chosen = [pictures.decoded(one) for one in photographs.named(given.folder, given.most)]
    bodies = [(side, _jpeg(picture, side)) for picture in chosen for side in pictures.SIDES]
    times = _measured(bodies, given.rounds, given.models)
    raw = _RECORD if given.record else given.raw
    tables.write_csv(
        raw, [f"{field.name}" for field in fields(Times)], (_row(one) for one in times)
    )
    table = _table(times)
    print(f"{table}\n\nevery time, in ms: {raw}")
    if given.record:
        told = f"{table}\n\n{machine.sentence(machine.facts())}."
        tables.put("stages", f"{told} [Every time](results/{_RECORD.name}).")
    return 0


def _jpeg(picture: Image.Image, side: int) -> bytes:
    buffer = io.BytesIO()
    pictures.enlarged(picture, side).save(buffer, "JPEG", quality=92)
    return buffer.getvalue()


def _measured(sized: list[tuple[int, bytes]], rounds: int, models: Path) -> list[Times]:
    bodies = [body for _, body in sized]
    with ExitStack() as stack:
        server = stack.enter_context(processes.model_server(models=models))
        gateway = stack.enter_context(processes.gateway(server.address))
        bare = {one.name: one for one in contenders.bare(server, bodies)}[BASELINE]
        url = f"{gateway.address}/v1/classify"
        ours = contenders.over_http(_OURS, url, bodies, gateway, server)
        clients = {one.name: stack.enter_context(one.connect()) for one in (ours, bare)}
        dice = random.Random(7)  # noqa: S311  # no secret
        return [
            _times(number, side, which, dict(dice.sample(list(clients.items()), 2)))
            for number in range(-_WARM_UP, rounds)
            for which, (side, _) in enumerate(sized)
        ][_WARM_UP * len(sized) :]


def _times(number: int, side: int, which: int, clients: dict[str, Ask]) -> Times:
    """Ask for photograph ``which``, in the order of ``clients``."""
    taken = {name: _timed(ask, which) for name, ask in clients.items()}
    client_ms, reply = taken[_OURS]
    stages = json.loads(reply)["timing_ms"]
    return Times(
        number,
        side,
        which // len(pictures.SIDES),
        client_ms,
        stages["prepare"],
        stages["predict"],
        stages["explain"],
        taken[BASELINE][0],
    )


def _timed(ask: Ask, which: int) -> tuple[float, bytes]:
    started = time.perf_counter()
    reply = ask(which)
    return (time.perf_counter() - started) * 1000, reply


def _row(times: Times) -> list[str]:
    return [f"{one:.3f}" if isinstance(one, float) else f"{one}" for one in astuple(times)]


def _table(times: list[Times]) -> str:
    rows = [
        [name, *(_median([getattr(t, what) for t in times if t.side == s]) for s in pictures.SIDES)]
        for name, what in _ROWS.items()
    ]
    return tables.markdown(["median ms", *(f"{side} px" for side in pictures.SIDES)], rows)


def _median(values: list[float]) -> str:
    return f"{median(values):.2f}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.stages", description="Where a photograph's time goes."
    )
    parser.add_argument("folder", type=Path, help="with photographs")
    parser.add_argument("--most", type=count, default=20, help="photographs taken from it")
    parser.add_argument("--rounds", type=count, default=10)
    parser.add_argument("--models", type=Path, default=Path("models/hemavision"), metavar="DIR")
    parser.add_argument("--raw", type=Path, default=_RECORD.with_name(f"latest-{_RECORD.name}"))
    parser.add_argument("--record", action="store_true", help="keep it, also in the README")
    return parser


if __name__ == "__main__":
    sys.exit(main())
