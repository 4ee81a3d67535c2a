"""The goals that a record is held to."""

import pytest

from loadtest.bench import BASELINE, goals


def described(overlay: float, longer: float, share: float) -> dict:
    """What a record of three runs says; the first is far off."""
    runs = [(9 * overlay, 9 * longer, share / 9), (overlay, longer, share), (0.9, 0.0, 1.1)]
    return {
        "ratios": [{"gateway overlay": {"p50": o, "throughput": s}} for o, _, s in runs],
        "figures": [
            {BASELINE: {"p50": 20.0}, "gateway none": {"p50": 20.0 + more}} for _, more, _ in runs
        ],
    }


@pytest.mark.parametrize(
    ("measured", "missed"),
    [
        ((1.2, 4.0, 0.9), []),
        ((1.21, 4.0, 0.9), ["gateway overlay's p50 at most 1.2 times bare gradcam's: 1.21"]),
        ((1.2, 4.1, 0.9), ["gateway none's p50 at most 4 ms more than bare gradcam's: +4.1 ms"]),
        (
            (1.2, 4.0, 0.89),
            ["gateway overlay's throughput at least 0.9 times bare gradcam's: 0.89"],
        ),
    ],
)
def test_each_goal_is_met_or_missed_by_itself(measured, missed):
    """By the middle one of the runs."""
    lines = goals.told(described(*measured)).splitlines()
    assert len(lines) == 3
    assert [line.removeprefix("- MISSED: ") for line in lines if "MISSED" in line] == missed
    assert sum(line.startswith("- met: ") for line in lines) == 3 - len(missed)
