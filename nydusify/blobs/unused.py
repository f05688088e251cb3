"""Blobs that upper layers have made superfluous: nothing of them is in the merged tree."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from fs.format.tree import Node
from nydusify.blobs.layer_blob import Blob


def drop_unused(root: Node, blobs: Sequence[Blob]) -> list[Blob]:
    """The blobs that files below `root` use, in their order; their indexes are made anew."""
    used = {chunk.blob_index for node in inodes(root) for chunk in node.chunks}
    if len(used) == len(blobs):
        return list(blobs)
    places = {index: place for place, index in enumerate(sorted(used))}
    for node in inodes(root):
        node.chunks = [chunk._replace(blob_index=places[chunk.blob_index]) for chunk in node.chunks]
    kept = [blobs[index] for index in places]
    for place, blob in enumerate(kept):
        blob.record.index = place
    return kept


def inodes(root: Node) -> Iterator[Node]:
    """Every inode below and including `root`, each once."""
    seen: set[Node] = set()
    pending = [root]
    while pending:
        node = pending.pop()
        if node.nlink != 1 and not node.children:  # it may have several names
            if node in seen:
                continue
            seen.add(node)
        yield node
        pending.extend(node.children.values())
