"""Where an image and its blobs go, and what a blob is there: a layer, or an object of a storage."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from fs.format.blobtable import STARTUP_FEATURES, BlobFeature
from fs.registry.descriptor import Descriptor
from fs.registry.manifest import (
    NYDUS_BLOB_ANNOTATION,
    NYDUS_REFERENCE_ANNOTATION,
    NYDUS_STARTUP_ANNOTATION,
)
from fs.registry.mediatypes import NYDUS_BLOB
from fs.registry.store import ImageWriter
from nydusify.blobs.layer_blob import Blob
from nydusify.options import TargetForm
from nydusify.report import Progress

if TYPE_CHECKING:
    from fs.backend.storage import BlobStorage


class Destination(NamedTuple):
    """Where an image goes, and as what. Blobs go to `storage`, if there is one.

    Without `tag`, the manifest is pushed by digest. `in_registry`: the
    writer's place is one, so blobs take a while, and one too many is cleared away there.
    """

    writer: ImageWriter
    form: TargetForm
    storage: BlobStorage | None = None
    tag: bool = True
    in_registry: bool = False


def push_blob(blob: Blob, layer: Descriptor, destination: Destination, progress: Progress) -> None:
    """Have a blob at the destination, unless it is there."""
    storage = destination.storage
    if storage is None:
        destination.writer.push_blob(layer, blob.path, progress.advance)
    elif destination.form.force_push or not storage.has(blob.record.blob_id, layer.size):
        storage.push(blob.record.blob_id, blob.path, progress.advance)


def blob_layer(blob: Blob) -> Descriptor:
    """The layer that a manifest lists for the blob: what of it is ours."""
    record = blob.record
    annotations = {NYDUS_BLOB_ANNOTATION: "true"}
    if record.features & STARTUP_FEATURES:
        annotations[NYDUS_STARTUP_ANNOTATION] = "true"
    if record.features & BlobFeature.SEPARATE:  # only its metadata is ours
        annotations[NYDUS_REFERENCE_ANNOTATION] = f"sha256:{record.blob_id}"
        metadata = f"sha256:{record.meta_digest.hex()}"
        return Descriptor(NYDUS_BLOB, metadata, record.meta_size, annotations)
    return Descriptor(NYDUS_BLOB, f"sha256:{record.blob_id}", record.compressed_size, annotations)


def stored_id(blob: Blob) -> str:
    """The SHA-256 of the blob's file, which of a reference is not that of the layer."""
    return blob_layer(blob).digest.removeprefix("sha256:")
