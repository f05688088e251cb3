"""The control socket from outside: frames of msgpack, a descriptor beside one of them.

The supervisor makes the socket and keeps it across workers, so that a question
put while a worker is being replaced is answered by the next one.

    request    {"verb": VERB, …}
    answer     {"ok": {…}}   {"failure": {class, message}}   {"ending": true}: ask the next daemon
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from fs.daemon.failures import failure_from
from fs.daemon.state import CONTROL
from fs.format.errors import UnreachableError

if TYPE_CHECKING:
    import socket

FRAME_LIMIT = 16 << 20
_PATIENCE = 10.0


class EndingError(Exception):
    """The daemon is about to end, or this worker of it has: nothing was done."""


class Line:
    """One connection. OSError, EOFError among them, when the daemon or its worker is gone."""

    def __init__(self, directory: str, patience: float | None = _PATIENCE) -> None:
        import socket

        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._socket.settimeout(patience)
            _by_directory(directory, CONTROL, self._socket.connect)
        except BaseException:
            self._socket.close()
            raise

    def tell(self, verb: str, **fields: object) -> None:
        """Ask, and wait for no answer."""
        import msgpack

        body = msgpack.packb({"verb": verb, **fields})
        self._socket.sendall(len(body).to_bytes(4, "little") + body)

    def ask(self, verb: str, **fields: object) -> tuple[dict[str, Any], int | None]:
        """The answer's fields and the descriptor that came with them. Failure, EndingError."""
        import socket

        import msgpack

        self.tell(verb, **fields)
        head, descriptors, _, _ = socket.recv_fds(self._socket, 4, 1)
        descriptor = descriptors[0] if descriptors else None
        try:
            while len(head) < 4:
                head += self._some(4 - len(head))
            answer = msgpack.unpackb(self._exactly(int.from_bytes(head, "little")))
            return _content(answer), descriptor
        except BaseException:
            if descriptor is not None:
                os.close(descriptor)
            raise

    def _exactly(self, size: int) -> bytes:
        if size > FRAME_LIMIT:
            raise OSError("answer too long")
        body = bytearray()
        while len(body) < size:
            body += self._some(size - len(body))
        return bytes(body)

    def _some(self, size: int) -> bytes:
        piece = self._socket.recv(size)
        if not piece:
            raise ConnectionResetError("connection ended")
        return piece

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> Line:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _content(answer: Mapping[str, Any]) -> dict[str, Any]:
    if "failure" in answer:
        raise failure_from(answer["failure"])
    if "ok" not in answer:
        raise EndingError
    return dict(answer["ok"])


def call(directory: str, verb: str, **fields: object) -> dict[str, Any]:
    """One answer, from the next worker if one ends meanwhile; UnreachableError after 10 s."""
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            with Line(directory) as line:
                return line.ask(verb, **fields)[0]
        except ConnectionResetError as error:
            if time.monotonic() > deadline:
                raise _no_answer(directory, error) from None
            time.sleep(0.01)
        except (OSError, ValueError) as error:
            raise _no_answer(directory, error) from None


def _no_answer(directory: str, error: Exception) -> UnreachableError:
    return UnreachableError(f"{directory}/{CONTROL}: no answer: {error}")


def listen(directory: str, name: str = CONTROL) -> socket.socket:
    """A listening socket in `directory`, only for its owner."""
    import socket

    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    old_mask = os.umask(0o177)
    try:
        _by_directory(directory, name, server.bind)
    finally:
        os.umask(old_mask)
    server.listen(512)
    return server


def _by_directory(directory: str, name: str, use: Callable[[str], object]) -> None:
    """Call `use` with a path of the socket that is short whatever the directory's name.

    Socket addresses hold 107 bytes only; a descriptor of the directory stands for its name.
    """
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        use(f"/proc/self/fd/{descriptor}/{name}")
    finally:
        os.close(descriptor)
