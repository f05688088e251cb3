"""Blob files: what follows the chunk data, and how it is found from the end.

A blob can be written in one pass, since everything that sums up comes last, and each part has
its tar header behind it. See docs/format.md, "Blob file".
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from operator import add
from struct import Struct
from typing import TYPE_CHECKING, NamedTuple

from fs.format import blobmeta, codec, metaentries, tarheader
from fs.format.blobtable import DEFAULT_CHUNK_SIZE, BlobFeature, BlobRecord, Compressor, Digester
from fs.format.buffer import Buffer
from fs.format.chunkcolumns import LayerChunks
from fs.format.chunkrow import ChunkRow, row_of
from fs.format.contexts import BatchContext, pack_batches
from fs.format.errors import FormatError, VerifyError
from fs.format.tree import Chunk

if TYPE_CHECKING:
    from hashlib import _Hash

DATA = "image.blob"
META = "blob.meta"
META_HEADER = "blob.meta.header"
DIGESTS = "blob.digest"
BOOTSTRAP = "image.boot"
TOC = "rafs.blob.toc"

_BLOCK = 4096
#: No part but the data is larger; more is not decoded.
_MAX_PART = 1 << 30
_MAX_TOC_ENTRIES = 64
#: zstd's; made once, and fetched before anything of its blob can be read.
_METADATA_LEVEL = 12

# flags, reserved, name, sha256, compressed_offset, compressed_size, uncompressed_size
_TOC_ENTRY = Struct("<2I16s32s3Q48x")
TOC_ENTRY_SIZE = 128
assert _TOC_ENTRY.size == TOC_ENTRY_SIZE

_TOC_FLAGS = {Compressor.NONE: 1, Compressor.ZSTD: 2, Compressor.LZ4_BLOCK: 4}
_TOC_COMPRESSORS = {flag: compressor for compressor, flag in _TOC_FLAGS.items()}


@dataclass(slots=True)
class BlobOptions:
    """How a blob is made. `inline_digests` adds the chunk digests, for nydusd's validation."""

    chunk_size: int = DEFAULT_CHUNK_SIZE
    compressor: Compressor = Compressor.ZSTD
    digester: Digester = Digester.BLAKE3
    chunk_info_v2: bool = False
    inline_digests: bool = True


class Trailer(NamedTuple):
    """`data` follows the chunk data in the blob; `record` describes the whole blob.

    `blob_meta` is the file `<id>.blob.meta` for caches and the bootstrap layer.
    """

    data: bytearray
    record: BlobRecord
    blob_meta: bytes


class Contexts(NamedTuple):
    """What follows the entries of chunk information (see contexts.py): all of it, and how many."""

    packed: bytes = b""
    number: int = 0


class TocEntry(NamedTuple):
    """One part of a blob. Offset in the blob; `digest` is the sha256 of its uncompressed bytes.

    Of `image.blob` the offset is not to be trusted, and the digest is that of
    the chunk data together with the tar header behind it.
    """

    name: str
    compressor: Compressor
    digest: bytes
    compressed_offset: int
    compressed_size: int
    uncompressed_size: int

    def pack(self) -> bytes:
        return _TOC_ENTRY.pack(
            _TOC_FLAGS[self.compressor],
            0,
            self.name.encode("ascii"),
            self.digest,
            self.compressed_offset,
            self.compressed_size,
            self.uncompressed_size,
        )


class _Parts:
    """The trailer as it grows: parts, their tar headers and their TOC entries."""

    def __init__(self, offset: int) -> None:
        self.data = bytearray()
        self.toc: list[TocEntry] = []
        self._start = offset

    @property
    def offset(self) -> int:
        """Where in the blob the next byte goes."""
        return self._start + len(self.data)

    def add(
        self,
        name: str,
        content: bytes | bytearray,
        compressor: Compressor,
        level: int | None = None,
    ) -> int:
        """Append `content`, compressed if that makes it smaller; returns its size then."""
        stored = content
        if compressor != Compressor.NONE:
            stored = codec.compress(compressor, content, level)
        if len(stored) >= len(content):
            stored, compressor = content, Compressor.NONE
        digest = hashlib.sha256(content).digest()
        self.toc.append(TocEntry(name, compressor, digest, self.offset, len(stored), len(content)))
        self.data += stored
        return len(stored)

    def close(self, name: str, size: int) -> None:
        """Append the tar header of the `size` bytes before it."""
        self.data += tarheader.pack(name, size)


