"""Names and attributes as the kernel wants them: entries, listings, forgotten lookups.

An image never changes, so the kernel may keep for ever what it learns, absent names
included, and listings of directories. Only the directory of all trees changes: its
attributes are asked for at every use, and a new time of change makes the kernel ask
for the listing again. A name that leaves it is taken back.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterator
from functools import lru_cache

from pyfuse3 import FUSEError

from fs.drivers import wire
from fs.drivers.flat import instance_of
from fs.drivers.instances import BLOBS, ROOT, Instances
from fs.image.tree import unmap_pages

_ENTRIES_KEPT = 4096
#: Inodes that are looked at between two times that pages of bootstraps are let go.
_UNMAPPING = 16384
#: Cookies 1 and 2 are those of "." and "..", the image's own follow.
_DOTS = 2
_ATTR_AT = wire.ENTRY_OUT.size
_MODE = struct.Struct("<I")
_MODE_AT = _ATTR_AT + 60
_ABSENT = wire.ENTRY_OUT.pack(0, 0, wire.FOREVER, 0, 0, 0) + bytes(wire.ATTR.size)
_KEEP = wire.ATTR_OUT.pack(wire.FOREVER, 0, 0)
_ASK_AGAIN = wire.ATTR_OUT.pack(0, 0, 0)
_NO_LOOKUP = bytes(_ATTR_AT)
_BLOB_FILES = Instances.first_inode(BLOBS)


class Names:
    """Bodies of answers. Raises Failure, or FUSEError."""

    def __init__(self, instances: Instances) -> None:
        self._instances = instances
        # A listing is often followed by lookups.
        self._kept = lru_cache(_ENTRIES_KEPT)(self._make_entry)
        self._made = 0

    def lookup(self, parent: int, name: bytes) -> bytes:
        found = self._instances.lookup(parent, name)
        if found is not None:
            return self._kept(found)
        if not self._instances.is_fixed(parent):
            raise FUSEError(errno.ENOENT)
        return _ABSENT

    def attributes(self, inode: int) -> bytes:
        if self._instances.is_top(inode):
            return _ASK_AGAIN + self._make_entry(inode)[_ATTR_AT:]
        return _KEEP + self._kept(inode)[_ATTR_AT:]

    def _make_entry(self, inode: int) -> bytes:
        self._made += 1
        if self._made % _UNMAPPING == 0:
            unmap_pages()
        attributes = wire.attributes(inode, self._instances.inode(inode))
        return wire.ENTRY_OUT.pack(inode, 0, wire.FOREVER, wire.FOREVER, 0, 0) + attributes

    def listing(self, inode: int, start: int, room: int, *, plus: bool) -> bytes:
        """Up to `room` bytes of a directory's names after cookie `start`.

        With `plus` each name but the dots counts as looked up.
        """
        parts: list[bytes] = []
        try:
            for name, number, cookie in self._names(inode, start):
                entry = self._make_entry(number) if number == ROOT else self._kept(number)
                (mode,) = _MODE.unpack_from(entry, _MODE_AT)
                record = wire.dirent(number, cookie, mode, name)
                if plus:
                    record = self._looked_up(entry, cookie) + record
                room -= len(record)
                if room < 0:
                    break
                parts.append(record)
                if plus and inode == ROOT and cookie > _DOTS and self._instances.is_top(inode):
                    self._instances.count_lookup(number)
        except Exception:
            if not parts:
                raise  # else whoever asks for more is told then
        return b"".join(parts)

    @staticmethod
    def _looked_up(entry: bytes, cookie: int) -> bytes:
        return entry if cookie > _DOTS else _NO_LOOKUP + entry[_ATTR_AT:]

    def _names(self, inode: int, start: int) -> Iterator[tuple[bytes, int, int]]:
        """Name, inode and cookie of what comes after cookie `start`."""
        if start < 1:
            yield b".", inode, 1
        if start < _DOTS:
            yield b"..", self._instances.parent(inode), _DOTS
        for entry in self._instances.entries(inode, max(0, start - _DOTS)):
            yield entry.name, entry.inode, entry.cookie + _DOTS

    def forget(self, inode: int, lookups: int) -> int | None:
        """The number of the instance that the kernel needs less, perhaps no more."""
        if inode < _BLOB_FILES:
            return self._instances.forget(inode, lookups)
        return instance_of(inode - _BLOB_FILES)
