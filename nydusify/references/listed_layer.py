"""A layer that is referred to by its table of contents: hardly anything of it is read.

The table's chunk digests become the image's. Of files that the table cuts into other chunks
than ours the content is read, proven piece by piece, and digested anew; of every layer one
piece is read in any case, to see that the table is understood as it is meant.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from fs.format import codec
from fs.format.blobtable import Compressor
from fs.format.contexts import MAX_PIECE
from fs.format.errors import VerifyError
from fs.format.inflate import inflate
from nydusify.layers.converted_layer import ConvertedLayer
from nydusify.layers.estargz import ImageEntries, Table
from nydusify.layers.layer import Layer
from nydusify.layers.sources import Advance, SourceLayer
from nydusify.references.contents_table import (
    ContentsTable,
    ListedEntry,
    Piece,
    ReadRange,
    Unusable,
    read_contents_table,
)
from nydusify.references.reference_blob import (
    Contents,
    Located,
    NewChunk,
    ReferenceBlob,
    ReferenceOptions,
)
from nydusify.references.restart_points import Point
from nydusify.references.slices import Place, Slice

#: Of a gzip member without a name or the like, as eStargz has them.
_HEADER = 10
_PLAIN_HEADER = b"\x1f\x8b\x08\x00"
#: Bytes that are fetched at once.
_AHEAD = 8 << 20
#: A reader would have to fetch that much for one chunk.
_MOST_STORED = 2 * MAX_PIECE


class ListedLayer:
    """One layer of an image, whose table the manifest proves."""

    def __init__(
        self, source: SourceLayer, options: ReferenceOptions, advance: Advance = lambda size: None
    ) -> None:
        read = source.stored.ranges if source.stored else None
        self._source = source
        self._options = options
        self._stored = _Ahead(read or _unreadable, source.size, advance)
        self._name = source.name
        #: Of each chunk that was met the slice that has it, and where in that it begins.
        self._candidates: list[tuple[Slice, int]] = []
        self._is_gzip = True

    def read(self, path: Path) -> ConvertedLayer:
        """Its tree, and its blob at `path`; Unusable if it has to be read as a whole."""
        assert self._source.stored
        trusted = self._source.stored.table or Table()
        table = read_contents_table(self._stored.read, trusted, self._source.size, self._name)
        pieces = [piece for entry in table.entries for piece in entry.pieces]
        self._is_gzip = table.compressor == Compressor.GZIP
        if pieces:
            self._prove(min(pieces, key=lambda piece: piece.end - piece.start))
        return self.of_table(table, path)

    def of_table(self, table: ContentsTable, path: Path) -> ConvertedLayer:
        """The same by a table that is believed; Unusable if it does not tell enough."""
        self._is_gzip = table.compressor == Compressor.GZIP
        layer = Layer(self._name)
        contents = Contents()
        startup: list[bytes] = []
        for entry in ImageEntries(_Listed(table.entries), Table(), startup, self._name):
            node = layer.add(entry)
            if node is not None and entry.size:
                assert isinstance(entry, ListedEntry)
                contents.add(node, self._chunks(entry))
        blob = ReferenceBlob(self._source.digest, self._source.size, self._options)
        made = None
        if contents.new:
            located = _located([self._candidates[chunk.start] for chunk in contents.new])
            made = blob.make(contents.new, table.compressor, located, path)
        contents.fill(blob.chunks)
        return ConvertedLayer(layer.finish(), blob.chunks, made, startup=startup)

    def _prove(self, piece: Piece) -> None:
        """Unusable if gzip members have longer headers than ours are thought to have."""
        if self._is_gzip and self._stored.read(piece.start, 4) != _PLAIN_HEADER:
            raise Unusable
        self._content(piece, piece.end)

    def _chunks(self, entry: ListedEntry) -> Iterator[NewChunk]:
        """The file's chunks; what counts as their offset is the number of their candidate."""
        first = 0
        for at in range(0, entry.size, self._options.chunk_size):
            size = min(self._options.chunk_size, entry.size - at)
            while entry.pieces[first].at + entry.pieces[first].size <= at:
                first += 1
            last = first
            while entry.pieces[last].at + entry.pieces[last].size < at + size:
                last += 1
            pieces = entry.pieces[first : last + 1]
            place = at - pieces[0].at + pieces[0].within
            self._candidates.append((self._slice(pieces), place))
            digest = self._digest(entry, pieces, at, size)
            yield NewChunk(digest, len(self._candidates) - 1, size)

    def _digest(self, entry: ListedEntry, pieces: list[Piece], at: int, size: int) -> bytes:
        if (pieces[0].at, pieces[0].size) == (at, size):
            return pieces[0].digest
        if size == entry.size and entry.whole:
            return entry.whole
        data = b"".join(self._content(piece, entry.pieces[-1].end) for piece in pieces)
        start = at - pieces[0].at
        return self._options.digest(data[start : start + size])

    def _slice(self, pieces: list[Piece]) -> Slice:
        start, end = pieces[0].start, pieces[-1].end
        if self._is_gzip:
            start += _HEADER
        out_length = pieces[-1].at + pieces[-1].size - pieces[0].at + pieces[0].within
        is_odd = any(piece.within for piece in pieces[1:])
        if is_odd or out_length > MAX_PIECE or not 0 < end - start <= _MOST_STORED:
            raise Unusable
        return Slice(Point(start, 0), end - start, out_length)

    def _content(self, piece: Piece, end: int) -> bytes:
        """A piece, proven; what is stored up to `end` will be asked for next."""
        found = self._slice([piece])
        stored = self._stored.read(found.point.in_offset, found.in_length, end)
        if self._is_gzip:
            content = inflate(stored, found.out_length, b"", 0, 0, self._name)
        else:
            content = codec.decompress_frames(stored, found.out_length, self._name)
        data = content[piece.within :]
        if hashlib.sha256(data).digest() != piece.digest:
            raise VerifyError(f"{self._name}: {piece.size} bytes are not what its table says")
        return data


