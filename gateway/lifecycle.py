"""Whether the service goes on, and how many requests it has still to answer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class Lifecycle:
    """Shared by what serves and what stops it. Once ``stopping``, nobody is to send more."""

    def __init__(self) -> None:
        self.stopping = False
        self.under_way = 0

    @contextmanager
    def request(self) -> Iterator[None]:
        """Count one request, from its head on and with its upload, until it is answered."""
        self.under_way += 1
        try:
            yield
        finally:
            self.under_way -= 1
