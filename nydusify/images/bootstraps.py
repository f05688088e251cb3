"""Trees and blob tables of bootstraps, put together: what merge, compact and commit have in common.

In a `Stack`, `Chunk.blob_index` of every file refers to `blobs`.
"""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fs.format.blobtable import BlobRecord
from fs.format.bootstrap import Bootstrap
from fs.format.errors import FormatError
from fs.format.tree import HOLE, Chunk, Node
from fs.format.walk import load_tree, paths
from fs.format.writer import BootstrapOptions, write_bootstrap
from nydusify.layers.layer import Layer
from nydusify.layers.merge import apply
from nydusify.layers.paths import lookup
from nydusify.whole_file import new_file

_OPAQUE_XATTR = b"trusted.overlay.opaque"
_WHITEOUT = b".wh."
_OPAQUE = b".wh..wh..opq"


@dataclass
class Stack:
    """A tree with its blobs, and how its bootstrap is to be written.

    `first` are the chunks that it had before the first layer was put on it, by blob and position.
    """

    root: Node
    blobs: list[BlobRecord]
    options: BootstrapOptions
    first: dict[tuple[int, int], Chunk] | None = None

    @classmethod
    def of(cls, bootstrap: Bootstrap) -> Stack:
        """The tree of one bootstrap; what it wants prefetched stays so."""
        root = load_tree(bootstrap)
        wanted = list(bootstrap.prefetch)
        found: dict[int, bytes] = {}
        for path, inode in paths(bootstrap) if wanted else ():
            found.setdefault(inode.nid, path)
        options = BootstrapOptions(
            chunk_size=bootstrap.chunk_size,
            compressor=bootstrap.compressor,
            digester=bootstrap.digester,
            block_size=bootstrap.block_size,
            prefetch=[node_at(root, found[nid]) for nid in wanted if nid in found],
        )
        return cls(root, [replace(blob) for blob in bootstrap.blobs], options)

    def change(self, mapping: Mapping[int, int]) -> None:
        """Give blobs other indexes, in the files' chunks."""
        self.change_chunks(lambda chunk: chunk._replace(blob_index=mapping[chunk.blob_index]))

    def change_chunks(self, changed: Callable[[Chunk], Chunk]) -> None:
        """Replace every chunk but holes, each different one by one call."""
        known: dict[Chunk, Chunk] = {}
        for node in inodes(self.root):
            if not node.chunks:
                continue
            for chunk in node.chunks:
                if chunk.blob_index != HOLE and chunk not in known:
                    known[chunk] = changed(chunk)
            node.chunks = [known.get(chunk, chunk) for chunk in node.chunks]

    def add_layer(
        self, layer: Layer, blobs: Sequence[BlobRecord], known: Sequence[BlobRecord] = ()
    ) -> None:
        """Put a layer on top, whose chunks refer to `blobs`; those come after the stack's.

        References beyond `blobs` are to `known`, which the stack has already.
        """
        first, places = len(self.blobs), {blob.blob_id: blob.index for blob in self.blobs}
        if self.first is None:
            self.first = {
                (chunk.blob_index, chunk.position): chunk
                for node in inodes(self.root)
                for chunk in node.chunks
            }
        own = self.first

        def changed(chunk: Chunk) -> Chunk:
            if chunk.blob_index == HOLE:
                return chunk
            if chunk.blob_index < len(blobs):
                return chunk._replace(blob_index=chunk.blob_index + first)
            blob = known[chunk.blob_index - len(blobs)]
            return own[places[blob.blob_id], chunk.position]

        for node in inodes(layer.root):
            if node.chunks:
                node.chunks = [changed(chunk) for chunk in node.chunks]
        apply(self.root, layer)
        for place, blob in enumerate(blobs, first):
            blob.index = place
            self.blobs.append(blob)

    def drop_unused(self) -> list[BlobRecord]:
        """Leave out blobs that no file has a chunk of; returns them."""
        used = {chunk.blob_index for node in inodes(self.root) for chunk in node.chunks}
        kept = [blob for blob in self.blobs if blob.index in used]
        dropped = [blob for blob in self.blobs if blob.index not in used]
        if dropped:
            self.change({blob.index: place for place, blob in enumerate(kept)})
        for place, blob in enumerate(kept):
            blob.index = place
        self.blobs = kept
        return dropped

    def write(self, path: Path) -> None:
        """The bootstrap at `path`, whole or not at all. FormatError for what does not fit."""
        in_tree = set(inodes(self.root))
        options = replace(
            self.options, prefetch=[node for node in self.options.prefetch if node in in_tree]
        )
        with new_file(path) as file:
            write_bootstrap(self.root, self.blobs, options, file)


def layer_of(root: Node, name: str) -> Layer:
    """A tree as one layer: whiteouts as OCI or overlayfs has them become the layer's."""
    layer = Layer(name)
    layer.root = root
    layer.implied = set()
    todo = [root]
    while todo:
        directory = todo.pop()
        if directory.xattrs.get(_OPAQUE_XATTR) == b"y":
            others = {k: v for k, v in directory.xattrs.items() if k != _OPAQUE_XATTR}
            directory.xattrs = others
            layer.opaque.add(directory)
        for child_name, child in list(directory.children.items()):
            if stat.S_ISDIR(child.mode):
                todo.append(child)
            hidden = _hidden(child_name, child)
            if child_name == _OPAQUE:
                layer.opaque.add(directory)
            elif hidden:
                layer.whiteouts.setdefault(directory, set()).add(hidden)
            else:
                continue
            del directory.children[child_name]
    return layer


def _hidden(name: bytes, node: Node) -> bytes:
    """What the whiteout `node` hides; empty if it is none."""
    if name.startswith(_WHITEOUT) and name != _OPAQUE:
        return name[len(_WHITEOUT) :]
    return name if stat.S_ISCHR(node.mode) and node.rdev == 0 else b""


def inodes(root: Node) -> Iterator[Node]:
    """Every inode below and including `root`, each once."""
    seen: set[Node] = set()
    pending = [root]
    while pending:
        node = pending.pop()
        if not node.children:
            if node in seen:
                continue
            seen.add(node)
        yield node
        pending.extend(node.children.values())


def check_alike(stacks: Sequence[tuple[str, Stack]]) -> None:
    """FormatError unless all have one chunk size and one digest algorithm."""
    name, first = stacks[0]
    for other, stack in stacks[1:]:
        for what in ("chunk_size", "digester", "block_size"):
            ours, theirs = getattr(first.options, what), getattr(stack.options, what)
            if ours != theirs:
                raise FormatError(
                    f"{what.replace('_', ' ')} {theirs}, but {ours} in {name}: they do not fit",
                    other,
                )


def node_at(root: Node, path: bytes) -> Node:
    """What the tree has at a path as `paths` gives them."""
    node = lookup(root, path.split(b"/") if path else ())
    assert node
    return node
