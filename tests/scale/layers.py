"""Tar layers too large to be held in memory, written fast and with contents that can be computed.

A 5 GiB file or half a million headers must cost the test less than what it tests.
"""

from __future__ import annotations

import random
import tarfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

MIB = 1 << 20
_MTIME = 1_700_000_000
_NAME = 100  # bytes of the name field
_CHECKSUM = slice(148, 156)


def write_files(
    out: BinaryIO,
    names: Iterable[bytes],
    size: int,
    fill: Callable[[bytes, int], bytes] | None = None,
) -> None:
    """Regular files of `size` bytes each, `content(name, size)` inside, or what `fill` gives."""
    template = _header("", size)
    for name in names:
        data = (fill or content)(name, size)
        out.write(_named(template, name) + data + bytes(-len(data) % tarfile.BLOCKSIZE))


def write_directory(out: BinaryIO, name: str) -> None:
    out.write(_header(name, 0, tarfile.DIRTYPE))


def write_end(out: BinaryIO) -> None:
    out.write(bytes(2 * tarfile.BLOCKSIZE))


def content(name: bytes, size: int) -> bytes:
    """What the file `name` has: of no two files the same, and compressible as text is."""
    return (name + b"\n" + bytes(range(256)) * (size // 256 + 1))[:size]


class LargeFile:
    """A file of `count` MiB, each of them another mix of pseudo-random and repeated bytes.

    Any byte of it can be told without making the file.
    """

    def __init__(self, count: int, noise: int = 64 << 10) -> None:
        self.size = count * MIB
        self._count = count
        self._noise = random.Random(count).randbytes(2 * noise)
        self._half = noise

    def write(self, out: BinaryIO, name: str) -> None:
        out.write(_header(name, self.size))
        for block in self._blocks(range(self._count)):
            out.write(block)

    def read(self, offset: int, length: int) -> bytes:
        end = min(offset + length, self.size)
        first = offset // MIB
        data = b"".join(self._blocks(range(first, -(-end // MIB))))
        return data[offset - first * MIB : end - first * MIB]

    def _blocks(self, numbers: Iterable[int]) -> Iterator[bytes]:
        for number in numbers:
            start = number * 13 % self._half
            noise = number.to_bytes(8, "big") + self._noise[start : start + self._half - 8]
            yield noise + bytes(MIB - len(noise) - 1) + b"\n"


def write_layer(path: Path, names: Iterable[bytes], size: int) -> None:
    """A plain tar with these files alone; directories on the way are only implied."""
    with path.open("wb", buffering=MIB) as out:
        write_files(out, names, size)
        write_end(out)


def _header(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    member = tarfile.TarInfo(name)
    member.size, member.type, member.mtime = size, kind, _MTIME
    member.mode = 0o755 if kind == tarfile.DIRTYPE else 0o644
    return member.tobuf(tarfile.GNU_FORMAT)


def _named(template: bytes, name: bytes) -> bytes:
    """The header for `name` from one for the empty name."""
    if len(name) > _NAME:
        raise ValueError(name)
    header = bytearray(template)
    header[: len(name)] = name
    header[_CHECKSUM] = b"%06o\0 " % (int(template[148:154], 8) + sum(name))
    return bytes(header)
