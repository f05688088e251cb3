"""The whole of a bootstrap, visited or loaded as a tree of nodes.

A reader checks one thing at a time; only here is seen whether the directories
form a tree, and whether the parts are as many as the bootstrap has room for.
Each part has bytes of its own, so a bootstrap whose parts add up to more than its size uses some
of them twice: it is refused before it costs more time or memory than its size allows.
"""

from __future__ import annotations

import stat
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from fs.format.blobtable import BlobFeature, BlobRecord
from fs.format.bootstrap import Bootstrap, Inode
from fs.format.chunkrow import DIGEST_SIZE, ChunkRow
from fs.format.erofs import CHUNK_INDEX_SIZE, DIRENT_SIZE, file_type
from fs.format.errors import FormatError
from fs.format.tree import HOLE, Chunk, Node


class Visit(NamedTuple):
    """One name: `parent` is the nid of its directory (the root's own for the root)."""

    parent: int
    name: bytes
    inode: Inode


class _Budget:
    """Bytes of a bootstrap that no part has claimed yet."""

    def __init__(self, bootstrap: Bootstrap) -> None:
        self._left = bootstrap.size
        self._name = bootstrap.name

    def spend(self, size: int) -> None:
        self._left -= size
        if self._left < 0:
            raise FormatError("parts of it overlap", self._name)


def walk(bootstrap: Bootstrap) -> Iterator[Visit]:
    """Every name from the root on, a directory before what is in it.

    FormatError when a directory is reached twice, a name's type is not its
    inode's, or directories share their data.
    """
    budget = _Budget(bootstrap)
    root = bootstrap.inode(bootstrap.root)
    yield Visit(root.nid, b"", root)
    seen = {root.nid}
    pending = [root.nid]
    while pending:
        directory = pending.pop()
        for entry in bootstrap.entries(directory):
            budget.spend(DIRENT_SIZE + len(entry.name))
            inode = bootstrap.inode(entry.nid)
            if file_type(inode.mode) != entry.type:
                raise FormatError(
                    f"{entry.name!r} has file type {entry.type}, its inode mode {inode.mode:o}",
                    bootstrap.name,
                )
            if stat.S_ISDIR(inode.mode):
                if inode.nid in seen:
                    raise FormatError(f"directory {inode.nid} has two names", bootstrap.name)
                seen.add(inode.nid)
                pending.append(inode.nid)
            yield Visit(directory, entry.name, inode)


def paths(bootstrap: Bootstrap) -> Iterator[tuple[bytes, Inode]]:
    """The same as paths, without a slash in front; that of the root is empty."""
    directories: dict[int, bytes] = {}
    for parent, name, inode in walk(bootstrap):
        above = directories.get(parent, b"")
        path = above + b"/" + name if above else name
        if stat.S_ISDIR(inode.mode):
            directories[inode.nid] = path
        yield path, inode


def load_tree(bootstrap: Bootstrap) -> Node:
    """The tree that `write_bootstrap` would take; hard links become one node.

    FormatError also when a file uses a chunk that the chunk table does not know.
    """
    nodes: dict[int, Node] = {}
    budget = _Budget(bootstrap)
    for parent, name, inode in walk(bootstrap):
        node = nodes.get(inode.nid)
        if node is None:
            node = nodes[inode.nid] = _node(bootstrap, inode, budget)
        if name:
            nodes[parent].children[name] = node
    tars = {blob.index for blob in bootstrap.blobs if blob.features & BlobFeature.TARFS}
    if tars:
        _number(nodes.values(), tars)
    return nodes[bootstrap.root]


def _node(bootstrap: Bootstrap, inode: Inode, budget: _Budget) -> Node:
    node = Node(
        inode.mode,
        uid=inode.uid,
        gid=inode.gid,
        mtime=inode.mtime,
        mtime_nsec=inode.mtime_nsec,
        rdev=inode.rdev,
        xattrs=bootstrap.xattrs(inode.nid),
    )
    budget.spend(sum(map(len, node.xattrs.values())))
    if stat.S_ISREG(inode.mode):
        budget.spend(inode.size // bootstrap.chunk_size * CHUNK_INDEX_SIZE)
        node.size = inode.size
        node.chunks = _chunks(bootstrap, inode)
    elif stat.S_ISLNK(inode.mode):
        node.target = bootstrap.readlink(inode.nid)
        budget.spend(len(node.target))
    if not stat.S_ISDIR(inode.mode):
        node.nlink = inode.nlink
    return node


def _chunks(bootstrap: Bootstrap, inode: Inode) -> list[Chunk]:
    """One chunk for each piece of the image's chunk size."""
    chunks = []
    size = bootstrap.chunk_size
    for start in range(0, inode.size, size):
        length = min(size, inode.size - start)
        found = bootstrap.extents(inode.nid, start, length)
        if len(found) != 1:
            raise FormatError(f"inode {inode.nid}: no single chunk at {start}", bootstrap.name)
        _, _, blob_index, blob_offset = found[0]
        if blob_index == HOLE:
            chunks.append(Chunk(bytes(32), HOLE, 0, 0, 0, 0, length))
        else:
            chunks.append(_chunk(bootstrap, blob_index, blob_offset, length))
    return chunks


def _chunk(bootstrap: Bootstrap, blob_index: int, offset: int, length: int) -> Chunk:
    blob = bootstrap.blobs[blob_index]
    if blob.features & BlobFeature.TARFS:
        return _tar_chunk(blob, offset, length, bootstrap.name)
    table = bootstrap.chunk_table(blob_index)
    index = table.find(offset)
    row = table.row(index) if index >= 0 else None
    if row is None or (row.uncompressed_offset, row.uncompressed_size) != (offset, length):
        raise FormatError(
            f"no chunk of {length} bytes at {offset} of blob {blob_index}", bootstrap.name
        )
    return chunk_of(row, blob_index)


def chunk_of(row: ChunkRow, blob_index: int) -> Chunk:
    """What a file that has the chunk refers to."""
    return Chunk(
        row.digest,
        blob_index,
        row.position,
        row.compressed_offset,
        row.compressed_size,
        row.uncompressed_offset,
        row.uncompressed_size,
        row.flags,
        row.crc32,
    )


def _tar_chunk(blob: BlobRecord, offset: int, length: int, where: str) -> Chunk:
    """A piece of a tar file that serves as blob: builders give it no digest, and no record."""
    if offset + length > blob.uncompressed_size:
        raise FormatError(
            f"{length} bytes at {offset} of blob {blob.index} of {blob.uncompressed_size}", where
        )
    return Chunk(bytes(DIGEST_SIZE), blob.index, 0, offset, length, offset, length)


def _number(nodes: Iterable[Node], tars: set[int]) -> None:
    """Give the pieces of tar files their positions, which are those of their order there."""
    files = [node for node in nodes if any(chunk.blob_index in tars for chunk in node.chunks)]
    pieces = {(c.blob_index, c.uncompressed_offset) for node in files for c in node.chunks}
    count: Counter[int] = Counter()
    positions = {}
    for piece in sorted(pieces):
        positions[piece] = count[piece[0]]
        count[piece[0]] += 1
    for node in files:
        node.chunks = [
            chunk._replace(position=positions[chunk.blob_index, chunk.uncompressed_offset])
            if chunk.blob_index in tars
            else chunk
            for chunk in node.chunks
        ]
