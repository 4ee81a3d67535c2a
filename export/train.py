"""Fit the network to labelled photographs, so that it can be stopped and resumed at any time.

The default recipe makes a CPU enough. The network is fully convolutional up to its global
pooling, so a first stage trains on windows round the cell, at the frame's own magnification
(shrinking whole pictures instead would change the cells' scale), and a second on whole frames.
Weights are averaged over the steps (Polyak & Juditsky 1992); after each epoch the averaged
copy has batch normalisation's statistics estimated anew before it is validated, because the
running ones belong to other weights. The owner's original recipe is there as well.

Everything a run makes is in its own folder: ``checkpoint/`` to resume from, ``best.keras``,
``history.csv``, ``history.png`` and ``run.json``. Backend-neutral Keras 3: with
``KERAS_BACKEND`` and a GPU, the same command runs there.
"""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import keras
import numpy as np
from numpy.typing import NDArray
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from export.architecture import build_model
from export.atomic import write_text, written_aside
from export.augment import Specimen, Strength, augment
from export.dataset import (
    DatasetError,
    Photograph,
    load_input,
    load_upright,
    read_dataset,
    refuse_unreadable,
    select,
)
from gateway.contract import CLASSES, INPUT_SIZE

_VALIDATION_BATCH = 32
_STATISTICS_BATCHES = 12


@dataclass(frozen=True)
class Stage:
    """Some epochs at one window size.

    The rate falls by a cosine from ``learning_rate`` to 2 % of it, or stays where it is. Several
    stages of one window are warm restarts (Loshchilov & Hutter, ICLR 2017).
    """

    window: int
    epochs: int
    learning_rate: float
    cosine: bool = True
    strength: float = 1.0
    """Share of the recipe's ``Strength`` that the photographs vary by; of the scale if graded."""


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what a run does, besides its data and its seed."""

    stages: tuple[Stage, ...]
    optimizer: str = "adamw"
    batch: int = 32
    samples_per_epoch: int | None = 8000
    """Photographs drawn for an epoch, some of them several times; None: each of them once."""
    label_smoothing: float = 0.05
    balance: float = 0.5
    """Each source is drawn in proportion to its size to this power: 1 as it comes, 0 all alike."""
    class_balance: float = 0.75
    """The same for each class within a source. To even out classes whose labels are noisy is to
    believe the rare one's wrong labels: neutrophils are then taken for eosinophils."""
    momentum: float = 0.9
    """Of batch normalisation's running statistics while training."""
    averaging: float | None = 0.998
    patience: int | None = None
    strength: Strength | None = field(default_factory=Strength)
    leave_out: str | None = None
    """A source that the run never sees, so that it can tell how the network fares on another
    laboratory's photographs."""


RECIPES = {
    "default": Recipe(
        stages=(
            Stage(128, 10, 2e-3),
            Stage(INPUT_SIZE, 4, 8e-4),
            Stage(INPUT_SIZE, 4, 5e-4),
            Stage(INPUT_SIZE, 7, 6e-4),
            Stage(INPUT_SIZE, 8, 6e-4),
            Stage(INPUT_SIZE, 8, 5e-4, strength=0.5),
            Stage(INPUT_SIZE, 6, 5e-4, strength=0.8),
            Stage(INPUT_SIZE, 4, 3e-4, strength=0.4),
        )
    ),
    # the original application's: whole frames as they come, plain SGD, early stopping
    "owner": Recipe(
        stages=(Stage(INPUT_SIZE, 200, 1e-3, cosine=False),),
        optimizer="sgd",
        samples_per_epoch=None,
        label_smoothing=0.0,
        momentum=0.99,
        balance=1.0,
        averaging=None,
        patience=20,
        strength=None,
    ),
}


@dataclass
class _State:
    """Where a run stands, as written beside its checkpoint."""

    epoch: int = 0
    best_mean_over_sources: float = -1.0
    """Validation accuracy of the best epoch: a small source counts as much as a large one."""
    best_epoch: int = -1
    seconds: float = 0.0


def train(data: Path, out: Path, recipe: Recipe, seed: int, precision: str) -> Path:
    """Train, or go on training, and return the path of the best weights (``best.keras``).

    Raises:
        DatasetError: the data cannot be trained on, or ``out`` holds another run's checkpoint.
    """
    keras.utils.set_random_seed(seed)
    photographs = training_data(data, recipe.leave_out)
    refuse_unreadable(photographs)
    out.mkdir(parents=True, exist_ok=True)
    _remember_run(out, recipe, seed, precision, photographs)
    run = _Run(out, recipe, seed, photographs)
    before = keras.mixed_precision.dtype_policy()
    keras.mixed_precision.set_global_policy(precision)
    try:
        for number, stage in enumerate(recipe.stages):
            run.stage(number, stage)
    finally:  # whoever builds a model next in this process wants no bfloat16
        keras.mixed_precision.set_global_policy(before)
    return out / "best.keras"


