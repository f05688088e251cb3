"""What nydus-image makes, we serve; what we make, nydus-image checks and nydusd serves.

The programs are those of NYDUS_BIN, or of the PATH.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tarfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from fs import mounts
from fs.daemon import launch
from nydusify.cli import main as nydusify
from tests.parts.trees import differences, scan
from tests.parts.waiting import PATIENCE

pytestmark = [pytest.mark.nydusd, pytest.mark.root, pytest.mark.fuse]


def run(name: str, *arguments: str | Path) -> None:
    subprocess.run([program(name), *arguments], check=True)


def program(name: str) -> str:
    found = shutil.which(name, path=os.environ.get("NYDUS_BIN") or os.environ["PATH"])
    if found is None:
        pytest.fail(f"{name} is not installed; NYDUS_BIN can name its directory")
    return found


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every type of inode, a file of several chunks, many small ones, links, xattrs."""
    root = tmp_path_factory.mktemp("source") / "tree"
    (root / "dir/deep").mkdir(parents=True)
    (root / "big").write_bytes(os.urandom(3_300_000) + bytes(2_000_000))
    (root / "empty").touch()
    for number in range(600):
        (root / f"dir/{number:04}").write_text(f"file {number}\n" * (number % 40))
    os.link(root / "big", root / "dir/hard")
    (root / "dir/deep/link").symlink_to("../../big")
    os.mkfifo(root / "fifo")
    os.mknod(root / "null", 0o020666, os.makedev(1, 3))
    os.setxattr(root / "big", "user.note", b"\0binary")
    os.chown(root / "dir/0001", 70_000, 80_000)
    os.chmod(root / "dir/deep", 0o1777)
    os.utime(root / "empty", ns=(0, 1_234_567_890_123_456_789))
    os.utime(root, ns=(0, 0))  # nydus-image does not keep the root's time
    return root


@pytest.mark.parametrize("compressor", ["zstd", "lz4_block", "none"])
@pytest.mark.parametrize("fs_version", ["5", "6"])
def test_we_serve_what_nydus_image_makes(
    tree: Path, tmp_path: Path, fs_version: str, compressor: str
) -> None:
    bootstrap, blobs = created(tree, tmp_path, fs_version, compressor)
    mountpoint = tmp_path / "mnt"
    mountpoint.mkdir()
    given = launch.MountOptions(
        blob_dir=str(blobs), cache_dir=str(tmp_path / "cache"), state_root=str(tmp_path / "run")
    )
    launch.mount(str(bootstrap), str(mountpoint), given)
    try:
        assert differences(scan(tree), scan(mountpoint)) == []
    finally:
        launch.unmount(str(mountpoint), state_root=given.state_root)


@pytest.mark.parametrize("compressor", ["zstd", "lz4_block", "none"])
def test_nydusd_serves_what_we_make(tree: Path, tmp_path: Path, compressor: str) -> None:
    """nydusd has its own view of some things, the root's time among them: it sets the rule."""
    bootstrap, blobs = created(tree, tmp_path, "6", compressor)
    with nydusd(bootstrap, blobs, tmp_path / "theirs") as mountpoint:
        theirs = scan(mountpoint)
    options = () if knows_batches() else ("--batch-size", "0")
    bootstrap, blobs = converted(tree, tmp_path, "--compressor", compressor, *options)
    run("nydus-image", "check", "--bootstrap", bootstrap)
    with nydusd(bootstrap, blobs, tmp_path / "ours") as mountpoint:
        ours = scan(mountpoint)
    theirs[b"."] = ours[b"."] = theirs[b"."]._replace(mtime_ns=0)
    assert differences(theirs, ours) == []
    assert {path: entry.content for path, entry in ours.items()} == {
        path: entry.content for path, entry in scan(tree).items()
    }


@pytest.mark.parametrize("mode", ["auto", "blob"])
def test_nydusd_serves_what_has_a_startup_blob(mode: str, tree: Path, tmp_path: Path) -> None:
    options = [] if knows_batches() else ["--batch-size", "0"]
    words = ["--prefetch-patterns", "/dir/0007", "/big", "--startup", mode]
    bootstrap, blobs = converted(tree, tmp_path, *options, *words)
    run("nydus-image", "check", "--bootstrap", bootstrap)
    with nydusd(bootstrap, blobs, tmp_path / "copied") as mountpoint:
        found = scan(mountpoint)
    expected = scan(tree)
    assert {path: entry.content for path, entry in found.items()} == {
        path: entry.content for path, entry in expected.items()
    }


