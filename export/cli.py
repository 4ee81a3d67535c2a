"""The console: `python -m export COMMAND`. Each command's --help says what it is for."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gateway import contract

if TYPE_CHECKING:
    from export.dataset import Photograph
    from export.evaluate import Answers
    from export.gradcam import Network

_EPILOG = """\
The usual way, from photographs to a served model:
  python -m export data PBC_dataset_normal_DIB.zip DATA  from a publisher's archive; repeatable
  python -m export train DATA --out runs/mine            hours on a CPU; stop and resume at will
  python -m export release runs/mine DATA --weights export/weights/hemavision.keras
                                                         calibrate, measure, write the model card
  python -m export saved-model                           models/hemavision/<next version>/
  python -m export verify models/hemavision/1            fit to be served?
  python -m export serve                                 TensorFlow Serving's stand-in, port 8500
"""
_MODELS = Path("models") / contract.MODEL_NAME
_SHIPPED = Path(__file__).parent / "weights" / "hemavision.keras"
_SHIPPED_HELP = "default: the shipped"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return its exit status (1: it failed, 2: it could not be tried)."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    given = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that half-written work is undone
    try:
        status: int = given.run(given)
    except (ValueError, OSError) as error:  # the package's own errors are ValueErrors
        print(f"export: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("export: stopped", file=sys.stderr)
        return 130
    return status


@contextmanager
def _native_log_hidden() -> Iterator[None]:
    """Hide what TensorFlow's C++ side writes straight to the terminal.

    Importing it on a machine without a GPU prints a page of remarks on GPUs, whatever the log
    level. Python's own errors are exceptions and lose nothing.
    """
    sys.stderr.flush()
    terminal = os.dup(2)
    try:
        with Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(terminal, 2)
        os.close(terminal)


def _import_tensorflow() -> None:
    with _native_log_hidden():
        import tensorflow as tf
        from absl import logging

        logging.set_verbosity(logging.ERROR)  # Keras' advice against the format that was asked for
        tf.get_logger().setLevel("ERROR")  # remarks on a loader that is the real server's own
        tf.config.list_physical_devices()  # the rest of the remarks come with the first use


# Each command imports what it needs when it runs: TensorFlow takes seconds, and `draw`, `--help`
# and an export that is not needed do without it.


def _architecture(_: argparse.Namespace) -> int:
    _import_tensorflow()
    from export.architecture import build_model

    build_model().summary()
    return 0


def _draw(given: argparse.Namespace) -> int:
    from export.smear import draw_samples

    for path in draw_samples(given.folder, given.seed):
        print(path)
    return 0


def _data(given: argparse.Namespace) -> int:
    from export.sources import prepare

    prepared = prepare(given.source, given.out)
    for line in prepared.left_out:
        print(line, file=sys.stderr)
    if prepared.left_out:
        print(f"left out: {len(prepared.left_out)}, each named above", file=sys.stderr)
    print(prepared.summary())
    return 0


def _train(given: argparse.Namespace) -> int:
    _import_tensorflow()
    from export.train import RECIPES, train

    recipe = replace(RECIPES[given.recipe], leave_out=given.leave_out)
    best = train(given.data, given.out, recipe, given.seed, given.precision)
    print(f"best weights: {best}")
    return 0


def _evaluate(given: argparse.Namespace) -> int:
    _import_tensorflow()
    from export import figures, report
    from export.atomic import write_text
    from export.dataset import read_dataset, read_others

    photographs = read_dataset(given.data)
    asked = [p for p in photographs if p.split in (given.split, "val")]
    if not any(p.split == given.split for p in asked):
        raise ValueError(f"no photograph in {given.data} is in the split `{given.split}`")
    ask = _asker(given.model)
    answers, others = ask(asked), ask(read_others(given.data))
    temperature = report.refit_temperature(answers)
    chosen = answers.where(lambda p: p.split == given.split)
    trained = {p.cell for p in photographs if p.split == "train"}
    evaluation = report.evaluate(chosen, others, trained, temperature, applied=False)
    print(json.dumps(evaluation, indent=2) if given.json else report.as_text(evaluation))
    if given.out:
        written = figures.draw(evaluation, chosen, others, given.out)
        write_text(given.out / "evaluation.json", json.dumps(evaluation, indent=2) + "\n")
        if not given.json:
            print(f"written to {given.out}: evaluation.json, {', '.join(p.name for p in written)}")
    return 0


def _asker(model: str) -> Callable[[Sequence[Photograph]], Answers]:
    """Whoever answers about photographs: a model server's address, or a file of weights."""
    from export import answers

    scheme, separator, address = model.partition("://")
    if separator:
        if scheme != "grpc" or ":" not in address:
            raise ValueError(f"{model} is no model server: give grpc://HOST:PORT")
        return lambda photographs: answers.from_server(address, photographs)
    network = _network(Path(model))
    return lambda photographs: answers.from_network(network, photographs)


