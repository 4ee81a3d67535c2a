"""Each measure is what its paper says, on cases worked out by hand; the report holds figures."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from export import trust as measures
from export.dataset import Photograph
from export.trust import (
    MAPS,
    STEPS,
    area_under,
    centre_prior,
    energy_inside,
    inside,
    placed,
    points_inside,
    ranks,
    replaced,
    spearman,
    spread,
    trust,
    unlearnt,
    without_cells,
)
from export.trust_report import table, write
from gateway import contract
from gateway.heatmap import normalise, place

SIZE = contract.INPUT_SIZE


def one_hot(cells: int, row: int, column: int) -> np.ndarray:
    """A map with one warm cell."""
    cam = np.zeros((cells, cells), np.float32)
    cam[row, column] = 2.0
    return cam


# ---- a map on the photograph


@pytest.mark.parametrize("cells", [contract.CAM_SIZE, contract.CAM_FINE_SIZE])
def test_a_map_is_placed_as_the_gateway_places_it(cells: int) -> None:
    """Both interpolate alike; the gateway rounds to 8 bits and cuts off what overshoots."""
    cam = np.random.default_rng(cells).random((cells, cells), np.float32) ** 3
    shown = np.asarray(place(cam, (SIZE, SIZE)), float)
    found = placed(normalise(cam)) * 255
    assert np.abs(found - shown).max() < 1.6
    assert shown.std() > 20


def test_a_cell_is_placed_where_it_looked() -> None:
    """Cell 4, 10 of 18 has its centre at 2.5 + 12 x 4.5 = 56.5 and 128.5 pixels."""
    heat = placed(one_hot(18, 4, 10))
    hottest = np.argwhere(heat == heat.max())
    assert np.abs(hottest + 0.5 - (56.5, 128.5)).max() <= 1
    assert heat[20:].sum() == heat.sum()


def test_a_box_covers_its_pixels() -> None:
    """A box in a 448 x 224 photograph is half as wide in the input, and overlaps count once."""
    mask = inside([(100, 10, 200, 20)], (448, 224))
    rows, columns = np.nonzero(mask)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (10, 19, 50, 99)
    twice = inside([(100, 10, 200, 20), (100, 10, 150, 20), (0, 0, 2, 1)], (448, 224))
    assert twice.sum() == mask.sum() + 1


def test_the_pointing_game_asks_for_the_hottest_pixel() -> None:
    """Inside a box it is a hit, beside it a miss; a map of zeros points nowhere."""
    heat = placed(one_hot(18, 4, 10))
    assert points_inside(heat, inside([(120, 50, 135, 60)], (SIZE, SIZE)))
    assert not points_inside(heat, inside([(120, 60, 135, 70)], (SIZE, SIZE)))
    assert not points_inside(np.zeros((SIZE, SIZE), np.float32), np.ones((SIZE, SIZE), bool))


def test_energy_is_the_share_inside() -> None:
    """3 of 4 inside is 0.75; a map of zeros has no energy anywhere."""
    heat = np.array([[2.0, 1.0], [0.0, 1.0]], np.float32)
    mask = np.array([[True, True], [True, False]])
    assert energy_inside(heat, mask) == 0.75
    assert energy_inside(np.zeros((2, 2), np.float32), mask) == 0.0


# ---- deletion and insertion


def test_pixels_are_ranked_from_the_hottest() -> None:
    """Ties are broken by the other map."""
    heat = np.array([[0.0, 5.0], [7.0, 0.0]], np.float32)
    ties = np.array([[1.0, 9.0], [9.0, 2.0]], np.float32)
    assert ranks(heat, ties).tolist() == [[3, 1], [0, 2]]


def test_a_deletion_curve_is_worked_out_by_hand() -> None:
    """A model that counts white pixels: 2 of 4, deleted first or last, give areas 1/4 and 3/4."""
    picture = np.zeros((2, 2, 3), np.uint8)
    picture[0] = 255
    plain = np.zeros_like(picture)
    heat = np.array([[4, 3], [2, 1]], np.float32)
    for warm, curve, area in (
        (heat, [1, 0.5, 0, 0, 0], 0.25),
        (-heat, [1, 1, 1, 0.5, 0], 0.75),
    ):
        pictures = replaced(picture, plain, ranks(warm, heat), steps=4)
        found = (pictures[..., 0] == 255).sum((1, 2)) / 2
        assert found.tolist() == curve
        assert area_under(found) == area


def test_insertion_ends_at_the_photograph() -> None:
    """From the blurred picture to the whole of the photograph, in equal shares of pixels."""
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (SIZE, SIZE, 3), np.uint8)
    _, blurred = without_cells(picture)
    ranked = ranks(centre_prior(), centre_prior())
    pictures = replaced(blurred, picture, ranked)
    assert len(pictures) == STEPS + 1
    np.testing.assert_array_equal(pictures[0], blurred)
    np.testing.assert_array_equal(pictures[-1], picture)
    np.testing.assert_array_equal(pictures[1][112, 112], picture[112, 112])
    np.testing.assert_array_equal(pictures[-2][0, 0], blurred[0, 0])
    assert (ranked < SIZE * SIZE // STEPS).mean() == 1 / STEPS


def test_nothing_is_left_of_the_cell() -> None:
    """The plain picture has the background's colour; the blur wipes the outline away."""
    picture = np.full((SIZE, SIZE, 3), 220, np.uint8)
    picture[100:124, 100:124] = (90, 20, 120)
    plain, blurred = without_cells(picture)
    assert np.unique(plain).tolist() == [220]
    assert np.abs(blurred[112, 112].astype(int) - 220).max() < 60
    assert np.abs(np.diff(blurred[112, :, 1].astype(int))).max() < 6


