"""eStargz and zstd:chunked layers: tars that carry a table of contents of themselves.

Of what they add to a layer nothing is a file of the image: the table (the entry
`stargz.index.json` of eStargz; frames that no tar shows in zstd:chunked) and the landmark
that stands behind the files to be read first. The table must have the digest that the
manifest gives it, or lazy and full pulls of one image would show different trees.

The tar itself, whose digest the configuration has, stays the truth about the files.
"""

from __future__ import annotations

import hashlib
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import BinaryIO, Protocol

from fs.format.errors import FormatError, VerifyError
from fs.registry.digest import check_digest
from fs.tar.entry import Entry

TABLE_NAME = b"stargz.index.json"
_LANDMARK = b".prefetch.landmark"
_NO_LANDMARK = b".no.prefetch.landmark"

_TABLE_DIGEST = "containerd.io/snapshot/stargz/toc.digest"
#: What podman writes, and what stargz-snapshotter does.
_CHUNKED = ("io.github.containers.zstd-chunked.", "io.containers.zstd-chunked.")
_POSITION = re.compile(r"([0-9]{1,18}):([0-9]{1,18}):[0-9]{1,18}:[0-9]{1,3}")

#: An empty gzip member whose extra field ends so, and the end of a skippable zstd frame.
_GZIP_FOOTERS = {51: b"STARGZ", 47: b"STARGZ", 46: b"STARGZEXTERNALTOC"}
_ZSTD_FOOTER = b"GnUlInUx"
_DEFLATE_END = 13  # bytes behind the extra field


@dataclass(frozen=True)
class Table:
    """What is known of a layer's table. Digests are "" where nobody has said them.

    `digest` is of the entry in the tar, or of a frame's content; `frame_digest` of `frame`, bytes
    of the layer as stored.
    """

    digest: str = ""
    frame: range = range(0)
    frame_digest: str = ""

    @property
    def is_trusted(self) -> bool:
        """Whether the manifest says what the table must be."""
        return bool(self.digest or self.frame_digest)


class _Reader(Protocol):
    def __iter__(self) -> Iterator[Entry]: ...

    def read(self, size: int) -> bytes: ...


def table_of(annotations: Mapping[str, str], where: str) -> Table | None:
    """The table that a layer's annotations tell of, None for an ordinary layer; FormatError."""
    digest = annotations.get(_TABLE_DIGEST, "")
    if digest:
        check_digest(digest, f"{where}: {_TABLE_DIGEST}")
    for prefix in _CHUNKED:
        frame_digest = annotations.get(f"{prefix}manifest-checksum")
        if frame_digest:
            check_digest(frame_digest, f"{where}: {prefix}manifest-checksum")
            position = annotations.get(f"{prefix}manifest-position", "")
            match = _POSITION.fullmatch(position)
            if not match:
                raise FormatError(f"{position[:80]!r} is no position of a table", where)
            start = int(match[1])
            return Table(digest, range(start, start + int(match[2])), frame_digest)
    return Table(digest) if digest else None


def table_of_file(file: BinaryIO) -> Table | None:
    """The same, by the end of a file that can seek, for which nobody has a digest."""
    size = file.seek(0, 2)
    file.seek(max(0, size - 64))
    end = file.read(64)
    file.seek(0)
    if end.endswith(_ZSTD_FOOTER):
        return Table()
    for length, mark in _GZIP_FOOTERS.items():
        footer = end[-length:]
        if footer.startswith(b"\x1f\x8b") and footer[:-_DEFLATE_END].endswith(mark):
            return Table()
    return None


class ImageEntries:
    """The entries of such a layer that are files of the image.

    Once all have been seen, `startup` has the paths of the files that its maker put in front.
    """

    def __init__(self, reader: _Reader, table: Table, startup: list[bytes], name: str) -> None:
        self._reader = reader
        self._table = table
        self._startup = startup
        self._name = name

    def __iter__(self) -> Iterator[Entry]:
        files: list[bytes] = []
        for entry in self._reader:
            path = entry.path.removeprefix(b"./").removeprefix(b"/")
            if entry.kind == stat.S_IFREG and path == TABLE_NAME:
                self._check(entry)
            elif entry.kind == stat.S_IFREG and path in (_LANDMARK, _NO_LANDMARK):
                self._startup[:] = files if path == _LANDMARK else ()
            else:
                if entry.kind == stat.S_IFREG and entry.size:
                    files.append(entry.path)
                yield entry

    def read(self, size: int) -> bytes:
        return self._reader.read(size)

    def _check(self, entry: Entry) -> None:
        if not self._table.digest:
            return
        found = hashlib.new(self._table.digest.partition(":")[0])
        left = entry.packed_size
        while left:
            piece = self._reader.read(min(left, 1 << 20))
            found.update(piece)
            left -= len(piece)
        _compare(self._table.digest, found.hexdigest(), self._name)


class FrameCheck:
    """Takes a layer's stored bytes in order, and checks the frame that holds its table."""

    def __init__(self, table: Table, name: str) -> None:
        self._table = table
        self._name = name
        self._at = 0
        self._hash = hashlib.new(table.frame_digest.partition(":")[0] or "sha256")

    def update(self, data: bytes) -> None:
        """VerifyError with the bytes that end the frame, if it is not the promised one."""
        frame, start = self._table.frame, self._at
        self._at += len(data)
        if start < frame.stop and self._at > frame.start:
            self._hash.update(data[max(0, frame.start - start) : frame.stop - start])
            if self._at >= frame.stop:
                _compare(self._table.frame_digest, self._hash.hexdigest(), self._name)

    def finish(self) -> None:
        if self._at < self._table.frame.stop:
            raise VerifyError(f"{self._name}: ends before its table of contents")


def _compare(promised: str, found: str, name: str) -> None:
    if promised.partition(":")[2] != found:
        raise VerifyError(f"{name}: its table of contents is not {promised}, which was promised")
