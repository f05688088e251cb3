"""What RAFS v6 adds to EROFS: the extended superblock and its tables.

See docs/format.md, "Extended superblock".
"""

from __future__ import annotations

from enum import IntFlag
from struct import Struct
from typing import NamedTuple

from fs.format.blobtable import BLOB_SIZE, MAX_CHUNK_SIZE, MIN_CHUNK_SIZE, Compressor, Digester
from fs.format.chunkinfo import CHUNK_INFO_SIZE

EXTENDED_OFFSET = 1152
EXTENDED_SIZE = 256
SEAL_SIZE = 32
#: What every region of a bootstrap is aligned to, also where blocks are smaller.
REGION_ALIGNMENT = 4096


class SuperFlag(IntFlag):
    COMPRESSION_NONE = 0x1
    COMPRESSION_LZ4 = 0x2
    HASH_BLAKE3 = 0x4
    HASH_SHA256 = 0x8
    EXPLICIT_UID_GID = 0x10
    HAS_XATTR = 0x20
    COMPRESSION_GZIP = 0x40
    COMPRESSION_ZSTD = 0x80
    INLINED_CHUNK_DIGEST = 0x100
    TARFS_MODE = 0x200
    ENCRYPTION_NONE = 0x01000000
    ENCRYPTION_AES128XTS = 0x02000000


#: Known flags, and those that a builder may set for others to preserve.
KNOWN_FLAGS = 0x3FF | SuperFlag.ENCRYPTION_NONE | SuperFlag.ENCRYPTION_AES128XTS | 0xFC000000

COMPRESSOR_FLAGS = {
    Compressor.NONE: SuperFlag.COMPRESSION_NONE,
    Compressor.LZ4_BLOCK: SuperFlag.COMPRESSION_LZ4,
    Compressor.GZIP: SuperFlag.COMPRESSION_GZIP,
    Compressor.ZSTD: SuperFlag.COMPRESSION_ZSTD,
}
DIGESTER_FLAGS = {
    Digester.BLAKE3: SuperFlag.HASH_BLAKE3,
    Digester.SHA256: SuperFlag.HASH_SHA256,
}


def algorithms(flags: int) -> tuple[Compressor, Digester] | None:
    """The one compressor and the one digester that `flags` name; None if not one each."""
    compressors = [name for name, bit in COMPRESSOR_FLAGS.items() if flags & bit]
    digesters = [name for name, bit in DIGESTER_FLAGS.items() if flags & bit]
    if len(compressors) != 1 or len(digesters) != 1:
        return None
    return compressors[0], digesters[0]


# flags, blob_table_offset, blob_table_size, chunk_size, chunk_table_offset, chunk_table_size,
# prefetch_table_offset, prefetch_table_size, (4 reserved), seal
_EXTENDED = Struct("<2Q2I3QI4x32s168x")
assert _EXTENDED.size == EXTENDED_SIZE


class ExtendedSuperblock(NamedTuple):
    """`seal`: the SHA-256 of all before the chunk table, zeros here; zeros by other builders."""

    flags: int
    blob_table_offset: int
    blob_table_size: int
    chunk_size: int
    chunk_table_offset: int
    chunk_table_size: int
    prefetch_table_offset: int
    prefetch_table_size: int
    seal: bytes = bytes(SEAL_SIZE)

    def pack(self) -> bytes:
        return _EXTENDED.pack(*self)

    def problem(self) -> str:
        """What makes this no extended superblock that can be read, or ''."""
        size = self.chunk_size
        if self.flags & ~KNOWN_FLAGS:
            return f"unknown flags {self.flags:#x}"
        if size & (size - 1) or not MIN_CHUNK_SIZE <= size <= MAX_CHUNK_SIZE:
            return f"chunk size {size}"
        if self.blob_table_offset % REGION_ALIGNMENT or self.blob_table_size % BLOB_SIZE:
            return f"blob table of {self.blob_table_size} bytes at {self.blob_table_offset}"
        if self.chunk_table_size % CHUNK_INFO_SIZE:
            return f"chunk table of {self.chunk_table_size} bytes"
        if self.prefetch_table_size % 4:
            return f"prefetch table of {self.prefetch_table_size} bytes"
        return ""


def unpack_extended(data: memoryview) -> ExtendedSuperblock:
    return ExtendedSuperblock._make(_EXTENDED.unpack(data))
