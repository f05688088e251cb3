"""Any bytes give a tree or a FormatError: never another exception, a hang, or much memory."""

from __future__ import annotations

import functools
import io
import mmap
import random
import stat
import struct
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fs.format.bootstrap import Bootstrap
from fs.format.buffer import Buffer
from fs.format.errors import FormatError
from fs.format.tree import Node
from fs.format.versions import open_bootstrap
from fs.format.walk import load_tree, walk
from fs.format.writer import BootstrapOptions, write_bootstrap
from tests.format.images import new_image

#: Of the processor: far more than an image of these sizes takes, far less than a hang.
SECONDS = 20.0
FUZZ = settings(
    deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)


def read_everything(buffer: Buffer) -> bool:
    """Use every method on all that can be reached; False if FormatError ended it.

    Fails when that takes longer than a hang would be noticed.
    """
    start = time.process_time()
    try:
        bootstrap = open_bootstrap(buffer, "fuzzed")
    except FormatError:
        return False
    results = [attempt(functools.partial(visit_all, bootstrap))]
    results.append(attempt(lambda: load_tree(bootstrap)))
    results.append(attempt(lambda: bootstrap.prefetch))
    for index in range(len(bootstrap.blobs)):
        results.append(attempt(functools.partial(bootstrap.chunk_table, index)))
    assert time.process_time() - start < SECONDS
    return all(results)


def attempt(action: Callable[[], object]) -> bool:
    """Whether `action` went well; False for FormatError."""
    try:
        action()
    except FormatError:
        return False
    return True


