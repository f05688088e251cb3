"""Directory trees that somebody changes while they are read, as a running container may."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fs.format.errors import Failure, StorageError
from nydusify.layers.rootfs import RootfsEntries


def test_a_directory_that_becomes_a_link_leads_nowhere(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "shadow").write_text("secret")
    root = tmp_path / "root"
    (root / "d").mkdir(parents=True)
    (root / "d/shadow").write_text("mine.")
    entries = RootfsEntries(root, lambda size: None)
    walk = iter(entries)
    assert [next(walk).path for _ in range(2)] == [b"", b"d"]
    (root / "d").rename(root / "e")
    (root / "d").symlink_to(outside)
    entry = next(walk)  # the directory was opened before: its own file
    assert (entry.path, entries.read(5)) == (b"d/shadow", b"mine.")
    with pytest.raises(StopIteration):
        next(walk)


def test_a_directory_that_became_a_link_is_not_entered(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "a/b").mkdir(parents=True)
    (root / "a/c").write_text("c")
    walk = iter(RootfsEntries(root, lambda size: None))
    assert [next(walk).path for _ in range(3)] == [b"", b"a", b"a/b"]
    (root / "a").rename(root / "z")
    (root / "a").symlink_to(root / "z")
    with pytest.raises(Failure, match="root/a/c"):
        next(walk)


@pytest.mark.parametrize("kind", ["pipe", "link"])
def test_a_file_that_became_something_else_is_not_opened(kind: str, tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "file").write_text("four")
    (tmp_path / "outside").write_text("four")
    entries = RootfsEntries(root, lambda size: None)
    walk = iter(entries)
    assert [next(walk).path for _ in range(2)] == [b"", b"file"]
    (root / "file").unlink()
    if kind == "pipe":
        os.mkfifo(root / "file")
    else:
        (root / "file").symlink_to(tmp_path / "outside")
    with pytest.raises(StorageError, match="changed"):
        entries.read(4)
    walk.close()  # type: ignore[attr-defined]


def test_descriptors_are_closed(tmp_path: Path) -> None:
    for number in range(50):
        (tmp_path / f"r/{number}/below").mkdir(parents=True)
    before = len(os.listdir("/proc/self/fd"))
    assert len(list(RootfsEntries(tmp_path / "r", lambda size: None))) == 101
    assert len(os.listdir("/proc/self/fd")) == before
