"""The replies as JSON: the only place that knows the names of their fields.

Each reply is a type whose fields carry their meaning; ``openapi`` describes the API from them.
"""

from __future__ import annotations

import base64
from typing import Annotated, Any, Literal, TypedDict, get_args

from PIL import Image

from gateway import contract, ranges
from gateway.annotation import Leukocyte, Reference
from gateway.heatmap import Colormap, PictureFormat, encode
from gateway.pipeline import Heatmap, Options, Report, Resolution
from gateway.quality import Quality as PhotographQuality

PICTURES = tuple(f"image/{name}" for name in get_args(PictureFormat))
"""The media types of overlays, the favourite first."""


class Rule:
    """What JSON Schema says of a value beyond its type, in its keywords."""

    def __init__(self, **keywords: Any) -> None:
        self.keywords = keywords


Cell = Annotated[str, Rule(enum=list(contract.CLASSES))]
Share = Annotated[float, Rule(minimum=0, maximum=1)]
Percent = Annotated[float, Rule(minimum=0, maximum=100)]
Milliseconds = Annotated[float, Rule(minimum=0)]
Pixels = Annotated[int, Rule(minimum=1)]
Version = Annotated[int, Rule(minimum=0)]
Base64 = Annotated[str, Rule(contentEncoding="base64")]
RequestId = Annotated[str, Rule(pattern="^[A-Za-z0-9._-]{1,64}$")]
Fingerprint = Annotated[str, Rule(pattern="^[0-9a-f]{32}$")]
_EACH = Rule(propertyNames={"enum": list(contract.CLASSES)}, required=list(contract.CLASSES))


class Model(TypedDict):
    """Which model answered."""

    name: Annotated[str, "The model's name."]
    version: Annotated[Version, "The version that answered."]


class Doubt(TypedDict):
    """Why the answer is not to be taken."""

    reason: Annotated[str, "A name for programs, as `unfamiliar`."]
    detail: Annotated[str, "A sentence for people."]


class NormalRange(TypedDict):
    """The share of a class in the blood of healthy adults."""

    low: Annotated[Percent, "Its lower end."]
    high: Annotated[Percent, "Its upper end."]
    unit: Annotated[str, "What it is a share of."]
    source: Annotated[str, "Where it comes from."]
    note: Annotated[str | None, "What to keep in mind with it."]


# `class` is no name that a Python class could give a field
_OfClass = TypedDict("_OfClass", {"class": Annotated[Cell, "The class."]})


class Annotation(_OfClass):
    """The clinical context of a class, with its sources."""

    name: Annotated[str, "The cell's name."]
    appearance: Annotated[str, "How it looks when stained."]
    function: Annotated[str, "What it does."]
    significance: Annotated[str, "What a raised or a low share is seen with."]
    source: Annotated[str, "Where the statements come from."]
    normal_range: NormalRange
    statement: Annotated[str, "What to keep in mind with every class."]


class _Heatmap(TypedDict):
    explained_class: Annotated[Cell, "The class whose evidence is heatmap."]
    resolution: Annotated[Resolution, "As asked."]
    method: Annotated[Literal["HiResCAM x LayerCAM", "GradCAM"], "How the map was made."]
    flat: Annotated[bool, "True where no place speaks for the class."]


class Overlay(_Heatmap):
    """The heat map drawn over the photograph."""

    kind: Annotated[Literal["overlay"], "As asked."]
    colormap: Annotated[Colormap, "As asked."]
    alpha: Annotated[Share, "As asked."]
    width: Annotated[Pixels, "The picture's width, in pixels."]
    height: Annotated[Pixels, "The picture's height, in pixels."]
    media_type: Annotated[str, "Its format.", Rule(enum=list(PICTURES))]
    data: Annotated[Base64, "The picture."]


class Placement(TypedDict):
    """Where a grid lies, in pixels of the photograph stretched to a square of ``input_size``."""

    input_size: Annotated[Pixels, "Width and height of the stretched photograph."]
    origin: Annotated[float, "Left and upper edge of the grid."]
    pitch: Annotated[float, "Distance between the centres of two cells."]


