"""The conversion of one image: layers to blobs, trees merged, image pushed.

Layers are converted one after the other, each in one pass over its bytes. The
result depends on the source and the options alone, not on threads, time or machine.
"""

from __future__ import annotations

import os
import stat
import time
from array import array
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from fs.format.blobfile import BlobOptions
from fs.format.errors import FormatError, local_errors
from fs.format.tree import Chunk, Node
from fs.format.writer import BootstrapOptions, write_bootstrap
from fs.registry.descriptor import Descriptor
from fs.tar.entry import Entry, pieces
from fs.tar.paths import clean
from nydusify.blobs import Blob, BlobStore
from nydusify.layer import Layer
from nydusify.merge import apply
from nydusify.options import ConvertOptions
from nydusify.paths import lookup, resolve
from nydusify.publish import Destination, Target, make_bootstrap_layer, publish
from nydusify.report import LayerFigures, Progress, Report
from nydusify.sources import Entries, SourceImage, SourceLayer
from nydusify.unused import drop_unused

_ROOT_MODE = stat.S_IFDIR | 0o755
#: A file's chunks are listed in memory and in the bootstrap.
_MAX_CHUNKS_OF_A_FILE = 1 << 24


@dataclass(frozen=True)
class Converted:
    """The merged tree of an image and the blobs that it refers to.

    `startup`: paths of what the layers' makers want read first.
    """

    root: Node
    blobs: Sequence[Blob]
    figures: list[LayerFigures]
    startup: list[bytes]


def convert_image(
    source: SourceImage,
    destination: Destination,
    options: ConvertOptions,
    work: Path,
    progress: Progress,
) -> tuple[Descriptor, Report]:
    """Convert one image, with files in `work`, and push it; returns its manifest's descriptor."""
    started = time.monotonic()
    converted = convert_layers(source.layers, options, work, progress)
    bootstrap = work / "image.boot"
    write_bootstrap_file(converted, options, bootstrap)
    layer = make_bootstrap_layer(bootstrap, converted.blobs, work / "bootstrap.tar.gz")
    kept = [bool(figures.blob_digest) for figures in converted.figures]
    target = Target(source, converted.blobs, kept, layer)
    manifest, target_size = publish(target, destination, progress)
    return manifest, Report(
        source=source.name,
        target=destination.writer.name,
        target_digest=manifest.digest,
        platform=str(source.platform),
        bootstrap_size=layer.descriptor.size,
        source_size=sum(figures.source_size for figures in converted.figures),
        target_size=target_size,
        seconds=round(time.monotonic() - started, 3),
        layers=converted.figures,
    )


def convert_layers(
    layers: Sequence[SourceLayer], options: ConvertOptions, work: Path, progress: Progress
) -> Converted:
    """Blob files of `layers` (lowest first) in `work`, and the tree that the stack shows."""
    blob_options = BlobOptions(chunk_size=options.chunk_size, compressor=options.compressor)
    root = Node(_ROOT_MODE)
    figures = []
    with closing(BlobStore(work, blob_options, options.threads)) as store:
        for number, source in enumerate(layers, 1):
            progress.step(f"layer {number} of {len(layers)}", source.size)
            started = time.monotonic()
            shared = store.shared
            layer = Layer(source.name)
            with source.open(progress.advance) as entries:
                contents = _read_layer(entries, layer, store, options.chunk_size)
            blob = store.finish_layer()
            contents.fill(store.chunks)
            apply(root, layer.finish())
            seconds = time.monotonic() - started
            figures.append(_figures(source, blob, store.shared - shared, seconds))
        blobs = drop_unused(root, store.blobs)
        startup = [path for source in layers for path in source.startup]
        figures = [_without_dropped(each, blobs) for each in figures]
        return Converted(root, blobs, figures, startup)


def write_bootstrap_file(converted: Converted, options: ConvertOptions, path: Path) -> None:
    """FormatError if the tree does not fit the format; StorageError if the disk is full."""
    root = converted.root
    bootstrap_options = BootstrapOptions(
        chunk_size=options.chunk_size,
        compressor=options.compressor,
        prefetch=_prefetched(root, options.prefetch) or _still_there(root, converted.startup),
    )
    records = [blob.record for blob in converted.blobs]
    with local_errors(path), path.open("wb") as out:
        write_bootstrap(converted.root, records, bootstrap_options, out)


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

    def fill(self, chunks: Sequence[Chunk]) -> None:
        """Give the files their chunks, `chunks` being those that all numbers are of."""
        start = 0
        for file, end in zip(self._files, self._ends, strict=True):
            file.chunks = [chunks[number] for number in self._numbers[start:end]]
            start = end


def _read_layer(entries: Entries, layer: Layer, store: BlobStore, chunk_size: int) -> _Contents:
    """Put every entry in the layer's tree; returns what the files are to be filled with."""
    contents = _Contents()
    for entry in entries:
        node = layer.add(entry)
        if node is None or not entry.size:
            continue
        if entry.size > _MAX_CHUNKS_OF_A_FILE * chunk_size:
            raise FormatError(f"file of {entry.size} bytes", _place_of(layer, entry))
        contents.add(node, map(store.add, pieces(entry, entries.read, chunk_size)))
    return contents


def _place_of(layer: Layer, entry: Entry) -> str:
    return f"{layer.name}, entry at offset {entry.offset}"


def _figures(source: SourceLayer, blob: Blob | None, shared: int, seconds: float) -> LayerFigures:
    return LayerFigures(
        source_digest=source.digest,
        source_size=source.size,
        blob_digest=f"sha256:{blob.record.blob_id}" if blob else "",
        blob_size=blob.record.compressed_size if blob else 0,
        chunks=blob.record.chunk_count if blob else 0,
        shared_chunks=shared,
        seconds=round(seconds, 3),
    )


def _without_dropped(figures: LayerFigures, blobs: Sequence[Blob]) -> LayerFigures:
    if any(figures.blob_digest == f"sha256:{blob.record.blob_id}" for blob in blobs):
        return figures
    return replace(figures, blob_digest="", blob_size=0, chunks=0)


def _prefetched(root: Node, patterns: Sequence[str]) -> list[Node]:
    """What the patterns name, in their order, each once; links are followed, gaps left out."""
    found: dict[Node, None] = {}
    for pattern in patterns:
        node = _follow(root, os.fsencode(pattern))
        if node is not None:
            found[node] = None
    return list(found)


def _still_there(root: Node, paths: Sequence[bytes]) -> list[Node]:
    """The files that layers have at `paths` and upper layers have not taken away, each once."""
    nodes = [lookup(root, clean(path, "start-up file")) for path in paths]
    return list(dict.fromkeys(node for node in nodes if node and stat.S_ISREG(node.mode)))


def _follow(root: Node, path: bytes) -> Node | None:
    where = "prefetch pattern"
    return lookup(root, resolve(root, clean(path, where), where))
