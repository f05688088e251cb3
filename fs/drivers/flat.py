"""Decoded blobs as flat files: the devices of an image that the kernel mounts itself.

    blobs/NUMBER.INDEX      blob INDEX of instance NUMBER       nid = NUMBER << 8 | INDEX
    blobs/probe             a file that is known beforehand     nid 2

Offsets are those of the decoded blob. What lies in no chunk reads as zeros; a
chunk is verified before it is served, as everywhere. Names carry all there is
to know, so a new worker serves the handles of the old one.

The kernel forgets an inode after the last user of the mount above it left, for
its name is taken back at once (see `erofs.py`).
"""

from __future__ import annotations

import re
import stat
from collections.abc import Callable, Iterator

from fs.cache.blob import Data
from fs.format.bootstrap import DirEntry, Inode
from fs.format.errors import NotFoundError
from fs.image.tree import Image

ROOT = 1
PROBE = 2
PROBE_NAME = b"probe"
PROBE_CONTENT = b"read by the kernel through a file that this daemon serves\n".ljust(4096, b".")
_INDEX_BITS = 8
_INDEX_MASK = (1 << _INDEX_BITS) - 1
_NAME = re.compile(rb"([1-9][0-9]{0,8})\.(0|[1-9][0-9]{0,2})")
#: A device must end with a whole block of the largest size.
_BLOCK = 4096


def file_name(number: int, index: int) -> bytes:
    """The name of blob `index` of instance `number`."""
    return b"%d.%d" % (number, index)


class FlatFiles:
    """A tree (see `instances.Tree`). `image_of` raises NotFoundError for what is no instance."""

    root = ROOT
    fixed = False
    inode_count = 0
    data_size = 0

    def __init__(self, image_of: Callable[[int], Image]) -> None:
        self._image_of = image_of

    def inode(self, nid: int) -> Inode:
        if nid == ROOT:
            return _inode(nid, stat.S_IFDIR | 0o500, 0)
        if nid == PROBE:
            return _inode(nid, stat.S_IFREG | 0o400, len(PROBE_CONTENT))
        blob = self._image_of(nid >> _INDEX_BITS).bootstrap.blobs[nid & _INDEX_MASK]
        size = -(-blob.uncompressed_size // _BLOCK) * _BLOCK
        return _inode(nid, stat.S_IFREG | 0o400, size)

    def lookup(self, nid: int, name: bytes) -> int | None:
        if name in (b".", b".."):
            return ROOT
        if name == PROBE_NAME:
            return PROBE
        match = _NAME.fullmatch(name)
        if match is None:
            return None
        number, index = int(match[1]), int(match[2])
        try:
            count = len(self._image_of(number).bootstrap.blobs)
        except NotFoundError:
            return None
        return file_nid(number, index) if index < count else None

    def entries(self, nid: int, start: int) -> Iterator[DirEntry]:
        """Nothing: the names are for the kernel, which knows them."""
        return iter(())

    def readlink(self, nid: int) -> bytes:
        raise NotFoundError(f"blob file {nid} is no link")

    def xattrs(self, nid: int) -> dict[bytes, bytes]:
        return {}

    async def read(self, nid: int, offset: int, length: int) -> Data:
        """Bytes of a file, fewer only at its end."""
        if nid == PROBE:
            return PROBE_CONTENT[offset : offset + length]
        length = max(0, min(length, self.inode(nid).size - offset))
        image = self._image_of(nid >> _INDEX_BITS)
        index = nid & _INDEX_MASK
        if image.on_flat is not None:
            image.on_flat(index, offset, length)
        cache = await image.blob(index)
        return await cache.read_flat(offset, length)

    def read_now(self, nid: int, offset: int, length: int, buffer: memoryview) -> Data | None:
        """See `instances.Tree`."""
        if nid == PROBE:
            return PROBE_CONTENT[offset : offset + length]
        length = max(0, min(length, self.inode(nid).size - offset))
        image = self._image_of(nid >> _INDEX_BITS)
        index = nid & _INDEX_MASK
        cache = image.opened(index)
        data = None if cache is None else cache.read_flat_now(offset, length, buffer)
        if data is not None and image.on_flat is not None:
            image.on_flat(index, offset, length)
        return data


def file_nid(number: int, index: int) -> int:
    """The nid of blob `index` of instance `number`."""
    return number << _INDEX_BITS | index


def instance_of(nid: int) -> int | None:
    """The number of the instance that a file belongs to."""
    return nid >> _INDEX_BITS or None


def _inode(nid: int, mode: int, size: int) -> Inode:
    return Inode(nid, nid, mode, 1, 0, 0, 0, size, 0, 0, False)
