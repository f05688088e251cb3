"""`nydusify check`: an image looked at from its manifest down to the last byte of its files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from fs.backend.blobs import checked_name
from fs.backend.directory import DirectoryBackend
from fs.backend.image import ImageBackend
from fs.cache.fetch import Ranges
from fs.format.errors import Failure, PlainImageError, local_errors
from fs.format.tree import Node
from fs.image.contents import Contents, open_contents
from fs.registry.copying import referred_layers
from fs.registry.descriptor import Descriptor
from fs.registry.manifest import NYDUS_BOOTSTRAP_ANNOTATION, find_bootstrap_layer
from fs.registry.remote import RegistryReader
from fs.registry.store import ImageReader
from fs.tar.stream import LayerStream
from nydusify.checks import blobs, filesystem, manifest
from nydusify.checks.bootstrap import check_bootstrap
from nydusify.checks.findings import Findings
from nydusify.checks.separate import check_separate
from nydusify.images.opened import ImagePlace, OpenedImage, open_image
from nydusify.layers.sources import open_source
from nydusify.report import Progress
from nydusify.workplace import workplace

_PIECE = 1 << 20


@dataclass(frozen=True)
class Checked:
    """`names` is how many names of files were compared or read."""

    target: str
    source: str
    findings: Findings
    names: int = 0


def check(
    target: ImagePlace, source: ImagePlace | None, progress: Progress, work_dir: Path | None = None
) -> Checked:
    """Try every rule on `target`. Raises what keeps it from being read at all."""
    findings = Findings()
    with workplace(work_dir) as work, ExitStack() as stack:
        opened: OpenedImage | None = None
        with findings.rule("manifest"):
            opened = stack.enter_context(open_image(target, work))
        if opened is None:
            return Checked(target.source, source.source if source else "", findings)
        with findings.rule("manifest"):
            _check_manifest(opened, findings)
        with findings.rule("bootstrap"):
            check_bootstrap(opened.bootstrap, opened.path, findings)
        backend = _check_blobs(opened, work / "stored", findings, progress)
        if opened.image is None and opened.path == Path(target.source):
            _check_unsealed(opened, backend, findings)
        names = 0
        if findings.ok and backend is not None:
            with findings.rule("filesystem"):
                contents = stack.enter_context(
                    open_contents(opened.bootstrap, backend, str(work / "decoded"))
                )
                names = _check_files(contents, source, opened, work, findings, progress)
        return Checked(opened.name, source.source if source else "", findings, names)


def _check_manifest(opened: OpenedImage, findings: Findings) -> None:
    if opened.image is None:
        return
    manifest.check_image(opened.image, findings)
    layer = find_bootstrap_layer(opened.image.manifest)
    assert layer is not None
    assert opened.reader is not None
    where = f"{opened.name}: bootstrap layer"
    with opened.reader.open_blob(layer) as stored:
        diff_id = _diff_id(stored, where)
    manifest.check_nydus(opened.image, opened.bootstrap, diff_id, findings)


def _diff_id(stored: BinaryIO, where: str) -> str:
    with ThreadPoolExecutor(1) as pool:
        stream = LayerStream(stored, where, pool)
        try:
            return stream.drain()
        finally:
            stream.stop()


def _check_blobs(
    opened: OpenedImage, stored: Path, findings: Findings, progress: Progress
) -> Ranges | None:
    """Where the files' bytes can be read from then, None if nobody said where blobs are."""
    if opened.backend is None:
        findings.notes.append("blobs were not looked at: nobody said where they are")
        return None
    backend: Ranges = opened.backend
    if isinstance(opened.reader, RegistryReader) and isinstance(opened.backend, ImageBackend):
        stored.mkdir()
        backend = _Spooled(DirectoryBackend(str(stored)), stored, opened.backend)
    sealed = set()
    for layer in _blob_layers(opened, findings):
        progress.step(f"reading {layer.digest[:19]}", layer.size)
        with findings.rule("blobs"):
            assert opened.reader is not None
            _read_layer(opened.reader, layer, stored, progress)
            sealed.add(layer.digest.removeprefix("sha256:"))
    for blob in opened.bootstrap.blobs:
        with findings.rule("blobs"):
            read = partial(backend.read, blob.blob_id)
            meta = opened.path.parent / f"{blob.blob_id}.blob.meta"
            # Bootstraps inside of blobs were written before their blobs' ends.
            size = None if blobs.is_foreign(blob) else blob.compressed_size
            if isinstance(opened.backend, DirectoryBackend):
                size = opened.backend.size(blob.blob_id)
            size = None if blob.blob_id in sealed else size
            blobs.check_blob(opened.bootstrap, blob.index, meta, read, findings, size=size)
    return backend


