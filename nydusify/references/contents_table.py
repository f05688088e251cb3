"""The table of contents of an eStargz or zstd:chunked layer, read by ranges of the layer.

Only a table with a digest in the manifest is taken, so it is as much the image's word as the
layer's own digest. It says where each file's content is stored, and what it hashes to.
The format is described by stargz-snapshotter; zstd:chunked has the same entries.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import re
import stat
import tarfile
import zlib
from bisect import bisect_right
from calendar import timegm
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import zstandard

from fs.format.blobtable import Compressor
from fs.format.errors import FormatError, VerifyError
from fs.tar.entry import HARD_LINK, Entry
from nydusify.layers.estargz import TABLE_NAME, Table

ReadRange = Callable[[int, int], bytes]

#: Of the table, stored and decoded (bytes); JSON takes some ten times as much in memory.
_MAX_STORED = 64 << 20
_MAX_DECODED = 128 << 20
#: Behind the extra field of a footer: an empty deflate block, checksum and length.
_FOOTER = 51
_GZIP = 31
_POSITION = re.compile(rb"([0-9a-f]{16})STARGZ.{13}\Z", re.DOTALL)
_TIME = re.compile(r"(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)(?:\.(\d{1,9}))?Z")
_KINDS = {
    "dir": stat.S_IFDIR,
    "reg": stat.S_IFREG,
    "symlink": stat.S_IFLNK,
    "hardlink": HARD_LINK,
    "char": stat.S_IFCHR,
    "block": stat.S_IFBLK,
    "fifo": stat.S_IFIFO,
}
#: What JSON has where a name was no UTF-8: the name is lost.
_REPLACEMENT = "\ufffd"
_MAX_NUMBER = 1 << 62
_Malformed = (ValueError, TypeError, LookupError, AttributeError, OverflowError, RecursionError)


class Unusable(Exception):
    """Nothing is wrong, but such a table does not tell enough: the layer has to be read."""


class Piece(NamedTuple):
    """A part of a file, from `at` on: `size` bytes from `within` on of what [start, end) holds.

    `start` and `end` are offsets in the layer: of a gzip member, or of zstd frames.
    """

    at: int
    size: int
    start: int
    end: int
    within: int
    digest: bytes


@dataclass(slots=True)
class ListedEntry(Entry):
    """`pieces` are of a file's content, in order and without gaps; `whole` is its SHA-256."""

    pieces: list[Piece] = field(default_factory=list)
    whole: bytes = b""


@dataclass(frozen=True)
class ContentsTable:
    entries: list[ListedEntry]
    compressor: Compressor


def read_contents_table(read: ReadRange, table: Table, size: int, where: str) -> ContentsTable:
    """That of a layer of `size` bytes; Unusable, FormatError, VerifyError."""
    if table.frame_digest:
        start, raw = _read_frame(read, table, where)
        compressor = Compressor.ZSTD
    elif table.digest:
        start, raw = _read_member(read, table, size, where)
        compressor = Compressor.GZIP
    else:
        raise Unusable
    return parse_contents_table(raw, start, compressor, where)


def parse_contents_table(raw: bytes, end: int, compressor: Compressor, where: str) -> ContentsTable:
    """From JSON; `end` is where the layer's content ends. Unusable, FormatError."""
    try:
        return ContentsTable(list(_entries(json.loads(raw)["entries"], end)), compressor)
    except _Malformed as error:
        raise FormatError(f"its table of contents is malformed ({error!r:.80})", where) from error


def _read_frame(read: ReadRange, table: Table, where: str) -> tuple[int, bytes]:
    """Where a zstd:chunked layer's table begins, and the table."""
    length = len(table.frame)
    if not 0 < length <= _MAX_STORED:
        raise Unusable
    packed = read(table.frame.start, length)
    _check(table.frame_digest, packed, where)
    try:
        stream = zstandard.ZstdDecompressor().stream_reader(packed)
        raw = stream.read(_MAX_DECODED + 1)
    except zstandard.ZstdError as error:
        raise FormatError(f"its table of contents does not decode: {error}", where) from error
    if len(raw) > _MAX_DECODED:
        raise Unusable
    return table.frame.start, raw


