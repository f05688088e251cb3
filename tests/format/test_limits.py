"""What the writer takes, what it refuses by name, and how it keeps up with large trees."""

from __future__ import annotations

import io
import stat
import time

import pytest

from fs.format.allocator import Allocator, Place
from fs.format.blobtable import BlobRecord
from fs.format.bootstrap import Bootstrap, Extent
from fs.format.errors import FormatError
from fs.format.tree import HOLE, Chunk, Node
from fs.format.versions import open_bootstrap
from fs.format.walk import load_tree, walk
from fs.format.writer import BootstrapOptions, write_bootstrap
from tests.format.images import new_image

CHUNK = 1 << 20


def write(root: Node, blobs: list[BlobRecord], **options: int) -> Bootstrap:
    out = io.BytesIO()
    write_bootstrap(root, blobs, BootstrapOptions(**options), out)  # type: ignore[arg-type]
    return open_bootstrap(out.getvalue(), "written")


def blob_of(size: int) -> BlobRecord:
    return BlobRecord(
        "b" * 64,
        chunk_count=size // CHUNK,
        compressed_size=size,
        uncompressed_size=size,
        ci_uncompressed_size=size // CHUNK * 16,
    )


def chunk(number: int, offset: int, size: int = CHUNK) -> Chunk:
    digest = number.to_bytes(32, "big")
    return Chunk(digest, 0, number, offset, size, offset, size, 0)


def directory(**children: Node) -> Node:
    named = {name.encode(): node for name, node in children.items()}
    return Node(stat.S_IFDIR | 0o755, children=named)


def test_file_of_many_gigabytes() -> None:
    count = 9 * 1024
    node = Node(stat.S_IFREG, size=count * CHUNK - 1)
    node.chunks = [chunk(number, number * CHUNK) for number in range(count - 1)]
    node.chunks.append(chunk(count - 1, (count - 1) * CHUNK, CHUNK - 1))
    bootstrap = write(directory(big=node), [blob_of(count * CHUNK)])
    nid = bootstrap.lookup(bootstrap.root, b"big")
    assert nid is not None
    assert bootstrap.inode(nid).size == node.size
    # Its chunks follow each other, so it claims one, and any piece is one extent.
    at = 5 << 30
    assert bootstrap.extents(nid, at - 1, 2) == [Extent(at - 1, 2, 0, at - 1)]
    assert bootstrap.extents(nid, node.size - 1, 100) == [
        Extent(node.size - 1, 1, 0, node.size - 1)
    ]
    assert bootstrap.extents(nid, node.size, 1) == []


def test_sparse_file_of_terabytes_is_read_in_pieces() -> None:
    hole = Chunk(bytes(32), HOLE, 0, 0, 0, 0, 16 << 20)
    count = 1 << 16
    node = Node(stat.S_IFREG, size=count << 24, chunks=[hole] * count)
    bootstrap = write(directory(sparse=node), [], chunk_size=16 << 20)
    nid = bootstrap.lookup(bootstrap.root, b"sparse")
    assert nid is not None
    assert bootstrap.extents(nid, 1 << 39, 4096) == [Extent(1 << 39, 4096, HOLE, 0)]
    assert bootstrap.extents(nid, 0, node.size) == [Extent(0, node.size, HOLE, 0)]


def test_scattered_chunks_keep_their_own_extents() -> None:
    order = [2, 0, 1, 0]
    node = Node(stat.S_IFREG, size=4 * CHUNK)
    node.chunks = [chunk(number, number * CHUNK) for number in order]
    bootstrap = write(directory(file=node), [blob_of(3 * CHUNK)])
    nid = bootstrap.lookup(bootstrap.root, b"file")
    assert nid is not None
    # The second and the third continue each other and are joined.
    assert bootstrap.extents(nid, 0, node.size) == [
        Extent(0, CHUNK, 0, 2 * CHUNK),
        Extent(CHUNK, 2 * CHUNK, 0, 0),
        Extent(3 * CHUNK, CHUNK, 0, 0),
    ]
    assert [row.position for row in map(bootstrap.chunk_table(0).row, range(3))] == [0, 1, 2]


def test_directory_of_a_hundred_thousand_names() -> None:
    shared = Node(stat.S_IFREG | 0o644)
    names = [b"name-%06d" % number for number in range(100_000)]
    bootstrap = write(
        directory(many=Node(stat.S_IFDIR | 0o755, children=dict.fromkeys(names, shared))), []
    )
    many = bootstrap.lookup(bootstrap.root, b"many")
    assert many is not None
    assert [entry.name for entry in bootstrap.entries(many)] == names
    found = {bootstrap.lookup(many, name) for name in names[::997]}
    assert len(found) == 1
    nid = found.pop()
    assert nid is not None
    assert bootstrap.inode(nid).nlink == 100_000
    assert bootstrap.lookup(many, b"name-100000") is None
    assert bootstrap.lookup(many, b"") is None


def test_names_of_every_length() -> None:
    names = {b"\xff" * length: Node(stat.S_IFIFO) for length in range(1, 256)}
    bootstrap = write(Node(stat.S_IFDIR, children=names), [])
    assert [entry.name for entry in bootstrap.entries(bootstrap.root)] == sorted(names)


