"""Which requests bring the chunks that are missing: arithmetic over a chunk table.

What is fetched is not a chunk but a piece: a range of the stored blob that decodes
to one chunk or several (see `ChunkTable.pieces`). A request brings whole pieces,
so whoever asks for a chunk gets the others of its piece for nothing. Everything
here is a pure function of the table; rows are in the order of the decoded blob.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from fs.format.chunktable import ChunkTable
from fs.format.tree import NO_CONTEXT

#: Unwanted bytes between two pieces that are fetched along rather than by a second request.
GAP = 16 << 10
#: Adjoining pieces that readers wait for come by one request up to this size (bytes).
MERGED = 1 << 20
#: What one request may decode to (bytes): all of it is in memory at a time, and chunks of little
#: more than zeros are stored in thousandths of their size.
DECODED = 64 << 20
#: For requests whose size is limited already.
ANY_SIZE = 1 << 62


def requests(table: ChunkTable, rows: Iterable[int], limit: int, gap: int = GAP) -> list[list[int]]:
    """Ascending `rows` parted into requests, each of adjoining pieces up to `limit` bytes.

    A piece that is larger makes a request of its own.
    """
    found: list[list[int]] = []
    start = end = decoded = 0
    for row in rows:
        low = table.compressed_offsets[row]
        high = low + table.compressed_sizes[row]
        decoded += table.uncompressed_sizes[row]
        near = start <= low <= end + gap and (high <= end or high - start <= limit)
        if found and near and decoded <= DECODED:
            found[-1].append(row)
            end = max(end, high)
        else:
            found.append([row])
            start, end, decoded = low, high, table.uncompressed_sizes[row]
    return found


def span(table: ChunkTable, rows: Iterable[int]) -> tuple[int, int]:
    """Offset in the stored blob and length of the one range that holds all these rows."""
    offsets, sizes = table.compressed_offsets, table.compressed_sizes
    start = end = -1
    for row in rows:
        start = offsets[row] if start < 0 else min(start, offsets[row])
        end = max(end, offsets[row] + sizes[row])
    return start, end - start


def decoded_size(table: ChunkTable, low: int, high: int) -> int:
    """An upper bound of what rows `low` to `high` decode to (bytes)."""
    offsets = table.uncompressed_offsets
    return offsets[high] + table.uncompressed_sizes[high] - offsets[low]


def adjoin(table: ChunkTable, row: int, following: int, gap: int) -> bool:
    """Whether `following` is in the piece of `row` or stored behind it within `gap` bytes."""
    start = table.compressed_offsets[row]
    end = start + table.compressed_sizes[row]
    return start <= table.compressed_offsets[following] <= end + gap


def completed(
    table: ChunkTable, rows: Sequence[int], is_free: Callable[[int], bool]
) -> Sequence[int]:
    """Ascending `rows` and those others of their pieces that are `is_free`."""
    if table.pieces is None:
        return rows
    found = set(rows)
    for piece in {table.piece_of(row) for row in rows}:
        found.update(row for row in table.mates(piece) if row not in found and is_free(row))
    return sorted(found)


def by_piece(table: ChunkTable, rows: Iterable[int]) -> list[list[int]]:
    """`rows` parted by the piece that holds them."""
    found: dict[int, list[int]] = {}
    for row in rows:
        found.setdefault(table.piece_of(row), []).append(row)
    return list(found.values())


def decoded_piece(table: ChunkTable, row: int) -> int:
    """What the piece of a row decodes to (bytes)."""
    if table.pieces is not None and table.contexts[row] != NO_CONTEXT:
        return table.pieces.size(table.contexts[row])
    return table.uncompressed_sizes[row]


def portions(table: ChunkTable, rows: Iterable[int]) -> list[list[int]]:
    """`rows` parted, by pieces, into what may be in memory at a time, decoded."""
    found: list[list[int]] = []
    size = DECODED
    for piece in by_piece(table, rows):
        whole = decoded_piece(table, piece[0])
        size += whole
        if size > DECODED:
            found.append([])
            size = whole
        found[-1] += piece
    return found
