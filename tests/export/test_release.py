"""A release is a whole set that was measured, or nothing at all."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from export import card
from export.dataset import read_dataset
from export.familiarity import Familiarity
from export.release import SHIPPED, ReleaseError, card_of, release
from export.smear import draw_smear
from export.train import RECIPES, data_digest
from export.weights import sha256
from gateway.confusion import confusions_of
from gateway.contract import CLASSES


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn smears, which the shipped network recognises."""
    root = tmp_path_factory.mktemp("data") / "smears"
    for name in CLASSES:
        (root / name).mkdir(parents=True)
        for seed in range(20):
            draw_smear(name, seed, 240, 240).save(root / name / f"{seed}.png")
    return root


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a training leaves behind."""
    folder = tmp_path_factory.mktemp("run")
    shutil.copyfile(SHIPPED, folder / "best.keras")
    described = {
        "recipe": asdict(RECIPES["default"]),
        "seed": 1,
        "precision": "float32",
        "data_sha256": data_digest(read_dataset(data)),
        "photographs": {"train": 56, "val": 16, "test": 8},
    }
    (folder / "run.json").write_text(json.dumps(described))
    (folder / "checkpoint").mkdir()
    (folder / "checkpoint/state.json").write_text(
        json.dumps({"epoch": 3, "best_epoch": 2, "seconds": 60.0})
    )
    return folder


@pytest.fixture(scope="module")
def released(run: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("weights") / "cells.keras"
    release(run, data, target)
    return target


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_a_release_is_a_whole_set(released: Path) -> None:
    """Weights, what is familiar to them, card in both forms and figures; nothing half made."""
    written = card_of(released)
    assert written["weights"]["familiarity_sha256"] == sha256(released.with_name("familiarity.npz"))
    assert released.with_name("MODEL_CARD.md").read_text() == card.as_markdown(written)
    drawn = {f"figures/{name}.png" for name in written["figures"]}
    names = {"cells.keras", "familiarity.npz", "model_card.json", "MODEL_CARD.md"}
    assert set(files(released.parent)) == names | drawn
    assert [path.name for path in released.parent.iterdir() if path.name.startswith(".")] == []


def test_the_card_tells_of_both_held_out_splits(released: Path) -> None:
    """Every photograph that was not trained on is in it."""
    metrics = card_of(released)["metrics"]
    assert {name: row["photographs"] for name, row in metrics.items()} == {
        "smears/val": 16,
        "smears/test": 8,
    }


def test_the_card_tells_what_was_taken_for_what_on_validation(released: Path) -> None:
    """With abstentions, so that a count can be corrected; four photographs of each class."""
    confusion = card_of(released)["confusion"]
    assert set(confusion) == {"smears"}
    assert [sum(row) for row in confusion["smears"]] == [4, 4, 4, 4]
    counts = tuple(map(tuple, confusion["smears"]))
    assert confusions_of(card_of(released))["smears"].counts == counts
    assert "## What a count is corrected by" in released.with_name("MODEL_CARD.md").read_text()


def test_at_most_two_in_a_hundred_of_validation_are_turned_away(released: Path) -> None:
    """Of sixteen that is none."""
    assert card_of(released)["familiarity"]["turned_away"]["smears/val"] == 0
    assert Familiarity.load(released.with_name("familiarity.npz")).threshold > 0


def changed(run: Path, folder: Path, **described: Any) -> Path:
    copy = shutil.copytree(run, folder)
    was = json.loads((copy / "run.json").read_text())
    (copy / "run.json").write_text(json.dumps(was | described))
    return copy


def test_a_run_that_left_a_laboratory_out_is_not_released(
    run: Path, data: Path, tmp_path: Path
) -> None:
    """It was made to be measured on that laboratory."""
    left = changed(run, tmp_path / "run", recipe={"leave_out": "pbc"})
    with pytest.raises(ReleaseError, match="left pbc out"):
        release(left, data, tmp_path / "w.keras")
    assert not (tmp_path / "w.keras").exists()


def test_other_data_are_refused(run: Path, data: Path, tmp_path: Path) -> None:
    """Figures of other photographs, or of another split, would say nothing of the run."""
    other = changed(run, tmp_path / "run", data_sha256="0" * 64)
    with pytest.raises(ReleaseError, match="is not what the run was trained on"):
        release(other, data, tmp_path / "w.keras")


def test_a_refused_release_changes_nothing(
    network, run: Path, data: Path, released: Path, tmp_path: Path
) -> None:
    """Weights at chance are refused, and the set that was there still holds together."""
    poor = shutil.copytree(run, tmp_path / "run")
    network.save(poor / "best.keras")
    target = shutil.copytree(released.parent, tmp_path / "weights") / released.name
    before = files(target.parent)
    with pytest.raises(ReleaseError, match="train longer"):
        release(poor, data, target)
    assert files(target.parent) == before


def test_a_folder_without_a_run_is_named(data: Path, tmp_path: Path) -> None:
    """With what should be there."""
    with pytest.raises(ReleaseError, match=r"holds no run that `train` has left: .*run\.json"):
        release(tmp_path, data, tmp_path / "w.keras")
