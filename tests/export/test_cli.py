"""The console explains itself, does what it says, and fails in one sentence."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from export.cli import main
from export.fingerprint import exporter_fingerprint
from export.weights import load_weights
from gateway import contract

COMMANDS = (
    "architecture",
    "draw",
    "data",
    "train",
    "evaluate",
    "trust",
    "slides",
    "speed",
    "release",
    "ablate",
    "convert",
    "saved-model",
    "verify",
    "serve",
)


def without_tensorflow(*arguments: str) -> str:
    """Run a command in a process of its own; return what it printed.

    TensorFlow is made impossible to import there.
    """
    code = "import sys; sys.modules['tensorflow'] = None; from export.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False
    )
    assert done.stderr == ""
    assert done.returncode == 0
    return done.stdout


def failure(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    """The one line that a command which could not be tried leaves on stderr."""
    assert main([str(argument) for argument in arguments]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("export: ")
    assert output.err.endswith("\n")
    assert output.err.count("\n") == 1
    return output.err


def printed(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    assert main([str(argument) for argument in arguments]) == 0
    return capsys.readouterr().out


# ---- help


def test_help_names_every_command_and_the_usual_way() -> None:
    """`python -m export --help` answers at once, without TensorFlow."""
    text = without_tensorflow("--help")
    for command in COMMANDS:
        assert re.search(rf"\n    {command}(?: \(\w+\))?\s+[A-Z]\w+", text), command
    assert "The usual way, from photographs to a served model:" in text


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(capsys: pytest.CaptureFixture[str], command: str) -> None:
    """Each says what it is for, in a sentence."""
    with pytest.raises(SystemExit) as left:
        main([command, "--help"])
    assert left.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith(f"usage: python -m export {command} ")
    assert ". " in text or ".\n" in text


@pytest.mark.parametrize("arguments", [[], ["fly"], ["draw"], ["serve", "--port", "1"]])
def test_what_is_no_command_is_refused(
    capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    """Status 2 and the usage."""
    with pytest.raises(SystemExit) as left:
        main(arguments)
    assert left.value.code == 2
    assert capsys.readouterr().err.startswith("usage: python -m export")


# ---- commands


def test_draw_writes_a_sample_a_class(tmp_path: Path) -> None:
    """It prints the files that it made, without TensorFlow."""
    lines = without_tensorflow("draw", str(tmp_path / "samples"), "--seed", "5").splitlines()
    assert [Path(line).stem.upper() for line in lines] == list(contract.CLASSES)
    for line in lines:
        with Image.open(line) as picture:
            assert (picture.format, picture.size) == ("JPEG", (360, 363))


def test_architecture_prints_the_network(capsys: pytest.CaptureFixture[str]) -> None:
    """Layer by layer, with the parameters."""
    text = printed(capsys, "architecture")
    assert "conv9" in text
    assert "2,713,668" in text


def test_convert_keeps_every_weight(network, weights_file: Path, tmp_path: Path) -> None:
    """The target's suffix names the format; the values are the same."""
    target = tmp_path / "w.weights.h5"
    assert main(["convert", str(weights_file), str(target)]) == 0
    found = load_weights(target).get_weights()
    for value, original in zip(found, network.get_weights(), strict=True):
        np.testing.assert_array_equal(value, original)


def test_saved_model_writes_the_card_of_the_weights(weights_file: Path, exported: Path) -> None:
    """The version's card is the weights' own, with the version's number."""
    card = json.loads((exported / "1" / contract.MODEL_CARD_FILE).read_text())
    assert card == json.loads(weights_file.with_name("model_card.json").read_text()) | {
        "version": 1,
        "exporter": exporter_fingerprint(),
    }


def test_saved_model_if_needed_writes_nothing_twice(weights_file: Path, exported: Path) -> None:
    """Where the newest version holds these weights it says so at once, without TensorFlow."""
    text = without_tensorflow(
        "saved-model", "--if-needed", "--weights", str(weights_file), "--models", str(exported)
    )
    assert text == f"{exported}/1 holds these weights already\n"
    assert [path.name for path in exported.iterdir()] == ["1"]


def test_saved_model_if_needed_writes_other_weights(
    capsys: pytest.CaptureFixture[str], weights_file: Path, tmp_path: Path
) -> None:
    """Where the newest version holds other weights, the next version is written."""
    for number, digest in ((9, json.loads(weights_file.with_name("model_card.json").read_text())
                            ["weights"]["sha256"]), (10, "0" * 64)):  # fmt: skip
        path = tmp_path / str(number) / contract.MODEL_CARD_FILE
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps({"version": number, "weights": {"sha256": digest}}))
    arguments = ("--if-needed", "--weights", weights_file, "--models", tmp_path)
    assert printed(capsys, "saved-model", *arguments) == f"{tmp_path / '11'}\n"
    assert (tmp_path / "11" / "saved_model.pb").is_file()


def test_evaluate_prints_figures_by_source(
    capsys: pytest.CaptureFixture[str], weights_file: Path, class_folders
) -> None:
    """JSON and nothing else on stdout, for the split asked for: one photograph of each class."""
    arguments = (weights_file, class_folders(4), "--split", "val", "--json")
    text = printed(capsys, "evaluate", *arguments)
    report = json.loads(text)
    assert report["metrics"]["photographs/val"]["photographs"] == 4
    assert report["familiarity"]["turned_away"].keys() == {"photographs/val"}


