"""What the layers of an image have in common, and which blobs the image needs.

A layer is converted without a look at the others, so that its blob can be used again
wherever the layer occurs. Here the layers are compared: a chunk that a lower blob has too
is taken from there, and a blob of which nothing is left to take is no part of the image.
Blobs of which the merged tree shows nothing are left out first, and share nothing.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from struct import Struct
from typing import NamedTuple

from fs.format.chunkcolumns import FileChunks, LayerChunks
from fs.format.tree import Node
from nydusify.blobs.unused import inodes

#: So much of a digest is one small object.
_KEY = Struct("<Q24x")
_KEY_MASK = (1 << 56) - 1
#: So much larger than the number of keys is a sketch of them (power of two): one in ten is taken
#: for another.
_SKETCH_BITS = 3


class Shared(NamedTuple):
    """Chunks of a layer that lower layers have, and their bytes."""

    chunks: int
    size: int


class News:
    """Tells of each of so many layers, from the lowest up, whether it has chunks of its own."""

    def __init__(self, layers: int) -> None:
        #: Of each layer the keys, sorted: a set of numbers would take ten times as much.
        self._seen: list[array[int]] = []
        self._first, self._left = True, layers

    def has(self, table: LayerChunks) -> bool:
        first, self._first = self._first, False
        self._left -= 1
        fresh = first or not all(map(self._has_seen, _keys(table)))
        if self._left:
            self._seen.append(array("Q", sorted(_keys(table))))
        else:
            self._seen.clear()
        return fresh

    def _has_seen(self, key: int) -> bool:
        return any(_is_in(keys, key) for keys in self._seen)


def _is_in(keys: array[int], key: int) -> bool:
    place = bisect_left(keys, key)
    return place < len(keys) and keys[place] == key


def _keys(table: LayerChunks) -> Iterator[int]:
    """Of each chunk a part of its digest: what is found by it is compared, or of no harm."""
    return (key & _KEY_MASK for (key,) in _KEY.iter_unpack(table.digests))


class Sharing:
    """`used`: the tables whose blobs the image needs, in order, their indexes set.

    `shared` has an entry for each of `layers`. `others` are tables of blobs from elsewhere; of
    these, too, only those in use get an index, after the layers' own.
    """

    def __init__(
        self, root: Node, layers: Sequence[LayerChunks], others: Sequence[LayerChunks]
    ) -> None:
        visible = _visible(root, [*layers, *others])
        self._repeats = _Repeats(layers)
        #: Chunks of the tables in `_offered`, counted from the first of them all.
        self._known: dict[int, int] = {}
        self._offered: list[LayerChunks] = []
        self._starts = [0]
        self.used: list[LayerChunks] = []
        self.shared: list[Shared] = []
        for number, table in enumerate(layers):
            shared = self._take(table, visible[id(table)])
            needed = visible[id(table)].count(1) > shared.chunks
            if needed:
                self.used.append(table)
                if any(visible[id(above)].count(1) for above in layers[number + 1 :]):
                    self._offer(table)
            self.shared.append(shared)
        self._known.clear()
        self.used += [table for table in others if visible[id(table)].count(1)]
        for index, table in enumerate(self.used):
            table.blob_index = index

    def _take(self, table: LayerChunks, visible: bytearray) -> Shared:
        count = size = 0
        if not self._known:
            return Shared(0, 0)
        for number, (shown, key) in enumerate(zip(visible, _keys(table), strict=True)):
            place = self._known.get(key) if shown else None
            if place is None:
                continue
            which = bisect_right(self._starts, place) - 1
            found = self._offered[which], place - self._starts[which]
            if found[0].digest(found[1]) == table.digest(number):
                table.elsewhere[number] = found
                count += 1
                size += table.sizes[number]
        return Shared(count, size)

    def _offer(self, table: LayerChunks) -> None:
        known, may_have = self._known, self._repeats.may_have
        for place, key in enumerate(_keys(table), self._starts[-1]):
            if may_have(key):
                known.setdefault(key, place)
        self._offered.append(table)
        self._starts.append(self._starts[-1] + len(table))


class _Repeats:
    """Which keys chunks of `tables` have in common: a sketch that misses none, of a few bytes each.

    Most have nothing in common, and are no objects in memory then.
    """

    def __init__(self, tables: Sequence[LayerChunks]) -> None:
        bits = sum(map(len, tables)).bit_length() + _SKETCH_BITS if len(tables) > 1 else 0
        self._mask = mask = (1 << bits) - 1
        self._seen = seen = bytearray(1 << bits)
        for table in tables if bits else ():
            for key in _keys(table):
                place = key & mask
                seen[place] = 2 if seen[place] else 1

    def may_have(self, key: int) -> bool:
        return self._seen[key & self._mask] > 1


def _visible(root: Node, tables: Sequence[LayerChunks]) -> dict[int, bytearray]:
    """By table: for each chunk of it whether a file of the tree has it."""
    visible = {id(table): bytearray(len(table)) for table in tables}
    for node in inodes(root):
        content = node.chunks
        if not isinstance(content, FileChunks):
            continue
        table = content.table
        marks = visible[id(table)]
        for number in content.numbers:
            if number in table.elsewhere:
                there, number_there = table.elsewhere[number]
                visible[id(there)][number_there] = 1
            else:
                marks[number] = 1
    return visible
