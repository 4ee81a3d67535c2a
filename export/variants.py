"""The ways in which the same weights can be run, side by side in one process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from export import gradcam
from export.familiarity import Familiarity
from export.local_server import Servable
from export.optimise import optimised
from export.processor import multiplies_bfloat16
from export.saved_model import signatures
from gateway import contract

KERAS, FROZEN, FOLDED, BFLOAT16 = "Keras", "frozen", "folded", "bfloat16"

Outputs = dict[str, NDArray[np.float32]]
_WANTED = (*contract.EXPLANATION, contract.LOGITS)


class Variant(NamedTuple):
    """One way; both functions take uint8 [N, 224, 224, 3]."""

    name: str
    answer: Callable[[NDArray[np.uint8]], Outputs]
    """Probabilities alone."""
    explain: Callable[[NDArray[np.uint8]], Outputs]
    """And both maps, logits and unfamiliarity, for the predicted class."""


@contextmanager
def variants(model: keras.Model, familiarity: Familiarity | None) -> Iterator[list[Variant]]:
    """Keras as it is; frozen; folded and frozen, as is served; and that in bfloat16, where it can.

    The last three run in sessions as TensorFlow Serving's.
    """
    network = gradcam.Network.of(model, familiarity)
    with TemporaryDirectory() as folder:
        frozen = _written(network, Path(folder) / FROZEN)
        folded = _written(optimised(network), Path(folder) / FOLDED)
        made = [_of_keras(model, network), _served(FROZEN, frozen), _served(FOLDED, folded)]
        if multiplies_bfloat16():
            made.append(_served(BFLOAT16, folded, bfloat16=True))
        yield made


def _written(network: gradcam.Network, base: Path) -> Path:
    version = base / "1"
    tf.saved_model.save(
        tf.Module(), str(version), signatures=signatures(network, contract.INPUT_SIZE)
    )
    return version


def _of_keras(model: keras.Model, network: gradcam.Network) -> Variant:
    explained = tf.function(lambda images, index: gradcam.explain(network, images, index))

    def explain(images: NDArray[np.uint8]) -> Outputs:
        outputs = explained(tf.constant(images), tf.constant(_predicted(images)))
        return {name: output.numpy() for name, output in outputs.items()}

    return Variant(
        KERAS, lambda images: {contract.PROBABILITIES: model.predict_on_batch(images)}, explain
    )


def _served(name: str, version: Path, bfloat16: bool = False) -> Variant:
    servable = Servable(version, bfloat16)

    def run(signature: str, wanted: tuple[str, ...], images: NDArray[np.uint8]) -> Outputs:
        found = servable.signatures[signature]
        feeds: dict[str, NDArray[Any]] = {found.inputs[contract.IMAGES].name: images}
        if contract.CLASS_INDEX in found.inputs:
            feeds[found.inputs[contract.CLASS_INDEX].name] = _predicted(images)
        fetches = {name: found.outputs[name].name for name in wanted if name in found.outputs}
        outputs: Outputs = servable.session.run(fetches, feeds)
        return outputs

    return Variant(
        name,
        lambda images: run(contract.PREDICT_SIGNATURE, (contract.PROBABILITIES,), images),
        lambda images: run(contract.GRADCAM_SIGNATURE, _WANTED, images),
    )


def _predicted(images: NDArray[np.uint8]) -> NDArray[np.int32]:
    return np.full(len(images), contract.PREDICTED_CLASS, np.int32)
