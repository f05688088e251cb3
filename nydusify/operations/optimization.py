"""An image whose start-up set lies in one blob of its own, in the order in which it is read.

The chunks of the set are copied to a new blob, and every file that has such a chunk
is pointed there. The other blobs stay as they are, so that nothing of them is
pushed again. The new blob bears a mark by which a mount knows that all of it is wanted
at once: one region, fetched front to back. It is a mark that older programs ignore;
Nydus's own (separated with prefetch files) is refused by nydusd 2.2.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from fs.format.blobfile import BlobOptions
from fs.format.blobtable import STARTUP_FEATURES, BlobFeature
from fs.format.bootstrap import Bootstrap
from fs.format.errors import FormatError, UsageError, local_errors
from fs.format.tree import Chunk, Node
from fs.image.contents import Contents
from fs.image.trace import read_trace
from fs.registry.store import StoreOptions, open_writer
from nydusify.blobs.layer_blob import Blob, BlobBuilder
from nydusify.blobs.unused import inodes
from nydusify.images.bootstraps import Stack
from nydusify.images.opened import ImagePlace, OpenedImage, open_image
from nydusify.options import DEFAULT_BATCH_SIZE
from nydusify.outputs.republishing import republish
from nydusify.report import Progress, size_text
from nydusify.startup.choice import guessed_set
from nydusify.startup.files import ImageFiles
from nydusify.startup.recording import Recording, record
from nydusify.startup.startup_set import Place, StartupSet, add_list, read_list
from nydusify.workplace import workplace

_RAFS_V6 = 6
_BLOCK = 4096
#: Every start fetches the set whole, so that batches larger than chunks cost it nothing.
LARGEST_BATCH = 8 << 20


@dataclass(frozen=True)
class OptimizeOptions:
    """One of `trace`, `prefetch_files` and `recording` says what the start-up set is; else a guess,
    with `arguments` in place of the image's command if there are any.

    `keep_trace` is where a recorded trace is kept; `level` is zstd's, for the set. The result does
    not depend on `threads`.
    """

    source: ImagePlace
    target: str
    level: int
    target_store: StoreOptions = field(default_factory=StoreOptions)
    trace: Path | None = None
    prefetch_files: Path | None = None
    recording: Recording | None = None
    keep_trace: Path | None = None
    arguments: Sequence[str] = ()
    work_dir: Path | None = None
    threads: int = 2


@dataclass(frozen=True)
class Optimized:
    """Sizes in bytes: of the set decoded; of its blob, the image, and what is new, as stored."""

    source: str
    target: str
    target_digest: str
    chunks: int
    startup_size: int
    startup_blob: str
    startup_blob_size: int
    target_size: int
    pushed: int
    seconds: float

    def __str__(self) -> str:
        return (
            f"start-up set: {self.chunks} chunks, {size_text(self.startup_size)}, stored as "
            f"{size_text(self.startup_blob_size)} of {size_text(self.target_size)}\n"
            f"{self.target}@{self.target_digest}"
        )


def optimize(options: OptimizeOptions, progress: Progress) -> Optimized:
    """Publish the optimized image. Failure for all that may go wrong; then nothing is there."""
    started = time.monotonic()
    if options.source.is_file:
        raise UsageError(f"{options.source.source}: a bare bootstrap; name the whole image")
    with (
        closing(open_writer(options.target, options.target_store)) as writer,
        workplace(options.work_dir) as work,
        open_image(options.source, work) as opened,
    ):
        writer.check()
        with opened.contents(work) as contents:
            chosen = _choose(options, opened, contents, work, progress)
            progress.step("copying the start-up set", 0)
            moved = move_startup(
                opened.bootstrap, contents, list(chosen), work, options.threads, options.level
            )
        comment = "Nydus start-up blob"
        done = republish(opened, moved.stack, [moved.blob], writer, work, progress, comment=comment)
        return Optimized(
            opened.name,
            writer.name,
            done.manifest.digest,
            moved.blob.record.chunk_count,
            chosen.size,
            f"sha256:{moved.blob.record.blob_id}",
            moved.blob.record.compressed_size,
            done.size,
            done.pushed,
            round(time.monotonic() - started, 3),
        )


def _choose(
    options: OptimizeOptions,
    opened: OpenedImage,
    contents: Contents,
    work: Path,
    progress: Progress,
) -> StartupSet:
    chosen = StartupSet(opened.bootstrap)
    if options.prefetch_files is not None:
        files = ImageFiles(opened.bootstrap, contents.read)
        add_list(chosen, files, read_list(options.prefetch_files))
        return chosen
    trace = options.trace
    if options.recording is not None:
        progress.step("starting the image", 0)
        trace = work / "start.trace"
        source = options.source
        record(source.source, source.store, options.recording, work, trace)
        if options.keep_trace:
            with local_errors(options.keep_trace):
                shutil.copyfile(trace, options.keep_trace)
    if trace is None:
        assert opened.image
        return guessed_set(contents, opened.image.config, options.arguments or None)
    heading, touches = read_trace(str(trace))
    chosen.add_touches(touches, heading.blobs, str(trace))
    return chosen


class Moved(NamedTuple):
    """The image with its start-up blob, which is the last of its blobs."""

    stack: Stack
    blob: Blob


def move_startup(
    bootstrap: Bootstrap,
    contents: Contents,
    chosen: Sequence[Place],
    work: Path,
    threads: int,
    effort: int,
) -> Moved:
    """Copy the chunks of `chosen` to a new blob below `work`, and point files to it.

    An older start-up blob of the image stays as an ordinary one. UsageError for
    an empty set, FormatError for what cannot be rewritten.
    """
    if bootstrap.version != _RAFS_V6 or bootstrap.block_size != _BLOCK:
        raise FormatError("only RAFS v6 with blocks of 4096 bytes can be optimized", bootstrap.name)
    if not chosen:
        raise UsageError(f"{bootstrap.name}: nothing of it is in the start-up set")
    stack = Stack.of(bootstrap)
    options = BlobOptions(bootstrap.chunk_size, bootstrap.compressor, bootstrap.digester)
    batched = any(blob.features & BlobFeature.BATCH for blob in bootstrap.blobs)
    batch_size = min(DEFAULT_BATCH_SIZE, bootstrap.chunk_size) if batched else 0
    with (
        ThreadPoolExecutor(threads, "compress") as pool,
        closing(
            BlobBuilder(
                work / "startup",
                options,
                pool,
                batch_size=batch_size,
                largest_batch=LARGEST_BATCH,
                effort=effort,
            )
        ) as builder,
    ):
        numbers = [builder.add(contents.read_flat(*place)) for place in chosen]
        blob = builder.finish()
        assert blob
        index = len(bootstrap.blobs)
        copies = [
            builder.chunks[number]._replace(blob_index=index) for number in builder.numbers(numbers)
        ]
    blob.record.index = index
    blob.record.features |= BlobFeature.STARTUP
    for older in stack.blobs:
        older.features &= ~STARTUP_FEATURES
    stack.blobs.append(blob.record)
    stack.options.prefetch = ()
    _point_to(stack.root, copies)
    return Moved(stack, blob)


def _point_to(root: Node, copies: Iterable[Chunk]) -> None:
    """Have every file use the copies of its chunks that there are."""
    by_content = {(copy.digest, copy.uncompressed_size): copy for copy in copies}
    for node in inodes(root):
        if node.chunks:
            node.chunks = [
                by_content.get((chunk.digest, chunk.uncompressed_size), chunk)
                for chunk in node.chunks
            ]
