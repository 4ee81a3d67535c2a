"""The admission gate: is this version fit to be served? `python -m export verify DIR`.

Every check compares with something the version did not compute itself: the contract, the Keras
model, a GradCAM worked out apart with NumPy from `tf.GradientTape`'s gradients. Given labelled
photographs, it compares all that is answered about them, too.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from tensorflow.core.protobuf import saved_model_pb2

from export.architecture import FINE_CONVOLUTION, LAST_CONVOLUTION, MIDDLE_CONVOLUTION
from export.dataset import load_input
from export.familiarity import Familiarity
from export.smear import draw_smear
from export.warmup import read_warmup
from gateway import contract

TOLERANCE = 1e-4
"""Largest difference allowed between the version's figures and those computed apart."""

BATCHES = (1, 3, 8)

_BATCH = 25
"""Photographs that are compared at once."""

_JUMPING = 0.01
"""Share of photographs on which a map may differ more. Its gradients pass ReLUs, and `cam_fine`'s
poolings too: they jump where a unit is zero, or two pixels are equal, up to float32's rounding."""

_VARIABLE_OPS = {"VarHandleOp", "ReadVariableOp", "VariableV2", "AssignVariableOp"}


@dataclass(frozen=True)
class Check:
    """One line of the verdict."""

    name: str
    passed: bool
    finding: str


class CheckFailed(Exception):
    """What a check found wrong."""


def verify(
    version: Path,
    model: keras.Model,
    familiarity: Familiarity,
    weights_sha256: str,
    photographs: Sequence[Path] = (),
) -> Iterator[Check]:
    """Check the version against the contract and against ``model``; yield each verdict.

    ``weights_sha256`` is the digest of the file that ``model``'s weights came from, and
    ``familiarity`` what lies beside it. ``photographs``, where there are any, are a check more.
    """
    candidate = _Candidate(version, model, familiarity, weights_sha256, photographs)
    for check in (*_CHECKS, *([_photographs] if photographs else [])):
        yield _run(check, candidate)


@dataclass
class _Candidate:
    """The version under test, its Keras model, and what several checks look at."""

    version: Path
    model: keras.Model
    familiarity: Familiarity
    weights_sha256: str
    photographs: Sequence[Path]

    @cached_property
    def loaded(self) -> Any:
        return tf.saved_model.load(str(self.version))

    @property
    def signatures(self) -> Any:
        return self.loaded.signatures

    @property
    def images(self) -> NDArray[Any]:
        return _drawn_images()

    def predict(self, images: NDArray[Any]) -> dict[str, NDArray[Any]]:
        outputs = self.signatures[contract.PREDICT_SIGNATURE](images=tf.constant(images))
        return {name: tensor.numpy() for name, tensor in outputs.items()}

    def explain(self, images: NDArray[Any], indices: list[int]) -> dict[str, NDArray[Any]]:
        outputs = self.signatures[contract.GRADCAM_SIGNATURE](
            images=tf.constant(images), class_index=tf.constant(indices, tf.int32)
        )
        return {name: tensor.numpy() for name, tensor in outputs.items()}

    @cached_property
    def explained(self) -> dict[str, NDArray[Any]]:
        return self.explain(self.images, [contract.PREDICTED_CLASS] * len(self.images))


@cache
def _drawn_images() -> NDArray[Any]:
    """Eight pictures, two of each class, drawn: uint8 [8, 224, 224, 3]."""
    size = (contract.INPUT_SIZE, contract.INPUT_SIZE)
    drawn = [draw_smear(name, seed, *size) for seed in (1, 2) for name in contract.CLASSES]
    return np.stack([np.asarray(picture) for picture in drawn])


def _run(check: Callable[[_Candidate], str], candidate: _Candidate) -> Check:
    name = check.__name__.strip("_").replace("_", " ")
    try:
        return Check(name, True, check(candidate))
    except Exception as error:  # noqa: BLE001  # whatever a bad version does, it is a finding and no crash
        finding = (
            str(error) if isinstance(error, CheckFailed) else f"{type(error).__name__}: {error}"
        )
        return Check(name, False, finding.splitlines()[0][:200] if finding else "failed")