def _unreadable(offset: int, length: int) -> bytes:
    raise Unusable


class _Listed:
    """Entries without contents, for ImageEntries."""

    def __init__(self, entries: list[ListedEntry]) -> None:
        self._entries = entries

    def __iter__(self) -> Iterator[ListedEntry]:
        return iter(self._entries)

    def read(self, size: int) -> bytes:
        raise NotImplementedError


def _located(candidates: Sequence[tuple[Slice, int]]) -> Located:
    """Of each chunk its slice and the place in it; chunks that begin at one place share a slice."""
    slices: list[Slice] = []
    places: list[Place] = []
    known: dict[int, int] = {}
    for piece, within in candidates:
        number = known.setdefault(piece.point.in_offset, len(slices))
        if number == len(slices):
            slices.append(piece)
        else:
            other = slices[number]
            in_length = max(other.in_length, piece.in_length)
            slices[number] = Slice(other.point, in_length, max(other.out_length, piece.out_length))
        places.append(Place(number, within))
    return Located(slices, places)


class _Ahead:
    """Ranges of a layer of `size` bytes."""

    def __init__(self, read: ReadRange, size: int, advance: Advance) -> None:
        self._read = read
        self._size = size
        self._advance = advance
        self._start, self._data = 0, b""

    def read(self, start: int, length: int, end: int = 0) -> bytes:
        """`length` bytes from `start` on. Some of what follows up to `end` is fetched with them."""
        at = start - self._start
        if not 0 <= at <= at + length <= len(self._data):
            if start + length > self._size:
                raise Unusable
            fetched = max(length, min(_AHEAD, end - start))
            self._data = self._read(start, fetched)
            self._start, at = start, 0
            self._advance(fetched)
        return self._data[at : at + length]
