"""The regression gate's arithmetic: bands, which side is worse, which machines compare."""

import numpy as np
import pytest

from loadtest import machine
from loadtest.bench import BASELINE, WITNESS, gate
from loadtest.bench.outcome import MEASURES, Turn, figures, ratios, refusals


def run(value: float) -> dict[str, dict[str, float]]:
    """Ratios of one run: one contender's are all ``value``."""
    return {BASELINE: dict.fromkeys(MEASURES, 1.0), "gateway": dict.fromkeys(MEASURES, value)}


RECORDED = gate.bands([run(2.0), run(2.1), run(2.2)], {"gateway"})


@pytest.mark.parametrize(
    ("outside", "degrees", "published"),
    [(0.05, 4, 2.776), (0.05, 9, 2.262), (0.01, 1, 63.657), (0.001, 4, 8.610), (0.05, 30, 2.042)],
)
def test_students_quantiles_are_the_published_ones(outside, degrees, published):
    """As in any table of Student's t, two-sided."""
    assert gate.student_t(outside, degrees) == pytest.approx(published, abs=0.001)


def test_a_band_is_a_prediction_interval_in_logarithms():
    """Its middle is the geometric mean, and its reach t s sqrt(1 + 1/k)."""
    low, value, high = RECORDED["gateway"]["p50"]
    logs = np.log([2.0, 2.1, 2.2])
    t = gate.student_t(2 * 0.05 / len(MEASURES), 2)
    assert value == pytest.approx(np.exp(logs.mean()))
    assert np.log(high / value) == pytest.approx(t * logs.std(ddof=1) * (4 / 3) ** 0.5)
    assert value / low == pytest.approx(high / value)


def test_the_smallest_change_that_is_told_is_where_the_band_ends():
    """Upwards for what is worse when larger, downwards for the throughput."""
    low, value, high = RECORDED["gateway"]["p50"]
    told = gate.smallest(RECORDED)
    assert told["p50"] == pytest.approx(high / value - 1)
    assert told["throughput"] == pytest.approx(1 - low / value)


OURS = {"bare serving_default", *(f"gateway {number}" for number in range(4))}


def noisy(dice: np.random.Generator) -> dict[str, dict[str, float]]:
    """Ratios of one run of five contenders, each and the baseline with noise of its own, which
    together make 2 %.
    """
    names = sorted(OURS)
    noise = np.exp(dice.normal(0, 0.02 / 2**0.5, (len(names) + 1, len(MEASURES))))
    ratios = 2 * noise[1:] / noise[0]
    measured = {
        n: dict(zip(MEASURES, row, strict=True)) for n, row in zip(names, ratios, strict=True)
    }
    return {BASELINE: dict.fromkeys(MEASURES, 1.0), **measured}


@pytest.mark.parametrize("runs", [3, 4, 5])
def test_unchanged_runs_are_told_to_be_worse_in_1_of_20_at_most(runs):
    """Over all 30 ratios, and although these share the baseline's noise."""
    dice = np.random.default_rng(7)
    alarms = 0
    for _ in range(300):
        recorded = gate.bands([noisy(dice) for _ in range(runs)], OURS)
        found = gate.deviations(noisy(dice), recorded)
        alarms += any(deviation.worse for deviation in found)
    assert alarms <= 15


@pytest.mark.parametrize("measure", MEASURES)
def test_what_is_worse_by_15_in_100_is_told_at_noise_of_2(measure):
    """With four runs recorded, in 17 checks of 20; and nothing else is told with it."""
    dice, told = np.random.default_rng(7), 0
    for _ in range(200):
        recorded = gate.bands([noisy(dice) for _ in range(4)], OURS)
        measured = noisy(dice)
        measured["gateway 1"][measure] *= 1 / 1.15 if measure == "throughput" else 1.15
        worse = [d for d in gate.deviations(measured, recorded) if d.worse]
        told += [(d.contender, d.measure) for d in worse] == [("gateway 1", measure)]
    assert told >= 170


def test_nothing_is_said_of_a_ratio_inside_its_band():
    """The noise is no regression."""
    assert gate.deviations(run(2.15), RECORDED) == []


