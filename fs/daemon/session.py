"""A pyfuse3 session over a connection that the supervisor has opened.

libfuse insists on seeing an INIT, and the kernel sends one only once in the life
of a mount. So libfuse begins on a socketpair that holds a copy of it; when it has
seen that, the real connection takes the socketpair's place under the same number.
"""

from __future__ import annotations

import os
import socket

import pyfuse3
import trio

from fs.daemon import kernel
from fs.drivers.fuse import TreeOperations
from fs.drivers.instances import Instances

#: A read that waits for the network keeps its task; names must be served beside many of them.
_MAX_TASKS = 512


async def serve_tree(
    instances: Instances,
    descriptor: int,
    init: bytes,
    is_successor: bool,
    task_status: trio.TaskStatus[trio.Event] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until the connection ends; the event given at the start is set then.

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
        begun.set()

    operations = TreeOperations(instances, take_over)
    pyfuse3.init(operations, f"/dev/fd/{session_fd}", {"default_permissions"})
    ended = trio.Event()
    try:
        with ours:
            ours.send(init)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(pyfuse3.main, 1, _MAX_TASKS)
                await begun.wait()
                task_status.started(ended)
    finally:
        pyfuse3.close(unmount=False)
        ended.set()
