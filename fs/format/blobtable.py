"""What a bootstrap says of each data blob, and the algorithm numbers of the format.

See docs/format.md, "Blob table". A `BlobRecord` holds every field of a v6 entry;
what v5 keeps of a blob is a part of it, the rest stays 0.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from struct import Struct

from fs.format.errors import FormatError

MAX_BLOBS = 254
MIN_CHUNK_SIZE = 4 << 10
MAX_CHUNK_SIZE = 16 << 20
DEFAULT_CHUNK_SIZE = 1 << 20

#: The blob id in a bootstrap that is itself part of the blob it names.
INLINED_BLOB_ID = "x" * 64


class Compressor(IntEnum):
    NONE = 0
    LZ4_BLOCK = 1
    GZIP = 2
    ZSTD = 3


class Digester(IntEnum):
    BLAKE3 = 0
    SHA256 = 1


class BlobFeature(IntFlag):
    ALIGNED = 0x1
    INLINED_FS_META = 0x2
    CHUNK_INFO_V2 = 0x4
    ZRAN = 0x8
    SEPARATE = 0x10
    INLINED_CHUNK_DIGEST = 0x20
    TARFS = 0x40
    BATCH = 0x80
    ENCRYPTED = 0x100
    CHUNKDICT_GENERATED = 0x200
    SEPARATED_WITH_PREFETCH_FILES = 0x400
    EXTERNAL = 0x800
    STARTUP = 0x100000
    """ours: all of the blob is wanted as soon as the image is mounted; others ignore it"""
    HAS_TAR_HEADER = 0x10000000
    HAS_TOC = 0x20000000
    CAP_TAR_TOC = 0x40000000


#: Blobs that hold what an image's start needs, and nothing else.
STARTUP_FEATURES = BlobFeature.STARTUP | BlobFeature.SEPARATED_WITH_PREFETCH_FILES

#: Blobs that are files of others as they are: no digest is known but that of the whole.
WHOLE_FEATURES = BlobFeature.TARFS | BlobFeature.EXTERNAL

#: A reader must understand every bit of this half of the feature word.
_MANDATORY_FEATURES = 0xFFFF
_KNOWN_MANDATORY_FEATURES = 0x0FFF

_COMPRESSORS = frozenset(map(int, Compressor))
_DIGESTERS = frozenset(map(int, Digester))
_MAX_COMPRESSED = 1 << 40
_MAX_UNCOMPRESSED = 1 << 44
_DIGEST_ZERO = bytes(32)
_HEX_ID = re.compile(r"[0-9a-f]{64}\Z")

# id, index, chunk_size, chunk_count, compressor, digester, features, compressed_size,
# uncompressed_size, toc_size, ci_compressor, ci_offset, ci_compressed_size,
# ci_uncompressed_size, toc_digest, meta_digest, meta_size, cipher_iv, cipher
_BLOB = Struct("<64s6I2Q2I3Q32s32sQ8sI36x")
BLOB_SIZE = 256
assert _BLOB.size == BLOB_SIZE


_SAFE_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}\Z")


def is_safe_blob_id(blob_id: str) -> bool:
    """Whether `blob_id` can be a file name and a part of a URL as it is."""
    return bool(_SAFE_ID.match(blob_id))


@dataclass(slots=True)
class BlobRecord:
    """One data blob. Sizes and offsets in bytes; `ci_*` locate its chunk information array."""

    blob_id: str
    index: int = 0
    chunk_size: int = DEFAULT_CHUNK_SIZE
    chunk_count: int = 0
    compressor: int = Compressor.ZSTD
    digester: int = Digester.BLAKE3
    features: int = BlobFeature.ALIGNED
    compressed_size: int = 0
    uncompressed_size: int = 0
    toc_size: int = 0
    toc_digest: bytes = _DIGEST_ZERO
    ci_compressor: int = Compressor.NONE
    ci_offset: int = 0
    ci_compressed_size: int = 0
    ci_uncompressed_size: int = 0
    meta_digest: bytes = _DIGEST_ZERO
    meta_size: int = 0
    cipher: int = 0

    @property
    def chunk_info_size(self) -> int:
        """Bytes of one entry of the chunk information array."""
        return 24 if self.features & BlobFeature.CHUNK_INFO_V2 else 16

    def check(self, where: str) -> None:
        """FormatError unless the record keeps the rules of a v6 blob table."""
        problem = self._problem()
        if problem:
            raise FormatError(f"blob {self.index}: {problem}", where)

    def _problem(self) -> str:
        if not _HEX_ID.match(self.blob_id) and self.blob_id != INLINED_BLOB_ID:
            return "its id is not 64 hexadecimal digits"
        if not {self.compressor, self.ci_compressor} <= _COMPRESSORS:
            return f"unknown compressor {self.compressor} or {self.ci_compressor}"
        if self.digester not in _DIGESTERS:
            return f"unknown digest algorithm {self.digester}"
        if self.features & _MANDATORY_FEATURES & ~_KNOWN_MANDATORY_FEATURES:
            return f"unknown features {self.features:#x}"
        if self.cipher or self.features & BlobFeature.ENCRYPTED:
            return "encrypted blobs are not supported"
        if not self.features & (BlobFeature.ALIGNED | BlobFeature.TARFS):
            return "its chunks are not aligned to blocks"
        if self.compressed_size >= _MAX_COMPRESSED or self.uncompressed_size >= _MAX_UNCOMPRESSED:
            return f"absurd size {self.compressed_size} or {self.uncompressed_size}"
        return self._chunk_info_problem()

    def _chunk_info_problem(self) -> str:
        if self.features & BlobFeature.TARFS:
            return ""
        expected = self.chunk_count * self.chunk_info_size
        with_contexts = self.features & (BlobFeature.ZRAN | BlobFeature.BATCH)
        if self.ci_uncompressed_size < expected or (
            self.ci_uncompressed_size > expected and not with_contexts
        ):
            return (
                f"{self.ci_uncompressed_size} bytes of chunk information "
                f"for {self.chunk_count} chunks"
            )
        if self.ci_offset + self.ci_compressed_size >= _MAX_COMPRESSED:
            return "its chunk information lies outside of it"
        return ""

    def pack(self) -> bytes:
        """The 256-byte entry of a v6 blob table."""
        return _BLOB.pack(
            self.blob_id.encode(),
            self.index,
            self.chunk_size,
            self.chunk_count,
            self.compressor,
            self.digester,
            self.features,
            self.compressed_size,
            self.uncompressed_size,
            self.toc_size,
            self.ci_compressor,
            self.ci_offset,
            self.ci_compressed_size,
            self.ci_uncompressed_size,
            self.toc_digest,
            self.meta_digest,
            self.meta_size,
            bytes(8),
            self.cipher,
        )


def unpack_blob(entry: memoryview | bytes, where: str) -> BlobRecord:
    """The record in a 256-byte entry of a v6 blob table, checked."""
    raw_id, index, chunk_size, count, compressor, digester, features, csize, usize, *rest = (
        _BLOB.unpack(entry)
    )
    toc_size, ci_compressor, ci_offset, ci_csize, ci_usize, toc_digest, *tail = rest
    meta_digest, meta_size, _iv, cipher = tail
    record = BlobRecord(
        blob_id=raw_id.decode("ascii", "replace"),
        index=index,
        chunk_size=chunk_size,
        chunk_count=count,
        compressor=compressor,
        digester=digester,
        features=features,
        compressed_size=csize,
        uncompressed_size=usize,
        toc_size=toc_size,
        toc_digest=toc_digest,
        ci_compressor=ci_compressor,
        ci_offset=ci_offset,
        ci_compressed_size=ci_csize,
        ci_uncompressed_size=ci_usize,
        meta_digest=meta_digest,
        meta_size=meta_size,
        cipher=cipher,
    )
    record.check(where)
    record.compressor = Compressor(compressor)
    record.digester = Digester(digester)
    record.ci_compressor = Compressor(ci_compressor)
    return record
