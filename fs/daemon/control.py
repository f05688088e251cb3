"""The control socket: one request, one answer, msgpack; what `nydus-fs status` reads.

The supervisor makes the socket and keeps it across workers, so that a question
put while a worker is being replaced is answered by the next one.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from typing import Any

from fs.daemon.order import CONTROL
from fs.format.errors import UnreachableError

_ANSWER_LIMIT = 16 << 20
_PATIENCE = 10.0


def listen(directory: str) -> socket.socket:
    """A listening socket in `directory`, only for its owner."""
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    old_mask = os.umask(0o177)
    try:
        _by_directory(directory, server.bind)
    finally:
        os.umask(old_mask)
    server.listen(16)
    return server


def ask(directory: str, request: str = "status") -> dict[str, Any]:
    """The worker's answer to `request`; UnreachableError when it does not answer in time."""
    import msgpack

    question = msgpack.packb({"request": request})
    deadline = time.monotonic() + _PATIENCE
    answer = b""
    try:
        while not answer:  # a worker that ends while it is asked leaves us without one
            if time.monotonic() > deadline:
                raise OSError("no worker answers")
            answer = _exchange(directory, question)
        fields = msgpack.unpackb(answer)
    except (OSError, ValueError) as error:
        raise UnreachableError(f"{directory}/{CONTROL}: no answer: {error}") from None
    if not isinstance(fields, dict):
        raise UnreachableError(f"{directory}/{CONTROL}: answer is no map")
    return fields


def _exchange(directory: str, question: bytes) -> bytes:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(_PATIENCE)
        _by_directory(directory, client.connect)
        try:
            client.sendall(question)
            client.shutdown(socket.SHUT_WR)
            return _receive_all(client)
        except ConnectionError:
            return b""


def _receive_all(client: socket.socket) -> bytes:
    pieces = bytearray()
    while piece := client.recv(1 << 16):
        pieces += piece
        if len(pieces) > _ANSWER_LIMIT:
            raise OSError("answer too long")
    return bytes(pieces)


def _by_directory(directory: str, use: Callable[[str], object]) -> None:
    """Call `use` with a path of the socket that is short whatever the directory's name.

    Socket addresses hold 107 bytes only; a descriptor of the directory stands for its name.
    """
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        use(f"/proc/self/fd/{descriptor}/{CONTROL}")
    finally:
        os.close(descriptor)
