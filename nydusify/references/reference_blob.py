"""The blob that a layer is, left as it is: its chunks, and where in the layer they lie.

What is made is chunk information: of a gzip layer slices that can be entered (Nydus's zran),
of a zstd layer batches of whole frames, of a plain tar the chunks as they are. It is stored
as a blob of metadata, which names the layer.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from fs.format import codec
from fs.format.blobfile import Contexts, build_separate
from fs.format.blobtable import BlobFeature, BlobRecord, Compressor, Digester
from fs.format.chunkcolumns import LayerChunks, file_chunks
from fs.format.chunkinfo import ChunkFlag
from fs.format.contexts import BatchContext, ZranContext, pack_batches, pack_slices
from fs.format.errors import local_errors
from fs.format.tree import Chunk, Node
from nydusify.blobs.layer_blob import Blob
from nydusify.references.slices import Place, Slice

_ALIGNMENT = 4096
_FLAG_BITS = 0xFF


@dataclass(frozen=True)
class ReferenceOptions:
    """All that shapes a reference but the layer's bytes."""

    chunk_size: int
    digester: Digester = Digester.BLAKE3

    @property
    def key(self) -> str:
        """To be part of the key of a kept result; no other kind of result has such a one."""
        return f"reference 1 {self.chunk_size} {int(self.digester)}"

    def digest(self, data: bytes) -> bytes:
        return codec.digest(self.digester, data)


class NewChunk(NamedTuple):
    """`start` is its offset in the layer's content, or in what counts as that."""

    digest: bytes
    start: int
    size: int


class Contents:
    """The files of a layer, and its chunks: `new`, each once, in the order of the content."""

    def __init__(self) -> None:
        self.new: list[NewChunk] = []
        self._numbers: dict[bytes, int] = {}
        self._files: list[tuple[Node, array[int]]] = []

    def add(self, file: Node, chunks: Iterable[NewChunk]) -> None:
        self._files.append((file, array("Q", map(self._number, chunks))))

    def fill(self, table: LayerChunks) -> None:
        """Give the files their chunks, which `table` has in the order of `new`."""
        for file, numbers in self._files:
            file.chunks = file_chunks(table, numbers)

    def _number(self, chunk: NewChunk) -> int:
        number = self._numbers.setdefault(chunk.digest, len(self.new))
        if number == len(self.new):
            self.new.append(chunk)
        return number


class Located(NamedTuple):
    """Slices of a compressed layer, and of each chunk its place in them.

    `byte_before` an offset of the layer is asked where a slice begins within a byte.
    """

    slices: Sequence[Slice]
    places: Sequence[Place]
    byte_before: Callable[[int], int] = lambda offset: 0


class ReferenceBlob:
    """The blob of the layer `digest` of `size` bytes, made as `options` say."""

    def __init__(self, digest: str, size: int, options: ReferenceOptions) -> None:
        self._digest = digest
        self._size = size
        self._options = options
        self.chunks = LayerChunks()

    def make(
        self, new: Sequence[NewChunk], compressor: Compressor, located: Located | None, path: Path
    ) -> Blob:
        """Write the metadata to `path`; `chunks` is filled. A plain tar has no slices."""
        record = BlobRecord(
            self._digest.removeprefix("sha256:"),
            digester=self._options.digester,
            chunk_size=self._options.chunk_size,
            compressor=compressor,
            compressed_size=self._size,
        )
        if located is None:
            chunks, contexts = list(_plain(new)), Contexts()
        elif compressor == Compressor.GZIP:
            record.features |= BlobFeature.ZRAN
            chunks = list(_in_slices(new, located, ChunkFlag.ZRAN))
            contexts = _slices(located, chunks)
        else:
            record.features |= BlobFeature.BATCH
            chunks = list(_in_slices(new, located, ChunkFlag.BATCH))
            contexts = _batches(located.slices)
        metadata = build_separate(chunks, record, contexts)
        for chunk in chunks:
            self._append(chunk)
        with local_errors(path):
            path.write_bytes(metadata)
        return Blob(path, record, b"")

    def _append(self, chunk: Chunk) -> None:
        table = self.chunks
        number = table.append(chunk.digest, chunk.uncompressed_size)
        table.flags[number] = chunk.flags & _FLAG_BITS
        table.compressed_offsets[number] = chunk.compressed_offset
        table.compressed_sizes[number] = chunk.compressed_size
        table.uncompressed_offsets[number] = chunk.uncompressed_offset
        if chunk.context >= 0:
            table.contexts[number], table.withins[number] = chunk.context, chunk.within


def _slices(located: Located, chunks: Sequence[Chunk]) -> Contexts:
    """The contexts of a gzip layer; a slice is decoded as far as its chunks reach."""
    slices = located.slices
    used = [0] * len(slices)
    for chunk in chunks:
        used[chunk.context] = max(used[chunk.context], chunk.within + chunk.uncompressed_size)
    contexts = []
    for piece, size in zip(slices, used, strict=True):
        point = piece.point
        byte = located.byte_before(point.in_offset) if point.bits else 0
        start = point.in_offset, point.out_offset
        sizes = piece.in_length, size
        contexts.append(ZranContext(*start, 0, *sizes, 0, byte, point.bits))
    dictionaries = [bytes(piece.point.dictionary) for piece in slices]
    return Contexts(pack_slices(contexts, dictionaries), len(slices))


def _batches(slices: Sequence[Slice]) -> Contexts:
    """The contexts of a zstd layer."""
    contexts = [BatchContext(piece.in_length, piece.out_length) for piece in slices]
    return Contexts(pack_batches(contexts), len(contexts))


def _plain(new: Sequence[NewChunk]) -> Iterator[Chunk]:
    for position, (chunk, decoded) in enumerate(_laid_out(new)):
        place = chunk.start, chunk.size
        yield Chunk(chunk.digest, 0, position, *place, decoded, chunk.size)


def _in_slices(new: Sequence[NewChunk], located: Located, flag: ChunkFlag) -> Iterator[Chunk]:
    pairs = zip(_laid_out(new), located.places, strict=True)
    for position, ((chunk, decoded), place) in enumerate(pairs):
        piece = located.slices[place.slice]
        yield Chunk(
            chunk.digest,
            0,
            position,
            piece.point.in_offset,
            piece.in_length if flag == ChunkFlag.BATCH else 0,
            decoded,
            chunk.size,
            ChunkFlag.COMPRESSED | flag,
            context=place.slice,
            within=place.within,
        )


def _laid_out(new: Sequence[NewChunk]) -> Iterator[tuple[NewChunk, int]]:
    """Each chunk with its place in the decoded blob."""
    end = 0
    for chunk in new:
        yield chunk, end
        end += chunk.size + -chunk.size % _ALIGNMENT