# ---- rank correlation


def test_spearman_is_the_correlation_of_ranks() -> None:
    """1 for any growing relation, -1 for a falling one, 0 for a flat map; ties share a rank."""
    values = np.array([[1, 2], [3, 4]], np.float32)
    assert spearman(values, np.exp(values)) == pytest.approx(1)
    assert spearman(values, -values) == pytest.approx(-1)
    assert spearman(values, np.zeros_like(values)) == 0
    # ranks 1 2 3 4 and 1.5 1.5 3 4: covariance 4.5, squares 5 and 4.5
    tied = np.array([[0, 0], [5, 6]], np.float32)
    assert spearman(values, tied) == pytest.approx(4.5 / np.sqrt(5 * 4.5))


# ---- photographs


def photograph(number: int, label: int) -> Photograph:
    return Photograph(Path(f"{number}.png"), label, "s", "test", str(number))


def test_photographs_are_spread_over_the_classes() -> None:
    """As many of each as there are, the same ones every time."""
    many = [photograph(n, 0 if n < 90 else 1 if n < 98 else 2) for n in range(100)]
    chosen = spread(many, 12)
    assert [sum(p.label == label for p in chosen) for label in range(3)] == [5, 5, 2]
    assert spread(many, 12) == chosen
    assert len(spread(many, 500)) == 100


def test_an_interval_resamples_groups() -> None:
    """Ten photographs of two cells leave three possible means; those of one cell leave one."""
    values = [1.0] * 5 + [0.0] * 5
    assert measures._figure(values, ["a"] * 5 + ["b"] * 5) == {
        "value": 0.5,
        "interval_95": [0.0, 1.0],
    }
    assert measures._figure(values, ["a"] * 10)["interval_95"] == [0.5, 0.5]


# ---- the whole


@pytest.fixture(scope="module")
def drawn(smear: Image.Image, tmp_path_factory) -> list[Photograph]:
    """Four drawn photographs of one source with a box, two of another without."""
    folder = tmp_path_factory.mktemp("drawn")
    photographs = []
    for number in range(6):
        path = folder / f"{number}.png"
        smear.rotate(40 * number, fillcolor=(230, 220, 225)).save(path)
        source, boxes = ("a", ((90, 90, 270, 270),)) if number < 4 else ("b", ())
        photographs.append(Photograph(path, number % 4, source, "test", str(number), boxes))
    return photographs


@pytest.fixture(scope="module")
def labelled(tiny_model, drawn: list[Photograph]) -> list[Photograph]:
    """The same, labelled as the tiny model answers, but for one."""
    from dataclasses import replace

    from export.dataset import load_input

    answers = tiny_model.predict(np.stack([load_input(p.path) for p in drawn]), verbose=0)
    labels = answers.argmax(1)
    labels[0] = (labels[0] + 1) % 4
    return [replace(p, label=int(label)) for p, label in zip(drawn, labels, strict=True)]


@pytest.fixture(scope="module")
def report(tiny_model, labelled: list[Photograph]):
    return trust(tiny_model, labelled, count=3, randomised=2)


