"""What is each choice of the recipe worth? Train without it, and on one laboratory alone.

Every row is one short run that leaves one source out and is measured twice: on validation
photographs of the source it was trained on, and on the photographs of the laboratory that it
has never seen. Runs are the ordinary ones of ``train``: they resume, and a finished one is
not repeated.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras

from export.answers import from_network
from export.architecture import build_model
from export.atomic import write_text
from export.augment import Strength
from export.dataset import DatasetError, read_dataset
from export.evaluate import measure
from export.gradcam import Network
from export.report import percent
from export.train import RECIPES, Recipe, Stage, train

SHORT = replace(
    RECIPES["default"],
    stages=(Stage(128, 5, 2e-3), Stage(224, 2, 6e-4)),
    samples_per_epoch=3200,
    averaging=0.99,
)
"""The default recipe at about a tenth of its length; a shorter run needs a shorter average."""

# as the weights that were shipped before: scale graded as everything else is, and no class evened
_GRADED = replace(SHORT, class_balance=1.0, strength=Strength(largest=2.0, scale_graded=True))
# as the first that were: classes half evened out, augmentation milder and always at full strength
_EVENED = replace(_GRADED, class_balance=0.5)
_FULL = Strength(
    smallest=0.55, largest=1.6, stain=0.35, mixing=0.08, background=0.25, blur=1.6, noise=6.0,
    jpeg=0.3, graded=False,
)  # fmt: skip

VARIATIONS: Mapping[str, Recipe] = {
    "default": SHORT,
    "scale graded, classes as they come": _GRADED,
    "so, and no averaging": replace(_GRADED, averaging=None),
    "so, and no label smoothing": replace(_GRADED, label_smoothing=0.0),
    "so, and whole frames only": replace(_GRADED, stages=(Stage(224, 4, 2e-3),)),
    "so, and classes half evened out": _EVENED,
    "these, and at full strength": replace(_EVENED, strength=_FULL),
    "these, and without stains": replace(
        _EVENED, strength=replace(_FULL, stain=0, mixing=0, background=0, grey=0)
    ),
}
"""What is changed from the default; with `so`, from the second; with `these`, from the one above.

Four epochs of whole frames alone take about as long as the default."""

_COLUMNS = ("variation", "trained on", "its validation", "never seen", "accuracy", "macro recall")


def ablate(data: Path, out: Path, names: Sequence[str], seed: int) -> dict[str, Any]:
    """Run variations, each with every source left out in turn; write ``ablation.json``.

    Returns:
        A table: ``about``, ``columns`` and ``rows`` of text.

    Raises:
        DatasetError: fewer than two sources, or data that cannot be trained on.
    """
    sources = sorted({p.source for p in read_dataset(data)})
    if len(sources) < 2:
        raise DatasetError(f"{data} has one source only: to leave one out takes two")
    for name in names:
        for source in sources:
            _run(data, out, name, source, seed)
    table = _table(out, sources)
    write_text(out / "ablation.json", json.dumps(table, indent=2) + "\n")
    return table


def _run(data: Path, out: Path, name: str, source: str, seed: int) -> None:
    folder = out / f"{_slug(name)}-without-{source}"
    recipe = replace(VARIATIONS[name], leave_out=source)
    print(f"{name}, without {source}", flush=True)
    train(data, folder, recipe, seed, "mixed_bfloat16")
    result = folder / "result.json"
    if not result.is_file():
        write_text(result, json.dumps(_measured(data, folder, source), indent=2) + "\n")


def _measured(data: Path, folder: Path, left_out: str) -> dict[str, Any]:
    """The last epoch's average, which is chosen by nothing, on both kinds of photographs."""
    average = keras.models.load_model(folder / "checkpoint/average.keras", compile=False)
    model = build_model()
    model.set_weights(average.get_weights())
    network = Network.of(model)
    photographs = read_dataset(data)
    own = [p for p in photographs if p.source != left_out and p.split == "val"]
    # none of the other laboratory's photographs was trained on; of a large one, the test is enough
    unseen = [p for p in photographs if p.source == left_out]
    if len(unseen) > 2000:
        unseen = [p for p in unseen if p.split == "test"]
    return {
        "own": measure(from_network(network, own)),
        "unseen": measure(from_network(network, unseen)),
    }


def _table(out: Path, sources: Sequence[str]) -> dict[str, Any]:
    rows = []
    for name in VARIATIONS:
        for source in sources:
            path = out / f"{_slug(name)}-without-{source}" / "result.json"
            if path.is_file():
                found = json.loads(path.read_text("utf-8"))
                own, unseen = found["own"], found["unseen"]
                others = ", ".join(s for s in sources if s != source)
                rows.append(
                    [
                        name,
                        others,
                        percent(own["accuracy"]),
                        f"{source}, {unseen['photographs']}",
                        percent(unseen["accuracy"]),
                        percent(unseen["macro_recall"]),
                    ]
                )
    frames = _samples(VARIATIONS["so, and whole frames only"])
    about = (
        f"Short runs of one seed ({_samples(SHORT)} photographs drawn; {frames} of whole frames "
        "only), each without one laboratory, and measured on it. `so`: with scale graded, and "
        "classes as they come; `these`: as the row above."
    )
    return {"about": about, "columns": list(_COLUMNS), "rows": rows}


def _slug(name: str) -> str:
    return name.replace(",", "").replace(" ", "-")


def _samples(recipe: Recipe) -> int:
    return sum(stage.epochs for stage in recipe.stages) * (recipe.samples_per_epoch or 0)