def _network(weights: Path) -> Network:
    """The network of a file of weights; with its familiarity, where that lies beside it."""
    from export.familiarity import Familiarity
    from export.gradcam import Network
    from export.release import FAMILIARITY_NAME, ReleaseError, card_of
    from export.weights import load_weights

    model = load_weights(weights)
    try:
        card_of(weights)
    except ReleaseError:  # weights in the making: what lies beside them may be others'
        return Network.of(model)
    return Network.of(model, Familiarity.load(weights.with_name(FAMILIARITY_NAME)))


def _trust(given: argparse.Namespace) -> int:
    _import_tensorflow()
    from export.dataset import read_dataset
    from export.release import card_of, write_card
    from export.trust import trust
    from export.trust_report import table, write, write_figure
    from export.weights import load_weights

    splits = given.split or ["test"]
    photographs = [p for p in read_dataset(given.data) if p.split in splits]
    if not photographs:
        raise ValueError(f"no photograph in {given.data} is in the split `{'`, `'.join(splits)}`")
    card = card_of(given.weights) if given.card else None
    report = trust(load_weights(given.weights), photographs, given.photographs)
    print(table(report))
    if given.out:
        write(report, given.out)
    if card:
        write_figure(report, given.weights.with_name("figures") / "trust.png")
        write_card(card | {"explanation_trust": report}, given.weights.parent)
    return 0


def _slides(given: argparse.Namespace) -> int:
    _import_tensorflow()
    from export import slides_report
    from export.answers import from_network
    from export.dataset import read_dataset
    from export.release import card_of, write_card
    from export.report import confusions
    from export.slides import study
    from gateway.confusion import confusions_of

    card = card_of(given.weights)
    photographs = [p for p in read_dataset(given.data) if p.split in ("val", "test")]
    answers = from_network(_network(given.weights), photographs)
    confusion = {"confusion": confusions(answers)}
    test = answers.where(lambda p: p.split == "test")
    if not test.photographs:
        raise ValueError(f"no photograph in {given.data} is in the split `test`")
    report = study(test, confusions_of(confusion), given.slides)
    table = slides_report.table(report)
    _print_table(table)
    if given.out:
        slides_report.write(report, given.out)
    if given.card:
        slides_report.write_figure(report, given.weights.with_name("figures") / "slides.png")
        write_card(card | confusion | {"slides": table}, given.weights.parent)
    return 0


def _speed(given: argparse.Namespace) -> int:
    _import_tensorflow()
    import numpy as np

    from export import speed, speed_report
    from export.agreement import agreements
    from export.dataset import load_input, read_dataset
    from export.variants import variants
    from export.weights import load_weights

    photographs = [p for p in read_dataset(given.data) if p.split == "test"]
    if len(photographs) < max(speed.BATCHES):
        raise ValueError(f"{given.data} has fewer than {max(speed.BATCHES)} test photographs")
    model, familiarity = load_weights(given.weights), _network(given.weights).familiarity
    operations = speed.operations(model)
    images = np.stack([load_input(p.path) for p in photographs[: max(speed.BATCHES)]])
    with ExitStack() as opened:
        with _native_log_hidden():
            ways = opened.enter_context(variants(model, familiarity))
        timings = speed.measure(ways, images, operations, given.rounds)
        agreed = [] if given.no_answers else list(agreements(ways, photographs))
    print(speed_report.about(operations))
    print(speed_report.speed_table(timings, [way.name for way in ways], operations))
    if agreed:
        print(speed_report.agreement_table(agreed))
    if given.out:
        speed.write(timings, given.out)
    return 0


def _print_table(table: dict[str, Any]) -> None:
    print(table["about"])
    rows = (table["columns"], *table["rows"])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True))
        print("  ".join(cells).rstrip())


def _release(given: argparse.Namespace) -> int:
    _import_tensorflow()
    from export.release import release

    card = release(given.run_folder, given.data, given.weights)
    for name, figures in card["metrics"].items():
        low, high = figures["accuracy"]["interval_95"]
        print(f"{name}: accuracy {figures['accuracy']['value']:.4f} ({low:.4f} to {high:.4f})")
    return 0