def visit_all(bootstrap: Bootstrap) -> None:
    for parent, name, inode in walk(bootstrap):
        if name:
            bootstrap.lookup(parent, name)
        bootstrap.xattrs(inode.nid)
        if stat.S_ISLNK(inode.mode):
            bootstrap.readlink(inode.nid)
        if stat.S_ISREG(inode.mode):
            bootstrap.extents(inode.nid, 0, 1 << 62)
            bootstrap.extents(inode.nid, inode.size - 1, 1 << 70)
            bootstrap.extents(inode.nid, inode.size // 2, 1)


@functools.cache
def small_image(block_size: int = 4096) -> bytes:
    """All kinds of records in few bytes."""
    image = new_image(blobs=2)
    noise = random.Random(1)
    sub = Node(stat.S_IFDIR | 0o755, xattrs={b"user.x": b"y" * 50})
    shared = image.file(noise.randbytes(9000), xattrs={b"security.a": b"b"})
    image.root.children = {
        b"sub": sub,
        b"file": shared,
        b"link": Node(stat.S_IFLNK | 0o777, target=b"t" * 100),
        b"plain-link": Node(stat.S_IFLNK | 0o777, target=b"t" * 4090),
        b"null": Node(stat.S_IFCHR, rdev=0x103),
    }
    sub.children = {
        b"n%03d" % number: image.file(b"%d" % number, number % 2) for number in range(300)
    }
    sub.children[b"again"] = shared
    sub.children[b"deeper"] = Node(stat.S_IFDIR, children={b"pipe": Node(stat.S_IFIFO)})
    options = BootstrapOptions(chunk_size=4096, block_size=block_size, prefetch=[shared, sub])
    return image.pack(options)


@pytest.fixture(scope="session", params=["ours", "ours-512", "v6", "v5"])
def valid(request: pytest.FixtureRequest) -> bytes:
    if request.param == "ours":
        return small_image()
    if request.param == "ours-512":
        return small_image(512)
    samples: Path = request.getfixturevalue("samples")
    names = {"v6": "rafs-v6-2.2.boot", "v5": "rafs-v5-sha256.boot"}
    return (samples / names[request.param]).read_bytes()


def test_valid_images_are_read_to_the_end(valid: bytes) -> None:
    assert read_everything(valid)


words = st.one_of(
    st.sampled_from([0, 1, 2, 3, 7, 8, 12, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 2**63 - 1]),
    st.sampled_from([4096, 4095, 4097, 128, 129, 2**44, 2**62, 2**64 - 1]),
    st.integers(0, 2**64 - 1),
)
#: (where among the bytes that are not zero, how far from there, width, value)
edits = st.lists(
    st.tuples(st.floats(0, 1), st.integers(-9, 9), st.sampled_from([1, 2, 4, 8]), words),
    min_size=1,
    max_size=6,
)


@functools.cache
def used_bytes(image: bytes) -> list[int]:
    return [at for at, value in enumerate(image) if value]


def mutate(image: bytes, changes: list[tuple[float, int, int, int]]) -> bytearray:
    data = bytearray(image)
    used = used_bytes(image)
    for fraction, shift, width, value in changes:
        at = used[min(int(fraction * len(used)), len(used) - 1)] + shift
        at = max(0, min(at, len(data) - width))
        data[at : at + width] = (value % (1 << 8 * width)).to_bytes(width, "little")
    return data


@FUZZ
@given(changes=edits)
def test_mutated_images(valid: bytes, changes: list[tuple[float, int, int, int]]) -> None:
    read_everything(mutate(valid, changes))


@pytest.mark.scale
@settings(FUZZ, max_examples=10_000)
@given(changes=edits)
def test_mutated_images_for_long(valid: bytes, changes: list[tuple[float, int, int, int]]) -> None:
    read_everything(mutate(valid, changes))


@FUZZ
@given(fraction=st.floats(0, 1, exclude_max=True))
def test_truncated_images(valid: bytes, fraction: float) -> None:
    assert not read_everything(valid[: int(len(valid) * fraction)])


@FUZZ
@given(st.binary(max_size=20_000))
def test_random_bytes(data: bytes) -> None:
    assert not read_everything(data)


@FUZZ
@given(st.integers(0, 2**32), st.integers(0, 40))
def test_random_metadata_behind_a_valid_head(seed: int, zeros: int) -> None:
    """What follows superblock and tables is noise, with some zeros so that more of it fits."""
    image = small_image()
    noise = random.Random(seed)
    tail = bytearray(noise.randbytes(len(image) - 8192))
    for _ in range(zeros * 100):
        tail[noise.randrange(len(tail))] = 0
    read_everything(image[:8192] + tail)


# Attacks made by hand, each with a place that a mutation seldom hits.


def inode_at(image: bytes | bytearray, path: bytes) -> tuple[int, Bootstrap]:
    """Byte offset of the inode of a path, and the image opened."""
    bootstrap = open_bootstrap(image, "image")
    nid: int | None = bootstrap.root
    for name in path.split(b"/"):
        assert nid is not None
        nid = bootstrap.lookup(nid, name)
    assert nid is not None
    return image_meta(image) + nid * 32, bootstrap


def image_meta(image: bytes | bytearray) -> int:
    """Where nids are counted from, in an image with blocks of 4096 bytes."""
    (block,) = struct.unpack_from("<I", image, 1024 + 40)
    return int(block) * 4096


def with_bytes(image: bytes, offset: int, data: bytes) -> bytearray:
    changed = bytearray(image)
    changed[offset : offset + len(data)] = data
    return changed


def dirent_of(image: bytes, name: bytes) -> int:
    """Offset of the record of a name in a directory that has one block."""
    at = image.index(name)
    block = at // 4096 * 4096
    _, bootstrap = inode_at(image, b".")
    root = image_meta(image) + bootstrap.root * 32 + 64
    start = root if block <= root < block + 4096 else block
    names = [entry.name for entry in bootstrap.entries(bootstrap.root)]
    index = sorted([*names, b".", b".."]).index(name)
    return start + 12 * index


def test_directory_that_contains_itself_is_refused() -> None:
    image = small_image()
    looped = with_bytes(image, dirent_of(image, b"sub"), struct.pack("<Q", 128))
    with pytest.raises(FormatError, match="has two names"):
        list(walk(open_bootstrap(looped, "looped")))


def test_absurd_file_size_is_refused() -> None:
    image = small_image()
    offset, _ = inode_at(image, b"file")
    for size in (1 << 40, 1 << 62, (1 << 64) - 1):
        bootstrap = open_bootstrap(with_bytes(image, offset + 8, struct.pack("<Q", size)), "huge")
        with pytest.raises(FormatError):
            bootstrap.inode((offset - image_meta(image)) // 32)


def test_absurd_directory_size_is_refused() -> None:
    image = small_image()
    offset, _ = inode_at(image, b"sub")
    bootstrap = open_bootstrap(with_bytes(image, offset + 8, struct.pack("<Q", 1 << 40)), "huge")
    nid = bootstrap.lookup(bootstrap.root, b"sub")
    assert nid is not None
    with pytest.raises(FormatError, match="directory"):
        bootstrap.lookup(nid, b"n001")


def test_shared_xattrs_are_refused() -> None:
    image = small_image()
    offset, bootstrap = inode_at(image, b"file")
    changed = with_bytes(image, offset + 64 + 4, b"\x01")
    nid = bootstrap.lookup(bootstrap.root, b"file")
    assert nid is not None
    with pytest.raises(FormatError, match="shared extended attributes"):
        open_bootstrap(changed, "shared").xattrs(nid)


@pytest.mark.parametrize(
    ("offset", "value", "message"),
    [
        (1024, b"\0\0\0\0", "magic"),
        (1024 + 4, b"\1", "checksum"),
        (1024 + 8, b"\0\0\0\0", "not a RAFS v6"),
        (1024 + 12, b"\x0d", "block size"),
        (1024 + 40, b"\xff\xff\xff\xff", "past the end"),
        (1024 + 44, b"\1", "shared extended"),
        (1024 + 80, b"\x0d", "features"),
        (1024 + 86, b"\xff\xff", "device slots"),
        (1152 + 1, b"\x80", "unknown flags"),
        (1152, b"\x95", "one compressor"),
        (1152 + 20, b"\1\1\0\0", "chunk size"),
        (1152 + 8, b"\1", "blob table"),
        (1152 + 32, b"\1", "chunk table"),
        (4096, b"..", "hexadecimal"),
        (4096 + 64, b"\1", "index"),
        (4096 + 76, b"\x09", "compressor"),
        (4096 + 85, b"\x80", "unknown features"),
        (4096 + 216, b"\1", "encrypted"),
    ],
)
def test_malformed_heads_are_named(offset: int, value: bytes, message: str) -> None:
    with pytest.raises(FormatError, match=message) as caught:
        open_bootstrap(with_bytes(small_image(), offset, value), "broken.boot")
    assert "broken.boot" in str(caught.value)


def test_inodes_that_share_their_bytes_cost_no_more_than_their_size() -> None:
    """Ten thousand inodes that overlap in one attribute area would be 600 MB of attributes."""
    image = new_image(blobs=0)
    image.root.children = {
        b"%05d" % number: Node(stat.S_IFIFO, xattrs={b"user.a": bytes(16)})
        for number in range(10_000)
    }
    data = bytearray(image.pack())
    bootstrap = open_bootstrap(bytes(data), "image")
    for entry in bootstrap.entries(bootstrap.root):
        offset = entry.nid * 32
        struct.pack_into("<H", data, offset + 2, 1 + 15_000)
        struct.pack_into("<H", data, offset + 64 + 12 + 2, 59_900)
    opened = open_bootstrap(data, "overlapping")
    tracemalloc.start()
    assert not attempt(lambda: load_tree(opened))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20 * len(data)


def test_open_reads_only_the_head() -> None:
    """What comes after headers and root may be anything."""
    image = bytearray(small_image())
    bootstrap = open_bootstrap(bytes(image), "image")
    after = image_meta(image) + bootstrap.root * 32 + 64
    image[after:] = b"\xff" * (len(image) - after)
    opened = open_bootstrap(image, "head only")
    with pytest.raises(FormatError):
        list(opened.entries(opened.root))


def test_no_inode_is_found_outside() -> None:
    bootstrap = open_bootstrap(small_image(), "image")
    for nid in (-1, -(10**30), 1 << 30, 1 << 70):
        with pytest.raises(FormatError):
            bootstrap.inode(nid)


def test_mmap_can_be_closed_after_the_bootstrap(tmp_path: Path) -> None:
    path = tmp_path / "image.boot"
    path.write_bytes(small_image())
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    bootstrap = open_bootstrap(mapped, "mapped")
    assert len(list(walk(bootstrap))) == len(list(walk(open_bootstrap(small_image(), "bytes"))))
    bootstrap.close()
    mapped.close()


def test_output_is_only_appended() -> None:
    class OnlyWrite(io.RawIOBase):
        def writable(self) -> bool:
            return True

        def write(self, data: object, /) -> int:
            return len(data)  # type: ignore[arg-type]

    image = new_image()
    image.root.children[b"f"] = image.file(b"data")
    out = OnlyWrite()
    write_bootstrap(image.root, image.records(), BootstrapOptions(chunk_size=4096), out)  # type: ignore[arg-type]
