"""A pyfuse3 session over a connection that the supervisor has opened.

libfuse insists on seeing an INIT, and the kernel sends one only once in the life
of a mount. So libfuse begins on a socketpair that holds a copy of it; when it has
seen that, the real connection takes the socketpair's place under the same number.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable

import pyfuse3
import trio

from fs.daemon import kernel
from fs.daemon.counting import CountingOperations
from fs.daemon.metrics import Traffic
from fs.drivers.instances import ROOT, Instances

#: A read that waits for the network keeps its task; others must be served beside many of them.
_MAX_TASKS = 1024


class Session:
    """`on_forget` and `on_close` are as in `TreeOperations`."""

    def __init__(
        self,
        instances: Instances,
        on_forget: Callable[[int], None],
        on_close: Callable[[int], None],
    ) -> None:
        self.ended = trio.Event()
        self.traffic = Traffic()
        self._instances = instances
        self._on_forget = on_forget
        self._on_close = on_close
        self._descriptor = -1

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
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        session_fd = theirs.detach()
        begun = trio.Event()

        def take_over() -> None:
            os.dup2(descriptor, session_fd)
            os.close(descriptor)
            if is_successor:
                kernel.resend(session_fd)
            self._descriptor = session_fd
            begun.set()

        operations = CountingOperations(
            self._instances, self.traffic, take_over, self._on_forget, self._on_close
        )
        pyfuse3.init(operations, f"/dev/fd/{session_fd}", {"default_permissions"})
        try:
            with ours:
                ours.send(init)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(pyfuse3.main, 1, _MAX_TASKS)
                    await begun.wait()
                    task_status.started()
        finally:
            self._descriptor = -1
            pyfuse3.close(unmount=False)
            self.ended.set()

    def take_back(self, name: bytes) -> None:
        """Have the kernel forget a name of the top directory. Blocking; OSError."""
        kernel.take_back(self._descriptor, ROOT, name)
