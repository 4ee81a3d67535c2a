"""A training can be stopped at any time and goes on where it was.

The steps run eagerly here: compiling each one costs more than running it a few times.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import keras
import pytest
import tensorflow as tf

from export.architecture import PARAMETERS
from export.dataset import DatasetError, Photograph
from export.smear import draw_smear
from export.train import RECIPES, Recipe, Stage, sampling_shares, train, training_data
from gateway.contract import CLASSES

pytestmark = pytest.mark.filterwarnings(
    "ignore:Even though the `tf.config.experimental_run_functions_eagerly`:UserWarning"
)

RECIPE = Recipe(
    stages=(Stage(64, 2, 1e-3), Stage(80, 1, 1e-3)),
    batch=2,
    samples_per_epoch=4,
)


class _StoppedAfterAnEpoch(io.StringIO):
    """A terminal at which somebody presses Ctrl-C as soon as an epoch's figures are shown."""

    def write(self, text: str) -> int:
        if "val_accuracy" in text:
            raise KeyboardInterrupt
        return super().write(text)


@pytest.fixture(scope="module", autouse=True)
def _eagerly() -> Iterator[None]:
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixteen drawn smears in class folders."""
    root = tmp_path_factory.mktemp("smears")
    for name in CLASSES:
        (root / name).mkdir()
        for seed in range(4):
            draw_smear(name, seed, 64, 64).save(root / name / f"{seed}.png")
    return root


class Run:
    """A run that was stopped after each of its first two epochs, and looked at every time."""

    def __init__(self, data: Path, out: Path) -> None:
        self.data, self.out = data, out
        self.histories: list[list[dict[str, str]]] = []
        self.files: list[set[str]] = []
        self.steps: list[int] = []
        for _ in range(2):
            with (
                contextlib.suppress(KeyboardInterrupt),
                contextlib.redirect_stdout(_StoppedAfterAnEpoch()),
            ):
                train(data, out, RECIPE, 1, "float32")
            self.look()
        with contextlib.redirect_stdout(io.StringIO()):
            self.best = train(data, out, RECIPE, 1, "float32")
        self.look()

    def look(self) -> None:
        """Keep what the folder holds now."""
        self.histories.append(history(self.out))
        self.files.append({path.name for path in self.out.iterdir()})
        kept = keras.models.load_model(self.out / "checkpoint" / "model.keras")
        self.steps.append(int(kept.optimizer.iterations))


def history(out: Path) -> list[dict[str, str]]:
    with (out / "history.csv").open(newline="") as rows:
        return list(csv.DictReader(rows))


def state(out: Path) -> dict[str, float]:
    return dict(json.loads((out / "checkpoint" / "state.json").read_text()))


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return Run(data, tmp_path_factory.mktemp("runs") / "new" / "mine")


def test_everything_a_run_makes_is_in_its_folder(run: Run) -> None:
    """Checkpoint, best weights, history with its plot, and what the run was; nothing aside."""
    written = {"best.keras", "checkpoint", "history.csv", "history.png", "run.json"}
    assert run.files == [written, written, written]
    assert {path.name for path in (run.out / "checkpoint").iterdir()} == {
        "model.keras",
        "average.keras",
        "state.json",
    }


def test_no_epoch_is_run_twice(run: Run) -> None:
    """Each start adds the epochs that were missing, and earlier rows stay as they were."""
    assert [[row["epoch"] for row in rows] for rows in run.histories] == [
        ["1"],
        ["1", "2"],
        ["1", "2", "3"],
    ]
    assert run.histories[2][:1] == run.histories[0]
    assert run.histories[2][:2] == run.histories[1]
    assert [row["window"] for row in run.histories[2]] == ["64", "64", "80"]
    assert state(run.out)["epoch"] == 3


def test_a_stage_goes_on_with_its_optimizer(run: Run) -> None:
    """Two steps an epoch: the second epoch counts on from the first, a new stage from none."""
    assert run.steps == [2, 4, 2]


def test_the_best_weights_are_the_whole_network(run: Run) -> None:
    """They are of the best epoch, and of the network for whole frames."""
    assert run.best == run.out / "best.keras"
    best = keras.models.load_model(run.best)
    assert best.count_params() == PARAMETERS
    assert best.input_shape == (None, 224, 224, 3)
    kept = state(run.out)
    figures = [float(row["val_accuracy"]) for row in history(run.out)]
    assert kept["best_mean_over_sources"] == max(figures)
    assert kept["best_epoch"] == 1 + figures.index(max(figures))


def test_the_run_is_written_down(run: Run) -> None:
    """Recipe, seed and how many photographs of which split."""
    written = json.loads((run.out / "run.json").read_text())
    assert written["seed"] == 1
    assert written["photographs"] == {"train": 12, "val": 4, "test": 0}
    assert [stage["window"] for stage in written["recipe"]["stages"]] == [64, 80]


def test_a_training_leaves_the_process_as_it_was(run: Run, copy: Path, tmp_path: Path) -> None:
    """Mixed precision is the run's own: a model built afterwards, or after a refusal, has none."""
    with pytest.raises(DatasetError):
        train(tmp_path / "nowhere", tmp_path / "run", RECIPE, 1, "mixed_bfloat16")
    described = json.loads((copy / "run.json").read_text())
    (copy / "run.json").write_text(json.dumps(described | {"precision": "mixed_bfloat16"}))
    with contextlib.redirect_stdout(io.StringIO()):
        train(run.data, copy, RECIPE, 1, "mixed_bfloat16")
    assert keras.mixed_precision.dtype_policy().name == "float32"


