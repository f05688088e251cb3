"""The conversion of one image: layers to blobs, trees merged, image pushed.

Layers are converted two at a time, each in one pass over its bytes. The result depends on
the source and the options alone, not on threads, time or machine.
"""

from __future__ import annotations

import os
import re
import stat
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from fs import heap
from fs.format.blobtable import STARTUP_FEATURES, BlobRecord, Digester
from fs.format.chunkcolumns import LayerChunks
from fs.format.errors import local_errors
from fs.format.tree import Chunk, Node
from fs.format.writer import BootstrapOptions, write_bootstrap
from fs.registry.descriptor import Descriptor
from fs.tar.paths import clean
from nydusify.blobs.chunk_dictionary import ChunkDictionary
from nydusify.blobs.data_order import DataOrder
from nydusify.blobs.destination import Destination, blob_layer
from nydusify.blobs.layer_blob import Blob
from nydusify.blobs.sharing import News, Shared, Sharing
from nydusify.blobs.stored_chunks import StoredChunks
from nydusify.blobs.uploads import Uploads
from nydusify.layers.converted_layer import ConvertedLayer
from nydusify.layers.layer_conversion import LayerOptions, Shaping
from nydusify.layers.layer_queue import LayerQueue, Turn
from nydusify.layers.merge import apply
from nydusify.layers.paths import lookup, resolve
from nydusify.layers.sources import SourceImage, SourceLayer
from nydusify.options import ConvertOptions
from nydusify.outputs.known_blobs import KnownBlobs
from nydusify.outputs.publish import Target, make_bootstrap_layer, publish
from nydusify.report import LayerFigures, Progress, Report
from nydusify.startup.placement import copy_chunks, placement, point_to
from nydusify.startup.unpublished import BlobFiles, guessed, joined, told

_SHELL = re.compile(r"(?:^|/)(?:ba|da|a|k|mk|z|fi)?sh$")
#: Thousandths of its gzip layer that a blob is to take at most, if the options want it small: of
#: the lowest layer, which may be most of the image, and of those above. See docs/choices.md.
_WANTED_LOWEST, _WANTED_ABOVE = 945, 965
_ROOT_MODE = stat.S_IFDIR | 0o755


@dataclass(frozen=True)
class Converted:
    """The merged tree of an image and the blobs that it refers to.

    `blobs` are files; `known` are blobs of a chunk dictionary, which come after them in the
    bootstrap. `startup`: paths of what the layers' makers want read first. `tables`: all through
    which files refer to chunks. `copies`: of what the start needs, the last blob of all.
    """

    root: Node
    blobs: Sequence[Blob]
    figures: list[LayerFigures]
    startup: list[bytes]
    known: Sequence[BlobRecord] = ()
    tables: Sequence[LayerChunks] = ()
    copies: Blob | None = None


class LayerStore(Protocol):
    """Converted layers that are kept between runs. Nothing in it is worth a failure."""

    def find(self, source: SourceLayer, options: Shaping) -> ConvertedLayer | None:
        """The layer as it was converted before."""

    def keep(self, source: SourceLayer, options: Shaping, converted: ConvertedLayer) -> None:
        """Called for each layer that was converted, before the layers are merged."""


def convert_image(
    source: SourceImage,
    destination: Destination,
    options: ConvertOptions,
    work: Path,
    progress: Progress,
    store: LayerStore | None = None,
    known: KnownBlobs | None = None,
) -> tuple[Descriptor, Report]:
    """Convert one image, with files in `work`, and push it; returns its manifest's descriptor."""
    started = time.monotonic()
    with Uploads(destination) as uploads:
        converted = convert_layers(
            source.layers,
            options,
            work,
            progress,
            store=store,
            dictionary=known.chunks if known else None,
            finished=uploads.offer,
        )
        others = [
            known.provide(record, destination, progress) for record in converted.known if known
        ]
        bootstrap = work / "image.boot"
        blobs = [*converted.blobs, *others]
        progress.step("finding what the start reads", 0)
        converted, startup = _with_startup(converted, blobs, source, options, work)
        if converted.copies:
            blobs.append(converted.copies)
            uploads.offer(converted.copies)
        startup = write_bootstrap_file(converted, options, bootstrap, startup)
        layer = make_bootstrap_layer(bootstrap, blobs, work / "bootstrap.tar.gz")
        kept = [bool(figures.blob_digest) for figures in converted.figures]
        target = Target(source, converted.blobs, kept, layer, others, converted.copies)
        uploads.finish(progress)
    manifest, report = publish_converted(target, converted, destination, progress, started)
    return manifest, replace(
        report,
        known_blobs=[f"sha256:{record.blob_id}" for record in converted.known],
        known_size=sum(blob_layer(blob).size for blob in others),
        startup_files=len(startup),
        startup_size=sum(node.size for node in startup),
        startup_blob_size=converted.copies.record.compressed_size if converted.copies else 0,
    )


