"""Chunk information: where each chunk of a blob lies, as the blob itself tells.

An array of 16-byte (v1) or 24-byte (v2) entries and a 4096-byte header; in a
blob the array may be compressed, in the file `<id>.blob.meta` of a cache or a
bootstrap layer it is not, and is padded to 4096. See docs/format.md, "Chunk information".
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from struct import Struct
from typing import NamedTuple

from fs.format import codec
from fs.format.blobtable import BlobFeature, BlobRecord
from fs.format.buffer import Buffer
from fs.format.chunkinfo import ChunkFlag
from fs.format.chunktable import DIGEST_SIZE, ChunkRow, ChunkTable
from fs.format.errors import FormatError
from fs.format.tree import Chunk

HEADER_SIZE = 4096
_MAGIC = 0xB10BB10B
_PADDING = 4096
_MAX_CHUNKS = 1 << 24

# magic, features, ci_compressor, ci_entries, ci_offset, ci_compressed_size,
# ci_uncompressed_size, zran_offset, zran_size, zran_count
_HEADER = Struct("<4I5QI")
_MAGIC_WORD = Struct("<I")
_V1 = Struct("<2Q")
_V2 = Struct("<3Q")

_V2_FLAGS = {0x01: ChunkFlag.COMPRESSED, 0x02: ChunkFlag.ZRAN, 0x04: ChunkFlag.BATCH}
_V2_FLAGS |= {0x08: ChunkFlag.ENCRYPTED, 0x10: ChunkFlag.HAS_CRC32}


class BlobMetaHeader(NamedTuple):
    """The 4096-byte header after a chunk information array. Offsets are in the blob.

    `contexts_*` locate the zran or batch contexts inside the uncompressed array's bytes.
    """

    features: int
    ci_compressor: int
    ci_entries: int
    ci_offset: int
    ci_compressed_size: int
    ci_uncompressed_size: int
    contexts_offset: int = 0
    contexts_size: int = 0
    contexts_count: int = 0

    @property
    def entry_size(self) -> int:
        return _V2.size if self.features & BlobFeature.CHUNK_INFO_V2 else _V1.size

    def pack(self) -> bytes:
        fields = _HEADER.pack(_MAGIC, *self)
        return fields.ljust(HEADER_SIZE - 4, b"\0") + _MAGIC_WORD.pack(_MAGIC)


def unpack_header(data: Buffer, name: str) -> BlobMetaHeader:
    """The header in exactly 4096 bytes; FormatError when they are none, or contradict themselves."""
    if len(data) != HEADER_SIZE:
        raise FormatError(f"chunk information header of {len(data)} bytes", name)
    magic, *fields = _HEADER.unpack_from(data)
    if (magic, *_MAGIC_WORD.unpack_from(data, HEADER_SIZE - 4)) != (_MAGIC, _MAGIC):
        raise FormatError("no chunk information header", name)
    header = BlobMetaHeader(*fields)
    if header.ci_entries > _MAX_CHUNKS:
        raise FormatError(f"{header.ci_entries} chunks in one blob", name)
    with_contexts = header.features & (BlobFeature.ZRAN | BlobFeature.BATCH)
    expected = header.ci_entries * header.entry_size
    if with_contexts:
        expected = max(expected, header.contexts_offset + header.contexts_size)
    if header.ci_uncompressed_size < expected or (
        header.ci_uncompressed_size > expected and not with_contexts
    ):
        raise FormatError(
            f"chunk information of {header.ci_uncompressed_size} bytes "
            f"for {header.ci_entries} chunks",
            name,
        )
    return header
