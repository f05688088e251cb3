"""Which chunks of an image its start needs, in order: from a trace, or from a list of files.

A list of files is what `nydus-image optimize` takes, JSON:

    {"version": "v1", "files": [{"path": "/bin/sh", "ranges": [[0, 4096]]}, ...]}

where `ranges` are [offset, size] and without them the whole file is meant; or
plain text with one absolute path a line.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from fs.format.bootstrap import Bootstrap
from fs.format.chunktable import ChunkTable
from fs.format.errors import FormatError, NotFoundError, StorageError, local_errors
from fs.format.tree import HOLE
from fs.image.trace import Touch
from nydusify.startup.files import ImageFiles

_LIST_LIMIT = 64 << 20


class Place(NamedTuple):
    """A chunk by where it lies in the decoded blob."""

    blob_index: int
    offset: int
    length: int


class StartupSet:
    """Chunks of `bootstrap` in the order in which they are first added, each once."""

    def __init__(self, bootstrap: Bootstrap) -> None:
        self._bootstrap = bootstrap
        self._tables: dict[int, ChunkTable] = {}
        self._places: dict[tuple[int, int], Place] = {}

    def __iter__(self) -> Iterator[Place]:
        return iter(self._places.values())

    def __len__(self) -> int:
        return len(self._places)

    @property
    def size(self) -> int:
        """Decoded bytes."""
        return sum(place.length for place in self)

    def add(self, blob_index: int, start: int, end: int) -> None:
        """The chunks that overlap [start, end) of a decoded blob."""
        table = self._table(blob_index)
        for row in table.rows_between(start, end):
            offset = table.uncompressed_offsets[row]
            place = Place(blob_index, offset, table.uncompressed_sizes[row])
            self._places.setdefault((blob_index, offset), place)

    def add_file(self, nid: int, offset: int = 0, length: int | None = None) -> None:
        """The chunks of a range of a regular file (default: all of it)."""
        inode = self._bootstrap.inode(nid)
        if not stat.S_ISREG(inode.mode) or offset >= inode.size:
            return
        length = inode.size - offset if length is None else min(length, inode.size - offset)
        for extent in self._bootstrap.extents(nid, offset, length):
            if extent.blob_index != HOLE:
                end = extent.blob_offset + extent.length
                self.add(extent.blob_index, extent.blob_offset, end)

    def add_touches(self, touches: Iterable[Touch], blobs: list[str], where: str) -> None:
        """What a trace recorded; `blobs` are its blob identifiers. FormatError if not of ours."""
        indexes = _indexes(self._bootstrap, blobs, where)
        for touch in touches:
            start = touch.offset
            self.add(indexes[touch.blob_index], start, start + touch.length)

    def _table(self, blob_index: int) -> ChunkTable:
        if blob_index not in self._tables:
            self._tables[blob_index] = self._bootstrap.chunk_table(blob_index)
        return self._tables[blob_index]


def _indexes(bootstrap: Bootstrap, blobs: list[str], where: str) -> Mapping[int, int]:
    ours = {blob.blob_id: index for index, blob in enumerate(bootstrap.blobs)}
    missing = [blob for blob in blobs if blob not in ours]
    if missing:
        raise FormatError(f"is a trace of another image: {missing[0]:.20} is no blob here", where)
    return {number: ours[blob] for number, blob in enumerate(blobs)}


class Listed(NamedTuple):
    """A file of a list, and the ranges (offset, size) of it that are meant; None: all of it."""

    path: bytes
    ranges: list[tuple[int, int]] | None


def read_list(path: Path) -> list[Listed]:
    """A list of files. FormatError, NotFoundError."""
    with local_errors(path), path.open("rb") as file:
        content = file.read(_LIST_LIMIT + 1)
    if len(content) > _LIST_LIMIT:
        raise StorageError(f"{path}: larger than {_LIST_LIMIT} bytes")
    if content.lstrip()[:1] == b"{":
        return _from_json(content, str(path))
    return [Listed(line.strip(), None) for line in content.splitlines() if line.strip()]


def _from_json(content: bytes, where: str) -> list[Listed]:
    try:
        document = json.loads(content)
        if document.get("version") != "v1":
            raise FormatError(f"version {document.get('version')!r:.20} is not v1", where)
        return [_listed(entry) for entry in document["files"]]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise FormatError(f"no list of files ({type(error).__name__})", where) from None


def _listed(entry: dict[str, object]) -> Listed:
    ranges = entry.get("ranges")
    if ranges is None:
        return Listed(os.fsencode(str(entry["path"])), None)
    if not isinstance(ranges, list):
        raise TypeError
    pairs = [(int(offset), int(size)) for offset, size in ranges]
    if any(offset < 0 or size < 0 for offset, size in pairs):
        raise ValueError
    return Listed(os.fsencode(str(entry["path"])), pairs)


def add_list(chosen: StartupSet, files: ImageFiles, listed: Iterable[Listed]) -> None:
    """Add the files of a list; NotFoundError names one that the image does not have."""
    for each in listed:
        path = os.fsdecode(each.path)
        found = files.find(path)
        if found is None:
            raise NotFoundError(f"{path!r}: no such file in the image")
        for offset, size in each.ranges or [(0, found.size)]:
            chosen.add_file(found.nid, offset, size)
