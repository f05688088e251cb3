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

from fs.format.errors import FormatError, NotFoundError, UsageError, VerifyError, local_errors
from fs.registry.descriptor import Descriptor
from fs.registry.manifest import is_nydus
from fs.registry.mediatypes import layer_compression
from fs.registry.platform import Platform, default_platform
from fs.registry.resolution import images_below
from fs.registry.store import Image, ImageReader, StoreOptions, open_reader
from fs.tar.entry import Entry
from fs.tar.reader import TarReader
from fs.tar.stream import LayerStream
from nydusify.layers.estargz import FrameCheck, ImageEntries, Table, table_of, table_of_file
from nydusify.layers.rootfs import RootfsEntries

Advance = Callable[[int], None]


class Entries(Protocol):
    """The entries of a layer in order; `read(n)` gives content of the one just yielded."""

    def __iter__(self) -> Iterator[Entry]: ...

    def read(self, size: int) -> bytes: ...


@dataclass
class Learned:
    """What is known of a layer when it has been read.

    `startup`: paths of files that its maker wants read first. `gzip_size`: bytes as stored, if it
    is stored with gzip.
    """

    startup: list[bytes] = field(default_factory=list)
    gzip_size: int = 0


@dataclass(frozen=True)
class SourceLayer:
    """`name` is for messages. `size` is in bytes as stored, 0 if not known.

    `open(advance)` gives the entries; leaving it without an error means that the layer
    was whole and true. `advance` is told of the bytes read. `learned` is filled then.
    `stored` is the layer of an image as it is kept there.
    """

    name: str
    digest: str
    size: int
    open: Callable[[Advance], AbstractContextManager[Entries]]
    learned: Learned = field(default_factory=Learned)
    stored: StoredLayer | None = None


@dataclass(frozen=True)
class SourceImage:
    """Layers from the lowest up; `config` is the whole JSON document.

    `stored` is what the source holds: None for a directory or a file with a layer.
    """

    name: str
    layers: list[SourceLayer]
    platform: Platform
    config: Mapping[str, Any] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    stored: Image | None = None


@dataclass(frozen=True)
class Source:
    """The images that were asked for. `reader` is None for a directory or a file with a layer."""

    images: list[SourceImage]
    reader: ImageReader | None = None


@dataclass(frozen=True)
class Selection:
    """Which images of an index: those for `platforms`, or `all` of Linux.

    Without either, the one for this machine.
    """

    platforms: tuple[Platform, ...] = ()
    all: bool = False


@contextmanager
def open_source(
    place: str, platform: Platform | None, options: StoreOptions
) -> Iterator[SourceImage]:
    """The one image at `place` for `platform`; FormatError if it cannot be converted."""
    selection = Selection((platform,) if platform else ())
    with open_sources(place, selection, options) as source:
        yield source.images[0]


@contextmanager
def open_sources(place: str, selection: Selection, options: StoreOptions) -> Iterator[Source]:
    """The images at `place`; FormatError if they cannot be converted."""
    kind, colon, path = place.partition(":")
    if colon and not path:
        raise UsageError(f"{place} lacks a {'name' if kind == 'containerd' else 'path'}")
    if kind in ("dir", "layer"):
        if len(selection.platforms) > 1:
            raise UsageError(f"{place} is for one platform")
        yield Source([_single(place, Path(path), next(iter(selection.platforms), None))])
        return
    with closing(open_reader(place, options)) as reader:
        images = [stored_image(reader, image) for image in _select(reader, selection)]
        yield Source(images, reader)


def _select(reader: ImageReader, selection: Selection) -> list[Image]:
    if not selection.all:
        wanted = selection.platforms or (None,)
        images = [reader.resolve(platform) for platform in wanted]
        return list({image.descriptor.digest: image for image in images}.values())
    index = reader.index()
    if index is None:
        return [reader.resolve()]
    found = images_below(reader, index)
    runnable = [image for image in found if image.config.platform.os in ("linux", "")]
    if not runnable:
        raise NotFoundError(f"{reader.name}: no image for Linux in the index")
    return runnable


