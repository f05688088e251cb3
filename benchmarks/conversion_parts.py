"""What no conversion can do without, each part alone on one core: seconds of CPU.

The same libraries on the same bytes as the conversion's, without anything between them.
"""

from __future__ import annotations

import hashlib
import io
import resource
import time
from collections.abc import Callable, Iterable
from itertools import chain, repeat
from pathlib import Path
from typing import Any, NamedTuple

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
    gzipped, plain = _pieces(packed), _pieces(content)
    blobs: list[int] = []
    zstd = _seconds(lambda: blobs.extend(map(len, map(_compressed, plain))))
    digests = _seconds(lambda: _digest(plain))
    written = repeat(bytes(_PIECE), sum(blobs) // _PIECE)
    hashes = _seconds(lambda: _hash(chain(gzipped, plain, written)))
    gunzip = _seconds(lambda: _gunzip(b"".join(gzipped)))
    return Parts(gunzip, hashes, digests, zstd)


def _seconds(work: Callable[[], object]) -> float:
    begun = time.thread_time()
    work()
    return time.thread_time() - begun


def _pieces(path: Path) -> list[bytes]:
    with path.open("rb") as file:
        return list(iter(lambda: file.read(_PIECE), b""))


def _compressed(piece: bytes) -> bytes:
    return codec.compress(Compressor.ZSTD, piece)


def _hash(pieces: Iterable[bytes]) -> None:
    sha256 = hashlib.sha256()
    for piece in pieces:
        sha256.update(piece)


def _digest(pieces: Iterable[bytes]) -> None:
    for piece in pieces:
        codec.digest(Digester.BLAKE3, piece)


def _gunzip(data: bytes) -> None:
    opened: Any = igzip.IGzipFile  # it has no types
    with opened(fileobj=io.BytesIO(data)) as content:
        while content.read(_PIECE):
            pass


def cpu_of_children() -> float:
    """Seconds, of those that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
