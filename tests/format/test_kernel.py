"""What Linux shows of our bootstraps, and what erofs-utils say of them."""

from __future__ import annotations

import os
import random
import shutil
import stat
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from fs.format.tree import Node
from fs.format.writer import BootstrapOptions
from tests.format import drawn
from tests.format.images import Image, new_image
from tests.format.kernel import mounted, tool, write_files
from tests.parts.examples import examples
from tests.parts.trees import differences, scan

pytestmark = pytest.mark.erofs

WHOLE = settings(
    max_examples=examples(25), deadline=None, suppress_health_check=[HealthCheck.too_slow]
)


def assert_mounts_equal(image: Image, block_size: int = 4096) -> None:
    options = BootstrapOptions(chunk_size=image.chunk_size, block_size=block_size)
    bootstrap = image.pack(options)
    decoded = [blob.decoded for blob in image.blobs]
    with (
        tempfile.TemporaryDirectory() as directory,
        mounted(Path(directory), bootstrap, decoded) as mountpoint,
    ):
        assert differences(image.entries(), scan(mountpoint)) == []


@WHOLE
@given(drawn.images())
def test_any_tree_mounts_equal(image: Image) -> None:
    assert_mounts_equal(image)


def typical_image() -> Image:
    """Several blobs, every kind of inode, shared chunks, a big directory, attributes."""
    image = new_image(blobs=3)
    noise = random.Random(7)
    etc = Node(stat.S_IFDIR | 0o755, mtime=1_700_000_000, mtime_nsec=5)
    image.root.children[b"etc"] = etc
    for number in range(900):
        data = noise.randbytes(noise.randrange(9000)) if number % 3 else b"same" * 3000
        node = image.file(data, blob=number % 3, uid=number, mtime=number * 10_000_000)
        etc.children[b"file%d" % number] = node
    ping = image.file(b"#!" * 5000)
    ping.xattrs = {b"security.capability": drawn.capability, b"user.note": b"n" * 5000}
    image.root.children |= {
        b"ping": ping,
        b"ping-too": ping,
        b"link": Node(stat.S_IFLNK | 0o777, target=b"etc/file1"),
        b"long-link": Node(stat.S_IFLNK | 0o777, target=b"x" * 4095),
        b"null": Node(stat.S_IFCHR | 0o666, rdev=os.makedev(1, 3)),
        b"disk": Node(stat.S_IFBLK | 0o660, rdev=os.makedev(4095, 1048575)),
        b"pipe": Node(stat.S_IFIFO | 0o600),
        b"socket": Node(stat.S_IFSOCK | 0o755),
        b"empty": image.file(b""),
    }
    return image


@pytest.mark.parametrize("block_size", [512, 4096])
def test_typical_image_mounts_equal(block_size: int) -> None:
    assert_mounts_equal(typical_image(), block_size)


def test_image_without_blobs_mounts() -> None:
    image = new_image(blobs=0)
    image.root.children[b"link"] = Node(stat.S_IFLNK | 0o777, target=b"nowhere")
    assert_mounts_equal(image)


def test_deep_tree_mounts(tmp_path: Path) -> None:
    """Deeper than Python's recursion limit."""
    image = new_image()
    at = image.root
    for _ in range(1500):
        at.children[b"d"] = at = Node(stat.S_IFDIR | 0o700)
    at.children[b"file"] = image.file(b"deep")
    path = "d/" * 1500 + "file"
    with mounted(tmp_path, image.pack(), [blob.decoded for blob in image.blobs]) as mountpoint:
        assert (mountpoint / path).read_bytes() == b"deep"


@pytest.mark.skipif(shutil.which("fsck.erofs") is None, reason="no erofs-utils")
def test_erofs_utils_accept_it(tmp_path: Path) -> None:
    image = typical_image()
    boot, devices = write_files(tmp_path, image.pack(), [blob.decoded for blob in image.blobs])
    assert "No errors found" in tool("fsck.erofs", "-d9", boot=boot, devices=devices)
    shown = tool("dump.erofs", "-s", boot=boot, devices=devices)
    assert "chunked_file" in shown
    assert "device_table" in shown
    listing = tool("dump.erofs", "--ls", "--path=/etc", boot=boot, devices=devices)
    assert listing.count("file") >= 900