def test_tree_deeper_than_recursion() -> None:
    root = at = Node(stat.S_IFDIR)
    for _ in range(20_000):
        at.children[b"d"] = at = Node(stat.S_IFDIR)
    bootstrap = write(root, [])
    assert sum(1 for _ in walk(bootstrap)) == 20_001
    assert load_tree(bootstrap).children[b"d"].mode == stat.S_IFDIR


def bad_trees() -> dict[str, tuple[Node, str]]:
    image = new_image()
    fifo = Node(stat.S_IFIFO)
    twice = Node(stat.S_IFDIR)
    loop = Node(stat.S_IFDIR)
    loop.children[b"again"] = loop
    short = image.file(b"x" * 5000)
    short.chunks = [short.chunks[0], *short.chunks[2:]]
    stray = image.file(b"y" * 100)
    stray.chunks = [stray.chunks[0]._replace(blob_index=3)]
    unaligned = image.file(b"z" * 100)
    unaligned.chunks = [unaligned.chunks[0]._replace(uncompressed_offset=5)]
    return {
        "no directory": (fifo, "root is no directory"),
        "dot": (Node(stat.S_IFDIR, children={b"..": fifo}), "is not allowed"),
        "slash": (Node(stat.S_IFDIR, children={b"a/b": fifo}), "is not allowed"),
        "empty": (Node(stat.S_IFDIR, children={b"": fifo}), "is not allowed"),
        "long": (Node(stat.S_IFDIR, children={b"n" * 256: fifo}), "is not allowed"),
        "two names": (directory(a=twice, b=twice), "is also"),
        "loop": (directory(a=loop), "is also"),
        "type": (directory(a=Node(0o644)), "file type"),
        "target": (directory(a=Node(stat.S_IFLNK, target=b"t" * 4096)), "link target"),
        "no target": (directory(a=Node(stat.S_IFLNK)), "link target"),
        "owner": (directory(a=Node(stat.S_IFIFO, uid=1 << 32)), "out of range"),
        "xattr": (directory(a=Node(stat.S_IFIFO, xattrs={b"odd.name": b""})), "prefix"),
        "value": (directory(a=Node(stat.S_IFIFO, xattrs={b"user.a": bytes(70_000)})), "too long"),
        "no chunks": (directory(a=short), "have no chunk"),
        "no blob": (directory(a=stray), "blob 3"),
        "unaligned": (directory(a=unaligned), "does not start a block"),
    }


@pytest.mark.parametrize("case", list(bad_trees()))
def test_what_cannot_be_written_is_named(case: str) -> None:
    root, message = bad_trees()[case]
    image = new_image()
    image.blobs[0].add(bytes(5000))
    with pytest.raises(FormatError, match=message):
        write_bootstrap(root, image.records(), BootstrapOptions(chunk_size=4096), io.BytesIO())


def test_path_of_the_culprit_is_told() -> None:
    culprit = Node(stat.S_IFIFO, uid=-1)
    with pytest.raises(FormatError, match=r"^/a/b/c: "):
        write(directory(a=directory(b=directory(c=culprit))), [])


def test_more_blobs_than_device_numbers_are_refused() -> None:
    blobs = [BlobRecord("a" * 64, index=index) for index in range(255)]
    assert len(write(directory(), blobs[:254]).blobs) == 254
    with pytest.raises(FormatError, match="255 blobs"):
        write(directory(), blobs)


def test_same_chunk_at_two_places_is_refused() -> None:
    node = Node(stat.S_IFREG, size=2 * CHUNK)
    first = chunk(0, 0)
    node.chunks = [first, first._replace(position=1, uncompressed_offset=CHUNK)]
    with pytest.raises(FormatError, match="the same chunk at two places"):
        write(directory(a=node), [blob_of(2 * CHUNK)])


# The allocator, by cases worked out by hand from its rules


def test_allocator_fills_the_ends_of_blocks() -> None:
    allocator = Allocator(4096)
    assert allocator.place_data(64, 60) == Place(4096, 4220, inline=True)
    assert allocator.offset == 4224
    # 96 + 4000 bytes fit no longer, so the rest of the block is left, and later used.
    assert allocator.place_data(64, 4000) == Place(8192, 12256, inline=True)
    assert allocator.place_file(80) == 4224
    assert allocator.place_special(64) == 12256
    # A tail that cannot stand with its inode in one block makes all data stand apart.
    assert allocator.place_data(64, 4090) == Place(4320, 16384, inline=False)
    assert allocator.offset == 20480


@pytest.mark.scale
def test_a_hundred_thousand_nodes_in_seconds() -> None:
    root = Node(stat.S_IFDIR)
    for top in range(1000):
        names = {b"f%d" % number: Node(stat.S_IFREG | 0o644) for number in range(100)}
        root.children[b"%d" % top] = Node(stat.S_IFDIR, children=names)
    start = time.process_time()
    bootstrap = write(root, [])
    assert time.process_time() - start < 30
    assert bootstrap.inode_count == 101_001
