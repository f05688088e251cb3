"""The worker's end of the control socket: answers questions as long as it lives."""

from __future__ import annotations

import socket
from collections.abc import Callable
from functools import partial
from typing import Any

import msgpack
import trio

_REQUEST_LIMIT = 4096
_PATIENCE = 5.0


async def answer(server: socket.socket, status: Callable[[], dict[str, Any]]) -> None:
    """Serve `status` to whoever may open the socket. Ends only by cancellation."""
    server.setblocking(False)
    listener = trio.SocketListener(trio.socket.from_stdlib_socket(server.dup()))
    await trio.serve_listeners(partial(_answer_one, status), [listener])


async def _answer_one(status: Callable[[], dict[str, Any]], stream: trio.SocketStream) -> None:
    with trio.move_on_after(_PATIENCE):
        async with stream:
            try:
                answered = _answered(await _receive_request(stream), status)
                await stream.send_all(msgpack.packb(answered))
            except trio.BrokenResourceError:
                pass  # the asker has left


async def _receive_request(stream: trio.SocketStream) -> bytes:
    request = b""
    while len(request) < _REQUEST_LIMIT and (piece := await stream.receive_some(_REQUEST_LIMIT)):
        request += piece
    return request


def _answered(request: bytes, status: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    try:
        fields = msgpack.unpackb(request)
    except ValueError:
        return {"error": "not msgpack"}
    if not isinstance(fields, dict) or fields.get("request") != "status":
        return {"error": "unknown request"}
    return status()
