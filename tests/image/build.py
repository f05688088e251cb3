"""Small Nydus images made from a directory by the real writer: a bootstrap and its blob."""

from __future__ import annotations

import hashlib
import io
import os
import stat
from dataclasses import dataclass, field
from pathlib import Path

from fs.format import codec
from fs.format.blobfile import BlobOptions, build_trailer
from fs.format.blobtable import BlobRecord, Compressor, Digester
from fs.format.chunkinfo import ChunkFlag
from fs.format.contexts import BatchContext
from fs.format.tree import Chunk, Node
from fs.format.writer import BootstrapOptions, write_bootstrap

_BLOCK = 4096


@dataclass
class BuiltImage:
    """`bootstrap` is a file, `blob` the one in directory `blobs` named by its id."""

    bootstrap: Path
    blobs: Path
    record: BlobRecord
    chunks: list[Chunk]

    @property
    def blob(self) -> Path:
        return self.blobs / self.record.blob_id


@dataclass
class _Building:
    chunk_size: int
    compressor: Compressor
    data: bytearray = field(default_factory=bytearray)
    decoded: int = 0
    chunks: list[Chunk] = field(default_factory=list)
    inodes: dict[tuple[int, int], Node] = field(default_factory=dict)
    known: dict[bytes, Chunk] = field(default_factory=dict)
    batch_size: int = 0
    batch: bytearray = field(default_factory=bytearray)
    batches: list[BatchContext] = field(default_factory=list)

    def node(self, path: Path) -> Node:
        found = path.lstat()
        identity = (found.st_dev, found.st_ino)
        if identity in self.inodes:
            return self.inodes[identity]
        node = Node(
            mode=found.st_mode,
            uid=found.st_uid,
            gid=found.st_gid,
            mtime=found.st_mtime_ns // 10**9,
            mtime_nsec=found.st_mtime_ns % 10**9,
            rdev=found.st_rdev,
            xattrs=_xattrs(path),
        )
        if stat.S_ISDIR(node.mode):
            node.children = {os.fsencode(p.name): self.node(p) for p in sorted(path.iterdir())}
        elif stat.S_ISLNK(node.mode):
            node.target = os.fsencode(os.readlink(path))
            node.size = len(node.target)
        elif stat.S_ISREG(node.mode):
            content = path.read_bytes()
            node.size = len(content)
            node.chunks = [
                self.chunk(content[at : at + self.chunk_size])
                for at in range(0, len(content), self.chunk_size)
            ]
        self.inodes[identity] = node
        return node

    def chunk(self, content: bytes) -> Chunk:
        digest = codec.digest(Digester.BLAKE3, content)
        if digest in self.known:
            return self.known[digest]
        if len(content) < self.batch_size // 2:
            return self.into_batch(digest, content)
        self.end_batch()
        packed = codec.compress(self.compressor, content)
        flags = int(ChunkFlag.COMPRESSED)
        if len(packed) >= len(content):
            packed, flags = content, 0
        chunk = Chunk(
            digest,
            0,
            len(self.chunks),
            len(self.data),
            len(packed),
            self.decoded,
            len(content),
            flags,
        )
        self.data += packed
        return self.add(chunk)

    def into_batch(self, digest: bytes, content: bytes) -> Chunk:
        if len(self.batch) + len(content) >= self.batch_size:
            self.end_batch()
        chunk = Chunk(
            digest,
            0,
            len(self.chunks),
            len(self.data),
            0,
            self.decoded,
            len(content),
            ChunkFlag.COMPRESSED | ChunkFlag.BATCH,
            context=len(self.batches),
            within=len(self.batch),
        )
        self.batch += content
        return self.add(chunk)

    def end_batch(self) -> None:
        if self.batch:
            packed = codec.compress(self.compressor, self.batch)
            packed = packed if len(packed) < len(self.batch) else bytes(self.batch)
            self.batches.append(BatchContext(len(packed), len(self.batch)))
            self.data += packed
            self.batch.clear()

    def add(self, chunk: Chunk) -> Chunk:
        self.decoded += -(-chunk.uncompressed_size // _BLOCK) * _BLOCK
        self.chunks.append(chunk)
        self.known[chunk.digest] = chunk
        return chunk


def build_image(
    source: Path,
    out: Path,
    *,
    chunk_size: int = 1 << 20,
    compressor: Compressor = Compressor.ZSTD,
    prefetch: tuple[bytes, ...] = (),
    batch_size: int = 0,
) -> BuiltImage:
    """An image of the tree under `source` (no sockets), written below `out`.

    `prefetch` are names in the top directory.
    """
    building = _Building(chunk_size, compressor, batch_size=batch_size)
    root = building.node(source)
    building.end_batch()
    options = BlobOptions(chunk_size=chunk_size, compressor=compressor)
    sha = hashlib.sha256(building.data)
    size = len(building.data)
    trailer = build_trailer(building.chunks, size, sha, options, batches=building.batches)
    blob = bytes(building.data) + trailer.data
    record = trailer.record
    blobs = out / "blobs"
    blobs.mkdir(parents=True)
    (blobs / record.blob_id).write_bytes(blob)
    target = io.BytesIO()
    write_bootstrap(
        root,
        [record],
        BootstrapOptions(
            chunk_size=chunk_size,
            compressor=compressor,
            prefetch=[root.children[name] for name in prefetch],
        ),
        target,
    )
    (out / "image.boot").write_bytes(target.getvalue())
    return BuiltImage(out / "image.boot", blobs, record, building.chunks)


def _xattrs(path: Path) -> dict[bytes, bytes]:
    names = os.listxattr(path, follow_symlinks=False)
    return {
        os.fsencode(name): os.getxattr(path, name, follow_symlinks=False)
        for name in names
        if name != "security.selinux"
    }


def sample_tree(root: Path) -> Path:
    """A tree with every kind of entry, small and large files, links, odd names and attributes."""
    root.mkdir()
    (root / "empty").touch()
    (root / "hello").write_bytes(b"hello world\n")
    (root / "big").write_bytes(bytes(range(256)) * 4096 * 3 + os.urandom(1_500_001))
    (root / "dir").mkdir(mode=0o750)
    for number in range(300):
        (root / "dir" / f"file-{number:03}").write_bytes(b"%d\n" % number * (number + 1))
    (root / "dir" / "deep" / "er").mkdir(parents=True)
    os.link(root / "hello", root / "dir" / "hard")
    (root / "link").symlink_to("dir/hard")
    (root / "long-link").symlink_to("x/" * 1000)
    Path(os.fsdecode(os.fsencode(root) + b"/n\xe4me \xff")).write_bytes(b"not utf-8")
    os.mkfifo(root / "fifo")
    os.mknod(root / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.setxattr(root / "hello", "user.note", b"value\x00with nul")
    os.chown(root / "dir" / "file-001", 1000, 70000)
    (root / "suid").write_bytes(b"#!/bin/sh\n")
    os.chmod(root / "suid", 0o4755)
    os.utime(root / "big", ns=(1, 1_234_567_890_123_456_789))
    os.utime(root, ns=(1, 1_000_000_000_000_000_001))
    return root
