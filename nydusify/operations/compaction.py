"""Blobs of which an image uses little, or which are small, rewritten as fewer and fuller ones.

Chunks are copied as they are stored, each verified by its digest on the way; those of batches
are unpacked and put into new ones. Blobs whose bytes are another's (references to layers, tar
files) stay as they are.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from fs.backend.blobs import BlobBackend
from fs.format import codec
from fs.format.blobfile import BlobOptions, build_trailer
from fs.format.blobtable import BlobFeature, BlobRecord, Compressor, Digester
from fs.format.chunkinfo import ChunkFlag
from fs.format.errors import FormatError, UsageError, VerifyError, local_errors
from fs.format.tree import HOLE, Chunk
from fs.format.writer import BootstrapOptions
from fs.image.contents import Contents
from fs.registry.store import StoreOptions, open_writer
from nydusify.blobs.layer_blob import Blob, BlobBuilder
from nydusify.blobs.stored_size import stored_size
from nydusify.images.bootstraps import Stack, inodes
from nydusify.images.opened import ImagePlace, OpenedImage, open_image
from nydusify.options import DEFAULT_BATCH_SIZE
from nydusify.outputs.republishing import republish
from nydusify.report import Progress
from nydusify.workplace import workplace

_UNTOUCHED = (
    BlobFeature.ZRAN
    | BlobFeature.TARFS
    | BlobFeature.ENCRYPTED
    | BlobFeature.EXTERNAL
    | BlobFeature.SEPARATE
)
_BLOCK = 4096
#: Chunks that lie near each other are read by one request of up to this size, over gaps of
#: up to that (bytes).
_REQUEST, _GAP = 8 << 20, 64 << 10


@dataclass(frozen=True)
class CompactOptions:
    """Sizes in bytes as stored. Blobs that use less than `min_used_ratio` per cent of their
    size are rewritten; those with less than `compact_blob_size` in use are put together, up to
    `max_compact_size`. Nothing happens to images of fewer than `layers_to_compact` blobs.
    """

    min_used_ratio: int = 50
    compact_blob_size: int = 10 << 20
    max_compact_size: int = 100 << 20
    layers_to_compact: int = 0


@dataclass(frozen=True)
class Compacted:
    """Blobs before and after; `stored_*` are all blobs' sizes, `written` is that of new ones."""

    source: str
    target: str
    target_digest: str
    rewritten: list[str]
    new: list[str]
    stored_before: int
    stored_after: int
    written: int


@dataclass
class _Use:
    """The chunks that files have of one blob, in the order in which they are stored.

    `size` is what they take there, in batches about so much; `index` is the blob's place in
    the image as it was.
    """

    blob: BlobRecord
    index: int
    chunks: list[Chunk]

    @property
    def size(self) -> int:
        return sum(stored_size(chunk, self.blob) for chunk in self.chunks)

    @property
    def has_batches(self) -> bool:
        return bool(self.blob.features & BlobFeature.BATCH)


def compact_image(
    source: ImagePlace,
    target: str,
    target_store: StoreOptions,
    options: CompactOptions,
    progress: Progress,
    *,
    dictionary: ImagePlace | None = None,
    work_dir: Path | None = None,
) -> Compacted:
    """Publish the compacted image at `target`. Blobs of `dictionary` are left alone."""
    with (
        closing(open_writer(target, target_store)) as writer,
        workplace(work_dir) as work,
        open_image(source, work) as opened,
    ):
        writer.check()
        shared = _blob_ids(dictionary, work)
        stack, compacted = _compact(opened, options, shared, work, progress)
        new = [blob for blob, _ in compacted]
        done = republish(opened, stack, new, writer, work, progress, comment="Nydus compacted blob")
        return _told(opened, writer.name, done.manifest.digest, stack, compacted)


def compact_files(
    source: ImagePlace,
    output: Path,
    options: CompactOptions,
    progress: Progress,
    *,
    dictionary: ImagePlace | None = None,
    work_dir: Path | None = None,
) -> Compacted:
    """The same for a bootstrap: `output` is the new one, new blobs go to the blob directory."""
    if source.blob_dir is None:
        raise UsageError("--blob-dir DIR says where blobs are and new ones go")
    with workplace(work_dir) as work, open_image(source, work) as opened:
        shared = _blob_ids(dictionary, work)
        stack, compacted = _compact(opened, options, shared, work, progress)
        for blob, _ in compacted:
            _keep(blob, Path(source.blob_dir))
        stack.write(output)
        return _told(opened, str(output), "", stack, compacted)


