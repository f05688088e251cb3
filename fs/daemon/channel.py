"""The line between supervisor and worker: JSON messages, the FUSE descriptor beside one of them.

    worker → supervisor    prepared (wants the connection), ready, idle
    supervisor → worker    start {options, pid, generation}, serve {init, again} + descriptor,
                           ending (take no more mounts), stop

Either end learns of the other's death by the line's end.
"""

from __future__ import annotations

import json
import os
import socket
from typing import Any

_LIMIT = 32 << 20


class Channel:
    """One end. Messages are length-prefixed, for an image's configuration may be large."""

    def __init__(self, line: socket.socket) -> None:
        self.line = line

    def fileno(self) -> int:
        return self.line.fileno()

    def send(self, kind: str, descriptor: int | None = None, **fields: object) -> None:
        """Send one message; BrokenPipeError when the other end is dead."""
        body = json.dumps({"kind": kind, **fields}).encode()
        head = len(body).to_bytes(4, "little")
        if descriptor is None:
            self.line.sendall(head)
        else:
            socket.send_fds(self.line, [head], [descriptor])
        self.line.sendall(body)

    def receive(self) -> tuple[dict[str, Any], int | None] | None:
        """The next message and the descriptor that came with it; None when the line has ended."""
        try:
            head, descriptors, _, _ = socket.recv_fds(self.line, 4, 1)
            while 0 < len(head) < 4:
                head += self._some(4 - len(head))
            if not head:
                return None
            body = self._exactly(int.from_bytes(head, "little"))
        except (ConnectionError, EOFError):
            return None
        for descriptor in descriptors:
            os.set_inheritable(descriptor, False)
        return json.loads(body), descriptors[0] if descriptors else None

    def _exactly(self, size: int) -> bytes:
        if size > _LIMIT:
            raise EOFError
        body = b""
        while len(body) < size:
            body += self._some(size - len(body))
        return body

    def _some(self, size: int) -> bytes:
        piece = self.line.recv(size)
        if not piece:
            raise EOFError
        return piece

    def close(self) -> None:
        self.line.close()


def pair() -> tuple[Channel, Channel]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    return Channel(ours), Channel(theirs)
