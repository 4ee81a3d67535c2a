"""What processes use while a block runs: processor time, and memory at its highest."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import psutil

_EVERY = 0.1  # seconds between two looks at the memory


@dataclass
class Usage:
    """Seconds of processor time, user's and system's, and the highest resident memory in bytes.

    Memory is the sum over the processes, seen ten times a second; what two of them share counts
    twice.
    """

    cpu_seconds: float = 0.0
    peak_bytes: int = 0


@contextmanager
def metered(pids: Sequence[int]) -> Iterator[Usage]:
    """Meter these processes and their children; the usage is complete when the block has ended."""
    usage = Usage()
    done = threading.Event()
    watcher = threading.Thread(target=_watch, args=(pids, usage, done), daemon=True)
    before = _cpu_seconds(pids)
    watcher.start()
    try:
        yield usage
    finally:
        usage.cpu_seconds = _cpu_seconds(pids) - before
        done.set()
        watcher.join()


def _watch(pids: Sequence[int], usage: Usage, done: threading.Event) -> None:
    while True:
        usage.peak_bytes = max(usage.peak_bytes, _resident_bytes(pids))
        if done.wait(_EVERY):
            return


def _cpu_seconds(pids: Sequence[int]) -> float:
    seconds = 0.0
    for process in _tree(pids):
        with suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            seconds += times.user + times.system
    return seconds


def _resident_bytes(pids: Sequence[int]) -> int:
    total = 0
    for process in _tree(pids):
        with suppress(psutil.NoSuchProcess):
            total += process.memory_info().rss
    return total


def _tree(pids: Sequence[int]) -> list[psutil.Process]:
    found: list[psutil.Process] = []
    for pid in pids:
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(pid)
            found += [process, *process.children(recursive=True)]
    return found
