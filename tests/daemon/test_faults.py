"""What readers get when bytes are wrong, missing or out of reach: the truth or an error."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from fs import mounts
from tests.backend.servers import blob_server
from tests.daemon.mounting import Place
from tests.image.build import BuiltImage, build_image
from tests.parts.waiting import PATIENCE, eventually

pytestmark = [pytest.mark.root, pytest.mark.fuse]


@pytest.fixture
def damaged(image: BuiltImage, tmp_path: Path) -> BuiltImage:
    """A copy of the image whose blob a test may break."""
    blobs = tmp_path / "damaged"
    shutil.copytree(image.blobs, blobs)
    return BuiltImage(image.bootstrap, blobs, image.record, image.chunks)


def _assert_eio(path: Path) -> None:
    with pytest.raises(OSError, match="Input/output error") as caught:
        path.read_bytes()
    assert caught.value.errno == errno.EIO


def test_corrupt_chunk_is_an_error_and_only_that_chunk(
    tree: Path, damaged: BuiltImage, here: Place
) -> None:
    chunk = damaged.chunks[2]
    with damaged.blob.open("r+b") as blob:
        blob.seek(chunk.compressed_offset + chunk.compressed_size // 2)
        byte = blob.read(1)
        blob.seek(-1, os.SEEK_CUR)
        blob.write(bytes([byte[0] ^ 1]))
    here.mount(damaged)
    _assert_eio(here.mountpoint / "big")
    assert (here.mountpoint / "hello").read_bytes() == b"hello world\n"
    with (here.mountpoint / "big").open("rb") as file:
        assert file.read(4096) == bytes(range(256)) * 16
    assert f"blob {damaged.record.blob_id} chunk {chunk.position}" in here.log()
    here.unmount()


def test_truncated_blob_serves_what_it_has(damaged: BuiltImage, here: Place) -> None:
    os.truncate(damaged.blob, damaged.chunks[150].compressed_offset + 1)
    here.mount(damaged)
    with (here.mountpoint / "big").open("rb") as file:
        assert file.read(4096) == bytes(range(256)) * 16
    readable = []
    for number in range(0, 300, 10):  # a refused read is asked for several times
        with contextlib.suppress(OSError):
            content = (here.mountpoint / "dir" / f"file-{number:03}").read_bytes()
            assert content == b"%d\n" % number * (number + 1)
            readable.append(number)
    assert readable == list(range(0, len(readable) * 10, 10))
    assert 10 < len(readable) < 20
    assert "ends inside of a chunk" in here.log()
    here.unmount()


@pytest.mark.parametrize("mode", ["404", "403", "410"])
def test_refusals_are_errors(image: BuiltImage, here: Place, mode: str) -> None:
    with blob_server(image.blobs) as server:
        server.mode = mode
        here.mount(image, backend_url=server.url, outage_deadline=0.0)
        _assert_eio(here.mountpoint / "hello")
        assert (here.mountpoint / "hello").stat().st_size == 12
        here.unmount()


def test_short_bodies_are_an_error(image: BuiltImage, here: Place) -> None:
    with blob_server(image.blobs) as server:
        server.mode = "short"
        here.mount(image, backend_url=server.url)
        _assert_eio(here.mountpoint / "hello")
        server.mode = ""
        assert (here.mountpoint / "hello").read_bytes() == b"hello world\n"
        here.unmount()


def test_server_that_ignores_ranges_will_do(tree: Path, image: BuiltImage, here: Place) -> None:
    with blob_server(image.blobs) as server:
        server.mode = "whole"
        here.mount(image, backend_url=server.url)
        assert (here.mountpoint / "big").read_bytes() == (tree / "big").read_bytes()
        here.unmount()


def test_reads_wait_through_an_outage(image: BuiltImage, here: Place) -> None:
    with blob_server(image.blobs) as server:
        here.mount(image, backend_url=server.url, outage_deadline=30.0)
        server.down()
        timer = threading.Timer(0.7, server.up)
        timer.start()
        assert (here.mountpoint / "hello").read_bytes() == b"hello world\n"
        timer.join()
        assert here.status()["failed_requests"] > 0
        here.unmount()


def test_outage_past_its_deadline_is_an_error_until_the_server_is_back(
    image: BuiltImage, here: Place
) -> None:
    with blob_server(image.blobs) as server:
        here.mount(image, backend_url=server.url, outage_deadline=0.5)
        server.down()
        _assert_eio(here.mountpoint / "hello")
        server.up()
        assert (here.mountpoint / "hello").read_bytes() == b"hello world\n"
        here.unmount()


def test_metadata_needs_no_server(image: BuiltImage, here: Place) -> None:
    with blob_server(image.blobs) as server:
        here.mount(image, backend_url=server.url)
        server.down()
        listed = subprocess.run(
            ["find", here.mountpoint, "-ls"], capture_output=True, text=True, check=True
        )
        assert len(listed.stdout.splitlines()) > 310
        assert here.status()["requests"] == 0
        here.unmount()


def test_full_disk_costs_speed_only(tree: Path, image: BuiltImage, here: Place) -> None:
    cache = here.root / "cache"
    cache.mkdir(parents=True)
    mounts.mount("tmpfs", cache, "tmpfs", 0, "size=1m")
    try:
        here.mount(image)
        assert (here.mountpoint / "big").read_bytes() == (tree / "big").read_bytes()
        assert (here.mountpoint / "dir" / "file-299").read_bytes() == b"299\n" * 300
        assert here.status()["cached_chunks"] < here.status()["chunks"]
        here.unmount()
    finally:
        mounts.umount(cache)


def test_cache_directory_that_cannot_be_made_costs_speed_only(
    image: BuiltImage, here: Place, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    here.mount(image, cache_dir=str(tmp_path / "file" / "cache"))
    assert (here.mountpoint / "hello").read_bytes() == b"hello world\n"
    assert "without local files" in here.log()
    here.unmount()


def test_interrupted_reader_takes_nothing_from_others(image: BuiltImage, here: Place) -> None:
    with blob_server(image.blobs) as server:
        here.mount(image, backend_url=server.url)
        server.hold()
        readers = [
            subprocess.Popen(["cat", here.mountpoint / "hello"], stdout=subprocess.PIPE)
            for _ in range(2)
        ]
        eventually(lambda: server.held, "a request waits")
        readers[0].kill()
        readers[0].wait(PATIENCE)
        server.release()
        outputs = [reader.communicate(timeout=PATIENCE)[0] for reader in readers]
        assert outputs[1] == b"hello world\n"
        assert here.status()["requests"] == 1
        here.unmount()


def test_many_readers_of_a_cold_chunk_make_one_request(tmp_path: Path, here: Place) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for number in range(1000):  # names of their own: the kernel would merge reads of one file
        (source / f"{number:04}").write_bytes(b"the same content")
    image = build_image(source, tmp_path / "image")
    assert len(image.chunks) == 1
    with blob_server(image.blobs) as server:
        here.mount(image, backend_url=server.url)
        server.hold()
        outcomes: list[bytes] = []
        threads = [
            threading.Thread(target=lambda path=path: outcomes.append(path.read_bytes()))
            for path in sorted(here.mountpoint.iterdir())[:300]
        ]
        for thread in threads:
            thread.start()
        eventually(lambda: server.held, "a request waits")
        server.release()
        for thread in threads:
            thread.join(PATIENCE)
        assert outcomes == [b"the same content"] * 300
        assert len(server.ranges) == 1
        here.unmount()


_FAULT = """
import mmap, signal, sys
signal.signal(signal.SIGUSR1, lambda *_: None)
with open(sys.argv[1], "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as page:
    page.madvise(mmap.MADV_RANDOM)  # so that the fault itself waits for the answer
    print("mapped", flush=True)
    sys.stdout.buffer.write(page[:])
"""


def _faulting(path: Path) -> subprocess.Popen[bytes]:
    reader = subprocess.Popen([sys.executable, "-c", _FAULT, path], stdout=subprocess.PIPE)
    assert reader.stdout is not None
    assert reader.stdout.readline() == b"mapped\n"
    return reader


def test_page_fault_outlives_a_signal_but_not_a_kill(image: BuiltImage, here: Place) -> None:
    with blob_server(image.blobs) as server:
        here.mount(image, backend_url=server.url, outage_deadline=60.0)
        server.hold()
        readers = [_faulting(here.mountpoint / name) for name in ("big", "hello")]
        eventually(lambda: server.held, "a request waits")
        time.sleep(0.1)
        for reader in readers:
            reader.send_signal(signal.SIGUSR1)
        time.sleep(0.1)
        assert [reader.poll() for reader in readers] == [None, None]
        readers[0].kill()
        assert readers[0].wait(PATIENCE) == -signal.SIGKILL
        assert readers[1].poll() is None
        server.release()
        assert readers[1].communicate(timeout=PATIENCE)[0] == b"hello world\n"
        assert readers[1].returncode == 0
        assert readers[0].stdout is not None
        readers[0].stdout.close()
        here.unmount()


_MANY = """
import mmap, os, sys
with open(sys.argv[1], "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as page:
    page.madvise(mmap.MADV_RANDOM)
    for number in range(540):  # more than the daemon reads at once
        if os.fork() == 0:
            page[number * 4096]
            os._exit(0)
    print("started", flush=True)
    ended = [os.waitstatus_to_exitcode(os.wait()[1]) for _ in range(540)]
    print("read" if set(ended) == {0} else "not read", flush=True)
"""


def test_who_waits_for_a_turn_to_be_read_can_be_killed(image: BuiltImage, here: Place) -> None:
    with blob_server(image.blobs) as server:
        here.mount(image, backend_url=server.url, outage_deadline=60.0)
        server.hold()
        command = [sys.executable, "-c", _MANY, str(here.mountpoint / "big")]
        crowd = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert crowd.stdout is not None
        assert crowd.stdout.readline() == b"started\n"
        time.sleep(1)
        readers = [_faulting(here.mountpoint / "hello") for _ in range(2)]
        time.sleep(0.5)
        for reader in readers:
            reader.send_signal(signal.SIGUSR1)  # of which the kernel tells, but of no other
        time.sleep(0.2)
        assert [reader.poll() for reader in readers] == [None, None]
        readers[0].kill()
        assert readers[0].wait(PATIENCE) == -signal.SIGKILL
        server.release()
        assert crowd.communicate(timeout=PATIENCE)[0] == b"read\n"
        assert readers[1].communicate(timeout=PATIENCE)[0] == b"hello world\n"
        assert readers[0].stdout is not None
        readers[0].stdout.close()
        here.unmount()
