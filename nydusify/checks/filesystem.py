"""The files that source and target show are the same: all that can be seen of them, and contents.

Neither is mounted or unpacked. The source's layers are read once from front to back and
stacked as the converter stacks them, each file with the sha256 of its content; then the
target's tree is walked beside that one.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable, Iterator

from fs.format.bootstrap import Bootstrap, Inode
from fs.format.tree import Chunk, Node
from fs.format.walk import walk
from fs.image.contents import Contents
from fs.tar.entry import pieces
from nydusify.checks.findings import Findings
from nydusify.layers.layer import Layer
from nydusify.layers.merge import apply
from nydusify.layers.paths import shown
from nydusify.layers.sources import Entries, SourceLayer
from nydusify.report import Progress

_RULE = "filesystem"
_PIECE = 1 << 20
_ZEROS = bytes(_PIECE)
_ROOT = stat.S_IFDIR | 0o755


def tree_of_layers(layers: Iterable[SourceLayer], progress: Progress) -> Node:
    """The merged tree of `layers`; the one chunk of a file is its whole content."""
    root = Node(_ROOT)
    for number, source in enumerate(layers, 1):
        progress.step(f"reading layer {number}", source.size)
        layer = Layer(source.name)
        with source.open(progress.advance) as entries:
            read_layer(entries, layer)
        apply(root, layer.finish())
    return root


def read_layer(entries: Entries, layer: Layer) -> None:
    """Put all entries into `layer`, the content of each file as one chunk."""
    for entry in entries:
        node = layer.add(entry)
        if node is not None:
            node.chunks = [_whole(_digest(pieces(entry, entries.read, _PIECE)), entry.size)]


def tree_of_image(contents: Contents) -> Node:
    """The same of a Nydus image."""
    nodes: dict[int, Node] = {}
    for visit in walk(contents.bootstrap):
        inode = visit.inode
        node = nodes.get(inode.nid)
        if node is None:
            node = nodes[inode.nid] = _node(contents.bootstrap, inode)
            if stat.S_ISREG(inode.mode):
                node.chunks = [_whole(_digest(contents.pieces(inode.nid)), inode.size)]
        if visit.name:
            nodes[visit.parent].children[visit.name] = node
    return nodes[contents.bootstrap.root]


def _whole(digest: bytes, size: int) -> Chunk:
    return Chunk(digest, 0, 0, 0, 0, 0, size)


def _digest(content: Iterable[bytes | int]) -> bytes:
    found = hashlib.sha256()
    for piece in content:
        found.update(_ZEROS[:piece] if isinstance(piece, int) else piece)
    return found.digest()


def _node(bootstrap: Bootstrap, inode: Inode) -> Node:
    """Everything but content and children."""
    is_link = stat.S_ISLNK(inode.mode)
    return Node(
        inode.mode,
        inode.uid,
        inode.gid,
        inode.mtime,
        inode.mtime_nsec,
        0 if stat.S_ISDIR(inode.mode) else inode.size,
        inode.rdev,
        0 if stat.S_ISDIR(inode.mode) else inode.nlink,
        bootstrap.readlink(inode.nid) if is_link else b"",
        bootstrap.xattrs(inode.nid) if inode.has_xattrs else {},
    )


def read_files(contents: Contents, progress: Progress) -> None:
    """Read every file to its end: each chunk is verified by its digest. Raises the first failure.

    Where there is no source to compare with.
    """
    seen: set[int] = set()
    for visit in walk(contents.bootstrap):
        inode = visit.inode
        if stat.S_ISREG(inode.mode) and inode.nid not in seen:
            seen.add(inode.nid)
            for piece in contents.pieces(inode.nid):
                progress.advance(piece if isinstance(piece, int) else len(piece))


def compare(source: Node, contents: Contents, progress: Progress, findings: Findings) -> int:
    """Find every difference between the tree `source` and the image; the number of names.

    `source` is used up: what is found in the image is taken out of it.
    """
    directories: dict[int, tuple[Node, bytes]] = {}
    nodes: dict[int, Node] = {}
    nids: dict[Node, int] = {}
    count = 0
    for visit in walk(contents.bootstrap):
        count += 1
        inode, path, node = visit.inode, b"", source
        if visit.name:
            if visit.parent not in directories:  # below what the source lacks
                continue
            parent, above = directories[visit.parent]
            path = above + b"/" + visit.name if above else visit.name
            found = parent.children.pop(visit.name, None)
            if found is None:
                findings.add(_RULE, f"{_shown(path)}: only in the target")
                continue
            node = found
        if nids.setdefault(node, inode.nid) != inode.nid or (
            nodes.setdefault(inode.nid, node) is not node
        ):
            findings.add(_RULE, f"{_shown(path)}: is linked to other names than in the source")
            continue
        if stat.S_ISDIR(inode.mode):
            directories[inode.nid] = node, path
        _compare_inode(node, inode, contents, _shown(path), progress, findings)
    for directory, path in directories.values():
        for name in directory.children:
            findings.add(_RULE, f"{_shown(path + b'/' + name)}: only in the source")
    return count


def _shown(path: bytes) -> str:
    return shown([name for name in path.split(b"/") if name])


def _compare_inode(
    node: Node,
    inode: Inode,
    contents: Contents,
    place: str,
    progress: Progress,
    findings: Findings,
) -> None:
    found = _node(contents.bootstrap, inode)
    fields = ["mode", "uid", "gid", "mtime", "mtime_nsec", "xattrs"]
    if not stat.S_ISDIR(node.mode):
        fields += ["size", "rdev", "target", "nlink"]
    for name in fields:
        theirs, ours = getattr(node, name), getattr(found, name)
        if theirs != ours:
            findings.add(_RULE, f"{place}: {name} {_text(name, ours)}, in the source "
                                f"{_text(name, theirs)}")  # fmt: skip
    if stat.S_ISREG(node.mode) and stat.S_ISREG(inode.mode) and node.size == inode.size:
        expected = node.chunks[0].digest if node.chunks else _digest(())
        if _digest(_told(contents.pieces(inode.nid), progress)) != expected:
            findings.add(_RULE, f"{place}: other content than in the source")


def _told(content: Iterator[bytes | int], progress: Progress) -> Iterator[bytes | int]:
    for piece in content:
        progress.advance(piece if isinstance(piece, int) else len(piece))
        yield piece


def _text(field: str, value: object) -> str:
    if field == "mode":
        return f"{value:o}"
    if isinstance(value, dict):
        return ", ".join(sorted(os.fsdecode(name) for name in value)) or "none"
    return f"{value!r}" if isinstance(value, bytes) else str(value)
