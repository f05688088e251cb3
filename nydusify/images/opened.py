"""A Nydus image opened for reading, wherever it is kept: its bootstrap as a file, and its blobs.

A REFERENCE, oci:DIR[:TAG] and so on is an image, whose bootstrap layer is fetched and verified.
A file is a bootstrap, or a blob that ends in one; its blobs are where `blob_dir` or
`backend_config` says.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from fs.backend.blobs import BlobBackend
from fs.backend.directory import DirectoryBackend, FileBackend
from fs.backend.image import ImageBackend
from fs.format.blobfile import find_bootstrap, read_part
from fs.format.blobtable import INLINED_BLOB_ID
from fs.format.bootstrap import Bootstrap
from fs.format.errors import FormatError, PlainImageError, UsageError, local_errors
from fs.image.contents import Contents, open_contents
from fs.image.source import local_bootstrap
from fs.image.tree import map_bootstrap
from fs.registry.descriptor import Descriptor
from fs.registry.manifest import NYDUS_REFERENCE_ANNOTATION, find_bootstrap_layer
from fs.registry.platform import Platform
from fs.registry.store import Image, ImageReader, StoreOptions, open_reader

_TAIL = 64 << 10


@dataclass(frozen=True)
class ImagePlace:
    """What a command line says of an image. `source` is a place or a file.

    Of a file, blobs are in `blob_dir`, are `blob`, or are where `backend_config` says.
    """

    source: str
    platform: Platform | None = None
    store: StoreOptions = field(default_factory=StoreOptions)
    blob_dir: str | None = None
    blob: str | None = None
    backend_type: str | None = None
    backend_config: str | None = None

    @property
    def is_file(self) -> bool:
        return os.path.isfile(self.source)


class OpenedImage:
    """`path` is the bootstrap as a file; the blobs' `<id>.blob.meta` lie beside it, if known.

    `image` and `reader` are None for a bare bootstrap.
    """

    def __init__(
        self, name: str, path: Path, image: Image | None, reader: ImageReader | None
    ) -> None:
        self.name = name
        self.path = path
        self.image = image
        self.reader = reader
        self.bootstrap: Bootstrap = map_bootstrap(str(path))
        self.bootstrap.name = name
        self.backend: BlobBackend | None = None

    @cached_property
    def blob_layers(self) -> Mapping[str, Descriptor]:
        """The manifest's layers by the id of the blob that they are, or have the metadata of."""
        found = {}
        for layer in self.image.manifest.layers if self.image else ():
            blob = layer.annotations.get(NYDUS_REFERENCE_ANNOTATION, layer.digest)
            found[blob.removeprefix("sha256:")] = layer
        return found

    @contextmanager
    def contents(self, work: Path) -> Iterator[Contents]:
        """The image's files; UsageError if nobody said where its blobs are."""
        if self.backend is None:
            raise UsageError(f"{self.name}: where are its blobs? Give --blob-dir or a backend")
        with open_contents(self.bootstrap, self.backend, str(work / "blobs")) as contents:
            yield contents


@contextmanager
def open_image(place: ImagePlace, work: Path) -> Iterator[OpenedImage]:
    """The image; what is fetched lies below `work`. PlainImageError for an ordinary image."""
    with ExitStack() as stack:
        if place.is_file:
            yield _open_file(place, work, stack)
        else:
            yield _open_stored(place, work, stack)


def _open_file(place: ImagePlace, work: Path, stack: ExitStack) -> OpenedImage:
    path = Path(place.source)
    found = bare_bootstrap(path, work)
    opened = OpenedImage(place.source, found, None, None)
    stack.callback(opened.bootstrap.close)
    opened.backend = _backend(place)
    if found != path:
        name_inlined(opened.bootstrap, path.name)
        opened.backend = opened.backend or FileBackend(place.source)
    if opened.backend is not None:
        stack.enter_context(closing(opened.backend))
    return opened


def _open_stored(place: ImagePlace, work: Path, stack: ExitStack) -> OpenedImage:
    reader = stack.enter_context(closing(open_reader(place.source, place.store)))
    image = reader.resolve(place.platform, nydus=True)
    layer = find_bootstrap_layer(image.manifest)
    if layer is None:
        raise PlainImageError(f"{reader.name}: an ordinary OCI image, not a Nydus image")
    path = Path(local_bootstrap(reader, layer, str(work)))
    opened = OpenedImage(reader.name, path, image, reader)
    stack.callback(opened.bootstrap.close)
    opened.backend = _backend(place) or ImageBackend(reader)
    if not isinstance(opened.backend, ImageBackend):
        stack.enter_context(closing(opened.backend))
    return opened


def _backend(place: ImagePlace) -> BlobBackend | None:
    if place.blob_dir is not None:
        if not os.path.isdir(place.blob_dir):
            raise UsageError(f"{place.blob_dir}: no such directory")
        return DirectoryBackend(place.blob_dir)
    if place.blob is not None:
        return FileBackend(place.blob)
    if place.backend_config is not None:
        from fs.backend.config import load_config
        from fs.backend.configured import open_configured

        return open_configured(load_config(place.backend_config, place.backend_type), place.store)
    return None


def name_inlined(bootstrap: Bootstrap, blob_id: str) -> None:
    """A bootstrap inside of a blob cannot name it; the blob's file is called by its id."""
    for blob in bootstrap.blobs:
        if blob.blob_id == INLINED_BLOB_ID:
            blob.blob_id = blob_id


def bare_bootstrap(path: Path, work: Path) -> Path:
    """`path`, or a file below `work` with the bootstrap that the blob `path` ends in."""
    with local_errors(path), path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        file.seek(max(0, size - _TAIL))
        tail = file.read(_TAIL)
        try:
            entry = find_bootstrap(tail, size, str(path))
        except FormatError:
            return path
        file.seek(entry.compressed_offset)
        content = read_part(entry, file.read(entry.compressed_size), str(path))
    found = work / f"{path.name}.boot"
    with local_errors(found):
        found.write_bytes(content)
    return found
