"""A chunk dictionary: chunks of blobs that exist already, and need not be stored again.

Made from the chunk table of a bootstrap. Images that are converted with it refer to its
blobs, which therefore have to be where the image goes.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterator, Sequence

from fs.format.blobtable import WHOLE_FEATURES, BlobFeature, BlobRecord, Digester
from fs.format.bootstrap import Bootstrap
from fs.format.chunkcolumns import LayerChunks
from fs.format.chunkinfo import ChunkFlag
from fs.format.chunktable import ChunkTable
from fs.format.errors import FormatError, UsageError
from fs.format.tree import Chunk

_UNUSABLE = WHOLE_FEATURES | BlobFeature.ZRAN


class KnownChunks(LayerChunks):
    """Chunks of one blob of which not all may be known; numbers are not positions."""

    __slots__ = ("positions",)

    def __init__(self, table: ChunkTable) -> None:
        super().__init__()
        self.positions = table.positions
        self.digests = bytearray(table.digests)
        self.sizes = table.uncompressed_sizes
        self.flags = bytearray(flag & 0xFF for flag in table.flags)
        self.compressed_offsets = table.compressed_offsets
        self.compressed_sizes = table.compressed_sizes
        self.uncompressed_offsets = table.uncompressed_offsets
        self.contexts = array("I", bytes(4 * len(table)))
        self.withins = array("I", bytes(4 * len(table)))

    def own(self, number: int) -> Chunk:
        chunk = super().own(number)
        flags = chunk.flags & ~ChunkFlag.HAS_CRC32
        return chunk._replace(position=self.positions[number], flags=flags)


class ChunkDictionary:
    """`blobs` and `tables` go together. `key` changes with anything that can be found in it."""

    def __init__(self, bootstrap: Bootstrap, chunk_size: int) -> None:
        """UsageError if its chunks are cut in another way."""
        if bootstrap.chunk_size != chunk_size:
            raise UsageError(
                f"{bootstrap.name}: a chunk dictionary for chunks of {bootstrap.chunk_size} bytes;"
                f" these have {chunk_size}"
            )
        self.blobs: Sequence[BlobRecord] = [blob for blob in bootstrap.blobs if _is_usable(blob)]
        self.tables = [KnownChunks(bootstrap.chunk_table(blob.index)) for blob in self.blobs]
        self._known: dict[bytes, tuple[LayerChunks, int]] = {}
        key = hashlib.sha256()
        for table, blob in zip(self.tables, self.blobs, strict=True):
            if len(table.digests) != 32 * len(table):
                raise FormatError("chunks without digests are no dictionary", bootstrap.name)
            key.update(blob.pack() + table.digests)
            for number in range(len(table)):
                self._known.setdefault(table.digest(number), (table, number))
        self.key = key.hexdigest()

    def __len__(self) -> int:
        return len(self._known)

    def find(self, digest: bytes, size: int) -> tuple[LayerChunks, int] | None:
        found = self._known.get(digest)
        return found if found is not None and found[0].sizes[found[1]] == size else None

    def table(self, blob_id: str) -> LayerChunks | None:
        """The chunks of a blob, if the dictionary has it."""
        for table, blob in self._pairs():
            if blob.blob_id == blob_id:
                return table
        return None

    def record(self, table: LayerChunks) -> BlobRecord:
        """The blob of one of `tables`."""
        return next(blob for each, blob in self._pairs() if each is table)

    def _pairs(self) -> Iterator[tuple[LayerChunks, BlobRecord]]:
        return zip(self.tables, self.blobs, strict=True)


def _is_usable(blob: BlobRecord) -> bool:
    """Whether files of another image can have chunks of it: digests must be of our kind."""
    return not blob.features & _UNUSABLE and blob.digester == Digester.BLAKE3
