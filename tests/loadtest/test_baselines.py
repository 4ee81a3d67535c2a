"""What others would write answers right: a baseline that does not is none."""

import base64
import io

import grpc
import numpy as np
import pytest
from PIL import Image

from loadtest import predict
from loadtest.baselines import aiohttp_app, fastapi_app, flask_app
from loadtest.requests import CLASSES


@pytest.fixture(scope="module")
def weights(tiny_model, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "tiny.keras"
    tiny_model.save(path)
    return path


@pytest.fixture
def probabilities(tiny_model, smear) -> np.ndarray:
    """What the model says of the photograph."""
    resized = smear.resize((224, 224), Image.Resampling.BILINEAR)
    return tiny_model(np.asarray(resized, np.float32)[np.newaxis]).numpy()[0]


@pytest.fixture
def png(smear) -> bytes:
    buffer = io.BytesIO()
    smear.save(buffer, "PNG")
    return buffer.getvalue()


def picture(text: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(text)))


def test_flask_names_the_models_class_and_draws(weights, png, probabilities):
    """Class and percentages are the Keras model's; heat map and photograph are 224 x 224."""
    client = flask_app.create_app(weights).test_client()
    with client.post("/predict", data={"file": (io.BytesIO(png), "cell.png")}) as reply:
        answer = reply.get_json()
    assert answer["prediction"] == flask_app.CLASSES[probabilities.argmax()]
    assert list(answer["probabilities"].values()) == pytest.approx(100 * probabilities, abs=0.1)
    assert picture(answer["heatmap"]).size == (224, 224)
    assert picture(answer["original"]).size == (224, 224)
    assert np.any(np.asarray(picture(answer["heatmap"])) != np.asarray(picture(answer["original"])))


def test_fastapi_names_the_models_class_and_draws_if_asked(tiny_models, png, smear, probabilities):
    """Class and probabilities are the model's; the overlay has the photograph's size."""
    classifier = fastapi_app.Classifier(tiny_models / "1")
    answer = classifier.answer(png, heatmap=True)
    assert answer["prediction"] == fastapi_app.CLASSES[probabilities.argmax()]
    assert list(answer["probabilities"].values()) == pytest.approx(probabilities, abs=1e-4)
    assert picture(answer["overlay"]).size == smear.size
    plain = classifier.answer(png, heatmap=False)
    assert plain["prediction"] == answer["prediction"]
    assert "overlay" not in plain


async def test_aiohttp_asks_the_model_server_and_draws_if_asked(
    aiohttp_client, model_server, png, smear, probabilities
):
    """Class and probabilities are the model's; the overlay has the photograph's size."""
    async with grpc.aio.insecure_channel(model_server) as channel:
        app = aiohttp_app.create_app(channel.unary_unary(predict.METHOD))
        client = await aiohttp_client(app)
        answer = await (await client.post("/classify", data=png)).json()
        plain = await (await client.post("/classify?heatmap=false", data=png)).json()
    assert answer["prediction"] == plain["prediction"] == CLASSES[probabilities.argmax()]
    assert list(answer["probabilities"].values()) == pytest.approx(probabilities, abs=1e-4)
    assert picture(answer["overlay"]).size == smear.size
    assert "overlay" not in plain
