"""What the tests share: one tiny real SavedModel, one real model server, drawn photographs."""

import io
import os
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
from PIL import Image

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

# how long an example takes is the machine's affair
hypothesis.settings.register_profile("facts", deadline=None)
hypothesis.settings.load_profile("facts")

DATA = Path(__file__).parents[2] / "shared" / "data"


class Clock:
    """A clock that is set by hand, in seconds."""

    now = 100.0

    def __call__(self) -> float:
        """Read it."""
        return self.now


@pytest.fixture
def clock() -> Clock:
    """A clock that is set by hand."""
    return Clock()


@pytest.fixture(scope="session")
def photographs() -> Path:
    """The labelled photographs, which are not in the repository."""
    if not DATA.is_dir():
        pytest.skip(f"needs the labelled photographs in {DATA}, which are not in the repository")
    return DATA


@pytest.fixture(scope="session")
def tiny_model():
    """A Keras model with the contract's input, maps and classes, and random parameters."""
    import keras

    keras.utils.set_random_seed(7)
    images = keras.Input((224, 224, 3), name="images")
    x = keras.layers.Rescaling(1 / 127.5, offset=-1.0)(images)
    x = keras.layers.Conv2D(3, 20, strides=12, activation="relu", name="conv7")(x)  # 18x18
    x = keras.layers.MaxPooling2D(2)(x)
    x = keras.layers.Conv2D(8, 1, activation="relu", name="conv8")(x)  # 9x9
    x = keras.layers.MaxPooling2D(2)(x)
    x = keras.layers.Conv2D(8, 3, padding="same", activation="relu", name="conv9")(x)  # 4x4
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(images, keras.layers.Dense(4, activation="softmax")(x))


@pytest.fixture(scope="session")
def tiny_network(tiny_model):
    """The tiny model, cut for explanation; nothing is unfamiliar to it."""
    import numpy as np

    from export.familiarity import Familiarity
    from export.gradcam import Network

    features = np.random.default_rng(7).random((40, 8))
    familiarity = Familiarity.fit(features, ["cells"] * 40, [0] * 40, axes=2)
    return Network.of(tiny_model, familiarity._replace(threshold=np.array(1e6, np.float32)))


@pytest.fixture(scope="session")
def tiny_models(tiny_network, tmp_path_factory) -> Path:
    """A base path that holds the tiny model as version 1."""
    from export.saved_model import write_version

    base = tmp_path_factory.mktemp("models") / "hemavision"
    write_version(tiny_network, {"name": "tiny"}, base)
    return base


@pytest.fixture(scope="session")
def model_server(tiny_models) -> Iterator[str]:
    """host:port of a real gRPC server over the tiny model, one for the whole run."""
    from export.local_server import LocalServer

    with LocalServer("hemavision", tiny_models, "127.0.0.1:0") as server:
        yield f"127.0.0.1:{server.port}"


@pytest.fixture(scope="session")
def smear() -> Image.Image:
    """A drawn photograph of a neutrophil, RGB, 360 x 363."""
    from export.smear import draw_smear

    return draw_smear("NEUTROPHIL", seed=3)


@pytest.fixture(scope="session")
def jpeg(smear) -> bytes:
    """The same as a JPEG file."""
    buffer = io.BytesIO()
    smear.save(buffer, "JPEG", quality=92)
    return buffer.getvalue()
