"""Make a trained network the one that this repository ships: calibrate, measure, write the card.

The temperature is fitted on validation photographs alone and folded into the last layer, whose
kernel and bias are divided by it. The softmax is then calibrated wherever the weights are used,
in Keras, in the SavedModel and in the gateway, and nobody can forget to apply it. What is
familiar is learnt from training photographs, and where familiar ends from validation ones.
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

from export import answers, card, figures, report
from export.architecture import PARAMETERS
from export.atomic import write_text
from export.dataset import Photograph, read_dataset, read_others, select
from export.evaluate import Answers, fit_temperature, measure
from export.familiarity import Familiarity
from export.gradcam import Network
from export.weights import load_weights, save_weights, sha256
from gateway import contract

SHIPPED = Path(__file__).parent / "weights" / "hemavision.keras"
"""The weights that this repository ships; what belongs to them lies beside them."""

CARD_NAME = "model_card.json"
FAMILIARITY_NAME = "familiarity.npz"
READABLE_CARD_NAME = "MODEL_CARD.md"

TURNED_AWAY = 0.02
"""Share of validation's photographs that count as unfamiliar: where familiar ends."""

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


class ReleaseError(ValueError):
    """The weights are not worth releasing; the message says why."""


def calibrate(model: keras.Model, temperature: float) -> None:
    """Divide the last layer by ``temperature``: its softmax is then softmax(logits / T)."""
    classifier = model.layers[-1]
    classifier.set_weights([weight / temperature for weight in classifier.get_weights()])


def release(run: Path, data: Path, target: Path) -> dict[str, Any]:
    """Write a run's best weights to ``target``, calibrated, with all that belongs to them beside.

    Returns:
        The model card.

    Raises:
        ReleaseError: the network does no better than always naming the commonest class.
        WeightsError, DatasetError: the run or the data cannot be read.
    """
    model = load_weights(run / "best.keras")
    photographs = read_dataset(data)
    training = select(photographs, "train")
    held_out = [p for p in photographs if p.split != "train"]
    network = Network.of(model)
    familiarity = learn_familiarity(network, training, select(photographs, "val"))
    network = Network.of(model, familiarity)
    found = answers.from_network(network, held_out)
    others = answers.from_network(network, read_others(data))
    validation = found.where(lambda p: p.split == "val")
    refuse_chance(validation)
    temperature = fit_temperature(validation.logits, validation.labels)
    evaluation = report.evaluate(found, others, {p.group for p in training}, temperature)
    calibrate(model, temperature)

    folder = target.parent
    folder.mkdir(parents=True, exist_ok=True)
    weights, known = (folder / f".new-{name}" for name in (target.name, FAMILIARITY_NAME))
    save_weights(model, weights)
    familiarity.save(known)
    written = _described(run, sorted({p.source for p in photographs})) | evaluation
    written["weights"] = {
        "file": target.name,
        "sha256": sha256(weights),
        "familiarity_sha256": sha256(known),
        "parameters": PARAMETERS,
    }
    calibrated = Answers(found.photographs, found.logits / temperature, found.unfamiliarity)
    figures.draw(evaluation, calibrated, others, folder / "figures")
    for name in ("history.csv", "history.png"):
        if (run / name).is_file():
            shutil.copyfile(run / name, folder / name)
    weights.replace(target)  # at the very end, so that a failure leaves the old set whole
    known.replace(folder / FAMILIARITY_NAME)
    write_card(written, folder)
    return written


def write_card(written: dict[str, Any], folder: Path) -> None:
    """Write the model card into ``folder``, for programs and for people."""
    write_text(folder / CARD_NAME, json.dumps(written, indent=2) + "\n")
    write_text(folder / READABLE_CARD_NAME, card.as_markdown(written))


def add_to_card(weights: Path, part: str, found: dict[str, Any]) -> None:
    """Put what was measured later into the card beside ``weights``.

    Raises:
        ReleaseError: the card describes other weights.
    """
    path = weights.with_name(CARD_NAME)
    written = json.loads(path.read_text("utf-8"))
    if written["weights"]["sha256"] != sha256(weights):
        raise ReleaseError(f"{path} describes other weights than {weights}")
    write_card(written | {part: found}, weights.parent)


def learn_familiarity(
    network: Network, training: Sequence[Photograph], validation: Sequence[Photograph]
) -> Familiarity:
    """Learn what is familiar from training photographs, and where it ends from validation."""
    features = answers.hidden_features(network, training)
    familiarity = Familiarity.fit(
        features, [p.source for p in training], [p.label for p in training]
    )
    scores = familiarity.score(answers.hidden_features(network, validation))
    return familiarity.turning_away(TURNED_AWAY, scores)


def _described(run: Path, sources: Sequence[str]) -> dict[str, Any]:
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
        "data": {source: _SOURCES.get(source, {"citation": source}) for source in sources},
        "training": json.loads((run / "run.json").read_text())
        | {"progress": json.loads((run / "checkpoint/state.json").read_text())},
        "explanation": {
            contract.CAM: "GradCAM of the last convolution, 4x4",
            contract.CAM_FINE: "HiResCAM of the 18x18 stage times LayerCAM of the 9x9 stage",
        },
        "abstaining": {
            contract.UNFAMILIARITY: "Mahalanobis distance of the last hidden features, scaled to "
            "length 1, to the nearest mean of a class in one source's training photographs, over "
            "its threshold",
            "threshold": f"what {TURNED_AWAY:.0%} of the validation photographs exceed",
        },
        "limitations": [
            "Four classes only: other cells that look familiar are answered as one of them.",
            "Stains, cameras and scales other than those of its sources were never seen.",
            *(_SOURCES[source]["limitation"] for source in sources if source in _SOURCES),
        ],
        "versions": {
            "python": platform.python_version(),
            "keras": installed("keras"),
            "tensorflow": installed("tensorflow"),
        },
    }


def refuse_chance(validation: Answers) -> None:
    """Nobody is to be served by a network that has learnt nothing.

    Raises:
        ReleaseError: it may do no better than always naming the commonest class.
    """
    commonest = float(np.bincount(validation.labels).max() / len(validation.labels))
    lowest = measure(validation)["accuracy"]["interval_95"][0]
    if lowest <= commonest:
        raise ReleaseError(
            f"validation accuracy may be as low as {lowest:.3f}, and always naming the commonest "
            f"class gives {commonest:.3f}: train longer, or on more photographs"
        )
