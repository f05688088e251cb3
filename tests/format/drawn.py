"""Hypothesis strategies: trees of every kind of inode, with names and numbers at the edges."""

from __future__ import annotations

import os
import stat

from hypothesis import strategies as st

from fs.format.tree import HOLE, Chunk, Node
from tests.format.images import Image, new_image

_FORBIDDEN = (b".", b"..")
_EDGE_NAMES = [b"-", b"+x", b" ", b"!", b"...", b".a", b"..a", b"\xff\xfe", b"\n", b"a" * 255]
_EDGE_NAMES += [b"\xc3(" * 127, b"\x01", b".wh.x"]

names = st.one_of(
    st.sampled_from(_EDGE_NAMES),
    st.binary(min_size=1, max_size=12)
    .map(lambda raw: raw.replace(b"/", b"-").replace(b"\0", b"_"))
    .filter(lambda name: name not in _FORBIDDEN),
    st.integers(0, 999).map(lambda number: b"name%03d" % number + b"x" * (number % 200)),
)
#: Four billion minus one is no user in Linux.
owners = st.one_of(st.sampled_from([0, 1000, 65534, 65536, 0xFFFFFFFE]), st.integers(0, 0xFFFFFFFE))
times = st.one_of(
    st.sampled_from([0, -1, 1, 2**31 - 1, 2**31, 2**32, -(2**31)]), st.integers(-(2**40), 2**40)
)
nanoseconds = st.one_of(st.sampled_from([0, 1, 999_999_999]), st.integers(0, 999_999_999))
capability = bytes.fromhex("0100000200040000000000000000000000000000")
devices = st.builds(os.makedev, st.integers(0, 4095), st.integers(0, 2**20 - 1))
targets = st.binary(min_size=1, max_size=300).map(lambda raw: raw.replace(b"\0", b"/"))
long_targets = st.integers(1, 4095).map(lambda size: b"t" * size)


@st.composite
def xattrs(draw: st.DrawFn, kind: int) -> dict[bytes, bytes]:
    """Attributes that Linux lets root read back from an inode of this kind."""
    prefixes = [b"trusted.", b"security."]
    if kind in (stat.S_IFREG, stat.S_IFDIR):
        prefixes.append(b"user.")
    suffixes = st.binary(min_size=1, max_size=20).filter(
        # `capability`, `selinux` and so on have rules of their own.
        lambda raw: b"\0" not in raw and not raw.isascii()
    )
    found = draw(
        st.dictionaries(
            st.tuples(st.sampled_from(prefixes), suffixes).map(b"".join),
            st.one_of(st.binary(max_size=40), st.integers(0, 5000).map(bytes)),
            max_size=3,
        )
    )
    if kind == stat.S_IFREG and draw(st.booleans()):
        found[b"security.capability"] = capability
    return found


@st.composite
def _node(draw: st.DrawFn, image: Image, kind: int) -> Node:
    node = Node(
        kind | draw(st.integers(0, 0o7777)),
        uid=draw(owners),
        gid=draw(owners),
        mtime=draw(times),
        mtime_nsec=draw(nanoseconds),
        xattrs=draw(st.one_of(st.just({}), xattrs(kind))),
    )
    if kind == stat.S_IFREG:
        _fill(draw, image, node)
    elif kind == stat.S_IFLNK:
        node.target = draw(st.one_of(targets, long_targets))
    elif kind in (stat.S_IFCHR, stat.S_IFBLK):
        node.rdev = draw(devices)
    return node


def _fill(draw: st.DrawFn, image: Image, node: Node) -> None:
    """Contents of up to some chunks; equal pieces occur, so that chunks are shared."""
    size = draw(st.one_of(st.integers(0, 5), st.integers(0, 5 * image.chunk_size)))
    seed = draw(st.integers(0, 3))
    pieces = [
        bytes([seed, number % 3]) * (image.chunk_size // 2)
        for number in range(-(-size // image.chunk_size))
    ]
    data = b"".join(pieces)[:size]
    blob = draw(st.integers(0, len(image.blobs) - 1))
    node.size = size
    node.chunks = image.blobs[blob].add(data)
    if size and draw(st.integers(0, 5)) == 0:
        data = _punch(draw, node, data, image.chunk_size)
    image.contents[node] = data


def _punch(draw: st.DrawFn, node: Node, data: bytes, chunk_size: int) -> bytes:
    number = draw(st.integers(0, len(node.chunks) - 1))
    length = node.chunks[number].uncompressed_size
    hole = Chunk(bytes(32), HOLE, 0, 0, 0, 0, length)
    node.chunks = [*node.chunks[:number], hole, *node.chunks[number + 1 :]]
    start = number * chunk_size
    return data[:start] + bytes(length) + data[start + length :]


_KINDS = [
    stat.S_IFREG,
    stat.S_IFREG,
    stat.S_IFDIR,
    stat.S_IFLNK,
    stat.S_IFCHR,
    stat.S_IFBLK,
    stat.S_IFIFO,
    stat.S_IFSOCK,
]


@st.composite
def images(draw: st.DrawFn, max_names: int = 40, chunk_size: int = 4096) -> Image:
    """An image: directories to hang names into are drawn among those there are."""
    image = new_image(draw(st.integers(1, 3)), chunk_size)
    root = draw(_node(image, stat.S_IFDIR))
    image.root = root
    directories = [root]
    others: list[Node] = []
    for _ in range(draw(st.integers(0, max_names))):
        directory = draw(st.sampled_from(directories))
        name = draw(names)
        if name in directory.children:
            continue
        if others and draw(st.integers(0, 5)) == 0:
            directory.children[name] = draw(st.sampled_from(others))
            continue
        kind = draw(st.sampled_from(_KINDS))
        node = draw(_node(image, kind))
        directory.children[name] = node
        (directories if kind == stat.S_IFDIR else others).append(node)
    return image
