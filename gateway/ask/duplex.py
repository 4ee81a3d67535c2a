"""Send a body while its answer is already read: neither side waits for the other to finish."""

from __future__ import annotations

import io
import socket
import ssl
from collections.abc import Iterator
from select import select
from typing import cast

_NOT_NOW = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class Duplex(io.RawIOBase):
    """What a connected socket receives; to wait for that is to send what is left of ``pieces``.

    Each wait ends in a TimeoutError after ``timeout`` seconds without anything sent or received.
    """

    def __init__(self, connected: socket.socket, pieces: Iterator[bytes], timeout: float) -> None:
        self._socket, self._pieces, self._timeout = connected, pieces, timeout
        self._piece = memoryview(b"")
        connected.setblocking(False)

    def makefile(self, _mode: str) -> io.BufferedReader:
        """As a socket does for ``http.client``."""
        return io.BufferedReader(self)

    def readable(self) -> bool:
        """It is read from."""
        return True

    def close(self) -> None:
        """Leave it to whoever opened the socket: ``http.client`` lets go before it has read all."""

    def readinto(self, buffer: object) -> int:
        """Receive; 0 at the end."""
        while True:
            try:
                return self._socket.recv_into(cast("bytearray", buffer))
            except _NOT_NOW:
                self._wait()

    def _wait(self) -> None:
        if not self._piece:
            self._piece = memoryview(next(self._pieces, b""))
        to_send = [self._socket] if self._piece else []
        readable, writable, _ = select([self._socket], to_send, [], self._timeout)
        if writable:
            self._send()
        elif not readable:
            raise TimeoutError

    def _send(self) -> None:
        try:
            self._piece = self._piece[self._socket.send(self._piece) :]
        except _NOT_NOW:
            return
        except ConnectionError:  # a server that refuses a body may answer before it has it all
            self._piece, self._pieces = memoryview(b""), iter(())