def build_trailer(
    chunks: Sequence[Chunk],
    data_size: int,
    data_sha256: _Hash,
    options: BlobOptions,
    bootstrap: bytes | None = None,
    batches: Sequence[BatchContext] = (),
) -> Trailer:
    """Everything after the `data_size` bytes of chunk data, and the finished record.

    `chunks` are all of the blob's, by position. With `batches`, to which chunks refer by their
    number, chunk information is v2 whatever the options say. `data_sha256` is hashlib.sha256 fed
    with the chunk data; it is not changed. The record's blob_id is the sha256 of the whole blob
    file (data and trailer); its index is for the caller to set.
    """
    record = _describe(chunks, options)
    if batches:
        record.features |= BlobFeature.BATCH | BlobFeature.CHUNK_INFO_V2
    parts = _Parts(data_size)
    _add_data_entry(parts, data_size, data_sha256, record.uncompressed_size)
    contexts = Contexts(pack_batches(batches), len(batches))
    array, header = _add_chunk_info(parts, chunks, record, contexts)
    if options.inline_digests:
        parts.close(DIGESTS, parts.add(DIGESTS, _digests(chunks), Compressor.NONE))
    if bootstrap is not None:
        record.features |= BlobFeature.INLINED_FS_META
        parts.close(BOOTSTRAP, parts.add(BOOTSTRAP, bootstrap, Compressor.ZSTD))
    _add_toc(parts, record)

    record.compressed_size = parts.offset
    whole = data_sha256.copy()
    whole.update(parts.data)
    record.blob_id = whole.hexdigest()
    return Trailer(parts.data, record, blobmeta.write_blob_meta(array, header))


def build_separate(chunks: Sequence[Chunk], record: BlobRecord, contexts: Contexts) -> bytes:
    """The blob that holds just the metadata of another, which is served where it is.

    `record` describes the other one but for its metadata; features, places and digests of
    that are filled in here.
    """
    record.features |= BlobFeature.ALIGNED | BlobFeature.SEPARATE | BlobFeature.CHUNK_INFO_V2
    record.features |= BlobFeature.HAS_TAR_HEADER | BlobFeature.HAS_TOC | BlobFeature.CAP_TAR_TOC
    record.chunk_count = len(chunks)
    record.uncompressed_size = _decoded_size(chunks)
    parts = _Parts(0)
    compressor, record.compressor = record.compressor, Compressor.ZSTD
    _add_chunk_info(parts, chunks, record, contexts, _METADATA_LEVEL)
    record.compressor = compressor
    _add_toc(parts, record)
    record.meta_digest = hashlib.sha256(parts.data).digest()
    record.meta_size = len(parts.data)
    return bytes(parts.data)


def _describe(chunks: Sequence[Chunk], options: BlobOptions) -> BlobRecord:
    features = BlobFeature.ALIGNED | BlobFeature.HAS_TAR_HEADER
    features |= BlobFeature.HAS_TOC | BlobFeature.CAP_TAR_TOC
    if options.inline_digests:
        features |= BlobFeature.INLINED_CHUNK_DIGEST
    if options.chunk_info_v2:
        features |= BlobFeature.CHUNK_INFO_V2
    return BlobRecord(
        blob_id="",
        chunk_size=options.chunk_size,
        chunk_count=len(chunks),
        compressor=options.compressor,
        digester=options.digester,
        features=int(features),
        uncompressed_size=_decoded_size(chunks),
    )


def _decoded_size(chunks: Sequence[Chunk]) -> int:
    if isinstance(chunks, LayerChunks):
        end = max(map(add, chunks.uncompressed_offsets, chunks.sizes), default=0)
    else:
        end = max((c.uncompressed_offset + c.uncompressed_size for c in chunks), default=0)
    return end + -end % _BLOCK


def _digests(chunks: Sequence[Chunk]) -> bytes | bytearray:
    if isinstance(chunks, LayerChunks):
        return chunks.digests
    return bytearray().join([chunk.digest for chunk in chunks])


def _add_data_entry(parts: _Parts, size: int, data_sha256: _Hash, uncompressed_size: int) -> None:
    parts.close(DATA, size)
    digest = data_sha256.copy()
    digest.update(parts.data)
    parts.toc.append(TocEntry(DATA, Compressor.NONE, digest.digest(), 0, size, uncompressed_size))


def _add_chunk_info(
    parts: _Parts,
    chunks: Sequence[Chunk],
    record: BlobRecord,
    contexts: Contexts,
    level: int | None = None,
) -> tuple[bytearray, blobmeta.BlobMetaHeader]:
    array = _entries(chunks, v2=bool(record.features & BlobFeature.CHUNK_INFO_V2))
    contexts_offset = len(array)
    array += contexts.packed
    # The TOC has no number for gzip.
    gzip = record.compressor == Compressor.GZIP
    compressor = Compressor.ZSTD if gzip else Compressor(record.compressor)
    record.ci_offset = parts.offset
    record.ci_compressed_size = parts.add(META, array, compressor, level)
    record.ci_uncompressed_size = len(array)
    record.ci_compressor = parts.toc[-1].compressor
    header = blobmeta.BlobMetaHeader(
        record.features,
        record.ci_compressor,
        record.chunk_count,
        record.ci_offset,
        record.ci_compressed_size,
        record.ci_uncompressed_size,
        contexts_offset if contexts.packed else 0,
        len(contexts.packed),
        contexts.number,
    )
    header_size = parts.add(META_HEADER, header.pack(), Compressor.NONE)
    parts.close(META, record.ci_compressed_size + header_size)
    return array, header


