"""Make a trained network the one that this repository ships: calibrate, measure, write the card.

The temperature is fitted on validation photographs alone and folded into the last layer, whose
kernel and bias are divided by it. The softmax is then calibrated wherever the weights are used,
in Keras, in the SavedModel and in the gateway, and nobody can forget to apply it.
"""

from __future__ import annotations

import json
import platform
import shutil
from collections.abc import Sequence
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any

import keras
import numpy as np
from rich.progress import track

from export.architecture import PARAMETERS
from export.dataset import Photograph, load_input, read_dataset
from export.evaluate import Answers, expected_calibration_error, fit_temperature, measure
from export.gradcam import Network, classify
from export.weights import load_weights, save_weights, sha256
from gateway import contract

SHIPPED = Path(__file__).parent / "weights" / "hemavision.keras"
"""The weights that this repository ships; the card lies beside them."""

CARD_NAME = "model_card.json"

_SOURCES = {
    "pbc": {
        "citation": "A. Acevedo et al., A dataset of microscopic peripheral blood cell images "
        "for development of automatic recognition systems, Data in Brief 30 (2020) 105474",
        "licence": "CC BY 4.0",
        "limitation": "PBC names no patients, so its split is by photograph, not by patient.",
    },
    "bccd": {
        "citation": "Shenggan/BCCD_Dataset",
        "licence": "MIT",
        "limitation": "BCCD's labels are noisy: 40 of its 88 eosinophils look like neutrophils.",
    },
}
_BATCH = 32


class ReleaseError(ValueError):
    """The weights are not worth releasing; the message says why."""


def answer(model: keras.Model, photographs: Sequence[Photograph], title: str) -> Answers:
    """Run the model over photographs, in float32."""
    network = Network.of(model)
    starts = range(0, len(photographs), _BATCH)
    logits = [
        classify(network, np.stack([load_input(p.path) for p in photographs[s : s + _BATCH]]))[
            contract.LOGITS
        ].numpy()
        for s in track(starts, title, transient=True)
    ]
    return Answers(photographs, np.concatenate(logits).astype(np.float64))


def calibrate(model: keras.Model, temperature: float) -> None:
    """Divide the last layer by ``temperature``: its softmax is then softmax(logits / T)."""
    classifier = model.layers[-1]
    classifier.set_weights([weight / temperature for weight in classifier.get_weights()])


def release(run: Path, data: Path, target: Path) -> dict[str, Any]:
    """Write a run's best weights to ``target``, calibrated; return the card written beside them.

    Raises:
        ReleaseError: the network does no better than always naming the commonest class.
        WeightsError, DatasetError: the run or the data cannot be read.
    """
    model = load_weights(run / "best.keras")
    photographs = read_dataset(data)
    sources = sorted({p.source for p in photographs})
    answers = answer(model, [p for p in photographs if p.split != "train"], "answering")
    validation = answers.where(lambda p: p.split == "val")
    _refuse_chance(validation)
    temperature = fit_temperature(validation.logits, validation.labels)
    calibrate(model, temperature)
    calibrated = Answers(answers.photographs, answers.logits / temperature)

    target.parent.mkdir(parents=True, exist_ok=True)
    new = target.with_name(f".new-{target.name}")
    save_weights(model, new)
    trained = {p.group for p in photographs if p.split == "train"}
    card = _described(run) | {
        "weights": {"file": target.name, "sha256": sha256(new), "parameters": PARAMETERS},
        "data": {source: _SOURCES.get(source, {"citation": source}) for source in sources},
        "metrics": _metrics(calibrated, trained),
        "calibration": {
            "method": "temperature scaling fitted on validation, folded into the last layer",
            "temperature": temperature,
            "expected_calibration_error_before": _test_errors(answers),
            "expected_calibration_error_after": _test_errors(calibrated),
        },
        "limitations": [
            "Four classes only: whatever else is in view is answered as one of the four.",
            "Stains, cameras and scales other than those of its sources were never seen.",
            *(_SOURCES[source]["limitation"] for source in sources if source in _SOURCES),
        ],
    }
    new.replace(target)  # both at the very end, so that a failure leaves the old pair whole
    _write(target.with_name(CARD_NAME), json.dumps(card, indent=2) + "\n")
    for name in ("history.csv", "history.png"):
        if (run / name).is_file():
            shutil.copyfile(run / name, target.with_name(name))
    return card


def _described(run: Path) -> dict[str, Any]:
    """What a card says before anything is measured: the model, its input, its training."""
    return {
        "name": contract.MODEL_NAME,
        "purpose": "Tell four kinds of white blood cell apart in photographs of stained smears, "
        "as a reading aid. Not a medical device.",
        "classes": list(contract.CLASSES),
        "preprocessing": {
            "input": [contract.INPUT_SIZE, contract.INPUT_SIZE, 3],
            "dtype": "uint8, RGB",
            "resize_policy": contract.RESIZE_POLICY,
            "resize_filter": contract.RESIZE_FILTER,
            "normalisation": "x / 127.5 - 1, inside the graph",
        },
        "training": json.loads((run / "run.json").read_text())
        | {"progress": json.loads((run / "checkpoint/state.json").read_text())},
        "explanation": {
            contract.CAM: "GradCAM of the last convolution, 4x4",
            contract.CAM_FINE: "LayerCAM of the 18x18 stage",
        },
        "versions": {
            "python": platform.python_version(),
            "keras": installed("keras"),
            "tensorflow": installed("tensorflow"),
        },
    }


def _refuse_chance(validation: Answers) -> None:
    """Nobody is to be served by a network that has learnt nothing."""
    commonest = float(np.bincount(validation.labels).max() / len(validation.labels))
    lowest = measure(validation)["accuracy"]["interval_95"][0]
    if lowest <= commonest:
        raise ReleaseError(
            f"validation accuracy may be as low as {lowest:.3f}, and always naming the commonest "
            f"class gives {commonest:.3f}: train longer, or on more photographs"
        )


def _metrics(answers: Answers, trained: set[str]) -> dict[str, Any]:
    """By source and split, such as ``pbc/test``; and without groups that training saw as well."""
    metrics = {}
    for source, split in sorted({(p.source, p.split) for p in answers.photographs}):
        part = answers.where(lambda p, s=source, t=split: (p.source, p.split) == (s, t))  # type: ignore[misc]  # bound
        metrics[f"{source}/{split}"] = measure(part)
        unseen = part.where(lambda p: p.group not in trained)
        if len(unseen.photographs) < len(part.photographs):
            metrics[f"{source}/{split}, cells not in training"] = measure(unseen)
    return metrics


def _test_errors(answers: Answers) -> dict[str, float]:
    errors = {}
    for source in sorted({p.source for p in answers.photographs}):
        test = answers.where(lambda p, s=source: (p.source, p.split) == (s, "test"))  # type: ignore[misc]  # bound
        if test.photographs:
            error = expected_calibration_error(test.logits, test.labels)
            errors[f"{source}/test"] = round(error, 4)
    return errors


def _write(path: Path, text: str) -> None:
    aside = path.with_suffix(".new")
    aside.write_text(text)
    aside.replace(path)