def _ablate(given: argparse.Namespace) -> int:
    _import_tensorflow()
    from export.ablate import VARIATIONS, ablate
    from export.release import card_of, write_card

    unknown = sorted(set(given.only) - set(VARIATIONS))
    if unknown:
        raise ValueError(
            f"no variation is called {'; '.join(unknown)}: there are {'; '.join(VARIATIONS)}"
        )
    card = card_of(given.card) if given.card else None
    table = ablate(given.data, given.out, given.only or list(VARIATIONS), given.seed)
    if card:
        write_card(card | {"ablation": table}, given.card.parent)
    _print_table(table)
    return 0


def _convert(given: argparse.Namespace) -> int:
    _import_tensorflow()
    from export.weights import convert

    convert(given.source, given.target)
    return 0


def _saved_model(given: argparse.Namespace) -> int:
    from export.fingerprint import exporter_fingerprint

    card = _card_beside(given.weights)
    newest = _newest_card(given.models)
    current = {"weights": card["weights"], "exporter": exporter_fingerprint()}
    if given.if_needed and newest and current.items() <= newest.items():
        print(f"{given.models}/{newest['version']} holds these weights already")
        return 0

    _import_tensorflow()
    from export.release import FAMILIARITY_NAME
    from export.saved_model import ExportError, write_version
    from export.weights import sha256

    for file, digest in (
        (given.weights, card["weights"]["sha256"]),
        (given.weights.with_name(FAMILIARITY_NAME), card["weights"]["familiarity_sha256"]),
    ):
        if sha256(file) != digest:
            raise ExportError(
                f"{file} is not the file that {given.weights.with_name('model_card.json')} "
                "describes: make all with `python -m export release`"
            )
    with _native_log_hidden():
        written = write_version(_network(given.weights), card, given.models, given.version)
    print(written)
    return 0


def _card_beside(weights: Path) -> dict[str, Any]:
    path = weights.with_name("model_card.json")
    for needed in (weights, path):
        if not needed.is_file():
            raise ValueError(
                f"there is no {needed}: `python -m export release` writes weights with their card"
            )
    card: dict[str, Any] = json.loads(path.read_text("utf-8"))
    if "familiarity_sha256" not in card.get("weights", {}):
        raise ValueError(
            f"{path} does not say what is familiar: write it with `python -m export release`"
        )
    return card


def _newest_card(models: Path) -> dict[str, dict[str, object]] | None:
    versions = [int(p.name) for p in models.glob("*") if p.name.isdecimal()]
    path = models / str(max(versions, default=0)) / contract.MODEL_CARD_FILE
    if not path.is_file():
        return None
    card: dict[str, dict[str, object]] = json.loads(path.read_text("utf-8"))
    return card


def _verify(given: argparse.Namespace) -> int:
    _import_tensorflow()
    from export.familiarity import Familiarity
    from export.release import FAMILIARITY_NAME
    from export.verify import verify
    from export.weights import load_weights, sha256

    if not (given.version / "saved_model.pb").is_file():
        raise ValueError(f"{given.version} is no version: it holds no saved_model.pb")
    failed = 0
    familiarity = Familiarity.load(given.weights.with_name(FAMILIARITY_NAME))
    model = load_weights(given.weights)
    photographs = _spread(given.photographs, given.count) if given.photographs else []
    for check in verify(given.version, model, familiarity, sha256(given.weights), photographs):
        print(f"{'passed' if check.passed else 'FAILED':<7} {check.name:<24} {check.finding}")
        failed += not check.passed
    print(f"{given.version}: {f'checks failed: {failed}' if failed else 'all checks passed'}")
    return 1 if failed else 0


