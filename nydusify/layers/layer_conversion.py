"""One layer into a tree and a blob, in one pass over its bytes.

The result depends on the layer's bytes and on LayerOptions, and on nothing else: neither
on the layers below, nor on threads, time or machine. So it can be kept and used again
wherever the layer occurs (converted_layer.py says what is kept).

Three parties work at once: a thread of the source decompresses and hashes, the caller's
thread takes the tar apart and digests the pieces, and the pool compresses them.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from fs.format.blobfile import BlobOptions
from fs.format.blobtable import DEFAULT_CHUNK_SIZE, Compressor
from fs.format.chunkcolumns import file_chunks
from fs.format.errors import FormatError
from fs.format.tree import Node
from fs.tar.entry import Entry, pieces
from fs.tar.paths import clean
from nydusify.blobs.chunk_dictionary import ChunkDictionary
from nydusify.blobs.data_order import DataOrder
from nydusify.blobs.layer_blob import BlobBuilder
from nydusify.blobs.repacking import MANNER
from nydusify.layers.converted_layer import ConvertedLayer
from nydusify.layers.layer import Layer
from nydusify.layers.sources import Advance, Entries, SourceLayer

#: A file's chunks are listed in memory and in the bootstrap.
_MAX_CHUNKS_OF_A_FILE = 1 << 24


class Shaping(Protocol):
    """All that shapes what a layer becomes but its bytes."""

    @property
    def key(self) -> str:
        """Differs wherever the results may differ: to be part of the key of a kept result."""


@dataclass(frozen=True)
class LayerOptions:
    """All that shapes a converted layer but its bytes. `dictionary` names the known chunks.

    `wanted`: a blob that takes more than so many thousandths of its layer, if that is stored with
    gzip, is packed again, harder; 0: none is.
    """

    chunk_size: int = DEFAULT_CHUNK_SIZE
    batch_size: int = 0
    compressor: Compressor = Compressor.ZSTD
    order: DataOrder = field(default_factory=DataOrder)
    dictionary: str = ""
    wanted: int = 0

    @property
    def key(self) -> str:
        """As of every `Shaping`."""
        first = b"\0".join(self.order.paths).hex()
        words = (self.chunk_size, self.batch_size, int(self.compressor), self.dictionary, first)
        packed = [f"wanted {self.wanted} {MANNER}"] if self.wanted else []
        return " ".join([*map(str, words), *packed])


def convert_layer(
    source: SourceLayer,
    options: LayerOptions,
    path: Path,
    pool: ThreadPoolExecutor,
    advance: Advance,
    dictionary: ChunkDictionary | None = None,
) -> ConvertedLayer:
    """Convert `source`; its blob is written to `path`, if it has one."""
    blob_options = BlobOptions(chunk_size=options.chunk_size, compressor=options.compressor)
    layer = Layer(source.name)
    contents = _Contents()
    batch_size = options.batch_size
    with closing(
        BlobBuilder(path, blob_options, pool, batch_size=batch_size, known=dictionary)
    ) as builder:
        with source.open(advance) as entries:
            _read(entries, layer, builder, contents, options)
        blob = builder.finish(source.learned.gzip_size * options.wanted // 1000)
        contents.fill(builder)
    return ConvertedLayer(
        layer.finish(),
        builder.chunks,
        blob,
        builder.shared,
        builder.shared_size,
        list(source.learned.startup),
        builder.repacked,
    )


class _Contents:
    """The files of a layer and the numbers of their chunks, which are not all written yet.

    Two flat columns: a layer may have millions of files.
    """

    def __init__(self) -> None:
        self._files: list[Node] = []
        self._ends = array("Q")
        self._numbers = array("Q")

    def add(self, file: Node, numbers: Iterable[int]) -> None:
        self._numbers.extend(numbers)
        self._files.append(file)
        self._ends.append(len(self._numbers))

    def fill(self, builder: BlobBuilder) -> None:
        """Give the files their chunks."""
        numbers = builder.numbers(self._numbers)
        start = 0
        for file, end in zip(self._files, self._ends, strict=True):
            file.chunks = file_chunks(builder.chunks, numbers[start:end])
            start = end


def _read(
    entries: Entries,
    layer: Layer,
    builder: BlobBuilder,
    contents: _Contents,
    options: LayerOptions,
) -> None:
    """Put every entry in the layer's tree, and the contents in its blob."""
    chunk_size, add = options.chunk_size, builder.add
    put, order = contents.add, options.order
    for entry in entries:
        node = layer.add(entry)
        size = entry.size
        if node is None or not size:
            continue
        if size > _MAX_CHUNKS_OF_A_FILE * chunk_size:
            raise FormatError(f"file of {size} bytes", _place_of(layer, entry))
        rank = order.rank(clean(entry.path, layer.name)) if order else None
        if size <= chunk_size and entry.segments is None:
            put(node, (add(entries.read(size), rank),))
        else:
            put(node, [add(piece, rank) for piece in pieces(entry, entries.read, chunk_size)])


def _place_of(layer: Layer, entry: Entry) -> str:
    return f"{layer.name}, entry at offset {entry.offset}"
