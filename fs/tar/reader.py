"""Reads the tar format as layers have it: USTAR, GNU and PAX with their extensions.

The reader yields every entry once, in order, and trusts nothing: checksums, sizes
and records are checked, headers that carry names or attributes are bounded, and
whatever is wrong is a FormatError that names the layer and the offset in it.

Where tools differ this is as containerd's: header-only kinds have no content
whatever their size field says, times outside of what Linux stores are 0, and
names are bytes. As in POSIX, global PAX records hold for the entries after them.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from struct import Struct
from typing import Protocol

from fs.format.errors import FormatError
from fs.tar.entry import HARD_LINK, Entry
from fs.tar.pax import (
    PaxRecords,
    parse_pax,
    parse_pax_time,
    parse_pax_xattrs,
)
from fs.tar.plain import PlainHeaders
from fs.tar.sparse import gnu_segments, pax_segments, pax_segments_in_data

_BLOCK = 512
_ZERO_BLOCK = bytes(_BLOCK)
#: Of a PAX header or a GNU long name (as in Go's archive/tar).
_MAX_EXTENSION = 1 << 20
_MAX_SIZE = (1 << 63) - 1
_MAX_ID = (1 << 32) - 2
_MAX_MAJOR, _MAX_MINOR = (1 << 12) - 1, (1 << 20) - 1
_MAX_SECONDS = ((1 << 63) - 1) // 10**9

# name, mode, uid, gid, size, mtime, checksum, kind, target, magic, (owners), major, minor, rest
_HEADER = Struct("<100s8s8s8s12s12s8sc100s8s64x8s8s167s")
assert _HEADER.size == _BLOCK

_KINDS = {
    b"0": stat.S_IFREG,
    b"\0": stat.S_IFREG,
    b"7": stat.S_IFREG,
    b"S": stat.S_IFREG,
    b"1": HARD_LINK,
    b"2": stat.S_IFLNK,
    b"3": stat.S_IFCHR,
    b"4": stat.S_IFBLK,
    b"5": stat.S_IFDIR,
    b"6": stat.S_IFIFO,
}


class TarStream(Protocol):
    """Where the reader takes bytes from: a layer, or a file that can seek."""

    name: str
    offset: int

    def take(self, size: int) -> bytes: ...
    def take_exactly(self, size: int) -> bytes: ...
    def skip(self, size: int) -> None: ...
    def where(self) -> str: ...


class TarReader:
    """Iterate for the entries; `read` gives the content of the entry just yielded.

    `complete` tells, after the last entry, whether the archive had its end mark.
    """

    def __init__(self, stream: TarStream) -> None:
        self.complete = False
        self._stream = stream
        self._unread = 0
        self._padding = 0
        self._globals = PaxRecords({}, [])
        self._plain = PlainHeaders()

    def read(self, size: int) -> bytes:
        """The next `size` packed bytes of the entry's content, all of them."""
        if size > self._unread:
            raise FormatError("entry has less content than its size", self._stream.where())
        self._unread -= size
        return self._stream.take_exactly(size)

    def __iter__(self) -> Iterator[Entry]:
        stream, plain = self._stream, self._plain
        while True:
            if rest := self._unread + self._padding:
                stream.skip(rest)
                self._unread = self._padding = 0
            start = stream.offset
            header = stream.take(_BLOCK)
            whole = len(header) == _BLOCK and not self._globals.values
            entry = plain.entry(header, start) if whole else None
            if entry is not None:
                self._unread, self._padding = entry.size, -entry.size % _BLOCK
                yield entry
                continue
            entry = self._next_entry(header, start)
            if entry is None:
                return
            yield entry

    def _next_entry(self, header: bytes, start: int) -> Entry | None:
        """The entry that begins with `header`, with all its extension headers; None at the end."""
        extensions: dict[bytes, bytes] = {}
        while True:
            if len(header) < _BLOCK or header == _ZERO_BLOCK:
                self._end(header, extensions, start)
                return None
            fields = _HEADER.unpack(header)
            where = f"{self._stream.name}, entry at offset {start}"
            _check_sum(header, fields[6], where)
            kind = fields[7]
            if kind in (b"x", b"L", b"K"):
                extensions[kind] = self._extension(fields, where)
            elif kind == b"g":
                self._set_globals(self._extension(fields, where), where)
            else:
                return self._entry(header, fields, extensions, start)
            header = self._stream.take(_BLOCK)

    def _end(self, header: bytes, extensions: dict[bytes, bytes], start: int) -> None:
        if 0 < len(header) < _BLOCK:
            raise FormatError("tar archive ends in the middle of a header", self._stream.where())
        if extensions:
            raise FormatError("extension header without an entry", self._at(start))
        self.complete = header == _ZERO_BLOCK
        second = self._stream.take(_BLOCK) if header else b""
        if second.strip(b"\0"):
            raise FormatError("one zero block between entries", self._at(start))

    def _at(self, start: int) -> str:
        return f"{self._stream.name}, entry at offset {start}"

    def _extension(self, fields: tuple[bytes, ...], where: str) -> bytes:
        size = _number(fields[4], "size", where)
        if not 0 <= size <= _MAX_EXTENSION:
            raise FormatError(f"extension header of {size} bytes, at most {_MAX_EXTENSION}", where)
        content = self._stream.take_exactly(size)
        self._stream.skip(-size % _BLOCK)
        return content

    def _set_globals(self, content: bytes, where: str) -> None:
        fresh = parse_pax(content, where)
        for key in fresh.values:
            if key in (b"path", b"linkpath", b"size") or key.startswith(b"GNU.sparse."):
                raise FormatError(f"{key.decode()} in a global header", where)
        self._globals = PaxRecords({**self._globals.values, **fresh.values}, [])

    def _entry(
        self, header: bytes, fields: tuple[bytes, ...], extensions: dict[bytes, bytes], start: int
    ) -> Entry:
        where = self._at(start)
        entry = _plain_entry(fields, where)
        entry.offset = start
        if b"L" in extensions:
            entry.path = extensions[b"L"].partition(b"\0")[0]
        if b"K" in extensions:
            entry.target = extensions[b"K"].partition(b"\0")[0]
        records = self._globals
        if b"x" in extensions:
            own = parse_pax(extensions[b"x"], where)
            records = PaxRecords({**records.values, **own.values}, own.sparse_pairs)
        if records.values:
            _apply_pax(entry, records.values, where)
        if entry.kind == stat.S_IFREG:
            self._locate_content(entry, header, records, where)
        _check_entry(entry, where)
        return entry

    def _locate_content(self, entry: Entry, header: bytes, records: PaxRecords, where: str) -> None:
        """Set what follows the header; sparse files get their segments and true size."""
        packed = entry.size
        if not 0 <= packed <= _MAX_SIZE:
            raise FormatError(f"size {packed}", where)
        self._unread, self._padding = packed, -packed % _BLOCK
        if header[156:157] == b"S":
            extra = lambda: self._stream.take_exactly(_BLOCK)  # noqa: E731
            entry.segments, entry.size = gnu_segments(header, extra, _number, where)
        elif records.values.get(b"GNU.sparse.major") == b"1":
            entry.segments, entry.size = pax_segments_in_data(records.values, self.read, where)
        elif b"GNU.sparse.size" in records.values:
            entry.segments, entry.size = pax_segments(records, where)
        entry.packed_size = self._unread
        if entry.segments is not None:
            if b"GNU.sparse.name" in records.values:
                entry.path = records.values[b"GNU.sparse.name"]
            if sum(length for _, length in entry.segments) != self._unread:
                raise FormatError("sparse map and size of the content differ", where)


