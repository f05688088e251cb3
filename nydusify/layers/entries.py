"""The tree of a Nydus image as the entries of a layer: what `convert` read, given back.

Every name once, a directory before what is in it, the further names of an inode as hard
links to its first. Contents are read, and verified, as they are asked for.
"""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterable, Iterator

from fs.format.bootstrap import Inode
from fs.format.errors import FormatError
from fs.format.tree import HOLE
from fs.format.walk import paths
from fs.image.contents import Contents
from fs.tar.entry import HARD_LINK, Entry, Segments

#: Bytes of a file's holes that are worth telling of.
_HOLE = 4096


class TreeEntries:
    """As nydusify.layers.sources.Entries. `wanted` says of a path whether it is to be an entry.

    `listed` are the image's paths with their inodes, if not all of them in their order.
    The first wanted name of an inode is the file, the others are links to it.
    `advance` is told of the bytes read.
    """

    def __init__(
        self,
        contents: Contents,
        advance: Callable[[int], None] = lambda size: None,
        wanted: Callable[[bytes], bool] = lambda path: True,
        listed: Iterable[tuple[bytes, Inode]] | None = None,
    ) -> None:
        self._listed = listed
        self._contents = contents
        self._advance = advance
        self._wanted = wanted
        self._file: Iterator[bytes] = iter(())
        self._rest = b""

    def __iter__(self) -> Iterator[Entry]:
        first: dict[int, bytes] = {}
        listed = paths(self._contents.bootstrap) if self._listed is None else self._listed
        for path, inode in listed:
            if not self._wanted(path):
                continue
            known = first.setdefault(inode.nid, path)
            entry = self._entry(path, inode)
            if known != path:
                entry.kind, entry.target, entry.size, entry.packed_size = HARD_LINK, known, 0, 0
                entry.segments = None
            elif stat.S_ISREG(inode.mode):
                self._file, self._rest = self._packed(inode, entry.segments), b""
            yield entry

    def read(self, size: int) -> bytes:
        """The next `size` packed bytes of the file just yielded."""
        parts = [self._rest]
        missing = size - len(self._rest)
        while missing > 0:
            piece = next(self._file, None)
            if piece is None:
                raise FormatError("file is shorter than its size", self._contents.bootstrap.name)
            parts.append(piece)
            missing -= len(piece)
        data = b"".join(parts)
        self._rest = data[size:]
        self._advance(size)
        return data[:size]

    def _entry(self, path: bytes, inode: Inode) -> Entry:
        bootstrap = self._contents.bootstrap
        entry = Entry(
            path,
            stat.S_IFMT(inode.mode),
            mode=stat.S_IMODE(inode.mode),
            uid=inode.uid,
            gid=inode.gid,
            mtime=inode.mtime,
            mtime_nsec=inode.mtime_nsec,
            rdev=inode.rdev,
            xattrs=bootstrap.xattrs(inode.nid) if inode.has_xattrs else {},
        )
        if entry.kind == stat.S_IFLNK:
            entry.target = bootstrap.readlink(inode.nid)
        elif entry.kind == stat.S_IFREG:
            entry.size = entry.packed_size = inode.size
            entry.segments = self._segments(inode)
            if entry.segments is not None:
                entry.packed_size = sum(length for _, length in entry.segments)
        return entry

    def _segments(self, inode: Inode) -> Segments | None:
        """Where the data of a file with holes lies; None for a file without."""
        extents = self._contents.bootstrap.extents(inode.nid, 0, inode.size)
        if not any(extent.blob_index == HOLE and extent.length >= _HOLE for extent in extents):
            return None
        return [(e.file_offset, e.length) for e in extents if e.blob_index != HOLE]

    def _packed(self, inode: Inode, segments: Segments | None) -> Iterator[bytes]:
        piece_size = 1 << 20
        for start, length in [(0, inode.size)] if segments is None else segments:
            for offset in range(start, start + length, piece_size):
                wanted = min(piece_size, start + length - offset)
                yield self._contents.read(inode.nid, offset, wanted)
