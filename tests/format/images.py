"""Images made in memory: blobs from file contents, trees with known contents, what they show."""

from __future__ import annotations

import hashlib
import io
import os
import stat
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from fs.format import codec
from fs.format.blobfile import BlobOptions, Trailer, build_trailer
from fs.format.blobtable import BlobRecord
from fs.format.bootstrap import Bootstrap
from fs.format.buffer import Buffer
from fs.format.chunkinfo import ChunkFlag
from fs.format.tree import HOLE, Chunk, Node
from fs.format.writer import BootstrapOptions, write_bootstrap
from tests.parts.trees import Entry

_BLOCK = 4096


@dataclass
class BlobBuilder:
    """Collects chunks the way a converter does: each content once, aligned when decoded."""

    index: int = 0
    options: BlobOptions = field(default_factory=lambda: BlobOptions(chunk_size=4096))
    stored: bytearray = field(default_factory=bytearray)
    decoded: bytearray = field(default_factory=bytearray)
    chunks: dict[tuple[bytes, int], Chunk] = field(default_factory=dict)

    def add(self, data: bytes) -> list[Chunk]:
        size = self.options.chunk_size
        return [self._add_chunk(data[at : at + size]) for at in range(0, len(data), size)]

    def _add_chunk(self, data: bytes) -> Chunk:
        digest = codec.digest(self.options.digester, data)
        known = self.chunks.get((digest, len(data)))
        if known is not None:
            return known
        packed = codec.compress(self.options.compressor, data)
        smaller = len(packed) < len(data)
        self.decoded += bytes(-len(self.decoded) % _BLOCK)
        chunk = Chunk(
            digest,
            self.index,
            len(self.chunks),
            len(self.stored),
            len(packed) if smaller else len(data),
            len(self.decoded),
            len(data),
            ChunkFlag.COMPRESSED if smaller else 0,
        )
        self.stored += packed if smaller else data
        self.decoded += data
        self.chunks[digest, len(data)] = chunk
        return chunk

    def finish(self, bootstrap: bytes | None = None) -> Trailer:
        trailer = build_trailer(
            list(self.chunks.values()),
            len(self.stored),
            hashlib.sha256(self.stored),
            self.options,
            bootstrap,
        )
        trailer.record.index = self.index
        self.decoded += bytes(-len(self.decoded) % _BLOCK)
        return trailer


@dataclass
class Image:
    """A tree, the contents of its files, and the blobs that hold them."""

    root: Node
    contents: dict[Node, bytes] = field(default_factory=dict)
    blobs: list[BlobBuilder] = field(default_factory=list)

    def file(self, data: bytes, blob: int = 0, **fields: object) -> Node:
        """A new regular file with `data` in blob `blob`, not yet in the tree."""
        node = Node(stat.S_IFREG | 0o644, size=len(data))
        for name, value in fields.items():
            setattr(node, name, value)
        node.chunks = self.blobs[blob].add(data)
        self.contents[node] = data
        return node

    def records(self) -> list[BlobRecord]:
        return [blob.finish().record for blob in self.blobs]

    def pack(self, options: BootstrapOptions | None = None) -> bytes:
        options = options or BootstrapOptions(chunk_size=self.chunk_size)
        out = io.BytesIO()
        write_bootstrap(self.root, self.records(), options, out)
        return out.getvalue()

    @property
    def chunk_size(self) -> int:
        return self.blobs[0].options.chunk_size if self.blobs else 1 << 20

    def entries(self) -> dict[bytes, Entry]:
        """What a reader of the image must see, as `trees.scan` would."""
        return _entries(self.root, _sorted_children, self._entry)

    def _entry(self, node: Node, names: int, identity: bytes) -> Entry:
        data = self.contents.get(node, b"")
        regular = stat.S_ISREG(node.mode)
        return Entry(
            node.mode,
            node.uid,
            node.gid,
            len(data) if regular else len(node.target),
            node.mtime * 10**9 + node.mtime_nsec,
            0 if stat.S_ISDIR(node.mode) else node.nlink or names,
            node.rdev,
            identity,
            hashlib.sha256(data).hexdigest() if regular else "",
            node.target,
            _xattrs(node.xattrs),
        )


def new_image(blobs: int = 1, chunk_size: int = 4096, **options: object) -> Image:
    builders = [
        BlobBuilder(index, BlobOptions(chunk_size=chunk_size, **options))  # type: ignore[arg-type]
        for index in range(blobs)
    ]
    return Image(Node(stat.S_IFDIR | 0o755), blobs=builders)


def read_entries(bootstrap: Bootstrap, decoded: Sequence[Buffer]) -> dict[bytes, Entry]:
    """What `bootstrap` shows, with contents from the decoded blobs."""

    def children(nid: int) -> list[tuple[bytes, int]]:
        if not stat.S_ISDIR(bootstrap.inode(nid).mode):
            return []
        found = [(entry.name, entry.nid) for entry in bootstrap.entries(nid)]
        assert found == sorted(found)
        assert all(bootstrap.lookup(nid, name) == child for name, child in found)
        return found

    def entry(nid: int, names: int, identity: bytes) -> Entry:
        inode = bootstrap.inode(nid)
        directory = stat.S_ISDIR(inode.mode)
        regular = stat.S_ISREG(inode.mode)
        content = read_file(bootstrap, nid, decoded) if regular else b""
        xattrs = bootstrap.xattrs(nid)
        assert bool(xattrs) == inode.has_xattrs
        return Entry(
            inode.mode,
            inode.uid,
            inode.gid,
            0 if directory else inode.size,
            inode.mtime * 10**9 + inode.mtime_nsec,
            0 if directory else inode.nlink,
            inode.rdev,
            identity,
            hashlib.sha256(content).hexdigest() if regular else "",
            bootstrap.readlink(nid) if stat.S_ISLNK(inode.mode) else b"",
            _xattrs(xattrs),
        )

    return _entries(bootstrap.root, children, entry)


def read_file(bootstrap: Bootstrap, nid: int, decoded: Sequence[Buffer]) -> bytes:
    size = bootstrap.inode(nid).size
    parts = []
    position = 0
    for extent in bootstrap.extents(nid, 0, size):
        assert extent.file_offset == position
        position += extent.length
        if extent.blob_index == HOLE:
            parts.append(bytes(extent.length))
        else:
            blob = decoded[extent.blob_index]
            parts.append(bytes(blob[extent.blob_offset : extent.blob_offset + extent.length]))
    assert position == size
    return b"".join(parts)


_Key = TypeVar("_Key", Node, int)


def _entries(
    root: _Key,
    children: Callable[[_Key], list[tuple[bytes, _Key]]],
    entry: Callable[[_Key, int, bytes], Entry],
) -> dict[bytes, Entry]:
    """Every path in the order in which `trees.scan` meets it."""
    paths: dict[bytes, _Key] = {}
    names: dict[_Key, list[bytes]] = {}
    pending = [(b".", root)]
    while pending:
        path, key = pending.pop()
        paths[path] = key
        names.setdefault(key, []).append(path)
        prefix = b"" if path == b"." else path + b"/"
        pending.extend((prefix + name, child) for name, child in reversed(children(key)))
    return {path: entry(key, len(names[key]), names[key][0]) for path, key in paths.items()}


def _sorted_children(node: Node) -> list[tuple[bytes, Node]]:
    return sorted(node.children.items())


def _xattrs(found: Mapping[bytes, bytes]) -> tuple[tuple[str, bytes], ...]:
    return tuple(sorted((os.fsdecode(name), value) for name, value in found.items()))