class Grid(_Heatmap):
    """The heat map's cells."""

    kind: Annotated[Literal["grid"], "As asked."]
    cells: Annotated[list[list[Share]], "Rows from the top; the highest is 1, or all are 0."]
    placement: Placement


class Measures(TypedDict):
    """What the quality's flags stand on, of the photograph as the model sees it."""

    sharpness: Annotated[
        float, "Variance of the Laplacian over that of the grey levels.", Rule(minimum=0)
    ]
    brightness: Annotated[
        float, "Grey level of the empty slide: the 95th percentile.", Rule(minimum=0, maximum=255)
    ]
    clipped: Annotated[Share, "Share of the pixels that are pure white."]
    nucleus: Annotated[float, "Optical density in red less that in blue, of the most stained 1 %."]


class Flag(TypedDict):
    """What is to be said against the photograph."""

    flag: Annotated[str, "A name for programs, as `blurred`."]
    detail: Annotated[str, "A sentence for people."]


class Quality(TypedDict):
    """What the photograph is."""

    width: Annotated[Pixels, "The upright photograph's width, in pixels."]
    height: Annotated[Pixels, "Its height, in pixels."]
    format: Annotated[str, "Its file format, told by the content."]
    measures: Measures
    flags: Annotated[list[Flag], "Reasons to trust the answer less; some make `abstain` true."]


class Timing(TypedDict):
    """The time of each stage, in milliseconds."""

    wait: Annotated[Milliseconds, "Waiting to be let in."]
    prepare: Annotated[Milliseconds, "Decoding, turning, resizing."]
    predict: Annotated[Milliseconds, "The model server's call; the quality is measured meanwhile."]
    explain: Annotated[Milliseconds, "Heat map and overlay."]
    total: Annotated[Milliseconds, "Their sum."]


class Degraded(TypedDict):
    """What is missing from an answer, since the client allowed it."""

    reason: Annotated[Literal["deadline"], "Its name, for programs."]
    detail: Annotated[str, "What is missing, and why."]


class Classification(TypedDict):
    """The answer to one photograph."""

    request_id: Annotated[RequestId, "The request's id, as in X-Request-ID."]
    model: Model
    prediction: Annotated[Cell, "The class; no more than the nearest one where `abstain` is true."]
    confidence: Annotated[Share, "The calibrated probability of `prediction`."]
    probabilities: Annotated[dict[str, Share], "The probability of each class.", _EACH]
    abstain: Annotated[bool, "True where the answer is not to be taken."]
    abstain_reasons: Annotated[list[Doubt], "Why not; empty where it may be taken."]
    unfamiliarity: Annotated[
        float, "How unlike the learnt photographs it is; above 1 is too much.", Rule(minimum=0)
    ]
    annotation: Annotation
    heatmap: Annotated[Overlay | Grid | None, "Where the class was seen, as asked."]
    degraded: Annotated[Degraded | None, "Null, unless the heat map asked for was left out."]
    quality: Quality
    fingerprint: Annotated[Fingerprint, "Identifies what the model saw, whatever its file."]
    timing_ms: Timing
    target_ms: Annotated[Milliseconds, "The service's latency target."]
    within_target: Annotated[bool, "Whether `timing_ms.total` keeps to it."]


class Problem(TypedDict):
    """An error after RFC 9457."""

    type: Annotated[str, "Its stable name.", Rule(pattern="^urn:hemavision:problem:[a-z0-9-]+$")]
    title: Annotated[str, "What kind of error it is."]
    status: Annotated[int, "Its HTTP status.", Rule(minimum=400, maximum=599)]
    detail: Annotated[str, "A sentence that says what to do."]
    request_id: Annotated[RequestId, "The request's id, as in X-Request-ID."]


class Batch(TypedDict):
    """The answers to several photographs."""

    results: Annotated[
        list[Classification | Problem], "One for each part named `file`, in the form's order."
    ]


