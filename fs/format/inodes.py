"""The inodes of a tree: numbered, placed and packed in one walk, into the metadata area.

The walk keeps Nydus's order: a directory, its children sorted by name, then each
subdirectory in turn. Two things are known late only, and written where they belong then: the
place of a subdirectory, into the record of its name, and how many names an inode has. Checks
what the format cannot hold. See docs/format.md, "Inode numbers" and "Placing inodes".
"""

from __future__ import annotations

import mmap
import struct
import sys
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Sequence

from fs.format import dirents, erofs, xattrs
from fs.format.allocator import START, Allocator, Place
from fs.format.errors import FormatError
from fs.format.filecontents import FileContents
from fs.format.tree import Node

_INO_MAX = 0xFFFFFFFF
_START_SIZE = 64 << 10
_NLINK_OFFSET = 44
_NLINK = struct.Struct("<I")
_NID = struct.Struct("<Q")
#: An extended inode with one chunk index behind it, which is most of them.
_SINGLE = struct.Struct(erofs.INODE_EXTENDED.format + "Q")
_SINGLE_FORMAT = erofs.CHUNK_BASED << 1 | 1
_TYPES = tuple(erofs.file_type(kind << 12) for kind in range(16))
_REGULAR, _DIRECTORY, _LINK = (_TYPES[kind] for kind in (8, 4, 10))
_DEVICES = (_TYPES[2], _TYPES[6])


class _Directory:
    """One whose name is known: `name` in `parent`, at `record` in the metadata area."""

    __slots__ = ("ino", "name", "nid", "node", "parent", "record")

    def __init__(self, node: Node, parent: _Directory | None, name: bytes, ino: int) -> None:
        self.node = node
        self.parent = parent
        self.name = name
        self.ino = ino
        self.nid = self.record = 0

    def path(self, *below: bytes) -> str:
        """Its path, or that of what is `below` it, for messages."""
        names = [*below]
        at: _Directory | None = self
        while at is not None:
            names.insert(0, at.name)
            at = at.parent
        return b"/".join(names).decode("utf-8", "backslashreplace") or "/"


class _Shared:
    """An inode that may have several names."""

    __slots__ = ("names", "nid")

    def __init__(self, nid: int) -> None:
        self.nid = nid
        self.names = 1


