"""What the exporter's tests share: class folders, and the real network exported once."""

import contextlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gateway.contract import CLASSES


@pytest.fixture
def class_folders(tmp_path: Path) -> Callable[..., Path]:
    """Make a folder of class folders with ``count`` tiny plain pictures each."""

    def make(count: int, classes: tuple[str, ...] = CLASSES) -> Path:
        root = tmp_path / "photographs"
        for label, name in enumerate(classes):
            (root / name).mkdir(parents=True)
            for number in range(count):
                colour = (60 * label, 9 * number, 90)
                Image.new("RGB", (8, 8), colour).save(root / name / f"{number}.png")
        return root

    return make


@pytest.fixture(scope="session")
def network():
    """The real network: random weights, and statistics as a training would leave them.

    The dense kernels are scaled so that every figure is far above rounding.
    """
    import keras

    from export.architecture import build_model

    keras.utils.set_random_seed(1)
    model = build_model()
    rng = np.random.default_rng(1)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            size = layer.gamma.shape
            ranges = ((0.5, 1.5), (-0.2, 0.2), (0.0, 0.3), (0.05, 0.5))
            layer.set_weights([rng.uniform(low, high, size) for low, high in ranges])
        elif isinstance(layer, keras.layers.Dense):
            kernel, bias = layer.get_weights()
            layer.set_weights([3 * kernel, bias])
    return model


@pytest.fixture(scope="session")
def familiarity():
    """What 300 random vectors of hidden features of the network's width make familiar."""
    from export.familiarity import Familiarity

    rng = np.random.default_rng(2)
    sources = [f"source {number % 2}" for number in range(300)]
    labels = [number % 4 for number in range(300)]
    return Familiarity.fit(rng.random((300, 1024)), sources, labels)


@pytest.fixture(scope="session")
def weights_file(network, familiarity, tmp_path_factory) -> Path:
    """The real network's weights as `python -m export release` leaves them: with a card."""
    from export.weights import sha256

    path = tmp_path_factory.mktemp("weights") / "hemavision.keras"
    network.save(path)
    known = path.with_name("familiarity.npz")
    familiarity.save(known)
    weights = {
        "file": path.name,
        "sha256": sha256(path),
        "familiarity_sha256": sha256(known),
    }
    card = {"classes": list(CLASSES), "weights": weights}
    path.with_name("model_card.json").write_text(json.dumps(card))
    return path


@pytest.fixture(scope="session")
def exported(weights_file, tmp_path_factory) -> Path:
    """A base path whose version 1 the command `saved-model` wrote from those weights."""
    from export.cli import main

    base = tmp_path_factory.mktemp("exported") / "hemavision"
    with contextlib.redirect_stdout(None):
        assert main(["saved-model", "--weights", str(weights_file), "--models", str(base)]) == 0
    return base