def _plain_entry(fields: tuple[bytes, ...], where: str) -> Entry:
    """What the header block alone says."""
    name, mode, uid, gid, size, mtime, _, flag, target, magic, major, minor, rest = fields
    kind = _KINDS.get(flag)
    if kind is None:
        raise FormatError(f"entries of type {flag!r} are not supported", where)
    path = name.partition(b"\0")[0]
    prefix = _prefix(magic, rest)
    if prefix:
        path = prefix + b"/" + path
    if flag == b"\0" and path.endswith(b"/"):
        kind = stat.S_IFDIR
    entry = Entry(
        path=path,
        kind=kind,
        mode=_number(mode, "mode", where) & 0o7777,
        uid=_number(uid, "uid", where),
        gid=_number(gid, "gid", where),
        mtime=_number(mtime, "mtime", where),
        size=_number(size, "size", where) if kind == stat.S_IFREG else 0,
        target=target.partition(b"\0")[0],
    )
    if kind in (stat.S_IFCHR, stat.S_IFBLK):
        entry.rdev = _device(_number(major, "major", where), _number(minor, "minor", where), where)
    return entry


def _prefix(magic: bytes, rest: bytes) -> bytes:
    """The directory part that USTAR keeps apart; GNU and old headers have other things there."""
    if magic[:6] != b"ustar\0":
        return b""
    is_star = rest[-4:] == b"tar\0"
    return rest[: 131 if is_star else 155].partition(b"\0")[0]


