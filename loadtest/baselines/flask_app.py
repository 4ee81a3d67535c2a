"""A straightforward Flask application: what the original does for each photograph.

The class comes from one call of the Keras model; then a model that ends in the last convolution
and in the class is built anew, and the photograph goes through that a second time, under a
gradient tape (GradCAM: R. Selvaraju et al., *Grad-CAM*, ICCV 2017). Matplotlib's jet over the
photograph, PNG and base64 are the rest. It runs as its author runs it: `app.run()`, which is one
process with a thread for each request.
"""

from __future__ import annotations

import argparse
import base64
import io
from pathlib import Path
from typing import Any

import keras
import matplotlib as mpl
import numpy as np
import tensorflow as tf
from flask import Flask, request
from numpy.typing import NDArray
from PIL import Image
from werkzeug.serving import make_server

CLASSES = ("EOSINOPHIL", "LYMPHOCYTE", "MONOCYTE", "NEUTROPHIL")  # model_card.json, "classes"
SIZE = 224  # pixels; the model's input
LAST_CONVOLUTION = "conv9"
ALPHA = 0.4

Picture = NDArray[np.float32]
"""[height, width, 3], RGB in 0 to 255. The model's own first layer, a Rescaling, normalises."""


def create_app(weights: Path) -> Flask:
    """Build the application around the Keras model in ``weights``, a .keras file."""
    model = keras.models.load_model(weights, compile=False)
    app = Flask(__name__)

    @app.post("/predict")
    def predict() -> dict[str, Any]:
        picture = _picture(request.files["file"].stream.read())
        probabilities = model.predict(picture[np.newaxis], verbose=0)[0]
        predicted = int(np.argmax(probabilities))
        heatmap = _gradcam(model, picture, predicted)
        return {
            "prediction": CLASSES[predicted],
            "confidence": round(100 * float(probabilities[predicted]), 2),
            "probabilities": {
                name: round(100 * float(p), 2)
                for name, p in zip(CLASSES, probabilities, strict=True)
            },
            "heatmap": _base64_png(_overlay(picture, heatmap)),
            "original": _base64_png(picture),
        }

    return app


def _picture(body: bytes) -> Picture:
    upright = Image.open(io.BytesIO(body)).convert("RGB")
    return np.asarray(upright.resize((SIZE, SIZE), Image.Resampling.BILINEAR), np.float32)


def _gradcam(model: keras.Model, picture: Picture, class_index: int) -> NDArray[np.float32]:
    """Return the map [h, w], 0 to 1."""
    gradient_model = keras.Model(
        model.input, [model.get_layer(LAST_CONVOLUTION).output, model.output]
    )
    with tf.GradientTape() as tape:
        features, probabilities = gradient_model(picture[np.newaxis])
        score = probabilities[:, class_index]
    weights = tf.reduce_mean(tape.gradient(score, features), axis=(0, 1, 2))
    heatmap = tf.nn.relu(tf.reduce_sum(features[0] * weights, axis=-1)).numpy()
    highest = heatmap.max()
    return np.asarray(heatmap / highest if highest > 0 else heatmap, np.float32)


def _overlay(picture: Picture, heatmap: NDArray[np.float32]) -> Picture:
    heat = Image.fromarray((heatmap * 255).astype(np.uint8)).resize((SIZE, SIZE))
    jet = mpl.colormaps["jet"](np.asarray(heat))[..., :3] * 255
    return np.asarray(ALPHA * jet + (1 - ALPHA) * picture, np.float32)


def _base64_png(picture: Picture) -> str:
    buffer = io.BytesIO()
    Image.fromarray(picture.astype(np.uint8)).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def _warm_up(app: Flask) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (SIZE, SIZE)).save(buffer, "PNG")
    photograph = (io.BytesIO(buffer.getvalue()), "black.png")
    app.test_client().post("/predict", data={"file": photograph}).close()


def main() -> None:
    """Serve on a free port until the process is ended."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.baselines.flask_app")
    parser.add_argument("--weights", type=Path, required=True, metavar="FILE.keras")
    app = create_app(parser.parse_args().weights)
    _warm_up(app)
    server = make_server("127.0.0.1", 0, app, threaded=True)  # what app.run() makes
    print(f"Flask at http://127.0.0.1:{server.port}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