def training_data(data: Path, leave_out: str | None) -> list[Photograph]:
    """Read the photographs of a run, less those of the source that it leaves out.

    Raises:
        DatasetError: the data cannot be used, or has no such source beside others.
    """
    photographs = read_dataset(data)
    sources = sorted({p.source for p in photographs})
    if leave_out is None:
        return photographs
    if leave_out not in sources or len(sources) == 1:
        raise DatasetError(f"{data} has the sources {', '.join(sources)}: leave out one of several")
    return [p for p in photographs if p.source != leave_out]


def _remember_run(
    out: Path, recipe: Recipe, seed: int, precision: str, photographs: Sequence[Photograph]
) -> None:
    """Write what this run is; refuse to go on with a different one in the same folder."""
    run = {
        "recipe": asdict(recipe),
        "seed": seed,
        "precision": precision,
        "data_sha256": data_digest(photographs),
        "photographs": {
            split: len(select(photographs, split)) for split in ("train", "val", "test")
        },
    }
    run = json.loads(json.dumps(run))  # tuples become lists, as they will on reading
    path = out / "run.json"
    if path.is_file() and json.loads(path.read_text()) != run:
        raise DatasetError(f"{path} describes another run: choose an empty folder, or remove it")
    write_text(path, json.dumps(run, indent=2))


def data_digest(photographs: Sequence[Photograph]) -> str:
    """Tell one set of labelled, split photographs from another, wherever they lie."""
    rows = sorted(f"{p.split} {p.label} {p.source} {p.group} {p.path.name}" for p in photographs)
    return hashlib.sha256("\n".join(rows).encode()).hexdigest()


