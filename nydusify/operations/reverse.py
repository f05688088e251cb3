"""A Nydus image made an ordinary OCI image again.

The original, where it can still be had; else one layer for each blob, with the files that the
image shows of it, and one for what has no content. Or one layer with everything.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from fs.format.errors import UsageError
from fs.registry.descriptor import Descriptor
from fs.registry.store import ImageWriter, StoreOptions, open_writer
from nydusify.images.opened import ImagePlace, OpenedImage, open_image
from nydusify.layers.entries import TreeEntries
from nydusify.layers.split import by_blob
from nydusify.operations.originals import Originals
from nydusify.outputs.plain import PlainLayer, make_layer, publish_plain
from nydusify.report import Progress, size_text
from nydusify.workplace import workplace

_CREATED_BY = "nydusify convert --reverse"


@dataclass(frozen=True)
class Reversed:
    """Sizes in bytes; `left_out` are sockets, which layers cannot have.

    `made_of` says where the layers come from: "original", "references", "blobs" or "tree".
    """

    source: str
    target: str
    target_digest: str
    made_of: str
    layer_digests: list[str]
    target_size: int
    left_out: int
    seconds: float

    def __str__(self) -> str:
        left = f", {self.left_out} sockets left out" if self.left_out else ""
        layers = f"{len(self.layer_digests)} layers" if len(self.layer_digests) > 1 else "1 layer"
        size = size_text(self.target_size)
        told = f"{size}, {layers} ({self.made_of}), in {self.seconds:.2f} s{left}"
        return f"{told}\n{self.target}@{self.target_digest}"


@dataclass(frozen=True)
class ReverseOptions:
    """`single`: one layer whatever there is."""

    compression: str = "gzip"
    single: bool = False
    work_dir: Path | None = None


def reverse(
    source: ImagePlace,
    target: str,
    target_store: StoreOptions,
    progress: Progress,
    options: ReverseOptions,
    say: Callable[[str], None] = lambda note: None,
) -> Reversed:
    """Publish the image of `source` at `target` as OCI has it. Failure; then nothing is there."""
    started = time.monotonic()
    if source.is_file:
        raise UsageError(f"{source.source}: a bootstrap has no configuration; use unpack")
    with (
        closing(open_writer(target, target_store)) as writer,
        workplace(options.work_dir) as work,
        open_image(source, work) as opened,
        opened.contents(work) as contents,
    ):
        writer.check()
        originals = Originals(opened, contents, source.platform, progress, say)
        progress.step("fetching", 0)
        contents.load()
        found = None if options.single else originals.source()
        if found is not None:
            manifest, size = originals.copy(found, writer)
            digests, left_out, made_of = [x.digest for x in found.manifest.layers], 0, "original"
        else:
            made_of, layers = _layers(originals, writer, work, options)
            manifest, size = _publish(opened, layers, writer, progress)
            there = [layer for layer in layers if layer]
            digests = [layer.descriptor.digest for layer in there]
            left_out = sum(layer.left_out for layer in there)
        return Reversed(
            opened.name,
            writer.name,
            manifest.digest,
            made_of,
            digests,
            size,
            left_out,
            round(time.monotonic() - started, 3),
        )


def _layers(
    originals: Originals, writer: ImageWriter, work: Path, options: ReverseOptions
) -> tuple[str, list[PlainLayer | None]]:
    """What they are made of, and the layers, lowest first; None for a blob that has no file."""
    contents, progress = originals.contents, originals.progress
    if options.single:
        entries = TreeEntries(contents, progress.advance)
        progress.step("packing", 0)
        return "tree", [make_layer(entries, work / "layer.tar", options.compression)]
    referred = originals.referred(writer, work, options.compression)
    if referred is not None:
        return "references", list(referred)
    layers: list[PlainLayer | None] = []
    *parts, rest = by_blob(contents)
    for number, listed in enumerate([*parts, rest]):
        if not listed:
            if number < len(parts):
                layers.append(None)
            continue
        progress.step(f"packing layer {number + 1}", 0)
        entries = TreeEntries(contents, progress.advance, listed=listed)
        layer = make_layer(entries, work / f"layer-{number}.tar", options.compression)
        layers.append(layer._replace(is_own=number == len(parts)))
    return "blobs", layers


def _publish(
    opened: OpenedImage, layers: list[PlainLayer | None], writer: ImageWriter, progress: Progress
) -> tuple[Descriptor, int]:
    assert opened.image is not None
    image = opened.image
    return publish_plain(
        layers,
        image.config.document,
        image.manifest.annotations,
        writer,
        progress,
        _CREATED_BY,
    )
