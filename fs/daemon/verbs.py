"""The worker's end of the control socket: what clients may ask, and how a mount is handed over.

A mount's descriptor travels beside the answer. The client then says `taken` on
the same connection; when that ends without it, the instance is abandoned.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any

import msgpack
import trio

from fs.daemon.control import FRAME_LIMIT
from fs.daemon.failures import failure_to
from fs.daemon.operations import Operations
from fs.daemon.order import Order
from fs.drivers.instances import Instance
from fs.format.errors import Failure, NotFoundError, UsageError

log = logging.getLogger(__name__)

Fields = Mapping[str, Any]
Verb = Callable[[Operations, Fields], Awaitable[dict[str, Any]]]

#: How long a client may take between a mount's descriptor and its word (seconds).
_TAKING = 10.0
_TALKING = 10.0


async def serve(server: socket.socket, operations: Operations) -> None:
    """Answer whoever may open the socket. Ends only by cancellation."""
    server.setblocking(False)
    listener = trio.SocketListener(trio.socket.from_stdlib_socket(server.dup()))
    await trio.serve_listeners(partial(_converse, operations), [listener])


async def _converse(operations: Operations, stream: trio.SocketStream) -> None:
    async with stream:
        try:
            while (request := await _receive(stream)) is not None:
                await _answer(operations, stream, request)
        except (trio.BrokenResourceError, OSError):
            pass  # the client has left
        except Exception:
            log.exception("a client's request failed")


async def _receive(stream: trio.SocketStream) -> Fields | None:
    """The next request; None when the client has no more, or speaks another language."""
    head = await _exactly(stream, 4)
    size = int.from_bytes(head, "little")
    if len(head) < 4 or size > FRAME_LIMIT:
        return None
    with trio.move_on_after(_TALKING):
        try:
            fields = msgpack.unpackb(await _exactly(stream, size))
        except ValueError:
            return None
        return fields if isinstance(fields, dict) else None
    return None


async def _exactly(stream: trio.SocketStream, size: int) -> bytes:
    """`size` bytes, fewer when the connection ends."""
    body = b""
    while len(body) < size and (piece := await stream.receive_some(size - len(body))):
        body += piece
    return body


async def _answer(operations: Operations, stream: trio.SocketStream, request: Fields) -> None:
    if operations.ending:
        await _send(stream, {"ending": True})
        return
    with operations.occupied():
        await _answer_in_turn(operations, stream, request)


async def _answer_in_turn(
    operations: Operations, stream: trio.SocketStream, request: Fields
) -> None:
    verb = request.get("verb")
    try:
        if verb == "mount":
            await _hand_over(operations, stream, request)
            return
        if verb not in VERBS:
            raise UsageError(f"{verb!r}: no verb of this daemon")
        answer = {"ok": await VERBS[verb](operations, request)}
    except Failure as failure:
        answer = {"failure": failure_to(failure)}
    except (KeyError, TypeError, ValueError) as error:
        log.exception("request %r", verb)
        answer = {"failure": failure_to(UsageError(f"{verb}: {type(error).__name__} {error}"))}
    await _send(stream, answer)


async def _send(
    stream: trio.SocketStream, answer: dict[str, Any], descriptor: int | None = None
) -> None:
    body = msgpack.packb(answer)
    head = len(body).to_bytes(4, "little")
    with trio.fail_after(_TALKING):
        if descriptor is None:
            await stream.send_all(head + body)
            return
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptor.to_bytes(4, "little"))]
        sent = await stream.socket.sendmsg([head], rights)
        await stream.send_all(head[sent:] + body)


# -- handing a mount over -------------------------------------------------------------------


async def _hand_over(operations: Operations, stream: trio.SocketStream, request: Fields) -> None:
    """Mount for the client as long as it waits; what it does not take is dropped."""
    offer = _Offer(operations, Order.from_json(request), replace=bool(request.get("replace")))
    taken = False
    try:
        await _while_connected(stream, offer.prepare)
        assert offer.instance is not None
        told = {"ok": _mounted(operations, offer.instance)}
        await _send(stream, told, None if offer.descriptor < 0 else offer.descriptor)
        await offer.close()
        with trio.move_on_after(_TAKING):
            word = await _receive(stream)
            taken = word is not None and word.get("verb") == "taken"
        if taken:
            operations.taken(offer.instance)
            await _send(stream, {"ok": {}})
    finally:
        await offer.close()
        if offer.instance is not None and not taken:
            operations.abandon(offer.instance)


class _Offer:
    """A mount on its way to a client. `close` when it is sent, or is not to be."""

    def __init__(self, operations: Operations, order: Order, *, replace: bool) -> None:
        self.instance: Instance | None = None
        self.descriptor = -1
        self._operations = operations
        self._order = order
        self._replace = replace

    async def prepare(self) -> None:
        self.instance = await self._operations.mount(self._order, replace=self._replace)
        self.descriptor = await self._operations.attach(self.instance)

    async def close(self) -> None:
        """In a thread, for the last descriptor of a mount may ask this very process."""
        descriptor, self.descriptor = self.descriptor, -1
        if descriptor >= 0:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(os.close, descriptor)


async def _while_connected(stream: trio.SocketStream, work: Callable[[], Awaitable[None]]) -> None:
    """Do `work` as long as the other end of `stream` is there; BrokenResourceError after that."""
    failure: Failure | None = None
    gone = False

    async def watch(scope: trio.CancelScope) -> None:
        nonlocal gone
        await trio.lowlevel.wait_readable(stream.socket)
        if not await stream.socket.recv(1, socket.MSG_PEEK):
            gone = True
            scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch, nursery.cancel_scope)
        try:
            await work()
        except Failure as error:
            failure = error
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure
    if gone:
        raise trio.BrokenResourceError


def _mounted(operations: Operations, instance: Instance) -> dict[str, Any]:
    resolved = operations.roster.served(instance).resolved
    return {
        "id": instance.id,
        "pid": operations.identity.pid,
        "device": instance.device,
        "image_config": resolved.image_config,
        "manifest_digest": resolved.manifest_digest,
    }


# -- verbs ----------------------------------------------------------------------------------


async def _taken(operations: Operations, fields: Fields) -> dict[str, Any]:
    """A client whose worker died before it could say so."""
    operations.taken(operations.roster.by_id(fields["id"]))
    return {}


async def _expect(operations: Operations, fields: Fields) -> dict[str, Any]:
    """An order that will follow, with this token."""
    operations.expectations.begin(Order.from_json(fields))
    return {}


async def _umount(operations: Operations, fields: Fields) -> dict[str, Any]:
    """`ending`: that was the daemon's last image. It may have been heard of before it is said."""
    try:
        gone = await operations.umount(_chosen(operations, fields))
    except NotFoundError:
        if "id" not in fields:
            raise
        gone = True
    return {"gone": gone, "ending": operations.decide_to_end()}


