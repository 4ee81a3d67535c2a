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
import tempfile
from collections.abc import Sequence
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any

import keras
import numpy as np

from export import answers, card, figures, report
from export.architecture import PARAMETERS
from export.atomic import write_text
from export.dataset import Photograph, read_dataset, read_others, refuse_unreadable, select
from export.evaluate import Answers, measure
from export.familiarity import Familiarity
from export.gradcam import Network
from export.sources import BCCD, PBC
from export.train import data_digest
from export.weights import load_weights, save_weights, sha256
from gateway import contract

SHIPPED = Path(__file__).parent / "weights" / "hemavision.keras"
"""The weights that this repository ships; what belongs to them lies beside them."""

CARD_NAME = "model_card.json"
FAMILIARITY_NAME = "familiarity.npz"
READABLE_CARD_NAME = "MODEL_CARD.md"

TURNED_AWAY = 0.02
"""Share of validation's photographs that count as unfamiliar: where familiar ends."""

_LIMITATIONS = {
    "pbc": "PBC names no patients, so its split is by photograph, not by patient.",
    "bccd": "BCCD's labels are noisy: about 40 of its 88 eosinophils show no red granules and "
    "look like neutrophils.",
}


class ReleaseError(ValueError):
    """The weights cannot be released, or are not worth it; the message says why."""


def calibrate(model: keras.Model, temperature: float) -> None:
    """Divide the last layer by ``temperature``: its softmax is then softmax(logits / T)."""
    classifier = model.layers[-1]
    classifier.set_weights([weight / temperature for weight in classifier.get_weights()])


def release(run: Path, data: Path, target: Path) -> dict[str, Any]:
    """Write a run's best weights to ``target``, calibrated, with all that belongs to them beside.

    Returns:
        The model card.

    Raises:
        ReleaseError: the run left a source out, was trained on other data, is not whole, or does
            no better than always naming the commonest class.
        WeightsError, DatasetError: the run or the data cannot be read.
    """
    described = _described(run)
    photographs = read_dataset(data)
    _refuse_other_data(described["training"], photographs, data)
    refuse_unreadable(photographs)
    model = load_weights(run / "best.keras")
    training = select(photographs, "train")
    familiarity = learn_familiarity(Network.of(model), training, select(photographs, "val"))
    network = Network.of(model, familiarity)
    held_out = answers.from_network(network, [p for p in photographs if p.split != "train"])
    others = answers.from_network(network, read_others(data))
    refuse_chance(held_out.where(lambda p: p.split == "val"))
    temperature = report.refit_temperature(held_out)
    trained = {p.cell for p in training}
    evaluation = report.evaluate(held_out, others, trained, temperature, applied=True)
    calibrate(model, temperature)

    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".release-", dir=target.parent) as staging:
        made = Path(staging)
        save_weights(model, made / target.name)
        familiarity.save(made / FAMILIARITY_NAME)
        drawn = figures.draw(evaluation, held_out.divided_by(temperature), others, made / "figures")
        for name in ("history.csv", "history.png"):
            if (run / name).is_file():
                shutil.copyfile(run / name, made / name)
        weights = {
            "file": target.name,
            "sha256": sha256(made / target.name),
            "familiarity_sha256": sha256(made / FAMILIARITY_NAME),
            "parameters": PARAMETERS,
        }
        sources = sorted({p.source for p in photographs})
        confusion = {"confusion": report.confusions(held_out)}
        written = described | _sourced(sources) | evaluation | confusion | {"weights": weights}
        written["figures"] = [path.stem for path in drawn]
        write_card(written, made)
        _publish(made, target.parent)
    return written


def _publish(made: Path, folder: Path) -> None:
    """Move everything into place; the card with the digests last, so that no mix passes for a set.

    Exporting checks the digests, and refuses where a stop has left old and new together.
    """
    (folder / "figures").mkdir(exist_ok=True)
    for old in (folder / "figures").glob("*.png"):
        old.unlink()
    files = [path.relative_to(made) for path in made.rglob("*") if path.is_file()]
    for name in sorted(files, key=lambda path: path.name == CARD_NAME):
        (made / name).replace(folder / name)


def _refuse_other_data(
    training: dict[str, Any], photographs: Sequence[Photograph], data: Path
) -> None:
    """What was measured on other data, or on another split of it, says nothing of this run."""
    left_out = training["recipe"].get("leave_out")
    if left_out:
        raise ReleaseError(f"the run left {left_out} out: it is there to be measured on it")
    if training["data_sha256"] != data_digest(photographs):
        raise ReleaseError(f"{data} is not what the run was trained on, or is split otherwise")


def write_card(written: dict[str, Any], folder: Path) -> None:
    """Write the model card into ``folder``, for programs and for people."""
    write_text(folder / CARD_NAME, json.dumps(written, indent=2) + "\n")
    write_text(folder / READABLE_CARD_NAME, card.as_markdown(written))


def card_of(weights: Path) -> dict[str, Any]:
    """Read the card beside ``weights``.

    Raises:
        ReleaseError: there is none, or it describes other weights.
    """
    path = weights.with_name(CARD_NAME)
    try:
        written: dict[str, Any] = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ReleaseError(f"{path}: {error}; `python -m export release` writes one") from error
    if written.get("weights", {}).get("sha256") != sha256(weights):
        raise ReleaseError(f"{path} describes other weights than {weights}")
    return written


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


def _described(run: Path) -> dict[str, Any]:
    """What a card says before anything is measured: the model, its input, its training."""
    try:
        training = json.loads((run / "run.json").read_text("utf-8"))
        progress = json.loads((run / "checkpoint/state.json").read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ReleaseError(f"{run} holds no run that `train` has left: {error}") from error
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
        "training": training | {"progress": progress},
        "explanation": {
            contract.CAM: "GradCAM of the last convolution, 4x4",
            contract.CAM_FINE: "HiResCAM at 18x18 times LayerCAM at 18x18 and at 9x9",
        },
        "abstaining": {
            contract.UNFAMILIARITY: "Mahalanobis distance of the last hidden features, scaled to "
            "length 1, to the nearest mean of a class in one source's training photographs, over "
            "its threshold",
            "threshold": f"at most {TURNED_AWAY:.0%} of the validation photographs exceed it",
        },
        "versions": {
            "python": platform.python_version(),
            "keras": installed("keras"),
            "tensorflow": installed("tensorflow"),
        },
    }


def _sourced(sources: Sequence[str]) -> dict[str, Any]:
    """What a card says of where the photographs came from, and of what they lack."""
    published = {publisher.key: publisher for publisher in (PBC, BCCD)}
    return {
        "data": {
            source: {"citation": published[source].citation, "licence": published[source].licence}
            if source in published
            else {"citation": source}
            for source in sources
        },
        "limitations": [
            "Four classes only: other cells that look familiar are answered as one of them.",
            "Only unfamiliarity and unreadable photographs make it abstain, not doubt between two.",
            "Of stains, cameras and scales beyond its sources only drawn variations were seen.",
            *(_LIMITATIONS[source] for source in sources if source in _LIMITATIONS),
        ],
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