def _apply_pax(entry: Entry, values: dict[bytes, bytes], where: str) -> None:
    entry.path = values.get(b"path", entry.path)
    entry.target = values.get(b"linkpath", entry.target)
    if b"uid" in values:
        entry.uid = _decimal(values[b"uid"], "uid", where)
    if b"gid" in values:
        entry.gid = _decimal(values[b"gid"], "gid", where)
    if b"size" in values and entry.kind == stat.S_IFREG:
        entry.size = _decimal(values[b"size"], "size", where)
    if b"mtime" in values:
        entry.mtime, entry.mtime_nsec = parse_pax_time(values[b"mtime"], where)
    entry.xattrs = parse_pax_xattrs(values)


def _check_entry(entry: Entry, where: str) -> None:
    if b"\0" in entry.path or b"\0" in entry.target:
        raise FormatError("NUL in a name", where)
    if not (0 <= entry.uid <= _MAX_ID and 0 <= entry.gid <= _MAX_ID):
        raise FormatError(f"owner {entry.uid}:{entry.gid}", where)
    if entry.size > _MAX_SIZE:
        raise FormatError(f"size {entry.size}", where)
    if not 0 <= entry.mtime <= _MAX_SECONDS:
        entry.mtime = entry.mtime_nsec = 0


def _check_sum(header: bytes, field: bytes, where: str) -> None:
    """The sum of all bytes with the checksum field as blanks; old tools summed signed bytes."""
    expected = _number(field, "checksum", where)
    blanked = sum(header) - sum(field) + 8 * 0x20
    if blanked != expected:
        high = sum(byte >= 0x80 for byte in header[:148] + header[156:])
        if blanked - 256 * high != expected:
            raise FormatError("header checksum is wrong", where)


def _number(field: bytes, what: str, where: str) -> int:
    """Octal text, or GNU's base-256 (which may be negative)."""
    if field[0] & 0x80:
        if field[0] == 0xFF:
            return int.from_bytes(field, "big", signed=True)
        return int.from_bytes(bytes((field[0] & 0x7F,)) + field[1:], "big")
    digits = field.strip(b" \0")
    if not digits:
        return 0
    try:
        if digits.isdigit():
            return int(digits, 8)
    except ValueError:
        pass
    raise FormatError(f"{what} is not a number: {field!r}", where)


def _decimal(text: bytes, what: str, where: str) -> int:
    if not text.isdigit() or len(text) > 20:
        raise FormatError(f"PAX {what} is not a number: {text[:40]!r}", where)
    return int(text)


def _device(major: int, minor: int, where: str) -> int:
    if not (0 <= major <= _MAX_MAJOR and 0 <= minor <= _MAX_MINOR):
        raise FormatError(f"device number {major}:{minor}", where)
    return os.makedev(major, minor)
