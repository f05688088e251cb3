"""The hash tree of dm-verity: who knows the root hash can verify every block when it is read.

As `veritysetup format --no-superblock` makes it: format 1, sha256, no salt, hash blocks of
4096 bytes, the level below the root first, unused digests zero.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

_HASH_BLOCK = 4096
_DIGEST = 32
_READ = 1 << 20


class Verity(NamedTuple):
    """`hash_offset` is where the tree lies, behind `data_blocks` of `data_block_size` bytes."""

    data_block_size: int
    data_blocks: int
    hash_offset: int
    root_hash: str

    @property
    def options(self) -> str:
        """Arguments of veritysetup, as nydus-image prints them."""
        return (
            f'--no-superblock --format=1 -s "" --hash=sha256 '
            f"--data-block-size={self.data_block_size} --hash-block-size={_HASH_BLOCK} "
            f"--data-blocks {self.data_blocks} --hash-offset {self.hash_offset} {self.root_hash}"
        )


def append_hash_tree(file: BinaryIO, size: int, block_size: int) -> Verity:
    """Write the tree of the first `size` bytes (whole blocks) behind them."""
    levels = [_pack(_digests(_blocks(file, size, block_size)))]
    while len(levels[-1]) > _HASH_BLOCK:
        below = memoryview(levels[-1])
        blocks = (below[at : at + _HASH_BLOCK] for at in range(0, len(below), _HASH_BLOCK))
        levels.append(_pack(_digests(blocks)))
    offset = size + -size % _HASH_BLOCK
    count = size // block_size
    if count == 1:  # the only digest is the root
        return Verity(block_size, count, offset, levels[0][:_DIGEST].hex())
    file.seek(offset)
    for level in reversed(levels):
        file.write(level)
    return Verity(block_size, count, offset, hashlib.sha256(levels[-1]).hexdigest())


def _blocks(file: BinaryIO, size: int, block_size: int) -> Iterator[memoryview]:
    file.seek(0)
    left = size
    while left:
        piece = memoryview(file.read(min(_READ, left)))
        if not piece:
            raise EOFError(f"{left} bytes are missing")
        left -= len(piece)
        for at in range(0, len(piece), block_size):
            yield piece[at : at + block_size]


def _digests(blocks: Iterator[memoryview]) -> Iterator[bytes]:
    for block in blocks:
        yield hashlib.sha256(block).digest()


def _pack(digests: Iterator[bytes]) -> bytes:
    level = b"".join(digests)
    return level + bytes(-len(level) % _HASH_BLOCK)
