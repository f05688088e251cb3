"""The kernel's requests, counted for the instance that they are about.

Reads of a flat blob count as reads of the instance that the blob is served for.
"""

from __future__ import annotations

from fs.daemon.metrics import OPERATIONS, Counters, Traffic
from fs.drivers import wire
from fs.drivers.flat import instance_of
from fs.drivers.instances import BLOBS, ROOT, Instances

_BLOB_FILES = Instances.first_inode(BLOBS)
#: What is asked of the directory of all trees, or of a tree that is gone, is of no instance.
_OF_NONE = Counters()
_INDEX = {
    opcode: OPERATIONS.index(kind)
    for opcode, kind in {
        wire.LOOKUP: "Lookup",
        wire.FORGET: "Forget",
        wire.GETATTR: "Getattr",
        wire.READLINK: "Readlink",
        wire.OPEN: "Open",
        wire.READ: "Read",
        wire.RELEASE: "Release",
        wire.GETXATTR: "Getxattr",
        wire.LISTXATTR: "Listxattr",
        wire.OPENDIR: "Opendir",
        wire.READDIR: "Readdir",
        wire.READDIRPLUS: "Readdirplus",
    }.items()
}


class Counting:
    """A `drivers.observer.Observer`."""

    def __init__(self, instances: Instances, traffic: Traffic) -> None:
        self._instances = instances
        self._traffic = traffic
        self.begin_read = traffic.begin_read
        self.end_read = traffic.end_read

    def asked(self, opcode: int, inode: int) -> None:
        index = _INDEX.get(opcode)
        if index is not None:
            self._counters(inode).hits[index] += 1

    def failed(self, opcode: int, inode: int) -> None:
        index = _INDEX.get(opcode)
        if index is not None:
            self._counters(inode).errors[index] += 1

    def read(self, inode: int, size: int, seconds: float) -> None:
        self._counters(inode).read(size, seconds)

    def _counters(self, inode: int) -> Counters:
        number = self._instances.number_of(inode)
        if number == BLOBS:
            number = instance_of(inode - _BLOB_FILES) or 0
        elif not number and not self._instances.is_top(ROOT):
            number = self._instances.resolve(ROOT)[0]
        found = self._traffic.known(number)
        if found is None:  # the kernel may still forget inodes of what is gone
            return self._traffic.of(number) if self._instances.has(number) else _OF_NONE
        return found
