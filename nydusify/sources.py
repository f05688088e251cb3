"""What is converted: an image's layers and configuration, wherever they come from.

Layers of images are verified while they are read: the compressed bytes against the
manifest, the decompressed ones against the configuration. `dir:` and `layer:`
are images of one layer with a minimal configuration.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from fs.format.errors import FormatError, UsageError, VerifyError, local_errors
from fs.registry.descriptor import Descriptor
from fs.registry.manifest import is_nydus
from fs.registry.mediatypes import DOCKER_CONFIG, OCI_CONFIG, layer_compression
from fs.registry.platform import Platform, default_platform
from fs.registry.store import Image, ImageReader, StoreOptions, open_reader
from fs.tar.entry import Entry
from fs.tar.reader import TarReader
from fs.tar.stream import LayerStream
from nydusify.rootfs import RootfsEntries

Advance = Callable[[int], None]


class Entries(Protocol):
    """The entries of a layer in order; `read(n)` gives content of the one just yielded."""

    def __iter__(self) -> Iterator[Entry]: ...

    def read(self, size: int) -> bytes: ...


@dataclass(frozen=True)
class SourceLayer:
    """`name` is for messages. `size` is in bytes as stored, 0 if not known.

    `open(advance)` gives the entries; leaving it without an error means that the layer
    was whole and true. `advance` is told of the bytes read.
    """

    name: str
    digest: str
    size: int
    open: Callable[[Advance], AbstractContextManager[Entries]]


@dataclass(frozen=True)
class SourceImage:
    """Layers from the lowest up; `config` is the whole JSON document."""

    name: str
    layers: list[SourceLayer]
    platform: Platform
    config: Mapping[str, Any] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)


@contextmanager
def open_source(
    place: str, platform: Platform | None, options: StoreOptions
) -> Iterator[SourceImage]:
    """The image at `place`; FormatError if it cannot be converted."""
    kind, colon, path = place.partition(":")
    if colon and not path:
        raise UsageError(f"{place} lacks a path")
    if kind == "dir":
        yield _single(place, platform, partial(_open_rootfs, Path(path)))
        return
    if kind == "layer":
        name = f"layer {path}"
        open_raw = partial(_open_file, Path(path))
        yield _single(place, platform, partial(_open_tar, name, open_raw, None))
        return
    reader = open_reader(place, options)
    try:
        yield _stored_image(reader, reader.resolve(platform))
    finally:
        reader.close()


def _single(
    place: str,
    platform: Platform | None,
    opener: Callable[[Advance], AbstractContextManager[Entries]],
) -> SourceImage:
    file = Path(place.partition(":")[2])
    with local_errors(file):
        found = file.stat()
        if stat.S_ISDIR(found.st_mode) != place.startswith("dir:"):
            wrong = errno.EISDIR if stat.S_ISDIR(found.st_mode) else errno.ENOTDIR
            raise OSError(wrong, os.strerror(wrong))
    size = found.st_size if stat.S_ISREG(found.st_mode) else 0
    layer = SourceLayer(str(file), "", size, opener)
    platform = platform or default_platform()
    return SourceImage(place, [layer], platform, platform.to_json())


def _stored_image(reader: ImageReader, image: Image) -> SourceImage:
    manifest, config = image.manifest, image.config
    if is_nydus(manifest):
        raise FormatError("is a Nydus image already", reader.name)
    if manifest.config.media_type not in (OCI_CONFIG, DOCKER_CONFIG):
        raise FormatError(
            f"holds {manifest.config.media_type[:120]!r}, which is no container image", reader.name
        )
    if len(config.diff_ids) != len(manifest.layers):
        raise FormatError(
            f"{len(manifest.layers)} layers, but {len(config.diff_ids)} diff IDs", reader.name
        )
    layers = []
    for number, (layer, diff_id) in enumerate(
        zip(manifest.layers, config.diff_ids, strict=True), 1
    ):
        name = f"{reader.name}: layer {number} of {len(manifest.layers)} ({layer.digest[:19]}…)"
        _check_type(layer, name)
        opener = partial(_open_tar, name, partial(reader.open_blob, layer), diff_id)
        layers.append(SourceLayer(name, layer.digest, layer.size, opener))
    return SourceImage(reader.name, layers, config.platform, config.document, manifest.annotations)


def _check_type(layer: Descriptor, name: str) -> None:
    try:
        layer_compression(layer.media_type)
    except FormatError as error:
        raise FormatError(error.what, name) from None


def _open_file(path: Path) -> BinaryIO:
    with local_errors(path):
        return path.open("rb")


@contextmanager
def _open_rootfs(path: Path, advance: Advance) -> Iterator[Entries]:
    yield RootfsEntries(path, advance)


@contextmanager
def _open_tar(
    name: str, open_raw: Callable[[], BinaryIO], diff_id: str | None, advance: Advance
) -> Iterator[Entries]:
    with closing(open_raw()) as stored, ThreadPoolExecutor(1, "decompress") as pool:
        raw = _Counted(stored, advance, name)
        try:
            stream = LayerStream(raw, name, pool)
            try:
                reader = TarReader(stream)
                yield reader
                found = stream.drain()
            finally:
                stream.stop()
        except FormatError:
            raw.drain()  # if the bytes are not the promised ones, that is the better message
            raise
        raw.drain()
        if diff_id is None and not reader.complete:
            raise FormatError("tar archive without an end mark: it is cut short", name)
        if diff_id is not None and found != diff_id:
            raise VerifyError(f"{name}: decompressed it is {found}, not {diff_id}")


class _Counted:
    """Reads `stored`, which messages call `name`, and tells how much."""

    def __init__(self, stored: BinaryIO, advance: Advance, name: str) -> None:
        self._stored = stored
        self._advance = advance
        self._name = name

    def read(self, size: int, /) -> bytes:
        with local_errors(self._name):
            data = self._stored.read(size)
        self._advance(len(data))
        return data

    def drain(self) -> None:
        while self.read(1 << 20):
            pass
