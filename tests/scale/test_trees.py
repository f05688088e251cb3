"""Trees of very many files: memory of both ends, and names as the kernel's own EROFS has them."""

from __future__ import annotations

import gzip
import io
import os
import random
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fs.mounts import MNT_DETACH, MS_RDONLY, mount, umount
from tests.e2e.images import write_image
from tests.scale.images import Mounted, bootstrap_of, convert, mounted
from tests.scale.layers import MIB, content, write_end, write_files, write_layer
from tests.scale.processes import Figures, measure, own_memory, peak_memory

pytestmark = [pytest.mark.scale, pytest.mark.root, pytest.mark.fuse, pytest.mark.erofs]

FLAT = 100_000
SIZE = 600
DEEP = 500_000
TINY = 24
LAYERS = 4
CHANGED = 5000
#: What the converter may take whatever it converts.
CONVERTER = 340 * MIB


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
    assert figures.peak < CONVERTER
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


def test_half_a_million_entries_over_layers(work: Path) -> None:
    source, layout = work / "stack", work / "stack.layout"
    write_image([_stacked_layer(number) for number in range(LAYERS)], f"oci:{source}:plain")
    figures = measure(
        "nydusify", "convert", "--source", f"oci:{source}:plain", "--target", f"oci:{layout}:nydus",
        "--work-dir", work, "--no-layer-cache",
    )  # fmt: skip
    print(f"convert, {DEEP} files in {LAYERS} layers: {figures.peak / MIB:.0f} MiB, "
          f"{figures.seconds:.1f} s")  # fmt: skip
    shutil.rmtree(source)
    assert figures.peak < CONVERTER
    with mounted(f"oci:{layout}:nydus", work / "stack") as here:
        assert len(_names(here.path)) == DEEP - (LAYERS - 1) * CHANGED
        for number in random.Random(1).sample(range(DEEP // LAYERS * (LAYERS - 1)), 500):
            name, place = deep_name(number), number % (DEEP // LAYERS)
            path = here.path / os.fsdecode(name)
            if place < CHANGED:
                assert path.read_bytes() == content(b"again " + name, TINY)
            elif place < 2 * CHANGED:
                assert not path.exists()
            else:
                assert path.read_bytes() == content(name, TINY)


def _stacked_layer(number: int) -> bytes:
    """New files; of the layer below, the first ones are replaced and the next ones deleted."""
    first, below = number * DEEP // LAYERS, (number - 1) * DEEP // LAYERS
    raw = io.BytesIO()
    write_files(raw, map(deep_name, range(first, first + DEEP // LAYERS)), TINY)
    if number:
        replaced = [deep_name(below + place) for place in range(CHANGED)]
        write_files(raw, replaced, TINY, lambda name, size: content(b"again " + name, size))
        gone = [deep_name(below + CHANGED + place) for place in range(CHANGED)]
        write_files(raw, [b"/.wh.".join(name.rsplit(b"/", 1)) for name in gone], 0)
    write_end(raw)
    return gzip.compress(raw.getvalue(), 1, mtime=0)


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
