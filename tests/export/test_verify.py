"""The gate admits the real network, and each defect is caught by the check that is for it."""

from __future__ import annotations

import itertools
import json
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from export.familiarity import Familiarity
from export.gradcam import Network, classify, explain
from export.saved_model import write_version
from export.smear import draw_samples
from export.verify import verify
from export.weights import sha256
from gateway import contract

Outputs = dict[str, Any]
ALL = [
    "signatures",
    "frozen",
    "model card",
    "batches",
    "rows are independent",
    "parity",
    "gradcam",
    "extremes",
    "unfamiliarity",
    "class index",
    "warmup",
    "maps are not flat",
]
WEIGHTS = "0" * 64
KNOWN = Familiarity.fit(
    np.random.default_rng(3).random((300, 512)), ["a", "b"] * 150, [0, 1, 2] * 100
)
CARD = {"classes": list(contract.CLASSES), "weights": {"sha256": WEIGHTS}}


def failures(version: Path, model: keras.Model, photographs: Sequence[Path] = ()) -> dict[str, str]:
    """The findings of the checks that failed."""
    checks = list(verify(version, model, KNOWN, WEIGHTS, photographs))
    assert [check.name for check in checks] == [*ALL, *(["photographs"] if photographs else [])]
    return {check.name: check.finding for check in checks if not check.passed}


def small_model() -> keras.Model:
    """A network with all of the contract's shapes that computes next to nothing."""
    images = keras.Input((224, 224, 3), name="images")
    x = keras.layers.Rescaling(1 / 127.5, offset=-1.0)(images)
    x = keras.layers.Conv2D(3, 20, strides=12, activation="relu", name="conv7")(x)  # 18x18
    x = keras.layers.MaxPooling2D(2)(x)
    x = keras.layers.Conv2D(8, 1, activation="relu", name="conv8")(x)  # 9x9
    x = keras.layers.MaxPooling2D(2)(x)
    x = keras.layers.Conv2D(512, 1, activation="relu", name="conv9")(x)  # 4x4x512
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(images, keras.layers.Dense(4, activation="softmax")(x))


@pytest.fixture(scope="module")
def model() -> keras.Model:
    keras.utils.set_random_seed(12)
    made = small_model()
    kernel, bias = made.layers[-1].get_weights()
    made.layers[-1].set_weights([30 * kernel, bias])  # maps far above rounding
    return made


