"""`nydusify commit`: the new image shows what overlayfs shows of image and upper directory."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from fs.mounts import MNT_DETACH, mount, umount
from fs.registry.store import open_reader
from nydusify.cli import main
from tests.nydusify.images import pull
from tests.parts.layers import with_least_names
from tests.parts.registry import Registry
from tests.parts.trees import Entry, differences, scan

pytestmark = [pytest.mark.root, pytest.mark.overlay]

Captured = pytest.CaptureFixture[str]


@contextmanager
def container(image: str, work: Path) -> Iterator[tuple[Path, Path]]:
    """An overlay mount on the image's tree: where it is, and its upper directory."""
    assert main(["unpack", image, "--output-dir", str(work / "lower")]) == 0
    for name in ("upper", "work", "merged"):
        (work / name).mkdir()
    options = f"index=off,lowerdir={work}/lower,upperdir={work}/upper,workdir={work}/work"
    mount("overlay", work / "merged", "overlay", 0, options)
    try:
        yield work / "merged", work / "upper"
    finally:
        umount(work / "merged", MNT_DETACH)


def change(root: Path) -> None:
    """What programs do to files, each thing once."""
    (root / "new").write_bytes(b"n" * 100_000)
    (root / "usr/old").write_text("changed")
    os.unlink(root / "top")
    os.unlink(root / "lnk")
    shutil.rmtree(root / "etc")
    shutil.rmtree(root / "dir/sub")
    (root / "dir/sub").mkdir(0o700)
    (root / "dir/sub/again").write_text("an opaque directory")
    os.link(root / "new", root / "usr/new-too")
    os.symlink("new", root / "link")
    os.chmod(root / "usr", 0o1777)
    os.chown(root / "empty", 5, 6)
    os.setxattr(root / "usr/more", "user.note", b"x")
    os.mknod(root / "null", 0o20666, os.makedev(1, 3))
    os.utime(root / "usr/big", ns=(5, 123_456_789_012))


def shown(root: Path) -> dict[bytes, Entry]:
    return {p: e._replace(nlink=0) for p, e in with_least_names(scan(root)).items()}


def commit(capsys: Captured, *words: str) -> Any:  # noqa: ANN401 - JSON
    capsys.readouterr()
    assert main(["commit", *words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def unpacked(image: str, output: Path) -> dict[bytes, Entry]:
    assert main(["unpack", image, "--output-dir", str(output)]) == 0
    return shown(output)


def test_an_upper_directory(images: Path, tmp_path: Path, capsys: Captured) -> None:
    source, target = f"oci:{images}:nydus", f"oci:{tmp_path}/out:t"
    with container(source, tmp_path) as (merged, upper):
        change(merged)
        expected = shown(merged)
        told = commit(capsys, "--upper", str(upper), "--source", source, "--target", target)
    assert differences(expected, unpacked(target, tmp_path / "again")) == []
    assert main(["check", target]) == 0
    assert told["blob_size"] > 0
    before = open_reader(source).resolve(nydus=True)
    after = open_reader(target).resolve(nydus=True)
    assert after.config.document["config"] == before.config.document["config"]
    kept = {layer.digest for layer in before.manifest.layers[:-1]}
    assert kept < {layer.digest for layer in after.manifest.layers}


@pytest.mark.registry
def test_once_more_and_not_too_often(
    images: Path, registry: Registry, tmp_path: Path, capsys: Captured
) -> None:
    first, second = f"{registry.host}/commit/a:1", f"{registry.host}/commit/a:2"
    (tmp_path / "u").mkdir()
    (tmp_path / "u/one").write_text("1" * 5000)
    words = ["--upper", str(tmp_path / "u")]
    commit(capsys, *words, "--source", f"oci:{images}:nydus", "--target", first)
    os.unlink(tmp_path / "u/one")
    (tmp_path / "u/two").write_text("2" * 5000)
    told = commit(capsys, *words, "--source", first, "--target", second)
    assert told["pushed"] < told["target_size"]
    tree = unpacked(second, tmp_path / "again")
    assert {b"one", b"two", b"top"} <= tree.keys()
    layer = open_reader(second).resolve(nydus=True).manifest.layers[-1]
    commits = layer.annotations["containerd.io/snapshot/nydus-commit-blobs"].split(",")
    assert len(commits) == 2
    words = ["commit", *words, "--source", second, "--target", first, "--maximum-times", "2"]
    assert main(words) == 2
    assert "committed 2 times already" in capsys.readouterr().err


def test_only_what_changed_is_stored(images: Path, tmp_path: Path, capsys: Captured) -> None:
    """A file that is copied up because its owner changes brings no bytes; one that grows, a few."""
    source, target = f"oci:{images}:nydus", f"oci:{tmp_path}/out:t"
    with container(source, tmp_path) as (merged, upper):
        os.chown(merged / "usr/big", 9, 9)
        os.chmod(merged / "c", 0o600)
        expected = shown(merged)
        told = commit(capsys, "--upper", str(upper), "--source", source, "--target", target)
        assert told["blob"] == ""
        assert differences(expected, unpacked(target, tmp_path / "again")) == []
        with (merged / "usr/big").open("r+b") as file:
            file.seek(70_000)
            file.write(b"changed")
        expected = shown(merged)
        told = commit(capsys, "--upper", str(upper), "--source", source, "--target", target)
        assert 0 < told["blob_size"] < 20_000
        assert differences(expected, unpacked(target, tmp_path / "once more")) == []
    assert main(["check", target]) == 0


def test_nothing_but_deletions(images: Path, tmp_path: Path, capsys: Captured) -> None:
    (tmp_path / "u").mkdir()
    os.mknod(tmp_path / "u/top", 0o20000, 0)
    os.link(tmp_path / "u/top", tmp_path / "u/lnk")  # as the kernel shares them
    words = ["--upper", str(tmp_path / "u"), "--source", f"oci:{images}:nydus"]
    told = commit(capsys, *words, "--target", f"oci:{tmp_path}/out:t")
    assert told["blob"] == ""
    before = unpacked(f"oci:{images}:nydus", tmp_path / "before")
    after = unpacked(f"oci:{tmp_path}/out:t", tmp_path / "after")
    assert before.keys() - after.keys() == {b"top", b"lnk"}


def test_what_cannot_be_committed(images: Path, tmp_path: Path, capsys: Captured) -> None:
    (tmp_path / "u/d").mkdir(parents=True)
    os.setxattr(tmp_path / "u/d", "trusted.overlay.redirect", b"/elsewhere")
    target = f"oci:{tmp_path}/out:t"
    words = ["commit", "--upper", str(tmp_path / "u"), "--target", target]
    assert main([*words, "--source", f"oci:{images}:nydus"]) == 3
    assert "trusted.overlay.redirect" in capsys.readouterr().err
    assert main(words) == 2
    assert main([*words, "--source", f"oci:{images}:plain"]) == 10
    (tmp_path / "pulled").mkdir()
    bootstrap, _ = pull(f"oci:{images}:nydus", tmp_path / "pulled")
    assert main([*words, "--source", str(bootstrap)]) == 2
    words = [
        "commit",
        "--container",
        "nobody",
        "--root",
        str(tmp_path / "root"),
        "--target",
        target,
    ]
    assert main(words) == 5
    assert main([*words, "--container", ""]) == 5
    assert "empty name" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
