"""Mounts that go without a word: by umount(8), or with their namespace.

The kernel tells of it, so nobody asks while nothing happens: fanotify from Linux 6.15
on, for every namespace where a mount of ours was seen; before that the mount table
of our own namespace, which can be polled. Then the tables say what is still there.
"""

from __future__ import annotations

import os
import select
from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple

import trio

from fs import mounts

_EVENTS = 1 << 16
_TABLE = "/proc/self/mountinfo"


class Place(NamedTuple):
    """What a mount shows, as mount tables have it.

    `kind` is the type of file system without its subtype: a device number is given to another
    file system as soon as the first is gone. `path` is that of a directory at its top, or "/".
    """

    kind: str
    device: str
    path: str


class Unmounts:
    """Tells when to look again. `close` when nobody waits any more."""

    def __init__(self) -> None:
        self._listener = -1
        self._table = -1
        try:
            self._listener = mounts.unmount_listener()
            self.know("self")
        except OSError:
            self._poll_table()

    def _poll_table(self) -> None:
        """The table is always readable; that it has changed is an exceptional event.

        Not by trio's epoll: asking twice for such an event loses it, and a thread asks once.
        """
        if self._listener >= 0:
            os.close(self._listener)
            self._listener = -1
        self._table = os.open(_TABLE, os.O_RDONLY | os.O_CLOEXEC)
        self._changes = select.poll()
        self._changes.register(self._table, select.POLLPRI)
        self._changes.poll(0)

    def know(self, process: str) -> None:
        """Be told of unmounts in the mount namespace of a process. Blocks; OSError."""
        if self._listener < 0:
            return
        namespace = os.open(f"/proc/{process}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        try:
            mounts.listen_to_namespace(self._listener, namespace)
        finally:
            os.close(namespace)

    async def wait(self) -> None:
        """Until something was unmounted, anything."""
        if self._listener < 0:
            await trio.to_thread.run_sync(self._changes.poll, abandon_on_cancel=True)
            return
        await trio.lowlevel.wait_readable(self._listener)
        with suppress(BlockingIOError):
            while os.read(self._listener, _EVENTS):
                pass

    def close(self) -> None:
        os.close(self._table if self._listener < 0 else self._listener)

    def unseen(self, wanted: set[Place]) -> set[Place]:
        """Those of the wanted that no process has mounted. Blocks.

        Other namespaces are looked at only for what ours has not; where one of
        the wanted is found, its unmounting will be told of.
        """
        left = set(wanted)
        for process, table in _tables():
            found = left & _mounted(table, left)
            if found:
                left -= found
                with suppress(OSError):  # the process has just ended; others are for the next look
                    self.know(process)
            if not left:
                break
        return left


def _tables() -> Iterator[tuple[str, bytes]]:
    """A process and its mount table, for each namespace and root directory; ours first."""
    seen = set()
    for process in ("self", *filter(str.isdigit, os.listdir("/proc"))):
        with suppress(OSError):
            place = os.readlink(f"/proc/{process}/ns/mnt"), os.readlink(f"/proc/{process}/root")
            if place in seen:
                continue
            with open(f"/proc/{process}/mountinfo", "rb") as file:
                table = file.read()
            seen.add(place)
            yield process, table


def _mounted(table: bytes, wanted: set[Place]) -> set[Place]:
    """Those of the wanted of which a table has a mount, whole or of a directory in it."""
    devices = {place.device for place in wanted}
    found: set[Place] = set()
    for line in table.splitlines():
        fields = line.split(b" ", 4)
        device = fields[2].decode()
        if device not in devices:
            continue
        root = fields[3].decode(errors="replace")
        kind = line.partition(b" - ")[2].split(b" ", 1)[0].partition(b".")[0].decode()
        found |= wanted & {Place(kind, device, path) for path in ("/", "/" + root.split("/", 2)[1])}
    return found
