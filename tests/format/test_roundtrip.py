"""Any tree becomes bytes and the same tree again, and the same bytes every time."""

from __future__ import annotations

import hashlib
import io
import stat

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fs.format.bootstrap import Bootstrap
from fs.format.chunkinfo import CHUNK_INFO_SIZE
from fs.format.chunktable import ChunkTable
from fs.format.rafs6 import EXTENDED_OFFSET, EXTENDED_SIZE, unpack_extended
from fs.format.tree import HOLE, Node
from fs.format.versions import open_bootstrap
from fs.format.walk import load_tree
from fs.format.writer import BootstrapOptions, write_bootstrap
from tests.format import drawn
from tests.format.images import Image, new_image, read_entries
from tests.parts.trees import differences

SLOW = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def reopen(image: Image) -> Bootstrap:
    return open_bootstrap(image.pack(), "image")


def assert_reads_equal(image: Image, options: BootstrapOptions) -> None:
    bootstrap = open_bootstrap(image.pack(options), "image")
    decoded = [bytes(blob.decoded) for blob in image.blobs]
    assert differences(image.entries(), read_entries(bootstrap, decoded)) == []
    out = io.BytesIO()
    write_bootstrap(load_tree(bootstrap), bootstrap.blobs, options, out)
    assert out.getvalue() == image.pack(options)


@SLOW
@given(drawn.images(), st.sampled_from([512, 4096]))
def test_any_tree_reads_back_equal(image: Image, block_size: int) -> None:
    assert_reads_equal(image, BootstrapOptions(chunk_size=4096, block_size=block_size))


@pytest.mark.scale
@settings(SLOW, max_examples=400)
@given(drawn.images(max_names=200), st.sampled_from([512, 4096]))
def test_any_larger_tree_reads_back_equal(image: Image, block_size: int) -> None:
    assert_reads_equal(image, BootstrapOptions(chunk_size=4096, block_size=block_size))


@SLOW
@given(drawn.images(), st.data())
def test_chunk_tables_hold_every_extent(image: Image, data: st.DataObject) -> None:
    bootstrap = reopen(image)
    tables = [bootstrap.chunk_table(index) for index in range(len(bootstrap.blobs))]
    for node in image.contents:
        node_nid = find(bootstrap, image.root, node)
        if node_nid is None or node.size == 0:
            continue
        start = data.draw(st.integers(0, node.size - 1))
        length = data.draw(st.integers(1, node.size + 10))
        pieces = bootstrap.extents(node_nid, start, length)
        assert pieces[0].file_offset == start
        assert sum(piece.length for piece in pieces) == min(length, node.size - start)
        for piece in pieces:
            if piece.blob_index != HOLE:
                assert_covered(
                    tables[piece.blob_index], piece.blob_offset, piece.blob_offset + piece.length
                )


def find(bootstrap: Bootstrap, root: Node, wanted: Node) -> int | None:
    pending = [(root, bootstrap.root)]
    while pending:
        node, nid = pending.pop()
        if node is wanted:
            return nid
        for name, child in node.children.items():
            found = bootstrap.lookup(nid, name)
            assert found is not None
            pending.append((child, found))
    return None


def assert_covered(table: ChunkTable, start: int, end: int) -> None:
    at = start
    for index in table.rows_between(start, end):
        row = table.row(index)
        assert row.uncompressed_offset <= at < row.uncompressed_offset + row.uncompressed_size
        assert table.find(at) == index
        at = row.uncompressed_offset + row.uncompressed_size
    assert at >= end


@SLOW
@given(drawn.images(max_names=80), st.data())
def test_listing_continues_after_any_cookie(image: Image, data: st.DataObject) -> None:
    bootstrap = reopen(image)
    whole = list(bootstrap.entries(bootstrap.root))
    assert [entry.name for entry in whole] == sorted(image.root.children)
    for index, entry in enumerate(whole):
        assert list(bootstrap.entries(bootstrap.root, entry.cookie)) == whole[index + 1 :]
    missing = data.draw(drawn.names)
    if missing not in image.root.children:
        assert bootstrap.lookup(bootstrap.root, missing) is None


