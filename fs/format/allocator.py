"""Where each inode of a v6 bootstrap lies: the offset allocator of Nydus, step by step.

Offsets are counted from the start of the metadata area (so a nid is offset /
32), whose first inode, the root, stands at 4096. Byte identity with Nydus's own builder
rests on this module; see docs/format.md, "Placing inodes".
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from fs.format.erofs import SLOT_SIZE

#: Where the first inode stands.
START = 4096


class Place(NamedTuple):
    """Of one inode: its offset, where its separate data blocks start, and if its tail is inline."""

    offset: int
    data_offset: int
    inline: bool


class Allocator:
    """Hands out space in order, and fills the ends of blocks that alignment left free."""

    __slots__ = ("_block_size", "_free", "_free_mask", "offset")

    def __init__(self, block_size: int) -> None:
        self.offset = START
        self._block_size = block_size
        # By number of free slots at its end: the blocks that have them, oldest first.
        self._free: list[deque[int]] = [deque() for _ in range(block_size // SLOT_SIZE + 1)]
        self._free_mask = 0

    def place_file(self, size: int) -> int:
        """A regular file whose inode, attributes and chunk indexes take `size` bytes."""
        if self._free_mask >> -(-size // SLOT_SIZE):
            offset = self._reuse(size)
            if offset is not None:
                return offset
        return self.place_special(size)

    def place_special(self, size: int) -> int:
        """A device, fifo or socket; never put into the free end of a block."""
        offset = self.offset
        self.offset = offset + size + -size % SLOT_SIZE
        return offset

    def place_data(self, size: int, data_size: int) -> Place:
        """A directory or link: `size` bytes of inode and attributes, `data_size` of data."""
        tail = data_size % self._block_size
        if tail and size + tail <= self._block_size:
            place = self._place_inline(size + tail, data_size - tail)
        else:
            place = self._place_plain(size, data_size)
        self._align_to_slot()
        return place

    def _align_to_slot(self) -> None:
        self.offset = _align(self.offset, SLOT_SIZE)

    def _place_inline(self, size: int, whole_blocks: int) -> Place:
        offset = self._reuse(size)
        if offset is None:
            if self._block_size - self.offset % self._block_size < size:
                self._finish_block()
            offset = self._extend(size)
        if whole_blocks:
            self._finish_block()
        data_offset = self._extend(whole_blocks)
        return Place(offset, data_offset, inline=True)

    def _place_plain(self, size: int, data_size: int) -> Place:
        offset = self._reuse(size)
        if offset is None:
            offset = self._extend(size)
        self._finish_block()
        data_offset = self._extend(data_size)
        self.offset = _align(self.offset, self._block_size)
        return Place(offset, data_offset, inline=False)

    def _extend(self, size: int) -> int:
        offset = self.offset
        self.offset += size
        return offset

    def _finish_block(self) -> None:
        """Go to the next block; what is left of this one may be reused."""
        self._offer(self.offset)
        self.offset = _align(self.offset, self._block_size)

    def _offer(self, offset: int) -> None:
        used = offset % self._block_size
        if used:
            slots = (self._block_size - used) // SLOT_SIZE
            self._free[slots].append(offset - used)
            self._free_mask |= 1 << slots

    def _reuse(self, size: int) -> int | None:
        """The smallest, then oldest, free end that takes `size` bytes."""
        if size >= self._block_size:
            return None
        need = -(-size // SLOT_SIZE)
        fitting = self._free_mask >> need << need
        if not fitting:
            return None
        slots = (fitting & -fitting).bit_length() - 1
        blocks = self._free[slots]
        offset = blocks.popleft() + self._block_size - slots * SLOT_SIZE
        if not blocks:
            self._free_mask &= ~(1 << slots)
        self._offer(offset + need * SLOT_SIZE)
        return offset


def _align(offset: int, unit: int) -> int:
    return offset + -offset % unit
