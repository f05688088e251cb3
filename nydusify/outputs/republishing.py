"""A Nydus image published anew with another tree or other blobs; what stays is not sent again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from fs.format.errors import UsageError, local_errors
from fs.registry.copying import copy_blob, referred_layers
from fs.registry.descriptor import Descriptor
from fs.registry.documents import encode_json, image_document, push_config, with_layers
from fs.registry.manifest import find_bootstrap_layer
from fs.registry.mediatypes import OCI_MANIFEST
from fs.registry.store import Image, ImageWriter
from nydusify.blobs.destination import blob_layer
from nydusify.blobs.layer_blob import Blob
from nydusify.images.bootstraps import Stack
from nydusify.images.opened import OpenedImage
from nydusify.outputs.publish import BootstrapLayer, make_bootstrap_layer
from nydusify.report import Progress


class Republished(NamedTuple):
    """`size` is all that the image refers to, `pushed` what of it is new, in bytes."""

    manifest: Descriptor
    size: int
    pushed: int


def republish(
    opened: OpenedImage,
    stack: Stack,
    new_blobs: Sequence[Blob],
    writer: ImageWriter,
    work: Path,
    progress: Progress,
    *,
    comment: str,
    config: Mapping[str, Any] | None = None,
    annotations: Mapping[str, str] | None = None,
) -> Republished:
    """Push `opened` with the tree and blobs of `stack`, the tag last.

    The blobs of `stack` are layers of the image or files of `new_blobs`. `config` takes the
    place of the image's; what it tells of layers is replaced. `annotations` go to the
    bootstrap layer.
    """
    image, reader = opened.image, opened.reader
    if image is None or reader is None:
        raise UsageError(f"{opened.name}: a bare bootstrap; name the whole image")
    files = {blob.record.blob_id: blob for blob in new_blobs}
    bootstrap = _bootstrap_layer(opened, stack, files, work)
    if annotations:
        told = {**bootstrap.descriptor.annotations, **annotations}
        descriptor = replace(bootstrap.descriptor, annotations=told)
        bootstrap = bootstrap._replace(descriptor=descriptor)
    layers = []
    pushed = bootstrap.descriptor.size
    for record in stack.blobs:
        if record.blob_id in files:
            layer = blob_layer(files[record.blob_id])
            progress.step(f"pushing {layer.digest[:19]}", layer.size)
            writer.push_blob(layer, files[record.blob_id].path, progress.advance)
            pushed += layer.size
        elif record.blob_id in opened.blob_layers:
            layer = opened.blob_layers[record.blob_id]
            progress.step(f"copying {layer.digest[:19]}", layer.size)
            copy_blob(layer, reader, writer, progress.advance)
            for original in referred_layers([layer], reader):
                copy_blob(original, reader, writer, progress.advance)
        else:  # kept elsewhere
            continue
        layers.append(layer)
    writer.push_blob(bootstrap.descriptor, bootstrap.path)
    source = config or image.config.document
    diff_ids = [*(layer.digest for layer in layers), bootstrap.diff_id]
    history = _history(image, source, layers, comment)
    described = push_config(writer, with_layers(source, diff_ids, history))
    layers.append(bootstrap.descriptor)
    raw = encode_json(image_document(described, layers, image.manifest.annotations))
    manifest = writer.push_manifest(raw, OCI_MANIFEST, tag=True)
    size = len(raw) + described.size + sum(layer.size for layer in layers)
    return Republished(manifest, size, pushed + described.size + len(raw))


def _bootstrap_layer(
    opened: OpenedImage, stack: Stack, files: Mapping[str, Blob], work: Path
) -> BootstrapLayer:
    path = work / "new.boot"
    stack.write(path)
    blobs = []
    for record in stack.blobs:
        if record.blob_id in files:
            blobs.append(files[record.blob_id])
            continue
        meta = opened.path.with_name(f"{record.blob_id}.blob.meta")
        with local_errors(meta):
            blobs.append(Blob(opened.path, record, meta.read_bytes() if meta.exists() else b""))
    return make_bootstrap_layer(path, blobs, work / "new.tar.gz")


def _history(
    image: Image, source: Mapping[str, Any], layers: Sequence[Descriptor], comment: str
) -> list[dict[str, Any]]:
    """The image's; layers that are gone left nothing, new ones come before the bootstrap's."""
    told = source.get("history")
    entries = [dict(entry) for entry in told or () if isinstance(entry, dict)]
    filled = [entry for entry in entries if not entry.get("empty_layer")]
    old = image.manifest.layers
    kept = {layer.digest for layer in layers}
    new = [layer for layer in layers if layer.digest not in {each.digest for each in old}]
    own = [{"created_by": "Nydus Converter", "comment": comment} for _ in new]
    if len(filled) != len(old) or find_bootstrap_layer(image.manifest) is not old[-1]:
        last = {"created_by": "Nydus Converter", "comment": "Nydus Bootstrap Layer"}
        return [{"created_by": "Nydus Converter"} for _ in layers] + [last]
    for entry, layer in zip(filled[:-1], old[:-1], strict=True):
        if layer.digest not in kept:
            entry["empty_layer"] = True
    at = entries.index(filled[-1])
    return [*entries[:at], *own, *entries[at:]]
