"""The whole way from a photograph's bytes to an answer: prepare, predict, explain.

Decoding and drawing run in worker threads, so the event loop stays free; the model is asked
once, and answers with probabilities and heat map together. What does not need its answer is done
while it works.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Literal, ParamSpec, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gateway import heatmap, imaging, quality
from gateway.allowance import Allowance
from gateway.annotation import Leukocyte, Reference
from gateway.contract import CLASSES, PREDICTED_CLASS
from gateway.deadline import Clock, Deadline, RecentCost
from gateway.errors import PhotographTooLarge
from gateway.heatmap import Colormap, PictureFormat
from gateway.model_client import Prediction
from gateway.tracing import stage

P = ParamSpec("P")
T = TypeVar("T")
STAGES = ("wait", "prepare", "predict", "explain")
"""What a photograph goes through, in this order."""

_DEGRADED = (
    "There was no time left for the heat map. Give the request more time, or ask again without "
    "`degrade`."
)

Kind = Literal["overlay", "grid", "none"]
Resolution = Literal["fine", "coarse"]
Degrade = Literal["never", "allow"]


class Model(Protocol):
    """What the pipeline asks of a model; ``ModelClient`` is the one there is."""

    def refuse_if_given_up(self) -> None:
        """Raise where it would not be asked at this moment."""
        ...

    async def predict(self, tensor: NDArray[np.uint8], deadline: Deadline) -> Prediction:
        """Classify."""
        ...

    async def explain(
        self, tensor: NDArray[np.uint8], class_index: int, deadline: Deadline
    ) -> Prediction:
        """Classify, and say where a class was seen."""
        ...


@dataclass(frozen=True)
class Options:
    """What the client wants to see, and how soon.

    ``explain`` names a class, None the predicted one. ``timeout`` is in seconds, None the
    service's own; with ``degrade`` the heat map may be left out where there is no time for it.
    """

    heatmap: Kind = "overlay"
    explain: str | None = None
    resolution: Resolution = "fine"
    colormap: Colormap = "jet"
    alpha: float = 0.4
    format: PictureFormat = "jpeg"
    timeout: float | None = None
    degrade: Degrade = "never"


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

    ``degraded`` says why the heat map that was asked for is left out; None: it is not.
    ``timing_ms`` holds wait (to be let in, and for memory), prepare, predict, explain and their
    total.
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
    degraded: str | None
    quality: quality.Quality
    photograph: Image.Image
    fingerprint: str
    timing_ms: dict[str, float]

    @property
    def service_seconds(self) -> float:
        """What the answer took but for the waits."""
        return (self.timing_ms["total"] - self.timing_ms["wait"]) / 1000

    def within(self, target_ms: float) -> bool:
        """Tell whether the answer took no longer than ``target_ms``, to what is reported of it."""
        return round(self.timing_ms["total"], 2) <= target_ms


class Pipeline:
    """Everything that one photograph needs, wired by ``app``."""

    def __init__(
        self,
        model: Model,
        workers: Executor,
        reference: Reference,
        max_pixels: int,
        decoding: Allowance,
        *,
        clock: Clock = time.monotonic,
    ) -> None:
        self._model, self._workers, self._decoding = model, workers, decoding
        self._reference, self._max_pixels = reference, max_pixels
        self._asking = RecentCost(clock=clock)
        self._drawing = defaultdict[str, RecentCost](lambda: RecentCost(clock=clock))

    async def classify(
        self, data: bytes, options: Options, deadline: Deadline, waited_ms: float = 0.0
    ) -> Report:
        """Answer one photograph before ``deadline``, which waited ``waited_ms`` to be let in.

        Raises:
            RequestError: the photograph cannot be read.
            ServiceError: the model cannot be asked, or there is no memory for the photograph.
        """
        self._model.refuse_if_given_up()
        with stage("prepare") as prepare:
            photograph, room_ms = await self._prepare(data, deadline)
        studying = asyncio.ensure_future(self._in_thread(_study, photograph))
        try:
            with stage("predict") as predict:
                prediction = await self._ask(photograph, options, deadline)
        except BaseException:
            await asyncio.wait([studying])  # no work goes on once its place is given away
            raise
        with stage("explain") as explain:
            fitness, fingerprint = await studying
            explanation = await self._explain(photograph, prediction, options, deadline)
        predicted = CLASSES[int(prediction.probabilities.argmax())]
        return Report(
            model_version=prediction.version,
            prediction=predicted,
            confidence=float(prediction.probabilities.max()),
            probabilities=dict(zip(CLASSES, prediction.probabilities.tolist(), strict=True)),
            unfamiliarity=float(prediction.unfamiliarity),
            doubts=quality.doubts(float(prediction.unfamiliarity), fitness),
            annotation=self._reference.classes[predicted],
            statement=self._reference.statement,
            heatmap=explanation,
            degraded=_DEGRADED if explanation is None and options.heatmap != "none" else None,
            quality=fitness,
            photograph=photograph.picture,
            fingerprint=fingerprint,
            timing_ms=_timing(waited_ms + room_ms, prepare.ms, predict.ms, explain.ms),
        )

    async def _prepare(self, data: bytes, deadline: Deadline) -> tuple[imaging.Photograph, float]:
        """Decode; the last value is how long that waited for memory, in milliseconds."""
        opened = await self._in_thread(imaging.open_photograph, data, self._max_pixels)
        _check_weight(opened.weight, self._decoding.total)
        async with self._decoding.of(opened.weight, deadline) as waited:
            return await self._in_thread(imaging.decode, opened), waited.ms

    async def _ask(
        self, photograph: imaging.Photograph, options: Options, deadline: Deadline
    ) -> Prediction:
        seconds = self._asking.mean() + self._drawing_seconds(photograph, options)
        if options.heatmap == "none" or _no_time(options, deadline, seconds):
            return await self._model.predict(photograph.tensor, deadline)
        explained = PREDICTED_CLASS if options.explain is None else CLASSES.index(options.explain)
        with self._asking.measured():
            return await self._model.explain(photograph.tensor, explained, deadline)

    async def _explain(
        self,
        photograph: imaging.Photograph,
        prediction: Prediction,
        options: Options,
        deadline: Deadline,
    ) -> Heatmap | None:
        cam = prediction.cam_fine if options.resolution == "fine" else prediction.cam
        seconds = self._drawing_seconds(photograph, options)
        if cam is None or _no_time(options, deadline, seconds):
            return None
        explained = options.explain or CLASSES[int(prediction.probabilities.argmax())]
        with self._drawing[_work(options)].measured(per=_pixels(photograph)):
            return await self._in_thread(_draw, photograph.picture, cam, explained, options)

    def _drawing_seconds(self, photograph: imaging.Photograph, options: Options) -> float:
        return self._drawing[_work(options)].mean() * _pixels(photograph)

    async def _in_thread(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._workers, lambda: function(*args, **kwargs))


def _check_weight(weight: int, most: int) -> None:
    if weight > most:
        raise PhotographTooLarge(
            f"Decoding this picture takes about {weight >> 20} MB of memory; at most {most >> 20} "
            "MB are given to it. Scale it down, or save it as an ordinary (not progressive) JPEG."
        )


def _study(photograph: imaging.Photograph) -> tuple[quality.Quality, str]:
    return quality.assess(photograph), imaging.fingerprint(photograph.tensor)


def _no_time(options: Options, deadline: Deadline, seconds: float) -> bool:
    """Tell whether to leave the heat map out, which would take ``seconds``."""
    return options.degrade == "allow" and deadline.remaining() < seconds


def _work(options: Options) -> str:
    """Name what is drawn, where that makes a difference to how long it takes."""
    return options.format if options.heatmap == "overlay" else options.heatmap


def _pixels(photograph: imaging.Photograph) -> int:
    width, height = photograph.picture.size
    return width * height


def _draw(
    picture: Image.Image, cam: NDArray[np.float32], explained: str, options: Options
) -> Heatmap:
    if options.heatmap == "grid":
        return Heatmap(explained, heatmap.normalise(cam), None, None)
    overlay = heatmap.overlay(picture, cam, options.colormap, options.alpha)
    encoded = heatmap.encode(overlay, options.format)
    return Heatmap(explained, heatmap.normalise(cam), overlay, encoded)


def _timing(*milliseconds: float) -> dict[str, float]:
    timing = dict(zip(STAGES, milliseconds, strict=True))
    return timing | {"total": sum(timing.values())}
