"""Stacks layers as overlayfs shows them: `apply` puts one layer on the tree of those below.

An inode keeps the link count of the layer it comes from, even where the upper
layer hides one of its names. A hard link to a file of a lower layer copies the
file up: both names then are one inode of the upper layer, and further names in
the lower layer stay with the old one.
"""

from __future__ import annotations

import stat
from collections.abc import Mapping

from fs.format.errors import FormatError
from fs.format.tree import Node
from nydusify.layers.layer import CAPABILITY, ForeignLink, Layer, inherited_group, storable_xattrs
from nydusify.layers.paths import lookup, resolve, shown


def apply(lower: Node, layer: Layer) -> None:
    """Change the merged tree `lower` into what it is with `layer` (finished) on top."""
    for link in layer.foreign_links.values():
        _copy_up(lower, layer, link)
    todo = [(lower, layer.root)]
    while todo:
        below, above = todo.pop()
        if above not in layer.implied:
            inherited = below.xattrs if above in layer.listed_late else None
            _take_attributes(below, above, inherited)
        if above in layer.opaque:
            below.children.clear()
        whiteouts = layer.whiteouts.get(above, ())
        for name in whiteouts:
            below.children.pop(name, None)
        for name, child in above.children.items():
            old = below.children.get(name)
            if old is not None and stat.S_ISDIR(old.mode) and stat.S_ISDIR(child.mode):
                todo.append((old, child))
            else:
                below.children[name] = child
                if child in layer.implied and above in layer.implied:
                    child.gid = inherited_group(below)


def _take_attributes(node: Node, source: Node, inherited: Mapping[bytes, bytes] | None) -> None:
    node.mode, node.uid, node.gid = source.mode, source.uid, source.gid
    node.mtime, node.mtime_nsec = source.mtime, source.mtime_nsec
    node.xattrs = {**inherited, **source.xattrs} if inherited else source.xattrs


def _copy_up(lower: Node, layer: Layer, link: ForeignLink) -> None:
    """Make `link.node` the file that it names in the lower layers, under that name too.

    That makes the target one of the layer's own files, which its whiteouts do not hide.
    """
    parent = resolve(lower, link.target[:-1], link.where)
    target = [*parent, link.target[-1]]
    found = lookup(lower, target)
    if found is None:
        raise FormatError(f"hard link to {shown(link.target)}, which is not there", link.where)
    if stat.S_ISDIR(found.mode):
        raise FormatError(f"hard link to the directory {shown(target)}", link.where)
    node = link.node
    node.mode = found.mode if stat.S_ISLNK(found.mode) else stat.S_IFMT(found.mode) | node.mode
    node.size, node.rdev, node.target = found.size, found.rdev, found.target
    node.chunks = found.chunks
    kept = {name: value for name, value in found.xattrs.items() if name != CAPABILITY}
    node.xattrs = {**kept, **storable_xattrs(node.mode, node.xattrs)}
    if _is_replaced(layer, target):
        return
    directory = layer.directory(parent, link.where)
    if target[-1] not in directory.children:
        directory.children[target[-1]] = node
        node.nlink += 1


def _is_replaced(layer: Layer, names: list[bytes]) -> bool:
    """Whether the layer itself has a file by now where `names` has a directory."""
    directories = [lookup(layer.root, names[:depth]) for depth in range(len(names))]
    return any(node is not None and not stat.S_ISDIR(node.mode) for node in directories)
