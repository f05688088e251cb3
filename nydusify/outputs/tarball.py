"""Entries written as a tar archive: PAX where a field needs it, the same for the same entries."""

from __future__ import annotations

import os
import stat
import tarfile
from collections.abc import Callable

from fs.format.errors import FormatError
from fs.tar.entry import HARD_LINK, Entry, pieces
from nydusify.outputs.hashing import Sink

_BLOCK = 512
_RECORD = 10240
_PIECE = 1 << 20
_ZEROS = bytes(_PIECE)
_TYPES = {
    HARD_LINK: tarfile.LNKTYPE,
    stat.S_IFREG: tarfile.REGTYPE,
    stat.S_IFLNK: tarfile.SYMTYPE,
    stat.S_IFCHR: tarfile.CHRTYPE,
    stat.S_IFBLK: tarfile.BLKTYPE,
    stat.S_IFDIR: tarfile.DIRTYPE,
    stat.S_IFIFO: tarfile.FIFOTYPE,
}


class TarWriter:
    """An archive in the making. `left_out` counts sockets, which tar has no type for."""

    def __init__(self, sink: Sink) -> None:
        self.left_out = 0
        self._sink = sink
        self._size = 0

    def add(self, entry: Entry, read: Callable[[int], bytes]) -> None:
        """One entry; `read` gives its packed content. Holes are written as zeros."""
        if entry.kind not in _TYPES:
            self.left_out += 1
            return
        self._write(_header(entry))
        if entry.kind != stat.S_IFREG:
            return
        for piece in pieces(entry, read, _PIECE):
            self._write(_ZEROS[:piece] if isinstance(piece, int) else piece)
        self._write(bytes(-entry.size % _BLOCK))

    def finish(self) -> None:
        """The end mark, filled up to a record as tar does."""
        self._write(bytes(2 * _BLOCK))
        self._write(bytes(-self._size % _RECORD))

    def _write(self, data: bytes) -> None:
        self._sink.write(data)
        self._size += len(data)


def _header(entry: Entry) -> bytes:
    path = entry.path or b"./"
    if entry.kind == stat.S_IFDIR and not path.endswith(b"/"):
        path += b"/"
    member = tarfile.TarInfo(os.fsdecode(path))
    member.type = _TYPES[entry.kind]
    member.mode = entry.mode
    member.uid, member.gid = entry.uid, entry.gid
    member.size = entry.size if entry.kind == stat.S_IFREG else 0
    member.mtime = entry.mtime
    member.linkname = os.fsdecode(entry.target)
    member.devmajor, member.devminor = os.major(entry.rdev), os.minor(entry.rdev)
    records: dict[str, str] = {}
    if entry.mtime_nsec:
        records["mtime"] = f"{entry.mtime}.{entry.mtime_nsec:09}"
    for name in sorted(entry.xattrs):
        if b"=" in name:
            raise FormatError(f"tar has no extended attribute {name!r}", os.fsdecode(path))
        key = f"SCHILY.xattr.{os.fsdecode(name)}"
        records[key] = os.fsdecode(entry.xattrs[name])
    member.pax_headers = records
    return member.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
