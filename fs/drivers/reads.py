"""READ requests: what memory has is answered at once, the rest by a task each.

A read that waits for the network must not hold up the requests behind it, nor a killed
reader until the network answers. The kernel says that a reader has a signal, but not
which; only one that is being killed may be answered EINTR, for a page fault that is
answered so is a SIGBUS. So the reader is looked at, for as long as it waits.
"""

from __future__ import annotations

import errno
from time import perf_counter
from typing import NamedTuple

import trio

from fs.cache.blob import Data
from fs.drivers import wire
from fs.drivers.answers import Answers
from fs.drivers.instances import Instances
from fs.drivers.observer import Observer

#: Reads that wait for the network are tasks; more than these wait for their turn.
_AT_ONCE = 512
#: The kernel asks for no more than it was told in the answer to INIT (bytes).
_LARGEST = 1 << 20
#: Between two looks at a reader that has a signal (seconds).
_FIRST_LOOK = 0.02
_LAST_LOOK = 1.0
_SIGKILL = 1 << 8


class _Request(NamedTuple):
    unique: int
    inode: int
    offset: int
    size: int
    pid: int


class Reads:
    """`nursery` ends with the connection."""

    def __init__(
        self, instances: Instances, answers: Answers, observer: Observer, nursery: trio.Nursery
    ) -> None:
        self._instances = instances
        self._answers = answers
        self._observer = observer
        self._nursery = nursery
        self._buffer = memoryview(bytearray(_LARGEST))
        self._running: dict[int, tuple[_Request, trio.CancelScope]] = {}
        self._queue: dict[int, _Request] = {}  # oldest first

    @property
    def are_idle(self) -> bool:
        """Whether nobody waits for more than memory."""
        return not self._running

    def ask(self, unique: int, inode: int, body: memoryview, pid: int) -> None:
        """Answer, now or later. Failure."""
        begun = perf_counter()
        _, offset, size = wire.READ_IN.unpack_from(body)
        _, tree, nid = self._instances.resolve(inode)
        data = None if size > _LARGEST else tree.read_now(nid, offset, size, self._buffer)
        if data is not None:
            self._answers.give(unique, data)
            self._observer.read(inode, len(data), perf_counter() - begun)
            return
        request = _Request(unique, inode, offset, size, pid)
        if len(self._running) < _AT_ONCE:
            self._start(request)
        else:
            self._queue[unique] = request

    def _start(self, request: _Request) -> None:
        scope = trio.CancelScope()
        self._running[request.unique] = request, scope
        self._nursery.start_soon(self._run, request, scope)

    async def _run(self, request: _Request, scope: trio.CancelScope) -> None:
        unique, inode = request.unique, request.inode
        ticket, begun = self._observer.begin_read(inode)
        try:
            with scope:
                data = await self._read(request)
                self._answers.give(unique, data)
                self._observer.read(inode, len(data), perf_counter() - begun)
            if scope.cancelled_caught:
                self._answers.refuse(unique, errno.EINTR)
        except Exception as error:
            self._answers.fail(unique, error)
            self._observer.failed(wire.READ, inode)
        finally:
            self._observer.end_read(ticket)
            del self._running[unique]
            if self._queue:
                self._start(self._queue.pop(next(iter(self._queue))))

    async def _read(self, request: _Request) -> Data:
        _, tree, nid = self._instances.resolve(request.inode)
        return await tree.read(nid, request.offset, request.size)

    def interrupt(self, unique: int) -> None:
        """The reader behind a request has a signal."""
        if unique in self._running or unique in self._queue:
            self._nursery.start_soon(self._watch, unique)

    async def _watch(self, unique: int) -> None:
        """The kernel tells of a first signal only, so a reader may be killed by a later one."""
        pause = _FIRST_LOOK
        while unique in self._running or unique in self._queue:
            if self._is_killed(unique):
                return
            await trio.sleep(pause)
            pause = min(2 * pause, _LAST_LOOK)

    def _is_killed(self, unique: int) -> bool:
        """Whether the reader is; then its request is on the way to its end."""
        if unique in self._queue:
            if killed := _is_killed(self._queue[unique].pid):
                del self._queue[unique]
                self._answers.refuse(unique, errno.EINTR)
            return killed
        request, scope = self._running[unique]
        if killed := _is_killed(request.pid):
            scope.cancel()
        return killed


def _is_killed(pid: int) -> bool:
    """Whether a thread ends as soon as it is let go; False where it cannot be seen."""
    try:
        with open(f"/proc/{pid}/status") as file:
            for line in file:
                if line.startswith("SigPnd:"):
                    return bool(int(line.split()[1], 16) & _SIGKILL)
    except OSError:
        pass
    return False
