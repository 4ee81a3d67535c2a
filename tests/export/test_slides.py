"""Slides of known composition: drawn as told, judged rightly, and put into the card."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from export import card, slides_report
from export.cli import main
from export.dataset import Photograph
from export.evaluate import Answers
from export.release import SHIPPED, card_of
from export.slides import CELLS, COMPOSITIONS, draw_slide, judged, pool_of, simulate, study
from export.smear import draw_smear
from export.weights import sha256
from gateway.annotation import load_reference
from gateway.confusion import Confusion
from gateway.contract import CLASSES
from gateway.differential import Cell, Interval, compare, count

PERFECT = {name: [name] for name in CLASSES}
CONFUSED = {
    "EOSINOPHIL": ["EOSINOPHIL"] * 19 + [None],
    "LYMPHOCYTE": ["LYMPHOCYTE"] * 8 + ["MONOCYTE"] * 2,
    "MONOCYTE": ["MONOCYTE"] * 9 + ["NEUTROPHIL"],
    "NEUTROPHIL": ["NEUTROPHIL"] * 19 + ["EOSINOPHIL"],
}
MEASURED = Confusion(
    "there", ((190, 0, 0, 0, 10), (0, 160, 40, 0, 0), (0, 0, 180, 20, 0), (10, 0, 0, 190, 0))
)


def answered(source: str, split: str, said: list[int], strange: list[float]) -> Answers:
    """Answers to one photograph of each class in turn."""
    shown = [
        Photograph(Path(f"{n}.png"), n % 4, source, split, f"{split} {n}") for n in range(len(said))
    ]
    return Answers(shown, np.eye(4)[said], np.array(strange))


def test_the_compositions_are_whole_and_clear() -> None:
    """Each is of a hundred percent, and no share lies near an end of its range."""
    classes = load_reference().classes
    for shares in COMPOSITIONS.values():
        assert sum(shares) == pytest.approx(100)
        for name, share in zip(CLASSES, shares, strict=True):
            around = Interval(share - 0.25, share + 0.25)
            assert compare(around, classes[name].normal_range) != "untold"


def test_an_answer_is_a_class_or_abstaining() -> None:
    """Above 1 the photograph is too unfamiliar to be named."""
    pool = pool_of(answered("lab", "test", [0, 1, 3, 3], [0.5, 1.0, 1.01, 0.2]))
    assert pool == {
        "EOSINOPHIL": ["EOSINOPHIL"],
        "LYMPHOCYTE": ["LYMPHOCYTE"],
        "MONOCYTE": [None],
        "NEUTROPHIL": ["NEUTROPHIL"],
    }


def test_a_class_without_a_photograph_is_named() -> None:
    """Of it no slide can be made."""
    with pytest.raises(ValueError, match="no photograph of NEUTROPHIL"):
        pool_of(answered("lab", "test", [0, 1, 2], [0, 0, 0]))


def test_a_slide_holds_its_cells_in_its_shares() -> None:
    """On average as many as told, and as many cells as asked for."""
    drawn = [
        cell.answer
        for seed in range(300)
        for cell in draw_slide(np.random.default_rng(seed), PERFECT, COMPOSITIONS["normal"], 100)
    ]
    assert len(drawn) == 30_000
    for name, share in zip(CLASSES, COMPOSITIONS["normal"], strict=True):
        assert 100 * drawn.count(name) / len(drawn) == pytest.approx(share, abs=1)


def test_shares_are_judged_against_the_truth() -> None:
    """A flag is wrong where the share lies within, or on the other side."""
    leukocytes = load_reference().classes
    series = [Cell("EOSINOPHIL")] * 30 + [Cell("NEUTROPHIL")] * 70
    share = count(series, leukocytes, MEASURED).shares[0]
    assert share.finding == "high"
    right, wrong = judged([share], 30.0), judged([share], 3.0)
    assert (right["truth"], right["told"], right["flagged_wrongly"]) == ("high", 1, 0)
    assert (wrong["truth"], wrong["told"], wrong["flagged_wrongly"]) == ("within", 0, 1)
    assert (right["raw"], right["widest"], wrong["raw"], wrong["corrected"]) == (1, 1, 0, 0)
    assert judged([count(series, leukocytes, None).shares[0]], 30.0)["corrected"] is None


def test_the_correction_holds_what_raw_limits_miss() -> None:
    """Of a lymphocytosis that loses a fifth of its cells to the monocytes."""
    lymphocytosis = COMPOSITIONS["lymphocytosis"]
    found = simulate(CONFUSED, lymphocytosis, 500, MEASURED, 60)["LYMPHOCYTE"]
    assert found["raw"] < 0.3
    assert found["corrected"] >= 0.9
    assert found["widest"] >= found["corrected"]
    plain = simulate(CONFUSED, lymphocytosis, 500, None, 60)["LYMPHOCYTE"]
    assert (plain["raw"], plain["corrected"]) == (found["raw"], None)


def test_every_source_is_studied_with_every_correction_there_is(tmp_path: Path) -> None:
    """Without one, and by its own confusion; and shown as table, JSON and picture."""
    said, strange = [0, 1, 2, 3] * 3, [0.5] * 12
    one, other = (answered(source, "test", said, strange) for source in ("one", "other"))
    both = Answers(
        [*one.photographs, *other.photographs],
        np.concatenate([one.logits, other.logits]),
        np.concatenate([one.unfamiliarity, other.unfamiliarity]),
    )
    report = study(both, {"one": MEASURED}, slides=1)
    corrections = {
        source: {result["correction"] for result in found["results"]}
        for source, found in report["sources"].items()
    }
    assert corrections == {"one": {"none", "one"}, "other": {"none"}}
    table = slides_report.table(report)
    assert [row[3] == "-" for row in table["rows"]] == [
        row[0].startswith("other") for row in table["rows"]
    ]
    assert len(table["rows"]) == 2 * len(COMPOSITIONS) * len(CELLS)
    assert {len(row) for row in table["rows"]} == {len(table["columns"])}
    slides_report.write(report, tmp_path)
    assert json.loads((tmp_path / "slides.json").read_text()) == report
    assert (tmp_path / "slides.png").read_bytes().startswith(b"\x89PNG")


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """The shipped weights, in a folder of their own."""
    return shutil.copytree(SHIPPED.parent, tmp_path / "weights") / SHIPPED.name


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Drawn smears, which the shipped network recognises."""
    for name in CLASSES:
        (tmp_path / "smears" / name).mkdir(parents=True)
        for seed in range(10):
            draw_smear(name, seed, 240, 240).save(tmp_path / f"smears/{name}/{seed}.png")
    return tmp_path / "smears"


