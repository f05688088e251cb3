"""Manifests and blobs from one place to another, unchanged: by mount where one registry has both.

Everything is read verified and written verified. Nothing gets a tag here.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

from fs.format.errors import FormatError
from fs.registry.descriptor import Descriptor
from fs.registry.digest import check_digest
from fs.registry.manifest import NYDUS_REFERENCE_ANNOTATION, Index, Manifest, parse_manifest
from fs.registry.mediatypes import OCI_LAYER_GZIP, is_foreign
from fs.registry.places import ImageReader, ImageWriter, Progress
from fs.registry.resolution import MAX_NESTING


def copy_blob(
    descriptor: Descriptor,
    reader: ImageReader,
    writer: ImageWriter,
    progress: Progress | None = None,
) -> None:
    """Have a blob at the target, without sending it where that can be avoided."""
    if writer.has_blob(descriptor):
        return
    if reader.reference and writer.mount_blob(descriptor, reader.reference):
        return
    writer.push_blob(descriptor, partial(reader.open_blob, descriptor), progress)


def copy_below(
    document: Manifest | Index,
    reader: ImageReader,
    writer: ImageWriter,
    progress: Progress | None = None,
) -> None:
    """Have all at the target that `document` refers to, except its subject.

    Foreign layers stay where their URLs point. Layers that a Nydus image only refers to come
    along, or nothing of it could be read.
    """
    _Copy(reader, writer, progress).below(document, MAX_NESTING)


def copy_manifest(
    entry: Descriptor,
    reader: ImageReader,
    writer: ImageWriter,
    progress: Progress | None = None,
) -> Manifest | Index:
    """The manifest or index that `entry` of an index points at, and all that it refers to."""
    return _Copy(reader, writer, progress).manifest(entry, MAX_NESTING)


class _Copy:
    """Each manifest once, however often indexes name it; `depth` is how far they may nest."""

    def __init__(self, reader: ImageReader, writer: ImageWriter, progress: Progress | None) -> None:
        self._reader = reader
        self._writer = writer
        self._progress = progress
        self._seen: set[str] = set()

    def manifest(self, entry: Descriptor, depth: int) -> Manifest | Index:
        self._seen.add(entry.digest)
        raw = self._reader.read_manifest(entry)
        where = f"{self._reader.name}: {entry.digest}"
        document = parse_manifest(raw, entry.media_type, where)
        self.below(document, depth)
        self._writer.push_manifest(raw, document.media_type, tag=False)
        return document

    def below(self, document: Manifest | Index, depth: int) -> None:
        if isinstance(document, Index):
            if not depth:
                raise FormatError("indexes are nested too deep", self._reader.name)
            for entry in document.manifests:
                if entry.digest not in self._seen:
                    self.manifest(entry, depth - 1)
            return
        for blob in (*document.layers, document.config):
            if not (blob.urls and is_foreign(blob.media_type)):
                self._blob(blob)
        for layer in referred_layers(document.layers, self._reader):
            self._blob(layer)

    def _blob(self, blob: Descriptor) -> None:
        copy_blob(blob, self._reader, self._writer, self._progress)


def referred_layers(layers: Iterable[Descriptor], reader: ImageReader) -> list[Descriptor]:
    """The layers of other images that these layers of a Nydus image are the metadata of."""
    found = []
    for metadata in layers:
        digest = metadata.annotations.get(NYDUS_REFERENCE_ANNOTATION)
        if digest is not None:
            check_digest(digest, f"{reader.name}: {NYDUS_REFERENCE_ANNOTATION}")
            found.append(Descriptor(OCI_LAYER_GZIP, digest, reader.blob_size(digest)))
    return found
