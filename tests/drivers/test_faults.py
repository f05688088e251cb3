"""A mount by the kernel while the worker dies, data is wrong, the disk is full: truth or error."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from fs import mounts
from tests.backend.servers import blob_server
from tests.drivers.worker import drop_caches, worker
from tests.image.build import BuiltImage
from tests.parts.trees import differences, scan
from tests.parts.waiting import PATIENCE, eventually

pytestmark = [pytest.mark.root, pytest.mark.fuse, pytest.mark.erofs]


def _assert_eio(path: Path) -> None:
    with pytest.raises(OSError, match="Input/output error") as caught:
        path.read_bytes()
    assert caught.value.errno == errno.EIO


def test_reader_outlives_a_killed_worker(tree: Path, image: BuiltImage, tmp_path: Path) -> None:
    with (
        blob_server(image.blobs) as server,
        worker(tmp_path / "place", image, blobs=server.url) as here,
    ):
        mounted = here.mount()
        server.hold()
        reader = subprocess.Popen(["cat", mounted / "big"], stdout=subprocess.PIPE)
        eventually(lambda: server.held, "a request waits")
        here.kill()
        time.sleep(0.1)
        assert reader.poll() is None
        server.release()
        here.start()
        assert reader.communicate(timeout=PATIENCE)[0] == (tree / "big").read_bytes()
        assert differences(scan(tree), scan(mounted)) == []
        drop_caches()
        assert differences(scan(tree), scan(mounted)) == []
        here.unmount(mounted)
        assert here.settled()["in_use"] == []


def test_without_the_daemon_unread_data_is_an_error(
    tree: Path, image: BuiltImage, tmp_path: Path
) -> None:
    with worker(tmp_path / "place", image) as here:
        mounted = here.mount()
        assert (mounted / "hello").read_bytes() == b"hello world\n"
        here.kill()
        here.disconnect()
        with (mounted / "big").open("rb") as file:
            for offset in (0, 1 << 20, 4 << 20):
                with pytest.raises(OSError, match="Input/output error"):
                    os.pread(file.fileno(), 4096, offset)
        assert (mounted / "hello").read_bytes() == b"hello world\n"
        assert (mounted / "dir" / "file-001").stat().st_uid == 1000


def test_unmounting_does_not_wait_for_a_worker(image: BuiltImage, tmp_path: Path) -> None:
    with worker(tmp_path / "place", image) as here:
        here.tell("choose", 1, "auto")
        mounted = here.mount()
        assert (mounted / "hello").read_bytes() == b"hello world\n"
        here.kill()
        here.unmount(mounted)
        here.start()
        assert here.settled()["in_use"] == []


def test_corrupt_chunk_is_an_error_and_only_that_chunk(
    tree: Path, image: BuiltImage, tmp_path: Path
) -> None:
    blobs = tmp_path / "damaged"
    shutil.copytree(image.blobs, blobs)
    chunk = image.chunks[3]
    content = bytearray((blobs / image.record.blob_id).read_bytes())
    content[chunk.compressed_offset + chunk.compressed_size // 2] ^= 1
    (blobs / image.record.blob_id).write_bytes(content)
    with worker(tmp_path / "place", image, blobs=str(blobs)) as here:
        mounted = here.mount()
        files = [path for path in sorted(mounted.rglob("*")) if path.is_file()]
        states = {path.name: _state(path, tree / path.relative_to(mounted)) for path in files}
        assert [name for name, state in states.items() if state != "same"] == ["big"]
        assert states["big"] == os.strerror(errno.EIO)


def _state(path: Path, origin: Path) -> str:
    """How reading `path` compares to its origin, or the error's text."""
    try:
        return "same" if path.read_bytes() == origin.read_bytes() else "different"
    except OSError as error:
        return str(error.strerror)


def test_outage_is_an_error_until_the_server_is_back(image: BuiltImage, tmp_path: Path) -> None:
    with (
        blob_server(image.blobs) as server,
        worker(tmp_path / "place", image, blobs=server.url) as here,
    ):
        mounted = here.mount()
        server.down()
        _assert_eio(mounted / "hello")
        server.up()
        assert (mounted / "hello").read_bytes() == b"hello world\n"


def test_full_disk_costs_speed_only(tree: Path, image: BuiltImage, tmp_path: Path) -> None:
    cache = tmp_path / "place" / "cache"
    cache.mkdir(parents=True)
    mounts.mount("tmpfs", cache, "tmpfs", 0, "size=1m")
    try:
        with worker(tmp_path / "place", image) as here:
            mounted = here.mount()
            assert differences(scan(tree), scan(mounted)) == []
            drop_caches()
            assert (mounted / "big").read_bytes() == (tree / "big").read_bytes()
    finally:
        mounts.umount(cache)
