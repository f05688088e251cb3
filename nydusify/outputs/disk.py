"""A Nydus image as one disk image: the bootstrap, and behind it each blob decoded at its place.

The kernel mounts it as it is, with no daemon and no devices beside it: a device slot without
a device is looked for at its mapped block address in the image itself. With verity, the disk
image is followed by the hash tree of its blocks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, NamedTuple

from fs.format.blobtable import BlobFeature, BlobRecord
from fs.format.erofs import device_slots
from fs.format.errors import FormatError, UsageError, local_errors
from fs.format.tree import HOLE, Chunk, Node
from fs.format.walk import load_tree
from fs.format.writer import BootstrapOptions, write_bootstrap
from fs.image.contents import Contents
from nydusify.images.bootstraps import inodes
from nydusify.images.opened import ImagePlace, OpenedImage, open_image
from nydusify.outputs.verity import Verity, append_hash_tree
from nydusify.report import Progress
from nydusify.whole_file import new_file
from nydusify.workplace import workplace

_BLOCK = 4096
_PIECE = 1 << 20
_ZEROS = bytes(_PIECE)


@dataclass(frozen=True)
class Exported:
    """`size` is that of the data (bytes); `verity` is None if there is no hash tree."""

    image: str
    output: str
    size: int
    block_size: int
    verity: Verity | None


def export_disk(
    place: ImagePlace,
    output: Path | None,
    progress: Progress,
    *,
    verity: bool = False,
    work_dir: Path | None = None,
) -> Exported:
    """Write the disk image to `output`, which appears when it is whole.

    Without `output`: where nydus-image puts it, beside the blobs.
    """
    output = output or _usual_output(place)
    with (
        workplace(work_dir) as work,
        open_image(place, work) as opened,
        opened.contents(work) as contents,
    ):
        mapped = _mappable(opened, work)
        with new_file(output) as file:
            size, block_size = _write(file, mapped, opened, contents, progress)
            tree = append_hash_tree(file, size, block_size) if verity else None
        return Exported(opened.name, str(output), size, block_size, tree)


def _usual_output(place: ImagePlace) -> Path:
    if not place.is_file or place.blob_dir is None:
        raise UsageError("--output FILE says where the disk image goes")
    return Path(place.blob_dir) / f"{Path(place.source).name}.disk"


class _Mapped(NamedTuple):
    """A bootstrap that gives its blobs places. `moved`: of each blob, where its bytes go in it:
    (place, place in the blob as it is decoded, length); None if they stay where they are.
    `sizes` of the blobs and of a block are in bytes.
    """

    path: Path
    sizes: Sequence[int]
    block_size: int
    moved: Sequence[Sequence[tuple[int, int, int]]] | None = None


def _mappable(opened: OpenedImage, work: Path) -> _Mapped:
    """The bootstrap; one that gives its blobs no places, or is of version 5, is written anew."""
    found = opened.bootstrap
    if found.version == 6 and all(_places(opened.path, len(found.blobs))):
        sizes = [blob.uncompressed_size for blob in found.blobs]
        return _Mapped(opened.path, sizes, found.block_size)
    root, blobs, moved = load_tree(found), list(found.blobs), None
    if found.version == 5:
        blobs, moved = _on_blocks(root, blobs, found.chunk_size)
    block_size = found.block_size if found.version == 6 else _BLOCK
    path = work / "mapped.boot"
    with local_errors(path), path.open("wb") as file:
        options = BootstrapOptions(
            chunk_size=found.chunk_size,
            compressor=found.compressor,
            digester=found.digester,
            block_size=block_size,
        )
        write_bootstrap(root, blobs, options, file)
    return _Mapped(path, [blob.uncompressed_size for blob in blobs], block_size, moved)


def _on_blocks(
    root: Node, blobs: Sequence[BlobRecord], chunk_size: int
) -> tuple[list[BlobRecord], list[list[tuple[int, int, int]]]]:
    """Have each chunk begin on a block, as those of version 5 need not, in the files of `root`."""
    ends = [0] * len(blobs)
    moved: list[list[tuple[int, int, int]]] = [[] for _ in blobs]
    known: dict[tuple[int, int], Chunk] = {}
    for node in inodes(root):
        for chunk in node.chunks:
            key = chunk.blob_index, chunk.uncompressed_offset
            if chunk.blob_index == HOLE or key in known:
                continue
            index, size = chunk.blob_index, chunk.uncompressed_size
            known[key] = chunk._replace(uncompressed_offset=ends[index])
            moved[index].append((ends[index], chunk.uncompressed_offset, size))
            ends[index] += size + -size % _BLOCK
        if node.chunks:
            node.chunks = [
                known.get((chunk.blob_index, chunk.uncompressed_offset), chunk)
                for chunk in node.chunks
            ]
    records = [
        replace(
            blob,
            features=BlobFeature.ALIGNED,
            chunk_size=chunk_size,
            chunk_count=0,  # it has no chunk information, which version 6 would expect of it
            uncompressed_size=end,
        )
        for blob, end in zip(blobs, ends, strict=True)
    ]
    return records, moved


def _places(path: Path, count: int) -> list[int]:
    with local_errors(path), path.open("rb") as file:
        return [address for _, address in device_slots(file.read(64 << 10), count, str(path))]


def _write(
    file: BinaryIO, mapped: _Mapped, opened: OpenedImage, contents: Contents, progress: Progress
) -> tuple[int, int]:
    """Everything but the hash tree; returns where it ends, and the size of a block."""
    path, block_size = mapped.path, mapped.block_size
    places = [address * block_size for address in _places(path, len(mapped.sizes))]
    end = _check(places, mapped.sizes, path.stat().st_size)
    progress.step("fetching", 0)
    contents.load()
    progress.step("writing", end)
    with path.open("rb") as source:
        while piece := source.read(_PIECE):
            file.write(piece)
    for index, place in enumerate(places):
        moved = mapped.moved[index] if mapped.moved is not None else None
        for start, piece in _decoded(opened, contents, index, moved):
            progress.advance(len(piece))
            if piece != _ZEROS[: len(piece)]:
                file.seek(place + start)
                file.write(piece)
    end += -end % block_size
    file.truncate(end)
    return end, block_size


def _check(places: Sequence[int], sizes: Sequence[int], bootstrap_size: int) -> int:
    """Where the last blob ends; FormatError if any two parts overlap."""
    end = bootstrap_size
    for place, size in sorted(zip(places, sizes, strict=True)):
        if place < end:
            raise FormatError(f"a blob is mapped at {place}, inside of what lies before it")
        end = place + size
    return end


def _decoded(
    opened: OpenedImage,
    contents: Contents,
    index: int,
    moved: Sequence[tuple[int, int, int]] | None,
) -> Iterator[tuple[int, bytes]]:
    """Pieces of a blob with where they go in its place."""
    blob = opened.bootstrap.blobs[index]
    for start, place, size in moved if moved is not None else [(0, 0, blob.uncompressed_size)]:
        for offset in range(0, size, _PIECE):
            length = min(_PIECE, size - offset)
            if blob.features & BlobFeature.TARFS:  # the blob is the tar file itself
                assert opened.backend is not None
                yield start + offset, opened.backend.read(blob.blob_id, place + offset, length)
            else:
                yield start + offset, contents.read_flat(index, place + offset, length)
