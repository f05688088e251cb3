"""What no conversion can do without, each part alone on one core: seconds of CPU.

The same libraries on the same bytes as the conversion's, without anything between them.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import repeat
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from isal import igzip

from fs.format import codec
from fs.format.blobtable import Compressor, Digester

_PIECE = 1 << 20


class Parts(NamedTuple):
    """Seconds. `hashes` are SHA-256: of layers as stored, of their content, and of blobs."""

    gunzip: float
    hashes: float
    digests: float
    zstd: float

    @property
    def sum(self) -> float:
        return self.gunzip + self.hashes + self.digests + self.zstd


def measured(packed: Path, content: Path) -> Parts:
    """Of layers one behind the other, gzip'd and not; the latter cut into pieces of 1 MiB."""
    sizes: list[int] = []
    with packed.open("rb") as gzipped, content.open("rb") as plain:
        reading = _seconds(lambda: _drain(_pieces(plain)))
        zstd = _seconds(lambda: sizes.extend(map(len, map(_compressed, _pieces(plain)))))
        digests = _seconds(lambda: _digest(_pieces(plain)))
        hashes = _seconds(lambda: _hash(_pieces(plain)))
        hashes += _seconds(lambda: _hash(_pieces(gzipped)))
        gunzip = _seconds(lambda: _gunzip(gzipped))
    hashes += _seconds(lambda: _hash(repeat(bytes(_PIECE), sum(sizes) // _PIECE)))
    return Parts(gunzip, hashes - reading, digests - reading, zstd - reading)


def _seconds(work: Callable[[], object]) -> float:
    begun = time.thread_time()
    work()
    return time.thread_time() - begun


def _pieces(file: BinaryIO) -> Iterator[bytes]:
    file.seek(0)
    while piece := file.read(_PIECE):
        yield piece


def _drain(pieces: Iterable[bytes]) -> None:
    for _ in pieces:
        pass


def _compressed(piece: bytes) -> bytes:
    return codec.compress(Compressor.ZSTD, piece)


def _hash(pieces: Iterable[bytes]) -> None:
    sha256 = hashlib.sha256()
    for piece in pieces:
        sha256.update(piece)


def _digest(pieces: Iterable[bytes]) -> None:
    for piece in pieces:
        codec.digest(Digester.BLAKE3, piece)


def _gunzip(file: BinaryIO) -> None:
    file.seek(0)
    opened: Any = igzip.IGzipFile  # it has no types
    with opened(fileobj=file) as content:
        while content.read(_PIECE):
            pass