@pytest.fixture
def copy(run: Run, tmp_path: Path) -> Path:
    return shutil.copytree(run.out, tmp_path / "run")


def again(run: Run, out: Path) -> str:
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        train(run.data, out, RECIPE, 1, "float32")
    return output.getvalue()


def test_a_finished_run_is_left_alone(run: Run, copy: Path) -> None:
    """Starting it once more trains nothing."""
    assert again(run, copy) == ""
    assert (copy / "history.csv").read_text() == (run.out / "history.csv").read_text()
    assert (copy / "best.keras").read_bytes() == (run.out / "best.keras").read_bytes()


def test_a_stop_between_two_renames_loses_nothing(run: Run, copy: Path) -> None:
    """A checkpoint that was set aside when the machine went down is taken up again."""
    (copy / "checkpoint").rename(copy / "checkpoint.old")
    (copy / "checkpoint.new").mkdir()
    assert again(run, copy) == ""
    assert state(copy) == state(run.out)


def refused(data: Path, out: Path, recipe: Recipe = RECIPE, seed: int = 1) -> str:
    with pytest.raises(DatasetError) as caught:
        train(data, out, recipe, seed, "float32")
    return str(caught.value)


def test_another_run_in_the_same_folder_is_refused(run: Run, copy: Path) -> None:
    """Another recipe or seed would mix two runs; the refusal says what to do."""
    told = f"{copy / 'run.json'} describes another run: choose an empty folder, or remove it"
    assert refused(run.data, copy, recipe=RECIPES["owner"]) == told
    assert refused(run.data, copy, seed=2) == told
    assert history(copy) == history(run.out)


def test_data_with_nothing_to_validate_on_is_refused(
    class_folders: Callable[..., Path], tmp_path: Path
) -> None:
    """One photograph a class is all training: the refusal says what is missing."""
    told = refused(class_folders(1), tmp_path / "run")
    assert "no photograph is in the split `val`" in told


def test_unreadable_data_is_refused_before_anything_is_written(
    class_folders: Callable[..., Path], tmp_path: Path
) -> None:
    """Hours are not spent to find it in the last epoch."""
    root = class_folders(4)
    (root / "MONOCYTE" / "2.png").write_bytes(b"no picture")
    assert "2.png" in refused(root, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def photographs(counts: dict[tuple[str, int], int]) -> list[Photograph]:
    return [
        Photograph(Path(f"{source}{label}{n}.png"), label, source, "train", f"{n}")
        for (source, label), count in counts.items()
        for n in range(count)
    ]


def shares(counts: dict[tuple[str, int], int], balance: float, class_balance: float) -> list[float]:
    """How much of all that is drawn falls on each source and class, in the order of counts."""
    each = iter(sampling_shares(photographs(counts), balance, class_balance))
    return [sum(next(each) for _ in range(count)) for count in counts.values()]


def test_drawing_is_balanced_between_sources_and_classes() -> None:
    """1 draws as it comes, 0 draws all alike, 0.5 in proportion to the square root."""
    counts = {("large", 0): 81, ("large", 1): 9, ("small", 0): 8, ("small", 1): 2}
    assert shares(counts, 1, 1) == pytest.approx([0.81, 0.09, 0.08, 0.02])
    assert shares(counts, 0, 0) == pytest.approx([0.25, 0.25, 0.25, 0.25])
    assert shares(counts, 0.5, 1) == pytest.approx([0.675, 0.075, 0.2, 0.05])
    assert shares(counts, 1, 0.5) == pytest.approx([0.675, 0.225, 1 / 15, 1 / 30])


def test_a_laboratory_that_is_left_out_is_never_seen(tmp_path: Path, class_folders) -> None:
    """Neither trained nor validated on; and there has to be another one."""
    root = class_folders(4)
    rows = ["path,source,split,label,group"]
    for number, split in enumerate(("train", "train", "val", "test")):
        source = "east" if number % 2 else "west"
        rows += [f"{name}/{number}.png,{source},{split},{name}," for name in CLASSES]
    (root / "manifest.csv").write_text("\n".join(rows))
    assert {p.source for p in training_data(root, "east")} == {"west"}
    assert {p.source for p in training_data(root, None)} == {"east", "west"}
    with pytest.raises(DatasetError, match="has the sources east, west: leave out one of several"):
        training_data(root, "north")
