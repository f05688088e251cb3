"""The directory of a run goes with the run, or with the next one if it was killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from nydusify.cli import main
from nydusify.workplace import workplace
from tests.nydusify.test_convert import publish
from tests.parts.layers import LayerTar
from tests.parts.waiting import eventually

LEFT = "nydusify-run-left"


def convert(source: str, target: str, work: Path) -> list[str]:
    words = ["convert", "--no-layer-cache", "--source", source, "--target", target]
    return [*words, "--work-dir", str(work)]


@pytest.fixture
def left(tmp_path: Path) -> Path:
    """What a run that was killed left."""
    directory = tmp_path / LEFT / "decoded"
    directory.mkdir(parents=True)
    (directory / "blob").write_bytes(b"much")
    return tmp_path / LEFT


def test_the_next_conversion_removes_what_a_killed_one_left(tmp_path: Path) -> None:
    fifo, work = tmp_path / "layer", tmp_path / "work"
    os.mkfifo(fifo)
    command = convert(f"layer:{fifo}", f"oci:{tmp_path}/out:a", work)
    process = subprocess.Popen(
        [sys.executable, "-m", "nydusify.cli", *command], stderr=subprocess.DEVNULL
    )
    with fifo.open("wb") as feed:
        feed.write(LayerTar().add("a", data=os.urandom(3 << 20)).tar()[:-5000])
        feed.flush()
        eventually(lambda: any(work.glob("*/*")), "files are written")
        (killed,) = work.iterdir()
        publish(f"oci:{tmp_path}/in:a", [LayerTar().add("b", data=b"b").tar()])
        other = convert(f"oci:{tmp_path}/in:a", f"oci:{tmp_path}/out:b", work)
        assert main(other) == 0
        assert any(killed.iterdir()), "a run that lives lost its files"
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    assert any(killed.iterdir())
    assert main(other) == 0
    assert list(work.iterdir()) == []


def test_what_a_run_left_goes_at_the_next(left: Path) -> None:
    with workplace(left.parent) as work:
        assert list(left.parent.iterdir()) == [work]


def test_many_runs_at_once_take_nothing_from_each_other(tmp_path: Path) -> None:
    def run(number: int) -> None:
        with workplace(tmp_path) as work:
            for file in range(20):
                (work / str(file)).write_text(str(number))
            assert {path.read_text() for path in work.iterdir()} == {str(number)}
            assert len(list(work.iterdir())) == 20

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(run, range(200)))
    assert list(tmp_path.iterdir()) == []


def test_what_is_not_of_a_run_stays(tmp_path: Path) -> None:
    others = tmp_path / "others"
    work = tmp_path / "work"
    for directory in (others, work, work / "nydusify-1234abcd"):
        directory.mkdir()
    (others / "file").touch()
    (work / "nydusify-run-link").symlink_to(others)
    (work / "nydusify-run-file").touch()
    before = sorted(work.iterdir())
    with workplace(work):
        assert sorted(path for path in work.iterdir() if path in before) == before
    assert (others / "file").exists()


@pytest.mark.root
def test_what_another_user_left_stays(left: Path) -> None:
    os.chown(left, 12345, 12345)
    with workplace(left.parent):
        assert (left / "decoded/blob").exists()


@pytest.mark.root
def test_nothing_is_removed_through_a_mount(left: Path, tmp_path: Path) -> None:
    shown = tmp_path / "shown"
    shown.mkdir()
    (shown / "file").touch()
    place = left / "decoded"
    subprocess.run(["mount", "--bind", shown, place], check=True)
    try:
        with workplace(left.parent):
            assert (place / "file").exists()
    finally:
        subprocess.run(["umount", place], check=True)
    with workplace(left.parent):
        assert not left.exists()
    assert (shown / "file").exists()
