"""A blob's chunk information, where chunks cannot be found without it: looked up, or fetched once.

It is taken from the first of these places that has it:

    <id>.blob.meta beside the bootstrap          came in the bootstrap layer, verified with it;
                                                 the id may be that of the blob with the metadata
    <id>.blob.<digest>.meta in the cache         was fetched and verified before
    the blob of its own that the bootstrap names  proven by the digest of all of it
    the blob, behind the chunks                  proven by its table of contents, if it has one

Chunks are verified one by one whatever it says. What nothing proves is not kept, so
that it can do no harm beyond its own mount.
"""

from __future__ import annotations

import hashlib
import logging
import mmap
import os
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

import trio

from fs.cache.fetch import Fetching
from fs.format import blobfile, blobmeta, codec
from fs.format.blobtable import BlobFeature, BlobRecord, Compressor
from fs.format.buffer import Buffer
from fs.format.errors import FormatError, VerifyError, local_errors

log = logging.getLogger(__name__)

_NONE = bytes(32)
#: Of a blob with metadata only: contexts and dictionaries of a layer of many gigabytes.
_MAX_METADATA = 1 << 30
_REQUEST = 8 << 20
#: Chunk information of so many bytes, of a million chunks, is decoded in memory.
_LARGE = 32 << 20
#: Table of contents, and the tar header behind it.
_MAX_TOC = 64 << 10


class ChunkInformation(NamedTuple):
    """`array` is uncompressed and stays as it is."""

    header: blobmeta.BlobMetaHeader
    array: Buffer


async def chunk_information(
    blob: BlobRecord, fetcher: Fetching, beside: str, cache: str | None
) -> ChunkInformation:
    """`beside` and `cache` are the directories of the bootstrap and of cached blobs, if usable.

    Raises what the backend raises; FormatError, VerifyError.
    """
    name = blob.blob_id + ".blob"
    proof = _proof(blob)
    kept = os.path.join(cache, f"{name}.{proof.hex()[:16]}.meta") if proof and cache else ""
    brought = [blob.blob_id, blob.meta_digest.hex()]  # Nydus's converter takes the latter
    for path in (*(os.path.join(beside, f"{each}.blob.meta") for each in brought), kept):
        found = await trio.to_thread.run_sync(_open, path)
        if found is not None:
            return found
    where = f"blob {blob.blob_id}: chunk information"
    if not proof:
        log.warning("%s is proven by nothing; its chunks are", where)
    if blob.features & BlobFeature.SEPARATE:
        stored = await _fetch_separate(blob, fetcher, where)
        start = blob.ci_offset
        stored = stored[start : start + blob.ci_compressed_size + blobmeta.HEADER_SIZE]
        found = await trio.to_thread.run_sync(_unpack, stored, blob, (), cache)
    else:
        toc = await _fetch_toc(blob, fetcher, where) if proof else ()
        start, length = blobmeta.chunk_info_range(blob)
        stored = await _fetch(fetcher, blob.blob_id, start, length, where)
        found = await trio.to_thread.run_sync(_unpack, stored, blob, toc, cache)
    if kept:
        await trio.to_thread.run_sync(_keep, kept, found)
    return found


def _proof(blob: BlobRecord) -> bytes:
    """The digest that covers the chunk information; nothing if none does."""
    proof = blob.meta_digest if blob.features & BlobFeature.SEPARATE else blob.toc_digest
    return b"" if proof == _NONE else proof


async def _fetch_separate(blob: BlobRecord, fetcher: Fetching, where: str) -> bytes:
    """All of the blob that holds the metadata alone; its digest is its name."""
    if blob.features & BlobFeature.INLINED_FS_META or blob.meta_digest == _NONE:
        raise FormatError("is not in the bootstrap layer, and no blob is named for it", where)
    name = blob.meta_digest.hex()
    size = blob.meta_size or blob.ci_offset + blob.ci_compressed_size + blobmeta.HEADER_SIZE
    content = await _fetch(fetcher, name, 0, size, where)
    if hashlib.sha256(content).digest() != blob.meta_digest:
        raise VerifyError(f"{where}: blob {name} does not have its digest")
    return content


