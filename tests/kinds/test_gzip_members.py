"""Chunks that are gzip members of an eStargz layer: behind their content the member goes on."""

from __future__ import annotations

import gzip
import hashlib
import io
from pathlib import Path

import pytest
import trio

from fs.format import codec
from fs.format.blobtable import BlobFeature, BlobRecord, Compressor, Digester
from fs.format.chunkinfo import ChunkFlag
from fs.format.errors import VerifyError
from fs.format.tree import Chunk, Node
from fs.format.writer import BootstrapOptions, write_bootstrap
from tests.kinds.engine import opened

HEADERS = bytes(512) + b"the next entry's header".ljust(512, b"\0")


def image_of(contents: dict[bytes, bytes], out: Path) -> Path:
    """As Nydus makes it of a layer's table of contents: digests are sha256, members not exact."""
    stored = b""
    chunks: list[Chunk] = []
    root = Node(mode=0o40755)
    for name, content in contents.items():
        member = gzip.compress(content + HEADERS)
        digest = hashlib.sha256(content).digest()
        place = 4096 * len(chunks), len(content), ChunkFlag.COMPRESSED
        chunk = Chunk(digest, 0, len(chunks), len(stored), len(member), *place)
        root.children[name] = Node(mode=0o100644, size=len(content), chunks=[chunk])
        chunks.append(chunk)
        stored += member
    blob = BlobRecord(
        hashlib.sha256(stored).hexdigest(),
        chunk_count=len(chunks),
        compressor=Compressor.GZIP,
        digester=Digester.SHA256,
        features=BlobFeature.ALIGNED | BlobFeature.SEPARATE,
        compressed_size=len(stored),
        uncompressed_size=4096 * len(chunks),
        ci_uncompressed_size=16 * len(chunks),
    )
    target = io.BytesIO()
    options = BootstrapOptions(compressor=Compressor.GZIP, digester=Digester.SHA256)
    write_bootstrap(root, [blob], options, target)
    (out / "image.boot").write_bytes(target.getvalue())
    (out / blob.blob_id).write_bytes(stored)
    return out / "image.boot"


def test_what_follows_the_content_is_left_alone(tmp_path: Path) -> None:
    contents = {b"%d" % number: b"%d" % number * (100 * number + 1) for number in range(9)}
    bootstrap = image_of(contents, tmp_path)

    async def main() -> None:
        async with opened(bootstrap, tmp_path, tmp_path / "cache") as engine:
            for name, content in contents.items():
                assert await engine.content(name) == content

    trio.run(main)


def test_a_shorter_member_is_wrong(tmp_path: Path) -> None:
    bootstrap = image_of({b"x": b"content"}, tmp_path)
    (blob,) = (path for path in tmp_path.iterdir() if path != bootstrap)
    blob.write_bytes(gzip.compress(b"con").ljust(blob.stat().st_size, b"\0"))

    async def main() -> None:
        async with opened(bootstrap, tmp_path, tmp_path / "cache") as engine:
            with pytest.raises(VerifyError, match="holds 3 bytes"):
                await engine.content(b"x")

    trio.run(main)


def test_no_more_is_decoded_than_the_chunk_has() -> None:
    bomb = gzip.compress(bytes(50 << 20))
    assert codec.decompress_gzip_start(bomb, 10) == bytes(10)
