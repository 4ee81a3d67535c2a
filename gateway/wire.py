"""A report as JSON: the only place that knows the names of the reply's fields."""

from __future__ import annotations

import base64
from typing import Any

from PIL import Image

from gateway import contract
from gateway.annotation import Leukocyte, Reference
from gateway.heatmap import encode
from gateway.pipeline import Heatmap, Options, Report

Json = dict[str, Any]


def report_json(report: Report, options: Options, request_id: str, target_ms: float) -> Json:
    """The reply of ``POST /v1/classify``."""
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
        "quality": {
            "width": report.quality.width,
            "height": report.quality.height,
            "format": report.quality.format,
            "warnings": list(report.quality.warnings),
        },
        "timing_ms": timing,
        "target_ms": target_ms,
        "within_target": timing["total"] <= target_ms,
    }


def annotation_json(name: str, leukocyte: Leukocyte, statement: str) -> Json:
    """The clinical context of one class."""
    share = leukocyte.normal_range
    return {
        "class": name,
        "name": leukocyte.name,
        "appearance": leukocyte.appearance,
        "function": leukocyte.function,
        "significance": leukocyte.significance,
        "source": leukocyte.source,
        "normal_range": {
            "low": share.low,
            "high": share.high,
            "unit": share.unit,
            "source": share.source,
            "note": share.note,
        },
        "statement": statement,
    }


def heatmap_json(heatmap: Heatmap, options: Options) -> Json:
    """The heat map: the cells themselves, or the overlay as base64."""
    described: Json = {
        "kind": options.heatmap,
        "explained_class": heatmap.explained_class,
        "resolution": options.resolution,
        "method": "HiResCAM x LayerCAM" if options.resolution == "fine" else "GradCAM",
        "flat": not heatmap.cells.any(),
    }
    if heatmap.picture is None or heatmap.encoded is None:
        rows = [[round(float(cell), 4) for cell in row] for row in heatmap.cells]
        return described | {"cells": rows, "placement": placement_json(len(rows))}
    width, height = heatmap.picture.size
    return described | {
        "colormap": options.colormap,
        "alpha": options.alpha,
        "width": width,
        "height": height,
        "media_type": f"image/{options.format}",
        "data": base64.b64encode(heatmap.encoded).decode(),
    }


def placement_json(rows: int) -> Json:
    """Where a grid of cells lies, in pixels of the photograph stretched to the model's input."""
    coarse = rows == contract.CAM_SIZE
    return {
        "input_size": contract.INPUT_SIZE,
        "origin": contract.CAM_ORIGIN,
        "pitch": contract.CAM_PITCH if coarse else contract.CAM_FINE_PITCH,
    }


def predict_json(report: Report) -> Json:
    """The original application's reply, for its clients: percentages and base64 PNGs."""
    leukocyte, overlay = report.annotation, report.heatmap
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


def model_json(version: int, card: Json | None) -> Json:
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


def reference_json(reference: Reference) -> Json:
    """The reply of ``GET /v1/reference``."""
    statement = reference.statement
    return {
        "statement": statement,
        "classes": [annotation_json(n, c, statement) for n, c in reference.classes.items()],
    }


def problem_json(problem: str, title: str, status: int, detail: str, request_id: str) -> Json:
    """An error after RFC 9457; ``problem`` is its stable name."""
    return {
        "type": f"urn:hemavision:problem:{problem}",
        "title": title,
        "status": status,
        "detail": detail,
        "request_id": request_id,
    }


def _square_png(picture: Image.Image) -> str:
    square = picture.resize((contract.INPUT_SIZE, contract.INPUT_SIZE), Image.Resampling.BILINEAR)
    return base64.b64encode(encode(square, "png")).decode()
