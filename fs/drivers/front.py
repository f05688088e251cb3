"""The kernel's requests of one FUSE connection: the many answered here, the others by pyfuse3.

Here is answered what an image is asked all the time: names, attributes, listings and
reads, by inode number alone. That lets the kernel do without OPEN and OPENDIR (ENOSYS
means "keep everything, and do not ask again"), which pyfuse3 cannot, for it knows files
only by a handle of its own. What is left of a warm tree are no requests at all. Other
requests go to libfuse through a socket (`relay.py`).

Nothing is remembered of a request after its answer, so another worker can take over.
"""

from __future__ import annotations

import errno
import os
import select
from collections.abc import Callable

import trio
from pyfuse3 import FUSEError

from fs.drivers import wire
from fs.drivers.answers import Answers
from fs.drivers.instances import Instances
from fs.drivers.names import Names
from fs.drivers.observer import Observer
from fs.drivers.reads import Reads
from fs.drivers.relay import Relay

#: The kernel demands room for the largest WRITE that INIT allowed, though none ever comes.
_REQUEST_MAX = (1 << 20) + 4096
#: Requests that are answered before other tasks have their turn.
_BURST = 64
#: Who asks in sequence asks again at once: so long (seconds) the next request is waited
#: for here, which costs less than a turn of the scheduler.
_LINGER = 0.0001
#: select(2), the only call with so short a patience, takes no higher descriptors.
_SELECTABLE = 1024
_NOTHING_YET = (errno.EAGAIN, errno.EINTR, errno.ENOENT)
_OVER = (errno.ENODEV, errno.ECONNABORTED)
_HEADER = wire.IN_HEADER.size

Told = Callable[[int], None]
Handler = Callable[[int, int, memoryview, int], bytes | None]