def test_order_of_insertion_does_not_show() -> None:
    left, right = new_image(blobs=0), new_image(blobs=0)
    names = [b"%d" % number for number in range(50)]
    for name in names:
        left.root.children[name] = Node(
            stat.S_IFIFO | 0o600, xattrs={b"user.a": b"", b"user.b": b""}
        )
    for name in reversed(names):
        right.root.children[name] = Node(
            stat.S_IFIFO | 0o600, xattrs={b"user.b": b"", b"user.a": b""}
        )
    assert left.pack() == right.pack()


def test_dot_entries_lead_up_and_here() -> None:
    image = new_image()
    image.root.children[b"dir"] = Node(stat.S_IFDIR | 0o755)
    bootstrap = reopen(image)
    directory = bootstrap.lookup(bootstrap.root, b"dir")
    assert directory is not None
    assert bootstrap.lookup(directory, b"..") == bootstrap.root
    assert bootstrap.lookup(directory, b".") == directory


def test_node_can_say_its_link_count() -> None:
    image = new_image()
    image.root.children[b"one-of-three"] = image.file(b"x", nlink=3)
    bootstrap = reopen(image)
    nid = bootstrap.lookup(bootstrap.root, b"one-of-three")
    assert nid is not None
    assert bootstrap.inode(nid).nlink == 3


def test_inode_numbers_follow_the_walk() -> None:
    """The root is 1, then each directory's names in order, then what its subdirectories hold."""
    image = new_image(blobs=0)
    inner = Node(stat.S_IFIFO)
    shared = Node(stat.S_IFSOCK)
    image.root.children = {
        b"c": shared,
        b"a": Node(stat.S_IFDIR, children={b"x": inner, b"y": shared}),
        b"b": Node(stat.S_IFIFO),
    }
    bootstrap = reopen(image)
    inos = {name: bootstrap.inode(nid).ino for name, nid, _, _ in bootstrap.entries(bootstrap.root)}
    assert inos == {b"a": 2, b"b": 3, b"c": 4}
    below = bootstrap.lookup(bootstrap.root, b"a")
    assert below is not None
    inos = {name: bootstrap.inode(nid).ino for name, nid, _, _ in bootstrap.entries(below)}
    assert inos == {b"x": 5, b"y": 4}
    assert bootstrap.inode(bootstrap.root).ino == 1
    assert bootstrap.inode_count == 6


def test_prefetch_table_names_nodes_in_order() -> None:
    image = new_image()
    image.root.children = {b"a": image.file(b"1"), b"b": image.file(b"2")}
    nodes = [image.root.children[b"b"], image.root, image.root.children[b"a"]]
    packed = image.pack(BootstrapOptions(chunk_size=4096, prefetch=nodes))
    bootstrap = open_bootstrap(packed, "image")
    looked_up = [bootstrap.lookup(bootstrap.root, name) for name in (b"b", b".", b"a")]
    assert list(bootstrap.prefetch) == looked_up


def test_the_seal_is_the_digest_of_all_before_the_chunk_table() -> None:
    image = new_image()
    image.root.children = {b"a": image.file(b"1" * 9000)}
    packed = image.pack(BootstrapOptions(chunk_size=4096))
    extended = unpack_extended(memoryview(packed)[EXTENDED_OFFSET:][:EXTENDED_SIZE])
    assert extended.chunk_table_size == 2 * CHUNK_INFO_SIZE
    before = bytearray(packed[: extended.chunk_table_offset])
    before[EXTENDED_OFFSET + 56 : EXTENDED_OFFSET + 88] = bytes(32)
    assert extended.seal == hashlib.sha256(before).digest()
    assert open_bootstrap(packed, "image").sealed
    assert not open_bootstrap(
        image.pack(BootstrapOptions(chunk_size=4096, sealed=False)), "image"
    ).sealed
