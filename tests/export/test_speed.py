"""What `speed` measures: the same weights in several ways, beside a product of matrices."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from export import speed, speed_report
from export.agreement import agreements
from export.cli import main
from export.dataset import read_dataset
from export.processor import multiplies_bfloat16
from export.smear import draw_smear
from export.speed import BATCHES, MATMUL, Timing, figures
from export.variants import BFLOAT16, FOLDED, FROZEN, KERAS, Variant, variants
from gateway.contract import CLASSES

NAMES = [KERAS, FROZEN, FOLDED, *([BFLOAT16] if multiplies_bfloat16() else [])]


@pytest.fixture(scope="module")
def ways(tiny_model, tiny_network) -> Iterator[list[Variant]]:
    with variants(tiny_model, tiny_network.familiarity) as made:
        yield made


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with twelve drawings to test on."""
    root = tmp_path_factory.mktemp("data")
    lines = ["path,source,split,label,group"]
    for seed in (1, 2, 3):
        for name in CLASSES:
            path = root / f"{name}{seed}.png"
            draw_smear(name, seed).save(path)
            lines.append(f"{path.name},drawn,test,{name},{path.stem}")
    (root / "manifest.csv").write_text("\n".join(lines) + "\n")
    return root


def test_the_owners_network_multiplies_as_often_as_it_says(network) -> None:
    """1.27 thousand million products: by hand for the first convolution and the last layer."""
    assert speed.operations(network) == pytest.approx(2.551e9, rel=0.001)
    first, last = network.get_layer("conv1"), network.layers[-1]
    assert speed._products(first) == 73 * 73 * (8 * 8 * 3 + 3 * 128)
    assert speed._products(last) == 1024 * 4


def test_every_variant_and_the_floor_are_timed_in_every_round(ways) -> None:
    """At each batch size, answers and explanations."""
    images = np.zeros((8, 224, 224, 3), np.uint8)
    timings = speed.measure(ways, images, operations=10_000_000, rounds=2)
    found = {(t.round, t.name, t.what, t.batch) for t in timings}
    assert len(found) == len(timings)
    assert found == {
        (number, name, what, batch)
        for number in range(2)
        for name in (*NAMES, MATMUL)
        for what in (("answer",) if name == MATMUL else ("answer", "explanation"))
        for batch in BATCHES
    }
    assert all(timing.seconds > 0 for timing in timings)
    first, second = ([t[1:4] for t in timings if t.round == number] for number in range(2))
    assert first != second  # an order of its own


def test_the_floor_is_worked_out_in_each_run() -> None:
    """The graph that runs, after all of TensorFlow's optimisations, still has the product."""
    session, product = speed._product(10_000_000)
    options = tf.compat.v1.RunOptions(output_partition_graphs=True)
    metadata = tf.compat.v1.RunMetadata()
    session.run(product, options=options, run_metadata=metadata)
    run = [node.op for graph in metadata.partition_graphs for node in graph.node]
    assert sum("MatMul" in operation for operation in run) == 1
    assert {"VarHandleOp", "ReadVariableOp"} < set(run)


def test_ratios_are_of_the_same_round() -> None:
    """A round in which the machine was twice as slow counts like any other."""
    timings = [
        timing
        for number, slow in enumerate((1, 2, 4))
        for batch in BATCHES
        for timing in (
            Timing(number, MATMUL, "answer", batch, 0.010 * slow * batch),
            Timing(number, FOLDED, "answer", batch, 0.013 * slow * batch),
            Timing(number, FOLDED, "explanation", batch, 0.020 * slow * batch),
        )
    ]
    found = figures(timings, FOLDED)
    assert found.ratio == pytest.approx(dict.fromkeys(BATCHES, 1.3))
    assert found.spread == pytest.approx((1.3, 1.3))
    assert found.milliseconds == pytest.approx(dict.fromkeys(BATCHES, 26.0))
    assert found.explained == pytest.approx(dict.fromkeys(BATCHES, 40.0))
    row = speed_report.speed_table(timings, [FOLDED], 2_600_000_000).splitlines()[2]
    assert row == (
        "| folded | 26.00 | 40.00 | 26.00 | 26.00 | 26.00 | 100 | 1.30 (1.30 to 1.30) "
        "| 1.30 | 1.30 | 1.30 |"
    )


def test_what_is_exact_agrees(ways, data: Path) -> None:
    """Frozen and folded answer as Keras does; the first agrees with itself to the last bit."""
    found = {a.name: a for a in agreements(ways, read_dataset(data))}
    assert list(found) == NAMES
    assert all(a.photographs == 12 and a.source == "drawn" for a in found.values())
    assert found[KERAS].probability == found[KERAS].cam == found[KERAS].cam_fine == 0
    for name in (FROZEN, FOLDED):
        assert found[name].changed == found[name].unfamiliar == 0
        assert found[name].probability < 1e-5
        assert found[name].cam < 1e-3


def test_a_variant_that_answers_otherwise_is_counted(ways, data: Path) -> None:
    """By photographs whose class, map and hottest cell are others."""

    def wrong(images: np.ndarray) -> dict[str, np.ndarray]:
        right = ways[0].explain(images)
        return right | {
            "probabilities": right["probabilities"][:, ::-1],
            "cam_fine": right["cam_fine"][:, ::-1].max() - right["cam_fine"],
            "unfamiliarity": right["unfamiliarity"] + 2,
        }

    (before, found) = agreements([ways[0], Variant("wrong", wrong, wrong)], read_dataset(data))
    assert (found.changed, found.unfamiliar, found.moved) == (12, 12, 12)
    assert found.cam == 0
    assert found.cam_fine == pytest.approx(1)
    assert found.calibration_error == before.calibration_error  # of the logits, which are right
    assert "| wrong | 12 of drawn |" in speed_report.agreement_table([found])


def test_the_command_prints_both_tables_and_keeps_what_it_timed(
    data: Path, weights_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Markdown with a line for each way, and a row of the CSV for each run."""
    out = tmp_path / "results" / "speed.csv"
    given = ["speed", str(data), "--weights", str(weights_file), "--rounds", "1"]
    assert main([*given, "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("2.55 GFLOP a photograph; ")
    for name in NAMES:
        assert printed.count(f"\n| {name} |") == 2
    assert printed.count(f"\n| {MATMUL} |") == 1
    with out.open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(BATCHES) * (2 * len(NAMES) + 1)
    assert {row["name"] for row in rows} == {*NAMES, MATMUL}


def test_too_few_photographs_are_refused(
    class_folders, capsys: pytest.CaptureFixture[str], weights_file: Path
) -> None:
    """Before anything is built."""
    assert main(["speed", str(class_folders(3)), "--weights", str(weights_file)]) == 2
    assert "fewer than 8 test photographs" in capsys.readouterr().err
