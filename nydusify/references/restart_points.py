"""Where the content of a compressed layer can be entered: before a deflate block, at a zstd frame.

A gzip file is entered with the 32 KiB of content before the place as dictionary; the library
`indexed_gzip` finds the places and keeps the dictionaries, in its own file format,
GZIDX. A zstd frame needs nothing but its beginning.
"""

from __future__ import annotations

import mmap
from dataclasses import dataclass, field
from pathlib import Path
from struct import Struct
from typing import NamedTuple

import zstandard

from fs.format.errors import FormatError, local_errors
from fs.tar.stream import Readable
from nydusify.references.gzip_index import WINDOW, IndexProcess, build_index

#: As dense as that (bytes of content), so that slices end close behind what they are for …
_SPACING = 256 << 10
#: … but no more points than these, whose dictionaries are in memory: 256 MiB.
_MOST = 8192
#: Layers are rarely compressed better.
_RATIO = 4
#: Not worth a process (bytes of a layer).
_SMALL = 2 << 20
_PIECE = 256 << 10
#: Bytes of a zstd frame that are fed at a time: no more than 64 MiB can come of them, and
#: no more are handed back when the frame ends within them.
_FED = 2 << 10
#: A point is noted for each of them.
_MOST_FRAMES = 1 << 20
#: A frame is told by so many bytes, or begins a skippable one.
_FRAME_HEAD = 8
_MAX_ZSTD_WINDOW = 128 << 20

# magic, version, flags, size of the file, of its content, spacing, window, number of points
_GZIDX = Struct("<5s2B2Q3I")
# offset in the file, in its content, bits before the offset, whether there is a dictionary
_POINT = Struct("<2Q2B")


class Point(NamedTuple):
    """`bits` of the byte before `in_offset` belong to what begins here."""

    in_offset: int
    out_offset: int
    bits: int = 0
    dictionary: bytes | memoryview = b""


@dataclass
class RestartPoints:
    """Ascending; the first one is where the content begins. Sizes of the file and its content."""

    in_size: int = 0
    out_size: int = 0
    points: list[Point] = field(default_factory=list)


class GzipPoints:
    """Those of the gzip file `path` of `size` bytes; they are looked for from now on."""

    def __init__(self, path: Path, size: int) -> None:
        self._path = path
        self._index = path.with_suffix(".index")
        self._spacing = max(_SPACING, size * _RATIO // _MOST)
        self._process: IndexProcess | None = None
        if size > _SMALL:
            self._process = IndexProcess(path, self._spacing, self._index)

    def found(self) -> RestartPoints:
        """All of them; FormatError."""
        if self._process:
            self._process.finish()
        else:
            build_index(self._path, self._spacing, self._index)
        with local_errors(self._index):
            with self._index.open("rb") as file:
                mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            self._index.unlink()
        return _unpack(memoryview(mapping), str(self._path))

    def close(self) -> None:
        if self._process:
            self._process.close()
        self._index.unlink(missing_ok=True)


def _unpack(view: memoryview, where: str) -> RestartPoints:
    magic, version, _flags, in_size, out_size, _spacing, window, count = _GZIDX.unpack_from(view)
    if (magic, window) != (b"GZIDX", WINDOW) or version > 1:
        raise FormatError("an index of another format than expected", where)
    at = _GZIDX.size + count * _POINT.size
    points = []
    for fields in _POINT.iter_unpack(view[_GZIDX.size : at]):
        in_offset, out_offset, bits, has_dictionary = fields
        dictionary: bytes | memoryview = b""
        if has_dictionary:
            dictionary = view[at : at + WINDOW]
            at += WINDOW
        points.append(Point(in_offset, out_offset, bits, dictionary))
    return RestartPoints(in_size, out_size, points)


class FrameDecoder:
    """Decodes a zstd layer, and notes where its frames begin in `found`."""

    def __init__(self, raw: Readable) -> None:
        self.found = RestartPoints()
        self._raw = raw
        self._decompressor = zstandard.ZstdDecompressor(max_window_size=_MAX_ZSTD_WINDOW)
        self._frame: zstandard.ZstdDecompressionObj | None = None
        self._skipped = 0
        self._rest = memoryview(b"")
        self._ready = bytearray()

    def read(self, size: int) -> bytes:
        """The next `size` bytes of content, fewer only at the end; zstandard.ZstdError."""
        while len(self._ready) < size and self._advance():
            pass
        block = bytes(self._ready[:size])
        del self._ready[:size]
        return block

    def _advance(self) -> bool:
        """Decode some more; False at the end."""
        if not self._rest:
            self._rest = memoryview(self._raw.read(_PIECE))
        if not self._rest:
            if self._frame is not None or self._skipped:
                raise zstandard.ZstdError("cut short in a frame")
            return False
        if self._frame is None and not self._skipped:
            while len(self._rest) < _FRAME_HEAD and (more := self._raw.read(_PIECE)):
                self._rest = memoryview(bytes(self._rest) + more)
            self._begin(self._rest)
        used = self._take(self._rest)
        self._rest = self._rest[used:]
        self.found.in_size += used
        return True

    def _begin(self, data: memoryview) -> None:
        """A frame begins; skippable ones have no content."""
        if bytes(data[1:4]) == b"\x2a\x4d\x18" and data[0] & 0xF0 == 0x50:
            self._skipped = _FRAME_HEAD + int.from_bytes(data[4:_FRAME_HEAD], "little")
        else:
            if len(self.found.points) >= _MOST_FRAMES:
                raise zstandard.ZstdError(f"more than {_MOST_FRAMES} frames")
            self.found.points.append(Point(self.found.in_size, self.found.out_size))
            self._frame = self._decompressor.decompressobj()

    def _take(self, data: memoryview) -> int:
        """Pass over or decode what of `data` is in this frame: how many bytes of it."""
        if self._frame is None:
            used = min(self._skipped, len(data))
            self._skipped -= used
            return used
        fed = data[:_FED]
        decoded = self._frame.decompress(fed)
        self._ready += decoded
        self.found.out_size += len(decoded)
        if not self._frame.eof:
            return len(fed)
        used = len(fed) - len(self._frame.unused_data)
        self._frame = None
        return used
