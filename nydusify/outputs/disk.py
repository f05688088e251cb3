"""A Nydus image as one disk image: the bootstrap, and behind it each blob decoded at its place.

The kernel mounts it as it is, with no daemon and no devices beside it: a device slot without
a device is looked for at its mapped block address in the image itself. With verity, the disk
image is followed by the hash tree of its blocks.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from fs.format.blobtable import BlobFeature
from fs.format.erofs import device_slots
from fs.format.errors import FormatError, UsageError, local_errors
from fs.format.walk import load_tree
from fs.format.writer import BootstrapOptions, write_bootstrap
from fs.image.contents import Contents
from fs.image.tree import map_bootstrap
from nydusify.images.opened import ImagePlace, OpenedImage, open_image
from nydusify.outputs.verity import Verity, append_hash_tree
from nydusify.outputs.whole_file import new_file
from nydusify.report import Progress
from nydusify.workplace import workplace

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
        path = _mappable(opened, work)
        with new_file(output) as file:
            size = _write(file, path, opened, contents, progress)
            block_size = opened.bootstrap.block_size
            tree = append_hash_tree(file, size, block_size) if verity else None
        return Exported(opened.name, str(output), size, block_size, tree)


def _usual_output(place: ImagePlace) -> Path:
    if not place.is_file or place.blob_dir is None:
        raise UsageError("--output FILE says where the disk image goes")
    return Path(place.blob_dir) / f"{Path(place.source).name}.disk"


def _mappable(opened: OpenedImage, work: Path) -> Path:
    """The bootstrap's file; one that gives its blobs no places is written anew."""
    if opened.bootstrap.version != 6:
        raise FormatError("version 5: its chunks begin in the middle of blocks", opened.name)
    if all(_places(opened.path, len(opened.bootstrap.blobs))):
        return opened.path
    path = work / "mapped.boot"
    with local_errors(path), path.open("wb") as file:
        options = BootstrapOptions(
            chunk_size=opened.bootstrap.chunk_size,
            compressor=opened.bootstrap.compressor,
            digester=opened.bootstrap.digester,
            block_size=opened.bootstrap.block_size,
        )
        write_bootstrap(load_tree(opened.bootstrap), opened.bootstrap.blobs, options, file)
    return path


def _places(path: Path, count: int) -> list[int]:
    with local_errors(path), path.open("rb") as file:
        return [address for _, address in device_slots(file.read(64 << 10), count, str(path))]


def _write(
    file: BinaryIO, path: Path, opened: OpenedImage, contents: Contents, progress: Progress
) -> int:
    """Everything but the hash tree; returns where it ends."""
    bootstrap = map_bootstrap(str(path))
    blobs, block_size = bootstrap.blobs, bootstrap.block_size
    places = [address * block_size for address in _places(path, len(blobs))]
    bootstrap.close()
    end = _check(places, [blob.uncompressed_size for blob in blobs], path.stat().st_size)
    progress.step("fetching", 0)
    contents.load()
    progress.step("writing", end)
    with path.open("rb") as source:
        while piece := source.read(_PIECE):
            file.write(piece)
    for index, place in enumerate(places):
        file.seek(place)
        for piece in _decoded(opened, contents, index):
            progress.advance(len(piece))
            if piece == _ZEROS[: len(piece)]:
                file.seek(len(piece), os.SEEK_CUR)
            else:
                file.write(piece)
    end += -end % block_size
    file.truncate(end)
    return end


def _check(places: list[int], sizes: list[int], bootstrap_size: int) -> int:
    """Where the last blob ends; FormatError if any two parts overlap."""
    end = bootstrap_size
    for place, size in sorted(zip(places, sizes, strict=True)):
        if place < end:
            raise FormatError(f"a blob is mapped at {place}, inside of what lies before it")
        end = place + size
    return end


def _decoded(opened: OpenedImage, contents: Contents, index: int) -> Iterator[bytes]:
    blob = opened.bootstrap.blobs[index]
    for offset in range(0, blob.uncompressed_size, _PIECE):
        length = min(_PIECE, blob.uncompressed_size - offset)
        if blob.features & BlobFeature.TARFS:  # the blob is the tar file itself
            assert opened.backend is not None
            yield opened.backend.read(blob.blob_id, offset, length)
        else:
            yield contents.read_flat(index, offset, length)
