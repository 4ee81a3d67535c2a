"""`hemavision check`: one sentence and a status, for health checks and for people."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from gateway.ask.client import Gateway
from gateway.ask.terminal import printable
from gateway.errors import HemaVisionError

_PAUSE = 0.5


def check(url: str, cacert: Path | None, probe: str, timeout: float, wait: float) -> int:
    """Print what a probe says; return 0 where it is good, else 1.

    Args:
        url: of the gateway.
        cacert: the certificates to believe, PEM; None: those of the system.
        probe: the path to ask.
        timeout: seconds for one try.
        wait: try again for this many seconds, until it is good.
    """
    deadline = time.monotonic() + wait
    while True:
        left = deadline - time.monotonic()
        try:
            seconds = min(timeout, left) if left > 0 else timeout
            status = Gateway(url, seconds, cacert=cacert).probe(probe)
        except HemaVisionError as error:
            if time.monotonic() + _PAUSE > deadline:
                print(f"{url}: {printable(str(error))}", file=sys.stderr)
                return 1
        else:
            print(f"{url}: {printable(status)}")
            return 0
        time.sleep(_PAUSE)