def _read_member(read: ReadRange, table: Table, size: int, where: str) -> tuple[int, bytes]:
    """Where an eStargz layer's table begins, and the table: a tar with one file in it."""
    footer = read(max(0, size - _FOOTER), min(size, _FOOTER))
    found = _POSITION.search(footer)
    if not found:
        raise Unusable
    start = int(found[1], 16)
    if not 0 < size - start <= _MAX_STORED:
        raise Unusable
    try:
        tar = zlib.decompressobj(_GZIP).decompress(read(start, size - start), _MAX_DECODED + 1)
    except zlib.error as error:
        raise FormatError(f"its table of contents does not decode: {error}", where) from error
    if len(tar) > _MAX_DECODED:
        raise Unusable
    try:
        with tarfile.open(fileobj=io.BytesIO(tar), mode="r:") as archive:
            member = archive.next()
            content = archive.extractfile(member) if member and member.isreg() else None
            if member is None or content is None or member.name != TABLE_NAME.decode():
                raise FormatError("no table of contents where its footer says", where)
            raw = content.read()
    except (tarfile.TarError, ValueError, EOFError, OSError) as error:
        raise FormatError(f"its table of contents is no tar: {error}", where) from error
    _check(table.digest, raw, where)
    return start, raw


def _check(promised: str, data: bytes, where: str) -> None:
    algorithm, _, digest = promised.partition(":")
    if hashlib.new(algorithm, data).hexdigest() != digest:
        raise VerifyError(f"{where}: its table of contents is not {promised}, which was promised")


def _entries(listed: list[dict[str, Any]], end: int) -> Iterator[ListedEntry]:
    """`end` is where the layer's content ends."""
    kept = [item for item in listed if item["type"] in ("reg", "chunk")]
    starts = sorted({_number(item, "offset") for item in kept if "offset" in item} | {end})
    times: dict[str, tuple[int, int]] = {}
    place = 0
    while place < len(listed):
        item = listed[place]
        place += 1
        entry = _entry(item, times)
        if entry.size:
            chunks = [item]
            while place < len(listed) and listed[place]["type"] == "chunk":
                chunks.append(listed[place])
                place += 1
            _fill(entry, chunks, starts)
        yield entry


def _entry(item: dict[str, Any], times: dict[str, tuple[int, int]]) -> ListedEntry:
    kind = _KINDS[item["type"]]
    text = item.get("modtime", "")
    mtime = times.get(text)
    if mtime is None:
        mtime = times[text] = _time(text)
    size = _number(item, "size") if kind == stat.S_IFREG else 0
    return ListedEntry(
        _name(item["name"]),
        kind,
        mode=_number(item, "mode") & 0o7777,
        uid=_number(item, "uid"),
        gid=_number(item, "gid"),
        mtime=mtime[0],
        mtime_nsec=mtime[1],
        size=size,
        packed_size=size,
        rdev=os.makedev(_number(item, "devMajor"), _number(item, "devMinor")),
        target=_name(item.get("linkName", "")),
        xattrs={
            _name(name): base64.b64decode(value, validate=True)
            for name, value in (item.get("xattrs") or {}).items()
        },
    )


def _fill(entry: ListedEntry, chunks: list[dict[str, Any]], starts: list[int]) -> None:
    """Give a file its pieces; ValueError if they are not its content, one after the other."""
    entry.whole = _digest(chunks[0].get("digest"))
    last = chunks[-1]
    at = 0
    for item in chunks:
        start = _number(item, "offset")
        size = _number(item, "chunkSize") or entry.size - at
        end = starts[bisect_right(starts, start)]
        if item is last and start < (told := _number(chunks[0], "endOffset")) < end:
            end = told
        if _number(item, "chunkOffset") != at or size <= 0 or at + size > entry.size:
            raise ValueError(f"chunk at {at} of {entry.path!r:.60}")
        digest = _digest(item.get("chunkDigest")) or (
            entry.whole if item is last and not at else b""
        )
        if not digest:
            raise Unusable
        entry.pieces.append(Piece(at, size, start, end, _number(item, "innerOffset"), digest))
        at += size
    if at != entry.size:
        raise ValueError(f"{at} of {entry.size} bytes of {entry.path!r:.60}")


def _number(item: dict[str, Any], key: str) -> int:
    value = item.get(key) or 0
    if type(value) is not int or not 0 <= value < _MAX_NUMBER:
        raise ValueError(f"{key} {value!r:.40}")
    return value


def _name(text: str) -> bytes:
    if _REPLACEMENT in text:
        raise Unusable
    return text.encode()


def _digest(text: str | None) -> bytes:
    """The SHA-256 that is told; nothing of another algorithm's."""
    algorithm, _, digest = (text or "").partition(":")
    raw = bytes.fromhex(digest) if algorithm == "sha256" else b""
    if raw and len(raw) != 32:
        raise ValueError(f"digest {text!r:.90}")
    return raw


def _time(text: str) -> tuple[int, int]:
    """Seconds and nanoseconds; what has no time, or the year 1, is of the epoch, as in a tar."""
    if not text or text.startswith("0001-"):
        return 0, 0
    found = _TIME.fullmatch(text)
    if not found:
        raise ValueError(f"time {text!r:.40}")
    *parts, fraction = found.groups()
    seconds = timegm((*map(int, parts), 0, 0, 0))
    return seconds, int((fraction or "").ljust(9, "0"))
