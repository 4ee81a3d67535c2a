"""The console: `hemavision up | serve | classify FILES | check`."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from gateway import ask
from gateway.errors import HemaVisionError
from gateway.settings import PREFIX, Settings


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
        print("stopped")
        return 130
    return status


def _up(given: argparse.Namespace) -> int:
    from gateway.up import up  # aiohttp and grpc: not for `classify` and `check`

    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    settings = Settings.from_environment(os.environ)
    own_server = PREFIX + "MODEL_SERVER" not in os.environ
    return asyncio.run(up(settings, own_server, given.models, given.samples))


def _serve(_: argparse.Namespace) -> int:
    from gateway.up import serve  # aiohttp and grpc: not for `classify` and `check`

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    return asyncio.run(serve(Settings.from_environment(os.environ)))


def _classify(given: argparse.Namespace) -> int:
    return ask.classify(given.files, given.url, given.out, as_json=given.json)


def _check(given: argparse.Namespace) -> int:
    return ask.check(given.url, "/livez" if given.live else "/readyz")


def _parser() -> argparse.ArgumentParser:
    port = os.environ.get(PREFIX + "PORT", "")
    url = f"http://127.0.0.1:{port if port.isdecimal() else 8080}"
    parser = argparse.ArgumentParser(
        prog="hemavision",
        description="Classify photographs of stained white blood cells, and show where the model "
        "looked. A reading aid, not a medical device.",
        epilog=f"Settings come from the environment, as {PREFIX}PORT=8090; see gateway/README.md.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    up = commands.add_parser("up", help="start everything on this machine and wait for Ctrl-C")
    up.add_argument("--models", type=Path, default=Path("models/hemavision"), metavar="DIR")
    up.add_argument("--samples", type=Path, default=Path("samples"), metavar="DIR")
    up.set_defaults(run=_up)

    serve = commands.add_parser("serve", help=f"start the gateway alone, for {PREFIX}MODEL_SERVER")
    serve.set_defaults(run=_serve)

    classify = commands.add_parser("classify", help="send photographs to a running gateway")
    classify.add_argument("files", nargs="+", type=Path, metavar="FILE")
    classify.add_argument("--out", type=Path, metavar="DIR", help="overlays go here, not beside")
    classify.add_argument("--json", action="store_true", help="print the replies as JSON lines")
    classify.set_defaults(run=_classify)

    check = commands.add_parser("check", help="is a running gateway ready? for health checks")
    check.add_argument("--live", action="store_true", help="ask only whether the process answers")
    check.set_defaults(run=_check)

    for command in (classify, check):
        command.add_argument("--url", default=url, help=f"of the gateway; default: {url}")
    return parser


if __name__ == "__main__":
    sys.exit(main())