class OriginalInfo(TypedDict):
    """The original application's texts on a class."""

    description: Annotated[str, "Function and significance."]
    normal_range: Annotated[str, "As `55-70%`."]
    color: Annotated[str, "A colour for the class, as `#rrggbb`."]
    icon: Annotated[str, "An emoji for the class."]


class OriginalAnswer(TypedDict):
    """The original application's reply, for its clients."""

    prediction: Annotated[Cell, "The class; no more than the nearest one where `abstain` is true."]
    confidence: Annotated[Percent, "Its probability, in percent."]
    probabilities: Annotated[
        dict[str, Percent], "The probability of each class, in percent.", _EACH
    ]
    heatmap: Annotated[Base64 | None, "The overlay, a PNG of 224 x 224."]
    original: Annotated[Base64, "The photograph, a PNG of 224 x 224."]
    info: OriginalInfo
    abstain: Annotated[bool, "True where the answer is not to be taken."]
    demo_mode: Annotated[Literal[False], "There is none."]


class Input(TypedDict):
    """How the model sees a photograph."""

    size: Annotated[Pixels, "Width and height, in pixels."]
    resize_policy: Annotated[str, "How a photograph is brought to that."]
    resize_filter: Annotated[str, "The filter that does it."]


class ModelDescription(TypedDict):
    """Which model is served."""

    name: Annotated[str, "The model's name."]
    version: Annotated[Version, "The version that is served."]
    classes: Annotated[list[Cell], "What it can tell apart."]
    input: Input
    card: Annotated[dict[str, Any] | None, "What it was trained on and measured at; null: unknown."]


class ReferenceData(TypedDict):
    """The clinical reference data."""

    statement: Annotated[str, "What to keep in mind with every class."]
    classes: Annotated[list[Annotation], "One for each class."]


class Alive(TypedDict):
    """The process answers."""

    status: Literal["alive"]


class Ready(TypedDict):
    """The model server has a version."""

    status: Literal["ready"]
    model_version: Annotated[Version, "The version that is served."]


def report_json(
    report: Report, options: Options, request_id: str, target_ms: float
) -> Classification:
    """The reply of ``POST /v1/classify`` to one photograph."""
    timing = {stage: round(ms, 2) for stage, ms in report.timing_ms.items()}
    return {
        "request_id": request_id,
        "model": {"name": contract.MODEL_NAME, "version": report.model_version},
        "prediction": report.prediction,
        "confidence": report.confidence,
        "probabilities": report.probabilities,
        "abstain": bool(report.doubts),
        "abstain_reasons": [{"reason": d.reason, "detail": d.detail} for d in report.doubts],
        "unfamiliarity": round(report.unfamiliarity, 4),
        "annotation": annotation_json(report.prediction, report.annotation, report.statement),
        "heatmap": heatmap_json(report.heatmap, options) if report.heatmap else None,
        "degraded": {"reason": "deadline", "detail": report.degraded} if report.degraded else None,
        "quality": quality_json(report.quality),
        "fingerprint": report.fingerprint,
        "timing_ms": {
            "wait": timing["wait"],
            "prepare": timing["prepare"],
            "predict": timing["predict"],
            "explain": timing["explain"],
            "total": timing["total"],
        },
        "target_ms": target_ms,
        "within_target": report.within(target_ms),
    }


def quality_json(quality: PhotographQuality) -> Quality:
    """What the photograph is, and what is to be said against it."""
    measures = quality.measures
    return {
        "width": quality.width,
        "height": quality.height,
        "format": quality.format,
        "measures": {
            "sharpness": round(measures.sharpness, 4),
            "brightness": round(measures.brightness, 1),
            "clipped": round(measures.clipped, 4),
            "nucleus": round(measures.nucleus, 4),
        },
        "flags": [{"flag": flag.flag, "detail": flag.detail} for flag in quality.flags],
    }


def annotation_json(name: str, leukocyte: Leukocyte, statement: str) -> Annotation:
    """The clinical context of one class, with its range in adults."""
    assert leukocyte.normal_range is not None  # every laboratory's file has adults' ranges
    return {
        "class": name,
        "name": leukocyte.name,
        "appearance": leukocyte.appearance,
        "function": leukocyte.function,
        "significance": leukocyte.significance,
        "source": leukocyte.source,
        "normal_range": normal_range_json(leukocyte.normal_range),
        "statement": statement,
    }