def _check_unsealed(opened: OpenedImage, backend: Ranges | None, findings: Findings) -> None:
    """Of a bare bootstrap, what a digest of it would prove."""
    if backend is None or opened.bootstrap.version != 6:
        return
    for blob in opened.bootstrap.blobs:
        size = None
        with findings.rule("blobs"):
            if isinstance(opened.backend, DirectoryBackend):
                size = opened.backend.size(blob.blob_id)
            check_separate(opened.bootstrap, blob.index, backend.read, size, findings)


def _blob_layers(opened: OpenedImage, findings: Findings) -> list[Descriptor]:
    """The image's layers but for its bootstrap, and those of others that it refers to."""
    layers = [
        layer
        for layer in opened.blob_layers.values()
        if not layer.annotations.get(NYDUS_BOOTSTRAP_ANNOTATION)
    ]
    if opened.reader is not None and isinstance(opened.backend, ImageBackend):
        with findings.rule("blobs"):
            layers += referred_layers(layers, opened.reader)
    return layers


def _read_layer(reader: ImageReader, layer: Descriptor, stored: Path, progress: Progress) -> None:
    """Verify all bytes of a layer; those of a registry are kept, so that they come once."""
    name = stored / layer.digest.removeprefix("sha256:")
    with reader.open_blob(layer) as stream, ExitStack() as stack:
        keep = None
        if stored.is_dir():
            with local_errors(name):
                keep = stack.enter_context(name.open("wb"))
        while piece := stream.read(_PIECE):
            progress.advance(len(piece))
            if keep is not None:
                with local_errors(name):
                    keep.write(piece)


class _Spooled:
    """Ranges of layers that are in `directory`, else of `other`."""

    def __init__(self, files: DirectoryBackend, directory: Path, other: Ranges) -> None:
        self._files = files
        self._directory = directory
        self._other = other

    def read(self, blob: str, offset: int, length: int) -> bytes:
        there = (self._directory / checked_name(blob)).exists()
        return (self._files if there else self._other).read(blob, offset, length)


def _check_files(
    contents: Contents,
    source: ImagePlace | None,
    opened: OpenedImage,
    work: Path,
    findings: Findings,
    progress: Progress,
) -> int:
    progress.step("reading chunks", 0)
    contents.load()
    if source is None:
        progress.step("reading files", 0)
        filesystem.read_files(contents, progress)
        return contents.bootstrap.inode_count
    tree, config = _read_source(source, work, progress)
    if opened.image is not None and config is not None:
        with findings.rule("manifest"):
            manifest.check_config(config, opened.image.config.document, findings)
    progress.step("comparing", 0)
    return filesystem.compare(tree, contents, progress, findings)


def _read_source(
    place: ImagePlace, work: Path, progress: Progress
) -> tuple[Node, Mapping[str, Any] | None]:
    """What the source shows, and its configuration, if it has one."""
    single = place.source.startswith(("dir:", "layer:"))
    with _blamed("source"):
        if not single:
            with suppress(PlainImageError):
                return _read_nydus_source(place, work, progress)
        with open_source(place.source, place.platform, place.store) as image:
            tree = filesystem.tree_of_layers(image.layers, progress)
            return tree, None if single else image.config


def _read_nydus_source(
    place: ImagePlace, work: Path, progress: Progress
) -> tuple[Node, Mapping[str, Any] | None]:
    with (
        open_image(place, work / "source") as opened,
        opened.contents(work / "source") as contents,
    ):
        progress.step("reading the source", 0)
        contents.load()
        config = opened.image.config.document if opened.image else None
        return filesystem.tree_of_image(contents), config


class SourceError(Failure):
    """A failure of the source, which says nothing about the target."""


@contextmanager
def _blamed(side: str) -> Iterator[None]:
    """What is wrong with the source is no finding about the target: it ends the check."""
    try:
        yield
    except Failure as failure:
        blamed = SourceError(f"{side}: {failure.message}")
        blamed.exit_code = failure.exit_code
        raise blamed from failure