def publish_converted(
    target: Target,
    converted: Converted,
    destination: Destination,
    progress: Progress,
    started: float,
) -> tuple[Descriptor, Report]:
    """Push what is left of the image, and say what was converted since `started` (monotonic)."""
    manifest, target_size = publish(target, destination, progress)
    return manifest, Report(
        source=target.source.name,
        target=destination.writer.name,
        target_digest=manifest.digest,
        platform=str(target.source.platform),
        bootstrap_size=target.bootstrap.descriptor.size,
        source_size=sum(figures.source_size for figures in converted.figures),
        target_size=target_size,
        seconds=round(time.monotonic() - started, 3),
        layers=converted.figures,
    )


def _names_a_command(config: Mapping[str, Any]) -> bool:
    """Whether there is a start to guess about."""
    process = config.get("config")
    return isinstance(process, dict) and bool(process.get("Entrypoint") or process.get("Cmd"))


def _is_a_shell(config: Mapping[str, Any]) -> bool:
    """Whether the command tells nothing of what will be started."""
    process = config.get("config")
    words = process.get("Entrypoint") or process.get("Cmd") if isinstance(process, dict) else None
    return isinstance(words, list) and len(words) == 1 and _SHELL.search(str(words[0])) is not None


def _with_startup(
    converted: Converted,
    blobs: Sequence[Blob],
    source: SourceImage,
    options: ConvertOptions,
    work: Path,
) -> tuple[Converted, list[Node]]:
    """The image with its start-up blob, if it gets one, and the files to be listed."""
    root, mode, chunk_size = converted.root, options.startup, options.chunk_size
    nodes = prefetched(root, options.prefetch) or _still_there(root, converted.startup)
    with closing(BlobFiles(blobs, options)) as files:
        stored = StoredChunks(blobs, len(converted.blobs), files)
        startup = told(root, nodes, chunk_size)
        if mode != "none" and (mode or not nodes) and _names_a_command(source.config):
            startup = joined(startup, guessed(root, stored, source.config, chunk_size))
        chunks: Sequence[Chunk] = ()
        if mode is not None or not _is_a_shell(source.config):
            chunks = placement(startup.chunks, stored, options, converted.blobs)
        if not chunks:
            return converted, startup.files
        copies = copy_chunks(chunks, stored, options, work / "startup", len(blobs))
    point_to(copies.chunks, converted.tables)
    return replace(converted, copies=copies.blob), startup.files


def layer_options(
    options: ConvertOptions, dictionary: ChunkDictionary | None, wanted: int
) -> LayerOptions:
    """What of `options` shapes a layer; `wanted` as there, if small blobs are asked for."""
    return LayerOptions(
        chunk_size=options.chunk_size,
        batch_size=min(options.batch_size, options.chunk_size),
        compressor=options.compressor,
        order=DataOrder(options.prefetch),
        dictionary=dictionary.key if dictionary else "",
        wanted=wanted if options.repack else 0,
    )