async def _forget(operations: Operations, fields: Fields) -> dict[str, Any]:
    operations.forget_lost(fields["mountpoint"])
    return {"ending": operations.decide_to_end()}


async def _status(operations: Operations, fields: Fields) -> dict[str, Any]:
    """Of one instance, or of all."""
    await operations.departures.look()
    if "id" in fields or "mountpoint" in fields:
        chosen = [_chosen(operations, fields)]
    else:
        chosen = operations.roster.mounted()
    return {
        "instances": [operations.status(instance) for instance in chosen],
        "daemon": operations.daemon_status(),
    }


async def _stay(operations: Operations, fields: Fields) -> dict[str, Any]:
    """From now on the daemon ends only when told to; `cache_size` as in DaemonOptions."""
    operations.stay(fields["cache_size"])
    return operations.daemon_status()


async def _trace(operations: Operations, fields: Fields) -> dict[str, Any]:
    """Record into `file`; without one, end the record."""
    tracing = operations.roster.served(_chosen(operations, fields)).tracing
    if fields.get("file"):
        await tracing.start(fields["file"])
    else:
        await tracing.stop()
    return {"trace": tracing.status()}


async def _prefetch(operations: Operations, fields: Fields) -> dict[str, Any]:
    """`do`: pause or resume."""
    prefetch = operations.roster.served(_chosen(operations, fields)).prefetch
    if fields["do"] not in ("pause", "resume"):
        raise UsageError(f"prefetch {fields['do']!r}: neither pause nor resume")
    prefetch.pause() if fields["do"] == "pause" else prefetch.resume()
    return {"prefetch": prefetch.status()}


def _chosen(operations: Operations, fields: Fields) -> Instance:
    if "id" in fields:
        return operations.roster.by_id(fields["id"])
    return operations.roster.by_mountpoint(fields["mountpoint"])


VERBS: dict[str, Verb] = {
    "taken": _taken,
    "expect": _expect,
    "umount": _umount,
    "forget": _forget,
    "status": _status,
    "stay": _stay,
    "trace": _trace,
    "prefetch": _prefetch,
}