def _entries(chunks: Sequence[Chunk], *, v2: bool) -> bytearray:
    if isinstance(chunks, LayerChunks):
        return metaentries.pack_columns(chunks, v2=v2)
    pack = metaentries.pack_v2 if v2 else metaentries.pack_v1
    return bytearray(pack(_rows(chunks)))


def _rows(chunks: Iterable[Chunk]) -> Iterable[ChunkRow]:
    for position, chunk in enumerate(chunks):
        if chunk.position != position:
            raise FormatError(f"chunk {chunk.position} stands at position {position}")
        yield row_of(chunk)


def _add_toc(parts: _Parts, record: BlobRecord) -> None:
    entries = b"".join([entry.pack() for entry in parts.toc])
    start = len(parts.data)
    parts.data += entries
    parts.close(TOC, len(entries))
    toc = parts.data[start:]
    record.toc_size = len(toc)
    record.toc_digest = hashlib.sha256(toc).digest()


def read_toc(
    tail: Buffer, blob_size: int, name: str, expected_digest: bytes | None = None
) -> list[TocEntry]:
    """The table of contents in `tail`, the last bytes of a blob of `blob_size` bytes.

    `tail` may be longer than the table (`BlobRecord.toc_size`). VerifyError if the table
    does not have `expected_digest`.
    """
    part, size = tarheader.unpack(memoryview(tail)[-tarheader.SIZE :], name)
    if part != TOC:
        raise FormatError(f"ends in {part!r}, not in a table of contents", name)
    start = len(tail) - tarheader.SIZE - size
    if size % TOC_ENTRY_SIZE or size > _MAX_TOC_ENTRIES * TOC_ENTRY_SIZE or start < 0:
        raise FormatError(f"table of contents of {size} bytes", name)
    toc = memoryview(tail)[start:]
    if expected_digest is not None and hashlib.sha256(toc).digest() != expected_digest:
        raise VerifyError(f"{name}: the table of contents does not have its digest")
    return [_toc_entry(fields, blob_size, name) for fields in _TOC_ENTRY.iter_unpack(toc[:size])]


def read_recorded_toc(tail: Buffer, record: BlobRecord, name: str) -> list[TocEntry]:
    """The table of contents in the last `record.toc_size` bytes of a blob, which must be all of
    them. VerifyError if it is another than the record's.
    """
    toc = read_toc(tail, record.compressed_size, name, record.toc_digest)
    size = len(toc) * TOC_ENTRY_SIZE + tarheader.SIZE
    if size != record.toc_size:
        raise VerifyError(f"{name}: table of contents of {size} bytes, not {record.toc_size}")
    return toc


def _toc_entry(
    fields: tuple[int, int, bytes, bytes, int, int, int], size: int, where: str
) -> TocEntry:
    flags, _, raw_name, digest, offset, csize, usize = fields
    compressor = _TOC_COMPRESSORS.get(flags)
    part = raw_name.rstrip(b"\0").decode("ascii", "replace")
    if compressor is None:
        raise FormatError(f"part {part!r} has unknown flags {flags:#x}", where)
    if part != DATA and (offset + csize > size or usize > _MAX_PART):
        raise FormatError(f"part {part!r} of {csize} bytes at {offset} is impossible", where)
    return TocEntry(part, compressor, digest, offset, csize, usize)


def find_bootstrap(tail: Buffer, blob_size: int, name: str) -> TocEntry:
    """Where the bootstrap inside a blob lies; `digest` is empty in blobs without a TOC."""
    part, size = tarheader.unpack(memoryview(tail)[-tarheader.SIZE :], name)
    if part == BOOTSTRAP:
        offset = blob_size - tarheader.SIZE - size
        if offset < 0 or size > _MAX_PART:
            raise FormatError(f"bootstrap of {size} bytes is impossible", name)
        return TocEntry(BOOTSTRAP, Compressor.NONE, b"", offset, size, size)
    for entry in read_toc(tail, blob_size, name):
        if entry.name == BOOTSTRAP:
            return entry
    raise FormatError("no bootstrap inside this blob", name)


def read_part(entry: TocEntry, stored: Buffer, name: str) -> bytes:
    """The content of a part (not of the data) from its bytes in the blob, verified."""
    if len(stored) != entry.compressed_size:
        raise FormatError(f"{entry.name}: {len(stored)} bytes, not {entry.compressed_size}", name)
    content = codec.decompress(
        entry.compressor, memoryview(stored), entry.uncompressed_size, f"{name}: {entry.name}"
    )
    if entry.digest and hashlib.sha256(content).digest() != entry.digest:
        raise VerifyError(f"{name}: {entry.name} does not have its digest")
    return content
