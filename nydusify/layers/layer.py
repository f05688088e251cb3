"""The tree of one layer, made from its entries as containerd would unpack them.

It says only what the layer itself says. Whiteouts and opaque marks are kept
beside the tree: they hide what lower layers have, never the layer's own files,
wherever among the entries they stand. A directory that is only implied by a path
below it is in the tree too, marked as such, since it takes its attributes from
the lower layers. Symlinks on the way to an entry are followed within the layer;
one of a lower layer is not, and a directory takes its place.

Nothing is written anywhere, so no name can lead out of the root.
"""

from __future__ import annotations

import stat
from collections.abc import Mapping

from fs.format.errors import FormatError
from fs.format.tree import Node
from fs.tar.entry import HARD_LINK, Entry
from fs.tar.paths import NAME_MAX, PATH_MAX, clean
from nydusify.layers.paths import lookup, resolve, shown

WHITEOUT = b".wh."
_AUFS = b".wh..wh."
_OPAQUE = b".wh..wh..opq"
_DIRECTORY_MODE = stat.S_IFDIR | 0o755
#: Changing a file's owner, as every header does, takes its capabilities away.
CAPABILITY = b"security.capability"
#: There are only so many, and inodes share them.
_MODES: dict[int, int] = {}
_MANY = 10_000
_NO_NAMES = (b"", b".", b"..")
_LINK_MODE = stat.S_IFLNK | 0o777  # Linux keeps no permissions of links


class ForeignLink:
    """A hard link to a file of a lower layer. `node` is filled when the layers are merged."""

    __slots__ = ("node", "target", "where")

    def __init__(self, node: Node, target: list[bytes], where: str) -> None:
        self.node = node
        self.target = target
        self.where = where


