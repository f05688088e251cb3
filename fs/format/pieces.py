"""What holds several chunks of a blob at once, and how a chunk is had from it.

A piece is decoded as a whole: a batch, or a slice of a gzip file (see contexts.py).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from fs.format import codec
from fs.format.blobtable import BlobFeature
from fs.format.chunkrow import ChunkRow
from fs.format.contexts import DICTIONARY_SIZE, BatchContext, ZranContext
from fs.format.errors import FormatError
from fs.format.inflate import inflate

#: Features of blobs whose chunk information is needed to read them.
WITH_PIECES = BlobFeature.BATCH | BlobFeature.ZRAN


class Pieces(ABC):
    """The pieces of one blob, by the number of their context. Any thread."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def size(self, context: int) -> int:
        """Bytes that the piece decodes to."""

    @abstractmethod
    def stored(self, context: int, row: ChunkRow) -> tuple[int, int]:
        """Offset and length of the piece in the blob, `row` being one of its chunks."""

    @abstractmethod
    def decode(self, context: int, data: memoryview, where: str) -> bytes:
        """The piece, from its stored bytes; FormatError."""


class Batches(Pieces):
    """`frames`: a batch is a range of a layer, of zstd frames that were not made for it."""

    def __init__(
        self, contexts: Sequence[BatchContext], compressor: int, *, frames: bool = False
    ) -> None:
        self._contexts = contexts
        self._compressor = compressor
        self._frames = frames

    def __len__(self) -> int:
        return len(self._contexts)

    def size(self, context: int) -> int:
        return self._contexts[context].uncompressed_size

    def stored(self, context: int, row: ChunkRow) -> tuple[int, int]:
        return row.compressed_offset, self._contexts[context].compressed_size

    def decode(self, context: int, data: memoryview, where: str) -> bytes:
        stored, size = self._contexts[context]
        if self._frames:
            return codec.decompress_frames(data, size, where)
        return codec.decompress(self._compressor if stored != size else 0, data, size, where)


class Slices(Pieces):
    """`content` are all dictionaries; it must stay as it is."""

    def __init__(self, contexts: Sequence[ZranContext], content: memoryview) -> None:
        self._contexts = contexts
        self._content = content

    def __len__(self) -> int:
        return len(self._contexts)

    def size(self, context: int) -> int:
        return self._contexts[context].out_length

    def stored(self, context: int, row: ChunkRow) -> tuple[int, int]:
        piece = self._contexts[context]
        return piece.in_offset, piece.in_length

    def decode(self, context: int, data: memoryview, where: str) -> bytes:
        piece = self._contexts[context]
        end = piece.dict_offset + piece.dict_size
        if piece.dict_size > DICTIONARY_SIZE or end > len(self._content) or piece.bits > 7:
            raise FormatError("no such restart point in a gzip file", where)
        dictionary = self._content[piece.dict_offset : end]
        return inflate(data, piece.out_length, dictionary, piece.byte, piece.bits, where)
