"""Chunk information: where each chunk of a blob lies, as the blob itself tells.

An array of 16-byte (v1) or 24-byte (v2) entries and a 4096-byte header; in a
blob the array may be compressed, in the file `<id>.blob.meta` of a cache or a
bootstrap layer it is not, and is padded to 4096. See docs/format.md, "Chunk information".
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from struct import Struct
from typing import NamedTuple

from fs.format import codec
from fs.format.blobtable import BlobFeature, BlobRecord
from fs.format.buffer import Buffer
from fs.format.chunkrow import ChunkRow
from fs.format.errors import FormatError
from fs.format.metaentries import V1_SIZE, V2_SIZE, rows_v1, rows_v2

HEADER_SIZE = 4096
_MAGIC = 0xB10BB10B
_PADDING = 4096
_MAX_CHUNKS = 1 << 24
#: Contexts and dictionaries included; far above what 2^24 chunks of 24 bytes take.
_MAX_ARRAY = 1 << 30
#: Of one piece that holds chunks, behind the entries (see contexts.py).
CONTEXT_SIZE = 40

# magic, features, ci_compressor, ci_entries, ci_offset, ci_compressed_size,
# ci_uncompressed_size, contexts_offset, contexts_size, contexts_count
_HEADER = Struct("<4I5QI")
_MAGIC_WORD = Struct("<I")


class BlobMetaHeader(NamedTuple):
    """The header after a chunk information array. `ci_offset` is in the blob.

    `contexts_*` locate the zran or batch contexts in the bytes of the uncompressed array.
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
        return V2_SIZE if self.features & BlobFeature.CHUNK_INFO_V2 else V1_SIZE

    def pack(self) -> bytes:
        fields = _HEADER.pack(_MAGIC, *self)
        return fields.ljust(HEADER_SIZE - 4, b"\0") + _MAGIC_WORD.pack(_MAGIC)


def unpack_header(data: Buffer, name: str) -> BlobMetaHeader:
    """The header in exactly 4096 bytes; FormatError when it is none or contradicts itself."""
    if len(data) != HEADER_SIZE:
        raise FormatError(f"chunk information header of {len(data)} bytes", name)
    magic, *fields = _HEADER.unpack_from(data)
    if (magic, *_MAGIC_WORD.unpack_from(data, HEADER_SIZE - 4)) != (_MAGIC, _MAGIC):
        raise FormatError("no chunk information header", name)
    header = BlobMetaHeader(*fields)
    expected = header.ci_entries * header.entry_size
    if header.features & BlobFeature.ZRAN:
        possible = expected <= header.ci_uncompressed_size <= _MAX_ARRAY
    elif header.features & BlobFeature.BATCH:  # no more batches than chunks
        most = expected + header.ci_entries * CONTEXT_SIZE + _PADDING
        possible = expected <= header.ci_uncompressed_size <= most
    else:
        possible = expected == header.ci_uncompressed_size
    if not possible or header.ci_entries > _MAX_CHUNKS:
        raise FormatError(
            f"{header.ci_uncompressed_size} bytes of chunk information "
            f"for {header.ci_entries} chunks",
            name,
        )
    return header


def chunk_rows(
    array: Buffer, header: BlobMetaHeader, where: str, positions: Iterable[int] | None = None
) -> Iterator[ChunkRow]:
    """The entries of an uncompressed array as they stand, by position.

    All of them, or those at `positions`, which there must be.
    """
    size = header.ci_entries * header.entry_size
    if len(array) < size:
        raise FormatError(f"{len(array)} bytes of chunk information, expected {size}", where)
    entries = memoryview(array)[:size]
    wanted = range(header.ci_entries) if positions is None else positions
    v2 = header.features & BlobFeature.CHUNK_INFO_V2
    return rows_v2(entries, wanted) if v2 else rows_v1(entries, wanted)


def chunk_info_range(blob: BlobRecord) -> tuple[int, int]:
    """Offset and length of what `read_chunk_info` wants of a blob: array and header.

    FormatError if that is more than there can be.
    """
    if blob.ci_compressed_size > _MAX_ARRAY:
        where = f"blob {blob.blob_id[:12]}: chunk information"
        raise FormatError(f"{blob.ci_compressed_size} bytes", where)
    return blob.ci_offset, blob.ci_compressed_size + HEADER_SIZE


def split_chunk_info(data: Buffer, blob: BlobRecord) -> tuple[BlobMetaHeader, memoryview]:
    """Header and compressed array, from the bytes at `chunk_info_range(blob)`.

    The array has `blob.ci_uncompressed_size` bytes, or it is none.
    """
    where = f"blob {blob.blob_id[:12]}: chunk information"
    array, header_bytes = _split(data, blob.ci_compressed_size, where)
    header = unpack_header(header_bytes, where)
    if (header.ci_entries, header.ci_compressed_size, header.ci_uncompressed_size) != (
        blob.chunk_count,
        blob.ci_compressed_size,
        blob.ci_uncompressed_size,
    ):
        raise FormatError("its header contradicts the bootstrap", where)
    return header, array


def read_chunk_info(data: Buffer, blob: BlobRecord) -> tuple[BlobMetaHeader, bytes]:
    """Header and uncompressed array, from the bytes at `chunk_info_range(blob)`."""
    header, array = split_chunk_info(data, blob)
    where = f"blob {blob.blob_id[:12]}: chunk information"
    return header, codec.decompress(blob.ci_compressor, array, blob.ci_uncompressed_size, where)


def write_blob_meta(array: bytes | bytearray, header: BlobMetaHeader) -> bytes:
    """The file `<id>.blob.meta`: the uncompressed array, padded, then the header."""
    return b"".join([array, blob_meta_end(len(array), header)])


def blob_meta_end(size: int, header: BlobMetaHeader) -> bytes:
    """What follows an array of `size` bytes in that file."""
    return bytes(-size % _PADDING) + header.pack()


def read_blob_meta(data: Buffer, name: str) -> tuple[BlobMetaHeader, memoryview]:
    """Header and array of a file as `write_blob_meta` makes it, without copying."""
    array, header_bytes = _split(data, len(data) - HEADER_SIZE, name)
    header = unpack_header(header_bytes, name)
    size = header.ci_uncompressed_size
    if size + -size % _PADDING != len(array):
        raise FormatError(f"{len(data)} bytes do not fit its header", name)
    return header, array[:size]


def _split(data: Buffer, size: int, where: str) -> tuple[memoryview, memoryview]:
    if size < 0 or len(data) != size + HEADER_SIZE:
        raise FormatError(f"{len(data)} bytes, expected an array and a header", where)
    view = memoryview(data)
    return view[:size], view[size:]
