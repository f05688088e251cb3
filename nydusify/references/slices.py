"""Which slices of a compressed layer hold its chunks: each from one restart point to another.

A chunk lies in one slice whole. Neighbours share a slice up to a size that costs a reader of
any of them little, and saves the dictionaries between them; then the next slice begins
at the last point before the next chunk, so slices may overlap.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from operator import attrgetter
from typing import NamedTuple

from fs.format.contexts import MAX_PIECE
from fs.format.errors import FormatError
from nydusify.references.restart_points import Point, RestartPoints

#: Of the layer, and of its content (bytes). Of 1 to 3 MiB of content the last let the demo's image
#: start with the fewest requests and about as many bytes, and it has the least metadata.
_LARGEST_IN = 5 << 18
_LARGEST_OUT = 3 << 20

_OUT = attrgetter("out_offset")


class Slice(NamedTuple):
    """`in_length` bytes of the layer from `point` on give `out_length` bytes of content."""

    point: Point
    in_length: int
    out_length: int


class Place(NamedTuple):
    """Where a chunk is: in which slice, at which offset of its content."""

    slice: int
    within: int


class Slices:
    """`slices`, and of each chunk that was given its place, in the same order."""

    def __init__(self, restart: RestartPoints, where: str) -> None:
        self.slices: list[Slice] = []
        self.places: list[Place] = []
        self._restart = restart
        self._where = where
        self._first = -1

    def add(self, start: int, end: int) -> None:
        """A chunk that is bytes [start, end) of the content; in ascending order."""
        points = self._restart.points
        begin = bisect_right(points, start, key=_OUT) - 1
        if begin < 0 or end > self._restart.out_size:
            raise FormatError("a file lies outside of the layer's content", self._where)
        joined = self._slice(self._first, end) if self.slices else None
        if joined and (begin == self._first or _is_small(joined)):
            self.slices[-1] = joined
        else:
            self._first = begin
            self.slices.append(self._slice(begin, end))
        last = self.slices[-1]
        if not (last.out_length <= MAX_PIECE and 0 < last.in_length <= MAX_PIECE):
            raise FormatError(
                f"has no place to enter it for {last.out_length} bytes: convert it instead",
                self._where,
            )
        self.places.append(Place(len(self.slices) - 1, start - last.point.out_offset))

    def _slice(self, first: int, end: int) -> Slice:
        """From point `first` to the next one from where all before `end` is decoded."""
        restart = self._restart
        point = restart.points[first]
        stop = bisect_left(restart.points, end, key=_OUT)
        at_end = stop == len(restart.points)
        in_end = restart.in_size if at_end else restart.points[stop].in_offset
        out_length = restart.out_size if at_end else restart.points[stop].out_offset
        return Slice(point, in_end - point.in_offset, out_length - point.out_offset)


def _is_small(piece: Slice) -> bool:
    return piece.in_length <= _LARGEST_IN and piece.out_length <= _LARGEST_OUT


def slices_of(
    restart: RestartPoints, spans: Iterable[tuple[int, int]], where: str
) -> tuple[Sequence[Slice], Sequence[Place]]:
    """The slices for chunks at `spans` of the content, and the places of the chunks."""
    found = Slices(restart, where)
    for start, end in spans:
        found.add(start, end)
    return found.slices, found.places