def _told(
    opened: OpenedImage,
    target: str,
    digest: str,
    stack: Stack,
    compacted: Sequence[tuple[Blob, list[str]]],
) -> Compacted:
    return Compacted(
        opened.name,
        target,
        digest,
        [blob_id for _, ids in compacted for blob_id in ids],
        [blob.record.blob_id for blob, _ in compacted],
        sum(blob.compressed_size for blob in opened.bootstrap.blobs),
        sum(blob.compressed_size for blob in stack.blobs),
        sum(blob.record.compressed_size for blob, _ in compacted),
    )


def _blob_ids(place: ImagePlace | None, work: Path) -> set[str]:
    if place is None:
        return set()
    with open_image(place, work / "dictionary") as opened:
        return {blob.blob_id for blob in opened.bootstrap.blobs}


def _keep(blob: Blob, directory: Path) -> None:
    """Copy a new blob to its place, whole or not at all."""
    from nydusify.whole_file import new_file

    path = directory / blob.record.blob_id
    with new_file(path) as out, local_errors(blob.path), blob.path.open("rb") as source:
        while piece := source.read(1 << 20):
            out.write(piece)


def _compact(
    opened: OpenedImage,
    options: CompactOptions,
    shared: set[str],
    work: Path,
    progress: Progress,
) -> tuple[Stack, list[tuple[Blob, list[str]]]]:
    """The new tree, and the new blobs, each with the ids of the blobs that it stands for."""
    if opened.bootstrap.version != 6:
        raise FormatError("only RAFS v6 can be compacted", opened.name)
    if opened.backend is None:
        raise UsageError(f"{opened.name}: where are its blobs? Give --blob-dir or a backend")
    stack = Stack.of(opened.bootstrap)
    stack.drop_unused()
    if len(stack.blobs) < options.layers_to_compact:
        return stack, []
    indexes = {blob.blob_id: index for index, blob in enumerate(opened.bootstrap.blobs)}
    groups = _groups(_uses(stack, indexes), options, shared)
    made: list[tuple[Blob, list[str]]] = []
    copies: dict[tuple[int, int], Chunk] = {}
    gone: set[int] = set()
    with opened.contents(work) as contents:
        for number, group in enumerate(groups):
            progress.step(f"blob {number + 1} of {len(groups)}", sum(use.size for use in group))
            writing = _Writing(work / f"compact-{number}", len(stack.blobs), stack.options, copies)
            if any(use.has_batches for use in group):
                blob = writing.pack(group, contents, progress)
            else:
                blob = writing.copy(group, opened.backend, progress)
            blob.record.index = len(stack.blobs)
            stack.blobs.append(blob.record)
            gone |= {use.blob.index for use in group}
            made.append((blob, [use.blob.blob_id for use in group]))
    stack.change_chunks(
        lambda chunk: (
            copies[chunk.blob_index, chunk.position] if chunk.blob_index in gone else chunk
        )
    )
    stack.drop_unused()
    return stack, made


def _uses(stack: Stack, indexes: Mapping[str, int]) -> list[_Use]:
    found: list[dict[int, Chunk]] = [{} for _ in stack.blobs]
    for node in inodes(stack.root):
        for chunk in node.chunks:
            if chunk.blob_index != HOLE:
                found[chunk.blob_index].setdefault(chunk.position, chunk)
    return [
        _Use(blob, indexes[blob.blob_id], sorted(chunks.values(), key=_stored_at))
        for blob, chunks in zip(stack.blobs, found, strict=True)
    ]


def _stored_at(chunk: Chunk) -> tuple[int, int]:
    return chunk.compressed_offset, chunk.uncompressed_offset


def _groups(uses: Sequence[_Use], options: CompactOptions, shared: set[str]) -> list[list[_Use]]:
    """Which blobs become one. A blob alone in its group is worth it only if little is used."""
    groups: list[list[_Use]] = []
    small: dict[Compressor, list[_Use]] = {}
    for use in uses:
        if use.blob.features & _UNTOUCHED or use.blob.blob_id in shared:
            continue
        wasteful = use.size * 100 < options.min_used_ratio * use.blob.compressed_size
        if use.size < options.compact_blob_size:
            open_group = small.setdefault(Compressor(use.blob.compressor), [])
            if open_group and sum(u.size for u in open_group) + use.size > options.max_compact_size:
                groups.append(open_group)
                open_group = small[Compressor(use.blob.compressor)] = []
            open_group.append(use)
        elif wasteful:
            groups.append([use])
    groups += small.values()
    return [group for group in groups if len(group) > 1 or _is_wasteful(group[0], options)]


def _is_wasteful(use: _Use, options: CompactOptions) -> bool:
    return use.size * 100 < options.min_used_ratio * use.blob.compressed_size


