"""The console: `hemavision up | serve | key NAME | classify FILES | differential FILES | check`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gateway.errors import HemaVisionError

if TYPE_CHECKING:
    from gateway.settings import Settings

_MODELS = Path("models/hemavision")
_DRAWING = ("explain", "resolution", "colormap")
_BLOOD = ("age", "sex", "correction")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return its exit status (2: it could not be tried)."""
    given = _parser().parse_args(arguments)
    try:
        status: int = given.run(given)
    except HemaVisionError as error:
        print(f"hemavision: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader, `head` for one, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    return status


def _up(given: argparse.Namespace) -> int:
    import asyncio
    import logging

    from gateway import telemetry
    from gateway.allowance import return_large_blocks
    from gateway.up import up  # aiohttp and grpc: not for `classify` and `check`

    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    return_large_blocks()
    settings, recorder = _settings(given), telemetry.recorder(os.environ)
    own_server = "HEMAVISION_MODEL_SERVER" not in os.environ
    if given.models and not own_server:
        given.refuse("--models is for a model server of its own: HEMAVISION_MODEL_SERVER names one")
    models = given.models or _MODELS
    return asyncio.run(up(settings, own_server, models, given.samples, recorder=recorder))


def _serve(given: argparse.Namespace) -> int:
    import asyncio

    from gateway import logs, telemetry
    from gateway.allowance import return_large_blocks
    from gateway.up import serve  # aiohttp and grpc: not for `classify` and `check`

    return_large_blocks()
    settings = _settings(given)
    logs.configure(settings.log_level)
    return asyncio.run(serve(settings, recorder=telemetry.recorder(os.environ)))


def _settings(given: argparse.Namespace) -> Settings:
    from dataclasses import replace

    from gateway.settings import Settings

    settings = Settings.from_environment(os.environ)
    return replace(settings, insecure=True) if given.insecure else settings


def _key(given: argparse.Namespace) -> int:
    from gateway.keys import make_key

    key, entry = make_key(given.name, given.per_minute)
    print("The key, shown this once; give it to the one who will use it:", file=sys.stderr)
    print(f"\n    {key}\n", file=sys.stderr)
    print("Its entry for the file that HEMAVISION_KEYS_FILE names:\n", file=sys.stderr, flush=True)
    print(entry)
    return 0


def _classify(given: argparse.Namespace) -> int:
    from gateway.ask.classify import Order, classify  # threads and the like: not for `check`
    from gateway.ask.client import Gateway

    _check_heatmap(given)
    kind = "grid" if given.grid else "overlay" if given.overlay else "none"
    options = {name: getattr(given, name) for name in _DRAWING if getattr(given, name) is not None}
    if given.overlay:
        options["format"] = "png"  # as the files are named
    order = Order({"heatmap": kind, **options}, given.overlay, given.jobs, given.json)
    gateway = Gateway(given.url, given.timeout, given.key, given.cacert)
    return classify(given.files, gateway, order)


def _check_heatmap(given: argparse.Namespace) -> None:
    if given.grid and not given.json:
        given.refuse("--grid is for --json")
    if given.overlay is None and given.colormap is not None:
        given.refuse("--colormap is for --overlay DIR")
    if given.overlay is None and not given.grid and (given.explain or given.resolution):
        given.refuse("--explain and --resolution are for --overlay DIR or --grid")


def _differential(given: argparse.Namespace) -> int:
    from gateway.ask.client import Gateway
    from gateway.ask.differential import STANDARD_OUTPUT, Order, differential

    forms = {"application/fhir+json": given.fhir, "text/html": given.html}
    wanted = {media: path for media, path in forms.items() if path is not None}
    if [given.json, *(path == STANDARD_OUTPUT for path in wanted.values())].count(True) > 1:
        given.refuse("--json, --fhir - and --html - all want standard output: give one of them")
    options = {name: getattr(given, name) for name in _BLOOD if getattr(given, name) is not None}
    gateway = Gateway(given.url, given.timeout, given.key, given.cacert)
    return differential(given.files, gateway, Order(options, given.readers, wanted, given.json))


def _check(given: argparse.Namespace) -> int:
    from gateway.ask.check import check

    probe = "/livez" if given.live else "/readyz"
    return check(given.url, given.cacert, probe, given.timeout, given.wait)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hemavision",
        description="Classify photographs of stained white blood cells, and show where the model "
        "looked. A reading aid, not a medical device.",
        epilog="Settings come from the environment, as HEMAVISION_PORT=8090; see "
        "gateway/README.md.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    up = commands.add_parser("up", help="start everything on this machine and wait for Ctrl-C")
    _describe_up(up)

    serve = commands.add_parser("serve", help="start the gateway alone, in front of a model server")
    serve.set_defaults(run=_serve)

    for command in (up, serve):
        command.add_argument(
            "--insecure", action="store_true", help="listen on more than loopback without API keys"
        )

    key = commands.add_parser("key", help="make an API key; `hemavision key NAME >> FILE` keeps it")
    key.add_argument("name", metavar="NAME", help="whose it is; it stands in the log")
    key.add_argument("--per-minute", type=int, metavar="N", help="requests; default: no limit")
    key.set_defaults(run=_key)

    _describe_classify(
        commands.add_parser("classify", help="send photographs to a running gateway")
    )
    _describe_differential(
        commands.add_parser("differential", help="count the cells of a smear's photographs")
    )
    _describe_check(
        commands.add_parser("check", help="is a running gateway ready? for health checks")
    )
    return parser


def _describe_up(up: argparse.ArgumentParser) -> None:
    up.description = (
        "Draw four sample pictures, export the model where that was not done yet, start a model "
        "server and the gateway, and stop both on Ctrl-C. With HEMAVISION_MODEL_SERVER the model "
        "server is the one that runs there."
    )
    up.add_argument(
        "--models",
        type=Path,
        metavar="DIR",
        help=f"where the model is exported to and served from; default: {_MODELS}",
    )
    up.add_argument(
        "--samples",
        type=Path,
        default=Path("samples"),
        metavar="DIR",
        help="where the sample pictures are written, over those of that name; default: samples",
    )
    up.set_defaults(run=_up, refuse=up.error)


def _describe_classify(classify: argparse.ArgumentParser) -> None:
    classify.description = (
        "Send photographs to a running gateway. One is answered with all there is to say about "
        "it, several with a table."
    )
    classify.epilog = (
        "Exit status: 0 all were answered, be it with `not sure`; 1 some were refused; 2 nothing "
        "was sent, or the gateway went away; 130 interrupted."
    )
    classify.add_argument(
        "files",
        nargs="+",
        type=Path,
        metavar="FILE",
        help="a photograph, a folder (for all pictures within), or - for standard input",
    )
    classify.add_argument("--json", action="store_true", help="print a line of JSON for each file")
    classify.add_argument(
        "--jobs", type=_whole, default=4, metavar="N", help="how many at once; default: 4"
    )
    _add_gateway(classify, timeout=30)
    _add_key(classify)
    _add_heatmap(classify)
    classify.set_defaults(run=_classify, refuse=classify.error)


def _add_heatmap(classify: argparse.ArgumentParser) -> None:
    group = classify.add_argument_group("heat maps", "where the model looked; none unless asked")
    kinds = group.add_mutually_exclusive_group()
    kinds.add_argument(
        "--overlay", type=Path, metavar="DIR", help="write each photograph with its map over it"
    )
    kinds.add_argument("--grid", action="store_true", help="with --json: the map in numbers")
    group.add_argument(
        "--explain", metavar="CLASS", help='not the answer but this class: "why not an eosinophil?"'
    )
    group.add_argument("--resolution", metavar="NAME", help="fine (the default) or coarse")
    group.add_argument("--colormap", metavar="NAME", help="jet (the default), turbo or viridis")


def _describe_differential(differential: argparse.ArgumentParser) -> None:
    differential.description = (
        "Have a running gateway count the white blood cells in the photographs of one smear, each "
        "of one cell, and compare their shares with the normal ranges."
    )
    differential.epilog = (
        "Exit status: 0 counted; 1 counted, but some photographs could not be read, or a report "
        "could not be written; 2 nothing was counted; 130 interrupted."
    )
    differential.add_argument(
        "files",
        nargs="+",
        type=Path,
        metavar="FILE",
        help="a photograph, a folder (for all pictures within), or a zip of photographs",
    )
    differential.add_argument(
        "--readers",
        type=Path,
        metavar="FILE",
        help='what a reader says of some of them, a line each: {"file": NAME, "reader": WORD}; '
        "WORD is a class, OTHER or NOT_COUNTED",
    )
    blood = differential.add_argument_group(
        "the blood", "whose normal ranges, and which correction"
    )
    blood.add_argument("--age", metavar="YEARS", help="of whose blood it is")
    blood.add_argument("--sex", metavar="SEX", help="female, male, other or unknown")
    blood.add_argument(
        "--correction",
        metavar="NAME",
        help="on which photographs the model's confusion was measured: a source of the model "
        "card, largest (that of most photographs, the default), or none",
    )
    forms = differential.add_argument_group(
        "the report", "a table, unless standard output is taken"
    )
    forms.add_argument("--json", action="store_true", help="print it as JSON, and nothing else")
    forms.add_argument(
        "--html", type=Path, metavar="FILE", help="write a page to print; - for standard output"
    )
    forms.add_argument(
        "--fhir", type=Path, metavar="FILE", help="write HL7 FHIR R4; - for standard output"
    )
    _add_gateway(differential, timeout=60)
    _add_key(differential)
    differential.set_defaults(run=_differential, refuse=differential.error)


def _describe_check(check: argparse.ArgumentParser) -> None:
    check.description = (
        "Tell in one sentence whether a running gateway is ready to answer: its model server has "
        "a model. Exit status: 0 it is; 1 it is not."
    )
    check.add_argument("--live", action="store_true", help="ask only whether the process answers")
    check.add_argument(
        "--wait",
        type=_seconds,
        default=0.0,
        metavar="SECONDS",
        help="ask again for so long, until it is",
    )
    _add_gateway(check, timeout=5)
    check.set_defaults(run=_check)


def _add_gateway(command: argparse.ArgumentParser, timeout: int) -> None:
    url = _default_url()
    command.add_argument("--url", type=_url, default=url, help=f"of the gateway; default: {url}")
    command.add_argument(
        "--timeout",
        type=_seconds,
        default=timeout,
        metavar="SECONDS",
        help=f"longest wait for one reply; default: {timeout}",
    )
    command.add_argument(
        "--cacert",
        type=Path,
        default=os.environ.get("HEMAVISION_CACERT") or os.environ.get("HEMAVISION_TLS_CERTIFICATE"),
        metavar="FILE",
        help="PEM: who signed the gateway's certificate, or itself; default: the system's",
    )


def _add_key(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--key",
        type=_key_text,
        default=os.environ.get("HEMAVISION_KEY", ""),
        help="API key, where one is asked for; better in HEMAVISION_KEY: others see arguments",
    )


def _default_url() -> str:
    """Where `hemavision serve` would listen in the same environment."""
    host = os.environ.get("HEMAVISION_HOST", "")
    port = os.environ.get("HEMAVISION_PORT", "")
    if host in ("", "0.0.0.0", "::"):  # noqa: S104  # for all: loopback is one of them
        host = "127.0.0.1"
    scheme = "https" if os.environ.get("HEMAVISION_TLS_CERTIFICATE") else "http"
    host = f"[{host}]" if ":" in host else host
    return f"{scheme}://{host}:{port if port.isdecimal() else 8080}"


def _url(text: str) -> str:
    from gateway.ask.client import gateway_url

    try:
        return gateway_url(text)
    except ValueError as error:
        message = f"{text!r} is no address of a gateway: give one as http://127.0.0.1:8080"
        raise argparse.ArgumentTypeError(message) from error


def _key_text(text: str) -> str:
    key = text.strip()  # read from a file it may end in a line of its own
    if not key.isascii() or not key.isprintable() or " " in key:
        raise argparse.ArgumentTypeError("a key has letters, digits and signs, without spaces")
    return key


def _whole(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 < seconds < 1e6:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0")
    return seconds


if __name__ == "__main__":
    sys.exit(main())
