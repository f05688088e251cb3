"""Images that refer to the layers of others (`convert --oci-ref`): only metadata is made.

Every layer is read once, to find where it can be entered and what its chunks hash to. The
manifest lists, as Nydus has it, a blob of metadata for each layer, which names the layer in
an annotation, and the bootstrap. The layers themselves must be in the target's
repository, or nothing can be read: they are mounted or copied there if they are not.
"""

from __future__ import annotations

import stat
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from fs.format.blobtable import Compressor
from fs.format.errors import UsageError, local_errors
from fs.format.tree import Chunk, Node
from fs.registry.copying import copy_blob
from fs.registry.descriptor import Descriptor
from fs.registry.store import ImageReader
from nydusify.blobs.layer_blob import Blob
from nydusify.blobs.unused import drop_unused
from nydusify.layers.layer import Layer
from nydusify.layers.merge import apply
from nydusify.layers.sources import SourceImage, SourceLayer
from nydusify.operations.image_conversion import Converted, write_bootstrap_file
from nydusify.options import ConvertOptions
from nydusify.outputs.publish import Destination, Target, make_bootstrap_layer, publish
from nydusify.references.reference_layer import Contents, Reference, ReferenceLayer
from nydusify.report import LayerFigures, Progress, Report

_ROOT_MODE = stat.S_IFDIR | 0o755
_PIECE = 1 << 20
#: A piece holds a chunk and what is between two places to enter a layer.
_MAX_CHUNK_SIZE = 4 << 20


def refer_image(
    reader: ImageReader | None,
    source: SourceImage,
    destination: Destination,
    options: ConvertOptions,
    work: Path,
    progress: Progress,
) -> tuple[Descriptor, Report]:
    """Make and push an image that refers to the layers of `source`; its manifest's descriptor."""
    started = time.monotonic()
    if reader is None or source.stored is None:
        raise UsageError(f"--oci-ref: {source.name} is no image whose layers could be referred to")
    converted = refer_layers(source.layers, options, work, progress)
    bootstrap = work / "image.boot"
    write_bootstrap_file(converted, replace(options, compressor=Compressor.GZIP), bootstrap)
    layer = make_bootstrap_layer(bootstrap, converted.blobs, work / "bootstrap.tar.gz")
    kept = [bool(figures.blob_digest) for figures in converted.figures]
    used = {f"sha256:{blob.record.blob_id}" for blob in converted.blobs}
    for original in source.stored.manifest.layers:
        if original.digest in used:
            progress.step(f"copying {original.digest[:19]}", original.size)
            copy_blob(original, reader, destination.writer, progress.advance)
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


def check_refer_options(options: ConvertOptions) -> None:
    if options.chunk_size > _MAX_CHUNK_SIZE:
        raise UsageError(f"--oci-ref: chunks of at most {_MAX_CHUNK_SIZE >> 20} MiB")
    if options.form.backend is not None:
        raise UsageError("--oci-ref: layers stay in the registry, so no other backend goes with it")


def refer_layers(
    layers: Sequence[SourceLayer], options: ConvertOptions, work: Path, progress: Progress
) -> Converted:
    """The metadata of `layers` (lowest first), and the tree that the stack shows."""
    root = Node(_ROOT_MODE)
    numbers: dict[bytes, int] = {}
    chunks: list[Chunk] = []
    blobs: list[Blob] = []
    figures = []
    for number, source in enumerate(layers, 1):
        progress.step(f"layer {number} of {len(layers)}", source.size)
        started = time.monotonic()
        path = work / f"layer-{number}"
        _fetch(source, path, progress)
        layer = Layer(source.name)
        reading = ReferenceLayer(source, path)
        contents, reference = reading.read(layer, numbers, options.chunk_size, len(blobs))
        path.unlink()
        if reference is not None:
            chunks += reference.chunks
            blobs.append(_blob(reference, work))
        for node, used in contents.files:
            node.chunks = [chunks[each] for each in used]
        apply(root, layer.finish())
        figures.append(_figures(source, contents, reference, time.monotonic() - started))
    kept = drop_unused(root, blobs)
    startup = [path for source in layers for path in source.startup]
    return Converted(root, kept, [_without_dropped(each, kept) for each in figures], startup)


def _fetch(source: SourceLayer, path: Path, progress: Progress) -> None:
    """A copy of the layer as it is stored, verified."""
    assert source.stored is not None
    with closing(source.stored.open()) as stored, local_errors(path), path.open("wb") as out:
        while piece := stored.read(_PIECE):
            out.write(piece)
            progress.advance(len(piece))


def _blob(reference: Reference, work: Path) -> Blob:
    path = work / f"metadata-{reference.record.index}"
    with local_errors(path):
        path.write_bytes(reference.metadata)
    return Blob(path, reference.record, b"")


def _figures(
    source: SourceLayer, contents: Contents, reference: Reference | None, seconds: float
) -> LayerFigures:
    record = reference.record if reference else None
    return LayerFigures(
        source_digest=source.digest,
        source_size=source.size,
        blob_digest=f"sha256:{record.meta_digest.hex()}" if record else "",
        blob_size=record.meta_size if record else 0,
        chunks=len(contents.new),
        shared_chunks=contents.shared,
        seconds=round(seconds, 3),
    )


def _without_dropped(figures: LayerFigures, kept: Sequence[Blob]) -> LayerFigures:
    if any(figures.blob_digest == f"sha256:{blob.record.meta_digest.hex()}" for blob in kept):
        return figures
    return replace(figures, blob_digest="", blob_size=0, chunks=0)