class Inodes:
    """`end` is where the metadata area ends, counted from its start.

    `meta` is where the area starts in the image. Of `wanted`, nodes of the tree, `find` knows
    the places.
    """

    def __init__(
        self, contents: FileContents, block_size: int, meta: int, wanted: Iterable[Node] = ()
    ) -> None:
        # Grows without being copied, as blocks of the allocator would be.
        self._data = mmap.mmap(-1, _START_SIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        #: Names in the tree, the root included: what the superblock counts as inodes.
        self.name_count = 1
        self.root_nid = 0
        self.has_xattrs = False
        self._contents = contents
        self._block_size = block_size
        self._meta = meta
        self._allocator = Allocator(block_size)
        self._wanted = {id(node): 0 for node in wanted}
        self._shared: dict[int, tuple[Node, _Shared]] = {}
        self._directories: dict[int, _Directory] = {}

    def write(self, root: Node, root_ino: int) -> None:
        """Fill the area. FormatError, naming the path, for what does not fit."""
        if root.mode >> 12 & 15 != 4:
            raise FormatError("the root is no directory", "/")
        top = self._new_directory(_Directory(root, None, b"", root_ino))
        pending = [top]
        while pending:
            directory = pending.pop()
            try:
                below = self._write_directory(directory)
            except (struct.error, FormatError) as error:
                raise _placed(error, directory.path()) from error
            pending.extend(reversed(below))
        self.root_nid = top.nid
        for node, shared in self._shared.values():
            if not node.nlink:
                start = shared.nid * erofs.SLOT_SIZE - START
                _NLINK.pack_into(self._data, start + _NLINK_OFFSET, shared.names)
        self._grow(self.end - START)

    @property
    def data(self) -> memoryview:
        """The metadata area from the root inode on."""
        return memoryview(self._data)[: self.end - START]

    @property
    def end(self) -> int:
        return self._allocator.offset

    def find(self, node: Node) -> int:
        """The nid of a wanted node; FormatError if it is not in the tree."""
        nid = self._wanted[id(node)]
        if not nid:
            raise FormatError("a node to prefetch is not in the tree")
        return nid

    def _write_directory(self, directory: _Directory) -> Sequence[_Directory]:
        """A directory and all in it, but for its subdirectories, which are returned."""
        node = directory.node
        children = _sorted_names(directory)
        names = children[:]
        own = bisect_left(names, b".")  # "-" and "+x" stand before "." and ".."
        names.insert(own, b".")
        parents = bisect_left(names, b"..")
        names.insert(parents, b"..")
        counts = dirents.split_names(names, self._block_size)
        size = dirents.data_size(names, counts, self._block_size)
        attributes = self._attributes(node)
        place = self._allocator.place_data(erofs.INODE_EXTENDED.size + len(attributes), size)
        self._settle(directory, place.offset // erofs.SLOT_SIZE)
        nids, types, below = self._write_children(directory, children)
        for at, nid in ((own, directory.nid), (parents, (directory.parent or directory).nid)):
            nids.insert(at, nid)
            types.insert(at, _DIRECTORY)
        data = dirents.pack(names, nids, types, counts, self._block_size)
        end = self._write_data(place, node, directory.ino, 2 + len(below), attributes, data)
        if below:
            whole = len(data) - self._tail(place, len(data))
            for child, at in zip(below, _open_records(nids, counts, self._block_size), strict=True):
                child.record = end + at - whole if at >= whole else place.data_offset - START + at
        return below

    def _settle(self, directory: _Directory, nid: int) -> None:
        directory.nid = nid
        if directory.parent:
            _NID.pack_into(self._data, directory.record, nid)
        if id(directory.node) in self._wanted:
            self._wanted[id(directory.node)] = nid

    def _write_children(
        self, directory: _Directory, names: Sequence[bytes]
    ) -> tuple[list[int], list[int], list[_Directory]]:
        """nids (0 while they are not known) and types of the children; subdirectories."""
        children, before = directory.node.children, self.name_count
        self.name_count += len(names)
        if self.name_count > _INO_MAX:
            raise FormatError("more inodes than the format can number", "/")
        nids, types, below = [], [], []
        name = b""
        write_file, wanted = self._write_file, self._wanted
        try:
            for number, name in enumerate(names, before + 1):
                node = children[name]
                kind = _TYPES[node.mode >> 12 & 15]
                types.append(kind)
                if kind == _DIRECTORY:
                    below.append(self._new_directory(_Directory(node, directory, name, number)))
                    nids.append(0)
                elif node.nlink != 1 or wanted:
                    nids.append(self._write_shared(node, kind, number))
                elif kind == _REGULAR:
                    nids.append(write_file(node, number))
                else:
                    nids.append(self._write_other(node, kind, number))
        except (struct.error, FormatError) as error:
            raise _placed(error, directory.path(name)) from error
        return nids, types, below

    def _new_directory(self, directory: _Directory) -> _Directory:
        known = self._directories.setdefault(id(directory.node), directory)
        if known is not directory:
            raise FormatError(f"directory {directory.name!r} is also {known.path()}")
        return directory

    def _write_shared(self, node: Node, kind: int, ino: int) -> int:
        """The nid of an inode that may have been written under another name."""
        if id(node) in self._shared:
            shared = self._shared[id(node)][1]
            shared.names += 1
            return shared.nid
        is_file = kind == _REGULAR
        nid = self._write_file(node, ino) if is_file else self._write_other(node, kind, ino)
        if node.nlink != 1 or id(node) in self._wanted:
            self._shared[id(node)] = node, _Shared(nid)
        if id(node) in self._wanted:
            self._wanted[id(node)] = nid
        return nid

    def _write_file(self, node: Node, ino: int) -> int:
        index = self._contents.single(node)
        if index and not node.xattrs:
            offset = self._allocator.place_file(_SINGLE.size)
            start = offset - START
            if start + _SINGLE.size > len(self._data):
                self._grow(start + _SINGLE.size)
            _SINGLE.pack_into(
                self._data, start, _SINGLE_FORMAT, 0, node.mode, node.size,
                self._contents.single_format, ino, node.uid, node.gid,
                node.mtime, node.mtime_nsec, node.nlink or 1, index,
            )  # fmt: skip
            return offset // erofs.SLOT_SIZE
        chunk_format, indexes = self._contents.indexes(node)
        attributes = self._attributes(node)
        size = erofs.INODE_EXTENDED.size + len(attributes)
        size += -size % erofs.CHUNK_INDEX_SIZE
        packed = _little_endian(indexes)
        offset = self._allocator.place_file(size + len(packed))
        self._pack(
            offset,
            erofs.CHUNK_BASED,
            node,
            node.size,
            chunk_format,
            ino,
            node.nlink or 1,
            attributes,
        )
        start = offset - START + size
        self._grow(start + len(packed))
        self._data[start : start + len(packed)] = packed
        return offset // erofs.SLOT_SIZE

    def _write_other(self, node: Node, kind: int, ino: int) -> int:
        """A link, or a device, fifo or socket."""
        if not kind:
            raise FormatError(f"mode {node.mode:o} has no file type")
        attributes = self._attributes(node)
        size = erofs.INODE_EXTENDED.size + len(attributes)
        if kind == _LINK:
            target = node.target
            if not 0 < len(target) <= erofs.SYMLINK_MAX or b"\0" in target:
                raise FormatError(f"link target of {len(target)} bytes is not allowed")
            place = self._allocator.place_data(size, len(target))
            self._write_data(place, node, ino, node.nlink or 1, attributes, target)
            return place.offset // erofs.SLOT_SIZE
        offset = self._allocator.place_special(size)
        device = node.rdev if kind in _DEVICES else 0
        self._pack(offset, erofs.FLAT_PLAIN, node, 0, device, ino, node.nlink or 1, attributes)
        return offset // erofs.SLOT_SIZE

    def _write_data(
        self,
        place: Place,
        node: Node,
        ino: int,
        nlink: int,
        attributes: bytes,
        data: bytes | bytearray,
    ) -> int:
        """An inode with data among the metadata. Returns where in the area its tail stands."""
        layout = erofs.FLAT_INLINE if place.inline else erofs.FLAT_PLAIN
        address = (self._meta + place.data_offset) // self._block_size
        end = self._pack(place.offset, layout, node, len(data), address, ino, nlink, attributes)
        tail = self._tail(place, len(data))
        whole = len(data) - tail
        if tail:
            self._grow(end + tail)
            self._data[end : end + tail] = data[whole:]
        if whole:
            start = place.data_offset - START
            self._grow(start + whole)
            self._data[start : start + whole] = data[:whole]
        return end

    def _tail(self, place: Place, size: int) -> int:
        return size % self._block_size if place.inline else 0

    def _pack(
        self,
        offset: int,
        layout: int,
        node: Node,
        size: int,
        u: int,
        ino: int,
        nlink: int,
        attributes: bytes,
    ) -> int:
        """Write an inode and its attributes; returns the place after them in the area."""
        start = offset - START
        end = start + erofs.INODE_EXTENDED.size + len(attributes)
        self._grow(end)
        erofs.INODE_EXTENDED.pack_into(
            self._data, start, layout << 1 | 1, xattrs.count_of(len(attributes)), node.mode,
            size, u, ino, node.uid, node.gid, node.mtime, node.mtime_nsec, nlink,
        )  # fmt: skip
        if attributes:
            self._data[end - len(attributes) : end] = attributes
        return end

    def _attributes(self, node: Node) -> bytes:
        if not node.xattrs:
            return b""
        self.has_xattrs = True
        return xattrs.pack(node.xattrs, "")

    def _grow(self, size: int) -> None:
        if size > len(self._data):
            self._data.resize(max(size, 2 * len(self._data)))


def _sorted_names(directory: _Directory) -> list[bytes]:
    """The names in a directory, all of them allowed."""
    children = directory.node.children
    names = sorted(children)
    joined = b"".join(names)
    longest = max(map(len, names), default=0)
    is_wrong = b"/" in joined or b"\0" in joined or longest > erofs.NAME_MAX
    if is_wrong or b"." in children or b".." in children or b"" in children:
        for name in names:
            if name in (b".", b"..") or not dirents.is_allowed_name(name):
                raise FormatError(f"name {name[:300]!r} is not allowed")
    return names


def _open_records(nids: Sequence[int], counts: Sequence[int], block_size: int) -> list[int]:
    """Where in directory data the records stand whose nids are not known yet."""
    offsets = dirents.record_offsets(counts, block_size)
    return [offset for offset, nid in zip(offsets, nids, strict=True) if not nid]


def _little_endian(numbers: array[int]) -> bytes:
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers.tobytes()


def _placed(error: struct.error | FormatError, path: str) -> FormatError:
    """The error as one of what is at `path`, unless it says already where it is."""
    if isinstance(error, FormatError):
        return error if error.where else FormatError(error.what, path)
    return FormatError(f"a number is out of range ({error})", path)