def test_evaluate_asks_a_server_the_same_way(
    capsys: pytest.CaptureFixture[str], model_server: str, class_folders, tmp_path: Path
) -> None:
    """Over gRPC, with a table to read, and files to keep."""
    out = tmp_path / "found"
    text = printed(capsys, "evaluate", f"grpc://{model_server}", class_folders(12), "--out", out)
    assert "photographs/test: 4 photographs" in text
    assert re.search(r"division by [\d.]+, which validation asks for", text)
    found = json.loads((out / "evaluation.json").read_text())
    assert found["metrics"]["photographs/test"]["photographs"] == 4
    names = {"evaluation.json", "reliability.png", "confusion.png", "classes.png", "roc.png"}
    assert {path.name for path in out.iterdir()} == names


@pytest.mark.parametrize("model", ["grpc://nowhere", "http://127.0.0.1:8500"])
def test_evaluate_says_how_a_server_is_named(
    capsys: pytest.CaptureFixture[str], class_folders, model: str
) -> None:
    """Another scheme, or no port, is no model server."""
    assert "give grpc://HOST:PORT" in failure(capsys, "evaluate", model, class_folders(12))


def test_verify_answers_with_its_status(
    capsys: pytest.CaptureFixture[str], weights_file: Path, tmp_path: Path
) -> None:
    """1 for a version that is unfit, with a line a check and the verdict."""
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "saved_model.pb").write_bytes(b"\xff")
    status = main(["verify", str(tmp_path / "1"), "--weights", str(weights_file)])
    lines = capsys.readouterr().out.splitlines()
    assert status == 1
    assert all(line.startswith("FAILED  ") for line in lines[:-1])
    assert lines[-1] == f"{tmp_path / '1'}: checks failed: {len(lines) - 1}"


@pytest.fixture
def _handlers() -> Iterator[None]:
    """Put back the handlers of the signals that `serve` and its test take."""
    taken = (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)
    kept = {number: signal.getsignal(number) for number in taken}
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    for number, handler in kept.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("_handlers")
def test_serve_waits_for_a_version_and_stops_when_told(tmp_path: Path) -> None:
    """SIGTERM ends it with status 0, also while it still waits for a first version."""
    before = signal.getsignal(signal.SIGTERM)

    def tell(*_: object) -> None:
        if signal.getsignal(signal.SIGTERM) is not before:  # it listens by now
            os.kill(os.getpid(), signal.SIGTERM)

    signal.signal(signal.SIGALRM, tell)
    signal.setitimer(signal.ITIMER_REAL, 0.1, 0.1)
    assert main(["serve", "--models", str(tmp_path), "--address", "127.0.0.1:0"]) == 0


# ---- failures


@pytest.mark.parametrize(
    "arguments",
    [
        ("data", "nowhere", "data"),
        ("train", "nowhere", "--out", "run"),
        ("evaluate", "none.keras", "nowhere"),
        ("trust", "none.keras", "nowhere"),
        ("release", "run", "nowhere", "--weights", "w.keras"),
        ("convert", "none.keras", "w.h5"),
        ("saved-model", "--weights", "none.keras"),
        ("verify", "1", "--weights", "none.keras"),
    ],
)
def test_what_is_not_there_is_named(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    arguments: tuple[str, ...],
) -> None:
    """Status 2 and one sentence with the path, for every command that reads something."""
    monkeypatch.chdir(tmp_path)
    message = failure(capsys, *arguments)
    assert any(name in message for name in ("nowhere", "none.keras", "saved_model.pb", "run/"))
    assert list(tmp_path.iterdir()) == []


def test_a_weight_format_that_does_not_exist_is_refused(
    capsys: pytest.CaptureFixture[str], weights_file: Path, tmp_path: Path
) -> None:
    """The refusal names the suffixes that there are."""
    message = failure(capsys, "convert", weights_file, tmp_path / "w.onnx")
    assert "weights are written as .keras, .weights.h5, .h5" in message


def test_a_version_that_exists_is_refused(
    capsys: pytest.CaptureFixture[str], weights_file: Path, exported: Path
) -> None:
    """Published versions are never changed."""
    arguments = ("--weights", weights_file, "--models", exported, "--version", "1")
    assert "exists; published versions are never" in failure(capsys, "saved-model", *arguments)


def test_weights_of_another_card_are_refused(
    capsys: pytest.CaptureFixture[str], weights_file: Path, tmp_path: Path
) -> None:
    """A card that describes another file would vouch for weights that nobody measured."""
    (tmp_path / "w.keras").write_bytes(weights_file.read_bytes() + b"\0")
    (tmp_path / "model_card.json").write_bytes(
        weights_file.with_name("model_card.json").read_bytes()
    )
    arguments = ("--weights", tmp_path / "w.keras", "--models", tmp_path / "models")
    assert "is not the file that" in failure(capsys, "saved-model", *arguments)
    assert not (tmp_path / "models").exists()


@pytest.mark.usefixtures("_handlers")
def test_a_taken_address_is_told(
    capsys: pytest.CaptureFixture[str], model_server: str, tiny_models: Path
) -> None:
    """Who starts a second server learns that the port is taken."""
    message = failure(capsys, "serve", "--models", tiny_models, "--address", model_server)
    assert model_server in message
