"""A file of 5 GiB, past 4 GiB everywhere, and a layer of 20 GiB: in memory of a few chunks."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import pytest

from fs.mounts import MNT_DETACH, MS_RDONLY, mount, umount
from tests.scale.images import bootstrap_of, convert, mounted
from tests.scale.layers import MIB, LargeFile, write_end
from tests.scale.processes import Figures, measure, own_memory

pytestmark = [pytest.mark.scale, pytest.mark.root, pytest.mark.fuse]

FILE = LargeFile(5 << 10)
#: Where numbers of 31 and 32 bits end, and the file.
EDGES = (1 << 31, 1 << 32, FILE.size)


@pytest.fixture(scope="module", params=["zstd", "none"])
def large(work: Path, request: pytest.FixtureRequest) -> Iterator[tuple[Path, Figures]]:
    """The image; uncompressed, its blob too is larger than 4 GiB."""
    directory = work / request.param
    directory.mkdir()
    layer = directory / "large.tar"
    with layer.open("wb", buffering=MIB) as out:
        FILE.write(out, "large")
        write_end(out)
    made = convert(layer, directory, "--compressor", request.param)
    layer.unlink()
    yield made
    shutil.rmtree(directory)


def places() -> list[tuple[int, int]]:
    """(offset, length) around every edge, across it, past the end, and all over the file."""
    some = random.Random(5)
    near = [(edge + shift, 9000) for edge in EDGES for shift in (-MIB - 7, -4096, -1, 0, 4095)]
    return near + [(some.randrange(FILE.size), some.randrange(1, 200_000)) for _ in range(50)]


def test_it_converts_in_the_memory_of_a_few_chunks(large: tuple[Path, Figures]) -> None:
    layout, figures = large
    print(f"convert to {layout}: {figures.peak / MIB:.0f} MiB, {figures.seconds:.1f} s")
    assert figures.peak < 150 * MIB


def test_reads_around_edges_fetch_little(large: tuple[Path, Figures]) -> None:
    layout, _ = large
    with mounted(f"oci:{layout}:nydus", layout.parent / "large") as here:
        path = here.path / "large"
        assert path.stat().st_size == FILE.size
        with path.open("rb", buffering=0) as file:
            for offset, length in places():
                assert os.pread(file.fileno(), length, offset) == FILE.read(offset, length), offset
        status = here.status()
        size = sum(blob.stat().st_size for blob in (layout / "blobs/sha256").iterdir())
        print(
            f"{len(places())} reads: {status['fetched_bytes'] / MIB:.1f} MiB of {size / MIB:.0f},"
            f" worker {own_memory(here.pid) / MIB:.0f} MiB"
        )
        assert 0 < status["fetched_bytes"] < size / 10
        assert own_memory(here.pid) < 150 * MIB


@pytest.mark.erofs
def test_the_kernel_reads_the_same(large: tuple[Path, Figures]) -> None:
    """Over the decoded blob that our own mount filled where it was read."""
    layout, _ = large
    work = layout.parent
    offset = (1 << 32) - 3 * MIB
    with mounted(f"oci:{layout}:nydus", work / "kernel") as here:
        with (here.path / "large").open("rb") as file:
            file.seek(offset)
            read = file.read(8 * MIB)
        (device,) = here.cache.rglob("*.blob.data")
        target = work / "kernel/other"
        target.mkdir()
        mount(bootstrap_of(layout, work), target, "erofs", MS_RDONLY, f"device={device}")
        try:
            with (target / "large").open("rb") as file:
                assert os.pread(file.fileno(), 8 * MIB, offset) == read
        finally:
            umount(target, MNT_DETACH)
    assert read == FILE.read(offset, 8 * MIB)


def test_a_layer_of_20_gib_comes_through_a_pipe(work: Path) -> None:
    """Of many files; nothing of it lies on the disk, nor does memory hold it."""
    pipe, layout = work / "pipe", work / "many.layout"
    os.mkfifo(pipe)
    counts = range(490, 530)

    def feed() -> None:
        with pipe.open("wb", buffering=MIB) as out:
            for count in counts:
                LargeFile(count).write(out, f"d/{count}")
            write_end(out)

    feeder = Thread(target=feed)
    feeder.start()
    figures = measure(
        "nydusify", "convert", "--source", f"layer:{pipe}", "--target", f"oci:{layout}:nydus",
        "--work-dir", work, timeout=900,
    )  # fmt: skip
    feeder.join()
    size = sum(counts) * MIB
    print(f"convert of {size / MIB:.0f} MiB: {figures.peak / MIB:.0f} MiB, {figures.seconds:.1f} s")
    assert size > 19 << 30
    assert figures.peak < 150 * MIB
    shutil.rmtree(layout)