def _signatures(candidate: _Candidate) -> str:
    """Names, dtypes and shapes, batch dimension first, as in the contract."""
    size, classes = contract.INPUT_SIZE, len(contract.CLASSES)
    picture = {contract.IMAGES: ("uint8", (None, size, size, 3))}
    answer = {
        contract.PROBABILITIES: ("float32", (None, classes)),
        contract.LOGITS: ("float32", (None, classes)),
        contract.UNFAMILIARITY: ("float32", (None,)),
    }
    coarse, fine = contract.CAM_SIZE, contract.CAM_FINE_SIZE
    explanation = {
        contract.CONV_FEATURES: ("float32", (None, coarse, coarse, 512)),
        contract.GRADIENTS: ("float32", (None, coarse, coarse, 512)),
        contract.CAM: ("float32", (None, coarse, coarse)),
        contract.CAM_FINE: ("float32", (None, fine, fine)),
    }
    index = {contract.CLASS_INDEX: ("int32", (None,))}
    expected = {
        contract.PREDICT_SIGNATURE: (picture, answer),
        contract.GRADCAM_SIGNATURE: (picture | index, answer | explanation),
    }
    for name, (inputs, outputs) in expected.items():
        if name not in candidate.signatures:
            raise CheckFailed(f"signature {name} is missing")
        function = candidate.signatures[name]
        _same(f"{name} inputs", _specs(function.structured_input_signature[1]), inputs)
        _same(f"{name} outputs", _specs(function.structured_outputs), outputs)
    return ", ".join(expected)


def _frozen(candidate: _Candidate) -> str:
    """No variables: TensorFlow Serving fails on those of Keras 3, though Python loads them."""
    saved_model = saved_model_pb2.SavedModel.FromString(
        (candidate.version / "saved_model.pb").read_bytes()
    )
    graphs = [meta_graph.graph_def for meta_graph in saved_model.meta_graphs]
    functions = [function.node_def for graph in graphs for function in graph.library.function]
    used = {node.op for nodes in (*functions, *(g.node for g in graphs)) for node in nodes}
    variables = sorted(used & _VARIABLE_OPS)
    if variables:
        raise CheckFailed(f"the graph holds variables ({', '.join(variables)})")
    return f"{len(used)} kinds of operation, none of them a variable"


def _model_card(candidate: _Candidate) -> str:
    card = json.loads((candidate.version / contract.MODEL_CARD_FILE).read_text())
    _same("card's classes", card["classes"], list(contract.CLASSES))
    _same("card's version", card["version"], int(candidate.version.name))
    _same("card's weights", card["weights"]["sha256"], candidate.weights_sha256)
    return f"weights {card['weights']['sha256'][:12]}…"


def _batches(candidate: _Candidate) -> str:
    for batch in BATCHES:
        images = candidate.images[:batch]
        answers = (candidate.predict(images), candidate.explain(images, [0] * batch))
        for name, array in (output for outputs in answers for output in outputs.items()):
            _same(f"{name}'s rows for a batch of {batch}", len(array), batch)
            if not np.isfinite(array).all():
                raise CheckFailed(f"{name} is not finite for a batch of {batch}")
    return f"N = {', '.join(map(str, BATCHES))}"


def _rows_are_independent(candidate: _Candidate) -> str:
    worst = 0.0
    for row in range(len(candidate.images)):
        alone = candidate.explain(candidate.images[row : row + 1], [contract.PREDICTED_CLASS])
        for name, array in alone.items():
            worst = max(worst, _difference(name, array[0], candidate.explained[name][row]))
    return f"largest difference {worst:.1e}"


def _parity(candidate: _Candidate) -> str:
    expected = candidate.model.predict(candidate.images, verbose=0)
    worst = 0.0
    for signature, outputs in (
        (contract.PREDICT_SIGNATURE, candidate.predict(candidate.images)),
        (contract.GRADCAM_SIGNATURE, candidate.explained),
    ):
        softmax = tf.nn.softmax(outputs[contract.LOGITS]).numpy()
        worst = max(
            worst,
            _difference(f"{signature}'s probabilities", outputs[contract.PROBABILITIES], expected),
            _difference(f"{signature}'s logits' softmax", softmax, expected),
        )
    return f"largest difference from Keras {worst:.1e}"


def _gradcam(candidate: _Candidate) -> str:
    """Both maps and the gradients for every class, worked out apart."""
    worst = 0.0
    for label in range(len(contract.CLASSES)):
        labels = [label] * len(candidate.images)
        given = candidate.explain(candidate.images, labels)
        for name, array in _reference_explanation(candidate, candidate.images, labels).items():
            worst = max(worst, _difference(f"{name} of class {label}", given[name], array))
    return f"largest difference from tf.GradientTape {worst:.1e}"


def _extremes(candidate: _Candidate) -> str:
    """Pictures without a cell, where what is beyond the border matters as much as what is not."""
    images = _extreme_images()
    labels = [number % len(contract.CLASSES) for number in range(len(images))]
    given = candidate.explain(images, labels)
    worst = 0.0
    for name, array in _reference_answer(candidate, images, labels).items():
        worst = max(worst, _difference(f"{name} of black, white and noise", given[name], array))
    return f"largest difference on {len(images)} pictures without a cell {worst:.1e}"


