"""The target image: bootstrap layer, configuration, manifest, and the order of publishing.

Blobs, bootstrap layer and configuration are pushed first; the manifest is pushed
last and with it the tag, so nobody ever sees an image of which a part is missing.
All of it is deterministic: no times, no names of machines.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from fs.format.errors import local_errors
from fs.registry.descriptor import Descriptor
from fs.registry.documents import encode_json, image_document, push_config, with_layers
from fs.registry.manifest import (
    NYDUS_BOOTSTRAP_ANNOTATION,
    NYDUS_FS_VERSION_ANNOTATION,
    UNCOMPRESSED_ANNOTATION,
)
from fs.registry.mediatypes import (
    DOCKER_CONFIG,
    DOCKER_LAYER_GZIP,
    DOCKER_MANIFEST,
    NYDUS_ARTIFACT,
    NYDUS_CONFIG,
    OCI_CONFIG,
    OCI_LAYER_GZIP,
    OCI_MANIFEST,
)
from nydusify.blobs.destination import Destination, blob_layer, push_blob
from nydusify.blobs.layer_blob import Blob
from nydusify.layers.sources import SourceImage
from nydusify.options import TargetForm
from nydusify.outputs.hashing import Hashing
from nydusify.outputs.parallel_gzip import ParallelGzip
from nydusify.report import Progress

_REFERENCE_BLOBS_ANNOTATION = "containerd.io/snapshot/nydus-reference-blob-ids"
_FS_VERSION = "6"
_PIECE = 1 << 20


class BootstrapLayer(NamedTuple):
    """The last layer, as a file; `diff_id` is the digest of the tar in it."""

    path: Path
    descriptor: Descriptor
    diff_id: str


class Target(NamedTuple):
    """What is to be published. `kept` says of each source layer whether it has a blob.

    `known` are blobs of a chunk dictionary, which are at the destination already. `copies` is
    the start-up blob.
    """

    source: SourceImage
    blobs: Sequence[Blob]
    kept: Sequence[bool]
    bootstrap: BootstrapLayer
    known: Sequence[Blob] = ()
    copies: Blob | None = None


def make_bootstrap_layer(bootstrap: Path, blobs: Sequence[Blob], path: Path) -> BootstrapLayer:
    """Write the tar.gz with the bootstrap and the chunk information of all blobs to `path`."""
    with local_errors(path), path.open("wb") as file:
        packed = Hashing(file)
        with ParallelGzip(packed) as compressed:
            archive = Hashing(compressed)
            archive.write(_tar_header("image", 0o755, None))
            with bootstrap.open("rb") as content:
                _add(archive, "image/image.boot", content, bootstrap.stat().st_size)
            for blob in blobs:
                if not blob.meta:
                    continue
                name = f"image/{blob.record.blob_id}.blob.meta"
                _add(archive, name, io.BytesIO(blob.meta), len(blob.meta))
            archive.write(bytes(2 * tarfile.BLOCKSIZE))
    diff_id = archive.digest()
    annotations = {
        NYDUS_BOOTSTRAP_ANNOTATION: "true",
        NYDUS_FS_VERSION_ANNOTATION: _FS_VERSION,
        UNCOMPRESSED_ANNOTATION: diff_id,
        _REFERENCE_BLOBS_ANNOTATION: encode_json([blob.record.blob_id for blob in blobs]).decode(),
    }
    descriptor = Descriptor(OCI_LAYER_GZIP, packed.digest(), packed.size, annotations)
    return BootstrapLayer(path, descriptor, diff_id)


def publish(target: Target, destination: Destination, progress: Progress) -> tuple[Descriptor, int]:
    """Push everything, the tag last. Returns the manifest's descriptor and the image's size."""
    writer, form = destination.writer, destination.form
    copies = [target.copies] if target.copies else []
    blobs = [*target.blobs, *target.known, *copies]
    layers = [blob_layer(blob) for blob in blobs]
    size = sum(layer.size for layer in layers)
    for blob, layer in zip(blobs, layers, strict=True):
        if blob in target.known:
            continue
        progress.step(f"pushing {layer.digest[:19]}", layer.size)
        push_blob(blob, layer, destination, progress)
    bootstrap = _typed(target.bootstrap.descriptor, form)
    layers = [bootstrap] if destination.storage else [*layers, bootstrap]
    progress.step("pushing bootstrap", bootstrap.size)
    with ThreadPoolExecutor(1, "upload") as pool:
        arriving = pool.submit(writer.push_blob, bootstrap, target.bootstrap.path, progress.advance)
        if not destination.in_registry:  # where one thing is written after the other
            arriving.result()
        config = push_config(writer, _config(target, layers), _config_type(form))
        arriving.result()
    document = _manifest(target, form, config, layers)
    raw_manifest = encode_json(document)
    manifest = writer.push_manifest(raw_manifest, document["mediaType"], tag=destination.tag)
    return manifest, len(raw_manifest) + config.size + bootstrap.size + size


def _config_type(form: TargetForm) -> str:
    """In a merged index the plain image is for everybody: one type that only we take as ours."""
    if form.merged:
        return NYDUS_CONFIG
    return DOCKER_CONFIG if form.docker else OCI_CONFIG


def _typed(bootstrap: Descriptor, form: TargetForm) -> Descriptor:
    return replace(bootstrap, media_type=DOCKER_LAYER_GZIP) if form.docker else bootstrap


def _manifest(
    target: Target, form: TargetForm, config: Descriptor, layers: Sequence[Descriptor]
) -> dict[str, Any]:
    more: dict[str, object] = {}
    if form.referring and target.source.stored:
        subject = target.source.stored.descriptor
        more["artifactType"] = NYDUS_ARTIFACT
        more["subject"] = Descriptor(subject.media_type, subject.digest, subject.size).to_json()
    media_type = DOCKER_MANIFEST if form.docker else OCI_MANIFEST
    return image_document(config, layers, target.source.annotations, media_type, **more)


def _config(target: Target, layers: Sequence[Descriptor]) -> dict[str, Any]:
    """The source's configuration with the layers of the target; the rest stays as it is."""
    source = target.source.config
    diff_ids = [layer.digest for layer in layers[:-1]]
    diff_ids.append(target.bootstrap.diff_id)
    kept = target.kept if len(layers) > 1 else [False] * len(target.kept)
    added = ["Nydus Chunk Dictionary"] * len(target.known)
    added += ["Nydus start-up blob"] * bool(target.copies)
    history = _history(source, kept, added if len(layers) > 1 else [])
    return with_layers(source, diff_ids, history)


