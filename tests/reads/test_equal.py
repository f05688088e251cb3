"""A real program and its tree, cold, warm and with caches dropped, by both drivers."""

from __future__ import annotations

import mmap
import os
import random
import shutil
import subprocess
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest

from tests.parts.trees import differences, scan
from tests.reads.mounting import DRIVERS, convert, drop_caches, mounted, overlaid

pytestmark = [pytest.mark.root, pytest.mark.fuse, pytest.mark.erofs, pytest.mark.overlay]

PROGRAM = "/bin/ls"


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root directory in which one program runs, and data. Not to be changed."""
    tree = tmp_path_factory.mktemp("equal") / "tree"
    tree.mkdir()
    listed = subprocess.run(["ldd", PROGRAM], capture_output=True, text=True, check=True)
    needed = [word for word in listed.stdout.split() if word.startswith("/")]
    for path in (PROGRAM, *needed):
        target = tree / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    (tree / "data").write_bytes(random.Random(8).randbytes(3_000_001))
    (tree / "link").symlink_to("data")
    os.setxattr(tree / "data", "user.of", b"data")
    return tree


@pytest.fixture(scope="module")
def image(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    return convert(tree, tmp_path_factory.mktemp("image"), 0x10000)


def by_read(tree: Path, root: Path) -> None:
    """Names, attributes, contents. Of an overlay's root the upper directory tells."""
    assert differences(*({**scan(each), b".": None} for each in (tree, root))) == []  # type: ignore[arg-type]


def by_map(tree: Path, root: Path) -> None:
    """Page by page, the last first: nothing is read ahead then."""
    for path in sorted(tree.rglob("*")):
        if path.is_symlink() or not path.is_file():
            continue
        with (
            (root / path.relative_to(tree)).open("rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view,
        ):
            content = path.read_bytes()
            for start in reversed(range(0, len(content), 4096)):
                assert view[start : start + 4096] == content[start : start + 4096], path


def by_run(tree: Path, root: Path) -> None:
    """The program and its libraries are mapped by the kernel and the loader."""
    done = subprocess.run(["chroot", root, PROGRAM, "/"], capture_output=True, text=True)
    assert (done.stderr, done.stdout.split()) == ("", sorted(os.listdir(tree)))


@pytest.mark.parametrize("way", [by_read, by_map, by_run])
@pytest.mark.parametrize("overlay", [False, True], ids=["bare", "overlay"])
@pytest.mark.parametrize("driver", DRIVERS)
def test_same_content(
    tree: Path,
    image: str,
    driver: str,
    overlay: bool,
    way: Callable[[Path, Path], None],
    tmp_path: Path,
) -> None:
    with (
        mounted(image, tmp_path, driver) as point,
        overlaid(point, tmp_path) if overlay else nullcontext(point) as root,
    ):
        way(tree, root)  # nothing is in the cache
        way(tree, root)  # the kernel has all of it
        drop_caches()
        way(tree, root)  # the cache has
