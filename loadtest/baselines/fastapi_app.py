"""FastAPI and uvicorn around the same SavedModel in process, as a competent user writes it.

Loaded once and warm before the port opens; one call of one signature for each photograph, so one
inference; the event loop does no work of its own, as a thread for each core decodes, asks the
model and draws; the colours are a table, and the overlay is a JPEG, as the gateway's.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import os
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tensorflow as tf
import uvicorn
from fastapi import Body, FastAPI
from PIL import Image

from loadtest.baselines.drawing import overlay

CLASSES = ("EOSINOPHIL", "LYMPHOCYTE", "MONOCYTE", "NEUTROPHIL")  # model_card.json, "classes"
SIZE = 224  # pixels; the model's input


class Classifier:
    """The SavedModel's two signatures, and what makes their input and shows their output."""

    def __init__(self, version: Path) -> None:
        """Load ``version``, a folder with a saved_model.pb, and run both signatures once."""
        self._loaded = tf.saved_model.load(str(version))  # owns what the signatures refer to
        self._classify = self._loaded.signatures["serving_default"]
        self._explain = self._loaded.signatures["gradcam"]
        black = Image.new("RGB", (SIZE, SIZE))
        for heatmap in (False, True):
            self._ask(black, heatmap)

    def answer(self, body: bytes, heatmap: bool) -> dict[str, Any]:
        """Answer for a photograph's file, with its overlay as a JPEG or without."""
        photograph = Image.open(io.BytesIO(body)).convert("RGB")
        outputs = self._ask(photograph, heatmap)
        probabilities = outputs["probabilities"].numpy()[0]
        answer: dict[str, Any] = {
            "prediction": CLASSES[int(np.argmax(probabilities))],
            "probabilities": dict(zip(CLASSES, probabilities.tolist(), strict=True)),
        }
        if heatmap:
            answer["overlay"] = overlay(photograph, outputs["cam_fine"].numpy()[0])
        return answer

    def _ask(self, photograph: Image.Image, heatmap: bool) -> dict[str, tf.Tensor]:
        resized = photograph.resize((SIZE, SIZE), Image.Resampling.BILINEAR)
        images = tf.constant(np.asarray(resized)[np.newaxis])
        if not heatmap:
            return dict(self._classify(images=images))
        predicted = tf.constant([-1], tf.int32)  # -1: the class that the model predicts
        return dict(self._explain(images=images, class_index=predicted))


def create_app(version: Path) -> FastAPI:
    """Build the application around one version of the SavedModel."""
    classifier = Classifier(version)
    threads = ThreadPoolExecutor(len(os.sched_getaffinity(0)))
    app = FastAPI()

    @app.post("/classify")
    async def classify(
        photograph: Annotated[bytes, Body(media_type="application/octet-stream")],
        heatmap: bool = True,
    ) -> dict[str, Any]:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(threads, classifier.answer, photograph, heatmap)

    return app


def main() -> None:
    """Serve on a free port until the process is ended."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.baselines.fastapi_app")
    parser.add_argument("--version", type=Path, required=True, metavar="DIR")
    app = create_app(parser.parse_args().version)
    listener = socket.create_server(("127.0.0.1", 0))
    print(f"FastAPI at http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
    # clients that pause keep their connections, as with other servers; uvicorn's default is 5 s
    config = uvicorn.Config(app, log_level="warning", timeout_keep_alive=75)
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()