class _Writing:
    """A new blob at `path`, number `index` of the image. `copies` learns where each chunk is then:
    by the blob and position that it had.
    """

    def __init__(
        self,
        path: Path,
        index: int,
        options: BootstrapOptions,
        copies: dict[tuple[int, int], Chunk],
    ) -> None:
        self._path = path
        self._index = index
        self._options = options
        self._copies = copies

    def copy(self, group: Sequence[_Use], backend: BlobBackend, progress: Progress) -> Blob:
        """Equal chunks once, as they are stored."""
        chunks: list[Chunk] = []
        known: dict[bytes, Chunk] = {}
        offset = decoded = 0
        sha256 = hashlib.sha256()
        with local_errors(self._path), self._path.open("wb") as out:
            for use in group:
                for chunk, stored in _stored(use, backend, self._options.digester):
                    progress.advance(len(stored))
                    copy = known.get(chunk.digest)
                    if copy is None:
                        out.write(stored)
                        sha256.update(stored)
                        copy = known[chunk.digest] = chunk._replace(
                            blob_index=self._index,
                            position=len(chunks),
                            compressed_offset=offset,
                            uncompressed_offset=decoded,
                        )
                        chunks.append(copy)
                        offset += len(stored)
                        decoded += chunk.uncompressed_size + -chunk.uncompressed_size % _BLOCK
                    self._copies[chunk.blob_index, chunk.position] = copy
            blob_options = self._blob_options(group)
            blob_options.chunk_info_v2 = any(c.flags & ChunkFlag.HAS_CRC32 for c in chunks)
            trailer = build_trailer(chunks, offset, sha256, blob_options)
            out.write(trailer.data)
        return Blob(self._path, trailer.record, trailer.blob_meta)

    def pack(self, group: Sequence[_Use], contents: Contents, progress: Progress) -> Blob:
        """Equal chunks once, compressed anew, small ones in batches."""
        batch_size = min(DEFAULT_BATCH_SIZE, self._options.chunk_size)
        with (
            ThreadPoolExecutor(os.cpu_count() or 1, "compress") as pool,
            closing(
                BlobBuilder(self._path, self._blob_options(group), pool, batch_size=batch_size)
            ) as builder,
        ):
            chunks = [(use, chunk) for use in group for chunk in use.chunks]
            added = []
            for use, chunk in chunks:
                at, size = chunk.uncompressed_offset, chunk.uncompressed_size
                added.append(builder.add(contents.read_flat(use.index, at, size)))
                progress.advance(stored_size(chunk, use.blob))
            blob = builder.finish()
            assert blob is not None
            for (_, chunk), number in zip(chunks, builder.numbers(added), strict=True):
                copy = builder.chunks[number]._replace(blob_index=self._index)
                self._copies[chunk.blob_index, chunk.position] = copy
        return blob

    def _blob_options(self, group: Sequence[_Use]) -> BlobOptions:
        compressor = Compressor(group[0].blob.compressor)
        return BlobOptions(self._options.chunk_size, compressor, self._options.digester)


def _stored(use: _Use, backend: BlobBackend, digester: Digester) -> Iterator[tuple[Chunk, bytes]]:
    """The chunks with their stored bytes, verified; neighbours are read together."""
    for run in _runs(use.chunks):
        start = run[0].compressed_offset
        end = max(chunk.compressed_offset + chunk.compressed_size for chunk in run)
        data = memoryview(backend.read(use.blob.blob_id, start, end - start))
        for chunk in run:
            at = chunk.compressed_offset - start
            stored = bytes(data[at : at + chunk.compressed_size])
            _verify(chunk, stored, use.blob, digester)
            yield chunk, stored


def _runs(chunks: Sequence[Chunk]) -> Iterator[list[Chunk]]:
    run: list[Chunk] = []
    for chunk in chunks:
        if run:
            end = run[-1].compressed_offset + run[-1].compressed_size
            far = chunk.compressed_offset - end > _GAP
            whole = chunk.compressed_offset + chunk.compressed_size - run[0].compressed_offset
            if far or whole > _REQUEST:
                yield run
                run = []
        run.append(chunk)
    if run:
        yield run


def _verify(chunk: Chunk, stored: bytes, blob: BlobRecord, digester: Digester) -> None:
    where = f"blob {blob.blob_id} chunk {chunk.position}"
    compressor = blob.compressor if chunk.flags & ChunkFlag.COMPRESSED else Compressor.NONE
    try:
        data = codec.decompress(compressor, stored, chunk.uncompressed_size, where)
    except FormatError as error:
        raise VerifyError(str(error)) from error
    if codec.digest(digester, data) != chunk.digest:
        raise VerifyError(f"{where}: its bytes do not have their digest")
