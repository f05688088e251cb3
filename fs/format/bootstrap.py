"""A bootstrap opened for reading, whatever its version: the one interface readers offer.

Opening costs the same for every image: fixed headers and the blob table are
checked, the rest is checked when it is used. So any method may raise
FormatError, and none may raise anything else because of what the bytes hold,
run without end, or take memory out of proportion to the bootstrap.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

from fs.format.blobtable import BlobRecord, Compressor, Digester
from fs.format.chunktable import ChunkTable
from fs.format.tree import HOLE


class Inode(NamedTuple):
    """What stat(2) shows. `mtime` may be negative; `rdev` is as makedev gives it, else 0."""

    nid: int
    ino: int
    mode: int
    nlink: int
    uid: int
    gid: int
    rdev: int
    size: int
    mtime: int
    mtime_nsec: int
    has_xattrs: bool


class DirEntry(NamedTuple):
    """A name in a directory. `type` is 1 REG 2 DIR 3 CHR 4 BLK 5 FIFO 6 SOCK 7 LNK.

    `cookie` is greater than 0 and continues a listing after this entry.
    """

    name: bytes
    nid: int
    type: int
    cookie: int


class Extent(NamedTuple):
    """A piece of a file and where it lies in the decoded blob; it may span several chunks.

    A hole has the blob index `tree.HOLE`, reads as zeros and lies in no blob.
    """

    file_offset: int
    length: int
    blob_index: int
    blob_offset: int


def join_extent(extents: list[Extent], piece: Extent) -> None:
    """Add `piece`, joined to the last of `extents` where it continues that in its blob."""
    if extents:
        last = extents[-1]
        continues = piece.blob_index == HOLE or (
            last.blob_offset + last.length == piece.blob_offset
        )
        if last.blob_index == piece.blob_index and continues:
            extents[-1] = last._replace(length=last.length + piece.length)
            return
    extents.append(piece)


class Bootstrap(Protocol):
    """An image's metadata. Inodes are named by `nid`; `flags` are those of the superblock,
    `size` is that of the whole bootstrap in bytes, `sealed` if it has a digest of itself.
    """

    @property
    def version(self) -> int: ...
    @property
    def root(self) -> int: ...
    @property
    def block_size(self) -> int: ...

    name: str
    #: The file that it was opened from, if it was.
    path: str
    size: int
    chunk_size: int
    compressor: Compressor
    digester: Digester
    flags: int
    sealed: bool
    has_xattrs: bool
    inode_count: int
    blobs: Sequence[BlobRecord]

    @property
    def prefetch(self) -> Sequence[int]:
        """The nids that the image asks to be read first."""
        ...

    def inode(self, nid: int) -> Inode: ...

    def lookup(self, nid: int, name: bytes) -> int | None:
        """The nid under `name` in directory `nid`, or None; FormatError if it is no directory."""
        ...

    def entries(self, nid: int, start: int = 0) -> Iterator[DirEntry]:
        """The names in directory `nid` after cookie `start`, sorted, without "." and ".."."""
        ...

    def readlink(self, nid: int) -> bytes: ...

    def xattrs(self, nid: int) -> dict[bytes, bytes]: ...

    def extents(self, nid: int, offset: int, length: int) -> list[Extent]:
        """Where bytes [offset, offset+length) of regular file `nid` lie, up to its end.

        In order and without gaps; neighbours that continue each other in one
        blob are joined.
        """
        ...

    def chunk_table(self, blob_index: int) -> ChunkTable:
        """The chunks of a blob with their digests, in time proportional to all chunks."""
        ...

    def close(self) -> None:
        """Let go of the buffer; the object is of no use afterwards."""
        ...