class _Run:
    """One training run: the model, its averaged copy, and where both stand."""

    def __init__(
        self, out: Path, recipe: Recipe, seed: int, photographs: Sequence[Photograph]
    ) -> None:
        self.out, self.recipe, self.seed = out, recipe, seed
        self.training = select(photographs, "train")
        self.validation = select(photographs, "val")
        for split, chosen in (("train", self.training), ("val", self.validation)):
            if not chosen:
                raise DatasetError(
                    f"no photograph is in the split `{split}`: mark some, or add more"
                )
        self.shares = sampling_shares(self.training, recipe.balance, recipe.class_balance)
        self.specimens: dict[int, Specimen] = {}
        self.inputs = np.stack([load_input(p.path) for p in self.validation])
        self.state = self._resume()

    @property
    def checkpoint(self) -> Path:
        return self.out / "checkpoint"

    @property
    def epochs(self) -> int:
        return sum(stage.epochs for stage in self.recipe.stages)

    @property
    def batches(self) -> int:
        samples = self.recipe.samples_per_epoch or len(self.training)
        return max(1, samples // self.recipe.batch)

    def _resume(self) -> _State:
        aside = self.out / "checkpoint.old"
        if aside.is_dir() and not self.checkpoint.is_dir():  # stopped between two renames
            aside.rename(self.checkpoint)
        path = self.checkpoint / "state.json"
        if not path.is_file():
            return _State()
        state = _State(**json.loads(path.read_text()))
        if state.epoch < self.epochs:
            print(f"going on after epoch {state.epoch} of {self.epochs}")
        return state

    def stage(self, number: int, stage: Stage) -> None:
        first = sum(earlier.epochs for earlier in self.recipe.stages[:number])
        last = first + stage.epochs
        if self.state.epoch >= last:
            return
        model = self._model(stage, resuming=self.state.epoch > first)
        average = _Average(model, self.recipe.averaging)
        if self.state.epoch > 0:
            average.load(self.checkpoint / "average.keras")
        while self.state.epoch < last:
            if self._out_of_patience():
                print(f"no better for {self.recipe.patience} epochs: stopping early")
                self.state.epoch = last
                return
            self._epoch(model, average, stage, f"epoch {self.state.epoch + 1}/{self.epochs}")

    def _model(self, stage: Stage, resuming: bool) -> keras.Model:
        if resuming:  # with the optimizer's state
            return keras.models.load_model(self.checkpoint / "model.keras")
        model = build_model(stage.window, momentum=self.recipe.momentum)
        if self.state.epoch > 0:  # the next stage starts from the last one's average
            before = keras.models.load_model(self.checkpoint / "average.keras", compile=False)
            model.set_weights(before.get_weights())
        steps = stage.epochs * self.batches
        rate: float | keras.optimizers.schedules.LearningRateSchedule = stage.learning_rate
        if stage.cosine:
            warmup = steps // 20
            rate = keras.optimizers.schedules.CosineDecay(
                stage.learning_rate / 20,
                steps - warmup,
                alpha=0.4,  # of the first rate: 2 % of the highest
                warmup_target=stage.learning_rate,
                warmup_steps=warmup,
            )
        optimizer = (
            keras.optimizers.SGD(rate)
            if self.recipe.optimizer == "sgd"
            else keras.optimizers.AdamW(rate, weight_decay=2e-3, clipnorm=1.0)
        )
        loss = keras.losses.CategoricalCrossentropy(label_smoothing=self.recipe.label_smoothing)
        model.compile(optimizer, loss, metrics=["accuracy"])
        return model

    def _epoch(self, model: keras.Model, average: _Average, stage: Stage, title: str) -> None:
        started = time.monotonic()
        model.reset_metrics()
        result: dict[str, float] = {}
        with _progress() as bar, ThreadPoolExecutor(2) as pool:
            task = bar.add_task(title, total=self.batches)
            for images, labels in self._batches(pool, stage, self.batches):
                result = model.train_on_batch(images, labels, return_dict=True)
                average.update(model)
                described = f"{title}  loss {result['loss']:.3f}  accuracy {result['accuracy']:.3f}"
                bar.update(task, advance=1, description=described)
            whole = replace(stage, window=INPUT_SIZE)
            statistics = list(self._batches(pool, whole, _STATISTICS_BATCHES))
        average.estimate_statistics(images for images, _ in statistics)
        self._finish_epoch(model, average, stage, result, time.monotonic() - started)

    def _batches(
        self, pool: ThreadPoolExecutor, stage: Stage, count: int
    ) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.float32]]]:
        """Make each batch while the one before it is trained on."""
        rng = np.random.default_rng([self.seed, self.state.epoch, stage.window])
        shape = (count, self.recipe.batch)
        if self.recipe.samples_per_epoch is None:
            drawn = np.resize(rng.permutation(len(self.training)), shape)
        else:
            drawn = rng.choice(len(self.training), shape, p=self.shares)
        seeds = rng.integers(0, 2**63, shape)

        def start(number: int) -> list[Future[NDArray[np.uint8]]]:
            return [
                pool.submit(self._picture, int(index), int(seed), stage)
                for index, seed in zip(drawn[number], seeds[number], strict=True)
            ]

        pending = [start(number) for number in range(min(2, count))]
        for number in range(count):
            images = np.stack([future.result() for future in pending.pop(0)])
            if number + 2 < count:
                pending.append(start(number + 2))
            labels = [self.training[int(index)].label for index in drawn[number]]
            yield images, np.eye(len(CLASSES), dtype=np.float32)[labels]

    def _picture(self, index: int, seed: int, stage: Stage) -> NDArray[np.uint8]:
        photograph = self.training[index]
        if self.recipe.strength is None:
            return load_input(photograph.path)
        specimen = self.specimens.get(index)
        if specimen is None:
            specimen = Specimen.of(load_upright(photograph.path), photograph.box)
            self.specimens[index] = specimen
        strength = self.recipe.strength.weakened(stage.strength)
        return augment(specimen, stage.window, np.random.default_rng(seed), strength)

    def _finish_epoch(
        self,
        model: keras.Model,
        average: _Average,
        stage: Stage,
        result: dict[str, float],
        seconds: float,
    ) -> None:
        """Validate, keep the best, write the checkpoint: a stop after this loses nothing."""
        correct = np.argmax(average.predict(self.inputs), 1) == [p.label for p in self.validation]
        sources = np.array([p.source for p in self.validation])
        by_source = {str(s): float(correct[sources == s].mean()) for s in sorted(set(sources))}
        # the mean over sources: a small laboratory's photographs count as much as a large one's
        accuracy = float(np.mean(list(by_source.values())))
        state = self.state
        state.epoch += 1
        state.seconds += seconds
        row = {
            "epoch": state.epoch,
            "window": stage.window,
            "loss": round(float(result["loss"]), 5),
            "accuracy": round(float(result["accuracy"]), 5),
            "val_accuracy": round(float(correct.mean()), 5),
            "val_by_source": " ".join(f"{s}={a:.4f}" for s, a in by_source.items()),
            "seconds": round(seconds, 1),
        }
        if accuracy > state.best_mean_over_sources:
            state.best_mean_over_sources, state.best_epoch = accuracy, state.epoch
            average.save(self.out / "best.keras")
        _append_history(self.out / "history.csv", row)
        _plot_history(self.out)
        self._write_checkpoint(model, average)
        print("  ".join(f"{name} {value}" for name, value in row.items()), flush=True)

    def _write_checkpoint(self, model: keras.Model, average: _Average) -> None:
        new, old = self.out / "checkpoint.new", self.out / "checkpoint.old"
        for leftover in (new, old):
            shutil.rmtree(leftover, ignore_errors=True)
        new.mkdir()
        model.save(new / "model.keras")
        average.save(new / "average.keras")
        (new / "state.json").write_text(json.dumps(asdict(self.state)))
        if self.checkpoint.is_dir():
            self.checkpoint.rename(old)
        new.rename(self.checkpoint)
        shutil.rmtree(old, ignore_errors=True)

    def _out_of_patience(self) -> bool:
        patience = self.recipe.patience
        return patience is not None and self.state.epoch - self.state.best_epoch >= patience


