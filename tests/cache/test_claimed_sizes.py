"""What a bootstrap or a blob only claims costs neither memory nor disk."""

from __future__ import annotations

import hashlib
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import zstandard

from fs.cache.claims import Claims
from fs.format.blobmeta import HEADER_SIZE, BlobMetaHeader
from fs.format.blobtable import BlobFeature, BlobRecord, Compressor
from fs.format.chunkrow import ChunkRow
from fs.format.chunktable import ChunkTable

MIB = 1 << 20
CLAIMED = 1 << 24
_BITS = bytes(4096 + CLAIMED // 8)


def _table(positions: list[int], seed: int = 0) -> tuple[BlobRecord, ChunkTable]:
    blob = BlobRecord(
        "0" * 64,
        chunk_count=CLAIMED,
        compressed_size=1 << 39,
        uncompressed_size=CLAIMED * 4096,
    )
    rows = [
        ChunkRow(position, position, 1, position * 4096, 4096, 0, bytes([seed]) * 32)
        for position in positions
    ]
    return blob, ChunkTable(rows, blob, "test")


def _open(path: Path, table: ChunkTable) -> Claims:
    claims = Claims.open(str(path), CLAIMED, 0, table, sole=True)
    assert claims is not None
    return claims


def test_claims_of_many_chunks_take_what_there_is(tmp_path: Path) -> None:
    path = tmp_path / "blob.chunks"
    _, table = _table([0, 5, 100_000, CLAIMED - 1])
    claims = _open(path, table)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert claims.agree(table, _BITS, sole=False)
    claims.use(CLAIMED - 1)
    assert claims.last_use() > 0
    assert list(claims.claimed(claims.columns())) == [0, 5, 100_000, CLAIMED - 1]
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20 << 10
    assert path.stat().st_blocks * 512 < MIB
    claims.close()


def test_images_far_apart_in_a_blob_still_contradict_each_other(tmp_path: Path) -> None:
    path = tmp_path / "blob.chunks"
    _, first = _table([3, 9_000_000])
    _, second = _table([4, 9_000_001])
    _, forged = _table([9_000_000], seed=1)
    claims = _open(path, first)
    assert claims.agree(first, _BITS, sole=False)
    assert claims.agree(second, _BITS, sole=False)
    assert not claims.agree(forged, _BITS, sole=False)
    overlap = ChunkTable(
        [ChunkRow(77, 77, 1, 9_000_000 * 4096 - 4096 + 512, 4096, 0, bytes(32))],
        _table([])[0],
        "test",
    )
    assert not claims.agree(overlap, _BITS, sole=False)
    columns = claims.columns()
    assert list(claims.claimed(columns)) == [3, 4, 9_000_000, 9_000_001]
    assert columns.offsets[9_000_001] == 9_000_001 * 4096
    assert columns.digest(4) == bytes(32)
    # Alone, and nothing of them is here: their claims bind no longer.
    assert claims.agree(forged, _BITS, sole=True)
    assert list(claims.claimed(claims.columns())) == [9_000_000]
    claims.close()


_UNPACK = """
import resource, sys
sys.path.insert(0, sys.argv[1])
from fs.cache.metadata import _unpack
from fs.format.blobtable import unpack_blob
stored, record = open(sys.argv[2], "rb").read(), open(sys.argv[3], "rb").read()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
found = _unpack(stored, unpack_blob(record, "test"), (), sys.argv[4])
grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
print(len(found.array), bytes(found.array[-3:]).hex(), grown >> 10)
"""


@pytest.mark.parametrize("size", [40 * MIB, 600 * MIB])
def test_large_chunk_information_is_not_held_in_memory(tmp_path: Path, size: int) -> None:
    entries = size // 64
    compressor = zstandard.ZstdCompressor(level=1).compressobj(size=size)
    packed = b"".join(compressor.compress(bytes(MIB)) for _ in range(size // MIB))
    packed += compressor.flush()
    features = BlobFeature.ALIGNED | BlobFeature.BATCH | BlobFeature.CHUNK_INFO_V2
    header = BlobMetaHeader(features, Compressor.ZSTD, entries, 0, len(packed), size)
    record = BlobRecord(
        hashlib.sha256(packed).hexdigest(),
        chunk_count=entries,
        features=features,
        compressed_size=1 << 30,
        uncompressed_size=1 << 40,
        ci_compressor=Compressor.ZSTD,
        ci_compressed_size=len(packed),
        ci_uncompressed_size=size,
    )
    (tmp_path / "stored").write_bytes(packed + header.pack())
    (tmp_path / "record").write_bytes(record.pack())
    assert len(packed) + HEADER_SIZE < MIB
    done = subprocess.run(
        [sys.executable, "-c", _UNPACK, os.getcwd(), tmp_path / "stored", tmp_path / "record",
         tmp_path],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    length, end, grown = done.stdout.split()
    assert (int(length), end) == (size, "000000")
    assert int(grown) < 20
