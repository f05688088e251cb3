"""The layer of a Nydus image that carries its bootstrap: a small tar, compressed or not.

Only `image/image.boot` and `image/<hex>.blob.meta` are taken from it, each under
its own bare name, so nothing in the archive can choose a path. Sizes are
bounded before anything is written.
"""

from __future__ import annotations

import os
import re
import stat
from concurrent.futures import ThreadPoolExecutor
from typing import BinaryIO

from fs.format.errors import FormatError
from fs.tar.entry import Entry, pieces
from fs.tar.reader import TarReader
from fs.tar.stream import LayerStream

#: Bytes of the layer, packed or not: a bootstrap of some ten million files.
MAX_LAYER = 4 << 30
BOOTSTRAP = "image.boot"
_WANTED = re.compile(rb"(?:\./)?image/(image\.boot|[0-9a-f]{64}\.blob\.meta)\Z")
_MAX_ENTRIES = 4096
_PIECE = 1 << 20


def extract(raw: BinaryIO, directory: str, where: str) -> None:
    """Write the wanted files of the layer into `directory`, having read `raw` to its very end.

    FormatError when it is no such layer or too large; what `raw` raises (a wrong
    digest among it) passes.
    """
    with ThreadPoolExecutor(1) as pool:
        stream = LayerStream(raw, where, pool)
        try:
            _extract_entries(TarReader(_Capped(stream)), directory, where)
            _drain(stream)
        finally:
            stream.stop()
    while raw.read(_PIECE):
        pass
    if not os.path.exists(os.path.join(directory, BOOTSTRAP)):
        raise FormatError(f"has no image/{BOOTSTRAP}", where)


def _extract_entries(reader: TarReader, directory: str, where: str) -> None:
    for count, entry in enumerate(reader, 1):
        if count > _MAX_ENTRIES:
            raise FormatError(f"more than {_MAX_ENTRIES} entries", where)
        match = _WANTED.match(entry.path)
        if match and entry.kind == stat.S_IFREG:
            _write(entry, reader, os.path.join(directory, match[1].decode()), where)


def _write(entry: Entry, reader: TarReader, path: str, where: str) -> None:
    if entry.size > MAX_LAYER:
        raise FormatError(f"{os.path.basename(path)} of {entry.size} bytes", where)
    try:
        with open(path, "xb") as file:
            for piece in pieces(entry, reader.read, _PIECE):
                file.write(bytes(piece) if isinstance(piece, int) else piece)
            file.flush()
            os.fsync(file.fileno())
    except FileExistsError:
        raise FormatError(f"has {os.path.basename(path)} twice", where) from None


def _drain(stream: LayerStream) -> None:
    capped = _Capped(stream)
    while capped.take(_PIECE):
        pass


class _Capped:
    """A layer of which no more than MAX_LAYER bytes are taken."""

    def __init__(self, stream: LayerStream) -> None:
        self.name = stream.name
        self._stream = stream

    @property
    def offset(self) -> int:
        return self._stream.offset

    @offset.setter
    def offset(self, value: int) -> None:
        self._stream.offset = value

    def take(self, size: int) -> bytes:
        self._check(size)
        return self._stream.take(size)

    def take_exactly(self, size: int) -> bytes:
        self._check(size)
        return self._stream.take_exactly(size)

    def skip(self, size: int) -> None:
        self._check(size)
        self._stream.skip(size)

    def where(self) -> str:
        return self._stream.where()

    def _check(self, size: int) -> None:
        if self._stream.offset + size > MAX_LAYER:
            raise FormatError(f"larger than {MAX_LAYER} bytes", self.name)
