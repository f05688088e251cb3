"""Every blob is what its id says, and its own tables agree with the bootstrap's chunk table."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from fs.format.blobfile import (
    DATA,
    DIGESTS,
    META,
    TocEntry,
    read_part,
    read_recorded_toc,
    read_toc,
)
from fs.format.blobmeta import (
    BlobMetaHeader,
    chunk_info_range,
    chunk_rows,
    read_blob_meta,
    read_chunk_info,
    unpack_header,
)
from fs.format.blobtable import STARTUP_FEATURES, WHOLE_FEATURES, BlobFeature, BlobRecord
from fs.format.bootstrap import Bootstrap
from fs.format.chunkinfo import ChunkFlag
from fs.format.chunkrow import DIGEST_SIZE, ChunkRow
from fs.format.chunktable import ChunkTable
from fs.format.errors import FormatError, VerifyError
from fs.format.rafs6 import SuperFlag
from nydusify.checks.findings import Findings

_RULE = "blobs"
_PIECE = 4 << 20
#: In so many last bytes of a blob lies its table of contents.
_TAIL = 64 << 10
_FOREIGN = WHOLE_FEATURES | BlobFeature.ZRAN | BlobFeature.SEPARATE
#: What a bootstrap may say of a blob that was made without knowing it.
_HINTS = int(STARTUP_FEATURES | BlobFeature.CHUNKDICT_GENERATED)
#: All flags but those that only chunk information has.
_RECORDED = 0xFF
_IN_A_PIECE = ChunkFlag.BATCH | ChunkFlag.ZRAN

Read = Callable[[int, int], bytes]


class _Parts(NamedTuple):
    """What a blob says of itself; `digests` is empty where it does not."""

    header: BlobMetaHeader
    rows: list[ChunkRow]
    digests: bytes


def check_blob(
    bootstrap: Bootstrap,
    index: int,
    meta: Path,
    read: Read,
    findings: Findings,
    *,
    size: int | None,
) -> None:
    """`read` gives bytes of the stored blob, `meta` may hold its chunk information as well.

    `size` is its length, None if its id is not to be checked: its bytes were verified before, or
    nobody knows where they end.
    """
    blob = bootstrap.blobs[index]
    where = f"blob {blob.blob_id[:12]}"
    table = bootstrap.chunk_table(index)
    if bootstrap.version == 6:
        findings.expect(_RULE, f"{where}: digester", blob.digester, int(bootstrap.digester))
    if bool(blob.meta_size) != any(blob.meta_digest):
        findings.notes.append(f"{where}: of a blob with its metadata either size or digest is told")
    if meta.exists():
        header, array = read_blob_meta(meta.read_bytes(), f"{where}: {meta.name}")
        rows = list(chunk_rows(array, header, where))
        _compare_features(blob, header, f"{where}: {meta.name}", findings)
        compare_chunks(bootstrap, index, rows, f"{where}: {meta.name}", findings)
    if bootstrap.version == 6 and not is_foreign(blob):
        for part in _parts(blob, read, where):
            _compare_features(blob, part.header, where, findings)
            compare_chunks(bootstrap, index, part.rows, where, findings)
            if part.digests:
                _compare_digests(table, part.digests, where, findings)
    if size is not None:
        _check_id(blob, read, size, where, findings)


def is_foreign(blob: BlobRecord) -> bool:
    """Whether its stored bytes are another's: a layer, or a tar file."""
    return bool(blob.features & _FOREIGN)


def _parts(blob: BlobRecord, read: Read, where: str) -> Iterator[_Parts]:
    """The chunk information where the record points at, and where the TOC does."""
    offset, length = chunk_info_range(blob)
    header, array = read_chunk_info(read(offset, length), blob)
    yield _Parts(header, list(chunk_rows(array, header, where)), b"")
    if bool(blob.toc_size) != any(blob.toc_digest):
        raise FormatError("of its table of contents either size or digest is told", where)
    if not blob.features & BlobFeature.HAS_TOC or not blob.toc_size:
        return
    start = blob.compressed_size - blob.toc_size
    if start < 0 or blob.toc_size > _TAIL:
        raise FormatError(f"table of contents of {blob.toc_size} bytes", where)
    tail = read(start, blob.toc_size)
    toc = read_recorded_toc(tail, blob, where)
    content = {part.name: _content(part, read, where) for part in toc}
    if META in content and content[META] != bytes(array):
        raise VerifyError(f"{where}: two different tables of chunk information")
    yield _Parts(header, [], content.get(DIGESTS, b""))
    for name, data in content.items():
        if name == "blob.meta.header":
            found = unpack_header(data, f"{where}: {name}")
            if found != header:
                raise VerifyError(f"{where}: two different headers of chunk information")


