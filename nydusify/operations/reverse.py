"""A Nydus image made an ordinary OCI image again: one layer with the tree that the image shows."""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from fs.format.errors import UsageError
from fs.registry.store import StoreOptions, open_writer
from nydusify.images.opened import ImagePlace, open_image
from nydusify.layers.entries import TreeEntries
from nydusify.outputs.plain import make_layer, publish_plain
from nydusify.report import Progress, size_text
from nydusify.workplace import workplace

_CREATED_BY = "nydusify convert --reverse"


@dataclass(frozen=True)
class Reversed:
    """Sizes in bytes; `left_out` are sockets, which layers cannot have."""

    source: str
    target: str
    target_digest: str
    layer_digest: str
    target_size: int
    left_out: int
    seconds: float

    def __str__(self) -> str:
        left = f", {self.left_out} sockets left out" if self.left_out else ""
        size = size_text(self.target_size)
        return f"{size} in {self.seconds:.2f} s{left}\n{self.target}@{self.target_digest}"


def reverse(
    source: ImagePlace,
    target: str,
    target_store: StoreOptions,
    progress: Progress,
    *,
    compression: str = "gzip",
    work_dir: Path | None = None,
) -> Reversed:
    """Publish the image of `source` at `target` as OCI has it. Failure; then nothing is there."""
    started = time.monotonic()
    if source.is_file:
        raise UsageError(f"{source.source}: a bootstrap has no configuration; use unpack")
    with (
        closing(open_writer(target, target_store)) as writer,
        workplace(work_dir) as work,
        open_image(source, work) as opened,
        opened.contents(work) as contents,
    ):
        writer.check()
        assert opened.image is not None
        progress.step("fetching", 0)
        contents.load()
        progress.step("packing", 0)
        entries = TreeEntries(contents, progress.advance)
        layer = make_layer(entries, work / "layer.tar", compression)
        image = opened.image
        manifest, size = publish_plain(
            layer, image.config.document, image.manifest.annotations, writer, progress, _CREATED_BY
        )
        return Reversed(
            opened.name,
            writer.name,
            manifest.digest,
            layer.descriptor.digest,
            size,
            layer.left_out,
            round(time.monotonic() - started, 3),
        )
