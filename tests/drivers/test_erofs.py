"""What the kernel's own EROFS shows of an image whose blobs we serve."""

from __future__ import annotations

import mmap
import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fs import mounts
from tests.drivers.images import image_of_files
from tests.drivers.worker import drop_caches, worker
from tests.image.build import BuiltImage, build_image
from tests.parts.trees import differences, scan

pytestmark = [pytest.mark.root, pytest.mark.fuse, pytest.mark.erofs]


@contextmanager
def _overlay(lower: Path, place: Path) -> Iterator[Path]:
    for name in ("upper", "work", "merged"):
        (place / name).mkdir(parents=True)
    options = f"lowerdir={lower},upperdir={place}/upper,workdir={place}/work"
    mounts.mount("overlay", place / "merged", "overlay", 0, options)
    try:
        yield place / "merged"
    finally:
        mounts.umount(place / "merged", mounts.MNT_DETACH)


def test_tree_equals_its_source_cold_warm_and_without_pages(
    tree: Path, image: BuiltImage, tmp_path: Path
) -> None:
    expected = scan(tree)
    with worker(tmp_path / "place", image) as here:
        assert here.tell("choose", 1, "auto") == ["erofs", "the kernel mounts it"]
        mounted = here.mount()
        assert differences(expected, scan(mounted)) == []
        assert differences(expected, scan(mounted)) == []
        drop_caches()
        assert differences(expected, scan(mounted)) == []


def test_overlay_on_top(tree: Path, image: BuiltImage, tmp_path: Path) -> None:
    expected = scan(tree)
    with worker(tmp_path / "place", image) as here:
        mounted = here.mount()
        with _overlay(mounted, tmp_path / "overlay") as merged:
            found = scan(merged)
            found[b"."] = expected[b"."]  # of an overlay's root the upper directory tells
            assert differences(expected, found) == []
            (merged / "hello").write_bytes(b"changed")
            drop_caches()
            assert (merged / "hello").read_bytes() == b"changed"
            assert (merged / "big").read_bytes() == (tree / "big").read_bytes()
        assert (mounted / "hello").read_bytes() == b"hello world\n"


def test_mmap_and_exec(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    shutil.copy("/bin/ls", source / "ls")
    image = build_image(source, tmp_path / "image", chunk_size=4096)
    with worker(tmp_path / "place", image) as here:
        mounted = here.mount()
        program = mounted / "ls"
        done = subprocess.run([program, mounted], capture_output=True, text=True, check=True)
        assert done.stdout == "ls\n"
        drop_caches()
        with (
            program.open("rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
        ):
            assert mapped[:] == Path("/bin/ls").read_bytes()


def test_random_reads_equal(tree: Path, image: BuiltImage, tmp_path: Path) -> None:
    chosen = random.Random(1)
    content = (tree / "big").read_bytes()
    with worker(tmp_path / "place", image) as here, (here.mount() / "big").open("rb") as file:
        for turn in range(200):
            if turn % 50 == 0:
                drop_caches()
            offset = chosen.randrange(len(content) + 5000)
            length = chosen.choice([1, 100, 4096, 70_000, 1 << 20])
            got = os.pread(file.fileno(), length, offset)
            assert got == content[offset : offset + length]


@pytest.mark.skipif(
    tuple(map(int, os.uname().release.split(".")[:2])) < (6, 13), reason="EROFS has no directio"
)
def test_reading_a_file_fetches_nothing_behind_it(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in "abcdef":
        (source / name).write_bytes(os.urandom(100_000))
    image = build_image(source, tmp_path / "image", chunk_size=4096)
    content = (source / "c").read_bytes()
    first, last = 80 << 10, 96 << 10  # in sequence, which the kernel takes for a reason to go on
    with worker(tmp_path / "place", image) as here, (here.mount() / "c").open("rb") as file:
        assert os.pread(file.fileno(), last - first, first) == content[first:last]
        assert os.pread(file.fileno(), 4096, last) == content[last:]
        assert here.tell("counts")["bytes"] == len(content) - first


def test_names_and_attributes_never_ask_the_worker(image: BuiltImage, tmp_path: Path) -> None:
    with worker(tmp_path / "place", image) as here:
        mounted = here.mount()
        here.kill()
        listed = subprocess.run(["find", mounted, "-ls"], capture_output=True, check=True)
        assert len(listed.stdout.splitlines()) > 310
        here.start()


def test_image_without_blobs(tmp_path: Path) -> None:
    image = image_of_files({"empty": b""}, tmp_path / "image")
    with worker(tmp_path / "place", image) as here:
        assert here.tell("choose", 1, "auto")[0] == "erofs"
        mounted = here.mount()
        assert (mounted / "empty").read_bytes() == b""
        assert here.tell("counts")["in_use"] == []


@pytest.mark.parametrize("block_size", [512, 4096])
def test_many_blobs(tmp_path: Path, block_size: int) -> None:
    contents = {f"file-{n}": bytes([n]) * 5000 + os.urandom(n * 50_000 + 1) for n in range(10)}
    image = image_of_files(contents, tmp_path / "image", block_size=block_size)
    with worker(tmp_path / "place", image) as here:
        assert here.tell("choose", 1, "auto")[0] == "erofs"
        mounted = here.mount()
        for _ in range(2):
            assert {path.name: path.read_bytes() for path in mounted.iterdir()} == contents
            drop_caches()


def test_two_images_at_once(tree: Path, image: BuiltImage, tmp_path: Path) -> None:
    other = image_of_files({"one": b"1" * 100_000}, tmp_path / "other")
    with worker(tmp_path / "place", image, other) as here:
        first, second, third = here.mount(1), here.mount(2), here.mount(1)
        assert (second / "one").read_bytes() == b"1" * 100_000
        here.unmount(first)
        assert (third / "big").read_bytes() == (tree / "big").read_bytes()
        assert sorted(here.tell("counts")["in_use"]) == [1, 2]


def test_paths_too_long_for_fsconfig(image: BuiltImage, tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 200) / ("e" * 200)
    deep.mkdir(parents=True)
    shutil.copy(image.bootstrap, deep / "image.boot")
    moved = BuiltImage(deep / "image.boot", image.blobs, image.record, image.chunks)
    with worker(deep / "place", moved) as here:
        assert (here.mount() / "hello").read_bytes() == b"hello world\n"


def test_v5_is_served_by_fuse(samples: Path, tmp_path: Path) -> None:
    image = BuiltImage(samples / "rafs-v5-sha256.boot", samples, None, [])  # type: ignore[arg-type]
    with worker(tmp_path / "place", image) as here:
        assert here.tell("choose", 1, "auto") == ["fuse", "RAFS v5 is no EROFS image"]
        with pytest.raises(RuntimeError, match=r"MountError: .*not by erofs: RAFS v5"):
            here.tell("choose", 1, "erofs")
        assert here.tell("choose", 1, "fuse") == ["fuse", "asked for"]


def test_last_user_leaving_is_noticed(image: BuiltImage, tmp_path: Path) -> None:
    with worker(tmp_path / "place", image) as here:
        mounted = here.mount()
        with (mounted / "big").open("rb") as file:
            here.unmount(mounted, lazy=True)
            assert here.tell("counts")["in_use"] == [1]
            assert file.read(4096) == bytes(range(256)) * 16
        here.unmount(here.mount())
        counts = here.settled()
        assert counts["in_use"] == []
        assert 1 in counts["forgotten"]
