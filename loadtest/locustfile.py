"""Load on a running gateway by Locust: `locust -f loadtest/locustfile.py --help`.

Options, the shape of the load, and the gate. A run without a browser (`--headless`) ends with
status 0 where the objective was met, 1 where it was not, and 2 where nothing could be measured. The
verdict is its last word.
"""

from __future__ import annotations

import os
import subprocess
import sys
from argparse import ArgumentTypeError, Namespace
from collections.abc import Sequence
from dataclasses import astuple
from pathlib import Path
from typing import Any

from locust import LoadTestShape, events
from locust.argument_parser import LocustArgumentParser
from locust.env import Environment
from locust.runners import MasterRunner, WorkerRunner

from loadtest import photographs, requests, samples, target
from loadtest.arguments import amount, count, duration
from loadtest.gates import Objective, Verdict, judge
from loadtest.refusal import STATUS, refuse
from loadtest.samples import Sample
from loadtest.shapes import SHAPES, Stage, level_at
from loadtest.users import (
    PATIENCE,
    Asking,
    Batch,
    Explain,
    Interactive,
    Mixed,
    ModelServer,
    Setting,
    now,
)

__all__ = ["Batch", "Explain", "Interactive", "Mixed", "ModelServer", "Shaped"]  # for Locust

_SHAPES_HELP = (
    "of the load: --users all the time; up to them in five even steps; a quarter of them, in the "
    "middle third of the time all; half of them for a tenth of the time, then all; default: steady"
)
_DEFAULT_SECONDS = 60
_kept: list[Sample] = []


class Shaped(LoadTestShape):
    """The load of ``--shape``, up to ``--users`` for ``--run-time``."""

    use_common_options = True

    def tick(self) -> tuple[int, float] | None:
        """Return how many users there are now, all of them within a second."""
        assert self.runner is not None  # Locust sets it before it asks
        options = self.runner.environment.parsed_options
        level = level_at(_shape(options), self.get_run_time())  # type: ignore[no-untyped-call]
        return None if level is None else (level, float(level))


def _options(parser: LocustArgumentParser) -> None:
    _check_locusts_own(parser)
    group = parser.add_argument_group("HemaVision")
    add = group.add_argument
    add("--photographs", default="samples", metavar="DIR", help="any folder; default: samples")
    add("--most", type=count, default=50, help="photographs taken from DIR, evenly; default: 50")
    add("--shape", choices=list(SHAPES), default="steady", help=_SHAPES_HELP)
    add(
        "--loop",
        choices=["closed", "open"],
        default="closed",
        help="closed: --users people who wait for answers; open: --users requests a second",
    )
    add("--think", type=duration, default=1.0, help="seconds on average, closed loop; default: 1")
    add("--form", type=count, default=4, metavar="N", help="photographs in a form; default: 4")
    add("--model-server", default="127.0.0.1:8500", metavar="HOST:PORT", help="for ModelServer")
    parser.add_argument("--key", env_var="HEMAVISION_KEY", help="API key", is_secret=True)
    add("--cacert", env_var="HEMAVISION_CACERT", metavar="FILE", help="authority for HTTPS")
    add("--p99-ms", type=amount, default=200.0, help="objective of one photograph; default: 200")
    add(
        "--late-ms",
        type=duration,
        default=20.0,
        help="most that 99 %% may be sent late; default: 20",
    )
    add("--raw", default="loadtest/results/latest-load.csv", metavar="FILE", help="every request")
    add("--plots", metavar="DIR", help="draw the raw data there")


def _check_locusts_own(parser: LocustArgumentParser) -> None:
    """Refuse what Locust would take, or end with the status of a missed objective for."""
    types = {"user_classes": _user, "num_users": count}
    for option in parser._actions:  # noqa: SLF001  # argparse shows them to nobody
        option.type = types.get(option.dest, option.type)


def _user(name: str) -> str:
    known = [users.__name__ for users in Asking.__subclasses__()]
    if name not in known:
        raise ArgumentTypeError(f"{name!r} is no user; those are {', '.join(known)}")
    return name


