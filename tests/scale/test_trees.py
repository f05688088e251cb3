"""Trees of very many files: memory of both ends, and names as the kernel's own EROFS has them."""

from __future__ import annotations

import os
import random
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fs.mounts import MNT_DETACH, MS_RDONLY, mount, umount
from tests.scale.images import Mounted, bootstrap_of, convert, mounted
from tests.scale.layers import MIB, content, write_layer
from tests.scale.processes import Figures, own_memory, peak_memory

pytestmark = [pytest.mark.scale, pytest.mark.root, pytest.mark.fuse, pytest.mark.erofs]

FLAT = 100_000
SIZE = 600
DEEP = 500_000
TINY = 24


def flat_name(number: int) -> bytes:
    return b"one/directory/file-%06d" % number


def deep_name(number: int) -> bytes:
    return b"%03d/%02d/%06d.txt" % (number // 5000, number // 100 % 50, number)


@pytest.fixture(scope="module")
def flat(work: Path) -> tuple[Path, Figures]:
    """100,000 files of different contents in one directory."""
    layer = work / "flat.tar"
    write_layer(layer, map(flat_name, range(FLAT)), SIZE)
    made = convert(layer, work)
    layer.unlink()
    return made


def test_a_hundred_thousand_files_convert_in_little_memory(flat: tuple[Path, Figures]) -> None:
    _, figures = flat
    print(f"convert, {FLAT} files: {figures.peak / MIB:.0f} MiB, {figures.seconds:.1f} s")
    assert figures.peak < 300 * MIB


def test_a_directory_of_a_hundred_thousand_lists_fast(
    flat: tuple[Path, Figures], work: Path
) -> None:
    layout, _ = flat
    with mounted(f"oci:{layout}:nydus", work / "flat") as here:
        directory = here.path / "one/directory"
        listed, cold = _timed(directory)
        again, warm = _timed(directory)
        print(f"list + stat of {FLAT}: cold {cold:.1f} s, warm {warm:.1f} s")
        assert sorted(listed) == [os.fsdecode(flat_name(n)[14:]) for n in range(FLAT)]
        assert set(listed.values()) == {SIZE}
        assert listed == again
        assert cold < 60
        _assert_sample_reads(here.path, flat_name, FLAT, SIZE)
        _assert_same_as_kernel(here, layout, work)
        print(
            f"worker: {peak_memory(here.pid) / MIB:.0f} MiB, own {own_memory(here.pid) / MIB:.0f}"
        )
        assert peak_memory(here.pid) < 250 * MIB


def test_half_a_million_entries(work: Path) -> None:
    layer = work / "deep.tar"
    write_layer(layer, map(deep_name, range(DEEP)), TINY)
    layout, figures = convert(layer, work)
    layer.unlink()
    print(f"convert, {DEEP} files: {figures.peak / MIB:.0f} MiB, {figures.seconds:.1f} s")
    assert figures.peak < 1000 * MIB
    with mounted(f"oci:{layout}:nydus", work / "deep") as here:
        started = time.monotonic()
        names = _names(here.path)
        print(f"walk of {DEEP}: {time.monotonic() - started:.1f} s")
        assert len(names) == DEEP
        _assert_sample_reads(here.path, deep_name, DEEP, TINY)
        with _by_kernel(here, layout, work) as other:
            assert _names(other) == names
        print(
            f"worker: {peak_memory(here.pid) / MIB:.0f} MiB, own {own_memory(here.pid) / MIB:.0f}"
        )
        assert peak_memory(here.pid) < 400 * MIB


def _worker_figures(here: Mounted) -> str:
    peak, own = peak_memory(here.pid), own_memory(here.pid)
    return f"worker: peak {peak / MIB:.0f} MiB, own {own / MIB:.0f} MiB"


def _timed(directory: Path) -> tuple[dict[str, int], float]:
    """Name → size of a directory's files, and the seconds that it took to ask."""
    started = time.monotonic()
    with os.scandir(directory) as entries:
        found = {entry.name: entry.stat(follow_symlinks=False).st_size for entry in entries}
    return found, time.monotonic() - started


def _names(root: Path) -> set[str]:
    """All files below `root`, relative."""
    prefix = len(str(root)) + 1
    return {
        os.path.join(directory, name)[prefix:]
        for directory, _, files in os.walk(root)
        for name in files
    }


def _assert_sample_reads(root: Path, name: Callable[[int], bytes], count: int, size: int) -> None:
    for number in [0, *random.Random(1).sample(range(count), 500), count - 1]:
        path = name(number)
        assert (root / os.fsdecode(path)).read_bytes() == content(path, size)


def _assert_same_as_kernel(here: Mounted, layout: Path, work: Path) -> None:
    """Names, numbers and attributes are those of the kernel's own mount of the bootstrap."""
    with _by_kernel(here, layout, work) as other:
        assert _attributes(other) == _attributes(here.path)
        for number in random.Random(1).sample(range(FLAT), 500):  # those that were read before
            path = flat_name(number)
            assert (other / os.fsdecode(path)).read_bytes() == content(path, SIZE)


def _attributes(root: Path) -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {}
    pending = [str(root)]
    while pending:
        with os.scandir(pending.pop()) as entries:
            for entry in entries:
                status = entry.stat(follow_symlinks=False)
                found[os.path.relpath(entry.path, root)] = (
                    status.st_mode,
                    status.st_nlink,
                    status.st_size,
                    status.st_uid,
                    status.st_mtime_ns,
                )
                if stat.S_ISDIR(status.st_mode):
                    pending.append(entry.path)
    return found


@contextmanager
def _by_kernel(here: Mounted, layout: Path, work: Path) -> Iterator[Path]:
    """The same bootstrap mounted by the kernel, over the cache's decoded blob."""
    (device,) = here.cache.rglob("*.blob.data")
    target = work / f"{layout.stem}.kernel"
    target.mkdir()
    boot = bootstrap_of(layout, target.with_suffix(".boot"))
    mount(boot, target, "erofs", MS_RDONLY, f"device={device}")
    try:
        yield target
    finally:
        umount(target, MNT_DETACH)