class Front:
    """`offered` are the flags of the kernel's INIT, `relay` leads to libfuse.

    `on_forget` gets the number of each tree whose root, or whose flat blob, the kernel
    has let go; `on_close` that of each one in `leaving` of which a file was closed, if
    the kernel says so.
    """

    def __init__(
        self,
        descriptor: int,
        offered: int,
        instances: Instances,
        observer: Observer,
        on_forget: Told,
        on_close: Told,
    ) -> None:
        self._descriptor = descriptor
        self._offered = offered
        self._instances = instances
        self._observer = observer
        self._on_forget = on_forget
        self._on_close = on_close
        self._names = Names(instances)
        self._answers = Answers(descriptor)
        self._buffer = memoryview(bytearray(_REQUEST_MAX))
        self._reads: Reads
        self._relay: Relay
        self._handlers: dict[int, Handler] = {
            wire.LOOKUP: self._lookup,
            wire.GETATTR: self._getattr,
            wire.READ: self._read,
            wire.READDIR: self._readdir,
            wire.READDIRPLUS: self._readdirplus,
            wire.OPEN: self._open,
            wire.OPENDIR: self._opendir,
            wire.RELEASE: self._release,
            wire.RELEASEDIR: self._release,
            wire.FORGET: self._forget,
            wire.BATCH_FORGET: self._batch_forget,
            wire.INTERRUPT: self._interrupt,
            wire.NOTIFY_REPLY: self._ignore,
        }

    async def serve(self, relay: Relay) -> None:
        """Answer until the connection ends."""
        self._relay = relay
        async with trio.open_nursery() as nursery:
            self._reads = Reads(self._instances, self._answers, self._observer, nursery)
            while await self._burst():
                pass
            nursery.cancel_scope.cancel()

    async def _burst(self) -> bool:
        """Answer what is there and what follows closely; False when the connection is over."""
        await trio.lowlevel.wait_readable(self._descriptor)
        for _ in range(_BURST):
            try:
                size = os.readv(self._descriptor, (self._buffer,))
            except OSError as error:
                if error.errno in _OVER:
                    return False
                if error.errno not in _NOTHING_YET:
                    raise
                if self._is_worth_waiting():
                    continue
                break
            if size < _HEADER:
                return False
            self._answer(size)
        return True

    def _is_worth_waiting(self) -> bool:
        """Whether another request came while nothing else was to be done."""
        if not self._reads.are_idle or self._descriptor >= _SELECTABLE:
            return False
        return bool(select.select((self._descriptor,), (), (), _LINGER)[0])

    def _answer(self, size: int) -> None:
        request = self._buffer[:size]
        _, opcode, unique, inode, _, _, pid, _, _ = wire.IN_HEADER.unpack_from(request)
        handler = self._handlers.get(opcode)
        self._observer.asked(opcode, inode)
        if handler is None:
            self._relay.pass_on(bytes(request))
            return
        try:
            body = handler(unique, inode, request[_HEADER:], pid)
        except Exception as error:
            self._answers.fail(unique, error)
            self._observer.failed(opcode, inode)
        else:
            if body is not None:
                self._answers.pass_on(wire.answer(unique, body))

    def relayed(self, opcode: int, inode: int, answer: bytes) -> None:
        """libfuse has answered a request."""
        if wire.OUT_HEADER.unpack_from(answer)[1]:
            self._observer.failed(opcode, inode)
        self._answers.pass_on(answer)

    # -- handlers: unique, inode, body, pid → body of the answer, None for no answer (yet) -----

    def _lookup(self, unique: int, inode: int, body: memoryview, pid: int) -> bytes:
        return self._names.lookup(inode, bytes(body).partition(b"\0")[0])

    def _getattr(self, unique: int, inode: int, body: memoryview, pid: int) -> bytes:
        return self._names.attributes(inode)

    def _read(self, unique: int, inode: int, body: memoryview, pid: int) -> None:
        self._reads.ask(unique, inode, body, pid)

    def _readdir(self, unique: int, inode: int, body: memoryview, pid: int) -> bytes:
        _, start, room = wire.READ_IN.unpack_from(body)
        return self._names.listing(inode, start, room, plus=False)

    def _readdirplus(self, unique: int, inode: int, body: memoryview, pid: int) -> bytes:
        _, start, room = wire.READ_IN.unpack_from(body)
        return self._names.listing(inode, start, room, plus=True)

    def _open(self, unique: int, inode: int, body: memoryview, pid: int) -> bytes:
        """The mount is read-only, so there is nothing to refuse."""
        if self._offered & wire.NO_OPEN_SUPPORT:
            raise FUSEError(errno.ENOSYS)
        return wire.OPEN_OUT.pack(0, wire.FOPEN_KEEP_CACHE, 0)

    def _opendir(self, unique: int, inode: int, body: memoryview, pid: int) -> bytes:
        if self._offered & wire.NO_OPENDIR_SUPPORT:
            raise FUSEError(errno.ENOSYS)
        return wire.OPEN_OUT.pack(0, wire.FOPEN_KEEP_CACHE | wire.FOPEN_CACHE_DIR, 0)

    def _release(self, unique: int, inode: int, body: memoryview, pid: int) -> bytes:
        number = self._instances.number_of(inode)
        if number in self._instances.leaving:
            self._on_close(number)
        return b""

    def _forget(self, unique: int, inode: int, body: memoryview, pid: int) -> None:
        self._let_go(inode, wire.FORGET_IN.unpack_from(body)[0])

    def _batch_forget(self, unique: int, inode: int, body: memoryview, pid: int) -> None:
        (count, _), start = wire.BATCH_FORGET_IN.unpack_from(body), wire.BATCH_FORGET_IN.size
        each = body[start : start + count * wire.FORGET_ONE.size]
        for forgotten, lookups in wire.FORGET_ONE.iter_unpack(each):
            self._observer.asked(wire.FORGET, forgotten)
            self._let_go(forgotten, lookups)

    def _let_go(self, inode: int, lookups: int) -> None:
        number = self._names.forget(inode, lookups)
        if number is not None:
            self._on_forget(number)

    def _interrupt(self, unique: int, inode: int, body: memoryview, pid: int) -> None:
        self._reads.interrupt(wire.INTERRUPT_IN.unpack_from(body)[0])

    def _ignore(self, unique: int, inode: int, body: memoryview, pid: int) -> None:
        pass
