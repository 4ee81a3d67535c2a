"""When an objective is missed, and what is said then."""

import dataclasses

import pytest

from loadtest import plots
from loadtest import samples as raw
from loadtest.gates import Objective, judge, percentile
from loadtest.samples import RIGHT, WRONG, Sample


def sample(ms=20.0, outcome=RIGHT, name="interactive", photographs=1, late_ms=0.1, **others):
    given = {"at": 1.5, "level": 2, "server_timing": "wait;dur=1.0, predict;dur=12.5, total;dur=15"}
    return Sample(
        ms=ms, outcome=outcome, name=name, photographs=photographs, late_ms=late_ms,
        **(given | others),
    )  # fmt: skip


QUICK = [sample()] * 98
SLOW = "2 of 100 requests of interactive took longer than 200 ms for each photograph, the slowest"


def test_an_objective_that_is_met_ends_with_0(capsys):
    """One of a hundred may be slow; it is told where one goes on."""
    verdict = judge(Objective(), [*QUICK, sample(ms=900), sample()])
    assert verdict.status == 0
    verdict.tell()
    assert capsys.readouterr().out == (
        "Objective met: 100 requests; 99 % of interactive within 20.0 ms a photograph, where "
        "200 ms are allowed.\n"
    )


@pytest.mark.parametrize(
    ("samples", "sentence"),
    [
        ([*QUICK, sample(ms=200.04), sample(ms=900)], f"{SLOW} 900.0 ms; 1 in 100 may."),
        ([*QUICK, *[sample(ms=200.04)] * 2], f"{SLOW} 200.0 ms; 1 in 100 may."),
        ([*QUICK, sample(), sample(outcome="500")], "1 of 100 requests of interactive were answer"),
        (
            [*QUICK, sample(), sample(outcome="503")],
            "requests of interactive were answered with 50",
        ),
        ([*QUICK, sample(), sample(outcome="429")], "with HEMAVISION_CLIENT_SHARE=1 allows it"),
        ([*QUICK, sample(), sample(outcome=WRONG)], "answered otherwise than by the idle service"),
        ([*QUICK, sample(), sample(outcome="SSLError")], "no answer: SSLError"),
    ],
)
def test_what_is_missed_ends_with_1_and_one_sentence(samples, sentence, capsys):
    """Each way in which an objective is missed has its own."""
    verdict = judge(Objective(), samples)
    assert verdict.status == 1
    verdict.tell()
    (told,) = capsys.readouterr().err.splitlines()
    assert told.startswith("Objective missed: ")
    assert sentence in told


def test_a_form_has_the_time_of_all_its_photographs():
    """Four may take four times as long."""
    four = {"name": "batch of 4", "photographs": 4}
    assert not Objective(200).missed([sample(ms=799, **four)] * 2)
    assert Objective(200).missed([sample(ms=801, **four)] * 2)


def test_each_kind_is_judged_by_itself():
    """Many quick ones hide no slow ones."""
    quick, slow = [sample()] * 1000, [sample(ms=300, name="explain")] * 2
    (told,) = Objective().missed(quick + slow)
    assert told.startswith("2 of 2 requests of explain took longer than 200 ms")


def test_kinds_of_few_requests_are_judged_together():
    """One slow request of each is told as one share, and who they are where all is well."""
    few = [sample(name=name) for name in ("explain", "batch of 4") for _ in range(60)]
    slow = [sample(ms=900, name="explain"), sample(ms=900, name="batch of 4")]
    (told,) = judge(Objective(), [*QUICK, *QUICK, *few, *slow]).sentences
    assert "2 of 122 requests of batch of 4 and explain took longer" in told
    met, together = judge(Objective(), [*QUICK, *QUICK, *few, slow[0]]).sentences
    assert met.startswith("Objective met: 317 requests")
    assert together == "Judged together, being fewer than 100 each: batch of 4 (60), explain (61)."


@pytest.mark.parametrize(
    ("samples", "sentence"),
    [
        ([], "Not one request was answered"),
        ([sample()], "1 request is too few to tell how long 99 of 100 take: 100 are needed."),
        ([*QUICK, sample(ms=900)], "99 requests are too few"),
        ([*QUICK, *[sample(late_ms=20.04)] * 2], "2 of 100 requests more than 20 ms late"),
    ],
)
def test_what_proves_nothing_ends_with_2(samples, sentence, capsys):
    """Too few requests, or too many that the load generator itself sent late."""
    verdict = judge(Objective(), samples)
    assert verdict.status == 2
    verdict.tell()
    (told,) = capsys.readouterr().err.splitlines()
    assert sentence in told