def _spread(data: Path, count: int) -> list[Path]:
    """At most ``count`` test photographs of a data folder, evenly from all of them."""
    from export.dataset import read_dataset

    paths = [p.path for p in read_dataset(data) if p.split == "test"]
    if not paths:
        raise ValueError(f"no photograph in {data} is in the split `test`")
    count = min(count, len(paths))
    return [paths[number * len(paths) // count] for number in range(count)]


def _serve(given: argparse.Namespace) -> int:
    import logging

    _import_tensorflow()
    from export.local_server import LocalServer

    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    bfloat16 = given.mixed_precision == "bfloat16"
    server = LocalServer(contract.MODEL_NAME, given.models, given.address, bfloat16)
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    if given.until_eof:
        threading.Thread(target=_set_at_eof, args=(stop,), daemon=True).start()
    server.start(cancelled=stop)
    if not stop.is_set():
        print(f"{given.address.rsplit(':', 1)[0]}:{server.port}", flush=True)
        stop.wait()
    server.stop()
    return 0


def _set_at_eof(stop: threading.Event) -> None:
    sys.stdin.read()
    stop.set()


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is less than 1")
    return number


Command = Callable[[str, Callable[[argparse.Namespace], int], str], argparse.ArgumentParser]

_DATA = "a folder with a manifest.csv, or one of class folders"
_SPLITS = ("train", "val", "test")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m export",
        description="From labelled photographs to a model that TensorFlow Serving can serve.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(
        name: str, run: Callable[[argparse.Namespace], int], text: str
    ) -> argparse.ArgumentParser:
        # a module's name will do as well: `saved_model` is `saved-model`
        aliases = [name.replace("-", "_")] if "-" in name else []
        added = commands.add_parser(name, aliases=aliases, help=text, description=text)
        added.set_defaults(run=run)
        return added

    _add_pictures(command)
    _add_training(command)
    _add_measuring(command)
    _add_serving(command)
    return parser


def _add_pictures(command: Command) -> None:
    draw = command(
        "draw", _draw, "Draw one sample picture a class: no specimens, just to try the software."
    )
    draw.add_argument("folder", type=Path, metavar="FOLDER")
    draw.add_argument("--seed", type=int, default=1, help="another seed, other drawings")

    sources = command(
        "data",
        _data,
        "Turn a published data set (PBC, BCCD, Blood Cell Images) into a folder to train on.",
    )
    sources.add_argument("source", type=Path, metavar="SOURCE", help="folder, .zip or .tar(.gz)")
    sources.add_argument(
        "out", type=Path, metavar="OUT", help="new, empty, or DATA that this source is added to"
    )


def _add_training(command: Command) -> None:
    command("architecture", _architecture, "Print the network, layer by layer.")

    train = command(
        "train", _train, "Train. Run it again after a stop: it goes on after the last whole epoch."
    )
    train.add_argument("data", type=Path, metavar="DATA", help=_DATA)
    train.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="the run's own folder"
    )
    train.add_argument(
        "--recipe",
        choices=("default", "owner"),
        default="default",
        help="default: windows, then whole frames, varied, averaged; owner: whole frames as they "
        "come, plain SGD, early stopping (choose --precision float32 with it)",
    )
    train.add_argument(
        "--leave-out", metavar="SOURCE", help="train without a source, to measure on it later"
    )
    train.add_argument("--seed", type=int, default=1, help="another seed, another run (default: 1)")
    train.add_argument(
        "--precision",
        choices=("float32", "mixed_bfloat16"),
        default="mixed_bfloat16",
        help="mixed_bfloat16 is faster where the processor has it",
    )

    ablate = command(
        "ablate", _ablate, "Find what each choice of the recipe is worth, with a source left out."
    )
    ablate.add_argument("data", type=Path, metavar="DATA", help=_DATA)
    ablate.add_argument("--out", type=Path, required=True, metavar="DIR", help="a folder a run")
    ablate.add_argument(
        "--only", nargs="+", default=[], metavar="NAME", help="some of the variations"
    )
    ablate.add_argument("--seed", type=int, default=1)
    ablate.add_argument(
        "--card", type=Path, metavar="FILE", help="weights whose card the table is put into"
    )

    convert = command(
        "convert", _convert, "Turn one weight format into another: .keras, .weights.h5, .h5."
    )
    convert.add_argument("source", type=Path, metavar="IN", help="of Keras 2 or 3, told by content")
    convert.add_argument("target", type=Path, metavar="OUT", help="format by suffix; overwritten")


