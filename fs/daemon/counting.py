"""The kernel's requests, counted for the instance that they are about."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from time import perf_counter
from typing import Any

from pyfuse3 import FUSEError

from fs.cache.blob import Data
from fs.daemon.metrics import OPERATIONS, READ, Counters, Traffic
from fs.drivers.flat import instance_of
from fs.drivers.fuse import TreeOperations
from fs.drivers.instances import BLOBS, ROOT, Instances

_NUMBER_SHIFT = 40
_FORGET = OPERATIONS.index("Forget")
_BLOB_FILES = Instances.first_inode(BLOBS)
#: What is asked of the directory of all trees is of no instance.
_OF_NONE = Counters()


class CountingOperations(TreeOperations):
    """Reads of a flat blob count as reads of the instance that the blob is served for."""

    def __init__(
        self,
        instances: Instances,
        traffic: Traffic,
        on_init: Callable[[], None],
        on_forget: Callable[[int], None],
        on_close: Callable[[int], None],
    ) -> None:
        super().__init__(instances, on_init, on_forget, on_close)
        self._traffic = traffic
        self._top = _OF_NONE
        if not instances.is_top(ROOT):
            self._top = traffic.of(instances.resolve(ROOT)[0])

    def _counters(self, inode: int) -> Counters:
        number = inode >> _NUMBER_SHIFT
        if not number:
            return self._top
        if number == BLOBS:
            number = instance_of(inode - _BLOB_FILES) or 0
            if not number:
                return _OF_NONE
        return self._traffic.of(number)

    async def read(  # type: ignore[override]
        self, fh: int, off: int, size: int
    ) -> Data:
        counters = self._counters(fh)
        counters.hits[READ] += 1
        ticket, begun = self._traffic.begin_read(fh)
        try:
            data = await super().read(fh, off, size)
        except FUSEError:
            counters.errors[READ] += 1
            raise
        finally:
            self._traffic.end_read(ticket)
        counters.read(len(data), perf_counter() - begun)
        return data

    async def forget(self, inode_list: Sequence[tuple[int, int]]) -> None:
        for inode, _ in inode_list:
            self._counters(inode).hits[_FORGET] += 1
        await super().forget(inode_list)


def _counted(name: str, kind: str) -> Callable[..., Awaitable[Any]]:
    """The handler of that name, counted as an operation of `kind`; the inode comes first."""
    handler = getattr(TreeOperations, name)
    index = OPERATIONS.index(kind)

    async def counted(self: CountingOperations, inode: int, *rest: Any) -> Any:  # noqa: ANN401
        counters = self._counters(inode)
        counters.hits[index] += 1
        try:
            return await handler(self, inode, *rest)
        except FUSEError:
            counters.errors[index] += 1
            raise

    return counted


for _name, _kind in (
    ("getattr", "Getattr"),
    ("readlink", "Readlink"),
    ("open", "Open"),
    ("release", "Release"),
    ("getxattr", "Getxattr"),
    ("listxattr", "Listxattr"),
    ("opendir", "Opendir"),
    ("lookup", "Lookup"),
    ("readdir", "Readdirplus"),
):
    setattr(CountingOperations, _name, _counted(_name, _kind))
