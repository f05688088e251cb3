"""A directory tree as an image layer: a tar in gzip that depends on the tree alone.

Sorted names, numeric owners, times no later than a given one, extended
attributes in pax headers; what an overlayfs upper directory marks as deleted
or opaque becomes the whiteout files of the OCI image specification.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import stat
import tarfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple, cast

_GZIP_LEVEL = 6  # what docker and buildkit use
_OPAQUE = "trusted.overlay.opaque"


class LayerFile(NamedTuple):
    """A compressed layer; `diff_id` is the digest of the tar inside."""

    path: Path
    diff_id: str


def write_layer(tree: Path, target: Path, epoch: int, leave_out: Collection[str] = ()) -> LayerFile:
    """Write `tree` to `target`. Of the directories in `leave_out` only the directory is kept."""
    with target.open("wb") as file, gzip.GzipFile("", "wb", _GZIP_LEVEL, file, mtime=0) as packed:
        hashed = _HashingSink(cast(BinaryIO, packed))
        with tarfile.open(
            fileobj=cast(BinaryIO, hashed), mode="w|", format=tarfile.PAX_FORMAT, bufsize=1 << 20
        ) as tar:
            _Packer(tree, tar, epoch).add_all(leave_out)
        return LayerFile(target, f"sha256:{hashed.digest.hexdigest()}")


class _HashingSink:
    def __init__(self, sink: BinaryIO) -> None:
        self._sink = sink
        self.digest = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        return self._sink.write(data)


class _Packer:
    def __init__(self, tree: Path, tar: tarfile.TarFile, epoch: int) -> None:
        self._tree = tree
        self._tar = tar
        self._epoch = epoch
        self._first_names: dict[int, str] = {}

    def add_all(self, leave_out: Collection[str]) -> None:
        for path in _walk(self._tree, leave_out):
            name = str(path.relative_to(self._tree))
            status = path.lstat()
            if stat.S_ISCHR(status.st_mode) and status.st_rdev == 0:
                self._add_marker(path.parent, f".wh.{path.name}")
            elif not stat.S_ISSOCK(status.st_mode):
                self._add(path, name, status)

    def _add(self, path: Path, name: str, status: os.stat_result) -> None:
        entry = self._tar.gettarinfo(path, name)
        entry.uname = entry.gname = ""
        entry.mtime = min(int(status.st_mtime), self._epoch)
        if entry.isreg() or entry.islnk():
            self._link_or_file(entry, status)
        attributes = _attributes(path)
        entry.pax_headers = {
            f"SCHILY.xattr.{key}": value.decode("utf-8", "surrogateescape")
            for key, value in sorted(attributes.items())
            if not key.startswith("trusted.overlay.")
        }
        if entry.isreg():
            with path.open("rb") as content:
                self._tar.addfile(entry, content)
        else:
            self._tar.addfile(entry)
        if attributes.get(_OPAQUE) == b"y":
            self._add_marker(path, ".wh..wh..opq")

    def _link_or_file(self, entry: tarfile.TarInfo, status: os.stat_result) -> None:
        first = self._first_names.setdefault(status.st_ino, entry.name)
        entry.type = tarfile.REGTYPE if first == entry.name else tarfile.LNKTYPE
        entry.linkname = "" if first == entry.name else first
        entry.size = status.st_size if first == entry.name else 0

    def _add_marker(self, directory: Path, name: str) -> None:
        entry = tarfile.TarInfo(str((directory / name).relative_to(self._tree)))
        entry.mtime = self._epoch
        self._tar.addfile(entry)


def _walk(tree: Path, leave_out: Collection[str]) -> Iterator[Path]:
    for directory, subdirectories, files in os.walk(tree):
        here = Path(directory)
        if str(here.relative_to(tree)) in leave_out:
            subdirectories.clear()
            continue
        subdirectories.sort()
        yield from (here / name for name in sorted([*subdirectories, *files]))


def _attributes(path: Path) -> dict[str, bytes]:
    return {
        key: os.getxattr(path, key, follow_symlinks=False)
        for key in os.listxattr(path, follow_symlinks=False)
    }
