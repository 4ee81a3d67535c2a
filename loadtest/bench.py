"""The gateway beside the bare model server, one client, in one run: `make bench`.

Each round sends one photograph each way, one after the other, so that a machine whose speed
drifts slows all of them alike; the ratios are what to quote. Nothing but the call itself is
timed: bodies and requests are made before, replies are checked after. Every single time is
written to a CSV file.

    bare serving_default   gRPC Predict of the softmax alone
    bare gradcam           gRPC Predict of softmax and maps: the baseline
    gateway none           POST /v1/classify?heatmap=none
    gateway overlay        POST /v1/classify, the overlay inside as PNG
    gateway overlay jpeg   the same as JPEG: what PNG's encoding costs
"""

from __future__ import annotations

import argparse
import csv
import http.client
import io
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from loadtest import photographs, processes

BASELINE = "bare gradcam"
_OUTPUTS = ("probabilities", "cam", "cam_fine")
_WARMUP_ROUNDS = 10

Call = Callable[[int], object]


def main() -> int:
    """Run the benchmark."""
    given = _arguments()
    bodies = photographs.read(given.photographs, given.most)
    with processes.model_server() as server, processes.gateway(server.address) as gateway:
        calls = _calls(server.address, gateway.address, bodies)
        times = _measure(calls, given.rounds, len(bodies))
    _write(given.raw, times)
    print(_table(times, len(bodies)))
    print(f"every time: {given.raw}")
    return 0


def _calls(model_server: str, gateway: str, bodies: list[bytes]) -> dict[str, Call]:
    channel = grpc.insecure_channel(model_server)
    predict = channel.unary_unary("/tensorflow.serving.PredictionService/Predict")
    connection = http.client.HTTPConnection(gateway.removeprefix("http://"))
    tensors = [_tensor(body) for body in bodies]
    plain = [_request(tensor, "serving_default") for tensor in tensors]
    explained = [_request(tensor, "gradcam") for tensor in tensors]

    def post(path: str, body: bytes) -> bytes:
        connection.request("POST", path, body, {"Content-Type": "application/octet-stream"})
        response = connection.getresponse()
        reply = response.read()
        if response.status != http.client.OK:
            raise RuntimeError(f"{path}: {response.status} {reply[:200]!r}")
        return reply

    return {
        "bare serving_default": lambda i: predict(plain[i], timeout=10),
        BASELINE: lambda i: predict(explained[i], timeout=10),
        "gateway none": lambda i: post("/v1/classify?heatmap=none", bodies[i]),
        "gateway overlay": lambda i: post("/v1/classify", bodies[i]),
        "gateway overlay jpeg": lambda i: post("/v1/classify?format=jpeg", bodies[i]),
    }


def _measure(calls: dict[str, Call], rounds: int, bodies: int) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(-_WARMUP_ROUNDS, rounds):
        for name, call in calls.items():
            started = time.perf_counter()
            call(number % bodies)
            elapsed = (time.perf_counter() - started) * 1000
            if number >= 0:
                times[name].append(elapsed)
    return times


def _request(tensor: NDArray[np.uint8], signature: str) -> bytes:
    with _native_log_hidden():
        from tensorflow.core.framework import tensor_pb2, types_pb2
        from tensorflow_serving.apis import predict_pb2  # the official messages, and TensorFlow

    def proto(array: NDArray[Any], dtype: int) -> tensor_pb2.TensorProto:
        built = tensor_pb2.TensorProto(dtype=dtype, tensor_content=array.tobytes())
        for size in array.shape:
            built.tensor_shape.dim.add(size=size)
        return built

    request = predict_pb2.PredictRequest()
    request.model_spec.name = "hemavision"
    request.model_spec.signature_name = signature
    request.inputs["images"].CopyFrom(proto(tensor[np.newaxis], types_pb2.DT_UINT8))
    if signature == "gradcam":
        index = proto(np.array([-1], np.int32), types_pb2.DT_INT32)
        request.inputs["class_index"].CopyFrom(index)
        request.output_filter.extend(_OUTPUTS)
    return bytes(request.SerializeToString())


@contextmanager
def _native_log_hidden() -> Iterator[None]:
    """Hide the page of remarks on GPUs that importing TensorFlow writes to the terminal."""
    terminal = os.dup(2)
    try:
        with Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(terminal, 2)
        os.close(terminal)


def _tensor(body: bytes) -> NDArray[np.uint8]:
    picture = Image.open(io.BytesIO(body)).convert("RGB")
    return np.asarray(picture.resize((224, 224), Image.Resampling.BILINEAR))


def _table(times: dict[str, list[float]], bodies: int) -> str:
    rounds = len(times[BASELINE])
    base = float(np.percentile(times[BASELINE], 50))
    machine = f"{os.cpu_count()} cores, Python {platform.python_version()}"
    lines = [
        f"{rounds} rounds over {bodies} photographs, one client, {machine}",
        f"{'':<22}{'p50 ms':>9}{'p99 ms':>9}{'p50 / ' + BASELINE:>22}",
    ]
    for name, series in times.items():
        p50, p99 = np.percentile(series, [50, 99])
        lines.append(f"{name:<22}{p50:>9.1f}{p99:>9.1f}{p50 / base:>22.2f}")
    return "\n".join(lines)


def _write(path: Path, times: dict[str, list[float]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_suffix(".new")
    with aside.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["round", *times])
        for number, row in enumerate(zip(*times.values(), strict=True)):
            writer.writerow([number, *(f"{ms:.3f}" for ms in row)])
    aside.replace(path)


def _arguments() -> Any:
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.bench", description="The gateway beside the bare model server."
    )
    parser.add_argument("--photographs", type=Path, default=Path("samples"), metavar="DIR")
    parser.add_argument("--most", type=int, default=100, help="photographs taken from DIR")
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--raw", type=Path, default=Path("loadtest/results/latest.csv"))
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
