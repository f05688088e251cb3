"""Servers that send, but so slowly that a reader would never get on."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import cast

import pytest

from fs.format.errors import UnreachableError
from fs.registry import pace
from fs.registry.pace import SLOWEST, PacedStream
from fs.registry.retry import RetryPolicy
from fs.registry.store import StoreOptions, open_reader
from fs.registry.transport import Transport
from tests.registry.world import BLOB, LAYER

TIMEOUT = 0.4
HEAD = b"HTTP/1.1 206 Partial Content\r\nContent-Length: 1000\r\n"
RANGE = b"Content-Range: bytes 0-999/256000\r\n\r\n"

Send = Callable[[bytes], None]


@contextmanager
def serving(answer: Callable[[Send], None]) -> Iterator[str]:
    """A server that gives every request the answer that `answer` sends; its HOST:PORT."""
    stopping = threading.Event()

    def serve(listener: socket.socket) -> None:
        while not stopping.is_set():
            with contextlib.suppress(OSError):
                connection, _ = listener.accept()
                with connection:
                    connection.recv(1 << 16)
                    answer(connection.sendall)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        port = listener.getsockname()[1]
        try:
            yield f"127.0.0.1:{port}"
        finally:
            stopping.set()
            socket.create_connection(("127.0.0.1", port)).close()
            thread.join()


def drip(send: Send, data: bytes) -> None:
    """A byte at a time, each well within the timeout."""
    for position in range(len(data)):
        send(data[position : position + 1])
        time.sleep(TIMEOUT / 8)


def drip_body(send: Send) -> None:
    send(HEAD + RANGE)
    drip(send, bytes(1000))


def drip_head(send: Send) -> None:
    send(HEAD)
    drip(send, b"X-Slow: " + b"x" * 1000)


def drip_status(send: Send) -> None:
    drip(send, HEAD.replace(b"\r\n", b" " + b"x" * 1000 + b"\r\n", 1))


@pytest.mark.parametrize("answer", [drip_body, drip_head, drip_status])
def test_dripping_server_holds_nobody(answer: Callable[[Send], None]) -> None:
    options = StoreOptions(plain_http=True, read_timeout=TIMEOUT, retry=RetryPolicy(attempts=1))
    with serving(answer) as host, closing(open_reader(f"{host}/repo", options)) as reader:
        begun = time.monotonic()
        with pytest.raises(UnreachableError, match="timed out"):
            reader.read_range(LAYER, 0, 1000)
        assert time.monotonic() - begun < 80 * TIMEOUT  # all of it takes 125


class _Sender:
    """A socket whose peer sends a piece each time it is read, `seconds` after the reader asked.

    It has a clock of its own, so that no machine is too slow for it.
    """

    def __init__(self, piece: int, pieces: int, seconds: float) -> None:
        self.now = 0.0
        self._piece, self._left, self._seconds = bytes(piece), pieces, seconds
        self._timeout = TIMEOUT

    def gettimeout(self) -> float:
        return self._timeout

    def settimeout(self, timeout: float) -> None:
        self._timeout = timeout

    def makefile(self, mode: str, buffering: int) -> _Sender:
        return self

    def monotonic(self) -> float:
        return self.now

    def readinto(self, buffer: bytearray) -> int:
        if not self._left:
            return 0
        self.now += min(self._seconds, self._timeout)
        if self._seconds > self._timeout:
            raise TimeoutError("timed out")
        self._left -= 1
        buffer[: len(self._piece)] = self._piece
        return len(self._piece)


def _received(sender: _Sender, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(pace, "time", sender)
    stream, buffer, received = PacedStream(cast(socket.socket, sender)), bytearray(1 << 20), 0
    while count := stream.readinto(buffer):
        received += count
    return received


def test_slow_but_steady_server_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twice as fast as the slowest, for longer than one wait may take; half as fast is too slow."""
    pause = TIMEOUT / 4
    piece = int(SLOWEST * 2 * pause)
    steady = _Sender(piece, 100, pause)
    assert _received(steady, monkeypatch) == 100 * piece
    assert steady.now > 20 * TIMEOUT
    slower = _Sender(piece // 4, 100, pause)
    with pytest.raises(TimeoutError):
        _received(slower, monkeypatch)
    assert slower.now < 3 * TIMEOUT


def test_slow_reader_is_not_the_servers_fault() -> None:
    def quick(send: Send) -> None:
        send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(BLOB))
        send(BLOB)

    with serving(quick) as host, closing(Transport(StoreOptions(read_timeout=TIMEOUT))) as link:
        answer = link.send("GET", f"http://{host}/", {})
        data = answer.read(1000)
        time.sleep(2 * TIMEOUT)
        assert data + answer.read_all(1 << 20, "body") == BLOB