def _extreme_images() -> NDArray[Any]:
    """Black, white, and noise of full strength: uint8 [4, 224, 224, 3]."""
    shape = (1, contract.INPUT_SIZE, contract.INPUT_SIZE, 3)
    noise = np.random.default_rng(4).integers(0, 256, (2, *shape[1:]), np.uint8)
    return np.concatenate([np.zeros(shape, np.uint8), np.full(shape, 255, np.uint8), noise])


def _photographs(candidate: _Candidate) -> str:
    """Probabilities and maps of photographs, each explained for the class that it is taken for."""
    starts = range(0, len(candidate.photographs), _BATCH)
    batches = (candidate.photographs[start : start + _BATCH] for start in starts)
    found = [
        _by_photograph(candidate, np.stack([load_input(path) for path in paths]))
        for paths in batches
    ]
    findings = []
    for name in (contract.PROBABILITIES, contract.CAM, contract.CAM_FINE):
        differences = np.concatenate([of[name] for of in found])
        _small(name, differences, jumps=name != contract.PROBABILITIES)
        findings.append(f"{name} {differences.max():.1e}")
    return f"largest difference on {len(candidate.photographs)}: {', '.join(findings)}"


def _by_photograph(candidate: _Candidate, images: NDArray[Any]) -> dict[str, NDArray[np.float64]]:
    """Each output's largest difference on each of N photographs, [N]."""
    given = candidate.explain(images, [contract.PREDICTED_CLASS] * len(images))
    expected = _reference_answer(candidate, images, given[contract.LOGITS].argmax(1).tolist())
    return {
        name: np.abs(given[name] - array).reshape(len(images), -1).max(1).astype(np.float64)
        for name, array in expected.items()
    }


def _small(name: str, differences: NDArray[np.float64], jumps: bool) -> None:
    """Refuse differences above the tolerance; of what jumps, a few up to a hundred times that."""
    usual = np.quantile(differences, 1 - _JUMPING, method="lower") if jumps else differences.max()
    if not (usual <= TOLERANCE and differences.max() <= 100 * TOLERANCE):
        above = int((~(differences <= TOLERANCE)).sum())
        raise CheckFailed(
            f"{name} differs by more than {TOLERANCE:.0e} on {above} of {len(differences)} "
            f"photographs, by {differences.max():.1e} at most"
        )


def _reference_answer(
    candidate: _Candidate, images: NDArray[Any], labels: list[int]
) -> dict[str, NDArray[Any]]:
    probabilities = candidate.model.predict(images, verbose=0)
    explanation = _reference_explanation(candidate, images, labels)
    return explanation | {contract.PROBABILITIES: probabilities}


def _reference_explanation(
    candidate: _Candidate, images: NDArray[Any], labels: list[int]
) -> dict[str, NDArray[Any]]:
    model = candidate.model
    classifier = model.layers[-1]
    cuts = (FINE_CONVOLUTION, MIDDLE_CONVOLUTION, LAST_CONVOLUTION)
    layers = [model.get_layer(name).output for name in cuts]
    whole = keras.Model(model.inputs, [*layers, classifier.input])
    with tf.GradientTape() as tape:
        *seen, hidden = whole(tf.cast(images, tf.float32), training=False)
        logits = tf.matmul(hidden, classifier.kernel) + classifier.bias
        logit = tf.gather(logits, labels, batch_dims=1)
    slopes = [gradient.numpy() for gradient in tape.gradient(logit, seen)]
    fine, middle, last = (features.numpy() for features in seen)
    hirescam = (slopes[0] * fine).sum(-1).clip(0)
    layercams = [
        (np.maximum(slope, 0) * features).sum(-1).clip(0)
        for slope, features in zip(slopes[:2], (fine, middle), strict=True)
    ]
    gradients = slopes[2]
    weights = gradients.mean(axis=(1, 2), keepdims=True)
    return {
        contract.CONV_FEATURES: last,
        contract.GRADIENTS: gradients,
        contract.CAM: np.maximum((weights * last).sum(-1), 0),
        contract.CAM_FINE: hirescam * _near(layercams[0]) * _twice_as_fine(layercams[1]),
    }


def _near(maps: NDArray[Any]) -> NDArray[Any]:
    """The mean of each 3 x 3 places of maps [N, h, w], of those that there are, as a share of the
    highest.
    """
    padded = np.pad(maps, ((0, 0), (1, 1), (1, 1)), constant_values=np.nan)
    _, height, width = maps.shape
    shifted = [padded[:, y : y + height, x : x + width] for y in range(3) for x in range(3)]
    means = np.nanmean(shifted, axis=0)
    highest = means.max(axis=(1, 2), keepdims=True)
    return np.asarray(means / np.where(highest > 0, highest, 1))