def test_nydusd_serves_what_we_optimize(tree: Path, tmp_path: Path) -> None:
    options = () if knows_batches() else ("--batch-size", "0")
    plain, blobs = converted(tree, tmp_path, *options)
    with nydusd(plain, blobs, tmp_path / "plain") as mountpoint:
        expected = scan(mountpoint)
    (tmp_path / "list").write_text("/dir/0007\n/big\n")
    words = ["--source", f"oci:{tmp_path}/layout:t", "--target", f"oci:{tmp_path}/layout:fast"]
    assert nydusify(["optimize", *words, "--prefetch-files", str(tmp_path / "list")]) == 0
    bootstrap = bootstrap_in(tmp_path / "layout", 1, tmp_path / "fast")
    run("nydus-image", "check", "--bootstrap", bootstrap)
    with nydusd(bootstrap, blobs, tmp_path / "optimized") as mountpoint:
        found = scan(mountpoint)
    found[b"."] = expected[b"."]  # whose time nydusd makes up
    assert differences(expected, found) == []


def knows_batches() -> bool:
    """Whether these programs are of version 2.3 or later."""
    shown = subprocess.run([program("nydus-image"), "create", "--help"], capture_output=True)
    return b"--batch-size" in shown.stdout


def created(tree: Path, work: Path, fs_version: str, compressor: str) -> tuple[Path, Path]:
    """The bootstrap and the directory of blobs of `tree`, made by nydus-image."""
    bootstrap, blobs = work / "created.boot", work / "created"
    blobs.mkdir()
    create = f"create --log-level warn --type dir-rafs --fs-version {fs_version}"
    where: list[str | Path] = ["--bootstrap", bootstrap, "--blob-dir", blobs]
    run("nydus-image", *create.split(), "--compressor", compressor, *where, tree)
    return bootstrap, blobs


def converted(tree: Path, work: Path, *options: str) -> tuple[Path, Path]:
    """The bootstrap and the directory of blobs of `tree`, converted by nydusify."""
    layout = work / "layout"
    assert (
        nydusify(["convert", "--source", f"dir:{tree}", "--target", f"oci:{layout}:t", *options])
        == 0
    )
    return bootstrap_in(layout, 0, work), layout / "blobs/sha256"


def bootstrap_in(layout: Path, number: int, work: Path) -> Path:
    """The bootstrap of an image of a layout, by its place in the index."""
    blobs = layout / "blobs/sha256"
    manifest = _document(blobs, _document(layout, "index.json")["manifests"][number]["digest"])
    with tarfile.open(blobs / manifest["layers"][-1]["digest"].removeprefix("sha256:")) as layer:
        content = layer.extractfile("image/image.boot")
        assert content
        work.mkdir(exist_ok=True)
        (work / "image.boot").write_bytes(content.read())
    return work / "image.boot"


def _document(directory: Path, name: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((directory / name.removeprefix("sha256:")).read_text())
    return document


@contextmanager
def nydusd(bootstrap: Path, blobs: Path | Mapping[str, object], work: Path) -> Iterator[Path]:
    """A mount by nydusd; `blobs` is their directory, or nydusd's configuration of a backend."""
    if isinstance(blobs, Path):
        blobs = {"type": "localfs", "config": {"dir": str(blobs)}}
    mountpoint = work / "mnt"
    mountpoint.mkdir(parents=True, exist_ok=True)
    (work / "cache").mkdir(exist_ok=True)
    config = {
        "device": {
            "backend": dict(blobs),
            "cache": {"type": "blobcache", "config": {"work_dir": str(work / "cache")}},
        },
        "mode": "direct",
        "digest_validate": False,
        "enable_xattr": True,
    }
    (work / "config.json").write_text(json.dumps(config))
    with (work / "log").open("wb") as log:
        command: list[str | Path] = [program("nydusd"), "--rlimit-nofile", "0"]
        command += ["--mountpoint", mountpoint, "--bootstrap", bootstrap]
        command += ["--config", work / "config.json", "--apisock", work / "api.sock"]
        daemon = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        while not os.path.ismount(mountpoint):
            assert daemon.poll() is None, (work / "log").read_text()
            time.sleep(0.02)
        yield mountpoint
    finally:
        # It unmounts by itself. Unmounted by us, while something holds a file open or another
        # namespace has a copy of the mount, it fails to, and then waits for ever.
        daemon.terminate()
        try:
            daemon.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()
        if os.path.ismount(mountpoint):
            mounts.umount(mountpoint, mounts.MNT_DETACH)
