"""A blob that is another's layer, and the blob that holds its metadata: whether they fit.

Readers need little of what a bootstrap says of them, so where no digest seals the bootstrap a
changed bit of the rest would be seen nowhere else.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator

from fs.format.blobmeta import chunk_info_range, chunk_rows, read_chunk_info
from fs.format.blobtable import BlobFeature, BlobRecord, Compressor
from fs.format.bootstrap import Bootstrap
from fs.format.errors import NotFoundError
from fs.format.rafs6 import SuperFlag
from nydusify.checks.blobs import compare_chunks
from nydusify.checks.findings import Findings

#: More than the metadata of any layer takes.
_MOST = 1 << 30


def check_separate(
    bootstrap: Bootstrap,
    index: int,
    read: Callable[[str, int, int], bytes],
    size: int | None,
    findings: Findings,
) -> None:
    """Notes what is odd of a blob of `size` bytes, if known. `read` takes the name of a blob."""
    blob = bootstrap.blobs[index]
    where = f"blob {blob.blob_id[:12]}"
    if not blob.features & BlobFeature.SEPARATE:
        return
    if size not in (None, blob.compressed_size):
        findings.notes.append(f"{where}: {size} bytes, {blob.compressed_size} in the bootstrap")
    found = _compressor(read(blob.blob_id, 0, 4))
    if blob.compressor != found:
        findings.notes.append(f"{where}: compressor {blob.compressor}, its bytes say {found}")
    if not 0 < blob.meta_size <= _MOST:
        return
    try:
        stored = read(blob.meta_digest.hex(), 0, blob.meta_size)
    except NotFoundError:  # it lies beside the bootstrap, or files cannot be read
        return
    start, length = chunk_info_range(blob)
    header, array = read_chunk_info(stored[start : start + length], blob)
    findings.notes.extend(f"{where}: {odd}" for odd in _odd(blob, stored, header.features))
    if not bootstrap.flags & SuperFlag.ENCRYPTION_NONE:  # Nydus's records leave more out
        compared = Findings()
        rows = list(chunk_rows(array, header, where))
        compare_chunks(bootstrap, index, rows, where, compared)
        findings.notes.extend([*compared.lines(), *compared.notes][:1])


def _compressor(start: bytes) -> Compressor:
    """What the first bytes of a layer say."""
    if start.startswith(b"\x1f\x8b"):
        return Compressor.GZIP
    is_skipped = start[1:] == b"\x2a\x4d\x18" and start[0] & 0xF0 == 0x50
    return Compressor.ZSTD if start == b"\x28\xb5\x2f\xfd" or is_skipped else Compressor.NONE


def _odd(blob: BlobRecord, stored: bytes, features: int) -> Iterator[str]:
    if blob.features != features:
        yield f"features {blob.features:#x}, there {features:#x}"
    if hashlib.sha256(stored).digest() != blob.meta_digest:
        yield "its metadata does not have its digest"
    if bool(blob.toc_size) != any(blob.toc_digest):
        yield "of its table of contents either size or digest is told"
    elif blob.toc_size:
        toc = stored[max(0, len(stored) - blob.toc_size) :]
        if hashlib.sha256(toc).digest() != blob.toc_digest:
            yield "its table of contents is another than the bootstrap says"