def _single(place: str, path: Path, platform: Platform | None) -> SourceImage:
    """The image of which a directory, or a file with a tar in it, is the only layer."""
    is_tree = place.startswith("dir:")
    with local_errors(path):
        found = path.stat()
        if stat.S_ISDIR(found.st_mode) != is_tree:
            wrong = errno.ENOTDIR if is_tree else errno.EISDIR
            raise OSError(wrong, os.strerror(wrong))
    learned = Learned()
    opener: Callable[[Advance], AbstractContextManager[Entries]] = partial(_open_rootfs, path)
    size = 0
    if not is_tree:
        table = None
        if stat.S_ISREG(found.st_mode):
            size = found.st_size
            with local_errors(path), path.open("rb") as file:
                table = table_of_file(file)
        stored = StoredLayer(f"layer {path}", partial(_open_file, path), table, learned)
        opener = partial(_open_tar, stored)
    layer = SourceLayer(str(path), "", size, opener, learned)
    platform = platform or default_platform()
    return SourceImage(place, [layer], platform, platform.to_json())


def stored_image(reader: ImageReader, image: Image) -> SourceImage:
    """An ordinary image of `reader`; FormatError if it cannot be converted."""
    manifest, config = image.manifest, image.config
    if is_nydus(manifest):
        raise FormatError("is a Nydus image already", reader.name)
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
        learned = Learned()
        table = table_of(layer.annotations, name)
        opener, ranges = partial(reader.open_blob, layer), partial(reader.read_range, layer)
        stored = StoredLayer(name, opener, table, learned, diff_id, ranges)
        entries = partial(_open_tar, stored)
        layers.append(SourceLayer(name, layer.digest, layer.size, entries, learned, stored))
    platform = image.descriptor.platform or config.platform
    return SourceImage(reader.name, layers, platform, config.document, manifest.annotations, image)


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


@dataclass(frozen=True)
class StoredLayer:
    """A layer's bytes as stored, and what is promised of them. `learned` is to be filled.

    `ranges(offset, length)` gives a part of them, unverified; None where only a file is there.
    """

    name: str
    open: Callable[[], BinaryIO]
    table: Table | None
    learned: Learned
    diff_id: str | None = None
    ranges: Callable[[int, int], bytes] | None = None


@contextmanager
def _open_tar(layer: StoredLayer, advance: Advance) -> Iterator[Entries]:
    name, diff_id = layer.name, layer.diff_id
    with closing(layer.open()) as stored, ThreadPoolExecutor(1, "decompress") as pool:
        raw = _Counted(stored, advance, name, layer.table)
        try:
            stream = LayerStream(raw, name, pool)
            try:
                reader = TarReader(stream)
                if layer.table:
                    yield ImageEntries(reader, layer.table, layer.learned.startup, name)
                else:
                    yield reader
                found = stream.drain()
            finally:
                stream.stop()
        except FormatError:
            raw.drain()  # if the bytes are not the promised ones, that is the better message
            raise
        raw.drain()
        cut = not reader.complete and layer.table is None  # a table stands at a layer's end
        if diff_id is None and cut:
            raise FormatError("tar archive without an end mark: it is cut short", name)
        if diff_id is not None and found != diff_id:
            raise VerifyError(f"{name}: decompressed it is {found}, not {diff_id}")
        raw.finish()
        layer.learned.gzip_size = raw.size if stream.is_gzip else 0


class _Counted:
    """Reads `stored`, which messages call `name`, tells how much, and checks its table.

    `size` counts what was read.
    """

    def __init__(self, stored: BinaryIO, advance: Advance, name: str, table: Table | None) -> None:
        self.size = 0
        self._stored = stored
        self._advance = advance
        self._name = name
        self._check = FrameCheck(table, name) if table and table.frame_digest else None

    def read(self, size: int, /) -> bytes:
        with local_errors(self._name):
            data = self._stored.read(size)
        self.size += len(data)
        self._advance(len(data))
        if self._check:
            self._check.update(data)
        return data

    def drain(self) -> None:
        while self.read(1 << 20):
            pass

    def finish(self) -> None:
        """VerifyError if the table was not there."""
        if self._check:
            self._check.finish()
