"""A FUSE session over a connection that the supervisor has opened.

The front reads the connection; libfuse and pyfuse3 sit on a socketpair behind it for
good. libfuse insists on seeing an INIT, and the kernel sends one only once in the life
of a mount, so what it finds first in its socket is a copy of that.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable

import pyfuse3
import trio

from fs.daemon import kernel
from fs.daemon.counting import Counting
from fs.daemon.metrics import Traffic
from fs.drivers.front import Front
from fs.drivers.fuse import TreeOperations
from fs.drivers.instances import ROOT, Instances
from fs.drivers.notices import Notices
from fs.drivers.relay import Relay

#: What pyfuse3 is asked it answers without waiting.
_MAX_TASKS = 4


class Session:
    """`on_forget` and `on_close` are as in `Front`."""

    def __init__(
        self,
        instances: Instances,
        on_forget: Callable[[int], None],
        on_close: Callable[[int], None],
    ) -> None:
        self.ended = trio.Event()
        self.traffic = Traffic()
        self._instances = instances
        instances.on_removal = self.traffic.forget
        self._on_forget = on_forget
        self._on_close = on_close
        self._notices: Notices | None = None

    async def serve(
        self,
        descriptor: int,
        init: bytes,
        is_successor: bool,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Serve until the connection ends; `ended` is set then.

        A successor asks for the requests that its predecessor took along.
        """
        begun = trio.Event()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        operations = TreeOperations(self._instances, begun.set)
        pyfuse3.init(operations, f"/dev/fd/{theirs.detach()}", {"default_permissions"})
        try:
            with ours:
                ours.send(init)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(pyfuse3.main, 1, _MAX_TASKS)
                    await begun.wait()
                    self._begin(descriptor, is_successor)
                    task_status.started()
                    await self._answer(descriptor, kernel.offered(init), ours)
                    pyfuse3.terminate()
                    nursery.cancel_scope.cancel()
        finally:
            self._instances.on_change = lambda: None
            self._notices = None
            os.close(descriptor)
            pyfuse3.close(unmount=False)
            self.ended.set()

    def _begin(self, descriptor: int, is_successor: bool) -> None:
        # Of the open file that the supervisor has too, which never reads from it again.
        os.set_blocking(descriptor, False)
        self._notices = notices = Notices(descriptor)
        self._instances.on_change = lambda: notices.changed(ROOT)
        if is_successor:
            notices.resend()
            notices.changed(ROOT)

    async def _answer(self, descriptor: int, offered: int, ours: socket.socket) -> None:
        front = Front(
            descriptor,
            offered,
            self._instances,
            Counting(self._instances, self.traffic),
            self._on_forget,
            self._on_close,
        )
        relay = Relay(ours, front.relayed)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(relay.run)
            await front.serve(relay)
            nursery.cancel_scope.cancel()

    def take_back(self, name: bytes, parent: int = ROOT) -> None:
        """Have the kernel forget a name, if it can still be told. Blocking; OSError."""
        if self._notices is not None:
            self._notices.take_back(name, parent)

    def knows(self, inode: int) -> bool:
        """Whether the kernel knows an inode, as far as it can be asked."""
        return self._notices is None or self._notices.knows(inode)
