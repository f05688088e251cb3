"""A file system tree in memory: what the bootstrap writer takes.

An inode is one `Node` object, however many names it has: a hard link is the
same object under a second name. Names and link targets are bytes, as the
kernel has them. Nothing here is validated: the writer checks the format's limits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple, cast

#: `context` of a chunk that is a piece of its own.
NO_CONTEXT = -1


class Chunk(NamedTuple):
    """A piece of a regular file, as it lies in a blob (sizes and offsets in bytes).

    `position` is its place in the blob's chunk information array; `flags` are
    those of the chunk table, of which HAS_CRC32 goes with `crc32`. Chunks shared
    by several files are equal tuples; where in the file a chunk lies follows from
    its place in `Node.chunks`. All but the last of a file have the image's chunk size.

    A chunk of a batch (flags COMPRESSED and BATCH) has the offset of the batch, a compressed size
    of 0, the number of the batch as `context` and its offset in the decoded batch as `within`.
    """

    digest: bytes
    blob_index: int
    position: int
    compressed_offset: int
    compressed_size: int
    uncompressed_offset: int
    uncompressed_size: int
    flags: int = 0
    crc32: int = 0
    context: int = NO_CONTEXT
    within: int = 0


#: `Chunk.blob_index` of a hole, which reads as zeros; of such a chunk only the size counts.
#: The kernel and our reader know holes; Nydus's own daemon does not.
HOLE = -1


_TYPE, _DIRECTORY = 0o170000, 0o040000
_NO_XATTRS: Mapping[bytes, bytes] = MappingProxyType({})
#: Shared by all that can have no children, and not to be changed.
_CHILDLESS = cast("dict[bytes, Node]", MappingProxyType({}))


class Node:
    """One inode. `mode` has the file type bits of stat(2); `rdev` is as makedev gives it.

    `nlink` is the link count of a non-directory; 0 stands for the number of its
    names in the tree (they differ where an upper layer hides one of the names).
    Trees have millions of nodes, so what most nodes lack is shared: `xattrs` and `chunks` are
    replaced, never changed, and only directories have `children` that can be.
    """

    __slots__ = (
        "children",
        "chunks",
        "gid",
        "mode",
        "mtime",
        "mtime_nsec",
        "nlink",
        "rdev",
        "size",
        "target",
        "uid",
        "xattrs",
    )

    def __init__(
        self,
        mode: int,
        uid: int = 0,
        gid: int = 0,
        mtime: int = 0,
        mtime_nsec: int = 0,
        size: int = 0,
        rdev: int = 0,
        nlink: int = 0,
        target: bytes = b"",
        xattrs: Mapping[bytes, bytes] = _NO_XATTRS,
        chunks: Sequence[Chunk] = (),
        children: dict[bytes, Node] | None = None,
    ) -> None:
        self.mode = mode
        self.uid = uid
        self.gid = gid
        self.mtime = mtime
        self.mtime_nsec = mtime_nsec
        self.size = size
        self.rdev = rdev
        self.nlink = nlink
        self.target = target
        self.xattrs = xattrs
        self.chunks = chunks
        if children is None:
            children = {} if mode & _TYPE == _DIRECTORY else _CHILDLESS
        self.children = children
