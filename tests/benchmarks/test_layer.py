"""Layers made from overlayfs upper directories."""

from __future__ import annotations

import gzip
import hashlib
import os
import tarfile
from pathlib import Path

import pytest

from benchmarks.images.layer import write_layer
from fs import mounts

EPOCH = 1_700_000_000
CAPABILITY = bytes.fromhex("0100000200040000000000000000000000000000")

pytestmark = [pytest.mark.root, pytest.mark.overlay]


@pytest.fixture
def upper(tmp_path: Path) -> Path:
    """What overlayfs leaves in its upper directory after some deleting and replacing."""
    lower, upper, work, merged = (tmp_path / n for n in ("lower", "upper", "work", "merged"))
    for directory in (lower, upper, work, merged, lower / "old", lower / "gone"):
        directory.mkdir()
    (lower / "old/file").write_text("old")
    (lower / "file").write_text("deleted later")
    mounts.mount(
        "overlay", merged, "overlay", data=f"lowerdir={lower},upperdir={upper},workdir={work}"
    )
    try:
        (merged / "file").unlink()
        (merged / "gone").rmdir()
        (merged / "old/file").unlink()
        (merged / "old").rmdir()
        (merged / "old").mkdir()
        (merged / "old/new").write_bytes(b"new" * 1000)
        os.link(merged / "old/new", merged / "also")
        os.setxattr(merged / "also", "security.capability", CAPABILITY)
        (merged / "link").symlink_to("old/new")
        os.mkfifo(merged / "fifo", 0o600)
        os.chown(merged / "link", 1000, 1001, follow_symlinks=False)
    finally:
        mounts.umount(merged)
    return upper


def members(path: Path) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(path) as tar:
        return {member.name: member for member in tar}


def test_deletions_become_whiteouts(upper: Path, tmp_path: Path) -> None:
    found = members(write_layer(upper, tmp_path / "layer", EPOCH).path)
    assert sorted(found) == [
        ".wh.file", ".wh.gone", "also", "fifo", "link", "old", "old/.wh..wh..opq", "old/new",
    ]  # fmt: skip


def test_entries_are_what_the_tree_has(upper: Path, tmp_path: Path) -> None:
    found = members(write_layer(upper, tmp_path / "layer", EPOCH).path)
    assert found["also"].size == 3000
    assert (found["old/new"].islnk(), found["old/new"].linkname) == (True, "also")
    assert (found["link"].linkname, found["link"].uid, found["link"].gid) == ("old/new", 1000, 1001)
    assert (found["fifo"].type, found["fifo"].mode) == (tarfile.FIFOTYPE, 0o600)
    capability = found["also"].pax_headers["SCHILY.xattr.security.capability"]
    assert capability.encode("utf-8", "surrogateescape") == CAPABILITY
    assert not any("overlay" in key for entry in found.values() for key in entry.pax_headers)
    assert {entry.mtime for entry in found.values()} == {EPOCH}
    assert {(entry.uname, entry.gname) for entry in found.values()} == {("", "")}


def test_same_tree_same_bytes(upper: Path, tmp_path: Path) -> None:
    one = write_layer(upper, tmp_path / "one", EPOCH)
    os.utime(upper / "also")
    other = write_layer(upper, tmp_path / "other", EPOCH)
    assert one.diff_id == other.diff_id
    assert one.path.read_bytes() == other.path.read_bytes()
    raw = gzip.decompress(one.path.read_bytes())
    assert one.diff_id == f"sha256:{hashlib.sha256(raw).hexdigest()}"


def test_directories_can_be_left_empty(upper: Path, tmp_path: Path) -> None:
    found = members(write_layer(upper, tmp_path / "layer", EPOCH, ("old",)).path)
    assert "old" in found
    assert "old/new" not in found
    assert found["also"].size == 3000