def convert_layers(
    layers: Sequence[SourceLayer],
    options: ConvertOptions,
    work: Path,
    progress: Progress,
    *,
    store: LayerStore | None = None,
    dictionary: ChunkDictionary | None = None,
    finished: Callable[[Blob], None] | None = None,
) -> Converted:
    """Blob files of `layers` (lowest first) in `work`, and the tree that the stack shows.

    `finished` is called with each blob when its file is whole, unless it only repeats chunks of
    lower ones. The image may still turn out not to need it.
    """
    lowest = layer_options(options, dictionary, _WANTED_LOWEST)
    above = layer_options(options, dictionary, _WANTED_ABOVE)
    shapings = [lowest, *[above] * (len(layers) - 1)][: len(layers)]
    turns: list[Turn] = []
    news = News(len(layers))
    with (
        ThreadPoolExecutor(options.threads, "compress") as pool,
        LayerQueue(len(layers), work, pool, progress, dictionary) as queue,
    ):
        for source, shaping in zip(layers, shapings, strict=True):
            queue.put(source, shaping, store.find(source, shaping) if store else None)
        for turn, shaping in zip(queue, shapings, strict=True):
            layer = turn.layer
            if store and not turn.kept:
                store.keep(turn.source, shaping, layer)
            if news.has(layer.chunks) and layer.blob and finished:
                finished(layer.blob)
            turns.append(turn)
    heap.give_back()
    return merge_layers(turns, dictionary)


def merge_layers(turns: Sequence[Turn], dictionary: ChunkDictionary | None = None) -> Converted:
    """The tree that the stack of layers (lowest first) shows, with the blobs that it needs."""
    root = Node(_ROOT_MODE)
    for turn in turns:
        apply(root, turn.layer.layer)
    others = dictionary.tables if dictionary else []
    sharing = Sharing(root, [turn.layer.chunks for turn in turns], others)
    used = {id(table): table.blob_index for table in sharing.used}
    blobs = []
    figures = []
    for turn, shared in zip(turns, sharing.shared, strict=True):
        layer = turn.layer
        blob = layer.blob if id(layer.chunks) in used else None
        if blob is not None:
            blob.record.index = layer.chunks.blob_index
            blobs.append(blob)
        figures.append(_figures(turn, blob, shared))
    known = []
    for table in sharing.used[len(blobs) :]:
        assert dictionary
        record = dictionary.record(table)  # what other images start with is nothing to us
        features = record.features & ~STARTUP_FEATURES
        known.append(replace(record, index=table.blob_index, features=features))
    startup = [path for turn in turns for path in turn.layer.startup]
    tables = [*(turn.layer.chunks for turn in turns), *others]
    return Converted(root, blobs, figures, startup, known, tables)


def write_bootstrap_file(
    converted: Converted, options: ConvertOptions, path: Path, startup: Sequence[Node] | None = None
) -> list[Node]:
    """Write the bootstrap; returns what it lists to be read first.

    That is `startup`, or what the options or else the layers say. FormatError if the tree does
    not fit the format; StorageError if the disk is full.
    """
    root = converted.root
    if startup is None:
        startup = prefetched(root, options.prefetch) or _still_there(root, converted.startup)
    listed = list(dict.fromkeys(startup))
    records = [*(blob.record for blob in converted.blobs), *converted.known]
    if converted.copies:
        records.append(converted.copies.record)
    bootstrap_options = BootstrapOptions(
        chunk_size=options.chunk_size,
        compressor=options.compressor,
        digester=Digester(records[0].digester) if records else Digester.BLAKE3,
        prefetch=listed,
    )
    with local_errors(path), path.open("wb") as out:
        write_bootstrap(converted.root, records, bootstrap_options, out)
    return listed


def _figures(turn: Turn, blob: Blob | None, shared: Shared) -> LayerFigures:
    layer = turn.layer
    return LayerFigures(
        source_digest=turn.source.digest,
        source_size=turn.source.size,
        blob_digest=blob_layer(blob).digest if blob else "",
        blob_size=blob_layer(blob).size if blob else 0,
        chunks=blob.record.chunk_count if blob else 0,
        shared_chunks=layer.shared + shared.chunks,
        shared_size=layer.shared_size + shared.size,
        repacked_size=layer.repacked,
        seconds=turn.seconds,
        kept=turn.kept,
    )


def prefetched(root: Node, patterns: Sequence[str]) -> list[Node]:
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