def normal_range_json(share: ranges.NormalRange) -> NormalRange:
    """A class's share in the blood of healthy adults."""
    return {
        "low": share.low,
        "high": share.high,
        "unit": share.unit,
        "source": share.source,
        "note": share.note,
    }


def heatmap_json(heatmap: Heatmap, options: Options) -> Overlay | Grid:
    """The heat map: the cells themselves, or the overlay as base64."""
    described: _Heatmap = {
        "explained_class": heatmap.explained_class,
        "resolution": options.resolution,
        "method": "HiResCAM x LayerCAM" if options.resolution == "fine" else "GradCAM",
        "flat": not heatmap.cells.any(),
    }
    if heatmap.picture is None or heatmap.encoded is None:
        rows = [[round(float(cell), 4) for cell in row] for row in heatmap.cells]
        return {**described, "kind": "grid", "cells": rows, "placement": placement_json(len(rows))}
    width, height = heatmap.picture.size
    return {
        **described,
        "kind": "overlay",
        "colormap": options.colormap,
        "alpha": options.alpha,
        "width": width,
        "height": height,
        "media_type": f"image/{options.format}",
        "data": base64.b64encode(heatmap.encoded).decode(),
    }


def placement_json(rows: int) -> Placement:
    """Where a grid of cells lies."""
    coarse = rows == contract.CAM_SIZE
    return {
        "input_size": contract.INPUT_SIZE,
        "origin": contract.CAM_ORIGIN,
        "pitch": contract.CAM_PITCH if coarse else contract.CAM_FINE_PITCH,
    }


def predict_json(report: Report) -> OriginalAnswer:
    """The original application's reply, for its clients: percentages and base64 PNGs."""
    leukocyte, overlay = report.annotation, report.heatmap
    assert leukocyte.normal_range is not None  # every laboratory's file has adults' ranges
    low, high = leukocyte.normal_range.low, leukocyte.normal_range.high
    return {
        "prediction": report.prediction,
        "confidence": round(100 * report.confidence, 2),
        "probabilities": {name: round(100 * p, 2) for name, p in report.probabilities.items()},
        "heatmap": _square_png(overlay.picture) if overlay and overlay.picture else None,
        "original": _square_png(report.photograph),
        "info": {
            "description": f"{leukocyte.function} {leukocyte.significance}",
            "normal_range": f"{low:g}-{high:g}%",
            "color": leukocyte.color,
            "icon": leukocyte.icon,
        },
        "abstain": bool(report.doubts),
        "demo_mode": False,
    }


def model_json(version: int, card: dict[str, Any] | None) -> ModelDescription:
    """The reply of ``GET /v1/model``."""
    return {
        "name": contract.MODEL_NAME,
        "version": version,
        "classes": list(contract.CLASSES),
        "input": {
            "size": contract.INPUT_SIZE,
            "resize_policy": contract.RESIZE_POLICY,
            "resize_filter": contract.RESIZE_FILTER,
        },
        "card": card,
    }


def reference_json(reference: Reference) -> ReferenceData:
    """The reply of ``GET /v1/reference``."""
    statement = reference.statement
    return {
        "statement": statement,
        "classes": [annotation_json(n, c, statement) for n, c in reference.classes.items()],
    }


def problem_json(name: str, title: str, status: int, detail: str, request_id: str) -> Problem:
    """An error; ``name`` is its stable name."""
    return {
        "type": f"urn:hemavision:problem:{name}",
        "title": title,
        "status": status,
        "detail": detail.encode(errors="replace").decode(),  # it may quote what is no text
        "request_id": request_id,
    }


def _square_png(picture: Image.Image) -> str:
    square = picture.resize((contract.INPUT_SIZE, contract.INPUT_SIZE), Image.Resampling.BILINEAR)
    return base64.b64encode(encode(square, "png")).decode()
