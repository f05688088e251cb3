"""Blobs that are whole in the cache are the kernel's own files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fs import mounts
from tests.drivers.images import image_of_files
from tests.drivers.worker import drop_caches, worker
from tests.image.build import BuiltImage
from tests.parts.trees import differences, scan

pytestmark = [pytest.mark.root, pytest.mark.fuse, pytest.mark.erofs]


def test_whole_blob_is_read_without_us(tree: Path, image: BuiltImage, tmp_path: Path) -> None:
    with worker(tmp_path / "place", image) as here:
        first = here.mount()
        assert differences(scan(tree), scan(first)) == []
        here.unmount(first)
        second = here.mount()
        reads = here.tell("counts")["reads"]
        drop_caches()
        assert differences(scan(tree), scan(second)) == []
        assert here.tell("counts")["reads"] == reads
        assert here.settled()["in_use"] == []
        here.kill()
        here.disconnect()
        drop_caches()
        assert differences(scan(tree), scan(second)) == []


def test_whole_blob_is_known_without_opening_it(
    tree: Path, image: BuiltImage, tmp_path: Path
) -> None:
    with worker(tmp_path / "place", image) as here:
        mounted = here.mount()
        assert (mounted / "big").read_bytes() == (tree / "big").read_bytes()
        assert differences(scan(tree), scan(mounted)) == []
        here.unmount(mounted)
        here.tell("detach", 1)
        here.stop()
        (here.cache / f"{image.record.blob_id}.blob.data.chunk_map").unlink()
        here.start()
        mounted = here.mount()
        here.kill()  # it has not opened the blob, nor will
        assert differences(scan(tree), scan(mounted)) == []
        here.start()


def test_only_the_blobs_that_are_whole_are_local(tmp_path: Path) -> None:
    contents = {"one": os.urandom(200_000), "two": os.urandom(300_000)}
    image = image_of_files(contents, tmp_path / "image")
    with worker(tmp_path / "place", image) as here:
        first = here.mount()
        assert (first / "one").read_bytes() == contents["one"]
        second = here.mount()
        drop_caches()
        before = here.tell("counts")["reads"]
        assert (second / "one").read_bytes() == contents["one"]
        assert here.tell("counts")["reads"] == before
        assert (second / "two").read_bytes() == contents["two"]
        assert here.tell("counts")["reads"] > before


def test_another_image_of_the_blob_is_not_taken_for_whole(tmp_path: Path) -> None:
    content = {"file": os.urandom(256_000)}
    image = image_of_files(content, tmp_path / "image")
    other = image_of_files(content, tmp_path / "other", block_size=512)
    with worker(tmp_path / "place", image, other) as here:
        for number in (1, 2):
            mounted = here.mount(number)
            assert (mounted / "file").read_bytes() == content["file"]
            here.unmount(mounted)


def test_cache_on_a_file_system_that_erofs_cannot_read(
    tree: Path, image: BuiltImage, tmp_path: Path
) -> None:
    cache = tmp_path / "place" / "cache"
    cache.mkdir(parents=True)
    mounts.mount("tmpfs", cache, "tmpfs", 0, "size=64m")
    try:
        with worker(tmp_path / "place", image) as here:
            for _ in range(2):
                mounted = here.mount()
                assert differences(scan(tree), scan(mounted)) == []
    finally:
        mounts.umount(cache)