async def _fetch_toc(
    blob: BlobRecord, fetcher: Fetching, where: str
) -> Sequence[blobfile.TocEntry]:
    if not 0 < blob.toc_size <= min(_MAX_TOC, blob.compressed_size):
        raise FormatError(f"table of contents of {blob.toc_size} bytes", where)
    start = blob.compressed_size - blob.toc_size
    tail = await _fetch(fetcher, blob.blob_id, start, blob.toc_size, where)
    return blobfile.read_recorded_toc(tail, blob, where)


async def _fetch(fetcher: Fetching, name: str, start: int, length: int, where: str) -> bytes:
    if length > _MAX_METADATA:
        raise FormatError(f"{length} bytes", where)
    parts = []
    for offset in range(start, start + length, _REQUEST):
        size = min(_REQUEST, start + length - offset)
        parts.append(await fetcher.fetch(name, offset, size))
    return b"".join(parts)


def _unpack(
    stored: bytes, blob: BlobRecord, toc: Sequence[blobfile.TocEntry], cache: str | None
) -> ChunkInformation:
    """The array from its bytes in a blob, with the digests of `toc` if there are any."""
    header, packed = blobmeta.split_chunk_info(stored, blob)
    array, digest = _decoded(packed, blob, cache)
    header_digest = hashlib.sha256(stored[blob.ci_compressed_size :]).digest()
    parts = {blobfile.META: digest, blobfile.META_HEADER: header_digest}
    for entry in toc:
        if parts.get(entry.name, entry.digest) != entry.digest:
            raise VerifyError(f"blob {blob.blob_id}: {entry.name} does not have its digest")
    return ChunkInformation(header, array)


def _decoded(packed: memoryview, blob: BlobRecord, cache: str | None) -> tuple[Buffer, bytes]:
    """The array and its sha256. A large one is a file without a name, and no memory of ours:
    what it decodes to is the blob's own word.
    """
    where = f"blob {blob.blob_id}: chunk information"
    size, compressor = blob.ci_uncompressed_size, blob.ci_compressor
    if size <= _LARGE or compressor == Compressor.NONE:
        array = codec.decompress(compressor, packed, size, where)
        return array, hashlib.sha256(array).digest()
    if compressor != Compressor.ZSTD:
        raise FormatError(f"{size} bytes, compressed otherwise than with zstd", where)
    digest = hashlib.sha256()
    with local_errors(cache or tempfile.gettempdir()), tempfile.TemporaryFile(dir=cache) as file:
        for piece in codec.decompress_zstd_pieces(packed, size, where):
            digest.update(piece)
            file.write(piece)
        file.flush()
        return mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ), digest.digest()


def _open(path: str) -> ChunkInformation | None:
    """The file, mapped; None if there is none. FormatError when it is malformed."""
    try:
        with open(path, "rb") as file:
            if os.fstat(file.fileno()).st_size == 0:
                return None
            mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError:
        return None
    return ChunkInformation(*blobmeta.read_blob_meta(mapping, path))


def _keep(path: str, found: ChunkInformation) -> None:
    """Write the file whole or not at all; a disk that refuses costs a request at a later mount."""
    temporary = ""
    try:
        directory = os.path.dirname(path)
        with tempfile.NamedTemporaryFile(dir=directory, prefix=".meta-", delete=False) as file:
            temporary = file.name
            file.write(found.array)
            file.write(blobmeta.blob_meta_end(len(found.array), found.header))
            file.flush()
            os.fsync(file.fileno())
        os.rename(temporary, path)
    except OSError as error:
        log.warning("%s: %s", path, error.strerror)
        with suppress(OSError):
            os.unlink(temporary)
