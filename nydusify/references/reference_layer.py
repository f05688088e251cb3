"""A layer that is referred to, not converted: its tree, its chunks, and where they lie in it.

The blob of such a layer is the layer itself, as stored. What is made is its chunk
information: of a gzip layer slices that can be entered (Nydus's zran), of a zstd layer
batches of whole frames, of a plain tar the chunks as they are. Chunks have the digests of
their content, so what a reader gets is proven as in any other image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, NamedTuple

from fs.format import codec
from fs.format.blobfile import Contexts, build_separate
from fs.format.blobtable import BlobFeature, BlobRecord, Compressor, Digester
from fs.format.chunkinfo import ChunkFlag
from fs.format.contexts import BatchContext, ZranContext, pack_batches, pack_slices
from fs.format.errors import FormatError, VerifyError, local_errors
from fs.format.tree import Chunk, Node
from fs.tar.entry import Entry
from fs.tar.reader import TarReader
from fs.tar.stream import LayerStream
from nydusify.layers.estargz import ImageEntries
from nydusify.layers.layer import Layer
from nydusify.layers.sources import SourceLayer
from nydusify.references.restart_points import FrameDecoder, RestartPoints, gzip_points
from nydusify.references.slices import Place, Slice, slices_of

_DIGESTER = Digester.BLAKE3

_ALIGNMENT = 4096
_GZIP = b"\x1f\x8b"
_ZSTD = b"\x28\xb5\x2f\xfd"
_SKIPPABLE = b"\x2a\x4d\x18"


class _New(NamedTuple):
    """A chunk that no layer below has; `start` is its offset in the layer's content."""

    digest: bytes
    start: int
    size: int


@dataclass
class Contents:
    """The files of a layer with the numbers of their chunks, counted over the whole image.

    `new` are the chunks that got a number here, in order; `shared` of the others.
    """

    files: list[tuple[Node, list[int]]] = field(default_factory=list)
    new: list[_New] = field(default_factory=list)
    shared: int = 0


class Reference(NamedTuple):
    """A layer's blob: `metadata` is what has to be stored of it besides the layer itself."""

    record: BlobRecord
    metadata: bytes
    chunks: list[Chunk]


class _Stored(NamedTuple):
    """How a layer is stored. `restart` is None for a plain tar; of zstd it fills while decoding."""

    compressor: Compressor
    restart: RestartPoints | None = None
    decode: Callable[[int], bytes] | None = None


