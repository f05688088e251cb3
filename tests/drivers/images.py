"""Images of unusual make: many blobs, none, other block sizes."""

from __future__ import annotations

import hashlib
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

from fs.format import codec
from fs.format.blobfile import BlobOptions, build_trailer
from fs.format.blobtable import BlobRecord, Compressor, Digester
from fs.format.chunkinfo import ChunkFlag
from fs.format.tree import Chunk, Node
from fs.format.writer import BootstrapOptions, write_bootstrap

_CHUNK = 64 << 10
_BLOCK = 4096


class ImageFiles(NamedTuple):
    """`bootstrap` is a file, `blobs` a directory of blobs named by their ids."""

    bootstrap: Path
    blobs: Path


def image_of_files(contents: dict[str, bytes], out: Path, *, block_size: int = 4096) -> ImageFiles:
    """Every file in a blob of its own; an empty file has none."""
    root = Node(mode=0o40755)
    records: list[BlobRecord] = []
    blobs = out / "blobs"
    blobs.mkdir(parents=True)
    for name, content in contents.items():
        node = Node(mode=0o100644, size=len(content))
        if content:
            node.chunks, record = _write_blob(content, len(records), blobs)
            records.append(record)
        root.children[name.encode()] = node
    target = BytesIO()
    write_bootstrap(
        root, records, BootstrapOptions(chunk_size=_CHUNK, block_size=block_size), target
    )
    (out / "image.boot").write_bytes(target.getvalue())
    return ImageFiles(out / "image.boot", blobs)


def _write_blob(content: bytes, index: int, blobs: Path) -> tuple[list[Chunk], BlobRecord]:
    data = bytearray()
    chunks = []
    for position, start in enumerate(range(0, len(content), _CHUNK)):
        piece = content[start : start + _CHUNK]
        packed = codec.compress(Compressor.ZSTD, piece)
        flags = int(ChunkFlag.COMPRESSED)
        if len(packed) >= len(piece):
            packed, flags = piece, 0
        digest = codec.digest(Digester.BLAKE3, piece)
        chunks.append(
            Chunk(digest, index, position, len(data), len(packed), start, len(piece), flags)
        )
        data += packed
    options = BlobOptions(chunk_size=_CHUNK, compressor=Compressor.ZSTD)
    trailer = build_trailer(chunks, len(data), hashlib.sha256(data), options)
    trailer.record.index = index
    (blobs / trailer.record.blob_id).write_bytes(bytes(data) + trailer.data)
    return chunks, trailer.record