def test_every_source_is_measured(report) -> None:
    """What is answered wrong, or has no box, is not asked to point; the rest serves it all."""
    assert set(report) == {"a", "b"}
    assert (report["a"]["boxed"], report["a"]["boxed_and_right"]) == (4, 3)
    assert report["a"]["by_split"] == {"test": 4}
    assert set(report["a"]["pointing"]) == {*MAPS, "centre", "chance"}
    assert report["a"]["pointing"]["centre"]["value"] == 1.0
    box = inside([(90, 90, 270, 270)], (360, 363)).mean()
    assert report["a"]["energy"]["chance"]["value"] == pytest.approx(box, abs=1e-4)
    assert "pointing" not in report["b"]
    assert (report["a"]["perturbed"], report["b"]["perturbed"]) == (3, 2)


def test_curves_run_between_the_same_ends(report) -> None:
    """Every order starts and ends at the same two pictures."""
    for measure in ("deletion", "insertion"):
        curves = [found["curve"] for found in report["a"][measure].values()]
        assert {len(curve) for curve in curves} == {STEPS + 1}
        for end in (0, -1):
            assert max(c[end] for c in curves) - min(c[end] for c in curves) < 1e-3
    ends = [report["a"][m]["centre"]["curve"] for m in ("deletion", "insertion")]
    assert ends[0][0] == pytest.approx(ends[1][-1], abs=1e-3)


def test_randomisation_goes_down_from_the_top(report) -> None:
    """Layer by layer, and the maps change."""
    found = report["a"]["randomisation"]
    assert found["layers"][0] == "trained"
    assert found["layers"][2:] == ["conv9", "conv8", "conv7"]
    assert found["photographs"] == 2
    for name in MAPS:
        assert found[name][0] == 1.0
        assert found[name][-1] < 0.9


def test_nothing_learnt_is_left() -> None:
    """A kernel keeps its spread alone, round 0; a bias is 0."""
    kernel = np.linspace(-4, 1, 3000, dtype=np.float32).reshape(3, 10, 100)
    drawn = unlearnt(kernel, np.random.default_rng(0))
    assert drawn.shape == kernel.shape
    assert drawn.mean() == pytest.approx(0, abs=0.1)
    assert drawn.std() == pytest.approx(kernel.std(), rel=0.1)
    assert unlearnt(kernel[0, 0], np.random.default_rng(0)).tolist() == [0] * 100


def test_the_model_is_left_as_it_was(tiny_model, labelled: list[Photograph]) -> None:
    """Only a clone is randomised."""
    before = [weight.copy() for weight in tiny_model.get_weights()]
    trust(tiny_model, labelled[:1], count=1, randomised=1)
    for weight, kept in zip(tiny_model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, kept)


def test_the_table_shows_every_map(report) -> None:
    """One is marked as the best; what was not measured is a dash."""
    text = table(report)
    first, second = text.split("\nb: ")
    assert "a: 4 test; 3 of 4 with boxes are answered right" in first
    assert first.count("HiResCAM, LayerCAM 18x18, 9x9 (served)") == 1
    assert first.count(" *") >= 4
    assert re.search(r"^  GradCAM 4x4 +- +- +\d", second, re.MULTILINE)


def test_the_report_is_written_whole(report, tmp_path: Path) -> None:
    """The JSON is the report and compact; the picture is one; nothing else is left."""
    write(report, tmp_path / "new")
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["trust.json", "trust.png"]
    text = (tmp_path / "new/trust.json").read_text()
    assert json.loads(text) == report
    assert len(json.dumps(report)) < 14_000
    with Image.open(tmp_path / "new/trust.png") as picture:
        assert picture.width > 1000


def test_the_command_measures_and_writes(capsys, weights_file, class_folders, tmp_path) -> None:
    """`trust` prints the table of the splits that are asked for."""
    from export.cli import main

    out = tmp_path / "out"
    data = class_folders(4)
    arguments = ["trust", str(weights_file), str(data), "--photographs", "1", "--out", str(out)]
    assert main([*arguments, "--split", "val"]) == 0
    assert "photographs: 4 val; 0 of 0 with boxes" in capsys.readouterr().out
    found = json.loads((out / "trust.json").read_text())["photographs"]["randomisation"]
    assert all(found["layercam_18x18"])  # a network that is alive throughout: no map is flat
    layers = found["layers"]
    assert layers[:5] == ["trained", "probabilities", "dense2", "dense1", "conv9"]
    assert layers[-1] == "conv1"


@pytest.mark.parametrize("count", ["0", "-3", "many"])
def test_a_count_that_is_none_is_refused(capsys, count: str) -> None:
    """Status 2 and the usage."""
    from export.cli import main

    with pytest.raises(SystemExit) as left:
        main(["trust", "w.keras", "data", "--photographs", count])
    assert left.value.code == 2
    assert "--photographs" in capsys.readouterr().err
