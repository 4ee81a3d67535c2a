"""Ask a running gateway from a terminal, and print its answers for a person to read."""

from __future__ import annotations

import base64
import json
import sys
import textwrap
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gateway.errors import HemaVisionError

_TIMEOUT = 30.0
_PORT = "HEMAVISION_PORT"
# no proxy: the gateway is near, and a proxy meant for the outside has no way to it
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))
_BAR = 24
_OVERLAY = ".overlay.png"


class GatewayUnreachable(HemaVisionError):
    """Nothing answers at the gateway's address."""


class SameName(HemaVisionError):
    """Two overlays would have the same name."""


def classify(files: Sequence[Path], url: str, out: Path | None, *, as_json: bool) -> int:
    """Send each file, print each answer, write each overlay; return 1 where one was refused.

    Raises:
        GatewayUnreachable: nothing answers at ``url``.
        SameName: two overlays would have the same name in ``out``.
    """
    if out is not None and len({file.stem for file in files}) < len(files):
        raise SameName("two files have the same name: send them one by one, or without --out")
    refused = 0
    for file in files:
        if file.name.endswith(_OVERLAY):
            print(f"{file}: an overlay, left out", file=sys.stderr)
            continue
        try:
            reply = _send(file, url)
        except (OSError, _Refused) as error:
            print(f"{file}: {getattr(error, 'strerror', None) or error}", file=sys.stderr)
            refused += 1
            continue
        print(json.dumps(reply) if as_json else _readable(file, reply))
        try:
            overlay = _write_overlay(reply, file, out)
        except OSError as error:  # the answer stands all the same
            print(f"{file}: the overlay could not be written ({error})", file=sys.stderr)
            refused += 1
        else:
            if not as_json:
                print(f"  Heat map      {overlay}\n")
    return 1 if refused else 0


def check(url: str, probe: str) -> int:
    """Print what a probe says; return 0 where it is good, else 1."""
    try:
        with _OPENER.open(url + probe, timeout=_TIMEOUT) as response:
            print(f"{url}: {json.load(response)['status']}")
            return 0
    except urllib.error.HTTPError as error:
        print(f"{url}: {_detail(error)}", file=sys.stderr)
    except (OSError, ValueError, KeyError) as error:
        print(f"{url}: no answer ({getattr(error, 'reason', error)})", file=sys.stderr)
    return 1


class _Refused(Exception):
    """The gateway's own words on why it did not answer."""


def _send(file: Path, url: str) -> dict[str, Any]:
    request = urllib.request.Request(  # noqa: S310  # the user's own address
        f"{url}/v1/classify",
        data=file.read_bytes(),
        headers={"Content-Type": "application/octet-stream"},
    )
    try:
        with _OPENER.open(request, timeout=_TIMEOUT) as response:
            reply: dict[str, Any] = json.load(response)
            return reply
    except ValueError as error:
        raise _Refused(f"what answers at {url} is no HemaVision gateway") from error
    except urllib.error.HTTPError as error:
        raise _Refused(_detail(error)) from error
    except urllib.error.URLError as error:
        raise GatewayUnreachable(
            f"nothing answers at {url} ({error.reason}). Start it with `make run`, or name "
            f"another with --url or {_PORT}."
        ) from error


def _detail(error: urllib.error.HTTPError) -> str:
    try:
        problem = json.load(error)
        return f"{problem['title']}. {problem['detail']}"
    except (ValueError, KeyError, TypeError):
        return f"HTTP {error.code} {error.reason}"


def _write_overlay(reply: dict[str, Any], file: Path, out: Path | None) -> Path:
    folder = out or file.parent
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{file.stem}{_OVERLAY}"
    aside = path.with_suffix(".new")
    aside.write_bytes(base64.b64decode(reply["heatmap"]["data"]))
    aside.replace(path)
    return path


def _readable(file: Path, reply: dict[str, Any]) -> str:
    about, timing = reply["annotation"], reply["timing_ms"]
    share = about["normal_range"]
    within = "within" if reply["within_target"] else "over"
    stages = ", ".join(f"{stage} {ms:.0f}" for stage, ms in timing.items() if stage != "total")
    paragraphs = {
        "Function": about["function"],
        "Significance": about["significance"],
        "Normal range": f"{share['low']:g} to {share['high']:g} {share['unit']}. "
        f"{about['statement']}",
        "Sources": f"{about['source']}; {share['source']}.",
    }
    if reply["abstain"]:  # there is no class to tell about
        paragraphs = {}
    elif share["note"]:
        paragraphs["Normal range"] += f" {share['note']}"
    lines = [
        f"{file}: {_verdict(reply)}",
        *(_bar(name, value) for name, value in reply["probabilities"].items()),
        *(_paragraph("Not sure", doubt["detail"]) for doubt in reply["abstain_reasons"]),
        *(_paragraph(title, text) for title, text in paragraphs.items()),
        *(_paragraph("Note", warning) for warning in reply["quality"]["warnings"]),
        f"  Time          {timing['total']:.0f} ms, {within} {reply['target_ms']:g} ms ({stages})",
    ]
    return "\n".join(lines)


def _verdict(reply: dict[str, Any]) -> str:
    answer = f"{reply['annotation']['name']}, {percent(reply['confidence'])}"
    return f"not sure (nearest: {answer})" if reply["abstain"] else answer


def percent(share: float) -> str:
    """A share for a person; neither certainty nor nothing comes from rounding."""
    if 0 < share < 0.0005:
        return "< 0.1 %"
    if 0.9995 <= share < 1:
        return "> 99.9 %"
    return f"{100 * share:.1f} %"


def _paragraph(title: str, text: str) -> str:
    indent = " " * 16
    return textwrap.fill(text, width=100, initial_indent=f"  {title:<14}", subsequent_indent=indent)


def _bar(name: str, probability: float) -> str:
    filled = round(probability * _BAR)
    return f"  {name:<14}{'█' * filled}{'·' * (_BAR - filled)} {percent(probability):>8}"
