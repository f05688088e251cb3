"""Mounts of a real node daemon by the driver it chooses itself."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from fs.daemon import launch
from fs.format.errors import MountError
from tests.daemon.mounting import Place, place
from tests.drivers.worker import drop_caches
from tests.image.build import BuiltImage
from tests.parts.trees import differences, scan
from tests.parts.waiting import eventually

pytestmark = [pytest.mark.root, pytest.mark.fuse, pytest.mark.erofs]


def _kind(mountpoint: Path) -> str:
    """The file system type of what is mounted there."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        if before.split()[4] == str(mountpoint):
            return after.split()[0]
    return ""


def _wait_gone(here: Place) -> None:
    eventually(lambda: not list((here.root / "state").glob("state.json")), "the daemon ends")


def test_erofs_is_chosen_and_outlives_workers(
    tree: Path, image: BuiltImage, tmp_path: Path
) -> None:
    expected = scan(tree)
    with place(tmp_path / "place") as here:
        here.mount(image, driver="auto")
        assert _kind(here.mountpoint) == "erofs"
        status = here.status()
        assert status["transport"] == "erofs"
        assert (here.mountpoint / "hello").read_bytes() == b"hello world\n"
        os.kill(status["worker_pid"], signal.SIGKILL)
        assert differences(expected, scan(here.mountpoint)) == []
        drop_caches()
        assert differences(expected, scan(here.mountpoint)) == []
        here.unmount()
        _wait_gone(here)
        here.mount(image, driver="erofs")
        assert differences(expected, scan(here.mountpoint)) == []
        assert here.status()["requests"] == 0
        assert "1 of 1 blobs from local files" in here.log()
        here.unmount()


def test_fuse_when_it_is_asked_for(tree: Path, image: BuiltImage, tmp_path: Path) -> None:
    with place(tmp_path / "place") as here:
        here.mount(image, driver="fuse")
        assert _kind(here.mountpoint) == "fuse.nydus"
        assert here.status()["transport"] == "fuse"
        here.unmount()


def test_v5_falls_back_to_fuse(samples: Path, tmp_path: Path) -> None:
    v5 = BuiltImage(samples / "rafs-v5-sha256.boot", samples, None, [])  # type: ignore[arg-type]
    with place(tmp_path / "place") as here:
        here.mount(v5, driver="auto")
        assert _kind(here.mountpoint) == "fuse.nydus"
        assert here.status()["reason"] == "RAFS v5 is no EROFS image"
        assert "served by fuse: RAFS v5 is no EROFS image" in here.log()
        here.unmount()
        _wait_gone(here)
        with pytest.raises(MountError, match="not by erofs"):
            here.mount(v5, driver="erofs")
        assert not launch.is_mounted(str(here.mountpoint))


def test_open_file_of_a_lazily_unmounted_image_stays_readable(
    tree: Path, image: BuiltImage, tmp_path: Path
) -> None:
    content = (tree / "big").read_bytes()
    with place(tmp_path / "place") as here:
        here.mount(image, driver="erofs")
        with (here.mountpoint / "big").open("rb") as file:
            assert file.read(4096) == content[:4096]
            launch.unmount(str(here.mountpoint), lazy=True, state_root=str(here.root / "state"))
            drop_caches()
            assert file.read() == content[4096:]
        _wait_gone(here)
