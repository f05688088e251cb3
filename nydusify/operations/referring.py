"""Images that refer to the layers of others (`convert --oci-ref`): only metadata is made.

A layer is read once, to find where it can be entered and what its chunks hash to; of one with
a table of contents that the manifest proves, only that is read. What is made of a layer is
kept as converted layers are. The manifest lists, as Nydus has it, a blob of metadata for each
layer, which names the layer in an annotation, and the bootstrap. The layers themselves must be
in the target's repository, or nothing can be read: they are mounted or copied there if they
are not.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path

from fs.format.blobtable import Compressor, Digester
from fs.format.errors import UsageError, local_errors
from fs.registry.copying import copy_blob
from fs.registry.descriptor import Descriptor
from fs.registry.store import ImageReader
from nydusify.blobs.destination import Destination
from nydusify.layers.converted_layer import ConvertedLayer
from nydusify.layers.layer_queue import Turn
from nydusify.layers.sources import SourceImage, SourceLayer
from nydusify.operations.image_conversion import (
    Converted,
    LayerStore,
    merge_layers,
    publish_converted,
    write_bootstrap_file,
)
from nydusify.options import ConvertOptions
from nydusify.outputs.publish import Target, make_bootstrap_layer
from nydusify.references.contents_table import Unusable
from nydusify.references.listed_layer import ListedLayer
from nydusify.references.reference_blob import ReferenceOptions
from nydusify.references.reference_layer import ReferenceLayer
from nydusify.report import Progress, Report

_PIECE = 1 << 20
#: A piece holds a chunk and what is between two places to enter a layer.
_MAX_CHUNK_SIZE = 4 << 20
#: That of its writers, unless they are told another.
ESTARGZ_CHUNK_SIZE = 4 << 20


def refer_image(
    reader: ImageReader | None,
    source: SourceImage,
    destination: Destination,
    options: ConvertOptions,
    work: Path,
    progress: Progress,
    store: LayerStore | None = None,
) -> tuple[Descriptor, Report]:
    """Make and push an image that refers to the layers of `source`; its manifest's descriptor."""
    started = time.monotonic()
    if reader is None or source.stored is None:
        raise UsageError(f"--oci-ref: {source.name} is no image whose layers could be referred to")
    converted = refer_layers(source.layers, options, work, progress, store)
    bootstrap = work / "image.boot"
    chunk_size = reference_options(source.layers, options).chunk_size
    written = replace(options, compressor=Compressor.GZIP, chunk_size=chunk_size)
    write_bootstrap_file(converted, written, bootstrap)
    layer = make_bootstrap_layer(bootstrap, converted.blobs, work / "bootstrap.tar.gz")
    kept = [bool(figures.blob_digest) for figures in converted.figures]
    used = {f"sha256:{blob.record.blob_id}" for blob in converted.blobs}
    for original in source.stored.manifest.layers:
        if original.digest in used:
            progress.step(f"copying {original.digest[:19]}", original.size)
            copy_blob(original, reader, destination.writer, progress.advance)
    target = Target(source, converted.blobs, kept, layer)
    return publish_converted(target, converted, destination, progress, started)


def check_refer_options(options: ConvertOptions) -> None:
    if options.chunk_size > _MAX_CHUNK_SIZE:
        raise UsageError(f"--oci-ref: chunks of at most {_MAX_CHUNK_SIZE >> 20} MiB")
    if options.form.backend is not None:
        raise UsageError("--oci-ref: layers stay in the registry, so no other backend goes with it")


def refer_layers(
    layers: Sequence[SourceLayer],
    options: ConvertOptions,
    work: Path,
    progress: Progress,
    store: LayerStore | None = None,
) -> Converted:
    """The metadata of `layers` (lowest first), and the tree that the stack shows."""
    shaping = reference_options(layers, options)
    turns: list[Turn] = []
    for number, source in enumerate(layers, 1):
        progress.step(f"layer {number} of {len(layers)}", source.size)
        started = time.monotonic()
        layer = store.find(source, shaping) if store else None
        was_kept = layer is not None
        if layer is None:
            layer = _refer_layer(source, shaping, work / f"layer-{number}", progress)
            if store:
                store.keep(source, shaping, layer)
        turns.append(Turn(source, layer, was_kept, round(time.monotonic() - started, 3)))
    return merge_layers(turns)


def reference_options(layers: Sequence[SourceLayer], options: ConvertOptions) -> ReferenceOptions:
    """An image with tables of contents has their digests, and eStargz's chunk size at least."""
    tables = [layer.stored.table for layer in layers if layer.stored and layer.stored.table]
    if not any(table.is_trusted for table in tables):
        return ReferenceOptions(options.chunk_size)
    chunk_size = options.chunk_size
    if any(table.digest for table in tables):
        chunk_size = max(chunk_size, ESTARGZ_CHUNK_SIZE)
    return ReferenceOptions(chunk_size, Digester.SHA256)


def _refer_layer(
    source: SourceLayer, options: ReferenceOptions, path: Path, progress: Progress
) -> ConvertedLayer:
    """By its table of contents, if that can be; or else it is read once."""
    metadata = path.with_suffix(".metadata")
    stored = source.stored
    if stored and stored.ranges and stored.table and stored.table.is_trusted:
        with suppress(Unusable):
            return ListedLayer(source, options, progress.advance).read(metadata)
    _fetch(source, path, progress)
    try:
        return ReferenceLayer(source, path, options).read(metadata)
    finally:
        path.unlink()


def _fetch(source: SourceLayer, path: Path, progress: Progress) -> None:
    """A copy of the layer as it is stored, verified."""
    assert source.stored is not None
    with closing(source.stored.open()) as stored, local_errors(path), path.open("wb") as out:
        while piece := stored.read(_PIECE):
            out.write(piece)
            progress.advance(len(piece))