class Layer:
    """`implied`, `opaque` and `whiteouts` are about directories of the tree under `root`.

    Directories in `listed_late` were implied before their entry came, and so have extended
    attributes of lower layers as well. `foreign_links` are by target, in the order of the entries.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.root = Node(_DIRECTORY_MODE)
        self.implied: set[Node] = {self.root}
        self.listed_late: set[Node] = set()
        self.opaque: set[Node] = set()
        self.whiteouts: dict[Node, set[bytes]] = {}
        self.foreign_links: dict[tuple[bytes, ...], ForeignLink] = {}
        #: Numbers that were seen, so that equal ones of many inodes are one object.
        self._numbers: dict[int, int] = {}
        #: Directories by their paths as entries write them, until something takes a file's place.
        self._places: dict[bytes, Node] = {}

    def add(self, entry: Entry) -> Node | None:
        """Put an entry in its place. Returns the node of a regular file, to be given its content.

        FormatError for what containerd would not unpack either.
        """
        path = entry.path[:-1] if entry.path[-1:] == b"/" else entry.path
        above, _, base = path.rpartition(b"/")
        parent = self._places.get(above)
        simple = base not in _NO_NAMES and len(base) <= NAME_MAX and len(entry.path) <= PATH_MAX
        if parent is None or not simple:
            where = self._where(entry)
            names = clean(entry.path, where)
            if not names:
                self._set_root(entry, where)
                return None
            base = names[-1]
            parent = self.directory(names[:-1], where)
            if simple:
                self._remember(above, parent)
        if base.startswith(WHITEOUT):
            self._mark(parent, base, self._where(entry))
            return None
        if entry.kind == HARD_LINK:
            self._link(parent, base, entry, self._where(entry))
            return None
        if entry.kind == stat.S_IFDIR:
            self._add_directory(parent, base, entry)
            return None
        self._share_numbers(entry)
        node = self._new_node(entry)
        self._put(parent, base, node)
        return node if entry.kind == stat.S_IFREG else None

    def _where(self, entry: Entry) -> str:
        return f"{self.name}, entry at offset {entry.offset}"

    def _remember(self, above: bytes, directory: Node) -> None:
        if len(self._places) >= _MANY:
            self._places.clear()
        self._places[above] = directory

    def _put(self, parent: Node, base: bytes, node: Node) -> None:
        if base in parent.children:  # a link or directory, and with it the way to others
            self._places.clear()
        parent.children[base] = node

    def _share_numbers(self, entry: Entry) -> None:
        same = self._numbers
        if len(same) > _MANY:
            same.clear()
        entry.mtime = same.setdefault(entry.mtime, entry.mtime)
        entry.size = same.setdefault(entry.size, entry.size)

    def directory(self, names: list[bytes], where: str) -> Node:
        """The directory at `names`, links followed; what is missing is made, as implied."""
        node = self.root
        for name in names:
            child = node.children.get(name)
            if child is None or not stat.S_ISDIR(child.mode):
                return self._make_directory(resolve(self.root, names, where), where)
            node = child
        return node

    def finish(self) -> Layer:
        """To be called after the last entry: counts links, and settles marks that look like files.

        AUFS's own files are dropped, and a character device 0:0 is what it is to
        overlayfs: a whiteout.
        """
        for name in [name for name in self.root.children if name.startswith(_AUFS)]:
            del self.root.children[name]
        todo = [self.root]
        while todo:
            directory = todo.pop()
            for name, child in list(directory.children.items()):
                if stat.S_ISDIR(child.mode):
                    todo.append(child)
                elif stat.S_ISCHR(child.mode) and child.rdev == 0:
                    del directory.children[name]
                    self.whiteouts.setdefault(directory, set()).add(name)
                else:
                    child.nlink += 1
        return self

    def _make_directory(self, names: list[bytes], where: str) -> Node:
        node = self.root
        for depth, name in enumerate(names, 1):
            child = node.children.get(name)
            if child is None:
                child = node.children[name] = Node(_DIRECTORY_MODE, gid=inherited_group(node))
                self.implied.add(child)
            elif not stat.S_ISDIR(child.mode):
                raise FormatError(f"{shown(names[:depth])} is not a directory", where)
            node = child
        return node

    def _set_root(self, entry: Entry, where: str) -> None:
        if entry.kind != stat.S_IFDIR:
            raise FormatError("the root is not a directory", where)
        self._list(self.root, entry)

    def _mark(self, parent: Node, base: bytes, where: str) -> None:
        if base == _OPAQUE:
            self.opaque.add(parent)
        elif not base.startswith(_AUFS):
            hidden = base[len(WHITEOUT) :]
            if hidden in (b"", b".", b".."):
                raise FormatError(f"whiteout of {hidden!r}", where)
            self.whiteouts.setdefault(parent, set()).add(hidden)

    def _add_directory(self, parent: Node, base: bytes, entry: Entry) -> None:
        node = parent.children.get(base)
        if node is None or not stat.S_ISDIR(node.mode):
            node = Node(_DIRECTORY_MODE)
            self._put(parent, base, node)
        self._list(node, entry)

    def _list(self, directory: Node, entry: Entry) -> None:
        _set_attributes(directory, entry)
        if directory in self.implied:
            self.implied.remove(directory)
            self.listed_late.add(directory)

    def _link(self, parent: Node, base: bytes, entry: Entry, where: str) -> None:
        """A second name; the link's header sets the attributes of the inode, as in containerd."""
        target = clean(entry.target, where)
        if not target:
            raise FormatError(f"hard link to {shown(target)}", where)
        if parent.children.pop(base, None) is not None:
            self._places.clear()
        real = [*resolve(self.root, target[:-1], where), target[-1]]
        for depth, name in enumerate(real):
            on_the_way = lookup(self.root, real[:depth])
            if name == base and on_the_way is parent:
                raise FormatError(f"hard link takes the place of its target {shown(real)}", where)
            if on_the_way is not None and not stat.S_ISDIR(on_the_way.mode):
                raise FormatError(f"{shown(real[:depth])} is not a directory", where)
        node = lookup(self.root, real)
        if node is None:
            link = ForeignLink(Node(0), real, where)
            node = self.foreign_links.setdefault(tuple(real), link).node
        elif stat.S_ISDIR(node.mode):
            raise FormatError(f"hard link to the directory {shown(real)}", where)
        _set_attributes(node, entry)
        parent.children[base] = node

    def _new_node(self, entry: Entry) -> Node:
        kind, size = entry.kind, entry.size
        if kind == stat.S_IFLNK:
            size = len(entry.target)
            if not 0 < size <= PATH_MAX:
                what = f"symbolic link with a target of {size} bytes"
                raise FormatError(what, self._where(entry))
            mode, target = _LINK_MODE, entry.target
        else:
            mode, target = _MODES.setdefault(mode := kind | entry.mode, mode), b""
        node = Node(
            mode, entry.uid, entry.gid, entry.mtime, entry.mtime_nsec, size, entry.rdev, 0, target
        )
        if entry.xattrs:
            node.xattrs = storable_xattrs(mode, entry.xattrs)
        return node


def inherited_group(parent: Node) -> int:
    """The group of a directory that is made in `parent` without being listed."""
    return parent.gid if parent.mode & stat.S_ISGID else 0


def _set_attributes(node: Node, entry: Entry) -> None:
    if not stat.S_ISLNK(node.mode):
        node.mode = _MODES.setdefault(mode := stat.S_IFMT(node.mode) | entry.mode, mode)
    node.uid, node.gid = entry.uid, entry.gid
    node.mtime, node.mtime_nsec = entry.mtime, entry.mtime_nsec
    if entry.xattrs or node.xattrs:
        kept = dict(node.xattrs)
        if not stat.S_ISDIR(node.mode):
            kept.pop(CAPABILITY, None)
        node.xattrs = kept | storable_xattrs(node.mode, entry.xattrs)


def storable_xattrs(mode: int, xattrs: Mapping[bytes, bytes]) -> dict[bytes, bytes]:
    """Linux lets only files and directories have `user.` attributes and ACLs.

    While the type is not known (mode 0), nothing is dropped.
    """
    if not stat.S_IFMT(mode) or stat.S_ISREG(mode) or stat.S_ISDIR(mode):
        return dict(xattrs)
    return {name: value for name, value in xattrs.items() if name.startswith(b"security.")}