class ReferenceLayer:
    """One layer, of which `path` is a copy on local disk; temporary files go beside it."""

    def __init__(self, source: SourceLayer, path: Path) -> None:
        self._source = source
        self._path = path
        self._name = source.name

    def read(
        self, layer: Layer, numbers: dict[bytes, int], chunk_size: int, index: int
    ) -> tuple[Contents, Reference | None]:
        """Put its entries into `layer`, and number its chunks, of which `numbers` knows some.

        The blob gets `index`; there is none if every chunk is known. FormatError if the layer
        cannot be read where it is.
        """
        with ExitStack() as stack:
            with local_errors(self._path):
                file = stack.enter_context(self._path.open("rb"))
            stored = self._stored(file, stack)
            contents = self._contents(file, stored, layer, numbers, chunk_size)
            if not contents.new:
                return contents, None
            return contents, self._reference(contents.new, stored, index)

    def _stored(self, file: BinaryIO, stack: ExitStack) -> _Stored:
        head = file.read(4)
        file.seek(0)
        if head.startswith(_GZIP):
            points = stack.enter_context(gzip_points(self._path, self._source.size))
            return _Stored(Compressor.GZIP, points)
        if head == _ZSTD or (head[1:] == _SKIPPABLE and head[0] & 0xF0 == 0x50):
            decoder = FrameDecoder(file)
            return _Stored(Compressor.ZSTD, decoder.found, decoder.read)
        return _Stored(Compressor.NONE)

    def _contents(
        self,
        file: BinaryIO,
        stored: _Stored,
        layer: Layer,
        numbers: dict[bytes, int],
        chunk_size: int,
    ) -> Contents:
        contents = Contents()
        with self._opened_tar(file, stored) as (stream, reader):
            for entry in self._entries(reader):
                node = layer.add(entry)
                if node is None or not entry.size:
                    continue
                if entry.segments is not None:
                    raise FormatError(
                        "a sparse file cannot be read where it is: convert the image instead",
                        f"{self._name}, entry at offset {entry.offset}",
                    )
                chunks = _chunks(entry, reader, stream, chunk_size)
                contents.files.append((node, [_number(c, numbers, contents) for c in chunks]))
        return contents

    def _entries(self, reader: TarReader) -> Iterator[Entry]:
        table = self._source.stored.table if self._source.stored else None
        if table is None:
            return iter(reader)
        return iter(ImageEntries(reader, table, self._source.startup, self._name))

    @contextmanager
    def _opened_tar(
        self, file: BinaryIO, stored: _Stored
    ) -> Iterator[tuple[LayerStream, TarReader]]:
        """Leaving it without an error means that the content is what the configuration says."""
        with ThreadPoolExecutor(1, "decompress") as pool:
            stream = LayerStream(file, self._name, pool, stored.decode)
            try:
                yield stream, TarReader(stream)
                found = stream.drain()
            finally:
                stream.stop()
        promised = self._source.stored.diff_id if self._source.stored else None
        if promised is not None and found != promised:
            raise VerifyError(f"{self._name}: decompressed it is {found}, not {promised}")

    def _reference(self, new: Sequence[_New], stored: _Stored, index: int) -> Reference:
        record = BlobRecord(
            self._source.digest.removeprefix("sha256:"),
            index=index,
            digester=_DIGESTER,
            compressor=stored.compressor,
            compressed_size=self._source.size,
        )
        if stored.restart is None:
            chunks, contexts = _plain(new, index), Contexts()
        else:
            spans = [(chunk.start, chunk.start + chunk.size) for chunk in new]
            slices, places = slices_of(stored.restart, spans, self._name)
            is_gzip = stored.compressor == Compressor.GZIP
            record.features |= BlobFeature.ZRAN if is_gzip else BlobFeature.BATCH
            flag = ChunkFlag.ZRAN if is_gzip else ChunkFlag.BATCH
            chunks = _in_slices(new, slices, places, flag, index)
            contexts = self._slices(slices, chunks) if is_gzip else _batches(slices)
        return Reference(record, build_separate(chunks, record, contexts), chunks)

    def _slices(self, slices: Sequence[Slice], chunks: Sequence[Chunk]) -> Contexts:
        """The contexts of a gzip layer; a slice is decoded as far as its chunks reach."""
        used = [0] * len(slices)
        for chunk in chunks:
            end = chunk.within + chunk.uncompressed_size
            used[chunk.context] = max(used[chunk.context], end)
        contexts = []
        with local_errors(self._path), self._path.open("rb") as file:
            for piece, size in zip(slices, used, strict=True):
                point = piece.point
                byte = 0
                if point.bits:
                    file.seek(point.in_offset - 1)
                    byte = file.read(1)[0]
                start = point.in_offset, point.out_offset
                sizes = piece.in_length, size
                contexts.append(ZranContext(*start, 0, *sizes, 0, byte, point.bits))
        dictionaries = [bytes(piece.point.dictionary) for piece in slices]
        return Contexts(pack_slices(contexts, dictionaries), len(slices))


def _chunks(
    entry: Entry, reader: TarReader, stream: LayerStream, chunk_size: int
) -> Iterator[_New]:
    for at in range(0, entry.size, chunk_size):
        start = stream.offset
        data = reader.read(min(chunk_size, entry.size - at))
        yield _New(codec.digest(_DIGESTER, data), start, len(data))


def _number(chunk: _New, numbers: dict[bytes, int], contents: Contents) -> int:
    number = numbers.get(chunk.digest)
    if number is None:
        number = numbers[chunk.digest] = len(numbers)
        contents.new.append(chunk)
    else:
        contents.shared += 1
    return number


def _batches(slices: Sequence[Slice]) -> Contexts:
    """The contexts of a zstd layer."""
    contexts = [BatchContext(piece.in_length, piece.out_length) for piece in slices]
    return Contexts(pack_batches(contexts), len(contexts))


def _plain(new: Sequence[_New], index: int) -> list[Chunk]:
    chunks = []
    for position, (chunk, decoded) in enumerate(_laid_out(new)):
        place = chunk.start, chunk.size
        chunks.append(Chunk(chunk.digest, index, position, *place, decoded, chunk.size))
    return chunks


def _in_slices(
    new: Sequence[_New], slices: Sequence[Slice], places: Sequence[Place], flag: int, index: int
) -> list[Chunk]:
    chunks = []
    for position, ((chunk, decoded), place) in enumerate(zip(_laid_out(new), places, strict=True)):
        piece = slices[place.slice]
        chunks.append(
            Chunk(
                chunk.digest,
                index,
                position,
                piece.point.in_offset,
                piece.in_length if flag == ChunkFlag.ZRAN else 0,
                decoded,
                chunk.size,
                ChunkFlag.COMPRESSED | flag,
                context=place.slice,
                within=place.within,
            )
        )
    return chunks


def _laid_out(new: Sequence[_New]) -> Iterator[tuple[_New, int]]:
    """Each chunk with its place in the decoded blob."""
    end = 0
    for chunk in new:
        yield chunk, end
        end += chunk.size + -chunk.size % _ALIGNMENT
