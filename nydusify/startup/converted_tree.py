"""The files of an image that has no bootstrap yet: its merged tree, and blobs that are written."""

from __future__ import annotations

import stat
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from fs.format.tree import HOLE, Chunk, Node
from nydusify.blobs.stored_chunks import StoredChunks


class Entry(NamedTuple):
    """A name in a directory."""

    name: bytes
    nid: int


class ConvertedTree:
    """A tree for ImageFiles. Nodes are numbered as they are met; the root is 0."""

    root = 0

    def __init__(self, root: Node, chunks: StoredChunks, chunk_size: int, name: str) -> None:
        self.name = name
        self._chunks = chunks
        self._chunk_size = chunk_size
        self._nodes = [root]
        self._numbers = {root: 0}

    def inode(self, nid: int) -> Node:
        return self._nodes[nid]

    def entries(self, nid: int) -> Iterator[Entry]:
        for name, child in sorted(self._nodes[nid].children.items()):
            number = self._numbers.setdefault(child, len(self._nodes))
            if number == len(self._nodes):
                self._nodes.append(child)
            yield Entry(name, number)

    def readlink(self, nid: int) -> bytes:
        return self._nodes[nid].target

    def read(self, nid: int, offset: int, length: int) -> bytes:
        """Bytes of a regular file, fewer at its end. VerifyError, FormatError."""
        node, size = self._nodes[nid], self._chunk_size
        end = min(offset + length, node.size)
        parts = []
        for number in range(offset // size, -(-end // size)):
            first = number * size
            part = self._content(node.chunks[number])
            parts.append(part[max(0, offset - first) : end - first])
        return b"".join(parts)

    def _content(self, chunk: Chunk) -> bytes:
        if chunk.blob_index == HOLE:
            return bytes(chunk.uncompressed_size)
        return self._chunks.read(chunk)


def chunks_of(node: Node, chunk_size: int, spans: Sequence[tuple[int, int]]) -> list[Chunk]:
    """The chunks of the spans (offset, length) of a regular file, in order, without holes."""
    if not stat.S_ISREG(node.mode):
        return []
    numbers: dict[int, None] = {}
    for offset, length in spans:
        end = min(offset + length, node.size)
        numbers.update(dict.fromkeys(range(offset // chunk_size, -(-end // chunk_size))))
    chunks = (node.chunks[number] for number in numbers)
    return [chunk for chunk in chunks if chunk.blob_index != HOLE]
