"""The kernel asks once, then answers by itself; what changes is still seen."""

from __future__ import annotations

import os
import random
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.drivers.worker import Worker, drop_caches, worker
from tests.image.build import BuiltImage, build_image
from tests.parts.listing import getdents, rest
from tests.parts.waiting import PATIENCE

pytestmark = [pytest.mark.root, pytest.mark.fuse]

_MANY = 3000


@pytest.fixture
def here(image: BuiltImage, tmp_path: Path) -> Iterator[Worker]:
    with worker(tmp_path / "place", image) as made:
        yield made


def _use_everything(root: Path) -> int:
    """Walk, stat, open and read all of a tree; the bytes that were read."""
    read = 0
    for directory, _, files in os.walk(root):
        for name in files:
            path = Path(directory, name)
            path.lstat()
            if path.is_file() and not path.is_symlink():
                read += len(path.read_bytes())
    return read


def test_warm_tree_is_not_asked_for(here: Worker) -> None:
    tree = here.mnt / "1"
    first = _use_everything(tree)
    asked = here.tell("asked", 1)
    assert asked["Read"] > 0
    assert asked["Readdirplus"] > 0
    for _ in range(20):  # who else drops the machine's caches meanwhile spoils a round
        before = here.tell("asked", 1)
        assert _use_everything(tree) == first
        if here.tell("asked", 1) == before:
            return
    pytest.fail("the kernel asked in every round")


def test_opening_is_refused_once_for_all(here: Worker) -> None:
    for name in ("hello", "big", "dir/file-001"):
        (here.mnt / "1" / name).read_bytes()
    os.listdir(here.mnt / "1")
    os.listdir(here.mnt / "1" / "dir")
    asked = here.tell("asked", 1)
    assert asked["Open"] == 1
    assert asked["Opendir"] <= 1  # the top directory may have been the first
    assert asked["Release"] == 0
    here.kill()
    here.start()
    drop_caches()
    assert (here.mnt / "1" / "hello").read_bytes() == b"hello world\n"
    assert here.tell("asked", 1)["Open"] == 0


def test_directory_of_instances_is_fresh(here: Worker) -> None:
    def listed() -> set[str]:
        return set(os.listdir(here.mnt))

    held = os.open(here.mnt, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for round_ in range(2):
            assert listed() == listed() == {"1", "blobs"}
            here.tell("add", 7 + round_, 1)
            assert listed() == {"1", "blobs", str(7 + round_)}
            os.lseek(held, 0, os.SEEK_SET)
            assert {name.name for name in rest(held)} >= {b"%d" % (7 + round_), b"1"}
            assert (here.mnt / str(7 + round_) / "hello").read_bytes() == b"hello world\n"
            here.tell("remove", 7 + round_)
            assert listed() == {"1", "blobs"}
            os.lseek(held, 0, os.SEEK_SET)
            assert {name.name for name in rest(held)} == {b".", b"..", b"1", b"blobs"}
        here.tell("add", 9, 1)
        assert "9" in listed()
        here.kill()
        here.start()
        assert listed() == {"1", "blobs"}
    finally:
        os.close(held)


def test_seeking_in_a_listing(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for number in range(_MANY):
        (source / f"name-{number:06}").touch()
    image = build_image(source, tmp_path / "image")
    with worker(tmp_path / "place", image) as here:
        directory = os.open(here.mnt / "1", os.O_RDONLY | os.O_DIRECTORY)
        try:
            _seek_about(directory)
        finally:
            os.close(directory)
        found = sorted(os.listdir(here.mnt / "1"))
        assert found == [f"name-{number:06}" for number in range(_MANY)]


def _seek_about(directory: int) -> None:
    part = getdents(directory)  # another stops here, and leaves a cache half filled
    os.lseek(directory, 0, os.SEEK_SET)
    cold = rest(directory)
    assert cold[: len(part)] == part
    assert len({name.name for name in cold}) == len(cold) == _MANY + 2
    os.lseek(directory, 0, os.SEEK_SET)
    assert rest(directory, 1 << 16) == cold
    choose = random.Random(1)
    for _ in range(50):
        at = choose.randrange(len(cold) - 1)
        os.lseek(directory, cold[at].cookie, os.SEEK_SET)
        assert getdents(directory)[0] == cold[at + 1]
    os.lseek(directory, cold[-1].cookie, os.SEEK_SET)
    assert getdents(directory) == []


def test_reads_in_flight_outlive_a_killed_worker(
    tree: Path, image: BuiltImage, tmp_path: Path
) -> None:
    with worker(tmp_path / "place", image) as here:
        for _ in range(3):
            drop_caches()
            readers = [
                subprocess.Popen(
                    ["cmp", tree / "big", here.mnt / "1" / "big", "-i", str(start * 4096)]
                )
                for start in range(12)
            ]
            time.sleep(0.01)
            here.kill()
            here.start()
            assert [reader.wait(PATIENCE) for reader in readers] == [0] * 12
