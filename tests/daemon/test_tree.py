"""What the kernel sees through a mount."""

from __future__ import annotations

import mmap
import os
import random
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.daemon.mounting import Place
from tests.image.build import BuiltImage, build_image
from tests.parts.trees import differences, scan
from tests.parts.waiting import eventually

pytestmark = [pytest.mark.root, pytest.mark.fuse]


def test_tree_equals_its_source(tree: Path, image: BuiltImage, here: Place) -> None:
    here.mount(image)
    assert differences(scan(tree), scan(here.mountpoint)) == []
    here.unmount()


def test_random_reads_equal(tree: Path, image: BuiltImage, here: Place) -> None:
    here.mount(image)
    chosen = random.Random(1)
    content = (tree / "big").read_bytes()
    descriptor = os.open(here.mountpoint / "big", os.O_RDONLY)
    try:
        for _ in range(200):
            offset = chosen.randrange(len(content) + 5000)
            length = chosen.choice([1, 100, 4096, 70_000, 1 << 20])
            assert os.pread(descriptor, length, offset) == content[offset : offset + length]
    finally:
        os.close(descriptor)
    here.unmount()


def test_mmap_and_exec(tmp_path: Path, here: Place) -> None:
    source = tmp_path / "source"
    source.mkdir()
    shutil.copy("/bin/ls", source / "ls")
    here.mount(build_image(source, tmp_path / "image", chunk_size=4096))
    program = here.mountpoint / "ls"
    done = subprocess.run([program, here.mountpoint], capture_output=True, text=True, check=True)
    assert done.stdout == "ls\n"
    with (
        program.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
    ):
        assert mapped[:] == Path("/bin/ls").read_bytes()
    here.unmount()


def test_names_that_are_not_there_are_asked_for_once(image: BuiltImage, here: Place) -> None:
    here.mount(image)
    for _ in range(3):
        assert not (here.mountpoint / "nothing").exists()
    with pytest.raises(FileNotFoundError):
        (here.mountpoint / "dir" / "none").open()
    here.unmount()


def test_listing_has_dots_and_file_system_is_read_only(image: BuiltImage, here: Place) -> None:
    here.mount(image)
    listed = subprocess.run(["ls", "-a", here.mountpoint / "dir"], capture_output=True, text=True)
    assert listed.stdout.split()[:3] == [".", "..", "deep"]
    with pytest.raises(OSError, match="Read-only"):
        (here.mountpoint / "new").touch()
    figures = os.statvfs(here.mountpoint)
    assert (figures.f_bfree, figures.f_namemax) == (0, 255)
    assert figures.f_blocks * figures.f_bsize == image.record.uncompressed_size
    here.unmount()


def test_image_without_xattrs_has_none(tmp_path: Path, here: Place) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "file").touch()
    here.mount(build_image(source, tmp_path / "image"))
    assert os.listxattr(here.mountpoint / "file") == []
    with pytest.raises(OSError, match="No data"):
        os.getxattr(here.mountpoint / "file", "user.note")
    here.unmount()


def test_compressors_and_chunk_sizes(tree: Path, tmp_path: Path, here: Place) -> None:
    from fs.format.blobtable import Compressor

    for compressor in (Compressor.NONE, Compressor.LZ4_BLOCK, Compressor.GZIP):
        image = build_image(
            tree, tmp_path / compressor.name, chunk_size=64 << 10, compressor=compressor
        )
        here.mount(image)
        assert (here.mountpoint / "big").read_bytes() == (tree / "big").read_bytes()
        here.unmount()


def test_prefetch_brings_what_the_image_asks_for(tree: Path, tmp_path: Path, here: Place) -> None:

    image = build_image(tree, tmp_path / "image", prefetch=(b"dir", b"hello"))
    here.mount(image)
    eventually(lambda: here.status()["cached_chunks"] == 301, "prefetched")
    assert here.status()["requests"] == 1
    (here.mountpoint / "dir" / "file-250").read_bytes()
    assert here.status()["requests"] == 1
    here.unmount()
