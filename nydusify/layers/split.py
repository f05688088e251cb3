"""The tree of an image taken apart into layers, and what a stack of layers lacks of it.

A bootstrap has the merged tree alone: what lower layers had below other files' names is gone.
But a file's chunks lie in the blob of the layer that brought it.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator

from fs.format.bootstrap import Inode
from fs.format.tree import HOLE, Node
from fs.format.walk import paths
from fs.image.contents import Contents
from fs.tar.entry import Entry
from nydusify.layers.entries import TreeEntries

Listed = list[tuple[bytes, Inode]]
_WHITEOUT = b".wh."
_FIELDS = ("mode", "uid", "gid", "mtime", "mtime_nsec", "size", "rdev", "target", "xattrs")


class _Selection:
    """Paths with the directories above them, which come first. `directories` are all there are."""

    def __init__(self, directories: dict[bytes, Inode]) -> None:
        self.listed: Listed = []
        self._directories = directories
        self._seen: set[bytes] = set()

    def add(self, path: bytes, inode: Inode) -> None:
        if path and path not in self._seen:
            self.add_directory(path.rpartition(b"/")[0])
        if path not in self._seen:
            self._seen.add(path)
            self.listed.append((path, inode))

    def add_directory(self, path: bytes) -> None:
        self.add(path, self._directories[path])

    def __contains__(self, path: bytes) -> bool:
        return path in self._seen


def by_blob(contents: Contents) -> list[Listed]:
    """What the layer of each blob has, lowest first, and last what belongs to none.

    A file belongs to the last of the blobs that it has chunks of; all its names go with it.
    Directories are in every layer that has something below them, with the attributes of the
    image, so that every order of unpacking shows the same.
    """
    owners: dict[int, int] = {}
    directories: dict[bytes, Inode] = {}
    rest = len(contents.bootstrap.blobs)
    layers = [_Selection(directories) for _ in range(rest + 1)]
    for path, inode in paths(contents.bootstrap):
        if stat.S_ISDIR(inode.mode):
            directories[path] = inode
            continue
        if inode.nid not in owners:
            owners[inode.nid] = _owner(contents, inode, rest)
        layers[owners[inode.nid]].add(path, inode)
    for path in directories:
        if not any(path in layer for layer in layers):
            layers[rest].add_directory(path)
    return [layer.listed for layer in layers]


def _owner(contents: Contents, inode: Inode, rest: int) -> int:
    if not stat.S_ISREG(inode.mode) or not inode.size:
        return rest
    extents = contents.bootstrap.extents(inode.nid, 0, inode.size)
    blobs = [extent.blob_index for extent in extents if extent.blob_index != HOLE]
    return max(blobs, default=rest)


class Difference:
    """What an image shows otherwise than `below`, a tree of layers, as a layer on top of that.

    Both trees are those of nydusify.checks.filesystem. `listed` is what the layer has, and
    `whiteouts` are the paths that it hides.
    """

    def __init__(self, below: Node, image: Node, contents: Contents) -> None:
        self.whiteouts: list[bytes] = []
        self._changed: set[bytes] = set()
        #: Of each inode with several names: where it is, and which of the layers' it should be.
        self._names: dict[Node, list[bytes]] = {}
        self._same: dict[Node, set[Node]] = {}
        self._compare(below, image)
        self._settle_links()
        directories = {
            path: inode for path, inode in paths(contents.bootstrap) if stat.S_ISDIR(inode.mode)
        }
        selection = _Selection(directories)
        for path, inode in paths(contents.bootstrap):
            if path in self._changed:
                selection.add(path, inode)
        for path in self.whiteouts:
            selection.add_directory(path.rpartition(b"/")[0])
        self.listed = selection.listed

    def __bool__(self) -> bool:
        return bool(self.listed)

    def _compare(self, below: Node, image: Node) -> None:
        if not _alike(below, image):
            self._changed.add(b"")
        todo = [(below, image, b"")]
        while todo:
            old_directory, directory, above = todo.pop()
            prefix = above + b"/" if above else b""
            for name, node in directory.children.items():
                old = old_directory.children.get(name)
                if old is None or not _alike(old, node):
                    self._changed.add(prefix + name)
                if stat.S_ISDIR(node.mode):
                    is_old = old is not None and stat.S_ISDIR(old.mode)
                    todo.append((old if old and is_old else Node(0), node, prefix + name))
                    continue
                self._names.setdefault(node, []).append(prefix + name)
                self._same.setdefault(node, set()).update([old] if old else ())
            gone = old_directory.children.keys() - directory.children.keys()
            self.whiteouts += sorted(prefix + name for name in gone)

    def _settle_links(self) -> None:
        """All names of an inode are new if one is, or if the layers have several inodes of it."""
        users: dict[Node, int] = {}
        for olds in self._same.values():
            for old in olds:
                users[old] = users.get(old, 0) + 1
        for node, names in self._names.items():
            olds = self._same[node]
            if (
                len(olds) > 1
                or any(users[old] > 1 for old in olds)
                or not self._changed.isdisjoint(names)
            ):
                self._changed.update(names)


def _alike(old: Node, node: Node) -> bool:
    if stat.S_ISDIR(old.mode) and stat.S_ISDIR(node.mode):
        return all(getattr(old, name) == getattr(node, name) for name in _FIELDS if name != "size")
    if any(getattr(old, name) != getattr(node, name) for name in _FIELDS):
        return False
    return not node.size or [c.digest for c in old.chunks] == [c.digest for c in node.chunks]


class DifferenceEntries(TreeEntries):
    """The same as the entries of a layer."""

    def __init__(self, contents: Contents, difference: Difference) -> None:
        super().__init__(contents, listed=difference.listed)
        self._whiteouts = difference.whiteouts

    def __iter__(self) -> Iterator[Entry]:
        yield from super().__iter__()
        for path in self._whiteouts:
            parent, slash, name = path.rpartition(b"/")
            yield Entry(parent + slash + _WHITEOUT + name, stat.S_IFREG)