def _twice_as_fine(maps: NDArray[Any]) -> NDArray[Any]:
    """Interpolate maps [N, h, w] to [N, 2h, 2w]: each new cell is 3/4 its own, 1/4 the nearer."""
    for axis in (1, 2):
        own = np.moveaxis(maps, axis, 0)
        before, after = np.concatenate([own[:1], own[:-1]]), np.concatenate([own[1:], own[-1:]])
        halves = np.stack([0.75 * own + 0.25 * before, 0.75 * own + 0.25 * after], 1)
        maps = np.moveaxis(halves.reshape(-1, *own.shape[1:]), 0, axis)
    return maps


def _unfamiliarity(candidate: _Candidate) -> str:
    """The distance, worked out apart with a covariance matrix inverted in float64."""
    known = candidate.familiarity
    model = candidate.model
    to_hidden = keras.Model(model.inputs, model.layers[-1].input)
    hidden = to_hidden(tf.cast(candidate.images, tf.float32), training=False)
    unit = np.asarray(hidden, np.float64)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    nearest = []
    for means, axes, precisions, other in zip(*known[:4], strict=True):
        wide = axes.astype(np.float64)
        inverse = (wide * precisions) @ wide.T + (np.eye(len(wide)) - wide @ wide.T) * other
        away = unit[:, np.newaxis] - means
        nearest.append(np.einsum("nkd,de,nke->nk", away, inverse, away).min(1))
    distances = np.min(nearest, axis=0) / known.threshold
    worst = max(
        _difference(contract.UNFAMILIARITY, outputs[contract.UNFAMILIARITY], distances)
        for outputs in (candidate.predict(candidate.images), candidate.explained)
    )
    return f"largest difference from NumPy {worst:.1e}"


def _class_index(candidate: _Candidate) -> str:
    """-1 explains the predicted class; a class that does not exist is refused."""
    predicted = candidate.explained[contract.PROBABILITIES].argmax(1)
    named = candidate.explain(candidate.images, [int(label) for label in predicted])
    _difference(
        "cam of the predicted class", candidate.explained[contract.CAM], named[contract.CAM]
    )
    try:
        candidate.explain(candidate.images[:1], [len(contract.CLASSES)])
    except tf.errors.InvalidArgumentError:
        return "-1 is the predicted class; others are refused"
    raise CheckFailed(f"class_index {len(contract.CLASSES)} was not refused")


def _warmup(candidate: _Candidate) -> str:
    requests = read_warmup(candidate.version)
    for request in requests:
        inputs = {name: tf.make_ndarray(proto) for name, proto in request.inputs.items()}
        candidate.signatures[request.model_spec.signature_name](
            **{name: tf.constant(array) for name, array in inputs.items()}
        )
    named = {request.model_spec.signature_name for request in requests}
    _same("signatures that are warmed", sorted(named), sorted(candidate.signatures))
    return f"{len(requests)} records"


def _maps_are_not_flat(candidate: _Candidate) -> str:
    """On most pictures: GradCAM may find no place that speaks for a class, and is then zero."""
    findings = []
    for name in (contract.CAM, contract.CAM_FINE):
        cams = candidate.explained[name]
        uneven = sum(bool(np.ptp(cam) > 1e-6) for cam in cams)
        if 2 * uneven < len(cams):
            raise CheckFailed(f"{name} is the same everywhere on {len(cams) - uneven} pictures")
        findings.append(f"{name} on {uneven} of {len(cams)} drawn pictures")
    return ", ".join(findings)


def _specs(structure: dict[str, Any]) -> dict[str, tuple[str, tuple[int | None, ...]]]:
    return {name: (spec.dtype.name, tuple(spec.shape)) for name, spec in structure.items()}


def _same(what: str, found: object, expected: object) -> None:
    if found != expected:
        raise CheckFailed(f"{what}: found {found}, expected {expected}")


def _difference(what: str, found: NDArray[Any], expected: NDArray[Any]) -> float:
    """Largest difference, relative to the largest expected value where that is above 1."""
    worst = float(np.abs(found - expected).max() / max(1.0, float(np.abs(expected).max())))
    if not worst <= TOLERANCE:
        raise CheckFailed(f"{what} differs by {worst:.1e}, more than {TOLERANCE:.0e}")
    return worst


_CHECKS = (
    _signatures,
    _frozen,
    _model_card,
    _batches,
    _rows_are_independent,
    _parity,
    _gradcam,
    _extremes,
    _unfamiliarity,
    _class_index,
    _warmup,
    _maps_are_not_flat,
)
