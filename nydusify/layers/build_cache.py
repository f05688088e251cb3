"""Converted layers kept in a registry, for machines that have not converted them: `--build-cache`.

The cache is an index with one manifest, of no image:

    annotation containerd.io/snapshot/nydus-cache: the version that --build-cache-version names
    config: empty
    layers: for each converted layer its record (converted_layer.py), which says by annotations
        which layer it is of and which blob it needs, and then the blob, so that the registry
        keeps it

The latest used are in front; what is over the limit is left out, and the registry's to
collect. Nothing binds a record to the layer it claims to be of: who may push to the cache
decides what images made with it contain (docs/security.md).
"""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from fs.format.errors import FormatError, NotFoundError, local_errors
from fs.registry.descriptor import Descriptor, describe
from fs.registry.digest import is_digest
from fs.registry.documents import encode_json, image_document, index_document
from fs.registry.manifest import NYDUS_BLOB_ANNOTATION, Manifest, parse_manifest
from fs.registry.mediatypes import NYDUS_BLOB, OCI_INDEX, OCI_MANIFEST
from fs.registry.reference import Reference
from fs.registry.store import (
    ImageReader,
    ImageWriter,
    StoreOptions,
    open_reader,
    open_writer,
    registry_reference,
)

RECORD = "application/vnd.lazyrun.converted-layer.v1"
_ARTIFACT = "application/vnd.lazyrun.build-cache.v1"
_EMPTY_CONFIG = "application/vnd.oci.empty.v1+json"
_VERSION = "containerd.io/snapshot/nydus-cache"
_SOURCE = "containerd.io/snapshot/nydus-source-digest"
_BLOB = "containerd.io/snapshot/nydus-blob-digest"
_BLOB_SIZE = "containerd.io/snapshot/nydus-blob-size"
_KEY = "io.lazyrun.converted-layer.key"
_MAX_RECORD = 256 << 20


class CachedLayer(NamedTuple):
    """`blob` is None for a layer without content."""

    key: str
    source_digest: str
    record: Descriptor
    blob: Descriptor | None


class BuildCache:
    """One run's view of the cache at `place`, and what the run adds to it."""

    def __init__(
        self,
        place: str,
        options: StoreOptions,
        version: str,
        max_records: int,
    ) -> None:
        self.name = place
        self.reference = registry_reference(place)
        self._options = options
        self._version = version
        self._max_records = max_records
        self._reader = self._open()
        self._known = {layer.key: layer for layer in self._fetch(self._reader)}
        self._used: dict[str, tuple[CachedLayer, Path | None, Path | None]] = {}

    def find(self, key: str, path: Path) -> CachedLayer | None:
        """What is kept under `key`; its record is fetched to `path`, verified by digest."""
        found = self._known.get(key)
        if found is None:
            return None
        if found.record.size > _MAX_RECORD:
            raise FormatError(f"record of {found.record.size} bytes", self.name)
        self.fetch(found.record, path)
        self._used[key] = found, None, None
        return found

    def fetch(self, blob: Descriptor, path: Path) -> None:
        """Have a blob of the cache in a file, verified."""
        assert self._reader
        with self._reader.open_blob(blob) as stream, local_errors(path), path.open("wb") as file:
            while piece := stream.read(1 << 20):
                file.write(piece)

    def add(self, layer: CachedLayer, record: Path, blob: Path | None) -> None:
        """Have a layer in the cache once it is published; files may be gone until then."""
        if layer.key in self._known:
            self._used[layer.key] = self._known[layer.key], None, None
        else:
            self._used[layer.key] = layer, record, blob

    def publish(self, target: Reference | None) -> None:
        """Push what is new, with blobs from `target` if both are on one registry."""
        if not self._used:
            return
        with closing(open_writer(self.name, self._options)) as writer:
            layers = [
                layer
                for layer, record, blob in self._used.values()
                if record is None or _push(writer, layer, record, blob, target)
            ]
            now = self._open()
            known = self._fetch(now)  # another run may have added its own meanwhile
            if now:
                now.close()
            used = {layer.key for layer in layers}
            layers += [layer for layer in known if layer.key not in used]
            self._push_index(writer, layers[: self._max_records])

    def close(self) -> None:
        if self._reader:
            self._reader.close()

    def _open(self) -> ImageReader | None:
        """None if there is not even the place yet."""
        try:
            return open_reader(self.name, self._options)
        except NotFoundError:
            return None

    def _fetch(self, reader: ImageReader | None) -> list[CachedLayer]:
        try:
            index = reader.index() if reader else None
        except NotFoundError:
            return []
        if reader is None:
            return []
        if index is None:
            raise FormatError("is an image and no build cache", reader.name)
        found: list[CachedLayer] = []
        for entry in index.manifests:
            where = f"{reader.name}: {entry.digest}"
            document = parse_manifest(reader.read_manifest(entry), entry.media_type, where)
            version = document.annotations.get(_VERSION)
            if isinstance(document, Manifest) and version == self._version:
                found += _layers(document)
        return found

    def _push_index(self, writer: ImageWriter, layers: list[CachedLayer]) -> None:
        config = describe(b"{}", _EMPTY_CONFIG)
        writer.push_blob(config, b"{}")
        descriptors = [each for layer in layers for each in _descriptors(layer)]
        annotations = {_VERSION: self._version}
        document = image_document(config, descriptors, annotations, artifactType=_ARTIFACT)
        entry = writer.push_manifest(encode_json(document), OCI_MANIFEST, tag=False)
        writer.push_manifest(encode_json(index_document([entry])), OCI_INDEX, tag=True)


def _push(
    writer: ImageWriter,
    layer: CachedLayer,
    record: Path,
    blob: Path | None,
    target: Reference | None,
) -> bool:
    """Whether the layer is whole in the cache's repository now."""
    if layer.blob is not None and not writer.has_blob(layer.blob):
        mounted = target is not None and writer.mount_blob(layer.blob, target)
        if not mounted:
            if blob is None or not blob.exists():
                return False
            writer.push_blob(layer.blob, blob)
    writer.push_blob(layer.record, record)
    return True


def _descriptors(layer: CachedLayer) -> list[Descriptor]:
    annotations = {_SOURCE: layer.source_digest, _KEY: layer.key}
    if layer.blob is None:
        return [_annotated(layer.record, annotations)]
    annotations |= {_BLOB: layer.blob.digest, _BLOB_SIZE: str(layer.blob.size)}
    blob = Descriptor(
        NYDUS_BLOB, layer.blob.digest, layer.blob.size, {NYDUS_BLOB_ANNOTATION: "true"}
    )
    return [_annotated(layer.record, annotations), blob]


def _annotated(record: Descriptor, annotations: dict[str, str]) -> Descriptor:
    return Descriptor(RECORD, record.digest, record.size, annotations)


def _layers(manifest: Manifest) -> list[CachedLayer]:
    """The records that the manifest lists; what is not in our form is passed over."""
    found = []
    for layer in manifest.layers:
        said = layer.annotations
        if layer.media_type != RECORD or _KEY not in said:
            continue
        blob = None
        if _BLOB in said:
            size = said.get(_BLOB_SIZE, "")
            if not is_digest(said[_BLOB]) or not (size.isascii() and size.isdigit()):
                continue
            blob = Descriptor(NYDUS_BLOB, said[_BLOB], int(size))
        found.append(CachedLayer(said[_KEY], said.get(_SOURCE, ""), layer, blob))
    return found
