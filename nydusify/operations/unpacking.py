"""A Nydus image given back as files: a tar archive or a directory."""

from __future__ import annotations

import stat
import sys
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from fs.format.errors import local_errors
from fs.format.walk import paths
from fs.image.contents import Contents
from nydusify.images.opened import ImagePlace, open_image
from nydusify.layers.entries import TreeEntries
from nydusify.outputs.directory import DirectoryWriter
from nydusify.outputs.tarball import TarWriter
from nydusify.report import Progress
from nydusify.whole_file import new_file
from nydusify.workplace import workplace


@dataclass(frozen=True)
class Unpacked:
    """`size` is that of all files in bytes; `left_out` counts what the output has no room for."""

    image: str
    output: str
    entries: int
    size: int
    left_out: int


def unpack(
    place: ImagePlace,
    output: Path,
    progress: Progress,
    *,
    directory: bool,
    lenient: bool = False,
    work_dir: Path | None = None,
) -> Unpacked:
    """Write all of the image to a tar file ("-": standard output) or a new directory.

    A tar file appears when it is whole; of a directory nothing is left if it does not become so.
    """
    with (
        workplace(work_dir) as work,
        open_image(place, work) as image,
        image.contents(work) as contents,
    ):
        progress.step("fetching", 0)
        contents.load()
        progress.step("writing", _data_size(contents))
        entries = TreeEntries(contents, progress.advance)
        if directory:
            count, left_out = _to_directory(entries, output, lenient=lenient)
        else:
            count, left_out = _to_tar(entries, output)
        return Unpacked(image.name, str(output), count, _data_size(contents), left_out)


def _data_size(contents: Contents) -> int:
    seen: dict[int, int] = {}
    for _, inode in paths(contents.bootstrap):
        if stat.S_ISREG(inode.mode):
            seen[inode.nid] = inode.size
    return sum(seen.values())


def _to_directory(entries: TreeEntries, output: Path, *, lenient: bool) -> tuple[int, int]:
    with closing(DirectoryWriter(output, lenient=lenient)) as writer:
        count = 0
        try:
            for count, entry in enumerate(entries, 1):  # noqa: B007 - the last one is told
                writer.add(entry, entries.read)
            writer.finish()
        except BaseException:
            writer.discard()
            raise
        return count, writer.left_out


def _to_tar(entries: TreeEntries, output: Path) -> tuple[int, int]:
    if str(output) == "-":
        with (
            local_errors("standard output"),
            open(sys.stdout.fileno(), "wb", buffering=1 << 20, closefd=False) as file,
        ):
            return _write_tar(entries, file)
    with new_file(output) as file:
        return _write_tar(entries, file)


def _write_tar(entries: TreeEntries, file: BinaryIO) -> tuple[int, int]:
    writer = TarWriter(file)
    count = 0
    for count, entry in enumerate(entries, 1):  # noqa: B007 - the last one is told
        writer.add(entry, entries.read)
    writer.finish()
    return count, writer.left_out
