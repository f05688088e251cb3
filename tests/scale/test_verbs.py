"""Verbs on images that are large: a file of 3 GiB, a tree of a quarter million files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.scale.layers import MIB, LargeFile, write_end, write_layer
from tests.scale.processes import measure

pytestmark = [pytest.mark.scale, pytest.mark.root]

FILES = 250_000


@pytest.fixture(scope="module")
def large_file(work: Path) -> Path:
    """A layer, and what convert made of it beside it."""
    layer = work / "large.tar"
    with layer.open("wb", buffering=MIB) as out:
        LargeFile(3 << 10).write(out, "large")
        write_end(out)
    measure("nydusify", "convert", "--source", f"layer:{layer}", "--target", f"oci:{work}/large:n")
    return layer


@pytest.fixture(scope="module")
def large_tree(work: Path) -> Path:
    layer = work / "tree.tar"
    names = (b"d%03d/e%02d/f%06d" % (n % 500, n % 37, n) for n in range(FILES))
    write_layer(layer, names, 300)
    measure("nydusify", "convert", "--source", f"layer:{layer}", "--target", f"oci:{work}/tree:n")
    return layer


def test_a_large_file(large_file: Path, work: Path) -> None:
    """Memory does not depend on the size of a file."""
    image, out = f"oci:{work}/large:n", work / "out.tar"
    own = ("--work-dir", work / "tmp")
    for words in (
        ("check", image, "--source", f"layer:{large_file}"),
        ("unpack", image, "--output", out),
        ("export", "--block", image, "--output", work / "out.disk"),
    ):
        figures = measure("nydusify", *words, *own)
        print(f"{words[0]}: {figures.seconds:.1f} s, {figures.peak / MIB:.0f} MiB")
        assert figures.peak < 300 * MIB, words
    assert out.stat().st_size > 3 << 30
    for path in (out, work / "out.disk", large_file):
        os.unlink(path)


def test_a_large_tree(large_tree: Path, work: Path) -> None:
    """Only what compares whole trees holds one, as converting does."""
    image, own = f"oci:{work}/tree:n", ("--work-dir", work / "tmp")
    limits = {"check": 1000, "unpack": 500, "inspect": 500}
    for words in (
        ("check", image, "--source", f"layer:{large_tree}"),
        ("unpack", image, "--output", work / "tree-out.tar"),
        ("inspect", image),
    ):
        figures = measure("nydusify", *words, *own)
        print(f"{words[0]}: {figures.seconds:.1f} s, {figures.peak / MIB:.0f} MiB")
        assert figures.peak < limits[words[0]] * MIB, words