class _Average:
    """The exponential moving average of a model's weights, as a model of whole frames."""

    def __init__(self, model: keras.Model, decay: float | None) -> None:
        self.decay = decay
        self.model = build_model()
        self.weights: list[NDArray[np.float32]] = model.get_weights()

    def update(self, model: keras.Model) -> None:
        for kept, new in zip(self.weights, model.get_weights(), strict=True):
            kept[...] = new if self.decay is None else kept + (1 - self.decay) * (new - kept)

    def load(self, path: Path) -> None:
        self.weights = keras.models.load_model(path, compile=False).get_weights()

    def estimate_statistics(self, batches: Iterable[NDArray[np.uint8]]) -> None:
        """Set batch normalisation's moving averages to the plain mean over ``batches``."""
        self.model.set_weights(self.weights)
        if self.decay is None:
            return
        norms = [
            layer
            for layer in self.model.layers
            if isinstance(layer, keras.layers.BatchNormalization)
        ]
        for seen, images in enumerate(batches):
            for norm in norms:
                norm.momentum = seen / (seen + 1)
            self.model(images, training=True)

    def predict(self, inputs: NDArray[np.uint8]) -> NDArray[np.float32]:
        return np.asarray(self.model.predict(inputs, batch_size=_VALIDATION_BATCH, verbose=0))

    def save(self, path: Path) -> None:
        aside = path.with_name(f".{path.name}.keras")
        self.model.save(aside)
        aside.replace(path)


def sampling_shares(
    photographs: Sequence[Photograph], balance: float, class_balance: float
) -> NDArray[np.float64]:
    """How likely each photograph is to be drawn: float64 [N], 1 in all. See ``Recipe``."""
    sources = np.array([p.source for p in photographs])
    kinds = np.array([f"{p.source}/{p.label}" for p in photographs])
    shares = np.ones(len(photographs))
    for source in set(sources):
        inside = sources == source
        for kind in set(kinds[inside]):
            shares[kinds == kind] = float((kinds == kind).sum()) ** (class_balance - 1)
        shares[inside] *= float(inside.sum()) ** balance / shares[inside].sum()
    return np.asarray(shares / shares.sum())


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    )


def _append_history(path: Path, row: dict[str, object]) -> None:
    kept = []
    if path.is_file():  # an epoch that was run twice, because its checkpoint was lost, counts once
        with path.open(newline="") as rows:
            kept = [r for r in csv.DictReader(rows) if int(r["epoch"]) < int(str(row["epoch"]))]
    lines = [*kept, row]
    with written_aside(path) as aside, aside.open("w", newline="") as rows:
        writer = csv.DictWriter(rows, list(row))
        writer.writeheader()
        writer.writerows(lines)


def _plot_history(out: Path) -> None:
    from matplotlib.figure import Figure  # slow to import, and only needed here

    with (out / "history.csv").open(newline="") as rows:
        history = list(csv.DictReader(rows))
    epochs = [int(row["epoch"]) for row in history]
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for column, name in (("accuracy", "training"), ("val_accuracy", "validation")):
        axes.plot(epochs, [float(row[column]) for row in history], label=name)
    axes.set(xlabel="epoch", ylabel="accuracy", title="Training")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(out / "history.png", dpi=110)
