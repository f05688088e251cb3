"""A layer that is referred to, read once as a whole: its tree and its chunks.

Chunks have the digests of their content, so what a reader gets is proven as in any other
image. Of a gzip layer the restart points are looked for meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple

from fs.format.blobtable import Compressor
from fs.format.errors import FormatError, VerifyError, local_errors
from fs.tar.entry import Entry
from fs.tar.reader import TarReader
from fs.tar.stream import LayerStream
from nydusify.layers.converted_layer import ConvertedLayer
from nydusify.layers.estargz import ImageEntries
from nydusify.layers.layer import Layer
from nydusify.layers.sources import SourceLayer
from nydusify.references.reference_blob import (
    Contents,
    Located,
    NewChunk,
    ReferenceBlob,
    ReferenceOptions,
)
from nydusify.references.restart_points import (
    FrameDecoder,
    GzipPoints,
    RestartPoints,
)
from nydusify.references.slices import slices_of

_GZIP = b"\x1f\x8b"
_ZSTD = b"\x28\xb5\x2f\xfd"
_SKIPPABLE = b"\x2a\x4d\x18"


class _Stored(NamedTuple):
    """How a layer is stored. There are no `points` of a plain tar."""

    compressor: Compressor
    points: GzipPoints | RestartPoints | None = None
    decode: Callable[[int], bytes] | None = None


class ReferenceLayer:
    """One layer, of which `path` is a copy on local disk; temporary files go beside it."""

    def __init__(self, source: SourceLayer, path: Path, options: ReferenceOptions) -> None:
        self._source = source
        self._path = path
        self._name = source.name
        self._options = options

    def read(self, blob_path: Path) -> ConvertedLayer:
        """Its tree and its blob. FormatError if the layer cannot be read where it is."""
        layer = Layer(self._name)
        blob = ReferenceBlob(self._source.digest, self._source.size, self._options)
        with ExitStack() as stack:
            with local_errors(self._path):
                file = stack.enter_context(self._path.open("rb"))
            stored = self._stored(file, stack)
            contents = self._contents(file, stored, layer)
            made = None
            if contents.new:
                located = self._located(contents.new, stored)
                made = blob.make(contents.new, stored.compressor, located, blob_path)
        contents.fill(blob.chunks)
        startup = list(self._source.learned.startup)
        return ConvertedLayer(layer.finish(), blob.chunks, made, startup=startup)

    def _stored(self, file: BinaryIO, stack: ExitStack) -> _Stored:
        head = file.read(4)
        file.seek(0)
        if head.startswith(_GZIP):
            points = stack.enter_context(closing(GzipPoints(self._path, self._source.size)))
            return _Stored(Compressor.GZIP, points)
        if head == _ZSTD or (head[1:] == _SKIPPABLE and head[0] & 0xF0 == 0x50):
            decoder = FrameDecoder(file)
            return _Stored(Compressor.ZSTD, decoder.found, decoder.read)
        return _Stored(Compressor.NONE)

    def _contents(self, file: BinaryIO, stored: _Stored, layer: Layer) -> Contents:
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
                contents.add(node, self._chunks(entry, reader, stream))
        return contents

    def _chunks(self, entry: Entry, reader: TarReader, stream: LayerStream) -> Iterator[NewChunk]:
        chunk_size, digest = self._options.chunk_size, self._options.digest
        for at in range(0, entry.size, chunk_size):
            start = stream.offset
            data = reader.read(min(chunk_size, entry.size - at))
            yield NewChunk(digest(data), start, len(data))

    def _entries(self, reader: TarReader) -> Iterator[Entry]:
        table = self._source.stored.table if self._source.stored else None
        if table is None:
            return iter(reader)
        return iter(ImageEntries(reader, table, self._source.learned.startup, self._name))

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

    def _located(self, new: list[NewChunk], stored: _Stored) -> Located | None:
        if stored.points is None:
            return None
        points = stored.points
        restart = points.found() if isinstance(points, GzipPoints) else points
        spans = [(chunk.start, chunk.start + chunk.size) for chunk in new]
        slices, places = slices_of(restart, spans, self._name)
        return Located(slices, places, self._byte_before)

    def _byte_before(self, offset: int) -> int:
        with local_errors(self._path), self._path.open("rb") as file:
            file.seek(offset - 1)
            return file.read(1)[0]