@pytest.fixture(scope="module")
def sound(model: keras.Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A version that passes."""
    return write_version(Network.of(model, KNOWN), CARD, tmp_path_factory.mktemp("sound"))


@pytest.fixture
def copy(sound: Path, tmp_path: Path) -> Path:
    """The same, to be damaged."""
    return shutil.copytree(sound, tmp_path / "1")


@pytest.fixture
def resaved(sound: Path, tmp_path: Path) -> Callable[..., Path]:
    """Write the sound version again, with functions that alter its signatures."""

    def same(outputs: Outputs) -> Outputs:
        return outputs

    def write(
        predict: Callable[[Outputs], Outputs] = same,
        explain: Callable[[Outputs], Outputs] | None = same,
        index: Callable[[tf.Tensor], tf.Tensor] = tf.identity,
    ) -> Path:
        module = tf.Module()
        module.loaded = tf.saved_model.load(str(sound))
        signatures = module.loaded.signatures
        images = tf.TensorSpec((None, 224, 224, 3), tf.uint8, name="images")
        indices = tf.TensorSpec((None,), tf.int32, name="class_index")

        @tf.function(input_signature=[images])
        def classified(images: tf.Tensor) -> Outputs:
            return predict(dict(signatures["serving_default"](images=images)))

        @tf.function(input_signature=[images, indices])
        def explained(images: tf.Tensor, class_index: tf.Tensor) -> Outputs:
            outputs = signatures["gradcam"](images=images, class_index=index(class_index))
            return explain(dict(outputs))

        made = {"serving_default": classified} | ({"gradcam": explained} if explain else {})
        tf.saved_model.save(module, str(tmp_path / "1"), signatures=made)
        shutil.copytree(sound / "assets.extra", tmp_path / "1" / "assets.extra")
        return tmp_path / "1"

    return write


def test_the_real_network_passes_every_check(
    network, familiarity, exported: Path, weights_file: Path
) -> None:
    """The owner's network, exported by the command, is fit to be served."""
    checks = list(verify(exported / "1", network, familiarity, sha256(weights_file)))
    assert [check.name for check in checks] == ALL
    assert {check.name: check.finding for check in checks if not check.passed} == {}


def test_the_small_stand_in_passes_every_check(
    resaved: Callable[..., Path], model: keras.Model
) -> None:
    """What the tests below break is sound before: written again unaltered, it passes."""
    assert failures(resaved(), model) == {}


def test_other_weights_fail_parity(sound: Path, model: keras.Model) -> None:
    """A version of weights that differ only in the last bias is told from the model's."""
    other = keras.models.clone_model(model)
    other.set_weights([*model.get_weights()[:-1], model.get_weights()[-1] + [0.1, 0, 0, 0]])
    found = failures(sound, other)
    assert set(found) == {"parity", "extremes"}
    assert found["parity"].startswith("serving_default's probabilities differs by ")


def test_classes_in_another_order_fail_parity(
    resaved: Callable[..., Path], model: keras.Model
) -> None:
    """Probabilities under the wrong names are wrong, however sure they are."""

    def reordered(outputs: Outputs) -> Outputs:
        return {n: t[:, ::-1] if t.shape.rank == 2 else t for n, t in outputs.items()}

    def shaped(outputs: Outputs) -> Outputs:
        return {
            n: tf.ensure_shape(t, (None, 4)) if t.shape.rank == 2 else t
            for n, t in reordered(outputs).items()
        }

    assert set(failures(resaved(predict=shaped), model)) == {"parity"}


def test_a_missing_signature_is_named(resaved: Callable[..., Path], model: keras.Model) -> None:
    """Without gradcam, the signatures fail and so does all that would have asked it."""
    found = failures(resaved(explain=None), model)
    assert found["signatures"] == "signature gradcam is missing"
    assert set(ALL) - set(found) == {"frozen", "model card"}


def test_another_dtype_fails_the_signatures(
    resaved: Callable[..., Path], model: keras.Model
) -> None:
    """An output of the right values in the wrong type would not be decoded by the gateway."""

    def doubled(outputs: Outputs) -> Outputs:
        return {**outputs, "logits": tf.cast(outputs["logits"], tf.float64)}

    found = failures(resaved(predict=doubled), model)
    assert set(found) == {"signatures"}
    assert "float64" in found["signatures"]


def test_an_additional_output_fails_the_signatures(
    resaved: Callable[..., Path], model: keras.Model
) -> None:
    """A scalar output has no batch dimension, and a server that batches refuses it."""

    def with_scalar(outputs: Outputs) -> Outputs:
        return {**outputs, "largest": tf.reduce_max(outputs["logits"])}

    found = failures(resaved(explain=with_scalar), model)
    assert found["signatures"].startswith("gradcam outputs: found")


def test_figures_that_are_not_finite_fail_the_batches(
    resaved: Callable[..., Path], model: keras.Model
) -> None:
    """NaN is no logit."""

    def undefined(outputs: Outputs) -> Outputs:
        return {**outputs, "logits": outputs["logits"] * float("nan")}

    found = failures(resaved(predict=undefined), model)
    assert set(found) == {"batches", "parity"}
    assert found["batches"] == "logits is not finite for a batch of 1"


@pytest.mark.parametrize("signature", ["predict", "explain"])
def test_wrong_logits_fail_parity(
    resaved: Callable[..., Path], model: keras.Model, signature: str
) -> None:
    """Logits that are not those of the probabilities are wrong in either signature."""

    def halved(outputs: Outputs) -> Outputs:
        return {**outputs, "logits": outputs["logits"] / 2}

    assert set(failures(resaved(**{signature: halved}), model)) == {"parity"}


def test_rows_that_see_each_other_are_caught(
    resaved: Callable[..., Path], model: keras.Model
) -> None:
    """A figure that depends on the rest of the batch is another patient's."""

    def shifted(outputs: Outputs) -> Outputs:
        logits = outputs["logits"]
        return {**outputs, "logits": logits - tf.reduce_mean(logits)}  # the softmax is the same

    found = failures(resaved(explain=shifted), model)
    assert set(found) == {"rows are independent"}


@pytest.mark.parametrize("name", ["gradients", "cam", "cam_fine"])
def test_a_wrong_explanation_fails_gradcam(
    resaved: Callable[..., Path], model: keras.Model, name: str
) -> None:
    """Each of its outputs is compared with one worked out apart."""

    def scaled(outputs: Outputs) -> Outputs:
        return {**outputs, name: 1.1 * outputs[name]}

    found = failures(resaved(explain=scaled), model)
    assert set(found) == {"gradcam", "extremes"}
    assert found["gradcam"].startswith(f"{name} of class 0 differs")


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Photographs' place, taken by twelve drawings."""
    folder = tmp_path_factory.mktemp("drawn")
    return [path for seed in (1, 2, 3) for path in draw_samples(folder / str(seed), seed)]


def test_photographs_are_a_check_more(sound: Path, model: keras.Model, drawn: list[Path]) -> None:
    """A sound version passes it."""
    assert failures(sound, model, drawn) == {}


@pytest.mark.parametrize(("name", "factor"), [("cam", 2), ("cam_fine", 2), ("cam", np.nan)])
def test_wrong_maps_of_photographs_are_caught(
    resaved: Callable[..., Path], model: keras.Model, drawn: list[Path], name: str, factor: float
) -> None:
    """With how many of them are wrong, and by how much."""

    def scaled(outputs: Outputs) -> Outputs:
        return {**outputs, name: factor * outputs[name]}

    found = failures(resaved(explain=scaled), model, drawn)
    assert re.match(
        rf"{name} differs by more than 1e-04 on \d+ of 12 photographs", found["photographs"]
    )


def test_an_index_that_is_not_refused_is_caught(
    resaved: Callable[..., Path], model: keras.Model
) -> None:
    """A version that explains some class for one that does not exist misleads."""
    version = resaved(index=lambda given: tf.clip_by_value(given, -1, 3))
    assert failures(version, model) == {"class index": "class_index 4 was not refused"}


def test_flat_maps_are_caught(tmp_path: Path) -> None:
    """A dead last convolution answers like the model, and points nowhere."""
    dead = small_model()
    kernel, bias = dead.get_layer("conv9").get_weights()
    dead.get_layer("conv9").set_weights([0 * kernel, bias + 1])
    found = failures(write_version(Network.of(dead, KNOWN), CARD, tmp_path), dead)
    assert found == {"maps are not flat": "cam is the same everywhere on 8 pictures"}


def test_a_missing_warm_up_is_caught(copy: Path, model: keras.Model) -> None:
    """Without it the first callers would wait."""
    (copy / contract.WARMUP_FILE).unlink()
    found = failures(copy, model)
    assert set(found) == {"warmup"}
    assert found["warmup"].startswith("NotFoundError")


def test_a_damaged_warm_up_is_caught(copy: Path, model: keras.Model) -> None:
    """One bad record would make the server refuse the whole version."""
    content = bytearray((copy / contract.WARMUP_FILE).read_bytes())
    content[len(content) // 2] ^= 1
    (copy / contract.WARMUP_FILE).write_bytes(content)
    found = failures(copy, model)
    assert set(found) == {"warmup"}
    assert found["warmup"].startswith("DataLossError")


def test_a_warm_up_of_one_signature_is_caught(copy: Path, model: keras.Model) -> None:
    """Both signatures are to be ready."""
    path = copy / contract.WARMUP_FILE
    records = [record.numpy() for record in tf.data.TFRecordDataset(str(path))]
    with tf.io.TFRecordWriter(str(path)) as writer:
        writer.write(records[0])
    found = failures(copy, model)
    assert set(found) == {"warmup"}
    assert found["warmup"].startswith("signatures that are warmed: found ['serving_default']")


@pytest.mark.parametrize(
    ("change", "finding"),
    [
        ({"classes": list(reversed(contract.CLASSES))}, "card's classes: found ['NEUTROPHIL'"),
        ({"version": 2}, "card's version: found 2, expected 1"),
        ({"weights": {}}, "KeyError: 'sha256'"),
        ({"weights": {"sha256": "1" * 64}}, "card's weights: found 1111"),
    ],
)
def test_a_wrong_card_is_caught(
    copy: Path, model: keras.Model, change: dict[str, object], finding: str
) -> None:
    """The card has to be this version's, of these classes, and name its weights."""
    path = copy / contract.MODEL_CARD_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    # none after it reads the card
    signatures, frozen, card = itertools.islice(verify(copy, model, KNOWN, WEIGHTS), 3)
    assert signatures.passed
    assert frozen.passed
    assert (card.name, card.passed) == ("model card", False)
    assert card.finding.startswith(finding)


def test_variables_are_caught(copy: Path, model: keras.Model) -> None:
    """A graph that keeps its variables works in Python, and in TensorFlow Serving on no request."""
    network = Network.of(model, KNOWN)
    images = tf.TensorSpec((None, 224, 224, 3), tf.uint8, name="images")
    index = tf.TensorSpec((None,), tf.int32, name="class_index")
    module = tf.Module()
    module.variables_of_the_model = model.variables
    signatures = {
        "serving_default": tf.function(
            lambda images: classify(network, images), input_signature=[images]
        ),
        "gradcam": tf.function(
            lambda images, class_index: explain(network, images, class_index),
            input_signature=[images, index],
        ),
    }
    kept = {path.name: path.read_bytes() for path in (copy / "assets.extra").iterdir()}
    shutil.rmtree(copy)
    tf.saved_model.save(module, str(copy), signatures=signatures)
    (copy / "assets.extra").mkdir()
    for name, data in kept.items():
        (copy / "assets.extra" / name).write_bytes(data)
    found = failures(copy, model)
    assert set(found) == {"frozen"}
    assert "VarHandleOp" in found["frozen"]


def test_a_folder_that_is_no_version_fails_every_check(tmp_path: Path, model: keras.Model) -> None:
    """Whatever is found there is a finding and no crash."""
    assert set(failures(tmp_path / "1", model)) == set(ALL)