def _add_measuring(command: Command) -> None:
    evaluate = command(
        "evaluate", _evaluate, "Measure a model on labelled photographs, with intervals."
    )
    evaluate.add_argument(
        "model",
        metavar="MODEL",
        help="weights in any Keras format, or grpc://HOST:PORT of a model server",
    )
    evaluate.add_argument("data", type=Path, metavar="DATA", help=_DATA)
    evaluate.add_argument("--split", choices=_SPLITS, default="test", help="default: test")
    evaluate.add_argument("--json", action="store_true", help="print JSON instead of tables")
    evaluate.add_argument(
        "--out", type=Path, metavar="DIR", help="write evaluation.json and figures there"
    )

    trust = command(
        "trust",
        _trust,
        "Measure how far the heat maps can be trusted. Seven kinds are compared, and baselines.",
    )
    trust.add_argument("weights", type=Path, metavar="WEIGHTS", help="in any Keras format")
    trust.add_argument("data", type=Path, metavar="DATA", help=_DATA)
    trust.add_argument(
        "--split", action="append", choices=_SPLITS, help="repeat it for several (default: test)"
    )
    trust.add_argument(
        "--photographs",
        type=_positive,
        default=200,
        metavar="N",
        help="of each source, for what takes long: 272 forward passes each (default: 200)",
    )
    trust.add_argument("--out", type=Path, metavar="DIR", help="write trust.json, trust.png there")
    trust.add_argument(
        "--card", action="store_true", help="put it into the card of WEIGHTS as well"
    )

    slides = command(
        "slides",
        _slides,
        "Measure how well cells are counted: slides of known composition, of test photographs.",
    )
    slides.add_argument("weights", type=Path, metavar="WEIGHTS", help="with their card beside them")
    slides.add_argument("data", type=Path, metavar="DATA", help=_DATA)
    slides.add_argument(
        "--slides", type=_positive, default=1000, metavar="N", help="of each kind (default: 1000)"
    )
    slides.add_argument(
        "--out", type=Path, metavar="DIR", help="write slides.json, slides.png there"
    )
    slides.add_argument(
        "--card",
        action="store_true",
        help="put it into the card of WEIGHTS as well, with the confusion that it corrects by",
    )

    timed = command(
        "speed",
        _speed,
        "Measure how fast and how exact each way of running weights is: Keras, frozen, folded, "
        "bfloat16; beside the machine's own matrix multiplication.",
    )
    timed.add_argument("data", type=Path, metavar="DATA", help=_DATA)
    timed.add_argument("--weights", type=Path, default=_SHIPPED, metavar="FILE", help=_SHIPPED_HELP)
    timed.add_argument(
        "--rounds", type=_positive, default=40, metavar="N", help="each runs once in a round"
    )
    timed.add_argument(
        "--no-answers", action="store_true", help="leave out what takes long: all test photographs"
    )
    timed.add_argument("--out", type=Path, metavar="FILE", help="write each timing there, as CSV")

    release = command(
        "release", _release, "Calibrate and measure a training run's weights; write their card."
    )
    release.add_argument("run_folder", type=Path, metavar="RUN", help="what train --out named")
    release.add_argument("data", type=Path, metavar="DATA", help=_DATA)
    release.add_argument(
        "--weights", type=Path, required=True, metavar="FILE", help="to write; the card goes beside"
    )


def _add_serving(command: Command) -> None:
    def weights(added: argparse.ArgumentParser) -> None:
        added.add_argument(
            "--weights", type=Path, default=_SHIPPED, metavar="FILE", help=_SHIPPED_HELP
        )

    def models(added: argparse.ArgumentParser) -> None:
        added.add_argument(
            "--models", type=Path, default=_MODELS, metavar="DIR", help=f"default: {_MODELS}"
        )

    saved_model = command(
        "saved-model",
        _saved_model,
        "Write a servable version, MODELS/<version>/, of weights with their card.",
    )
    weights(saved_model)
    models(saved_model)
    saved_model.add_argument("--version", type=int, help="default: the next free number")
    saved_model.add_argument(
        "--if-needed",
        action="store_true",
        help="do nothing if the newest version was made of these weights by this exporter",
    )

    verify = command("verify", _verify, "Check a version before it is served; status 1 if unfit.")
    verify.add_argument("version", type=Path, metavar="DIR")
    weights(verify)
    verify.add_argument(
        "--photographs", type=Path, metavar="DATA", help=f"compare test photographs too: {_DATA}"
    )
    verify.add_argument(
        "--count", type=_positive, default=500, metavar="N", help="of them (default: 500)"
    )

    serve = command(
        "serve", _serve, "Serve the newest version over gRPC, where there is no TensorFlow Serving."
    )
    models(serve)
    serve.add_argument("--address", default="127.0.0.1:8500", help="host:port; port 0: any")
    serve.add_argument(
        "--mixed-precision",
        "--mixed_precision",  # as TensorFlow Serving spells it
        choices=("bfloat16",),
        help="multiply in bfloat16, where the processor does: faster, and a little less exact",
    )
    serve.add_argument(
        "--until-eof", action="store_true", help="stop when standard input ends, as with a parent"
    )