def _compare_features(
    blob: BlobRecord, header: BlobMetaHeader, where: str, findings: Findings
) -> None:
    """Those that readers act on are the same in both."""
    other = blob.features ^ header.features
    if other & ~_HINTS:
        findings.add(_RULE, f"{where}: features {blob.features:#x}, there {header.features:#x}")
    elif other & ~int(BlobFeature.STARTUP):
        findings.notes.append(f"{where}: features {blob.features:#x}, there {header.features:#x}")


def _content(part: TocEntry, read: Read, where: str) -> bytes:
    if part.name == DATA:
        return b""
    return read_part(part, read(part.compressed_offset, part.compressed_size), where)


def compare_chunks(
    bootstrap: Bootstrap, index: int, rows: list[ChunkRow], where: str, findings: Findings
) -> None:
    """Every chunk that the bootstrap knows is in the blob's table as well, and the same."""
    blob, table = bootstrap.blobs[index], bootstrap.chunk_table(index)
    if not rows and blob.chunk_count:
        return
    findings.expect(_RULE, f"{where}: chunks", len(rows), blob.chunk_count)
    odd: list[int] = []
    for number in range(len(table)):
        ours = table.row(number)
        if ours.position >= len(rows):
            findings.add(_RULE, f"{where}: no chunk {ours.position}")
            return
        if _place(ours) != _place(rows[ours.position]):
            findings.add(
                _RULE, f"{where}: chunk {ours.position} lies elsewhere than the bootstrap says"
            )
        elif _aside(ours) not in _known_asides(rows[ours.position], ours.crc32, bootstrap):
            odd.append(ours.position)
    if odd:
        findings.notes.append(
            f"{where}: the bootstrap says more or less of chunk {odd[0]}"
            + (f" and {len(odd) - 1} others" if odd[1:] else "")
        )


def _place(row: ChunkRow) -> tuple[int, ...]:
    decoded = row.uncompressed_offset, row.uncompressed_size
    if row.flags & _IN_A_PIECE or not row.compressed_size:
        return decoded
    return (*decoded, row.compressed_offset, row.compressed_size, row.flags & 1)


def _aside(row: ChunkRow) -> tuple[int, ...]:
    """What no reader needs of a record in the bootstrap, or finds out by itself."""
    return row.compressed_offset, row.compressed_size, row.flags & _RECORDED, row.crc32


def _known_asides(row: ChunkRow, crc32: int, bootstrap: Bootstrap) -> Iterator[tuple[int, ...]]:
    """What a bootstrap may say of the chunk in `row`: as nydusify does, or as Nydus.

    Nydus's records have checksums, which its chunk information may lack, and say nothing of
    batches.
    """
    yield _aside(row)
    told = row.compressed_offset, row.compressed_size, row.flags & int(ChunkFlag.COMPRESSED)
    offset, size, flags = (0, 0, 0) if row.flags & ChunkFlag.BATCH else told
    if crc32 and row.crc32 in (0, crc32):
        yield offset, size, flags | ChunkFlag.HAS_CRC32, crc32
    if bootstrap.flags & SuperFlag.ENCRYPTION_NONE:
        yield offset, size, flags, 0


def _compare_digests(table: ChunkTable, digests: bytes, where: str, findings: Findings) -> None:
    for number in range(len(table)):
        row = table.row(number)
        start = row.position * DIGEST_SIZE
        if digests[start : start + DIGEST_SIZE] != row.digest:
            findings.add(_RULE, f"{where}: chunk {row.position} has another digest there")


def _check_id(blob: BlobRecord, read: Read, size: int, where: str, findings: Findings) -> None:
    """The id is the sha256 of the blob; nydus-image leaves the chunk digests out of it."""
    gap = (size, size)
    if blob.features & BlobFeature.HAS_TOC and not is_foreign(blob):
        start = max(0, size - _TAIL)
        for part in read_toc(read(start, size - start), size, where):
            if part.name == DIGESTS:
                gap = (part.compressed_offset, part.compressed_offset + part.compressed_size)
    whole, without = hashlib.sha256(), hashlib.sha256()
    for offset in range(0, size, _PIECE):
        piece = read(offset, min(_PIECE, size - offset))
        whole.update(piece)
        without.update(piece[: max(0, gap[0] - offset)])
        without.update(piece[max(0, gap[1] - offset) :])
    if blob.blob_id not in (whole.hexdigest(), without.hexdigest()):
        findings.add(_RULE, f"{where}: its id is not the digest of its bytes")