@pytest.mark.parametrize(
    "missed",
    [*({"outcome": outcome} for outcome in (WRONG, "500", "503", "429", "SSLError")), {"ms": 400}],
)
def test_a_late_load_generator_hides_nothing(missed):
    """What is missed is missed all the same; that it was late is told besides."""
    late = {"late_ms": 80, "ms": 100}
    verdict = judge(Objective(), [*[sample(**late)] * 98, *[sample(**late | missed)] * 2])
    assert verdict.status == 1
    told, said = verdict.sentences
    assert "it sent 100 of 100 requests more than 20 ms late, up to 80.0 ms" in told
    assert said.startswith("Objective missed: 2 of 100 requests of interactive ")


def test_the_lateness_itself_is_no_slowness_of_the_service():
    """It took 150 ms, whatever there was before that."""
    assert judge(Objective(), [sample(late_ms=100, ms=250)] * 100).status == 2


def test_few_requests_hide_nothing():
    """Two slow ones are more than one in a hundred, and told with how few there were."""
    verdict = judge(Objective(), [sample(), sample(ms=300), sample(ms=300)])
    assert verdict.status == 1
    few, missed = verdict.sentences
    assert few.startswith("3 requests are too few")
    assert missed.startswith("Objective missed: 2 of 3 requests")


def test_percentiles_are_times_that_were_measured():
    """The nearest rank: no interpolation makes up a time."""
    assert [percentile(range(1, 101), p) for p in (0, 50, 99, 100)] == [1, 50, 99, 100]
    assert percentile([7.0], 99) == 7.0


def test_raw_data_is_read_as_it_was_written(tmp_path):
    """And the server's own account with it."""
    kept = [sample(ms=20.125), sample(outcome="503", server_timing="")]
    raw.write(tmp_path / "raw.csv", kept)
    assert raw.read(tmp_path / "raw.csv") == kept
    assert kept[0].stages() == {"wait": 1.0, "predict": 12.5, "total": 15.0}


def test_plots_are_drawn_from_raw_data(tmp_path):
    """Of several files too; a kind without an answer is left out."""
    at = [
        dataclasses.replace(sample(), at=float(second), level=second // 5) for second in range(10)
    ]
    raw.write(tmp_path / "a.csv", at)
    raw.write(tmp_path / "b.csv", [sample(name="model server", server_timing=""), sample(
        outcome="503", name="explain")])  # fmt: skip
    files = [str(tmp_path / name) for name in ("a.csv", "b.csv")]
    assert plots.main([*files, "--folder", str(tmp_path / "out"), "--name", "x"]) == 0
    drawn = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert drawn == ["x-latency.png", "x-stages.png", "x-throughput.png"]


def lines(figure) -> dict[str, list[float]]:
    """What each line of a plot is called, and its heights."""
    return {line.get_label(): [*line.get_ydata()] for line in figure.axes[0].get_lines()}


def test_the_objective_of_a_plot_is_the_one_that_was_given():
    """One photograph's, and that of a form of four beside it."""
    figure = plots.latency([sample(), sample(name="batch of 4", photographs=4)], 50)
    told = [text.get_text() for text in figure.axes[0].texts]
    assert told == ["objective: 50 ms", "objective of 4 photographs: 200 ms"]
    heights = [heights for heights in lines(figure).values() if heights[0] == heights[-1]]
    assert [50, 50] in heights
    assert [200, 200] in heights


def test_refusals_are_a_line_of_their_own():
    """429 and 503, in photographs a second; who refused nobody has no such line."""
    answered = [sample(at=float(second), level=5) for second in range(11)]
    refused = [sample(at=1.0, level=5, outcome=outcome) for outcome in ("429", "503")]
    drawn = lines(plots.throughput([answered + refused]))
    assert drawn == {"interactive": [1.1], "interactive, refused (429, 503)": [0.2]}
    assert "interactive, refused (429, 503)" not in lines(plots.throughput([answered]))


def test_a_level_lasts_as_long_as_it_was_there():
    """A spike's calm comes twice, and the peak between is no part of it."""
    calm = [*range(11), *range(20, 31)]
    run = [sample(at=float(second), level=1 if second in calm else 4) for second in range(31)]
    assert lines(plots.throughput([run]))["interactive"][0] == pytest.approx(22 / 20)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "cannot be read: No such file or directory."),
        (b"", "has not one request in it: there is nothing to draw."),
        (b"round,sent as\n0,form\n", "has no samples: what --raw of the locustfile wrote is"),
        (b"\x89PNG\xff", "has no samples: what --raw of the locustfile wrote is needed."),
    ],
)
def test_what_cannot_be_drawn_ends_with_2(content, told, tmp_path, capsys):
    """One sentence, with the file's name."""
    raw_data = tmp_path / "raw.csv"
    if content is not None:
        raw_data.write_bytes(content)
    with pytest.raises(SystemExit) as ended:
        plots.main([str(raw_data), "--folder", str(tmp_path)])
    assert ended.value.code == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith(f"{raw_data} {told}")
