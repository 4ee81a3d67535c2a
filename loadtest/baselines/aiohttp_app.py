"""About the least that a gateway in Python does: aiohttp and Pillow before the same model server.

It decodes, asks once over gRPC and draws, and nothing else: no limits, no checks of the answer, no
quality, no metrics, no log, no deadline. What the gateway takes beyond this, its care costs; what
this takes beyond the bare model server is the price of a second process with these libraries.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np
import uvloop
from aiohttp import web
from PIL import Image

from loadtest import predict
from loadtest.baselines.drawing import overlay

CLASSES = ("EOSINOPHIL", "LYMPHOCYTE", "MONOCYTE", "NEUTROPHIL")  # model_card.json, "classes"
_LARGEST = 16 * 1024 * 1024  # bytes; aiohttp's own limit is 1 MB

Ask = Callable[[bytes], Any]
"""Send a PredictRequest; await the PredictResponse. Both are serialised."""


def create_app(ask: Ask) -> web.Application:
    """Build the application around the model server that ``ask`` asks."""
    threads = ThreadPoolExecutor(len(os.sched_getaffinity(0)))

    async def classify(request: web.Request) -> web.Response:
        loop, body = asyncio.get_running_loop(), await request.read()
        heatmap = request.query.get("heatmap") != "false"
        photograph, asked = await loop.run_in_executor(threads, _prepare, body, heatmap)
        response = await ask(asked)
        answer = _answer(response)
        if heatmap:
            cam = predict.cam_fine(response)
            answer["overlay"] = await loop.run_in_executor(threads, overlay, photograph, cam)
        return web.json_response(answer)

    app = web.Application(client_max_size=_LARGEST)
    app.router.add_post("/classify", classify)
    return app


def _prepare(body: bytes, heatmap: bool) -> tuple[Image.Image, bytes]:
    photograph = Image.open(io.BytesIO(body)).convert("RGB")
    return photograph, predict.of_picture(photograph, heatmap)


def _answer(response: bytes) -> dict[str, Any]:
    probabilities = predict.probabilities(response)
    return {
        "prediction": CLASSES[int(np.argmax(probabilities))],
        "probabilities": dict(zip(CLASSES, probabilities.tolist(), strict=True)),
    }


async def _serve(model_server: str) -> None:
    async with grpc.aio.insecure_channel(model_server) as channel:
        runner = web.AppRunner(create_app(channel.unary_unary(predict.METHOD)), access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        print(f"aiohttp at http://127.0.0.1:{runner.addresses[0][1]}", flush=True)
        await asyncio.Event().wait()


def main() -> None:
    """Serve on a free port until the process is ended."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.baselines.aiohttp_app")
    parser.add_argument("--model-server", required=True, metavar="HOST:PORT")
    parser.add_argument("--uvloop", action="store_true", help="instead of Python's own event loop")
    given = parser.parse_args()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop if given.uvloop else None) as runner:
        runner.run(_serve(given.model_server))


if __name__ == "__main__":
    main()