def test_the_command_puts_study_and_confusion_into_the_card(
    weights: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And leaves the weights and the rest of the card as they are."""
    before, digest = card_of(weights), sha256(weights)
    given = ["slides", weights, data, "--slides", "1", "--out", tmp_path / "out", "--card"]
    assert main([str(argument) for argument in given]) == 0
    assert "corrected limits hold" in capsys.readouterr().out
    after = card_of(weights)
    assert sha256(weights) == digest
    new = {"confusion", "slides"}
    assert {k: v for k, v in after.items() if k not in new} == {
        k: v for k, v in before.items() if k not in new
    }
    assert set(after["confusion"]) == {"smears"}
    assert sum(map(sum, after["confusion"]["smears"])) == 8
    assert weights.with_name("MODEL_CARD.md").read_text() == card.as_markdown(after)
    assert (weights.parent / "figures/slides.png").is_file()
    assert (tmp_path / "out/slides.json").is_file()


def test_photographs_without_a_test_split_are_refused(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A confusion cannot be tried on the photographs that it was measured on."""
    rows = ["path,source,split,label,group"]
    for name in CLASSES:
        draw_smear(name, 1, 240, 240).save(tmp_path / f"{name}.png")
        rows.append(f"{name}.png,lab,val,{name},{name}")
        rows.append(f"{name}.png,lab,train,{name},{name}")
    (tmp_path / "manifest.csv").write_text("\n".join(rows) + "\n")
    assert main(["slides", str(weights), str(tmp_path)]) == 2
    assert "is in the split `test`" in capsys.readouterr().err