@pytest.mark.parametrize(
    ("ratio", "name", "worse"),
    [
        (40.0, "gateway", {"p50", "p95", "p99", "cpu", "memory"}),
        (0.1, "gateway", {"throughput"}),
        (40.0, WITNESS, {"throughput"}),
        (0.1, WITNESS, {"p50", "p95", "p99", "cpu", "memory"}),
    ],
)
def test_which_side_is_worse(ratio, name, worse):
    """More is worse but for the throughput; and the witness does not change by itself."""
    runs = [{**run(value), WITNESS: run(value)["gateway"]} for value in (2.0, 2.1, 2.2)]
    measured = runs[1] | {name: run(ratio)["gateway"]}
    found = gate.deviations(measured, gate.bands(runs, {"gateway"}))
    assert {deviation.contender for deviation in found} == {name}
    assert {deviation.measure for deviation in found} == set(MEASURES)
    assert {deviation.measure for deviation in found if deviation.worse} == worse


def test_who_serves_our_model_without_being_ours_is_not_judged():
    """FastAPI changes with the exported model: it says nothing of the machine."""
    runs = [{**run(value), "fastapi": run(value)["gateway"]} for value in (2.0, 2.1, 2.2)]
    recorded = gate.bands(runs, {"gateway"})
    assert "fastapi" not in recorded
    assert gate.deviations(runs[1] | {"fastapi": run(40.0)["gateway"]}, recorded) == []


def test_a_deviation_is_told_in_a_sentence():
    """With the ratio, what was recorded, and the noise."""
    said = str(gate.deviations(run(40.0), RECORDED)[0])
    assert said.startswith(
        "WORSE: gateway, p50, ms: 40.00 times bare gradcam; recorded 2.10, noise"
    )


def test_machines_of_one_build_compare_whatever_their_clock_and_kernel():
    """What slows all contenders alike is no difference."""
    here = machine.facts()
    there = here | {"cpu": "another", "memory_gb": 1.0, "kernel": "old", "load": 9.0}
    assert gate.differences(here, there) == []


@pytest.mark.parametrize(
    "changed",
    [
        {"cores": 64},
        {"flags": []},
        {"architecture": "arm64"},
        {"python": "2.7"},
        *({"packages": machine.facts()["packages"] | {name: "0"}} for name in ("pillow", "flask")),
        {"packages": machine.facts()["packages"] | {"another": "1"}},
    ],
)
def test_machines_of_another_build_do_not_compare(changed):
    """What changes the model more than what is around it, or the reverse, is named."""
    here = machine.facts()
    (difference,) = gate.differences(here, here | changed)
    assert " here and " in difference


def test_figures_are_over_all_turns_and_ratios_to_the_baseline():
    """Sums of answers and processor time, the highest memory; each divided by the baseline's."""
    turns = [
        Turn(0, BASELINE, 2.0, 100, 0, 2.0, 10**9),
        Turn(0, "gateway", 2.0, 50, 0, 2.0, 10**9),
        Turn(1, BASELINE, 2.0, 100, 0, 2.0, 10**9),
        Turn(1, "gateway", 2.0, 30, 0, 2.0, 2 * 10**9),
    ]
    measured = figures({BASELINE: [10.0, 10.0], "gateway": [20.0, 20.0]}, turns)
    assert measured["gateway"] == {
        "p50": 20, "p95": 20, "p99": 20, "throughput": 20, "cpu": 50, "memory": 2000
    }  # fmt: skip
    assert ratios(measured)["gateway"] == {
        "p50": 2, "p95": 2, "p99": 2, "throughput": 0.4, "cpu": 2.5, "memory": 2
    }  # fmt: skip


def test_refusals_are_summed_over_all_turns():
    """Those of the first turn as well as those of the last."""
    turns = [
        Turn(0, "gateway", 2.0, 50, 3, 2.0, 10**9),
        Turn(0, BASELINE, 2.0, 50, 0, 2.0, 10**9),
        Turn(1, "gateway", 2.0, 50, 4, 2.0, 10**9),
    ]
    assert refusals(turns) == {"gateway": 7, BASELINE: 0}