def _prepare(environment: Environment, **_: Any) -> None:
    options = environment.parsed_options
    assert options is not None  # Locust was started by its command
    for file in (options.raw, options.html_file):
        _refuse_unwritable(Path(file).parent if file else None)
    _refuse_unwritable(Path(options.plots) if options.plots else None)
    if not options.user_classes:
        environment.user_classes = [Mixed]
    environment.stop_timeout = environment.stop_timeout or PATIENCE
    environment.host = environment.host or Asking.host
    where = target.Target(environment.host, options.key, options.cacert)
    if environment.user_classes != [ModelServer]:
        target.check(where)
    if ModelServer in environment.user_classes:
        target.check_model_server(options.model_server)
    if not isinstance(environment.runner, MasterRunner):
        _learn_right_answers(environment.user_classes, _setting(options, where))


def _refuse_unwritable(folder: Path | None) -> None:
    """Make a folder for what the test writes, or refuse before it has been measured in vain."""
    if folder is None:
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        refuse(f"{folder} cannot be made, to write into: {error.strerror}.")
    if not os.access(folder, os.W_OK):
        refuse(f"{folder} cannot be written into.")


def _setting(options: Namespace, where: target.Target) -> Setting:
    return Setting(
        target=where,
        model_server=options.model_server,
        photographs=photographs.named(Path(options.photographs), options.most),
        size=options.form,
        think=options.think,
        open_loop=options.loop == "open",
        shape=_shape(options),
        keep=_kept.append,
    )


def _learn_right_answers(classes: Sequence[Any], setting: Setting) -> None:
    asked = [request for users in classes for request in users.prepare(setting)]
    if wrong := sorted(set(requests.misnamed(asked))):
        print(f"Named otherwise than their folders, even idle: {', '.join(wrong)}")
    Asking.prepared.set()


def _shape(options: Any) -> list[Stage]:
    return SHAPES[options.shape](options.num_users or 1, options.run_time or _DEFAULT_SECONDS)


def _begin(**_: Any) -> None:
    _kept.clear()
    Asking.began = now()


def _send_samples(data: dict[str, Any], **_: Any) -> None:
    data["samples"] = [astuple(sample) for sample in _kept]
    _kept.clear()


def _take_samples(data: dict[str, Any], **_: Any) -> None:
    _kept.extend(samples.parse(row) for row in data.get("samples", []))


def _judge(environment: Environment, **_: Any) -> None:
    """Write what was measured, and end with the gate's status."""
    if isinstance(environment.runner, WorkerRunner):
        environment.process_exit_code = 0
        return
    environment.process_exit_code = STATUS  # should the next lines fail
    options = environment.parsed_options
    assert options is not None  # Locust was started by its command
    raw = Path(options.raw)
    samples.write(raw, sorted(_kept, key=lambda sample: sample.at))
    print(f"every request: {raw}")
    verdict = judge(Objective(options.p99_ms, options.late_ms), _kept)
    environment.process_exit_code = verdict.status
    _told_last(environment, verdict)
    if options.plots:
        _draw(raw, options)


def _told_last(environment: Environment, verdict: Verdict) -> None:
    """Tell the verdict below Locust's tables, which come between the two events."""
    environment.events.quit.add_listener(lambda **_: verdict.tell())  # type: ignore[no-untyped-call]


def _draw(raw: Path, options: Namespace) -> None:
    where = ["--folder", options.plots, "--objective", str(options.p99_ms)]
    subprocess.run(  # noqa: S603  # matplotlib is no friend of gevent; it says itself what is wrong
        [sys.executable, "-m", "loadtest.plots", raw, *where], check=False
    )


for _event, _listener in (
    (events.init_command_line_parser, _options),
    (events.init, _prepare),
    (events.test_start, _begin),
    (events.report_to_master, _send_samples),
    (events.worker_report, _take_samples),
    (events.quitting, _judge),
):
    _event.add_listener(_listener)  # type: ignore[no-untyped-call]
