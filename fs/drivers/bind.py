"""The fuse transport: a mount is a copy of the daemon's own, of the image's directory in it."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

import trio

from fs import mounts
from fs.drivers.instances import Instance
from fs.format.errors import MountError

#: How long the kernel may take to say that nobody uses a directory (seconds).
_FORGETTING = 1.0


class FuseDriver:
    """`directory` is the daemon's mount; `take_back` makes the kernel forget a name in it.

    Both ask the kernel, and the kernel this very process: always in a thread.
    """

    name = "fuse"

    def __init__(self, directory: str, take_back: Callable[[bytes], None]) -> None:
        self._directory = directory
        self._take_back = take_back

    async def attach(self, instance: Instance) -> int:
        copy = _Copy(self._path(instance), instance.options.nosuid)
        try:
            return await trio.to_thread.run_sync(copy.make, abandon_on_cancel=True)
        except trio.Cancelled:
            copy.abandon()
            raise

    async def in_use(self, instance: Instance) -> bool:
        """Take the name back from the kernel: what nobody uses is forgotten then.

        The name is looked up first, so that the kernel has something to forget
        even if it has forgotten, or told our predecessor.
        """
        if instance.forgotten.is_set():
            return False
        await trio.to_thread.run_sync(self._stir, instance, abandon_on_cancel=True)
        with trio.move_on_after(_FORGETTING):
            await instance.forgotten.wait()
        return not instance.forgotten.is_set()

    def _stir(self, instance: Instance) -> None:
        try:
            os.close(os.open(self._path(instance), os.O_PATH | os.O_CLOEXEC))
            self._take_back(instance.id.encode())
        except OSError:
            pass  # the name is gone already, or the whole mount is

    def knows_all(self, instance: Instance) -> bool:
        return False  # it waits, and takes away what is mounted below

    async def detach(self, instance: Instance) -> None:
        pass

    def _path(self, instance: Instance) -> str:
        return os.path.join(self._directory, instance.id)


class _Copy:
    """A detached mount in the making, by a thread that may be abandoned."""

    def __init__(self, path: str, nosuid: bool) -> None:
        self._path = path
        self._nosuid = nosuid
        self._lock = threading.Lock()
        self._abandoned = False
        self._descriptor = -1

    def make(self) -> int:
        try:
            descriptor = mounts.open_tree(self._path)
            if self._nosuid:
                mounts.set_mount_attributes(descriptor, mounts.MOUNT_ATTR_NOSUID)
        except OSError as error:
            raise MountError(f"{self._path}: {error.strerror}") from error
        with self._lock:
            if not self._abandoned:
                self._descriptor = descriptor
                return descriptor
        os.close(descriptor)
        return -1

    def abandon(self) -> None:
        """Nobody waits for it any more: it must not stay."""
        with self._lock:
            self._abandoned = True
            if self._descriptor >= 0:
                os.close(self._descriptor)
