"""The weights that this repository ships, through everything: export, gate, server, gateway."""

import io
import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from export.processor import multiplies_bfloat16
from export.release import CARD_NAME, FAMILIARITY_NAME, SHIPPED
from gateway import cli
from gateway.app import create_app
from gateway.contract import CLASSES
from gateway.settings import Settings

CARD = json.loads(SHIPPED.with_name(CARD_NAME).read_text())
BINARY = {"Content-Type": "application/octet-stream"}


@pytest.fixture(scope="module")
def shipped_model():
    from export.weights import load_weights

    return load_weights(SHIPPED)


@pytest.fixture(scope="module")
def familiarity():
    from export.familiarity import Familiarity

    return Familiarity.load(SHIPPED.with_name(FAMILIARITY_NAME))


@pytest.fixture(scope="module")
def version(shipped_model, familiarity, tmp_path_factory) -> Path:
    """The shipped weights as a servable version."""
    from export.gradcam import Network
    from export.saved_model import write_version

    base = tmp_path_factory.mktemp("shipped") / "hemavision"
    return write_version(Network.of(shipped_model, familiarity), CARD, base)


@pytest.fixture(scope="module")
def server(version) -> Iterator[str]:
    """host:port of a model server over the shipped weights."""
    from export.local_server import LocalServer

    with LocalServer("hemavision", version.parent, "127.0.0.1:0") as running:
        yield f"127.0.0.1:{running.port}"


def test_the_card_describes_the_weights_beside_it():
    """By their hash: a card cannot be kept for other weights."""
    from export.weights import sha256

    assert CARD["weights"]["sha256"] == sha256(SHIPPED)
    assert CARD["classes"] == list(CLASSES)
    assert SHIPPED.stat().st_size < 12_000_000


def test_the_card_is_whole():
    """A release writes what it measures; the rest is put into its card by commands of its own."""
    assert {"confusion", "explanation_trust", "slides", "ablation"} <= set(CARD)


def test_the_card_claims_at_least_what_was_asked():
    """No release serves untrained weights."""
    assert CARD["metrics"]["pbc/val"]["accuracy"]["value"] >= 0.9


def test_the_readme_quotes_the_card():
    """The figures people read first are those that were measured."""
    readme = (SHIPPED.parents[2] / "README.md").read_text()
    for source in ("pbc/test", "bccd/test"):
        accuracy = CARD["metrics"][source]["accuracy"]
        low, high = (100 * edge for edge in accuracy["interval_95"])
        assert f"| {100 * accuracy['value']:.1f} % | {low:.1f} to {high:.1f} % |" in readme


def test_every_check_of_the_admission_gate_passes(version, shipped_model, familiarity):
    """What is shipped is fit to be served."""
    from export.verify import verify

    failed = [
        check
        for check in verify(version, shipped_model, familiarity, CARD["weights"]["sha256"])
        if not check.passed
    ]
    assert failed == []


def test_weights_that_learnt_nothing_are_not_released():
    """Answers at chance are refused, whatever the commonest class."""
    import numpy as np

    from export.dataset import Photograph
    from export.evaluate import Answers
    from export.release import ReleaseError, refuse_chance

    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 200)
    cells = [Photograph(Path(str(n)), int(v), "s", "val", str(n)) for n, v in enumerate(labels)]
    with pytest.raises(ReleaseError, match="train longer"):
        refuse_chance(Answers(cells, rng.normal(size=(200, 4)), np.empty(0)))
    refuse_chance(Answers(cells, 5.0 * np.eye(4)[labels], np.empty(0)))


async def test_drawn_samples_are_answered_right(server, aiohttp_client):
    """Each class's drawing is recognised, by the whole service."""
    from export.smear import draw_smear

    client = await aiohttp_client(create_app(Settings(model_server=server)))
    for name in CLASSES:
        buffer = io.BytesIO()
        draw_smear(name, seed=1).save(buffer, "PNG")
        response = await client.post("/v1/classify", data=buffer.getvalue(), headers=BINARY)
        assert (await response.json())["prediction"] == name


def test_up_starts_everything_and_stops_it(version, tmp_path):
    """Model server and gateway run, answer the samples, and are both gone after Ctrl-C; in
    bfloat16, where the processor multiplies in it, and even there probabilities add up to 1.
    """
    precision = "bfloat16" if multiplies_bfloat16() else ""
    process = subprocess.Popen(
        [Path(sys.executable).with_name("hemavision"), "up", "--models", version.parent],
        cwd=tmp_path,
        env=os.environ | {"HEMAVISION_PORT": "0", "HEMAVISION_MIXED_PRECISION": precision},
        stdout=subprocess.PIPE,
        text=True,
    )
    ready = next(line for line in iter(process.stdout.readline, "") if line.startswith("Ready"))
    url = re.search(r"http://[\d.:]+", ready)[0]
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert len(children) == 1
    told = Path(f"/proc/{children[0]}/cmdline").read_text().split("\0")
    assert ("--mixed-precision" in told) == bool(precision)
    assert cli.main(["classify", str(tmp_path / "samples/monocyte.jpg"), "--url", url]) == 0
    for sample in (tmp_path / "samples").iterdir():
        request = urllib.request.Request(f"{url}/v1/classify", sample.read_bytes(), BINARY)
        with urllib.request.urlopen(request, timeout=30) as response:
            probabilities = json.load(response)["probabilities"].values()
        assert sum(probabilities) == pytest.approx(1, abs=1e-5)
    with urllib.request.urlopen(f"{url}/v1/model", timeout=10) as response:
        assert json.load(response)["card"]["weights"] == CARD["weights"]
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=30)[0] == "stopped\n"
    assert process.returncode == 0
    assert not Path(f"/proc/{children[0]}").exists()


async def test_photographs_are_answered_as_well_as_the_card_says(
    photographs, server, aiohttp_client
):
    """Fifty unseen photographs of each class, as a client sends them, through the service.

    The bound is what 200 draws at the card's accuracy fall below once in a thousand.
    """
    from export.dataset import read_dataset, select

    test = [p for p in select(read_dataset(photographs), "test") if p.source == "pbc"]
    chosen = [p for label in range(4) for p in [q for q in test if q.label == label][:50]]
    client = await aiohttp_client(create_app(Settings(model_server=server)))
    right = 0
    for photograph in chosen:
        data = photograph.path.read_bytes()
        response = await client.post("/v1/classify?heatmap=none", data=data, headers=BINARY)
        right += (await response.json())["prediction"] == CLASSES[photograph.label]
    claimed = CARD["metrics"]["pbc/test"]["macro_recall"]["value"]
    spread = np.sqrt(claimed * (1 - claimed) / len(chosen))
    assert right / len(chosen) >= claimed - 3.1 * spread - 1 / len(chosen)


def test_the_confidence_is_calibrated_on_photographs(photographs, shipped_model):
    """On the same kind of photographs, confidence and accuracy are near each other."""
    from export.answers import from_network
    from export.dataset import read_dataset, select
    from export.evaluate import softmax
    from export.gradcam import Network

    test = [p for p in select(read_dataset(photographs), "test") if p.source == "pbc"][::8]
    answers = from_network(Network.of(shipped_model), test)
    confidence = softmax(answers.logits).max(1).mean()
    accuracy = (answers.logits.argmax(1) == answers.labels).mean()
    assert abs(confidence - accuracy) < 0.05
