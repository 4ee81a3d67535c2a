"""The whole way from a photograph's bytes to an answer: prepare, predict, explain.

Decoding and drawing run in worker threads, so the event loop stays free; the model is asked
once, and answers with probabilities and heat map together.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, ParamSpec, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gateway import heatmap, imaging, quality
from gateway.annotation import Leukocyte, Reference
from gateway.contract import CLASSES, PREDICTED_CLASS
from gateway.heatmap import Colormap, PictureFormat
from gateway.model_client import Prediction

P = ParamSpec("P")
T = TypeVar("T")
STAGES = ("wait", "prepare", "predict", "explain")
"""What a photograph goes through, in this order."""

Kind = Literal["overlay", "grid", "none"]
Resolution = Literal["fine", "coarse"]


class Model(Protocol):
    """What the pipeline asks of a model; ``ModelClient`` is the one there is."""

    async def predict(self, tensor: NDArray[np.uint8]) -> Prediction:
        """Classify."""
        ...

    async def explain(self, tensor: NDArray[np.uint8], class_index: int) -> Prediction:
        """Classify, and say where a class was seen."""
        ...


@dataclass(frozen=True)
class Options:
    """What the client wants to see; ``explain`` names a class, None the predicted one."""

    heatmap: Kind = "overlay"
    explain: str | None = None
    resolution: Resolution = "fine"
    colormap: Colormap = "jet"
    alpha: float = 0.4
    format: PictureFormat = "png"


@dataclass(frozen=True)
class Heatmap:
    """Where ``explained_class`` was seen.

    ``cells`` is the map itself, float32 [h, h] in 0-1; ``picture`` and ``encoded`` are the
    overlay on the photograph, where one was asked for.
    """

    explained_class: str
    cells: NDArray[np.float32]
    picture: Image.Image | None
    encoded: bytes | None


@dataclass(frozen=True)
class Report:
    """The answer; with ``doubts``, it is no more than the nearest of the classes.

    ``timing_ms`` holds wait, prepare, predict, explain and their total.
    """

    model_version: int
    prediction: str
    confidence: float
    probabilities: dict[str, float]
    unfamiliarity: float
    doubts: tuple[quality.Doubt, ...]
    annotation: Leukocyte
    statement: str
    heatmap: Heatmap | None
    quality: quality.Quality
    photograph: Image.Image
    timing_ms: dict[str, float]


class Pipeline:
    """Everything that one photograph needs, wired by ``app``."""

    def __init__(
        self, model: Model, workers: Executor, reference: Reference, max_pixels: int
    ) -> None:
        self._model, self._workers = model, workers
        self._reference, self._max_pixels = reference, max_pixels

    async def classify(self, data: bytes, options: Options, waited_ms: float = 0.0) -> Report:
        """Answer one photograph, which waited ``waited_ms`` to be let in.

        Raises:
            RequestError: the photograph cannot be read.
            ServiceError: the model cannot be asked.
        """
        clock = [time.perf_counter()]
        photograph, fitness = await self._in_thread(_prepare, data, self._max_pixels)
        clock.append(time.perf_counter())
        prediction = await self._ask(photograph.tensor, options)
        clock.append(time.perf_counter())
        explanation = await self._in_thread(_explain, photograph.picture, prediction, options)
        clock.append(time.perf_counter())
        predicted = CLASSES[int(prediction.probabilities.argmax())]
        return Report(
            model_version=prediction.version,
            prediction=predicted,
            confidence=float(prediction.probabilities.max()),
            probabilities=dict(zip(CLASSES, prediction.probabilities.tolist(), strict=True)),
            unfamiliarity=float(prediction.unfamiliarity),
            doubts=quality.doubts(float(prediction.unfamiliarity)),
            annotation=self._reference.classes[predicted],
            statement=self._reference.statement,
            heatmap=explanation,
            quality=fitness,
            photograph=photograph.picture,
            timing_ms=_timing(waited_ms, clock),
        )

    async def _ask(self, tensor: NDArray[np.uint8], options: Options) -> Prediction:
        if options.heatmap == "none":
            return await self._model.predict(tensor)
        explained = PREDICTED_CLASS if options.explain is None else CLASSES.index(options.explain)
        return await self._model.explain(tensor, explained)

    async def _in_thread(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._workers, lambda: function(*args, **kwargs))


def _prepare(data: bytes, max_pixels: int) -> tuple[imaging.Photograph, quality.Quality]:
    photograph = imaging.read_photograph(data, max_pixels)
    return photograph, quality.assess(photograph)


def _explain(picture: Image.Image, prediction: Prediction, options: Options) -> Heatmap | None:
    cam = prediction.cam_fine if options.resolution == "fine" else prediction.cam
    if cam is None:
        return None
    explained = options.explain or CLASSES[int(prediction.probabilities.argmax())]
    if options.heatmap == "grid":
        return Heatmap(explained, heatmap.normalise(cam), None, None)
    overlay = heatmap.overlay(picture, cam, options.colormap, options.alpha)
    encoded = heatmap.encode(overlay, options.format)
    return Heatmap(explained, heatmap.normalise(cam), overlay, encoded)


def _timing(waited_ms: float, clock: list[float]) -> dict[str, float]:
    worked = [(end - start) * 1000 for start, end in pairwise(clock)]
    timing = dict(zip(STAGES, (waited_ms, *worked), strict=True))
    return timing | {"total": sum(timing.values())}
