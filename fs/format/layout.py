"""From a tree of nodes to inodes with numbers and places, before a byte is written.

Checks what the format cannot hold. The walk keeps Nydus's order: a directory, its
children sorted by name, then each subdirectory in turn. See docs/format.md,
"Inode numbers" and "Placing inodes".
"""

from __future__ import annotations

import stat
from collections.abc import Iterable, Sequence

from fs.format import dirents, erofs, xattrs
from fs.format.allocator import Allocator, Place
from fs.format.errors import FormatError
from fs.format.tree import Node

_OWN_NAMES = (b".", b"..")
_INO_MAX = 0xFFFFFFFF


class Placed:
    """A node with its number and place. `parent` and `name` are those of its first name."""

    __slots__ = ("ino", "name", "names", "node", "offset", "parent")

    def __init__(self, node: Node, parent: PlacedDirectory | None, name: bytes, ino: int) -> None:
        self.node = node
        self.parent = parent
        self.name = name
        self.ino = ino
        self.offset = 0
        self.names = 0

    @property
    def xattrs(self) -> bytes:
        """As they stand behind the inode."""
        return xattrs.pack(self.node.xattrs, self.path) if self.node.xattrs else b""

    @property
    def nid(self) -> int:
        return self.offset // erofs.SLOT_SIZE

    @property
    def size(self) -> int:
        """Bytes from the inode to the end of its attributes."""
        return erofs.INODE_EXTENDED.size + len(self.xattrs)

    @property
    def path(self) -> str:
        """For messages."""
        names: list[bytes] = []
        at: Placed | PlacedDirectory | None = self
        while at is not None:
            names.append(at.name)
            at = at.parent
        return b"/".join(reversed(names)).decode("utf-8", "backslashreplace") or "/"

    def error(self, what: str) -> FormatError:
        return FormatError(what, self.path)


class PlacedData(Placed):
    """One with data among the metadata: a directory or a link. Fields as in `Place`."""

    __slots__ = ("data_offset", "inline")

    def put(self, place: Place) -> None:
        self.offset, self.data_offset, self.inline = place


class PlacedDirectory(PlacedData):
    """`entry_names` are sorted, "." and ".." among them; `entries` are their inodes.

    `block_counts` says how many entries each of its blocks has.
    """

    __slots__ = ("block_counts", "entries", "entry_names")

    block_counts: Sequence[int]
    entries: Sequence[Placed]
    entry_names: Sequence[bytes]


class Layout:
    """Every inode of a tree in writing order, placed for blocks of `block_size`.

    Of `wanted`, nodes of the tree, `find` knows the places.
    """

    def __init__(
        self, root: Node, block_size: int, root_ino: int, wanted: Iterable[Node] = ()
    ) -> None:
        self.inodes: list[Placed] = []
        #: Names in the tree, the root included: what the superblock counts as inodes.
        self.name_count = 1
        self._block_size = block_size
        self._allocator = Allocator(block_size)
        self._wanted = {id(node) for node in wanted}
        #: What may have several names, and what is wanted.
        self._by_node: dict[int, Placed] = {}
        self._number_tree(root, root_ino)
        #: Where the metadata area ends.
        self.end = self._allocator.offset

    def find(self, node: Node) -> Placed:
        """The inode of `node`; FormatError if it is not in the tree."""
        found = self._by_node.get(id(node))
        if found is None:
            raise FormatError("a node to prefetch is not in the tree")
        return found

    def _number_tree(self, root: Node, root_ino: int) -> None:
        if not stat.S_ISDIR(root.mode):
            raise FormatError("the root is no directory", "/")
        top = self._new(root, None, b"", root_ino)
        assert isinstance(top, PlacedDirectory)
        pending = [top]
        while pending:
            directory = pending.pop()
            subdirectories = self._place_directory(directory)
            pending.extend(reversed(subdirectories))

    def _place_directory(self, directory: PlacedDirectory) -> list[PlacedDirectory]:
        """Number and place a directory and all in it; its subdirectories are only numbered."""
        children = directory.node.children
        subdirectories = []
        first_seen = []
        names = sorted([*children, *_OWN_NAMES])  # "-" and "+x" stand before "." and ".."
        found: list[Placed] = []
        for name in names:
            if name in _OWN_NAMES:
                if name in children:
                    raise directory.error(f"name {name!r} is not allowed")
                found.append(directory if name == b"." else directory.parent or directory)
                continue
            child = self._add_name(directory, name, children[name])
            found.append(child)
            if isinstance(child, PlacedDirectory):
                subdirectories.append(child)
            elif child.names == 1:
                first_seen.append(child)
        directory.entry_names, directory.entries = names, found
        directory.names = 2 + len(subdirectories)
        directory.block_counts = dirents.split_names(names, self._block_size)
        size = dirents.data_size(names, directory.block_counts, self._block_size)
        directory.put(self._allocator.place_data(directory.size, size))
        for child in first_seen:
            self._place(child)
        return subdirectories

    def _add_name(self, directory: PlacedDirectory, name: bytes, node: Node) -> Placed:
        if not dirents.is_allowed_name(name):
            raise directory.error(f"name {name[:300]!r} is not allowed")
        self.name_count += 1
        if self.name_count > _INO_MAX:
            raise FormatError("more inodes than the format can number")
        known = self._by_node.get(id(node))
        if known is None:
            known = self._new(node, directory, name, self.name_count)
        elif stat.S_ISDIR(node.mode):
            raise directory.error(f"directory {name!r} is also {known.path}")
        known.names += 1
        return known

    def _new(self, node: Node, parent: PlacedDirectory | None, name: bytes, ino: int) -> Placed:
        kind = PlacedDirectory if stat.S_ISDIR(node.mode) else Placed
        placed = (PlacedData if stat.S_ISLNK(node.mode) else kind)(node, parent, name, ino)
        if not erofs.file_type(node.mode):
            raise placed.error(f"mode {node.mode:o} has no file type")
        if node.nlink != 1 or stat.S_ISDIR(node.mode) or id(node) in self._wanted:
            self._by_node[id(node)] = placed
        self.inodes.append(placed)
        return placed

    def _place(self, placed: Placed) -> None:
        node = placed.node
        if stat.S_ISREG(node.mode):
            size = placed.size + -placed.size % erofs.CHUNK_INDEX_SIZE
            size += erofs.CHUNK_INDEX_SIZE * len(node.chunks)
            placed.offset = self._allocator.place_file(size).offset
        elif isinstance(placed, PlacedData):
            if not 0 < len(node.target) <= erofs.SYMLINK_MAX or b"\0" in node.target:
                raise placed.error(f"link target of {len(node.target)} bytes is not allowed")
            placed.put(self._allocator.place_data(placed.size, len(node.target)))
        else:
            placed.offset = self._allocator.place_special(placed.size).offset
