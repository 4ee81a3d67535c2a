"""The table of what each choice is worth names every run that is finished, and no other."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from export.ablate import VARIATIONS, ablate
from export.dataset import DatasetError


def finished(out: Path, slug: str, source: str, accuracy: float) -> None:
    """The result that a run of that variation leaves."""

    def figures(value: float) -> dict[str, object]:
        figure = {"value": value, "interval_95": [value - 0.1, value + 0.1]}
        return {"photographs": 50, "accuracy": figure, "macro_recall": figure}

    folder = out / f"{slug}-without-{source}"
    folder.mkdir(parents=True)
    found = {"own": figures(0.8), "unseen": figures(accuracy)}
    (folder / "result.json").write_text(json.dumps(found))


@pytest.fixture
def two_sources(tmp_path: Path, class_folders) -> Path:
    """A manifest of two laboratories."""
    root = class_folders(4)
    rows = ["path,source,split,label,group"]
    for number, split in enumerate(("train", "train", "val", "test")):
        for name in ("EOSINOPHIL", "LYMPHOCYTE", "MONOCYTE", "NEUTROPHIL"):
            source = "east" if number % 2 else "west"
            rows.append(f"{name}/{number}.png,{source},{split},{name},")
    (root / "manifest.csv").write_text("\n".join(rows))
    return root


def test_a_row_for_each_finished_run(two_sources: Path, tmp_path: Path) -> None:
    """In the order of the variations, each with what it was trained on and tested on."""
    out = tmp_path / "ablation"
    finished(out, "so-and-no-averaging", "east", 0.31)
    finished(out, "default", "west", 0.5)
    table = ablate(two_sources, out, names=[], seed=1)
    shown = [dict(zip(table["columns"], row, strict=True)) for row in table["rows"]]
    assert [(row["variation"], row["trained on"], row["accuracy"]) for row in shown] == [
        ("default", "east", "50.0 % (40.0 to 60.0)"),
        ("so, and no averaging", "west", "31.0 % (21.0 to 41.0)"),
    ]
    assert shown[0]["never seen"] == "west, 50"
    assert json.loads((out / "ablation.json").read_text()) == table


def test_one_laboratory_cannot_be_left_out(class_folders, tmp_path: Path) -> None:
    """There would be nothing to train on."""
    with pytest.raises(DatasetError, match="has one source only"):
        ablate(class_folders(4), tmp_path, names=[], seed=1)


def test_every_variation_changes_something() -> None:
    """No two recipes are the same."""
    recipes = list(VARIATIONS.values())
    assert all(a != b for i, a in enumerate(recipes) for b in recipes[:i])
