"""nydusd's HTTP API and Prometheus' metrics on a Unix socket that only its owner may open.

A request has 10 seconds to arrive and its answer 10 to be taken; head, body and
the number of connections are limited, so that nobody can hold the worker. What
cannot be answered is refused as nydusd refuses: {"code", "message"}.
"""

from __future__ import annotations

import json
import logging
import socket
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import parse_qs, urlsplit

import trio

from fs.daemon.api_mounts import ApiMounts
from fs.daemon.api_routes import Call, Refusal, answer
from fs.daemon.metrics import Traffic
from fs.daemon.operations import Operations
from fs.daemon.recent import RecentErrors

if TYPE_CHECKING:
    import h11

log = logging.getLogger(__name__)

_HEAD_LIMIT = 16 << 10
_BODY_LIMIT = 1 << 20
_CONNECTIONS = 64
_TALKING = 10.0


class _Request(NamedTuple):
    method: str
    target: str
    body: bytes


class _Answer(NamedTuple):
    status: int
    kind: str
    body: bytes
    ends: bool = False
    """The daemon ends after it."""


async def serve(server: socket.socket, operations: Operations, traffic: Traffic) -> None:
    """Answer whoever may open the socket. Ends only by cancellation."""
    server.setblocking(False)
    listener = trio.SocketListener(trio.socket.from_stdlib_socket(server.dup()))
    recent = RecentErrors()
    logging.getLogger().addHandler(recent)
    try:
        api = Api(operations, traffic, recent)
        await trio.serve_listeners(api.converse, [listener])
    finally:
        logging.getLogger().removeHandler(recent)


class Api:
    """One worker's answers."""

    def __init__(self, operations: Operations, traffic: Traffic, recent: RecentErrors) -> None:
        self._operations = operations
        self._traffic = traffic
        self._recent = recent
        self._mounts = ApiMounts(operations)
        self._mounts.remove_configs()
        self._connections = 0

    async def converse(self, stream: trio.SocketStream) -> None:
        """Answer one client's requests until it leaves, is slow, or does not speak HTTP."""
        async with stream:
            if self._connections >= _CONNECTIONS:
                return
            self._connections += 1
            try:
                await self._converse(stream)
            except (trio.BrokenResourceError, trio.TooSlowError, OSError):
                pass  # the client has left, or might as well have
            except Exception:
                log.exception("a client's HTTP request failed")
            finally:
                self._connections -= 1

    async def _converse(self, stream: trio.SocketStream) -> None:
        import h11  # tens of milliseconds, which no mount should wait for

        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=_HEAD_LIMIT)
        while True:
            try:
                with trio.fail_after(_TALKING):
                    request = await _receive(connection, stream)
            except h11.RemoteProtocolError as error:
                if connection.our_state in (h11.IDLE, h11.SEND_RESPONSE):
                    refusal = Refusal(error.error_status_hint, "BadRequest")
                    await _send(connection, stream, _refused(refusal), ends=True)
                return
            if request is None:
                return
            if isinstance(request, Refusal):
                await _send(connection, stream, _refused(request), ends=True)
                return
            told = await self._answer(request)
            await _send(connection, stream, told, ends=told.ends)
            if told.ends:
                self._operations.shut_down()
                return
            if connection.our_state is not h11.DONE or connection.their_state is not h11.DONE:
                return
            connection.start_next_cycle()

    async def _answer(self, request: _Request) -> _Answer:
        try:
            parts = urlsplit(request.target)
            query = {key: values[-1] for key, values in parse_qs(parts.query).items()}
        except ValueError:
            return _refused(Refusal(400, "BadRequest"))
        call = Call(
            self._operations,
            self._traffic,
            self._mounts,
            self._recent,
            request.method,
            parts.path,
            query,
            request.body,
        )
        try:
            if self._operations.ending:
                raise Refusal(503, "the daemon is ending")
            with self._operations.occupied():
                told = await answer(call)
        except Refusal as refusal:
            return _refused(refusal)
        except Exception:
            log.exception("%s %s", request.method, parts.path)
            return _refused(Refusal(500, "InternalError"))
        if told is None:
            return _Answer(204, "", b"", ends=call.ends)
        if isinstance(told, str):
            return _Answer(200, "text/plain; version=0.0.4; charset=utf-8", told.encode())
        return _Answer(200, "application/json", _json(told))


def _json(document: object) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()


def _refused(refusal: Refusal) -> _Answer:
    document = {"code": "UNDEFINED", "message": refusal.message}
    return _Answer(refusal.status, "application/json", _json(document))


async def _receive(
    connection: h11.Connection, stream: trio.SocketStream
) -> _Request | Refusal | None:
    """The next request, None when the client has left."""
    import h11

    head: h11.Request | None = None
    body = bytearray()
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            if connection.they_are_waiting_for_100_continue:
                go_on = h11.InformationalResponse(status_code=100, headers=[])
                await stream.send_all(connection.send(go_on))
            connection.receive_data(await stream.receive_some(_HEAD_LIMIT))
        elif isinstance(event, h11.Request):
            head = event
        elif isinstance(event, h11.Data):
            body += event.data
            if len(body) > _BODY_LIMIT:
                return Refusal(413, "BadRequest")
        elif isinstance(event, h11.EndOfMessage) and head is not None:
            return _Request(head.method.decode(), head.target.decode("ascii"), bytes(body))
        else:
            return None


async def _send(
    connection: h11.Connection, stream: trio.SocketStream, told: _Answer, *, ends: bool
) -> None:
    import h11

    headers = [("Server", "nydus-fs")]
    if told.status != 204:
        headers += [("Content-Type", told.kind), ("Content-Length", str(len(told.body)))]
    if ends:
        headers.append(("Connection", "close"))
    events: tuple[h11.Event, ...] = (
        h11.Response(status_code=told.status, headers=headers),
        *([h11.Data(data=told.body)] if told.body else []),
        h11.EndOfMessage(),
    )
    pieces = b"".join(connection.send(event) or b"" for event in events)
    with trio.fail_after(_TALKING):
        await stream.send_all(pieces)
