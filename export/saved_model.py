"""Write a servable version: both signatures, constants, warm-up and model card.

A Keras 3 model saved with its variables loads in Python and then fails in TensorFlow Serving on
every request; a graph whose weights are constants serves. So what can be folded is folded, and
both signatures are frozen. A version appears by one rename, never half written: a server that
watches the folder can load it at once.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import (
    convert_variables_to_constants_v2,  # the only public-in-practice way to freeze a TF 2 function
)

from export import gradcam
from export.fingerprint import exporter_fingerprint
from export.optimise import optimised
from export.warmup import write_warmup
from gateway import contract


class ExportError(ValueError):
    """The version cannot be written; the message says why."""


def next_version(base: Path) -> int:
    """Return the lowest version number above all in ``base`` (1 where there is none)."""
    if not base.is_dir():
        return 1
    return 1 + max((int(p.name) for p in base.iterdir() if p.name.isdecimal()), default=0)


def write_version(
    network: gradcam.Network,
    card: dict[str, Any],
    base: Path,
    version: int | None = None,
    input_size: int = contract.INPUT_SIZE,
) -> Path:
    """Write ``base/<version>/`` and return it; by default the next free version.

    Raises:
        ExportError: the version is not a positive number, or exists; the network does not know
            what is familiar.
    """
    if network.familiarity is None:
        raise ExportError("only released weights can be served: `python -m export release`")
    number = next_version(base) if version is None else version
    target = base / str(number)
    if number < 1:
        raise ExportError(f"version {number} is not a positive number")
    if target.exists():
        raise ExportError(f"{target} exists; published versions are never changed: use the next")
    base.mkdir(parents=True, exist_ok=True)
    aside = base / f".{number}.{os.getpid()}.new"  # not a number, so no server looks at it
    try:
        module = tf.Module()
        served = signatures(optimised(network), input_size)
        tf.saved_model.save(module, str(aside), signatures=served)
        write_warmup(aside)
        (aside / contract.MODEL_CARD_FILE).write_text(
            json.dumps({**card, "version": number, "exporter": exporter_fingerprint()}, indent=2)
        )
        aside.rename(target)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return target


def signatures(network: gradcam.Network, input_size: int) -> dict[str, Any]:
    """Both signatures' functions over a network, its weights frozen, by the contract's names."""
    images = tf.TensorSpec((None, input_size, input_size, 3), tf.uint8, name=contract.IMAGES)
    class_index = tf.TensorSpec((None,), tf.int32, name=contract.CLASS_INDEX)
    predict = tf.function(lambda images: gradcam.classify(network, images))
    explain = tf.function(lambda images, class_index: gradcam.explain(network, images, class_index))
    return {
        contract.PREDICT_SIGNATURE: _frozen(predict, images),
        contract.GRADCAM_SIGNATURE: _frozen(explain, images, class_index),
    }


def _frozen(function: Any, *inputs: tf.TensorSpec) -> Any:
    concrete = function.get_concrete_function(*inputs)
    names = sorted(concrete.structured_outputs)  # the order in which tf.nest flattens them
    constant = convert_variables_to_constants_v2(concrete)

    def call(*tensors: tf.Tensor) -> dict[str, tf.Tensor]:
        outputs = tf.nest.flatten(constant(*tensors))
        return dict(zip(names, outputs, strict=True))

    return tf.function(call, input_signature=inputs)
