"""Pulls of plain images that do not come to their end: killed, interrupted, on a full disk."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fs import mounts
from fs.registry.store import open_reader
from snapshotter.images import DirectoryImages
from snapshotter.pull import pull
from snapshotter.store import Store
from tests.parts.layers import LayerTar
from tests.parts.plain import write_plain_image
from tests.parts.waiting import PATIENCE, eventually
from tests.runner.conftest import Lazyrun

pytestmark = [pytest.mark.root, pytest.mark.overlay, pytest.mark.system]

LARGE = 64 << 20
STORAGE = 8


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An image that takes a while to unpack."""
    image = f"oci:{tmp_path_factory.mktemp('large')}/layout:tag"
    layer = LayerTar()
    for number in range(16):
        layer.add(f"large{number}", data=os.urandom(LARGE // 16))
    write_plain_image(image, [LayerTar().add("low").tar(), layer.tar()], packing="none")
    return image


def extractions(root: Path) -> list[str]:
    if not (root / "store/metadata.db").exists():
        return []
    with Store(str(root / "store"), DirectoryImages()) as store:
        return [info.name for info in store.walk() if info.name.startswith("extract/")]


@contextmanager
def pulling(lazyrun: Lazyrun, image: str) -> Iterator[subprocess.Popen[str]]:
    """A lazyrun, stopped in the middle of the image's second layer."""
    process = stopped(lazyrun, image)
    try:
        for _ in range(20):
            if process.returncode is None and len(extractions(lazyrun.root)) == 1:
                break
            process.kill()  # it was faster than we
            process.communicate()
            lazyrun.verb("prune")
            process = stopped(lazyrun, image)
        yield process
    finally:
        process.kill()
        process.communicate()


def stopped(lazyrun: Lazyrun, image: str) -> subprocess.Popen[str]:
    """A lazyrun that was stopped, or has ended, after the first file of the second layer."""
    process = subprocess.Popen(
        lazyrun.command("true", image=image), stderr=subprocess.PIPE, text=True
    )
    unpacked = lazyrun.root.glob
    eventually(
        lambda: process.poll() is not None or list(unpacked("store/snapshots/*/fs/large1")),
        "it is unpacked",
        pause=0.001,
    )
    if process.returncode is None:
        process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        process.poll()
    return process


@pytest.mark.parametrize("verb", ["run", "prune"])
def test_what_a_killed_pull_left_is_removed_by_the_next_command(
    lazyrun: Lazyrun, large: str, verb: str
) -> None:
    with pulling(lazyrun, large) as process:
        process.kill()
        process.wait()
    assert len(extractions(lazyrun.root)) == 1
    if verb == "run":
        assert lazyrun.output("echo", "next") == "next\n"
    else:
        assert lazyrun.verb("prune").returncode == 0
    assert extractions(lazyrun.root) == []
    lazyrun.verb("prune")


def test_a_living_pull_keeps_its_layer(lazyrun: Lazyrun, large: str) -> None:
    with pulling(lazyrun, large) as process:
        assert lazyrun.output("echo", "beside") == "beside\n"
        lazyrun.verb("ps")
        assert len(extractions(lazyrun.root)) == 1
        process.send_signal(signal.SIGCONT)
        told = process.communicate(timeout=PATIENCE)[1]
    assert process.returncode == 127, told  # pulled whole: there is just no "true" in it
    assert "true: not found" in told
    lazyrun.verb("prune")


def test_an_interrupted_pull_leaves_nothing_of_its_layer(lazyrun: Lazyrun, large: str) -> None:
    with pulling(lazyrun, large) as process:
        process.terminate()
        process.send_signal(signal.SIGCONT)
        told = process.communicate(timeout=PATIENCE)[1]
    assert process.returncode == 128 + signal.SIGTERM
    assert told.count("\n") == 1
    assert "pulled in full" in told
    assert extractions(lazyrun.root) == []
    assert list(lazyrun.root.glob("containers/*")) == []
    assert "1 layers removed" in lazyrun.verb("prune").stderr


@pytest.mark.parametrize("size", ["24m", "1m", "200k", "60k"])
def test_a_full_disk(lazyrun: Lazyrun, large: str, size: str) -> None:
    lazyrun.root.mkdir()
    mounts.mount("tmpfs", lazyrun.root, "tmpfs", data=f"size={size},mode=700")
    try:
        done = lazyrun.run("true", image=large)
        assert done.returncode == 125
        *notice, told = done.stderr.splitlines()
        assert all("pulled in full" in line for line in notice)
        assert told.startswith("lazyrun: ")
        assert "No space left" in told or "full" in told
        assert extractions(lazyrun.root) == []
        assert list(lazyrun.root.glob("containers/*")) == []
        lazyrun.verb("prune")
        assert list(lazyrun.root.glob("store/snapshots/*")) == []
    finally:
        mounts.umount(lazyrun.root, mounts.MNT_DETACH)


def test_several_pulls_of_one_image_at_once(tmp_path: Path, large: str) -> None:
    """Every one succeeds; what the slower ones unpacked is gone."""
    tops: list[str] = []

    def pull_it() -> None:
        reader = open_reader(large)
        with Store(str(tmp_path / "store"), DirectoryImages()) as store:
            tops.append(pull(store, reader, None, lambda message: None)[0])
        reader.close()

    threads = [threading.Thread(target=pull_it) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(tops) == 3
    assert len(set(tops)) == 1
    assert extractions(tmp_path) == []
    assert len(list((tmp_path / "store/snapshots").iterdir())) == 2
