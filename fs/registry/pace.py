"""How slow a server may be: answers that arrive byte by byte are cut off.

A timeout of a socket is for one wait; a server that sends a byte just before each
one ends would hold a reader for ever. Here the waits of one answer are added up,
head and body, and may take together what one wait may take and the time in which
SLOWEST would have sent as much. What we do between two reads does not count.
"""

from __future__ import annotations

import http.client
import io
import socket
import time
from typing import TYPE_CHECKING

import urllib3
import urllib3.connection
import urllib3.connectionpool

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

SLOWEST = 16 << 10
"""Bytes a second below which a server counts as broken."""


class PacedStream(io.RawIOBase):
    """The bytes that come from `sock`, whose timeout is what one wait may take."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._raw = sock.makefile("rb", buffering=0)
        self._patience = sock.gettimeout()
        self._waited = 0.0
        self._received = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int | None:
        if self._patience is None:
            return self._raw.readinto(buffer)
        left = self._patience + self._received / SLOWEST - self._waited
        if left <= 0:
            raise TimeoutError("too slow")
        self._sock.settimeout(min(self._patience, left))
        begun = time.monotonic()
        try:
            count = self._raw.readinto(buffer)
        finally:
            self._waited += time.monotonic() - begun
        self._received += count or 0
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Paced:
    """What HTTPResponse wants of a socket: the file that it reads."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(PacedStream(self._sock))


class PacedResponse(http.client.HTTPResponse):
    def __init__(
        self,
        sock: socket.socket,
        debuglevel: int = 0,
        method: str | None = None,
        url: str | None = None,
    ) -> None:
        super().__init__(_Paced(sock), debuglevel, method, url)  # type: ignore[arg-type]


class _Connection(urllib3.connection.HTTPConnection):
    response_class = PacedResponse


class _SecureConnection(urllib3.connection.HTTPSConnection):
    response_class = PacedResponse


class _Pool(urllib3.connectionpool.HTTPConnectionPool):
    ConnectionCls = _Connection


class _SecurePool(urllib3.connectionpool.HTTPSConnectionPool):
    ConnectionCls = _SecureConnection


def keep_pace(manager: urllib3.PoolManager) -> None:
    """Let the connections of `manager` be paced."""
    manager.pool_classes_by_scheme = {"http": _Pool, "https": _SecurePool}
