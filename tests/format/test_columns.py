"""Contents kept as columns give the bootstrap that the same chunks give one by one."""

from __future__ import annotations

import stat
from array import array
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fs.format.blobtable import BlobRecord
from fs.format.chunkcolumns import LayerChunks, file_chunks
from fs.format.chunkrow import row_of
from fs.format.errors import FormatError
from fs.format.metaentries import pack_columns, pack_v1, pack_v2
from fs.format.tree import HOLE, Chunk, Node
from tests.format.drawn import images
from tests.format.images import BlobBuilder, Image, new_image


def columns_of(blob: BlobBuilder) -> LayerChunks:
    table = LayerChunks()
    table.blob_index = blob.index
    for chunk in blob.chunks.values():
        number = table.append(chunk.digest, chunk.uncompressed_size)
        table.flags[number] = chunk.flags
        table.compressed_offsets[number] = chunk.compressed_offset
        table.compressed_sizes[number] = chunk.compressed_size
        table.uncompressed_offsets[number] = chunk.uncompressed_offset
    return table


def files_of(directory: Node) -> list[Node]:
    found = []
    for node in directory.children.values():
        if stat.S_ISDIR(node.mode):
            found += files_of(node)
        elif node.chunks:
            found.append(node)
    return list(dict.fromkeys(found))


def put_in_columns(node: Node, tables: list[LayerChunks], home: LayerChunks | None = None) -> None:
    """Have `node` refer to its chunks in `tables`, by way of `home` if that is another table."""
    table = home or tables[node.chunks[0].blob_index]
    numbers = array("Q")
    for chunk in node.chunks:
        if table.blob_index == chunk.blob_index:
            numbers.append(chunk.position)
        else:
            numbers.append(len(table) + len(table.elsewhere))
            table.elsewhere[numbers[-1]] = tables[chunk.blob_index], chunk.position
    node.chunks = file_chunks(table, numbers)


@settings(deadline=None)
@given(images(), st.integers(0, 1 << 32), st.sampled_from(["all", "some"]))
def test_columns_give_the_same_bootstrap(image: Image, seed: int, how: str) -> None:
    random = Random(seed)
    expected = image.pack()
    tables = [columns_of(blob) for blob in image.blobs]
    for node in files_of(image.root):
        if any(chunk.blob_index == HOLE for chunk in node.chunks):
            continue
        if how == "all" or random.random() < 0.5:
            put_in_columns(node, tables, random.choice([None, *tables]))
    assert image.pack() == expected


@pytest.mark.parametrize("sparse_name", [b"a", b"z"])
def test_the_last_file_with_a_chunk_counts_in_either_form(sparse_name: bytes) -> None:
    image = new_image(1)
    node = image.file(bytes(range(256)) * 16)
    hole = Chunk(bytes(32), HOLE, 0, 0, 0, 0, 4096)
    sparse = Node(node.mode, size=8192, chunks=[hole, *node.chunks])
    image.root.children |= {b"m": node, sparse_name: sparse}
    expected = image.pack()
    put_in_columns(node, [columns_of(image.blobs[0])])
    assert image.pack() == expected


def one_file(size: int) -> tuple[Image, Node, LayerChunks]:
    image = new_image(1)
    node = image.file(bytes(range(256)) * (size // 256))
    image.root.children[b"file"] = node
    table = columns_of(image.blobs[0])
    put_in_columns(node, [table])
    return image, node, table


@pytest.mark.parametrize("size", [1024, 3 * 4096])
def test_what_is_wrong_with_a_file_in_columns_is_said(size: int) -> None:
    image, node, _ = one_file(size)
    node.size += 1
    with pytest.raises(FormatError, match=r"/file: .*bytes"):
        image.pack()


def test_rows_that_do_not_fit_are_refused() -> None:
    image, _, table = one_file(4096)
    table.uncompressed_offsets[0] = 100
    with pytest.raises(FormatError, match="/file: chunk at 100 does not start a block"):
        image.pack()
    table.uncompressed_offsets[0] = 1 << 30
    with pytest.raises(FormatError, match="/file: chunk 0 lies outside of blob 0"):
        image.pack()
    table.blob_index = 1
    with pytest.raises(FormatError, match="/file: chunk in blob 1 of 1"):
        image.pack()


def test_the_same_chunk_at_two_places_is_refused() -> None:
    image, node, table = one_file(4096)
    table.append(table.digest(0), table.sizes[0])
    table.uncompressed_offsets[1] = 0
    image.root.children[b"other"] = Node(
        node.mode, size=node.size, chunks=file_chunks(table, array("Q", [1]))
    )
    record: BlobRecord = image.records()[0]
    assert record.chunk_count == 1
    with pytest.raises(FormatError, match="blob 0 has the same chunk at two places"):
        image.pack()


@st.composite
def tables(draw: st.DrawFn) -> LayerChunks:
    table = LayerChunks()
    for number in range(draw(st.integers(0, 20))):
        table.append(bytes(32), draw(st.integers(1, 16 << 20)))
        table.flags[number] = draw(st.sampled_from([0, 1, 4, 9]))
        is_batched = table.flags[number] & 8
        table.compressed_sizes[number] = draw(st.integers(not is_batched, (16 << 20) - 1))
        table.compressed_offsets[number] = draw(st.integers(0, (1 << 40) - 1))
        table.uncompressed_offsets[number] = draw(st.integers(0, (1 << 32) - 1)) << 12
        if is_batched:
            table.contexts[number] = draw(st.integers(0, 1 << 20))
            table.withins[number] = draw(st.integers(0, 16 << 20))
    return table


@given(tables())
def test_columns_become_entries_as_rows_do(table: LayerChunks) -> None:
    rows = list(map(row_of, table))
    assert pack_columns(table, v2=True) == pack_v2(rows)
    if not any(flags & 8 for flags in table.flags):
        assert pack_columns(table, v2=False) == pack_v1(rows)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("sizes", 0),
        ("sizes", (16 << 20) + 1),
        ("compressed_sizes", 0),
        ("compressed_sizes", 16 << 20),
        ("compressed_offsets", 1 << 40),
        ("uncompressed_offsets", 100),
        ("uncompressed_offsets", 1 << 44),
    ],
)
def test_entries_that_do_not_fit_are_refused(column: str, value: int) -> None:
    table = LayerChunks()
    for _ in range(2):
        table.compressed_sizes[table.append(bytes(32), 1)] = 1
    getattr(table, column)[1] = value
    with pytest.raises(FormatError, match="chunk 1 does not fit into chunk information"):
        pack_columns(table, v2=True)


def test_v1_entries_name_no_pieces() -> None:
    table = LayerChunks()
    table.flags[table.append(bytes(32), 1)] = 9
    with pytest.raises(FormatError, match="chunk 0 needs chunk information v2"):
        pack_columns(table, v2=False)
