"""What a bootstrap says that no reader needs, and that only its blobs can bear out.

Where no digest seals the bootstrap, a changed bit of it would be seen nowhere else.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from fs.format.blobtable import STARTUP_FEATURES, BlobFeature, BlobRecord
from fs.format.bootstrap import Bootstrap
from fs.format.chunkrow import DIGEST_SIZE
from fs.format.rafs6 import SuperFlag
from nydusify.checks.blobs import Told, is_foreign
from nydusify.checks.findings import Findings


def check_hints(bootstrap: Bootstrap, told: Mapping[int, Told], findings: Findings) -> None:
    """Notes what is odd. `told` has those blobs that were read."""
    if bootstrap.version != 6:
        return
    _check_origin(bootstrap, told, findings)
    _check_startup(bootstrap, told, findings)


def _check_origin(bootstrap: Bootstrap, told: Mapping[int, Told], findings: Findings) -> None:
    """The flag that Nydus's builders set, and nydusify does not, goes with blobs of theirs."""
    if not bootstrap.flags & SuperFlag.ENCRYPTION_NONE:
        return
    if not any(_is_of_nydus(blob, told.get(blob.index, Told())) for blob in bootstrap.blobs):
        findings.notes.append(
            f"flags {bootstrap.flags:#x}: that nothing is encrypted, which nydusify leaves out"
        )


def _is_of_nydus(blob: BlobRecord, told: Told) -> bool:
    return not blob.features & BlobFeature.HAS_TOC or told.is_whole_id is False


def _check_startup(bootstrap: Bootstrap, told: Mapping[int, Told], findings: Findings) -> None:
    """One blob at most is marked as what the start reads; that is one with copies of chunks."""
    blobs = bootstrap.blobs
    marked = [blob for blob in blobs if blob.features & STARTUP_FEATURES]
    if len(marked) > 1:
        findings.notes.append(f"{len(marked)} blobs are marked as what the start reads")
        return
    copies = list(_copies(bootstrap, told))
    for blob in marked:
        if blob.features & BlobFeature.STARTUP and (is_foreign(blob) or copies[blob.index] == 0):
            findings.notes.append(
                f"{_named(blob)}: marked as what the start reads, but no copy of what others have"
            )
    if not marked and not bootstrap.flags & SuperFlag.ENCRYPTION_NONE:
        for blob in blobs:
            if _may_be_startup(blob) and copies[blob.index] == blob.chunk_count:
                findings.notes.append(
                    f"{_named(blob)}: not marked as what the start reads, but copies throughout"
                )


def _may_be_startup(blob: BlobRecord) -> bool:
    return bool(blob.chunk_count) and not blob.features & BlobFeature.INLINED_FS_META


def _copies(bootstrap: Bootstrap, told: Mapping[int, Told]) -> Iterator[int | None]:
    """Of each blob, how many of the chunks that files take from there are in lower blobs as well.

    None from the first blob on that does not tell its chunks, but for those with copies throughout.
    """
    lower: set[bytes] = set()
    complete = True
    for blob in bootstrap.blobs:
        count = _count(bootstrap, blob.index, lower)
        yield count if complete or count == blob.chunk_count else None
        digests = told.get(blob.index, Told()).digests
        complete = complete and bool(digests or not blob.chunk_count)
        lower.update(_digests(digests))


def _count(bootstrap: Bootstrap, index: int, lower: set[bytes]) -> int:
    if not lower:
        return 0
    table = bootstrap.chunk_table(index)
    return sum(table.row(number).digest in lower for number in range(len(table)))


def _digests(packed: bytes) -> Iterator[bytes]:
    return (packed[at : at + DIGEST_SIZE] for at in range(0, len(packed), DIGEST_SIZE))


def _named(blob: BlobRecord) -> str:
    return f"blob {blob.blob_id[:12]}"