def _history(
    config: Mapping[str, Any], kept: Sequence[bool], added: Sequence[str]
) -> list[dict[str, Any]]:
    """The source's history, if it tells of as many layers as there are, and our layers'."""
    told = config.get("history")
    entries = [dict(entry) for entry in told or () if isinstance(entry, dict)]
    filled = [entry for entry in entries if not entry.get("empty_layer")]
    if len(filled) == len(kept):
        for entry, has_blob in zip(filled, kept, strict=True):
            if not has_blob:
                entry["empty_layer"] = True
    else:
        entries = [{"created_by": "Nydus Converter"} for has_blob in kept if has_blob]
    own = {"created_by": "Nydus Converter", "comment": "Nydus Bootstrap Layer"}
    if isinstance(config.get("created"), str):
        own = {"created": config["created"], **own}
    return [*entries, *({**own, "comment": comment} for comment in added), own]


def _add(archive: Hashing, name: str, content: io.BufferedIOBase, size: int) -> None:
    archive.write(_tar_header(name, 0o444, size))
    while piece := content.read(_PIECE):
        archive.write(piece)
    archive.write(bytes(-size % tarfile.BLOCKSIZE))


def _tar_header(name: str, mode: int, size: int | None) -> bytes:
    """The header of a file, or of a directory if there is no size."""
    member = tarfile.TarInfo(name)
    member.mode = mode
    if size is None:
        member.type = tarfile.DIRTYPE
    else:
        member.size = size
    return member.tobuf(tarfile.GNU_FORMAT)
