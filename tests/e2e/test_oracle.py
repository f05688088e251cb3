"""What a lazy mount shows is what the kernel's overlayfs shows of the same layers."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.e2e.commands import succeed
from tests.parts.examples import examples
from tests.parts.layers import expected_tree, overlay_of, unlike, with_least_names
from tests.parts.plain import write_plain_image
from tests.parts.stacks import ENTRIES, UPPERS, alpine, base, layer_of
from tests.parts.trees import Entry, scan
from tests.reads.mounting import DRIVERS

pytestmark = [pytest.mark.root, pytest.mark.fuse, pytest.mark.erofs, pytest.mark.overlay]

#: One for each way in which a layer changes those below, and what is odd about inodes.
STACKS = (
    "whiteouts",
    "opaque first",
    "opaque root",
    "file over directory",
    "directory attributes only",
    "root attributes",
    "hard link to the layer below",
    "hard link below, replaced",
    "hard link to a device below",
    "link out of the root",
    "odd xattrs",
    "odd names",
)


def converted(tars: Sequence[bytes], work: Path) -> str:
    """The layers as an image, by the commands."""
    plain, target = f"oci:{work}/plain:tag", f"oci:{work}/nydus:tag"
    write_plain_image(plain, tars)
    succeed("nydusify", "convert", "--source", plain, "--target", target)
    return target


@contextmanager
def lazy_mount(target: str, work: Path, driver: str = "auto") -> Iterator[Path]:
    point = work / driver
    point.mkdir()
    own = ("--cache-dir", work / f"cache-{driver}", "--state-root", work / "state")
    succeed("nydus-fs", "mount", "--driver", driver, target, point, *own)
    try:
        yield point
    finally:
        succeed("nydus-fs", "umount", point, "--state-root", work / "state")


def overlay_tree(tars: Sequence[bytes], work: Path) -> dict[bytes, Entry]:
    oracle = work / "oracle"
    oracle.mkdir()
    with overlay_of(tars, oracle) as merged:
        return expected_tree(merged)


def assert_as_overlayfs(tars: Sequence[bytes], work: Path) -> int:
    """Compares everything, by both drivers; the number of files compared."""
    expected = overlay_tree(tars, work)
    target = converted(tars, work)
    with ExitStack() as stack:
        for driver in DRIVERS:
            point = stack.enter_context(lazy_mount(target, work, driver))
            assert unlike(expected, with_least_names(scan(point))) == [], driver
    return len(expected)


@pytest.mark.parametrize("name", STACKS)
def test_stack(name: str, tmp_path: Path) -> None:
    assert_as_overlayfs([base().tar(), UPPERS[name].tar()], tmp_path)


@settings(max_examples=examples(8))
@given(st.lists(st.lists(ENTRIES, min_size=2, max_size=8), min_size=2, max_size=3))
def test_generated_stacks(stack: list[Any]) -> None:
    tars = [layer_of(entries) for entries in stack]
    with tempfile.TemporaryDirectory() as directory:
        work = Path(directory)
        try:
            expected = overlay_tree(tars, work)
        except OSError:  # no such stack: the kernel cannot unpack it
            return
        with lazy_mount(converted(tars, work), work) as point:
            assert unlike(expected, with_least_names(scan(point))) == []


def test_alpine(samples: Path, tmp_path: Path) -> None:
    assert assert_as_overlayfs(alpine(samples), tmp_path) > 100


def test_every_entry_type(samples: Path, tmp_path: Path) -> None:
    assert_as_overlayfs([(samples / "all-entry-type.tar").read_bytes()], tmp_path)
