"""Which requests bring wanted chunks, over tables that are written down."""

from __future__ import annotations

from array import array

from hypothesis import given
from hypothesis import strategies as st

from fs.cache import plan
from fs.cache.neighbours import Neighbours
from fs.cache.prefetch import ranges
from fs.format.blobtable import BlobFeature, BlobRecord
from fs.format.chunkrow import ChunkRow
from fs.format.chunktable import ChunkTable, Place
from fs.format.contexts import BatchContext
from fs.format.pieces import Batches

BATCHED = BlobFeature.ALIGNED | BlobFeature.BATCH


def plain(*places: tuple[int, int]) -> ChunkTable:
    """A table of chunks stored at these offsets with these sizes."""
    rows = [
        ChunkRow(number, offset, size, 4096 * number, 10, 0, bytes(32))
        for number, (offset, size) in enumerate(places)
    ]
    return ChunkTable(rows, record(len(rows)), "test")


def batched(*batches: int) -> ChunkTable:
    """A table in whose stored blob batches of 100 bytes follow each other.

    `batches` says of each chunk in which one it is; -1: in none, then it has 100 bytes of its own.
    """
    rows, places = [], []
    ends = [0] * len(batches)
    starts: dict[int, int] = {}
    end = 0
    for number, batch in enumerate(batches):
        start = starts.get(batch, end)
        if start == end:
            end += 100
        if batch >= 0:
            starts[batch] = start
            ends[batch] += 10
        within = ends[batch] - 10 if batch >= 0 else 0
        rows.append(ChunkRow(number, start, 100, 4096 * number, 10, 0, bytes(32)))
        places.append(Place(start, 100, 0, batch, within))
    pieces = Batches([BatchContext(100, 1000)] * len(batches), 3)
    return ChunkTable.placed(ChunkTable(rows, record(len(rows), BATCHED), "test"), places, pieces)


def record(count: int, features: int = BlobFeature.ALIGNED) -> BlobRecord:
    return BlobRecord(
        "0" * 64,
        chunk_count=count,
        features=features,
        compressed_size=1 << 30,
        uncompressed_size=4096 * count,
    )


def swollen(count: int, size: int) -> ChunkTable:
    """A table of chunks of `size` bytes, each of them stored in 10."""
    rows = [
        ChunkRow(number, 10 * number, 10, size * number, size, 1, bytes(32))
        for number in range(count)
    ]
    blob = BlobRecord(
        "0" * 64, chunk_count=count, compressed_size=10 * count, uncompressed_size=size * count
    )
    return ChunkTable(rows, blob, "test")


def test_no_request_decodes_to_more_than_memory_is_for() -> None:
    table = swollen(100, 8 << 20)
    most = plan.DECODED // (8 << 20)
    every = range(len(table))
    for found in (
        plan.requests(table, every, plan.MERGED),
        plan.portions(table, every),
        ranges(table, list(every), plan.MERGED),
    ):
        assert [row for rows in found for row in rows] == list(every)
        assert max(map(len, found)) == most
    around = Neighbours(table, 128 << 10).around([50], lambda row: True, plan.GAP)
    assert 50 in around
    assert len(around) <= most


def test_requests_join_what_adjoins_up_to_the_limit() -> None:
    table = plain((0, 10), (10, 10), (20, 10), (40, 10), (100, 10), (90, 10))
    rows = range(6)
    assert plan.requests(table, rows, 1000, gap=0) == [[0, 1, 2], [3], [4], [5]]
    assert plan.requests(table, rows, 1000, gap=10) == [[0, 1, 2, 3], [4], [5]]
    assert plan.requests(table, rows, 25, gap=10) == [[0, 1], [2], [3], [4], [5]]
    assert plan.requests(table, [0, 2], 1000, gap=9) == [[0], [2]]
    assert plan.requests(table, [], 1000) == []


def test_span_holds_all_its_rows_in_whatever_order_they_are_stored() -> None:
    table = plain((50, 10), (0, 5), (20, 100))
    assert plan.span(table, range(3)) == (0, 120)
    assert plan.span(table, [0]) == (50, 10)
    assert plan.span(table, [])[1] == 0


def test_a_piece_comes_with_all_of_its_chunks_that_are_free() -> None:
    table = batched(0, 0, -1, 1, 1, 1)
    everything = lambda row: True  # noqa: E731
    assert plan.completed(table, [1], everything) == [0, 1]
    assert plan.completed(table, [2], everything) == [2]
    assert plan.completed(table, [1, 4], lambda row: row != 3) == [0, 1, 4, 5]
    assert plan.completed(plain((0, 1), (1, 1)), [1], everything) == [1]


def test_chunks_of_one_piece_adjoin_and_count_once() -> None:
    table = batched(0, 0, 0, 1, 1)
    assert plan.requests(table, range(5), 100) == [[0, 1, 2], [3, 4]]
    assert plan.requests(table, range(5), 200) == [[0, 1, 2, 3, 4]]
    assert plan.span(table, [0, 1, 2]) == (0, 100)


def test_rows_are_parted_by_pieces() -> None:
    table = batched(0, 0, -1, 1, 1)
    assert plan.by_piece(table, [0, 1, 2, 3, 4]) == [[0, 1], [2], [3, 4]]


places = st.lists(st.tuples(st.integers(0, 5000), st.integers(1, 200)), min_size=1, max_size=30)


@given(places, st.integers(1, 2000), st.integers(0, 300))
def test_every_row_is_in_one_request_and_none_is_too_large(
    given_places: list[tuple[int, int]], limit: int, gap: int
) -> None:
    table = plain(*given_places)
    found = plan.requests(table, range(len(table)), limit, gap)
    assert [row for run in found for row in run] == list(range(len(table)))
    for run in found:
        size = plan.span(table, run)[1]
        assert size <= limit or size == table.compressed_sizes[run[0]]


def test_tables_without_pieces_pay_nothing_for_them() -> None:
    table = plain((0, 1))
    assert table.contexts == array("i")
    assert table.row(0).context == -1
