"""Several processes read at random, in every way there is: each byte is the original's."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest

from tests.reads.mounting import DRIVERS, convert, drop_caches, mounted, overlaid

pytestmark = [pytest.mark.root, pytest.mark.fuse, pytest.mark.erofs, pytest.mark.overlay]

REPOSITORY = Path(__file__).resolve().parents[2]
PROCESSES = 3


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of odd sizes, some with holes. Not to be changed."""
    tree = tmp_path_factory.mktemp("random") / "tree"
    tree.mkdir()
    source = random.Random(5)
    (tree / "noise").write_bytes(source.randbytes(6_000_123))
    (tree / "text").write_bytes(b"".join(b"%d squared is %d\n" % (n, n * n) for n in range(90_000)))
    with (tree / "holes").open("wb") as file:
        for _ in range(12):
            file.seek(source.randrange(4_000_000))
            file.write(source.randbytes(source.randrange(1, 50_000)))
        file.truncate(4_100_001)
    (tree / "zeros").write_bytes(bytes(700_000))
    (tree / "empty").touch()
    for size in (1, 4095, 4096, 4097, 65_536, 65_537):
        (tree / f"of-{size}").write_bytes(source.randbytes(size))
    return tree


@pytest.fixture(scope="module")
def image(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    return convert(tree, tmp_path_factory.mktemp("image"), 0x10000)


def _read(tree: Path, root: Path, count: int) -> Iterator[subprocess.Popen[str]]:
    for seed in range(PROCESSES):
        words = ["-m", "tests.reads.reader", tree, root, seed + 100 * count, count]
        yield subprocess.Popen(
            [sys.executable, *map(str, words)], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True
        )


@pytest.mark.parametrize("count", [400, pytest.param(20_000, marks=pytest.mark.scale)])
@pytest.mark.parametrize("overlay", [False, True], ids=["bare", "overlay"])
@pytest.mark.parametrize("driver", DRIVERS)
def test_random_reads(
    tree: Path, image: str, driver: str, overlay: bool, count: int, tmp_path: Path
) -> None:
    """The first processes find the cache empty; caches are dropped under the second ones."""
    with (
        mounted(image, tmp_path, driver) as point,
        overlaid(point, tmp_path) if overlay else nullcontext(point) as root,
    ):
        for dropping in (False, True):
            readers = list(_read(tree, root, count))
            while dropping and any(reader.poll() is None for reader in readers):
                drop_caches()
                time.sleep(0.2)
            outputs = [reader.communicate()[0] for reader in readers]
            assert outputs == [""] * PROCESSES
            assert [reader.returncode for reader in readers] == [0] * PROCESSES
        os.sync()
