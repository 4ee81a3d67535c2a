"""A load test that cannot begin says so in one sentence, and ends with status 2."""

from __future__ import annotations

import sys
from typing import NoReturn

STATUS = 2
"""Nothing was measured, or what was measured says nothing; 1 is a missed objective."""


def refuse(sentence: str) -> NoReturn:
    """Say why nothing can be measured, and end.

    Raises:
        SystemExit: always, with ``STATUS``.
    """
    print(sentence, file=sys.stderr)
    raise SystemExit(STATUS)
