"""How a blob's chunks are put together in batches."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import zstandard

from fs.format.blobfile import BlobOptions
from fs.format.blobtable import Compressor
from nydusify.blobs.layer_blob import BlobBuilder

_KIB = 1 << 10


def test_batches_grow_with_what_lies_before_them(tmp_path: Path) -> None:
    pieces = [b"%9d " % number * 100 for number in range(400)]
    options = BlobOptions(chunk_size=64 * _KIB, compressor=Compressor.ZSTD)
    with ThreadPoolExecutor(2) as pool:
        builder = BlobBuilder(
            tmp_path / "blob", options, pool, batch_size=4 * _KIB, largest_batch=32 * _KIB
        )
        for piece in pieces:
            builder.add(piece)
        assert builder.finish()
    chunks = builder.chunks
    stored = (tmp_path / "blob").read_bytes()
    before, sizes = 0, []
    for offset in sorted(set(chunks.compressed_offsets)):
        batch = zstandard.decompress(stored[offset:])
        assert b"".join(pieces)[before:].startswith(batch)
        assert len(batch) <= max(4 * _KIB, min(before // 8, 32 * _KIB))
        before += len(batch)
        sizes.append(len(batch))
    assert before == sum(map(len, pieces))
    assert sizes[:2] == [4000, 4000]
    assert max(sizes) == 32000
