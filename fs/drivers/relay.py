"""libfuse's side of a connection: requests go to it as messages of a socket, answers come back.

libfuse writes its answers without waiting for anybody but the socket, in the very thread
that empties it here. So it is given only as many requests at a time as there is room
for the answers to.
"""

from __future__ import annotations

import errno
import socket
from collections import deque
from collections.abc import Callable

import trio

from fs.drivers import wire

#: The largest answer, a list of extended attributes, has 64 KiB; a socket has room for thrice that.
_AT_ONCE = 2
_LARGEST = 1 << 17

Answered = Callable[[int, int, bytes], None]


class Relay:
    """`answered` gets opcode, inode and the whole answer of each request that was passed on."""

    def __init__(self, ours: socket.socket, answered: Answered) -> None:
        ours.setblocking(False)
        self._ours = ours
        self._answered = answered
        self._waiting: deque[bytes] = deque()
        self._given: dict[int, tuple[int, int]] = {}

    def pass_on(self, request: bytes) -> None:
        """Have libfuse answer this request, now or when its turn comes."""
        self._waiting.append(request)
        self._give()

    def _give(self) -> None:
        while self._waiting and len(self._given) < _AT_ONCE:
            request = self._waiting.popleft()
            _, opcode, unique, inode, *_ = wire.IN_HEADER.unpack_from(request)
            try:
                self._ours.send(request)
            except OSError as error:  # no such request is that long
                self._answered(opcode, inode, wire.answer(unique, error=error.errno or errno.EIO))
                continue
            self._given[unique] = opcode, inode

    async def run(self) -> None:
        """Bring the answers, until cancelled."""
        while True:
            await trio.lowlevel.wait_readable(self._ours)
            message = self._ours.recv(_LARGEST)
            if len(message) < wire.OUT_HEADER.size:
                return
            _, _, unique = wire.OUT_HEADER.unpack_from(message)
            asked = self._given.pop(unique, None)
            if asked is not None:
                self._answered(*asked, message)
            self._give()
