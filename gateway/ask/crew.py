"""Do several things at once, and have the results in the order given."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Generic, TypeVar

A = TypeVar("A")
R = TypeVar("R")

_LAST_STROKE = 1.0  # seconds for a file that is being written when everything stops


class Crew(Generic[A, R]):
    """``jobs`` threads at ``work``. They never keep the process from ending, as an executor's do.

    At most twice ``jobs`` results wait for their turn, however many ``items`` there are.
    """

    def __init__(self, work: Callable[[A], R], items: Iterable[A], jobs: int) -> None:
        self._work, self._items = work, iter(items)
        self._todo: SimpleQueue[tuple[A, Future[R]] | None] = SimpleQueue()
        self._waiting: deque[Future[R]] = deque()
        self._threads = [Thread(target=self._labour, daemon=True) for _ in range(jobs)]

    def results(self) -> Iterator[R]:
        """Yield each result, in the order of the items; raise what the work raised."""
        for thread in self._threads:
            thread.start()
        for item in self._items:
            self._waiting.append(Future())
            self._todo.put((item, self._waiting[-1]))
            if len(self._waiting) == 2 * len(self._threads):
                yield self._next()
        while self._waiting:
            yield self._next()

    def stop(self) -> Iterator[R]:
        """Begin nothing more, and yield the results that are there already."""
        with suppress(Empty):
            while True:
                self._todo.get_nowait()
        for _ in self._threads:
            self._todo.put(None)
        for thread in self._threads:
            thread.join(_LAST_STROKE / len(self._threads))
        done = [future for future in self._waiting if future.done() and not future.exception()]
        return (future.result() for future in done)

    def _next(self) -> R:
        result = self._waiting[0].result()  # an interrupted wait leaves it in its place
        self._waiting.popleft()
        return result

    def _labour(self) -> None:
        while (task := self._todo.get()) is not None:
            item, future = task
            try:
                future.set_result(self._work(item))
            except BaseException as error:  # noqa: BLE001  # raised where the result is awaited
                future.set_exception(error)
